"""Calls in several threads, and how to stop the requests that they wait for.

A process that is ending cannot start threads, so everything here also works without them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_thread = threading.local()


def run(
    function: Callable[..., None],
    rows: Iterable[tuple[Any, ...]],
    count: int,
    *,
    name: str,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Call a function with each row in several threads, and return when every call has ended.

    If no thread can be started, this thread makes the calls, one after the other; an executor
    would accept no work in that case. Once a call has failed, or this thread was interrupted, no
    further call begins, and the calls that are running give up their requests.

    Args:
        function: the function to call.
        rows: the arguments of each call.
        count: the largest number of threads.
        name: the prefix of the threads' names.
        stop: called after a failure or an interrupt. It should soon end anything else that the
            calls wait for.

    Raises:
        BaseException: the first exception that a call raised.
    """
    left, errors, stopping = deque(rows), list[BaseException](), threading.Event()

    def fail(error: BaseException) -> None:
        errors.append(error)
        stopping.set()
        stop()

    def work(ended: threading.Event) -> None:
        try:
            while left and not errors:
                try:
                    row = left.popleft()
                except IndexError:  # another thread took the last row
                    return
                try:
                    with stopped_by(stopping):
                        function(*row)
                except BaseException as error:
                    fail(error)
        finally:
            ended.set()

    # Not join: in Python 3.11, an interrupted join marks a running thread as ended.
    begun: list[threading.Event] = []
    try:
        try:
            for n in range(min(count, len(left))):
                ended = threading.Event()
                threading.Thread(target=work, args=(ended,), name=f"{name}-{n}").start()
                begun.append(ended)
        except RuntimeError:
            if not begun:
                work(threading.Event())
        for ended in begun:
            ended.wait()
    except BaseException as interrupt:
        fail(interrupt)  # a thread that is starting right now finds it, and does nothing
        for ended in begun:
            ended.wait()
        raise
    if errors:
        raise errors[0]


def map(
    function: Callable[[Item], Result], items: Iterable[Item], count: int, *, name: str
) -> list[Result]:
    """Return the results of a function for the items, in their order. The calls are as of `run`.

    Args:
        function: the function to call.
        items: the argument of each call.
        count: the largest number of threads.
        name: the prefix of the threads' names.

    Raises:
        BaseException: the first exception that a call raised.
    """
    results: dict[int, Result] = {}

    def call(number: int, item: Item) -> None:
        results[number] = function(item)

    run(call, enumerate(items), count, name=name)
    return [results[number] for number in range(len(results))]


@contextlib.contextmanager
def workers(count: int, *, name: str) -> Iterator[Callable[..., Future[Any]]]:
    """Yield a function like `Executor.submit`; no call goes on after the block.

    If no thread can be started, the function makes each call at once. When the block ends, calls
    that have not begun are dropped, and running calls give up their requests.

    Args:
        count: the largest number of threads.
        name: the prefix of the threads' names.
    """
    stopping, jobs = threading.Event(), queue.SimpleQueue[_Job | None]()
    idle = threading.Semaphore(0)
    begun: list[threading.Event] = []
    more = True

    def work(ended: threading.Event) -> None:
        try:
            while (job := jobs.get()) is not None:
                with stopped_by(stopping):
                    job.run()
                idle.release()
        finally:
            ended.set()

    def submit(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        nonlocal more
        job = _Job(Future(), function, arguments)
        if not idle.acquire(blocking=False) and more and len(begun) < count:
            ended = threading.Event()
            thread = threading.Thread(target=work, args=(ended,), name=f"{name}-{len(begun)}")
            try:
                thread.start()
                begun.append(ended)
            except RuntimeError:  # the process is ending, or may have no more threads
                more = False
        if begun:
            jobs.put(job)
        else:
            job.run()
        return job.future

    try:
        yield submit
    finally:
        stopping.set()
        with contextlib.suppress(queue.Empty):
            while (job := jobs.get_nowait()) is not None:
                job.future.cancel()
        for _ in begun:
            jobs.put(None)
        for ended in begun:
            ended.wait()


@dataclass(frozen=True, slots=True)
class _Job:
    """One call of `workers`."""

    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def run(self) -> None:
        """Make the call, and keep its result or its exception."""
        self.future.set_running_or_notify_cancel()
        try:
            result = self.function(*self.arguments)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


def pool(count: int, *, name: str) -> ThreadPoolExecutor:
    """Return an executor whose threads all run already, so that it works until they end.

    Args:
        count: the number of threads.
        name: the prefix of the threads' names.
    """
    executor, started = ThreadPoolExecutor(count, name), threading.Barrier(count + 1)
    try:
        for _ in range(count):
            executor.submit(started.wait)
        started.wait()
    except RuntimeError:  # the process is ending
        started.abort()
    except BaseException:
        started.abort()
        raise
    return executor


@contextlib.contextmanager
def stopped_by(stop: threading.Event | None) -> Iterator[None]:
    """Make this thread give up its requests in the block once the event is set.

    Args:
        stop: the event; None: nothing stops these requests, such as those that clean up.
    """
    before = getattr(_thread, "stop", None)
    _thread.stop = stop
    try:
        yield
    finally:
        _thread.stop = before


def pause(seconds: float) -> None:
    """Sleep, but only until the event that stops this thread's requests is set."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)


def stoppable() -> bool:
    """Return whether there is an event that stops this thread's requests."""
    return getattr(_thread, "stop", None) is not None


def stopped() -> bool:
    """Return whether that event is set."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    return stop is not None and stop.is_set()

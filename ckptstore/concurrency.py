"""Calls in several threads, as far as any can be started, and how to stop what they wait for.

A process that is ending starts no threads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Call a function with each row, in several threads; no call goes on when this returns.

    Where none can be started, the calls are made in this thread, one after the other. An executor
    would take no work there. Once a call has failed, or this thread was interrupted, no other call
    is begun, and the requests of those that are under way are given up.

    Args:
        function: what to call.
        rows: its arguments.
        count: of threads, at most.
        name: that the names of the threads begin with.
        stop: called then too: it should end soon what the calls wait for beside requests.

    Raises:
        BaseException: the first that a call raised.
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
                except IndexError:  # another thread took the last
                    return
                try:
                    with stopped_by(stopping):
                        function(*row)
                except BaseException as error:
                    fail(error)
        finally:
            ended.set()

    # Not by join: in Python 3.11, one that is interrupted takes a thread that runs for ended.
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
    """Return what a function makes of each item, in their order; it is called as by `run`.

    Args:
        function: what to call.
        items: its argument in each call.
        count: of threads, at most.
        name: that the names of the threads begin with.

    Raises:
        BaseException: the first that a call raised.
    """
    results: dict[int, Result] = {}

    def call(number: int, item: Item) -> None:
        results[number] = function(item)

    run(call, enumerate(items), count, name=name)
    return [results[number] for number in range(len(results))]


@contextlib.contextmanager
def workers(count: int, *, name: str) -> Iterator[Callable[..., Future[Any]]]:
    """Yield a function like `Executor.submit`; no call of it goes on after the block.

    When the block ends, calls that were not begun are dropped, and the requests of those that are
    under way are given up.

    Args:
        count: of threads, at most.
        name: that the names of the threads begin with.
    """
    stopping = threading.Event()

    def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        with stopped_by(stopping):
            return function(*arguments)

    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield lambda function, *arguments: pool.submit(call, function, arguments)
    finally:
        stopping.set()
        pool.shutdown(wait=True, cancel_futures=True)


def pool(count: int, *, name: str) -> ThreadPoolExecutor:
    """Return an executor all of whose threads run already, so that it works until they are ended.

    Args:
        count: of threads.
        name: that the names of the threads begin with.
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
def stopped_by(stop: threading.Event) -> Iterator[None]:
    """Give up the requests that this thread makes in the block, once the event is set."""
    before = getattr(_thread, "stop", None)
    _thread.stop = stop
    try:
        yield
    finally:
        _thread.stop = before


def pause(seconds: float) -> None:
    """Sleep, no longer than until the event is set that stops this thread's requests."""
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

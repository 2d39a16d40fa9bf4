"""Threads, as far as any can be started, and how to give up what one of them waits for.

A process that is ending starts no threads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_thread = threading.local()


def pool(count: int, *, name: str) -> ThreadPoolExecutor:
    """Return an executor all of whose threads run already, so that it works until they are ended.

    Args:
        count: of threads.
        name: that the names of the threads begin with.
    """
    made, started = ThreadPoolExecutor(count, name), threading.Barrier(count + 1)
    try:
        for _ in range(count):
            made.submit(started.wait)
        started.wait()
    except RuntimeError:  # the process is ending
        started.abort()
    except BaseException:
        started.abort()
        raise
    return made


def run(
    function: Callable[..., None],
    rows: Iterable[tuple[Any, ...]],
    count: int,
    *,
    name: str,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Call a function with each row, in several threads; no call goes on when this returns.

    Where none can be started, the calls are made here, one after the other. An executor would take
    no work there.

    Args:
        function: what to call.
        rows: its arguments.
        count: of threads, at most.
        name: that the names of the threads begin with.
        stop: called once a call has failed, or this thread was interrupted; calls that are under
            way should end soon. No other call is begun.

    Raises:
        BaseException: the first that a call raised.
    """
    left, errors = deque(rows), list[BaseException]()

    def work(ended: threading.Event) -> None:
        try:
            while left and not errors:
                try:
                    row = left.popleft()
                except IndexError:  # another thread took the last
                    return
                try:
                    function(*row)
                except BaseException as error:
                    errors.append(error)
                    stop()
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
        errors.append(interrupt)  # a thread that is starting right now finds it, and does nothing
        stop()
        for ended in begun:
            ended.wait()
        raise
    if errors:
        raise errors[0]


@contextlib.contextmanager
def stopped_by(stop: threading.Event) -> Iterator[None]:
    """Give up the requests that this thread makes in the block, once the event is set."""
    before = getattr(_thread, "stop", None)
    _thread.stop = stop
    try:
        yield
    finally:
        _thread.stop = before


def call(stop: threading.Event, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that gives up its requests once the event is set."""
    with stopped_by(stop):
        return function(*arguments)


def pause(seconds: float) -> None:
    """Sleep, no longer than until the event is set."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)


def stoppable() -> bool:
    """Tell whether there is an event that stops this thread's requests."""
    return getattr(_thread, "stop", None) is not None


def stopped() -> bool:
    """Tell whether that event is set."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    return stop is not None and stop.is_set()

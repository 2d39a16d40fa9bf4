"""Threads, as far as any can be started: a process that is ending starts none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


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

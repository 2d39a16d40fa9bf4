"""Running coroutines of fsspec's asynchronous file systems from any thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from ckptstore.storage.client import Failure, Kind

_SLOWEST = 64 << 10
"""Bytes a second: a body may take this much longer than a request without one."""

_LOOK_SECONDS = 0.2

T = TypeVar("T")

_thread = threading.local()


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
    """Sleep, no longer than until the event is set."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)


def stopped() -> bool:
    """Tell whether the event is set that stops this thread's requests."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    return stop is not None and stop.is_set()


def run(
    loop: asyncio.AbstractEventLoop,
    request: Coroutine[Any, Any, T],
    timeout: float,
    nbytes: int = 0,
) -> T:
    """Run one request on fsspec's loop, which has a thread of its own, and wait for its end.

    fsspec's own `sync` gives None for a request that was cancelled, as if it had succeeded.

    Args:
        loop: of the file system.
        request: what to run.
        timeout: seconds for a request without a body.
        nbytes: of its body.

    Raises:
        Failure: AGAIN where it took too long, or was cancelled; REFUSED where it was stopped.
        Exception: as the request.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        request.close()
        raise Failure(Kind.REFUSED, "called from fsspec's own event loop, which it would block")
    timeout += nbytes / _SLOWEST
    task = asyncio.run_coroutine_threadsafe(asyncio.wait_for(request, timeout), loop)
    try:
        while getattr(_thread, "stop", None) is not None:
            if concurrent.futures.wait([task], _LOOK_SECONDS).done:
                break
            if stopped():
                raise Failure(Kind.REFUSED, "stopped", answered=False)
        return task.result()
    except TimeoutError:
        message = f"no answer in {timeout:.3g} s"
        raise Failure(Kind.AGAIN, message, answered=False) from None
    except (concurrent.futures.CancelledError, asyncio.CancelledError):
        raise Failure(Kind.AGAIN, "the request was cancelled", answered=False) from None
    finally:
        task.cancel()  # after an interrupt; otherwise it has ended

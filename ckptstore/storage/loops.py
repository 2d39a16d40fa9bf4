"""Running coroutines of fsspec's asynchronous file systems from any thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any, TypeVar

from ckptstore.storage.client import Failure, Kind

T = TypeVar("T")


def run(loop: asyncio.AbstractEventLoop, request: Coroutine[Any, Any, T], timeout: float) -> T:
    """Run one request on fsspec's loop, which has a thread of its own, and wait for its end.

    fsspec's own `sync` gives None for a request that was cancelled, as if it had succeeded.

    Raises:
        Failure: AGAIN where it took longer than `timeout` seconds, or was cancelled.
        Exception: as the request.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        request.close()
        raise Failure(Kind.REFUSED, "called from fsspec's own event loop, which it would block")
    task = asyncio.run_coroutine_threadsafe(asyncio.wait_for(request, timeout), loop)
    try:
        return task.result()
    except TimeoutError:
        message = f"no answer in {timeout:g} s"
        raise Failure(Kind.AGAIN, message, answered=False) from None
    except (concurrent.futures.CancelledError, asyncio.CancelledError):
        raise Failure(Kind.AGAIN, "the request was cancelled", answered=False) from None
    finally:
        task.cancel()  # after an interrupt; otherwise it has ended

"""Running coroutines of fsspec's asynchronous file systems from any thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ckptstore import concurrency, signals
from ckptstore.storage.clients.base import Failure, Kind, nonsense, raising

_SLOWEST = 64 << 10
"""Bytes for each second by which a body extends the timeout of a request."""

_LOOK_SECONDS = 0.2

_WHOLE_MAX_NBYTES = 8 << 20
"""The largest answer that is read whole. A page of 1,000 keys of 1,024 bytes takes about 4 MiB."""

_PIECE_NBYTES = 64 << 10

T = TypeVar("T")


def run(
    loop: asyncio.AbstractEventLoop,
    request: Coroutine[Any, Any, T],
    timeout: float,
    nbytes: int = 0,
    *,
    failure_of: Callable[[Exception], Exception],
) -> T:
    """Run one request on fsspec's loop, which has a thread of its own, and wait for its end.

    fsspec's own `sync` returns None for a cancelled request, as if it had succeeded.

    Args:
        loop: the loop of the file system.
        request: the coroutine to run.
        timeout: seconds for a request without a body.
        nbytes: the size of its body in bytes.
        failure_of: returns the exception to raise for one that is not a `Failure`.

    Raises:
        Failure: AGAIN if it took too long or was cancelled; REFUSED if it was stopped.
        Exception: the result of `failure_of`.
    """
    with raising(failure_of):
        return _run(loop, request, timeout + nbytes / _SLOWEST)


async def beginning(body: Any, nbytes: int) -> bytes:
    """Return at most `nbytes` bytes of a body, whatever it holds, with `read(nbytes)`."""
    data = bytearray()
    while len(data) < nbytes and (piece := await body.read(min(_PIECE_NBYTES, nbytes - len(data)))):
        data += piece
    return bytes(data)


async def whole(answer: Any) -> bytes:
    """Return the body of an answer of aiohttp that is not the content of an object.

    Raises:
        Failure: REFUSED: no listing and no error is that long.
    """
    try:
        data = await beginning(answer.content, _WHOLE_MAX_NBYTES + 1)
        if len(data) > _WHOLE_MAX_NBYTES:
            raise nonsense(f"the answer has more than {_WHOLE_MAX_NBYTES} bytes")
        return data
    except BaseException:
        answer.close()
        raise


def _run(loop: asyncio.AbstractEventLoop, request: Coroutine[Any, Any, T], timeout: float) -> T:
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        request.close()
        raise Failure(Kind.REFUSED, "called from fsspec's own event loop, which it would block")
    task = asyncio.run_coroutine_threadsafe(asyncio.wait_for(request, timeout), loop)
    try:
        while concurrency.stoppable():
            if concurrent.futures.wait([task], _LOOK_SECONDS).done:
                break
            if concurrency.stopped():
                raise Failure(Kind.REFUSED, "stopped", answered=False)
        return task.result()
    except TimeoutError as error:
        signals.pass_on(error)
        message = f"no answer in {timeout:.3g} s"
        raise Failure(Kind.AGAIN, message, answered=False) from None
    except (concurrent.futures.CancelledError, asyncio.CancelledError):
        raise Failure(Kind.AGAIN, "the request was cancelled", answered=False) from None
    finally:
        task.cancel()  # after an interrupt; otherwise it has ended

"""Uploading one object: in one request if it is small, in parts if it is large."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

from ckptstore import concurrency
from ckptstore.digests import Buffer
from ckptstore.errors import CheckpointError, Reason, StorageError
from ckptstore.storage.clients.base import Client, Failure, Kind, Upload

PART_NBYTES = 8 << 20
"""A larger object is sent in parts of this size, or of a larger one if it exceeds `MAX_PARTS`."""

MAX_PARTS = 10_000

WHOLE_MAX_NBYTES = 5 << 30
"""The largest object that is sent in one request to a store without uploads in parts."""

_UNIT = 1 << 20  # GCS takes multiples of 256 KiB


def part_nbytes(nbytes: int) -> int:
    """Return the size of every part of an object but the last."""
    smallest = -(-nbytes // MAX_PARTS)
    return max(PART_NBYTES, -(-smallest // _UNIT) * _UNIT)


class Uploader:
    """The uploads of one storage, with a bounded number of parts in flight over all objects.

    Args:
        ask: `Requests.ask`.
        parallel: the largest number of parts in flight.
        any_order: the parts of an object may be sent at once.

    Attributes:
        stop: once it is set, uploads fail soon, also uploads that wait for an answer.
    """

    def __init__(self, ask: Callable[..., Any], parallel: int, *, any_order: bool) -> None:
        self._ask = ask
        self._any_order = any_order
        self._whole = threading.Lock()  # one large object at once is in memory
        self.stop = threading.Event()
        self._slots = threading.BoundedSemaphore(parallel)
        self._pool = concurrency.pool(parallel, name="ckptstore-upload")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)

    def send(self, key: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        """Store an object. After a failure nothing is left of a multipart upload.

        The key belongs to this call alone, so all aborted uploads are its own. If the store has no
        uploads in parts, the object is sent in one request.
        """
        if nbytes <= PART_NBYTES:
            self._put(key, chunks, nbytes)
            return
        upload: Upload | None = None
        begun = 0

        def begin(client: Client, tries: int) -> Upload:
            nonlocal begun
            begun = tries + 1
            return client.begin(key, nbytes)

        try:
            try:
                with concurrency.stopped_by(self.stop):
                    upload = self._ask("write", key, begin)
            except StorageError as error:
                check_whole(error, nbytes)
                with self._whole:
                    self._put(key, chunks, nbytes)
                return
            tags = self.parts(upload, chunks)
            with concurrency.stopped_by(self.stop):
                self._ask(
                    "write",
                    key,
                    lambda client, tries: _finish(client, upload, tags, tries),
                    Kind.MISSING,
                )
        except BaseException as error:
            self._try_to_abort(key, upload)
            if isinstance(error, FileNotFoundError):
                raise StorageError(
                    f"{error}; another program aborted this unfinished upload, or the store lost "
                    "it; nothing was committed; save again",
                    reason=Reason.LOST_FILE,
                ) from None
            raise
        if begun > 1:  # a try whose answer was lost may have begun one too
            self._try_to_abort(key, None)

    def abort(self, key: str, upload: Upload | None = None) -> None:
        """Abort the unfinished uploads of an object.

        Args:
            key: the key of the object.
            upload: one of them, which the store may not list.

        Raises:
            StorageError: the store refuses, or does not answer.
        """
        self._ask("abort the uploads of", key, lambda client, _: _abort(client, key, upload))

    def _put(self, key: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        data = whole(chunks, nbytes)
        with concurrency.stopped_by(self.stop):
            self._ask("write", key, lambda client, _: client.put(key, data))

    def _try_to_abort(self, key: str, upload: Upload | None) -> None:
        # Whatever stopped the upload must not stop this: on S3 you pay for remaining parts.
        with contextlib.suppress(CheckpointError, OSError), concurrency.stopped_by(None):
            self.abort(key, upload)

    def parts(self, upload: Upload, chunks: Iterable[Buffer]) -> Sequence[str]:
        """Send the parts of an upload; none is in flight when this returns or raises.

        Returns the tags of the parts, for `finish`.
        """
        sent: list[Future[str]] = []
        failed = threading.Event()
        try:
            whole = _parts(chunks, part_nbytes(upload.nbytes))
            while not failed.is_set() and (data := next(whole, None)) is not None:
                sent.append(self._submit(upload, len(sent), data, failed))
                del data  # the next part may be filled while this one is in flight
            return [future.result() for future in sent]
        except BaseException:
            failed.set()
            for future in sent:
                future.cancel()
            wait(sent)
            raise

    def _submit(
        self, upload: Upload, before: int, data: Buffer, failed: threading.Event
    ) -> Future[str]:
        """Send the part after `before` others, once fewer parts than the bound are in flight."""
        start = before * part_nbytes(upload.nbytes)

        def part() -> str:
            try:
                with concurrency.stopped_by(self.stop):
                    tag: str = self._ask(
                        "write",
                        upload.key,
                        lambda client, tries: client.part(upload, before + 1, start, data, tries),
                        Kind.MISSING,
                        Kind.CONDITION,
                    )
                    return tag
            except BaseException:
                failed.set()
                raise

        self._slots.acquire()
        try:
            future = self._pool.submit(part)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        if not self._any_order:
            wait([future])
        return future


def check_whole(error: StorageError, nbytes: int) -> None:
    """Raise the error of the beginning of an upload, unless one request can take its place.

    Raises:
        StorageError: also, reason ``not-supported``, if the object is too large for one request.
    """
    if error.reason != Reason.NOT_SUPPORTED:
        raise error
    if nbytes > WHOLE_MAX_NBYTES:
        raise StorageError(
            f"{str(error).partition(';')[0]}; so this file of {nbytes} bytes would go in one "
            f"request, which takes at most {WHOLE_MAX_NBYTES}; split the array into several of at "
            "most that size, or save to a store with multipart uploads",
            reason=Reason.NOT_SUPPORTED,
        ) from None


def whole(chunks: Iterable[Buffer], nbytes: int) -> bytearray:
    """Gather chunks of `nbytes` bytes in all."""
    (data,) = _parts(chunks, max(nbytes, 1))
    return data


def _parts(chunks: Iterable[Buffer], size: int) -> Iterator[bytearray]:
    """Gather chunks into one or more parts of `size` bytes, of which the last may be shorter."""
    part, any_yet = bytearray(), False
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while view.nbytes:
            room = size - len(part)
            part += view[:room]
            view = view[room:]
            if len(part) == size:
                yield part
                part, any_yet = bytearray(), True
        del view, chunk  # the source may need the memory
    if part or not any_yet:
        yield part


def _abort(client: Client, key: str, upload: Upload | None) -> None:
    """Abort an upload, and all others of its key."""
    if upload is not None:
        with _missing_is_fine():
            client.abort(upload)
    for other in client.uploads(key):
        if other.key == key:
            with _missing_is_fine():
                client.abort(other)


@contextlib.contextmanager
def _missing_is_fine() -> Iterator[None]:
    try:
        yield
    except Failure as failure:
        if failure.kind is not Kind.MISSING:
            raise


def _finish(client: Client, upload: Upload, tags: Sequence[str], tries: int) -> None:
    """Finish an upload. If it is gone after a lost answer, the earlier try finished it."""
    try:
        client.finish(upload, tags)
    except Failure as failure:
        if failure.kind is not Kind.MISSING or not tries:
            raise
        if client.page(upload.key, None).sizes.get(upload.key) != upload.nbytes:
            raise

"""Writing an object under a shared name: it appears complete and at once, or not at all.

A small object is one request. A large one is sent in parts, which the store joins at the end, on
the condition that no object has the name. Only uploads of this call are ever aborted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ckptstore.digests import Buffer, Hasher
from ckptstore.errors import CheckpointError, OutcomeUnknownError, Reason, StorageError
from ckptstore.storage import uploads
from ckptstore.storage.base import Storage
from ckptstore.storage.clients.base import Kind, Upload
from ckptstore.storage.retry import Requests

_PROBE = b"ckptstore"
_PIECE_NBYTES = 1 << 20

_proven: set[tuple[str, str]] = set()
"""(endpoint, root) of the stores that have proved to honour the condition of a multipart upload."""


@dataclass(frozen=True, slots=True)
class AtomicUpload:
    """Uploads of such objects to one directory of a bucket.

    Attributes:
        storage: the directory.
        requests: its bucket.
        prefix: the prefix of its keys.
    """

    storage: Storage
    requests: Requests
    prefix: str

    def send(self, name: str, chunks: Iterable[Buffer], nbytes: int, *, replace: bool) -> None:
        """Store an object; see `Storage.put_atomic`.

        Args:
            name: the name of the object.
            chunks: its bytes.
            nbytes: the number of bytes.
            replace: replace an existing object.
        """
        storage, large = self.storage, nbytes > uploads.PART_NBYTES
        if not replace:
            if large and storage.holds(name):  # check before all bytes are sent in vain
                raise FileExistsError(f"{self.requests.at(self.prefix + name)} exists")
            storage.prepare()
        try:
            if large and not replace:
                self._prove()
            upload = self._begin(name, nbytes, not replace, Kind.CONDITION) if large else None
        except StorageError as error:
            uploads.check_whole(error, nbytes)
            upload = None  # the store has no uploads in parts
        if upload is not None:
            self._in_parts(upload, name, chunks, nbytes)
        elif replace:
            storage.put(name, [uploads.whole(chunks, nbytes)], nbytes)
        else:
            storage.create(name, bytes(uploads.whole(chunks, nbytes)))

    def _in_parts(self, upload: Upload, name: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        """Upload the parts and join them; if the outcome is not known, look for the object."""
        sent = _Sent(chunks, nbytes, in_turn=not self.requests.link.client.any_order)
        try:
            self._finish(upload, sent)
            return
        except BaseException as error:
            given_up = self._give_up(upload)
            if not sent.ended or not isinstance(error, StorageError | OSError):
                raise
            failure = error
        try:
            if self._holds(name, nbytes, sent.state.digest()):
                return
        except CheckpointError as second:
            raise _unknown(f"{failure}; and then: {second}") from failure
        if isinstance(failure, FileNotFoundError):
            raise StorageError(
                f"{failure}; another program aborted this unfinished upload, or the store lost it; "
                "nothing was written; try again",
                reason=Reason.LOST_FILE,
            ) from None
        if not isinstance(failure, FileExistsError) and not given_up:
            raise _unknown(str(failure)) from failure
        raise failure

    def _prove(self) -> None:
        """Check, once for each process, that the end of an upload cannot replace an object.

        The check writes an object of its own.

        Raises:
            StorageError: reason ``not-atomic``.
        """
        storage, client = self.storage, self.requests.link.client
        store = client.endpoint, self.requests.root
        if store in _proven or self.requests.settings.assume_atomic:
            return
        name = f"PROBE-{os.urandom(16).hex()}"
        upload = self._begin(name, len(_PROBE), True)
        try:
            storage.put(name, [_PROBE], len(_PROBE))
            try:
                self._finish(upload, _Sent([_PROBE], len(_PROBE), in_turn=True))
            except FileNotFoundError:  # an earlier answer, a success, was lost
                pass
            except StorageError as error:
                if error.reason != Reason.NOT_SUPPORTED:
                    raise
            raise StorageError(
                f"{storage.url}: this store ({client.endpoint}) does not honour the condition of "
                "a multipart upload that the object must not exist, so writing more than "
                f"{uploads.PART_NBYTES} bytes could replace an existing object; pass "
                "overwrite=True if you accept that, or write to a disk",
                reason=Reason.NOT_ATOMIC,
            )
        except FileExistsError:
            _proven.add(store)
        finally:
            self._give_up(upload)
            with contextlib.suppress(CheckpointError):
                storage.delete(name)

    def _begin(self, name: str, nbytes: int, create: bool, *expected: Kind) -> Upload:
        key = self.prefix + name
        upload: Upload = self.requests.ask(
            "write", key, lambda client, _: client.begin(key, nbytes, create), *expected
        )
        return upload

    def _finish(self, upload: Upload, sent: _Sent) -> None:
        """Send all parts and end the upload; FileExistsError if its condition does not hold."""
        tags = self.requests.link.uploader.parts(upload, sent)
        sent.ended = True

        def finish(upload: Upload) -> None:
            self.requests.ask(
                "write",
                upload.key,
                lambda client, _: client.finish(upload, tags),
                Kind.CONDITION,
                Kind.MISSING,
            )

        try:
            finish(upload)
        except StorageError as error:
            vouched = self.requests.settings.assume_atomic
            if not (vouched and upload.create and error.reason == Reason.NOT_SUPPORTED):
                raise
            if self.storage.holds(upload.key.removeprefix(self.prefix)):
                raise FileExistsError(f"{self.requests.at(upload.key)} exists") from None
            finish(dataclasses.replace(upload, create=False))

    def _give_up(self, upload: Upload) -> bool:
        """Abort the upload; return whether it certainly will not become an object."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self.requests.ask(
                    "abort the upload of",
                    upload.key,
                    lambda client, _: client.abort(upload),
                    Kind.MISSING,
                )
            return True
        except CheckpointError:
            return False

    def _holds(self, name: str, nbytes: int, digest: bytes) -> bool:
        """Return whether an object holds exactly these bytes."""
        storage = self.storage
        if storage.sizes([name]).get(name) != nbytes:
            return False
        state, buffer = Hasher(), memoryview(bytearray(storage.traffic.piece_nbytes))
        try:
            for at in range(0, nbytes, buffer.nbytes):
                piece = buffer[: nbytes - at]
                storage.get(name, at, piece)
                state.update(piece)
        except (FileNotFoundError, EOFError):
            return False
        return state.digest() == digest


class _Sent:
    """Chunks that are being sent.

    Args:
        chunks: the source of the chunks.
        nbytes: the number of all bytes.
        in_turn: the parts are sent one after the other, and the last may make the object.

    Attributes:
        state: the digest of the chunks that were taken.
        ended: a request that may make the object was sent.
    """

    def __init__(self, chunks: Iterable[Buffer], nbytes: int, *, in_turn: bool) -> None:
        self.state = Hasher()
        self.ended = False
        self._chunks = chunks
        self._left = nbytes
        self._in_turn = in_turn

    def __iter__(self) -> Iterator[Buffer]:
        for chunk in self._chunks:
            view = memoryview(chunk).cast("B")
            for at in range(0, view.nbytes, _PIECE_NBYTES):
                end = min(at + _PIECE_NBYTES, view.nbytes)
                self.state.update(view[at:end])
                self._left -= end - at
                self.ended = self._in_turn and not self._left
                yield view[at:end]
            del view, chunk  # the source may need the memory


def _unknown(text: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"{text}; whether the object was written cannot be known; it is complete or does not "
        "exist: look for it when the store answers again"
    )

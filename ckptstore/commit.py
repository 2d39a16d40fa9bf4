"""The order of writes: the one file that knows when a checkpoint begins to exist.

Invariants and their tests: docs/commit.md. In short: data first, durable; then one create (or one
compare-and-swap) of `MANIFEST`; whatever an exception says, the outcome is what `MANIFEST` holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ckptstore import format, wire
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    CorruptError,
    NotCommittedError,
    OutcomeUnknownError,
    StorageError,
)
from ckptstore.format import File, Manifest
from ckptstore.index import INDEX_MAX_NBYTES
from ckptstore.storage import Storage

MANIFEST = "MANIFEST"
_MARK = "VOID-"
_READS = 100
_SENDS = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One committed attempt, its files open and of the right sizes."""

    storage: Storage
    manifest: Manifest
    index_parts: list[bytes]

    def get(self, name: str, offset: int, buffer: wire.Buffer) -> None:
        """Fill `buffer` from `offset` of a file; `read` starts again if it was taken away."""
        try:
            self.storage.get(name, offset, buffer)
        except FileNotFoundError:
            raise _Changed(f"the file {name} is missing", "missing-file") from None
        except EOFError as error:
            raise _Changed(str(error), "file-size") from None


def current(storage: Storage) -> bytes | None:
    """Return the bytes of the manifest that a save would replace, or None where there is none.

    Raises:
        StorageError: reason ``foreign-manifest``: too large to be one, so no swap can compare it.
    """
    data = _held(storage)
    if data is not None and len(data) > format.MANIFEST_MAX_NBYTES:
        raise StorageError(
            f"{storage.url}: {MANIFEST} there has {len(data)} bytes at least, so it is no manifest "
            "of ckptstore, and nothing was written; remove it first, or save to another place",
            reason="foreign-manifest",
        )
    return data


def _held(storage: Storage) -> bytes | None:
    """Return the bytes of the committed manifest, or None where nothing is committed."""
    try:
        return storage.read(MANIFEST, format.MANIFEST_MAX_NBYTES)
    except FileNotFoundError:
        return None


def attempt_in(data: bytes | None) -> str | None:
    """Return the attempt id of a manifest, or None where it is none or damaged."""
    if data is None:
        return None
    try:
        return format.decode(data, where=MANIFEST).attempt
    except CheckpointError:
        return None


def occupied(storage: Storage, holder: bytes) -> AlreadyCommittedError:
    """Return the error for a place that another attempt holds."""
    return AlreadyCommittedError(
        f"{storage.url}: a checkpoint is committed there already (attempt "
        f"{attempt_in(holder) or 'unreadable'}); save to another place, or pass overwrite=True"
    )


def publish(storage: Storage, attempt: str, data: bytes, replaced: bytes | None) -> None:
    """Make `attempt`, whose files are durable, the checkpoint.

    Args:
        storage: the place.
        attempt: the id that `data` carries.
        data: the encoded manifest.
        replaced: the manifest that an overwrite read when it began; None for a create.

    Raises:
        AlreadyCommittedError: another attempt holds the place; this one's files are removed.
        OutcomeUnknownError: it may or may not be committed; nothing is removed.
        StorageError: it is not committed; this attempt's files are removed.
    """
    try:
        if _marked(storage, attempt):
            raise _collected(storage, attempt)
    except BaseException:
        discard(storage, attempt)
        raise
    swapped = _send(storage, attempt, data, replaced)
    try:
        collected = _marked(storage, attempt)
        if collected:
            _withdraw(storage, data, swapped)
    except CheckpointError as error:
        raise OutcomeUnknownError(
            f"{storage.url}: attempt {attempt} was committed, but whether a garbage collector took "
            f"it for a dead one cannot be known ({error}); nothing was deleted; verify it"
        ) from error
    if collected:
        discard(storage, attempt)
        raise _collected(storage, attempt)
    if swapped is not None and (old := attempt_in(swapped)) is not None:
        # The swap is durable. Whatever this leaves behind is garbage, never part of a checkpoint.
        discard(storage, old)


def _send(storage: Storage, attempt: str, data: bytes, replaced: bytes | None) -> bytes | None:
    """Commit, and return the manifest that this replaced."""
    error: Exception
    for _ in range(_SENDS):
        try:
            if replaced is not None:
                try:
                    storage.swap(MANIFEST, data, replaced)
                    return replaced
                except FileNotFoundError:
                    replaced = None  # it was deleted meanwhile
            storage.create(MANIFEST, data)
            return None
        except OutcomeUnknownError:
            raise
        except (CheckpointError, FileExistsError) as caught:
            error = caught
        try:
            holder = _held(storage)
            if attempt_in(holder) == attempt:  # only the answer was lost
                storage.flush()
                return replaced
        except CheckpointError as second:
            raise OutcomeUnknownError(
                f"{storage.url}: the commit of attempt {attempt} failed ({error}), and whether it "
                f"happened cannot be known ({second}); nothing was deleted; load it once the disk "
                "answers"
            ) from error
        if not isinstance(error, FileExistsError):
            discard(storage, attempt)
            raise error
        if holder is not None:
            discard(storage, attempt)
            raise AlreadyCommittedError(
                f"{storage.url}: another save (attempt {attempt_in(holder) or 'unreadable'}) was "
                "committed there first; nothing of it was touched; load it, or save again"
            )
        # Something was there and is not any more: ask again.
    raise OutcomeUnknownError(
        f"{storage.url}: {MANIFEST} is said to exist and cannot be seen; nothing was deleted; load "
        "it to see what is there"
    ) from error


def _marked(storage: Storage, attempt: str) -> bool:
    return f"{_MARK}{attempt}" in storage.list()


def _collected(storage: Storage, attempt: str) -> StorageError:
    return StorageError(
        f"{storage.url}: a garbage collector took this save (attempt {attempt}) for a dead one; "
        "save again, and give the collector a longer grace period",
        reason="collected",
    )


def _withdraw(storage: Storage, data: bytes, swapped: bytes | None) -> None:
    """Undo a commit that a collector may be about to remove the data of."""
    if swapped is None:
        storage.delete(MANIFEST, expected=data)
    else:
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            storage.swap(MANIFEST, swapped, data)


def discard(storage: Storage, attempt: str) -> None:
    """Remove the files of one attempt that is known not to be the checkpoint, as far as it goes."""
    with contextlib.suppress(CheckpointError):
        for name in storage.list():
            if format.attempt_of(name) == attempt:
                with contextlib.suppress(CheckpointError):
                    storage.delete(name)


def read(storage: Storage, use: Callable[[Snapshot], T]) -> T:
    """Call `use` with the committed checkpoint.

    Where an overwrite takes the files away meanwhile, `use` is called again with the new one.

    Raises:
        NotCommittedError: there is no manifest.
        CorruptError: a file of the manifest is missing or has another size.
    """
    for _ in range(_READS):
        data = _held(storage)
        if data is None:
            raise not_committed(storage)
        try:
            return use(_open(storage, data))
        except _Changed as error:
            if _held(storage) != data:
                continue
            raise CorruptError(
                f"{storage.url}: {error}; the checkpoint is incomplete; restore the file from a "
                "copy",
                reason=error.reason,
            ) from None
    raise StorageError(
        f"{storage.url}: overwritten {_READS} times while it was read; try again",
        reason="overwritten",
    )


class _Changed(Exception):
    """A file is not as the manifest says."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def _open(storage: Storage, data: bytes) -> Snapshot:
    manifest = format.decode(data, where=f"{storage.url}/{MANIFEST}")
    sizes = storage.sizes([file.name for file in manifest.files])
    for file in manifest.files:
        have = sizes.get(file.name)
        if have is None:
            raise _Changed(f"the {file.role} file {file.name} is missing", "missing-file")
        if have != file.nbytes:
            raise _Changed(
                f"{file.name} has {have} bytes, the manifest says {file.nbytes}", "file-size"
            )
    snapshot = Snapshot(storage, manifest, [] if manifest.index is None else [manifest.index])
    for file in manifest.files:
        if file.role == "index":
            snapshot.index_parts.append(_read_index(snapshot, file))
    return snapshot


def _read_index(snapshot: Snapshot, file: File) -> bytes:
    where = f"{snapshot.storage.url}/{file.name}"
    if file.nbytes > INDEX_MAX_NBYTES:
        raise CorruptError(
            f"{where}: {file.nbytes} bytes, at most {INDEX_MAX_NBYTES}",
            reason="too-many",
        )
    buffer = bytearray(file.nbytes)
    snapshot.get(file.name, 0, buffer)
    if wire.digest(buffer) != file.digest:
        raise CorruptError(
            f"{where}: the checksum does not match; restore the file from a copy",
            reason="checksum",
        )
    return bytes(buffer)


def not_committed(storage: Storage) -> NotCommittedError:
    """Return the error for a place without a manifest, saying what is there instead."""
    names = storage.list()
    attempts = {format.attempt_of(name) for name in names} - {None}
    if attempts:
        return NotCommittedError(
            f"{storage.url}: not a committed checkpoint: {len(attempts)} unfinished save(s), no "
            f"{MANIFEST}; the save was killed or is still going on; load an older checkpoint",
            reason="unfinished",
        )
    return NotCommittedError(
        f"{storage.url}: not a checkpoint: no {MANIFEST} there"
        + (" (it holds other files)" if names else "")
        + "; check the path",
        reason="no-manifest",
    )

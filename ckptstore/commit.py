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
_TRIES = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One committed attempt, its files open and of the right sizes."""

    storage: Storage
    manifest: Manifest
    index_parts: list[bytes]

    @property
    def data_files(self) -> list[File]:
        """The rows of the data files."""
        return [file for file in self.manifest.files if file.role == "data"]


def current(storage: Storage) -> bytes | None:
    """Return the bytes of the committed manifest, or None where nothing is committed."""
    try:
        return storage.read(MANIFEST, format.MANIFEST_MAX_NBYTES)
    except (FileNotFoundError, NotADirectoryError):
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
        _refuse_mark(storage, attempt)
        _send(storage, data, replaced)
    except OutcomeUnknownError:
        raise
    except (CheckpointError, FileExistsError) as error:
        holder = _read_back(storage, attempt, error)
        if attempt_in(holder) != attempt:
            discard(storage, attempt)
            if isinstance(error, FileExistsError) and holder is not None:
                raise occupied(storage, holder) from None
            if isinstance(error, FileExistsError):
                raise StorageError(
                    f"{storage.url}: the checkpoint was deleted while this save overwrote it; save "
                    "again"
                ) from None
            raise
        storage.flush()  # the name is there: only its durability is still owed
    if _marked(storage, attempt):
        _withdraw(storage, attempt, data, replaced)
    if replaced is not None and (old := attempt_in(replaced)) is not None:
        # The swap is durable. Whatever this leaves behind is garbage, never part of a checkpoint.
        discard(storage, old)


def _send(storage: Storage, data: bytes, replaced: bytes | None) -> None:
    if replaced is None:
        storage.create(MANIFEST, data)
        return
    try:
        storage.swap(MANIFEST, data, replaced)
    except FileNotFoundError:
        storage.create(MANIFEST, data)  # it was deleted meanwhile


def _read_back(storage: Storage, attempt: str, cause: BaseException) -> bytes | None:
    try:
        return current(storage)
    except CheckpointError:
        raise OutcomeUnknownError(
            f"{storage.url}: the commit of attempt {attempt} failed ({cause}) and the manifest cannot "
            "be read back; nothing was deleted; load it once the disk answers"
        ) from cause


def _marked(storage: Storage, attempt: str) -> bool:
    return f"{_MARK}{attempt}" in storage.list()


def _refuse_mark(storage: Storage, attempt: str) -> None:
    if _marked(storage, attempt):
        raise StorageError(
            f"{storage.url}: a garbage collector took this save (attempt {attempt}) for a dead one; "
            "save again, and give the collector a longer grace period",
            reason="collected",
        )


def _withdraw(storage: Storage, attempt: str, data: bytes, replaced: bytes | None) -> None:
    """Undo a commit that a collector may be about to remove the data of, and raise."""
    if replaced is None:
        storage.delete(MANIFEST, expected=data)
    else:
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            storage.swap(MANIFEST, replaced, data)
    _refuse_mark(storage, attempt)


def discard(storage: Storage, attempt: str) -> None:
    """Remove the files of one attempt that is known not to be the checkpoint, as far as it goes."""
    with contextlib.suppress(CheckpointError):
        for name in storage.list():
            if format.attempt_of(name) == attempt:
                with contextlib.suppress(CheckpointError):
                    storage.delete(name)


def read(storage: Storage, use: Callable[[Snapshot], T]) -> T:
    """Call `use` with the committed checkpoint, again with the next one if an overwrite takes the
    files away below it.

    Raises:
        NotCommittedError: there is no manifest.
        CorruptError: a file of the manifest is missing or has another size.
    """
    for _ in range(_TRIES):
        data = current(storage)
        if data is None:
            raise not_committed(storage)
        try:
            return use(_open(storage, data))
        except (FileNotFoundError, EOFError, _Changed) as error:
            if current(storage) != data:
                continue
            raise CorruptError(
                f"{storage.url}: {error}; the checkpoint is incomplete; restore the file from a copy",
                reason=getattr(error, "reason", "missing-file"),
            ) from None
    raise StorageError(
        f"{storage.url}: overwritten {_TRIES} times while it was read; try again",
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
    parts = [] if manifest.index is None else [manifest.index]
    for file in manifest.files:
        if file.role == "index":
            parts.append(_read_index(storage, file))
    return Snapshot(storage, manifest, parts)


def _read_index(storage: Storage, file: File) -> bytes:
    if file.nbytes > INDEX_MAX_NBYTES:
        raise CorruptError(
            f"{storage.url}/{file.name}: {file.nbytes} bytes, at most {INDEX_MAX_NBYTES}",
            reason="too-many",
        )
    buffer = bytearray(file.nbytes)
    storage.get(file.name, 0, buffer)
    if wire.digest(buffer) != file.digest:
        raise CorruptError(
            f"{storage.url}/{file.name}: the checksum does not match; restore the file from a copy",
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
        reason="not-a-checkpoint",
    )

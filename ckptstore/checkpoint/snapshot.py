"""A reader's view: one whole committed attempt, even if the checkpoint is overwritten meanwhile.

A reader first opens every file that it reads, and begins again if an overwrite removed one:
docs/commit.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from ckptstore import concurrency
from ckptstore.checkpoint import foreign_files
from ckptstore.checkpoint.absence import not_committed
from ckptstore.checkpoint.manifest_file import Committed, committed, committed_bytes
from ckptstore.digests import Buffer, Digest, Hasher
from ckptstore.errors import (
    CheckpointError,
    CorruptError,
    NotCommittedError,
    Reason,
    StorageError,
)
from ckptstore.format import INDEX_MAX_NBYTES, File, Manifest
from ckptstore.progress import NOBODY, Progress
from ckptstore.storage import Storage
from ckptstore.tree import StoredTree

_READS = 100
_LOOKS = 4
"""The number of times that one manifest is found to name a file that is not as it says."""

_WAIT_SECONDS = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One committed attempt, whose index is read.

    Attributes:
        storage: its place.
        data: the bytes of its manifest.
        manifest: the same decoded.
        index_parts: the encoded parts of its index.
        progress: counts the bytes of data that are read.
    """

    storage: Storage
    data: bytes
    manifest: Manifest
    index_parts: list[bytes] = field(default_factory=list)
    progress: Progress = NOBODY
    _checked: set[str] = field(default_factory=set)

    def tree(self) -> StoredTree:
        """Decode and check the index, and return the tree of nodes in it.

        Raises:
            CorruptError: with the reason of the first check that fails.
        """
        return StoredTree.decode(self.index_parts, self.manifest.files, where=self.storage.url)

    def check_files(self, rows: Collection[int] | None = None) -> None:
        """Check that files are there and have the sizes that the manifest says.

        On a disk as many as possible stay open, so that an overwrite cannot take them away. Call it
        before the first `fill`. `read_snapshot` starts again if a file is not as it should be.

        Args:
            rows: the files, by their rows in the manifest; None: all.
        """
        files = self.manifest.files
        chosen = files if rows is None else [files[row] for row in rows]
        left = [file for file in chosen if file.name not in self._checked]
        if not left:
            return
        sizes = self.storage.sizes([file.name for file in left], len(files))
        for file in left:
            have = sizes.get(file.name)
            if have is None:
                text = f"the {file.role} file {file.name} is missing"
                raise _Changed(text, Reason.MISSING_FILE, file.name)
            if have != file.nbytes:
                text = f"{file.name} has {have} bytes, the manifest says {file.nbytes}"
                raise _Changed(text, Reason.FILE_SIZE, file.name)
            self._checked.add(file.name)

    def fill(self, name: str, offset: int, buffer: Buffer) -> Digest:
        """Fill `buffer` from `offset` of a file, a piece at a time, and return its digest.

        `read_snapshot` starts again if the file was removed.
        """
        state = Hasher()
        for piece in self.pieces(name, offset, buffer):
            state.update(piece)
        return state.digest()

    def pieces(self, name: str, offset: int, buffer: Buffer) -> Iterator[memoryview]:
        """Fill `buffer` from `offset` of a file, and yield each piece as it is filled.

        `read_snapshot` starts again if the file was removed.
        """
        view, size = memoryview(buffer).cast("B"), self.storage.traffic.piece_nbytes
        try:
            for at in range(0, view.nbytes, size):
                piece = view[at : at + size]
                self.storage.get(name, offset + at, piece)
                yield piece
        except FileNotFoundError:
            raise _Changed(f"the file {name} is missing", Reason.MISSING_FILE, name) from None
        except EOFError as error:
            raise _Changed(str(error), Reason.FILE_SIZE, name) from None


def read_snapshot(storage: Storage, use: Callable[[Snapshot], T], *, some: bool = False) -> T:
    """Call `use` with the committed checkpoint.

    If an overwrite removes the files meanwhile, `use` is called again with the new checkpoint.

    Args:
        storage: the place.
        use: is called with the checkpoint. The files of one that several processes saved are not
            yet checked, since several may read it; see `Snapshot.check_files`.
        some: `use` may read only some files, so none is checked yet.

    Raises:
        NotCommittedError: there is no manifest.
        CorruptError: a file of the manifest is missing or has another size.
    """
    before, looks = None, 0
    for _ in range(_READS):
        holder = committed(storage)
        if holder is None:
            raise not_committed(storage)
        try:
            return use(_open(storage, holder, some=some))
        except _Changed as error:
            # The transfer of a listing may damage it, or a cache may answer: look several times.
            looks = looks + 1 if before == holder.data else 1
            before = holder.data
            if looks < _LOOKS or committed_bytes(storage) != holder.data:
                concurrency.pause(_WAIT_SECONDS * 2 ** (looks - 1) if looks > 1 else 0.0)
                continue
            raise _corrupt(storage, error) from None
    raise StorageError(
        f"{storage.url}: overwritten {_READS} times while it was read; try again",
        reason=Reason.OVERWRITTEN,
    )


@contextlib.contextmanager
def unchanged(
    snapshot: Snapshot, doing: str = "open; open it again, or another checkpoint"
) -> Iterator[None]:
    """Raise an error if a file of a snapshot that stays open is not there any more.

    Args:
        snapshot: the checkpoint.
        doing: for the error: the state of the checkpoint meanwhile, and the remedy.

    Raises:
        NotCommittedError: reason ``overwritten``: the checkpoint was overwritten or deleted.
        CorruptError: a file of the manifest is missing or has another size.
    """
    storage = snapshot.storage
    try:
        yield
    except _Changed as error:
        holder = committed(storage)
        if holder is not None and holder.attempt == snapshot.manifest.attempt:
            raise _corrupt(storage, error) from None
        event = "deleted" if holder is None else "overwritten"
        raise NotCommittedError(
            f"{storage.url}: {event} while it was {doing}",
            reason=Reason.OVERWRITTEN,
        ) from None


class _Changed(Exception):
    """A file differs from the manifest's description."""

    def __init__(self, message: str, reason: str, name: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.name = name


def _corrupt(storage: Storage, error: _Changed) -> CorruptError:
    text = f"{storage.url}: {error}; {_remedy(storage, error.name)}"
    return CorruptError(text, reason=error.reason)


def _remedy(storage: Storage, name: str) -> str:
    """Return the way on for a file that is not as the manifest says, by its content."""
    try:
        lead = foreign_files.damage_of(storage.read(name, foreign_files.HEAD_NBYTES))
    except (CheckpointError, FileNotFoundError):
        lead = None
    if lead is not None:
        return f"it is {lead}"
    return "the checkpoint is incomplete; restore the file from a copy"


def _open(storage: Storage, holder: Committed, *, some: bool) -> Snapshot:
    manifest = holder.manifest()
    snapshot = Snapshot(storage, holder.data, manifest)
    rows = [row for row, file in enumerate(manifest.files) if file.role == "index"]
    snapshot.check_files(rows if some or manifest.processes > 1 else None)
    if manifest.index is not None:
        snapshot.index_parts.append(manifest.index)
    for row in rows:
        snapshot.index_parts.append(_read_index(snapshot, manifest.files[row]))
    return snapshot


def _read_index(snapshot: Snapshot, file: File) -> bytes:
    where = f"{snapshot.storage.url}/{file.name}"
    if file.nbytes > INDEX_MAX_NBYTES:
        raise CorruptError(
            f"{where}: {file.nbytes} bytes, expected at most {INDEX_MAX_NBYTES}",
            reason=Reason.TOO_MANY,
        )
    buffer = bytearray(file.nbytes)
    if not any(snapshot.fill(file.name, 0, buffer) == file.digest for _ in range(2)):
        raise CorruptError(
            f"{where}: the checksum does not match; restore the file from a copy",
            reason=Reason.CHECKSUM,
        )
    return bytes(buffer)

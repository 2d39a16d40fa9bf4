"""The data files that a save takes over from the save before, because no piece in them changed.

A piece is a cell of a leaf. Without touching a disk, this module decides which pieces to compare,
whether a piece is unchanged, and which files can be taken over. Spec: section 7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptstore import concurrency
from ckptstore.checkpoint import Snapshot, read_snapshot
from ckptstore.digests import Buffer, Digest, Hasher, digest
from ckptstore.errors import CheckpointError, Reason, StructureError
from ckptstore.format import LARGE_NBYTES, File, Spans, decode_index
from ckptstore.format.dtypes import Array
from ckptstore.format.names import file_name
from ckptstore.saving.placement import MAX_FILES, Piece, Placed, Taken
from ckptstore.storage import Storage

_SAMPLE_NBYTES = 4 << 10
_PIECE_NBYTES = 1 << 20
_LOOKED_AT_ONCE = 4
_LOOKS = 3
_LOOK_EVERY = 8
"""A piece that changed three times in a row is compared at every eighth save only."""


@dataclass(frozen=True)
class Previous:
    """A committed checkpoint whose files the next save of the run may take over.

    Attributes:
        directory: the name of its directory, which is beside that of the next save.
        files: its table of files.
        counts: the number of spans in each file.
        pieces: the spans of each large piece, in order.
        samples: the digests of samples of the large pieces that this process saved.
        misses: for each such piece, the number of saves in a row in which it changed or was not
            compared.
    """

    directory: str
    files: Sequence[File]
    counts: Sequence[int]
    pieces: Mapping[Piece, Sequence[Placed]]
    samples: Mapping[Piece, Digest]
    misses: Mapping[Piece, int]


def previous(
    directory: str,
    files: Sequence[File],
    spans: Spans,
    samples: Mapping[Piece, Digest] | None = None,
    misses: Mapping[Piece, int] | None = None,
) -> Previous:
    """Return a checkpoint's record for a later save; the arguments are as of `Previous`."""
    cells = int(spans.cell.max(initial=0)) + 1
    _, number = np.unique(spans.leaf * cells + spans.cell, return_inverse=True)
    nbytes = np.bincount(number, spans.size)
    rows = np.flatnonzero(nbytes[number] >= LARGE_NBYTES)
    columns = (spans.leaf, spans.cell, spans.file, spans.offset, spans.size)
    pieces: dict[Piece, list[Placed]] = {}
    for row, *numbers in zip(rows.tolist(), *(c[rows].tolist() for c in columns), strict=True):
        leaf, cell, file, offset, size = numbers
        placed = pieces.setdefault((leaf, cell), [])
        start = placed[-1].start + placed[-1].size if placed else 0
        placed.append(Placed((leaf, cell), start, size, file, offset, spans.digests[row]))
    counts = np.bincount(spans.file, minlength=len(files)).tolist()
    return Previous(directory, files, counts, pieces, samples or {}, misses or {})


def read(run: Storage, directory: str) -> Previous:
    """Return a checkpoint that another process saved.

    Args:
        run: the directory of the run.
        directory: the name of the checkpoint's directory inside it.

    Raises:
        CheckpointError: the checkpoint is missing, or its manifest or index is damaged.
    """

    def look(snapshot: Snapshot) -> Previous:
        snapshot.check_files()
        files = snapshot.manifest.files
        index, _ = decode_index(snapshot.index_parts, files, where=snapshot.storage.url)
        return previous(directory, files, index.spans)

    return read_snapshot(run.child(directory), look)


def sample(host: Array) -> Digest:
    """Return the digest of a few bytes of a large piece. A change nearly always changes them too.

    Args:
        host: the bytes of the piece, flat uint8.
    """
    last = host.size - _SAMPLE_NBYTES
    return digest(b"".join(host[at : at + _SAMPLE_NBYTES].tobytes() for at in (0, last // 2, last)))


class Series:
    """The saves of one run in their order, each of which may take over files of the one before.

    Args:
        keep_full_every: the number of saves that may share a file; 1: no save takes anything over.
        newest: reads the last save of earlier processes; called by the first save of this process.
            If it raises CheckpointError, nothing is taken over.

    Attributes:
        keep_full_every: the argument.
        told: the paths of the arrays of which the log has told already that they are expanded.
        share: the files of this process in the last joint save of this process; None: none.
    """

    def __init__(self, keep_full_every: int, newest: Callable[[], Previous | None]) -> None:
        if type(keep_full_every) is not int or keep_full_every < 1:
            raise StructureError(
                f"Manager: keep_full_every is {keep_full_every!r:.80}, expected an int, 1 or more",
                reason=Reason.BAD_ARGUMENT,
            )
        self.keep_full_every = keep_full_every
        self.told: set[str] = set()
        self.share: Previous | None = None
        self._newest: Callable[[], Previous | None] | None = newest
        self._previous: Previous | None = None

    def previous(self) -> Previous | None:
        """Return the save before, or None if nothing may be taken over."""
        if self.keep_full_every == 1:
            return None
        newest, self._newest = self._newest, None
        if newest is not None:
            with contextlib.suppress(CheckpointError):
                self._previous = newest()
        return self._previous

    def distrust(self) -> None:
        """Make the next save write everything: an earlier one is damaged and may share files."""
        self._previous = self._newest = self.share = None

    def saved(self, saved: Previous, before: Previous | None) -> None:
        """Remember the save that was just committed.

        Args:
            saved: that save.
            before: the result of `previous` when that save began. If it is no longer trusted, the
                save is not trusted either.
        """
        if before is None or before is self._previous:
            self._previous, self._newest = saved, None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing a tree with the save before.

    Attributes:
        unchanged: the large pieces that hold the same bytes.
        rows: the data files of the save before that can be taken over.
        samples: the digests of samples of the compared pieces.
        misses: for each other piece, the number of saves in a row in which it changed or was not
            compared.
    """

    unchanged: Collection[Piece]
    rows: Sequence[int]
    samples: Mapping[Piece, Digest]
    misses: Mapping[Piece, int]

    def names(self, attempt: str, process: int = 0) -> dict[int, str]:
        """Return, by row, the new attempt's name for each file that can be taken over."""
        return {row: file_name("data", attempt, process, n) for n, row in enumerate(self.rows)}


def compare(
    previous: Previous,
    nbytes: Mapping[Piece, int],
    read: Callable[[Piece], Array],
    keep_full_every: int,
) -> Comparison:
    """Compare the large pieces with the save before.

    Args:
        previous: the save before.
        nbytes: the size in bytes of each piece of the tree.
        read: returns the bytes of a piece; called in several threads.
        keep_full_every: the number of saves that may share a file.
    """
    unchanged: set[Piece] = set()
    samples: dict[Piece, Digest] = {}

    def look(piece: Piece) -> None:
        host = read(piece)
        today = samples[piece] = sample(host)
        if previous.samples.get(piece, today) == today and is_unchanged(previous, piece, host):
            unchanged.add(piece)

    rows = [(piece,) for piece in candidates(previous, nbytes)]
    concurrency.run(look, rows, _LOOKED_AT_ONCE, name="ckptstore-look")
    misses = {
        piece: previous.misses.get(piece, 0) + 1
        for piece in previous.pieces
        if piece not in unchanged
    }
    return Comparison(unchanged, takeable(previous, unchanged, keep_full_every), samples, misses)


def candidates(previous: Previous, nbytes: Mapping[Piece, int]) -> list[Piece]:
    """Return the pieces that may be unchanged.

    A piece is a candidate if it has a sample to compare. If another process made the save before,
    the candidates are the pieces that this save had itself taken over. A piece that changes at each
    save is compared less often, because a comparison may copy it from a device.
    """
    return [
        piece
        for piece, spans in previous.pieces.items()
        if nbytes.get(piece) == spans[-1].start + spans[-1].size
        and (piece in previous.samples or any(previous.files[span.file].age for span in spans))
        and (previous.misses.get(piece, 0) < _LOOKS or previous.misses[piece] % _LOOK_EVERY == 0)
    ]


def is_unchanged(previous: Previous, piece: Piece, host: Array) -> bool:
    """Return whether a candidate is unchanged; stop at the first difference.

    Args:
        previous: the save before.
        piece: the leaf and the cell.
        host: the bytes of the piece, flat uint8, as many as in the save before.
    """
    for span in previous.pieces[piece]:
        state = Hasher()
        for at in range(span.start, span.start + span.size, _PIECE_NBYTES):
            part: Buffer = host[at : min(at + _PIECE_NBYTES, span.start + span.size)]
            state.update(part)
        if state.digest() != span.digest:
            return False
    return True


def takeable(previous: Previous, unchanged: Collection[Piece], keep_full_every: int) -> list[int]:
    """Return the rows of the data files of the save before that a save may take over, 1024 at most.

    Args:
        previous: the save before.
        unchanged: the pieces that have not changed.
        keep_full_every: the number of saves that may share a file.
    """
    counts = [0] * len(previous.files)
    for piece in unchanged:
        for span in previous.pieces[piece]:
            counts[span.file] += 1
    rows = [
        row
        for row, file in enumerate(previous.files)
        if 0 < counts[row] == previous.counts[row] and file.age + 1 < keep_full_every
    ]
    largest = sorted(rows, key=lambda row: previous.files[row].nbytes, reverse=True)
    return sorted(largest[:MAX_FILES])


def taken(previous: Previous, rows: Sequence[int]) -> list[Taken]:
    """Return the files in these rows, in the form that `place` takes."""
    spans: dict[int, list[Placed]] = {row: [] for row in rows}
    for placed in previous.pieces.values():
        for span in placed:
            if span.file in spans:
                spans[span.file].append(span)
    return [Taken(previous.files[row].nbytes, spans[row]) for row in rows]

"""What a save takes over from the one before it: data files of which no leaf changed.

Which leaves are worth a look, whether one is as it was, and which files can be taken over: that
is decided without touching a disk. Spec: section 7.
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
from ckptstore.saving.placement import MAX_FILES, Placed, Taken
from ckptstore.storage import Storage

_SAMPLE_NBYTES = 4 << 10
_PIECE_NBYTES = 1 << 20
_LOOKED_AT_ONCE = 4
_LOOKS = 3
_LOOK_EVERY = 8
"""A leaf that changed three times in a row is looked at by every eighth save only."""


@dataclass(frozen=True)
class Previous:
    """A committed checkpoint whose files the next save of the run may take over.

    Attributes:
        directory: its name, beside that of the next save.
        files: its table of files.
        counts: how many spans each has.
        leaves: the spans of each large leaf that is one cell, in order.
        samples: of the large leaves that this process saved.
        misses: how many saves in a row each of them changed, or was not looked at.
    """

    directory: str
    files: Sequence[File]
    counts: Sequence[int]
    leaves: Mapping[int, Sequence[Placed]]
    samples: Mapping[int, Digest]
    misses: Mapping[int, int]


def previous(
    directory: str,
    files: Sequence[File],
    spans: Spans,
    samples: Mapping[int, Digest] | None = None,
    misses: Mapping[int, int] | None = None,
) -> Previous:
    """Return what a later save needs to know of a checkpoint; arguments as of `Previous`."""
    nbytes = np.zeros(int(spans.leaf.max(initial=-1)) + 1, np.int64)
    np.add.at(nbytes, spans.leaf, spans.size)
    rows = np.flatnonzero(nbytes[spans.leaf] >= LARGE_NBYTES)
    columns = (spans.leaf, spans.cell, spans.file, spans.offset, spans.size)
    leaves: dict[int, list[Placed]] = {}
    cut: set[int] = set()
    for row, *numbers in zip(rows.tolist(), *(c[rows].tolist() for c in columns), strict=True):
        leaf, cell, file, offset, size = numbers
        placed = leaves.setdefault(leaf, [])
        start = placed[-1].start + placed[-1].size if placed else 0
        placed.append(Placed(leaf, start, size, file, offset, spans.digests[row]))
        if cell:
            cut.add(leaf)
    whole = {leaf: placed for leaf, placed in leaves.items() if leaf not in cut}
    counts = np.bincount(spans.file, minlength=len(files)).tolist()
    return Previous(directory, files, counts, whole, samples or {}, misses or {})


def read(run: Storage, directory: str) -> Previous:
    """Return a checkpoint that another process saved.

    Args:
        run: the directory of the run.
        directory: that of the checkpoint, below.

    Raises:
        CheckpointError: it is not there, or its manifest or index is damaged.
    """

    def look(snapshot: Snapshot) -> Previous:
        files = snapshot.manifest.files
        index, _ = decode_index(snapshot.index_parts, files, where=snapshot.storage.url)
        return previous(directory, files, index.spans)

    return read_snapshot(run.child(directory), look)


def sample(host: Array) -> Digest:
    """Return the digest of a few bytes of a large leaf: what changed, nearly always changed there.

    Args:
        host: its bytes, flat uint8.
    """
    last = host.size - _SAMPLE_NBYTES
    return digest(b"".join(host[at : at + _SAMPLE_NBYTES].tobytes() for at in (0, last // 2, last)))


class Series:
    """The saves of one run, one after the other: what each may take over of the one before.

    Args:
        keep_full_every: how many saves may share a file; 1: none takes anything over.
        newest: reads what earlier processes saved last, when the first save of this one asks. Where
            it raises CheckpointError, nothing is taken over.

    Attributes:
        keep_full_every: as given.
    """

    def __init__(self, keep_full_every: int, newest: Callable[[], Previous | None]) -> None:
        if type(keep_full_every) is not int or keep_full_every < 1:
            raise StructureError(
                f"Manager: keep_full_every is {keep_full_every!r:.80}, expected an int, 1 or more",
                reason=Reason.BAD_ARGUMENT,
            )
        self.keep_full_every = keep_full_every
        self._newest: Callable[[], Previous | None] | None = newest
        self._previous: Previous | None = None

    def previous(self) -> Previous | None:
        """Return the save before, or None where nothing may be taken over."""
        if self.keep_full_every == 1:
            return None
        newest, self._newest = self._newest, None
        if newest is not None:
            with contextlib.suppress(CheckpointError):
                self._previous = newest()
        return self._previous

    def distrust(self) -> None:
        """Let the next save write everything: one before it is damaged, and may share its files."""
        self._previous = self._newest = None

    def saved(self, saved: Previous, before: Previous | None) -> None:
        """Remember the save that was committed just now.

        Args:
            saved: that save.
            before: what `previous` returned when it began. If that is not trusted any more, nor is
                this.
        """
        if before is None or before is self._previous:
            self._previous, self._newest = saved, None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a save finds as the save before it left it.

    Attributes:
        unchanged: the large leaves that hold the same bytes.
        rows: the data files of the save before that can be taken over.
        samples: of the leaves that were looked at.
        misses: how many saves in a row changed each other leaf, or did not look at it.
    """

    unchanged: Collection[int]
    rows: Sequence[int]
    samples: Mapping[int, Digest]
    misses: Mapping[int, int]

    def names(self, attempt: str) -> dict[int, str]:
        """Return the name, in an attempt, of each file that can be taken over, by row."""
        return {row: file_name("data", attempt, 0, n) for n, row in enumerate(self.rows)}


def compare(
    previous: Previous,
    leaf_nbytes: Sequence[int],
    read: Callable[[int], Array],
    keep_full_every: int,
) -> Comparison:
    """Compare the large leaves with the save before.

    Args:
        previous: the save before.
        leaf_nbytes: of each leaf of today.
        read: returns the bytes of a leaf; called in several threads.
        keep_full_every: how many saves may share a file.
    """
    unchanged: set[int] = set()
    samples: dict[int, Digest] = {}

    def look(leaf: int) -> None:
        host = read(leaf)
        today = samples[leaf] = sample(host)
        if previous.samples.get(leaf, today) == today and is_unchanged(previous, leaf, host):
            unchanged.add(leaf)

    rows = [(leaf,) for leaf in candidates(previous, leaf_nbytes)]
    concurrency.run(look, rows, _LOOKED_AT_ONCE, name="ckptstore-look")
    misses = {
        leaf: previous.misses.get(leaf, 0) + 1 for leaf in previous.leaves if leaf not in unchanged
    }
    return Comparison(unchanged, takeable(previous, unchanged, keep_full_every), samples, misses)


def candidates(previous: Previous, leaf_nbytes: Sequence[int]) -> list[int]:
    """Return the leaves that may be as they were.

    That is what has a sample to compare, or, in another process than the one that saved it, what
    that save itself had taken over. What changes at each save is looked at ever less: a look may
    bring it from a device.
    """
    return [
        leaf
        for leaf, spans in previous.leaves.items()
        if leaf < len(leaf_nbytes)
        and leaf_nbytes[leaf] == spans[-1].start + spans[-1].size
        and (leaf in previous.samples or any(previous.files[span.file].age for span in spans))
        and (previous.misses.get(leaf, 0) < _LOOKS or previous.misses[leaf] % _LOOK_EVERY == 0)
    ]


def is_unchanged(previous: Previous, leaf: int, host: Array) -> bool:
    """Return whether a candidate is as the save before left it; stop at the first difference.

    Args:
        previous: as of `candidates`.
        leaf: its number.
        host: its bytes, flat uint8, of the size that it had then.
    """
    for span in previous.leaves[leaf]:
        state = Hasher()
        for at in range(span.start, span.start + span.size, _PIECE_NBYTES):
            piece: Buffer = host[at : min(at + _PIECE_NBYTES, span.start + span.size)]
            state.update(piece)
        if state.digest() != span.digest:
            return False
    return True


def takeable(previous: Previous, unchanged: Collection[int], keep_full_every: int) -> list[int]:
    """Return the rows of the data files of the save before that a save may take over, 1024 at most.

    Args:
        previous: as of `candidates`.
        unchanged: the leaves that are as they were.
        keep_full_every: how many saves may share a file.
    """
    counts = [0] * len(previous.files)
    for leaf in unchanged:
        for span in previous.leaves[leaf]:
            counts[span.file] += 1
    rows = [
        row
        for row, file in enumerate(previous.files)
        if 0 < counts[row] == previous.counts[row] and file.age + 1 < keep_full_every
    ]
    largest = sorted(rows, key=lambda row: previous.files[row].nbytes, reverse=True)
    return sorted(largest[:MAX_FILES])


def taken(previous: Previous, rows: Sequence[int]) -> list[Taken]:
    """Return what `place` needs to know of the files in these rows."""
    spans: dict[int, list[Placed]] = {row: [] for row in rows}
    for placed in previous.leaves.values():
        for span in placed:
            if span.file in spans:
                spans[span.file].append(span)
    return [Taken(previous.files[row].nbytes, spans[row]) for row in rows]

"""What a save takes over from the one before it: data files of which no leaf changed.

Which leaves are worth a look, whether one is as it was, and which files can be taken over: that
is decided without touching a disk. Spec: section 7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptstore.checkpoint import snapshot as snapshots
from ckptstore.checkpoint.snapshot import Snapshot
from ckptstore.digests import Buffer, Digest, Hasher, digest
from ckptstore.errors import CheckpointError, Reason, StructureError
from ckptstore.format import LARGE_NBYTES, File, Spans, decode_index
from ckptstore.format.dtypes import Array
from ckptstore.saving.placement import MAX_FILES, Placed, Taken
from ckptstore.storage import Storage

_SAMPLE_NBYTES = 4 << 10
_PIECE_NBYTES = 1 << 20
_LOOKS = 3
_LOOK_EVERY = 8
"""A leaf that changed three times in a row is looked at by every eighth save only."""


@dataclass(frozen=True)
class Base:
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


def base(
    directory: str,
    files: Sequence[File],
    spans: Spans,
    samples: Mapping[int, Digest] | None = None,
    misses: Mapping[int, int] | None = None,
) -> Base:
    """Return what a later save needs to know of a checkpoint; arguments as of `Base`."""
    nbytes = np.zeros(int(spans.leaf.max(initial=-1)) + 1, np.int64)
    np.add.at(nbytes, spans.leaf, spans.size)
    rows = np.flatnonzero(nbytes[spans.leaf] >= LARGE_NBYTES)
    columns = (spans.leaf, spans.cell, spans.file, spans.offset, spans.size)
    leaves: dict[int, list[Placed]] = {}
    cut: set[int] = set()
    for row, *numbers in zip(rows.tolist(), *(c[rows].tolist() for c in columns), strict=True):
        leaf, cell, file, offset, size = numbers
        there = leaves.setdefault(leaf, [])
        start = there[-1].start + there[-1].size if there else 0
        there.append(Placed(leaf, start, size, file, offset, spans.digests[row]))
        if cell:
            cut.add(leaf)
    whole = {leaf: there for leaf, there in leaves.items() if leaf not in cut}
    counts = np.bincount(spans.file, minlength=len(files)).tolist()
    return Base(directory, files, counts, whole, samples or {}, misses or {})


def read(run: Storage, directory: str) -> Base:
    """Return a checkpoint that another process saved.

    Args:
        run: the directory of the run.
        directory: that of the checkpoint, below.

    Raises:
        CheckpointError: it is not there, or its manifest or index is damaged.
    """

    def look(snapshot: Snapshot) -> Base:
        files = snapshot.manifest.files
        index, _ = decode_index(snapshot.index_parts, files, where=snapshot.storage.url)
        return base(directory, files, index.spans)

    return snapshots.read(run.child(directory), look)


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

    def __init__(self, keep_full_every: int, newest: Callable[[], Base | None]) -> None:
        if type(keep_full_every) is not int or keep_full_every < 1:
            raise StructureError(
                f"Manager: keep_full_every is {keep_full_every!r:.80}, expected an int, 1 or more",
                reason=Reason.BAD_ARGUMENT,
            )
        self.keep_full_every = keep_full_every
        self._newest: Callable[[], Base | None] | None = newest
        self._base: Base | None = None

    def base(self) -> Base | None:
        """Return the save before, or None where nothing may be taken over."""
        if self.keep_full_every == 1:
            return None
        newest, self._newest = self._newest, None
        if newest is not None:
            with contextlib.suppress(CheckpointError):
                self._base = newest()
        return self._base

    def distrust(self) -> None:
        """Let the next save write everything: one before it is damaged, and may share its files."""
        self._base = self._newest = None

    def saved(self, base: Base, before: Base | None) -> None:
        """Remember the save that was committed just now.

        Args:
            base: that save.
            before: what `base` gave when it began. If that is not trusted any more, nor is this.
        """
        if before is None or before is self._base:
            self._base, self._newest = base, None


def candidates(base: Base, leaf_nbytes: Sequence[int]) -> list[int]:
    """Return the leaves that may be as they were.

    That is what has a sample to compare, or, in another process than the one that saved it, what
    the base itself had taken over. What changes at each save is looked at ever less: a look may
    bring it from a device.
    """
    return [
        leaf
        for leaf, spans in base.leaves.items()
        if leaf < len(leaf_nbytes)
        and leaf_nbytes[leaf] == spans[-1].start + spans[-1].size
        and (leaf in base.samples or any(base.files[span.file].age for span in spans))
        and (base.misses.get(leaf, 0) < _LOOKS or base.misses[leaf] % _LOOK_EVERY == 0)
    ]


def is_unchanged(base: Base, leaf: int, host: Array) -> bool:
    """Tell whether a candidate holds the bytes that the base has of it; ends at the first others.

    Args:
        base: what `candidates` was given.
        leaf: its number.
        host: its bytes, flat uint8, of the size that the base has.
    """
    for span in base.leaves[leaf]:
        state = Hasher()
        for at in range(span.start, span.start + span.size, _PIECE_NBYTES):
            piece: Buffer = host[at : min(at + _PIECE_NBYTES, span.start + span.size)]
            state.update(piece)
        if state.digest() != span.digest:
            return False
    return True


def takeable(base: Base, unchanged: Collection[int], keep_full_every: int) -> list[int]:
    """Return the rows of the base's data files that a save may take over, 1024 at most.

    Args:
        base: what `candidates` was given.
        unchanged: the leaves that are as they were.
        keep_full_every: how many saves may share a file.
    """
    counts = [0] * len(base.files)
    for leaf in unchanged:
        for span in base.leaves[leaf]:
            counts[span.file] += 1
    rows = [
        row
        for row, file in enumerate(base.files)
        if 0 < counts[row] == base.counts[row] and file.age + 1 < keep_full_every
    ]
    largest = sorted(rows, key=lambda row: base.files[row].nbytes, reverse=True)
    return sorted(largest[:MAX_FILES])


def taken(base: Base, rows: Sequence[int]) -> list[Taken]:
    """Return what `plan` needs to know of the files in these rows."""
    spans: dict[int, list[Placed]] = {row: [] for row in rows}
    for there in base.leaves.values():
        for span in there:
            if span.file in spans:
                spans[span.file].append(span)
    return [Taken(base.files[row].nbytes, spans[row]) for row in rows]

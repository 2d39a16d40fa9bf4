"""The bytes of the leaves of one save, until they are written, and their order in data files."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptstore import concurrency
from ckptstore.digests import Buffer, Digest, Hasher, digest
from ckptstore.errors import CheckpointError, Reason, StructureError
from ckptstore.format import LARGE_NBYTES, Kind, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.progress import NOBODY, Progress
from ckptstore.saving import incremental
from ckptstore.saving.incremental import Previous
from ckptstore.saving.placement import Piece, Placement
from ckptstore.sharding import shape_of
from ckptstore.storage import Storage
from ckptstore.tree import LiveTree, paths
from ckptstore.types import Cell, Leaf, Refusal

_PIECE_NBYTES = 1 << 20
"""A piece is hashed and then written while it is still in the cache."""


@dataclass(frozen=True, slots=True)
class Share:
    """The pieces of a tree that one process writes.

    Attributes:
        sources: the cell of each piece, or the leaf that is not cut.
        nbytes: the size of each piece in bytes, in order.
        runs: for a piece that is a part of its source: its first byte there, and the bytes there.
    """

    sources: dict[Piece, Leaf | Cell]
    nbytes: dict[Piece, int]
    runs: dict[Piece, tuple[int, int]]


def whole_share(live: LiveTree, chosen: Collection[int] | None = None) -> Share:
    """Return all pieces of leaves that this process alone writes.

    Args:
        live: the tree.
        chosen: the numbers of the leaves; None: all.
    """
    sources: dict[Piece, Leaf | Cell] = {}
    nbytes: dict[Piece, int] = {}
    sizes = itemsizes(live)
    for number in range(len(live.leaves)) if chosen is None else chosen:
        leaf, itemsize = live.leaves[number], sizes[number]
        if leaf.grid is None:
            piece = (number, 0)
            nbytes[piece] = math.prod(leaf.shape) * itemsize
            sources[piece] = leaf
            continue
        for cell, (box, source) in enumerate(zip(leaf.grid, leaf.cells, strict=True)):
            piece = (number, cell)
            nbytes[piece] = math.prod(shape_of(box)) * itemsize
            sources[piece] = source
    return Share(sources, nbytes, {})


def itemsizes(live: LiveTree) -> list[int]:
    """Return the bytes of an element of each leaf."""
    sizes = [dtypes.item_nbytes(stored, where="save") for stored in live.dtypes]
    return [sizes[dtype] for dtype in live.leaf_dtype]


class Staging:
    """The bytes of the leaves of a tree, in their stored form and in pieces.

    A piece is one cell of a leaf. A leaf that is not cut is one piece.

    Args:
        live: the tree.
        share: the pieces that this process writes; None: all.
        progress: counts the bytes that are written.

    Attributes:
        progress: the argument.
        nbytes: the size of each piece in bytes, in order.
    """

    def __init__(
        self, live: LiveTree, share: Share | None = None, progress: Progress = NOBODY
    ) -> None:
        self.progress = progress
        share = whole_share(live) if share is None else share
        self._live = live
        self._kept: dict[Piece, Array] = {}
        self._sources, self.nbytes, self._runs = share.sources, share.nbytes, share.runs

    def is_fixed(self, piece: Piece) -> bool:
        """Return whether no other code can write to the bytes of a piece."""
        return piece in self._kept or self._live.leaves[piece[0]].fixed

    def read(self, piece: Piece) -> Array:
        """Return the bytes of a piece: flat uint8.

        Raises:
            StructureError: reason ``cannot-carry`` if a value cannot be stored, or the array was
                deleted or resized since the save began.
        """
        kept = self._kept.get(piece)
        return self._checked(piece, self._sources[piece].read) if kept is None else kept

    def fix(self) -> None:
        """Keep the bytes that all leaves hold now, so that the tree may change afterwards.

        Arrays on devices are copied to this host, all at once. Arrays that can be written to are
        copied. Other memory is viewed, which keeps XLA from reusing the memory of a donated array.
        The reference to the tree is dropped.

        Raises:
            StructureError: as for `read`.
        """
        reads = {
            piece: source.read if source.start is None else source.start()
            for piece, source in self._sources.items()
        }
        for piece in self._sources:
            host = self._checked(piece, reads.pop(piece))
            self._kept[piece] = host if self.is_fixed(piece) else host.copy()
        self._live.objects.clear()
        self._live.leaves.clear()
        self._sources.clear()

    def let_go(self) -> None:
        """Drop all bytes and views, since the frames of an error may keep this object alive."""
        self.progress.close()
        self._kept.clear()

    def _checked(self, piece: Piece, read: Callable[[], Array]) -> Array:
        nbytes = self.nbytes[piece]
        if not self._runs or piece not in self._runs:
            return read_checked(self._live, piece[0], read, nbytes)
        start, held = self._runs[piece]
        return read_checked(self._live, piece[0], read, held)[start : start + nbytes]


def read_checked(live: LiveTree, leaf: int, read: Callable[[], Array], nbytes: int) -> Array:
    """Return the bytes of a part of a leaf.

    Args:
        live: the tree.
        leaf: the number of the leaf.
        read: reads the part.
        nbytes: the number of its bytes when the save began.

    Raises:
        StructureError: reason ``cannot-carry``.
    """
    try:
        host = read()
    except (Refusal, dtypes.DtypeRefusal) as refusal:
        raise StructureError(
            f"{path_of(live, leaf)}: {refusal}", reason=Reason.CANNOT_CARRY
        ) from None
    if host.size != nbytes:
        raise StructureError(
            f"{path_of(live, leaf)}: found {host.size} bytes, but {nbytes} when the save began; do "
            "not resize an array while it is saved",
            reason=Reason.CANNOT_CARRY,
        )
    return host


def path_of(live: LiveTree, leaf: int) -> str:
    """Return the path of the node that holds a leaf."""
    rows = zip(live.kind, live.arg, strict=True)
    node = next(i for i, row in enumerate(rows) if row == (Kind.LEAF, leaf))
    return paths.path(live, node)


class _Stopped(CheckpointError):
    """Another file of this save failed."""


class Job:
    """The data files of one save, being written by several threads.

    Attributes:
        placement, staging: the arguments.
        samples: the argument, to which each large piece without a sample adds one.
        digests: the digests of all spans.
    """

    def __init__(
        self, placement: Placement, staging: Staging, samples: dict[Piece, Digest]
    ) -> None:
        self.placement = placement
        self.staging = staging
        self.samples = samples
        self.digests = [span.digest or bytes(16) for span in placement.spans]
        self.stop = threading.Event()

    def chunks(self, numbers: Sequence[int]) -> Iterator[Buffer]:
        """Yield the bytes of one data file in order, and count them once they are taken."""
        progress = self.staging.progress
        for chunk in self._chunks(numbers):
            yield chunk
            progress.add(memoryview(chunk).nbytes)

    def _chunks(self, numbers: Sequence[int]) -> Iterator[Buffer]:
        """Yield the bytes of one data file in order, hashing each span on the way.

        Small spans are gathered in one buffer. The host view of a large piece is dropped as soon as
        its last span of this file is done. Memory that other code could write to is copied piece
        by piece, so that the hashed bytes are the written ones.
        """
        slab, end, host = bytearray(), 0, np.zeros(0, np.uint8)
        held: Piece | None = None
        for number in numbers:
            if self.stop.is_set():
                raise _Stopped("another file of this save failed")
            span = self.placement.spans[number]
            slab += bytes(span.offset - end)
            end = span.offset + span.size
            if span.piece != held:
                del host
                held, host = span.piece, self.staging.read(span.piece)
                if host.size >= LARGE_NBYTES and held not in self.samples:
                    self.samples[held] = incremental.sample(host)
            fixed = self.staging.is_fixed(span.piece)
            if span.size < _PIECE_NBYTES:
                data: Buffer = host[span.start : span.start + span.size]
                data = data if fixed else data.tobytes()
                self.digests[number] = digest(data)
                slab += memoryview(data)
                if len(slab) >= _PIECE_NBYTES:
                    yield slab
                    slab = bytearray()
                continue
            if slab:
                yield slab
                slab = bytearray()
            state = Hasher()
            for at in range(span.start, span.start + span.size, _PIECE_NBYTES):
                piece: Buffer = host[at : min(at + _PIECE_NBYTES, span.start + span.size)]
                piece = piece if fixed else piece.copy()
                state.update(piece)
                yield piece
            self.digests[number] = state.digest()
        if slab:
            yield slab


def write_files(store: Storage, names: Sequence[str], job: Job) -> None:
    """Write the data files that are not taken over, in parallel."""

    def write(name: str, numbers: Sequence[int], nbytes: int) -> None:
        store.put(name, job.chunks(numbers), nbytes)

    def stop() -> None:
        job.stop.set()
        store.stop()

    placement = job.placement
    job.staging.progress.expect(sum(placement.file_nbytes[placement.taken :]))
    rows = zip(
        names[placement.taken : len(placement.file_nbytes)],
        placement.by_file(),
        placement.file_nbytes[placement.taken :],
        strict=True,
    )
    concurrency.run(write, rows, store.traffic.writes, name="ckptstore-write", stop=stop)


def link_files(store: Storage, previous: Previous, names: Mapping[int, str]) -> set[int]:
    """Link data files of the save before, in parallel; return the rows of those that are linked.

    Args:
        store: the place.
        previous: the save before.
        names: the new name of each file, by its row there.
    """
    linked = set[int]()
    origin = store.parent()[0].child(previous.directory)

    def link(row: int, name: str) -> None:
        file = previous.files[row]
        if store.link(name, origin, file.name, file.nbytes):
            linked.add(row)

    concurrency.run(
        link, names.items(), store.traffic.writes, name="ckptstore-link", stop=store.stop
    )
    return linked

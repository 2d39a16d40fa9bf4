"""The bytes of the leaves of one save, until they are written, and their order in data files."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ckptstore.digests import Buffer, Digest, Hasher, digest
from ckptstore.errors import CheckpointError, Reason, StructureError
from ckptstore.format import LARGE_NBYTES, Kind, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.saving import incremental
from ckptstore.saving.placement import Piece, Placement
from ckptstore.sharding import shape_of
from ckptstore.tree import LiveTree, paths
from ckptstore.types import Cell, Leaf, Refusal

_PIECE_NBYTES = 1 << 20
"""A piece is hashed and then written while it is still in the cache."""


class Staging:
    """The bytes of the leaves of a tree, in their stored form and in pieces.

    A piece is one cell of a leaf. A leaf that is not cut is one piece.

    Attributes:
        nbytes: the size of each piece in bytes, in order.
    """

    def __init__(self, live: LiveTree) -> None:
        self._live = live
        self._kept: dict[Piece, Array] = {}
        self._sources: dict[Piece, Leaf | Cell] = {}
        self.nbytes: dict[Piece, int] = {}
        itemsize = [dtypes.item_nbytes(stored, where="save") for stored in live.dtypes]
        for number, (leaf, dtype) in enumerate(zip(live.leaves, live.leaf_dtype, strict=True)):
            if leaf.grid is None:
                piece = (number, 0)
                self.nbytes[piece] = math.prod(leaf.shape) * itemsize[dtype]
                self._sources[piece] = leaf
                continue
            for cell, (box, source) in enumerate(zip(leaf.grid, leaf.cells, strict=True)):
                piece = (number, cell)
                self.nbytes[piece] = math.prod(shape_of(box)) * itemsize[dtype]
                self._sources[piece] = source

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
        self._kept.clear()

    def _checked(self, piece: Piece, read: Callable[[], Array]) -> Array:
        try:
            host = read()
        except (Refusal, dtypes.DtypeRefusal) as refusal:
            raise StructureError(
                f"{self._path(piece)}: {refusal}", reason=Reason.CANNOT_CARRY
            ) from None
        if host.size != self.nbytes[piece]:
            raise StructureError(
                f"{self._path(piece)}: found {host.size} bytes, but {self.nbytes[piece]} when the "
                "save began; do not resize an array while it is saved",
                reason=Reason.CANNOT_CARRY,
            )
        return host

    def _path(self, piece: Piece) -> str:
        rows = zip(self._live.kind, self._live.arg, strict=True)
        node = next(i for i, row in enumerate(rows) if row == (Kind.LEAF, piece[0]))
        return paths.path(self._live, node)


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

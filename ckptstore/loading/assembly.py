"""The memory of one leaf while its spans come in: a buffer for each box that is wanted of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ckptstore.format.dtypes import Array
from ckptstore.sharding import Box, Grid, offset_of, overlap, runs, shape_of, slices, whole


class Parts:
    """The cells that a leaf is stored in and the boxes that are wanted of it, counted in bytes.

    Args:
        grid: the cells.
        itemsize: the bytes of an element.
        wanted: the boxes; None: the whole.
    """

    def __init__(self, grid: Grid, itemsize: int, wanted: Sequence[Box] | None = None) -> None:
        wanted = [whole(grid.shape)] if wanted is None else wanted
        self.boxes = [_in_bytes(box, itemsize) for box in wanted]
        self._grid, self._itemsize = grid, itemsize
        self._near: dict[int, list[tuple[int, Box]]] = {}
        for number, (box, in_bytes) in enumerate(zip(wanted, self.boxes, strict=True)):
            for cell in grid.within(box):
                self._near.setdefault(cell, []).append((number, in_bytes))

    def cell(self, number: int) -> Box:
        """Return the box of a cell."""
        return _in_bytes(self._grid.cell(number), self._itemsize)

    def wants(self, cell: int, start: int, size: int) -> bool:
        """Return whether a span holds a byte of a wanted box.

        Args:
            cell: the cell of the span.
            start: its first byte in the cell.
            size: its number of bytes.
        """
        near = self._near.get(cell)
        return near is not None and any(
            overlap(run, box) is not None
            for run in runs(self.cell(cell), start, start + size)
            for _, box in near
        )

    def near(self, cell: int) -> list[tuple[int, Box]]:
        """Return the wanted boxes that overlap a cell, with their numbers."""
        return self._near.get(cell, [])


def _in_bytes(box: Box, itemsize: int) -> Box:
    """Return a box of bytes: an element is a run of them in the last axis."""
    *outer, (start, stop) = box or ((0, 1),)
    return (*outer, (start * itemsize, stop * itemsize))


class Assembly:
    """The memory of the wanted boxes of a leaf.

    Attributes:
        buffers: the bytes of each box, flat uint8, on a boundary of 64 bytes.
        missing: the number of their bytes that have not come in yet.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.buffers = [_aligned(math.prod(shape_of(box))) for box in parts.boxes]
        self.missing = sum(buffer.size for buffer in self.buffers)

    def memory(self, cell: int, start: int, size: int) -> Array | None:
        """Return the memory into which a span is read, or None if its bytes are to be spread."""
        found = self._parts.near(cell)
        if len(found) != 1:
            return None
        ((number, box),) = found
        offset = offset_of(self._parts.cell(cell), box)
        return None if offset is None else self.buffers[number][offset + start :][:size]

    def spread(self, cell: int, start: int, data: Array) -> None:
        """Copy the bytes of a span to the boxes that want them."""
        for run in runs(self._parts.cell(cell), start, start + data.size):
            size = math.prod(shape_of(run))
            piece, data = data[:size].reshape(shape_of(run)), data[size:]
            for number, box in self._parts.near(cell):
                if (shared := overlap(run, box)) is None:
                    continue
                target = self.buffers[number].reshape(shape_of(box))
                target[slices(shared, box)] = piece[slices(shared, run)]
                self.missing -= math.prod(shape_of(shared))


def _aligned(nbytes: int) -> Array:
    """Return memory on a boundary of 64 bytes, which XLA can take over without a copy."""
    memory = np.empty(nbytes + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + nbytes]

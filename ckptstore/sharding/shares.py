"""The shares of several processes: the cells that each of them writes.

Each process computes the shares of all, from the same grids, and so agrees with the others without
a word. Spec: section 7.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptstore.sharding.boxes import Box, shape_of
from ckptstore.sharding.grid import Grid, grid_of

Holders = tuple[int, ...]
"""The numbers of the processes that hold a cell, in rising order."""


@dataclass(frozen=True, slots=True)
class Held:
    """An array that several processes hold.

    Attributes:
        grid: its cells.
        holders: the processes that hold each cell.
        itemsize: the bytes of an element.
    """

    grid: Grid
    holders: tuple[Holders, ...]
    itemsize: int


@dataclass(frozen=True, slots=True)
class Shared:
    """The division of an array among the processes.

    Attributes:
        grid: its cells. A grid of one cell may be cut further along one axis.
        writers: the process that writes each cell.
    """

    grid: Grid
    writers: Sequence[int]


def share_out(arrays: Sequence[Held], least: int) -> list[Shared]:
    """Return the division of arrays, in which processes that hold the same bytes write as many.

    The cells that the same processes hold are laid in a row. The row is cut into equal parts, one
    for each of them, or fewer of `least` bytes: who reads many small arrays then finds them in few
    files. Where a cut falls into an array of one cell, the array is cut there, along its
    first axis that is longer than 1. Another cell goes to the process in whose part its middle is.

    Args:
        arrays: the arrays, in an order that is the same in all processes.
        least: the least number of bytes of a part, and of a piece of an array that is cut.

    Example:
        >>> both = Held(Grid.uncut((8,)), ((0, 1),), 1)
        >>> share_out([both], least=1)
        [Shared(grid=Grid(shape=(8,), cuts=((4,),)), writers=[0, 1])]
        >>> share_out([both, both], least=8)[1].writers
        [1]
    """
    totals = collections.Counter[Holders]()
    for array, count in collections.Counter(arrays).items():  # most layers are alike
        for nbytes, held in zip(_sizes(array.grid, array.itemsize), array.holders, strict=True):
            totals[held] += nbytes * count
    rows = {holders: _Row(holders, nbytes, least) for holders, nbytes in totals.items()}
    out = []
    for array in arrays:
        if (alone := _only_holders(array.holders)) is not None:
            out.append(Shared(array.grid, alone))
        elif len(array.holders) == 1:
            out.append(_cut(array, rows[array.holders[0]], least))
        else:
            sizes = _sizes(array.grid, array.itemsize)
            cells = zip(sizes, array.holders, strict=True)
            out.append(Shared(array.grid, [rows[held].next(nbytes) for nbytes, held in cells]))
    return out


class _Row:
    """The cells that the same processes hold, in a row."""

    def __init__(self, holders: Holders, nbytes: int, least: int) -> None:
        count = min(len(holders), max(nbytes // least, 1))
        self.holders = [holders[n * len(holders) // count] for n in range(count)]
        self.nbytes = max(nbytes, 1)
        self.at = 0

    def next(self, nbytes: int) -> int:
        """Return the process in whose part the middle of the next cell is."""
        part = (2 * self.at + nbytes) * len(self.holders) // (2 * self.nbytes)
        self.at += nbytes
        return self.holders[min(part, len(self.holders) - 1)]

    def cuts(self, nbytes: int) -> list[float]:
        """Return the cuts inside the next `nbytes` bytes, from their beginning."""
        part = self.nbytes / len(self.holders)
        first, last = math.floor(self.at / part) + 1, math.ceil((self.at + nbytes) / part) - 1
        return [number * part - self.at for number in range(first, last + 1)]


def _cut(array: Held, row: _Row, least: int) -> Shared:
    shape = array.grid.shape
    nbytes = math.prod(shape) * array.itemsize
    axis = next((axis for axis, length in enumerate(shape) if length > 1), None)
    if axis is None or nbytes < 2 * least:
        return Shared(array.grid, [row.next(nbytes)])
    length = shape[axis]
    inner = nbytes // length
    kept = [0]
    for cut in row.cuts(nbytes):
        at = round(cut / inner)
        if (at - kept[-1]) * inner >= least and (length - at) * inner >= least:
            kept.append(at)
    cuts = tuple(tuple(kept[1:]) if a == axis else () for a in range(len(shape)))
    ends = [*kept[1:], length]
    sizes = [(end - start) * inner for start, end in zip(kept, ends, strict=True)]
    return Shared(Grid(shape, cuts), [row.next(size) for size in sizes])


def held_cells(
    shape: Sequence[int], parts: Mapping[Box, Iterable[int]], itemsize: int, least: int
) -> tuple[Grid, tuple[Holders, ...]]:
    """Return the cells of an array that lies in several processes, and the holders of each.

    If the cells are smaller than `least` on average, those that the same processes hold are joined.

    Args:
        shape: the shape of the array.
        parts: its parts, which are the cells of a grid, each with the processes that hold it.
        itemsize: the bytes of an element.
        least: the wanted number of bytes of a cell.

    Example:
        >>> held_cells((4,), {((0, 2),): {0}, ((2, 4),): {1, 0}}, 1, 1)
        (Grid(shape=(4,), cuts=((2,),)), ((0,), (0, 1)))
    """
    grid = grid_of(shape, parts)
    if len(grid) == 1:
        known = [held for box, held in parts.items() if 0 not in shape_of(box)] or parts.values()
        return grid, (tuple(sorted(set[int]().union(*known))),)
    holders = tuple(tuple(sorted(parts[cell])) for cell in grid)
    if math.prod(shape) * itemsize < len(grid) * least:
        return joined_alike(grid, holders)
    return grid, holders


def joined_alike(grid: Grid, holders: Sequence[Holders]) -> tuple[Grid, tuple[Holders, ...]]:
    """Return a grid without the cuts on whose two sides the holders are always the same.

    Args:
        grid: the grid.
        holders: the processes that hold each cell.

    Example:
        >>> joined_alike(Grid((8,), ((2, 4, 6),)), [(0,), (0,), (1,), (1,)])
        (Grid(shape=(8,), cuts=((4,),)), ((0,), (1,)))
    """
    numbers: dict[Holders, int] = {}
    table = np.array([numbers.setdefault(held, len(numbers)) for held in holders])
    table = table.reshape([len(cuts) + 1 for cuts in grid.cuts])
    kept = []
    for axis, cuts in enumerate(grid.cuts):
        along = np.moveaxis(table, axis, 0)
        differs = [bool((along[i] != along[i + 1]).any()) for i in range(len(cuts))]
        kept.append(tuple(cut for cut, keep in zip(cuts, differs, strict=True) if keep))
        table = np.take(table, [0, *(i + 1 for i, keep in enumerate(differs) if keep)], axis)
    known = list(numbers)
    return Grid(grid.shape, tuple(kept)), tuple(known[number] for number in table.flat)


@functools.lru_cache(1024)
def _only_holders(holders: tuple[Holders, ...]) -> Sequence[int] | None:
    """Return the holder of each cell, if each has only one."""
    if any(len(held) != 1 for held in holders):
        return None
    return [held[0] for held in holders]


@functools.lru_cache(1024)
def _sizes(grid: Grid, itemsize: int) -> Sequence[int]:
    """Return the number of bytes of each cell."""
    return [_nbytes(box, itemsize) for box in grid]


def _nbytes(box: Box, itemsize: int) -> int:
    return math.prod(shape_of(box)) * itemsize

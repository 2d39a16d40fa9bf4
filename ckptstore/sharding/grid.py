"""`Grid`, the cells that an array is cut into. Spec: section 5.4."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ckptstore.sharding.boxes import Box


@dataclass(frozen=True, slots=True)
class Grid:
    """The division of an array by cuts along its axes.

    Attributes:
        shape: the shape of the array.
        cuts: the inner cuts along each axis, in rising order.

    Example:
        >>> grid = Grid((4, 6), ((2,), (3,)))
        >>> len(grid), list(grid)[1]
        (4, ((0, 2), (3, 6)))
    """

    shape: tuple[int, ...]
    cuts: tuple[tuple[int, ...], ...]

    @classmethod
    def uncut(cls, shape: Sequence[int]) -> Grid:
        """Return the grid of one cell."""
        return cls(tuple(shape), ((),) * len(shape))

    def __len__(self) -> int:
        return math.prod(len(cuts) + 1 for cuts in self.cuts)

    def cell(self, number: int) -> Box:
        """Return the box of one cell.

        Example:
            >>> Grid((4, 6), ((2,), (3,))).cell(1)
            ((0, 2), (3, 6))
        """
        box: list[tuple[int, int]] = []
        for length, cuts in zip(reversed(self.shape), reversed(self.cuts), strict=True):
            number, at = divmod(number, len(cuts) + 1)
            box.append((cuts[at - 1] if at else 0, cuts[at] if at < len(cuts) else length))
        return tuple(reversed(box))

    def within(self, box: Box) -> list[int]:
        """Return the numbers of the cells that share an element with a box, in order.

        Example:
            >>> Grid((4, 6), ((2,), (3,))).within(((1, 2), (0, 6)))
            [0, 1]
        """
        numbers = [0]
        for cuts, (start, stop) in zip(self.cuts, box, strict=True):
            if start >= stop:
                return []
            along = range(bisect.bisect_right(cuts, start), bisect.bisect_left(cuts, stop) + 1)
            numbers = [number * (len(cuts) + 1) + at for number in numbers for at in along]
        return numbers

    def __iter__(self) -> Iterator[Box]:
        """Yield the box of each cell in the order of their numbers: the last axis fastest."""
        bounds = [
            itertools.pairwise((0, *cuts, length))
            for length, cuts in zip(self.shape, self.cuts, strict=True)
        ]
        yield from itertools.product(*bounds)


def grid_of(shape: Sequence[int], boxes: Iterable[Box]) -> Grid:
    """Return the coarsest grid of which each box is a union of cells.

    Args:
        shape: the shape of the array. If it has no elements, it is not cut.
        boxes: the parts of it.

    Example:
        >>> grid_of((4, 6), [((0, 4), (0, 3)), ((0, 4), (3, 6))]).cuts
        ((), (3,))
    """
    if 0 in shape:
        return Grid.uncut(shape)
    points: list[set[int]] = [set() for _ in shape]
    for box in boxes:
        for known, (start, stop) in zip(points, box, strict=True):
            known |= {start, stop}
    return Grid(
        tuple(shape),
        tuple(
            tuple(sorted(known - {0, length})) for known, length in zip(points, shape, strict=True)
        ),
    )


def joined(grid: Grid, itemsize: int, least: int) -> Grid:
    """Return a grid with fewer cuts, whose cells have `least` bytes or more on average.

    Cuts are dropped from the last axis on, so that the cells that are left are long in the order of
    the elements.

    Args:
        grid: the grid.
        itemsize: the bytes of an element.
        least: the wanted number of bytes.

    Example:
        >>> joined(Grid((8, 4), ((2, 4, 6), (2,))), 1, 16).cuts
        ((4,), ())
    """
    cuts = list(grid.cuts)
    for axis in range(len(cuts) - 1, -1, -1):
        cells = math.prod(len(inner) + 1 for inner in cuts)
        factor = -(-least * cells // max(math.prod(grid.shape) * itemsize, 1))
        if factor <= 1:
            break
        kept = max((len(cuts[axis]) + 1) // factor, 1)  # the last cell takes the rest
        cuts[axis] = cuts[axis][factor - 1 :: factor][: kept - 1]
    return Grid(grid.shape, tuple(cuts))

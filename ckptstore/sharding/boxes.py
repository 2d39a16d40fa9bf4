"""`Box`, a rectangular part of an array, and the boxes that a run of its bytes fills."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

Box = tuple[tuple[int, int], ...]
"""The start and the stop of a part along each axis of an array."""


def whole(shape: Sequence[int]) -> Box:
    """Return the box of a whole array.

    Example:
        >>> whole((2, 3))
        ((0, 2), (0, 3))
    """
    return tuple((0, length) for length in shape)


def shape_of(box: Box) -> tuple[int, ...]:
    """Return the number of elements along each axis.

    Example:
        >>> shape_of(((2, 4), (0, 3)))
        (2, 3)
    """
    return tuple(stop - start for start, stop in box)


def slices(box: Box, origin: Box | None = None) -> tuple[slice, ...]:
    """Return the index of a box in its array, or in another box that holds it.

    Example:
        >>> slices(((2, 4),)), slices(((2, 4),), ((1, 6),))
        ((slice(2, 4, None),), (slice(1, 3, None),))
    """
    if origin is None:
        return tuple(slice(start, stop) for start, stop in box)
    return tuple(
        slice(start - first, stop - first)
        for (start, stop), (first, _) in zip(box, origin, strict=True)
    )


def overlap(one: Box, other: Box) -> Box | None:
    """Return the box that two boxes of one array share, or None.

    Example:
        >>> overlap(((0, 4), (0, 2)), ((2, 6), (1, 3)))
        ((2, 4), (1, 2))
        >>> overlap(((0, 4),), ((4, 6),)) is None
        True
    """
    out = []
    for (start, stop), (first, last) in zip(one, other, strict=True):
        if (low := max(start, first)) >= (high := min(stop, last)):
            return None
        out.append((low, high))
    return tuple(out)


def offset_of(part: Box, box: Box) -> int | None:
    """Return the number of elements before a part of a box, in C order, if it is one run of them.

    Args:
        part: the part.
        box: the box, which may not hold the whole part.

    Example:
        >>> offset_of(((2, 4), (0, 3)), ((0, 4), (0, 3)))
        6
        >>> offset_of(((2, 4), (0, 2)), ((0, 4), (0, 3))) is None
        True
    """
    offset, size, is_run = 0, 1, True
    for (start, stop), (first, last) in zip(reversed(part), reversed(box), strict=True):
        if not first <= start <= stop <= last or not (is_run or stop - start == 1):
            return None
        is_run = is_run and (start, stop) == (first, last)
        offset += (start - first) * size
        size *= last - first
    return offset


def runs(box: Box, start: int, stop: int) -> Iterator[Box]:
    """Yield the boxes that the elements `start` to `stop` of a box fill, in C order.

    The boxes come in that order, too, and there are at most two for each axis, and one.

    Args:
        box: a box with at least one element.
        start: the number of the first element.
        stop: the number after the last element.

    Example:
        >>> list(runs(((0, 4), (0, 10)), 7, 25))
        [((0, 1), (7, 10)), ((1, 2), (0, 10)), ((2, 3), (0, 5))]
    """
    if start >= stop:
        return
    if not box:
        yield ()
        return
    (first, _), inner = box[0], box[1:]
    size = math.prod(shape_of(inner))
    low, high = -(-start // size), stop // size
    if low > high:  # within one row
        row = start // size
        head: Box = ((first + row, first + row + 1),)
        yield from (head + part for part in runs(inner, start - row * size, stop - row * size))
        return
    if start < low * size:
        head = ((first + low - 1, first + low),)
        yield from (head + part for part in runs(inner, start - (low - 1) * size, size))
    if low < high:
        yield ((first + low, first + high), *inner)
    if high * size < stop:
        head = ((first + high, first + high + 1),)
        yield from (head + part for part in runs(inner, 0, stop - high * size))

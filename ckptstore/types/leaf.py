"""`Leaf`, an array on its way to a file, its cells, and the refusal of one that cannot be saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore.format import TypeRow
from ckptstore.format.dtypes import Array, Stored
from ckptstore.sharding import Grid, Holders


class Refusal(Exception):
    """The reason why an object cannot be saved, and the remedy; `save` adds the path.

    Example:
        >>> raise Refusal("this Ring is locked; call unlock() before the save")
        Traceback (most recent call last):
        ...
        ckptstore.types.leaf.Refusal: this Ring is locked; call unlock() before the save
    """


def repeated_nbytes(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> int | None:
    """Return the bytes of memory that an array takes, if it repeats elements; None otherwise."""
    if 0 not in strides:
        return None
    axes = zip(shape, strides, strict=True)
    return itemsize * math.prod(length for length, stride in axes if stride)


@dataclass(frozen=True, slots=True)
class Cell:
    """The bytes of one cell of an array that is cut.

    Attributes:
        read: returns the stored bytes of the cell, flat uint8, as `Leaf.read` does.
        start: as `Leaf.start`.

    Example:
        >>> import numpy
        >>> from ckptstore.adapters import Cell, to_bytes
        >>> x = numpy.arange(6.0).reshape(2, 3)
        >>> len(Cell(lambda: to_bytes(x[:1])).read())
        24
    """

    read: Callable[[], Array]
    start: Callable[[], Callable[[], Array]] | None = None


@dataclass(slots=True)  # one a leaf or span; frozen, it would take twice the time to make
class Leaf:
    """An array on its way to a file.

    Attributes:
        row: the type of the array, of kind ``array``; `row.extra` belongs to its adapter.
        dtype: the stored dtype.
        shape: the stored shape.
        read: returns the stored bytes, flat uint8, when they must be written; raises Refusal.
        fixed: whether no other code can write to those bytes.
        start: begins to copy the bytes to this host, if that takes time, and returns the `read`
            that waits for them.
        memory: equal for arrays of one type that are the same view of the same memory: these are
            stored once and come back as one object. None if only identity counts.
        memory_nbytes: the bytes of memory that the elements take, if they are fewer than the stored
            ones, because the array repeats them; else None.
        grid: the cells that the array is written in, if it lies on several devices; None: one cell.
        cells: the bytes of each cell of `grid`, in the order of their numbers. Only the cells that
            this process holds can be read.
        holders: if the array lies in several processes: the processes that hold each cell of
            `grid`. None: it lies in this process alone; other processes may have arrays of their
            own in its place.
        is_near: whether `read` copies nothing from a device.

    Example:
        >>> import numpy
        >>> from ckptstore.adapters import Leaf, TypeKind, TypeRow, describe_dtype, to_bytes
        >>> x = numpy.arange(6.0).reshape(2, 3)
        >>> row = TypeRow(TypeKind.ARRAY, "signals", "Signal", package="signals")
        >>> leaf = Leaf(row, describe_dtype(x.dtype), x.shape, lambda: to_bytes(x))
        >>> leaf.shape, len(leaf.read())
        ((2, 3), 48)
    """

    row: TypeRow
    dtype: Stored
    shape: tuple[int, ...]
    read: Callable[[], Array]
    fixed: bool = False
    start: Callable[[], Callable[[], Array]] | None = None
    memory: Any = None
    memory_nbytes: int | None = None
    grid: Grid | None = None
    cells: Sequence[Cell] = ()
    holders: tuple[Holders, ...] | None = None
    is_near: bool = True

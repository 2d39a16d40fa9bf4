"""`Piece`, a verified run of the elements of a stored array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.format import array_bytes, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.loading.stream import PIECE_NBYTES
from ckptstore.reading.nodes import ArrayNode
from ckptstore.reading.view import View
from ckptstore.sharding import Box


@dataclass(slots=True)  # one a span; frozen, it would take twice the time to make
class Piece:
    """A verified run of the elements of an array, of at most 16 MiB.

    Attributes:
        array: the array.
        box: the cell that holds the elements, by its start and stop along each axis.
        start: the number of the first element within the cell, in C order.
        values: the elements: a flat array.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = ckptstore.save("ckpt", {"w": np.arange(6).reshape(2, 3)})
        >>> with ckptstore.open_checkpoint("ckpt") as reader:
        ...     [piece] = reader.pieces()
        >>> piece.array.short, piece.box, piece.start, piece.values
        ('w', ((0, 2), (0, 3)), 0, array([0, 1, 2, 3, 4, 5]))

    Source: docs/looking.md.
    """

    array: ArrayNode
    box: Box
    start: int
    values: Array


def pieces_of(view: View, arrays: Mapping[int, ArrayNode]) -> Iterator[Piece]:
    """Yield the pieces of arrays, in the order of the files.

    Args:
        view: the checkpoint.
        arrays: each array, by the number of its leaf.
    """
    spans = view.tree.index.spans
    sizes = view.itemsizes[spans.leaf]
    broken = {*spans.leaf[spans.size % np.maximum(sizes, 1) != 0].tolist()} & {*arrays}
    whole = [leaf for leaf in arrays if leaf not in broken and view.itemsizes[leaf]]
    boxes: dict[int, list[Box]] = {}
    kinds: dict[str, np.dtype[Any]] = {}
    for run in view.stream(whole):
        array = arrays[run.leaf]
        if run.leaf not in boxes:
            boxes[run.leaf] = list(view.grid(run.leaf))
        if array.dtype not in kinds:
            kinds[array.dtype] = dtypes.resolve(view.tree.leaf(run.leaf)[1], where=view.url)
        dtype = kinds[array.dtype]
        size = dtype.itemsize
        where = f"{view.url}: {array.path}"
        values = array_bytes.from_bytes(run.data, dtype, (run.data.size // size,), where=where)
        yield Piece(array, boxes[run.leaf][run.cell], run.start // size, values)
    for leaf in sorted(broken):  # of another writer, whose spans end inside of an element
        yield from _joined(view, arrays[leaf])


def _joined(view: View, array: ArrayNode) -> Iterator[Piece]:
    values = array.read().reshape(-1)
    count = max(PIECE_NBYTES // values.dtype.itemsize, 1)
    box = tuple((0, length) for length in array.shape)
    for start in range(0, values.size, count):
        yield Piece(array, box, start, values[start : start + count])

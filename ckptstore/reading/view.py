"""The decoded tables of one open checkpoint, and the reads of its arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ckptstore.checkpoint import Snapshot, unchanged
from ckptstore.errors import Reason, StructureError
from ckptstore.format import Integers, Kind, array_bytes, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.loading import fetch, stream
from ckptstore.loading.stream import Bytes
from ckptstore.sharding import Box, Grid, shape_of
from ckptstore.tree import StoredTree


class View:
    """One committed attempt, decoded once.

    Args:
        snapshot: the checkpoint.

    Attributes:
        url: its place.
        tree: its nodes.
        nbytes: the bytes of each leaf.
        itemsizes: the bytes of an element of each leaf.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.url = snapshot.storage.url
        self.is_open = True
        self._snapshot = snapshot
        with unchanged(snapshot):
            self.tree: StoredTree = fetch.with_keys(snapshot, snapshot.tree())
        index = self.tree.index
        count = len(index.leaves)
        self.nbytes = np.zeros(count, np.int64)
        np.add.at(self.nbytes, index.spans.leaf, index.spans.size)
        sizes = [dtypes.item_nbytes(stored, where=self.url) for stored in index.dtypes]
        self.itemsizes = np.array([*sizes, 0], np.int64)[index.leaves.dtype]

    def elements(self, leaf: int) -> int:
        """Return the number of elements of a leaf."""
        size = int(self.itemsizes[leaf])
        return int(self.nbytes[leaf]) // size if size else math.prod(self.tree.index.shape(leaf))

    @functools.cached_property
    def _sums(self) -> tuple[Integers, Integers, Integers]:
        """The number of arrays, of their elements and of their bytes before each node."""
        tree = self.tree
        rows = np.zeros((3, len(tree.kind) + 1), np.int64)
        for node, (kind, arg) in enumerate(zip(tree.kind, tree.arg, strict=True)):
            if kind == Kind.LEAF:
                rows[:, node + 1] = 1, self.elements(arg), self.nbytes[arg]
        arrays, elements, nbytes = np.cumsum(rows, axis=1)
        return arrays, elements, nbytes

    def sums(self, node: int) -> tuple[int, int, int]:
        """Return the number of arrays at a node and below it, of their elements and bytes."""
        end = self.tree.layout.end[node]
        arrays, elements, nbytes = (int(column[end] - column[node]) for column in self._sums)
        return arrays, elements, nbytes

    @functools.cached_property
    def _grids(self) -> Mapping[int, Grid]:
        return fetch.grids_of(self.tree.index)

    def grid(self, leaf: int) -> Grid:
        """Return the cells of a leaf."""
        return self._grids.get(leaf) or Grid.uncut(self.tree.index.shape(leaf))

    def scalar(self, node: int) -> Any:
        """Return the value of a scalar; a long one is read."""
        leaf = self.tree.long_scalars.get(node)
        data = None if leaf is None else self._fetch({leaf: bytes})[leaf]
        return self.tree.scalar(node, data)

    def array(self, leaf: int, box: Box | None = None) -> Array:
        """Return an array, or a box of it; only the spans that hold the box are read."""
        if box is None:
            return self.arrays([leaf])[leaf]
        _, stored, _ = self.tree.leaf(leaf)
        dtype, shape = dtypes.resolve(stored, where=self.url), shape_of(box)
        if 0 in shape or not dtype.itemsize:
            return np.zeros(shape, dtype)
        found = self._fetch({leaf: lambda parts: self._made(leaf, parts[0], shape)}, {leaf: [box]})
        part: Array = found[leaf]
        return part

    def arrays(self, leaves: Collection[int]) -> dict[int, Array]:
        """Return whole arrays, which are read together."""
        return self._fetch({leaf: functools.partial(self._made, leaf) for leaf in leaves})

    def _made(self, leaf: int, data: Array, shape: tuple[int, ...] | None = None) -> Array:
        _, stored, whole = self.tree.leaf(leaf)
        dtype = dtypes.resolve(stored, where=self.url)
        where = f"{self.url}: {self.tree.leaf_path(leaf)}"
        return array_bytes.from_bytes(data, dtype, whole if shape is None else shape, where=where)

    def _fetch(
        self,
        makers: Mapping[int, Callable[[Any], Any]],
        boxes: Mapping[int, Sequence[Box]] | None = None,
    ) -> dict[int, Any]:
        self.check_open()
        with unchanged(self._snapshot):
            return dict(fetch.fetch(self._snapshot, self.tree, makers, boxes or {}))

    def stream(self, leaves: Collection[int]) -> Iterator[Bytes]:
        """Yield the verified bytes of leaves, in the order of the files."""
        self.check_open()
        with unchanged(self._snapshot):
            yield from stream.stream(self._snapshot, self.tree, leaves)

    def check_open(self) -> None:
        """Raise StructureError if the reader is closed."""
        if not self.is_open:
            raise StructureError(
                f"{self.url}: the reader is closed; read inside its with block",
                reason=Reason.BAD_ARGUMENT,
            )

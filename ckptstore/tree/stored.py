"""The tree of a checkpoint as a table of nodes. Spec: sections 5.2 and 5.3.

`unflattening.py` builds the objects.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ckptstore.errors import CorruptError
from ckptstore.format import (
    DICT_KINDS,
    File,
    Index,
    Integers,
    Kind,
    Layout,
    TypeRow,
    decode_index,
    dtypes,
)
from ckptstore.format.dtypes import Stored
from ckptstore.tree import keys, paths, scalars
from ckptstore.tree.nodes import NodeTable


class StoredTree(NodeTable):
    """The nodes of a checkpoint.

    Attributes:
        index: the decoded index.
        long_keys: the bytes of the long scalars in dict keys, by leaf, once they have been read.
    """

    def __init__(self, index: Index, layout: Layout, where: str) -> None:
        nodes = index.nodes
        self.index = index
        self.layout = layout
        self.where = where
        self.types: Sequence[TypeRow] = index.types
        self.kind: list[int] = nodes.kind.tolist()
        self.arity: list[int] = nodes.arity.tolist()
        self.type: list[int] = nodes.type.tolist()
        self.arg: list[int] = nodes.arg.tolist()
        self.long_keys: Mapping[int, bytes] = {}
        self._heap = nodes.heap
        self._heap_at = [0, *itertools.accumulate(nodes.size.tolist())]
        self._dtypes: dict[int, np.dtype[Any]] = {}

    @classmethod
    def decode(cls, parts: Sequence[bytes], files: Sequence[File], *, where: str) -> Self:
        """Decode and check an index.

        Args:
            parts: the inline index, if any, then the index files in the order of the table of
                files.
            files: the table of files.
            where: the checkpoint, for messages.

        Raises:
            CorruptError: with the reason of the first check that fails.
        """
        return cls(*decode_index(parts, files, where=where), where)

    def with_keys(self, long_keys: Mapping[int, bytes]) -> Self:
        """Return this tree with the bytes of its `key_leaves`."""
        view = copy.copy(self)
        view.long_keys = long_keys
        return view

    def with_types(self, types: Sequence[TypeRow]) -> Self:
        """Return this tree with another table of types."""
        view = copy.copy(self)
        view.types = types
        return view

    def data(self, node: int) -> bytes:
        """Return the bytes of a node in the heap, which has none of a long scalar."""
        return self._heap[self._heap_at[node] : self._heap_at[node + 1]]

    def scalar(self, node: int, data: bytes | None = None) -> Any:
        """Return the scalar at a node.

        Args:
            node: the node of a scalar.
            data: the bytes of a long one, from its leaf.

        Raises:
            CorruptError: reason ``bad-scalar``.
        """
        return scalars.decode(self, node, self.data(node) if data is None else data)

    def leaf(self, number: int) -> tuple[TypeRow, Stored, tuple[int, ...]]:
        """Return the type, dtype and shape of a leaf."""
        index, leaves = self.index, self.index.leaves
        row = index.types[int(leaves.type[number]) - 1]
        return row, index.dtypes[int(leaves.dtype[number])], index.shape(number)

    def dtype(self, number: int) -> np.dtype[Any]:
        """Return a dtype of the table; each is made only once."""
        if number not in self._dtypes:
            self._dtypes[number] = dtypes.resolve(self.index.dtypes[number], where=self.where)
        return self._dtypes[number]

    @functools.cached_property
    def _by_leaf(self) -> tuple[Integers, Integers]:
        """The spans by leaf and cell, and where those of each leaf begin."""
        spans = self.index.spans
        order = np.lexsort((spans.cell, spans.leaf))
        leaves = np.arange(len(self.index.leaves) + 1)
        return order, np.searchsorted(spans.leaf[order], leaves)

    def spans(self, leaf: int) -> list[int]:
        """Return the rows of the spans of a leaf, by cell, and in a cell in their order."""
        order, starts = self._by_leaf
        rows: list[int] = order[starts[leaf] : starts[leaf + 1]].tolist()
        return rows

    def digests(self, leaf: int) -> tuple[str, ...]:
        """Return the digest of each span of a leaf, in hexadecimal."""
        digests = self.index.spans.digests
        return tuple(bytes(digests[row]).hex() for row in self.spans(leaf))

    def leaf_path(self, leaf: int) -> str:
        """Return the path of the node that holds a leaf."""
        return paths.path(self, self.leaf_nodes[leaf])

    @functools.cached_property
    def leaf_nodes(self) -> Mapping[int, int]:
        """The node that holds each leaf."""
        arrays = {self.arg[i]: i for i, kind in enumerate(self.kind) if kind == Kind.LEAF}
        return arrays | {leaf: node for node, leaf in self.long_scalars.items()}

    def key_leaves(self) -> list[int]:
        """Return the leaves that hold long scalars in dict keys."""
        if not self.long_scalars:
            return []
        inside: set[int] = set()
        for node, parent, position, _ in paths.walk(self):
            if parent in inside or (self.kind[parent] in DICT_KINDS and position % 2 == 0):
                inside.add(node)
        return [leaf for node, leaf in self.long_scalars.items() if node in inside]

    def key(self, node: int) -> str:
        """Return the text of the dict key at `node` in a path; a long key must have been read."""
        return keys.text_of(self, node)

    def scalar_text(self, node: int) -> str:
        """Return the text of a scalar in a dict key."""
        kind = Kind(self.kind[node]).name.lower()
        leaf = self.long_scalars.get(node)
        if leaf is not None and leaf not in self.long_keys:
            return f"<{kind} of {self.index.shape(leaf)[0]} bytes>"
        data = self.data(node) if leaf is None else self.long_keys[leaf]
        try:
            return keys.printable(scalars.decode(self, node, data))
        except (KeyError, ValueError, CorruptError):
            return f"<{kind}>"

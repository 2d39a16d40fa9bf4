"""The tree of a checkpoint, as its table of nodes has it. Spec: sections 5.2 and 5.3.

Nothing of it is built here: `unflattening.py` does that.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ckptstore.errors import CorruptError, Reason
from ckptstore.format import BLOB_KINDS, DICT_KINDS, Index, Kind, Layout, TypeRow, dtypes
from ckptstore.format.dtypes import Stored
from ckptstore.tree import encoding, paths


class StoredTree:
    """A decoded table of nodes; it is what `paths` reads too.

    Attributes:
        index: the decoded index; `layout` says where each of its nodes stands.
        where: the checkpoint, for messages.
        leaf_values: what is known of the leaves, by number; those of long scalars are bytes.
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
        self.leaf_values: dict[int, Any] = {}
        self._heap = nodes.heap
        self._heap_at = [0, *itertools.accumulate(nodes.size.tolist())]
        self._dtypes: dict[int, np.dtype[Any]] = {}

    def row(self, node: int) -> TypeRow:
        """Return the type of a node that has one."""
        return self.types[self.type[node] - 1]

    def leaf(self, number: int) -> tuple[TypeRow, Stored, tuple[int, ...]]:
        """Return the type, dtype and shape of a leaf."""
        index, leaves = self.index, self.index.leaves
        row = index.types[int(leaves.type[number]) - 1]
        return row, index.dtypes[int(leaves.dtype[number])], index.shape(number)

    def path(self, node: int) -> str:
        """Return the path of a node."""
        return paths.format_paths(self, [node])[0]

    def data(self, node: int) -> bytes:
        """Return the bytes of a node in the heap, or of its leaf where the scalar is long."""
        if (leaf := self.long_scalars.get(node)) is not None:
            found: bytes = self.leaf_values[leaf]
            return found
        return self._heap[self._heap_at[node] : self._heap_at[node + 1]]

    def key(self, node: int) -> str:
        """Return a printable form of the dict key at `node`."""
        try:
            return self._key(node)
        except RecursionError:
            return "<a deeply nested key>"

    def _key(self, node: int) -> str:
        if self.kind[node] == Kind.SAME:
            node = self.arg[node]
        kind = self.kind[node]
        if kind == Kind.ENUM:
            return f"{self.row(node).name}.{self.text(node)}"
        if kind in (Kind.TUPLE, Kind.FROZENSET):
            parts = [self._key(child) for child in self.layout.children(node)]
            if kind == Kind.FROZENSET:
                return f"frozenset({{{', '.join(parts)}}})"
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        if node in self.long_scalars and self.long_scalars[node] not in self.leaf_values:
            return f"<{Kind(kind).name.lower()} of {self.index.shape(self.arg[node] - 1)[0]} bytes>"
        try:
            return encoding.printable(self.scalar(node))
        except (KeyError, ValueError, CorruptError):
            return f"<{Kind(kind).name.lower()}>"

    def types_in(self, roots: Iterable[int]) -> set[int]:
        """Return the numbers of the types that the subtrees at `roots` use."""
        return {self.type[i] for r in roots for i in range(r, self.layout.end[r]) if self.type[i]}

    def leaves(self, roots: Sequence[int]) -> list[int]:
        """Return the leaves that the subtrees at `roots` hold."""
        out = []
        for root in roots:
            for i in range(root, self.layout.end[root]):
                if self.kind[i] == Kind.LEAF:
                    out.append(self.arg[i])
                elif i in self.long_scalars:
                    out.append(self.long_scalars[i])
        return sorted(set(out))

    def key_leaves(self) -> list[int]:
        """Return the leaves that hold long scalars in dict keys."""
        if not self.long_scalars:
            return []
        keys: set[int] = set()
        for node, parent, position, _ in paths.walk(self):
            if parent in keys or (self.kind[parent] in DICT_KINDS and position % 2 == 0):
                keys.add(node)
        return [leaf for node, leaf in self.long_scalars.items() if node in keys]

    @functools.cached_property
    def long_scalars(self) -> dict[int, int]:
        """The leaf of each scalar whose bytes are too many for the heap, by node."""
        rows = enumerate(zip(self.kind, self.arg, strict=True))
        return {node: arg - 1 for node, (kind, arg) in rows if arg and kind in BLOB_KINDS}

    @functools.cached_property
    def leaf_nodes(self) -> dict[int, int]:
        """The node that holds each leaf."""
        held = {self.arg[i]: i for i, kind in enumerate(self.kind) if kind == Kind.LEAF}
        return held | {leaf: node for node, leaf in self.long_scalars.items()}

    def dtype(self, number: int) -> np.dtype[Any]:
        """Return a dtype of the table; each is made once, however many leaves are of it."""
        if number not in self._dtypes:
            self._dtypes[number] = dtypes.resolve(self.index.dtypes[number], where=self.where)
        return self._dtypes[number]

    def text(self, node: int) -> str:
        """Return the text of a node: of a factory, a symbol, an enum's member."""
        try:
            return self.data(node).decode()
        except UnicodeDecodeError:
            raise CorruptError(
                f"{self.where}: node {node} is not valid UTF-8", reason=Reason.BAD_SCALAR
            ) from None

    def scalar(self, node: int) -> Any:
        """Return the scalar at a node."""
        kind, data = self.kind[node], self.data(node)
        try:
            return _SCALARS[kind](data, self.arg[node])
        except (ValueError, struct.error) as error:
            raise CorruptError(
                f"{self.where}: node {node} is no {Kind(kind).name}: {error}",
                reason=Reason.BAD_SCALAR,
            ) from None


def _bool(arg: int) -> bool:
    if arg > 1:
        raise ValueError(f"{arg} is neither 0 nor 1")
    return arg == 1


_SCALARS: dict[int, Callable[[bytes, int], Any]] = {
    Kind.NONE: lambda data, arg: None,
    Kind.BOOL: lambda data, arg: _bool(arg),
    Kind.INT: lambda data, arg: int.from_bytes(data, "little", signed=True),
    Kind.FLOAT: lambda data, arg: struct.unpack("<d", data)[0],
    Kind.COMPLEX: lambda data, arg: complex(*struct.unpack("<dd", data)),
    Kind.STR: lambda data, arg: data.decode(),
    Kind.SURROGATE_STR: lambda data, arg: data.decode("utf-8", "surrogatepass"),
    Kind.BYTES: lambda data, arg: bytes(data),
    Kind.BYTEARRAY: lambda data, arg: bytearray(data),
    Kind.ELLIPSIS: lambda data, arg: ...,
}

"""A tree of Python objects as a table of nodes: the result of a walk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptstore.format import Kind, Layout, Nodes, TypeKind, TypeRow, dtypes, lay_out
from ckptstore.format.dtypes import Stored
from ckptstore.tree import keys
from ckptstore.tree.nodes import NodeTable
from ckptstore.types import Leaf, class_of_today

_class = type  # a column of a tree has that name

SCALAR_MAX_NBYTES = 4 << 10
"""Scalars above this go to spans."""

_BLOB = TypeRow(TypeKind.ARRAY, "ckptstore", "scalar")


@dataclass
class LiveTree(NodeTable):
    """The nodes of a tree of objects, each with its object.

    Attributes:
        where: the tree, for messages.
        lenient: carry only what is needed to compare objects: records are not tried, and only one
            object is one leaf. Otherwise arrays are one leaf, too, if they are the same view of the
            same memory.
        types, dtypes: the rows of the table of types, and the dtypes.
        kind, arity, type, arg, heap: the columns of the nodes.
        leaves: the contents of the LEAF nodes and long scalars, by number.
        leaf_type, leaf_dtype: the rows of each leaf in `types` (from 1) and `dtypes` (from 0).
        objects: the object of every node, kept so that an id stays taken.
        read_whole: the types whose records are made by reading everything below them, or below
            their last child, with `Record.reads`.
    """

    where: str = "the tree"
    lenient: bool = False
    types: list[TypeRow] = field(default_factory=list)
    dtypes: list[Stored] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    arity: list[int] = field(default_factory=list)
    type: list[int] = field(default_factory=list)
    arg: list[int] = field(default_factory=list)
    heap: list[bytes] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)
    leaf_type: list[int] = field(default_factory=list)
    leaf_dtype: list[int] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)
    read_whole: dict[int, str] = field(default_factory=dict)
    own: Sequence[int] = ()
    _memories: dict[Any, int] = field(default_factory=dict)
    _type_numbers: dict[Any, int] = field(default_factory=dict)
    _dtype_numbers: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def layout(self) -> Layout:  # type: ignore[override]
        """The position of each node, once the walk is complete."""
        return lay_out(self.arity, where=self.where)

    def data(self, node: int) -> bytes:
        """Return the bytes of a node in the heap, which has none of a long scalar."""
        return self.heap[node]

    def key(self, node: int) -> str:
        """Return the text of the dict key at `node` in a path."""
        return keys.text_of(self, node)

    def scalar_text(self, node: int) -> str:
        """Return the text of a scalar in a dict key."""
        return keys.printable(self.objects[node])

    def leaf(self, number: int) -> tuple[TypeRow, Stored, tuple[int, ...]]:
        """Return the type, dtype and shape of a leaf."""
        leaf = self.leaves[number]
        return leaf.row, leaf.dtype, leaf.shape

    def dtype(self, number: int) -> np.dtype[Any]:
        """Return a dtype of the table of dtypes."""
        return dtypes.resolve(self.dtypes[number], where=self.where)

    def class_of(self, node: int) -> Any:
        """Return the class of the object at a node, as it is defined today."""
        return class_of_today(_class(self.objects[node]))

    def classes(self) -> dict[str, Any]:
        """Return the classes of its records and members, by stored name."""
        found = {}
        for number, kind in enumerate(self.kind):
            if kind in (Kind.RECORD, Kind.ENUM):
                found[str(self.row(number))] = self.class_of(number)
        return found

    def nodes(self) -> Nodes:
        """Return the finished columns."""
        columns = (self.kind, self.arity, self.type, self.arg, list(map(len, self.heap)))
        kind, arity, type_, arg, size = (np.asarray(column, np.int64) for column in columns)
        return Nodes(kind, arity, type_, arg, size, b"".join(self.heap))

    def add(self, kind: Kind, *, type: int = 0, arg: int = 0, data: bytes = b"") -> None:
        """Append a node; the walker sets its `arity` later."""
        self.kind.append(kind)
        self.arity.append(0)
        self.type.append(type)
        self.arg.append(arg)
        self.heap.append(data)

    def add_scalar(self, kind: Kind, arg: int, data: bytes) -> None:
        """Append a scalar of any length; a long one becomes a leaf of bytes."""
        if len(data) > SCALAR_MAX_NBYTES:
            long, data = data, b""
            read = functools.partial(np.frombuffer, long, np.uint8)
            self._hold(Leaf(_BLOB, "uint8", (len(long),), read, fixed=True))
            arg = len(self.leaves)
        self.kind.append(kind)  # as `add`: there are many scalars
        self.arity.append(0)
        self.type.append(0)
        self.arg.append(arg)
        self.heap.append(data)

    def add_leaf(self, leaf: Leaf) -> None:
        """Append a LEAF node, or a SAME node if a leaf of the same memory was met before."""
        if leaf.memory is not None and not self.lenient:
            first = self._memories.setdefault(leaf.memory, len(self.kind))
            if first < len(self.kind):
                self.add(Kind.SAME, arg=first)
                return
        self._hold(leaf)
        self.add(Kind.LEAF, arg=len(self.leaves) - 1)

    def replace_from(self, node: int) -> None:
        """Replace all nodes from `node` on by one NONE node."""
        for column in (self.kind, self.arity, self.type, self.arg, self.heap):
            del column[node:]
        self.add(Kind.NONE)

    def type_number(self, row: TypeRow) -> int:
        """Return 1 + the row's place in the table of types; append the row if it is new."""
        key = (row.kind, row.module, row.name, row.binding, *row.extra.items())
        number = self._type_numbers.get(key)
        if number is None:
            self.types.append(row)
            number = self._type_numbers[key] = len(self.types)
        return number

    def dtype_number(self, stored: Stored) -> int:
        """Return the place of a stored dtype in its table."""
        key = stored if isinstance(stored, str) else repr(stored)
        number = self._dtype_numbers.get(key)
        if number is None:
            self.dtypes.append(stored)
            number = self._dtype_numbers[key] = len(self.dtypes) - 1
        return number

    def _hold(self, leaf: Leaf) -> None:
        self.leaves.append(leaf)
        self.leaf_type.append(self.type_number(leaf.row))
        self.leaf_dtype.append(self.dtype_number(leaf.dtype))


Encode = Callable[[LiveTree, Any], Sequence[Any] | None]
"""Append one node for an object; return the children still to walk, or None for no children."""

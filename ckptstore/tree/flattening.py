"""From a tree of Python objects to the table of nodes. `unflattening.py` goes the other way.

The walk is iterative, looks at the exact ``type(x)``, never changes what it sees, and gathers all
refusals before it raises. Spec: sections 5.2 and 5.3.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptstore.errors import Reason, StructureError
from ckptstore.format import TREE_MAX_DEPTH, Kind, Layout, Nodes, TypeKind, TypeRow, dtypes, lay_out
from ckptstore.format.dtypes import Stored
from ckptstore.tree import encoding, paths
from ckptstore.types.registry import Child, Leaf, Refusal

SCALAR_MAX_NBYTES = 4 << 10
"""Scalars above this go to spans."""

_BLOB = TypeRow(TypeKind.ARRAY, "ckptstore", "scalar")
_MESSAGES_SHOWN = 20
_Class = type  # Walk has a column of that name


class _Holds(enum.Enum):
    """What the children of a container are; keys, also those inside keys, are hashed."""

    VALUES = enum.auto()
    ENTRIES = enum.auto()
    KEYS = enum.auto()


_HOLDS: Mapping[int, _Holds] = {
    **dict.fromkeys((Kind.DICT, Kind.ORDERED_DICT, Kind.DEFAULT_DICT), _Holds.ENTRIES),
    **dict.fromkeys((Kind.SET, Kind.FROZENSET, Kind.ENUM), _Holds.KEYS),
}


@dataclass(slots=True)
class _Frame:
    """An open container of the walk."""

    children: Iterator[Any]
    holder: int
    holds: _Holds
    _count: int = 0

    def next_is_key(self) -> bool:
        """Tell whether the child that comes now is a key, and count it."""
        self._count += 1
        return self.holds is _Holds.KEYS or (self.holds is _Holds.ENTRIES and self._count % 2 == 1)


@dataclass
class Walk:
    """A table of nodes being filled; it is what `paths` and `rebuild` read too.

    Attributes:
        types: rows of the table of types.
        leaves: what the LEAF nodes and long scalars hold, by number.
        leaf_type, leaf_dtype: the rows of each leaf in `types` (from 1) and `dtypes` (from 0).
        objects: the object of every node, kept so that an id stays taken.
        lenient: take what cannot be carried as SUPPLIED (for `like`).
    """

    types: list[TypeRow] = field(default_factory=list)
    dtypes: list[Stored] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    arity: list[int] = field(default_factory=list)
    type: list[int] = field(default_factory=list)
    arg: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)
    leaf_type: list[int] = field(default_factory=list)
    leaf_dtype: list[int] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)
    lenient: bool = False
    supplied: frozenset[int] = frozenset()
    _seen: dict[int, int] = field(default_factory=dict)
    _memories: dict[Any, int] = field(default_factory=dict)
    _emitters: dict[_Class, encoding.Emit] = field(default_factory=dict)
    _type_numbers: dict[Any, int] = field(default_factory=dict)
    _dtype_numbers: dict[str, int] = field(default_factory=dict)
    _refusals: list[tuple[int, str]] = field(default_factory=list)

    def key(self, node: int) -> str:
        """Return a printable form of the dict key at `node`."""
        return encoding.printable(self.objects[node])

    @functools.cached_property
    def layout(self) -> Layout:
        """Where each node stands, once the whole tree was walked."""
        return lay_out(self.arity, where="the tree")

    def row(self, node: int) -> TypeRow:
        """Return the type of a node that has one."""
        return self.types[self.type[node] - 1]

    def leaf(self, number: int) -> tuple[TypeRow, Stored, tuple[int, ...]]:
        """Return the type, dtype and shape of a leaf."""
        held = self.leaves[number]
        return held.row, held.dtype, held.shape

    def nodes(self) -> Nodes:
        """Return the finished columns."""
        columns = (self.kind, self.arity, self.type, self.arg, list(map(len, self.data)))
        kind, arity, type_, arg, size = (np.asarray(column, np.int64) for column in columns)
        return Nodes(kind, arity, type_, arg, size, b"".join(self.data))

    def add(
        self, kind: Kind, *, arity: int = 0, type: int = 0, arg: int = 0, data: bytes = b""
    ) -> None:
        """Append a node."""
        self.kind.append(kind)
        self.arity.append(arity)
        self.type.append(type)
        self.arg.append(arg)
        self.data.append(data)

    def type_number(self, row: TypeRow) -> int:
        """Return 1 + the row's place in the table of types, appending it when it is new."""
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

    def add_scalar(self, kind: Kind, data: bytes) -> None:
        """Append a scalar of any length; a long one becomes a leaf of bytes."""
        if len(data) <= SCALAR_MAX_NBYTES:
            self.add(kind, data=data)
            return
        self._hold(Leaf(_BLOB, "uint8", (len(data),), lambda: np.frombuffer(data, np.uint8), True))
        self.add(kind, arg=len(self.leaves))

    def add_leaf(self, leaf: Leaf) -> None:
        """Append a LEAF node, or a SAME node where a leaf of the same memory was met before."""
        if leaf.memory is not None and not self.lenient:  # `like` and `supplied` go by object
            first = self._memories.setdefault(leaf.memory, len(self.kind))
            if first < len(self.kind):
                self.add(Kind.SAME, arg=first)
                return
        self._hold(leaf)
        self.add(Kind.LEAF, arg=len(self.leaves) - 1)

    def _hold(self, leaf: Leaf) -> None:
        self.leaves.append(leaf)
        self.leaf_type.append(self.type_number(leaf.row))
        self.leaf_dtype.append(self.dtype_number(leaf.dtype))

    def run(self, tree: Any) -> None:
        """Walk the whole tree.

        Raises:
            StructureError: all that cannot be carried, each with its path and the remedy.
        """
        stack = [_Frame(iter((tree,)), 0, _Holds.VALUES)]
        on_path: set[int] = set()  # ids of the open containers, to find cycles
        while stack:
            frame = stack[-1]
            for x in frame.children:
                node = len(self.kind)
                in_key = frame.next_is_key()
                how = None
                if type(x) is Child:
                    how, x = x, x.value
                below = self._emit(x, on_path, in_key, how)
                self.objects.append(x)
                if below:
                    if len(stack) > TREE_MAX_DEPTH:
                        raise StructureError(
                            f"the tree is deeper than {TREE_MAX_DEPTH} levels at "
                            f"{paths.format_paths(self, [node])[0][:200]}…; make it flatter",
                            reason=Reason.TOO_DEEP,
                        )
                    on_path.add(id(x))
                    holds = _Holds.KEYS if in_key else _HOLDS.get(self.kind[node], _Holds.VALUES)
                    stack.append(_Frame(iter(below), id(x), holds))
                    break
            else:
                stack.pop()
                on_path.discard(frame.holder)
        if self._refusals:
            self._raise()

    def _emit(
        self, x: Any, on_path: set[int], in_key: bool, how: Child | None
    ) -> Sequence[Any] | None:
        cls = type(x)
        scalar = encoding.SCALARS.get(cls)
        if scalar is not None:
            scalar(self, x)
            return None
        node = len(self.kind)
        seen = None if in_key else self._seen.get(id(x))  # a key is written out each time
        if seen is not None:
            if id(x) in on_path:
                self._refuse(node, "the container holds itself; break the cycle")
            else:
                self.add(Kind.SAME, arg=seen)
            return None
        if id(x) in self.supplied or (how is not None and how.record is None and _needs_like(x)):
            self._supply(x)
            return None
        emitter = self._emitters.get(cls)
        try:
            if how is not None and how.record is not None:
                emitter = encoding.by(how.record)
            elif emitter is None:
                emitter = self._emitters[cls] = encoding.emitter(cls, x)
            children = emitter(self, x)
        except (Refusal, dtypes.DtypeRefusal) as refusal:
            if self.lenient:
                self._supply(x)
                return None
            self._refuse(node, str(refusal))
            children = None
        if children is not None or self.kind[node] == Kind.LEAF:
            if not in_key and self.kind[node] != Kind.ENUM and not (cls is tuple and not children):
                self._seen[id(x)] = node
            if children is not None:
                self.arity[node] = len(children)
        return children

    def _supply(self, x: Any) -> None:
        cls = type(x)
        name = getattr(x, "__qualname__", cls.__qualname__)
        self.add(Kind.SUPPLIED, data=f"{cls.__module__}.{cls.__qualname__} {name}"[:1024].encode())

    def _refuse(self, node: int, message: str) -> None:
        del self.kind[node:], self.arity[node:], self.type[node:], self.arg[node:], self.data[node:]
        self.add(Kind.NONE)
        self._refusals.append((node, message))

    def _raise(self) -> None:
        shown = self._refusals[:_MESSAGES_SHOWN]
        where = paths.format_paths(self, [node for node, _ in shown])
        lines = [f"{path}: {message}" for path, (_, message) in zip(where, shown, strict=True)]
        if len(self._refusals) > len(shown):
            lines.append(f"… and {len(self._refusals) - len(shown)} more")
        raise StructureError(
            lines[0] if len(lines) == 1 else "cannot be carried:\n  " + "\n  ".join(lines),
            reason=Reason.CANNOT_CARRY,
        )


def _needs_like(x: Any) -> bool:
    """Tell whether a part of `x` cannot be carried."""
    trial = Walk(lenient=True)
    trial.run(x)
    return Kind.SUPPLIED in trial.kind


def flatten(tree: Any, *, lenient: bool = False, supplied: Sequence[str] = ()) -> Walk:
    """Walk `tree` and return its table.

    Args:
        tree: any tree that the format carries.
        lenient: take what cannot be carried as SUPPLIED.
        supplied: patterns of paths that are not stored; `load` takes them from `like`.

    Raises:
        StructureError: naming the path of everything that cannot be carried.
    """
    ids = _supplied_ids(tree, supplied) if supplied else set()
    walk = Walk(lenient=lenient, supplied=frozenset(ids))
    walk.run(tree)
    return walk


def _supplied_ids(tree: Any, patterns: Sequence[str]) -> set[int]:
    """Return the ids of the objects that are not to be stored.

    Raises:
        StructureError: reason ``bad-pattern`` where a pattern matches nothing, or a scalar, or an
            object that also stands where it is to be stored.
    """
    outline = Walk(lenient=True)
    outline.run(tree)
    end = outline.layout.end
    inside = bytearray(len(outline.kind))
    chosen: dict[int, int] = {}
    for pattern, found in zip(patterns, paths.select(outline, patterns), strict=True):
        if not found:
            raise StructureError(
                f"supplied: nothing in the tree is at {pattern}", reason=Reason.BAD_PATTERN
            )
        for _, node in found:
            x = outline.objects[node]
            if type(x) in encoding.SCALARS:
                raise StructureError(
                    f"supplied: {pattern} is a {type(x).__name__}, which can be stored; leave it "
                    "out of supplied",
                    reason=Reason.BAD_PATTERN,
                )
            chosen[id(x)] = node
            inside[node : end[node]] = b"\1" * (end[node] - node)
    for node, x in enumerate(outline.objects):
        if id(x) in chosen and not inside[node]:
            here, there = paths.format_paths(outline, [node, chosen[id(x)]])
            raise StructureError(
                f"supplied: the object at {there} also stands at {here}; name both, or neither",
                reason=Reason.BAD_PATTERN,
            )
    return set(chosen)

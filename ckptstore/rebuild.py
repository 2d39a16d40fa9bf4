"""From the table of nodes back to a tree of Python objects. Spec: section 8.

Iterative; every class is resolved before the first instance is made, so that one error lists all
that is missing.
"""

from __future__ import annotations

import collections
import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ckptstore import dtypes, emit, instances, paths, registry, resolution, standins
from ckptstore.errors import CheckpointError, CorruptError, StructureError, UnknownTypeError
from ckptstore.index import BLOB_KINDS, DICT_KINDS, Index, Kind, TypeRow
from ckptstore.validate import Layout

_MISSING_SHOWN = 20
_NOT_IMPORTED = ("module-not-imported", "no-such-name")


class Rebuild:
    """A decoded tree, ready to be built in whole or in part.

    It is also the table that `paths` reads.
    """

    def __init__(self, index: Index, layout: Layout, where: str) -> None:
        nodes = index.nodes
        self.index = index
        self.layout = layout
        self.where = where
        self.types: Sequence[TypeRow] = index.types
        self.kind = nodes.kind.tolist()
        self.arity = nodes.arity.tolist()
        self.type = nodes.type.tolist()
        self.arg = nodes.arg.tolist()
        self._heap = nodes.heap
        self._heap_at = [0, *itertools.accumulate(nodes.size.tolist())]
        self.leaf_values: dict[int, Any] = {}
        self.overrides: dict[int, Any] = {}
        self._records: dict[int, Any] = {}
        self._dtypes: dict[int, np.dtype[Any]] = {}
        self._built: dict[int, Any] = {}
        self._kept = {
            arg for kind, arg in zip(self.kind, self.arg, strict=True) if kind == Kind.SAME
        }

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
            row = self.types[self.type[node] - 1]
            return f"{row.name}.{self._text(node)}"
        if kind in (Kind.TUPLE, Kind.FROZENSET):
            parts = [self._key(child) for child in self.children(node)]
            if kind == Kind.FROZENSET:
                return f"frozenset({{{', '.join(parts)}}})"
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        if node in self.long_scalars and self.long_scalars[node] not in self.leaf_values:
            return f"<{Kind(kind).name.lower()} of {self.index.shape(self.arg[node] - 1)[0]} bytes>"
        try:
            return emit.printable(self._scalar(node))
        except (KeyError, ValueError, CorruptError):
            return f"<{Kind(kind).name.lower()}>"

    def children(self, node: int) -> list[int]:
        """Return the child nodes of a node, in order."""
        out, child = [], node + 1
        for _ in range(self.arity[node]):
            out.append(child)
            child = self.layout.end[child]
        return out

    def types_in(self, roots: Iterable[int]) -> set[int]:
        """Return the numbers of the types that the subtrees at `roots` use."""
        return {self.type[i] for r in roots for i in range(r, self.layout.end[r]) if self.type[i]}

    def resolve(self, used: Iterable[int], given: Mapping[str, type], *, stand_in: bool) -> None:
        """Find the class of each type.

        Args:
            used: numbers of types.
            given: classes by stored name, from ``types=`` or `like`.
            stand_in: give types that cannot be found a NamedTuple of the stored fields, as those
                always get that stand only in fields that their class has no more.

        Raises:
            UnknownTypeError: listing all that cannot be found, with the remedy of each.
        """
        found: dict[int, UnknownTypeError] = {}
        for number in sorted(set(used)):
            try:
                self._records[number] = instances.find(self.types[number - 1], given)
            except UnknownTypeError as error:
                found[number] = error
        for number, reason in [(number, error.reason) for number, error in found.items()]:
            row = self.types[number - 1]
            if standins.allowed(row, reason) and (stand_in or self._all_unused(number)):
                self._records[number] = standins.make(row)
                del found[number]
        if found:
            raise self._unknown(found)

    def _unknown(self, found: Mapping[int, UnknownTypeError]) -> UnknownTypeError:
        """Return one error for all types that cannot be found."""
        lines = list(dict.fromkeys(map(str, found.values())))  # a package is named once
        reason = next(iter(found.values())).reason
        if len(lines) == 1:
            return UnknownTypeError(f"{self.where}: {lines[0]}", reason=reason)
        rows = [self.types[n - 1] for n, e in found.items() if e.reason in _NOT_IMPORTED]
        imports = [line for line in dict.fromkeys(map(resolution.import_line, rows)) if line]
        if len(imports) > 1:
            lines.append(f"all imports: {'; '.join(imports)}")
        listed = "\n  ".join(lines)
        return UnknownTypeError(
            f"{self.where}: {len(found)} types cannot be rebuilt:\n  {listed}", reason=reason
        )

    def closure(self, roots: Sequence[int]) -> list[int]:
        """Return the outermost of `roots`, and the targets outside them of their SAME nodes."""
        self._kept |= set(roots)
        covered = bytearray(len(self.kind))
        out, todo = [], collections.deque(sorted(roots))
        while todo:
            root = todo.popleft()
            if covered[root]:
                continue
            out.append(root)
            end = self.layout.end[root]
            covered[root:end] = b"\1" * (end - root)
            for i in range(root, end):
                if self.kind[i] == Kind.SAME and not covered[self.arg[i]]:
                    todo.append(self.arg[i])
        return out

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

    def build(self, roots: Sequence[int], *, stand_in: bool = False) -> list[Any]:
        """Build the subtrees at `roots`; their leaves are in `leaf_values`, types resolved.

        Args:
            roots: nodes, for which `closure` was asked too.
            stand_in: let symbols of frameworks that are not here be stand-ins.

        Raises:
            CorruptError: ``duplicate-key``, ``bad-scalar``.
            StructureError: ``supplied`` where the tree needs what only `like` can give.
        """
        self._require_like(roots, stand_in)
        # SAME points backwards, so an earlier target never needs a later one.
        for target in sorted(set(self.closure(roots)) - set(roots)):
            self._build(target, stand_in)
        return [self._build(root, stand_in) for root in roots]

    def _build(self, root: int, stand_in: bool) -> Any:
        frames: list[tuple[int, list[Any]]] = []
        node, end = root, self.layout.end[root]
        while node < end:
            following = node + 1
            if node in self.overrides:
                value = self.overrides[node]
                following = self.layout.end[node]
            elif node in self._built:
                value = self._built[node]
                following = self.layout.end[node]
            elif self.arity[node]:
                frames.append((node, []))
                node = following
                continue
            else:
                value = self._make(node, (), stand_in)
            done = node
            while True:
                if done in self._kept:
                    self._built[done] = value
                if not frames:
                    return value
                open_node, values = frames[-1]
                values.append(value)
                if len(values) < self.arity[open_node]:
                    break
                frames.pop()
                value = self._make(open_node, values, stand_in)
                done = open_node
            node = following
        raise AssertionError("the layout was checked")  # pragma: no cover

    def _make(self, node: int, values: Sequence[Any], stand_in: bool) -> Any:
        kind = self.kind[node]
        if kind == Kind.LEAF:
            return self.leaf_values[self.arg[node]]
        if kind == Kind.RECORD:
            try:
                return self._records[self.type[node]].make(values)
            except Exception as error:
                row = self.types[self.type[node] - 1]
                ours = isinstance(error, CheckpointError)
                raise UnknownTypeError(
                    f"{self.where}: {self.path(node)}: {row} could not be made of what is stored: "
                    + (str(error) if ours else f"{type(error).__name__}: {error}"),
                    reason="cannot-make",
                ) from error
        container = _CONTAINERS.get(kind)
        if container is not None:
            return container(self, node, values)
        if kind == Kind.SAME:
            return self._built[self.arg[node]]
        if kind == Kind.ENUM:
            cls = self._records[self.type[node]]
            row = self.types[self.type[node] - 1]
            if isinstance(cls, standins.StandIn):
                return cls.make((self._text(node), values[0]))
            return instances.enum_member(cls, self._text(node), values[0], f"{self.where}: {row}")
        if kind == Kind.SYMBOL:
            return self._symbol(node, stand_in)
        if kind == Kind.DTYPE:
            return self.dtype(self.arg[node])
        if kind == Kind.SUPPLIED:
            return standins.Supplied(self._text(node))  # `_require_like` lets nothing else pass
        return self._scalar(node)

    def _require_like(self, roots: Sequence[int], stand_in: bool) -> None:
        """Refuse to build what only `like` can give, naming every place of it."""
        if Kind.SUPPLIED not in self.kind:
            return
        given = bytearray(len(self.kind))
        for node in self.overrides:
            given[node : self.layout.end[node]] = b"\1" * (self.layout.end[node] - node)
        missing = [
            node
            for root in self.closure(roots)
            for node in range(root, self.layout.end[root])
            if self.kind[node] == Kind.SUPPLIED
            and not given[node]
            and not (stand_in and self._in_stand_in(node))
            and not self._is_unused(node)
        ]
        if missing:
            shown = missing[:_MISSING_SHOWN]
            places = zip(paths.format_paths(self, shown), shown, strict=True)
            listed = "; ".join(f"{path}: not stored ({self._text(node)})" for path, node in places)
            more = f"; … and {len(missing) - len(shown)} more" if len(missing) > len(shown) else ""
            raise StructureError(
                f"{self.where}: {listed}{more}; give it back by load(url, like=...), where `like` "
                "is such a tree made anew, or load the rest by select=",
                reason="supplied",
            )

    def _in_stand_in(self, node: int) -> bool:
        holder = self.layout.parent[node]
        made = self._records.get(self.type[holder]) if holder >= 0 else None
        return isinstance(made, standins.StandIn)

    def _all_unused(self, number: int) -> bool:
        return all(self._is_unused(node) for node, type_ in enumerate(self.type) if type_ == number)

    def _is_unused(self, node: int) -> bool:
        """Tell whether a node is needed for nothing but a field that its class has no more."""
        while node not in self._kept and (holder := self.layout.parent[node]) >= 0:
            record = self._records.get(self.type[holder])
            unused = record.unused if isinstance(record, registry.Record) else ()
            if unused and self.children(holder).index(node) in unused:
                return True
            node = holder
        return False

    def dtype(self, number: int) -> np.dtype[Any]:
        """Return a dtype of the table; each is made once, however many leaves are of it."""
        if number not in self._dtypes:
            self._dtypes[number] = dtypes.resolve(self.index.dtypes[number], where=self.where)
        return self._dtypes[number]

    def path(self, node: int) -> str:
        """Return the path of a node."""
        return paths.format_paths(self, [node])[0]

    def _text(self, node: int) -> str:
        try:
            return self.data(node).decode()
        except UnicodeDecodeError:
            raise CorruptError(
                f"{self.where}: node {node} is not valid UTF-8", reason="bad-scalar"
            ) from None

    def _scalar(self, node: int) -> Any:
        kind, data = self.kind[node], self.data(node)
        try:
            return _SCALARS[kind](data, self.arg[node])
        except (ValueError, struct.error) as error:
            raise CorruptError(
                f"{self.where}: node {node} is no {Kind(kind).name}: {error}", reason="bad-scalar"
            ) from None

    def _symbol(self, node: int, stand_in: bool) -> Any:
        name = self._text(node)
        try:
            known = registry.adapter(registry.top_level(name))
            if known is not None:
                return known.symbol_named(name)
        except KeyError:
            pass
        except UnknownTypeError:
            if stand_in:
                return standins.Symbol(name)
            raise
        raise UnknownTypeError(
            f"{self.where}: {self.path(node)}: {name:.200} is not in the table of functions and "
            "scalar types that a checkpoint may name",
            reason="unknown-symbol",
        )


def _make_dict(self: Rebuild, node: int, values: Sequence[Any]) -> Any:
    kind = self.kind[node]
    out: Any
    if kind == Kind.DICT:
        out = {}
    elif kind == Kind.ORDERED_DICT:
        out = collections.OrderedDict()
    else:
        name = self._text(node)
        if name not in emit.FACTORIES:
            raise CorruptError(
                f"{self.where}: {name!r:.80} is no factory of a defaultdict", reason="bad-scalar"
            )
        out = collections.defaultdict(emit.FACTORIES[name])
    _refuse_crowd(self, node, values[::2])
    for key, value in zip(values[::2], values[1::2], strict=True):
        if key in out:
            raise CorruptError(
                f"{self.where}: {self.path(node)}: the key {emit.printable(key):.80} stands twice",
                reason="duplicate-key",
            )
        out[key] = value
    return out


def _refuse_crowd(self: Rebuild, node: int, keys: Sequence[Any]) -> None:
    if emit.is_crowd(keys):
        raise CorruptError(
            f"{self.where}: {self.path(node)}: over {emit.CROWD} keys of one hash",
            reason="too-many",
        )


def _make_set(self: Rebuild, node: int, values: Sequence[Any]) -> Any:
    _refuse_crowd(self, node, values)
    out = set(values)  # of kinds that `validate` lets be hashed
    if len(out) != len(values):
        raise CorruptError(
            f"{self.where}: {self.path(node)}: an item stands twice", reason="duplicate-key"
        )
    return out if self.kind[node] == Kind.SET else frozenset(out)


def _make_range(self: Rebuild, node: int, values: Sequence[Any]) -> Any:
    if not all(type(value) is int for value in values) or values[2] == 0:
        raise CorruptError(f"{self.where}: {self.path(node)}: no range", reason="bad-scalar")
    return range(*values)


def _bool(arg: int) -> bool:
    if arg > 1:
        raise ValueError(f"{arg} is neither 0 nor 1")
    return arg == 1


_CONTAINERS: dict[int, Callable[[Rebuild, int, Sequence[Any]], Any]] = {
    Kind.LIST: lambda self, node, values: list(values),
    Kind.TUPLE: lambda self, node, values: tuple(values),
    Kind.DICT: _make_dict,
    Kind.ORDERED_DICT: _make_dict,
    Kind.DEFAULT_DICT: _make_dict,
    Kind.SET: _make_set,
    Kind.FROZENSET: _make_set,
    Kind.RANGE: _make_range,
    Kind.SLICE: lambda self, node, values: slice(*values),
}

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

"""From the table of nodes back to a tree of Python objects. Spec: section 8.

The code is iterative. It finds every class before it reads a leaf or makes an instance, so that one
error lists all missing classes.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ckptstore.errors import CheckpointError, CorruptError, Reason, StructureError, UnknownTypeError
from ckptstore.format import Kind
from ckptstore.texts import shown
from ckptstore.tree import paths, scalars
from ckptstore.tree.budget import PER_NODE, Budget
from ckptstore.tree.containers import DECODERS
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.records import decode_enum, decode_record, with_path
from ckptstore.tree.symbols import decode_symbol
from ckptstore.types import (
    Record,
    StandIn,
    Supplied,
    find_maker,
    import_line,
    may_stand_in,
    stand_in,
)

_LINES_SHOWN = 20
_NOT_IMPORTED = (Reason.MODULE_NOT_IMPORTED, Reason.NO_SUCH_NAME)
_NONE: Mapping[Any, Any] = MappingProxyType({})

ReadLeaves = Callable[[Sequence[int]], Iterable[tuple[int, Any]]]
"""Yield each of these leaves with its value, in any order: an array, or a long scalar's bytes."""


def unflatten(
    tree: NodeTable,
    roots: Sequence[int],
    *,
    read: ReadLeaves,
    classes: Mapping[str, type] = _NONE,
    overrides: Mapping[int, Any] = _NONE,
    stand_in: bool = False,
) -> list[Any]:
    """Build the subtrees at `roots`; nodes that stand for one object become one object.

    Args:
        tree: the nodes.
        roots: nodes, which may be inside each other.
        read: returns the values of the needed leaves; called once, after every class is found.
        classes: classes by stored name, from ``types=`` or `like`.
        overrides: objects that replace a node and everything below it.
        stand_in: use a NamedTuple of the stored fields for a type that cannot be found, and a
            stand-in for a function of a framework that is not installed.

    Raises:
        UnknownTypeError: some types cannot be found (the message lists all, with remedies), or a
            class refuses to make an object.
        CorruptError: ``duplicate-key``, ``bad-scalar``, ``too-many``.
        StructureError: ``supplied`` if the tree needs objects that only `like` can supply.
    """
    kept = {arg for kind, arg in zip(tree.kind, tree.arg, strict=True) if kind == Kind.SAME}
    kept.update(roots)
    used = _closure(tree, roots)
    nodes = _nodes_to_make(tree, used, roots, overrides)
    makers = _Makers(tree, kept, stand_in)
    makers.find({tree.type[node] for node in nodes if tree.type[node]}, classes)
    _require_like(tree, nodes, makers)  # before gigabytes are read
    values = dict(read(_leaves(tree, nodes)))
    builder = _Builder(tree, kept, makers, values, overrides)
    return [builder.build(root) for root in roots]


def _closure(tree: NodeTable, roots: Sequence[int]) -> list[int]:
    """Return the outermost of `roots`, and the targets outside them of their SAME nodes."""
    covered, end = bytearray(len(tree.kind)), tree.layout.end
    found, todo = [], collections.deque(sorted(roots))
    while todo:
        root = todo.popleft()
        if covered[root]:
            continue
        found.append(root)
        node = root
        while node < end[root]:
            if covered[node]:  # a subtree that was looked at before
                node = end[node]
                continue
            covered[node] = 1
            if tree.kind[node] == Kind.SAME and not covered[tree.arg[node]]:
                todo.append(tree.arg[node])
            node += 1
    out: list[int] = []
    for root in sorted(found):
        if not out or root >= end[out[-1]]:
            out.append(root)
    return out


def _nodes_to_make(
    tree: NodeTable, used: Sequence[int], roots: Sequence[int], overrides: Mapping[int, Any]
) -> Sequence[int]:
    """Return the nodes of the subtrees at `used` that are not replaced by other objects.

    A root inside a replaced subtree is made all the same.
    """
    end = tree.layout.end
    nodes = [node for root in used for node in range(root, end[root])]
    if not overrides:
        return nodes
    replaced = bytearray(len(tree.kind))
    for node in overrides:
        replaced[node : end[node]] = b"\1" * (end[node] - node)
    for root in sorted(roots):
        node = root
        while node < end[root] and replaced[node]:
            if node in overrides:
                node = end[node]
            else:
                replaced[node] = 0
                node += 1
    return [node for node in nodes if not replaced[node]]


def _leaves(tree: NodeTable, nodes: Iterable[int]) -> list[int]:
    """Return the leaves that nodes hold: arrays and long scalars."""
    kind, arg, long = tree.kind, tree.arg, tree.long_scalars
    leaves = {arg[node] for node in nodes if kind[node] == Kind.LEAF}
    if long:
        leaves.update(long[node] for node in nodes if node in long)
    return sorted(leaves)


def _require_like(tree: NodeTable, nodes: Sequence[int], makers: _Makers) -> None:
    """Refuse to build objects that only `like` can supply; the error names every place."""
    if Kind.SUPPLIED not in tree.kind:
        return
    missing = [
        (node, f"not stored ({shown(tree.text(node))})")
        for node in nodes
        if tree.kind[node] == Kind.SUPPLIED and not makers.do_without(node)
    ]
    if missing:
        raise StructureError(
            f"{tree.where}: {'; '.join(paths.listed(tree, missing, _LINES_SHOWN))}; supply it by "
            "load(url, like=...), where `like` is a fresh tree of this kind, or load the rest by "
            "select=",
            reason=Reason.SUPPLIED,
        )


class _Makers:
    """The makers of the instances of each type.

    Attributes:
        by_type: a Record or a StandIn, or the class of an enum, by the number of the type.
    """

    def __init__(self, tree: NodeTable, kept: set[int], stand_in: bool) -> None:
        self.by_type: dict[int, Any] = {}
        self.stand_in = stand_in
        self._tree = tree
        self._kept = kept

    def find(self, used: Iterable[int], classes: Mapping[str, type]) -> None:
        """Find the class of each type, except types that stand only in removed fields.

        Args:
            used: the numbers of the types.
            classes: the classes, by stored name.

        Raises:
            UnknownTypeError: some types cannot be found; the message lists all, with remedies.
        """
        errors: dict[int, UnknownTypeError] = {}
        for number in sorted(used):
            try:
                self.by_type[number] = find_maker(self._tree.types[number - 1], classes)
            except UnknownTypeError as error:
                errors[number] = error
        for number, reason in [(number, error.reason) for number, error in errors.items()]:
            row = self._tree.types[number - 1]
            if may_stand_in(row, reason) and (self.stand_in or number not in self._used_types):
                self.by_type[number] = stand_in(row)
                del errors[number]
        if errors:
            raise self._unknown(errors)

    def do_without(self, node: int) -> bool:
        """Return whether a SUPPLIED node may stay without its object, in an unused part."""
        holder = self._tree.layout.parent[node]
        maker = self.by_type.get(self._tree.type[holder]) if holder >= 0 else None
        return (self.stand_in and isinstance(maker, StandIn)) or self._is_unused(node)

    def _is_unused(self, node: int) -> bool:
        """Return whether a node is needed only for a field that its class no longer has."""
        return bool(self._unused[node])

    @functools.cached_property
    def _unused(self) -> bytearray:
        """1 for each unused node. The makers of all records must be known."""
        unused = bytearray(len(self._tree.kind))
        records = ((n, maker) for n, maker in self.by_type.items() if isinstance(maker, Record))
        gone = {number: record.unused for number, record in records if record.unused}
        for node, parent, position, _ in paths.walk(self._tree) if gone else ():
            if node not in self._kept:
                unused[node] = unused[parent] or position in gone.get(self._tree.type[parent], ())
        return unused

    @functools.cached_property
    def _used_types(self) -> set[int]:
        """The types that stand in another place than a field that its class no longer has."""
        types = zip(self._tree.type, self._unused, strict=True)
        return {type_ for type_, unused in types if not unused}

    def _unknown(self, errors: Mapping[int, UnknownTypeError]) -> UnknownTypeError:
        """Return one error for all types that cannot be found."""
        where, types = self._tree.where, self._tree.types
        lines = list(dict.fromkeys(map(str, errors.values())))  # name each package once
        reason = next(iter(errors.values())).reason
        if len(lines) == 1:
            return UnknownTypeError(f"{where}: {lines[0]}", reason=reason)
        rows = [types[n - 1] for n, error in errors.items() if error.reason in _NOT_IMPORTED]
        imports = [line for line in dict.fromkeys(map(import_line, rows)) if line]
        if len(imports) > 1:
            lines.append(f"all imports: {'; '.join(imports)}")
        text = "\n  ".join(lines)
        return UnknownTypeError(
            f"{where}: {len(errors)} types cannot be rebuilt:\n  {text}", reason=reason
        )


class _Builder:
    """Makes the objects of nodes, once their classes are found and their leaves are read."""

    def __init__(
        self,
        tree: NodeTable,
        kept: set[int],
        makers: _Makers,
        values: Mapping[int, Any],
        overrides: Mapping[int, Any],
    ) -> None:
        self._tree = tree
        self._kept = kept
        self._makers = makers
        self._values = values
        self._overrides = overrides
        self._built: dict[int, Any] = {}  # the objects of the kept nodes
        self._budget = Budget(tree)

    def build(self, root: int) -> Any:
        """Return the object at a node.

        The target of a SAME node is made first, unless it is made already. It lies outside the
        subtree, or inside a node that is replaced; it never holds the SAME node.
        """
        arity, end = self._tree.arity, self._tree.layout.end
        kind, arg = self._tree.kind, self._tree.arg
        frames: list[tuple[int, list[Any]]] = []
        waiting: list[tuple[int, list[tuple[int, list[Any]]]]] = []  # SAME nodes, their frames
        node = root
        while True:
            following = node + 1
            if node in self._overrides:
                value = self._overrides[node]
                following = end[node]
            elif node in self._built:
                value = self._built[node]
                following = end[node]
            elif arity[node]:
                frames.append((node, []))
                node = following
                continue
            elif kind[node] == Kind.SAME and arg[node] not in self._built:
                waiting.append((node, frames))
                frames, node = [], arg[node]
                continue
            else:
                value = self._make(node, ())
            done = node
            while True:
                if done in self._kept:
                    self._built[done] = value
                if not frames:
                    if not waiting:
                        return value
                    done, frames = waiting.pop()
                    following = done + 1
                    continue
                open_node, values = frames[-1]
                values.append(value)
                if len(values) < arity[open_node]:
                    break
                frames.pop()
                value = self._make(open_node, values)
                done = open_node
            node = following

    def _make(self, node: int, children: Sequence[Any]) -> Any:
        tree = self._tree
        kind = tree.kind[node]
        if kind == Kind.LEAF:
            return self._values[tree.arg[node]]
        if kind == Kind.SAME:
            return self._built[tree.arg[node]]
        try:
            if kind in scalars.DECODERS:
                leaf = tree.long_scalars.get(node)
                data = tree.data(node) if leaf is None else self._values[leaf]
                return scalars.decode(tree, node, data)
            if kind == Kind.RECORD:
                return self._make_record(node, children)
            if (decode := DECODERS.get(kind)) is not None:
                return decode(tree, node, children)
            if kind == Kind.ENUM:
                return decode_enum(tree, node, self._makers.by_type[tree.type[node]], children[0])
            if kind == Kind.SYMBOL:
                return decode_symbol(tree, node, stand_in=self._makers.stand_in)
            if kind == Kind.DTYPE:
                return tree.dtype(tree.arg[node])
            assert kind == Kind.SUPPLIED
            return Supplied(tree.text(node))  # `_require_like` refuses everything else
        except CheckpointError as error:  # making a path for each node would cost much
            raise with_path(error, tree, node) from error.__cause__

    def _make_record(self, node: int, children: Sequence[Any]) -> Any:
        record = self._makers.by_type[self._tree.type[node]]
        reads = isinstance(record, Record) and record.reads != "children"
        if reads and not self._budget.allows(node, record, children):
            raise CorruptError(
                f"{self._tree.where}: {paths.path(self._tree, node)}: parts are shared here and "
                f"before, so that a load would read more than {PER_NODE} parts for each node of "
                "the file; do not load it, or load the rest by select=",
                reason=Reason.TOO_MANY,
            )
        return decode_record(self._tree, node, record, children)

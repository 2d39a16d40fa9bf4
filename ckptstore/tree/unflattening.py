"""From the table of nodes back to a tree of Python objects. Spec: section 8.

Iterative; every class is resolved before the first instance is made, so that one error lists all
that is missing.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ckptstore.errors import CheckpointError, CorruptError, Reason, StructureError, UnknownTypeError
from ckptstore.format import Index, Kind, Layout
from ckptstore.tree import encoding, paths
from ckptstore.tree.stored import StoredTree
from ckptstore.types import instances, lookup, registry, standins

_MISSING_SHOWN = 20
_NOT_IMPORTED = (Reason.MODULE_NOT_IMPORTED, Reason.NO_SUCH_NAME)


class Rebuild(StoredTree):
    """The tree of a checkpoint, ready to be built in whole or in part.

    Attributes:
        stand_in: give types that cannot be found a NamedTuple of the stored fields, and functions
            of frameworks that are not here a stand-in.
        overrides: what stands at a node instead of what is stored.
    """

    def __init__(self, index: Index, layout: Layout, where: str, *, stand_in: bool = False) -> None:
        super().__init__(index, layout, where)
        self.stand_in = stand_in
        self.overrides: dict[int, Any] = {}
        self._records: dict[int, Any] = {}
        self._built: dict[int, Any] = {}
        self._kept = {
            arg for kind, arg in zip(self.kind, self.arg, strict=True) if kind == Kind.SAME
        }

    def resolve(self, used: Iterable[int], given: Mapping[str, type]) -> None:
        """Find the class of each type.

        Those that stand only in fields that their class has no more need none.

        Args:
            used: numbers of types.
            given: classes by stored name, from ``types=`` or `like`.

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
            if standins.allowed(row, reason) and (self.stand_in or self._all_unused(number)):
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
        imports = [line for line in dict.fromkeys(map(lookup.import_line, rows)) if line]
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

    def build(self, roots: Sequence[int]) -> list[Any]:
        """Build the subtrees at `roots`; their leaves are in `leaf_values`, types resolved.

        Args:
            roots: nodes, for which `closure` was asked too.

        Raises:
            CorruptError: ``duplicate-key``, ``bad-scalar``.
            StructureError: ``supplied`` where the tree needs what only `like` can give.
        """
        self._require_like(roots)
        # SAME points backwards, so an earlier target never needs a later one.
        for target in sorted(set(self.closure(roots)) - set(roots)):
            self._build(target)
        return [self._build(root) for root in roots]

    def _build(self, root: int) -> Any:
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
                value = self._make(node, ())
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
                value = self._make(open_node, values)
                done = open_node
            node = following
        raise AssertionError("the layout was checked")  # pragma: no cover

    def _make(self, node: int, values: Sequence[Any]) -> Any:
        kind = self.kind[node]
        if kind == Kind.LEAF:
            return self.leaf_values[self.arg[node]]
        if kind == Kind.RECORD:
            try:
                return self._records[self.type[node]].make(values)
            except Exception as error:
                ours = isinstance(error, CheckpointError)
                what = str(error) if ours else f"{type(error).__name__}: {error}"
                raise UnknownTypeError(
                    f"{self.where}: {self.path(node)}: {self.row(node)} could not be made of what "
                    f"is stored: {what}",
                    reason=Reason.CANNOT_MAKE,
                ) from error
        container = _CONTAINERS.get(kind)
        if container is not None:
            return container(self, node, values)
        if kind == Kind.SAME:
            return self._built[self.arg[node]]
        if kind == Kind.ENUM:
            cls, name = self._records[self.type[node]], self.text(node)
            if isinstance(cls, standins.StandIn):
                return cls.make((name, values[0]))
            where = f"{self.where}: {self.row(node)}"
            return instances.enum_member(cls, name, values[0], where)
        if kind == Kind.SYMBOL:
            return self._symbol(node)
        if kind == Kind.DTYPE:
            return self.dtype(self.arg[node])
        if kind == Kind.SUPPLIED:
            return standins.Supplied(self.text(node))  # `_require_like` lets nothing else pass
        return self.scalar(node)

    def _require_like(self, roots: Sequence[int]) -> None:
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
            and not (self.stand_in and self._in_stand_in(node))
            and not self._is_unused(node)
        ]
        if missing:
            shown = missing[:_MISSING_SHOWN]
            places = zip(paths.format_paths(self, shown), shown, strict=True)
            listed = "; ".join(f"{path}: not stored ({self.text(node)})" for path, node in places)
            more = f"; … and {len(missing) - len(shown)} more" if len(missing) > len(shown) else ""
            raise StructureError(
                f"{self.where}: {listed}{more}; give it back by load(url, like=...), where `like` "
                "is such a tree made anew, or load the rest by select=",
                reason=Reason.SUPPLIED,
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
            if unused and self.layout.children(holder).index(node) in unused:
                return True
            node = holder
        return False

    def _symbol(self, node: int) -> Any:
        name = self.text(node)
        try:
            known = registry.adapter(registry.top_level(name))
            if known is not None:
                return known.symbol_named(name)
        except KeyError:
            pass
        except UnknownTypeError:
            if self.stand_in:
                return standins.Symbol(name)
            raise
        raise UnknownTypeError(
            f"{self.where}: {self.path(node)}: {name:.200} is not in the table of functions and "
            "scalar types that a checkpoint may name",
            reason=Reason.UNKNOWN_SYMBOL,
        )


def _make_dict(self: Rebuild, node: int, values: Sequence[Any]) -> Any:
    kind = self.kind[node]
    out: Any
    if kind == Kind.DICT:
        out = {}
    elif kind == Kind.ORDERED_DICT:
        out = collections.OrderedDict()
    else:
        name = self.text(node)
        if name not in encoding.FACTORIES:
            raise CorruptError(
                f"{self.where}: {name!r:.80} is no factory of a defaultdict",
                reason=Reason.BAD_SCALAR,
            )
        out = collections.defaultdict(encoding.FACTORIES[name])
    _refuse_crowd(self, node, values[::2])
    for key, value in zip(values[::2], values[1::2], strict=True):
        if key in out:
            raise CorruptError(
                f"{self.where}: {self.path(node)}: the key {encoding.printable(key):.80} "
                "stands twice",
                reason=Reason.DUPLICATE_KEY,
            )
        out[key] = value
    return out


def _refuse_crowd(self: Rebuild, node: int, keys: Sequence[Any]) -> None:
    if encoding.is_crowd(keys):
        raise CorruptError(
            f"{self.where}: {self.path(node)}: over {encoding.CROWD} keys of one hash",
            reason=Reason.TOO_MANY,
        )


def _make_set(self: Rebuild, node: int, values: Sequence[Any]) -> Any:
    _refuse_crowd(self, node, values)
    out = set(values)  # of kinds that `validate` lets be hashed
    if len(out) != len(values):
        raise CorruptError(
            f"{self.where}: {self.path(node)}: an item stands twice", reason=Reason.DUPLICATE_KEY
        )
    return out if self.kind[node] == Kind.SET else frozenset(out)


def _make_range(self: Rebuild, node: int, values: Sequence[Any]) -> Any:
    if not all(type(value) is int for value in values) or values[2] == 0:
        raise CorruptError(f"{self.where}: {self.path(node)}: no range", reason=Reason.BAD_SCALAR)
    return range(*values)


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

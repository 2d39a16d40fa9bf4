"""Dict keys and set items: the permitted ones, and their text in a path."""

from __future__ import annotations

import collections
import enum
from collections.abc import Collection
from typing import Any

from ckptstore.format import KEY_MAX_DEPTH, Kind
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.scalars import SCALAR_TYPES
from ckptstore.types import Refusal

CROWD = 100
"""The largest number of keys or items of one dict or set that may have the same hash."""

_MOST_NODES, _PER_PART = 1 << 12, 64
"""The nodes that the keys of one dict may have: so many, and so many for each distinct part."""

MOST_NAME = 1000
"""The characters of the name of an enum in a path, since many keys may be members of one."""

_LONG_INT = 10**1000
"""Larger ints are shown in hex, because Python refuses to print thousands of decimal digits."""


def text_of(table: NodeTable, node: int) -> str:
    """Return the text of the dict key at `node` in a path, equal in a live and in a stored tree.

    The nodes after the key may still be missing.
    """
    kind = table.kind[node]
    if kind == Kind.ENUM:  # by the stored name of the class, which the user may have registered
        return f"{table.row(node).name:.{MOST_NAME}}.{table.text(node)}"
    if kind not in (Kind.TUPLE, Kind.FROZENSET):
        return table.scalar_text(node)
    parts, at = [], node + 1
    for _ in range(table.arity[node]):
        parts.append(text_of(table, at))
        at = _end(table, at)
    if kind == Kind.FROZENSET:
        return f"frozenset({{{', '.join(sorted(parts))}}})"
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _end(table: NodeTable, node: int) -> int:
    """Return the node after a subtree; the layout of an unfinished table is not known yet."""
    left = 1
    while left:
        left += table.arity[node] - 1
        node += 1
    return node


def printable(scalar: Any) -> str:
    """Return the text of a scalar that is a dict key, or a part of one."""
    huge = type(scalar) is int and abs(scalar) >= _LONG_INT
    return hex(scalar) if huge else repr(scalar)


def refuse_unfit(keys: Collection[Any]) -> None:
    """Raise Refusal if some of these cannot be the keys of a dict or the items of a set."""
    if not SCALAR_TYPES.issuperset(map(type, keys)):
        _Measure().refuse_unfit(keys)
    if is_crowd(keys):
        raise Refusal(f"over {CROWD} keys or items have one hash; store them in a list")


def is_crowd(keys: Collection[Any]) -> bool:
    """Return whether so many keys have one hash that making a dict of them would take forever."""
    if _NESTING.isdisjoint(map(type, keys)):
        return len(keys) > CROWD and _crowd(keys) > CROWD
    return _crowd(keys) * max(map(_comparisons, keys), default=1) > CROWD


_NESTING = frozenset({tuple, frozenset})


def _comparisons(key: Any) -> int:
    """Return how many items with the hash of a part of `key` one comparison may have to look at.

    Equal hashes inside frozensets inside frozensets multiply.
    """
    if type(key) is tuple:
        return max(map(_comparisons, key), default=1)
    if type(key) is frozenset:
        return _crowd(key) * max(map(_comparisons, key), default=1)
    return 1


def _crowd(keys: Collection[Any]) -> int:
    """Return how many of some keys have one hash, at most."""
    return max(collections.Counter(map(hash, keys)).values(), default=1)


class _Measure:
    """The check of keys; an object that stands in many of them is looked at once."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}  # levels and nodes of each object, by id
        self._parts = 0

    def refuse_unfit(self, keys: Collection[Any]) -> None:
        """Raise Refusal for a key of another type, nested too deep, or of endlessly many parts."""
        nodes = sum(self._look(key, 0)[1] for key in keys)
        if nodes > _MOST_NODES + _PER_PART * (len(keys) + self._parts):
            raise Refusal(
                "dict keys or set items that hold one object again and again, and would be written "
                f"as {nodes:,} nodes; make them flatter"
            )

    def _look(self, key: Any, depth: int) -> tuple[int, int]:
        cls = type(key)
        levels, _ = self._seen.get(id(key), (0, 1))
        if depth + levels > KEY_MAX_DEPTH:
            raise Refusal(
                f"a dict key or set item nested over {KEY_MAX_DEPTH} deep; make it flatter"
            )
        if cls in SCALAR_TYPES or issubclass(cls, enum.Enum):
            return 0, 1
        if cls is not tuple and cls is not frozenset:
            raise Refusal(
                f"a dict key or set item of type {cls.__module__}.{cls.__qualname__} cannot be "
                "saved; use str, int, float, bytes, bool, None, an Enum member or a tuple of "
                "these"
            )
        if id(key) not in self._seen:
            parts = [self._look(part, depth + 1) for part in key]
            levels = 1 + max((n for n, _ in parts), default=-1)
            self._parts += len(parts)
            self._seen[id(key)] = levels, 1 + sum(n for _, n in parts)
        return self._seen[id(key)]

"""Dict keys and set items: the permitted ones, their order, and their text in a path."""

from __future__ import annotations

import collections
import enum
import struct
from collections.abc import Collection
from typing import Any

from ckptstore.format import KEY_MAX_DEPTH, Kind
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.scalars import SCALAR_TYPES, int_bytes
from ckptstore.types import Refusal

CROWD = 100
"""The largest number of keys or items of one dict or set that may have the same hash."""

_LONG_INT = 10**1000
"""Larger ints are shown in hex, because Python refuses to print thousands of decimal digits."""


def text_of(table: NodeTable, node: int) -> str:
    """Return the text of the dict key at `node` in a path, equal in a live and in a stored tree.

    The nodes after the key may still be missing.
    """
    kind = table.kind[node]
    if kind == Kind.ENUM:  # by the stored name of the class, which the user may have registered
        return f"{table.row(node).name}.{table.text(node)}"
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
    for key in keys:
        _check(key)
    if is_crowd(keys):
        raise Refusal(f"over {CROWD} keys or items have one hash; store them in a list")


def is_crowd(keys: Collection[Any]) -> bool:
    """Return whether so many keys have one hash that making a dict of them would take forever."""
    if len(keys) <= CROWD:
        return False
    return collections.Counter(map(hash, keys)).most_common(1)[0][1] > CROWD


def set_order(item: Any) -> tuple[str, bytes]:
    """Return a sort key for items of any mixture of types, which depends only on their values."""
    if type(item) in (tuple, frozenset):
        parts = item if type(item) is tuple else sorted(item, key=set_order)
        return type(item).__qualname__, repr([set_order(part) for part in parts]).encode()
    if isinstance(item, enum.Enum):
        return type(item).__qualname__, repr(item._name_).encode()
    if type(item) in (float, complex):
        return type(item).__qualname__, struct.pack("<dd", complex(item).real, complex(item).imag)
    if type(item) is int:
        return "int", int_bytes(item)
    return type(item).__qualname__, repr(item).encode("utf-8", "surrogatepass")


def _check(key: Any, depth: int = 0) -> None:
    cls = type(key)
    if depth > KEY_MAX_DEPTH:
        raise Refusal(f"a dict key or set item nested over {KEY_MAX_DEPTH} deep; make it flatter")
    if cls in SCALAR_TYPES or issubclass(cls, enum.Enum):
        return
    if cls is tuple or cls is frozenset:
        for part in key:
            _check(part, depth + 1)
        return
    raise Refusal(
        f"a dict key or set item of type {cls.__module__}.{cls.__qualname__} cannot be saved; "
        "use str, int, float, bytes, bool, None, an Enum member or a tuple of these"
    )

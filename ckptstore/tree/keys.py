"""Dict keys in a table of nodes: their text in a path."""

from __future__ import annotations

from typing import Any

from ckptstore.format import Kind
from ckptstore.tree.nodes import NodeTable

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

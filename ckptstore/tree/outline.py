"""The outline of a tree: a line for each node, in an order that dict entries do not change.

The processes of one save compare their trees by it: the same structure and the same scalars give
the same outline. The values of arrays, and the devices on which they lie, are not in it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from ckptstore.digests import Digest, digest
from ckptstore.format import DICT_KINDS, Kind, TypeRow
from ckptstore.texts import shown
from ckptstore.tree import paths
from ckptstore.tree.entries import by_key
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.scalars import DECODERS, decode

_PLACES = frozenset({"committed", "device", "devices", "memory", "mesh", "spec"})
"""The entries of `extra` that name devices, which differ between processes."""

_SHOWN = 60
_OWN = "a value of each process"
_UTF8 = ("utf-8", "surrogatepass")


_Came = tuple[int, int, int]
"""The place of a parent in the outline, the position below it, and the child before."""


@dataclass(frozen=True)
class Outline:
    """The nodes of a tree in the order of the printed keys.

    Attributes:
        table: the tree.
        nodes: the nodes in that order. A shared object stands where it is met first.
        lines: the description of each of them.
        leaves: the numbers of the leaves, in that order.
        leaf_places: the place of each leaf in `nodes`.
        own: the nodes of the values that each process has of its own, in that order. What lies in
            them is not in the outline.
    """

    table: NodeTable
    nodes: Sequence[int]
    lines: Sequence[str]
    leaves: Sequence[int]
    leaf_places: Sequence[int]
    own: Sequence[int]
    _came: Sequence[_Came]

    @functools.cached_property
    def digest(self) -> Digest:
        """The digest of the lines and of the shape of the tree."""
        arity, own = self.table.arity, set(self.own)
        rows = zip(self.nodes, self.lines, strict=True)
        text = "\0".join(f"{0 if node in own else arity[node]} {line}" for node, line in rows)
        return digest(text.encode(*_UTF8))

    def differences(self, other: Outline, here: str, there: str) -> tuple[list[str], bool]:
        """Return a line for each path at which two trees differ, and whether only values do.

        Args:
            other: the outline of the other tree.
            here: the name of the process of this tree, in the lines.
            there: the name of the process of the other tree.
        """
        mine, theirs = self._by_path(), other._by_path()
        lines, are_values = list[str](), mine.keys() == theirs.keys()
        for path, (kind, line) in mine.items():
            if path not in theirs:
                lines.append(f"{path}: {line} in {here}, not in {there}")
            elif theirs[path] != (kind, line):
                lines.append(f"{path}: {line} in {here}, {theirs[path][1]} in {there}")
                are_values = are_values and kind == theirs[path][0] and kind in DECODERS
        new = (path for path in theirs if path not in mine)
        lines += [f"{path}: {theirs[path][1]} in {there}, not in {here}" for path in new]
        return lines, are_values

    def path(self, place: int) -> str:
        """Return the path of the node at a place of `nodes`."""
        steps = []
        while place:
            parent, position, previous = self._came[place]
            steps.append(paths.step(self.table, self.nodes[parent], position, previous))
            place = parent
        return "$" + "".join(reversed(steps))

    def _by_path(self) -> dict[str, tuple[int, str]]:
        """Return the kind and the line of each node but those of keys, by its path."""
        texts, own = ["$"] * len(self.nodes), set(self.own)

        def kind(node: int) -> int:
            return Kind.RECORD if node in own else self.table.kind[node]

        out = {"$": (kind(self.nodes[0]), self.lines[0])}
        first: dict[int, int] = {}
        for place in range(1, len(self.nodes)):
            parent, position, previous = self._came[place]
            step = paths.step(self.table, self.nodes[parent], position, previous)
            texts[place] = "" if step.startswith("{key ") or not texts[parent] else texts[parent]
            if texts[place]:
                texts[place] += step
                node = self.nodes[place]
                before = first.setdefault(node, place)
                line = self.lines[place] if before == place else f"the object of {texts[before]}"
                out[texts[place]] = kind(node), line
        return out


def outline_of(table: NodeTable) -> Outline:
    """Return the outline of a tree.

    Args:
        table: the tree, of objects or of a checkpoint.
    """
    line = _Lines(table)
    nodes, lines, came = list[int](), list[str](), list[_Came]()
    leaves, leaf_places, own = list[int](), list[int](), list[int]()
    is_own = set(table.own)
    places: dict[int, int] = {}  # the place in the outline of each node that was met
    todo = [(0, (0, 0, 0))]
    while todo:
        node, how = todo.pop()
        node = table.target(node)
        place = len(nodes)
        first = places.setdefault(node, place)
        nodes.append(node)
        came.append(how)
        if first < place:
            lines.append(f"the object {first}")
            continue
        if node in is_own:
            lines.append(_OWN)
            own.append(node)
            continue
        lines.append(line.of(node))
        leaf = table.arg[node] if table.kind[node] == Kind.LEAF else table.long_scalars.get(node)
        if leaf is not None:
            leaves.append(leaf)
            leaf_places.append(place)
        if table.arity[node]:
            below = [(n, (place, at, before)) for n, at, before in _children(table, node)]
            todo.extend(reversed(below))
    return Outline(table, nodes, lines, leaves, leaf_places, own, came)


def _children(table: NodeTable, node: int) -> list[tuple[int, int, int]]:
    """Return each child, its position and the child before; dicts by their printed keys."""
    children = table.layout.children(node)
    rows = list(zip(children, range(len(children)), [-1, *children], strict=False))
    if table.kind[node] not in (Kind.DICT, Kind.DEFAULT_DICT):
        return rows
    position = {child: at for child, at, _ in rows}
    ordered = [position[value] for _, value in sorted(by_key(table, children).items())]
    return [rows[at] for value in ordered for at in (value - 1, value)]


class _Lines:
    """Makes the lines of a tree; those of types and dtypes are made once."""

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self._type = functools.cache(lambda number: _text_of(table.types[number - 1]))
        self._dtype = functools.cache(lambda number: str(table.dtype(number)))
        self._rows: dict[int, str] = {}

    def of(self, node: int) -> str:
        table, kind = self._table, Kind(self._table.kind[node])
        if kind == Kind.LEAF:
            row, dtype, shape = table.leaf(table.arg[node])
            text = self._rows.get(id(row))  # the table keeps the row
            if text is None:
                text = self._rows[id(row)] = _text_of(row)
            return f"{text} {dtype}{list(shape)}"
        if (leaf := table.long_scalars.get(node)) is not None:
            return f"{kind.name.lower()} of {table.leaf(leaf)[2][0]} bytes"
        if kind in DECODERS:
            return _scalar(table, node)
        if kind == Kind.DTYPE:
            return f"dtype {self._dtype(table.arg[node])}"
        if kind == Kind.SUPPLIED:
            return "supplied"
        parts = [kind.name.lower()]
        if kind not in DICT_KINDS and kind != Kind.RECORD:
            parts.append(f"of {table.arity[node]}")
        if table.type[node]:
            parts.append(self._type(table.type[node]))
        if kind == Kind.ORDERED_DICT:
            keys = ", ".join(map(table.key, table.layout.children(node)[::2]))
            parts.append(f"of {shown(keys)} {digest(keys.encode(*_UTF8)).hex()[:8]}")
        if table.data(node):
            parts.append(shown(table.text(node)))
        return " ".join(parts)


def _scalar(table: NodeTable, node: int) -> str:
    data = table.data(node)
    text = repr(decode(table, node, data))
    if len(text) <= _SHOWN:
        return text
    return f"{shown(text, _SHOWN)} of {len(data)} bytes, {digest(data).hex()[:16]}"


def _text_of(row: TypeRow) -> str:
    extra = {name: value for name, value in row.extra.items() if name not in _PLACES}
    fields = f"({', '.join(row.fields)})" if row.fields else ""
    return f"{row}{fields}" + (f" {sorted(extra.items())}" if extra else "")

"""Tables that are put together of parts of others, for a tree with the values of all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.format import Index, Kind, Leaves, Nodes, Spans, TypeKind, TypeRow, lay_out
from ckptstore.tree.own_values import PerProcess
from ckptstore.tree.stored import StoredTree
from ckptstore.types import class_row


@dataclass(frozen=True, slots=True)
class _New:
    """A node that no table has yet."""

    kind: Kind
    arity: int
    row: TypeRow | None = None


_Range = tuple[int, int, int]
"""Nodes to copy: the number of their table, the first node, and the one after the last."""


def extracted(tables: Index, nodes: Sequence[int]) -> tuple[Index, list[int]]:
    """Return the tables of a tuple of values, and the number that each leaf of it had.

    Args:
        tables: the tables of a tree.
        nodes: its nodes whose values are taken out, each with all below it.
    """
    end = lay_out(tables.nodes.arity.tolist(), where="per_process").end
    rows: list[_New | _Range] = [_New(Kind.TUPLE, len(nodes))]
    rows += [(0, node, end[node]) for node in nodes]
    values, came = _arranged([tables], rows)
    return values, [leaf for _, leaf in came]


def joined(
    tables: Index, nodes: Sequence[int], others: Sequence[Index] = ()
) -> tuple[Index, Mapping[tuple[int, int], int]]:
    """Return the tables of a tree with the values of all processes.

    Args:
        tables: the tables of process 0.
        nodes: the nodes of its own values, in any order.
        others: for each other process the tables that `extracted` returns, with the values in the
            same order.

    Returns:
        The tables without spans, and the new number of each leaf, by the number of its process and
        its number there.
    """
    row = class_row(PerProcess, TypeKind.DATACLASS, ("values",))
    end = lay_out(tables.nodes.arity.tolist(), where="per_process").end
    values: dict[int, list[_Range]] = {node: [] for node in nodes}
    for process, own in enumerate(others, 1):
        layout = lay_out(own.nodes.arity.tolist(), where=f"the values of process {process}")
        for node, child in zip(nodes, layout.children(0), strict=True):
            values[node].append((process, child, layout.end[child]))
    rows: list[_New | _Range] = []
    at = 0
    for node, more in sorted(values.items()):
        rows += [(0, at, node), _New(Kind.RECORD, 1, row), _New(Kind.TUPLE, 1 + len(more))]
        rows += [(0, node, end[node]), *more]
        at = end[node]
    rows.append((0, at, len(tables.nodes)))
    merged, came = _arranged([tables, *others], rows)
    return merged, {leaf: number for number, leaf in enumerate(came)}


def _arranged(
    sources: Sequence[Index], rows: Sequence[_New | _Range]
) -> tuple[Index, list[tuple[int, int]]]:
    """Return tables of nodes of others, and for each leaf its table and its number there."""
    made = _Arranged(sources)
    for row in rows:
        if isinstance(row, _New):
            number = 0 if row.row is None else made.type_number(row.row)
            made.add(row.kind, row.arity, number, 0, b"")
        else:
            made.copy(*row)
    return made.tables(), made.came


class _Arranged:
    """Tables that are put together of the nodes of others."""

    def __init__(self, sources: Sequence[Index]) -> None:
        self._sources = [StoredTree(s, lay_out([0], where=""), "per_process") for s in sources]
        self._columns: list[tuple[int, int, int, int]] = []
        self._heap: list[bytes] = []
        self._nodes: dict[tuple[int, int], int] = {}
        self._types: dict[str, int] = {}
        self._rows: list[TypeRow] = []
        self._dtypes: dict[str, int] = {}
        self._stored: list[Any] = []
        self._leaves: list[tuple[int, int]] = []
        self.came: list[tuple[int, int]] = []

    def type_number(self, row: TypeRow) -> int:
        """Return the number of a type, from 1."""
        number = self._types.setdefault(repr(row), len(self._rows) + 1)
        if number > len(self._rows):
            self._rows.append(row)
        return number

    def _dtype_number(self, stored: Any) -> int:
        number = self._dtypes.setdefault(repr(stored), len(self._stored))
        if number == len(self._stored):
            self._stored.append(stored)
        return number

    def add(self, kind: int, arity: int, type_: int, arg: int, data: bytes) -> None:
        """Add a node."""
        self._columns.append((kind, arity, type_, arg))
        self._heap.append(data)

    def copy(self, number: int, start: int, end: int) -> None:
        """Add nodes of a table."""
        tree = self._sources[number]
        for node in range(start, end):
            kind, arg = tree.kind[node], tree.arg[node]
            self._nodes[number, node] = len(self._columns)
            if kind == Kind.LEAF:
                arg = self._leaf(number, arg)
            elif node in tree.long_scalars:
                arg = 1 + self._leaf(number, arg - 1)
            elif kind == Kind.DTYPE:
                arg = self._dtype_number(tree.index.dtypes[arg])
            elif kind == Kind.SAME:
                arg = self._nodes[number, arg]
            type_ = tree.type[node]
            type_ = self.type_number(tree.types[type_ - 1]) if type_ else 0
            self.add(kind, tree.arity[node], type_, arg, tree.data(node))

    def _leaf(self, number: int, leaf: int) -> int:
        row, stored, _ = self._sources[number].leaf(leaf)
        self._leaves.append((self.type_number(row), self._dtype_number(stored)))
        self.came.append((number, leaf))
        return len(self.came) - 1

    def tables(self) -> Index:
        """Return the tables, without spans."""
        kind, arity, type_, arg = np.array(self._columns, np.int64).reshape(-1, 4).T
        size = np.array([len(data) for data in self._heap], np.int64)
        nodes = Nodes(kind, arity, type_, arg, size, b"".join(self._heap))
        of_type, of_dtype = np.array(self._leaves, np.int64).reshape(-1, 2).T
        axes = [_axes(tree.index.leaves) for tree in self._sources]
        shapes = [axes[number][leaf] for number, leaf in self.came]
        leaves = Leaves(
            of_type,
            of_dtype,
            np.array([len(dims) for dims, _, _ in shapes], np.int64),
            *(np.array([n for shape in shapes for n in shape[i]], np.int64) for i in range(3)),
        )
        none = np.zeros(0, np.int64)
        return Index(
            self._rows, self._stored, nodes, leaves, Spans(none, none, none, none, none, [])
        )


def _axes(leaves: Leaves) -> list[tuple[list[int], list[int], list[int]]]:
    """Return the lengths, the numbers of pieces and the cuts of each leaf."""
    dims, grid, cuts = leaves.dims.tolist(), leaves.grid.tolist(), leaves.cuts.tolist()
    rows, at, cut = list[tuple[list[int], list[int], list[int]]](), 0, 0
    for ndim in leaves.ndim.tolist():
        pieces = grid[at : at + ndim]
        many = sum(pieces) - ndim
        rows.append((dims[at : at + ndim], pieces, cuts[cut : cut + many]))
        at, cut = at + ndim, cut + many
    return rows

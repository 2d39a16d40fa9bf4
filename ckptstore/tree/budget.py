"""The bound on the work of making records, so that a shared node cannot cost more than its bytes.

Most records keep their children as they are. Some look into them: a deque copies the items of its
list, jax hashes all parts of a PartitionSpec. Children may be SAME nodes, so without a bound a file
of n nodes could ask for n² steps, or for 2^n. Spec: section 8.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ckptstore.format import Kind
from ckptstore.tree.nodes import NodeTable
from ckptstore.types import Record

PER_NODE = 64
_LEAST = 1 << 16
_PER_KEY = 4


class Budget:
    """The steps that the records of one tree may still take.

    Args:
        table: the nodes.
    """

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self._most = PER_NODE * len(table.kind) + _LEAST
        self._spent = 0

    def allows(self, node: int, record: Record, values: Sequence[Any]) -> bool:
        """Take the steps for making a record off, and return whether there were enough.

        Args:
            node: the node of the record.
            record: the record.
            values: its children, already made.
        """
        if record.reads in ("items", "last"):
            children = self._table.layout.children(node)
            pairs = zip(children, values, strict=True)
            shared = [x for child, x in pairs if self._table.kind[child] == Kind.SAME]
            self._spent += sum(map(_size, shared))
        if record.reads in ("everything", "last"):
            return self.allows_whole(node, record.reads)
        return self._spent <= self._most

    def allows_whole(self, node: int, reads: str) -> bool:
        """Take off the steps for reading everything at a record, or below its last child.

        Args:
            node: the node of the record.
            reads: ``"everything"`` or ``"last"``.

        Returns:
            Whether there were enough.
        """
        times = 1
        if reads == "last":  # keys, which are looked at, measured and hashed more than once
            node, times = self._table.layout.children(node)[-1], _PER_KEY
        end = self._table.layout.end[node]
        shares = Kind.SAME in self._table.kind[node:end]
        self._spent += times * (self._sizes[node] if shares else end - node)
        return self._spent <= self._most

    @functools.cached_property
    def _sizes(self) -> list[int]:
        """How many nodes a tree without SAME would have at each node, or over the budget."""
        kind, arg, layout = self._table.kind, self._table.arg, self._table.layout
        sizes, is_open = [1] * len(kind), list[int]()
        for node in range(len(kind)):
            while is_open and layout.end[is_open[-1]] <= node:
                self._close(is_open.pop(), sizes)
            if kind[node] == Kind.SAME:
                sizes[node] = sizes[arg[node]]  # which ended before
            is_open.append(node)
        while is_open:
            self._close(is_open.pop(), sizes)
        return sizes

    def _close(self, node: int, sizes: list[int]) -> None:
        parent = self._table.layout.parent[node]
        if parent >= 0:
            sizes[parent] = min(sizes[parent] + sizes[node], self._most + 1)


def _size(x: Any) -> int:
    if type(x) is int:
        return x.bit_length() // 8
    return len(x) if type(x) in _SIZED else 0


_SIZED = (str, bytes, bytearray, tuple, list, dict, set, frozenset)

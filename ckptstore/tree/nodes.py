"""The table of nodes: the common part of a tree of live objects and a tree in a checkpoint.

A tree is a flat table in preorder with child counts. Spec: sections 5.2 and 5.3.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ckptstore.errors import CorruptError, Reason
from ckptstore.format import BLOB_KINDS, Kind, Layout, TypeKind, TypeRow
from ckptstore.format.dtypes import Stored


class NodeTable(abc.ABC):
    """A table of nodes, its columns as lists. `LiveTree` and `StoredTree` are the two kinds.

    Attributes:
        where: the tree, for messages.
        kind, arity, type, arg: the columns.
        types: the rows of the table of types; `type` counts them from 1.
        layout: the position of each node of a finished table.
        own: the nodes of values that each process has of its own, in order.
    """

    where: str
    kind: list[int]
    arity: list[int]
    type: list[int]
    arg: list[int]
    types: Sequence[TypeRow]
    layout: Layout
    own: Sequence[int] = ()

    @abc.abstractmethod
    def data(self, node: int) -> bytes:
        """Return the bytes of a node in the heap, which has none of a long scalar."""

    @abc.abstractmethod
    def key(self, node: int) -> str:
        """Return the text of the dict key at `node` in a path."""

    @abc.abstractmethod
    def scalar_text(self, node: int) -> str:
        """Return the text of a scalar in a dict key."""

    @abc.abstractmethod
    def leaf(self, number: int) -> tuple[TypeRow, Stored, tuple[int, ...]]:
        """Return the type, dtype and shape of a leaf."""

    @abc.abstractmethod
    def dtype(self, number: int) -> np.dtype[Any]:
        """Return a dtype of the table of dtypes."""

    def row(self, node: int) -> TypeRow:
        """Return the type of a node that has one."""
        return self.types[self.type[node] - 1]

    def is_wrapper(self, node: int) -> bool:
        """Return whether a node has a content, its first child, which has the node's own path."""
        if self.kind[node] != Kind.RECORD:
            return False
        row = self.row(node)
        wraps = row.extra.get("wraps") is True and row.kind != TypeKind.PYTREE
        return wraps and bool(row.fields)

    def target(self, node: int) -> int:
        """Return the node itself, or the target of a SAME node."""
        return self.arg[node] if self.kind[node] == Kind.SAME else node

    def text(self, node: int) -> str:
        """Return the text of a node: the name of a factory, a symbol or an enum's member."""
        try:
            return self.data(node).decode()
        except UnicodeDecodeError:
            raise CorruptError(
                f"{self.where}: node {node} is not valid UTF-8", reason=Reason.BAD_SCALAR
            ) from None

    @functools.cached_property
    def long_scalars(self) -> dict[int, int]:
        """The leaf of each scalar that is too long for the heap, by node."""
        rows = enumerate(zip(self.kind, self.arg, strict=True))
        return {node: arg - 1 for node, (kind, arg) in rows if arg and kind in BLOB_KINDS}

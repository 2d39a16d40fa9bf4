"""The contents of a checkpoint, as a listing shows them: arrays, numbers and shared objects."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from ckptstore.errors import CorruptError, listed
from ckptstore.format import DICT_KINDS, Kind, TypeKind, dtypes
from ckptstore.texts import shown
from ckptstore.tree import StoredTree, paths

_LINES_SHOWN = 100
_VALUE_SHOWN = 80
_VALUES = {Kind.BOOL, Kind.INT, Kind.FLOAT, Kind.COMPLEX, Kind.STR, Kind.BYTES}
_HIDDEN = {Kind.ENUM, Kind.SET, Kind.FROZENSET, Kind.SLICE, Kind.RANGE}
"""The containers whose children are not places of their own."""


@dataclass(frozen=True, slots=True)
class LeafInfo:
    """One array of a checkpoint.

    Attributes:
        path: its path in the tree.
        type: the array's type, such as ``jax.Array``.
        dtype: its dtype, by the name in the format.
        shape: its stored shape (a PRNG key's ends with the axes of its data).
        nbytes: its size in the data files, in bytes.
        key: for an array of PRNG keys of jax, their implementation, such as ``threefry2x32``.
        same: the other paths at which the same array stands, such as those of a tied weight; the
            first 100 of them.
        elements: the number of its elements.
        digests: the digest of each of its spans, cell by cell. Equal digests of equal shapes,
            dtypes and cuts are equal bits; `ArrayNode.digest` is one text for all of that.

    Example:
        >>> import ckptstore, numpy as np
        >>> [leaf] = ckptstore.save("ckpt", {"w": np.zeros((2, 3)), "step": 7}).leaves
        >>> leaf.path, leaf.type, leaf.dtype, leaf.shape, leaf.nbytes
        ("$['w']", 'numpy.ndarray', 'float64', (2, 3), 48)

    Source: docs/spec.md, section 5.
    """

    path: str
    type: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    key: str | None = None
    same: tuple[str, ...] = ()
    elements: int = 0
    digests: tuple[str, ...] = ()


class Leaves(Sequence[LeafInfo]):
    """The arrays of a tree. Their paths may be much longer than the file, so none is kept."""

    def __init__(self, tree: StoredTree) -> None:
        index = tree.index
        self._tree = tree
        self._ties: dict[int, list[int]] = {}
        for node, kind in enumerate(tree.kind):
            if kind == Kind.SAME and tree.kind[tree.arg[node]] == Kind.LEAF:
                self._ties.setdefault(tree.arg[node], []).append(node)
        impls = (row.extra.get("impl") for row in index.types)
        self._keys = [impl if isinstance(impl, str) else None for impl in impls]
        self._nodes = [node for node, kind in enumerate(tree.kind) if kind == Kind.LEAF]
        self._types = [str(row) for row in index.types]
        self._dtypes = [dtypes.text(stored) for stored in index.dtypes]
        nbytes = np.zeros(len(index.leaves), np.int64)
        np.add.at(nbytes, index.spans.leaf, index.spans.size)
        columns = (index.leaves.type, index.leaves.dtype, nbytes)
        self._rows = list(zip(*(column.tolist() for column in columns), strict=True))

    @functools.cached_property
    def _places(self) -> paths.Places:
        same = itertools.chain.from_iterable(self._ties.values())
        return paths.Places(self._tree, [*self._nodes, *same])

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, number: int) -> LeafInfo: ...
    @overload
    def __getitem__(self, number: slice) -> list[LeafInfo]: ...
    def __getitem__(self, number: int | slice) -> LeafInfo | list[LeafInfo]:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        node = self._nodes[number]
        leaf = self._tree.arg[node]
        type_, dtype, nbytes = self._rows[leaf]
        shape = self._tree.index.shape(leaf)
        return LeafInfo(
            self._places.path(node),
            self._types[type_ - 1],
            self._dtypes[dtype],
            shape,
            nbytes,
            self._keys[type_ - 1],
            tuple(map(self._places.path, self._ties.get(node, ())[:_LINES_SHOWN])),
            math.prod(shape),
            self._tree.digests(leaf),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        lines = [shown(repr(leaf), 1000) for leaf in self[:_LINES_SHOWN]]
        return f"[{', '.join(listed(lines, len(lines), len(self) - len(lines)))}]"


def lines_of(tree: StoredTree, leaves: Leaves) -> list[str]:
    """Return the lines of the arrays, then of the numbers and texts, then of the shared objects."""
    values, same = _other_nodes(tree)
    targets = [tree.arg[node] for node in same[:_LINES_SHOWN]]
    places = paths.Places(tree, [*values[:_LINES_SHOWN], *same[:_LINES_SHOWN], *targets])

    def path(node: int) -> str:
        return shown(places.path(node))

    return [
        *_cut([f"{shown(x.path)}  {_leaf_text(x)}" for x in leaves[:_LINES_SHOWN]], len(leaves)),
        *_cut([f"{path(n)}  {_value_text(tree, n)}" for n in values[:_LINES_SHOWN]], len(values)),
        *_cut(
            [
                f"{path(node)}  the same object as {path(tree.arg[node])}"
                for node in same[:_LINES_SHOWN]
            ],
            len(same),
        ),
    ]


def _cut(lines: list[str], count: int) -> list[str]:
    return listed(lines, len(lines), count - len(lines))


def _other_nodes(tree: StoredTree) -> tuple[list[int], list[int]]:
    """Return the nodes of the numbers and texts, and those of objects that stand somewhere else."""
    values, same = list[int](), list[int]()
    hidden = 0  # the end of a dict key, or of a container whose children are not places
    root = (0, -1, 0, -1)
    for node, parent, position, _ in itertools.chain([root], paths.walk(tree)):
        if node < hidden:
            continue
        kind = tree.kind[node]
        is_key = parent >= 0 and tree.kind[parent] in DICT_KINDS and position % 2 == 0
        is_static = parent >= 0 and position == 0 and _is_pytree(tree, parent)
        if is_key or is_static or kind in _HIDDEN:
            hidden = tree.layout.end[node]
        elif kind == Kind.SAME:
            same.append(node)
        elif kind in _VALUES:
            values.append(node)
    return values, same


def _is_pytree(tree: StoredTree, node: int) -> bool:
    return tree.kind[node] == Kind.RECORD and tree.row(node).kind == TypeKind.PYTREE


def _leaf_text(leaf: LeafInfo) -> str:
    key = "" if leaf.key is None else f"PRNG key {shown(str(leaf.key))}, "
    return f"{key}{shown(leaf.dtype)}[{','.join(map(str, leaf.shape))}]  {shown(leaf.type)}"


def _value_text(tree: StoredTree, node: int) -> str:
    if node in tree.long_scalars:
        return f"a long {Kind(tree.kind[node]).name.lower()}"
    try:
        return shown(tree.scalar_text(node), _VALUE_SHOWN)
    except CorruptError:
        return f"an invalid {Kind(tree.kind[node]).name.lower()}"

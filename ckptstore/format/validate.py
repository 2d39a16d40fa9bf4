"""The checks that make an index safe to build from. Spec: section 5.6, in its order.

All of them run before a byte of a data file is read and before any memory is taken for a leaf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ckptstore.errors import CorruptError, Reason
from ckptstore.format import dtypes, wire
from ckptstore.format.index import (
    BLOB_KINDS,
    DICT_KINDS,
    KEY_MAX_DEPTH,
    LARGE_ALIGNMENT,
    LARGE_NBYTES,
    SMALL_ALIGNMENT,
    SPAN_MAX_NBYTES,
    Index,
    Integers,
    Kind,
    TypeKind,
    decode_tables,
)
from ckptstore.format.layout import Layout, lay_out
from ckptstore.format.manifest import File

_NO_CHILDREN = (
    *(Kind.NONE, Kind.BOOL, Kind.INT, Kind.FLOAT, Kind.COMPLEX, Kind.STR, Kind.SURROGATE_STR),
    *(Kind.BYTES, Kind.BYTEARRAY, Kind.ELLIPSIS, Kind.SYMBOL, Kind.DTYPE),
    *(Kind.LEAF, Kind.SAME, Kind.SUPPLIED),
)
_FIXED_ARITY = {**dict.fromkeys(_NO_CHILDREN, 0), Kind.SLICE: 3, Kind.RANGE: 3, Kind.ENUM: 1}
_TYPED = {
    Kind.ENUM: (TypeKind.ENUM,),
    Kind.RECORD: (TypeKind.NAMEDTUPLE, TypeKind.DATACLASS, TypeKind.OBJECT, TypeKind.PYTREE),
}
_WITH_TYPE = tuple(_TYPED)
_WITH_ARG = (*BLOB_KINDS, Kind.BOOL, Kind.DTYPE, Kind.LEAF, Kind.SAME)
_NAMED = (Kind.ENUM, Kind.SYMBOL, Kind.DEFAULT_DICT, Kind.SUPPLIED)
_WITH_BYTES = (*BLOB_KINDS, *_NAMED, Kind.FLOAT, Kind.COMPLEX)
_HASHING = (Kind.SET, Kind.FROZENSET, Kind.ENUM)
_KEYS = (
    *(Kind.NONE, Kind.BOOL, Kind.INT, Kind.FLOAT, Kind.COMPLEX, Kind.STR, Kind.SURROGATE_STR),
    *(Kind.BYTES, Kind.ELLIPSIS, Kind.ENUM, Kind.TUPLE, Kind.FROZENSET),
)
SCALAR = ("ckptstore", "scalar")
"""Module and name of the type of the leaves that hold long scalars."""


def decode_index(
    parts: Sequence[bytes], files: Sequence[File], *, where: str
) -> tuple[Index, Layout]:
    """Decode and check the whole index.

    Args:
        parts: the inline index, if any, then the index files in the order of the table of files.
        files: the table of files, which the spans must fill.
        where: the place, for messages.

    Raises:
        CorruptError: with the reason of the first check that fails.
    """
    index = decode_tables(parts, where=where)
    where = f"{where}: index"
    tree = lay_out(index.nodes.arity.tolist(), where=where)
    _check_nodes(index, tree, where)
    cell_nbytes = _check_leaves(index, where)
    _check_spans(index, files, cell_nbytes, where)
    return index, tree


def _fail(where: str, message: str, reason: str) -> CorruptError:
    return CorruptError(f"{where}: {message}", reason=reason)


def _check_nodes(index: Index, tree: Layout, where: str) -> None:
    nodes, kind = index.nodes, index.nodes.kind

    def of(*kinds: Kind) -> Any:
        return np.isin(kind, kinds)

    def refuse_if(bad: Any, message: str) -> None:
        if bad.any():
            node = int(np.argmax(bad))
            raise _fail(where, f"node {node} of kind {int(kind[node])}: {message}", Reason.BAD_NODE)

    refuse_if(~of(*Kind), "unknown kind")
    for each, arity in _FIXED_ARITY.items():
        refuse_if((kind == each) & (nodes.arity != arity), f"expected {arity} children")
    refuse_if(of(*DICT_KINDS) & (nodes.arity % 2 == 1), "a key has no value")
    refuse_if(~of(*_WITH_TYPE) & (nodes.type > 0), "no type expected")
    refuse_if(~of(*_WITH_ARG) & (nodes.arg > 0), "no argument expected")
    refuse_if((kind == Kind.BOOL) & (nodes.arg > 1), "neither true nor false")
    refuse_if(~of(*_WITH_BYTES) & (nodes.size > 0), "no bytes expected")
    refuse_if(of(*BLOB_KINDS) & (nodes.arg > 0) & (nodes.size > 0), "its bytes stand in two places")
    refuse_if((kind == Kind.FLOAT) & (nodes.size != 8), "8 bytes expected")
    refuse_if((kind == Kind.COMPLEX) & (nodes.size != 16), "16 bytes expected")
    refuse_if(nodes.size > len(nodes.heap), "its bytes end beyond the heap")
    if int(nodes.size.sum()) != len(nodes.heap):
        raise _fail(where, "the sizes of the nodes do not add up to the heap", Reason.BAD_NODE)
    refuse_if(nodes.type > len(index.types), "a type that is not in the table")
    type_kinds = np.array(["", *(row.kind for row in index.types)])
    for each, allowed in _TYPED.items():
        wrong = ~np.isin(type_kinds[nodes.type], allowed)
        refuse_if((kind == each) & wrong, "its type is of another kind")
    fields = np.array(
        [0, *(-1 if row.kind == TypeKind.PYTREE else len(row.fields) for row in index.types)]
    )[nodes.type]
    wrong = np.where(fields < 0, nodes.arity < 1, nodes.arity != fields)
    refuse_if((kind == Kind.RECORD) & wrong, "its children are not the fields of its type")
    refuse_if((kind == Kind.DTYPE) & (nodes.arg >= len(index.dtypes)), "a dtype not in the table")
    parent = np.asarray(tree.parent, np.int64)
    refuse_if((kind[parent] == Kind.RANGE) & (parent >= 0) & (kind != Kind.INT), "INT expected")
    _check_keys(index, tree, parent, where)
    _check_references(index, tree, where)


def _check_keys(index: Index, tree: Layout, parent: Integers, where: str) -> None:
    """Refuse keys, set items and enum values that could run code when they are hashed."""
    kind, arity = index.nodes.kind, index.nodes.arity
    holder = np.where(parent < 0, -1, kind[parent])
    order = np.argsort(parent, kind="stable")
    first = np.concatenate([[True], np.diff(parent[order]) != 0])
    position = np.zeros(len(parent), np.int64)
    count = np.arange(len(parent))
    position[order] = count - np.maximum.accumulate(np.where(first, count, 0))
    keys = np.isin(holder, DICT_KINDS) & (position % 2 == 0) | np.isin(holder, _HASHING)
    inside = keys.copy()
    for node in np.flatnonzero(keys & (arity > 0)).tolist():
        if not (node and inside[node - 1] and inside[parent[node]]):
            end = tree.end[node]
            inside[node:end] = True
            if max(tree.depth[node:end]) - tree.depth[node] > KEY_MAX_DEPTH:
                raise _fail(where, f"a key is nested deeper than {KEY_MAX_DEPTH}", Reason.TOO_DEEP)
    bad = inside & ~np.isin(kind, _KEYS)
    if bad.any():
        name = Kind(int(kind[np.argmax(bad)])).name
        raise _fail(
            where,
            f"node {int(np.argmax(bad))}: {name} stands in a key or a set item",
            Reason.BAD_KEY,
        )


def _check_references(index: Index, tree: Layout, where: str) -> None:
    """Check that exactly one node holds each leaf and that SAME points to a finished node."""
    nodes = index.nodes
    arrays = nodes.arg[nodes.kind == Kind.LEAF]
    scalars = nodes.arg[np.isin(nodes.kind, BLOB_KINDS) & (nodes.arg > 0)] - 1
    held = np.sort(np.concatenate([arrays, scalars]))
    if len(held) != len(index.leaves) or (held != np.arange(len(held))).any():
        raise _fail(where, "not every leaf is held by exactly one node", Reason.BAD_REFERENCE)
    leaves = index.leaves
    rows = np.array([False, *((r.module, r.name) == SCALAR for r in index.types)])
    uint8 = np.array([stored == "uint8" for stored in index.dtypes], bool)
    if (leaves.type > len(index.types)).any() or (leaves.dtype >= len(index.dtypes)).any():
        raise _fail(where, "a leaf has a type or dtype that is not in the table", Reason.BAD_LEAF)
    plain = rows[leaves.type] & (leaves.ndim == 1)
    if rows[leaves.type[arrays]].any() or not (plain[scalars] & uint8[leaves.dtype[scalars]]).all():
        raise _fail(
            where,
            "a long scalar is stored as an array, or an array as a long scalar",
            Reason.BAD_LEAF,
        )
    same = np.flatnonzero(nodes.kind == Kind.SAME)
    target = nodes.arg[same]
    if (target >= same).any():
        raise _fail(where, "a SAME node that points forward", Reason.BAD_REFERENCE)
    end = np.asarray(tree.end, np.int64)
    if (end[target] > same).any() or (nodes.kind[target] == Kind.SAME).any():
        raise _fail(
            where,
            "a SAME node points to a container around it, or to a SAME node",
            Reason.BAD_REFERENCE,
        )


def _check_leaves(index: Index, where: str) -> Integers:
    """Check types, dtypes, shapes and grids; return the size in bytes of every cell."""
    leaves = index.leaves
    arrays = np.array([False, *(row.kind == TypeKind.ARRAY for row in index.types)])
    if not arrays[leaves.type].all():
        raise _fail(where, "the type of a leaf is not an array", Reason.BAD_LEAF)
    itemsize = np.array([dtypes.item_nbytes(each, where=where) for each in index.dtypes], np.int64)
    sub_array = np.array([dtypes.is_sub_array(each) for each in index.dtypes], bool)
    if sub_array[leaves.dtype].any():
        raise _fail(where, "a leaf has a dtype that no array can have", Reason.BAD_LEAF)
    # Logarithms find the suspects without overflow; they are then multiplied exactly.
    axis_leaf = np.repeat(np.arange(len(leaves)), leaves.ndim)
    logs = np.log2(np.maximum(itemsize[leaves.dtype], 1))
    np.add.at(logs, axis_leaf, np.log2(np.maximum(leaves.dims, 1)))
    for leaf in np.flatnonzero(logs > 52).tolist():
        product = math.prod(max(n, 1) for n in index.shape(leaf))
        if product * max(int(itemsize[leaves.dtype[leaf]]), 1) > wire.MAX_INTEGER:
            raise _fail(
                where,
                f"leaf {leaf}: the shape {index.shape(leaf)} overflows",
                Reason.SHAPE_OVERFLOW,
            )
    if (leaves.grid == 1).all():
        if leaves.cuts.size:
            raise _fail(where, "there are cut points without a grid", Reason.BAD_GRID)
        counts = np.ones(len(leaves), np.int64)
        np.multiply.at(counts, axis_leaf, leaves.dims)
        return counts * itemsize[leaves.dtype]
    return _cells(index, itemsize, where)


def _cells(index: Index, itemsize: Any, where: str) -> Integers:
    """Return the bytes of the cells of all leaves, row-major in a leaf, if some leaf is cut."""
    leaves = index.leaves
    # Check each number by itself first, because a sum of numbers near 2^53 could wrap.
    possible = (leaves.grid >= 1) & (leaves.grid <= len(leaves.cuts) + 1)
    if not possible.all() or int((leaves.grid - 1).sum()) != len(leaves.cuts):
        raise _fail(where, "the grid does not match the cut points", Reason.BAD_GRID)
    out: list[Integers] = []
    axis = cut = total = 0
    for leaf, ndim in enumerate(leaves.ndim.tolist()):
        cells = np.array([int(itemsize[leaves.dtype[leaf]])], np.int64)
        for a in range(axis, axis + ndim):
            inner = leaves.cuts[cut : cut + int(leaves.grid[a]) - 1]
            cut += len(inner)
            lengths = np.diff(np.concatenate([[0], inner, [leaves.dims[a]]]))
            if len(inner) and (lengths <= 0).any():
                raise _fail(where, f"leaf {leaf}: its cut points are out of order", Reason.BAD_GRID)
            # Every cell has bytes and so a span; a leaf without bytes is not cut.
            if len(inner) and total + len(cells) * len(lengths) > len(index.spans):
                raise _fail(
                    where, f"leaf {leaf} has more cells than there are spans", Reason.BAD_GRID
                )
            cells = (cells[:, None] * lengths[None, :]).reshape(-1)
        axis += ndim
        total += len(cells) if len(cells) > 1 else 0
        if len(cells) > 1 and not cells.all():
            raise _fail(where, f"leaf {leaf} has a cell without bytes", Reason.BAD_GRID)
        out.append(cells)
    return np.concatenate(out) if out else np.zeros(0, np.int64)


def cell_starts(index: Index) -> Integers:
    """Return the number of the first cell of each leaf, counted over all leaves, and the total."""
    leaves = index.leaves
    counts = np.ones(len(leaves), np.int64)
    np.multiply.at(counts, np.repeat(np.arange(len(leaves)), leaves.ndim), leaves.grid)
    return np.concatenate([[0], np.cumsum(counts)])


def _check_spans(index: Index, files: Sequence[File], cell_nbytes: Integers, where: str) -> None:
    spans = index.spans
    starts = cell_starts(index)
    if (spans.leaf >= len(index.leaves)).any():
        raise _fail(where, "a span names a leaf that does not exist", Reason.BAD_SPAN)
    if (spans.cell >= (starts[1:] - starts[:-1])[spans.leaf]).any():
        raise _fail(where, "a span names a cell that does not exist", Reason.BAD_SPAN)
    if (spans.size < 1).any() or (spans.size > SPAN_MAX_NBYTES).any():
        raise _fail(where, f"a span has 0 bytes, or over {SPAN_MAX_NBYTES}", Reason.BAD_SPAN)
    sums = np.zeros(len(cell_nbytes), np.int64)
    np.add.at(sums, starts[spans.leaf] + spans.cell, spans.size)
    if (sums != cell_nbytes).any():
        cell = int(np.argmax(sums != cell_nbytes))
        leaf = int(np.searchsorted(starts, cell, side="right")) - 1
        raise _fail(
            where,
            f"leaf {leaf} of shape {index.shape(leaf)}: spans of {sums[cell]} bytes, "
            f"expected {cell_nbytes[cell]}",
            Reason.SPAN_SUM,
        )
    data = np.array([file.role == "data" for file in files], bool)
    nbytes = np.array([file.nbytes for file in files], np.int64)
    if (spans.file >= len(files)).any() or not data[spans.file].all():
        raise _fail(
            where, "a span names a file that is not a data file of the table", Reason.BAD_SPAN
        )
    end = spans.offset + spans.size
    if (end > nbytes[spans.file]).any():
        raise _fail(where, "a span ends beyond its file", Reason.SPAN_RANGE)
    alignment = np.where(spans.size >= LARGE_NBYTES, LARGE_ALIGNMENT, SMALL_ALIGNMENT)
    if (spans.offset % alignment).any():
        raise _fail(where, "a span is not aligned", Reason.SPAN_ALIGNMENT)
    order = np.lexsort((spans.offset, spans.file))
    file, begin, end = spans.file[order], spans.offset[order], end[order]
    first = np.concatenate([[True], file[1:] != file[:-1]])[: len(file)]
    gap = begin - np.where(first, 0, np.concatenate([[0], end[:-1]])[: len(end)])
    if (gap < 0).any():
        raise _fail(where, "spans overlap", Reason.SPAN_OVERLAP)
    if (gap >= alignment[order]).any():
        raise _fail(where, "there are bytes between two spans", Reason.SPAN_GAP)
    last = np.concatenate([file[1:] != file[:-1], [True]])[: len(file)]
    held = np.zeros(len(files), np.int64)
    held[file[last]] = end[last]
    if (held != nbytes)[data].any():
        raise _fail(where, "the last bytes of a data file belong to no span", Reason.SPAN_GAP)

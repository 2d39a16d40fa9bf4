"""The checks that make an index safe to build from. Spec: section 5.6, in its order.

All of them run before a byte of a data file is read and before any memory is taken for a leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore import dtypes, index
from ckptstore.errors import CorruptError
from ckptstore.format import File
from ckptstore.index import Index, Integers, Kind, TypeKind

_NO_CHILDREN = (
    *range(Kind.NONE, Kind.SLICE),
    *(Kind.SYMBOL, Kind.DTYPE, Kind.LEAF, Kind.SAME, Kind.SUPPLIED),
)
_FIXED_ARITY = {**dict.fromkeys(_NO_CHILDREN, 0), Kind.SLICE: 3, Kind.RANGE: 3, Kind.ENUM: 1}
_DICTS = (Kind.DICT, Kind.ORDERED_DICT, Kind.DEFAULT_DICT)
_TYPED = {
    Kind.ENUM: (TypeKind.ENUM,),
    Kind.RECORD: (TypeKind.NAMEDTUPLE, TypeKind.DATACLASS, TypeKind.OBJECT, TypeKind.PYTREE),
}
_BLOBS = (Kind.INT, Kind.STR, Kind.SURROGATE_STR, Kind.BYTES, Kind.BYTEARRAY)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each node stands in the tree.

    Attributes:
        parent: the node's parent; -1 for the root.
        end: the node after the last of its subtree.
    """

    parent: list[int]
    end: list[int]


def layout(arity: Sequence[int], *, where: str) -> Layout:
    """Compute parents and subtree ends from child counts in preorder.

    Raises:
        CorruptError: reason ``bad-tree`` where the counts make no single tree, ``too-deep``.
    """
    parent, end = [-1] * len(arity), list(range(1, len(arity) + 1))
    stack: list[int] = []  # open nodes
    left: list[int] = []  # how many children each of them still lacks
    for node, children in enumerate(arity):
        if stack:
            parent[node] = stack[-1]
            left[-1] -= 1
        elif node:
            raise CorruptError(f"{where}: nodes after the end of the tree", reason="bad-tree")
        if children:
            stack.append(node)
            left.append(children)
            if len(stack) > index.TREE_MAX_DEPTH:
                raise CorruptError(
                    f"{where}: a tree deeper than {index.TREE_MAX_DEPTH} levels", reason="too-deep"
                )
        else:
            while left and left[-1] == 0:
                end[stack.pop()] = node + 1
                left.pop()
    if stack or not arity:
        raise CorruptError(f"{where}: the tree of nodes is not complete", reason="bad-tree")
    return Layout(parent, end)


def decode(parts: Sequence[bytes], files: Sequence[File], *, where: str) -> tuple[Index, Layout]:
    """Decode and check the whole index.

    Args:
        parts: the inline index, if any, then the index files in the order of the table of files.
        files: the table of files, which the spans must fill.
        where: the place, for messages.

    Raises:
        CorruptError: with the reason of the first check that fails.
    """
    got = index.decode_tables(parts, where=where)
    where = f"{where}: index"
    tree = layout(got.nodes.arity.tolist(), where=where)
    _check_nodes(got, tree, where)
    cell_nbytes = _check_leaves(got, where)
    _check_spans(got, files, cell_nbytes, where)
    return got, tree


def _fail(where: str, message: str, reason: str) -> CorruptError:
    return CorruptError(f"{where}: {message}", reason=reason)


def _check_nodes(got: Index, tree: Layout, where: str) -> None:
    nodes = got.nodes
    if not np.isin(nodes.kind, list(Kind)).all():
        bad = nodes.kind[~np.isin(nodes.kind, list(Kind))][0]
        raise _fail(where, f"unknown kind of node {bad}", "bad-node")
    for kind, arity in _FIXED_ARITY.items():
        if (nodes.arity[nodes.kind == kind] != arity).any():
            raise _fail(where, f"a {kind.name} node needs {arity} children", "bad-node")
    if (nodes.arity[np.isin(nodes.kind, _DICTS)] % 2).any():
        raise _fail(where, "a dict with a key and no value", "bad-node")
    if int(nodes.size.sum()) != len(nodes.heap):
        raise _fail(where, "the sizes of the nodes do not add up to the heap", "bad-node")
    if (nodes.type > len(got.types)).any():
        raise _fail(where, "a node of a type that is not in the table", "bad-node")
    type_kinds = np.array(["", *(row.kind for row in got.types)])
    for kind, allowed in _TYPED.items():
        if not np.isin(type_kinds[nodes.type[nodes.kind == kind]], allowed).all():
            raise _fail(where, f"a {kind.name} node with a type of another kind", "bad-node")
    by_name = np.array(
        [0, *(-1 if row.kind == TypeKind.PYTREE else len(row.fields) for row in got.types)]
    )
    records = nodes.kind == Kind.RECORD
    need = by_name[nodes.type[records]]
    have = nodes.arity[records]
    if ((need != have) & (need >= 0)).any() or (have[need < 0] < 1).any():
        raise _fail(where, "a record whose children are not its fields", "bad-node")
    if (nodes.arg[nodes.kind == Kind.DTYPE] >= len(got.dtypes)).any():
        raise _fail(where, "a dtype that is not in the table", "bad-node")
    _check_references(got, tree, where)


def _check_references(got: Index, tree: Layout, where: str) -> None:
    """Each leaf is held by exactly one node; SAME points to an earlier, finished node."""
    nodes = got.nodes
    held = nodes.arg[nodes.kind == Kind.LEAF]
    blobs = np.isin(nodes.kind, _BLOBS) & (nodes.arg > 0)
    held = np.sort(np.concatenate([held, nodes.arg[blobs] - 1]))
    if len(held) != len(got.leaves) or (held != np.arange(len(held))).any():
        raise _fail(where, "not every leaf is held by exactly one node", "bad-reference")
    same = np.flatnonzero(nodes.kind == Kind.SAME)
    target = nodes.arg[same]
    if (target >= same).any():
        raise _fail(where, "a SAME node that points forward", "bad-reference")
    end = np.asarray(tree.end, np.int64)
    if (end[target] > same).any() or (nodes.kind[target] == Kind.SAME).any():
        raise _fail(where, "a SAME node that points at its own parent, or at SAME", "bad-reference")


def _check_leaves(got: Index, where: str) -> Integers:
    """Check types, dtypes, shapes and grids; return the bytes of every cell of every leaf."""
    leaves = got.leaves
    if (leaves.type < 1).any() or (leaves.type > len(got.types)).any():
        raise _fail(where, "a leaf of a type that is not in the table", "bad-leaf")
    arrays = np.array([False, *(row.kind == TypeKind.ARRAY for row in got.types)])
    if not arrays[leaves.type].all():
        raise _fail(where, "a leaf whose type is not an array", "bad-leaf")
    if (leaves.dtype >= len(got.dtypes)).any():
        raise _fail(where, "a leaf of a dtype that is not in the table", "bad-leaf")
    itemsize = np.array([dtypes.item_nbytes(stored, where=where) for stored in got.dtypes], float)
    if (itemsize[leaves.dtype] < 0).any():
        raise _fail(where, "a leaf of a dtype that holds no array", "bad-leaf")
    # Products in floats first: exact enough to refuse what would overflow, and never wrapping.
    axis_leaf = np.repeat(np.arange(len(leaves)), leaves.ndim)
    logs = np.zeros(len(leaves))
    np.add.at(logs, axis_leaf, np.log2(np.maximum(leaves.dims, 1)))
    logs += np.log2(np.maximum(itemsize[leaves.dtype], 1))
    if (logs > 53.0).any():
        bad = int(np.argmax(logs))
        raise _fail(where, f"leaf {bad}: the shape {got.shape(bad)} overflows", "shape-overflow")
    if (leaves.grid == 1).all():
        if leaves.cuts.size:
            raise _fail(where, "cut points without a grid", "bad-grid")
        counts = np.ones(len(leaves), np.int64)
        np.multiply.at(counts, axis_leaf, leaves.dims)
        return counts * itemsize[leaves.dtype].astype(np.int64)
    return _cells(got, itemsize, where)


def _cells(got: Index, itemsize: Any, where: str) -> Integers:
    """The bytes of the cells of all leaves, row-major within a leaf, where some leaf is cut."""
    leaves = got.leaves
    if (leaves.grid < 1).any() or int((leaves.grid - 1).sum()) != len(leaves.cuts):
        raise _fail(where, "the grid does not match the cut points", "bad-grid")
    if float(np.prod(np.maximum(leaves.grid, 1).astype(float))) > 2**40:
        raise _fail(where, "too many cells", "bad-grid")
    out: list[Integers] = []
    axis = cut = 0
    for leaf, ndim in enumerate(leaves.ndim.tolist()):
        cells = np.array([int(itemsize[leaves.dtype[leaf]])], np.int64)
        for a in range(axis, axis + ndim):
            inner = leaves.cuts[cut : cut + int(leaves.grid[a]) - 1]
            cut += len(inner)
            lengths = np.diff(np.concatenate([[0], inner, [leaves.dims[a]]]))
            if len(inner) and (lengths <= 0).any():
                raise _fail(where, f"leaf {leaf}: cut points out of order", "bad-grid")
            if len(cells) * len(lengths) > len(got.spans) + 1:
                raise _fail(where, f"leaf {leaf}: more cells than spans", "bad-grid")
            cells = (cells[:, None] * lengths[None, :]).reshape(-1)
        axis += ndim
        out.append(cells)
    return np.concatenate(out) if out else np.zeros(0, np.int64)


def cell_starts(got: Index) -> Integers:
    """Return the number of the first cell of each leaf, counted over all leaves, and the total."""
    leaves = got.leaves
    counts = np.ones(len(leaves), np.int64)
    np.multiply.at(counts, np.repeat(np.arange(len(leaves)), leaves.ndim), leaves.grid)
    return np.concatenate([[0], np.cumsum(counts)])


def _check_spans(got: Index, files: Sequence[File], cell_nbytes: Integers, where: str) -> None:
    spans = got.spans
    starts = cell_starts(got)
    if (spans.leaf >= len(got.leaves)).any():
        raise _fail(where, "a span of a leaf that is not there", "bad-span")
    if (spans.cell >= (starts[1:] - starts[:-1])[spans.leaf]).any():
        raise _fail(where, "a span of a cell that is not there", "bad-span")
    if (spans.size < 1).any() or (spans.size > index.SPAN_MAX_NBYTES).any():
        raise _fail(where, f"a span of 0 or over {index.SPAN_MAX_NBYTES} bytes", "bad-span")
    sums = np.zeros(len(cell_nbytes), np.int64)
    np.add.at(sums, starts[spans.leaf] + spans.cell, spans.size)
    if (sums != cell_nbytes).any():
        cell = int(np.argmax(sums != cell_nbytes))
        leaf = int(np.searchsorted(starts, cell, side="right")) - 1
        raise _fail(
            where,
            f"leaf {leaf} of shape {got.shape(leaf)}: spans of {sums[cell]} bytes, "
            f"expected {cell_nbytes[cell]}",
            "span-sum",
        )
    data = np.array([file.role == "data" for file in files], bool)
    nbytes = np.array([file.nbytes for file in files], np.int64)
    if (spans.file >= len(files)).any() or not data[spans.file].all():
        raise _fail(where, "a span in a file that is no data file of the table", "bad-span")
    end = spans.offset + spans.size
    if (end > nbytes[spans.file]).any():
        raise _fail(where, "a span beyond the end of its file", "span-range")
    alignment = np.where(
        spans.size >= index.LARGE_NBYTES, index.LARGE_ALIGNMENT, index.SMALL_ALIGNMENT
    )
    if (spans.offset % alignment).any():
        raise _fail(where, "a span that is not aligned", "span-alignment")
    order = np.lexsort((spans.offset, spans.file))
    file, begin, end = spans.file[order], spans.offset[order], end[order]
    first = np.concatenate([[True], file[1:] != file[:-1]])[: len(file)]
    gap = begin - np.where(first, 0, np.concatenate([[0], end[:-1]])[: len(end)])
    if (gap < 0).any():
        raise _fail(where, "spans overlap", "span-overlap")
    if (gap >= alignment[order]).any():
        raise _fail(where, "bytes between spans that nothing accounts for", "span-gap")
    last = np.concatenate([file[1:] != file[:-1], [True]])[: len(file)]
    held = np.zeros(len(files), np.int64)
    held[file[last]] = end[last]
    if (held != nbytes)[data].any():
        raise _fail(where, "bytes at the end of a data file that nothing accounts for", "span-gap")

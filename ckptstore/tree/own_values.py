"""The values that each process has of its own: their places in a tree of objects, and in a file.

A place is stored as a record `PerProcess`, with one value a process. Spec: section 11.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.errors import Reason, StructureError
from ckptstore.format import Index, Kind, Nodes, TypeKind, TypeRow, lay_out
from ckptstore.texts import shown
from ckptstore.tree import paths
from ckptstore.tree.live import LiveTree
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.stored import StoredTree

_HOLDERS = (Kind.LIST, Kind.TUPLE, Kind.DICT, Kind.ORDERED_DICT, Kind.DEFAULT_DICT)
_RECORDS = (TypeKind.DATACLASS, TypeKind.NAMEDTUPLE)


@dataclass(frozen=True)
class PerProcess:
    """One value of each process, in the order of their numbers.

    ``save(..., per_process=["$.rng"])`` stores it at ``$.rng``, and a load by as many processes
    gives each its own value. You see the object itself where a process alone loads what several
    have saved, and with ``arrays="numpy"``. One that you put into a tree yourself means the same:
    as many processes as it has values get one each.

    Attributes:
        values: the value of each process.

    Example:
        >>> import ckptstore
        >>> saved = ckptstore.save("ckpt", {"seed": 7, "step": 1}, per_process=["$.seed"])
        >>> ckptstore.load("ckpt", arrays="numpy")
        {'seed': PerProcess(values=(7,)), 'step': 1}
        >>> ckptstore.load("ckpt")
        {'seed': 7, 'step': 1}

    Source: docs/processes.md, "Values of each process".
    """

    values: tuple[Any, ...]


PerProcess.__module__ = "ckptstore"  # the name that a checkpoint has, and where it is found


def own_nodes(live: LiveTree, patterns: Sequence[str]) -> list[int]:
    """Return the nodes of the values that each process has of its own, in order.

    Args:
        live: the tree.
        patterns: the patterns of ``per_process=``.

    Raises:
        StructureError: a pattern matches nothing, or a value that cannot be one of a process.
    """
    end, found = live.layout.end, list[int]()
    matched = paths.matching_nodes(live, patterns, "per_process")
    for pattern, nodes in zip(patterns, matched, strict=True):
        if not nodes:
            raise StructureError(
                f"per_process: nothing in the tree is at {shown(pattern)}; name a place that is "
                "there",
                reason=Reason.BAD_PATTERN,
            )
        found += nodes
    nodes = list[int]()
    for node in sorted(set(found)):
        if not nodes or node >= end[nodes[-1]]:  # else it lies in another one
            nodes.append(node)
    _refuse_shared(live, nodes)
    for node in nodes:
        parent = live.layout.parent[node]
        is_record = parent >= 0 and live.kind[parent] == Kind.RECORD
        kind = live.row(parent).kind if is_record else None
        if parent >= 0 and live.kind[parent] not in _HOLDERS and kind not in _RECORDS:
            raise _refused(live, node, "stands inside an object that takes no other one; name that")
        for below in range(node, end[node]):
            if live.kind[below] == Kind.RECORD and is_own_row(live.row(below)):
                raise _refused(live, node, "holds a PerProcess already; save one of its values")
            if live.kind[below] == Kind.LEAF and live.leaves[live.arg[below]].holders is not None:
                raise _refused(live, below, "lies in several processes; leave it out")
    return nodes


def _refused(live: LiveTree, node: int, why: str) -> StructureError:
    path = paths.path(live, node)
    return StructureError(f"per_process: {path} {why}", reason=Reason.BAD_PATTERN)


def _refuse_shared(live: LiveTree, nodes: Sequence[int]) -> None:
    """Refuse an object that stands in a value of one process and in another place, too."""
    place = np.full(len(live.kind), -1)
    for node in nodes:
        place[node : live.layout.end[node]] = node
    for node, kind in enumerate(live.kind):
        if kind == Kind.SAME and place[node] != place[live.arg[node]]:
            here, there = paths.shown_paths(live, [node, live.arg[node]])
            raise StructureError(
                f"per_process: the object at {here} also stands at {there}, and only one of them "
                "lies in that value of each process; name one place that holds both, or copy it",
                reason=Reason.BAD_PATTERN,
            )


def is_own_row(row: TypeRow) -> bool:
    """Return whether a stored type is `PerProcess`."""
    is_named = str(row) == "ckptstore.PerProcess" and row.kind == TypeKind.DATACLASS
    return is_named and row.fields == ("values",)


def own_records(tree: StoredTree) -> dict[int, list[int]]:
    """Return the outermost `PerProcess` records of a checkpoint, each with the nodes of its values.

    One of which another place shares a part, as only a program makes it that puts a `PerProcess`
    into its tree, is left out: it is an object like any other.
    """
    numbers = {number for number, row in enumerate(tree.types, 1) if is_own_row(row)}
    found: dict[int, list[int]] = {}
    last = 0
    for node, number in enumerate(tree.type if numbers else ()):
        is_record = number in numbers and tree.kind[node] == Kind.RECORD
        if is_record and node >= last and tree.kind[node + 1] == Kind.TUPLE:
            found[node] = tree.layout.children(node + 1)
            last = tree.layout.end[node]
    if not found:
        return found
    place = np.full(len(tree.kind), -1)
    for node, values in found.items():
        for value in values:
            place[value : tree.layout.end[value]] = value
        place[node : node + 2] = node
    shared = {
        holder
        for node, kind in enumerate(tree.kind)
        if kind == Kind.SAME and place[node] != place[tree.arg[node]]
        for holder in (int(place[node]), int(place[tree.arg[node]]))
    }
    return {n: values for n, values in found.items() if shared.isdisjoint([n, *values])}


def resolved(
    tree: StoredTree, chosen: Mapping[int, int | None]
) -> tuple[StoredTree, Mapping[int, int]]:
    """Return a tree with one value in the place of each record, and the new numbers of nodes.

    The leaves keep their numbers.

    Args:
        tree: the tree.
        chosen: for each record the node of the value; None: an object that the caller supplies, so
            that the node is SUPPLIED.
    """
    nodes, layout = tree.index.nodes, tree.layout
    columns = {name: getattr(nodes, name).copy() for name in ("kind", "arity", "type", "arg")}
    kept = np.ones(len(nodes), bool)
    for node, value in chosen.items():
        kept[node : layout.end[node]] = False
        if value is not None:
            kept[value : layout.end[value]] = True
            continue
        kept[node] = True
        columns["kind"][node] = Kind.SUPPLIED
        columns["arity"][node] = columns["type"][node] = columns["arg"][node] = 0
    new = np.cumsum(kept) - 1
    same = columns["kind"] == Kind.SAME
    columns["arg"][same] = new[columns["arg"][same].astype(np.int64)]
    numbers = np.flatnonzero(kept).tolist()
    heap = b"".join(map(tree.data, numbers))
    rows = {name: column[kept] for name, column in columns.items()}
    made = Nodes(**rows, size=nodes.size[kept], heap=heap)
    index = Index(tree.index.types, tree.index.dtypes, made, tree.index.leaves, tree.index.spans)
    view = StoredTree(index, lay_out(made.arity.tolist(), where=tree.where), tree.where)
    moved = {node: int(new[node if value is None else value]) for node, value in chosen.items()}
    return view.with_keys(tree.long_keys), moved


def within(tree: NodeTable, roots: Sequence[int], nodes: Sequence[int]) -> list[int]:
    """Return those of some nodes that lie in the subtrees at `roots`."""
    inside, end = bytearray(len(tree.kind)), tree.layout.end
    last = 0
    for root in sorted(set(map(tree.target, roots))):
        if end[root] > last:  # else it lies in another one
            inside[root : end[root]] = b"\1" * (end[root] - root)
            last = end[root]
    return [node for node in nodes if inside[node]]

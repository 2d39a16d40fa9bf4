"""Replacing values in a tree; all other objects in it stay the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ckptstore.format import Kind
from ckptstore.tree.live import LiveTree
from ckptstore.tree.unflattening import unflatten


def fill(like: LiveTree, values: Mapping[int, Any]) -> Any:
    """Return the tree of `like` with some of its nodes replaced.

    Args:
        like: the tree; each container that holds a replaced node is rebuilt, in all its places.
        values: the new values, by node.

    Raises:
        UnknownTypeError: the class of an object that holds such a node cannot be rebuilt.
    """
    parents = like.layout.parent
    ancestors = holders(like, values)
    overrides = dict(values)
    for node, parent in enumerate(parents):
        if node in values or node in ancestors:
            continue
        if like.kind[node] == Kind.SAME and like.arg[node] in ancestors:
            continue  # the filled object stands here too
        if parent in ancestors or parent < 0:
            overrides[node] = like.objects[node]
    records = [node for node in ancestors if like.kind[node] == Kind.RECORD]
    classes = {str(like.row(node)): type(like.objects[node]) for node in records}
    # An object with other places may stand first inside a node that is replaced.
    targets = {arg for kind, arg in zip(like.kind, like.arg, strict=True) if kind == Kind.SAME}
    roots = [*sorted(ancestors & targets), 0]
    return unflatten(like, roots, read=_no_leaf, classes=classes, overrides=overrides)[-1]


def holders(like: LiveTree, nodes: Iterable[int]) -> set[int]:
    """Return the containers that hold some of `nodes`, in any of their places."""
    parents = like.layout.parent
    again: dict[int, list[int]] = {}  # the other places of each object
    for node, kind in enumerate(like.kind):
        if kind == Kind.SAME:
            again.setdefault(like.arg[node], []).append(node)
    found: set[int] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        while (node := parents[node]) >= 0 and node not in found:
            found.add(node)
            todo += again.get(node, ())
    return found


def _no_leaf(leaves: Sequence[int]) -> Iterable[tuple[int, Any]]:
    assert not leaves, "everything that is not rebuilt is an object of `like`"
    return ()

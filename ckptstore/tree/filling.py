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
        like: the tree; each container that holds a replaced node is rebuilt.
        values: the new values, by node.

    Raises:
        UnknownTypeError: the class of an object that holds such a node cannot be rebuilt.
    """
    parents = like.layout.parent
    ancestors: set[int] = set()
    for node in values:
        while (node := parents[node]) >= 0:
            ancestors.add(node)
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
    return unflatten(like, [0], read=_no_leaf, classes=classes, overrides=overrides)[0]


def _no_leaf(leaves: Sequence[int]) -> Iterable[tuple[int, Any]]:
    assert not leaves, "everything that is not rebuilt is an object of `like`"
    return ()

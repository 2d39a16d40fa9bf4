"""Replacing values in a tree; all other objects in it stay the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ckptstore.errors import Reason, StructureError
from ckptstore.format import Kind
from ckptstore.tree import paths
from ckptstore.tree.live import LiveTree
from ckptstore.tree.unflattening import unflatten


def fill(like: LiveTree, values: Mapping[int, Any]) -> Any:
    """Return the tree of `like` with some of its nodes replaced.

    Args:
        like: the tree; each container that holds a replaced node is rebuilt, in all its places.
        values: the new values, by node.

    Raises:
        StructureError: reason ``ambiguous``: an object that has other places is replaced in one
            place, and parts of it are replaced too.
        UnknownTypeError: the class of an object that holds such a node cannot be rebuilt.
    """
    parents = like.layout.parent
    again: dict[int, list[int]] = {}  # the other places of each object
    for node, kind in enumerate(like.kind):
        if kind == Kind.SAME:
            again.setdefault(like.arg[node], []).append(node)
    ancestors: set[int] = set()
    todo = list(values)
    while todo:
        node = todo.pop()
        while (node := parents[node]) >= 0 and node not in ancestors:
            ancestors.add(node)
            todo += again.get(node, ())
    for node in sorted(ancestors.intersection(values, again)):
        if other := [place for place in again[node] if place not in values]:
            first, second = paths.format_paths(like, [node, other[0]])
            raise StructureError(
                f"like: the object at {first}, which is selected as a whole and in part, stands "
                f"also at {second}; select both places, or parts alone, or use two objects",
                reason=Reason.AMBIGUOUS,
            )
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
    roots = [*sorted(ancestors.intersection(again)), 0]
    return unflatten(like, roots, read=_no_leaf, classes=classes, overrides=overrides)[-1]


def _no_leaf(leaves: Sequence[int]) -> Iterable[tuple[int, Any]]:
    assert not leaves, "everything that is not rebuilt is an object of `like`"
    return ()

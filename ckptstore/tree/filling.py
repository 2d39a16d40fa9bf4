"""Filling a tree with other values: the rest of it stays the same objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.format import Index, Kind, Leaves, Spans
from ckptstore.tree.flattening import Walk
from ckptstore.tree.unflattening import Rebuild


def fill(like: Walk, values: Mapping[int, Any]) -> Any:
    """Return the tree of `like` with some of its nodes replaced.

    Args:
        like: the tree, of which all that holds a replaced node is made anew.
        values: what stands at a node instead, by node.

    Raises:
        UnknownTypeError: a class that holds such a node cannot be made anew.
    """
    none = np.zeros(0, np.int64)
    index = Index(
        like.types,
        like.dtypes,
        like.nodes(),
        Leaves(none, none, none, none, none, none),
        Spans(none, none, none, none, none, []),
    )
    layout = like.layout
    ancestors: set[int] = set()
    for node in values:
        while (node := layout.parent[node]) >= 0:
            ancestors.add(node)
    tree = Rebuild(index, layout, "like")
    records = [node for node in ancestors if like.kind[node] == Kind.RECORD]
    given = {str(like.row(node)): type(like.objects[node]) for node in records}
    tree.resolve({like.type[node] for node in ancestors if like.type[node]}, given)
    for node, parent in enumerate(layout.parent):
        if node in values:
            tree.overrides[node] = values[node]
        elif like.kind[node] == Kind.SAME and like.arg[node] in ancestors:
            continue  # the filled object stands here too
        elif node not in ancestors and (parent in ancestors or parent < 0):
            tree.overrides[node] = like.objects[node]
    return tree.build([0])[0]

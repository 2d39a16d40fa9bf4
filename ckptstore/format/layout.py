"""The position of each node in the tree, from the child counts alone. Spec: section 5.3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptstore.errors import CorruptError, Reason
from ckptstore.format.index import TREE_MAX_DEPTH


@dataclass(frozen=True, slots=True)
class Layout:
    """The position of each node in the tree.

    Attributes:
        parent: the node's parent; -1 for the root.
        end: the node after the last one of its subtree.
        depth: the number of containers around it.
    """

    parent: list[int]
    end: list[int]
    depth: list[int]

    def children(self, node: int) -> list[int]:
        """Return the children of a node, in order."""
        out, child = [], node + 1
        while child < self.end[node]:
            out.append(child)
            child = self.end[child]
        return out


def lay_out(arity: Sequence[int], *, where: str) -> Layout:
    """Compute parents and subtree ends from child counts in preorder.

    Raises:
        CorruptError: reason ``bad-tree`` if the counts do not make one tree; ``too-deep``.
    """
    parent, end, depth = [-1] * len(arity), [0] * len(arity), [0] * len(arity)
    stack: list[int] = []  # open nodes
    left: list[int] = []  # the number of children that each of them still lacks
    for node, children in enumerate(arity):
        if stack:
            parent[node] = stack[-1]
            depth[node] = len(stack)
            left[-1] -= 1
        elif node:
            raise CorruptError(
                f"{where}: there are nodes after the end of the tree", reason=Reason.BAD_TREE
            )
        if children:
            stack.append(node)
            left.append(children)
            if len(stack) > TREE_MAX_DEPTH:
                raise CorruptError(
                    f"{where}: the tree is deeper than {TREE_MAX_DEPTH} levels",
                    reason=Reason.TOO_DEEP,
                )
        else:
            end[node] = node + 1
            while left and left[-1] == 0:
                end[stack.pop()] = node + 1
                left.pop()
    if stack or not arity:
        raise CorruptError(f"{where}: the tree of nodes is not complete", reason=Reason.BAD_TREE)
    return Layout(parent, end, depth)

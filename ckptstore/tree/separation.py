"""Separating: the places of shared containers that a selection fills with different values."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from ckptstore.format import Kind
from ckptstore.tree import paths
from ckptstore.tree.filling import holders
from ckptstore.tree.live import LiveTree
from ckptstore.tree.nodes import NodeTable

Pair = tuple[int, int]
"""A place: its nodes in the checkpoint and in `like`."""

_Edge = tuple[int | None, int]
"""A place of `like`, and its node in the checkpoint, if there is one."""


def separate(
    like: LiveTree, stored: NodeTable, chosen: Iterable[Pair]
) -> tuple[LiveTree, dict[int, Pair]]:
    """Return the table of `like` with one container for each object of the checkpoint.

    A container of `like` that holds a chosen place is written once for each container that stands
    in its places in the checkpoint. Everything else is one node, whose object stays as it is.

    Args:
        like: the tree to fill.
        stored: the checkpoint, with the field names of `like`.
        chosen: the places that are filled; each node is the one at the place.

    Returns:
        The table, and the chosen places by its nodes.
    """
    return _Separation(like, stored, set(chosen)).run()


class _Separation:
    """One separation; a container is a pair of nodes, without SAME nodes."""

    def __init__(self, like: LiveTree, stored: NodeTable, chosen: set[Pair]) -> None:
        self._like = like
        self._stored = stored
        self._chosen = chosen
        self._holders = holders(like, [node for _, node in chosen])
        self._by_step = functools.cache(self._stored_by_step)
        self._parts = functools.cache(self._parts_of)

    def run(self) -> tuple[LiveTree, dict[int, Pair]]:
        like, out = self._like, LiveTree(self._like.where, lenient=True, types=self._like.types)
        filled, found = self._filled(), dict[int, Pair]()
        first: dict[Pair, int] = {}
        stack: list[_Edge] = [(0, 0)]
        while stack:
            i, j = stack.pop()
            node = len(out.kind)
            out.objects.append(like.objects[j])
            pair = None
            if i is not None and (i, j) in self._chosen:
                found[node] = i, j
            elif i is not None:
                pair = self._container(i, j)
            if pair is None or pair not in filled:
                out.add(Kind.NONE)
            elif pair in first:
                out.add(Kind.SAME, arg=first[pair])
            else:
                first[pair], at, parts = node, pair[1], self._parts(pair)
                out.add(
                    Kind(like.kind[at]), type=like.type[at], arg=like.arg[at], data=like.heap[at]
                )
                out.arity[node] = len(parts)
                stack.extend(reversed(parts))
        return out, found

    def _filled(self) -> set[Pair]:
        """Return the containers that hold a chosen place."""
        root = self._container(0, 0)
        above: dict[Pair, list[Pair]] = {root: []}
        todo, full = [root], list[Pair]()
        while todo:
            pair = todo.pop()
            for i, j in self._parts(pair):
                if i is None:
                    continue
                if (i, j) in self._chosen:
                    full.append(pair)
                elif self._like.target(j) in self._holders:
                    part = self._container(i, j)
                    if part not in above:
                        above[part] = []
                        todo.append(part)
                    above[part].append(pair)
        filled: set[Pair] = set()
        while full:
            pair = full.pop()
            if pair not in filled:
                filled.add(pair)
                full += above[pair]
        return filled

    def _container(self, i: int, j: int) -> Pair:
        """Return the containers at a place; that of the checkpoint without its wrappers."""
        stored, i = self._stored, self._stored.target(i)
        while stored.is_wrapper(i):
            i = stored.target(i + 1)
        return i, self._like.target(j)

    def _parts_of(self, pair: Pair) -> list[_Edge]:
        i, j = pair
        if self._like.is_wrapper(j):
            content, *others = self._like.layout.children(j)
            return [(i, content), *((None, node) for node in others)]
        by_step = self._by_step(i)
        return [(by_step.get(text), node) for text, node in paths.steps(self._like, j)]

    def _stored_by_step(self, i: int) -> Mapping[str, int | None]:
        """Return the children that a path can name; None for a step that several have."""
        out: dict[str, int | None] = {}
        for text, node in paths.steps(self._stored, i):
            if not text.startswith("{"):
                out[text] = None if text in out else node
        return out

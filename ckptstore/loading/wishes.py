"""The places that the argument ``sharding=`` of a load asks for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.errors import Reason, StructureError, bad_argument
from ckptstore.format import TypeRow
from ckptstore.tree import StoredTree, paths
from ckptstore.types import Adapter, Refusal, find_adapter

_EXPECTED = (
    "a sharding such as NamedSharding(mesh, spec), a mesh, 'whole', a function of path and aval, "
    "or a tree of these like the top of the state"
)
_MISSING = object()


class Wishes:
    """The wish for each leaf of a checkpoint.

    Args:
        sharding: the argument.
        tree: the stored tree, whose long dict keys have been read.
    """

    def __init__(self, sharding: Any, tree: StoredTree) -> None:
        self._tree = tree
        self._wish: dict[int, Any] = {0: sharding}
        nodes = set(tree.leaf_nodes.values())
        missing = []
        for node, parent, position, previous in paths.walk(tree):
            if parent not in self._wish:
                continue
            wish = self._wish[parent]
            if not _is_leaf(wish):
                step = paths.step(tree, parent, position, previous)
                wish = _below(wish, step)
            if wish is not _MISSING:
                self._wish[node] = wish
            elif tree.arity[node] or node in nodes:
                missing.append(node)
        if missing:
            raise StructureError(
                f"{tree.where}: sharding= has no part for {', '.join(_shown(tree, missing))}; add "
                "it, or None for the stored place",
                reason=Reason.BAD_ARGUMENT,
            )

    @functools.cached_property
    def _paths(self) -> Mapping[int, str]:
        nodes = self._tree.leaf_nodes
        texts = paths.format_paths(self._tree, list(nodes.values()))
        return dict(zip(nodes, texts, strict=True))

    def place(
        self,
        leaf: int,
        adapter: Adapter,
        row: TypeRow,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> Any:
        """Return the place of a leaf in its adapter's terms, or None for the stored one.

        Raises:
            StructureError: reason ``bad-argument``: the wish is none, or does not fit the array.
        """
        wish = self._wish.get(self._tree.leaf_nodes[leaf])
        aval = adapter.aval(row, dtype, shape)
        if wish is None or aval is None:  # an array without a place, such as one of numpy
            return None
        if callable(wish) and not _is_place(wish):
            wish = wish(self._paths[leaf], aval)
            if wish is None:
                return None
        where = f"{self._tree.where}: {self._tree.leaf_path(leaf)}"
        if not _is_place(wish) and wish != "whole":
            raise bad_argument(where, "sharding", wish, _EXPECTED)
        try:
            return adapter.placed(wish, aval, row)
        except Refusal as refusal:
            raise StructureError(f"{where}: {refusal}", reason=Reason.BAD_ARGUMENT) from None


def _is_place(x: Any) -> bool:
    adapter = find_adapter(type(x).__module__)
    return adapter is not None and adapter.is_place(x)


def _is_leaf(wish: Any) -> bool:
    """Return whether a part of the argument is a wish, for all leaves below its place."""
    if wish is None or isinstance(wish, str) or _is_place(wish):
        return True
    if isinstance(wish, Mapping | list | tuple):
        return False
    return not dataclasses.is_dataclass(wish) and (callable(wish) or not hasattr(wish, "__dict__"))


def _below(tree: Any, step: str) -> Any:
    """Return the part of a container of wishes that a step leads to, or `_MISSING`."""
    if not step:
        return tree
    parts: dict[str, Any] = {}
    if isinstance(tree, Mapping):
        parts = {paths.normal(f"[{key!r}]"): value for key, value in tree.items()}
    elif isinstance(tree, list | tuple):
        parts = {f"[{number}]": value for number, value in enumerate(tree)}
        names = getattr(tree, "_fields", ())
        parts |= {f"[{name!r}]": value for name, value in zip(names, tree, strict=False)}
    else:
        parts = {f"[{name!r}]": value for name, value in vars(tree).items()}
    return parts.get(paths.normal(step), _MISSING)


def _shown(tree: StoredTree, nodes: list[int]) -> list[str]:
    shown = paths.shown_paths(tree, nodes[:3])
    return [*shown, f"{len(nodes) - 3} more"] if len(nodes) > 3 else shown

"""The places that the argument ``sharding=`` of a load asks for."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ckptstore.errors import Reason, StructureError, bad_argument
from ckptstore.format import DICT_KINDS, Kind, TypeRow
from ckptstore.tree import StoredTree, flatten, paths
from ckptstore.tree.leaves import making
from ckptstore.tree.patterns import normal
from ckptstore.types import Adapter, Record, Refusal, find_adapter

_EXPECTED = (
    "a sharding such as NamedSharding(mesh, spec), a mesh, 'whole', a function of path and aval, "
    "or a tree of these like the top of the state"
)
_MISSING = object()
_SCALAR = re.compile(r"numpy\.\w+\(([^()]*)\)")


class Wishes:
    """The wish for each leaf of a checkpoint.

    Args:
        sharding: the argument.
        tree: the stored tree, whose long dict keys have been read.
    """

    def __init__(self, sharding: Any, tree: StoredTree) -> None:
        self._tree = tree
        self._wish: dict[int, Any] = {0: sharding}
        parts: dict[int, Mapping[str, Any] | None] = {}  # of a container of wishes; None: a wish
        lost: dict[int, int] = {}  # a node without a wish: the highest such node above it
        missing: dict[int, None] = {}
        for node, parent, position, previous in paths.walk(tree):
            if parent in lost:
                lost[node] = lost[parent]
            else:
                wish = self._wish[parent]
                if parent not in parts:
                    parts[parent] = None if _is_leaf(wish) else _parts_of(wish)
                below = parts[parent]
                step = "" if below is None else paths.step(tree, parent, position, previous)
                if step.startswith("{"):  # no path leads to a key, an item of a set, a static part
                    wish = None
                elif step and below is not None:
                    wish = below.get(_normal(step), _MISSING)
                if wish is _MISSING:
                    lost[node] = node
                else:
                    self._wish[node] = wish
            if node in lost and tree.kind[node] == Kind.LEAF:
                missing[lost[node]] = None
        if missing:
            raise StructureError(
                f"{tree.where}: sharding= has no part for {', '.join(_shown(tree, [*missing]))}; "
                "add it, or None for the stored place",
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
            CheckpointError: as for `making`, without the path of the leaf.
            StructureError: reason ``bad-argument``: the wish is none.
            Refusal: the wish does not fit the array.
        """
        wish = self._wish.get(self._tree.leaf_nodes[leaf])
        if wish is None:
            return None
        where = self._tree.where
        with making(row, dtype, shape, where=where):
            aval = adapter.aval(row, dtype, shape)
        if aval is None:  # an array without a place, such as one of numpy
            return None
        if callable(wish) and not _is_place(wish):
            wish = wish(self._paths[leaf], aval)
            if wish is None:
                return None
        if not (wish == "whole" if isinstance(wish, str) else _is_place(wish)):
            raise bad_argument(where, "sharding", wish, _EXPECTED)
        if not (isinstance(wish, str) or adapter.is_place(wish)):
            return None  # a place of another framework
        with making(row, dtype, shape, where=where):
            return adapter.placed(wish, aval, row)


def _is_place(x: Any) -> bool:
    adapter = find_adapter(type(x).__module__)
    return adapter is not None and adapter.is_place(x)


def _is_leaf(wish: Any) -> bool:
    """Return whether a part of the argument is a wish, for all leaves below its place."""
    if wish is None or isinstance(wish, str | type) or _is_place(wish):
        return True
    if isinstance(wish, Mapping | list | tuple):
        return False
    if dataclasses.is_dataclass(wish) or _record_of(wish) is not None:
        return False
    return callable(wish) or not hasattr(wish, "__dict__")


def _record_of(x: Any) -> Record | None:
    """Return how an object is taken apart that one may call and that is a container: of nnx."""
    adapter = find_adapter(type(x).__module__)
    if adapter is None or not callable(x) or isinstance(x, functools.partial):
        return None
    with contextlib.suppress(Refusal):
        return adapter.record(type(x))
    return None


def _normal(step: str) -> str:
    """Return the form of a step that is equal for equal keys: ``[0]`` for ``np.int64(0)``."""
    step = normal(step)
    if not _SCALAR.search(step):
        return step
    text = ast.literal_eval(step[1:-1])  # a text stands for such a key
    return f"[{_SCALAR.sub(lambda found: found[1], text)}]" if isinstance(text, str) else step


def _steps_of(keys: Iterable[Any]) -> list[str]:
    """Return the steps to the values of a dict with these keys, as a stored one has them."""
    live = flatten(dict.fromkeys(keys), lenient=True, where="sharding=")
    top = 0 if live.kind[0] in DICT_KINDS else next(iter(live.layout.children(0)))
    return [_normal(step) for step, _ in paths.steps(live, top) if not step.startswith("{key")]


def _parts_of(tree: Any) -> Mapping[str, Any]:
    """Return the parts of a container of wishes by the steps that lead to them."""
    if isinstance(tree, Mapping):
        return dict(zip(_steps_of(tree), tree.values(), strict=True))
    if isinstance(tree, list | tuple):
        parts = {f"[{number}]": value for number, value in enumerate(tree)}
        fields = zip(getattr(tree, "_fields", ()), tree, strict=False)
        return parts | {f"[{name!r}]": value for name, value in fields}
    if (record := _record_of(tree)) is not None:
        return {
            f"[{name!r}]": value
            for name, value in zip(record.row.fields, record.take(tree), strict=True)
        }
    names = (
        [field.name for field in dataclasses.fields(tree)]
        if dataclasses.is_dataclass(tree)
        else vars(tree)
    )
    return {f"[{name!r}]": getattr(tree, name, _MISSING) for name in names}


def _shown(tree: StoredTree, nodes: list[int]) -> list[str]:
    shown = paths.shown_paths(tree, nodes[:3])
    return [*shown, f"{len(nodes) - 3} more"] if len(nodes) > 3 else shown

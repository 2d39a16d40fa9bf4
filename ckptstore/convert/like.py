"""Giving what a foreign file holds the types that `like` has, or saying all that differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ckptstore.convert.inputs import framework
from ckptstore.format import TypeRow, dtypes
from ckptstore.format.dtypes import Array, DtypeRefusal, Stored
from ckptstore.tree import SCALAR_TYPES, differs_from_like, key_text, number_hint
from ckptstore.tree.leaves import making
from ckptstore.types import Refusal, find_adapter


class Likeness:
    """One reading with `like`: fits leaf by leaf, and gathers the differences."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._lines: list[str] = []

    def differ(self, path: str, text: str) -> None:
        """Note a difference."""
        self._lines.append(f"{path}: {text}")

    def done(self) -> None:
        """Raise StructureError, reason ``differs-from-like``, where anything was noted."""
        if self._lines:
            raise differs_from_like(self._where, self._lines)

    def leaf(self, path: str, stored: Any, like: Any, *, key: str | None = None) -> Any:
        """Return a value with the type of `like` and the bits of `stored`.

        Args:
            path: where it stands.
            stored: a numpy array or scalar, or a Python scalar.
            like: a live value, or a placeholder such as `jax.ShapeDtypeStruct`.
            key: the PRNG key implementation that the file says `stored` is the data of.

        Returns:
            The value; `like` itself where they differ, which is noted.
        """
        if type(like) in SCALAR_TYPES:
            if type(stored) is not type(like):
                text = f"{text_of(stored)} in the file, {text_of(like)} in `like`"
                self.differ(path, text + number_hint(like, getattr(stored, "shape", None)))
                return like
            return stored
        found = expected(like)
        if found is None or not isinstance(stored, np.ndarray | np.generic):
            self.differ(path, f"{text_of(stored)} in the file, {text_of(like)} in `like`")
            return like
        row, dtype, shape = found
        host = np.array(stored, order="C")
        if row.extra.get("impl") != key:
            here, there = key_text(key), key_text(row.extra.get("impl"))
            self.differ(path, f"{here} in the file, {there} in `like`")
        elif host.shape != shape or _stored(host) != dtype:
            self.differ(
                path, f"{text_of(host)} in the file, {dtype}{list(shape)} in `like`; change `like`"
            )
        else:
            return self._make(path, host, row, like)
        return like

    def _make(self, path: str, host: Array, row: TypeRow, like: Any) -> Any:
        adapter = find_adapter(type(like).__module__)
        assert adapter is not None  # `expected` found it
        with making(row, host.dtype, host.shape, where=f"{self._where}: {path}"):
            return adapter.array(host, row, adapter.place(like))


def expected(like: Any) -> tuple[TypeRow, Stored, tuple[int, ...]] | None:
    """Return (type, dtype, shape) of the array that `like` is, or stands for, else None."""
    adapter = find_adapter(type(like).__module__)
    if adapter is None:
        return None
    found = adapter.expected(like)
    if found is None:
        try:
            leaf = adapter.leaf(like)
        except (Refusal, DtypeRefusal):
            return None
        found = None if leaf is None else (leaf.row, leaf.dtype, leaf.shape)
    return found


def text_of(x: Any) -> str:
    """Say what a value is, for a message."""
    if isinstance(x, np.ndarray | np.generic):
        return f"{x.dtype}{list(x.shape)}"
    found = expected(x)
    if found is not None:
        return f"{found[0]} {found[1]}{list(found[2])}"
    if x is None:
        return "None"
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")


def filled(like: Any, leaves: Sequence[Any]) -> Any:
    """Return `like` with other leaves, in the order of `jax.tree_util`, its dicts in their order.

    jax itself sorts the keys of every dict that it makes.
    """
    tree_util = framework("jax").tree_util
    made = tree_util.tree_structure(like).unflatten(leaves)
    stack = [(like, made)]
    while stack:
        old, new = stack.pop()
        if isinstance(old, dict) and type(new) is type(old):
            entries = [(key, new[key]) for key in old]
            new.clear()
            new.update(entries)
        below = [_one_level(tree_util, x) for x in (old, new)]
        stack.extend(zip(*below, strict=True))
    return made


def _one_level(tree_util: Any, x: Any) -> list[Any]:
    """Return the children of a container, none of a leaf."""
    below: list[Any] = tree_util.tree_leaves(x, is_leaf=lambda y: y is not x)
    return [] if len(below) == 1 and below[0] is x else below


def step(key: Any) -> str:
    """Return the step of a path to an entry that a format knows by name only."""
    if type(key) is not str:
        return f"[{key!r:.200}]"
    return f".{key}" if key.isidentifier() else f"[{key if key.isdecimal() else repr(key)}]"


def _stored(host: Array) -> Stored | None:
    try:
        return dtypes.describe(host.dtype)
    except DtypeRefusal:
        return None

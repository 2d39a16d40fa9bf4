"""The leaves of a foreign file with the types of `like`, or one error with all differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.convert.inputs import import_package
from ckptstore.format import TypeRow, dtypes
from ckptstore.format.dtypes import Array, DtypeRefusal, Stored
from ckptstore.tree import SCALAR_TYPES, differs_from_like, key_text, number_hint
from ckptstore.tree.leaves import making
from ckptstore.types import Refusal, find_adapter


@dataclass(frozen=True, slots=True)
class ArrayForm:
    """The type, dtype and shape of an array, or of an array that a placeholder stands for."""

    row: TypeRow
    dtype: Stored
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.row} {self.dtype}{list(self.shape)}"


class Differences:
    """The differences of one file from `like`, gathered so that one error lists them all.

    Args:
        where: the file, for messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lines: list[str] = []

    def add(self, path: str, text: str) -> None:
        """Note a difference."""
        self._lines.append(f"{path}: {text}")

    def check(self) -> None:
        """Raise StructureError, reason ``differs-from-like``, if anything was noted."""
        if self._lines:
            raise differs_from_like(self._where, self._lines)

    def as_like(self, path: str, stored: Any, like: Any, *, key: str | None = None) -> Any:
        """Return a value with the type of `like` and the bits of `stored`.

        Args:
            path: its path.
            stored: a numpy array or scalar, or a Python scalar.
            like: a live value, or a placeholder such as `jax.ShapeDtypeStruct`.
            key: the PRNG key implementation in the file, if `stored` is a key's data.

        Returns:
            The value, or `like` itself if they differ, which is noted.
        """
        if type(like) in SCALAR_TYPES:
            if type(stored) is type(like):
                return stored
            hint = number_hint(like, getattr(stored, "shape", None))
            self.add(path, in_file_and_like(stored, like) + hint)
            return like
        form = array_form(like)
        if form is None or not isinstance(stored, np.ndarray | np.generic):
            self.add(path, in_file_and_like(stored, like))
            return like
        host = np.array(stored, order="C")
        key_of_like = form.row.extra.get("impl")
        if key_of_like != key:
            text = f"{key_text(key)} in the file, {key_text(key_of_like)} in `like`"
        elif host.shape != form.shape or _dtype_name(host) != form.dtype:
            wanted = f"{form.dtype}{list(form.shape)}"
            text = f"{describe_value(host)} in the file, {wanted} in `like`; change `like`"
        else:
            return self._make(path, host, form.row, like)
        self.add(path, text)
        return like

    def _make(self, path: str, host: Array, row: TypeRow, like: Any) -> Any:
        adapter = find_adapter(type(like).__module__)
        assert adapter is not None  # `array_form` asked it
        with making(row, host.dtype, host.shape, where=f"{self._where}: {path}"):
            return adapter.array(host, row, adapter.place(like))


def array_form(like: Any) -> ArrayForm | None:
    """Return the form of an array or of a placeholder for one; None if `like` is neither."""
    adapter = find_adapter(type(like).__module__)
    if adapter is None:
        return None
    if (expected := adapter.expected(like)) is not None:
        return ArrayForm(*expected)
    try:
        leaf = adapter.leaf(like)
    except (Refusal, DtypeRefusal):
        return None
    return None if leaf is None else ArrayForm(leaf.row, leaf.dtype, leaf.shape)


def describe_value(x: Any) -> str:
    """Return a value's dtype and shape, or else its class, for a message."""
    if isinstance(x, np.ndarray | np.generic):
        return f"{x.dtype}{list(x.shape)}"
    if (form := array_form(x)) is not None:
        return str(form)
    if x is None:
        return "None"
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")


def in_file_and_like(stored: Any, like: Any) -> str:
    """Return the text of a difference between two values."""
    return f"{describe_value(stored)} in the file, {describe_value(like)} in `like`"


def with_leaves(like: Any, leaves: Sequence[Any]) -> Any:
    """Return `like` with other leaves, in the order of `jax.tree_util`.

    Dicts keep the order of their keys, which jax itself would sort.
    """
    tree_util = import_package("jax").tree_util
    tree = tree_util.tree_structure(like).unflatten(leaves)
    stack = [(like, tree)]
    while stack:
        old, new = stack.pop()
        if isinstance(old, dict) and type(new) is type(old):
            entries = [(key, new[key]) for key in old]
            new.clear()
            new.update(entries)
        below = [_one_level(tree_util, x) for x in (old, new)]
        stack.extend(zip(*below, strict=True))
    return tree


def _one_level(tree_util: Any, x: Any) -> list[Any]:
    """Return the children of a container; a leaf has none."""
    below: list[Any] = tree_util.tree_leaves(x, is_leaf=lambda y: y is not x)
    return [] if len(below) == 1 and below[0] is x else below


def path_step(key: Any) -> str:
    """Return the step of a path to an entry that a format knows only by name."""
    if type(key) is not str:
        return f"[{key!r:.200}]"
    return f".{key}" if key.isidentifier() else f"[{key if key.isdecimal() else repr(key)}]"


def _dtype_name(host: Array) -> Stored | None:
    try:
        return dtypes.describe(host.dtype)
    except DtypeRefusal:
        return None

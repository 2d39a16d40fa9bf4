"""The leaves of a tree by the names that Orbax stores, and those that patterns select."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ckptstore.convert import inputs
from ckptstore.convert.like import path_step
from ckptstore.errors import Reason, StructureError, listed
from ckptstore.tree.patterns import parse

_SHOWN = 20

Path = tuple[tuple[bool, str], ...]
"""The steps to a leaf as Orbax stores them: for each, whether it is an index, and its text."""


def leaves_of(tree: Any) -> dict[Path, Any]:
    """Return the leaves and empty containers of a tree under the steps that Orbax stores."""
    tree_util = inputs.import_package("jax").tree_util

    def is_empty(x: Any) -> bool:
        return not tree_util.tree_leaves(x, is_leaf=lambda y: y is not x)

    out: dict[Path, Any] = {}
    for keys, leaf in tree_util.tree_flatten_with_path(tree, is_leaf=is_empty)[0]:
        path = path_of(keys)
        if path in out:
            raise StructureError(
                f"{shown_path(path)} names two leaves, whose keys Orbax writes alike; rename one",
                reason=Reason.AMBIGUOUS,
            )
        out[path] = leaf
    return out


def path_of(keys: Any) -> Path:
    """Return a path of jax as Orbax stores it."""
    tree_util = inputs.import_package("jax").tree_util
    indices = (tree_util.SequenceKey, tree_util.FlattenedIndexKey)
    return tuple((isinstance(key, indices), _text(key)) for key in keys)


def _text(key: Any) -> str:
    return str(next(getattr(key, n) for n in ("key", "idx", "name") if hasattr(key, n)))


def shown_path(path: Path) -> str:
    """Return a path for a message."""
    return "$" + "".join(f"[{text}]" if index else path_step(text) for index, text in path)


def check_names(where: str, stored: Mapping[Path, Any]) -> None:
    """Refuse names that Orbax itself confuses, since it joins the steps to a leaf with dots."""
    names: dict[str, Path] = {}
    for path in stored:
        name = ".".join(text for _, text in path)
        first = names.setdefault(name, path)
        if first != path:
            raise StructureError(
                f"{where}: Orbax wrote {shown_path(first)} and {shown_path(path)} to one place, "
                f"{name!r}, so one of them is lost; restore the other with Orbax",
                reason=Reason.AMBIGUOUS,
            )


def chosen(
    where: str, stored: Mapping[Path, Any], patterns: Sequence[str] | None
) -> Collection[Path]:
    """Return the stored leaves that the patterns select.

    Raises:
        StructureError: reason ``no-match``: a pattern selects none.
    """
    if patterns is None:
        return stored
    for pattern in patterns:
        if not matching(stored, [pattern]):
            tops = dict.fromkeys(shown_path(path[:1]) for path in stored)
            raise StructureError(
                f"{where}: nothing is at {pattern}; there is {', '.join(listed(tops, _SHOWN))}",
                reason=Reason.NO_MATCH,
            )
    return matching(stored, patterns)


def matching(leaves: Iterable[Path], patterns: Sequence[str]) -> Collection[Path]:
    """Return the leaves at or below the places that the patterns match."""
    parsed = [parse(pattern) for pattern in patterns]
    return {path: None for path in leaves if any(_leads(p, path) for p in parsed)}


def _leads(pattern: Sequence[str], path: Path) -> bool:
    """Return whether a pattern matches the first steps of a path, however many.

    Orbax stores the key 3 of a dict as "3", so that ``[3]`` and ``['3']`` are both its step.
    """
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_leads(pattern[1:], path[count:]) for count in range(len(path) + 1))
    if not path:
        return False
    text = path[0][1]
    steps = ("*", f"[{text}]", f"[{text!r}]", f".{text}")
    return pattern[0] in steps and _leads(pattern[1:], path[1:])

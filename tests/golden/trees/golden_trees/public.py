"""What of ckptstore is public: names, the arguments of calls, reason codes."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import warnings
from collections.abc import Collection
from typing import Any

from ckptstore import Reason

MODULES = ("ckptstore", "ckptstore.adapters", "ckptstore.convert", "ckptstore.optax")
# The classes that a user makes instances of. Of the others ckptstore gives them.
_MADE_BY_USERS = {
    "Adapter",
    "Child",
    "Leaf",
    "Manager",
    "Migration",
    "Record",
    "Refusal",
    "TypeRow",
}


def names() -> dict[str, Any]:
    """Return by dotted name what is public: the arguments of what you call, else None."""
    return _look()[0]


def _look() -> tuple[dict[str, Any], list[str]]:
    """Return what is public, and of that what is deprecated: to ask for it warns."""
    found: dict[str, Any] = {}
    deprecated: list[str] = []
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            dotted = f"{module.__name__}.{name}"
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                value = getattr(module, name)
            if any(issubclass(warning.category, DeprecationWarning) for warning in caught):
                deprecated.append(dotted)
            found[dotted] = _arguments(value)
            found |= {f"{dotted}.{n}": _arguments(member) for n, member in _members(value)}
    return found, deprecated


def gone_too_early(listed: dict[str, Any], new: Collection[str]) -> list[str]:
    """Return the names that are gone and that no two minor versions listed as deprecated.

    Args:
        listed: by version, what `text` said.
        new: the names of today.
    """
    return sorted(
        name
        for name in {name for said in listed.values() for name in said["names"]}.difference(new)
        if sum(name in said["deprecated"] for said in listed.values()) < 2
    )


def text() -> str:
    """Return all of it as JSON, a line for each name."""
    found, deprecated = _look()
    lines = ",\n".join(f'"{name}": {json.dumps(found[name])}' for name in sorted(found))
    reasons = json.dumps(sorted(Reason))
    rest = f'"deprecated": {json.dumps(deprecated)},\n"reasons": {reasons}'
    return f'{{"names": {{\n{lines}\n}},\n{rest}}}\n'


def _members(value: Any) -> list[tuple[str, Any]]:
    """Return the public members that a class has of ckptstore, not of Python."""
    ours = [cls for cls in getattr(value, "__mro__", ()) if cls.__module__.startswith("ckptstore")]
    listed = {name for cls in ours for name in vars(cls) if not name.startswith("_")}
    if dataclasses.is_dataclass(value):
        listed |= {field.name for field in dataclasses.fields(value)}
    return [(name, getattr(value, name, None)) for name in sorted(listed)]


def _arguments(value: Any) -> list[Any] | None:
    """Return name, kind and "has a default" of each argument."""
    if isinstance(value, type) and value.__name__ not in _MADE_BY_USERS:
        return None
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    return [[p.name, p.kind.name, p.default is not p.empty] for p in signature.parameters.values()]


def broken(old: list[Any], new: list[Any] | None) -> str:
    """Say which call that the old arguments allow the new ones do not, or ""."""
    if new is None:
        return "cannot be called"
    now = {name: (kind, default) for name, kind, default in new}
    old = [argument for argument in old if not argument[0].startswith("_")]
    for name, kind, default in old:
        if kind == "VAR_KEYWORD" and kind not in {kind for kind, _ in now.values()}:
            continue  # its keywords are spelled out now
        if name not in now:
            return f"the argument {name} is gone"
        if now[name][0] not in (kind, "POSITIONAL_OR_KEYWORD"):
            return f"the argument {name} was {kind} and is {now[name][0]}"
        if default and not now[name][1]:
            return f"the argument {name} has no default any more"
    positional = [name for name, kind, _ in old if kind.startswith("POSITIONAL")]
    if [name for name, kind, _ in new if kind.startswith("POSITIONAL")][: len(positional)] != (
        positional
    ):
        return f"the arguments {positional} stand in another order"
    before = {name for name, _, _ in old}
    more = [n for n, kind, default in new if n not in before and not default and "VAR" not in kind]
    return f"the argument {more[0]} is new and has no default" if more else ""

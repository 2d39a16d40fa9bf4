"""The plain form of a value that the metadata of a checkpoint cannot hold: the call that makes it.

A class is known by its package and its name. Nothing is imported, and no code of a value runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

_BY_CLASS: Mapping[tuple[str, str], str] = {
    ("ml_collections", "ConfigDict"): "{}.to_dict()",
    ("omegaconf", "DictConfig"): "omegaconf.OmegaConf.to_container({}, resolve=True)",
    ("omegaconf", "ListConfig"): "omegaconf.OmegaConf.to_container({}, resolve=True)",
    ("pydantic", "BaseModel"): "{}.model_dump(mode='json')",
    ("munch", "Munch"): "{}.toDict()",
    ("numpy", "datetime64"): "str({})",
    ("numpy", "timedelta64"): "str({})",
    ("numpy", "longdouble"): "float({})",
    ("numpy", "complexfloating"): "str({})",
    ("numpy", "generic"): "{}.item()",
    ("pathlib", "PurePath"): "str({})",
    ("datetime", "date"): "{}.isoformat()",
    ("datetime", "time"): "{}.isoformat()",
    ("datetime", "timedelta"): "{}.total_seconds()",
    ("enum", "Enum"): "{}.name",
    ("argparse", "Namespace"): "vars({})",
    ("types", "SimpleNamespace"): "vars({})",
    ("builtins", "bytearray"): "bytes({})",
    ("builtins", "memoryview"): "bytes({})",
    ("builtins", "function"): "{}.__qualname__",
    ("builtins", "type"): "{}.__qualname__",
}
"""By package and name; the nearest base counts."""

_BY_BASE: Mapping[tuple[str, str], str] = {
    **{("builtins", name): f"{name}({{}})" for name in ("str", "int", "float", "bytes")},
    **{("builtins", name): "list({})" for name in ("tuple", "list", "range", "set", "frozenset")},
    **{("builtins", f"dict_{name}"): "list({})" for name in ("keys", "values")},
    ("collections", "deque"): "list({})",
    ("collections", "UserList"): "list({})",
    ("builtins", "dict"): "dict({})",
    ("collections", "UserDict"): "dict({})",
    ("collections", "ChainMap"): "dict({})",
    ("builtins", "mappingproxy"): "dict({})",
}


def plain_value(value: Any, name: str) -> str:
    """Return the expression that makes a value plain, or one that keeps its text.

    Args:
        value: a value that is not plain.
        name: the expression of the value.

    Example:
        >>> import pathlib
        >>> plain_value((1, 2), "metadata['sizes']"), plain_value(pathlib.Path("a"), "path")
        ("list(metadata['sizes'])", 'str(path)')
    """
    cls = type(value)
    names = [_name(base) for base in type.__dict__["__mro__"].__get__(cls)]
    form = (
        _first(_BY_CLASS, names)
        or _of_array(value, names)
        or next((text for is_of, text in _BY_METHODS if is_of(cls)), None)
        or _first(_BY_BASE, names)
        or ("dict({})" if _has(cls, "keys", "__getitem__") else "str({})")
    )
    return form.format(name)


def _name(cls: type) -> tuple[str, str]:
    module = cls.__module__
    return module.partition(".")[0] if type(module) is str else "", cls.__qualname__


def _first(table: Mapping[tuple[str, str], str], names: list[tuple[str, str]]) -> str | None:
    return next((table[name] for name in names if name in table), None)


def _of_array(value: Any, names: list[tuple[str, str]]) -> str | None:
    """Return the form of an array of any framework: it has both methods."""
    if not _has(type(value), "item", "tolist"):
        return None
    return "{}.item()" if getattr(value, "ndim", 1) == 0 else "{}.tolist()"


def _has(cls: type, *names: str) -> bool:
    bases = type.__dict__["__mro__"].__get__(cls)
    return all(any(name in vars(base) for base in bases) for name in names)


_BY_METHODS: tuple[tuple[Callable[[type], bool], str], ...] = (
    (lambda cls: _has(cls, "to_dict"), "{}.to_dict()"),
    (lambda cls: _has(cls, "_fields", "_asdict"), "{}._asdict()"),
    (lambda cls: _has(cls, "__attrs_attrs__"), "attrs.asdict({})"),
    (dataclasses.is_dataclass, "dataclasses.asdict({})"),
)

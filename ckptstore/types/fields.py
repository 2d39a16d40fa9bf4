"""Kinds and fields of classes, read from their dicts without running a class's own code.

`getattr` could run a metaclass, a descriptor or a ``__getattr__``. Spec: section 5.1.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

from ckptstore.format import TypeKind

RECORD_KINDS = (TypeKind.NAMEDTUPLE, TypeKind.DATACLASS)
"""The kinds whose instances are made by writing the fields."""

_MODULE: Any = type.__dict__["__module__"]
_QUALNAME: Any = type.__dict__["__qualname__"]

_ALIASES: Any = (type(typing.Generic[typing.TypeVar("_T")]), types.GenericAlias)  # type: ignore[index]

MISSING = object()
"""Returned by `attribute_of` if a class and its bases have no such attribute."""


def kind_of(cls: type) -> TypeKind | None:
    """Return the kind of record or enum that a class is by itself, or None.

    Example:
        >>> import fractions
        >>> str(kind_of(dataclasses.make_dataclass("State", ["step"]))), kind_of(fractions.Fraction)
        ('dataclass', None)
    """
    if issubclass(cls, enum.Enum):
        return TypeKind.ENUM
    if issubclass(cls, tuple) and type(attribute_of(cls, "_fields")) is tuple:
        return TypeKind.NAMEDTUPLE
    if type(attribute_of(cls, "__dataclass_fields__")) is dict or _attrs_of(cls) is not None:
        return TypeKind.DATACLASS
    return None


def fields_of(cls: type, kind: TypeKind) -> tuple[str, ...]:
    """Return the field names of a NamedTuple or dataclass in order; an enum has none.

    Example:
        >>> fields_of(dataclasses.make_dataclass("State", ["step", "loss"]), TypeKind.DATACLASS)
        ('step', 'loss')
    """
    if kind == TypeKind.NAMEDTUPLE:
        return tuple(attribute_of(cls, "_fields"))
    if kind == TypeKind.DATACLASS and type(attribute_of(cls, "__dataclass_fields__")) is not dict:
        return tuple(field.name for field in _attrs_of(cls) or ())
    if kind == TypeKind.DATACLASS:
        fields = attribute_of(cls, "__dataclass_fields__").values()
        fields = [f for f in fields if type(f) is dataclasses.Field]
        return tuple(f.name for f in fields if f._field_type.name == "_FIELD")
    return ()


def module_of(cls: type) -> str:
    """Return the module that a class names, past any metaclass; "" if that is not a text."""
    try:
        module = _MODULE.__get__(cls)
    except AttributeError:
        return ""
    return module if type(module) is str else ""


def qualname_of(cls: type) -> str:
    """Return the qualified name of a class past any metaclass."""
    name: str = _QUALNAME.__get__(cls)
    return name


def full_name(cls: type) -> str:
    """Return ``module.qualname`` of a class past any metaclass, without ``builtins``.

    Example:
        >>> import fractions
        >>> full_name(fractions.Fraction), full_name(int)
        ('fractions.Fraction', 'int')
    """
    return f"{module_of(cls)}.{qualname_of(cls)}".removeprefix("builtins.")


def _attrs_of(cls: type) -> tuple[Any, ...] | None:
    """Return the fields that the package attrs noted in a class that it made, or None."""
    fields = attribute_of(cls, "__attrs_attrs__")
    noted = isinstance(fields, tuple) and all(
        full_name(type(field)) == "attr._make.Attribute" for field in fields
    )
    return fields if noted else None


def caches_of(cls: type) -> tuple[str, ...]:
    """Return the attributes in which attrs keeps what another process computes anew: a hash.

    attrs asks for it before it makes it, so an instance needs it from the start, as None.
    """
    code = getattr(attribute_of(cls, "__hash__"), "__code__", None)
    kept = _HASH_CACHE in getattr(code, "co_names", ()) and _attrs_of(cls) is not None
    return (_HASH_CACHE,) if kept else ()


_HASH_CACHE = "_attrs_cached_hash"


def class_dict(cls: type) -> Mapping[str, Any]:
    """Return ``cls.__dict__`` past any metaclass."""
    namespace: Mapping[str, Any] = type.__dict__["__dict__"].__get__(cls)
    return namespace


def owner_of(cls: type, name: str) -> type | None:
    """Return the first of a class and its bases that defines a name, or None."""
    bases: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)
    return next((base for base in bases if name in class_dict(base)), None)


def attribute_of(cls: type, name: str) -> Any:
    """Return the value that a class or a base of it has under a name, or MISSING."""
    owner = owner_of(cls, name)
    return MISSING if owner is None else class_dict(owner)[name]


def without_alias(x: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes of `x` without the note of Python that ``G[int](3)`` made it.

    `typing` leaves it in instances of a Generic, Python itself in those of ``Counter[str]``.
    """
    alias: Any = attributes.get("__orig_class__")
    own = type(alias) in _ALIASES and issubclass(type(x), alias.__origin__)
    return {name: a for name, a in attributes.items() if not (own and name == "__orig_class__")}

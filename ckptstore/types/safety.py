"""The check that a class is safe to rebuild: its instances can be made without its own code."""

from __future__ import annotations

import abc
import enum
import sys
import types
import typing
from dataclasses import dataclass
from typing import Any

from ckptstore.format import TypeKind
from ckptstore.types.fields import MISSING, attribute_of, class_dict, fields_of, owner_of
from ckptstore.types.registry import find_adapter

_HEAP_TYPE = 1 << 9
"""The flag of a class that a class statement defined: Py_TPFLAGS_HEAPTYPE."""

METACLASSES = (type, abc.ABCMeta, type(typing.Protocol))
"""The metaclasses of Python itself."""

_ENUM_METACLASSES = (enum.EnumType,)
_ENUMS = {t for t in vars(enum).values() if type(t) is enum.EnumType}


class Unsafe(Exception):
    """The reason why instances of a class are not rebuilt without the user's permission."""


def check_safe(cls: type, kind: TypeKind) -> None:
    """Refuse a class whose instances could not be made without running its code.

    Args:
        cls: a NamedTuple, dataclass or enum.
        kind: its kind, one of these three.

    Raises:
        Unsafe: for ``__del__``, a ``__setattr__`` of its own, a metaclass, a built-in base, or a
            descriptor in the place of a field.

    Example:
        >>> import dataclasses
        >>> check_safe(dataclasses.make_dataclass("State", ["step"]), TypeKind.DATACLASS)
        >>> check_safe(dataclasses.make_dataclass("Bag", [], bases=(dict,)), TypeKind.DATACLASS)
        Traceback (most recent call last):
        ...
        ckptstore.types.safety.Unsafe: it is also a dict, whose contents are not its fields
    """
    allowed = _ENUM_METACLASSES if kind == TypeKind.ENUM else METACLASSES
    if type(cls) not in allowed and not _is_harmless(type(cls), type(cls)):
        raise Unsafe(f"its metaclass {type(cls).__qualname__} may run code")
    if attribute_of(cls, "__del__") is not MISSING:
        raise Unsafe("it has a __del__")
    if kind == TypeKind.ENUM:
        _check_comparison(cls)
        return
    for base in cls.__mro__:
        if not base.__flags__ & _HEAP_TYPE and base not in (object, tuple, typing.Generic):
            raise Unsafe(f"it is also a {base.__qualname__}, whose contents are not its fields")
    fields = fields_of(cls, kind)
    if kind == TypeKind.NAMEDTUPLE:
        if not all(type(attribute_of(cls, name)) is _GETTER for name in fields):
            raise Unsafe("a field was replaced after the NamedTuple was made")
        return
    try:
        object.__new__(cls)  # runs no code of the class, and refuses the built-in bases left
    except TypeError as error:
        raise Unsafe(f"an instance cannot be made without its own code ({error})") from None
    setter = attribute_of(cls, "__setattr__")
    plain = setter is object.__setattr__ or _is_of_frozen_dataclass(cls) or _is_of_attrs(cls)
    if not plain and not _is_harmless(type(cls), setter):
        raise Unsafe("it has a __setattr__ of its own")
    for name in fields:
        value = attribute_of(cls, name)
        hook = value is not MISSING and attribute_of(type(value), "__set__") is not MISSING
        if hook and type(value) is not types.MemberDescriptorType:
            raise Unsafe(f"its field {name!r} is a {type(value).__qualname__}, which runs code")


def _check_comparison(cls: type) -> None:
    """Refuse an enum that compares or hashes its members by its own code."""
    for name in ("__eq__", "__hash__", "__getattribute__"):
        if has_own(cls, name):
            raise Unsafe(f"it has an {name} of its own")


def has_own(cls: type, *names: str) -> bool:
    """Return whether an enum has one of these methods from a class statement, not from Python.

    Example:
        >>> has_own(enum.IntEnum, "__eq__", "__lt__")
        False
    """
    owners = (owner_of(cls, name) for name in names)
    return any(x is not None and x.__flags__ & _HEAP_TYPE and x not in _ENUMS for x in owners)


def _is_harmless(metaclass: type, hook: Any) -> bool:
    """Return whether the framework of a metaclass declares that a hook need not run."""
    if metaclass in METACLASSES:
        return False
    adapter = find_adapter(metaclass.__module__)
    return adapter is not None and any(hook is harmless for harmless in adapter.harmless)


class _Example(typing.NamedTuple):
    a: int


@dataclass(frozen=True)
class _Frozen:
    a: int


@dataclass(frozen=True)
class _FrozenEmpty:
    pass


def _text_of(function: Any) -> tuple[Any, ...]:
    """Return the instructions of a function and the names in them."""
    code = function.__code__
    return code.co_code, code.co_names, code.co_freevars


_GETTER = type(class_dict(_Example)["a"])
_PARAMETERS = type(class_dict(_Frozen)["__dataclass_params__"])
_GENERATED = {_text_of(class_dict(cls)["__setattr__"]) for cls in (_Frozen, _FrozenEmpty)}
"""The generated code, which differs only in a constant: the names of the fields."""


def _is_of_attrs(cls: type) -> bool:
    """Return whether attrs generated the ``__setattr__``, which validates, converts or refuses.

    The generated ``__init__`` bypasses it when it writes the fields, as `load` does.
    """
    owner = owner_of(cls, "__setattr__")
    assert owner is not None  # object has one
    setter = class_dict(owner)["__setattr__"]
    frozen = getattr(sys.modules.get("attr._make"), "_frozen_setattrs", MISSING)
    return setter is frozen or class_dict(owner).get("__attrs_own_setattr__") is True


def _is_of_frozen_dataclass(cls: type) -> bool:
    """Return whether the ``__setattr__`` of a class is the one that ``frozen=True`` generates.

    The generated ``__init__`` bypasses it when it writes the fields, as `load` does.
    """
    owner = owner_of(cls, "__setattr__")
    assert owner is not None  # object has one
    parameters: Any = class_dict(owner).get("__dataclass_params__")
    setter = class_dict(owner)["__setattr__"]
    return (
        type(parameters) is _PARAMETERS
        and parameters.frozen is True
        and type(setter) is types.FunctionType
        and _text_of(setter) in _GENERATED
    )

"""Instances of subclasses of str, bytes, int, float and complex that hold nothing else.

Such a class is found by its name, as a dataclass is. An instance is made by the built-in type's own
``__new__``: `torch.__version__` by ``str.__new__(TorchVersion, "2.4.0")``. Spec: section 5.1.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ckptstore.errors import Reason, UnknownTypeError
from ckptstore.format import TypeKind, TypeRow
from ckptstore.texts import shown
from ckptstore.types.fields import MISSING, attribute_of, class_dict, without_alias
from ckptstore.types.leaf import Refusal
from ckptstore.types.lookup import find_named
from ckptstore.types.naming import class_row
from ckptstore.types.records import Record
from ckptstore.types.registry import find_registration
from ckptstore.types.safety import METACLASSES

_PLAIN: Mapping[type, Callable[[Any], Any]] = {
    str: str.__str__,
    bytes: bytes.__bytes__,
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
}
"""The built-in types, and the function that makes a plain one of an instance of a subclass."""

_BY_NAME = {base.__name__: base for base in _PLAIN}
_HEAP_TYPE = 1 << 9
"""The flag of a class that a class statement made: Py_TPFLAGS_HEAPTYPE in CPython."""


def base_of(cls: type) -> type | None:
    """Return the built-in type that a class derives from, if from no other, else None.

    Example:
        >>> base_of(type("Version", (str,), {})), base_of(str)
        (<class 'str'>, None)
    """
    base = next((base for base in _PLAIN if issubclass(cls, base)), None)
    others = {object, typing.Generic, base}
    bases = type.__dict__["__mro__"].__get__(cls)
    if cls is base or any(not b.__flags__ & _HEAP_TYPE and b not in others for b in bases):
        return None
    return base


def is_hashed_as_base(cls: type) -> bool:
    """Return whether instances are hashed and compared by the code of the built-in type.

    Example:
        >>> is_hashed_as_base(type("Version", (str,), {}))
        True
    """
    base = base_of(cls)
    names = ("__hash__", "__eq__")
    return base is not None and all(attribute_of(cls, n) is getattr(base, n) for n in names)


def plain_of(x: Any) -> Any:
    """Return the plain str, bytes, int, float or complex of an instance of a subclass.

    Example:
        >>> plain_of(type("Version", (str,), {})("2.4.0"))
        '2.4.0'
    """
    base = base_of(type(x))
    assert base is not None
    return _PLAIN[base](x)


def subclass_record(cls: type) -> Record | None:
    """Return the record of a subclass of such a type, or None for another class.

    Raises:
        Refusal: the class cannot be found or made safely.

    Example:
        >>> subclass_record(dict) is None
        True
    """
    base = base_of(cls)
    if base is None:
        return None
    if fault := _fault(cls):
        raise Refusal(
            f"an object of {cls.__module__}.{cls.__qualname__} cannot be saved: {fault}; pass "
            f"{base.__name__}(x), or use ckptstore.register({cls.__qualname__}, flatten=..., "
            "unflatten=...)"
        )
    row = class_row(cls, TypeKind.OBJECT, ("value",))
    return _record(cls, base, dataclasses.replace(row, extra={"base": base.__name__}))


def find_subclass(row: TypeRow, classes: Mapping[str, type]) -> Record:
    """Return the record of a stored subclass of a built-in type.

    Args:
        row: a type of kind ``object`` with ``base`` in its `extra`.
        classes: the classes of ``types=`` or `like`, by stored name.

    Raises:
        UnknownTypeError: the class was not found, or is another one; the message has the remedy.

    Example:
        >>> Version = type("Version", (str,), {})
        >>> row = TypeRow(TypeKind.OBJECT, "p", "Version", fields=("value",), extra={"base": "str"})
        >>> find_subclass(row, {"p.Version": Version}).make(["2.4.0"])
        '2.4.0'
    """
    base = _BY_NAME.get(name) if type(name := row.extra["base"]) is str else None
    if base is None or row.fields != ("value",):
        raise UnknownTypeError(
            f"{row}: no type of this ckptstore has the base {shown(repr(name))} and the fields "
            f"{shown(', '.join(row.fields))}; upgrade ckptstore",
            reason=Reason.UNKNOWN_OBJECT,
        )
    cls = find_named(row, classes)
    if base_of(cls) is not base:
        raise UnknownTypeError(
            f"{row}: found {type.__repr__(cls)}, expected a subclass of {name}; pass "
            f"types={{{str(row)!r}: YourClass}}",
            reason=Reason.WRONG_KIND,
        )
    trusted = str(row) in classes or find_registration(cls) is not None
    if not trusted and (fault := _fault(cls)):
        raise UnknownTypeError(
            f"{row}: not rebuilt, because {fault}; if you trust the class, pass "
            f"types=[{shown(row.name)}]",
            reason=Reason.UNSAFE_CLASS,
        )
    return _record(cls, base, row)


def _fault(cls: type) -> str:
    """Return why an instance cannot be made without foreign code, or ""."""
    if type(cls) not in METACLASSES:
        return f"its metaclass {type(cls).__qualname__} may run code"
    return "it has a __del__" if attribute_of(cls, "__del__") is not MISSING else ""


def _record(cls: type, base: Any, row: TypeRow) -> Record:
    def take(x: Any) -> Sequence[Any]:
        _refuse_attributes(x, base)
        return (_PLAIN[base](x),)

    def make(values: Sequence[Any]) -> Any:
        (value,) = values
        if type(value) is not base:
            raise TypeError(f"its value is not a {base.__name__}")
        return base.__new__(cls, value)

    return Record(row, take, make, check=lambda values: None, reads="items")


def _refuse_attributes(x: Any, base: type) -> None:
    """Refuse an instance that holds more than its value, since the rest would be lost."""
    try:
        names = list(without_alias(x, object.__getattribute__(x, "__dict__")))
    except AttributeError:
        names = []
    cls: Any = type(x)
    for name, slot in _slots(cls):
        try:
            slot.__get__(x)
        except AttributeError:
            continue
        names.append(name)
    if names:
        raise Refusal(
            f"this {type(x).__qualname__} has the attribute {names[0]!r}, which would be lost; "
            f"delete it, or pass {base.__name__}(x)"
        )


@functools.lru_cache(256)
def _slots(cls: type) -> list[tuple[str, Any]]:
    return [
        (name, member)
        for base in cls.__mro__
        for name, member in class_dict(base).items()
        if base.__flags__ & _HEAP_TYPE and type(member) is types.MemberDescriptorType
    ]

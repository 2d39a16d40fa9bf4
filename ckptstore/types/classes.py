"""Classes: their kinds and fields, their stored names, and which are safe to rebuild.

What a name leads to is looked up through `vars(module)` and class ``__dict__``s, never `getattr`,
and only in modules that are imported already. Spec: section 5.1.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import importlib
import importlib.metadata
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ckptstore.format import TypeKind, TypeRow
from ckptstore.types import registry
from ckptstore.types.registry import Refusal

HEAP_TYPE = 1 << 9
"""The flag of what a class statement defined: Py_TPFLAGS_HEAPTYPE."""

RECORDS = (TypeKind.NAMEDTUPLE, TypeKind.DATACLASS)
"""The kinds whose instances are made by writing the fields."""

_METACLASSES = (type, abc.ABCMeta, type(typing.Protocol))
_ENUM_METACLASSES = (enum.EnumType,)
_ENUMS = {t for t in vars(enum).values() if type(t) is enum.EnumType}
MISSING = object()
"""What `lookup` returns where there is nothing."""


class Unsafe(Exception):
    """Why instances of a class are not rebuilt without the user's word."""


def class_dict(cls: type) -> Mapping[str, Any]:
    """Return ``cls.__dict__`` past any metaclass."""
    found: Mapping[str, Any] = type.__dict__["__dict__"].__get__(cls)
    return found


def lookup(cls: type, name: str) -> Any:
    """Return what a class or a base of it has under a name, or MISSING; runs no code."""
    for base in type.__dict__["__mro__"].__get__(cls):
        if name in class_dict(base):
            return class_dict(base)[name]
    return MISSING


def kind_of(cls: type) -> TypeKind | None:
    """Return which kind of record or enum a class is by itself, or None."""
    if issubclass(cls, enum.Enum):
        return TypeKind.ENUM
    if issubclass(cls, tuple) and type(lookup(cls, "_fields")) is tuple:
        return TypeKind.NAMEDTUPLE
    if type(lookup(cls, "__dataclass_fields__")) is dict:
        return TypeKind.DATACLASS
    return None


def fields_of(cls: type, kind: TypeKind) -> tuple[str, ...]:
    """Return the field names of a NamedTuple or dataclass in order; an enum has none."""
    if kind == TypeKind.NAMEDTUPLE:
        return tuple(lookup(cls, "_fields"))
    if kind == TypeKind.DATACLASS:
        fields = lookup(cls, "__dataclass_fields__").values()
        fields = [f for f in fields if type(f) is dataclasses.Field]
        return tuple(f.name for f in fields if f._field_type.name == "_FIELD")
    return ()


def check(cls: type, kind: TypeKind) -> None:
    """Refuse a class whose instances could not be made without running its code.

    Raises:
        Unsafe: for ``__del__``, an own ``__setattr__``, a metaclass, a built-in base, or a
            descriptor in the place of a field.
    """
    allowed = _ENUM_METACLASSES if kind == TypeKind.ENUM else _METACLASSES
    if type(cls) not in allowed and not _is_harmless(type(cls), type(cls)):
        raise Unsafe(f"its metaclass {type(cls).__qualname__} may run code")
    if lookup(cls, "__del__") is not MISSING:
        raise Unsafe("it has a __del__")
    if kind == TypeKind.ENUM:
        for name in ("__eq__", "__hash__"):
            owner = next(base for base in cls.__mro__ if name in class_dict(base))
            if owner.__flags__ & HEAP_TYPE and owner not in _ENUMS:
                raise Unsafe(f"it has an {name} of its own")
        return
    for base in cls.__mro__:
        if not base.__flags__ & HEAP_TYPE and base not in (object, tuple, typing.Generic):
            raise Unsafe(f"it is also a {base.__qualname__}, whose contents are not its fields")
    fields = fields_of(cls, kind)
    if kind == TypeKind.NAMEDTUPLE:
        getter = type(class_dict(_Example)["a"])
        if not all(type(lookup(cls, name)) is getter for name in fields):
            raise Unsafe("a field is not what NamedTuple made of it")
        return
    try:
        object.__new__(cls)  # runs no code of the class, and refuses the built-in bases left
    except TypeError as error:
        raise Unsafe(f"an instance cannot be made without its own code ({error})") from None
    setter = lookup(cls, "__setattr__")
    plain = setter is object.__setattr__ or _is_frozen_setter(cls, setter)
    if not plain and not _is_harmless(type(cls), setter):
        raise Unsafe("it has a __setattr__ of its own")
    for name in fields:
        found = lookup(cls, name)
        hook = found is not MISSING and lookup(type(found), "__set__") is not MISSING
        if hook and type(found) is not types.MemberDescriptorType:
            raise Unsafe(f"its field {name!r} is a {type(found).__qualname__}, which runs code")


def _is_harmless(metaclass: type, what: Any) -> bool:
    """Tell whether the framework of a metaclass says that making instances needs no `what`."""
    if metaclass in _METACLASSES:
        return False
    known = registry.adapter(registry.top_level(metaclass.__module__))
    return known is not None and any(what is one for one in known.harmless)


class _Example(typing.NamedTuple):
    a: int


def _is_frozen_setter(cls: type, setter: Any) -> bool:
    """Tell whether `setter` is the one that `dataclass(frozen=True)` generates."""
    params = lookup(cls, "__dataclass_params__")
    code = getattr(setter, "__code__", None) if type(setter) is types.FunctionType else None
    return (
        getattr(params, "frozen", False) is True
        and code is not None
        and "FrozenInstanceError" in str((code.co_names, code.co_freevars))
    )


def locate(module: str, name: str) -> Any:
    """Return what `name` leads to in an imported module, or None; runs no code."""
    found: Any = sys.modules.get(module)
    if not isinstance(found, types.ModuleType):
        return None
    scope: Mapping[str, Any] = object.__getattribute__(found, "__dict__")
    for part in name.split("."):
        found = scope.get(part, MISSING)
        if found is MISSING:
            return None
        if issubclass(type(found), type):  # isinstance would ask `found`
            scope = class_dict(found)
        else:
            scope = {}
    return found


def locate_dotted(name: str) -> Any:
    """Return what ``module.qualname`` leads to, where the module is imported, or None."""
    module = name
    while (module := module.rpartition(".")[0]) and module not in sys.modules:
        pass
    return locate(module, name.removeprefix(f"{module}."))


def describe(cls: type, kind: TypeKind, fields: Sequence[str] = ()) -> TypeRow:
    """Return the stored row of a class, making sure that its name leads back to it.

    Raises:
        Refusal: for a class local to a function, or one that its module does not hold.
    """
    registered = registry.registration(cls)
    if registered is not None and registered.name != registry.default_name(cls):
        module, _, name = registered.name.rpartition(".")
        return TypeRow(kind, module, name, fields=tuple(fields))
    module, name = registry.module_of(cls), cls.__qualname__
    binding = None
    if "<locals>" in name:
        raise Refusal(
            f"the class {module}.{name} is local to a function, so no later process can find it; "
            "move it to the top of its module"
        )
    if locate(module, name) is not cls:
        binding = _binding(cls)
        if binding is None:
            raise Refusal(
                f"the class {module}.{name} is not what that name holds in its module; bind it "
                f"there (from {module} import {name.partition('.')[0]} must give it), or use "
                "ckptstore.register(cls, name=..., flatten=..., unflatten=...)"
            )
    main = main_name() if module == "__main__" else None
    package = registry.top_level(module)
    return TypeRow(
        kind, module, name, binding, main, tuple(fields), package, package_version(package)
    )


def describe_object(cls: type, distribution: str, *fields: str, **extra: bool) -> TypeRow:
    """Return the stored row of a class of a framework, whose adapter makes it of these fields.

    Args:
        cls: the class.
        distribution: what pip calls the framework.
        fields: the names of the children.
        extra: what else the row says.
    """
    return TypeRow(
        TypeKind.OBJECT,
        cls.__module__,
        cls.__qualname__,
        fields=fields,
        package=registry.top_level(cls.__module__),
        version=package_version(distribution),
        extra=extra,
    )


def main_name() -> str | None:
    """Return the name under which the running script can be imported, where it has one."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else None


def _binding(cls: type) -> str | None:
    """Find the name that a module gives a class whose own name is another (or none)."""
    found = sys.modules.get(cls.__module__)
    if not isinstance(found, types.ModuleType):
        return None
    return next((key for key, value in vars(found).items() if value is cls), None)


def stored_name(cls: type) -> str:
    """Return the name under which instances of a class are stored."""
    registered = registry.registration(cls)
    if registered is not None:
        return registered.name
    module = registry.module_of(cls)
    found = locate(module, cls.__qualname__) is cls
    return f"{module}.{cls.__qualname__ if found else _binding(cls) or cls.__qualname__}"


@functools.cache
def package_version(package: str) -> str | None:
    """Return the version of an installed top-level package, where it says one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = getattr(sys.modules.get(package), "__version__", None)
        return version if type(version) is str else None

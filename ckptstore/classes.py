"""Classes: their stored names, how they are found again, and how instances are made safely.

A class is found through `vars(module)` and class ``__dict__``s, never `getattr`, and only in
modules that are imported already or that an adapter lists. Instances are made without their
``__init__``, ``__new__`` or any descriptor. Spec: section 5.1; reasons: docs/design.md, types.
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

from ckptstore import registry
from ckptstore.errors import UnknownTypeError
from ckptstore.index import TypeKind, TypeRow
from ckptstore.registry import Record, Refusal

_HEAP_TYPE = 1 << 9
_METACLASSES = (type, abc.ABCMeta, type(typing.Protocol))
_ENUM_METACLASSES = (enum.EnumType,)
_ENUMS = {t for t in vars(enum).values() if type(t) is enum.EnumType}
_MISSING = object()
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_VALUE_MAX_DEPTH = 32


class Unsafe(Exception):
    """Why instances of a class are not rebuilt without the user's word."""


def class_dict(cls: type) -> Mapping[str, Any]:
    """Return ``cls.__dict__`` past any metaclass."""
    found: Mapping[str, Any] = type.__dict__["__dict__"].__get__(cls)
    return found


def _lookup(cls: type, name: str) -> Any:
    for base in type.__dict__["__mro__"].__get__(cls):
        if name in class_dict(base):
            return class_dict(base)[name]
    return _MISSING


def kind_of(cls: type) -> TypeKind | None:
    """Return which kind of record or enum a class is by itself, or None."""
    if issubclass(cls, enum.Enum):
        return TypeKind.ENUM
    if issubclass(cls, tuple) and type(_lookup(cls, "_fields")) is tuple:
        return TypeKind.NAMEDTUPLE
    if type(_lookup(cls, "__dataclass_fields__")) is dict:
        return TypeKind.DATACLASS
    return None


def fields_of(cls: type, kind: TypeKind) -> tuple[str, ...]:
    """Return the field names of a NamedTuple or dataclass in order; an enum has none."""
    if kind == TypeKind.NAMEDTUPLE:
        return tuple(_lookup(cls, "_fields"))
    if kind == TypeKind.DATACLASS:
        fields = _lookup(cls, "__dataclass_fields__").values()
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
    if type(cls) not in allowed:
        raise Unsafe(f"its metaclass {type(cls).__qualname__} may run code")
    if _lookup(cls, "__del__") is not _MISSING:
        raise Unsafe("it has a __del__")
    if kind == TypeKind.ENUM:
        for name in ("__eq__", "__hash__"):
            owner = next(base for base in cls.__mro__ if name in class_dict(base))
            if owner.__flags__ & _HEAP_TYPE and owner not in _ENUMS:
                raise Unsafe(f"it has an {name} of its own")
        return
    for base in cls.__mro__:
        if not base.__flags__ & _HEAP_TYPE and base not in (object, tuple, typing.Generic):
            raise Unsafe(f"it is also a {base.__qualname__}, whose contents are not its fields")
    fields = fields_of(cls, kind)
    if kind == TypeKind.NAMEDTUPLE:
        getter = type(class_dict(_Example)["a"])
        if not all(type(_lookup(cls, name)) is getter for name in fields):
            raise Unsafe("a field is not what NamedTuple made of it")
        return
    try:
        object.__new__(cls)  # runs no code of the class, and refuses the built-in bases left
    except TypeError as error:
        raise Unsafe(f"an instance cannot be made without its own code ({error})") from None
    setter = _lookup(cls, "__setattr__")
    if setter is not object.__setattr__ and not _is_frozen_setter(cls, setter):
        raise Unsafe("it has a __setattr__ of its own")
    for name in fields:
        found = _lookup(cls, name)
        hook = found is not _MISSING and _lookup(type(found), "__set__") is not _MISSING
        if hook and type(found) is not types.MemberDescriptorType:
            raise Unsafe(f"its field {name!r} is a {type(found).__qualname__}, which runs code")


class _Example(typing.NamedTuple):
    a: int


def _is_frozen_setter(cls: type, setter: Any) -> bool:
    """Tell whether `setter` is the one that `dataclass(frozen=True)` generates."""
    params = _lookup(cls, "__dataclass_params__")
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
        found = scope.get(part, _MISSING)
        if found is _MISSING:
            return None
        if issubclass(type(found), type):  # isinstance would ask `found`
            scope = class_dict(found)
        else:
            scope = {}
    return found


def describe(cls: type, kind: TypeKind, fields: Sequence[str] = ()) -> TypeRow:
    """Return the stored row of a class, making sure that its name leads back to it.

    Raises:
        Refusal: for a class local to a function, or one that its module does not hold.
    """
    registered = registry.registration(cls)
    if registered is not None and registered.name != registry.default_name(cls):
        module, _, name = registered.name.rpartition(".")
        return TypeRow(kind, module, name, fields=tuple(fields))
    module, name = cls.__module__, cls.__qualname__
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
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    main = spec.name if module == "__main__" and spec is not None else None
    package = registry.top_level(module)
    return TypeRow(
        kind, module, name, binding, main, tuple(fields), package, package_version(package)
    )


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
    found = locate(cls.__module__, cls.__qualname__) is cls
    return f"{cls.__module__}.{cls.__qualname__ if found else _binding(cls) or cls.__qualname__}"


@functools.cache
def package_version(package: str) -> str | None:
    """Return the version of an installed top-level package, where it says one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = getattr(sys.modules.get(package), "__version__", None)
        return version if type(version) is str else None


def find(row: TypeRow, given: Mapping[str, type]) -> type:
    """Return the class of a stored NamedTuple, dataclass, enum or pytree.

    Args:
        row: the stored type.
        given: what the caller passed as ``types=`` or `like` holds, by stored name.

    Raises:
        UnknownTypeError: it says what was looked for, and the remedy.
    """
    where = str(row)
    cls = given.get(where)
    trusted = cls is not None
    if cls is None and (registration := registry.registration_named(where)):
        cls, trusted = registration.cls, True
    if cls is None:
        cls = _find_by_name(row)
    kind = TypeKind(row.kind)
    if kind == TypeKind.PYTREE:
        if trusted:
            return cls
        raise UnknownTypeError(
            f"{row}: its unflatten runs code of its own; pass types=[{row.name}] to load, or call "
            f"ckptstore.register({row.name})",
            reason="needs-types",
        )
    if kind_of(cls) != kind:
        raise UnknownTypeError(
            f"{row}: found {type.__repr__(cls)}, expected a {kind}; pass "
            f"types={{{where!r}: YourClass}}",
            reason="wrong-kind",
        )
    if not trusted:
        try:
            check(cls, kind)
        except Unsafe as error:
            raise UnknownTypeError(
                f"{row}: not rebuilt, because {error}; if you trust the class, pass "
                f"types=[{row.name}]",
                reason="unsafe-class",
            ) from None
    have = fields_of(cls, kind)
    if set(have) != set(row.fields):
        raise UnknownTypeError(
            f"{row}: the checkpoint has the fields {', '.join(row.fields) or '(none)'}; the class "
            f"now has {', '.join(have) or '(none)'}; pass types={{{where!r}: OldClass}} with a "
            "class of the stored fields",
            reason="fields-differ",
        )
    return cls


def _find_by_name(row: TypeRow) -> type:
    package = registry.top_level(row.module)
    adapter = registry.adapter(package)
    for module in adapter.modules if adapter else ():
        importlib.import_module(module)
    name = row.binding or row.name
    found = locate(row.module, name)
    if found is None and row.main is not None:
        found = locate(row.main, name)
    if found is None and row.main is None and row.module != "__main__":
        main = sys.modules.get("__main__")
        spec = getattr(main, "__spec__", None)
        if spec is not None and spec.name == row.module:
            found = locate("__main__", name)
    if found is None:
        loaded = row.module in sys.modules
        raise UnknownTypeError(
            f"{row}: "
            + (
                f"the module {row.module} has no {name}; "
                if loaded
                else f"the module {row.module} is not imported; import it first, or "
            )
            + f"pass types={{'{row}': YourClass}}",
            reason="no-such-name" if loaded else "module-not-imported",
        )
    if not issubclass(type(found), type):  # neither isinstance nor repr: they would ask it
        raise UnknownTypeError(
            f"{row}: found {object.__repr__(found)}, which is no class; a checkpoint names only "
            "classes",
            reason="wrong-kind",
        )
    cls: type = found
    return cls


def record(cls: type, row: TypeRow) -> Record:
    """Return how instances of a NamedTuple or dataclass are taken apart and made."""
    if row.kind == TypeKind.NAMEDTUPLE:
        return Record(row, functools.partial(_take_tuple, row.fields), _tuple_maker(cls, row))
    return Record(row, functools.partial(_take_fields, row.fields), _dataclass_maker(cls, row))


def _take_tuple(fields: tuple[str, ...], x: Any) -> Sequence[Any]:
    values = tuple(tuple.__iter__(x))
    if len(values) != len(fields):
        raise Refusal(f"{len(values)} items in a NamedTuple of {len(fields)} fields")
    try:
        extra = list(object.__getattribute__(x, "__dict__"))
    except AttributeError:
        return values
    _refuse_extra(type(x), extra)
    return values


def _take_fields(fields: tuple[str, ...], x: Any) -> Sequence[Any]:
    try:
        attributes = dict(object.__getattribute__(x, "__dict__"))
    except AttributeError:
        attributes = {}
    values = []
    for name in fields:
        if name in attributes:
            values.append(attributes.pop(name))
            continue
        slot = _lookup(type(x), name)
        try:
            if type(slot) is not types.MemberDescriptorType:
                raise AttributeError(name)
            values.append(slot.__get__(x))
        except AttributeError:
            raise Refusal(
                f"the field {name!r} of this {type(x).__qualname__} was never set; set it"
            ) from None
    _refuse_extra(type(x), [*attributes, *_slots_beyond(fields, x)])
    return values


def _slots_beyond(fields: tuple[str, ...], x: Any) -> list[str]:
    """Return the slots of `x` that hold something and are no fields."""
    found = []
    cls: Any = type(x)
    for name, slot in _other_slots(cls, fields):
        try:
            slot.__get__(x)
        except AttributeError:
            continue
        found.append(name)
    return found


@functools.lru_cache(256)
def _other_slots(cls: type, fields: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [
        (name, member)
        for base in cls.__mro__
        for name, member in class_dict(base).items()
        if type(member) is types.MemberDescriptorType and name not in fields
    ]


def _refuse_extra(cls: type, names: list[str]) -> None:
    """Attributes beyond the fields would vanish, and `==` would not notice."""
    extra = [n for n in names if not isinstance(_lookup(cls, n), functools.cached_property)]
    if extra:
        raise Refusal(
            f"this {cls.__qualname__} has the attribute {extra[0]!r} beyond its fields, which "
            "would be lost; make it a field, or a functools.cached_property, or delete it"
        )


def _tuple_maker(cls: type, row: TypeRow) -> Any:
    order = [row.fields.index(name) for name in fields_of(cls, TypeKind.NAMEDTUPLE)]
    if order == list(range(len(order))):
        return functools.partial(tuple.__new__, cls)
    return lambda values: tuple.__new__(cls, [values[i] for i in order])


def _dataclass_maker(cls: type, row: TypeRow) -> Any:
    slots = {name: _lookup(cls, name) for name in row.fields}
    slots = {n: s for n, s in slots.items() if type(s) is types.MemberDescriptorType}

    def make(values: Sequence[Any]) -> Any:
        instance: Any = object.__new__(cls)
        attributes = None
        for name, value in zip(row.fields, values, strict=True):
            if name in slots:
                slots[name].__set__(instance, value)
            else:
                if attributes is None:
                    attributes = object.__getattribute__(instance, "__dict__")
                attributes[name] = value
        return instance

    return make


def enum_member(cls: type[enum.Enum], name: str, value: Any, where: str) -> enum.Enum:
    """Return the member of `cls` that has this value, checking that it still has this name.

    Raises:
        UnknownTypeError: reason ``no-such-member``.
    """
    members = class_dict(cls)["_value2member_map_"]
    member = members.get(value) if _is_plain(value) else None
    if member is None and issubclass(cls, enum.Flag) and _is_plain_flag(cls):
        try:
            member = cls(value)
        except (ValueError, TypeError):
            member = None
    if (
        type(member) is not cls
        or type(value) is not type(member._value_)
        or value != member._value_
        or member._name_ != (name or None)
    ):
        raise UnknownTypeError(
            f"{where}: the checkpoint has {cls.__qualname__}.{name} = {_shown(value)}; the class "
            "now "
            + (
                f"calls that value {member._name_}"
                if isinstance(member, enum.Enum)
                else "finds no member by that value"
            )
            + "; a member keeps its name and its value, a plain and hashable one, for as long as "
            "checkpoints have it",
            reason="no-such-member",
        )
    return member


def _shown(value: Any) -> str:
    """Return a value for a message, where that runs no code and makes no thousands of digits."""
    huge = type(value) is int and value.bit_length() > 1000
    plain = type(value) in _PLAIN and not huge
    return f"{value!r:.100}" if plain else f"a {type(value).__name__}"


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether hashing and comparing a value runs no code of a user's class."""
    cls = type(value)
    if cls is tuple or cls is frozenset:
        return depth < _VALUE_MAX_DEPTH and all(_is_plain(item, depth + 1) for item in value)
    return cls in _PLAIN or issubclass(cls, enum.Enum)


def _is_plain_flag(cls: type) -> bool:
    """Whether making a combined flag runs only the standard library's code."""
    own = enum.Flag.__dict__["_missing_"].__func__
    found = _lookup(cls, "_missing_")
    return getattr(found, "__func__", None) is own

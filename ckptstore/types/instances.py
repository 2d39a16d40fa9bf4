"""Taking apart and making instances of NamedTuples, dataclasses and enums.

They are made without their ``__init__``, ``__new__`` or any descriptor. Spec: section 8.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ckptstore.errors import Reason, UnknownTypeError
from ckptstore.format import TypeKind, TypeRow
from ckptstore.texts import shown
from ckptstore.types.adapter import Adapter
from ckptstore.types.fields import (
    MISSING,
    attribute_of,
    caches_of,
    class_dict,
    kind_of,
    without_alias,
)
from ckptstore.types.leaf import Refusal
from ckptstore.types.lookup import find_class
from ckptstore.types.records import Child, Record
from ckptstore.types.registry import find_adapter, find_registration, find_registration_named
from ckptstore.types.safety import METACLASSES
from ckptstore.types.subclasses import find_subclass


def find_maker(row: TypeRow, classes: Mapping[str, type]) -> Record | type[enum.Enum]:
    """Return the maker of a stored type's instances: the class of an enum, else a Record.

    Args:
        row: the stored type.
        classes: the classes of ``types=`` or `like`, by stored name.

    Raises:
        UnknownTypeError: the type was not found; the message names the places and the remedy.

    Example:
        >>> row = TypeRow(TypeKind.OBJECT, "datetime", "date", fields=("year", "month", "day"))
        >>> str(find_maker(row, {}).make([2020, 2, 29]))
        '2020-02-29'
    """
    if row.kind == TypeKind.OBJECT:
        return find_subclass(row, classes) if "base" in row.extra else _find_object(row)
    if row.kind == TypeKind.PYTREE:
        return _find_pytree(row, classes)
    cls, upgrade = find_class(row, classes)
    if row.kind == TypeKind.ENUM:
        return cls
    kind = kind_of(cls)
    assert kind is not None
    today = record_of(cls, dataclasses.replace(row, kind=kind, fields=upgrade.fields))
    if upgrade.stored == upgrade.fields and not upgrade.steps:
        return today
    unused = frozenset(range(len(upgrade.stored))).difference(upgrade.origins())
    return Record(row, today.take, lambda values: today.make(upgrade.apply(values)), unused)


def _find_object(row: TypeRow) -> Record:
    adapter = find_adapter(row.module)
    record = adapter.record_named(row) if adapter is not None else None
    if record is None or record.row.fields != row.fields:
        raise UnknownTypeError(
            f"{row}: no installed adapter makes it from the fields {shown(', '.join(row.fields))}; "
            "upgrade ckptstore, or install the package with the adapter",
            reason=Reason.UNKNOWN_OBJECT,
        )
    return record


def _find_pytree(row: TypeRow, classes: Mapping[str, type]) -> Record:
    registered = find_registration_named(f"{row.module}.{row.name}")
    if registered is not None and (record := registered.record()) is not None:
        return record
    adapter = find_adapter(row.module)
    record = adapter.record_named(row) if adapter is not None else None
    if record is not None and record.row.kind == TypeKind.PYTREE:
        return record
    cls, _ = find_class(row, classes)
    registered = find_registration(cls)
    if registered is not None and (record := registered.record()) is not None:
        return record
    jax = find_adapter("jax")
    record = jax.record(cls) if jax is not None else None
    if record is None:
        raise UnknownTypeError(
            f"{row}: {cls!r} is not registered with jax.tree_util in this process; register it "
            "there before loading",
            reason=Reason.NOT_REGISTERED,
        )
    return record


def record_of(cls: type, row: TypeRow) -> Record:
    """Return the record that takes apart and makes instances of a NamedTuple or dataclass.

    Args:
        cls: the class.
        row: its row, with the fields of the class in their order.

    Example:
        >>> State = dataclasses.make_dataclass("State", ["step"])
        >>> row = TypeRow(TypeKind.DATACLASS, "project", "State", fields=("step",))
        >>> record_of(State, row).make([3]), record_of(State, row).take(State(4))
        (State(step=3), [4])
    """
    if row.kind == TypeKind.NAMEDTUPLE:
        make = functools.partial(tuple.__new__, cls)
        return Record(row, functools.partial(_take_tuple, row.fields), make)
    fields, caches = row.fields, caches_of(cls)
    adapter = _adapter_of_decorator(cls)
    if adapter is not None:
        adapter.ready(cls)

    def take(x: Any) -> Sequence[Any]:
        values = _take_fields(fields, x, caches)
        static = _static_fields(cls)  # only save needs them
        if not static:
            return values
        return [
            Child(value) if name in static and _is_for_like(value) else value
            for name, value in zip(fields, values, strict=True)
        ]

    return Record(row, take, _dataclass_maker(cls, row))


def _adapter_of_decorator(cls: type) -> Adapter | None:
    """Return the adapter of the framework whose decorator (chex's) made a dataclass, or None."""
    hook = attribute_of(cls, "__setstate__")
    if type(hook) is not types.FunctionType or hook.__module__ == cls.__module__:
        return None
    return find_adapter(hook.__module__)


@functools.lru_cache(256)
def _static_fields(cls: type) -> set[str]:
    """Return the fields that are marked in flax, equinox, chex or jax as not in the pytree."""
    fields = attribute_of(cls, "__dataclass_fields__")
    return {
        name
        for name, field in (fields.items() if type(fields) is dict else ())
        if type(field) is dataclasses.Field
        and (field.metadata.get("pytree_node") is False or field.metadata.get("static") is True)
    }


def _is_for_like(x: Any) -> bool:
    """Return whether a static value is code: a callable or a NamedTuple of them, as in optax."""
    if isinstance(x, tuple) and kind_of(type(x)) is not None:
        return all(map(callable, tuple.__iter__(x)))
    return callable(x)


def _take_tuple(fields: tuple[str, ...], x: Any) -> Sequence[Any]:
    values = tuple(tuple.__iter__(x))
    if len(values) != len(fields):
        raise Refusal(f"a NamedTuple of {len(fields)} fields has {len(values)} items")
    try:
        extra = object.__getattribute__(x, "__dict__")
    except AttributeError:
        return values
    if extra:
        _refuse_extra(type(x), without_alias(x, extra))
    return values


def _take_fields(fields: tuple[str, ...], x: Any, caches: tuple[str, ...]) -> Sequence[Any]:
    try:
        attributes = dict(object.__getattribute__(x, "__dict__"))
    except AttributeError:
        attributes = {}
    values = []
    for name in fields:
        if name in attributes:
            values.append(attributes.pop(name))
            continue
        values.append(_of_class(name, x))
    if attributes:
        attributes = without_alias(x, attributes)
    extra = [*attributes, *_slots_beyond(fields, x)]
    _refuse_extra(type(x), [name for name in extra if name not in caches])
    return values


def _of_class(name: str, x: Any) -> Any:
    """Return the value of a field that is not in the ``__dict__``: from a slot, or the default.

    ``field(init=False, default=...)`` leaves the value in the class until somebody sets it. It is
    not taken from there if the metaclass is a framework's: equinox looks at the instance alone.
    """
    value = attribute_of(type(x), name)
    if type(value) is types.MemberDescriptorType:
        with contextlib.suppress(AttributeError):
            return value.__get__(x)
    elif value is not MISSING and type(type(x)) in METACLASSES:
        if attribute_of(type(value), "__get__") is MISSING:
            return value
        raise Refusal(
            f"the field {name!r} of this {type(x).__qualname__} was never set, and the class has a "
            f"{type(value).__qualname__} in its place, which an instance would not keep; set it"
        )
    raise Refusal(f"the field {name!r} of this {type(x).__qualname__} was never set; set it")


def _slots_beyond(fields: tuple[str, ...], x: Any) -> list[str]:
    """Return the filled slots of `x` that are not fields."""
    names = []
    cls: Any = type(x)
    for name, slot in _other_slots(cls, fields):
        try:
            slot.__get__(x)
        except AttributeError:
            continue
        names.append(name)
    return names


@functools.lru_cache(256)
def _other_slots(cls: type, fields: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [
        (name, member)
        for base in cls.__mro__
        for name, member in class_dict(base).items()
        if type(member) is types.MemberDescriptorType and name not in fields
    ]


def _refuse_extra(cls: type, names: Iterable[str]) -> None:
    """Refuse attributes that are not fields: they would be lost, and `==` would not notice."""
    extra = [n for n in names if not isinstance(attribute_of(cls, n), functools.cached_property)]
    if extra:
        raise Refusal(
            f"this {cls.__qualname__} has the attribute {extra[0]!r}, which is not a field and "
            "would be lost; make it a field or a functools.cached_property, or delete it"
        )


def _dataclass_maker(cls: type, row: TypeRow) -> Any:
    caches = caches_of(cls)
    kept, nothing = (*row.fields, *caches), (None,) * len(caches)
    slots = {name: attribute_of(cls, name) for name in kept}
    slots = {n: s for n, s in slots.items() if type(s) is types.MemberDescriptorType}

    def make(values: Sequence[Any]) -> Any:
        instance: Any = object.__new__(cls)
        attributes = None
        for name, value in zip(kept, (*values, *nothing), strict=True):
            if name in slots:
                slots[name].__set__(instance, value)
            else:
                if attributes is None:
                    attributes = object.__getattribute__(instance, "__dict__")
                attributes[name] = value
        return instance

    return make

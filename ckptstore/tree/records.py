"""Instances of classes and members of enums: from an object to its node, and back."""

from __future__ import annotations

import collections
import enum
import functools
from collections.abc import Sequence
from typing import Any

from ckptstore import signals
from ckptstore.errors import CheckpointError, Reason, UnknownTypeError
from ckptstore.format import Kind, TypeKind, dtypes
from ckptstore.texts import shown
from ckptstore.tree import paths
from ckptstore.tree.live import Encode, LiveTree
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.scalars import ENCODERS, SCALAR_TYPES
from ckptstore.types import (
    Child,
    Record,
    Refusal,
    StandIn,
    Unsafe,
    check_safe,
    class_of_today,
    class_row,
    enum_member,
)

_TRIED: dict[tuple[int, ...], tuple[type, ...]] = {}
"""The class and the types of the fields of instances that were made again in this process.

By the ids of all, since a metaclass may define a hash.
"""

_SERIES = (list, tuple)
_COPIED = (list, dict, collections.OrderedDict, set)
_SIZED = (*_COPIED, tuple, frozenset)


def encoder_of(record: Record) -> Encode:
    """Return the function that encodes the objects of a record."""
    return functools.partial(encode_record, record)


def encode_record(record: Record, live: LiveTree, x: Any) -> Sequence[Any]:
    """Append an instance; its children are its fields, or its static part and its content."""
    try:
        children = record.take(x)
    except (Refusal, dtypes.DtypeRefusal, CheckpointError, MemoryError):
        raise
    except Exception as error:  # of an adapter of another package, or of a class that it calls
        signals.pass_on(error)
        raise Refusal(
            f"taking this {type(x).__qualname__} apart failed: {type(error).__name__}: {error}"
        ) from error
    row = record.row
    if row.kind is TypeKind.OBJECT:
        if not isinstance(children, _SERIES) or len(children) != len(row.fields):
            raise Refusal(
                f"the adapter took this {type(x).__qualname__} apart into {_shown(children)}, "
                f"expected a list or tuple of {', '.join(row.fields) or 'no values'}; mend `take` "
                "of its Record"
            )
        if not live.lenient and (
            record.check is not None or (id(type(x)), *map(id, map(type, children))) not in _TRIED
        ):
            _try(record, x, children)
    number = live.type_number(row)
    if record.reads in ("everything", "last"):
        live.read_whole[number] = record.reads
    live.add(Kind.RECORD, type=number)
    return children


def _try(record: Record, x: Any, children: Sequence[Any]) -> None:
    """Refuse an object that `load` would not make of these children, or would make another one.

    The `check` of a record sees the values of each instance. Without one, the first instance with
    such types of fields is made again.
    """
    values = children
    for child in children:
        if type(child) is Child:
            values = [child.value if type(child) is Child else child for child in children]
            break
    try:
        if record.check is not None:
            record.check(values)
            return
        values = [value.copy() if type(value) in _COPIED else value for value in values]
        again = record.take(record.make(values))
    except MemoryError:
        raise
    except Exception as error:  # of an adapter of another package, or of a class that it calls
        signals.pass_on(error)
        name = type(x).__qualname__
        text = (
            str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        )
        raise Refusal(
            f"this {name} could not be made again from its {', '.join(record.row.fields)}: {text}; "
            "it holds a value that its class does not accept; make a new one"
        ) from error
    for field, before, after in zip(record.row.fields, values, again, strict=True):
        if not _alike(before, after):
            raise Refusal(
                f"this {type(x).__qualname__} would come back with another {field}: "
                f"{before!r:.80} became {after!r:.80}; make a new one"
            )
    kinds = type(x), *map(type, children)
    _TRIED[tuple(map(id, kinds))] = kinds


def _alike(before: Any, after: Any) -> bool:
    """Return whether a part that was stored fits the part of the object that was made of it."""
    cls = type(before)
    if before is after or type(after) is not cls:
        return before is after
    if cls in SCALAR_TYPES:
        return ENCODERS[cls](before) == ENCODERS[cls](after)
    return cls not in _SIZED or len(before) == len(after)


def _shown(children: Any) -> str:
    name = type(children).__qualname__
    return f"a {name} of {len(children)}" if isinstance(children, _SERIES) else f"a {name}"


def decode_record(
    table: NodeTable, node: int, record: Record | StandIn, values: Sequence[Any]
) -> Any:
    """Return the instance at a node, made from its children.

    Raises:
        UnknownTypeError: reason ``cannot-make``.
    """
    try:
        return record.make(values)
    except Exception as error:
        signals.pass_on(error)
        own = isinstance(error, CheckpointError)
        text = str(error) if own else f"{type(error).__name__}: {error}"
        raise UnknownTypeError(
            f"{table.where}: {paths.path(table, node)}: {table.row(node)} could not be made from "
            f"the stored values: {shown(text, 500)}",
            reason=Reason.CANNOT_MAKE,
        ) from error


def encode_enum(live: LiveTree, x: enum.Enum) -> Sequence[Any]:
    """Append a member by its name; its child is its value."""
    cls = type(x)
    try:
        check_safe(cls, TypeKind.ENUM)
        row = class_row(cls, TypeKind.ENUM)
        enum_member(class_of_today(cls), x._name_ or "", x._value_, str(row))
    except (Unsafe, CheckpointError) as error:
        raise Refusal(f"this member of {cls.__qualname__} cannot be saved: {error}") from None
    live.add(Kind.ENUM, type=live.type_number(row), data=(x._name_ or "").encode())
    return (x._value_,)


def decode_enum(table: NodeTable, node: int, cls: Any, value: Any) -> Any:
    """Return the member of `cls` at a node.

    Raises:
        UnknownTypeError: reason ``no-such-member``.
    """
    name = table.text(node)
    if isinstance(cls, StandIn):
        return cls.make((name, value))
    return enum_member(cls, name, value, str(table.row(node)))


def with_path(error: CheckpointError, table: NodeTable, node: int) -> CheckpointError:
    """Return an error about a node with the path of the node, if it does not have it already."""
    place, text = f"{table.where}: {paths.path(table, node)}: ", str(error)
    if text.startswith(place):
        return error
    return type(error)(place + text.removeprefix(f"{table.where}: "), reason=error.reason)

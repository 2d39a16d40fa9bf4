"""The members of enums: found by their stored name and value, without running code of the class."""

from __future__ import annotations

import enum
import functools
import operator
from collections.abc import Mapping
from typing import Any

from ckptstore.errors import Reason, UnknownTypeError
from ckptstore.types.fields import attribute_of, class_dict

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_VALUE_MAX_DEPTH = 32


def enum_member(cls: type[enum.Enum], name: str, value: Any, where: str) -> enum.Enum:
    """Return the member of `cls` that has this value, checking that it still has this name.

    Args:
        cls: the enum.
        name: the name of the member; "" for an unnamed combination of flags.
        value: the value of the member.
        where: the path, for messages.

    Raises:
        UnknownTypeError: reason ``no-such-member``.

    Example:
        >>> enum_member(enum.Enum("Phase", "WARMUP DECAY"), "DECAY", 2, "$.phase")
        <Phase.DECAY: 2>
    """
    members = class_dict(cls)["_value2member_map_"]
    is_plain = _is_plain(value)
    member = members.get(value) if is_plain else None
    if member is None and type(value) is int and issubclass(cls, enum.Flag) and _is_plain_flag(cls):
        member = _combined(cls, value)
    if (
        type(member) is not cls
        or type(value) is not type(member._value_)
        or value != member._value_
        or not _is_named(cls, member, name)
    ):
        raise UnknownTypeError(
            f"{where}: the checkpoint has {cls.__qualname__}.{name} = {_shown(value)}; "
            + (_lost(cls, name, value, member, where) if is_plain else _NOT_PLAIN),
            reason=Reason.NO_SUCH_MEMBER,
        )
    return member


_NOT_PLAIN = (
    "such a value cannot be looked up without running its code; use a plain one: a "
    "number, text, bytes, an Enum member, or a tuple or frozenset of these; "
    "an Enum member stored in a checkpoint must keep its name and its value"
)


def _lost(cls: Any, name: str, value: Any, member: Any, where: str) -> str:
    """Return the text for a member that the class lacks, and the way on."""
    today = _members_of(cls).get(name)
    kind = next(base for base in cls.__mro__ if base.__module__ == "enum")
    old = f"enum.{kind.__name__}({cls.__name__!r}, {{{name!r}: {_shown(value)}}})"
    ways = f"pass types={{{where!r}: {old}}}, and replace the loaded member by yours"
    if not name.isidentifier() or type(value) not in _PLAIN:
        ways = f"pass types={{{where!r}: OldClass}} with a class that has this member"
    if isinstance(member, enum.Enum) and name.isidentifier():
        now = member._name_
        alias = f"{name} = {now}"
        return (
            f"the class now has that value under the name {now!s:.200}; add the line `{alias}` "
            f"below it to the class, which keeps the old name as an alias, or {ways}"
        )
    if today is not None:
        return f"the class now has {name} = {_shown(today._value_)}; {ways}"
    return f"the class now has no member with that name or value; {ways}"


def _is_named(cls: Any, member: Any, name: str) -> bool:
    """Return whether a name is that of a member or its alias, or names the flags in it."""
    if member._name_ == (name or None):
        return True
    members = _members_of(cls)
    if members.get(name) is member:
        return True
    values = [members[part]._value_ if part in members else None for part in name.split("|")]
    if len(values) == 1 or not all(type(value) is int for value in values):
        return False
    return bool(functools.reduce(operator.or_, values) == member._value_)


def _members_of(cls: Any) -> Mapping[str, Any]:
    """Return the members of an enum by name, aliases too, without running code of its class."""
    members: Mapping[str, Any] = class_dict(cls)["_member_map_"]
    return members


def _combined(cls: Any, value: Any) -> Any:
    """Return a member that Python makes of several flags, or None.

    Python keeps each such member in its class for ever, so that two of one value are one object.
    One with bits that no flag has is taken out again: there may be as many as a file has nodes. But
    without the equality of int, two such members would differ.
    """
    if type(value) is not int or value < 0:
        return None
    try:
        member = cls(value)
    except (ValueError, TypeError):
        return None
    if issubclass(cls, int) and value & ~class_dict(cls)["_flag_mask_"]:
        class_dict(cls)["_value2member_map_"].pop(value, None)
    return member


def _shown(value: Any) -> str:
    """Return the text of a value, unless that could run code or print thousands of digits."""
    huge = type(value) is int and value.bit_length() > 1000
    plain = type(value) in _PLAIN and not huge
    return f"{value!r:.100}" if plain else f"a {type(value).__name__}"


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Return whether hashing and comparing a value runs no code of a user's class."""
    cls = type(value)
    if cls is tuple or cls is frozenset:
        return depth < _VALUE_MAX_DEPTH and all(_is_plain(item, depth + 1) for item in value)
    return cls in _PLAIN or issubclass(cls, enum.Enum)


def _is_plain_flag(cls: type) -> bool:
    """Return whether making a combined flag runs only the standard library's code."""
    functions = [getattr(attribute_of(cls, name), "__func__", None) for name in _FLAG_FUNCTIONS]
    own = not all(any(function is known for known in _OF_FLAG) for function in functions)
    plain = attribute_of(cls, "_member_type_") in (object, int)
    return plain and not own and attribute_of(cls, "_numeric_repr_") in (repr, hex)


_FLAG_FUNCTIONS = "_missing_", "_iter_member_"
_OF_FLAG = [
    getattr(class_dict(enum.Flag).get(name), "__func__", None)
    for name in (*_FLAG_FUNCTIONS, "_iter_member_by_def_")
]

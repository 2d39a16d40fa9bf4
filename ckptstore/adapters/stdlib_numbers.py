"""Python's decimal numbers, fractions, UUIDs and addresses of networks."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ckptstore.types import Record, Refusal, object_row

_MOST_BITS = 1 << 19
"""Of a part of a fraction: whether two larger numbers have a common divisor takes seconds."""


def _by_text(cls: Callable[[str], Any], name: str, field: str) -> Record:
    """Return the record of a class whose text says all of an instance."""

    def make(values: Sequence[Any]) -> Any:
        (text,) = values
        if type(text) is not str:
            raise TypeError(f"its {field} is not a str")
        made = cls(text)
        if str(made) != text:
            raise ValueError(f"{text!r:.80} is not the text that Python gives it")
        return made

    row = object_row(f"{name}", field)
    return Record(row, lambda x: (str(x),), make, check=_nothing, reads="items")


def _nothing(values: Sequence[Any]) -> None:
    """Check nothing: Python lets no instance of the class hold other values."""


def _take_fraction(x: Any) -> Sequence[Any]:
    parts = (x.numerator, x.denominator)
    if any(type(part) is not int or part.bit_length() > _MOST_BITS for part in parts):
        raise Refusal(
            "this Fraction is not of two ints of at most 64 KiB; save the pair "
            "(x.numerator, x.denominator)"
        )
    return parts


def _make_fraction(values: Sequence[Any]) -> Any:
    above, below = values
    if type(above) is not int or type(below) is not int:
        raise TypeError("its parts are not ints")
    if max(above.bit_length(), below.bit_length()) > _MOST_BITS:
        raise ValueError("its parts are ints of over 64 KiB")
    made = Fraction(above, below)
    if (made.numerator, made.denominator) != (above, below):
        raise ValueError("its parts have a common divisor")
    return made


def _take_uuid(x: Any) -> Sequence[Any]:
    return (x.int, x.is_safe.name)


def _make_uuid(values: Sequence[Any]) -> Any:
    number, safe = values
    if type(number) is not int or type(safe) is not str:
        raise TypeError("its fields have wrong types")
    return uuid.UUID(int=number, is_safe=uuid.SafeUUID[safe])


_ADDRESSES = (
    *(ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network),
    *(ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network),
)

RECORDS: Mapping[type, Record] = {
    Decimal: _by_text(Decimal, "decimal.Decimal", "value"),
    Fraction: Record(
        object_row("fractions.Fraction", "numerator", "denominator"),
        _take_fraction,
        _make_fraction,
        check=_nothing,
        reads="items",
    ),
    uuid.UUID: Record(
        object_row("uuid.UUID", "int", "is_safe"), _take_uuid, _make_uuid, check=_make_uuid
    ),
    **{cls: _by_text(cls, f"ipaddress.{cls.__name__}", "address") for cls in _ADDRESSES},
}
"""By exact type."""

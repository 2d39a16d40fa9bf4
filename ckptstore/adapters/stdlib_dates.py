"""Python's dates, times and time zones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

from ckptstore.types import Record, Refusal, object_row


def _nothing(values: Sequence[Any]) -> None:
    """Check nothing: Python lets no instance of the class hold other values."""


def _time_of(cls: Callable[..., Any], *numbers: str) -> Record:
    def take(x: Any) -> Sequence[Any]:
        return [getattr(x, name) for name in numbers]

    def make(values: Sequence[Any]) -> Any:
        if any(type(value) is not int for value in values):
            raise TypeError("its fields have wrong types")
        made = cls(*values)
        if take(made) != [*values]:
            raise ValueError(f"its values are {values}, and Python normalizes them to {take(made)}")
        return made

    row = object_row(f"datetime.{cls.__name__}", *numbers)
    return Record(row, take, make, check=_nothing)


def _take_datetime(x: datetime) -> Sequence[Any]:
    if type(x.tzinfo) not in (timezone, type(None)):
        raise Refusal(
            f"the time zone {x.tzinfo!r:.80} of this datetime cannot be saved; save "
            "x.astimezone(datetime.timezone.utc), and the name of the zone"
        )
    return [getattr(x, name) for name in _DATETIME]


def _make_datetime(values: Sequence[Any]) -> Any:
    *numbers, fold, zone = values
    if any(type(value) is not int for value in (*numbers, fold)):
        raise TypeError("its fields have wrong types")
    if type(zone) not in (timezone, type(None)):
        raise TypeError("its time zone is not a datetime.timezone")
    return datetime(*numbers).replace(tzinfo=zone, fold=fold)


def _take_zone(x: Any) -> Sequence[Any]:
    offset, name = (*x.__getinitargs__(), None)[:2]
    return (offset, name)


def _make_zone(values: Sequence[Any]) -> Any:
    offset, name = values
    if type(offset) is not timedelta or type(name) not in (str, type(None)):
        raise TypeError("its fields have wrong types")
    return timezone(offset) if name is None else timezone(offset, name)


_DATE = "year", "month", "day"
_DATETIME = *_DATE, "hour", "minute", "second", "microsecond", "fold", "tzinfo"

RECORDS: Mapping[type, Record] = {
    date: _time_of(date, *_DATE),
    timedelta: _time_of(timedelta, "days", "seconds", "microseconds"),
    datetime: Record(
        object_row("datetime.datetime", *_DATETIME),
        _take_datetime,
        _make_datetime,
        check=_nothing,
    ),
    timezone: Record(
        object_row("datetime.timezone", "offset", "name"),
        _take_zone,
        _make_zone,
    ),
}
"""By exact type."""

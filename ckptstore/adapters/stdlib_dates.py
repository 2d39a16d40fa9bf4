"""Python's dates, times and time zones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

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


def _with_zone(cls: Callable[..., Any], *numbers: str) -> Record:
    """Return the record of a class that may have a time zone."""
    names = (*numbers, "fold", "tzinfo")

    def take(x: Any) -> Sequence[Any]:
        if type(x.tzinfo) not in _ZONES:
            raise Refusal(_WRONG_ZONE[cls].format(f"{x.tzinfo!r:.80}"))
        return [getattr(x, name) for name in names]

    def make(values: Sequence[Any]) -> Any:
        *parts, fold, zone = values
        if any(type(value) is not int for value in (*parts, fold)):
            raise TypeError("its fields have wrong types")
        if type(zone) not in _ZONES:
            raise TypeError("its time zone is not a datetime.timezone or a ZoneInfo")
        return cls(*parts).replace(tzinfo=zone, fold=fold)

    return Record(object_row(f"datetime.{cls.__name__}", *names), take, make, check=_nothing)


_ZONES = (timezone, ZoneInfo, type(None))
_WRONG_ZONE: Mapping[Any, str] = {
    datetime: "the time zone {} of this datetime cannot be saved; save "
    "x.astimezone(datetime.timezone.utc), and the name of the zone",
    time: "the time zone {} of this time cannot be saved; save x.replace(tzinfo=None), and the "
    "name of the zone",
}


def _take_zone(x: Any) -> Sequence[Any]:
    offset, name = (*x.__getinitargs__(), None)[:2]
    return (offset, name)


def _make_zone(values: Sequence[Any]) -> Any:
    offset, name = values
    if type(offset) is not timedelta or type(name) not in (str, type(None)):
        raise TypeError("its fields have wrong types")
    return timezone(offset) if name is None else timezone(offset, name)


def _take_place(x: Any) -> Sequence[Any]:
    if x.key is None:
        raise Refusal(
            "this ZoneInfo was made from a file and has no key; use zoneinfo.ZoneInfo(NAME)"
        )
    return (x.key,)


def _make_place(values: Sequence[Any]) -> Any:
    (key,) = values
    if type(key) is not str or not _KEY.fullmatch(key):
        raise TypeError("its key is not the name of a time zone")
    try:
        return ZoneInfo(key)
    except (ZoneInfoNotFoundError, OSError):  # a folder of the table is not a zone
        raise LookupError(
            f"this machine has no time zone {key[:40]}; pip install --upgrade tzdata"
        ) from None


_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,40}(/[A-Za-z0-9_+-]{1,40}){0,3}")
"""A name in the tables of time zones, and no path that leads out of their folder."""

_DATE = "year", "month", "day"
_TIME = "hour", "minute", "second", "microsecond"

RECORDS: Mapping[type, Record] = {
    date: _time_of(date, *_DATE),
    timedelta: _time_of(timedelta, "days", "seconds", "microseconds"),
    datetime: _with_zone(datetime, *_DATE, *_TIME),
    time: _with_zone(time, *_TIME),
    ZoneInfo: Record(object_row("zoneinfo.ZoneInfo", "key"), _take_place, _make_place),
    timezone: Record(
        object_row("datetime.timezone", "offset", "name"),
        _take_zone,
        _make_zone,
    ),
}
"""By exact type."""

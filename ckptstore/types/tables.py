"""The check of an adapter's tables, made once when the adapter is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from ckptstore import signals
from ckptstore.format import TypeKind, TypeRow
from ckptstore.types.adapter import Adapter
from ckptstore.types.migrations import Migration
from ckptstore.types.records import Record


def fault_of(adapter: Adapter, packages: Set[str]) -> str:
    """Return the first fault in the tables of an adapter, or "" if there is none.

    Args:
        adapter: the adapter.
        packages: the packages for which it is installed. A stored name outside of them would never
            lead back to it.

    Example:
        >>> class Mine(Adapter):
        ...     modules = "mine.states"
        >>> fault_of(Mine(), {"mine"})
        "its modules is 'mine.states' (str), expected a list of module names"
    """
    for name, (expected, faults) in _TABLES.items():
        try:
            table = getattr(adapter, name)
        except Exception as error:  # of the author's code
            signals.pass_on(error)
            return f"its {name} cannot be read: {type(error).__name__}: {error}"
        fault = next(faults(table, packages), None)
        if fault is not None:
            shown = f"{name} {fault}" if fault else f"{name} is {table!r:.80} ({_kind(table)})"
            return f"its {shown}, expected {expected}"
    return ""


def _kind(x: Any) -> str:
    return type(x).__qualname__


def _list_faults(table: Any, packages: Set[str]) -> Iterator[str]:
    if isinstance(table, str | bytes) or not isinstance(table, Sequence):
        yield ""


def _module_faults(table: Any, packages: Set[str]) -> Iterator[str]:
    yield from _list_faults(table, packages)
    yield from (f"holds {x!r:.80}" for x in table if type(x) is not str)


def _moved_faults(table: Any, packages: Set[str]) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield ""
    entries = (x for entry in table.items() for x in entry)
    yield from (f"holds {x!r:.80}" for x in entries if not _is_dotted(x))


def _migration_faults(table: Any, packages: Set[str]) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield ""
    for name, steps in table.items():
        if not _is_dotted(name):
            yield f"has the key {name!r:.80}"
        if not isinstance(steps, Sequence) or any(type(step) is not Migration for step in steps):
            yield f"has {steps!r:.80} for {name}"


def _record_faults(table: Any, packages: Set[str]) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield ""
    for cls, record in table.items():
        if not isinstance(cls, type):
            yield f"has the key {cls!r:.80}"
        if not isinstance(record, Record) or not isinstance(record.row, TypeRow):
            yield f"has {record!r:.80} for {cls.__qualname__}"
        row = record.row
        if row.kind != TypeKind.OBJECT or _package(row.module) not in packages:
            yield f"has the row {row.kind} {row} for {cls.__qualname__}"
        if len({*row.fields}) < len(row.fields) or not all(type(f) is str for f in row.fields):
            yield f"has the fields {row.fields!r:.80} for {cls.__qualname__}"
        functions = {"take": record.take, "make": record.make, "check": record.check or len}
        for name, function in functions.items():
            if not callable(function):
                yield f"has a {name} that is {function!r:.80} for {cls.__qualname__}"


def _symbol_faults(table: Any, packages: Set[str]) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield ""
    for name in table:
        if not _is_dotted(name) or _package(name) not in packages:
            yield f"has the name {name!r:.80}"


def _is_dotted(name: Any) -> bool:
    return type(name) is str and all(name.split(".")) and "." in name


def _package(name: Any) -> str:
    return name.partition(".")[0] if type(name) is str else ""


_Faults = Callable[[Any, Set[str]], Iterator[str]]
_TABLES: Mapping[str, tuple[str, _Faults]] = {
    "modules": ("a list of module names", _module_faults),
    "harmless": ("a list", _list_faults),
    "moved": ("a dict of dotted names", _moved_faults),
    "migrations": ("a dict of a class's dotted name to a list of Migration", _migration_faults),
    "records": (
        "a dict of a class to its Record, whose row is of kind `object`, of the adapter's own "
        "package, and names each field once",
        _record_faults,
    ),
    "symbols": (
        "a dict of dotted names, which begin with the adapter's own package, to values",
        _symbol_faults,
    ),
}
"""Each table: a description of a good one, and the function that yields its faults, "" for all."""

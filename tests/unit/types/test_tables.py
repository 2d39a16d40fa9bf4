"""An adapter whose tables are of a wrong shape is refused when it is loaded, not in a save."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

import ckptstore
from ckptstore.adapters import Adapter, Migration, Record, TypeKind, TypeRow
from ckptstore.types import find_adapter, registry
from ckptstore.types.registry import ADAPTERS
from ckptstore.types.tables import fault_of


class Ring:
    pass


def record(**changes: Any) -> Record:
    row = {"kind": TypeKind.OBJECT, "module": "ringlib", "name": "Ring", "fields": ("a",)} | {
        name: changes.pop(name) for name in ("kind", "module", "fields") if name in changes
    }
    functions = {"take": lambda x: (1,), "make": lambda values: Ring()} | changes
    return Record(TypeRow(**row), **functions)


class Failing(Adapter):
    @property
    def records(self) -> Any:  # type: ignore[override]
        raise ValueError("no such table")


GOOD: dict[str, Any] = {
    "modules": ["ringlib.states"],
    "harmless": [type],
    "moved": {"ringlib.old.Ring": "ringlib.Ring"},
    "migrations": {"ringlib.State": [Migration(renamed={"a": "b"})], "ringlib.Other": ()},
    "records": {Ring: record()},
    "symbols": {"ringlib.sin": max, "ringlib.pi": 3},
}

BAD: list[tuple[str, Any, str]] = [
    ("modules", "ringlib.states", "is 'ringlib.states' .str., expected a list of module names"),
    ("modules", None, "is None"),
    ("modules", {"ringlib"}, "expected a list"),
    ("modules", [ckptstore], "holds <module"),
    ("harmless", None, "expected a list"),
    ("moved", [("ringlib.a", "ringlib.b")], "expected a dict of dotted names"),
    ("moved", {"ringlib.a": Ring}, "holds <class"),
    ("moved", {"Ring": "ringlib.Ring"}, "holds 'Ring'"),
    ("migrations", [], "expected a dict"),
    ("migrations", {Ring: [Migration(renamed={"a": "b"})]}, "has the key <class"),
    ("migrations", {"ringlib.State": Migration(renamed={"a": "b"})}, "has Migration"),
    ("migrations", {"ringlib.State": [{"a": "b"}]}, "has .*'a'"),
    ("records", [record()], "expected a dict of a class to its Record"),
    ("records", lambda self: {Ring: record()}, "method"),
    ("records", {"ringlib.Ring": record()}, "has the key 'ringlib.Ring'"),
    ("records", {Ring: (1, 2)}, "has .1, 2. for Ring"),
    ("records", {Ring: Ring}, "has <class"),
    ("records", {Ring: Record(("ringlib", "Ring"), max, max)}, "has Record"),  # type: ignore[arg-type]
    ("records", {Ring: record(kind=TypeKind.DATACLASS)}, "has the row dataclass"),
    ("records", {Ring: record(module="otherlib")}, "has the row object otherlib.Ring"),
    ("records", {Ring: record(fields=("a", "a"))}, "has the fields"),
    ("records", {Ring: record(fields=(1,))}, "has the fields"),
    ("records", {Ring: record(take=None)}, "has a take that is None for Ring"),
    ("records", {Ring: record(make="Ring")}, "has a make that is 'Ring' for Ring"),
    ("records", {Ring: record(check=3)}, "has a check that is 3 for Ring"),
    ("symbols", [max], "expected a dict of dotted names"),
    ("symbols", {max: "ringlib.max"}, "has the name <built-in"),
    ("symbols", {"max": max}, "has the name 'max'"),
    ("symbols", {"otherlib.max": max}, "has the name 'otherlib.max'"),
]


def adapter(**tables: Any) -> Adapter:
    made: Adapter = type("RingAdapter", (Adapter,), tables)()
    return made


def test_good_tables_have_no_fault() -> None:
    assert fault_of(adapter(**GOOD), {"ringlib"}) == ""
    assert fault_of(Adapter(), {"ringlib"}) == ""


@pytest.mark.parametrize("package", ADAPTERS)
def test_our_own_tables_have_no_fault(package: str) -> None:
    found = find_adapter(package)
    assert found is not None
    same = {name for name, source in ADAPTERS.items() if source == ADAPTERS[package]}
    assert fault_of(found, same) == ""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that installs an adapter for the package ringlib."""

    def install(made: Adapter) -> None:
        entry = importlib.metadata.EntryPoint("ringlib", "tests:ADAPTER", registry.GROUP)
        monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: made)
        monkeypatch.setattr(registry, "_entry_points", lambda: {"ringlib": [entry]})
        registry._load_entry_point.cache_clear()

    yield install
    registry._load_entry_point.cache_clear()


@pytest.mark.parametrize(("name", "table", "words"), BAD)
def test_a_table_of_a_wrong_shape_is_an_error_when_the_package_is_met(
    name: str, table: Any, words: str, installed: Any
) -> None:
    installed(adapter(**GOOD | {name: table}))
    with pytest.raises(ckptstore.UnknownTypeError, match=words) as caught:
        find_adapter("ringlib.states")
    assert caught.value.reason == "bad-adapter"
    for part in ("the adapter of the package ringlib cannot be used", f"its {name} ", "expected"):
        assert part in str(caught.value)


def test_a_table_that_cannot_be_read_is_named(installed: Any) -> None:
    installed(Failing())
    with pytest.raises(ckptstore.UnknownTypeError, match="records cannot be read: ValueError: no"):
        find_adapter("ringlib")


def test_a_good_adapter_is_found(installed: Any) -> None:
    made = adapter(**GOOD)
    installed(made)
    assert find_adapter("ringlib.states") is made

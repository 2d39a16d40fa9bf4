"""The tables of types: what is built in, and the two tables of an adapter."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest

from ckptstore.adapters import Adapter, Record, Refusal, TypeKind, TypeRow
from ckptstore.format import Kind
from ckptstore.tree import flatten
from ckptstore.tree.live import LiveTree
from ckptstore.tree.records import encode_record
from ckptstore.types import find_adapter, object_row, registry

BUILT_IN: dict[Kind, Any] = {
    Kind.NONE: None,
    Kind.BOOL: True,
    Kind.INT: 1,
    Kind.FLOAT: 1.0,
    Kind.COMPLEX: 1j,
    Kind.STR: "",
    Kind.SURROGATE_STR: "\udc80",
    Kind.BYTES: b"",
    Kind.BYTEARRAY: bytearray(),
    Kind.ELLIPSIS: ...,
    Kind.SLICE: slice(1),
    Kind.RANGE: range(1),
    Kind.LIST: [],
    Kind.TUPLE: (),
    Kind.DICT: {},
    Kind.ORDERED_DICT: collections.OrderedDict(),
    Kind.DEFAULT_DICT: collections.defaultdict(),
    Kind.SET: set(),
    Kind.FROZENSET: frozenset(),
}
# Kinds of which the type is asked: of a class, a framework, or nothing of its own.
ASKED = {Kind.ENUM, Kind.SYMBOL, Kind.DTYPE, Kind.RECORD, Kind.LEAF, Kind.SAME, Kind.SUPPLIED}


@pytest.mark.parametrize("kind", Kind)
def test_what_is_built_in_has_a_kind_of_node_whatever_is_registered(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`registry.is_built_in` and the encoder of the tree agree, though neither asks the other."""
    assert (kind in BUILT_IN) != (kind in ASKED)
    if kind in ASKED:
        return
    x = BUILT_IN[kind]
    record = registry.Registration(type(x), "a.B", (), lambda x: ((), None), lambda *_: None)
    monkeypatch.setitem(registry._BY_CLASS, type(x), record)
    assert registry.is_built_in(type(x))
    assert flatten(x).kind[0] == kind


def test_nothing_else_is_built_in() -> None:
    assert {*registry._BUILT_IN} == {type(x) for x in BUILT_IN.values()}
    for cls in (collections.Counter, collections.deque, np.ndarray, type, object, Kind):
        assert not registry.is_built_in(cls)


class Ring:
    def __init__(self, size: int) -> None:
        self.size = size


class Bigger(Ring):
    pass


def constant() -> None:
    pass


ROW = TypeRow(TypeKind.OBJECT, "ringlib", "Ring", fields=("size",))
RING = Record(ROW, lambda x: (x.size,), lambda values: Ring(*values))


class ByTables(Adapter):
    records = {Ring: RING}  # noqa: RUF012 - as authors write it
    symbols = {"ringlib.constant": constant}  # noqa: RUF012


class ByMethods(Adapter):
    def record(self, cls: type) -> Record | None:
        return RING if cls is Ring else None

    def record_named(self, row: TypeRow) -> Record | None:
        return RING if str(row) == str(ROW) else None

    def symbol(self, x: Any) -> str | None:
        return "ringlib.constant" if x is constant else None

    def symbol_named(self, name: str) -> Any:
        return {"ringlib.constant": constant}[name]


@pytest.mark.parametrize("adapter", [ByTables(), ByMethods()], ids=lambda a: type(a).__name__)
def test_an_adapter_is_asked_by_methods_whether_it_has_tables_or_not(adapter: Adapter) -> None:
    assert adapter.record(Ring) is RING
    assert adapter.record(Bigger) is None
    assert adapter.record_named(ROW) is RING
    assert adapter.record_named(TypeRow(TypeKind.OBJECT, "ringlib", "Bigger")) is None
    assert adapter.symbol(constant) == "ringlib.constant"
    assert adapter.symbol(Ring) is None
    assert adapter.symbol_named("ringlib.constant") is constant
    with pytest.raises(KeyError):
        adapter.symbol_named("ringlib.other")


def test_a_table_of_records_asks_no_class_for_its_hash_or_equality() -> None:
    class Meta(type):
        def __hash__(cls) -> int:
            raise AssertionError("hashed")

        def __eq__(cls, other: object) -> bool:
            raise AssertionError("compared")

    assert ByTables().record(Meta("Hostile", (), {})) is None


def test_an_adapter_knows_nothing_by_itself() -> None:
    adapter = Adapter()
    assert not adapter.records and not adapter.symbols
    assert adapter.record(Ring) is adapter.symbol(constant) is adapter.leaf(1) is None
    with pytest.raises(KeyError):
        adapter.array(np.zeros(1), ROW, None)


def test_an_adapter_may_set_its_tables_when_it_is_made() -> None:
    class Late(Adapter):
        def __init__(self) -> None:
            self.records = {Ring: RING}

    assert Late().record(Ring) is RING


@pytest.mark.parametrize(
    "taken", [{"size": 1}, {1}, "s", np.ones(1), iter([1]), {"size": 1}.values(), None, (), (1, 2)]
)
def test_an_adapter_that_takes_apart_into_anything_but_one_value_for_each_field_is_refused(
    taken: Any,
) -> None:
    """The keys of a dict would be stored in the place of its values."""
    record = Record(ROW, lambda x: taken, lambda values: Ring(*values))
    with pytest.raises(Refusal, match=r"apart into a.*, expected a list or tuple of size; mend"):
        encode_record(record, LiveTree(), Ring(1))


def test_make_runs_once_for_the_types_of_the_fields_and_never_where_there_is_a_check() -> None:
    made: list[Any] = []

    def make(values: Any) -> Any:
        made.append(values[0])
        return Once(*values)

    class Once(Ring):
        pass

    record = Record(ROW, lambda x: (x.size,), make)
    for size in (1, 2, [3], 4, [5], 6):
        encode_record(record, LiveTree(), Once(size))  # type: ignore[arg-type]
    assert made == [1, [3]]

    checked: list[Any] = []
    record = Record(ROW, lambda x: (x.size,), make, check=checked.append)
    for size in (1, 1.5, 1):
        encode_record(record, LiveTree(), Once(size))  # type: ignore[arg-type]
    assert made == [1, [3]] and checked == [(1,), (1.5,), (1,)]


def test_a_make_that_failed_is_tried_again() -> None:
    record = Record(ROW, lambda x: (x.size,), lambda values: Bigger(*values, 1))  # type: ignore[call-arg]
    for _ in range(2):
        with pytest.raises(Refusal, match="could not be made again from its size: TypeError"):
            encode_record(record, LiveTree(), Bigger(1))


def test_an_adapter_is_found_by_any_module_of_its_package() -> None:
    assert find_adapter("numpy") is find_adapter("numpy.ma.core")
    assert find_adapter("") is find_adapter("__main__") is find_adapter(None) is None


def test_a_row_of_an_object_has_the_release_of_its_package_but_not_python_s() -> None:
    ours = object_row("numpy.ma.MaskedArray", "data")
    assert (ours.package, ours.version, ours.extra) == ("numpy", np.__version__, {})
    pythons = object_row(collections.Counter, "counts", wraps=True)
    assert (pythons.package, pythons.version, pythons.extra) == (None, None, {"wraps": True})
    assert str(pythons) == "collections.Counter"

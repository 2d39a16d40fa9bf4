"""What stands in a tree comes back as it was, or save refuses it by its path."""

from __future__ import annotations

import abc
import argparse
import array
import collections
import dataclasses
import datetime
import enum
import functools
import math
import pathlib
import struct
import subprocess
import sys
import textwrap
import types
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pytest

import ckptstore
from ckptstore.adapters import stdlib
from ckptstore.types import registry
from tests.support.compare import assert_exact, assert_refused, differences, roundtrip

T = TypeVar("T")


def nan(payload: int) -> float:
    """A NaN that can be told from others."""
    return float(struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000000 | payload))[0])


# --- Classes of a user -------------------------------------------------------------------------


class Point(NamedTuple):
    x: Any
    y: Any = 0


class PointWithMethods(Point):
    """A subclass without a `__slots__` has a `__dict__`."""

    def __new__(cls, *args: Any) -> Any:
        raise AssertionError("load must not run this")

    def __iter__(self) -> Any:
        raise AssertionError("neither save nor load may run this")


class Pair(NamedTuple, Generic[T]):
    first: T
    second: T


class Empty(NamedTuple):
    pass


Binding = collections.namedtuple("Typename", "a b")


class Outer:
    class Inner(NamedTuple):
        a: Any

    @dataclasses.dataclass
    class Data:
        a: Any


@dataclasses.dataclass
class Data:
    a: Any
    b: Any = 3


@dataclasses.dataclass
class Sub(Data):
    c: Any = None


class PlainSub(Data):
    """No dataclass by itself."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: Any

    def __post_init__(self) -> None:
        if self.a == "no":
            raise AssertionError("load must not run this")


@dataclasses.dataclass(slots=True)
class Slots:
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    a: Any


@dataclasses.dataclass(kw_only=True)
class Odd:
    shared: dataclasses.ClassVar[int] = 3  # type: ignore[name-defined]
    init: dataclasses.InitVar[int]
    late: Any = dataclasses.field(init=False)
    hidden: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self, init: int) -> None:
        self.late = init + 1


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


@dataclasses.dataclass
class Abstract(abc.ABC):
    a: Any


@dataclasses.dataclass
class WithCache:
    a: Any

    @functools.cached_property
    def double(self) -> Any:
        return self.a * 2


class Color(enum.Enum):
    RED = "red"
    ALSO_RED = "red"
    BLUE = (0, 0, 255)
    NOTHING = None
    HALF = 0.5


class Number(enum.IntEnum):
    ONE = 1
    TWO = 2


class Text(enum.StrEnum):
    A = "a"


class Perm(enum.Flag):
    R = 4
    W = 2
    X = 1
    RW = 6


class IntPerm(enum.IntFlag):
    R = 4
    W = 2


class Mixed(bytes, enum.Enum):
    A = b"a"


class Named(enum.Enum):
    DEEP = ((1, 2.5), frozenset({3}), None)


class Unhashable(enum.Enum):
    LIST = [1]  # noqa: RUF012
    NAN = float("nan")
    DATA = FrozenSlots(1)
    POINT = Point(1, 2)


ZONES = [
    datetime.UTC,
    datetime.timezone(datetime.timedelta(0), "GMT"),
    datetime.timezone(datetime.timedelta(hours=-9, minutes=-30)),
]

SCALARS = {
    "none": None,
    "bools": [True, False],
    "ints": [0, 1, -1, 127, 128, -128, -129, 2**53, -(2**53) - 1, 2**63, 2**64, -(2**64)],
    "a huge int": [7**20_000, -(7**20_000)],
    "floats": [0.0, -0.0, 5e-324, 1e308, math.inf, -math.inf, 0.1],
    "nan payloads": [nan(0), nan(1), nan(0xDEADBEEF), -nan(5)],
    "complex": [1j, complex(-0.0, 0.0), complex(nan(3), -math.inf)],
    "strings": ["", "a", "é", "\0", "𝄞", "a\nb", "x" * 5000],
    "lone surrogates": ["\ud800", "a\udfffb", "\ud83d\ude00", "\ud800" * 3000],
    "bytes": [b"", b"\0\xff", bytes(10_000)],
    "bytearrays": [bytearray(), bytearray(b"\0\xff"), bytearray(9_000)],
    "ellipsis": ...,
    "slices": [slice(None), slice(1, None, -2), slice("a", 2.5, (1,))],
    "ranges": [range(0), range(3, -9, -2), range(2**70)],
    "enum members": [*Color, Color.ALSO_RED, *Number, *Text, *Mixed, *Named],
    "flags": [*Perm, Perm(0), Perm.R | Perm.X, ~Perm.R, *IntPerm, IntPerm(0), IntPerm(6)],
    "flags beyond the known": [IntPerm(64 | 2)],
    "sets": [set(), {1, "a", None, 2.5, (1, "b"), frozenset({2})}, {Number.ONE, Color.RED}],
    "frozensets": [frozenset(), frozenset({b"x", 7**9000, 3j}), frozenset({frozenset()})],
    "types": [bool, int, float, complex, str, bytes, np.float32, np.bool_],
    "numpy functions": [np.tanh, np.add],
    "paths": [*map(pathlib.Path, ("", "a//b", "/", "\ud800")), pathlib.PurePosixPath("//a/../b")],
    "dates and times": [
        datetime.date.max,
        datetime.datetime.min,
        datetime.datetime(2026, 10, 25, 2, 30, fold=1),
        *(datetime.datetime(2026, 1, 2, 3, 4, 5, 6, zone) for zone in ZONES),
        *ZONES,
        datetime.timedelta.min,
        datetime.timedelta(microseconds=-1),
    ],
}


@pytest.mark.parametrize("name", SCALARS)
def test_a_value_comes_back_with_its_type_and_bits(name: str, tmp_path: pathlib.Path) -> None:
    assert_exact(tmp_path, SCALARS[name])


def with_attribute(x: Any, name: str = "extra") -> Any:
    object.__getattribute__(x, "__dict__")[name] = 1
    return x


CONTAINERS: dict[str, Any] = {
    "empty ones": [[], (), {}, set(), Empty(), collections.OrderedDict(), None],
    "nesting": {"a": [1, (2, {"b": [()]})], "c": ((), [[]])},
    "keys of every type": {
        "s": 1, 5: 2, True: 3, 2.5: 4, b"b": 5, (1, ("x", None)): 6, None: 7, Number.TWO: 8,
        "5": 9, 3j: 10, frozenset({1, "a"}): 11, "\ud800": 12, 10**5000: 13, Color.RED: 14,
        "k" * 5000: 15, math.inf: 16,
    },
    "insertion order": {"z": 1, "a": 2, 10: 3, 9: 4},
    "ints that sort as text": {str(i): i for i in (10, 9, 100)} | {i: i for i in (10, 9, 100)},
    "a key with a dot": {"a": {"b": 1}, "a.b": 2, "a['b']": 3},
    "negative zero": {-0.0: 1},
    "two nan keys": {nan(1): 1, nan(2): 2},
    "ordered dict": collections.OrderedDict([("z", 1), ("a", collections.OrderedDict())]),
    "ordered dicts with attributes": (lambda d: [d, d, collections.OrderedDict(a=d)])(
        with_attribute(with_attribute(collections.OrderedDict(z=[1], a=2)), "_metadata")),
    "an empty ordered dict with an attribute": with_attribute(collections.OrderedDict()),
    "counters": [collections.Counter("abca"), collections.Counter(), collections.Counter(x=-1.5)],
    "deques": [collections.deque(), collections.deque([1, [2]], 2), collections.deque([0] * 9, 10)],
    "namespaces": [
        argparse.Namespace(), argparse.Namespace(lr=0.1, run=pathlib.Path("run")),
        types.SimpleNamespace(a=[1], b=types.SimpleNamespace()),
    ],
    "default dicts": [
        collections.defaultdict(None, a=1),
        *(collections.defaultdict(f, k=[1]) for f in (int, list, dict, float, str, set, tuple)),
    ],
    "namedtuples": [Point(1, 2), Point(Point(1, []), None), Empty(), Outer.Inner(3)],
    "a generic namedtuple": [Pair(1, 2), Pair[int](3, 4)],
    "a subclassed namedtuple": tuple.__new__(PointWithMethods, (1, [2])),
    "a typename that is not its binding": Binding(1, 2),
    "dataclasses": [Data(1), Data([2], {}), Sub(1, 2, 3), PlainSub(1), Outer.Data(2), Abstract(1)],
    "frozen and slotted": [Frozen(1), Slots(1, [2]), FrozenSlots((1,)), Box("x")],
    "odd fields": Odd(init=3, hidden=(1,)),
    "scalars of containers": [slice(1, 2), range(3), bytearray(b"x")],
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_comes_back_as_itself(name: str, tmp_path: pathlib.Path) -> None:
    assert_exact(tmp_path, CONTAINERS[name])


WRONG_FIELDS: list[tuple[Any, list[Any]]] = [
    (collections.deque(), [(1,), None]),
    (collections.deque(), [[1, 2], 1]),
    (collections.deque(), [[], True]),
    (collections.Counter(), [[1]]),
    (pathlib.PurePosixPath(), ["a//b"]),
    (pathlib.PurePosixPath(), [b"a"]),
    (argparse.Namespace(), [{1: 2}]),
    (types.SimpleNamespace(), [[]]),
    (datetime.date.max, [2026, 1, 1.0]),
    (datetime.date.max, [2026, 13, 1]),
    (datetime.timedelta(), [10**12, 0, 0]),
    (datetime.timedelta(), [0, 86_400, 0]),
    (datetime.timedelta(), [1, -1, 0]),
    (datetime.datetime.max, [2026, 1, 1, 0, 0, 0, 0, 2, None]),
    (datetime.datetime.max, [2026, 1, 1, 0, 0, 0, 0, 0, datetime.timedelta()]),
    (datetime.UTC, [datetime.timedelta(days=1), None]),
    (datetime.UTC, [0, None]),
]


@pytest.mark.parametrize(("x", "fields"), WRONG_FIELDS)
def test_an_object_of_other_fields_is_an_error(
    x: Any, fields: list[Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: Any = stdlib.ADAPTER.records
    record = records[type(x)]
    wrong = dataclasses.replace(record, take=lambda _: fields, check=lambda _: None)
    monkeypatch.setitem(records, type(x), wrong)
    ckptstore.save(tmp_path / "c", [x])
    monkeypatch.undo()
    with pytest.raises(
        ckptstore.UnknownTypeError, match=r"\$\[0\]: .* could not be made"
    ) as caught:
        ckptstore.load(tmp_path / "c")
    assert caught.value.reason == "cannot-make"


def test_attributes_are_given_to_no_ordered_dict_that_also_stands_elsewhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = collections.OrderedDict(a=1)
    state = with_attribute(collections.OrderedDict(), "name")
    records: Any = stdlib.ADAPTER.records
    cls = collections.OrderedDict
    take = lambda x: [plain, {"itself": plain}]  # noqa: E731
    monkeypatch.setitem(records, cls, dataclasses.replace(records[cls], take=take))
    ckptstore.save(tmp_path / "c", [plain, state])
    monkeypatch.undo()
    first, second = ckptstore.load(tmp_path / "c")
    assert first is not second and first == second == plain
    assert vars(first) == {} and vars(second)["itself"] is first


def test_load_runs_no_code_of_a_class(tmp_path: pathlib.Path) -> None:
    frozen = Frozen(1)
    object.__setattr__(frozen, "a", "no")
    assert_exact(tmp_path, [frozen, tuple.__new__(PointWithMethods, (1, 2))])


def test_a_cached_property_is_left_out_and_computed_again(tmp_path: pathlib.Path) -> None:
    x = WithCache(4)
    assert x.double == 8
    loaded = assert_exact(tmp_path, x)
    assert vars(loaded) == {"a": 4}
    assert loaded.double == 8


def test_attributes_of_an_ordered_dict_are_in_no_ones_way(tmp_path: pathlib.Path) -> None:
    state = collections.OrderedDict(w=1, attributes=2)
    vars(state).update(_metadata={"w": 3}, attributes=4)
    ckptstore.save(tmp_path / "c", {"s": state})
    assert ckptstore.load(tmp_path / "c", select="$.s.*") == {
        "$['s']['w']": 1,
        "$['s']['attributes']": 2,
    }
    loaded = ckptstore.load(tmp_path / "c", like={"s": state})
    assert differences({"s": state}, loaded) == []
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(tmp_path / "c", like={"s": collections.OrderedDict(state)})
    assert "$['s']: collections.OrderedDict with attributes in the checkpoint, " in str(
        caught.value
    )
    record = registry.find_adapter("collections").record(collections.OrderedDict)
    plain = collections.OrderedDict(a=1)
    for values in ([{}, {"a": 1}], [plain, {}], [plain, [1]], [plain, {1: 1}], [plain, {"pop": 1}]):
        with pytest.raises(TypeError):
            record.make(values)


def test_a_partial_function_is_carried_where_its_parts_are(tmp_path: pathlib.Path) -> None:
    partial = functools.partial(np.add, 1, casting="same_kind")
    loaded = assert_exact(tmp_path, [partial, functools.partial(partial, dtype=float), partial])
    assert loaded[1](2) == 3.0
    assert_refused(tmp_path, [functools.partial(lambda x: x, 1)], "$[0].func", "supplied=")
    assert_refused(tmp_path, [functools.partial(np.add, print)], "$[0].args[0]", "supplied=")


# --- Identity ----------------------------------------------------------------------------------


def test_what_was_one_object_is_one_object(tmp_path: pathlib.Path) -> None:
    leaf, inner, mapping = np.arange(3.0), [1], {"k": (1, 2)}
    data, raw = Data(inner), bytearray(b"x")
    tree = {"a": leaf, "b": [leaf, inner, mapping], "c": (inner, mapping), "d": [data, data, raw]}
    loaded = assert_exact(tmp_path, tree | {"e": raw})
    assert loaded["a"] is loaded["b"][0]
    loaded["b"][1].append(5)
    assert loaded["c"][0] == loaded["d"][0].a == [1, 5]


def test_a_key_may_stand_elsewhere_too(tmp_path: pathlib.Path) -> None:
    t = (1, 2)
    f = frozenset({t})
    assert_exact(tmp_path, [t, {t: 1}, {t: {t: t}}, {f, t}, f, {f: [f]}, (t, f)])


def test_equal_objects_that_were_two_stay_two(tmp_path: pathlib.Path) -> None:
    loaded = assert_exact(tmp_path, [np.zeros(2), np.zeros(2), [], [], {}, {}])
    assert loaded[0] is not loaded[1]
    assert loaded[2] is not loaded[3]


def test_overlapping_views_are_two_arrays(tmp_path: pathlib.Path) -> None:
    base = np.arange(4)
    loaded = assert_exact(tmp_path, [base[:3], base[1:]])
    assert not np.shares_memory(*loaded)


@pytest.mark.parametrize("place", ["$.b", "$.b[0]", "$['b']"])
def test_one_of_two_places_can_be_selected(place: str, tmp_path: pathlib.Path) -> None:
    shared = np.arange(3)
    ckptstore.save(tmp_path / "c", {"a": [shared], "b": [shared]})
    found = ckptstore.load(tmp_path / "c", select=place)
    assert differences(shared, found if place == "$.b[0]" else found[0]) == []


# --- Depth and width ---------------------------------------------------------------------------


def nest(depth: int) -> Any:
    """Alternate lists, tuples, dicts and dataclasses around an array."""
    tree: Any = np.arange(2)
    for level in range(depth):
        tree = [[tree], (tree,), {"k": tree}, Data(tree), Point(level, tree)][level % 5]
    return tree


@pytest.mark.parametrize("depth", [1_000, 9_999])
def test_a_deep_tree_comes_back(depth: int, tmp_path: pathlib.Path) -> None:
    tree = nest(depth)
    loaded = assert_exact(tmp_path, tree)
    assert differences(nest(depth), loaded) == []


def test_a_deep_tree_can_be_inspected_and_put_into_like(tmp_path: pathlib.Path) -> None:
    tree = nest(3_000)
    ckptstore.save(tmp_path / "c", tree)
    assert len(ckptstore.inspect(tmp_path / "c").leaves) == 1
    assert ckptstore.verify(tmp_path / "c") == []
    assert differences(tree, ckptstore.load(tmp_path / "c", nest(3_000))) == []


def test_a_tree_that_is_too_deep_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ckptstore.StructureError, match=r"deeper than 10000 levels at \$") as caught:
        ckptstore.save(tmp_path / "c", nest(10_002))
    assert caught.value.reason == "too-deep"
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.whole)])
def test_a_wide_tree_comes_back(count: int, tmp_path: pathlib.Path) -> None:
    values = np.arange(count, dtype=np.float32).reshape(count, 1)
    tree = {"leaves": [values[i] for i in range(count)], "scalars": dict.fromkeys(range(count), 1)}
    loaded = roundtrip(tmp_path, tree)
    assert loaded["scalars"] == tree["scalars"]
    assert {type(x) for x in loaded["leaves"]} == {np.ndarray}
    assert np.array_equal(np.stack(loaded["leaves"]), values)


# --- What save refuses -------------------------------------------------------------------------


class IntSub(int):
    pass


class StrSub(str):
    __slots__ = ()


class DictSub(dict):  # type: ignore[type-arg]
    pass


class ListSub(list):  # type: ignore[type-arg]
    pass


class DequeSub(collections.deque):  # type: ignore[type-arg]
    pass


class CounterSub(collections.Counter[str]):
    pass


class TupleSub(tuple):  # type: ignore[type-arg]
    __slots__ = ()


class Opaque:
    pass


@dataclasses.dataclass
class WithDel:
    a: Any

    def __del__(self) -> None:
        pass


@dataclasses.dataclass
class WithSetattr:
    a: Any

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


class Meta(type):
    pass


@dataclasses.dataclass
class WithMeta(metaclass=Meta):
    a: Any


@dataclasses.dataclass
class WithProperty:
    a: Any


WithProperty.a = property(lambda self: 1, lambda self, value: None)  # type: ignore[assignment]


class NamedProperty(Point):
    @property
    def x(self) -> Any:
        return 5


@dataclasses.dataclass
class DictToo(dict):  # type: ignore[type-arg]
    a: Any = 1


@dataclasses.dataclass
class ArrayToo(array.array):  # type: ignore[type-arg]
    a: Any = 1


@dataclasses.dataclass
class ErrorToo(Exception):
    a: Any = 1


class ExtraSlot(Slots):
    __slots__ = ("more",)


class Reassigned(NamedTuple):
    a: Any


_Hidden = Reassigned


class Reassigned(NamedTuple):  # type: ignore[no-redef]
    b: Any


_HELD = {"hidden": _Hidden}
del _Hidden


def unset() -> Any:
    return object.__new__(Data)


def extra_slot() -> Any:
    x = ExtraSlot(1, 2)
    x.more = 3
    return x


def local_class() -> Any:
    class Local(NamedTuple):
        a: Any

    return Local(1)


def local_data() -> Any:
    @dataclasses.dataclass
    class Local:
        a: Any

    return Local(1)


def closure() -> Any:
    secret = 3
    return lambda: secret


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a lambda": (lambda: lambda x: x, ("a lambda", "supplied=")),
    "a closure": (closure, ("a lambda", "supplied=")),
    "a function of the user": (lambda: closure, ("the function closure", "supplied=")),
    "a bound method": (lambda: Data(1).__repr__, ("supplied=",)),
    "a builtin function": (lambda: len, ("the function len",)),
    "a partial with an attribute": (lambda: with_attribute(functools.partial(max)), ("'extra'",)),
    "a module": (lambda: math, ("a module",)),
    "a class as a value": (lambda: Data, ("test_tree.Data", "str")),
    "a generator": (lambda: iter([1]), ("list_iterator",)),
    "an object": (Opaque, ("test_tree.Opaque", "register(Opaque")),
    "a dict subclass": (lambda: DictSub(a=1), ("test_tree.DictSub",)),
    "a list subclass": (lambda: ListSub([1]), ("test_tree.ListSub",)),
    "a tuple subclass": (lambda: TupleSub([1]), ("test_tree.TupleSub",)),
    "an attribute of a counter": (
        lambda: with_attribute(collections.Counter("ab")), ("'extra'", "delete it")),
    "a subclass of a counter": (lambda: CounterSub("ab"), ("test_tree.CounterSub",)),
    "a subclass of a deque": (lambda: DequeSub([1]), ("test_tree.DequeSub",)),
    "a mapping proxy": (lambda: types.MappingProxyType({}), ("mappingproxy",)),
    "a path of another system": (lambda: pathlib.PureWindowsPath("a"), ("PureWindowsPath",)),
    "a local namedtuple": (local_class, ("local to a function", "top of its module")),
    "a local dataclass": (local_data, ("local to a function", "top of its module")),
    "a class that lost its name": (lambda: _HELD["hidden"](1), ("Reassigned", "make the object")),
    "an attribute of a dataclass": (lambda: with_attribute(Data(1)), ("'extra'", "not a field")),
    "an attribute of a frozen one": (lambda: with_attribute(Frozen(1)), ("'extra'",)),
    "a slot beyond the fields": (extra_slot, ("'more'", "not a field")),
    "an attribute of a namedtuple": (
        lambda: with_attribute(tuple.__new__(PointWithMethods, (1, 2))), ("'extra'",)),
    "an attribute of an OrderedDict that hides a method": (
        lambda: with_attribute(collections.OrderedDict(a=1), "items"), ("'items'", "delete it")),
    "a field that was never set": (unset, ("'a'", "never set")),
    "a namedtuple of the wrong length": (lambda: tuple.__new__(Point, (1,)), ("1 items",)),
    "a class with __del__": (lambda: WithDel(1), ("__del__", "register(WithDel")),
    "its own __setattr__": (lambda: WithSetattr(1), ("__setattr__", "register(WithSetattr")),
    "a metaclass": (lambda: WithMeta(1), ("metaclass Meta",)),
    "a property as a field": (lambda: WithProperty(1), ("'a' is a property",)),
    "a property in a namedtuple": (lambda: NamedProperty(1), ("a field was replaced after",)),
    "a dataclass that is a dict": (lambda: DictToo(), ("also a dict",)),
    "a dataclass that is an array": (lambda: ArrayToo("d"), ("its own code", "register(ArrayToo")),
    "a dataclass that is an exception": (lambda: ErrorToo(), ("Exception",)),
    "a default factory of the user": (lambda: collections.defaultdict(Opaque), ("factory",)),
    "a lambda as a factory": (lambda: collections.defaultdict(lambda: 0), ("factory", "int")),
    "an enum member of no hash": (lambda: Unhashable.LIST, ("Unhashable", "hashable")),
    "an enum member of a class": (lambda: Unhashable.DATA, ("Unhashable", "plain")),
    "an enum member of a namedtuple": (lambda: Unhashable.POINT, ("Unhashable", "plain")),
    "an enum member that is nan": (lambda: Unhashable.NAN, ("Unhashable",)),
    "a key of an object": (lambda: {Opaque(): 1}, ("test_tree.Opaque", "use str")),
    "a key of a frozen dataclass": (lambda: {Frozen(1): 1}, ("test_tree.Frozen", "use str")),
    "a key with an object inside": (lambda: {(1, Opaque()): 1}, ("test_tree.Opaque",)),
    "an item of a set": (lambda: {Opaque()}, ("test_tree.Opaque",)),
    "a key nested too deep": (
        lambda: {functools.reduce(lambda key, _: (key,), range(900), 1): 1}, ("deep", "flatter")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_save_refuses_by_path_and_says_what_to_do(name: str, tmp_path: pathlib.Path) -> None:
    make, words = REFUSED[name]
    assert_refused(tmp_path, {"state": [np.zeros(2), make()]}, "$['state'][1]", *words)


def test_a_container_in_itself_is_refused(tmp_path: pathlib.Path) -> None:
    items: list[Any] = [1]
    items.append({"back": (items,)})
    assert_refused(tmp_path, items, "$[1]['back'][0]", "holds itself", "break the cycle")
    data = Data(None)
    data.a = [data]
    assert_refused(tmp_path, {"d": data}, "$['d'].a[0]", "holds itself")
    mapping: dict[str, Any] = {}
    mapping["m"] = mapping
    assert_refused(tmp_path, mapping, "$['m']", "holds itself")


def test_all_refusals_come_at_once(tmp_path: pathlib.Path) -> None:
    tree = {"a": lambda: 1, "b": [Opaque(), 2], "c": Point(Opaque(), local_class())}
    for path in ("$['a']", "$['b'][0]", "$['c'].x", "$['c'].y"):
        assert_refused(tmp_path, tree, path)


def test_a_refused_overwrite_leaves_the_old_checkpoint(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"a": 1})
    before = sorted(p.name for p in (tmp_path / "c").iterdir())
    with pytest.raises(ckptstore.StructureError):
        ckptstore.save(tmp_path / "c", {"a": Opaque()}, overwrite=True)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == before
    assert ckptstore.load(tmp_path / "c") == {"a": 1}


def test_saving_changes_nothing(tmp_path: pathlib.Path) -> None:
    def make() -> Any:
        shared = [np.arange(6).reshape(2, 3).T, collections.defaultdict(list, a=[1])]
        return [nest(20), shared, {"again": shared, "s": Slots(1, {3, 1}), "w": WithCache(2)}]

    tree, classes = make(), (Data, Point, Color, Frozen, Slots)
    attributes = [sorted(vars(x)) for x in classes]
    ckptstore.save(tmp_path / "c", tree)
    assert differences(make(), tree) == []
    assert tree[1][0].flags.f_contiguous
    assert [sorted(vars(x)) for x in classes] == attributes


# --- Types at load -----------------------------------------------------------------------------


def test_a_renamed_enum_member_is_noticed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", {"color": Color.RED, "flag": Perm.R | Perm.W | Perm.X})
    renamed = enum.Enum("Color", {"CRIMSON": "red"}, module=__name__)
    monkeypatch.setattr(sys.modules[__name__], "Color", renamed)
    with pytest.raises(ckptstore.UnknownTypeError, match=r"Color\.RED = 'red'.*CRIMSON"):
        ckptstore.load(tmp_path / "c")


def test_a_changed_enum_value_is_noticed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", Number.TWO)
    changed = enum.IntEnum("Number", {"ONE": 1, "TWO": 3}, module=__name__)
    monkeypatch.setattr(sys.modules[__name__], "Number", changed)
    with pytest.raises(ckptstore.UnknownTypeError, match=r"Number\.TWO = 2"):
        ckptstore.load(tmp_path / "c")


def test_all_missing_types_are_listed_at_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", [Point(1), Data(2), Color.RED, Frozen(3)])
    for name in ("Point", "Data", "Color"):
        monkeypatch.delattr(sys.modules[__name__], name)
    with pytest.raises(ckptstore.UnknownTypeError) as caught:
        ckptstore.load(tmp_path / "c")
    for name in ("Point", "Data", "Color"):
        assert f"pass types={{'{__name__}.{name}'" in str(caught.value)
    assert "Frozen" not in str(caught.value)


def test_a_class_with_other_fields_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", [Point(1), Data(2)])
    new = collections.namedtuple("Point", "x y z", module=__name__)
    monkeypatch.setattr(sys.modules[__name__], "Point", new)
    with pytest.raises(ckptstore.UnknownTypeError, match=r"checkpoint: \(none\);.*class: z;"):
        ckptstore.load(tmp_path / "c")


def test_fields_in_another_order_find_their_values(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", Point(1, 2))
    new = collections.namedtuple("Point", "y x", module=__name__)
    monkeypatch.setattr(sys.modules[__name__], "Point", new)
    assert ckptstore.load(tmp_path / "c") == new(y=2, x=1)


SCRIPT = """
    import dataclasses, enum, sys
    from collections import namedtuple
    from typing import NamedTuple
    import numpy as np
    import ckptstore

    class State(NamedTuple):
        step: int
        params: object

    @dataclasses.dataclass
    class Config:
        rate: float

    class Mode(enum.Enum):
        FAST = 1

    Other = namedtuple("Some", "a")

    def tree():
        return State(3, {"w": np.arange(3.0), "c": Config(0.5), "m": Mode.FAST, "o": Other(1)})

    if __name__ == "__main__":
        if sys.argv[1] == "save":
            ckptstore.save(sys.argv[2], tree())
        else:
            found = ckptstore.load(sys.argv[2])
            assert type(found) is State, type(found)
            assert type(found.params["c"]) is Config
            assert found.params["m"] is Mode.FAST
            assert type(found.params["o"]) is Other
            assert found.params["w"].tolist() == [0.0, 1.0, 2.0]
            print("the same")
"""


def python(*args: Any, cwd: pathlib.Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("how", [["script.py"], ["-m", "script"]])
def test_types_of_a_script_come_back_in_its_next_run(
    how: list[str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    python(*how, "save", tmp_path / "c", cwd=tmp_path)
    assert python(*how, "load", tmp_path / "c", cwd=tmp_path) == "the same\n"


def test_types_of_a_module_that_ran_as_main_are_found_when_it_is_imported(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    python("-m", "script", "save", tmp_path / "c", cwd=tmp_path)
    load = "import script, ckptstore, sys; print(ckptstore.load(sys.argv[1]).step)"
    assert python("-c", load, tmp_path / "c", cwd=tmp_path) == "3\n"
    save = "import script, ckptstore, sys; ckptstore.save(sys.argv[1], script.tree())"
    python("-c", save, tmp_path / "d", cwd=tmp_path)
    assert python("-m", "script", "load", tmp_path / "d", cwd=tmp_path) == "the same\n"


def test_a_module_that_is_not_imported_is_not_imported(tmp_path: pathlib.Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    save = "import script, ckptstore, sys; ckptstore.save(sys.argv[1], script.tree())"
    python("-c", save, tmp_path / "c", cwd=tmp_path)
    with pytest.raises(
        ckptstore.UnknownTypeError, match="script is not imported; import script first"
    ):
        ckptstore.load(tmp_path / "c")
    assert "script" not in sys.modules


def test_importing_ckptstore_imports_no_framework(tmp_path: pathlib.Path) -> None:
    code = """
        import sys, ckptstore
        found = {name.partition(".")[0] for name in sys.modules}
        print(sorted(found & {"jax", "jaxlib", "optax", "torch", "flax", "sklearn"}))
    """
    assert python("-c", textwrap.dedent(code), cwd=tmp_path) == "[]\n"

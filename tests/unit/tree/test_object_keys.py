"""Dict keys and set items that are objects: exact, shown in paths, and never foreign code."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import functools
import pathlib
from decimal import Decimal
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import ckptstore
from ckptstore import StructureError, UnknownTypeError
from ckptstore.types import Record, find_adapter, key_text, object_row
from tests.support.compare import assert_exact, assert_refused, differences, roundtrip

UTC = datetime.UTC
NAN = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]


class Point(NamedTuple):
    x: Any
    y: Any


class Loud(NamedTuple):
    x: Any

    def __hash__(self) -> int:
        return 1


class Color(enum.StrEnum):
    RED = "numpy.int64(1)"


KEYS: dict[str, Any] = {
    **{f"numpy {n}": np.dtype(n).type(1) for n in "?bBhHiIlLefdgFDG"},
    **{
        f"ml_dtypes {n}": t(1)
        for n, t in vars(ml_dtypes).items()
        if isinstance(t, type) and issubclass(t, np.generic)
    },
    "text of numpy": np.str_("a"),
    "bytes of numpy": np.bytes_(b"a\0"),
    "a day": np.datetime64("2020-02-29"),
    "nanoseconds": np.datetime64("2020-02-29T00:00:00.000000001", "ns"),
    "a delta": np.timedelta64(3, "h"),
    "not a time": np.datetime64("NaT"),
    "nan": np.float64("nan"),
    "a payload": NAN,
    "a small nan": np.float32("nan"),
    "minus zero": np.float32(-0.0),
    "a date": datetime.date(2020, 2, 29),
    "a datetime": datetime.datetime(2020, 2, 29, 1, 2, 3, 4, UTC, fold=1),
    "a timedelta": datetime.timedelta(1, 2, 3),
    "a zone": datetime.timezone(datetime.timedelta(hours=2), "CEST"),
    "a path": pathlib.PosixPath("/a/b"),
    "a pure path": pathlib.PurePosixPath("a"),
    "a dtype": np.dtype(">f4"),
    "a structure": np.dtype([("x", "f4"), ("y", "i2", (2,))]),
    "a type": int,
    "a type of numpy": np.float32,
    "a function of numpy": np.add,
    "a range": range(3),
    "a tuple": (np.int64(1), "a", (np.float32(2.5), None)),
    "a frozenset": frozenset({np.int64(1), "a", (np.int8(3),)}),
    "a namedtuple": Point(1, np.int64(2)),
    "a namedtuple of scalars": Point(1, "a"),
}
HASHABLE = {name: key for name, key in KEYS.items() if "complex32" not in name}


@dataclasses.dataclass
class Holder:
    d: Any


def _is_nan(key: Any) -> bool:
    return isinstance(key, np.generic) and key != key


@pytest.mark.parametrize("name", HASHABLE)
def test_an_object_is_a_key_and_an_item_wherever_they_stand(
    name: str, tmp_path: pathlib.Path
) -> None:
    key = HASHABLE[name]
    tree = {
        "dict": {key: [1], "b": np.arange(2)},
        "below": Holder([Point({key: 1}, None)]),
        "ordered": collections.OrderedDict([("z", 1), (key, 2), ("a", 3)]),
        "default": collections.defaultdict(list, {key: [1]}),
        "counter": collections.Counter({key: 3, "a": 1}),
        "items": [{key, "a", 1}, frozenset({key}), {(key, 1)}, {frozenset({key}): 0}],
        "beside": key,
    }
    tree["like"] = {key: tree["dict"]}
    loaded = assert_exact(tmp_path, tree)
    assert type(loaded["counter"]) is collections.Counter
    assert differences(tree, ckptstore.load(tmp_path / "c0", like=tree)) == []
    if not _is_nan(key):
        assert loaded["dict"][key] == [1]
        assert key in loaded["items"][0]


def test_counts_of_numpy_come_back(tmp_path: pathlib.Path) -> None:
    y = np.array([3, 1, 3, 3])
    counts = dict(zip(*np.unique(y, return_counts=True), strict=True))
    loaded = assert_exact(tmp_path, counts)
    assert loaded == {1: 1, 3: 3}
    assert {type(x) for x in (*loaded, *loaded.values())} == {np.int64}


def test_all_kinds_of_keys_are_in_one_dict_and_one_set(tmp_path: pathlib.Path) -> None:
    everything = dict.fromkeys(HASHABLE.values(), 0)
    for number, key in enumerate(everything):
        everything[key] = number
    loaded = assert_exact(tmp_path, everything)
    assert [*loaded.values()] == [*everything.values()]
    del everything[NAN]  # the comparer could not tell which NaN is which
    assert_exact(tmp_path, [{*everything}, frozenset(everything)])


def test_keys_that_print_alike_stay_apart(tmp_path: pathlib.Path) -> None:
    nans = {np.float64("nan"): 1, NAN: 2, np.float64("nan"): 3, float("nan"): 4}
    assert len(nans) == 4
    loaded = assert_exact(tmp_path, nans)
    assert [*loaded.values()] == [1, 2, 3, 4]
    texts = {np.int64(1): 1, "numpy.int64(1) (2)": 2, "numpy.int64(1)": 3}
    assert assert_exact(tmp_path, texts) == texts
    members = {np.int64(1): 1, Color.RED: 2}
    assert assert_exact(tmp_path, members) == members


@pytest.mark.parametrize("key", [1, np.int64(1), np.float32(1), True, np.True_, 1.0])
def test_the_type_of_an_equal_key_is_kept(key: Any, tmp_path: pathlib.Path) -> None:
    loaded = assert_exact(tmp_path, {key: "a"})
    assert [type(found) for found in loaded] == [type(key)]


def test_a_long_long_comes_back_as_the_equal_int64(tmp_path: pathlib.Path) -> None:
    loaded = roundtrip(tmp_path, [{np.longlong(1): 2}, {np.ulonglong(1)}])
    assert loaded == [{1: 2}, {1}]
    assert [type(x) for x in (*loaded[0], *loaded[1])] == [np.int64, np.uint64]


def test_a_path_shows_the_object_and_selects_by_it(tmp_path: pathlib.Path) -> None:
    tree = {"n": {np.int64(3): [1, 2], "a": 5, datetime.date(2020, 1, 2): 6}}
    ckptstore.save(tmp_path / "c", tree)
    assert ckptstore.load(tmp_path / "c", select="$.n['numpy.int64(3)'][1]") == 2
    assert ckptstore.load(tmp_path / "c", select="$.n.a") == 5
    assert ckptstore.load(tmp_path / "c", select="$.n['datetime.date(2020, 1, 2)']") == 6
    assert_refused(tmp_path, {np.int64(3): lambda: 1}, "$['numpy.int64(3)']", "a lambda")
    with pytest.raises(StructureError, match=r"\$\['n'\]\['numpy.int64\(4\)'\].*not in `like`"):
        ckptstore.save(tmp_path / "d", {"n": {np.int64(4): 1, np.int64(3): 1}})
        ckptstore.load(tmp_path / "d", like={"n": {np.int64(3): 1}})


def test_the_order_of_a_set_depends_on_its_values(tmp_path: pathlib.Path) -> None:
    items = [np.int64(n) for n in range(9)] + ["a", (np.int8(1), 2), datetime.date(2020, 1, 1)]
    for number, order in enumerate((items, items[::-1])):
        ckptstore.save(tmp_path / f"{number}", set(order))
    paths = [list(map(str, ckptstore.inspect(tmp_path / n).leaves)) for n in "01"]
    assert paths[0] == paths[1]
    assert sorted(map(key_text, items)) == [key_text(x) for x in sorted(items, key=key_text)]


REFUSED: dict[str, tuple[Any, str]] = {
    "a class with a hash of its own": (Loud(1), "test_object_keys.Loud"),
    "an object": (object(), "builtins.object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_keys_are_refused(name: str, tmp_path: pathlib.Path) -> None:
    key, words = REFUSED[name]
    for tree in ({key: 1}, {key}, {(1, key): 2}, {frozenset({key})}):
        with pytest.raises(StructureError) as caught:
            ckptstore.save(tmp_path / "c", {"a": tree})
        assert str(caught.value).startswith("$['a']")
        assert words in str(caught.value)
        assert not (tmp_path / "c").exists()


def test_what_the_refusal_of_a_key_names_can_be_a_key(tmp_path: pathlib.Path) -> None:
    with pytest.raises(StructureError, match="use str, int, float") as caught:
        ckptstore.save(tmp_path / "c", {object(): 1})
    assert "bytes, bool, None, an Enum member, a scalar of numpy, a date, a path or a tuple" in str(
        caught.value
    )
    named = ("a", 1, 1.5, b"b", True, None, Color.RED, np.int8(4), datetime.date(2020, 1, 1))
    assert_exact(tmp_path, dict.fromkeys([*named, pathlib.PosixPath("a"), named]))


def test_objects_of_one_hash_are_refused(tmp_path: pathlib.Path) -> None:
    keys = [Decimal(n * (2**61 - 1)) for n in range(200)]
    assert len({*map(hash, keys)}) == 1
    for tree in (dict.fromkeys(keys), set(keys), frozenset(keys)):
        assert_refused(tmp_path, [tree], "$[0]", "the same hash", "store them in a list")


def test_an_object_again_and_again_in_a_key_is_refused(tmp_path: pathlib.Path) -> None:
    x: Any = (np.int64(1),)
    for _ in range(20):
        x = (x, x)
    assert_refused(tmp_path, {x: 1}, "$", "make them flatter")
    deep = functools.reduce(lambda key, _: (key,), range(40), np.int64(1))
    assert_refused(tmp_path, {deep: 1}, "$", "nested over 32 deep")


def test_a_key_of_many_parts_in_many_dicts_is_refused_at_save(tmp_path: pathlib.Path) -> None:
    key = tuple(np.arange(2000))
    assert_refused(tmp_path, [{key: n} for n in range(40)], "$[26]", "copies of the parts")
    assert_exact(tmp_path, [{tuple(np.arange(2000)): n} for n in range(3)])


def test_the_values_do_not_count_as_parts_of_the_keys(tmp_path: pathlib.Path) -> None:
    tree: Any = {n: [n] for n in range(3000)}
    for depth in range(100):
        tree = {np.int64(depth): tree}
    assert_exact(tmp_path, tree)


class _Forged:
    __module__ = "builtins"


FORGED: list[tuple[str, list[Any]]] = [
    ("dict", [{"a": 1}, {}]),
    ("dict", [{"a": 1}, {"b": np.int64(1)}]),
    ("dict", [{"a": 1}, {"a": "b"}]),
    ("dict", [{"a": 1}, {"a": [1]}]),
    ("dict", [{"a": 1}, {"a": (np.int64(1), [1])}]),
    ("dict", [{"a": 1, 1: 2}, {"a": np.int64(1)}]),
    ("dict", [{"a": 1}, {1: np.int64(1)}]),
    ("dict", [[1], {"a": np.int64(1)}]),
    ("dict", [{"a": 1}, [np.int64(1)]]),
    ("set", [[1]]),
    ("set", [[np.int64(1), 1]]),
    ("set", [(np.int64(1),)]),
    ("frozenset", [[[np.int64(1)]]]),
    ("frozenset", [[Loud(1)]]),
    ("frozenset", [[(np.int64(1), Loud(1))]]),
    ("set", [[datetime.timedelta(n) for n in range(3)] + [datetime.timedelta(1)]]),
]


@pytest.mark.parametrize("number", range(len(FORGED)))
def test_a_forged_record_is_refused(number: int, tmp_path: pathlib.Path) -> None:
    name, values = FORGED[number]
    fields = ("items", "objects") if name == "dict" else ("items",)
    suffix = "with objects as keys" if name == "dict" else "of objects"
    row = object_row(f"builtins.{name} {suffix}", *fields, wraps=True)
    forged = Record(row, lambda _: values, lambda _: None, check=lambda _: None)
    with pytest.MonkeyPatch.context() as patch:
        adapter = find_adapter("builtins")
        assert adapter is not None
        patch.setattr(adapter, "records", {**adapter.records, _Forged: forged})
        ckptstore.save(tmp_path / "c", _Forged())
    with pytest.raises(UnknownTypeError) as caught:
        ckptstore.load(tmp_path / "c")
    assert caught.value.reason == "cannot-make"

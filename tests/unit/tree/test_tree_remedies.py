"""What the refusals of a tree tell you to do, done."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import importlib.metadata
import math
import re
import string
import threading
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ckptstore
from ckptstore import StructureError
from ckptstore.adapters import Adapter, Record, TypeKind, TypeRow
from ckptstore.tree import records, symbols
from ckptstore.types import registry
from tests.support.compare import assert_exact, differences, roundtrip

follows = pytest.mark.follows


class Box:
    def __init__(self, held: Any) -> None:
        self.held = held


class Color(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: Any


class Elsewhere:
    class Point(NamedTuple):
        """The class of today."""

        x: Any


@dataclasses.dataclass
class Bag(dict):  # type: ignore[type-arg]
    """Its contents are not its fields."""

    size: int


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten."""
    for table in ("_BY_CLASS", "_BY_NAME"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def refused(place: Path, tree: Any, **options: Any) -> str:
    with pytest.raises(StructureError) as caught:
        ckptstore.save(place / "refused", tree, **options)
    return str(caught.value)


def chain(depth: int, end: Any, made: Any = list) -> Any:
    for _ in range(depth):
        end = made([end, end])
    return end


# --- What is saved ------------------------------------------------------------------------------


@follows("tree.symbols", "pass np.array(x)")
def test_an_array_of_a_subclass(tmp_path: Path) -> None:
    class Mine(np.ndarray):  # type: ignore[type-arg]
        pass

    x = np.arange(6.0).reshape(2, 3).view(Mine)
    refused(tmp_path, {"x": x})
    loaded = assert_exact(tmp_path, {"x": np.array(x)})
    assert (loaded["x"] == x).all()


@follows("tree.symbols", "use a masked array, or None")
def test_the_masked_constant(tmp_path: Path) -> None:
    refused(tmp_path, [np.ma.masked])
    assert_exact(tmp_path, [np.ma.array(0.0, mask=True), None])


@follows("tree.symbols", "leave it out, or store its name as a str")
def test_a_module(tmp_path: Path) -> None:
    refused(tmp_path, {"module": math, "x": 1})
    assert_exact(tmp_path, {"module": math.__name__, "x": 1})
    assert_exact(tmp_path, {"x": 1})


@follows(
    "tree.symbols",
    "store its name as a str, or {}",
)
def test_a_class_as_a_value(tmp_path: Path) -> None:
    refused(tmp_path, {"class": Box, "x": 1})
    assert_exact(tmp_path, {"class": Box.__qualname__, "x": 1})
    like = {"class": Box, "x": 0}
    assert roundtrip(tmp_path, {"class": Box, "x": 1}, supplied=["$['class']"], like=like) == {
        "class": Box,
        "x": 1,
    }


@follows(
    "tree.symbols",
    "keep it out of the tree, or {}",
)
@pytest.mark.parametrize("function", [lambda x: x, refused], ids=["a lambda", "a function"])
def test_a_function(function: Any, tmp_path: Path) -> None:
    tree = {"f": function, "x": 1}
    refused(tmp_path, tree)
    assert_exact(tmp_path, {"x": 1})
    loaded = roundtrip(tmp_path, tree, supplied=["$['f']"], like={"f": function, "x": 0})
    assert differences(tree, loaded) == []


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (types.MappingProxyType({"a": 1}), "pass dict(x)"),
        (collections.UserList([1, 2]), "pass list(x)"),
        ({"a": 1}.values(), "pass list(x)"),
        (memoryview(b"weights"), "pass bytes(x)"),
    ],
)
@follows("types.remedies", "pass {}, or use {}")
def test_an_object_of_python_that_has_a_plain_form(
    x: Any, remedy: str, tmp_path: Path, registered: None
) -> None:
    words = refused(tmp_path, [x])
    assert remedy in words
    plain = eval(remedy.removeprefix("pass "), {"x": x})
    assert list(assert_exact(tmp_path, [plain])[0]) == list(x)
    if type(x) is collections.UserList:
        call = words.partition("or use ")[2].replace("unflatten=...", "unflatten=make")
        names = {"ckptstore": ckptstore, "UserList": collections.UserList}
        names |= {"take": lambda x: ((x.data,), None), "make": lambda _, c: type(x)(*c)}
        eval(call.replace("flatten=...", "flatten=take"), names)
        assert roundtrip(tmp_path, x) == x


@follows("types.remedies", "make it a dataclass or a NamedTuple, use {}, or {}")
@follows("types.remedies", "ckptstore.register({}, flatten=..., unflatten=...)")
def test_an_object_of_a_class_of_your_own(tmp_path: Path, registered: None) -> None:
    words = refused(tmp_path, Box(7))
    assert "use ckptstore.register(Box, flatten=..., unflatten=...)" in words
    assert_exact(tmp_path, Point(7))
    ckptstore.register(Box, flatten=lambda b: ((b.held,), None), unflatten=lambda _, c: Box(*c))
    assert roundtrip(tmp_path, Box(7)).held == 7


@follows("types.remedies", "use {}, or {}")
def test_an_object_of_a_class_that_nobody_can_edit(tmp_path: Path, registered: None) -> None:
    x = string.Template("a $b")
    words = refused(tmp_path, x)
    assert "use ckptstore.register(Template, flatten=..., unflatten=...)" in words
    (patterns,) = re.findall(r"supplied=(\[.*?\])\)", words)
    assert roundtrip(tmp_path, [x], supplied=["$[0]"], like=[x]) == [x]
    assert eval(patterns) == ["$"]
    ckptstore.register(
        string.Template,
        flatten=lambda x: ((x.template,), None),
        unflatten=lambda _, parts: string.Template(*parts),
    )
    assert roundtrip(tmp_path, x).template == "a $b"


class Closed:
    """Its own code fails when it is looked at."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("closed")

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("closed")


@follows("tree.refusals", "use ckptstore.register({}, flatten=..., unflatten=...), or {}")
def test_an_object_whose_own_code_fails(
    tmp_path: Path, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(x: Any) -> Any:
        raise RuntimeError("closed")

    monkeypatch.setattr(symbols, "encode_symbol", fail)
    monkeypatch.setattr("ckptstore.tree.encoding.encode_symbol", lambda live, x: fail(x))
    x = Closed()
    refused(tmp_path, [x])
    assert roundtrip(tmp_path, [x], supplied=["$[0]"], like=[x])[0] is x
    ckptstore.register(Closed, flatten=lambda x: ((), None), unflatten=lambda _, c: Closed())
    assert type(roundtrip(tmp_path, [x])[0]) is Closed


@follows("types.remedies", "leave it out and make a new one")
def test_an_object_of_this_process(tmp_path: Path) -> None:
    tree = {"lock": threading.Lock(), "x": 1}
    refused(tmp_path, tree)
    del tree["lock"]
    assert {**assert_exact(tmp_path, tree), "lock": threading.Lock()}["x"] == 1


@follows("tree.encoding", "use ckptstore.register({}, flatten=..., unflatten=...), or {}")
def test_a_class_that_cannot_be_made_without_its_code(tmp_path: Path, registered: None) -> None:
    bag = Bag(3)
    bag["a"] = 1
    refused(tmp_path, bag)

    def unflatten(_: Any, children: Any) -> Bag:
        made = Bag(children[0])
        made.update(children[1])
        return made

    ckptstore.register(Bag, flatten=lambda b: ((b.size, dict(b)), None), unflatten=unflatten)
    loaded = roundtrip(tmp_path, bag)
    assert type(loaded) is Bag and loaded.size == 3 and dict(loaded) == {"a": 1}


@follows("tree.containers", "use one of {} or None")
def test_a_factory_of_a_defaultdict(tmp_path: Path) -> None:
    words = refused(tmp_path, collections.defaultdict(lambda: 0))
    for named in ["None", *words.partition("use one of ")[2].removesuffix(" or None").split(", ")]:
        assert_exact(tmp_path, collections.defaultdict(eval(named), a=1))


@follows("tree.flattening", "break the cycle")
def test_a_container_in_itself(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"a": 1}
    tree["self"] = tree
    refused(tmp_path, tree)
    del tree["self"]
    assert_exact(tmp_path, tree)


@follows("tree.flattening", "make it flatter")
def test_a_tree_that_is_too_deep(tmp_path: Path) -> None:
    tree: Any = None
    for n in range(10_002):
        tree = [n, tree]
    refused(tmp_path, tree)
    flat = []
    while tree is not None:
        n, tree = tree
        flat.append(n)
    assert_exact(tmp_path, flat)


@follows("tree.flattening", "leave it out of supplied")
def test_a_scalar_that_is_to_be_supplied(tmp_path: Path) -> None:
    tree = {"step": 3, "f": len}
    refused(tmp_path, tree, supplied=["$['step']"])
    assert_exact(tmp_path, {"step": 3})


@follows("tree.flattening", "name both, or neither")
def test_a_supplied_object_that_also_stands_elsewhere(tmp_path: Path) -> None:
    class Loader:
        pass

    loader = Loader()
    tree = {"a": loader, "b": loader, "x": 1}
    refused(tmp_path, tree, supplied=["$['a']"])
    like = {**tree, "x": 0}
    loaded = roundtrip(tmp_path, tree, supplied=["$['a']", "$['b']"], like=like)
    assert loaded == tree and loaded["a"] is loader
    shared = [1, 2]
    tree = {"a": shared, "b": shared}
    refused(tmp_path, tree, supplied=["$['a']"])
    assert_exact(tmp_path, tree)


@follows("tree.flattening", "use a dict, or copies of the parts")
def test_a_mapping_whose_parts_are_shared_too_often(tmp_path: Path) -> None:
    haiku = pytest.importorskip("haiku")
    shared = chain(17, None)
    refused(tmp_path, haiku.data_structures.to_immutable_dict({"a": shared}))
    assert_exact(tmp_path, {"a": shared})
    assert_exact(tmp_path, haiku.data_structures.to_immutable_dict({"a": [[[None] * 9] * 9] * 9}))


@follows(
    "types.hashables",
    "use str, int, float, bytes, bool, None, an Enum member, a scalar of numpy, a date, a path or "
    "a tuple of these",
)
def test_a_key_of_another_type(tmp_path: Path) -> None:
    refused(tmp_path, {Box(1): 1})
    refused(tmp_path, {("a", Box(1))})
    date = datetime.date(2024, 2, 29)
    for good in (
        "a",
        1,
        1.5,
        b"a",
        True,
        None,
        Color.RED,
        np.float32(1),
        date,
        Path("a"),
        ("a", 1),
    ):
        assert_exact(tmp_path, {good: 1})
        assert_exact(tmp_path, {good})


@follows("types.hashables", "make it flatter")
def test_a_key_that_is_too_deep(tmp_path: Path) -> None:
    key: Any = ()
    for n in range(40):
        key = (n, key)
    refused(tmp_path, {key: 1})
    assert_exact(tmp_path, {tuple(range(40)): 1})


@follows("types.hashables", "make them flatter")
def test_keys_that_hold_one_object_again_and_again(tmp_path: Path) -> None:
    refused(tmp_path, {chain(16, "a", tuple): 1})
    assert_exact(tmp_path, {("a",) * 16: 1})


@follows("types.hashables", "store them in a list")
def test_keys_of_one_hash(tmp_path: Path) -> None:
    modulus = (1 << 61) - 1  # hash(n) is n modulo this
    same = [n * modulus for n in range(1, 150)]
    refused(tmp_path, set(same))
    refused(tmp_path, dict.fromkeys(same))
    assert_exact(tmp_path, same)
    assert_exact(tmp_path, list(dict.fromkeys(same, 1).items()))


class Ring:
    """A class of a package that brings an adapter."""

    def __init__(self, a: int) -> None:
        self.a = a


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that installs an adapter for `Ring`, with this `take` and this `make`."""
    row = TypeRow(TypeKind.OBJECT, "ringlib", "Ring", fields=("a",))
    entry = importlib.metadata.EntryPoint("ringlib", "tests:ADAPTER", registry.GROUP)
    monkeypatch.setattr(Ring, "__module__", "ringlib")
    monkeypatch.setattr(records, "_TRIED", {})
    monkeypatch.setattr(registry, "_entry_points", lambda: {"ringlib": [entry]})

    def install(take: Any, make: Any = Ring) -> None:
        record = Record(row, take, lambda values: make(*values))
        made = type("OfRing", (Adapter,), {"records": {Ring: record}})()
        monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: made)
        registry._load_entry_point.cache_clear()

    yield install
    registry._load_entry_point.cache_clear()


@follows("tree.records", "mend `take` of its Record")
def test_an_adapter_that_takes_too_little(ring: Any, tmp_path: Path) -> None:
    ring(lambda x: ())
    refused(tmp_path, Ring(1))
    ring(lambda x: (x.a,))
    assert roundtrip(tmp_path, Ring(1)).a == 1


@follows("tree.records", "make a new one")
def test_an_object_that_would_come_back_as_another(ring: Any, tmp_path: Path) -> None:
    ring(lambda x: (x.a,), lambda a: Ring(abs(a)))
    broken = Ring(1)
    broken.a = -1
    refused(tmp_path, broken)
    assert roundtrip(tmp_path, Ring(1)).a == 1


@follows("tree.records", "make a new one")
def test_an_object_that_its_class_does_not_accept(tmp_path: Path, ring: Any) -> None:
    def make(a: int) -> Ring:
        if a < 0:
            raise ValueError("a is negative")
        return Ring(a)

    ring(lambda x: (x.a,), make)
    broken = Ring(1)
    broken.a = -1
    refused(tmp_path, broken)
    assert roundtrip(tmp_path, make(1)).a == 1


# --- Functions of yours -------------------------------------------------------------------------


@follows("tree.round_trip", "let it return what flatten took apart")
def test_an_unflatten_that_returns_another_type(tmp_path: Path, registered: None) -> None:
    ckptstore.register(Box, flatten=lambda b: ((b.held,), None), unflatten=lambda _, c: c)
    refused(tmp_path, Box(1))
    ckptstore.register(Box, flatten=lambda b: ((b.held,), None), unflatten=lambda _, c: Box(*c))
    assert roundtrip(tmp_path, Box(1)).held == 1


@follows(
    "tree.round_trip",
    "let flatten return each part of the object, and unflatten put each part back{}",
)
def test_an_unflatten_that_loses_a_part(tmp_path: Path, registered: None) -> None:
    class Two:
        def __init__(self, a: Any = None, b: Any = None) -> None:
            self.a, self.b = a, b

    def both(x: Two) -> Any:
        return (x.a, x.b), None

    name = {"name": "project.Two"}
    ckptstore.register(Two, flatten=both, unflatten=lambda _, c: Two(c[0]), **name)  # type: ignore[arg-type]
    refused(tmp_path, Two(1, "b"))
    ckptstore.register(Two, flatten=both, unflatten=lambda _, c: Two(*c), **name)  # type: ignore[arg-type]
    assert vars(roundtrip(tmp_path, Two(1, "b"))) == {"a": 1, "b": "b"}


# --- What is loaded -----------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(tree: Any, **options: Any) -> Path:
        ckptstore.save(tmp_path / "c", tree, overwrite=True, **options)
        return tmp_path / "c"

    return save


def fails(place: Path, **options: Any) -> str:
    with pytest.raises(ckptstore.CheckpointError) as caught:
        ckptstore.load(place, **options)
    return str(caught.value)


@follows("tree.casting", "put a dtype that holds it into `like`")
def test_a_cast_that_does_not_fit(saved: Any) -> None:
    place = saved(np.array([1, 300]))
    fails(place, like=np.zeros(2, "i1"), cast=True)
    loaded = ckptstore.load(place, like=np.zeros(2, "i2"), cast=True)
    assert differences(np.array([1, 300], "i2"), loaded) == []


@follows("tree.comparison", "change `like`, or pass cast=True")
def test_another_dtype_in_like(saved: Any) -> None:
    place = saved(np.array([1, 2], "f4"))
    fails(place, like=np.zeros(2))
    assert ckptstore.load(place, like=np.zeros(2, "f4")).dtype == "f4"
    assert ckptstore.load(place, like=np.zeros(2), cast=True).dtype == "f8"


@follows("tree.comparison", "make them equal in `like`")
def test_an_array_in_two_places_with_two_wishes(saved: Any) -> None:
    x = np.array([1.0, 2.0], "f4")
    place = saved({"a": x, "b": x})
    fails(place, like={"a": np.zeros(2), "b": np.zeros(2, "f2")}, cast=True)
    loaded = ckptstore.load(place, like={"a": np.zeros(2), "b": np.zeros(2)}, cast=True)
    assert loaded["a"] is loaded["b"] and loaded["a"].dtype == "f8"


@follows("tree.comparison", 'arrays="numpy" gives numpy arrays')
@follows("tree.comparison", "put numpy arrays into `like`, and convert the loaded ones")
def test_an_array_of_another_framework_in_like(saved: Any) -> None:
    jnp = pytest.importorskip("jax.numpy")
    ours, theirs = np.ones(2, "f4"), jnp.ones(2)
    place = saved({"x": theirs})
    fails(place, like={"x": ours})
    assert type(ckptstore.load(place, arrays="numpy")["x"]) is np.ndarray
    assert type(ckptstore.load(place, like={"x": ours}, arrays="numpy")["x"]) is np.ndarray
    place = saved({"x": ours})
    fails(place, like={"x": theirs})
    loaded = ckptstore.load(place, like={"x": ours})["x"]
    assert differences(jnp.ones(2), jnp.asarray(loaded)) == []


@follows("tree.differences", "pass an array there")
def test_a_number_in_like_where_an_array_is_stored(saved: Any) -> None:
    place = saved({"step": np.array(3)})
    fails(place, like={"step": 0})
    assert ckptstore.load(place, like={"step": np.array(0)})["step"] == 3


@follows(
    "tree.differences",
    "if it is the same class, pass types={'{}': {}}, or ckptstore.register({}, name='{}')",
)
@pytest.mark.parametrize("way", ["types", "register"])
def test_a_class_that_moved(way: str, saved: Any, registered: None) -> None:
    place, today = saved(Point(7)), Elsewhere.Point
    words = fails(place, like=today(0))
    types, register = words.partition("; if it is the same class, pass ")[2].split(", or ")
    options: dict[str, Any] = {}
    if way == "types":
        options = eval(f"dict({types})", {"Point": today})
    else:
        eval(register, {"ckptstore": ckptstore, "Point": today})
    loaded = ckptstore.load(place, like=today(0), **options)
    assert type(loaded) is today and loaded.x == 7


@follows("tree.patterns", "pass one such as $.params or $.opt_state[0]")
def test_an_empty_pattern(saved: Any) -> None:
    place = saved({"params": {"w": 1}, "opt_state": [2]})
    fails(place, select="")
    fails(place, select=[3])
    assert ckptstore.load(place, select="$.params") == {"w": 1}
    assert ckptstore.load(place, select="$.opt_state[0]") == 2


@follows("tree.paths", "select one of these containers, or name the places without stars")
def test_a_pattern_of_endlessly_many_places(saved: Any) -> None:
    place = saved(chain(60, {"kernel": 7}))
    fails(place, select="$.**.kernel")
    assert len(ckptstore.load(place, select="$[0]")) == 2
    assert ckptstore.load(place, select="$" + "[0]" * 60 + ".kernel") == 7


@follows("tree.paths", "select their container")
def test_places_whose_paths_are_too_long(saved: Any) -> None:
    name = "n" * 20_000
    tree = {name: {name: {str(n): n for n in range(3000)}}}
    place = saved(tree)
    fails(place, select="$.*.*.*")
    assert ckptstore.load(place, select=f"$.{name}.{name}") == tree[name][name]


@follows("tree.selection", "there is {}")
def test_a_pattern_that_matches_nothing(saved: Any) -> None:
    place = saved({"params": {"w": 1, "b": 2}})
    words = fails(place, select="$.params.v")
    for near in words.partition("there is ")[2].split(", "):
        assert ckptstore.load(place, select=near) in (1, 2)


@follows("tree.selection", "select their container")
def test_a_pattern_whose_places_print_the_same(saved: Any) -> None:
    place = saved({"at": {float("nan"): 1, float("-nan"): 2}})
    fails(place, select="$.at.*")
    assert list(ckptstore.load(place, select="$.at").values()) == [1, 2]


@follows(
    "tree.unflattening",
    "supply it by load(url, like=...), where `like` is a fresh tree of this kind, or load the rest "
    "by select=",
)
def test_an_object_that_was_not_stored(saved: Any) -> None:
    place = saved({"f": fails, "x": 1}, supplied=["$['f']"])
    fails(place)
    assert ckptstore.load(place, like={"f": fails, "x": 0}) == {"f": fails, "x": 1}
    assert ckptstore.load(place, select="$.x") == 1


@follows("tree.unflattening", "do not load it, or load the rest by select=")
def test_a_file_whose_parts_would_be_read_endlessly(saved: Any) -> None:
    forged = pytest.importorskip("tests.frameworks.test_shared_parts")
    many = list(range(2000))
    deques = [forged._forged("builtins", "collections.deque", [many, None]) for _ in range(1000)]
    place = saved({"deques": deques, "x": 1})
    fails(place)
    assert ckptstore.load(place, select="$.x") == 1


@follows("tree.patterns", "a step is .name, [0], ['key'], .* or .**")
def test_a_pattern_that_cannot_be_read(saved: Any) -> None:
    place = saved({"name": [1, {"key": 2}]})
    fails(place, select="$.name.[0]")
    for select, found in (
        ("$.name", [1, {"key": 2}]),
        ("$.name[0]", 1),
        ("$['name'][1]['key']", 2),
        ("$.*", {"$['name']": [1, {"key": 2}]}),
        ("$.**.key", {"$['name'][1]['key']": 2}),
    ):
        assert ckptstore.load(place, select=select) == found

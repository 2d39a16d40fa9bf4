"""Values of Python, numpy and torch: numbers, dates, subclasses of str, generators of numbers."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import fractions
import importlib
import ipaddress
import pathlib
import random
import shutil
import subprocess
import sys
import uuid
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import ckptstore
from ckptstore import UnknownTypeError
from ckptstore.types import Record, find_adapter
from tests.support import ROOT
from tests.support.compare import assert_exact, assert_refused, differences, roundtrip


@pytest.fixture(autouse=True)
def _without_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process have registered Decimal and Fraction."""
    monkeypatch.setattr("ckptstore.types.registry._BY_CLASS", {})
    monkeypatch.setattr("ckptstore.types.registry._BY_NAME", {})


follows = pytest.mark.follows
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Name(str):
    def method(self) -> str:
        return "of the class"


class Count(int):
    pass


class Loss(float):
    pass


class Raw(bytes):
    pass


class Wave(complex):
    pass


class Sorted(str):
    """Compares by code of its own, as TorchVersion does."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("it ran")

    def __hash__(self) -> int:
        raise AssertionError("it ran")


class Slotted(str):
    __slots__ = ("more",)


class WithDel(str):
    def __del__(self) -> None: ...


class Loud(type):
    pass


class OfLoud(int, metaclass=Loud):
    pass


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Holder:
    value: Any


VALUES: dict[str, Any] = {
    "a str subclass": Name("x"),
    "an empty str subclass": Name(""),
    "a surrogate": Name("\ud800"),
    "a long str subclass": Name("x" * 5000),
    "an int subclass": Count(-(2**70)),
    "a float subclass": Loss("nan"),
    "minus zero": Loss("-0.0"),
    "a bytes subclass": Raw(b"\0a"),
    "a complex subclass": Wave(-0.0, 1),
    "an empty slot": Slotted("a"),
    "a subclass with an __eq__": Sorted("a"),
    "the version of torch": torch.__version__,
    "a UUID": uuid.UUID("12345678123456781234567812345678"),
    "a safe UUID": uuid.UUID(int=2**128 - 1, is_safe=uuid.SafeUUID.safe),
    "a Decimal": Decimal("0.10"),
    "a Decimal of many digits": Decimal("1" * 100 + "E-5000"),
    "minus zero of Decimal": Decimal("-0E+3"),
    "a payload": Decimal("NaN123"),
    "a signal": Decimal("-sNaN9"),
    "infinity": Decimal("-Infinity"),
    "a Fraction": fractions.Fraction(-1, 3),
    "a large Fraction": fractions.Fraction(3**4000, 2**5000),
    "a time": datetime.time(1, 2, 3, 4),
    "a time with a zone": datetime.time(1, 2, fold=1, tzinfo=datetime.UTC),
    "a time of a place": datetime.time(1, tzinfo=BERLIN),
    "a datetime of a place": datetime.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    "a place": BERLIN,
    "UTC": zoneinfo.ZoneInfo("UTC"),
    "an address": ipaddress.ip_address("10.0.0.1"),
    "an address with a scope": ipaddress.IPv6Address("fe80::1%eth0"),
    "a network": ipaddress.ip_network("10.0.0.0/8"),
    "an interface": ipaddress.ip_interface("fe80::1/64"),
}
NO_KEY = {"a subclass with an __eq__", "the version of torch", "a signal"}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_wherever_it_stands(name: str, tmp_path: pathlib.Path) -> None:
    x = VALUES[name]
    tree: Any = [x, {"a": x}, Holder(x), Pair(x, (x,)), collections.deque([x])]
    if name not in NO_KEY:
        tree += [{x: 1}, {x}, frozenset({(x, 1)})]
    loaded = assert_exact(tmp_path, tree)
    assert type(loaded[0]) is type(x)
    if name != "a subclass with an __eq__":
        assert differences(tree, ckptstore.load(tmp_path / "c0", like=tree)) == []
    if isinstance(x, Name):
        assert loaded[0].method() == "of the class"


def test_another_process_that_imported_the_module_loads_them(tmp_path: pathlib.Path) -> None:
    program = (
        "import sys, ckptstore, tests.frameworks.test_values as t\n"
        "from tests.support.compare import differences\n"
        "ckptstore.save(sys.argv[1], t.VALUES)\n"
    )
    subprocess.run([sys.executable, "-c", program, f"{tmp_path / 'c'}"], cwd=ROOT, check=True)
    program = (
        "import sys, ckptstore, tests.frameworks.test_values as t\n"
        "from tests.support.compare import differences\n"
        "assert differences(t.VALUES, ckptstore.load(sys.argv[1])) == []\n"
    )
    subprocess.run([sys.executable, "-c", program, f"{tmp_path / 'c'}"], cwd=ROOT, check=True)
    program = "import sys, ckptstore; print(repr(ckptstore.load(sys.argv[1], select=sys.argv[2])))"
    command = [sys.executable, "-c", program, f"{tmp_path / 'c'}"]
    found = subprocess.run([*command, "$['a UUID']"], cwd=ROOT, check=True, capture_output=True)
    assert b"12345678-1234" in found.stdout
    lost = subprocess.run([*command, "$['a str subclass']"], cwd=ROOT, capture_output=True)
    assert b"import tests.frameworks.test_values first" in lost.stderr


def test_values_of_torch_are_keys(tmp_path: pathlib.Path) -> None:
    keys = [torch.float32, torch.device("cpu"), torch.Size([2, 3]), torch.strided]
    loaded = assert_exact(tmp_path, [dict.fromkeys([*keys, (1, torch.int8)]), {*keys}])
    assert [type(key) for key in loaded[0]][:4] == [type(key) for key in keys]


@pytest.mark.parametrize("precision", [1, 5, 1000])
def test_the_context_of_decimals_does_not_matter(precision: int, tmp_path: pathlib.Path) -> None:
    x = Decimal("1.23456789E+400")
    with decimal.localcontext(
        prec=precision, Emax=10, Emin=-10, traps=list(decimal.Context().flags)
    ):
        assert_exact(tmp_path, [x, Decimal("NaN12"), {x: 1}])


def attributed() -> Any:
    x = Name("a")
    x.extra = 1  # type: ignore[attr-defined]
    return x


def filled_slot() -> Any:
    x = Slotted("a")
    x.more = 1  # type: ignore[misc]
    return x


class Elsewhere(datetime.tzinfo):
    pass


def of_a_file() -> Any:
    files = [pathlib.Path(folder) / "UTC" for folder in zoneinfo.TZPATH]
    with next(path for path in files if path.exists()).open("rb") as file:
        return zoneinfo.ZoneInfo.from_file(file)


def marked(x: Any) -> Any:
    x.extra = 1
    return x


def unmarked(x: Any) -> Any:
    del x.extra
    return x


def changed() -> Any:
    entropy = [1, 2]
    seeds = np.random.SeedSequence(entropy)
    entropy.append(3)
    return seeds


REFUSED: dict[str, tuple[Callable[[], Any], str, Callable[[Any], Any]]] = {
    "an attribute of a str": (attributed, "delete it, or pass str(x)", str),
    "a slot of a str": (filled_slot, "delete it, or pass str(x)", str),
    "a str with a __del__": (lambda: WithDel("a"), "pass str(x), or use", str),
    "an int of a metaclass": (lambda: OfLoud(3), "pass int(x), or use", int),
    "another time zone": (
        lambda: datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.min).replace(
            tzinfo=Elsewhere()
        ),
        "save x.astimezone(datetime.timezone.utc)",
        lambda x: x.replace(tzinfo=BERLIN).astimezone(datetime.UTC),
    ),
    "the zone of a time": (
        lambda: datetime.time(1, tzinfo=Elsewhere()),
        "save x.replace(tzinfo=None)",
        lambda x: x.replace(tzinfo=None),
    ),
    "a zone of a file": (
        lambda: of_a_file(),
        "use zoneinfo.ZoneInfo(NAME)",
        lambda x: zoneinfo.ZoneInfo("UTC"),
    ),
    "a huge fraction": (
        lambda: fractions.Fraction(3**400_000, 2),
        "save the pair (x.numerator, x.denominator)",
        lambda x: (x.numerator, x.denominator),
    ),
    "SystemRandom": (
        random.SystemRandom, "make a new one: random.SystemRandom()", lambda x: None),
    "an attribute of a Random": (lambda: marked(random.Random(3)), "delete it", unmarked),
    "entropy that changed": (
        lambda: changed(), "numpy.random.SeedSequence(x.entropy)",
        lambda x: np.random.SeedSequence(x.entropy)),
}  # fmt: skip


FOLLOWS = {
    "an attribute of a str": follows("types.subclasses", "delete it, or pass {}(x)"),
    "a str with a __del__": follows(
        "types.subclasses",
        "pass {}(x), or use ckptstore.register({}, flatten=..., unflatten=...)",
    ),
    "another time zone": follows(
        "adapters.stdlib_dates",
        "save x.astimezone(datetime.timezone.utc), and the name of the zone",
    ),
    "the zone of a time": follows(
        "adapters.stdlib_dates", "save x.replace(tzinfo=None), and the name of the zone"
    ),
    "a zone of a file": follows("adapters.stdlib_dates", "use zoneinfo.ZoneInfo(NAME)"),
    "a huge fraction": follows(
        "adapters.stdlib_numbers", "save the pair (x.numerator, x.denominator)"
    ),
    "SystemRandom": follows(
        "adapters.stdlib_random", "leave it out, and make a new one: random.SystemRandom()"
    ),
    "an attribute of a Random": follows("adapters.stdlib_random", "delete it"),
    "entropy that changed": follows(
        "adapters.numpy_random", "make a new one: numpy.random.SeedSequence(x.entropy)"
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=FOLLOWS.get(n, ())) for n in REFUSED])
def test_what_is_refused_names_the_way_on_which_works(name: str, tmp_path: pathlib.Path) -> None:
    make, words, mend = REFUSED[name]
    x = make()
    assert_refused(tmp_path, {"a": [x]}, "$['a'][0]", words)
    assert_exact(tmp_path, mend(x))


@follows(
    "types.subclasses", "if you trust the class, pass types=[{}]", "pass types={{}: YourClass}"
)
def test_a_class_that_cannot_be_found_is_refused_or_found_by_types(tmp_path: pathlib.Path) -> None:
    class Local(str):
        pass

    assert_refused(tmp_path, [Local("a")], "$[0]", "is local to a function")
    ckptstore.save(tmp_path / "c", [Name("a")])
    module = sys.modules[Name.__module__]
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(module, "Name")
        with pytest.raises(UnknownTypeError, match="pass types=") as caught:
            ckptstore.load(tmp_path / "c")
        assert caught.value.reason == "no-such-name"
        patch.setattr(module, "Name", Count, raising=False)
        with pytest.raises(UnknownTypeError, match="expected a subclass of str") as caught:
            ckptstore.load(tmp_path / "c")
        assert caught.value.reason == "wrong-kind"
        patch.setattr(module, "Name", WithDel)
        with pytest.raises(UnknownTypeError, match=r"if you trust the class, pass types=\[Name\]"):
            ckptstore.load(tmp_path / "c")
        stored = f"{Name.__module__}.Name"
        loaded = ckptstore.load(tmp_path / "c", types={stored: WithDel})
        assert type(loaded[0]) is WithDel
        assert type(ckptstore.load(tmp_path / "c", types={stored: Name})[0]) is Name


@follows("adapters.stdlib_dates", "pip install --upgrade tzdata")
def test_a_time_zone_that_is_not_here_names_the_package_that_brings_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next(pathlib.Path(p) for p in zoneinfo.TZPATH if (pathlib.Path(p) / "Asia").exists())
    zone = zoneinfo.ZoneInfo("Asia/Tokyo")
    ckptstore.save(tmp_path / "c", [zone])
    zoneinfo.reset_tzpath([])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        for name in [n for n in sys.modules if n.partition(".")[0] == "tzdata"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "tzdata", None)
        with pytest.raises(UnknownTypeError, match="pip install --upgrade tzdata"):
            ckptstore.load(tmp_path / "c")
        for folder in ("tzdata", "tzdata/zoneinfo", "tzdata/zoneinfo/Asia"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "__init__.py").touch()
        shutil.copy(source / "Asia/Tokyo", tmp_path / "tzdata/zoneinfo/Asia/Tokyo")
        monkeypatch.delitem(sys.modules, "tzdata")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        assert ckptstore.load(tmp_path / "c")[0].key == "Asia/Tokyo"
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()
        for name in [n for n in sys.modules if n.partition(".")[0] == "tzdata"]:
            sys.modules.pop(name)


# --- generators of random numbers ---------------------------------------------------------------


BITS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)


def used(x: Any) -> Any:
    """Draw an odd number of values, so that a half is left over."""
    if isinstance(x, np.random.Generator):
        x.integers(9, size=3, dtype=np.int32)
        x.spawn(2)
    elif isinstance(x, torch.Generator):
        torch.randn(3, generator=x)
    else:
        x.normal() if isinstance(x, np.random.RandomState) else x.gauss(0, 1)
    return x


GENERATORS: dict[str, Callable[[], Any]] = {
    **{f"{b.__name__} {e}": lambda b=b, e=e: used(np.random.Generator(b(e)))  # type: ignore[misc]
       for b in BITS for e in (5, [1, 2, 2**40])},
    "no seed": lambda: used(np.random.default_rng()),
    "an array as a seed": lambda: used(np.random.default_rng(np.array([3, 4]))),
    "a spawned one": lambda: used(np.random.default_rng(3).spawn(3)[2]),
    "a wide pool": lambda: used(np.random.default_rng(np.random.SeedSequence(3, pool_size=8))),
    "a key": lambda: np.random.Generator(np.random.Philox(key=4)),
    "a jumped one": lambda: np.random.Generator(np.random.PCG64(3).jumped()),
    "a RandomState": lambda: used(np.random.RandomState(3)),
    "a RandomState of no seed": lambda: used(np.random.RandomState()),
    "a RandomState of PCG64": lambda: used(np.random.RandomState(np.random.PCG64(3))),
    "the global RandomState": lambda: np.random.mtrand._rand,
    "a Random": lambda: used(random.Random(3)),
    "a Random of no seed": lambda: random.Random(),
    "a torch.Generator": lambda: used(torch.Generator().manual_seed(3)),
    "a torch.Generator of no seed": lambda: torch.Generator(),
}  # fmt: skip


def draws(x: Any) -> list[Any]:
    if isinstance(x, np.random.Generator):
        found = [*x.integers(9, size=3, dtype=np.int32), *x.normal(size=3), *x.random(5)]
        if x.bit_generator.seed_seq is not None:
            found += [child.random() for child in x.spawn(2)]
        return found
    if isinstance(x, np.random.RandomState):
        return [*x.normal(size=3), *x.randint(9, size=3), *x.random(700)]
    if isinstance(x, torch.Generator):
        return [x.initial_seed(), *torch.randn(700, generator=x).tolist()]
    return [x.gauss(0, 1), x.getrandbits(40), *(x.random() for _ in range(700))]


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_goes_on_as_the_saved_one(name: str, tmp_path: pathlib.Path) -> None:
    x = GENERATORS[name]()
    tree = {"rng": x, "below": [Holder(x)]}
    loaded = assert_exact(tmp_path, tree)
    again = ckptstore.load(tmp_path / "c0", like={"rng": GENERATORS[name](), "below": [Holder(x)]})
    assert loaded["rng"] is loaded["below"][0].value
    expected = draws(x)
    assert draws(loaded["rng"]) == draws(again["rng"]) == expected
    assert draws(ckptstore.load(tmp_path / "c0", arrays="numpy")["rng"]) == expected


def test_generators_on_one_bit_generator_stay_joined(tmp_path: pathlib.Path) -> None:
    bits = np.random.MT19937(3)
    tree = [np.random.Generator(bits), np.random.Generator(bits), np.random.RandomState(bits), bits]
    loaded = assert_exact(tmp_path, tree)
    assert loaded[0].bit_generator is loaded[1].bit_generator is loaded[3]
    for x in (tree, loaded):
        x[0].random()
    assert tree[1].random() == loaded[1].random()
    assert tree[2].normal() == loaded[2].normal()


def test_a_sequence_of_seeds_spawns_the_same_children(tmp_path: pathlib.Path) -> None:
    seeds = np.random.SeedSequence((1, 2), spawn_key=(3,))
    seeds.spawn(4)
    tree = {"seeds": seeds, "rng": np.random.default_rng(seeds), "entropy": seeds.entropy}
    loaded = assert_exact(tmp_path, tree)
    assert loaded["rng"].bit_generator.seed_seq is loaded["seeds"]
    mine, other = (x["seeds"].spawn(2)[1] for x in (tree, loaded))
    assert mine.spawn_key == other.spawn_key == (3, 5)
    assert (mine.generate_state(4) == other.generate_state(4)).all()


@follows(
    "adapters.numpy_random",
    "save x.state, and make it again: numpy.random.SeedSequence(**loaded)",
)
def test_seeds_out_of_bounds_are_refused(tmp_path: pathlib.Path) -> None:
    for seeds in (np.random.SeedSequence(2**3000), np.random.SeedSequence(1, pool_size=100)):
        words = "save x.state, and make it again: numpy.random.SeedSequence(**loaded)"
        assert_refused(tmp_path, [seeds], "$[0]", words)
        again = np.random.SeedSequence(**roundtrip(tmp_path, seeds.state))
        assert (again.pool == seeds.pool).all()


def _bent(record: Record, values: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError, RuntimeError, LookupError)):
        record.make(values)


def test_a_forged_state_never_reaches_numpy_or_torch() -> None:
    numpy = find_adapter("numpy")
    assert numpy is not None
    for cls in BITS:
        record = numpy.record(cls)
        assert record is not None
        seeds, state = record.take(cls(3))
        ways: list[Any] = [None, {}, {**state, "more": 1}, {**state, "state": 1}]
        for name, part in [*state.items(), *state["state"].items()]:
            for wrong in (-1, 2**128, True, None, [1], np.arange(3), np.array(1), object()):
                if name in state:
                    ways.append({**state, name: wrong})
                else:
                    ways.append({**state, "state": {**state["state"], name: wrong}})
            if type(part) is np.ndarray:
                ways.append({**state, name: part.astype(np.int64)})
        for name in ("buffer_pos", "pos"):
            ways += [{**state, name: 5}, {**state, "state": {**state["state"], name: 625}}]
        for way in ways:
            _bent(record, [seeds, way])
        for wrong in (3, object(), seeds.state, [seeds]):
            _bent(record, [wrong, state])
    for cls in (np.random.Generator, np.random.RandomState):
        record = numpy.record(cls)
        assert record is not None
        for wrong in (None, object(), np.random, lambda: 1):
            _bent(record, [wrong, 0, 0.0][: len(record.row.fields)])
    python = find_adapter("random")
    assert python is not None
    record = python.record(random.Random)
    assert record is not None
    words, position, gauss = record.take(random.Random(3))
    for values in (
        [words[:-1], position, gauss],
        [words, 625, gauss],
        [words, -1, gauss],
        [words.astype(np.int64), 3, None],
        [words, 3, "a"],
        [[*words], 3, None],
    ):
        _bent(record, values)
    generators = find_adapter("torch")
    assert generators is not None
    record = generators.record(torch.Generator)
    assert record is not None
    _, good = record.take(torch.Generator())
    for state in (good[:-1], good.float(), None, torch.zeros(0, dtype=torch.uint8), [1]):
        _bent(record, ["cpu", state])
    for device in ("meta", "no", "cuda:99", "cuda:x", "cpu:7", 3):
        _bent(record, [device, good])


@follows(
    "adapters.torch_generators",
    'load it where that device is. Here, name the other parts in select=["$..."]',
)
def test_a_generator_of_a_device_that_is_not_here_names_the_way_on(tmp_path: pathlib.Path) -> None:
    torch_adapter = find_adapter("torch")
    assert torch_adapter is not None
    record = torch_adapter.record(torch.Generator)
    assert record is not None
    state = torch.arange(16, dtype=torch.uint8)
    there = Record(record.row, lambda x: ("cuda:93", state), record.make, check=lambda values: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_adapter, "records", {torch.Generator: there})
        ckptstore.save(tmp_path / "c", {"rng": torch.Generator(), "w": torch.ones(2)})
    with pytest.raises(UnknownTypeError, match=r"cuda:93 is not here.*select=\[") as caught:
        ckptstore.load(tmp_path / "c")
    assert "PATH.state" in str(caught.value)
    assert ckptstore.load(tmp_path / "c", select=["$.w"]).keys() == {"$['w']"}
    assert torch.equal(ckptstore.load(tmp_path / "c", select="$.rng.state"), state)


def test_the_generator_of_a_class_of_yours_is_not_taken_for_its_base(
    tmp_path: pathlib.Path,
) -> None:
    class Mine(random.Random):
        pass

    class Own(np.random.Generator):
        pass

    x = used(Mine(3))
    assert_refused(tmp_path, [x], "$[0]", "save x.getstate(), and restore it by x.setstate(loaded)")
    again = Mine()
    again.setstate(roundtrip(tmp_path, x.getstate()))
    assert draws(again) == draws(x)
    assert_refused(tmp_path, [Own(np.random.PCG64(3))], "$[0]", "register")

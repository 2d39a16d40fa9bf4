"""Values of which each process has its own: `per_process=`; threads in the place of processes."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest

import ckptstore
from ckptstore import CheckpointError, Manager, PerProcess, Processes, StructureError
from ckptstore.distributed import waiting
from ckptstore.format import names
from tests.support import independent_reader
from tests.support.cluster import threads
from tests.support.compare import differences

OWN = ["$.rng", "$.data"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_MEMBER_PAUSES", (0.01, 0.1))
    monkeypatch.setattr(waiting, "_LEADER_PAUSES", (0.01, 0.1))


def state(index: int, step: int = 1) -> dict[str, Any]:
    """A tree whose own values differ in everything: types, shapes, and the order of entries."""
    bits = [np.random.PCG64, np.random.MT19937, np.random.Philox][index % 3]
    seen = np.arange(index + 2)
    tree = {
        "w": np.arange(600_000, dtype=np.float32),
        "opt": optax.adamw(1e-3).init({"b": np.ones(3, np.float32)}),
        "rng": {"numpy": np.random.Generator(bits(index)), "python": random.Random(index)},
        "data": [
            seen,
            "x" * (3000 * index),
            {index: seen},
            np.dtype("f4"),
            np.full(200_000, index),
        ],
        "long": "y" * 5000,
        "step": step,
    }
    return dict(reversed(tree.items())) if index % 2 else tree


def save(place: Path, p: Processes, **options: Any) -> str:
    tree = state(p.index)
    return ckptstore.save(place, tree, processes=p, per_process=OWN, **options).attempt


def assert_same(x: Any, y: Any) -> None:
    """Raise if a value is not as it was; the order of the entries of its dict may differ."""
    pairs = [(x[name], y[name]) for name in x] if type(x) is type(y) is dict else [(x, y)]
    assert [differences(*pair) for pair in pairs] == [[]] * len(pairs)


def reasons(results: Sequence[Any]) -> list[str]:
    return [str(getattr(result, "reason", "ok")) for result in results]


@pytest.mark.parametrize("engine", [False, pytest.param(True, marks=pytest.mark.ci)])
def test_each_process_gets_its_own_value_back(tmp_path: Path, engine: bool) -> None:
    place = tmp_path / "c"
    assert len(set(threads(3, functools.partial(save, place), engine=engine))) == 1

    def load(p: Processes) -> None:
        mine = state(p.index)
        loaded = ckptstore.load(place, processes=p)
        assert list(loaded) == list(state(0))  # the order of process 0
        assert loaded["data"][0] is loaded["data"][2][p.index]
        for tree in (loaded, ckptstore.load(place, mine, processes=p)):
            for name, value in mine.items():
                assert_same(value, tree[name])
        part = ckptstore.load(place, select="$.data[4]", processes=p)
        np.testing.assert_array_equal(part, mine["data"][4])
        part = ckptstore.load(place, mine, select="$.rng", processes=p)
        assert_same(mine["rng"], part["rng"])

    assert threads(3, load, engine=engine) == [None] * 3
    assert ckptstore.verify(place) == []


@pytest.mark.ci
def test_a_reader_of_version_1_0_reads_it_and_each_process_wrote_its_own_arrays(
    tmp_path: Path,
) -> None:
    place = tmp_path / "c"
    threads(3, functools.partial(save, place))
    data = (place / "MANIFEST").read_bytes()
    assert data[12:14] == b"\x01\x00" and b"required\x90" in data
    independent_reader.read(str(place))
    for path in place.glob("data-*"):
        found = [n for n in (1, 2) if np.full(1000, n).tobytes() in path.read_bytes()]
        assert found in ([], [names.process_of(path.name)])
    paths = [leaf.path for leaf in ckptstore.inspect(place).leaves]
    assert {f"$['data'].values[{n}][4]" for n in range(3)} <= set(paths)


def test_one_process_alone_sees_the_values_of_all(tmp_path: Path) -> None:
    place = tmp_path / "c"
    threads(3, functools.partial(save, place))
    for arrays in (None, "numpy"):
        loaded = ckptstore.load(place, arrays=arrays)["data"]
        assert type(loaded) is PerProcess and len(loaded.values) == 3
        np.testing.assert_array_equal(loaded.values[2][0], np.arange(4))
    assert ckptstore.load(place, select="$.data.values[1][1]") == "x" * 3000
    # It can be saved again as it is.
    ckptstore.save(tmp_path / "again", ckptstore.load(place))
    again = threads(3, lambda p: ckptstore.load(tmp_path / "again", processes=p)["data"][1])
    assert again == ["x" * (3000 * index) for index in range(3)]
    ckptstore.save(tmp_path / "own", {"seed": PerProcess((7, 8))})
    own = threads(2, lambda p: ckptstore.load(tmp_path / "own", processes=p))
    assert own == [{"seed": 7}, {"seed": 8}]


@pytest.mark.follows(
    "loading.choice",
    "pass per_process=f, whose f(path, values) returns the value of this process, or load the rest "
    "by select={}",
)
@pytest.mark.parametrize("count", [1, 2, pytest.param(5, marks=pytest.mark.ci)])
def test_another_number_of_processes_is_refused_until_a_function_chooses(
    tmp_path: Path, count: int
) -> None:
    place = tmp_path / "c"
    threads(3, functools.partial(save, place))

    def load(p: Processes) -> Any:
        mine = state(p.index)
        with pytest.raises(StructureError, match=r"\$\['rng'\] holds a value of each of 3") as e:
            ckptstore.load(place, mine, processes=p)
        assert e.value.reason == "per-process"
        with pytest.raises(StructureError, match=r"\$\['data'\] holds a value"):
            ckptstore.load(place, mine, select=["$.step", "$.data"], processes=p)
        assert ckptstore.load(place, mine, select="$.step", processes=p)["step"] == 1
        assert ckptstore.load(place, select="$.step", processes=p) == 1
        asked = []

        def choose(path: str, values: tuple[Any, ...]) -> Any:
            asked.append((path, len(values)))
            return values[p.index % len(values)]

        for like in (None, mine):
            loaded = ckptstore.load(place, like, processes=p, per_process=choose)
            for name, value in state(p.index % 3).items():
                assert_same(value, loaded[name])
        assert sorted(set(asked)) == [("$['data']", 3), ("$['rng']", 3)]
        asked.clear()
        ckptstore.load(place, select="$.step", processes=p, per_process=choose)
        assert asked == []
        loaded = ckptstore.load(place, select="$.rng", processes=p, per_process=choose)
        assert_same(state(p.index % 3)["rng"], loaded)

    assert threads(count, load) == [None] * count


def test_a_function_that_chooses_is_one(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"rng": 1}, per_process=["$.rng"])
    with pytest.raises(StructureError, match=r"per_process is 0 .* expected a function"):
        ckptstore.load(tmp_path / "c", per_process=0)  # type: ignore[arg-type]


@pytest.mark.follows(
    "loading.choice", ', or load what this process has saved alone with processes="one"'
)
def test_one_process_that_saves_alone_restores_the_same(tmp_path: Path) -> None:
    place = tmp_path / "c"
    for index in range(3):
        ckptstore.save(place, state(index), per_process=OWN, overwrite=True)
        for loaded in (ckptstore.load(place), ckptstore.load(place, state(index))):
            assert_same(state(index), loaded)
    ckptstore.save_async(place, state(1), per_process=OWN, overwrite=True).result()
    assert ckptstore.verify(place) == []
    assert type(ckptstore.load(place, arrays="numpy")["rng"]) is PerProcess
    # Two processes would have the same value: they are told.
    results = threads(2, lambda p: ckptstore.load(place, processes=p))
    assert reasons(results) == ["per-process"] * 2
    loaded = threads(2, lambda p: ckptstore.load(place, processes="one")["data"][1])
    assert loaded == ["x" * 3000] * 2


@pytest.mark.parametrize(
    "patterns",
    [
        ["$"],
        *(
            pytest.param(some, marks=pytest.mark.ci)
            for some in (["$.opt", "$.w"], ["$.data", "$.data[4]"], ["$.*"])
        ),
    ],
)
def test_any_place_may_differ(tmp_path: Path, patterns: list[str]) -> None:
    trees = [state(index) for index in range(2)]
    if patterns != ["$"]:  # elsewhere the trees are equal
        trees = [trees[0] | {"data": trees[index]["data"]} for index in range(2)]
        patterns = [*patterns, "$.data"]

    def call(p: Processes) -> Any:
        ckptstore.save(tmp_path / "c", trees[p.index], processes=p, per_process=patterns)
        return ckptstore.load(tmp_path / "c", processes=p)

    for tree, loaded in zip(trees, threads(2, call), strict=True):
        assert_same(tree["data"], loaded["data"])
        assert_same(tree["opt"], loaded["opt"])
    assert ckptstore.verify(tmp_path / "c") == []


def test_processes_that_name_other_places_are_told(tmp_path: Path) -> None:
    def call(p: Processes) -> Any:
        own = ["$.a"] if p.index else ["$.a", "$.b"]
        return ckptstore.save(tmp_path / "c", {"a": 1, "b": 2}, processes=p, per_process=own)

    results = threads(2, call)
    assert reasons(results) == ["trees-differ"] * 2
    assert "$['b']: 2 in process 1, a value of each process in process 0" in str(results[0])


def _shared() -> dict[str, Any]:
    x = np.arange(3)
    return {"a": {"x": x}, "b": [x]}


REFUSED: dict[str, tuple[Callable[[], Any], list[str], list[str], str]] = {
    "no such place": (lambda: {"a": 1}, ["$.b"], ["$.a"], "name a place that is there"),
    "a part of an object": (
        lambda: {"a": np.random.default_rng(0)},
        ["$.a.bit_generator"],
        ["$.a"],
        "name that",
    ),
    "a shared object": (
        _shared,
        ["$.a"],
        ["$"],
        "name one place that holds both, or copy it",
    ),
    "one that holds one": (
        lambda: {"a": PerProcess((1, 2))},
        ["$.a"],
        ["$.a.values[1]"],
        "save one of its values",
    ),
}


@pytest.mark.follows(
    "tree.own_values",
    "name a place that is there",
    "name that",
    "name one place that holds both, or copy it",
    "save one of its values",
    some=True,
)
@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_cannot_be_one_of_a_process_is_refused(tmp_path: Path, name: str) -> None:
    make, bad, good, remedy = REFUSED[name]
    with pytest.raises(StructureError, match="per_process: ") as caught:
        ckptstore.save(tmp_path / "c", make(), per_process=bad)
    assert caught.value.reason == "bad-pattern" and remedy in str(caught.value)
    assert not (tmp_path / "c").exists()
    tree = make()
    if name == "one that holds one":
        tree, good = {"a": tree["a"].values[1]}, ["$.a"]
    ckptstore.save(tmp_path / "c", tree, per_process=good)
    assert_same(tree, ckptstore.load(tmp_path / "c"))
    with pytest.raises(StructureError, match=r"per_process is .* expected a list of patterns"):
        ckptstore.save(tmp_path / "d", tree, per_process="$.a")


@pytest.mark.parametrize("argument", ["per_process", "supplied"])
def test_a_bad_pattern_is_told_by_the_name_of_its_argument(tmp_path: Path, argument: str) -> None:
    for bad in (5, "$.[["):
        options: Any = {argument: [bad]}
        with pytest.raises(StructureError, match=f"^{argument}: ") as caught:
            ckptstore.save(tmp_path / "c", {"a": 1}, **options)
        assert caught.value.reason == "bad-pattern"


def test_in_step_refuses_a_text_in_the_place_of_a_list_also_in_one_process() -> None:
    with pytest.raises(StructureError, match=r"^in_step: per_process is '\$\.a'") as caught:
        ckptstore.in_step({"a": 1}, per_process="$.a")
    assert caught.value.reason == "bad-pattern"


@pytest.mark.parametrize("pattern", [r"$['it\'s']", '$["it\'s"]', r"$['\x69t\'s']", "$.*"])
def test_a_key_with_a_quote_is_named_in_each_form(tmp_path: Path, pattern: str) -> None:
    ckptstore.save(tmp_path / "c", {"it's": 1}, per_process=[pattern])
    assert ckptstore.load(tmp_path / "c", arrays="numpy") == {"it's": PerProcess((1,))}
    assert ckptstore.load(tmp_path / "c", select=[pattern]) == {'$["it\'s"]': 1}


def test_a_record_that_shares_its_parts_is_an_object_like_any_other(tmp_path: Path) -> None:
    x = np.arange(3)
    ckptstore.save(tmp_path / "c", {"a": PerProcess(([x],)), "b": x})
    loaded = ckptstore.load(tmp_path / "c")
    assert loaded["a"].values[0][0] is loaded["b"]
    ckptstore.save(tmp_path / "d", {"a": PerProcess((7,)), "b": PerProcess(5)})  # type: ignore[arg-type]
    assert ckptstore.load(tmp_path / "d") == {"a": 7, "b": PerProcess(5)}  # type: ignore[arg-type]


@pytest.mark.ci
def test_a_run_keeps_the_values_of_each_process(tmp_path: Path) -> None:
    def train(p: Processes) -> Any:
        manager = Manager(tmp_path, processes=p, keep_full_every=1)  # steps share no file
        for step in (1, 2):
            manager.save(step, state(p.index, step), per_process=OWN)
        if p.index == 0:
            pending = manager.save_async(3, state(p.index, 3), per_process=OWN)
            assert pending is not None
            pending.result()
        else:  # a process has one save in the background, and the threads are one
            manager.save(3, state(p.index, 3), per_process=OWN)
        loaded = manager.load(like=state(p.index))
        assert_same(state(p.index, 3), loaded)
        ckptstore.in_step(loaded, processes=p, per_process=OWN)
        assert p.allgather is not None
        p.allgather(b"done")
        if p.index == 1:  # only the value of process 1 is damaged
            (file,) = (tmp_path / "step-000000000003").glob("data-*-1-*.bin")
            data = bytearray(file.read_bytes())
            at = data.index(np.full(1000, 1).tobytes())
            data[at] ^= 2
            file.write_bytes(data)
        p.allgather(b"damaged")
        return manager.load(fallback=True)["data"][1], manager.loaded_step

    assert _values(threads(2, train)) == [("", 2), ("x" * 3000, 2)]

    def other_count(p: Processes) -> Any:
        manager = Manager(tmp_path, processes=p)
        reason = ""
        try:
            manager.load_or_init(lambda: state(p.index), fallback=True)
        except CheckpointError as error:
            reason = error.reason
        chosen = manager.load(2, per_process=lambda path, values: len(values))
        return reason, chosen["rng"]

    assert threads(3, other_count) == [("per-process", 2)] * 3


def _values(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results

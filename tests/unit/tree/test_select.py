"""Patterns over objects that stand in several places: each place is found, or the call says why."""

from __future__ import annotations

import fnmatch
import itertools
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import ckptstore
from ckptstore import convert
from ckptstore.tree import flatten, paths
from tests.support.compare import differences

SETTINGS = hypothesis.settings(
    deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)


class Pair(NamedTuple):
    left: Any
    right: Any


def net(value: float = 0.0) -> dict[str, Any]:
    return {"layer": {"kernel": np.full(2, value), "bias": np.full(1, value)}, "n": 3}


def shared() -> dict[str, Any]:
    params = net(1.0)
    return {"params": params, "target": params, "step": 7}


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "ckpt"


KERNELS = ["$['params']['layer']['kernel']", "$['target']['layer']['kernel']"]


@pytest.mark.parametrize(
    "pattern",
    ["$.**.kernel", "$.*.**.kernel", "$.**.layer.kernel", "$.*.layer.kernel", "$.*.*.kernel",
     "$.**.layer.**.kernel", "$.**.**.kernel"],
)  # fmt: skip
def test_both_places_of_a_shared_container_are_selected(place: pathlib.Path, pattern: str) -> None:
    ckptstore.save(place, shared())
    found = ckptstore.load(place, select=pattern)
    assert list(found) == KERNELS
    assert found[KERNELS[0]] is found[KERNELS[1]] and found[KERNELS[0]].tolist() == [1, 1]


def test_every_place_is_selected_in_lists_records_and_below_shared_leaves(
    place: pathlib.Path,
) -> None:
    leaf = np.ones(1)
    inner = [leaf, Pair(leaf, 2)]
    ckptstore.save(place, {"a": inner, "b": Pair(inner, [inner]), "c": leaf})
    found = ckptstore.load(place, select="$.**.left")
    assert sorted(found) == [
        "$['a'][1].left", "$['b'].left", "$['b'].left[1].left", "$['b'].right[0][1].left",
    ]  # fmt: skip
    assert found["$['b'].left"][0] is found["$['a'][1].left"]


@pytest.mark.parametrize("mode", ["both shared", "checkpoint shared", "neither"])
def test_like_is_filled_in_both_places(place: pathlib.Path, mode: str) -> None:
    tree = shared() if mode != "neither" else {"params": net(1.0), "target": net(2.0), "step": 7}
    ckptstore.save(place, tree)
    like = shared() if mode == "both shared" else {"params": net(), "target": net(), "step": 0}
    like["step"] = 0
    out = ckptstore.load(place, like, select="$.**.kernel")
    for name, value in (("params", 1), ("target", 2 if mode == "neither" else 1)):
        assert out[name]["layer"]["kernel"].tolist() == [value] * 2
        assert out[name]["layer"]["bias"] is like[name]["layer"]["bias"]
    assert out["step"] == 0 and (out["params"] is out["target"]) == (mode == "both shared")


def test_one_object_in_like_for_two_in_the_checkpoint_is_said_to_be_that(
    place: pathlib.Path,
) -> None:
    ckptstore.save(place, {"params": net(1.0), "target": net(2.0)})
    params = net()
    with pytest.raises(ckptstore.StructureError, match="in `like` the same object as") as caught:
        ckptstore.load(place, {"params": params, "target": params}, select="$.**.kernel")
    assert "not in the checkpoint" not in str(caught.value)


def test_a_tie_of_like_is_filled_below_a_container_that_nothing_selects(
    place: pathlib.Path,
) -> None:
    one, other = {"k": 1, "n": 1}, {"k": 0, "n": 0}
    ckptstore.save(place, {"a": one, "b": [one]})
    like = {"a": other, "b": [other]}
    out = ckptstore.load(place, like, select="$.a.k")
    assert out == {"a": {"k": 1, "n": 0}, "b": [{"k": 1, "n": 0}]} and out["b"][0] is out["a"]
    assert like == {"a": {"k": 0, "n": 0}, "b": [{"k": 0, "n": 0}]}


def test_an_object_that_is_selected_as_a_whole_and_in_part_is_refused_and_the_remedies_work(
    place: pathlib.Path,
) -> None:
    one, other = {"k": 1, "n": 1}, {"k": 0, "n": 0}
    ckptstore.save(place, {"a": one, "b": one})
    like = {"a": other, "b": other}
    with pytest.raises(ckptstore.StructureError, match=r"\$\['a'\].*also at \$\['b'\]") as caught:
        ckptstore.load(place, like, select=["$.a", "$.b.k"])
    assert caught.value.reason == "ambiguous"
    two = {"a": dict(other), "b": dict(other)}
    out = ckptstore.load(place, two, select=["$.a", "$.b.k"])
    assert out == {"a": one, "b": {"k": 1, "n": 0}}
    assert ckptstore.load(place, like, select=["$.a", "$.b"]) == {"a": one, "b": one}
    assert ckptstore.load(place, like, select="$.b.k")["a"] == {"k": 1, "n": 0}


def test_a_selected_place_may_need_a_later_one_that_is_selected_too(place: pathlib.Path) -> None:
    part = [3]
    ckptstore.save(place, {"k": part, "w": {"k": part, "w": part}})
    out = ckptstore.load(place, like={"k": [0], "w": {"k": [0], "w": [0]}}, select="$.**.w")
    assert out == {"k": [0], "w": {"k": [3], "w": [3]}}
    middle = [part]
    ckptstore.save(place, {"a": part, "m": middle, "z": [middle]}, overwrite=True)
    found = ckptstore.load(place, select=["$.z", "$.a"])
    assert found["$['z']"][0][0] is found["$['a']"]


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize("saved", [False, True])
def test_an_export_reports_the_second_place(
    place: pathlib.Path, tmp_path: pathlib.Path, form: str, saved: bool
) -> None:
    ckptstore.save(place, shared())
    write = getattr(convert, f"to_{form}")
    report = write(tmp_path / f"x.{form}", place if saved else shared(), select="$.**.kernel")
    assert list(report.names.values()) == KERNELS[:1]
    assert [loss.path for loss in report.losses if loss.kind == "tied"] == KERNELS[1:]


def test_supplied_names_an_object_in_whatever_places_it_stands(place: pathlib.Path) -> None:
    part = {"n": 1, "f": lambda: 1}
    tree = {"a": part, "b": [part], "c": 1}
    ckptstore.save(place, tree, supplied=["$.**.f"])
    out = ckptstore.load(place, like=tree)
    assert out["a"]["f"] is part["f"] and out["b"][0] is out["a"]


def chain(depth: int, at_the_end: Any) -> Any:
    for _ in range(depth):
        at_the_end = [at_the_end, at_the_end]
    return at_the_end


MANY = [
    "$.**", "$.**.kernel", "$.**.*", "$.**.*.kernel", "$" + ".*" * 60 + ".kernel",
    "$.**.**.kernel", "$.**[0].**.kernel",
]  # fmt: skip


@pytest.mark.parametrize("pattern", MANY)
@pytest.mark.parametrize("others", [[], ["$[0]"]], ids=["alone", "with another"])
@pytest.mark.timeout(60)
def test_more_places_than_a_file_can_name_are_refused(
    place: pathlib.Path, pattern: str, others: list[str]
) -> None:
    tree = chain(60, {"kernel": np.ones(1)})
    ckptstore.save(place, tree)
    for call in (
        lambda select: ckptstore.load(place, select=select),
        lambda select: ckptstore.load(place, like=tree, select=select),
        lambda select: convert.to_npz(f"{place}.npz", tree, select=select),
        lambda select: convert.to_npz(f"{place}.npz", place, select=select),
    ):
        with pytest.raises(ckptstore.StructureError, match="select one of these") as caught:
            call([pattern, *others])
        assert caught.value.reason == "too-many-places"
    assert len(ckptstore.load(place, select="$[0]")) == 2, "the remedy: a container"
    deep = "$" + "[1]" * 60 + ".kernel"
    assert ckptstore.load(place, select=deep).tolist() == [1], "the remedy: no stars"


@pytest.mark.timeout(60)
def test_what_stands_beside_a_chain_is_found_with_stars(place: pathlib.Path) -> None:
    ckptstore.save(place, {"chain": chain(60, {"w": np.ones(1)}), "net": {"kernel": 5}})
    assert ckptstore.load(place, select="$.**.kernel") == {"$['net']['kernel']": 5}
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(place, select="$.**.kernels")
    assert caught.value.reason == "no-match" and "$['net']" in str(caught.value)


@pytest.mark.timeout(60)
def test_a_wide_container_in_many_places_is_looked_at_once(
    place: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = dict.fromkeys(map(str, range(500)), 0) | {"kernel": 1}
    ckptstore.save(place, [wide] * 500)
    real, calls = paths.step, itertools.count()

    def step(*args: Any) -> str:
        next(calls)
        return real(*args)

    monkeypatch.setattr(paths, "step", step)
    found = ckptstore.load(place, select="$.**.kernel")
    assert found == {f"$[{i}]['kernel']": 1 for i in range(500)}
    assert next(calls) < 10_000


@pytest.mark.timeout(60)
def test_supplied_looks_at_each_object_once(place: pathlib.Path) -> None:
    tree = chain(60, {"f": lambda: 1})
    ckptstore.save(place, tree, supplied=["$.**.f"])
    assert ckptstore.load(place, like=tree)[0][1] is not None


# Any tree of objects that stand in several places, against a walk over all of its places.


@st.composite
def graphs(draw: st.DrawFn) -> Any:
    """A tree of dicts, lists and records whose parts stand in several places."""
    pool: list[Any] = [np.arange(2.0) + 1, np.arange(2.0) + 5, 3]
    for _ in range(draw(st.integers(1, 6))):
        parts = draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=3))
        children = [pool[-1 - part] for part in parts]
        kind = draw(st.sampled_from("dlp"))
        if kind == "d":
            names = draw(st.permutations("kwx"))
            pool.append(dict(zip(names, children, strict=False)))
        elif kind == "p":
            pool.append(Pair(children[0], children[-1]))
        else:
            pool.append(list(children))
    return pool[-1]


def places(tree: Any, path: str = "$", holder: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """Give (path, object, the container and step that hold it) of every place."""
    yield path, tree, holder
    if isinstance(tree, dict):
        rows = [(f"[{key!r}]", value) for key, value in tree.items()]
    elif isinstance(tree, Pair):
        rows = [(f".{name}", getattr(tree, name)) for name in tree._fields]
    elif isinstance(tree, list):
        rows = [(f"[{i}]", value) for i, value in enumerate(tree)]
    else:
        rows = []
    for text, value in rows:
        yield from places(value, path + text, (id(tree), text))


STEPS = st.sampled_from(["k", "w", "left", "0", "1", "*", "**"])
PATTERNS = st.lists(STEPS, min_size=1, max_size=4)


def pattern_of(steps: list[str]) -> str:
    return "$" + "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in steps)


def matches(steps: list[str], path: str) -> bool:
    """Tell whether a pattern matches a path, by way of `fnmatch` on its steps as letters."""
    letters = {"k": "k", "w": "w", "x": "x", "left": "l", "right": "r"}
    found = re.findall(r"\['?(\w+)'?\]|\.(\w+)", path)
    text = "".join(letters.get(a or b, a or b) for a, b in found)
    glob = "".join({"*": "?", "**": "*"}.get(s, letters.get(s, s)) for s in steps)
    return fnmatch.fnmatchcase(text, glob)


@hypothesis.settings(SETTINGS, max_examples=400)
@hypothesis.given(graphs(), st.lists(PATTERNS, min_size=1, max_size=2))
def test_any_patterns_find_every_place_and_no_other(tree: Any, wanted: list[list[str]]) -> None:
    table = flatten(tree)
    texts = [pattern_of(steps) for steps in wanted]
    nodes = paths.matching_nodes(table, texts)
    for steps, found, each in zip(wanted, paths.matches(table, texts), nodes, strict=True):
        expected = [(path, x) for path, x, _ in places(tree) if matches(steps, path)]
        assert [path for path, _ in found] == [path for path, _ in expected]
        assert all(
            table.objects[node] is x for (_, node), (_, x) in zip(found, expected, strict=True)
        )
        assert len(each) == len(set(each))
        assert {table.target(n) for n in each} == {table.target(n) for _, n in found}


@hypothesis.settings(SETTINGS, max_examples=80)
@hypothesis.given(graphs(), PATTERNS)
def test_any_pattern_loads_the_objects_of_its_places(tree: Any, steps: list[str]) -> None:
    expected = {path: x for path, x, _ in places(tree) if matches(steps, path)}
    with tempfile.TemporaryDirectory() as folder:
        ckptstore.save(f"{folder}/c", tree)
        if not expected:
            with pytest.raises(ckptstore.StructureError) as caught:
                ckptstore.load(f"{folder}/c", select=[pattern_of(steps)])
            assert caught.value.reason == "no-match"
            return
        found = ckptstore.load(f"{folder}/c", select=[pattern_of(steps)])
    assert set(found) == set(expected)
    for one, other in itertools.combinations(expected, 2):
        if not isinstance(expected[one], int):
            assert (expected[one] is expected[other]) == (found[one] is found[other])
    for path, x in expected.items():
        assert differences(x, found[path]) == []


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two trees of the same places, whose parts are shared each in its own way."""
    tree, memo = draw(graphs()), dict[str, list[Any]]()

    def again(x: Any) -> Any:
        known = memo.setdefault(repr(x), [])
        if known and draw(st.booleans()):
            return draw(st.sampled_from(known))
        if isinstance(x, dict):
            made: Any = {key: again(value) for key, value in x.items()}
        elif isinstance(x, Pair):
            made = Pair(*map(again, x))
        elif isinstance(x, list):
            made = [again(value) for value in x]
        else:
            made = -x
        known.append(made)
        return made

    return tree, again(tree)


def selected_of(tree: Any, steps: list[str]) -> list[tuple[str, Any, Any]]:
    return [row for row in places(tree) if matches(steps, row[0])]


def is_torn(like: Any, chosen: set[Any]) -> bool:
    """Tell whether an object is chosen where it first stands, in part, and not in all places."""
    rows = list(places(like))
    for path, x, first in rows:
        if isinstance(x, int | np.ndarray) or first not in chosen:
            continue
        holders = [holder for _, other, holder in rows if other is x]
        in_part = any(p.startswith(path) and p != path and h in chosen for p, _, h in rows)
        if holders[0] == first and in_part and not chosen.issuperset(holders):
            return True
    return False


@hypothesis.settings(SETTINGS, max_examples=300)
@hypothesis.given(pairs(), st.sampled_from(["k", "w", "left", "0"]))
def test_any_like_is_filled_in_every_place_that_a_pattern_names(
    trees: tuple[Any, Any], name: str
) -> None:
    """Such a pattern names a part of an object in all places of the object."""
    tree, like = trees
    steps = ["**", name]
    own = {path: (x, holder) for path, x, holder in places(like)}
    chosen, clash = dict[Any, Any](), False
    selected = selected_of(tree, steps)
    for path, x, holder in selected:
        here = own[path][1]  # one node of `like`: the same step of the same container
        there = holder if isinstance(x, int) else id(x)
        clash |= chosen.setdefault(here, there) != there
    torn = not clash and is_torn(like, {holder for _, _, holder in selected_of(like, steps)})
    with tempfile.TemporaryDirectory() as folder:
        ckptstore.save(f"{folder}/c", tree)
        try:
            out = ckptstore.load(f"{folder}/c", like, select=pattern_of(steps))
        except ckptstore.StructureError as error:
            expected = "differs-from-like" if clash else "ambiguous" if torn else "no-match"
            assert error.reason == expected and (clash or torn or not selected), error
            return
    assert not clash and not torn and selected
    filled = {path: x for path, x, _ in places(out)}
    saved = {path: x for path, x, _ in places(tree)}
    for path, x in filled.items():
        if isinstance(x, np.ndarray | int):
            chosen_here = any(path.startswith(p) for p, _, _ in selected)
            source = saved[path] if chosen_here else own[path][0]
            assert np.array_equal(x, source), path

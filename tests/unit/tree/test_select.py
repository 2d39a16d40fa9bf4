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
from tests.support.draws import examples


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


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("$.target.w", {"params": "77", "target": "37"}),
        ("$.params.w", {"params": "17", "target": "77"}),
        (["$.params.w", "$.target.b"], {"params": "17", "target": "74"}),
        ("$.**.w", {"params": "17", "target": "37"}),
        ("$.*.*", {"params": "12", "target": "34"}),
        (["$.target", "$.params.b"], {"params": "72", "target": "34"}),
        (["$.params", "$.target.w"], {"params": "12", "target": "37"}),
    ],
)
@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("record", [False, True])
def test_each_place_of_a_container_that_like_shares_gets_its_own_values(
    place: pathlib.Path, select: Any, expected: dict[str, str], depth: int, record: bool
) -> None:
    def part(values: str) -> Any:
        w, b = (np.full(1, float(value)) for value in values)
        made: Any = Pair(w, b) if record else {"w": w, "b": b}
        for _ in range(depth):
            made = [made]
        return made

    def named(pattern: str) -> str:
        pattern = re.sub(r"(params|target)[.]", r"\1" + "[0]" * depth + ".", pattern)
        if "*.*" in pattern:
            pattern = "$.*" + "[0]" * depth + ".*"
        if record:
            pattern = re.sub(r"[.]w$", ".left", re.sub(r"[.]b$", ".right", pattern))
        return pattern

    ckptstore.save(place, {"params": part("12"), "target": part("34")})
    shared = part("77")
    like = {"params": shared, "target": shared}
    patterns = [named(select)] if isinstance(select, str) else list(map(named, select))
    out = ckptstore.load(place, like, select=patterns)
    for name, values in expected.items():
        assert differences(part(values), out[name]) == []
        assert (out[name] is shared) == (values == "77"), "nothing there is selected"
    assert differences(part("77"), shared) == []


def test_a_place_that_the_checkpoint_lacks_stays_as_it_is_in_like(place: pathlib.Path) -> None:
    ckptstore.save(place, {"target": {"w": 3}, "old": [1]})
    part = {"w": 7, "b": 7}
    out = ckptstore.load(place, {"params": part, "target": part, "old": part}, select="$.target.w")
    assert out == {"params": part, "target": {"w": 3, "b": 7}, "old": part}
    assert out["params"] is part and out["old"] is part


def test_a_tie_of_like_is_filled_below_a_container_that_nothing_selects(
    place: pathlib.Path,
) -> None:
    one, other = {"k": 1, "n": 1}, {"k": 0, "n": 0}
    ckptstore.save(place, {"a": one, "b": [one]})
    like = {"a": other, "b": [other]}
    out = ckptstore.load(place, like, select="$.a.k")
    assert out == {"a": {"k": 1, "n": 0}, "b": [{"k": 1, "n": 0}]} and out["b"][0] is out["a"]
    assert like == {"a": {"k": 0, "n": 0}, "b": [{"k": 0, "n": 0}]}


def test_an_object_may_be_selected_as_a_whole_in_one_place_and_in_part_in_another(
    place: pathlib.Path,
) -> None:
    one, other = {"k": 1, "n": 1}, {"k": 0, "n": 0}
    ckptstore.save(place, {"a": one, "b": one})
    like = {"a": other, "b": other}
    for whole, part in ("ab", "ba"):
        out = ckptstore.load(place, like, select=[f"$.{whole}", f"$.{part}.k"])
        assert out == {whole: one, part: {"k": 1, "n": 0}}
    assert ckptstore.load(place, like, select=["$.a", "$.b"]) == {"a": one, "b": one}
    assert ckptstore.load(place, like, select="$.b.k")["a"] == {"k": 1, "n": 0}
    assert ckptstore.load(place, like, select="$.b")["a"] is other


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


@examples(400)
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


@examples(80)
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
    outline, count = draw(graphs()), itertools.count(1)

    def again(x: Any, memo: dict[str, list[Any]]) -> Any:
        known = memo.setdefault(repr(x), [])
        if known and draw(st.booleans()):
            return draw(st.sampled_from(known))
        if isinstance(x, dict):
            made: Any = {key: again(value, memo) for key, value in x.items()}
        elif isinstance(x, Pair):
            made = Pair(*(again(value, memo) for value in x))
        elif isinstance(x, list):
            made = [again(value, memo) for value in x]
        else:
            made = next(count) if isinstance(x, int) else np.full(2, float(next(count)))
        known.append(made)
        return made

    return again(outline, {}), again(outline, {})


@examples(400)
@hypothesis.given(pairs(), st.lists(PATTERNS, min_size=1, max_size=2))
def test_any_like_is_filled_in_every_place_that_patterns_name_and_in_no_other(
    trees: tuple[Any, Any], wanted: list[list[str]]
) -> None:
    """A container is filled in all places in which both trees have one object."""
    tree, like = trees
    saved, own = ({path: (x, holder) for path, x, holder in places(t)} for t in trees)
    edges = {path: (saved[path][1], own[path][1]) for path in own}
    chosen = {
        edges[path] for path in own if path != "$" and any(matches(steps, path) for steps in wanted)
    }
    texts = list(map(pattern_of, wanted))
    found = all(any(matches(steps, path) for path in own) for steps in wanted)
    with tempfile.TemporaryDirectory() as folder:
        ckptstore.save(f"{folder}/c", tree)
        if not found:
            with pytest.raises(ckptstore.StructureError) as caught:
                ckptstore.load(f"{folder}/c", like, select=texts)
            assert caught.value.reason == "no-match"
            return
        out = ckptstore.load(f"{folder}/c", like, select=texts)
    whole = any(matches(steps, "$") for steps in wanted)
    filled = {path: x for path, x, _ in places(out)}
    assert list(filled) == list(own)
    for path, x in filled.items():
        above = [p for p in own if path.startswith(p)]
        is_chosen = whole or any(edges[p] in chosen for p in above)
        if isinstance(x, np.ndarray | int):
            assert np.array_equal(x, saved[path][0] if is_chosen else own[path][0]), path
        elif not is_chosen and not any(edges[p] in chosen for p in own if p.startswith(path)):
            assert x is own[path][0], "nothing in it is selected"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("params.layer.n", []),
        ("params.n", 3),
        ("layers.0", "first"),
        ("layers.1.w", 2),
        ("['a b'].0", "text"),
        ("numbers.7", "int"),
        ("$.layers[1].w", 2),
    ],
)
def test_a_short_pattern_needs_no_dollar_and_no_brackets(
    pattern: str, found: Any, place: pathlib.Path
) -> None:
    tree = {
        "params": net(),
        "layers": ["first", {"w": 2}],
        "a b": {"0": "text"},
        "numbers": {7: "int"},
    }
    ckptstore.save(place, tree)
    if found == []:
        with pytest.raises(ckptstore.StructureError, match=r"nothing is at params\.layer\.n"):
            ckptstore.load(place, select=pattern)
    else:
        assert ckptstore.load(place, select=pattern) == found
        assert ckptstore.load(place, like=tree, select=pattern) == tree

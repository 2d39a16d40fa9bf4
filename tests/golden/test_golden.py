"""Checkpoints that earlier versions wrote load bit-equal, and are sound.

`golden/README.md` says what wrote them. What each is stands beside it, said without ckptstore.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
from typing import Any

import golden_trees
import msgpack
import numpy as np
import pytest
from golden_trees import FRAMEWORKS, archive, describe, public

import ckptstore
from tests.golden import compare_bytes
from tests.support import ROOT

GOLDEN = ROOT / "tests" / "golden"
VERSIONS = sorted(path.name.removeprefix("ckptstore-") for path in GOLDEN.glob("ckptstore-*"))
CASES = [
    pytest.param(version, framework, name, id=f"{version}-{framework}-{name}")
    for version in VERSIONS
    for framework in FRAMEWORKS
    for name in golden_trees.archived(version, framework)
]
HAS_X87 = np.finfo(np.longdouble).nmant == 63


@functools.cache
def golden(version: str, framework: str) -> dict[str, Any]:
    found: dict[str, Any] = archive.load(archive.path(GOLDEN / f"ckptstore-{version}", framework))
    return found


def unpacked(version: str, framework: str, name: str, root: pathlib.Path) -> dict[str, Any]:
    """Make the checkpoints of a case; return what they are by their places."""
    packed = golden(version, framework)["cases"][name]
    archive.unpack(packed["files"], root)
    return {str(root / place): said for place, said in packed["checkpoints"].items()}


def test_the_archives_hold_every_case_of_the_catalogue_and_no_other() -> None:
    assert "0.1" in VERSIONS
    assert len(CASES) > 400
    for version in VERSIONS:
        for framework in FRAMEWORKS:
            cases = golden(version, framework)["cases"]
            assert list(cases) == list(golden_trees.archived(version, framework))
            for name, case in cases.items():
                assert case["checkpoints"], name
                assert all(said["rows"] for said in case["checkpoints"].values()), name


def test_the_first_golden_checkpoints_are_of_the_commit_that_froze_the_format() -> None:
    for framework in FRAMEWORKS:
        assert golden("0.1", framework)["versions"]["commit"].startswith("a76152b")


@pytest.mark.parametrize(("version", "framework", "name"), CASES)
def test_an_old_checkpoint_is_sound_and_loads_as_what_it_was(
    version: str, framework: str, name: str, tmp_path: pathlib.Path
) -> None:
    case = golden_trees.cases(framework)[name]
    for url, said in unpacked(version, framework, name, tmp_path).items():
        assert ckptstore.verify(url) == []
        info = ckptstore.inspect(url)
        about = {"step": info.step, "metadata": info.metadata, "metrics": dict(info.metrics)}
        assert msgpack.packb(about) == msgpack.packb({key: said[key] for key in about})
        if case.longdouble and not HAS_X87:
            with pytest.raises(ckptstore.UnsupportedError) as caught:
                golden_trees.load(case, pathlib.Path(url))
            assert caught.value.reason == "dtype-not-here"
            continue
        loaded = describe.describe(golden_trees.load(case, pathlib.Path(url)))
        assert describe.difference(said["rows"], loaded) == ""
        if case.numpy:
            plain = golden_trees.load(case, pathlib.Path(url), arrays="numpy")
            assert describe.difference(said["rows"], describe.describe(plain), numpy=True) == ""


NEWEST = max(tuple(map(int, version.split("."))) for version in VERSIONS)
COMING = [
    pytest.param(framework, name, id=f"{framework}-{name}")
    for framework in golden_trees.FRAMEWORKS
    for name, case in golden_trees.cases(framework).items()
    if case.since > NEWEST
]


@pytest.mark.parametrize(("framework", "name"), COMING)
def test_a_case_that_no_archive_has_yet_loads_as_what_it_was(
    framework: str, name: str, tmp_path: pathlib.Path
) -> None:
    case = golden_trees.cases(framework)[name]
    for path, written in golden_trees.write(case, tmp_path / "trees").items():
        place = tmp_path / "trees" / path
        assert ckptstore.verify(place) == []
        rows = describe.describe(written.tree)
        assert describe.difference(rows, describe.describe(golden_trees.load(case, place))) == ""
        plain = golden_trees.load(case, place, arrays="numpy")
        assert describe.difference(rows, describe.describe(plain), numpy=True) == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_manager_goes_on_with_a_run_that_an_old_version_began(
    version: str, tmp_path: pathlib.Path
) -> None:
    said = unpacked(version, "checkpoints", "a run", tmp_path)
    manager = ckptstore.Manager(tmp_path / "run")
    assert manager.steps() == list(range(1, len(said) + 1))
    assert manager.best("loss", mode="min") == manager.latest() == len(said)
    tree = manager.load()
    manager.save(len(said) + 1, tree | {"step": len(said) + 1})
    links = [path.stat().st_nlink for path in (tmp_path / "run").glob("step-*5/data-*")]
    assert len(links) > 1 and max(links) > 1, "what did not change was written again"
    found = describe.describe(manager.load(1))
    assert describe.difference(said[f"{manager.url}/step-{1:012d}"]["rows"], found) == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_golden_checkpoints_have_each_form_that_files_take(
    version: str, tmp_path: pathlib.Path
) -> None:
    cases = golden(version, "checkpoints")["cases"]
    files = {name: list(case["files"]) for name, case in cases.items()}
    assert any("/index-" in file for file in files["an index in a file"])
    assert not any("/index-" in file for file in files["many leaves"])
    assert not any("/data-" in file for file in files["no array"])
    assert sum("step-000000000003/data-" in file for file in files["a run"]) > 1
    assert any(isinstance(content, str) for content in cases["a run"]["files"].values())
    (large,) = [c for f, c in cases["several spans"]["files"].items() if "/data-" in f]
    assert len(large) > 2 * (16 << 20)


def listed() -> dict[str, Any]:
    """Return the public names and the reason codes of each version that is frozen."""
    files = {version: GOLDEN / f"ckptstore-{version}" / "public.json" for version in VERSIONS}
    return {version: json.loads(file.read_text()) for version, file in files.items()}


def test_every_public_name_is_there_until_two_minor_versions_have_warned() -> None:
    assert "ckptstore.save" in listed()["0.1"]["names"]
    assert len(listed()["0.1"]["names"]) > 100
    assert public.gone_too_early(listed(), public.names()) == []


def test_every_public_call_takes_what_it_took() -> None:
    new = public.names()
    for version, said in listed().items():
        calls = {n: args for n, args in said["names"].items() if args is not None and n in new}
        broken = {name: public.broken(arguments, new[name]) for name, arguments in calls.items()}
        assert {name: text for name, text in broken.items() if text} == {}, version


def test_no_reason_code_of_an_old_version_is_gone() -> None:
    for said in listed().values():
        assert len(said["reasons"]) > 60
        assert sorted(set(said["reasons"]) - {*ckptstore.Reason}) == ["ckptstore"]  # not a code


def test_a_name_that_goes_before_two_versions_warned_is_told() -> None:
    first = {"names": {"a": None, "b": None}, "deprecated": []}
    later = {"names": {"a": None, "b": None}, "deprecated": ["b"]}
    assert public.gone_too_early({"1": first, "2": later, "3": later}, ["a"]) == []
    assert public.gone_too_early({"1": first, "2": later}, ["a"]) == ["b"]
    assert public.gone_too_early({"1": first, "2": later, "3": later}, ["b"]) == ["a"]


def test_every_promise_of_compatibility_names_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 8
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    assert [n for n in named if f"def {n[1] or 'test'}" not in sources.get(n[0], "")] == []


def test_two_saves_of_one_tree_have_the_same_bytes_but_for_attempt_and_time(
    tmp_path: pathlib.Path,
) -> None:
    places = [tmp_path / name for name in "abc"]
    for i, place in enumerate(places):
        ckptstore.save(place / "ckpt", {"w": np.arange(3), "n": i // 2}, step=1)
    one, two, other = map(compare_bytes.contents, places)
    assert one == two and len(one) == 2
    assert one.keys() == other.keys() and one != other


def test_an_argument_that_is_gone_is_told() -> None:
    old = [["url", "POSITIONAL_OR_KEYWORD", False], ["step", "KEYWORD_ONLY", True]]
    assert public.broken(old, [*old, ["more", "KEYWORD_ONLY", True]]) == ""
    more, needed = ["more", "KEYWORD_ONLY", False], ["step", "KEYWORD_ONLY", False]
    for new in (None, old[:1], [*old, more], [old[0], needed]):
        assert public.broken(old, new) != ""


def test_a_description_tells_trees_apart() -> None:
    shared: list[Any] = [1]
    pairs: list[tuple[Any, Any]] = [
        (1, True),
        (0.0, -0.0),
        ("1", b"1"),
        ([shared, shared], [[1], [1]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: 0}, {True: 0}),
        (np.zeros(2, "<f4"), np.zeros(2, ">f4")),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        (np.float32(0), np.zeros((), "f4")),
        ((1, 2), [1, 2]),
        ({1}, frozenset({1})),
        ([[1], 2], [[1, 2]]),
    ]
    for a, b in pairs:
        assert describe.difference(describe.describe(a), describe.describe(a)) == ""
        assert describe.difference(describe.describe(a), describe.describe(b)) != "", (a, b)

"""Damage to any byte of any file: no load gives a different value, and `verify` finds it."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore

FEW, SAMPLE, WHOLE = 45, 150, 1000


def small() -> dict[str, Any]:
    """Inline index, padding between spans, a large leaf with a checksum of its own."""
    rng = np.random.default_rng(1)
    return {
        "params": {f"w{i}": rng.standard_normal((7, 3 + i), dtype=np.float32) for i in range(8)},
        "large": rng.integers(0, 255, (1 << 20) + 5, dtype=np.uint8),
        "text": "long " * 1000,
        "step": 7,
        "nothing": [None, (), 1.5, np.float64(-0.0)],
    }


def many() -> dict[str, Any]:
    """So many leaves that the index needs a file of its own."""
    rng = np.random.default_rng(2)
    return {f"leaf{i}": rng.standard_normal(3, dtype=np.float32) for i in range(25_000)}


TREES = {"small": small, "many": many}


@pytest.fixture(scope="module", params=TREES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    tree = TREES[request.param]()
    url = tmp_path_factory.mktemp("damage") / request.param
    ckptstore.save(url, tree, metadata={"about": "damage"}, metrics={"loss": 0.5})
    roles = Counter(path.name.split("-")[0] for path in url.iterdir())
    assert roles["index"] == (request.param == "many") and roles["data"] >= 1
    return tree, url


def same(a: Any, b: Any) -> bool:
    """Compare type, dtype, shape and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b)


def damage(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return a kind of damage and the damaged bytes, which differ from `content`."""
    while True:
        kind = rng.choice(["bit", "truncated", "zeroed", "grown"])
        data = bytearray(content)
        at = rng.randrange(len(data))
        if kind == "bit":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "truncated":
            del data[at:]
        elif kind == "zeroed":
            end = at + rng.choice([16, 512, 4096])
            data[at:end] = bytes(len(data[at:end]))
        else:
            data += rng.randbytes(rng.randint(1, 64))
        if data != content:
            return kind, bytes(data)


def sweep(tree: Any, url: Path, directory: Path, count: int, seed: int) -> Counter[str]:
    """Damage one file at a time; return how often each outcome was seen."""
    copy = directory / "copy"
    shutil.copytree(url, copy)
    rng, seen = random.Random(seed), Counter[str]()
    files = sorted(copy.iterdir())
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        kind, damaged = damage(content, rng)
        path.write_bytes(damaged)
        place = f"seed {seed}, damage {number}: {kind} in {path.name}"
        try:
            loaded = ckptstore.load(copy)
        except ckptstore.CheckpointError as error:
            seen[f"{path.name.split('-')[0]} {kind}: {error.reason}"] += 1
        else:
            assert same(loaded, tree), f"{place}: loaded as a different value"
            seen[f"{path.name.split('-')[0]} {kind}: loaded the same"] += 1
        try:
            problems = ckptstore.verify(copy)
        except ckptstore.UnsupportedError as error:  # a version of the future
            problems = [error]
        assert problems, f"{place}: verify did not find it"
        path.write_bytes(content)
    assert same(ckptstore.load(copy), tree) and ckptstore.verify(copy) == []
    return seen


def share(url: Path, total: int) -> int:
    """Two thirds of the damages go to the small checkpoint, which has padding and loads faster."""
    third = total // 3
    return third if url.name == "many" else total - third


@pytest.mark.parametrize("total", [FEW, pytest.param(SAMPLE, marks=pytest.mark.ci)])
def test_no_damage_loads_as_a_different_value(total: int, saved: Any, tmp_path: Path) -> None:
    seen = sweep(*saved, tmp_path, share(saved[1], total), seed=1)
    assert len(seen) >= 6


@pytest.mark.whole
@pytest.mark.timeout(1800)
def test_no_damage_of_1000_loads_as_a_different_value(saved: Any, tmp_path: Path) -> None:
    seen = sweep(*saved, tmp_path, share(saved[1], WHOLE), seed=2)
    for outcome, times in sorted(seen.items()):
        print(f"{times:5} {outcome}")
    assert len(seen) >= 6


def test_damage_of_padding_is_found_by_verify_alone(tmp_path: Path) -> None:
    tree = {"a": np.ones(3, np.uint8), "b": np.ones(3, np.uint8)}
    ckptstore.save(tmp_path, tree)
    (data,) = tmp_path.glob("data-*")
    content = bytearray(data.read_bytes())
    content[10] = 1  # between the two spans, which begin on 64 bytes
    data.write_bytes(content)
    assert same(ckptstore.load(tmp_path), tree)
    (problem,) = ckptstore.verify(tmp_path)
    assert problem.reason == "padding" and data.name in problem.where and "10" in problem.where


def test_verify_lists_every_damaged_leaf_by_path(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, {"a": np.ones(3, np.uint8), "b": [np.ones(3, np.uint8)], "c": 1})
    (data,) = tmp_path.glob("data-*")
    data.write_bytes(bytes(data.stat().st_size))
    problems = ckptstore.verify(tmp_path)
    assert [problem.reason for problem in problems] == ["checksum", "checksum"]
    assert "$['a']" in str(problems[0]) and "$['b'][0]" in str(problems[1])
    with pytest.raises(ckptstore.CorruptError, match="does not match"):
        ckptstore.load(tmp_path)

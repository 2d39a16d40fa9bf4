"""A class that lists the items of a set is saved, whatever order the second set has."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.tree import round_trip
from ckptstore.types import registry

SCRIPT = """
import enum, pathlib, sys, weakref
import ckptstore as ck

N = enum.Enum("N", [f"w{i}" for i in range(60)])

class Vocab:
    def __init__(self, words):
        self.words = set(words)
class Frozen:
    __slots__ = ("box",)
    def __init__(self, words):
        self.box = {"words": [frozenset(words)]}
    words = property(lambda self: self.box["words"][0])
class Own(set):
    words = property(lambda self: self)
class Word:
    def __init__(self, i): self.i = i
class Weak(Vocab):
    def __init__(self, words):
        self.words = weakref.WeakSet(words)
names = [f"w{i}" for i in range(100)]
CONTENTS = [names, list(N), [*names, *range(50), None, b"x"], [(n, i) for i, n in enumerate(names)],
    [pathlib.PurePosixPath(n) for n in names], [frozenset((n, 1)) for n in names]]
WAYS = [
    (lambda v: (list(v.words), None), lambda cls, _, c: cls(c)),
    (lambda v: (([*v.words],), None), lambda cls, _, c: cls(c[0])),
    (lambda v: ((), tuple(v.words)), lambda cls, s, _: cls(s)),
    (lambda v: (({"a": tuple(v.words)}, len(v.words)), None), lambda cls, _, c: cls(c[0]["a"])),
]
n = 0
for cls in (Vocab, Frozen, Own):
    for flatten, unflatten in WAYS:
        ck.register(cls, name=f"m.{cls.__name__}", flatten=flatten,
                    unflatten=lambda s, c, u=unflatten, cls=cls: u(cls, s, c))
        for content in CONTENTS:
            from ckptstore.tree import round_trip
            round_trip._TRIED.clear()
            n += 1
            u = f"{sys.argv[1]}/{n}"
            ck.save(u, cls(content))
            ck.register(N, name="m.N")
            assert set(ck.load(u).words) == set(content), (cls, content)
"""


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_items_of_a_set_may_be_the_children_whatever_the_seed_of_the_hashes(
    seed: str, tmp_path: Any
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class Model:
    def __init__(self, first: Any, second: Any, tags: Any, more: Any = ()) -> None:
        self.first, self.second, self.tags, self.more = first, second, tags, more


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    for table in ("_BY_CLASS", "_BY_NAME"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(round_trip, "_TRIED", {})
    return ckptstore.register


@pytest.mark.parametrize("pair", [(np.arange(3.0), np.ones(3)), (1, 2), ("a", "b")])
def test_swapped_parts_are_refused_in_an_object_that_holds_a_set_too(
    pair: Any, registered: Any, tmp_path: Any
) -> None:
    registered(
        Model,
        flatten=lambda m: ((m.first, m.second, *m.tags), None),
        unflatten=lambda _, c: Model(c[1], c[0], set(c[2:])),
    )
    with pytest.raises(ckptstore.StructureError, match="in child 0 "):
        ckptstore.save(tmp_path / "m", Model(*pair, {"x", "y"}))


def test_two_sets_that_change_places_are_refused(registered: Any, tmp_path: Any) -> None:
    registered(
        Model,
        flatten=lambda m: ((*m.tags, *m.more), None),
        unflatten=lambda _, c: Model(0, 0, set(c[2:]), set(c[:2])),
    )
    with pytest.raises(ckptstore.StructureError, match=r"in child 0 .* became"):
        ckptstore.save(tmp_path / "m", Model(0, 0, {"a", "b"}, {"c", "d"}))


def test_sorted_values_that_are_made_of_the_items_of_a_set_are_saved(
    registered: Any, tmp_path: Any
) -> None:
    registered(
        Model,
        flatten=lambda m: (sorted(tag.encode() for tag in m.tags), None),
        unflatten=lambda _, c: Model(0, 0, {tag.decode() for tag in c}),
    )
    tags = {f"w{i}" for i in range(100)}
    ckptstore.save(tmp_path / "m", Model(0, 0, tags))
    assert ckptstore.load(tmp_path / "m").tags == tags

"""The argument ``sharding=`` of a load, for trees of many kinds; devices: test_sharded.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.tree import paths

jax = pytest.importorskip("jax")

DEVICE = jax.devices()[0]


@dataclasses.dataclass(slots=True)
class Slots:
    w: Any
    step: Any = 0


@dataclasses.dataclass
class Plain:
    w: Any
    step: Any = 0


def array() -> Any:
    return jax.numpy.arange(3.0)


TREES = {
    "key of several parts": ({("a", 1): array()}, {("a", 1): DEVICE}),
    "long key": ({"k" * 100_000: array()}, {"k" * 100_000: DEVICE}),
    "numbers as keys": ({1: array(), 2: array()}, {1: DEVICE, 2: DEVICE}),
    "no array below": ({"w": array(), "config": {"lr": {"x": 1}}}, {"w": DEVICE}),
    "long text": ({"w": array(), "text": "x" * 100_000}, {"w": DEVICE}),
    "sets": ({"w": array(), "set": {1, (2, 3)}, "frozen": frozenset({4})}, {"w": DEVICE}),
    "slots": (Slots(array()), Slots(DEVICE)),
    "dataclass": (Plain(array()), Plain(DEVICE)),
    "slots for a dict": ({"w": array()}, Slots(DEVICE)),
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_of_places_needs_a_part_for_each_array_alone(name: str, tmp_path: Path) -> None:
    tree, places = TREES[name]
    ckptstore.save(tmp_path / "c", tree)
    loaded = ckptstore.load(tmp_path / "c", sharding=places)
    assert type(loaded) is type(tree)
    found = [x for x in jax.tree.leaves(vars_of(loaded)) if isinstance(x, jax.Array)]
    assert found
    assert all(x.committed and x.devices() == {DEVICE} for x in found)
    assert all(x.tolist() == [0, 1, 2] for x in found)


def vars_of(tree: Any) -> Any:
    return dataclasses.asdict(tree) if dataclasses.is_dataclass(tree) else tree


WRONG = {
    "devices in an array": np.array(jax.devices() * 2),
    "numbers": np.zeros(3),
    "class": Plain,
    "class with slots": Slots,
    "function": lambda path, aval: np.array([DEVICE, DEVICE]),
    "part": {"w": np.zeros(2)},
    "bytes": b"whole",
    "spec": jax.sharding.PartitionSpec("a"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_names_no_place_is_refused(name: str, tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"w": array()})
    with pytest.raises(ckptstore.StructureError, match="sharding") as caught:
        ckptstore.load(tmp_path / "c", sharding=WRONG[name])
    assert caught.value.reason == "bad-argument"


WISHES = {"device": DEVICE, "whole": "whole", "function": lambda path, aval: None, "none": None}


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_no_path_is_made_for_each_leaf(
    wish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {f"w{n}": array() for n in range(50)}
    ckptstore.save(tmp_path / "c", tree)
    walks = []
    walk = paths.walk
    monkeypatch.setattr(paths, "walk", lambda table: walks.append(table) or walk(table))
    loaded = ckptstore.load(tmp_path / "c", sharding=wish)
    assert loaded.keys() == tree.keys()
    assert len(walks) < 10, "each walks over the whole tree"


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
@pytest.mark.parametrize("impl", ["unknown", 5, "rbg"])
def test_keys_that_cannot_be_made_name_their_path(
    impl: Any, wish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptstore.adapters import jax_symbols

    with monkeypatch.context() as patch:
        patch.setattr(jax_symbols, "implementation", lambda dtype: impl)
        ckptstore.save(tmp_path / "c", {"key": jax.random.key(0)})
    with pytest.raises((ckptstore.UnsupportedError, ckptstore.CorruptError), match=r"\['key'\]"):
        ckptstore.load(tmp_path / "c", sharding=wish)

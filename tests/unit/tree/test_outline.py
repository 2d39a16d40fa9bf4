"""The outline of a tree, by which processes find out whether they have the same one."""

from __future__ import annotations

import enum
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ckptstore
from ckptstore import storage
from ckptstore.checkpoint import read_snapshot
from ckptstore.tree import flatten, outline_of


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Point(NamedTuple):
    x: Any
    y: Any


def tree() -> dict[str, Any]:
    params = {"w": np.ones((3, 4), np.float32), "b": np.zeros(4)}
    return {
        "params": params,
        "opt": optax.adamw(1e-3).init(jax.tree.map(jnp.asarray, params)),
        "again": params,
        "step": 7,
        "rate": 0.5,
        "text": "x" * 5000,
        "short": "x",
        "set": {1, 2, 3},
        "frozen": frozenset({("a", 1), ("b", 2)}),
        "color": Color.RED,
        "by color": {Color.RED: 1, Color.BLUE: 2},
        "default": defaultdict(list, {"k": [1]}),
        "ordered": OrderedDict([("a", 1), ("b", 2)]),
        "dtype": np.dtype("f4"),
        "slice": slice(1, 2),
        "point": Point(1, [2]),
        (1, "k"): None,
        b"bytes": b"1",
        1: "int",
        1.5: "float",
    }


def backwards(x: Any) -> Any:
    """Return the same tree with the entries of each dict in the other order, shared as before."""
    done: dict[int, Any] = {}

    def turned(x: Any) -> Any:
        if type(x) is dict:
            if id(x) not in done:
                done[id(x)] = {k: turned(x[k]) for k in reversed(x)}
            return done[id(x)]
        return x

    return turned(x)


def test_the_order_of_the_entries_of_a_dict_does_not_count() -> None:
    one, other = outline_of(flatten(tree())), outline_of(flatten(backwards(tree())))
    assert one.digest == other.digest
    assert one.lines == other.lines
    assert sorted(one.leaves) == sorted(other.leaves) == list(range(len(one.leaves)))
    assert one.differences(other, "one", "the other") == ([], True)
    assert [one.path(p) for p in one.leaf_places] == [other.path(p) for p in other.leaf_places]


def test_the_outline_of_a_stored_tree_is_that_of_the_live_one(tmp_path: Any) -> None:
    ckptstore.save(tmp_path / "c", tree())
    with storage.open(tmp_path / "c") as store:
        stored = outline_of(read_snapshot(store, lambda snapshot: snapshot.tree()))
    assert stored.digest == outline_of(flatten(tree())).digest


CHANGES: dict[str, tuple[Any, str, bool]] = {
    "a scalar": (("step", 8), "$['step']: 8 in here, 7 in there", True),
    "minus zero": (("rate", -0.5), "$['rate']: -0.5 in here, 0.5 in there", True),
    "a kind": (("step", True), "$['step']: True in here, 7 in there", False),
    "a text": (("text", "y" * 5001), "$['text']: str of 5001 bytes in here", True),
    "a dtype": (("dtype", np.dtype("f8")), "$['dtype']: dtype float64 in here", False),
    "a member": (("color", Color.BLUE), "$['color']", False),
    "an order": (("ordered", OrderedDict([("b", 2), ("a", 1)])), "$['ordered']", False),
    "a factory": (("default", defaultdict(dict, {"k": [1]})), "$['default']", False),
    "a copy": (("again", tree()["params"]), "the object of", False),
    "a class": (("point", (1, [2])), "$['point']", False),
    "an item": (("set", {1, 2, 4}), "$['set']", True),
    "a new key": (("new", 1), "$['new']: 1 in here, not in there", False),
    "another key": ((b"bytes", b"2"), "$[b'bytes']", True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_difference_is_named_by_path(name: str) -> None:
    (key, value), text, are_values = CHANGES[name]
    changed = tree()
    changed[key] = value
    here, there = outline_of(flatten(changed)), outline_of(flatten(tree()))
    assert here.digest != there.digest
    lines, only_values = here.differences(there, "here", "there")
    assert any(text in line for line in lines), lines
    assert only_values is are_values
    back, _ = there.differences(here, "there", "here")
    assert len(back) == len(lines)


def test_the_devices_do_not_count() -> None:
    one, other = jax.device_put(jnp.ones(3), jax.devices()[0]), jnp.ones(3)
    assert outline_of(flatten([one])).digest == outline_of(flatten([other])).digest
    key = jax.random.key(0)
    assert (
        outline_of(flatten([key])).digest != outline_of(flatten([jax.random.key_data(key)])).digest
    )


def test_long_chains_and_many_places_take_linear_work() -> None:
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]
    shared: Any = [1]
    for _ in range(60):
        shared = [shared, shared]
    both = outline_of(flatten([deep, shared]))
    assert len(both.lines) < 3300
    assert both.differences(both, "a", "b") == ([], True)

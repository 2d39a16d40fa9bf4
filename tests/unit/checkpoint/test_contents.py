"""The listing of `inspect`: arrays, PRNG keys, numbers, and objects that stand in two places."""

import enum

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ckptstore


class Phase(enum.Enum):
    WARMUP = 1


def lines(path, tree):
    saved = ckptstore.save(path, tree)
    listed = str(ckptstore.inspect(path)).split("\n")
    assert str(saved).split("\n") == listed
    return [line.removeprefix("  ") for line in listed[1:]]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_key_is_listed_as_a_key(impl, tmp_path):
    key = jax.random.key(0, impl=impl)
    tree = {"one": key, "many": jax.random.split(key, 3), "old": jax.random.PRNGKey(0)}
    one, many, old = lines(tmp_path / "c", tree)
    assert one.startswith(f"$['one']  PRNG key {impl}, uint32[")
    assert many.startswith(f"$['many']  PRNG key {impl}, uint32[3,")
    assert old == "$['old']  uint32[2]  jax.Array"
    leaves = ckptstore.inspect(tmp_path / "c").leaves
    assert [leaf.key for leaf in leaves] == [impl, impl, None]


def test_numbers_and_texts_are_listed_with_their_values(tmp_path):
    tree = {
        "w": np.ones(2), "step": 7, "lr": 1e-3, "z": 1 - 2j, "on": True, "name": "run", "raw": b"x",
        "none": None, "in": [3, {"deep": 4}], "phase": Phase.WARMUP, "set": {5}, (6, "key"): 8,
        "long": "y" * 100_000, "big": 10**50,
    }  # fmt: skip
    assert lines(tmp_path / "c", tree) == [
        "$['w']  float64[2]  numpy.ndarray",
        "$['step']  7",
        "$['lr']  0.001",
        "$['z']  (1-2j)",
        "$['on']  True",
        "$['name']  'run'",
        "$['raw']  b'x'",
        "$['in'][0]  3",
        "$['in'][1]['deep']  4",
        "$[(6, 'key')]  8",
        "$['long']  a long str",
        f"$['big']  {10**50}",
    ]


def test_a_lone_number_is_listed(tmp_path):
    assert lines(tmp_path / "c", 7) == ["$  7"]


def test_a_tied_array_is_listed_under_each_of_its_paths(tmp_path):
    w, shared = jnp.ones((2, 3)), {"b": np.zeros(1)}
    tree = {"embed": w, "head": [w, {"w": w}], "params": shared, "target": shared}
    assert lines(tmp_path / "c", tree) == [
        "$['embed']  float32[2,3]  jax.Array",
        "$['params']['b']  float64[1]  numpy.ndarray",
        "$['head'][0]  the same object as $['embed']",
        "$['head'][1]['w']  the same object as $['embed']",
        "$['target']  the same object as $['params']",
    ]
    embed, b = ckptstore.inspect(tmp_path / "c").leaves
    assert embed.same == ("$['head'][0]", "$['head'][1]['w']") and b.same == ()
    for path in embed.same:
        np.testing.assert_array_equal(ckptstore.load(tmp_path / "c", select=path), w)


def test_of_many_only_the_first_are_listed(tmp_path):
    w = np.ones(1)
    tree = [[np.ones(1) for _ in range(150)], list(range(130)), [w] * 121]
    found = lines(tmp_path / "c", tree)
    assert len(found) == 303
    assert [line for line in found if line.startswith("…")] == [
        "… and 51 more",
        "… and 30 more",
        "… and 20 more",
    ]
    assert len(ckptstore.inspect(tmp_path / "c").leaves[150].same) == 100

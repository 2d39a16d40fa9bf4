"""Runs on several devices that go on: on fewer, on a mesh made anew, from copies of pmap."""

from __future__ import annotations

import pathlib

import pytest

from tests.support import devices

pytest.importorskip("jax")
pytest.importorskip("flax")

REPLICATED = """
import jax, jax.numpy as jnp, numpy as np, optax
import flax.linen as nn
from flax import jax_utils
from flax.training.train_state import TrainState
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import ckptstore
from ckptstore.optax import check_counts, counts, shift_counts

model, tx = nn.Dense(4), optax.adamw(optax.linear_schedule(1e-2, 0.0, 100))
mesh = Mesh(np.array(jax.devices()), ("d",))
x = np.arange(128, dtype="f4").reshape(16, 8) / 100

def init():
    params = model.init(jax.random.key(0), x)
    return TrainState.create(apply_fn=model.apply, params=params, tx=tx)

def step(state, x, axis=None):
    grads = jax.grad(lambda params: jnp.mean(state.apply_fn(params, x) ** 2))(state.params)
    return state.apply_gradients(grads=grads if axis is None else jax.lax.pmean(grads, axis))

def copied(state, x):
    many = jax.local_device_count()
    return jax.pmap(lambda s, x: step(s, x, "d"), "d")(state, x.reshape(many, -1, 8))

def bits(tree):
    return [(x.shape, str(x.dtype), np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]

def is_close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), left, right)
"""

SAVE_COPIES = """
copies = jax_utils.replicate(init())
for _ in range(2):
    copies = copied(copies, x)
ckptstore.save("copies", copies)
np.savez("expected", *jax.tree.leaves(copies))

found = counts(copies)
assert [c.value.tolist() for c in found] == [[2] * 8] * 2, found
assert check_counts(copies, step=2) == []
assert [d.expected for d in check_counts(copies, step=3)] == [3, 3]
moved = shift_counts(copies.opt_state, 5)
for before, after in ((copies.opt_state[0], moved[0]), (copies.opt_state[2], moved[2])):
    assert after.count.tolist() == [7] * 8
    assert after.count.sharding == before.count.sharding
    assert (after.count.dtype, after.count.committed) == (before.count.dtype, True)
copied(copies.replace(opt_state=moved), x)
torn = np.array([2] * 7 + [3], np.int32)
torn = copies.opt_state[0]._replace(count=jax.device_put(torn, copies.opt_state[0].count.sharding))
assert [d.count.path for d in check_counts((torn,), step=2)] == ["$[0].count"]

state = jax.device_put(init(), NamedSharding(mesh, P()))
for _ in range(2):
    state = jax.jit(step)(state, jax.device_put(x, NamedSharding(mesh, P("d"))))
assert state.opt_state[0].count.sharding.is_fully_replicated
assert [c.value for c in counts(state.opt_state)] == [2, 2]
moved = shift_counts(state.opt_state, 5)[0].count
assert moved == 7 and moved.sharding == state.opt_state[0].count.sharding
ckptstore.save("mesh", state)
"""

LOAD_COPIES = """
assert len(jax.devices()) == 4
eight = jax.eval_shape(lambda: jax.tree.map(lambda x: jnp.stack([x] * 8), init()))
loaded = ckptstore.load("copies", eight, sharding="whole")
assert bits(loaded) == bits([*np.load("expected.npz").values()])
state = jax.tree.map(lambda x: x[0], loaded)
assert type(state) is TrainState and state.step == 2
one = jax.jit(step)(state, x)
spread = jax.device_put(x, NamedSharding(mesh, P("d")))
is_close(jax.jit(step)(state, spread), one)  # the state goes where the batch is
copies = copied(jax_utils.replicate(state), x)
assert copies.step.tolist() == [3] * 4
is_close(jax_utils.unreplicate(copies), one)

state = ckptstore.load("mesh", jax.eval_shape(init), sharding=mesh)
assert {a.sharding for a in jax.tree.leaves(state)} == {NamedSharding(mesh, P())}
assert check_counts(state, step=2) == []
is_close(jax.jit(step)(state, spread), one)
params = ckptstore.load("mesh", select="$.params", sharding=mesh)  # without functions, no `like`
assert bits(params) == bits(state.params)
"""

QUICKSTART = """
import os, sys
import ckptstore, jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

directory, last = sys.argv[1], int(sys.argv[2])
devices = np.array(jax.devices())
turned = devices[[3, 1, 7, 0, 5, 2, 6, 4]]
meshes = {"auto": Mesh(devices.reshape(4, 2), ("d", "m")),
          "turned": Mesh(turned.reshape(4, 2), ("d", "m"))}
if hasattr(jax, "set_mesh"):
    explicit = (jax.sharding.AxisType.Explicit,) * 2
    meshes["explicit"] = Mesh(turned.reshape(4, 2), ("d", "m"), axis_types=explicit)

optimizer = optax.adam(1e-2)

def run(mesh, directory):
    def init():
        w = jax.device_put(np.zeros((8, 4), "f4"), NamedSharding(mesh, P(None, "m")))
        return {"w": w, "opt_state": optimizer.init(w), "key": jax.random.key(0), "step": 0}

    @jax.jit
    def train_step(state, x):
        key, subkey = jax.random.split(state["key"])
        y = x.sum(axis=1, keepdims=True)
        grads = jax.grad(lambda w: jnp.mean((x @ w - y) ** 2))(state["w"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["w"])
        w = optax.apply_updates(state["w"], updates)
        return {"w": w, "opt_state": opt_state, "key": key, "step": state["step"] + 1}

    with ckptstore.Manager(directory, every=2, keep=ckptstore.keep_last(3)) as manager:
        state = manager.load_or_init(init)
        while state["step"] < last:
            step = int(state["step"])
            x = np.random.default_rng(step).standard_normal((32, 8), np.float32)
            state = train_step(state, jax.device_put(x, NamedSharding(mesh, P("d"))))
            manager.save_async(step + 1, state)
    loaded = ckptstore.Manager(directory).load()
    for name in ("w", "opt_state"):
        for a, b in zip(jax.tree.leaves(loaded[name]), jax.tree.leaves(state[name]), strict=True):
            assert a.sharding == b.sharding or not b.committed, (name, a.sharding, b.sharding)
    assert loaded["w"].sharding.mesh == mesh and loaded["w"].sharding.spec == P(None, "m")
    assert list(loaded["w"].sharding.mesh.devices.flat) == list(mesh.devices.flat)
    return np.asarray(state["w"]).tobytes()

for name, mesh in meshes.items():
    if name == "explicit":
        with jax.set_mesh(mesh):
            w = run(mesh, f"{directory}/{name}")
    else:
        w = run(mesh, f"{directory}/{name}")
    print(name, w.hex())
"""


@pytest.mark.process
def test_a_replicated_train_state_goes_on_with_fewer_devices(tmp_path: pathlib.Path) -> None:
    devices.run(REPLICATED + SAVE_COPIES, tmp_path)
    devices.run(REPLICATED + LOAD_COPIES, tmp_path, devices=4)


@pytest.mark.process
def test_the_quickstart_with_params_on_a_mesh_goes_on_bit_for_bit(tmp_path: pathlib.Path) -> None:
    devices.run(QUICKSTART, tmp_path, "stopped", "4")
    resumed = devices.run(QUICKSTART, tmp_path, "stopped", "8")
    assert resumed == devices.run(QUICKSTART, tmp_path, "whole", "8")
    assert {line.split()[0] for line in resumed.splitlines()} >= {"auto", "turned"}

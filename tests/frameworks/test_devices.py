"""Where an array of jax comes back: on its device, under its sharding, or on none in particular."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.format import TypeKind, TypeRow
from ckptstore.types import registry
from tests.support import ROOT

jax = pytest.importorskip("jax")
jnp = jax.numpy

from ckptstore.adapters import jax_places, jax_shards  # noqa: E402 - jax is there

# Each test runs in processes of their own, since the number of devices is fixed in one.
BEGIN = """
import jax, jax.numpy as jnp, numpy as np
import ckptstore
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

devices = jax.devices()
mesh = Mesh(np.array(devices), ("d",))

def put(x, spec=P()):
    return jax.device_put(x, NamedSharding(mesh, spec))

def weak(x):
    return type(x)(x.aval.update(weak_type=True), x.sharding,
                   [s.data for s in x.addressable_shards], x.committed)

def single(x):
    (device,) = x.devices()
    return devices.index(device), x.committed
"""

SAVE = """
def one(device):
    x = np.arange(4, dtype="f4")
    key = jax.random.wrap_key_data(jax.device_put(np.zeros((2, 2), "u4"), device))
    place = NamedSharding(Mesh(np.array([device]), ("d",)), P())
    array = jax.device_put(x, device)
    return {"x": array, "weak": weak(array), "key": key, "mesh of one": jax.device_put(x, place),
            "int4": jax.device_put(x.astype(jnp.int4), device),
            "empty": jax.device_put(x[:0], device)}

several = {
    "w": put(np.arange(16, dtype="f4").reshape(8, 2), P("d")),
    "b": put(np.ones(2, "f4")),
    "weak": weak(put(np.ones(8, "f4"), P("d"))),
    "key": jax.device_put(jax.random.split(jax.random.key(1), 8), NamedSharding(mesh, P("d"))),
    "pmap": jax.pmap(lambda x: x + 1)(np.ones((8, 2), "f4")),
    "two": jax.device_put(np.ones(4, "f4"), NamedSharding(Mesh(devices[2:4], "d"), P("d"))),
}
free = {"x": jnp.arange(4.0), "weak": jnp.full(4, 0.5), "key": jax.random.key(2)}
with jax.default_device(devices[5]):
    free["of device 5"] = jnp.arange(3.0)
ckptstore.save("c", {"several": several, "one": [one(d) for d in devices[:4]], "free": free})
ckptstore.save("several", several)
"""

LOAD = """
named = {"w": P("d"), "b": P(), "weak": P("d"), "key": P("d")}

def check_several(several, mesh):
    for name, spec in named.items():
        x = several[name]
        assert x.committed and x.sharding.mesh == mesh, (name, x.sharding)
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, spec), x.ndim), (name, x.sharding)
    assert several["weak"].weak_type
    assert several["two"].sharding == NamedSharding(Mesh(devices[2:4], "d"), P("d"))

def check(tree):
    check_several(tree["several"], mesh)
    for i, arrays in enumerate(tree["one"]):
        for name, x in arrays.items():
            assert single(x) == (i, True), (i, name, single(x))
    for name, x in tree["free"].items():
        assert single(x) == (0, False), (name, single(x))
    for arrays in (tree["one"][3], tree["free"]):
        assert arrays["weak"].weak_type and jnp.issubdtype(arrays["key"].dtype, jax.dtypes.prng_key)

@jax.jit
def step(params, batch):
    return batch @ params["w"].T + params["weak"] + jax.random.normal(params["key"][0], (8,))

tree = ckptstore.load("c")
check(tree)
check(ckptstore.load("c", like=jax.eval_shape(lambda: tree)))
check({**tree, "several": ckptstore.load("c", select="$.several")})
with jax.default_device(devices[6]):
    there = ckptstore.load("c")
    assert [single(x["x"]) for x in there["one"]] == [(i, True) for i in range(4)]
    assert single(there["free"]["x"]) == (6, False)
    check_several(there["several"], mesh)
batch = put(np.ones((8, 2), "f4"), P("d"))
params = tree["several"]
assert step(params, batch).shape == (8, 8)
assert float(jnp.sum(params["b"] + batch)) == 32.0
other = jax.device_put(np.zeros((8, 2), "f4"), NamedSharding(mesh, P()))
loaded = ckptstore.load("c", like={**tree, "several": {**params, "w": other}})
assert loaded["several"]["w"].sharding == other.sharding
check_several({**loaded["several"], "w": params["w"]}, mesh)
free = ckptstore.load("c", like={**tree, "several": {**params, "w": jnp.zeros((8, 2))}})
assert single(free["several"]["w"]) == (0, False)
assert params["weak"].tolist() == [1.0] * 8
assert {type(x) for x in ckptstore.load("several", arrays="numpy").values()} == {np.ndarray}

if hasattr(jax, "set_mesh"):
    explicit = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    turned = Mesh(np.array(devices[::-1]), ("d",))
    for context in (mesh, explicit, turned):
        with jax.set_mesh(context):
            params = ckptstore.load("several", select=["$.w", "$.b", "$.weak", "$.key"])
            params = {path[3:-2]: x for path, x in params.items()}
            for name, spec in named.items():
                assert params[name].sharding.mesh == context, name
                if name != "key":
                    (params[name] + 1).block_until_ready()
            batch = jax.device_put(np.ones((8, 2), "f4"), P("d"))
            placed = {n: jax.device_put(x, P()) for n, x in params.items() if n != "key"}
            keys = jax.random.split(jax.random.key(0), 1)  # one of a sharded array is not sliced
            assert step({**placed, "key": keys}, batch).shape == (8, 8)
    with jax.set_mesh(explicit):
        placed = {n: jax.device_put(x, P("d")) for n, x in params.items() if n == "w"}
        like = {**ckptstore.load("several"), **jax.eval_shape(lambda t: t, placed)}
        assert isinstance(like["w"].sharding.mesh, jax.sharding.AbstractMesh)
        got = ckptstore.load("several", like=like)["w"].sharding
        assert got.is_equivalent_to(placed["w"].sharding, 2)
    # The mesh is set no more, so the stored one is made again.
    assert ckptstore.load("several", like=like)["w"].sharding == NamedSharding(mesh, P("d"))
    with jax.set_mesh(Mesh(np.array(devices).reshape(4, 2), ("d", "e"))):  # of another size
        check_several(ckptstore.load("several"), mesh)
"""

LOAD_WITH_ONE = """
assert len(devices) == 1
tree = ckptstore.load("c")
assert single(tree["several"]["w"]) == single(tree["free"]["of device 5"]) == (0, False)
assert [single(x["x"]) for x in tree["one"]] == [(0, True), *[(0, False)] * 3]
assert [single(x["key"]) for x in tree["one"]] == [(0, True), *[(0, False)] * 3]
assert tree["several"]["w"].tolist() == np.arange(16.0).reshape(8, 2).tolist()
"""


def run(script: str, place: pathlib.Path, devices: int) -> None:
    """Run a script under a number of devices of the host."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script],
        cwd=place,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_resumed_process_runs_with_arrays_of_one_device_and_of_several(
    tmp_path: pathlib.Path,
) -> None:
    run(SAVE, tmp_path, devices=8)
    assert ckptstore.verify(tmp_path / "c") == []
    run(LOAD, tmp_path, devices=8)
    run(LOAD_WITH_ONE, tmp_path, devices=1)


def test_a_number_in_the_index_of_an_old_jax_is_an_axis_that_the_shard_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(shape: Any, sharding: Any, part: Any) -> list[Any]:
        return [part((number, slice(None))).tolist() for number in range(2)]

    monkeypatch.setattr(jax, "make_array_from_callback", make)
    host = np.arange(6).reshape(2, 3)
    parts = {((0, 1), (0, 3)): host[:1], ((1, 2), (0, 3)): host[1:]}
    for given in (None, host):
        made: Any = jax_shards.assembled(given, parts, (2, 3), None)
        assert made == [[0, 1, 2], [3, 4, 5]]


def test_a_device_of_an_old_jax_knows_no_memories() -> None:
    class Device:
        def default_memory(self) -> Any:
            raise RuntimeError("UNIMPLEMENTED: default_memory_space is not supported")

        addressable_memories = default_memory

    assert jax_places._default_memory(Device()) is None
    assert jax_places._memories(Device()) == set()


@pytest.mark.parametrize("name", ["", "cpu", "cpu:", ":", "cpu:99", "cpu:-1", "cpu:1" + "0" * 5000,
                                  "tpu:0", "no-such:0", "é\0:0", "cpu:٣", "cpu:0:0"])  # fmt: skip
def test_a_device_that_is_not_here_commits_to_none(name: str) -> None:
    adapter = registry.find_adapter("jax")
    assert adapter is not None
    row = TypeRow(TypeKind.ARRAY, "jax", "Array", extra={"committed": True, "device": name})
    x = adapter.array(np.arange(3, dtype=np.float32), row, None)
    assert (x.tolist(), x.committed) == ([0, 1, 2], False)


def test_a_device_of_another_type_than_text_is_no_array() -> None:
    adapter = registry.find_adapter("jax")
    assert adapter is not None
    row = TypeRow(TypeKind.ARRAY, "jax", "Array", extra={"committed": True, "device": 0})
    with pytest.raises(KeyError):
        adapter.array(np.zeros(3, np.float32), row, None)

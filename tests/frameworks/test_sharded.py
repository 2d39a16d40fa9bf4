"""Arrays of jax on several devices: saved shard by shard, and restored under any sharding."""

from __future__ import annotations

import pathlib

import pytest

from tests.support import ROOT, devices, remedies

jax = pytest.importorskip("jax")

BEGIN = """
import pathlib, tracemalloc
import jax, jax.numpy as jnp, numpy as np
import ckptstore
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

devices = np.array(jax.devices())
grid = Mesh(devices.reshape(4, 2), ("a", "b"))
line = Mesh(devices[::-1], ("x",))

def bits(x):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return x.shape, x.dtype, np.asarray(x).tobytes()

def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert bits(left[name]) == bits(right[name]), name
        assert getattr(left[name], "weak_type", 0) == getattr(right[name], "weak_type", 0), name

def check(call, *words):
    try:
        call()
    except ckptstore.CheckpointError as error:
        assert all(word in str(error) for word in words), error
        print(error)
        return
    raise AssertionError("no error")
"""

DTYPES = """
x = np.arange(1200 * 960) % 251
state = {}
for dtype in ("bfloat16", "int4", "uint4", "bool", "float8_e4m3fn", "int16", "float32", "complex64",
              "float64", "int64", "complex128"):
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        host = (x % 7 if "int4" in dtype else x).astype(jnp.dtype(dtype)).reshape(1200, 960)
        for name, place in {"blocks": NamedSharding(grid, P("a", "b")),
                            "columns": NamedSharding(line, P(None, "x")),
                            "part": NamedSharding(Mesh(devices[2:6], "x"), P("x"))}.items():
            state[f"{dtype} {name}"] = jax.device_put(host, place)
keys = jax.random.split(jax.random.key(1), 480_000).reshape(4800, 100)
state["keys"] = jax.device_put(keys, NamedSharding(grid, P("a")))
rbg = jax.random.split(jax.random.key(1, impl="rbg"), 8)
state["rbg"] = jax.device_put(rbg, NamedSharding(grid, P("a")))
weak = jax.jit(lambda a: a, out_shardings=NamedSharding(grid, P()))
state["weak"], state["count"] = weak(jnp.asarray(2.0)), weak(jnp.asarray(3, jnp.int32))
state["empty"] = jax.device_put(np.zeros((0, 8), "f4"), NamedSharding(grid, P(None, "a")))
state["pmap"] = jax.pmap(lambda x: x * 2)(np.arange(8 * 90_000, dtype="f4").reshape(8, 300, 300))
state["copies"] = jax.device_put_replicated(jnp.arange(100_000.0), jax.devices()) \
    if hasattr(jax, "device_put_replicated") else state["pmap"]
state["odd"] = jax.device_put(np.arange(8 * 3 * 40_001, dtype="u1").reshape(8, 3, 40_001),
                              NamedSharding(line, P("x")))
kind = {m.kind for m in devices[0].addressable_memories()} & {"pinned_host"}
for memory in kind:
    state["memory"] = jax.device_put(np.ones((8, 4), "f4"),
                                     NamedSharding(line, P("x"), memory_kind=memory))
    for number in (0, 3):
        one = jax.sharding.SingleDeviceSharding(devices[number], memory_kind=memory)
        state[f"memory {number}"] = jax.device_put(np.ones((8, 4), "f4"), one)

ckptstore.save("now", state)
ckptstore.save_async("then", state).result()
for url in ("now", "then"):
    assert ckptstore.verify(url) == []
    same(state, ckptstore.load(url))
    for name, x in ckptstore.load(url).items():
        if name.startswith("memory"):
            assert x.sharding == state[name].sharding and x.committed, (name, x.sharding)
        if isinstance(state[name].sharding, NamedSharding) and name not in ("pmap", "copies"):
            assert x.sharding == state[name].sharding, (name, x.sharding)
    same(state, ckptstore.load(url, like=state))
    whole = ckptstore.load(url, sharding="whole")
    same(state, whole)
    assert {(len(x.devices()), x.committed) for x in whole.values()} == {(1, False)}
numpy = ckptstore.load("now", arrays="numpy")
assert all(type(x) is np.ndarray for x in numpy.values())
assert all(numpy[name].tobytes() == bits(state[name])[2] for name in state)
"""

ONCE = """
w = jax.device_put(np.random.rand(4800, 2400).astype("f4"), NamedSharding(grid, P("a")))
v = jax.device_put(np.random.rand(2400, 2400).astype("f4"), NamedSharding(line, P(None, "x")))
r = jax.device_put(np.random.rand(600, 600).astype("f4"), NamedSharding(line, P()))
state = {"w": w, "v": v, "r": r}
nbytes = sum(x.nbytes for x in state.values())

def on_disk(url):
    return sum(f.stat().st_size for f in pathlib.Path(url).glob("data-*"))

tracemalloc.start()
ckptstore.save("c", state)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
assert peak < nbytes / 8, f"{peak} of {nbytes}: shards are viewed, and nothing is gathered"
assert nbytes <= on_disk("c") < nbytes + 200_000, "each distinct shard once"
leaves = {leaf.path: leaf for leaf in ckptstore.inspect("c").leaves}
assert leaves["$['w']"].nbytes == w.nbytes

# A small array, which is one span, is cut on the host; of another, each shard is read.
from ckptstore.adapters import jax_shards
rows = NamedSharding(line, P("x"))
assert jax_shards.boxes(rows, (128, 64)) is None and len(jax_shards.boxes(rows, (512, 64))) == 8

# A run shares the shards that did not change.
manager = ckptstore.Manager("run")
for step in range(3):
    manager.save(step, state)
changed = np.asarray(w).copy()
changed[0, 0] += 1
manager.save(3, {**state, "w": jax.device_put(changed, w.sharding)})
last = pathlib.Path(f"run/step-{3:012}")
links = [f for f in last.glob("data-*") if f.stat().st_nlink > 1]
assert links == [], "a file with a changed shard is written"
manager.save(4, {**state, "w": jax.device_put(changed, w.sharding)})
manager.save(5, {**state, "w": jax.device_put(changed, w.sharding)})
links = [f for f in pathlib.Path(f"run/step-{5:012}").glob("data-*") if f.stat().st_nlink > 1]
assert sum(f.stat().st_size for f in links) > nbytes * 0.9
same({**state, "w": jax.device_put(changed, w.sharding)}, manager.load(5))
same(state, manager.load(2))
assert all(ckptstore.verify(f"run/step-{n:012}") == [] for n in range(6))
# Other cuts: nothing is shared wrongly.
turned = {**state, "w": jax.device_put(changed, NamedSharding(line, P(None, "x")))}
manager.save(6, turned)
same(turned, manager.load(6))
"""

DONATED = """
place = NamedSharding(grid, P("a", "b"))
step = jax.jit(lambda x: x + 1, donate_argnums=0, out_shardings=place)
x = step(jax.device_put(np.arange(2400 * 1200, dtype="f4").reshape(2400, 1200), place))
expected, pending = [], []
for number in range(5):
    pending.append(ckptstore.save_async(f"c{number}", {"x": x}))
    expected.append(np.asarray(x).copy())
    x = step(x)
for number, save in enumerate(pending):
    save.result()
    assert ckptstore.load(f"c{number}")["x"].tolist() == expected[number].tolist()
del pending, save
at = {s.device: s.data.unsafe_buffer_pointer() for s in x.addressable_shards}
x = step(x)
assert at == {s.device: s.data.unsafe_buffer_pointer() for s in x.addressable_shards}
"""

DAMAGED = """
w = np.random.default_rng(0).standard_normal((2400, 1200), np.float32)
state = {"w": jax.device_put(w, NamedSharding(grid, P("a", "b"))),
         "v": jax.device_put(w, NamedSharding(line, P("x")))}
ckptstore.save("c", state)
(file,) = pathlib.Path("c").glob("data-*")
whole = file.read_bytes()
for name, at in (("w", 100), ("w", 5 * 1_440_000 + 7), ("v", len(whole) - 100)):
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    for wish in (None, "whole", NamedSharding(line, P(None, "x"))):
        check(lambda: ckptstore.load("c", sharding=wish), file.name, f"$['{name}']", "checksum")
    (problem,) = ckptstore.verify("c")
    assert f"$['{name}']" in problem.message and file.name in problem.where, problem
file.write_bytes(whole)

# Other shardings in `like` than in the file.
placed = {"w": NamedSharding(line, P(None, "x")), "v": NamedSharding(grid, P("b"))}
like = {n: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=place) for n, place in placed.items()}
loaded = ckptstore.load("c", like)
assert {name: x.sharding for name, x in loaded.items()} == placed
same(state, loaded)

# One shard is gone.
for shape in ((2400, 1200), (64, 64)):
    for save in (ckptstore.save, lambda url, tree: ckptstore.save_async(url, tree).result()):
        x = jax.device_put(w[: shape[0], : shape[1]], NamedSharding(grid, P("a", "b")))
        x.addressable_shards[3].data.delete()
        check(lambda: save("gone", {"x": x}), "$['x']", "deleted or donated")
        assert not list(pathlib.Path("gone").glob("MANIFEST"))
"""

KILLED = """
import os, signal, sys
from ckptstore.checkpoint import commit
from ckptstore.saving import staging

def state(step):
    w = np.full((2400, 1200), step, "f4")
    return {"w": jax.device_put(w, NamedSharding(grid, P("a", "b"))), "step": step}

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

manager, at = ckptstore.Manager("run"), sys.argv[1]
last = manager.latest() or 0
if last:
    same({"w": state(last)["w"]}, {"w": manager.load()["w"]})
    assert ckptstore.verify(f"run/step-{last:012}") == []
manager.save(last + 1, state(last + 1))
if at == "chunks":
    chunks = staging.Job.chunks
    def some(self, numbers):
        for number, chunk in enumerate(chunks(self, numbers)):
            yield chunk if number < 5 else kill()
    staging.Job.chunks = some
elif at == "publish":
    commit.publish = kill
if at != "end":
    manager.save(last + 2, state(last + 2))
    raise AssertionError("it lives")
assert ckptstore.Manager("run").steps() == [1, 2, 3]
"""

WISHES = """
w = np.arange(48 * 96, dtype="f4").reshape(48, 96)
state = {"params": {"w": jax.device_put(w, NamedSharding(grid, P("a", "b"))),
                    "b": jax.device_put(w[0], NamedSharding(line, P("x")))},
         "count": jnp.asarray(3), "host": w[:2], "name": "run"}
ckptstore.save("c", state)
rows = NamedSharding(line, P("x"))

def spec(x):
    return x.sharding.spec

# One sharding, which must fit all arrays.
check(lambda: ckptstore.load("c", sharding=rows), "$['count']", "function of path and aval")
def place(path, aval):
    assert isinstance(aval, jax.ShapeDtypeStruct), aval
    return rows if aval.shape else None
loaded = ckptstore.load("c", sharding=place)  # as the message says
assert loaded["params"]["w"].sharding == loaded["params"]["b"].sharding == rows
assert len(loaded["count"].devices()) == 1 and type(loaded["host"]) is np.ndarray

# The stored specs on another mesh.
check(lambda: ckptstore.load("c", sharding=Mesh(devices[:6].reshape(3, 2), ("a", "b"))),
      "$['params']['b']", "axes x", "function of path and aval")
small = Mesh(devices[:6].reshape(3, 2, 1), ("a", "b", "x"))
loaded = ckptstore.load("c", sharding=small)
assert loaded["params"]["w"].sharding == NamedSharding(small, P("a", "b"))
assert loaded["count"].sharding.is_equivalent_to(NamedSharding(small, P()), 0)

def both(path, aval):
    return NamedSharding(small, P("a")) if aval.ndim == 2 else "whole"
assert ckptstore.load("c", sharding=both)["params"]["w"].sharding.spec == P("a")

# A tree like the top of the state.
loaded = ckptstore.load("c", sharding={"params": {"w": rows, "b": "whole"}, "count": None,
                                       "host": None, "name": None})
assert loaded["params"]["w"].sharding == rows and len(loaded["params"]["b"].devices()) == 1
check(lambda: ckptstore.load("c", sharding={"params": rows}), "$['count']", "None")
loaded = ckptstore.load("c", sharding={"params": rows, "count": None, "host": None, "name": None})
assert loaded["params"]["b"].sharding == rows
loaded = ckptstore.load("c", sharding=small, select="$.params")
assert loaded["w"].sharding.mesh == small

# It stands above `like`, and a device is a place.
like = jax.eval_shape(lambda: {**state, "host": w[:2], "name": 0}) | {"name": "run", "host": w[:2]}
assert ckptstore.load("c", like, sharding=small)["params"]["w"].sharding.mesh == small
assert ckptstore.load("c", sharding=devices[3])["count"].devices() == {devices[3]}

# A mesh without devices is that of `jax.set_mesh`; a spec has no more axes than the array.
if hasattr(jax, "set_mesh"):
    abstract = NamedSharding(grid.abstract_mesh, P())
    check(lambda: ckptstore.load("c", sharding=abstract), "$['params']", "names no devices")
    assert ckptstore.load("c", sharding=NamedSharding(grid, P()))["count"].sharding.mesh == grid
    with jax.set_mesh(grid):  # as the message says
        assert ckptstore.load("c", sharding=abstract)["count"].sharding.mesh == grid
check(lambda: ckptstore.load("c", sharding=NamedSharding(grid, P(None))), "$['count']", "1 axes")

# A place of `like` that does not fit.
odd = jax.ShapeDtypeStruct((48, 96), "f4", sharding=NamedSharding(Mesh(devices[:7], "x"), P("x")))
unfit = {**like, "params": {**like["params"], "w": odd}}
check(lambda: ckptstore.load("c", unfit), "$['params']['w']", "pass as sharding= a function")
loaded = ckptstore.load("c", unfit, sharding=place)  # as the message says
assert loaded["params"]["w"].sharding == rows

# What is none of these.
for wrong in (P("a"), 3, "half", {"params": 3, "count": None, "host": None, "name": None}):
    check(lambda: ckptstore.load("c", sharding=wrong), "sharding", "NamedSharding(mesh, spec)")
assert ckptstore.load("c", sharding="whole", arrays="numpy")["count"] == 3
manager = ckptstore.Manager("run")
manager.save(1, state)
assert manager.load(sharding=small)["params"]["w"].sharding.mesh == small
assert manager.load_or_init(lambda: state, sharding=small)["params"]["w"].sharding.mesh == small
"""

MESHES = """
import enum

w = np.arange(32, dtype="f4").reshape(8, 4)
ckptstore.save("rows", {"w": jax.device_put(w, NamedSharding(line, P("x")))})

# A mesh whose axes do not divide the array, or that has no devices.
three = Mesh(devices[:3], ("x",))
check(lambda: ckptstore.load("rows", sharding=three), "$['w']", "(8, 4)", "partitioned 3 times")
def none(path, aval):
    return NamedSharding(three, P())

assert ckptstore.load("rows", sharding=none)["w"].sharding.mesh == three  # as the message says
check(lambda: ckptstore.load("rows", sharding=Mesh(np.array([], object), ("x",))), "$['w']",
      "names no devices")
if hasattr(jax, "set_mesh"):
    abstract = line.abstract_mesh
    check(lambda: ckptstore.load("rows", sharding=abstract), "$['w']", "names no devices")
    with jax.set_mesh(line):  # as the message says
        x = ckptstore.load("rows", sharding=abstract)["w"]
    assert x.sharding == NamedSharding(line, P("x"))
    four = Mesh(devices[:4], ("x",))
    with jax.set_mesh(four):
        check(lambda: ckptstore.load("rows", sharding=abstract), "$['w']", "names no devices")
        # A mesh that is set counts if its sizes agree, too; else it is asked for.
        assert ckptstore.load("rows")["w"].sharding == NamedSharding(line, P("x"))
        assert ckptstore.load("rows", sharding=four)["w"].sharding == NamedSharding(four, P("x"))

# Axes whose names are no texts: the array comes back committed to none; its mesh is a way back.
class Axis(enum.Enum):
    ROWS = "rows"

for name in (0, Axis.ROWS):
    mesh = Mesh(devices, (name,))
    ckptstore.save("named", {"w": jax.device_put(w, NamedSharding(mesh, P(name)))}, overwrite=True)
    x = ckptstore.load("named")["w"]
    assert x.tolist() == w.tolist() and not x.committed and len(x.devices()) == 1, name
    wanted = NamedSharding(mesh, P(name))
    assert ckptstore.load("named", sharding=wanted)["w"].sharding == wanted

# Keys that are equal are one key.
one, two = NamedSharding(line, P()), NamedSharding(grid, P())
x = jnp.ones(8)
ckptstore.save("keys", {0: x, np.int64(1): x + 1, (1, "x"): x + 2, Axis.ROWS: x + 3})
for a, b, c in ((0, np.int64(1), 1), (np.int64(0), 1, np.int32(1))):
    loaded = ckptstore.load("keys", sharding={a: one, b: two, (c, "x"): one, Axis.ROWS: two})
    places = [loaded[key].sharding for key in (0, 1, (1, "x"), Axis.ROWS)]
    assert places == [one, two, one, two], places
"""

NNX = """
from flax import nnx

model = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
state = nnx.state(model)
ckptstore.save("c", {"model": state, "step": 3})

def check_placed(sharding, spec):
    loaded = ckptstore.load("c", sharding={"model": sharding, "step": None})["model"]
    for name in ("kernel", "bias"):
        x, expected = nnx.to_pure_dict(loaded)[name], nnx.to_pure_dict(state)[name]
        assert x.sharding == NamedSharding(line, spec) and bits(x) == bits(expected), x.sharding

rows = jax.tree.map(lambda x: NamedSharding(line, P(*[None] * (x.ndim - 1), "x")), state)
loaded = ckptstore.load("c", sharding={"model": rows, "step": None})["model"]
assert nnx.to_pure_dict(loaded)["kernel"].sharding == NamedSharding(line, P(None, "x"))
assert nnx.to_pure_dict(loaded)["bias"].sharding == NamedSharding(line, P("x"))
check_placed(nnx.get_named_sharding(state, line), P())
check_placed(nnx.to_pure_dict(jax.tree.map(lambda x: NamedSharding(line, P()), state)), P())
"""


SUMS = """
if hasattr(P(), "unreduced") and hasattr(jax, "reshard"):
    from jax.sharding import AxisType
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    a, b = np.arange(16.0, dtype="f4").reshape(2, 8), np.arange(16.0, dtype="f4").reshape(8, 2)
    with jax.set_mesh(mesh):
        spec = P(None, None, unreduced={"x"})
        multiply = jax.jit(lambda a, b: jnp.einsum("ij,jk->ik", a, b, out_sharding=spec))
        y = multiply(jax.device_put(a, NamedSharding(mesh, P(None, "x"))),
                     jax.device_put(b, NamedSharding(mesh, P("x", None))))
        check(lambda: ckptstore.save("sum", {"y": y}), "$['y']", "unreduced")
        ckptstore.save("sum", {"y": jax.reshard(y, P(None, None))})  # as the message says
    assert ckptstore.load("sum")["y"].tolist() == (a @ b).tolist()
    check(lambda: ckptstore.load("sum", sharding=y.sharding), "$['y']", "unreduced")
    marked = jax.device_put(a, NamedSharding(mesh, P(reduced={"x"})))
    ckptstore.save("marked", {"a": marked})
    loaded = ckptstore.load("marked")["a"]
    assert loaded.tolist() == a.tolist() and loaded.devices() == marked.devices()
else:
    print("make it with jax.reshard(x, spec), with a spec without `unreduced`")
"""


def run(script: str, place: pathlib.Path) -> str:
    """Run a script under eight devices of the host."""
    return devices.run(BEGIN + script, place)


@pytest.mark.process
def test_each_sharding_comes_back_under_each_other_and_on_fewer_devices(
    tmp_path: pathlib.Path,
) -> None:
    table = devices.run("", tmp_path, str(ROOT / "benchmarks" / "devices.py"), "1200", "960")
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert len(rows) == 6 * 10
    assert all(float(row[2]) <= 1.01 for row in rows), table


@pytest.mark.process
def test_each_dtype_comes_back_from_shards_with_its_place(tmp_path: pathlib.Path) -> None:
    run(DTYPES, tmp_path)


@pytest.mark.process
def test_each_distinct_shard_is_written_once_and_nothing_is_gathered(
    tmp_path: pathlib.Path,
) -> None:
    run(ONCE, tmp_path)


@pytest.mark.process
def test_shards_that_are_donated_after_save_async_are_saved_as_they_were(
    tmp_path: pathlib.Path,
) -> None:
    run(DONATED, tmp_path)


@pytest.mark.follows(
    "adapters.jax_places",
    "pass a function of path and aval that returns a sharding",
    "pass as sharding= a function of path and aval that returns another sharding for it",
)
@pytest.mark.follows(
    "adapters.jax_places",
    "pass a sharding on a mesh of devices, or call jax.set_mesh with such a mesh first",
)
@pytest.mark.follows("loading.wishes", "add it, or None for the stored place")
@pytest.mark.process
def test_sharding_says_where_arrays_come_back(tmp_path: pathlib.Path) -> None:
    remedies.seen(run(WISHES, tmp_path))


@pytest.mark.process
def test_damage_of_a_shard_names_its_file_and_path(tmp_path: pathlib.Path) -> None:
    run(DAMAGED, tmp_path)


@pytest.mark.process
def test_a_run_that_is_killed_in_a_sharded_save_goes_on(tmp_path: pathlib.Path) -> None:
    for at in ("chunks", "publish"):
        with pytest.raises(AssertionError, match=r"^-9"):
            devices.run(BEGIN + KILLED, tmp_path, at)
    devices.run(BEGIN + KILLED, tmp_path, "end")


@pytest.mark.process
def test_meshes_that_do_not_fit_and_odd_names_say_so(tmp_path: pathlib.Path) -> None:
    run(MESHES, tmp_path)


@pytest.mark.process
def test_a_state_of_nnx_may_hold_the_shardings(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("flax")
    run(NNX, tmp_path)


@pytest.mark.follows(
    "adapters.jax", "make it with jax.reshard(x, spec), with a spec without `unreduced`"
)
@pytest.mark.process
def test_a_sum_that_is_not_made_is_refused(tmp_path: pathlib.Path) -> None:
    remedies.seen(run(SUMS, tmp_path))

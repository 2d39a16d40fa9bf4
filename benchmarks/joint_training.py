"""The work of the processes of `make show-processes`, `make show-kills` and `joint_speed.py`."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fsspec.core import url_to_fs

import ckptstore
from ckptstore import Processes
from ckptstore.format import names

FEATURES, WIDTH, STEPS = 64, 768, 5
LOSSES = 20


def train(together: Processes, place: str, what: str) -> dict[str, Any]:
    """Train a model by adamw over all devices, from the beginning or from a checkpoint.

    Args:
        together: the processes.
        place: the checkpoint.
        what: "save": train, save in the background, and train on; "load": load, and train on.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, 1000))
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in [("data",), ()])

    def params(key: Any) -> dict[str, Any]:
        one, two = jax.random.split(key)
        return {
            "in": jax.random.normal(one, (WIDTH, FEATURES)) / 8,
            "out": jax.random.normal(two, (WIDTH, FEATURES)) / 8,
            "bias": jnp.zeros(FEATURES),
        }

    def placed(tree: Any) -> Any:
        """Rows of matrices over the devices; the rest everywhere."""
        return jax.tree.map(lambda x: rows if x.ndim == 2 else everywhere, tree)

    def begin(key: Any) -> dict[str, Any]:
        first = params(key)
        return {"params": first, "opt": optimizer.init(first), "key": key, "step": jnp.int32(0)}

    def loss_of(p: dict[str, Any], x: Any) -> Any:
        hidden = jax.nn.gelu(x @ p["in"].T)
        return jnp.mean((hidden @ p["out"] + p["bias"] - x) ** 2)

    @jax.jit
    def step(state: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        key, drawn = jax.random.split(state["key"])
        x = jax.random.normal(drawn, (32, FEATURES))
        loss, grads = jax.value_and_grad(loss_of)(state["params"], x)
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        new = optax.apply_updates(state["params"], updates)
        return {"params": new, "opt": opt, "key": key, "step": state["step"] + 1}, loss

    key = jax.random.key(0)
    shape = jax.eval_shape(begin, key)
    if what == "save":
        state = jax.jit(begin, out_shardings=placed(shape))(key)
        for _ in range(STEPS):
            state, _ = step(state)
        pending = ckptstore.save_async(place, state, step=STEPS)
    else:
        state = ckptstore.load(place, sharding=placed(shape))
    values = digests(jax, state)
    losses = []
    after = state
    for _ in range(LOSSES):
        after, loss = step(after)
        losses.append(np.asarray(loss.addressable_data(0)).tobytes().hex())
    if what == "save":
        pending.result(200)
    else:
        ckptstore.in_step(state)
    return {"losses": losses, "values": values, "written": written(place, together.count)}


def digests(jax: Any, tree: Any) -> list[str]:
    """Return the digest of each whole leaf, the same in all processes."""
    from jax.experimental import multihost_utils

    out = []
    for leaf in jax.tree.leaves(tree):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        whole = np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        out.append(hashlib.sha256(whole.tobytes()).hexdigest()[:16])
    return out


def written(place: str, count: int) -> list[int]:
    """Return the bytes of the data files of each process."""
    sizes = [0] * count
    store, directory = url_to_fs(place)
    for entry in store.ls(directory, detail=True):
        name = entry["name"].rpartition("/")[2]
        number = names.process_of(name)
        if name.startswith("data-") and number is not None and number < count:
            sizes[number] += entry["size"]
    return sizes


def share(together: Processes, place: str, kind: str) -> list[int]:
    """Save a state of one kind; return the bytes that each process wrote."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    specs = {"replicated": [()], "sharded": [("data",)], "mixed": [(), ("data",), (None, "data")]}

    def make(rows: int, axes: tuple[Any, ...]) -> Any:
        host = np.arange(rows * 1024, dtype=np.float32).reshape(rows, 1024)
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    chosen = specs[kind]
    tree = [make(256 * (1 + n % 3), chosen[n % len(chosen)]) for n in range(24)]
    ckptstore.save(place, tree)
    return written(place, together.count)


# A process that dies, or raises, at a point of a save.

POINTS = [
    "before the word",
    "after the word",
    "before it joins",
    "after it joined",
    "before its data",
    "after its data",
    "before its part",
    "after its part",
    "before the merge",
    "at the commit",
]
LEADER_ALONE = {"before the merge", "at the commit"}


def fail(together: Processes, place: str, point: str, who: int, how: str) -> dict[str, Any]:
    """Save; process `who` is killed or raises at a point.

    Returns:
        What the process got: the attempt, or the error.
    """
    from ckptstore.saving import joint_attempt, joint_saves

    def now(*_: Any) -> Any:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError(f"raised {point}")

    def before(owner: Any, name: str) -> None:
        setattr(owner, name, now)

    def after(owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            now()
            return result

        setattr(owner, name, call)

    class_ = joint_attempt.JointAttempt
    leads = who == 0
    plans: dict[str, Callable[[], None]] = {
        POINTS[0]: lambda: before(joint_saves, "begin"),
        POINTS[1]: lambda: after(Processes, "say" if leads else "hear"),
        POINTS[2]: lambda: before(joint_saves, "outline_of"),
        POINTS[3]: lambda: after(joint_saves, "begin"),
        POINTS[4]: lambda: before(joint_attempt, "write_files"),
        POINTS[5]: lambda: after(joint_attempt, "write_files"),
        POINTS[6]: lambda: after(class_, "_write"),
        POINTS[7]: lambda: before(joint_attempt.waiting, "for_verdict"),
        POINTS[8]: lambda: before(joint_attempt, "merge"),
        POINTS[9]: lambda: before(joint_attempt.commit, "publish_held"),
    }
    if together.index == who:
        plans[point]()
    tree = {"w": np.arange(500_000.0), "step": 7}
    try:
        return {"saved": ckptstore.save(place, tree, processes=together).attempt}
    except ckptstore.CheckpointError as error:
        return {"error": type(error).__name__, "reason": str(error.reason), "text": str(error)}
    except RuntimeError as error:
        return {"error": "RuntimeError", "reason": "-", "text": str(error)}


# The speed of a save and a load.

TOOLS = ("ckptstore", "Orbax")


def measure(together: Processes, folder: str, mib: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each save and load in this process, by the tool."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    from jax.experimental import multihost_utils
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    specs = [PartitionSpec("data", "model"), PartitionSpec("data"), PartitionSpec()]
    rows = mib * 2**20 // (3 * 12 * 4 * 2048) // 8 * 8

    def make(n: int) -> Any:
        host = np.random.default_rng(n).standard_normal((rows, 2048), np.float32)
        sharding = NamedSharding(mesh, specs[n % 3])
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    state = {part: [make(n) for n in range(12)] for part in ("params", "mu", "nu")}
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    orbax = ocp.StandardCheckpointer()

    def save(tool: str, place: str) -> None:
        if tool == "Orbax":
            orbax.save(place, state)
            orbax.wait_until_finished()
        else:
            ckptstore.save(place, state)

    seen: dict[str, list[tuple[float, float]]] = {tool: [] for tool in TOOLS}
    for number in range(rounds):
        for tool in sorted(TOOLS, reverse=bool(number % 2)):
            place = f"{folder}/{tool}-{number}"
            multihost_utils.sync_global_devices("save")
            begin = time.perf_counter()
            save(tool, place)
            saved = time.perf_counter() - begin
            multihost_utils.sync_global_devices("load")
            begin = time.perf_counter()
            loaded = orbax.restore(place, like) if tool == "Orbax" else ckptstore.load(place)
            jax.block_until_ready(loaded)
            seen[tool].append((saved, time.perf_counter() - begin))
            for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(loaded), strict=True):
                for mine, other in zip(a.addressable_shards, b.addressable_shards, strict=True):
                    np.testing.assert_array_equal(mine.data, other.data)
            del loaded
            multihost_utils.sync_global_devices("remove")
            if together.index == 0:
                shutil.rmtree(place)
    return seen

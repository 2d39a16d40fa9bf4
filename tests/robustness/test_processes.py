"""Real processes that save and load together, over jax, torch and no engine."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Processes
from ckptstore.format import names
from tests.support import cluster, remedies

DEVICES = 2


# jax: one cluster does many things, since four processes take seconds to start.


def jax_state(jax: Any) -> dict[str, Any]:
    """A tree with every kind of sharding, the same values whatever the layout."""
    import jax.numpy as jnp
    import optax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))

    def make(shape: tuple[int, ...], spec: Any, dtype: Any = np.float32) -> Any:
        host = (np.arange(np.prod(shape)) % 7).reshape(shape).astype(dtype)
        return jax.make_array_from_callback(shape, NamedSharding(mesh, spec), host.__getitem__)

    params = {
        "rows": make((1200, 1200), P("d")),
        "columns": make((1200, 1200), P(None, "d")),
        "everywhere": make((1200, 1200), P()),
    }
    count = jax.jit(lambda: jnp.int32(5), out_shardings=NamedSharding(mesh, P()))()
    adam, *rest = optax.adamw(1e-3).init(params)
    return {
        "params": params,
        "opt": (adam._replace(count=count), *rest),
        "small": make((12, 3), P("d")),
        "bf16": make((12, 5), P("d"), jnp.bfloat16),
        "int4": make((12, 4), P("d"), jnp.int4),
        "key": jax.random.wrap_key_data(make((6, 2), P("d"), np.uint32)),
        "local": jnp.arange(6.0),
        "n": np.arange(3),
        "step": 7,
    }


def local_bytes(jax: Any, tree: Any) -> list[bytes]:
    """Return the bytes of all leaves that lie in this process."""
    out = []
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array):
            out.append(repr(leaf).encode())
            continue
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        shards = sorted(leaf.addressable_shards, key=lambda shard: str(shard.index))
        out += [np.asarray(shard.data).tobytes() for shard in shards]
    return out


def save_with_jax(together: Processes, place: str) -> dict[str, Any]:
    import jax
    import optax
    from jax.experimental import multihost_utils

    from ckptstore.optax import check_counts, counts, fit, shift_counts

    state = jax_state(jax)
    expected = local_bytes(jax, state)
    saved = ckptstore.save(f"{place}/sync", state, step=7)
    pending = ckptstore.save_async(f"{place}/async", state, step=8)
    attempt = pending.result(cluster.WITHIN).attempt
    found: dict[str, Any] = {"attempts": [saved.attempt, attempt], "leaves": len(saved.leaves)}

    # It comes back on the stored mesh, on the shardings of `like`, and is equal.
    for name, like in {"stored": None, "like": state}.items():
        loaded = ckptstore.load(f"{place}/async", like=like)
        found[name] = local_bytes(jax, loaded) == expected
        found[f"{name} placed"] = all(
            a.sharding == b.sharding
            for a, b in zip(
                jax.tree.leaves(loaded["params"]), jax.tree.leaves(state["params"]), strict=True
            )
        )

    # One process alone cannot save it; the error names the way.
    try:
        ckptstore.save(f"{place}/one", state, processes="one")
    except ckptstore.StructureError as error:
        found["one"] = str(error)
    rows = multihost_utils.process_allgather(state["params"]["rows"], tiled=True)
    if together.index == 0:
        ckptstore.save(f"{place}/gathered", rows)

    # Counters of all processes are read and shifted, on their sharding.
    (row,) = counts(state["opt"])
    shifted = shift_counts(state["opt"], 10)
    found["counts"] = [int(row.value), int(counts(shifted)[0].value), check_counts(shifted) == []]
    found["sharding"] = shifted[0].count.sharding == state["opt"][0].count.sharding

    # They are fitted to a changed chain, and the moments to another dtype.
    today = optax.chain(optax.clip(1.0), optax.adamw(1e-3, mu_dtype=jax.numpy.bfloat16))
    fitted, _ = fit(state["opt"], today, state["params"])
    adam, old = fitted[1][0], state["opt"][0]
    found["fitted"] = [
        adam.count is old.count and adam.nu["rows"] is old.nu["rows"],
        adam.mu["rows"].sharding == old.mu["rows"].sharding,
        str(adam.mu["rows"].dtype),
    ]

    # A run: all follow process 0, and are in step.
    with ckptstore.Manager(f"{place}/run", keep=ckptstore.keep_last(1)) as manager:
        for step in (1, 2):
            manager.save_async(step, state | {"step": step})
    loaded = manager.load(like=state | {"step": 0})
    found["run"] = [loaded["step"], manager.steps(), manager.loaded_step]
    ckptstore.in_step(loaded)
    try:
        ckptstore.in_step(loaded | {"step": together.index})
    except ckptstore.ProcessError as error:
        found["in step"] = error.reason

    # A key of each process, which is not spread over all of them as the params are.
    host = {"key": jax.random.key(together.index), "n": together.index}
    ckptstore.save(f"{place}/own", state | {"host": host}, per_process=["$.host"])
    for name, like in {"own": None, "own like": state | {"host": host}}.items():
        loaded = ckptstore.load(f"{place}/own", like=like)
        same = local_bytes(jax, loaded["host"]) == local_bytes(jax, host)
        found[name] = same and local_bytes(jax, loaded["params"]) == local_bytes(
            jax, state["params"]
        )
    try:
        ckptstore.save(f"{place}/spread", state, per_process=["$.params"])
    except ckptstore.StructureError as error:
        found["spread"] = str(error)

    # Numbers other than those of jax are refused, by path.
    count, gather = together.count, together.allgather
    assert gather is not None
    other = Processes((together.index + 1) % count, count, lambda data: gather(data)[count - 1])
    try:
        ckptstore.save(f"{place}/other", {"rows": state["params"]["rows"]}, processes=other)
    except ckptstore.CheckpointError as error:
        found["other"] = str(error)

    # A state that differs is refused in all.
    bad = state | {"n": np.arange(3) + (together.index == 1), "step": 7}
    try:
        ckptstore.save(f"{place}/bad", bad)
    except ckptstore.ProcessError as error:
        found["bad"] = [error.reason, "$['n']" in str(error)]
    return found


@pytest.mark.ci
@pytest.mark.follows(
    "saving.writer",
    "call save in every process with processes=None, or gather the array first: {}",
)
@pytest.mark.follows("tree.own_values", "leave it out")
@pytest.mark.follows(
    "adapters.jax_shards",
    "leave processes= out, or pass ckptstore.processes(), whose numbers are those of jax",
)
def test_a_state_over_the_devices_of_three_processes_is_one_checkpoint(tmp_path: Path) -> None:
    ended = cluster.run("jax", 3, save_with_jax, str(tmp_path), devices=DEVICES)
    values = [process.value for process in ended]
    assert None not in values, [process.stderr[-3000:] for process in ended]
    assert values[0]["attempts"] == values[1]["attempts"] == values[2]["attempts"]
    for value in values:
        for name in ("stored", "stored placed", "like", "like placed", "own", "own like"):
            assert value[name] is True, (name, value)
        assert value["bad"] == ["values-differ", True]
        assert value["counts"] == [5, 15, True] and value["sharding"] is True, value
        assert value["fitted"] == [True, True, "bfloat16"]
        assert value["run"] == [2, [2], 2]
        assert value["in step"] == "values-differ"
        assert "$['params']['rows'] lies in several processes" in value["spread"]
        remedies.seen(value["spread"])
        assert "lies in several processes" in value["one"]
        remedies.seen(value["one"])
        assert "$['rows']" in value["other"]
        remedies.seen(value["other"])
    sizes = [0] * 3
    for path in (tmp_path / "sync").glob("data-*"):
        number = names.process_of(path.name)
        assert number is not None
        sizes[number] += path.stat().st_size
    assert max(sizes) <= 1.05 * min(sizes), sizes
    # This process is one, with as many devices as it has.
    assert ckptstore.verify(tmp_path / "sync") == []
    loaded = ckptstore.load(tmp_path / "async", arrays="numpy")
    for name in ("rows", "columns", "everywhere"):
        whole = (np.arange(1200 * 1200) % 7).reshape(1200, 1200).astype(np.float32)
        np.testing.assert_array_equal(loaded["params"][name], whole)
    np.testing.assert_array_equal(ckptstore.load(tmp_path / "gathered"), whole)
    assert int(loaded["opt"][0].count) == 5 and loaded["step"] == 7


# torch: data parallel.


def train_with_torch(together: Processes, place: str) -> dict[str, Any]:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 1))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def train(steps: int, first: int) -> list[float]:
        losses = []
        for step in range(first, first + steps):
            x = torch.full((8, 64), float(step % 5 + together.index) / 7)
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    train(3, 0)
    state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}
    torch.rand(1 + together.index)  # the rank has a generator and a place in the data of its own
    state["rng"], state["data"] = torch.get_rng_state(), {"order": list(range(together.index))}
    own = ["$.rng", "$.data"]
    saved = ckptstore.save(f"{place}/ddp", state, step=3, processes="all", per_process=own)
    attempt, drawn = saved.attempt, torch.rand(5)
    after = train(5, 3)
    loaded = ckptstore.load(f"{place}/ddp")
    torch.set_rng_state(loaded["rng"])
    assert torch.equal(torch.rand(5), drawn) and loaded["data"] == state["data"]
    ckptstore.in_step(loaded, per_process=own)
    model.module.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    again = train(5, loaded["step"])
    return {"attempt": attempt, "equal": after == again}


@pytest.mark.ci
def test_a_model_of_ddp_is_saved_once_by_all_ranks_and_training_goes_on(tmp_path: Path) -> None:
    ended = cluster.run("torch", 2, train_with_torch, str(tmp_path))
    values = [process.value for process in ended]
    assert None not in values, [process.stderr[-3000:] for process in ended]
    assert values[0]["attempt"] == values[1]["attempt"]
    assert [value["equal"] for value in values] == [True, True]
    assert ckptstore.inspect(tmp_path / "ddp").processes == 2
    assert ckptstore.verify(tmp_path / "ddp") == []


# No engine: processes that only have a broadcast, killed for real.

POINTS = ["before its data", "after its data", "after its part", "at the merge", "at the commit"]


def save_and_die(together: Processes, place: str, point: str, who: int) -> dict[str, Any]:
    """Save; one process is killed at a point on the way."""
    from ckptstore.saving import joint_attempt

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def before(name: str) -> None:
        setattr(joint_attempt, name, die)

    def after(name: str) -> None:
        real = getattr(joint_attempt, name)

        def call(*arguments: Any) -> None:
            real(*arguments)
            die()

        setattr(joint_attempt, name, call)

    if together.index == who:
        if point == POINTS[0]:
            before("write_files")
        elif point == POINTS[1]:
            after("write_files")
        elif point == POINTS[2]:
            joint_attempt.waiting.for_verdict = die
        elif point == POINTS[3]:
            before("merge")
        else:
            joint_attempt.commit.publish_held = die
    tree = {"w": np.arange(1_000_000.0), "step": 7}
    try:
        return {"attempt": ckptstore.save(place, tree, processes=together).attempt}
    except ckptstore.CheckpointError as error:
        return {"error": type(error).__name__, "reason": error.reason, "text": str(error)}


CASES = [(point, 2 if number < 3 else 0) for number, point in enumerate(POINTS)]


@pytest.mark.parametrize(
    ("kind", "point", "who"),
    [
        pytest.param(
            kind,
            *case,
            id=f"{kind}, {case[0]}",
            marks=[] if (kind, case[0]) == ("plain", POINTS[1]) else [pytest.mark.ci],
        )
        for kind in ("plain", "slurm")
        for case in CASES
    ],
)
def test_whichever_process_is_killed_the_others_say_so_in_time(
    tmp_path: Path, kind: str, point: str, who: int
) -> None:
    place = tmp_path / "c"
    ended = cluster.run(kind, 4, save_and_die, str(place), point, who, timeout=8.0)
    killed = ended.pop(who)
    assert killed.returncode == -signal.SIGKILL
    values = [process.value for process in ended]
    assert None not in values, [process.stderr[-3000:] for process in ended]
    if point == POINTS[2]:  # its part is in, so the others go on
        assert len({value["attempt"] for value in values}) == 1
        assert ckptstore.verify(place) == []
        return
    if who == 0:
        assert {value["reason"] for value in values} == {"outcome-unknown"}
    else:
        assert {value["reason"] for value in values} == {"lost-process"}
        assert all("process 2 gave no sign of life" in value["text"] for value in values)
    with pytest.raises(ckptstore.NotCommittedError):
        ckptstore.load(place)


# Tasks of Slurm, which have no broadcast.


def train_under_slurm(
    together: Processes, place: str, until: int, killed: bool, impatient: bool
) -> dict[str, Any]:
    from ckptstore.saving import joint_attempt

    index, count = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    given: Any = together if impatient else (index, count)
    manager = ckptstore.Manager(place, processes=given)
    step = manager.latest()
    tree = {"w": np.zeros(300_000), "step": 0} if step is None else manager.load(step)
    first = tree["step"]
    for number in range(first + 1, until + 1):
        tree = {"w": tree["w"] + number, "step": number}
        if killed and index == 1 and number == until:
            joint_attempt.write_files = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        try:
            manager.save_async(number, tree).result()
        except ckptstore.CheckpointError as error:
            return {"first": first, "reason": error.reason}
    return {"first": first, "steps": manager.steps()}


@pytest.mark.ci
def test_tasks_of_slurm_save_are_killed_and_go_on_when_they_are_requeued(tmp_path: Path) -> None:
    def job(until: int, killed: bool, impatient: bool, **environment: str) -> list[Any]:
        arguments = (str(tmp_path), until, killed, impatient)
        ended = cluster.run(
            "slurm", 3, train_under_slurm, *arguments, timeout=8.0, environment=environment
        )
        assert all(process.value is not None for process in ended if process.returncode == 0)
        return [process.value for process in ended]

    lost = {"first": 0, "reason": "lost-process"}
    assert job(3, True, True) == [lost, None, lost]
    # The same step in the same srun is refused, since its attempt was used; a new srun goes on.
    refused = job(4, False, True)
    assert [value["first"] for value in refused] == [2] * 3
    assert refused[0]["reason"] == "twice" and all("reason" in value for value in refused)
    requeued = job(4, False, False, SLURM_RESTART_COUNT="1")
    assert requeued == [{"first": 2, "steps": [1, 2, 3, 4]}] * 3
    assert ckptstore.verify(f"{tmp_path}/step-000000000004") == []
    np.testing.assert_array_equal(ckptstore.Manager(tmp_path).load()["w"], np.full(300_000, 10.0))


# A cluster stops one process.


def train_until_stopped(together: Processes, place: str, first: int) -> dict[str, Any]:
    logging.basicConfig(level=logging.INFO)
    manager = ckptstore.Manager(place, processes=together)
    preempted = manager.on_preemption()
    for step in range(first, first + 10_000):
        if together.index == 1 and step == first + 5:
            os.kill(os.getpid(), signal.SIGTERM)
        if preempted.at(step):
            manager.save(step, {"step": step}, force=True)
            return {"step": step, "steps": manager.steps()}
        time.sleep(0.002)
    return {"step": None}


@pytest.mark.ci
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            "jax",
            marks=pytest.mark.follows(
                "runs.preemption", "ask preempted.at(step) in each step, in all processes"
            ),
        ),
        "plain",
    ],
)
def test_if_one_process_is_told_to_stop_all_save_the_same_step(tmp_path: Path, kind: str) -> None:
    ended = cluster.run(kind, 3, train_until_stopped, str(tmp_path), 100)
    values = [process.value for process in ended]
    assert None not in values, [process.stderr[-3000:] for process in ended]
    remedies.seen(ended[0].stderr)
    assert values[0] == values[1] == values[2]
    assert values[0]["step"] is not None and values[0]["steps"] == [values[0]["step"]]
    assert ckptstore.Manager(tmp_path).load() == {"step": values[0]["step"]}

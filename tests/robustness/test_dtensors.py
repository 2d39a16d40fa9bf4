"""DTensors in real processes: FSDP2, tensor parallelism, and what is refused in all alike.

One cluster does many things, since its processes take seconds to start. Parts and layouts one by
one: tests/frameworks/test_dtensor.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Processes
from ckptstore.format import names
from tests.support import cluster, remedies

pytestmark = pytest.mark.ci


def sharded(kind: str, seed: int) -> tuple[Any, Any]:
    """Return a model of two layers over all processes, and its optimizer.

    Args:
        kind: "fsdp", "hsdp" (two copies) or "fsdp and tp" (two by two).
        seed: the seed of its weights.
    """
    import torch
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import parallel

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    count = get_world_size()
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (count,), mesh_dim_names=("dp",))
    else:
        mesh = init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("dp", "tp"))
    if kind == "fsdp and tp":
        plan = {"0": parallel.ColwiseParallel(), "2": parallel.RowwiseParallel()}
        parallel.parallelize_module(model, mesh["tp"], plan)
        mesh = mesh["dp"]
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def train(model: Any, optimizer: Any, first: int, steps: int) -> list[str]:
    """Return the losses of some steps, to the bit."""
    import torch

    losses = []
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        loss = model(torch.randn(8, 6, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item().hex())
    return losses


def equal(one: Any, other: Any) -> bool:
    """Return whether two trees have the same tensors, in this process."""
    import torch
    from torch.distributed.tensor import DTensor

    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, DTensor):
        same = one.placements == other.placements and one.device_mesh == other.device_mesh
        return same and torch.equal(one.to_local(), other.to_local())
    if isinstance(one, torch.Tensor):
        return type(one) is type(other) and torch.equal(one, other)
    return bool(one == other)


def whole(tree: Any) -> Any:
    """Return the values of a tree, in lists; all processes call this."""
    if isinstance(tree, dict):
        return {str(key): whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [whole(value) for value in tree]
    if hasattr(tree, "full_tensor"):
        tree = tree.full_tensor()
    return tree.tolist() if hasattr(tree, "tolist") else tree


def caught(call: Callable[[], Any]) -> list[str]:
    """Return the reason and the text of the error of a call."""
    try:
        call()
    except ckptstore.CheckpointError as error:
        return [str(error.reason), str(error)]
    return ["", "no error"]


def save_with_four(together: Processes, place: str) -> dict[str, Any]:
    from torch.distributed.checkpoint import state_dict as states

    found: dict[str, Any] = {"goes on": {}, "whole": {}}
    for kind in ("fsdp", "hsdp", "fsdp and tp"):
        model, optimizer = sharded(kind, 0)
        train(model, optimizer, 0, 3)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}
        pending = ckptstore.save_async(f"{place}/{kind}", state, step=3)
        values = whole(state)
        after = train(model, optimizer, 3, 3)
        found.setdefault("attempts", []).append(pending.result(cluster.WITHIN).attempt)
        found["whole"][kind] = values
        # Into a new model, whose optimizer has no state yet.
        again, second = sharded(kind, 1)
        like = {"model": again.state_dict(), "step": 0}
        pattern = ["$.model", "$.step"]
        loaded = ckptstore.load(f"{place}/{kind}", like=like, select=pattern)
        again.load_state_dict(loaded["model"])
        begun = states.get_optimizer_state_dict(again, second)  # it makes the state of a new one
        assert begun["state"]
        like = {"optimizer": second.state_dict()}
        opt = ckptstore.load(f"{place}/{kind}", like=like, select="$.optimizer")["optimizer"]
        second.load_state_dict(opt)
        found["goes on"][kind] = train(again, second, loaded["step"], 3) == after

    # The state dicts of torch.distributed.checkpoint, by name.
    state = dict(zip(("model", "optimizer"), states.get_state_dict(model, optimizer), strict=True))
    manager = ckptstore.Manager(f"{place}/run", keep=ckptstore.keep_last(1))
    for step in (1, 2):
        manager.save(step, state)
    loaded = manager.load(like=state)
    ckptstore.in_step(loaded)
    again, second = sharded(kind, 1)
    states.set_state_dict(
        again, second, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
    )
    got = states.get_state_dict(again, second)
    found["by name"] = equal(list(got), [state["model"], state["optimizer"]])
    found["run"] = [manager.steps(), manager.loaded_step]
    found |= every_placement(together, place)
    found |= what_is_refused(together, place)
    return found


def every_placement(together: Processes, place: str) -> dict[str, Any]:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    line = init_device_mesh("cpu", (4,))
    tree: dict[str, Any] = {}
    for name, on, placements in (
        ("line", line, [Shard(0)]),
        ("columns", line, [Shard(1)]),
        ("copies", mesh, [Replicate(), Replicate()]),
        ("blocks", mesh, [Shard(0), Shard(1)]),
        ("twice", mesh, [Shard(0), Shard(0)]),
        ("part", mesh["tp"], [Shard(0)]),
        ("flat", mesh["dp", "tp"]._flatten("all"), [Shard(0)]),
    ):
        for shape in ((7, 5), (1, 3), (800, 700)):
            full = torch.arange(float(np.prod(shape))).reshape(shape)
            tree[f"{name} {shape}"] = distribute_tensor(full, on, placements)
    tree["half"] = distribute_tensor(torch.arange(9).bfloat16(), line, [Shard(0)])
    tree["parameter"] = torch.nn.Parameter(tree["line (7, 5)"])
    tree["tied"] = tree["line (1, 3)"].detach()
    ckptstore.save(f"{place}/placements", tree)
    loaded = ckptstore.load(f"{place}/placements", like=tree)
    marks = isinstance(loaded["parameter"], torch.nn.Parameter)
    tied = loaded["tied"] is loaded["line (1, 3)"]
    plain = ckptstore.load(f"{place}/placements", sharding="whole")
    same = all(torch.equal(plain[name], x.full_tensor()) for name, x in tree.items())
    # Bytes that all have are shared out.
    layers = [torch.full((1 << 18,), float(n)) for n in range(8)]
    hybrid = [distribute_tensor(x, mesh, [Replicate(), Shard(0)]) for x in layers]
    copies = distribute_tensor(torch.ones(4 << 20), mesh, [Replicate(), Replicate()])
    ckptstore.save(f"{place}/shares", {"hybrid": hybrid, "copies": copies})
    return {"placements": [equal(tree, loaded), marks, tied, same]}


def what_is_refused(together: Processes, place: str) -> dict[str, Any]:
    import torch
    from torch.distributed import _shard
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.placement_types import _StridedShard

    me = together.index
    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("dp",))
    x = distribute_tensor(torch.arange(8.0), mesh, [Shard(0)])
    found: dict[str, Any] = {}

    def refused(name: str, tree: Any, **options: Any) -> None:
        found[name] = caught(lambda: ckptstore.save(f"{place}/bad {name}", tree, **options))

    def kept(name: str, tree: Any) -> None:
        """What a remedy makes of it is saved, and comes back."""
        ckptstore.save(f"{place}/good {name}", tree)
        found[f"{name} kept"] = equal(ckptstore.load(f"{place}/good {name}", like=tree), tree)

    def copied(x: Any) -> Any:
        return x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)

    term = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    refused("sum", {"x": term})
    kept("sum", {"x": copied(term)})
    pieces = distribute_tensor(torch.arange(24.0), mesh, [_StridedShard(0, split_factor=3)])
    refused("pieces", {"x": pieces})
    kept("pieces", {"x": pieces.full_tensor(), "y": x})

    # A group of processes that is smaller than the program.
    halves = [DeviceMesh("cpu", [0, 1]), DeviceMesh("cpu", [2, 3])]
    own = halves[me // 2]
    part = DTensor.from_local(torch.full((2,), float(me)), own, [Shard(0)], run_check=False)
    refused("group", {"x": part})
    full = part.full_tensor()
    if me == 0:
        ckptstore.save(f"{place}/gathered group", {"x": full}, processes="one")
    root = init_device_mesh("cpu", (2, 2), mesh_dim_names=("half", "rest"))
    kept("group", {"x": distribute_tensor(torch.arange(4.0), root["rest"], [Shard(0)])})

    # A ShardedTensor.
    spec = _shard.sharding_spec.ChunkShardingSpec(0, [f"rank:{rank}/cpu" for rank in range(4)])
    old = _shard.sharded_tensor.ones(spec, 8, 2)
    refused("sharded tensor", {"x": old})
    kept("sharded tensor", {"x": DTensor.from_local(old.local_tensor(), mesh, [Shard(0)])})

    # One process alone, and numbers other than those of torch.
    refused("alone", {"x": x}, processes="one")
    kept("alone", {"x": x})
    everything = x.full_tensor()
    if me == 0:
        ckptstore.save(f"{place}/gathered alone", {"x": everything}, processes="one")
    gather = together.allgather
    assert gather is not None
    other = Processes((me + 1) % 4, 4, lambda data: gather(data)[3])
    refused("other numbers", {"x": x}, processes=other)

    # Only one process has something that cannot be saved.
    marked = torch.nn.Parameter(x)
    if me == 2:
        marked.grad = x.clone()
    refused("one bad", {"x": marked})

    # Running statistics differ between processes.
    norm = torch.nn.BatchNorm1d(2)
    norm(torch.arange(8.0).reshape(4, 2) * (1 + me))
    refused("norm", {"x": x, "norm": norm.state_dict()})
    gathered: list[Any] = [None] * 4
    torch.distributed.all_gather_object(gathered, norm.state_dict())
    kept("norm", {"x": x, "norm": gathered})
    own = {"x": x, "norm": norm.state_dict()}
    ckptstore.save(f"{place}/own norm", own, per_process=["$.norm"])
    loaded = ckptstore.load(f"{place}/own norm", like=own)
    found["norm kept"] = found["norm kept"] and equal(loaded, own)
    return {"refused": found}


def load_with_three(together: Processes, place: str) -> dict[str, Any]:
    """Restore on another number of processes what four have saved."""
    from torch.distributed.device_mesh import init_device_mesh

    model, optimizer = sharded("fsdp", 1)
    train(model, optimizer, 0, 1)
    like = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 0}
    loaded = {kind: ckptstore.load(f"{place}/{kind}", like=like) for kind in ("fsdp", "hsdp")}
    # With tensor parallelism the optimizer numbers the same parameters.
    loaded["fsdp and tp"] = ckptstore.load(f"{place}/fsdp and tp", like=like)
    mesh = init_device_mesh("cpu", (3,), mesh_dim_names=("dp",))
    by_mesh = ckptstore.load(f"{place}/fsdp", sharding=mesh)
    found = {
        "whole": {kind: whole(state) for kind, state in loaded.items()},
        "mesh": equal(by_mesh, loaded["fsdp"]),
        "parts": [list(x.to_local().shape) for x in loaded["fsdp"]["model"].values()],
    }
    model.load_state_dict(loaded["fsdp"]["model"])
    optimizer.load_state_dict(loaded["fsdp"]["optimizer"])
    train(model, optimizer, 3, 1)
    return found


@pytest.mark.follows(
    "adapters.torch_shards",
    "save x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)",
    "make its mesh a part of one over all processes, or save x.full_tensor() in one process of the "
    'mesh, with processes="one"',
    "leave processes= out, or pass ckptstore.processes(), whose numbers are those of "
    "torch.distributed",
)
@pytest.mark.follows(
    "saving.writer",
    "call save in every process with processes=None, or gather the array first: {}",
)
@pytest.mark.follows(
    "adapters.torch_refusals", "save DTensor.from_local(x.local_tensor(), mesh, [Shard(0)])"
)
def test_a_state_of_fsdp_and_tensor_parallelism_is_one_checkpoint(tmp_path: Path) -> None:
    ended = cluster.run("torch", 4, save_with_four, str(tmp_path))
    values = [process.value for process in ended]
    assert None not in values, [process.stderr[-3000:] for process in ended]
    for value in values:
        assert value["attempts"] == values[0]["attempts"]
        assert set(value["goes on"].values()) == {True}, value["goes on"]
        assert value["by name"] is True and value["run"] == [[2], 2]
        assert value["placements"] == [True] * 4
        check_refusals(value["refused"], tmp_path)
    for kind in values[0]["goes on"]:
        assert ckptstore.verify(tmp_path / kind) == []
        assert ckptstore.inspect(tmp_path / kind).processes == 4
        numpy = ckptstore.load(tmp_path / kind, arrays="numpy")
        assert whole(numpy) == values[0]["whole"][kind]
    sizes = [0] * 4
    for path in (tmp_path / "shares").glob("data-*"):
        number = names.process_of(path.name)
        assert number is not None
        sizes[number] += path.stat().st_size
    assert max(sizes) <= 1.1 * min(sizes), sizes

    # Restored on three.
    ended = cluster.run("torch", 3, load_with_three, str(tmp_path))
    loaded = [process.value for process in ended]
    assert None not in loaded, [process.stderr[-3000:] for process in ended]
    for value in loaded:
        assert value["mesh"] is True
        assert value["whole"] == values[0]["whole"]
    assert [value["parts"][0] for value in loaded] == [[3, 6], [3, 6], [2, 6]]
    assert [value["parts"][3] for value in loaded] == [[1], [0], [0]]


def check_refusals(found: dict[str, Any], place: Path) -> None:
    expected = {
        "sum": ("cannot-carry", "a sum that is not made yet"),
        "pieces": ("cannot-carry", "do not give each process one box"),
        "group": ("cannot-carry", "which is not of all 4 processes"),
        "sharded tensor": ("cannot-carry", "ShardedTensor"),
        "alone": ("cannot-carry", "lies in several processes"),
        "other numbers": (None, "other processes hold a part"),
        "one bad": (None, "this tensor has a gradient"),
        "norm": ("values-differ", "$['norm']['running_mean']"),
    }
    for name, (reason, words) in expected.items():
        got, text = found[name]
        assert words in text, (name, text)
        assert reason is None or got == reason, (name, got, text)
        remedies.seen(text)
        assert not list((place / f"bad {name}").glob("data-*"))
        assert not (place / f"bad {name}" / "MANIFEST").exists()
        if f"{name} kept" in found:
            assert found[f"{name} kept"] is True, name
    assert "$['x']" in found["one bad"][1]

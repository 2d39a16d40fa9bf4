"""The work of the processes of torch in `make show-processes`."""

from __future__ import annotations

import hashlib
from typing import Any

import ckptstore
from benchmarks.joint_training import LOSSES, STEPS, written
from ckptstore import Processes

FEATURES, WIDTH, BATCH = 64, 4096, 48


def train(together: Processes, place: str, kind: str, what: str) -> dict[str, Any]:
    """Train a model by AdamW over all processes, from the beginning or from a checkpoint.

    Args:
        together: the processes.
        place: the checkpoint.
        kind: "fsdp", "fsdp and tp AxB" for A times B processes, "ddp", or "plain" for one process.
        what: "save": train, save in the background, and train on; "load": load, and train on.
    """
    import torch

    torch.set_num_threads(1)
    model, state_of, restore = _made(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def steps(first: int, count: int) -> list[str]:
        losses = []
        for step in range(first, first + count):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(BATCH, FEATURES, generator=generator)
            loss = (model(x) - x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item().hex())
        return losses

    options: dict[str, Any] = {"processes": "all"} if kind == "ddp" else {}
    if what == "save":
        steps(0, STEPS)
        state = state_of(optimizer)
        pending = ckptstore.save_async(place, state, step=STEPS, **options)
        values = digests(state)
    else:
        steps(0, 1)  # the optimizer makes its state, whose values are replaced
        loaded = ckptstore.load(place, like=state_of(optimizer))
        restore(loaded, optimizer)
        values = digests(loaded)
        ckptstore.in_step(loaded)
    losses = steps(STEPS, LOSSES)
    sizes = []
    if what == "save":
        pending.result(200)
        sizes = written(place, together.count)
    return {"losses": losses, "values": values, "written": sizes}


def _made(kind: str) -> tuple[Any, Any, Any]:
    """Return a model, a function that takes its state, and one that puts a state back."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import parallel

    torch.manual_seed(0)
    layers = [torch.nn.Linear(FEATURES, WIDTH), torch.nn.GELU(), torch.nn.Linear(WIDTH, FEATURES)]
    plain = model = torch.nn.Sequential(*layers)
    if kind == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(plain)
    elif kind != "plain":
        sizes = tuple(map(int, kind.removeprefix("fsdp and tp ").split("x"))) if "x" in kind else ()
        sizes = sizes or (torch.distributed.get_world_size(),)
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("dp", "tp")[: len(sizes)])
        if len(sizes) == 2:
            plan = {"0": parallel.ColwiseParallel(), "2": parallel.RowwiseParallel()}
            parallel.parallelize_module(plain, mesh["tp"], plan)
            mesh = mesh["dp"]
        for layer in (plain[0], plain[2], plain):
            fully_shard(layer, mesh=mesh)

    def state_of(optimizer: Any) -> dict[str, Any]:
        return {"model": plain.state_dict(), "optimizer": optimizer.state_dict(), "step": STEPS}

    def restore(state: dict[str, Any], optimizer: Any) -> None:
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    return model, state_of, restore


def digests(tree: Any) -> list[str]:
    """Return the digest of each whole leaf, the same in all processes."""
    import torch

    if isinstance(tree, dict):
        return [digest for value in tree.values() for digest in digests(value)]
    if isinstance(tree, list):
        return [digest for value in tree for digest in digests(value)]
    if not isinstance(tree, torch.Tensor):
        return [repr(tree)]
    whole = tree.full_tensor() if hasattr(tree, "full_tensor") else tree
    return [hashlib.sha256(whole.detach().numpy().tobytes()).hexdigest()[:16]]

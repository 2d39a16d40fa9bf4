"""Train a model that FSDP2 spreads over several ranks; killed, it goes on by itself.

    torchrun --nproc-per-node 2 examples/fsdp2.py run

The run is a directory that all hosts share, or the URL of a bucket. It goes on with any number of
ranks.
"""

import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import ckptstore

STEPS, ROWS, FEATURES, HIDDEN = 200, 64, 32, 256

distributed.init_process_group("gloo")  # "nccl" on GPUs
rank, ranks = distributed.get_rank(), distributed.get_world_size()
mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("dp",))  # "cuda" on GPUs
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(FEATURES, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, FEATURES)
)
for layer in (model[0], model[2], model):
    fully_shard(layer, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)


def state(step):
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}


def rows(step):
    """Return the rows of this rank; by the step alone, so that a resumed run draws them too."""
    drawn = torch.Generator().manual_seed(step)
    return torch.randn(ROWS * ranks, FEATURES, generator=drawn)[rank::ranks]


# Each rank holds a part of the state, and writes and reads that part alone.
with ckptstore.Manager(sys.argv[1], every=20, keep=ckptstore.keep_last(2)) as manager:
    preempted = manager.on_preemption()
    loaded = manager.load_or_init(lambda: state(0), sharding=mesh)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    ckptstore.in_step(loaded)
    if rank == 0:
        print("begins at step", loaded["step"], flush=True)
    for step in range(loaded["step"] + 1, STEPS + 1):
        x = rows(step)
        loss = ((model(x) - x) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stop = step % 5 == 0 and preempted.at(step)  # it gathers: ask every few steps
        manager.save_async(step, state(step), force=stop or step == STEPS)
        if rank == 0 and step % 20 == 0:
            print(f"step {step}: loss {loss.item()!r}", flush=True)
        if stop:
            break
distributed.destroy_process_group()

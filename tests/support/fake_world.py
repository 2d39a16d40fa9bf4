"""A world of several processes of torch, of which only one is there: for what asks no other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def world(rank: int, count: int) -> Iterator[None]:
    """Be process `rank` of `count` inside the block. A collective gives wrong values."""
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def dtensor(full: Any, mesh: Any, placements: Any) -> Any:
    """Return the DTensor of a whole tensor, of which each process keeps its part.

    Parts are cut one axis of the mesh after another, as `parallelize_module` and then `fully_shard`
    do where the placement is strided.
    """
    import torch
    from torch.distributed.tensor import DTensor

    local, coordinate = full, mesh.get_coordinate()
    order = sorted(range(mesh.ndim), key=lambda axis: hasattr(placements[axis], "split_factor"))
    for axis in order:
        if not placements[axis].is_replicate():
            dim, number = placements[axis].dim, coordinate[axis]
            pieces = torch.chunk(local, mesh.shape[axis], dim) if local.shape[dim] else ()
            there = number < len(pieces)
            local = pieces[number] if there else local.narrow(dim, 0, 0)
    return DTensor.from_local(
        local.clone(), mesh, placements, run_check=False, shape=full.shape, stride=full.stride()
    )

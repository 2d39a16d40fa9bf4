"""DTensors that are saved: the part of this process, and the cells and holders of the whole.

A process computes the parts of all from the mesh and the placements, and asks no other.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ckptstore.adapters import torch_elements, torch_layouts
from ckptstore.format import LARGE_NBYTES
from ckptstore.format.dtypes import Array
from ckptstore.sharding import (
    Box,
    Grid,
    Holders,
    Order,
    Ranks,
    alike_meshes,
    held_cells,
    mesh_box,
    mesh_boxes,
    order_of,
    shape_of,
    slices,
)
from ckptstore.types import Cell, Refusal

_REDISTRIBUTE = "save x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)"


@dataclass(frozen=True, eq=False)  # a key of caches, which must not keep a mesh alive
class _Mesh:
    """What a mesh says, without its process groups.

    Attributes:
        axes: the name of each axis, or None, and the number of processes along it.
        ranks: the processes, with those of the meshes beside it that hold copies; None: it is not
            all of some axes of the mesh that it is cut out of.
    """

    axes: tuple[tuple[str | None, int], ...]
    ranks: Ranks | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of processes along each axis."""
        return tuple(size for _, size in self.axes)


_known: weakref.WeakKeyDictionary[Any, _Mesh] = weakref.WeakKeyDictionary()


def _mesh(mesh: Any) -> _Mesh:
    found = _known.get(mesh)
    if found is None:
        names = mesh.mesh_dim_names or (None,) * mesh.ndim
        ranks = alike_meshes(_root(mesh).mesh.tolist(), mesh.mesh.tolist())
        axes = tuple(zip(names, map(int, mesh.shape), strict=True))
        found = _known[mesh] = _Mesh(axes, ranks)
    return found


def _root(mesh: Any) -> Any:
    """Return the mesh that a mesh is cut out of, or itself."""
    if hasattr(mesh, "_get_root_mesh"):
        return mesh._get_root_mesh()
    return torch.distributed.device_mesh._mesh_resources.get_root_mesh(mesh)  # an older torch


def is_spread(x: Any) -> bool:
    """Return whether a DTensor lies in several processes."""
    return torch.distributed.is_initialized() and _world() > 1


def _world() -> int:
    return int(torch.distributed.get_world_size())


@dataclass(frozen=True)
class Part:
    """The part of a DTensor that this process holds, and the cells of the whole.

    Attributes:
        local: the part.
        extra: the entries of the stored type that describe mesh and placements.
        grid, cells, holders: as of `Leaf`.
    """

    local: torch.Tensor
    extra: tuple[tuple[str, Any], ...]
    grid: Grid | None = None
    cells: Sequence[Cell] = ()
    holders: tuple[Holders, ...] | None = None


def part_of(x: Any, dtype: Any) -> Part:
    """Return the part of a DTensor in this process; other processes are not asked.

    Args:
        x: the DTensor.
        dtype: the dtype in which it is stored.

    Raises:
        Refusal: the placements are not those of parts or copies, or its mesh is not a part of one
            over all processes.
    """
    if not torch.distributed.is_initialized():
        raise Refusal(
            "this DTensor outlived its process group; save it before you call "
            "torch.distributed.destroy_process_group()"
        )
    mesh, shape = _mesh(x.device_mesh), tuple(x.shape)
    cuts = torch_layouts.work_of(x.placements, len(shape))
    order = None if cuts is None else order_of(cuts, mesh.sizes, len(shape))
    if cuts is None or order is None:
        raise Refusal(torch_layouts.no_parts(x.placements) + f"; {_REDISTRIBUTE}")
    world, me = _world(), torch.distributed.get_rank()
    if mesh.ranks is None or mesh.ranks.size != world:
        raise Refusal(
            f"this DTensor lies on {x.device_mesh!r:.200}, which is not of all {world} processes; "
            "make its mesh a part of one over all processes, or save x.full_tensor() in one "
            'process of the mesh, with processes="one"'
        )
    local = torch_layouts.local_of(x)
    if type(local) is not torch.Tensor:
        name = f"{type(local).__module__}.{type(local).__qualname__}"
        raise Refusal(
            f"the part of this process is a {name}, which may hold more than a tensor; make the "
            "DTensor of x.to_local().as_subclass(torch.Tensor)"
        )
    _, *coordinate = np.argwhere(mesh.ranks == me)[0].tolist()
    box = mesh_box(shape, order, mesh.sizes, coordinate)
    if tuple(local.shape) != shape_of(box):
        raise Refusal(
            f"this DTensor holds a part of the shape {tuple(local.shape)}, and its placements "
            f"{tuple(x.placements)} say {shape_of(box)}; {_REDISTRIBUTE}"
        )
    extra = (("mesh", mesh.axes), ("placements", cuts))
    if world == 1:
        return Part(local, extra)
    grid, holders, own = _held(mesh, order, shape, dtype.itemsize, me)
    cells = [_ELSEWHERE] * len(holders)
    for number, cell in own:
        cells[number] = Cell(functools.partial(_read, local, box, cell, dtype))
    return Part(local, extra, grid, cells, holders)


@functools.lru_cache(1024)
def _held(
    mesh: _Mesh, order: Order, shape: tuple[int, ...], itemsize: int, me: int
) -> tuple[Grid, tuple[Holders, ...], Sequence[tuple[int, Box]]]:
    """Return the cells, the holders of each, and the numbers and boxes of those held here."""
    assert mesh.ranks is not None
    parts = mesh_boxes(shape, order, mesh.ranks)
    grid, holders = held_cells(shape, parts, itemsize, LARGE_NBYTES)
    return grid, holders, [(n, cell) for n, cell in enumerate(grid) if me in holders[n]]


def _read(local: torch.Tensor, box: Box, cell: Box, dtype: Any) -> Array:
    return torch_elements.host(local[slices(cell, box)], dtype)


def _read_elsewhere() -> Array:
    raise Refusal(
        "other processes hold a part of this DTensor that this one should write; leave processes= "
        "out, or pass ckptstore.processes(), whose numbers are those of torch.distributed"
    )


_ELSEWHERE = Cell(_read_elsewhere)

"""The layouts of DTensors: mesh and placements, as they are stored and as a load wants them."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ckptstore.errors import CorruptError, Reason, StructureError
from ckptstore.sharding import Box, Cut, cuts_of, mesh_box, order_of, shape_of, whole
from ckptstore.texts import shown
from ckptstore.types import Refusal

NAMES = ("torch.distributed.tensor", "DTensor")
"""The stored name of a DTensor."""

WHOLE = object()
"""The place of a DTensor that comes back as a plain tensor."""

_ON_YOUR_MESH = "pass like=, a tree of DTensors on your mesh"
_OTHERS = "put DTensors of other placements into like=, and redistribute the loaded ones"

Axes = Sequence[tuple[str | None, int]]
"""The name of each axis of a mesh, or None, and the number of processes along it."""


def dtensor() -> Any:
    """Return the class of DTensors, or None if nothing has imported it."""
    return getattr(sys.modules.get(NAMES[0]), NAMES[1], None)


def is_mesh(x: Any) -> bool:
    """Return whether `x` is a mesh of processes."""
    mesh = getattr(sys.modules.get("torch.distributed.device_mesh"), "DeviceMesh", ())
    return isinstance(x, mesh)


def work_of(placements: Sequence[Any], ndim: int) -> tuple[Cut, ...] | None:
    """Return the work of each axis of a mesh, or None if one is neither a cut nor a copy."""
    out: list[Cut] = []
    ndim = max(ndim, 1)
    for placement in placements:
        name = type(placement).__name__
        if name == "Replicate":
            out.append(None)
        elif name == "Shard":
            out.append(placement.dim % ndim)
        elif name == "_StridedShard":
            out.append((placement.dim % ndim, int(placement.split_factor)))
        else:
            return None
    return tuple(out)


def no_parts(placements: Sequence[Any]) -> str:
    """Return what is wrong with placements that do not give each process one box."""
    text = f"the placements {tuple(placements)!r:.200} of a DTensor"
    if any(getattr(placement, "is_partial", bool)() for placement in placements):
        return f"{text} are a sum that is not made yet"
    return f"{text} do not give each process one box of it"


def local_of(x: Any) -> Any:
    """Return the part of this process, once a collective that makes it is done."""
    with torch.no_grad():
        local = x.to_local()
    wait: Callable[[], Any] | None = getattr(local, "wait", None)
    return local if wait is None else wait()


@dataclass(frozen=True)
class Layout:
    """A mesh and placements: the place of a DTensor that is loaded.

    Attributes:
        mesh: the `DeviceMesh`.
        placements: the placement along each of its axes.
        local: the shape of the part of this process in `like`; None: not known.
    """

    mesh: Any
    placements: tuple[Any, ...]
    local: tuple[int, ...] | None = None

    def box(self, shape: tuple[int, ...]) -> Box:
        """Return the part of an array that this process holds.

        Raises:
            Refusal: the placements do not give each process one box.
        """
        sizes, cuts = tuple(map(int, self.mesh.shape)), work_of(self.placements, len(shape))
        order = None if cuts is None else order_of(cuts, sizes, len(shape))
        if order is None:
            raise Refusal(f"{no_parts(self.placements)}; {_OTHERS}")
        coordinate = self.mesh.get_coordinate()
        if coordinate is None:  # this process is not in the mesh
            return ((0, 0),) * len(shape)
        box = mesh_box(shape, order, sizes, coordinate)
        if self.local not in (None, shape_of(box)):
            raise Refusal(
                f"the DTensor in like= holds a part of the shape {self.local}, and its placements "
                f"{self.placements} say {shape_of(box)}; {_OTHERS}"
            )
        return box

    def boxes(self, shape: tuple[int, ...]) -> Sequence[Box] | None:
        """Return the box of this process; None for the whole."""
        box = self.box(shape)
        return None if box == whole(shape) else [box]

    def made(self, local: torch.Tensor, shape: Sequence[int]) -> Any:
        """Return the DTensor of which this process holds a part; no other process is asked."""
        strides = torch.empty(tuple(shape), device="meta").stride()
        return dtensor().from_local(
            local,
            self.mesh,
            self.placements,
            run_check=False,
            shape=torch.Size(shape),
            stride=strides,
        )


def layout_of(x: Any) -> Layout:
    """Return the place of a DTensor of `like`, which may be one without values."""
    local = None if x.device_mesh.get_coordinate() is None else tuple(local_of(x).shape)
    return Layout(x.device_mesh, tuple(x.placements), local)


def checked(extra: Mapping[str, Any]) -> tuple[Axes, Sequence[Cut]]:
    """Return the stored mesh and placements.

    Raises:
        CorruptError: reason ``bad-type``: they are malformed. The caller adds the path.
    """
    mesh: Any = extra.get("mesh")
    placements: Any = extra.get("placements")
    if not _is_list(mesh) or not all(map(_is_axis, mesh)):
        raise _forged("mesh", mesh, "a name or nil, and a size, for each axis")
    if not _is_list(placements) or not all(map(_is_cut, placements)):
        raise _forged("placements", placements, "nil, an axis, or a pair of ints, for each axis")
    if len(mesh) != len(placements):
        raise _forged("placements", placements, f"one for each of the {len(mesh)} axes of its mesh")
    names = [name for name, _ in mesh if name is not None]
    if len(set(names)) < len(names):
        raise _forged("mesh", mesh, "no name twice")
    cuts = [(cut[0], cut[1]) if _is_list(cut) else cut for cut in placements]
    return [(name, size) for name, size in mesh], cuts


def _is_list(x: Any) -> bool:
    return type(x) in (list, tuple)


def _is_axis(x: Any) -> bool:
    return _is_list(x) and len(x) == 2 and type(x[0]) in (str, type(None)) and _is_count(x[1], 1)


def _is_cut(x: Any) -> bool:
    if _is_list(x):
        return len(x) == 2 and _is_count(x[0], 0) and _is_count(x[1], 1)
    return x is None or _is_count(x, 0)


def _is_count(x: Any, least: int) -> bool:
    return type(x) is int and x >= least


def _forged(name: str, found: Any, expected: str) -> CorruptError:
    return CorruptError(
        f"the {name} of a {'.'.join(NAMES)} is {found!r:.80}, expected {expected}",
        reason=Reason.BAD_TYPE,
    )


def on_mesh(mesh: Any, extra: Mapping[str, Any], ndim: int) -> Layout:
    """Return the place of a stored DTensor on a mesh of this program: its placements there.

    The axes of the meshes are matched by their names, or by their positions if one mesh has none.
    If all stored axes are there, the place is the part of the mesh that they make.

    Args:
        mesh: the mesh.
        extra: that of the stored type.
        ndim: the number of axes of the array.

    Raises:
        Refusal: the mesh lacks an axis that cuts the array.
    """
    axes, cuts = checked(extra)
    order = order_of(cuts, [size for _, size in axes], ndim)
    names: list[Any] = [name for name, _ in axes]
    with contextlib.suppress(KeyError):  # the same axes in another order
        if 0 < len(names) < mesh.ndim and {*names} <= {*(mesh.mesh_dim_names or ())}:
            mesh = mesh[tuple(names)]
    here: list[Any] = list(mesh.mesh_dim_names or (None,) * mesh.ndim)
    fits = order is not None
    if names and (None in names or None in here):
        fits = fits and len(names) == len(here)
        names, here = [*range(len(names))], [*range(len(here))]
    if order is None or not fits or not {names[axis] for row in order for axis in row} <= {*here}:
        raise Refusal(
            f"its stored placements {list(cuts)!s:.200} on the mesh {_shown(axes)} do not fit "
            f"{mesh!r:.200}; {_ON_YOUR_MESH}"
        )
    there = tuple(tuple(here.index(names[axis]) for axis in row) for row in order)
    types = importlib.import_module("torch.distributed.tensor.placement_types")
    placements = []
    for cut in cuts_of(there, tuple(map(int, mesh.shape))):
        if cut is None:
            placements.append(types.Replicate())
        elif isinstance(cut, int):
            placements.append(types.Shard(cut))
        else:
            placements.append(types._StridedShard(cut[0], split_factor=cut[1]))
    return Layout(mesh, tuple(placements))


def _shown(axes: Sequence[tuple[str | None, int]]) -> str:
    parts = [f"{size}" if name is None else f"{name}={size}" for name, size in axes]
    return f"({shown(', '.join(parts))})"


def needs_like(extra: Mapping[str, Any]) -> StructureError:
    """Return the error for a DTensor whose place nothing names; the caller adds the path."""
    axes, _ = checked(extra)
    return StructureError(
        f"a DTensor on a mesh {_shown(axes)} of processes comes back on a mesh of this program; "
        "pass like=, a tree of DTensors or of plain tensors; or sharding=, a DeviceMesh, which "
        'gives the stored placements on it; or sharding="whole", which gives plain tensors; or '
        'arrays="numpy"',
        reason=Reason.NEEDS_LIKE,
    )

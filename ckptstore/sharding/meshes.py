"""Arrays cut over the axes of a mesh of processes, piece by piece as `torch.chunk` cuts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ckptstore.sharding.boxes import Box

Cut = int | tuple[int, int] | None
"""The work of one axis of a mesh.

None: it cuts nothing. A number: it cuts that axis of the array, after the earlier axes of the mesh.
A pair: it cuts that axis, after later axes of the mesh have cut it into so many pieces.
"""

Order = tuple[tuple[int, ...], ...]
"""For each axis of an array, the axes of the mesh that cut it; the first cuts first."""

Ranks = npt.NDArray[np.int64]
"""Numbers of processes: an axis for the meshes that hold copies, then the axes of a mesh."""


def order_of(cuts: Sequence[Cut], sizes: Sequence[int], ndim: int) -> Order | None:
    """Return the order in which the axes of a mesh cut each axis of an array.

    Args:
        cuts: the work of each axis of the mesh.
        sizes: the number of processes along each axis of the mesh.
        ndim: the number of axes of the array.

    Returns:
        The order; None if there is none, so that a process may hold several pieces.

    Example:
        >>> order_of([(0, 2), 0], [4, 2], 2)  # the second axis of the mesh cuts first
        ((1, 0), ())
        >>> order_of([(0, 3)], [4], 1) is None
        True
    """
    order: list[list[int]] = [[] for _ in range(ndim)]
    for axis in range(len(sizes) - 1, -1, -1):
        cut = cuts[axis]
        if cut is None:
            continue
        along, before = (cut, 1) if isinstance(cut, int) else cut
        if not 0 <= along < ndim:
            return None
        pieces, place = 1, 0
        while pieces < before and place < len(order[along]):
            pieces *= sizes[order[along][place]]
            place += 1
        if pieces != before:
            return None
        order[along].insert(place, axis)
    return tuple(map(tuple, order))


def cuts_of(order: Order, sizes: Sequence[int]) -> tuple[Cut, ...]:
    """Return the work of each axis of a mesh.

    Args:
        order: the axes of the mesh that cut each axis of the array.
        sizes: the number of processes along each axis of the mesh.

    Example:
        >>> cuts_of(((1, 0), ()), [4, 8])
        ((0, 8), 0)
    """
    cuts: list[Cut] = [None] * len(sizes)
    for along, axes in enumerate(order):
        for place, axis in enumerate(axes):
            before = math.prod(sizes[other] for other in axes[:place] if other > axis)
            cuts[axis] = along if before == 1 else (along, before)
    return tuple(cuts)


def mesh_box(
    shape: Sequence[int], order: Order, sizes: Sequence[int], coordinate: Sequence[int]
) -> Box:
    """Return the part of an array that a process of a mesh holds, which may be empty.

    Args:
        shape: the shape of the array.
        order: the axes of the mesh that cut each axis of the array.
        sizes: the number of processes along each axis of the mesh.
        coordinate: the place of the process in the mesh.

    Example:
        >>> mesh_box((5, 3), ((0,), ()), [2], [1])
        ((3, 5), (0, 3))
    """
    box = []
    for length, axes in zip(shape, order, strict=True):
        start, stop = 0, length
        for axis in axes:
            size = -(-(stop - start) // sizes[axis])
            start = min(start + coordinate[axis] * size, stop)
            stop = min(start + size, stop)
        box.append((start, stop))
    return tuple(box)


def mesh_boxes(shape: Sequence[int], order: Order, ranks: Ranks) -> dict[Box, set[int]]:
    """Return the parts of an array on a mesh, each with the processes that hold it.

    Args:
        shape: the shape of the array.
        order: the axes of the mesh that cut each axis of the array.
        ranks: the processes.

    Example:
        >>> mesh_boxes((4,), ((0,),), np.array([[0, 1], [2, 3]]))
        {((0, 2),): {0, 2}, ((2, 4),): {1, 3}}
    """
    found: dict[Box, set[int]] = {}
    sizes = ranks.shape[1:]
    for coordinate in np.ndindex(*sizes):
        box = mesh_box(shape, order, sizes, coordinate)
        found.setdefault(box, set()).update(ranks[(slice(None), *coordinate)].tolist())
    return found


def alike_meshes(root: npt.ArrayLike, own: npt.ArrayLike) -> Ranks | None:
    """Return the processes of a mesh, and of the meshes beside it in a larger one.

    Args:
        root: the processes of the larger mesh.
        own: those of the mesh, some of the larger one.

    Returns:
        The processes, with an axis for the meshes first; None if the mesh does not consist of whole
        axes of the larger one.

    Example:
        >>> alike_meshes([[0, 1], [2, 3]], [2, 3]).tolist()
        [[0, 1], [2, 3]]
        >>> alike_meshes([[0, 1], [2, 3]], [1, 3]).tolist()
        [[0, 2], [1, 3]]
    """
    all_, mine = np.asarray(root, np.int64), np.asarray(own, np.int64)
    places = {rank: place for place, rank in zip(np.ndindex(*all_.shape), all_.flat, strict=True)}
    if not places.keys() >= set(mine.flat):
        return None
    found = np.array([places[rank] for rank in mine.flat], np.int64).reshape(mine.size, all_.ndim)
    inner = [axis for axis in range(all_.ndim) if len(set(found[:, axis].tolist())) > 1]
    lengths = [all_.shape[axis] for axis in inner]
    numbers = np.zeros(mine.size, np.int64)
    for axis, length in zip(inner, lengths, strict=True):
        numbers = numbers * length + found[:, axis]
    if sorted(numbers.tolist()) != list(range(math.prod(lengths))):
        return None
    outer = [axis for axis in range(all_.ndim) if axis not in inner]
    table = all_.transpose([*outer, *inner]).reshape(-1, math.prod(lengths))
    return table[:, numbers].reshape(-1, *mine.shape)

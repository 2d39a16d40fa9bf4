"""The shards of a jax array: their bytes on this host, and an array made of them.

A CPU buffer is viewed. The caller drops the view soon, because XLA silently refuses to donate the
buffer while the view exists. Other buffers are copied, and no copy is cached on the array.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ckptstore.format import LARGE_NBYTES, array_bytes, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.sharding import (
    Box,
    Grid,
    Holders,
    grid_of,
    held_cells,
    joined,
    overlap,
    shape_of,
    slices,
    whole,
)
from ckptstore.types import Cell, Refusal

_SMALL = 1 << 14
"""An array of fewer elements is put together before it is cut for its devices."""

Shards = list[tuple[Box, jax.Array]]
"""The distinct parts of an array, each with its box, as an array on one device."""


def read(x: jax.Array) -> Array:
    """Return the stored bytes of an array, flat uint8."""
    return _read(x, None)


def start(x: jax.Array) -> Callable[[], Array]:
    """Begin to copy an array to this host; return a function that waits and returns `read`."""
    return _start(x, None)


def cells(
    x: jax.Array, *, is_here: bool
) -> tuple[Grid | None, Sequence[Cell], tuple[Holders, ...] | None]:
    """Return the grid of an array whose shards lie on several devices, its cells and their holders.

    Cells of less than 1 MiB are joined with their neighbours, if the same processes hold them. An
    array of one cell that lies in this process has no cells.

    Args:
        x: the array.
        is_here: whether all of its shards are in this process.
    """
    if not is_here:
        grid, holders = _held(x.sharding, x.shape, x.dtype.itemsize)
        me = jax.process_index()
        pairs = zip(grid, holders, strict=True)
        return grid, [_cell(x, box) if me in held else _ELSEWHERE for box, held in pairs], holders
    if len(x.sharding.device_set) == 1 or x.nbytes < 2 * LARGE_NBYTES:
        return None, (), None
    grid = _grid(x.sharding, x.shape, x.dtype.itemsize)
    if len(grid) == 1:
        return None, (), None
    return grid, [_cell(x, box) for box in grid], None


def _cell(x: jax.Array, box: Box) -> Cell:
    return Cell(functools.partial(_read, x, box), functools.partial(_start, x, box))


def _read_elsewhere() -> Array:
    raise Refusal(
        "other processes hold a part of this jax array that this one should write; leave "
        "processes= out, or pass ckptstore.processes(), whose numbers are those of jax"
    )


_ELSEWHERE = Cell(_read_elsewhere)


@functools.lru_cache(1024)
def boxes(sharding: Any, shape: tuple[int, ...]) -> Sequence[Box] | None:
    """Return the distinct boxes that the devices of this process hold; None for the whole.

    A small array is one span, which is read whole for any box of it.
    """
    if len(sharding.device_set) == 1 or sharding.is_fully_replicated:
        return None
    indices = sharding.addressable_devices_indices_map(shape).values()
    if math.prod(shape) < _SMALL or not indices:
        return None
    return list(dict.fromkeys(_box(index, shape) for index in indices))


def assembled(
    host: Array | None, parts: Mapping[Box, Array], shape: tuple[int, ...], sharding: Any
) -> jax.Array:
    """Return the array with this sharding; no other process is asked.

    Args:
        host: the whole, or None.
        parts: otherwise each distinct box of the devices of this process.
        shape: the shape of the array.
        sharding: a sharding of several devices.
    """

    def part(index: Any) -> Array:
        if host is not None:
            return np.asarray(host[index])
        # A number in the index of `PmapSharding` is an axis that the shard lacks.
        axes = tuple(slice(None) if isinstance(step, slice) else 0 for step in index)
        return np.asarray(parts[_box(index, shape)][axes])

    return jax.make_array_from_callback(shape, sharding, part)


@functools.lru_cache(1024)
def _grid(sharding: Any, shape: tuple[int, ...], itemsize: int) -> Grid:
    indices = sharding.devices_indices_map(shape).values()
    return joined(grid_of(shape, [_box(index, shape) for index in indices]), itemsize, LARGE_NBYTES)


@functools.lru_cache(1024)
def _held(sharding: Any, shape: tuple[int, ...], itemsize: int) -> tuple[Grid, tuple[Holders, ...]]:
    """Return the cells of an array that lies in several processes, and the holders of each."""
    found: dict[Box, set[int]] = {}
    for device, index in sharding.devices_indices_map(shape).items():
        found.setdefault(_box(index, shape), set()).add(device.process_index)
    return held_cells(shape, found, itemsize, LARGE_NBYTES)


def _box(index: Sequence[Any], shape: Sequence[int]) -> Box:
    """Return the box of an index. That of `PmapSharding` holds an int."""
    out = []
    for part, length in zip(index, shape, strict=True):
        if not isinstance(part, slice):
            part = slice(part, part + 1)
        out.append(part.indices(length)[:2])
    return tuple(out)


def _shards(x: jax.Array) -> Shards:
    """Return the distinct shards of an array."""
    if len(x.sharding.device_set) == 1:
        return [(whole(x.shape), x)]
    if x.is_fully_replicated:
        return [(whole(x.shape), x.addressable_data(0))]
    found: dict[Box, jax.Array] = {}
    for shard in x.addressable_shards:
        found.setdefault(_box(shard.index, x.shape), shard.data)
    return list(found.items())


def _read(x: jax.Array, box: Box | None) -> Array:
    """Return the stored bytes of a part of an array; None: of the whole."""
    with _while_saved(x):
        if _is_plain(x):
            return array_bytes.to_bytes(np.asarray(x))
        box = whole(x.shape) if box is None else box
        return array_bytes.to_bytes(_joined(_aliases(x, box), box, x.dtype))


def _start(x: jax.Array, box: Box | None) -> Callable[[], Array]:
    """Begin to copy a part of an array; return a function that waits and returns `_read`."""
    try:
        if _is_plain(x):
            return lambda: _read(x, box)
        box = whole(x.shape) if box is None else box
        parts = _aliases(x, box)
        for _, part in parts:
            if not _is_plain(part):
                part.copy_to_host_async()
    except (RuntimeError, ValueError):  # the array was deleted, and `_read` will report it
        return lambda: _read(x, box)

    def wait() -> Array:
        with _while_saved(x):
            return array_bytes.to_bytes(_joined(parts, box, x.dtype))

    return wait


def _aliases(x: jax.Array, box: Box) -> Shards:
    """Return the shards that overlap a box, each that cannot be viewed by another array.

    `np.asarray` caches the host copy of such an array on it, for the array's lifetime.
    """
    return [
        (where, data if _is_plain(data) else _alias(data))
        for where, data in _shards(x)
        if where == box or overlap(where, box) is not None
    ]


def _alias(x: jax.Array) -> jax.Array:
    """Return another array of the same buffer on one device."""
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, [x])


def _joined(parts: Shards, box: Box, dtype: np.dtype[Any]) -> Array:
    """Return the elements of a box, and drop the shards on the way."""
    if len(parts) == 1 and parts[0][0] == box:
        return np.asarray(parts.pop()[1])
    host = np.empty(shape_of(box), dtype)
    while parts:
        where, part = parts.pop()
        shared = overlap(where, box)
        assert shared is not None
        data = np.asarray(part).reshape(shape_of(where))
        host[slices(shared, box)] = data[slices(shared, where)]
    return host


def _is_plain(x: jax.Array) -> bool:
    """Return whether the elements lie in one piece of this host's memory, in stored form."""
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu" and not _is_packed(x.dtype)


@functools.cache
def _is_packed(dtype: np.dtype[Any]) -> bool:
    return dtypes.used_bits(dtype) < 8 and dtype != np.bool_


@contextlib.contextmanager
def _while_saved(x: jax.Array) -> Iterator[None]:
    """Raise Refusal if other code deletes the array, or a shard of it, while it is read."""
    try:
        yield
    except (RuntimeError, ValueError):
        if not x.is_deleted() and not any(s.data.is_deleted() for s in x.addressable_shards):
            raise
        raise Refusal(
            "this jax array was deleted or donated while it was saved; let save return before the "
            "donating call"
        ) from None

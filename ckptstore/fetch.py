"""Reading data files: ranges in parallel, every span checked before its bytes become a value."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import xxhash

from ckptstore import ranges, wire
from ckptstore.commit import Snapshot
from ckptstore.dtypes import Array
from ckptstore.errors import CorruptError
from ckptstore.index import LARGE_NBYTES, Index
from ckptstore.ranges import Range

_WORKERS = 4
_IN_FLIGHT_NBYTES = 256 << 20
_PIECE_NBYTES = 2 << 20
"""A piece is read and then hashed while it is still in the cache."""

Make = Callable[[Array], Any]
"""Turns the verified bytes of one leaf, flat uint8 that nobody else holds, into its value."""


def fetch(
    snapshot: Snapshot, index: Index, makers: Mapping[int, Make], name: Callable[[int], str]
) -> Iterator[tuple[int, Any]]:
    """Read and check leaves, and give each with its value as it comes in.

    At most 256 MiB are in flight; a large leaf is read straight into the memory that it keeps.

    Args:
        snapshot: the checkpoint.
        index: its tables.
        makers: what the bytes of each wanted leaf become.
        name: gives the path of a leaf, for the message of an error.

    Raises:
        CorruptError: reason ``checksum``.
    """
    nbytes = np.zeros(len(index.leaves), np.int64)
    np.add.at(nbytes, index.spans.leaf, index.spans.size)
    sizes, counts = nbytes.tolist(), np.bincount(index.spans.leaf, minlength=len(nbytes)).tolist()
    cut = _cut_leaves(index)
    for leaf in makers:
        if not sizes[leaf]:
            yield leaf, makers[leaf](np.zeros(0, np.uint8))
    whole: dict[int, Array] = {}  # leaves that are read piecewise into their own memory
    missing: dict[int, int] = {}
    queue: collections.deque[tuple[Range, Array, bool, Future[None]]] = collections.deque()
    in_flight = 0
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="ckptstore-read") as pool:
        try:
            for range_ in ranges.plan(index, [leaf for leaf in makers if sizes[leaf]]):
                while queue and in_flight + range_.nbytes > _IN_FLIGHT_NBYTES:
                    in_flight -= queue[0][0].nbytes
                    yield from _take(queue.popleft(), whole, missing, cut, index, makers)
                for part in range_.parts:
                    large = sizes[part.leaf] >= LARGE_NBYTES or counts[part.leaf] > 1
                    if large and part.leaf not in whole:
                        whole[part.leaf] = _aligned(sizes[part.leaf])
                        missing[part.leaf] = counts[part.leaf]
                first = range_.parts[0]
                direct = len(range_.parts) == 1 and first.leaf in whole
                memory = (
                    whole[first.leaf][first.start : first.start + first.size]
                    if direct
                    else np.empty(range_.nbytes, np.uint8)
                )
                job = pool.submit(_get, snapshot, index, range_, memory, name)
                queue.append((range_, memory, direct, job))
                in_flight += range_.nbytes
            while queue:
                yield from _take(queue.popleft(), whole, missing, cut, index, makers)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _take(
    done: tuple[Range, Array, bool, Future[None]],
    whole: dict[int, Array],
    missing: dict[int, int],
    cut: set[int],
    index: Index,
    makers: Mapping[int, Make],
) -> Iterator[tuple[int, Any]]:
    """Wait for one range and give the leaves that it completes."""
    range_, memory, direct, job = done
    job.result()
    for part in range_.parts:
        leaf = part.leaf
        if leaf not in whole:
            # A copy of its own: what an adapter makes of it may take the memory over.
            yield leaf, makers[leaf](memory[part.at : part.at + part.size].copy())
            continue
        if not direct:
            piece = memory[part.at : part.at + part.size]
            whole[leaf][part.start : part.start + part.size] = piece
        missing[leaf] -= 1
        if not missing[leaf]:
            data = whole.pop(leaf)
            yield leaf, makers[leaf](_join_cells(data, index, leaf) if leaf in cut else data)


def _get(
    snapshot: Snapshot, index: Index, range_: Range, memory: Array, name: Callable[[int], str]
) -> None:
    """Read one range and check every span in it."""
    file = snapshot.manifest.files[range_.file].name
    if len(range_.parts) > 1:
        snapshot.get(file, range_.offset, memory)
    for part in range_.parts:
        state = xxhash.xxh3_128()
        for at in range(part.at, part.at + part.size, _PIECE_NBYTES):
            piece: wire.Buffer = memory[at : min(at + _PIECE_NBYTES, part.at + part.size)]
            if len(range_.parts) == 1:
                snapshot.get(file, range_.offset + at, piece)
            state.update(piece)
        if state.digest() != index.spans.digests[part.span]:
            raise CorruptError(
                f"{snapshot.storage.url}/{file}: {name(part.leaf)}: the checksum of "
                f"{part.size} bytes at {range_.offset + part.at} does not match; they were damaged "
                "after the save; load an older checkpoint, or restore the file from a copy",
                reason="checksum",
            )


def _aligned(nbytes: int) -> Array:
    """Return memory on a boundary of 64 bytes, which XLA takes over without a copy."""
    memory = np.empty(nbytes + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + nbytes]


def _cut_leaves(index: Index) -> set[int]:
    """Return the leaves whose grid has more than one cell."""
    leaves = index.leaves
    if not leaves.cuts.size:
        return set()
    axis_leaf = np.repeat(np.arange(len(leaves)), leaves.ndim)
    return set(axis_leaf[leaves.grid > 1].tolist())


def _join_cells(data: Array, index: Index, leaf: int) -> Array:
    """Put the cells of a leaf, which follow each other in `data`, in their places."""
    leaves = index.leaves
    first = int(leaves.ndim[:leaf].sum())
    axes = range(first, first + int(leaves.ndim[leaf]))
    cut = int((leaves.grid[:first] - 1).sum())
    bounds = []
    for axis in axes:
        inner = leaves.cuts[cut : cut + int(leaves.grid[axis]) - 1].tolist()
        cut += len(inner)
        bounds.append([0, *inner, int(leaves.dims[axis])])
    shape = tuple(int(leaves.dims[axis]) for axis in axes)
    itemsize = data.size // int(np.prod(shape))
    out = _aligned(data.size)
    view, at = out.reshape(*shape, itemsize), 0
    for cell in np.ndindex(*(len(b) - 1 for b in bounds)):
        slices = tuple(slice(b[i], b[i + 1]) for b, i in zip(bounds, cell, strict=True))
        part = view[slices]
        part[...] = data[at : at + part.size].reshape(part.shape)
        at += part.size
    return out


def damage(snapshot: Snapshot, index: Index) -> Iterator[tuple[str, str, int, int | None]]:
    """Read every byte of every data file and give (reason, file, offset, leaf) of all damage.

    The leaf is None where padding is not zero.
    """
    spans = index.spans
    order = np.lexsort((spans.offset, spans.file)).tolist()
    ends: dict[int, int] = {}
    for span in order:
        file, offset, size = (int(c[span]) for c in (spans.file, spans.offset, spans.size))
        name = snapshot.manifest.files[file].name
        begin = ends.get(file, 0)
        memory = np.empty(offset + size - begin, np.uint8)
        snapshot.get(name, begin, memory)
        ends[file] = offset + size
        if memory[: offset - begin].any():
            yield "padding", name, begin + int(np.argmax(memory != 0)), None
        if wire.digest(memory[offset - begin :]) != spans.digests[span]:
            yield "checksum", name, offset, int(spans.leaf[span])

"""Reading data files: ranges in parallel, every span checked before its bytes become a value."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from ckptstore import concurrency
from ckptstore.checkpoint import Snapshot
from ckptstore.digests import digest
from ckptstore.errors import CorruptError, Reason
from ckptstore.format import LARGE_NBYTES, Index
from ckptstore.format.dtypes import Array
from ckptstore.loading import ranges
from ckptstore.loading.ranges import Range
from ckptstore.tree import StoredTree

_IN_FLIGHT_NBYTES = 256 << 20

Make = Callable[[Array], Any]
"""Turns the verified bytes of one leaf into its value; the flat uint8 array belongs to it."""


def fetch(
    snapshot: Snapshot, tree: StoredTree, makers: Mapping[int, Make]
) -> Iterator[tuple[int, Any]]:
    """Read and check leaves, and yield each with its value as it comes in.

    At most 256 MiB are in flight; a large leaf is read straight into the memory that it keeps.

    Args:
        snapshot: the checkpoint.
        tree: its nodes; an error names the path of a leaf in it.
        makers: for each wanted leaf, the function that turns its bytes into its value.

    Raises:
        CorruptError: reason ``checksum``.
    """
    index = tree.index
    nbytes = np.zeros(len(index.leaves), np.int64)
    np.add.at(nbytes, index.spans.leaf, index.spans.size)
    sizes, counts = nbytes.tolist(), np.bincount(index.spans.leaf, minlength=len(nbytes)).tolist()
    cut = _cut_leaves(index)
    for leaf in makers:
        if not sizes[leaf]:
            yield leaf, makers[leaf](np.zeros(0, np.uint8))
    whole: dict[int, Array] = {}  # leaves that are read in pieces into their own memory
    missing: dict[int, int] = {}
    queue: collections.deque[tuple[Range, Array, bool, Future[None]]] = collections.deque()
    in_flight = 0
    traffic = snapshot.storage.traffic
    wanted = ranges.ranges_of(
        index,
        [leaf for leaf in makers if sizes[leaf]],
        alone_nbytes=traffic.alone_nbytes,
        gap_nbytes=traffic.gap_nbytes,
    )
    with concurrency.workers(traffic.reads, name="ckptstore-read") as submit:
        for range_ in wanted:
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
            job = submit(_get, snapshot, tree, range_, memory)
            queue.append((range_, memory, direct, job))
            in_flight += range_.nbytes
        while queue:
            yield from _take(queue.popleft(), whole, missing, cut, index, makers)


def with_keys(snapshot: Snapshot, tree: StoredTree) -> StoredTree:
    """Return the tree of a snapshot with the long dict keys, which its data files hold.

    Paths contain them, so read them before you select or name anything.

    Raises:
        CorruptError: reason ``checksum``.
    """
    leaves = tree.key_leaves()
    return tree.with_keys(dict(fetch(snapshot, tree, dict.fromkeys(leaves, bytes))))


def _take(
    done: tuple[Range, Array, bool, Future[None]],
    whole: dict[int, Array],
    missing: dict[int, int],
    cut: Mapping[int, tuple[int, int]],
    index: Index,
    makers: Mapping[int, Make],
) -> Iterator[tuple[int, Any]]:
    """Wait for one range and yield the leaves that it completes."""
    range_, memory, direct, job = done
    job.result()
    for part in range_.parts:
        leaf = part.leaf
        if leaf not in whole:
            # A copy of its own, since the adapter's value may take the memory over.
            yield leaf, makers[leaf](memory[part.at : part.at + part.size].copy())
            continue
        if not direct:
            piece = memory[part.at : part.at + part.size]
            whole[leaf][part.start : part.start + part.size] = piece
        missing[leaf] -= 1
        if not missing[leaf]:
            data = whole.pop(leaf)
            yield (
                leaf,
                makers[leaf](_join_cells(data, index, leaf, *cut[leaf]) if leaf in cut else data),
            )


def _get(snapshot: Snapshot, tree: StoredTree, range_: Range, memory: Array) -> None:
    """Read one range and check every span in it. A damaged span is read once more."""
    file = snapshot.manifest.files[range_.file].name
    together = len(range_.parts) > 1
    if together:
        snapshot.fill(file, range_.offset, memory)
    for part in range_.parts:
        place, stored = memory[part.at : part.at + part.size], tree.index.spans.digests[part.span]
        offset = range_.offset + part.at
        if together and digest(place) == stored:
            continue
        if not any(snapshot.fill(file, offset, place) == stored for _ in range(2)):
            raise CorruptError(
                f"{snapshot.storage.url}/{file}: {tree.leaf_path(part.leaf)}: the checksum of "
                f"{part.size} bytes at {offset} does not match; they were damaged "
                "after the save; load an older checkpoint, or restore the file from a copy",
                reason=Reason.CHECKSUM,
            )


def _aligned(nbytes: int) -> Array:
    """Return memory on a boundary of 64 bytes, which XLA can take over without a copy."""
    memory = np.empty(nbytes + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + nbytes]


def _cut_leaves(index: Index) -> dict[int, tuple[int, int]]:
    """Return the first axis and the first cut of the leaves whose grid has more than one cell."""
    leaves = index.leaves
    if not leaves.cuts.size:
        return {}
    axis_leaf = np.repeat(np.arange(len(leaves)), leaves.ndim)
    cut = np.unique(axis_leaf[leaves.grid > 1])
    axes = (np.cumsum(leaves.ndim) - leaves.ndim)[cut]
    cuts = (np.cumsum(leaves.grid - 1) - (leaves.grid - 1))[axes]
    return dict(zip(cut.tolist(), zip(axes.tolist(), cuts.tolist(), strict=True), strict=True))


def _join_cells(data: Array, index: Index, leaf: int, axis: int, cut: int) -> Array:
    """Put the cells of a leaf, which follow each other in `data`, in their places."""
    leaves, shape = index.leaves, index.shape(leaf)
    bounds = []
    for number, length in enumerate(shape, start=axis):
        inner = leaves.cuts[cut : cut + int(leaves.grid[number]) - 1].tolist()
        cut += len(inner)
        bounds.append([0, *inner, length])
    out = _aligned(data.size)
    # An axis of its own for the bytes of an element would be the 65th of 64.
    element = np.dtype((np.void, data.size // math.prod(shape)))
    view, elements, at = out.view(element).reshape(shape), data.view(element), 0
    for cell in itertools.product(*(range(len(b) - 1) for b in bounds)):
        slices = tuple(slice(b[i], b[i + 1]) for b, i in zip(bounds, cell, strict=True))
        part = view[slices]
        part[...] = elements[at : at + part.size].reshape(part.shape)
        at += part.size
    return out

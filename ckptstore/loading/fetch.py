"""Reading data files: ranges in parallel, every span checked before its bytes become a value."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

import numpy as np

from ckptstore import concurrency
from ckptstore.checkpoint import Snapshot
from ckptstore.digests import digest
from ckptstore.errors import CorruptError, Reason
from ckptstore.format import LARGE_NBYTES, Index
from ckptstore.format.dtypes import Array
from ckptstore.loading import ranges
from ckptstore.loading.assembly import Assembly, Parts
from ckptstore.loading.ranges import Range
from ckptstore.sharding import Box, Grid, shape_of
from ckptstore.storage import Traffic
from ckptstore.tree import StoredTree

_IN_FLIGHT_NBYTES = 256 << 20

Make = Callable[[Any], Any]
"""Turns the verified bytes of one leaf into its value; the flat uint8 array belongs to it.

For a leaf of which boxes are wanted, it takes a list with the bytes of each.
"""


def fetch(
    snapshot: Snapshot,
    tree: StoredTree,
    makers: Mapping[int, Make],
    boxes: Mapping[int, Sequence[Box]] = MappingProxyType({}),
) -> Iterator[tuple[int, Any]]:
    """Read and check leaves, and yield each with its value as it comes in.

    At most 256 MiB are in flight; a large leaf is read straight into the memory that it keeps.

    Args:
        snapshot: the checkpoint.
        tree: its nodes; an error names the path of a leaf in it.
        makers: for each wanted leaf, the function that turns its bytes into its value.
        boxes: the leaves of which only some boxes are wanted. Only the spans that hold a byte of
            them are read.

    Raises:
        CorruptError: reason ``checksum``.
    """
    index, traffic = tree.index, snapshot.storage.traffic
    nbytes = leaf_nbytes(index)
    counts = np.bincount(index.spans.leaf, minlength=len(nbytes)).tolist()
    full = [leaf for leaf in makers if nbytes[leaf] and _has_elements(boxes.get(leaf))]
    for leaf in makers.keys() - full:
        empty = np.zeros(0, np.uint8)
        yield leaf, makers[leaf]([empty for _ in boxes[leaf]] if leaf in boxes else empty)
    reads, wanted = plan(index, traffic, full, boxes)
    snapshot.check_files({range_.file for range_ in reads})
    snapshot.progress.expect(sum(range_.nbytes for range_ in reads))
    assemblies: dict[int, Assembly] = {}  # of leaves that are read into their own memory
    queue: collections.deque[tuple[Range, Array, bool, Future[None]]] = collections.deque()
    in_flight = 0
    with concurrency.workers(traffic.reads, name="ckptstore-read") as submit:
        for range_ in reads:
            while queue and in_flight + range_.nbytes > _IN_FLIGHT_NBYTES:
                in_flight -= queue[0][0].nbytes
                yield from _take(queue.popleft(), assemblies, makers, boxes)
            for part in range_.parts:
                leaf, is_one = part.leaf, counts[part.leaf] == 1
                small = is_one and nbytes[leaf] < LARGE_NBYTES and leaf not in boxes
                if leaf not in assemblies and not small:
                    assemblies[leaf] = Assembly(wanted(leaf))
            memory, first = None, range_.parts[0]
            if first.leaf in assemblies and _is_run(range_):
                memory = assemblies[first.leaf].memory(first.cell, first.start, range_.nbytes)
            direct = memory is not None
            if memory is None:
                memory = np.empty(range_.nbytes, np.uint8)
            job = submit(read_range, snapshot, tree, range_, memory)
            queue.append((range_, memory, direct, job))
            in_flight += range_.nbytes
        while queue:
            yield from _take(queue.popleft(), assemblies, makers, boxes)


def plan(
    index: Index, traffic: Traffic, leaves: Sequence[int], boxes: Mapping[int, Sequence[Box]]
) -> tuple[list[Range], Callable[[int], Parts]]:
    """Return the ranges to read, and a function that returns the cells and boxes of a leaf.

    Args:
        index: the tables.
        traffic: the sizes of requests that suit the store.
        leaves: the wanted leaves.
        boxes: as for `fetch`.
    """
    grids, nbytes = grids_of(index), leaf_nbytes(index)

    def parts_of(leaf: int) -> Parts:
        shape = index.shape(leaf)
        grid = grids[leaf] if leaf in grids else Grid.uncut(shape)
        return Parts(grid, nbytes[leaf] // math.prod(shape), boxes.get(leaf))

    cut = {leaf: parts_of(leaf) for leaf in leaves if nbytes[leaf] and leaf in boxes}
    reads = ranges.ranges_of(
        index,
        {leaf: cut[leaf].wants if leaf in cut else None for leaf in leaves if nbytes[leaf]},
        alone_nbytes=traffic.alone_nbytes,
        gap_nbytes=traffic.gap_nbytes,
    )
    return list(reads), lambda leaf: cut[leaf] if leaf in cut else parts_of(leaf)


def leaf_nbytes(index: Index) -> list[int]:
    """Return the bytes of each leaf."""
    nbytes = np.zeros(len(index.leaves), np.int64)
    np.add.at(nbytes, index.spans.leaf, index.spans.size)
    sizes: list[int] = nbytes.tolist()
    return sizes


def with_keys(snapshot: Snapshot, tree: StoredTree) -> StoredTree:
    """Return the tree of a snapshot with the long dict keys, which its data files hold.

    Paths contain them, so read them before you select or name anything.

    Raises:
        CorruptError: reason ``checksum``.
    """
    leaves = tree.key_leaves()
    return tree.with_keys(dict(fetch(snapshot, tree, dict.fromkeys(leaves, bytes))))


def _has_elements(boxes: Sequence[Box] | None) -> bool:
    """Return whether a box has elements; None stands for the whole."""
    return boxes is None or any(0 not in shape_of(box) for box in boxes)


def _is_run(range_: Range) -> bool:
    """Return whether a range is a run of bytes of one cell."""
    first = range_.parts[0]
    return all(
        (part.leaf, part.cell, part.start) == (first.leaf, first.cell, first.start + part.at)
        for part in range_.parts
    )


def _take(
    done: tuple[Range, Array, bool, Future[None]],
    assemblies: dict[int, Assembly],
    makers: Mapping[int, Make],
    boxes: Mapping[int, Sequence[Box]],
) -> Iterator[tuple[int, Any]]:
    """Wait for one range and yield the leaves that it completes."""
    range_, memory, direct, job = done
    job.result()
    for part in range_.parts:
        leaf, assembly = part.leaf, assemblies.get(part.leaf)
        if assembly is None:
            # A copy of its own, since the adapter's value may take the memory over.
            yield leaf, makers[leaf](memory[part.at : part.at + part.size].copy())
            continue
        if direct:
            assembly.missing -= part.size
        else:
            assembly.spread(part.cell, part.start, memory[part.at : part.at + part.size])
        if not assembly.missing:
            buffers = assemblies.pop(leaf).buffers
            yield leaf, makers[leaf](buffers if leaf in boxes else buffers[0])


def read_range(snapshot: Snapshot, tree: StoredTree, range_: Range, memory: Array) -> None:
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
    snapshot.progress.add(range_.nbytes)


def grids_of(index: Index) -> dict[int, Grid]:
    """Return the grids of the leaves that are cut."""
    leaves = index.leaves
    if not leaves.cuts.size:
        return {}
    axis_leaf = np.repeat(np.arange(len(leaves)), leaves.ndim)
    first_axis = np.cumsum(leaves.ndim) - leaves.ndim
    ends = np.cumsum(leaves.grid - 1)
    out = {}
    for leaf in np.unique(axis_leaf[leaves.grid > 1]).tolist():
        axes = range(int(first_axis[leaf]), int(first_axis[leaf] + leaves.ndim[leaf]))
        cuts = (leaves.cuts[ends[a] - leaves.grid[a] + 1 : ends[a]].tolist() for a in axes)
        out[leaf] = Grid(index.shape(leaf), tuple(map(tuple, cuts)))
    return out

"""The bytes of leaves as they lie in the files: verified, in pieces, without joining a leaf."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from ckptstore import concurrency
from ckptstore.checkpoint import Snapshot
from ckptstore.format.dtypes import Array
from ckptstore.loading import fetch, ranges
from ckptstore.loading.ranges import Range
from ckptstore.tree import StoredTree

PIECE_NBYTES = 16 << 20
"""The largest size of a piece in bytes."""

_IN_FLIGHT_NBYTES = 64 << 20


@dataclass(slots=True)  # one a span; frozen, it would take twice the time to make
class Bytes:
    """A run of bytes of one cell of a leaf: flat uint8, from byte `start` of the cell."""

    leaf: int
    cell: int
    start: int
    data: Array


def stream(snapshot: Snapshot, tree: StoredTree, leaves: Collection[int]) -> Iterator[Bytes]:
    """Yield the bytes of leaves, in the order of the files.

    At most 64 MiB are read ahead. Use the data of a piece before you take the next one.

    Args:
        snapshot: the checkpoint.
        tree: its nodes; an error names the path of a leaf in it.
        leaves: the leaves. One without bytes has no piece.

    Raises:
        CorruptError: reason ``checksum``.
    """
    traffic = snapshot.storage.traffic
    wanted = dict.fromkeys(leaves)
    reads = list(
        ranges.ranges_of(
            tree.index, wanted, alone_nbytes=traffic.alone_nbytes, gap_nbytes=traffic.gap_nbytes
        )
    )
    snapshot.check_files({range_.file for range_ in reads})
    queue: collections.deque[tuple[Range, Array, Future[None]]] = collections.deque()
    in_flight = 0
    with concurrency.workers(traffic.reads, name="ckptstore-stream") as submit:
        for range_ in reads:
            while queue and in_flight + range_.nbytes > _IN_FLIGHT_NBYTES:
                done = queue.popleft()
                in_flight -= done[0].nbytes
                yield from _pieces(*done)
            memory = np.empty(range_.nbytes, np.uint8)
            queue.append((range_, memory, submit(fetch.read_range, snapshot, tree, range_, memory)))
            in_flight += range_.nbytes
        while queue:
            yield from _pieces(*queue.popleft())


def _pieces(range_: Range, memory: Array, job: Future[None]) -> Iterator[Bytes]:
    job.result()
    for part in range_.parts:
        for at in range(0, part.size, PIECE_NBYTES):
            size = min(PIECE_NBYTES, part.size - at)
            data = memory[part.at + at : part.at + at + size]
            yield Bytes(part.leaf, part.cell, part.start + at, data)

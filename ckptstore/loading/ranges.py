"""From leaves to ranges of data files, as a pure function of the index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ckptstore.format import Index, Integers, cell_starts

Wants = Callable[[int, int, int], bool]
"""Whether a span is wanted, by its cell, its start there and its size."""

RANGE_NBYTES = 8 << 20
"""Neighbouring spans are read together up to this size in bytes."""


@dataclass(slots=True)  # one a leaf or span; frozen, it would take twice the time to make
class Part:
    """One span: its number, and its offsets in its range and in the bytes of its cell."""

    span: int
    leaf: int
    cell: int
    at: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Range:
    """One read: `nbytes` from `offset` of data file `file`."""

    file: int
    offset: int
    nbytes: int
    parts: tuple[Part, ...]


def ranges_of(
    index: Index,
    wanted: Mapping[int, Wants | None],
    *,
    alone_nbytes: int,
    gap_nbytes: int,
) -> Iterator[Range]:
    """Yield the ranges that hold the wanted spans, by file and offset.

    A span of `alone_nbytes` or more is a range of its own. Between the parts of a range are at
    most `gap_nbytes` unwanted bytes.

    Args:
        index: the tables.
        wanted: the leaves, each with a function of a span's cell, its start there and its size that
            says whether the span is wanted; None: each span of the leaf is.
        alone_nbytes: as in `Traffic`.
        gap_nbytes: as in `Traffic`.
    """
    spans = index.spans
    leaves = np.zeros(len(index.leaves) + 1, bool)
    leaves[list(wanted)] = True
    numbers = np.flatnonzero(leaves[spans.leaf])
    numbers = numbers[np.lexsort((spans.offset[numbers], spans.file[numbers]))]
    columns = (spans.leaf, spans.cell, spans.file, spans.offset, spans.size, span_starts(index))
    rows = zip(numbers.tolist(), *(column[numbers].tolist() for column in columns), strict=True)
    open_parts: list[Part] = []
    file = begin = end = -1
    for span, leaf, cell, file_here, offset, size, start in rows:
        wants = wanted[leaf]
        if wants is not None and not wants(cell, start, size):
            continue
        small = size < alone_nbytes
        near = file_here == file and 0 <= offset - end <= gap_nbytes
        if open_parts and not (small and near and offset + size - begin <= RANGE_NBYTES):
            yield Range(file, begin, end - begin, tuple(open_parts))
            open_parts = []
        if not open_parts:
            file, begin = file_here, offset
        open_parts.append(Part(span, leaf, cell, offset - begin, start, size))
        end = offset + size
        if not small:
            yield Range(file, begin, size, tuple(open_parts))
            open_parts, file, end = [], -1, -1
    if open_parts:
        yield Range(file, begin, end - begin, tuple(open_parts))


def span_starts(index: Index) -> Integers:
    """Return the start of each span in the bytes of its cell."""
    spans = index.spans
    cells = cell_starts(index)[spans.leaf] + spans.cell
    order = np.argsort(cells, kind="stable")
    before = np.cumsum(spans.size[order]) - spans.size[order]
    first = np.concatenate([[True], np.diff(cells[order]) != 0])[: len(order)]
    base = np.maximum.accumulate(np.where(first, before, 0))
    out = np.zeros(len(order), np.int64)
    out[order] = before - base
    return out

"""The data files in reads of a few MiB that leave out no byte, and the damages in one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ckptstore.checkpoint import Snapshot
from ckptstore.digests import digest
from ckptstore.errors import Reason
from ckptstore.format import Index
from ckptstore.format.dtypes import Array
from ckptstore.loading import ranges

Fill = Callable[[int, Array], object]
"""Fills an array with the bytes of a file from an offset."""


class Stretch(NamedTuple):
    """Some neighbouring spans of a file, with the padding before each."""

    file: int
    begin: int
    end: int
    spans: Sequence[int]


class Damage(NamedTuple):
    """A damaged place: a span of a leaf, or padding that is not zero."""

    reason: Reason
    file: int
    offset: int
    leaf: int | None


def stretches_of(index: Index) -> Iterator[Stretch]:
    """Cut the data files into stretches, by file and offset."""
    spans = index.spans
    order = np.lexsort((spans.offset, spans.file))
    rows = zip(*(c[order].tolist() for c in (spans.file, spans.offset, spans.size)), strict=True)
    file, begin, end, inside = -1, 0, 0, list[int]()
    for number, (file_of_span, offset, size) in zip(order.tolist(), rows, strict=True):
        if inside and (file_of_span != file or offset + size - begin > ranges.RANGE_NBYTES):
            yield Stretch(file, begin, end, inside)
            begin, inside = end, []
        if file_of_span != file:
            file, begin = file_of_span, 0
        inside.append(number)
        end = offset + size
    if inside:
        yield Stretch(file, begin, end, inside)


def filler(snapshot: Snapshot, file: int) -> Fill:
    """Return the function that fills an array from a file of a snapshot."""
    name = snapshot.manifest.files[file].name

    def fill(offset: int, memory: Array) -> None:
        for _ in snapshot.pieces(name, offset, memory):
            pass

    return fill


def read(stretch: Stretch, index: Index, fill: Fill) -> tuple[Array, Sequence[Damage]]:
    """Return the bytes of a stretch, and the damages in them.

    A damaged one is read once more, since it may have been damaged on its way.
    """
    memory = np.empty(stretch.end - stretch.begin, np.uint8)
    damages: Sequence[Damage] = ()
    for _ in range(2):
        fill(stretch.begin, memory)
        if not (damages := [*_damages(stretch, index, memory)]):
            break
    return memory, damages


def _damages(stretch: Stretch, index: Index, memory: Array) -> Iterator[Damage]:
    spans, begin = index.spans, stretch.begin
    end = begin
    for span in stretch.spans:
        offset, size = int(spans.offset[span]), int(spans.size[span])
        padding = memory[end - begin : offset - begin]
        if padding.any():
            first = end + int(np.argmax(padding != 0))
            yield Damage(Reason.PADDING, stretch.file, first, None)
        end = offset + size
        if digest(memory[offset - begin : end - begin]) != spans.digests[span]:
            yield Damage(Reason.CHECKSUM, stretch.file, offset, int(spans.leaf[span]))

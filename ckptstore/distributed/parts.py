"""Merging the parts of all processes into one table of files and one of spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ckptstore.format import File, Integers, Part, Spans
from ckptstore.format.wire import Digests


def merge(parts: Sequence[Part], leaves: Sequence[Sequence[int]]) -> tuple[list[File], Spans]:
    """Return the files and the spans of a save.

    The files come in the order of the processes. The spans come by leaf and cell; those of one
    cell, which one process wrote, stay in their order.

    Args:
        parts: the part of each process, in their order.
        leaves: for each process the number of the leaf at each place of its order, of which the
            leaves of the tree that all have are the first.

    Example:
        >>> from ckptstore.format import File
        >>> digests = [bytes(16)]
        >>> def part(name, leaf):
        ...     zero, one = np.array([0]), np.array([1])
        ...     spans = Spans(np.array([leaf]), zero, zero, zero, one, digests)
        ...     return Part([File(name, 1, "data")], spans)
        >>> files, spans = merge([part("a", 1), part("b", 0)], [[1, 0]] * 2)
        >>> [file.name for file in files], spans.leaf.tolist(), spans.file.tolist()
        (['a', 'b'], [0, 1], [0, 1])
    """
    files: list[File] = []
    moved: list[Integers] = []
    numbers: list[Integers] = []
    for part, order in zip(parts, leaves, strict=True):
        moved.append(part.spans.file + len(files))
        numbers.append(np.asarray(order, np.int64)[part.spans.leaf])
        files += part.files

    def joined(name: str) -> Integers:
        return np.concatenate([getattr(part.spans, name) for part in parts])

    leaf, cell = np.concatenate(numbers), joined("cell")
    rows = np.lexsort((cell, leaf))
    digests = Digests.joined(part.spans.digests for part in parts)
    return files, Spans(
        leaf[rows],
        cell[rows],
        np.concatenate(moved)[rows],
        joined("offset")[rows],
        joined("size")[rows],
        digests.taken(rows),
    )

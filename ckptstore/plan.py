"""What goes where: spans in data files, as a pure function of the sizes of the leaves.

The same sizes give the same plan, whatever the machine. Spec: section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptstore.index import LARGE_ALIGNMENT, LARGE_NBYTES, SMALL_ALIGNMENT

SPAN_NBYTES = 16 << 20
FILE_NBYTES = 128 << 20
MAX_FILES = 1024


@dataclass(frozen=True, slots=True)
class Placed:
    """One span: `size` bytes of a leaf from `start`, at `offset` of data file `file`."""

    leaf: int
    start: int
    size: int
    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All spans, by leaf and then by position, and the bytes of each data file."""

    spans: Sequence[Placed]
    file_nbytes: Sequence[int]

    def by_file(self) -> list[list[int]]:
        """Return, for each file, the numbers of its spans by offset."""
        out: list[list[int]] = [[] for _ in self.file_nbytes]
        for number, span in enumerate(self.spans):
            out[span.file].append(number)
        for numbers in out:
            numbers.sort(key=lambda n: self.spans[n].offset)
        return out


def plan(leaf_nbytes: Sequence[int]) -> Plan:
    """Place leaves of the given sizes in data files.

    Leaves below 1 MiB come first, side by side; larger ones follow, each cut into spans of 16 MiB.
    A file is full at 128 MiB, or at 1/1024 of the whole if that is more.
    """
    full = max(FILE_NBYTES, -(-sum(leaf_nbytes) // MAX_FILES))
    placed: list[list[Placed]] = [[] for _ in leaf_nbytes]
    ends: list[int] = []

    def place(leaf: int, start: int, size: int) -> None:
        if not ends or ends[-1] >= full:
            ends.append(0)
        alignment = LARGE_ALIGNMENT if size >= LARGE_NBYTES else SMALL_ALIGNMENT
        offset = -(-ends[-1] // alignment) * alignment
        placed[leaf].append(Placed(leaf, start, size, len(ends) - 1, offset))
        ends[-1] = offset + size

    for leaf, nbytes in enumerate(leaf_nbytes):
        if 0 < nbytes < LARGE_NBYTES:
            place(leaf, 0, nbytes)
    for leaf, nbytes in enumerate(leaf_nbytes):
        if nbytes >= LARGE_NBYTES:
            for start in range(0, nbytes, SPAN_NBYTES):
                place(leaf, start, min(SPAN_NBYTES, nbytes - start))
    return Plan([span for spans in placed for span in spans], ends)

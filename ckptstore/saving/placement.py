"""The placement of spans in data files, as a pure function of the sizes of the pieces.

A piece is a cell of a leaf; most leaves are one piece.

The same sizes give the same placement on every machine. Spec: section 7.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ckptstore.digests import Digest
from ckptstore.format import LARGE_ALIGNMENT, LARGE_NBYTES, SMALL_ALIGNMENT, SPAN_MAX_NBYTES

Piece = tuple[int, int]
"""A leaf, and a cell of it: their numbers."""

SPAN_NBYTES = 4 << 20
FILE_NBYTES = 128 << 20
MAX_FILES = 1024
MAX_FILES_OF_ALL = 8192

_MIB = 1 << 20
_MOST_SPANS = 16 << 10
"""A piece of more spans has larger ones, up to those of the format."""


@dataclass(slots=True)  # one a leaf or span; frozen, it would take twice the time to make
class Placed:
    """One span: `size` bytes of a piece from `start`, at `offset` of data file `file`.

    Its digest is known if the file is taken over.
    """

    piece: Piece
    start: int
    size: int
    file: int
    offset: int
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A data file of an earlier save that is taken over unchanged: its bytes, and its spans."""

    nbytes: int
    spans: Sequence[Placed]


@dataclass(frozen=True, slots=True)
class Placement:
    """All spans, by piece and then by position, and the bytes of each data file.

    The first `taken` files are taken over; the others must be written.
    """

    spans: Sequence[Placed]
    file_nbytes: Sequence[int]
    taken: int = 0

    def by_file(self) -> list[list[int]]:
        """Return, for each file to be written, the numbers of its spans by offset."""
        out: list[list[int]] = [[] for _ in self.file_nbytes]
        for number, span in enumerate(self.spans):
            out[span.file].append(number)
        for numbers in out:
            numbers.sort(key=lambda n: self.spans[n].offset)
        return out[self.taken :]


def place(
    nbytes: Mapping[Piece, int],
    unchanged: Collection[Piece] = (),
    taken: Sequence[Taken] = (),
    *,
    total: int | None = None,
) -> Placement:
    """Place pieces of the given sizes in data files.

    Pieces below 1 MiB come first, side by side; larger ones follow, each cut into spans of 4 MiB,
    or of 1/16384 of the piece if that is more. A file is full at 128 MiB, or at 1/1024 of the whole
    if that is more.

    Args:
        nbytes: the size of each piece in bytes.
        unchanged: large pieces that have not changed since the save before. They come last, in
            files of their own, which the next save can take over.
        taken: files that are taken over; their spans are not placed again.
        total: the bytes of all processes, if several save together. Together they have 8192 files
            at most, and one more of each process.
    """
    full = max(FILE_NBYTES, -(-sum(nbytes.values()) // MAX_FILES))
    if total is not None:
        full = max(full, -(-total // MAX_FILES_OF_ALL))
    ends = [file.nbytes for file in taken]
    placed: dict[Piece, list[Placed]] = {piece: [] for piece in nbytes}
    for number, file in enumerate(taken):
        for span in file.spans:
            placed[span.piece].append(replace(span, file=number))
    small = [piece for piece, size in nbytes.items() if 0 < size < LARGE_NBYTES]
    large = [piece for piece, size in nbytes.items() if size >= LARGE_NBYTES]
    changing = [*small, *(piece for piece in large if piece not in unchanged)]
    for pieces in (changing, [piece for piece in large if piece in unchanged]):
        first = len(ends)
        for piece in pieces:
            spans = placed[piece]
            for start, size in _gaps(nbytes[piece], spans):
                if len(ends) == first or ends[-1] >= full:
                    ends.append(0)
                alignment = LARGE_ALIGNMENT if size >= LARGE_NBYTES else SMALL_ALIGNMENT
                offset = -(-ends[-1] // alignment) * alignment
                spans.append(Placed(piece, start, size, len(ends) - 1, offset))
                ends[-1] = offset + size
            spans.sort(key=lambda span: span.start)
    return Placement([span for spans in placed.values() for span in spans], ends, len(taken))


def _gaps(nbytes: int, spans: Sequence[Placed]) -> Iterator[tuple[int, int]]:
    """Return start and size of each span that a piece needs; the caller may add to `spans`."""
    end, most = 0, SPAN_NBYTES
    if nbytes > _MOST_SPANS * most:
        most = min(-(-nbytes // _MOST_SPANS), SPAN_MAX_NBYTES) // _MIB * _MIB
    for start, size in [*sorted((span.start, span.size) for span in spans), (nbytes, 0)]:
        for at in range(end, start, most):
            yield at, min(most, start - at)
        end = start + size

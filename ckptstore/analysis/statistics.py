"""`stats`: mean, spread, range, norm, and what is not finite, of each array of a checkpoint."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore import concurrency
from ckptstore.analysis.numbers import BLOCK, as_numbers
from ckptstore.analysis.sources import Source, opened
from ckptstore.format.dtypes import Array
from ckptstore.reading import ArrayNode
from ckptstore.texts import plain

_THREADS = min(os.cpu_count() or 1, 8)
_AHEAD = 2 * _THREADS


@dataclass(frozen=True, slots=True)
class ArrayStats:
    """The statistics of one array. Those of its numbers are None if it holds text or keys.

    Attributes:
        path: its path; `short`: the short form of it.
        type, dtype, shape, elements, nbytes: as those of an `ArrayNode`.
        mean, std: of the finite elements, in float64.
        min, max: the least and the largest finite element.
        norm: the square root of the sum of the squares of the finite elements.
        zeros, nan, inf: the numbers of such elements.

    Example:
        >>> import ckptstore, numpy as np
        >>> from ckptstore import analysis
        >>> saved = ckptstore.save("ckpt", {"w": np.array([1.0, 3.0])})
        >>> [row] = analysis.stats("ckpt")
        >>> row.mean, row.std, row.min, row.max
        (2.0, 1.0, 1.0, 3.0)

    Source: docs/looking.md, "Statistics".
    """

    path: str
    short: str
    type: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    nbytes: int
    mean: float | None = None
    std: float | None = None
    min: float | int | None = None
    max: float | int | None = None
    norm: float | None = None
    zeros: int | None = None
    nan: int | None = None
    inf: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; a number that JSON lacks, such as NaN, is a text."""
        out = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: plain(x) if isinstance(x, int | float) else x for name, x in out.items()}


def stats(
    source: Source,
    select: str | Sequence[str] | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> list[ArrayStats]:
    """Return the statistics of each array, in the order of the tree.

    All bytes are read once, and checked. Memory does not grow with the arrays.

    Args:
        source: a reader, or the URL of a checkpoint.
        select: a pattern or several, such as ``params``; None: all arrays.
        storage_options: options of the store, for a URL.

    Raises:
        StructureError: a pattern matches nothing.
        CorruptError: a byte is not as it was written.

    Example:
        >>> import ckptstore, numpy as np
        >>> from ckptstore import analysis
        >>> saved = ckptstore.save("ckpt", {"w": np.array([3.0, 4.0, np.nan]), "n": np.arange(2)})
        >>> [(row.short, row.norm, row.nan) for row in analysis.stats("ckpt")]
        [('w', 5.0, 1), ('n', 1.0, 0)]

    Source: docs/looking.md, "Statistics".
    """
    with opened(source, storage_options) as reader:
        totals = {array.path: _Total(array) for array in reader.arrays(select)}
        queue: collections.deque[tuple[_Total, Future[_Sums | None]]] = collections.deque()
        with concurrency.workers(_THREADS, name="ckptstore-stats") as submit:
            for piece in reader.pieces(select):
                total = totals[piece.array.path]
                if piece.array.key is not None:
                    continue
                if piece.values.size <= BLOCK:
                    total.add(_sums_of(piece.values))
                    continue
                queue.append((total, submit(_sums_of, piece.values)))
                if len(queue) > _AHEAD:
                    first, job = queue.popleft()
                    first.add(job.result())
            for first, job in queue:
                first.add(job.result())
    return [total.result() for total in totals.values()]


@dataclass(slots=True)
class _Sums:
    """The statistics of some elements; `m2` is the sum of squares of the distances to the mean."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    min: Any = None
    max: Any = None
    zeros: int = 0
    nan: int = 0
    inf: int = 0

    def add(self, other: _Sums) -> None:
        """Add the statistics of further elements."""
        self.zeros += other.zeros
        self.nan += other.nan
        self.inf += other.inf
        if not other.count:
            return
        self.min = other.min if self.min is None else min(self.min, other.min)
        self.max = other.max if self.max is None else max(self.max, other.max)
        count, apart = self.count + other.count, other.mean - self.mean
        self.mean += apart * (other.count / count)
        self.m2 += other.m2 + apart * apart * (self.count * other.count / count)
        self.count = count


def _sums_of(values: Array) -> _Sums | None:
    """Return the statistics of a flat array; None if it holds no numbers."""
    total = _Sums()
    room = np.empty(min(values.size, BLOCK))
    for start in range(0, values.size, BLOCK):
        numbers = as_numbers(values[start : start + BLOCK])
        if numbers is None:
            return None
        total.add(_sums_of_block(numbers, room))
    return total


def _sums_of_block(block: Array, room: Array) -> _Sums:
    zeros, nan, inf = block.size - int(np.count_nonzero(block != 0)), 0, 0
    block = np.abs(block) if block.dtype.kind == "c" else block
    with np.errstate(over="ignore", invalid="ignore"):
        near = float(block.mean())
        if not math.isfinite(near):
            nan = int(np.count_nonzero(np.isnan(block)))
            finite = block[np.isfinite(block)]
            inf = block.size - finite.size - nan
            block = finite
            if not block.size:
                return _Sums(zeros=zeros, nan=nan, inf=inf)
            near = float(block.mean(dtype=np.float64))
        away = np.subtract(block, near, out=room[: block.size], dtype=np.float64)
        apart = float(away.mean())
        # Not a product of BLAS, which would start threads of its own that wait for each other.
        m2 = float(np.einsum("i,i", away, away)) - block.size * apart * apart
    low, high = block.min().item(), block.max().item()
    return _Sums(block.size, near + apart, max(m2, 0.0), low, high, zeros, nan, inf)


class _Total:
    """The running statistics of one array."""

    def __init__(self, array: ArrayNode) -> None:
        self.array = array
        self.sums = _Sums()
        self.is_numbers = False

    def add(self, sums: _Sums | None) -> None:
        """Add the statistics of a piece, if it holds numbers."""
        if sums is not None:
            self.is_numbers = True
            self.sums.add(sums)

    def result(self) -> ArrayStats:
        """Return the statistics of what was added."""
        array, sums = self.array, self.sums
        rows: dict[str, Any] = {}
        if sums.count:
            norm = math.sqrt(sums.m2 + sums.count * sums.mean * sums.mean)
            std = math.sqrt(sums.m2 / sums.count)
            rows = {"mean": sums.mean, "std": std, "min": sums.min, "max": sums.max, "norm": norm}
        if self.is_numbers:
            rows |= {"zeros": sums.zeros, "nan": sums.nan, "inf": sums.inf}
        return ArrayStats(
            array.path, array.short, array.type, array.dtype, array.shape, array.elements,
            array.nbytes, **rows,
        )  # fmt: skip

"""`histogram`: how often the values of one array fall into ranges of equal width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.analysis.numbers import as_numbers
from ckptstore.analysis.sources import Source, opened
from ckptstore.analysis.statistics import stats
from ckptstore.errors import Reason, StructureError


@dataclass(frozen=True, slots=True)
class Histogram:
    """The counts of the finite elements of an array.

    Attributes:
        path: the path of the array.
        edges: the bounds of the ranges, one more than there are ranges.
        counts: the number of elements in each range.

    Example:
        >>> import ckptstore, numpy as np
        >>> from ckptstore import analysis
        >>> saved = ckptstore.save("ckpt", {"w": np.array([0.0, 1.0, 4.0])})
        >>> analysis.histogram("ckpt", "w", bins=2).edges
        (0.0, 2.0, 4.0)

    Source: docs/looking.md, "Statistics".
    """

    path: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"path": self.path, "edges": list(self.edges), "counts": list(self.counts)}


def histogram(
    source: Source,
    path: str,
    *,
    bins: int = 64,
    storage_options: Mapping[str, Any] | None = None,
) -> Histogram:
    """Return the histogram of an array, from its least to its largest finite element.

    The array is read twice, and memory does not grow with it.

    Args:
        source: a reader, or the URL of a checkpoint.
        path: the path of the array.
        bins: the number of ranges.
        storage_options: options of the store, for a URL.

    Raises:
        StructureError: there is no array of numbers with a finite element.

    Example:
        >>> import ckptstore, numpy as np
        >>> from ckptstore import analysis
        >>> saved = ckptstore.save("ckpt", {"w": np.array([0.0, 1.0, 1.5, 4.0])})
        >>> analysis.histogram("ckpt", "w", bins=2).counts
        (3, 1)

    Source: docs/looking.md, "Statistics".
    """
    with opened(source, storage_options) as reader:
        rows = stats(reader, path)
        if len(rows) != 1 or rows[0].min is None or rows[0].max is None:
            raise StructureError(
                f"{reader.url}: {path} is not one array of numbers with a finite element; pass the "
                "path of one",
                reason=Reason.BAD_ARGUMENT,
            )
        bounds = float(rows[0].min), float(rows[0].max)
        counts = np.zeros(bins, np.int64)
        edges = np.histogram_bin_edges(np.zeros(0), bins, bounds)
        for piece in reader.pieces(path):
            numbers = as_numbers(piece.values)
            assert numbers is not None  # it has a least element
            numbers = np.abs(numbers) if numbers.dtype.kind == "c" else numbers
            numbers = numbers[np.isfinite(numbers)].astype(np.float64)
            counts += np.histogram(numbers, bins, bounds)[0]
        return Histogram(rows[0].path, tuple(edges.tolist()), tuple(counts.tolist()))

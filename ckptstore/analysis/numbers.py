"""The elements of stored arrays as numbers of numpy, whatever their dtype."""

from __future__ import annotations

import numpy as np

from ckptstore.format.dtypes import Array

BLOCK = 1 << 16
"""The elements that are looked at together: they stay in the cache of a processor."""


def as_numbers(values: Array) -> Array | None:
    """Return elements in a dtype that numpy computes with; None for text, dates and structures.

    The dtypes of ml_dtypes become float32, complex64 or int8, and bool becomes uint8.

    Example:
        >>> as_numbers(np.array([True, False]))
        array([1, 0], dtype=uint8)
    """
    kind = values.dtype.kind
    if kind in "iufc":
        return values
    if kind == "b":
        return values.view(np.uint8)
    if values.dtype.names is None and values.dtype.type.__module__.startswith("ml_dtypes"):
        name = values.dtype.name
        if "complex" in name:
            return values.astype(np.complex64)
        return values.astype(np.int8 if "int" in name else np.float32)
    return None

"""Converting numbers to the dtype that `like` asks for; one that does not fit is an error."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ckptstore.errors import Reason, StructureError
from ckptstore.format.dtypes import Array

# Dtypes without infinity and NaN, which hold their largest number instead of a larger one; and the
# least number that they would round to one beyond it.
_SATURATING = {"float4_e2m1fn": 7.0, "float6_e2m3fn": 7.75, "float6_e3m2fn": 30.0}
_OF_ML_DTYPES = 2  # `isbuiltin` of a dtype that a package registered


def cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return numbers in another dtype of their rank or a higher one; floats are rounded.

    Raises:
        StructureError: reason ``cast-range``: a number does not fit. The caller adds the place.

    Example:
        >>> cast(np.array([1, 2]), np.dtype("float32"))
        array([1., 2.], dtype=float32)
    """
    old = _native(array).reshape(-1)
    with np.errstate(all="ignore"):
        new = old.astype(dtype)
        lost = _first_lost(old, new)
    if lost is not None:
        value = array.reshape(-1)[lost]
        place = [int(i) for i in np.unravel_index(lost, array.shape)]
        raise StructureError(
            f"{value!s} of an array of {array.dtype}{f' at {place}' if place else ''} does not fit "
            f"into {dtype}; put a dtype that holds it into `like`",
            reason=Reason.CAST_RANGE,
        )
    return new.reshape(array.shape)


def _native(array: Array) -> Array:
    """Return the same numbers in a dtype of numpy: ml_dtypes converts few of its own."""
    name = array.dtype.name
    if array.dtype.isbuiltin != _OF_ML_DTYPES:
        return array
    if "int" in name:
        return array.astype(np.uint8 if name.startswith("uint") else np.int8)
    return array.astype(np.complex64 if "complex" in name else np.float32)


def _first_lost(old: Array, new: Array) -> int | None:
    """Return the place of a number that is another one after the cast, rounding aside."""
    if new.dtype.isbuiltin != _OF_ML_DTYPES and np.can_cast(old.dtype, new.dtype):
        return None
    if not old.size:
        return None
    if "int" in new.dtype.name:
        bounds = ml_dtypes.iinfo(new.dtype)
        ends = (int(old.argmin()), int(old.argmax()))
        return next((i for i in ends if not bounds.min <= int(old[i]) <= bounds.max), None)
    count = old.size
    if old.dtype.kind == "c":
        old, new = _parts(old), _parts(_native(new))
    elif "complex" in new.dtype.name:
        new = _native(new).real
    lost = _lost(old, new)
    return int(lost.argmax()) * count // old.size if lost.any() else None


def _parts(numbers: Array) -> Array:
    """Return the real and the imaginary parts of complex numbers, in turn."""
    return numbers.view(numbers.real.dtype)


def _lost(old: Array, new: Array) -> Array:
    """Return which real numbers are outside the range of the dtype."""
    if limit := _SATURATING.get(new.dtype.name):
        return ~((old > -limit) & (old < limit))
    finite = np.isfinite(new)
    if finite.all():
        return ~finite
    return (np.isfinite(old) & ~finite) | (np.isinf(old) & np.isnan(new))

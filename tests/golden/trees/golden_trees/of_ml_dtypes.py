"""Every bit pattern of every dtype of ml_dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from golden_trees import Case

NAMES = [
    "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn",
    "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn",
    "float6_e3m2fn", "float4_e2m1fn", "int1", "int2", "int4", "uint1", "uint2", "uint4",
    "complex32", "bcomplex32",
]  # fmt: skip
_BITS = {"int1": 1, "uint1": 1, "int2": 2, "uint2": 2, "int4": 4, "uint4": 4}
_BITS |= {"float4_e2m1fn": 4, "float6_e2m3fn": 6, "float6_e3m2fn": 6}


def patterns(name: str) -> Any:
    """Return all the patterns of a dtype of one byte, and some of a wider one."""
    dtype = np.dtype(getattr(ml_dtypes, name))
    if dtype.itemsize > 1:
        step = {2: 251, 4: 16_777_259}[dtype.itemsize]
        some = np.arange(0, 1 << 8 * dtype.itemsize, step)[:256]
        return some.astype(f"u{dtype.itemsize}").view(dtype)
    return np.arange(1 << _BITS.get(name, 8), dtype="u1").view(dtype)


def _make(name: str) -> Any:
    x = patterns(name)
    return [x, x[:0], x[1], x.reshape(2, -1).T, x.dtype, x.dtype.type]


CASES = {name: Case(lambda name=name: _make(name)) for name in NAMES}

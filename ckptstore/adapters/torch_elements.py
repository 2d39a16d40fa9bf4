"""The elements of tensors: the dtypes of torch in the format, and their bytes on this host."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from ckptstore import signals
from ckptstore.errors import Reason, UnsupportedError
from ckptstore.format import array_bytes, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.types import Refusal, package_version

_SAME_NAME = """
    bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 bfloat16
    float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    complex32 complex64 complex128
"""
# Dtypes that torch packs or leaves undefined: stored as bytes, in a structure with one field of
# that name.
_ONLY_BYTES = """
    float4_e2m1fn_x2 bits1x8 bits2x4 bits4x2 bits8 bits16
    int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7
"""
# By item size: dtypes that torch and numpy both have, to view elements without converting them.
BITS = {1: (torch.uint8, "u1"), 2: (torch.int16, "i2"), 4: (torch.int32, "i4")}
BITS |= {8: (torch.int64, "i8"), 16: (torch.complex128, "c16")}


@functools.cache
def numpy_dtypes() -> dict[Any, np.dtype[Any]]:
    """Return the dtype in which each dtype of torch is stored."""
    numpy_dtypes = {}
    for name in (*_SAME_NAME.split(), *_ONLY_BYTES.split()):
        dtype = getattr(torch, name, None)  # an older torch has fewer
        if dtype is None:
            continue
        if name in _ONLY_BYTES.split():
            numpy_dtypes[dtype] = np.dtype([(name, f"u{dtype.itemsize}")])
            continue
        try:
            numpy_dtypes[dtype] = dtypes.resolve(name, where="torch")
        except UnsupportedError:  # an older ml_dtypes, too
            continue
    return numpy_dtypes


@functools.cache
def torch_dtypes() -> dict[np.dtype[Any], Any]:
    """Return the dtype of torch that each stored dtype is."""
    return {stored: dtype for dtype, stored in numpy_dtypes().items()}


@functools.cache
def stored(dtype: np.dtype[Any]) -> dtypes.Stored:
    """Return the name of a dtype in the format."""
    return dtypes.describe(dtype)


def dtype_of(x: torch.Tensor) -> np.dtype[Any]:
    """Return the dtype in which a tensor is stored.

    Raises:
        Refusal: there is none.
    """
    dtype = numpy_dtypes().get(x.dtype)
    if dtype is None:
        raise Refusal(
            f"the dtype {x.dtype} is not a dtype of the format, or needs a newer ml_dtypes "
            f"than {package_version('ml_dtypes')}; view the tensor as integers"
        )
    return dtype


def host(x: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    """Return the stored bytes of a tensor: a view if it is contiguous and on the CPU."""
    try:
        plain = x.detach().cpu().resolve_conj().resolve_neg()
        return array_bytes.to_bytes(plain.view(BITS[dtype.itemsize][0]).numpy().view(dtype))
    except RuntimeError as error:
        signals.pass_on(error)
        raise Refusal(f"torch cannot read this tensor: {error!s:.200}") from None


def tensor(array: Array) -> torch.Tensor:
    """Return a tensor on the CPU that takes over the memory of an array.

    Raises:
        UnsupportedError: reason ``array-not-exact``: this torch lacks the dtype.
        RuntimeError: torch makes no such tensor.
    """
    dtype = torch_dtypes().get(array.dtype)
    if dtype is None:
        raise UnsupportedError(
            f"torch {torch.__version__} has no dtype for {array.dtype}; load with "
            'arrays="numpy", or with a newer torch',
            reason=Reason.ARRAY_NOT_EXACT,
        )
    return torch.from_numpy(array.view(BITS[dtype.itemsize][1])).view(dtype)

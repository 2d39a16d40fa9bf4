"""The value of a step counter: read it as integers on the host, and copy it with other ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptstore.format import dtypes
from ckptstore.types import Leaf, Refusal, find_adapter, top_level

_INT32_MAX = 2**31 - 1


def integers(x: Any, *, floats: bool = False) -> Any:
    """Return the integers of a scalar or an array on the host, or None if it has none.

    Args:
        x: any object.
        floats: also return the integers that a float tensor of torch holds.
    """
    if type(x) is int:
        return np.asarray(x, dtype=object)
    package, dtype = top_level(type(x).__module__), getattr(x, "dtype", None)
    if package in ("numpy", "jax", "jaxlib"):
        if not isinstance(dtype, np.dtype) or dtype.kind not in "iu":
            return None
    elif package != "torch":
        return None
    adapter = find_adapter(package)
    try:
        leaf = None if adapter is None else adapter.leaf(x)
        if leaf is None:
            return None  # a jax.ShapeDtypeStruct
        if leaf.holders is not None:  # np.asarray refuses an array that lies in several processes
            return _of_one_cell(leaf)
        return _of_tensor(leaf, floats) if package == "torch" else np.asarray(x)
    except Refusal:
        return None  # a traced value, a meta tensor


def with_integers(x: Any, values: Any) -> Any:
    """Return a counter of the kind of `x` with other integers.

    Args:
        x: a counter that `integers` reads.
        values: the integers, of its shape. A value that is too large for the dtype becomes its
            largest, as in Optax.
    """
    if type(x) is int:
        return int(np.minimum(values, _INT32_MAX))
    dtype = integers(x, floats=True).dtype
    adapter = find_adapter(top_level(type(x).__module__))
    leaf = None if adapter is None else adapter.leaf(x)
    assert adapter is not None and leaf is not None  # `integers` has read it
    array = np.array(np.minimum(values, _largest(dtype)), dtype=dtype)
    return adapter.array(array, leaf.row, adapter.place(x))


def _of_one_cell(leaf: Leaf) -> Any:
    """Return the integers of a jax array of which each process has all; None of any other."""
    if len(leaf.cells) != 1:
        return None
    dtype = dtypes.resolve(leaf.dtype, where="an array of jax")
    return np.frombuffer(leaf.cells[0].read(), dtype).reshape(leaf.shape)


def _of_tensor(leaf: Leaf, floats: bool) -> Any:
    dtype = dtypes.resolve(leaf.dtype, where="a tensor of torch")
    if dtype.kind not in ("iuf" if floats else "iu"):
        return None
    values = np.frombuffer(leaf.read(), dtype).reshape(leaf.shape)
    return values if dtype.kind != "f" or all(v.is_integer() for v in values.flat) else None


def _largest(dtype: np.dtype[Any]) -> int:
    """Return the largest integer that a dtype counts to in steps of 1."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 2 ** (np.finfo(dtype).nmant + 1)

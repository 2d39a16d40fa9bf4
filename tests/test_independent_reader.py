"""docs/spec.md suffices: a reader written from it alone reads what the package writes, and the
package reads what the page allows and the package does not write."""

from __future__ import annotations

import ast
import collections
import dataclasses
import datetime
import enum
import math
import random
import re
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import independent_reader as ir
import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import optax
import pytest
import xxhash

import ckptstore

# ---------------------------------------------------------------- what the reader must give


def bits(number: float) -> bytes:
    return struct.pack("<d", number)


def stored(array: np.ndarray) -> np.ndarray:
    """Return the array in little-endian C order."""
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def plain(value: Any) -> Any:
    """Return what NumPy takes an element, or nested lists of them, for."""
    if isinstance(value, np.ndarray | list):
        return [plain(item) for item in value] if np.ndim(value) else plain(value[()])
    if isinstance(value, np.void) and value.dtype.names is not None:
        return tuple(plain(value[name]) for name in value.dtype.names)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else int(value.view("i8"))
    if isinstance(value, np.longdouble):
        exact = np.isfinite(value) and (value or not np.signbit(value))
        return Fraction(*value.as_integer_ratio()) if exact else float(value)
    if isinstance(value, np.clongdouble):
        return plain(value.real), plain(value.imag)
    if isinstance(value, np.void):
        return value.tobytes()
    if isinstance(value, np.generic) and value.dtype.name in ("complex32", "bcomplex32"):
        return complex(value)
    if isinstance(value, np.generic) and type(value).__module__ == "ml_dtypes":
        return int(value) if "int" in type(value).__name__ else float(value)
    return value.item() if isinstance(value, np.generic) else value


def equal(got: Any, want: Any) -> bool:
    if isinstance(want, list | tuple):
        return type(got) is type(want) and len(got) == len(want) and all(map(equal, got, want))
    if isinstance(want, complex):
        return type(got) is complex and equal(got.real, want.real) and equal(got.imag, want.imag)
    if isinstance(want, float) and type(got) is float:
        return bits(got) == bits(want) or (math.isnan(got) and math.isnan(want))
    return got == want and type(got) is type(want)


def assert_leaf(leaf: Any, want: np.ndarray | np.generic, values: bool = True) -> None:
    assert type(leaf) is ir.Leaf
    array = stored(np.asarray(want))
    assert leaf.shape == array.shape
    if array.dtype.hasobject or not array.dtype.isbuiltin == 0:
        pass
    if values:
        assert equal(leaf.values, plain(array)), (leaf.dtype.spec, leaf.values, plain(array))


def assert_agrees(got: Any, want: Any) -> None:
    """Compare what the reader gave with what was saved: types, order, bits, identity."""
    todo, seen = [(got, want)], {}
    while todo:
        got, want = todo.pop()
        if isinstance(want, dict):
            assert type(got) is type(want) and len(got) == len(want)
            todo += zip([*got], [*want], strict=True)
            todo += zip(got.values(), want.values(), strict=True)
            if isinstance(want, collections.defaultdict):
                assert got.default_factory is want.default_factory
        elif isinstance(want, tuple) and hasattr(want, "_fields"):
            assert_record(got, want, "namedtuple", want._fields)
            todo += zip(got.fields.values(), want, strict=True)
        elif dataclasses.is_dataclass(want):
            names = [item.name for item in dataclasses.fields(want)]
            assert_record(got, want, "dataclass", names)
            todo += [(got.fields[name], getattr(want, name)) for name in names]
        elif isinstance(want, enum.Enum):
            assert_type(got.type, type(want), "enum")
            assert got.name == want.name
            todo.append((got.value, want.value))
        elif isinstance(want, list | tuple):
            assert type(got) is type(want) and len(got) == len(want)
            todo += zip(got, want, strict=True)
        elif isinstance(want, slice):
            parts = ("start", "stop", "step")
            todo += [(getattr(got, part), getattr(want, part)) for part in parts]
        elif isinstance(want, np.ndarray | np.generic):
            assert_leaf(got, want)
            names = [(type(want).__module__.split(".")[0], type(want).__name__)]
            assert (got.type.module, got.type.name) in [*names, ("numpy", "generic")]
        elif isinstance(want, jax.Array):
            keys = jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key)
            assert (got.type.module, got.type.name) == ("jax", "Array")
            assert got.type.extra.get("impl") == (str(jax.random.key_impl(want)) if keys else None)
            assert got.type.extra.get("weak", False) == want.weak_type
            assert_leaf(got, np.asarray(jax.random.key_data(want) if keys else want))
        elif isinstance(want, float | complex):
            assert type(got) is type(want)
            parts = zip((got.real, got.imag), (want.real, want.imag), strict=True)
            assert all(bits(a) == bits(b) for a, b in parts)
        else:
            assert type(got) is type(want) and got == want
        if not isinstance(want, bool | int | float | complex | str | bytes | enum.Enum | None):
            if want != ():
                assert seen.setdefault(id(want), got) is got, "shared objects are one object"


def assert_type(row: Any, cls: type, kind: str) -> None:
    assert (row.kind, row.module, row.name) == (kind, cls.__module__, cls.__qualname__)


def assert_record(got: Any, want: Any, kind: str, fields: Any) -> None:
    assert type(got) is ir.Record
    assert_type(got.type, type(want), kind)
    assert list(got.fields) == list(fields) == list(got.type.fields)

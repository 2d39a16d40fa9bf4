"""Strategies of hypothesis: any array, and any tree of Python's and NumPy's values."""

from __future__ import annotations

import collections
import enum
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


class Pair(NamedTuple):
    left: Any
    right: Any


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


class Perm(enum.Flag):
    R = 1
    W = 2
    X = 4


text = st.text(st.characters(codec=None), max_size=6)  # lone surrogates too
floats = st.integers(0, 2**64 - 1).map(
    lambda bits: float(np.array([bits], np.uint64).view(np.float64)[0])
)
plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), floats, text,
    st.binary(max_size=6), st.complex_numbers(), st.just(...), st.sampled_from(list(Color)),
    st.integers(0, 7).map(Perm),
)  # fmt: skip
keys = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        floats,
        text,
        st.binary(max_size=4),
        st.sampled_from(list(Color)),
    ),
    lambda children: st.tuples(children) | st.tuples(children, children),
    max_leaves=3,
)

ML = [
    np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fnuz", "float8_e5m2", "float4_e2m1fn", "int4", "uint2")
    if hasattr(ml_dtypes, name)
]
scalar_dtypes = st.one_of(
    hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"), hnp.complex_number_dtypes(endianness="?"),
    hnp.datetime64_dtypes(endianness="?"), hnp.timedelta64_dtypes(endianness="?"),
    hnp.byte_string_dtypes(max_len=5), hnp.unicode_string_dtypes(max_len=5, endianness="?"),
    st.sampled_from(ML),
)  # fmt: skip
dtypes = st.one_of(
    scalar_dtypes,
    hnp.nested_dtypes(scalar_dtypes, max_leaves=4, max_itemsize=200),
)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array of any dtype, with any bits, and any layout in memory."""
    dtype = draw(dtypes)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    seed = draw(st.integers(0, 2**32))
    x = fill(np.random.default_rng(seed), dtype, shape)
    if draw(st.booleans()):
        x = x.T
    if x.ndim and draw(st.booleans()):
        x = x[:: draw(st.sampled_from([1, -1, 2, -2]))]
    if draw(st.booleans()):
        x.flags.writeable = False
    return x


def fill(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Any bits, but where numpy itself takes only some: bools, text."""
    out = np.zeros(shape, dtype)
    base, count = dtype.base, out.size
    if base.names is not None:
        for name in base.names:
            out[name] = fill(rng, out[name].dtype, out[name].shape)
        return out
    if base.kind in "?U" or not base.itemsize:
        out[...] = rng.integers(0, 2, out.shape).astype(out.dtype)
        return out
    if base.kind in "iufcmMS" or base.name == "bfloat16":
        return (
            np.frombuffer(rng.bytes(count * out.dtype.itemsize), out.dtype)
            .reshape(out.shape)
            .copy()
        )
    out[...] = rng.integers(0, 2, out.shape).astype(out.dtype)
    return out


def containers(children: Any) -> Any:
    return st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=4).map(tuple),
        st.dictionaries(keys, children, max_size=4),
        st.dictionaries(keys, children, max_size=3).map(collections.OrderedDict),
        st.dictionaries(keys, children, max_size=3).map(
            lambda entries: collections.defaultdict(list, entries)
        ),
        st.builds(Pair, children, children),
        st.lists(children, min_size=1, max_size=2).map(lambda items: [items, items[0], items]),
    )


trees = st.recursive(
    st.one_of(plain, arrays(), st.sets(keys, max_size=3), st.frozensets(keys, max_size=3)),
    containers,
    max_leaves=12,
)

"""The functions, scalar types and key dtypes of jax that a checkpoint may name: a closed table."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import jax

from ckptstore.types import Refusal

_KEY_DTYPE = "jax.random.key<{}>.dtype"
_KEY_DTYPE_CLASS = type(jax.eval_shape(lambda: jax.random.key(0)).dtype)
_UNCONSTRAINED = "jax.sharding.PartitionSpec.UNCONSTRAINED"

# Pure array functions and scalar types, listed in full: none calls back, reads or writes.
_PUBLIC = {
    "jax.nn": """
        celu elu gelu glu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu
        log_sigmoid log_softmax logsumexp mish one_hot relu relu6 selu sigmoid silu soft_sign
        softmax softplus sparse_plus sparse_sigmoid squareplus standardize swish tanh
    """,
    "jax.numpy": """
        abs absolute acos acosh add all amax amin angle any arccos arccosh arcsin arcsinh arctan
        arctan2 arctanh argmax argmin around asin asinh atan atan2 atanh average cbrt ceil clip
        concatenate conj conjugate cos cosh cross cumprod cumsum deg2rad diff divide dot einsum
        equal exp exp2 expm1 fabs floor floor_divide fmax fmin greater greater_equal hypot imag
        inner isfinite isinf isnan kron less less_equal log log10 log1p log2 logaddexp logaddexp2
        logical_and logical_not logical_or logical_xor matmul max maximum mean median min minimum
        mod multiply nan_to_num nanmax nanmean nanmin nansum negative not_equal outer positive
        power prod ptp rad2deg real reciprocal remainder rint round sign signbit sin sinc sinh
        sort sqrt square stack std subtract sum tan tanh tensordot transpose tril triu true_divide
        trunc vdot var where zeros_like ones_like bool_ int4 int8 int16 int32 int64 uint4 uint8
        uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 complex128 float8_e4m3fn
        float8_e5m2 float8_e4m3b11fnuz float8_e4m3fnuz float8_e5m2fnuz float8_e3m4 float8_e4m3
        float8_e8m0fnu float4_e2m1fn float6_e2m3fn float6_e3m2fn int1 int2 uint1 uint2
    """,
    "jax.numpy.linalg": "det inv norm pinv slogdet solve",
    "jax.lax": """
        abs add cos div erf exp expm1 log log1p logistic max min mul neg pow rsqrt sign sin sqrt
        square stop_gradient sub tan tanh
    """,
}


def table() -> Mapping[str, Any]:
    """Return the functions and scalar types that the installed jax has, by public name."""
    values = {
        f"{module}.{name}": vars(importlib.import_module(module)).get(name)
        for module, names in _PUBLIC.items()
        for name in names.split()
    }
    values[_UNCONSTRAINED] = jax.sharding.PartitionSpec.UNCONSTRAINED
    return {name: value for name, value in values.items() if value is not None}


def key_dtype_name(x: Any) -> str | None:
    """Return the name of a dtype of typed PRNG keys, or None for another object."""
    return _KEY_DTYPE.format(implementation(x)) if is_key_dtype(x) else None


def key_dtype_named(name: str) -> Any:
    """Return the dtype of keys with that name, or None if jax has none."""
    prefix, suffix = _KEY_DTYPE.split("{}")
    if not (name.startswith(prefix) and name.endswith(suffix)):
        return None
    return _key_dtype(name[len(prefix) : -len(suffix)])


def is_key_dtype(x: Any) -> bool:
    """Return whether `x` is a dtype of typed PRNG keys."""
    return issubclass(type(x), _KEY_DTYPE_CLASS)


def implementation(dtype: Any) -> str:
    """Return the name of a key dtype's implementation, and check that it leads back to it.

    Raises:
        Refusal: the name does not lead back.
    """
    name = str(dtype._impl.name)
    if _key_dtype(name) != dtype:
        raise Refusal(f"the key implementation {name!r} has no name in jax; save key_data(x)")
    return name


def _key_dtype(implementation: str) -> Any:
    """Return the key dtype of an implementation, or None if jax has no such implementation."""
    try:
        return jax.random.key(0, impl=implementation).dtype
    except (ValueError, TypeError, NotImplementedError):
        return None

"""The state that an optimizer expects, and the conversion of arrays to the expected form.

An optimizer is any object with the ``init`` and ``update`` of Optax.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ckptstore import signals
from ckptstore.types import Refusal

_NUMBERS = (bool, int, float, complex)


def initial_state(tx: Any, params: Any) -> Any:
    """Return the initial state of `tx`, with a ShapeDtypeStruct for each array.

    Arrays are made only if jax cannot trace `tx.init`, or its state is not a tree.
    """
    try:
        return jax.eval_shape(tx.init, params)
    except Exception as error:  # of the user's code: a real fault is raised again by the next call
        signals.pass_on(error)
        return tx.init(params)


def updated_state(tx: Any, params: Any, state: Any) -> Any:
    """Return the state after one update of a fresh one; None if that needs more arguments.

    Some transformations change the dtypes or the structure of their state in the first update.
    """
    try:
        return jax.eval_shape(lambda p, s: tx.update(p, s, p)[1], params, state)
    except Exception as error:  # of the user's code: then only the fresh state is known
        signals.pass_on(error)
        return None


def is_leaf(x: Any) -> bool:
    """Return whether `x` is an array, a number, or a placeholder for one."""
    return isinstance(x, (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic, *_NUMBERS))


def structure(tree: Any) -> Any:
    """Return the structure of a tree of jax, which can be compared."""
    return jax.tree.structure(tree)


def rearranged(tree: Any, like: Any) -> Any:
    """Return the leaves of `tree`, in their order, in the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(tree))


def has_nonzero(tree: Any) -> bool:
    """Return whether any number in the tree is not zero, or cannot be read."""
    return any(_is_without_values(x) or bool(jnp.any(x != 0)) for x in jax.tree.leaves(tree))


def copy_array(x: Any) -> Any:
    """Return a second array of the same values, so that both may be donated; None for None."""
    return None if x is None else jnp.array(x, copy=True)


def truth_array(value: bool) -> Any:
    """Return an array of one truth value."""
    return jnp.array(value)


def description(x: Any) -> str:
    """Return dtype and shape as in ``float32[3]``."""
    if _is_number(x):
        return f"a Python {type(x).__name__}"
    if _is_key(x.dtype):
        return f"key<{x.dtype._impl.name}>{list(x.shape)}"
    return f"{x.dtype}{list(x.shape)}"


def conform(x: Any, like: Any, *, squeeze: bool = False) -> tuple[Any, str]:
    """Return a leaf with the expected dtype, and the change in words, or "".

    Args:
        x: an array or a number.
        like: the expected leaf.
        squeeze: an array of shape [1] may become one of shape [].

    Raises:
        Refusal: the leaf does not fit; the text names the found and the expected leaf.
    """
    if _is_number(x) and _is_number(like):
        return x, ""
    if _is_without_values(x):
        raise Refusal("no values found; call fit outside of jit, with arrays that were not donated")
    form = _form(x)
    if isinstance(like, jax.ShapeDtypeStruct):
        wanted = like
    else:  # tx.init cannot be traced; jax converts an array of numpy as usual
        wanted = _form(like) if isinstance(x, np.ndarray | np.generic) else jax.typeof(like)
    if _is_number(x) or (form.dtype, form.shape) != (wanted.dtype, wanted.shape):
        was = description(x)
        if squeeze and (form.shape, wanted.shape) == ((1,), ()):
            x = x.reshape(())
        value = _converted(x, wanted)
        rounded = "" if _is_key(value.dtype) or _compared(x, value)[1] else ", rounded"
        return value, f"{was} -> {description(wanted)}{rounded}"
    if form.weak_type and not wanted.weak_type:
        return x.astype(form.dtype), "its type is no longer weak"
    return x, ""


def _is_number(x: Any) -> bool:
    """Return whether `x` is a number of Python; some scalars of numpy are instances of one."""
    return isinstance(x, _NUMBERS) and not isinstance(x, np.generic)


def _form(x: Any) -> Any:
    """Return dtype, shape and weak type unchanged; jax would treat a numpy array as 32 bits."""
    if isinstance(x, np.ndarray | np.generic):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.typeof(x)


def _is_without_values(x: Any) -> bool:
    """Return whether a leaf has no values: in jit, in a placeholder, after a donation."""
    return isinstance(x, (jax.core.Tracer, jax.ShapeDtypeStruct)) or (
        isinstance(x, jax.Array) and x.is_deleted()
    )


def _converted(x: Any, like: Any) -> Any:
    """Return an array as a key, or numbers in another dtype of their kind, without any loss.

    Raises:
        Refusal: the leaf does not fit; the text names the found and the expected leaf.
    """
    form = _form(x)
    mismatch = Refusal(f"{description(x)} found, {description(like)} expected")
    if _is_key(like.dtype):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(like.shape, like.dtype))
        if (form.dtype, form.shape) != (data.dtype, data.shape):
            raise mismatch
        return jax.random.wrap_key_data(jnp.asarray(x), impl=like.dtype._impl.name)
    if form.shape != like.shape or _is_key(form.dtype) or not _is_castable(x, like.dtype):
        raise mismatch
    try:
        if isinstance(x, np.ndarray | np.generic):
            with np.errstate(over="ignore"):  # reported below
                value = jnp.asarray(np.asarray(x).astype(like.dtype))
        else:
            value = jnp.asarray(x).astype(like.dtype)
    except OverflowError:  # a Python int
        raise mismatch from None
    is_lost, is_equal = _compared(x, value)
    if is_lost or not (_is_a(like.dtype, jnp.inexact) or is_equal):
        raise Refusal(f"{mismatch}, which has no room for its values")
    return value


def _is_castable(x: Any, dtype: Any) -> bool:
    """Return whether `dtype` is of the same kind as a number or an array, or int becomes float."""
    kinds = [jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating]
    if type(x) is int:
        return _is_a(dtype, jnp.number)
    return any(_is_a(_form(x).dtype, kind) and _is_a(dtype, kind) for kind in kinds)


def _compared(x: Any, value: Any) -> tuple[bool, bool]:
    """Return whether a number became zero or infinite, and whether all are equal.

    Of an array that lies in several processes, all get the same answer.
    """
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        lost, equal = jax.jit(compared_by_all)(x, value)
        return bool(lost), bool(equal)
    old, new = _wide(x), _wide(value)
    lost = (new == 0) & (old != 0) | ~np.isfinite(new) & np.isfinite(old)
    return bool(np.any(lost)), bool(np.array_equal(old, new, equal_nan=True))


def compared_by_all(old: Any, new: Any) -> tuple[Any, Any]:
    """Return in jit whether a number became zero or infinite, and whether all are equal."""
    wide = jnp.promote_types(old.dtype, new.dtype)
    equal = old.astype(wide) == new.astype(wide)
    if _is_a(wide, jnp.inexact):
        equal |= jnp.isnan(old) & jnp.isnan(new)
    else:  # without 64 bits, int32 is the widest also for uint32
        equal &= (old < 0) == (new < 0)
    lost = (new == 0) & (old != 0) | ~jnp.isfinite(new) & jnp.isfinite(old)
    return jnp.any(lost), jnp.all(equal)


def _wide(x: Any) -> Any:
    """Return numbers on the host in the widest dtype of their kind."""
    x = np.asarray(x)
    if _is_a(x.dtype, jnp.complexfloating):
        return x.astype(np.complex128)
    return x.astype(np.float64) if _is_a(x.dtype, jnp.floating) else x


def _is_a(dtype: Any, kind: Any) -> bool:
    return bool(jnp.issubdtype(dtype, kind))


def _is_key(dtype: Any) -> bool:
    return _is_a(dtype, jax.dtypes.prng_key)

"""Flax nnx: State, FlatState and the variables that nnx defines, for the adapter of flax."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

from flax import nnx
from flax.nnx.statelib import FlatState

from ckptstore.format import TypeRow
from ckptstore.types import Record, Refusal, locate, object_row

_Object = getattr(nnx, "Pytree", None) or nnx.Object


def record(cls: type) -> Record | None:
    """Return the record for a State or a variable; refuse objects that nnx itself splits."""
    if issubclass(cls, _Object):
        raise Refusal(
            f"the nnx object {cls.__qualname__} is a graph with code in it; save nnx.state(x), and "
            "restore it by nnx.update(x, loaded)"
        )
    if cls is nnx.GraphDef:
        raise Refusal(
            "a GraphDef holds classes, which are code; save only the State beside it, and make a "
            "new GraphDef by nnx.graphdef(model)"
        )
    if cls is nnx.State:
        return _STATE
    if cls is FlatState:
        return _FLAT
    return _variable(cls) if _is_own_variable(cls) else None


def record_named(row: TypeRow) -> Record | None:
    """Return the record for a stored State or variable, or None."""
    known = [nnx.State, FlatState, *filter(_is_own_variable, _with_subclasses(nnx.Variable))]
    cls = next((c for c in known if f"{c.__module__}.{c.__qualname__}" == str(row)), None)
    return record(cls) if cls is not None else None


def _with_subclasses(cls: type) -> list[type]:
    subclasses: list[type] = type.__subclasses__(cls)
    return [cls, *(below for subclass in subclasses for below in _with_subclasses(subclass))]


def _is_own_variable(cls: type) -> bool:
    own = issubclass(cls, nnx.Variable) and cls.__module__.startswith("flax.nnx.")
    return own and locate(cls.__module__, cls.__qualname__) is cls


@functools.cache
def _variable(cls: Any) -> Record:
    return Record(
        object_row(cls, "value", "metadata"),
        _take_variable,
        functools.partial(_make, cls),
        check=_check_saved,
        reads="items",
    )


def _take_variable(x: Any) -> Sequence[Any]:
    return (x._raw_value, x._var_metadata)  # not x.value, which runs hooks


def _check_saved(values: Sequence[Any]) -> None:
    if type(values[0]) is not getattr(sys.modules.get("jax"), "Ref", None):
        _check(values)  # a reference itself is refused by the adapter of jax, with its remedy


def _check(values: Sequence[Any]) -> None:
    metadata = values[1]
    if type(metadata) is not dict or not all(type(key) is str for key in metadata):
        raise TypeError("the metadata of a variable is not a dict with str keys")
    if metadata.get("hijax", False) is not False or metadata.get("ref", False) is not False:
        raise TypeError("a variable holds references, which cannot be stored")


def _make(cls: Any, values: Sequence[Any]) -> Any:
    _check(values)
    value, metadata = values
    return cls._new(value, metadata)  # as jax makes variables: without __init__ and hooks


def _take_state(x: Any) -> Sequence[Any]:
    attributes = dict(vars(x))
    mapping = attributes.pop("_mapping")
    if attributes:
        raise Refusal(f"this State has the attribute {next(iter(attributes))!r}; delete it")
    return (mapping,)


def _check_state(values: Sequence[Any]) -> None:
    (mapping,) = values
    if type(mapping) is not dict:
        raise TypeError("a State is made from a dict")


def _make_state(values: Sequence[Any]) -> Any:
    _check_state(values)
    (mapping,) = values
    state: Any = object.__new__(nnx.State)
    vars(state)["_mapping"] = mapping
    return state


def _check_flat(values: Sequence[Any]) -> None:
    keys, leaves = values
    if type(keys) is not tuple or type(leaves) is not list or len(keys) != len(leaves):
        raise TypeError("a FlatState needs as many keys as values")


def _make_flat(values: Sequence[Any]) -> Any:
    _check_flat(values)
    keys, leaves = values
    return FlatState.from_sorted_keys_values(keys, leaves)


_STATE = Record(
    object_row(nnx.State, "mapping", wraps=True), _take_state, _make_state, check=_check_state
)
_FLAT = Record(
    object_row(FlatState, "keys", "values"),
    lambda x: (x._keys, x._values),
    _make_flat,
    check=_check_flat,
)

"""Records of jax's own classes, and of classes that `jax.tree_util` knows.

Its own classes are Partial, PartitionSpec and ShapeDtypeStruct.
"""

from __future__ import annotations

import enum
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ckptstore import signals
from ckptstore.adapters import jax_symbols
from ckptstore.format import TypeKind, TypeRow
from ckptstore.types import Record, Refusal, class_row, has_own, object_row, pytree

# Releases from 0.4.20 on, the oldest that is tested, may not have it.
_make_treedef = getattr(jax.tree_util.PyTreeDef, "from_node_data_and_children", None)


def registered(cls: type) -> Record | None:
    """Return the record of a class that `jax.tree_util` knows, or None."""
    if not _is_registered(cls):
        return None
    return sparse(class_row(cls, TypeKind.PYTREE)) or _by_its_functions(cls)


def sparse(row: TypeRow) -> Record | None:
    """Return the record of a sparse array of jax, which is made from any file, or None."""
    name, keys = _SPARSE.get(str(row), ("", frozenset()))
    cls = getattr(importlib.import_module("jax.experimental.sparse"), name, None) if name else None
    if row.kind != TypeKind.PYTREE or cls is None:
        return None
    count = 2 if name == "BCOO" else 3

    def make(values: Sequence[Any]) -> Any:
        static, *children = values
        _require(type(static) is dict and static.keys() == keys and len(children) == count)
        shape, *flags = (static[key] for key in ("shape", *sorted(keys - {"shape"})))
        _require(type(shape) is tuple and {int}.issuperset(map(type, shape)))
        _require({bool}.issuperset(map(type, flags)))
        return _treedef(cls, static, count).unflatten(children)

    flatten = jax.tree_util.default_registry.flatten_one_level
    return pytree(row, flatten, make, owner=cls, of_jax=True, trusted=True)


_FLAGS = frozenset({"shape", "indices_sorted", "unique_indices"})
_SPARSE: Mapping[str, tuple[str, frozenset[str]]] = {
    "jax.experimental.sparse.bcoo.BCOO": ("BCOO", _FLAGS),
    "jax.experimental.sparse.bcsr.BCSR": ("BCSR", _FLAGS),
    "jax.experimental.sparse.csr.CSR": ("CSR", frozenset({"shape"})),
    "jax.experimental.sparse.csr.CSC": ("CSC", frozenset({"shape"})),
    "jax.experimental.sparse.coo.COO": (
        "COO",
        frozenset({"shape", "rows_sorted", "cols_sorted"}),
    ),
}
"""The sparse arrays of jax by stored name: the public name, and the keys of the static part."""


def _take_partial(x: Any) -> Sequence[Any]:
    if vars(x):
        raise Refusal(f"this Partial has the attribute {next(iter(vars(x)))!r}; delete it")
    # jax wraps a Partial in a Partial, so that functools does not merge the two.
    function = vars(x.func)["fun"] if type(x.func) is _SHIM else x.func
    return (function, x.args, x.keywords)


_SHIM = type(jax.tree_util.Partial(jax.tree_util.Partial(max)).func)


def _require(fits: bool) -> None:
    if not fits:
        raise TypeError("its fields have wrong types")


def _check_partial(values: Sequence[Any]) -> None:
    _, args, keywords = values
    _require(type(args) is tuple and type(keywords) is dict)
    _require(all(type(name) is str for name in keywords))


def _make_partial(values: Sequence[Any]) -> Any:
    _check_partial(values)
    function, args, keywords = values
    if issubclass(type(function), functools.partial):
        return jax.tree_util.Partial(function, *args, **keywords)
    # As jax does it after `isinstance`, which would ask any other object for its class.
    return functools.partial.__new__(jax.tree_util.Partial, function, *args, **keywords)


def _take_spec(x: Any) -> Sequence[Any]:
    partitions: tuple[Any, ...] = tuple(getattr(x, "partitions", x))
    unreduced: frozenset[Any] = getattr(x, "unreduced", frozenset())
    reduced: frozenset[Any] = getattr(x, "reduced", frozenset())
    if not all(map(_is_partition, partitions)) or not all(map(_is_axis, unreduced | reduced)):
        raise Refusal(
            "a PartitionSpec of other parts than None, names of axes and tuples of names cannot "
            "be saved; name the axes of the mesh by str"
        )
    return (partitions, unreduced, reduced)


def _make_spec(values: Sequence[Any]) -> Any:
    partitions, unreduced, reduced = values
    _require(type(partitions) is tuple and type(unreduced) is type(reduced) is frozenset)
    _require(all(map(_is_partition, partitions)))
    _require(all(map(_is_axis, unreduced | reduced)))  # jax hashes and prints them
    axes = {"unreduced": unreduced, "reduced": reduced}
    spec = jax.sharding.PartitionSpec(*partitions, **{k: v for k, v in axes.items() if v})
    _require(_take_spec(spec) == tuple(values))  # jax makes None of () and 'x' of ('x',)
    return spec


def _is_partition(x: Any) -> bool:
    """Return whether `x` is what a PartitionSpec says of one axis of an array."""
    return all(map(_is_axis, x)) if type(x) is tuple else _is_axis(x)


def _is_axis(x: Any) -> bool:
    """Return whether `x` can name an axis of a mesh; jax permits more than names."""
    if issubclass(type(x), enum.Enum):
        return not has_own(type(x), *_ASKED)
    return type(x) in _AXES or x is jax.sharding.PartitionSpec.UNCONSTRAINED


_AXES = (str, type(None), bool, int, float, complex, bytes, type(...))
_ASKED = "__bool__", "__len__", "__iter__", "__repr__", "__str__", "__format__"
"""The methods by which jax looks at the parts of a PartitionSpec, or prints them."""


def _take_struct(x: Any) -> Sequence[Any]:
    weak = bool(getattr(x, "weak_type", False))
    if x.sharding is not None and x != _struct(x.shape, x.dtype, weak):
        raise Refusal(
            "a ShapeDtypeStruct with a sharding names devices, which cannot be stored; leave the "
            "sharding out"
        )
    space = getattr(x, "_memory_space", None)  # of jax 0.12, whose == does not compare it
    if space is not None and space.name != "Device":
        raise Refusal(
            f"a ShapeDtypeStruct in the memory space {space.name}, which cannot be saved; make one "
            "of its shape and dtype"
        )
    return (tuple(x.shape), x.dtype, weak)


def _check_struct(values: Sequence[Any]) -> None:
    shape, dtype, weak = values
    if type(shape) is not tuple:
        raise TypeError(f"its shape is a {type(shape).__qualname__}, expected a tuple of ints")
    for kind in map(type, shape):
        if kind is not int:
            raise TypeError(
                f"its shape is a tuple with a {kind.__qualname__}, expected a tuple of ints"
            )
    _require(type(weak) is bool)
    _require(issubclass(type(dtype), np.dtype) or jax_symbols.is_key_dtype(dtype))


def _make_struct(values: Sequence[Any]) -> Any:
    _check_struct(values)
    return _struct(*values)


def _struct(shape: Sequence[int], dtype: Any, weak: bool) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, **({"weak_type": True} if weak else {}))


OWN: Mapping[type, Record] = {
    jax.tree_util.Partial: Record(
        object_row("jax.tree_util.Partial", "func", "args", "keywords"),
        _take_partial,
        _make_partial,
        check=_check_partial,
        reads="items",
    ),
    jax.sharding.PartitionSpec: Record(
        object_row("jax.sharding.PartitionSpec", "partitions", "unreduced", "reduced"),
        _take_spec,
        _make_spec,
        check=_make_spec,
        reads="everything",
    ),
    jax.ShapeDtypeStruct: Record(
        object_row("jax.ShapeDtypeStruct", "shape", "dtype", "weak_type"),
        _take_struct,
        _make_struct,
        check=_check_struct,
        reads="items",
    ),
}
"""The classes of jax itself, by the names that jax publishes."""


def _is_registered(cls: type) -> bool:
    if _make_treedef is None:
        return False
    try:
        _treedef(cls, None, 0)
    except (ValueError, TypeError, RuntimeError) as error:
        signals.pass_on(error)
        return False
    return True


def _treedef(cls: type, aux: Any, count: int) -> Any:
    assert _make_treedef is not None
    leaf = jax.tree_util.tree_structure(0)
    return _make_treedef(jax.tree_util.default_registry, (cls, aux), [leaf] * count)


def _by_its_functions(cls: type) -> Record:
    """Return a record of the functions that the user registered with `jax.tree_util`."""

    def make(values: Sequence[Any]) -> Any:
        return _treedef(cls, values[0], len(values) - 1).unflatten(values[1:])

    return pytree(
        class_row(cls, TypeKind.PYTREE),
        jax.tree_util.default_registry.flatten_one_level,
        make,
        owner=cls,
        of_jax=True,
    )

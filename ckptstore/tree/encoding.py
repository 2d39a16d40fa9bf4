"""How each type of object becomes a node and its children.

One function for each kind of container or scalar; `emitter` picks it, once for each exact type.
Spec: section 5.3.
"""

from __future__ import annotations

import collections
import enum
import functools
import struct
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptstore.errors import CheckpointError
from ckptstore.format import KEY_MAX_DEPTH, Kind, TypeKind, dtypes
from ckptstore.types import classes, instances, registry
from ckptstore.types.registry import Record, Refusal

if TYPE_CHECKING:
    from ckptstore.tree.flattening import Walk

Emit = Callable[["Walk", Any], Sequence[Any] | None]
"""Appends one node to the walk and returns the children still to walk; None for a node without."""

LONG_INT = 10**1000
"""From here on an int is shown in hex: Python refuses to print thousands of decimal digits."""

FACTORIES: Mapping[str, Any] = {
    "": None,
    **{
        f.__name__: f
        for f in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
    },
}
"""What a defaultdict may have for its factory, by stored name."""

_SEQUENCES: dict[Any, Kind] = {list: Kind.LIST, tuple: Kind.TUPLE}


CROWD = 100
"""How many keys or items of one dict or set may have the same hash."""


def printable(key: Any) -> str:
    """Return the text of a dict key in a path."""
    if isinstance(key, enum.Enum):
        return f"{type(key).__qualname__}.{key._name_}"
    if type(key) is tuple:
        return f"({', '.join(map(printable, key))}{',' if len(key) == 1 else ''})"
    if type(key) is frozenset:
        return f"frozenset({{{', '.join(map(printable, sorted(key, key=_set_order)))}}})"
    return hex(key) if type(key) is int and abs(key) >= LONG_INT else repr(key)


def int_bytes(x: int) -> bytes:
    """Return the shortest two's-complement little-endian bytes of an int; zero has none."""
    nbytes = (x if x >= 0 else ~x).bit_length() // 8 + 1 if x else 0
    return x.to_bytes(nbytes, "little", signed=True)


def _emit_str(walk: Walk, x: str) -> None:
    try:
        walk.add_scalar(Kind.STR, x.encode())
    except UnicodeEncodeError:
        walk.add_scalar(Kind.SURROGATE_STR, x.encode("utf-8", "surrogatepass"))


SCALARS: dict[type, Callable[[Walk, Any], None]] = {
    type(None): lambda walk, x: walk.add(Kind.NONE),
    bool: lambda walk, x: walk.add(Kind.BOOL, arg=int(x)),
    int: lambda walk, x: walk.add_scalar(Kind.INT, int_bytes(x)),
    float: lambda walk, x: walk.add(Kind.FLOAT, data=struct.pack("<d", x)),
    complex: lambda walk, x: walk.add(Kind.COMPLEX, data=struct.pack("<dd", x.real, x.imag)),
    str: _emit_str,
    bytes: lambda walk, x: walk.add_scalar(Kind.BYTES, x),
    type(...): lambda walk, x: walk.add(Kind.ELLIPSIS),
}


def _emit_sequence(walk: Walk, x: Any) -> Sequence[Any]:
    walk.add(_SEQUENCES[type(x)])
    return x  # type: ignore[no-any-return]


def _entries(x: Mapping[Any, Any]) -> list[Any]:
    for key in x:
        check_key(key)
    _refuse_crowd(x)
    return [part for entry in x.items() for part in entry]


def is_crowd(keys: Collection[Any]) -> bool:
    """Tell whether so many keys have one hash that a dict of them would take forever to make."""
    if len(keys) <= CROWD:
        return False
    return collections.Counter(map(hash, keys)).most_common(1)[0][1] > CROWD


def check_key(key: Any, depth: int = 0) -> None:
    """Raise Refusal for what cannot be a dict key or an item of a set."""
    cls = type(key)
    if depth > KEY_MAX_DEPTH:
        raise Refusal(f"a dict key or set item nested over {KEY_MAX_DEPTH} deep; make it flatter")
    if cls in SCALARS or issubclass(cls, enum.Enum):
        return
    if cls is tuple or cls is frozenset:
        for part in key:
            check_key(part, depth + 1)
        return
    raise Refusal(
        f"a dict key or set item of type {cls.__module__}.{cls.__qualname__} cannot be carried; "
        "use str, int, float, bytes, bool, None, an Enum member or a tuple of these"
    )


def _refuse_crowd(keys: Collection[Any]) -> None:
    if is_crowd(keys):
        raise Refusal(f"over {CROWD} keys or items have one hash; store them in a list")


def _emit_dict(walk: Walk, x: Any) -> Sequence[Any]:
    data = b""
    if type(x) is dict:
        kind = Kind.DICT
    elif type(x) is collections.OrderedDict:
        kind = Kind.ORDERED_DICT
        if vars(x):
            known = registry.adapter("collections")
            record = known.record(type(x)) if known is not None else None
            assert record is not None
            return _emit_record(record, walk, x)
    else:
        kind = Kind.DEFAULT_DICT
        names = [name for name, f in FACTORIES.items() if f is x.default_factory]
        if not names:
            raise Refusal(
                f"the factory {x.default_factory!r} of this defaultdict cannot be carried; use one "
                f"of {', '.join(filter(None, FACTORIES))} or None"
            )
        data = names[0].encode()
    entries = _entries(x)
    walk.add(kind, data=data)
    return entries


def _emit_set(walk: Walk, x: Any) -> Sequence[Any]:
    for item in x:
        check_key(item)
    _refuse_crowd(x)
    walk.add(Kind.SET if type(x) is set else Kind.FROZENSET)
    return sorted(x, key=_set_order)


def _set_order(item: Any) -> tuple[str, bytes]:
    """An order that depends on nothing but the values, for items of any mixture of types."""
    if type(item) in (tuple, frozenset):
        parts = item if type(item) is tuple else sorted(item, key=_set_order)
        return type(item).__qualname__, repr([_set_order(part) for part in parts]).encode()
    if isinstance(item, enum.Enum):
        return type(item).__qualname__, repr(item._name_).encode()
    if type(item) in (float, complex):
        return type(item).__qualname__, struct.pack("<dd", complex(item).real, complex(item).imag)
    if type(item) is int:
        return "int", int_bytes(item)
    return type(item).__qualname__, repr(item).encode("utf-8", "surrogatepass")


def _emit_range(walk: Walk, x: range) -> Sequence[Any]:
    walk.add(Kind.RANGE)
    return (x.start, x.stop, x.step)


def _emit_slice(walk: Walk, x: slice) -> Sequence[Any]:
    walk.add(Kind.SLICE)
    return (x.start, x.stop, x.step)


def _emit_bytearray(walk: Walk, x: bytearray) -> Sequence[Any]:
    walk.add_scalar(Kind.BYTEARRAY, bytes(x))
    return ()  # mutable, so its identity is kept


def _emit_symbol(walk: Walk, x: Any) -> None:
    """Carry a published function or scalar type by its public name."""
    name = None
    for package in _symbol_packages(x):
        known = registry.adapter(package)
        name = known.symbol(x) if known is not None else None
        if name is not None:
            break
    if name is None:
        raise Refusal(_why_not(x))
    walk.add(Kind.SYMBOL, data=name.encode())


def _symbol_packages(x: Any) -> list[str]:
    """The packages whose tables may hold `x`: those that its type or itself says it is from."""
    if isinstance(x, types.ModuleType):
        return []  # asking a module for an attribute may import others
    names = [getattr(x, "__module__", None), type(x).__module__]
    packages = [registry.top_level(n) for n in names if type(n) is str]
    if "jax" in sys.modules and callable(x):
        packages.append("jax")  # jax publishes functions of numpy and of functools
    return list(dict.fromkeys(packages))


def _why_not(x: Any) -> str:
    cls = type(x)
    full = f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(x, types.ModuleType):
        return "a module cannot be carried; leave it out, or store its name as a str"
    if isinstance(x, type):
        return (
            f"the class {x.__module__}.{x.__qualname__} cannot be carried as a value (only scalar "
            'types can); store its name as a str, or name its path in save(..., supplied=["$..."])'
        )
    if x is np.ma.masked:
        return "numpy.ma.masked cannot be carried; use a masked array, or None"
    name = getattr(x, "__qualname__", None)
    if callable(x) and isinstance(name, str):
        what = "a lambda" if "<lambda>" in name else f"the function {name}"
        return (
            f"{what} cannot be carried: no file can hold code; keep it out of the tree, or name "
            'its path in save(..., supplied=["$..."]) and give it back by load(url, like=...)'
        )
    if isinstance(x, np.ndarray):
        return f"{full} is a subclass of numpy.ndarray; pass np.array(x)"
    return (
        f"an object of {full} cannot be carried; make it a dataclass or a NamedTuple, or use "
        f"ckptstore.register({cls.__qualname__}, flatten=..., unflatten=...)"
    )


def _emit_enum(walk: Walk, x: enum.Enum) -> Sequence[Any]:
    cls = type(x)
    try:
        classes.check(cls, TypeKind.ENUM)
        row = classes.describe(cls, TypeKind.ENUM)
        instances.enum_member(cls, x._name_ or "", x._value_, str(row))
    except (classes.Unsafe, CheckpointError) as error:
        raise Refusal(f"this member of {cls.__qualname__} cannot be carried: {error}") from None
    walk.add(Kind.ENUM, type=walk.type_number(row), data=(x._name_ or "").encode())
    return (x._value_,)


def _emit_leaf(known: registry.Adapter, walk: Walk, x: Any) -> None:
    leaf = known.leaf(x)
    assert leaf is not None
    walk.add_leaf(leaf)


def _emit_record(record: Record, walk: Walk, x: Any) -> Sequence[Any]:
    try:
        children = record.take(x)
    except (Refusal, dtypes.DtypeRefusal, CheckpointError, MemoryError):
        raise
    except Exception as error:  # of an adapter of another package, or a class that it asks
        raise Refusal(
            f"taking this {type(x).__qualname__} apart failed: {type(error).__name__}: {error}"
        ) from error
    walk.add(Kind.RECORD, type=walk.type_number(record.row))
    return children


def by(record: Record) -> Emit:
    """Return what emits the objects of a record."""
    return functools.partial(_emit_record, record)


_CONTAINERS: dict[type, Emit] = {
    list: _emit_sequence,
    tuple: _emit_sequence,
    dict: _emit_dict,
    collections.OrderedDict: _emit_dict,
    collections.defaultdict: _emit_dict,
    set: _emit_set,
    frozenset: _emit_set,
    range: _emit_range,
    slice: _emit_slice,
    bytearray: _emit_bytearray,
}


def emitter(cls: type, x: Any) -> Emit:
    """Decide, once for each exact type, how its objects become nodes."""
    if cls in _CONTAINERS:
        return _CONTAINERS[cls]
    registered = registry.registration(cls)
    if registered is not None and (record := registered.record()) is not None:
        return by(record)
    known = registry.adapter(registry.top_level(cls.__module__))
    if known is not None and known.leaf(x) is not None:
        return functools.partial(_emit_leaf, known)
    for known in _adapters_of_bases(cls):
        if (record := known.record(cls)) is not None:
            return by(record)
    if isinstance(x, np.dtype):
        return _emit_dtype
    if isinstance(x, type):
        return _emit_symbol
    kind = classes.kind_of(cls)
    if kind == TypeKind.ENUM:
        return _emit_enum
    if kind is not None:
        return _class_emitter(cls, kind)
    jax = registry.adapter("jax") if "jax" in sys.modules else None
    if jax is not None and (record := jax.record(cls)) is not None:
        return by(record)
    return _emit_symbol


def _adapters_of_bases(cls: type) -> Iterator[registry.Adapter]:
    """Give the adapters of a class and of its bases; jax, which knows any class, is asked last."""
    packages = [registry.top_level(base.__module__) for base in cls.__mro__]
    own = packages[0]
    for package in dict.fromkeys(packages):
        known = registry.adapter(package) if package == own or package != "jax" else None
        if known is not None:
            yield known


def _class_emitter(cls: type, kind: TypeKind) -> Emit:
    try:
        classes.check(cls, kind)
    except classes.Unsafe as error:
        raise Refusal(
            f"an object of {cls.__module__}.{cls.__qualname__} cannot be carried: {error}; use "
            f"ckptstore.register({cls.__qualname__}, flatten=..., unflatten=...)"
        ) from None
    row = classes.describe(cls, kind, classes.fields_of(cls, kind))
    return by(instances.of_class(cls, row))


def _emit_dtype(walk: Walk, x: np.dtype[Any]) -> None:
    walk.add(Kind.DTYPE, arg=walk.dtype_number(dtypes.describe(x)))

"""Dict keys and set items: the permitted ones, the work of hashing them, and their text.

A hash and a comparison may be code, and `load` runs both. So an object may be a key only if Python
or numpy hashes it. Spec: section 5.3, and `dict with objects as keys` in section 11.2.
"""

from __future__ import annotations

import collections
import datetime
import enum
import pathlib
import types
from collections.abc import Collection
from typing import Any

import ml_dtypes
import numpy as np

from ckptstore.format import KEY_MAX_DEPTH, TypeKind
from ckptstore.types.bindings import locate
from ckptstore.types.fields import attribute_of, kind_of
from ckptstore.types.leaf import Refusal
from ckptstore.types.subclasses import is_hashed_as_base, plain_of

CROWD = 100
"""The largest number of keys or items of one dict or set that may have the same hash."""

_MOST_NODES, _PER_PART = 1 << 12, 64
"""The nodes that the keys of one dict may have: so many, and so many for each distinct part."""

_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})

_LONG_INT = 10**1000
"""Larger ints are shown in hex, because Python refuses to print thousands of decimal digits."""


_OF_NUMPY = {
    id(t): t
    for t in (*np.sctypeDict.values(), *vars(ml_dtypes).values())
    if isinstance(t, type) and issubclass(t, np.generic) and t not in (np.void, np.object_)
}
"""The scalar types of numpy and ml_dtypes. By id, since a metaclass may define a hash."""

_OBJECTS = _OF_NUMPY | {
    id(t): t
    for t in (
        *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
        *(pathlib.PosixPath, pathlib.PurePosixPath, range),
        *(type, np.ufunc, types.FunctionType, types.BuiltinFunctionType),
    )
}
_BY_NAME = {
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "zoneinfo.ZoneInfo"),
    *("ipaddress.IPv4Address", "ipaddress.IPv4Interface", "ipaddress.IPv4Network"),
    *("ipaddress.IPv6Address", "ipaddress.IPv6Interface", "ipaddress.IPv6Network"),
    *("torch.dtype", "torch.device", "torch.layout", "torch.memory_format", "torch.Size"),
}
"""Classes of modules that `import ckptstore` should not import."""


def is_hashed_plainly(x: Any) -> bool:
    """Return whether hashing and comparing an object, but for its items, runs no foreign code.

    Args:
        x: an object that is not a scalar of the format.

    Example:
        >>> is_hashed_plainly(np.int64(3)), is_hashed_plainly(object())
        (True, False)
    """
    cls = type(x)
    if _OBJECTS.get(id(cls)) is cls or issubclass(cls, np.dtype):
        return True
    # A metaclass may answer for the name of its class.
    module, name = (type.__dict__[n].__get__(cls) for n in ("__module__", "__qualname__"))
    if type(module) is str and f"{module}.{name}" in _BY_NAME:
        return locate(module, name) is cls
    return _is_plain_namedtuple(cls) or is_hashed_as_base(cls)


def _is_plain_namedtuple(cls: type) -> bool:
    if not issubclass(cls, tuple) or kind_of(cls) != TypeKind.NAMEDTUPLE:
        return False
    return all(attribute_of(cls, n) is getattr(tuple, n) for n in ("__hash__", "__eq__"))


def key_text(x: Any) -> str:
    """Return the text of a permitted key, which depends on its value alone.

    Example:
        >>> key_text(np.int64(3)), key_text(("a", np.float32(0.1)))
        ('numpy.int64(3)', "('a', numpy.float32(0.1))")
    """
    cls = type(x)
    if cls is int:
        return hex(x) if abs(x) >= _LONG_INT else repr(x)
    if cls in _SCALARS:
        return repr(x)
    if issubclass(cls, enum.Enum):
        return f"{cls.__qualname__}.{x._name_}"
    if cls is frozenset:
        return f"frozenset({{{', '.join(sorted(map(key_text, x)))}}})"
    if issubclass(cls, tuple):
        parts = [key_text(part) for part in tuple.__iter__(x)]
        name = "" if cls is tuple else cls.__qualname__
        return f"{name}({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    if _OF_NUMPY.get(id(cls)) is cls:
        text = repr(x.item()) if x.dtype.kind in "US" else str(x)
        return f"{cls.__module__}.{x.dtype.name}({text})"
    if is_hashed_as_base(cls):
        return f"{cls.__qualname__}({key_text(plain_of(x))})"
    if isinstance(x, type | types.FunctionType | types.BuiltinFunctionType):
        return f"{x.__module__}.{x.__qualname__}"
    return repr(x)


def refuse_unfit(keys: Collection[Any]) -> bool:
    """Return whether some keys are objects, for which a key has no node.

    Raises:
        Refusal: some cannot be the keys of a dict or the items of a set.

    Example:
        >>> refuse_unfit([1, ("a", None)]), refuse_unfit([np.int64(1)])
        (False, True)
    """
    objects = False
    if not _SCALARS.issuperset(map(type, keys)):
        measure = _Measure()
        measure.refuse_unfit(keys)
        objects = measure.objects
    if is_crowd(keys):
        raise Refusal(f"more than {CROWD} keys or items have the same hash; store them in a list")
    return objects


def is_crowd(keys: Collection[Any]) -> bool:
    """Return whether so many keys have one hash that making a dict of them would take forever.

    Example:
        >>> is_crowd([n * (2**61 - 1) for n in range(101)]), is_crowd(range(101))
        (True, False)
    """
    if not any(issubclass(cls, tuple | frozenset) for cls in set(map(type, keys))):
        return len(keys) > CROWD and _crowd(keys) > CROWD
    return _crowd(keys) * max(map(_comparisons, keys), default=1) > CROWD


def _comparisons(key: Any) -> int:
    """Return how many items with the hash of a part of `key` one comparison may have to look at.

    Equal hashes inside frozensets inside frozensets multiply.
    """
    if isinstance(key, tuple):
        return max(map(_comparisons, tuple.__iter__(key)), default=1)
    if type(key) is frozenset:
        return _crowd(key) * max(map(_comparisons, key), default=1)
    return 1


def _crowd(keys: Collection[Any]) -> int:
    """Return how many of some keys have one hash, at most."""
    return max(collections.Counter(map(hash, keys)).values(), default=1)


class _Measure:
    """The check of keys; an object that stands in many of them is looked at once.

    Attributes:
        objects: whether some key is an object, or holds one.
    """

    def __init__(self) -> None:
        self.objects = False
        self._seen: dict[int, tuple[int, int]] = {}  # levels and nodes of each object, by id
        self._parts = 0

    def refuse_unfit(self, keys: Collection[Any]) -> None:
        """Raise Refusal for a key of another type, nested too deep, or of endlessly many parts."""
        nodes = sum(self._look(key, 0)[1] for key in keys)
        if nodes > _MOST_NODES + _PER_PART * (len(keys) + self._parts):
            raise Refusal(
                "dict keys or set items that hold one object again and again, and would be written "
                f"as {nodes:,} nodes; make them flatter"
            )

    def _look(self, key: Any, depth: int) -> tuple[int, int]:
        cls = type(key)
        levels, _ = self._seen.get(id(key), (0, 1))
        if depth + levels > KEY_MAX_DEPTH:
            raise Refusal(
                f"a dict key or set item nested over {KEY_MAX_DEPTH} deep; make it flatter"
            )
        if any(cls is scalar for scalar in _SCALARS) or issubclass(cls, enum.Enum):
            return 0, 1
        if cls is not tuple and cls is not frozenset:
            if not is_hashed_plainly(key):
                raise Refusal(_why_not(cls))
            self.objects = True
            if not issubclass(cls, tuple):
                return 0, 1
        if id(key) not in self._seen:
            items = tuple.__iter__(key) if issubclass(cls, tuple) else key
            parts = [self._look(part, depth + 1) for part in items]
            levels = 1 + max((n for n, _ in parts), default=-1)
            self._parts += len(parts)
            self._seen[id(key)] = levels, 1 + sum(n for _, n in parts)
        return self._seen[id(key)]


def _why_not(cls: type) -> str:
    return (
        f"a dict key or set item of type {cls.__module__}.{cls.__qualname__} cannot be saved; use "
        "str, int, float, bytes, bool, None, an Enum member, a scalar of numpy, a date, a path or "
        "a tuple of these"
    )

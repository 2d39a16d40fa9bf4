"""The order of the items of a set in a file, which depends on their values alone.

So the same tree gives the same bytes. The items are ordered by a text of their values. For an item
inside an item the text is quoted again, so that it doubles with each level. Where it would become
long, the items are ordered by a digest of their values instead.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import Any

from ckptstore.digests import digest
from ckptstore.tree.scalars import int_bytes

# The text of an item may have so many bytes, and so many for each node and byte that is in it.
_LEAST_NBYTES = 16 << 10
_PER_NODE = 512
_PER_BYTE = 64

_Key = tuple[str, bytes]


def in_order(items: Iterable[Any]) -> list[Any]:
    """Return the items of a set, of any mixture of types, in the order of a file."""
    items = list(items)
    if len(items) < 2 or _NESTING.isdisjoint(map(type, items)):
        return sorted(items, key=_scalar_key) if len(items) > 1 else items
    try:
        texts = _Texts()
        keys = {id(x): texts.key(x) for x in items}
    except _TooLong:
        digests = _Digests()
        keys = {id(x): digests.key(x) for x in items}
    return sorted(items, key=lambda x: keys[id(x)])


_NESTING = frozenset({tuple, frozenset})


def _scalar_key(item: Any) -> _Key:
    if isinstance(item, enum.Enum):
        return type(item).__qualname__, repr(item._name_).encode()
    if type(item) in (float, complex):
        return type(item).__qualname__, struct.pack("<dd", complex(item).real, complex(item).imag)
    if type(item) is int:
        return "int", int_bytes(item)
    return type(item).__qualname__, repr(item).encode("utf-8", "surrogatepass")


class _TooLong(Exception):
    """The texts of some items are too long for their content."""


class _Texts:
    """The keys of items by the texts of their values. An object that is in many is read once."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[_Key, int, int]] = {}

    def key(self, item: Any) -> _Key:
        """Return the key of an item; raise _TooLong."""
        return self._key(item)[0]

    def _key(self, item: Any) -> tuple[_Key, int, int]:
        """Return a key, the length of all texts that it is made of, and how long they may be."""
        if type(item) not in _NESTING:
            key = _scalar_key(item)
            return key, len(key[1]), _PER_NODE + _PER_BYTE * len(key[1])
        done = self._done.get(id(item))
        if done is None:
            parts = [self._key(part) for part in item]
            keys = [key for key, _, _ in parts]
            if type(item) is frozenset:
                keys.sort()
            text = repr(keys).encode()
            nbytes = len(text) + sum(n for _, n, _ in parts)
            most = _PER_NODE + sum(n for _, _, n in parts)
            if nbytes > _LEAST_NBYTES + most:
                raise _TooLong
            done = self._done[id(item)] = (type(item).__qualname__, text), nbytes, most
        return done


class _Digests:
    """The keys of items by the digests of their values."""

    def __init__(self) -> None:
        self._keys: dict[int, _Key] = {}

    def key(self, item: Any) -> _Key:
        """Return the key of an item."""
        if type(item) not in _NESTING:
            name, data = _scalar_key(item)
            return name, digest(data)
        if id(item) not in self._keys:
            keys = [self.key(part) for part in item]
            if type(item) is frozenset:
                keys.sort()
            text = b"".join(name.encode() + b"\0" + data for name, data in keys)
            self._keys[id(item)] = type(item).__qualname__, digest(text)
        return self._keys[id(item)]

"""The sets that an object holds, whose items have no order of their own."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

_LEVELS = 6
_OBJECTS = 100_000
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


class HeldSets:
    """The sets that an object and a second one, made from its parts, hold alike.

    A function that lists the items of a set lists those of an equal set in another order, as the
    hashes and the history of the two sets want it. Nothing is lost thereby.

    Example:
        >>> first, second = [{"a", "b"}, "c"], [{"b", "a"}, "c"]
        >>> HeldSets(first, second).hold("a", "b"), HeldSets(first, second).hold("a", "c")
        (True, False)
    """

    def __init__(self, x: Any, again: Any) -> None:
        self._x, self._again = x, again

    def hold(self, a: Any, b: Any) -> bool:
        """Return whether `a` is an item of a set of the first, and `b` of an equal set."""
        first, second = self._items
        return not first.get(id(a), frozenset()).isdisjoint(second.get(id(b), frozenset()))

    @functools.cached_property
    def _items(self) -> tuple[Mapping[int, set[Any]], Mapping[int, set[Any]]]:
        return _by_item(self._x), _by_item(self._again)


def _by_item(x: Any) -> Mapping[int, set[Any]]:
    """Return the contents of the sets in which an object is an item, by its id."""
    found: dict[int, set[Any]] = {}
    for held in _sets(x):
        content = frozenset(held)
        for item in held:
            found.setdefault(id(item), set()).add(content)
            if type(item) is weakref.ref:  # of a WeakSet
                found.setdefault(id(item()), set()).add(content)
    return found


def _sets(x: Any) -> Iterator[set[Any] | frozenset[Any]]:
    """Yield the sets in an object, some levels deep."""
    level, seen = [x], {id(x)}
    for _ in range(_LEVELS):
        below = []
        for held in level:
            if isinstance(held, set | frozenset):
                yield held
            for part in gc.get_referents(held):
                if id(part) in seen or isinstance(part, _CODE) or len(seen) >= _OBJECTS:
                    continue
                seen.add(id(part))
                below.append(part)
        level = below

"""Haiku: FlatMapping and PRNGSequence. Params and state are plain dicts."""

from __future__ import annotations

import collections
import enum
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import haiku
import jax

from ckptstore.types import Adapter, Record, Refusal, has_own, object_row

_FlatMap = type(haiku.data_structures.to_immutable_dict({}))


class HaikuAdapter(Adapter):
    """The adapter of dm-haiku."""

    modules = ("haiku",)

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """Immutable mappings and sequences of keys."""
        return {
            _FlatMap: Record(
                object_row(_FlatMap, "mapping", wraps=True),
                _take_map,
                _make_map,
                check=_check_taken,
                reads="everything",
            ),
            haiku.PRNGSequence: Record(
                object_row(haiku.PRNGSequence, "key", "subkeys"),
                _take_keys,
                _make_keys,
                reads="items",
            ),
        }


def _take_map(x: Any) -> Sequence[Any]:
    # x.items() would cache the dict in the map.
    mapping = x._mapping
    if mapping is None:
        mapping = jax.tree.unflatten(x._structure, x._leaves)
    if not _is_plain(mapping):
        raise Refusal(
            "a FlatMapping of Haiku may hold only dicts, lists, tuples and leaves, and no key that "
            "is an Enum member with an order of its own; use a dict: "
            "hk.data_structures.to_mutable_dict(x)"
        )
    return (mapping,)


def _check_map(values: Sequence[Any]) -> None:
    (mapping,) = values
    if type(mapping) is not dict or not _is_plain(mapping):
        raise TypeError("a FlatMapping is made from a dict of dicts, lists, tuples and leaves")


def _check_taken(values: Sequence[Any]) -> None:
    if type(values[0]) is not dict:  # `take` looked below it
        raise TypeError("a FlatMapping is made from a dict")


def _make_map(values: Sequence[Any]) -> Any:
    _check_map(values)
    (mapping,) = values
    return _FlatMap(mapping)  # flattens it, which runs no code of plain containers


def _is_plain(x: Any) -> bool:
    """Return whether jax takes `x` apart into leaves without running code of their classes."""
    todo, seen = [x], set[int]()
    while todo:
        x = todo.pop()
        cls = type(x)
        if cls in (dict, list, tuple):
            if id(x) in seen:
                continue
            seen.add(id(x))
            if cls is dict and not all(map(_sorts_plainly, x)):
                return False
            todo.extend(x.values() if cls is dict else x)
        elif not (cls is _FlatMap or x is None or _is_leaf(x)):
            return False
    return True


def _is_leaf(x: Any) -> bool:
    return not issubclass(type(x), tuple) and bool(jax.tree_util.all_leaves([x]))


def _sorts_plainly(key: Any) -> bool:
    """Return whether jax, which sorts the keys of a dict, runs no code of the key's class."""
    if type(key) in (tuple, frozenset):
        return all(map(_sorts_plainly, key))
    return not issubclass(type(key), enum.Enum) or not has_own(type(key), "__lt__", "__gt__")


def _take_keys(x: Any) -> Sequence[Any]:
    return (x._key, tuple(x._subkeys))


def _make_keys(values: Sequence[Any]) -> Any:
    key, subkeys = values
    if type(subkeys) is not tuple:
        raise TypeError("the keys in reserve are not a tuple")
    sequence: Any = object.__new__(haiku.PRNGSequence)
    sequence._key, sequence._subkeys = key, collections.deque(subkeys)
    return sequence


ADAPTER = HaikuAdapter()

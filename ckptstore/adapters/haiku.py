"""Haiku: FlatMapping and PRNGSequence. Params and state are plain dicts."""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import haiku
import jax

from ckptstore.types import Adapter, Record, Refusal, object_row

_FlatMap = type(haiku.data_structures.to_immutable_dict({}))


class HaikuAdapter(Adapter):
    """The adapter of dm-haiku."""

    modules = ("haiku",)

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """Immutable mappings and sequences of keys."""
        return {
            _FlatMap: Record(
                object_row(_FlatMap, "mapping", wraps=True), _take_map, _make_map, check=_check_map
            ),
            haiku.PRNGSequence: Record(
                object_row(haiku.PRNGSequence, "key", "subkeys"), _take_keys, _make_keys
            ),
        }


def _take_map(x: Any) -> Sequence[Any]:
    # x.items() would cache the dict in the map.
    mapping = x._mapping
    if mapping is None:
        mapping = jax.tree.unflatten(x._structure, x._leaves)
    if not _is_plain(mapping):
        raise Refusal(
            "a FlatMapping of Haiku may hold only dicts, lists, tuples and leaves; use a "
            "dict: hk.data_structures.to_mutable_dict(x)"
        )
    return (mapping,)


def _check_map(values: Sequence[Any]) -> None:
    (mapping,) = values
    if type(mapping) is not dict or not _is_plain(mapping):
        raise TypeError("a FlatMapping is made from a dict of dicts, lists, tuples and leaves")


def _make_map(values: Sequence[Any]) -> Any:
    _check_map(values)
    (mapping,) = values
    return _FlatMap(mapping)  # flattens it, which runs no code of plain containers


def _is_plain(x: Any) -> bool:
    cls = type(x)
    if cls is dict:
        return all(map(_is_plain, x.values()))
    if cls is list or cls is tuple:
        return all(map(_is_plain, x))
    return cls is _FlatMap or x is None or bool(jax.tree_util.all_leaves([x]))


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

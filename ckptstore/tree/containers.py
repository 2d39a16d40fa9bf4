"""Containers of Python: from an object to its node and children, and back. Spec: section 5.3."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ckptstore.errors import CorruptError, Reason
from ckptstore.format import Kind
from ckptstore.tree import paths
from ckptstore.tree.live import Encode, LiveTree
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.ordering import in_order
from ckptstore.tree.records import encode_record
from ckptstore.types import CROWD, Refusal, find_adapter, is_crowd, refuse_unfit, without_alias

_FACTORIES: Mapping[str, Any] = {
    "": None,
    **{
        f.__name__: f
        for f in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
    },
}
"""The possible factories of a defaultdict, by stored name."""


def _encode_list(live: LiveTree, x: list[Any]) -> Sequence[Any]:
    live.add(Kind.LIST)
    return x


def _encode_tuple(live: LiveTree, x: tuple[Any, ...]) -> Sequence[Any]:
    live.add(Kind.TUPLE)
    return x


def _encode_range(live: LiveTree, x: range) -> Sequence[Any]:
    live.add(Kind.RANGE)
    return (x.start, x.stop, x.step)


def _decode_range(table: NodeTable, node: int, values: Sequence[Any]) -> range:
    if not all(type(value) is int for value in values) or values[2] == 0:
        raise _corrupt(table, node, "not a range", Reason.BAD_SCALAR)
    return range(*values)


def _encode_slice(live: LiveTree, x: slice) -> Sequence[Any]:
    live.add(Kind.SLICE)
    return (x.start, x.stop, x.step)


def _encode_dict(live: LiveTree, x: dict[Any, Any]) -> Sequence[Any]:
    return _encode_entries(live, Kind.DICT, x)


def _encode_ordered_dict(live: LiveTree, x: collections.OrderedDict[Any, Any]) -> Sequence[Any]:
    if vars(x) and without_alias(x, vars(x)):
        return _encode_object(live, x, type(x))
    return _encode_entries(live, Kind.ORDERED_DICT, x)


def _encode_default_dict(live: LiveTree, x: collections.defaultdict[Any, Any]) -> Sequence[Any]:
    names = [name for name, factory in _FACTORIES.items() if factory is x.default_factory]
    if not names:
        raise Refusal(
            f"the factory {x.default_factory!r} of this defaultdict cannot be saved; use one "
            f"of {', '.join(filter(None, _FACTORIES))} or None"
        )
    return _encode_entries(live, Kind.DEFAULT_DICT, x, names[0].encode())


def _encode_entries(
    live: LiveTree, kind: Kind, x: Mapping[Any, Any], data: bytes = b""
) -> Sequence[Any]:
    if refuse_unfit(x):
        return _encode_object(live, x, dict)
    live.add(kind, data=data)
    return [part for entry in x.items() for part in entry]


def _encode_object(live: LiveTree, x: Any, cls: type) -> Sequence[Any]:
    """Append a container that has no kind of node, by the record of a class."""
    adapter = find_adapter(cls.__module__)
    record = adapter.record(cls) if adapter is not None else None
    assert record is not None
    return encode_record(record, live, x)


def _decode_dict(table: NodeTable, node: int, values: Sequence[Any]) -> Any:
    return _filled({}, table, node, values)


def _decode_ordered_dict(table: NodeTable, node: int, values: Sequence[Any]) -> Any:
    return _filled(collections.OrderedDict(), table, node, values)


def _decode_default_dict(table: NodeTable, node: int, values: Sequence[Any]) -> Any:
    name = table.text(node)
    if name not in _FACTORIES:
        raise CorruptError(
            f"{table.where}: {name!r:.80} is not a factory that a defaultdict may have",
            reason=Reason.BAD_SCALAR,
        )
    return _filled(collections.defaultdict(_FACTORIES[name]), table, node, values)


def _filled(
    out: dict[Any, Any], table: NodeTable, node: int, values: Sequence[Any]
) -> dict[Any, Any]:
    """Fill an empty dict with the alternating keys and values of a stored one."""
    _refuse_crowd(table, node, values[::2])
    for number, (key, value) in enumerate(zip(values[::2], values[1::2], strict=True)):
        if key in out:
            text = f"the key {table.key(table.layout.children(node)[2 * number]):.80} stands twice"
            raise _corrupt(table, node, text, Reason.DUPLICATE_KEY)
        out[key] = value
    return out


def _encode_set(live: LiveTree, x: set[Any] | frozenset[Any]) -> Sequence[Any]:
    if refuse_unfit(x):
        return _encode_object(live, x, type(x))
    live.add(Kind.SET if type(x) is set else Kind.FROZENSET)
    return in_order(x)


def _decode_set(table: NodeTable, node: int, values: Sequence[Any]) -> set[Any]:
    _refuse_crowd(table, node, values)
    out = set(values)  # `validate` has checked that their kinds may be hashed
    if len(out) != len(values):
        raise _corrupt(table, node, "an item stands twice", Reason.DUPLICATE_KEY)
    return out


def _refuse_crowd(table: NodeTable, node: int, values: Sequence[Any]) -> None:
    if is_crowd(values):
        raise _corrupt(table, node, f"more than {CROWD} keys have the same hash", Reason.TOO_MANY)


def _corrupt(table: NodeTable, node: int, text: str, reason: Reason) -> CorruptError:
    return CorruptError(f"{table.where}: {paths.path(table, node)}: {text}", reason=reason)


ENCODERS: Mapping[type, Encode] = {
    list: _encode_list,
    tuple: _encode_tuple,
    dict: _encode_dict,
    collections.OrderedDict: _encode_ordered_dict,
    collections.defaultdict: _encode_default_dict,
    set: _encode_set,
    frozenset: _encode_set,
    range: _encode_range,
    slice: _encode_slice,
}
"""By exact type."""

DECODERS: Mapping[int, Callable[[NodeTable, int, Sequence[Any]], Any]] = {
    Kind.LIST: lambda table, node, values: list(values),
    Kind.TUPLE: lambda table, node, values: tuple(values),
    Kind.DICT: _decode_dict,
    Kind.ORDERED_DICT: _decode_ordered_dict,
    Kind.DEFAULT_DICT: _decode_default_dict,
    Kind.SET: _decode_set,
    Kind.FROZENSET: lambda table, node, values: frozenset(_decode_set(table, node, values)),
    Kind.RANGE: _decode_range,
    Kind.SLICE: lambda table, node, values: slice(*values),
}
"""By kind; each makes a container from its children."""

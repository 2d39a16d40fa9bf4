"""Built-in scalar types as values (a ``dtype=float`` in a config), and three of Python's classes.

They are functools.partial, Counter, and OrderedDict with attributes: the state_dicts of torch.
"""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

from ckptstore.index import TypeKind, TypeRow
from ckptstore.registry import Adapter, Record, Refusal

_TYPES = {f"builtins.{t.__name__}": t for t in (bool, int, float, complex, str, bytes)}


class PythonAdapter(Adapter):
    """The adapter of the packages `builtins`, `collections` and `functools`."""

    def record(self, cls: type) -> Record | None:
        """Take a functools.partial and a Counter apart, and an OrderedDict that has attributes."""
        return _RECORDS.get(cls)

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the same for a stored name."""
        return next((r for r in _RECORDS.values() if str(r.row) == str(row)), None)

    def symbol(self, x: Any) -> str | None:
        """Return the name of a built-in scalar type."""
        return next((name for name, t in _TYPES.items() if t is x), None)

    def symbol_named(self, name: str) -> Any:
        """Return the built-in scalar type of that name."""
        return _TYPES[name]


def _take_partial(x: Any) -> Sequence[Any]:
    if x.__dict__:
        raise Refusal(f"this partial has the attribute {next(iter(x.__dict__))!r}; delete it")
    return (x.func, x.args, x.keywords)


def _make_partial(values: Sequence[Any]) -> Any:
    function, args, keywords = values
    if type(args) is not tuple or type(keywords) is not dict or type(function) is functools.partial:
        raise TypeError("its fields are of other types")
    made: Any = functools.partial(function)  # which calls nothing
    made.__setstate__((function, args, keywords, None))  # these very objects, not copies
    return made


def _take_attributed(x: Any) -> Sequence[Any]:
    attributes = dict(vars(x))
    hidden = _hidden(attributes)
    if hidden:
        raise Refusal(f"this OrderedDict has the attribute {hidden[0]!r} of its own; delete it")
    return (OrderedDict(OrderedDict.items(x)), attributes)


def _make_attributed(values: Sequence[Any]) -> Any:
    made, attributes = values
    if type(made) is not OrderedDict or vars(made) or type(attributes) is not dict:
        raise TypeError("its fields are of other types")
    if not attributes or _hidden(attributes):
        raise TypeError("its attributes are none, or not only data")
    vars(made).update(attributes)
    return made


def _take_counter(x: Any) -> Sequence[Any]:
    if vars(x):
        raise Refusal(f"this Counter has the attribute {next(iter(vars(x)))!r}; delete it")
    return (dict(dict.items(x)),)


def _make_counter(values: Sequence[Any]) -> Any:
    (counts,) = values
    if type(counts) is not dict:
        raise TypeError("a Counter is made of a dict")
    return Counter(counts)


def _hidden(attributes: dict[str, Any]) -> list[str]:
    """Return the names under which an attribute would stand before a method of the class."""
    return [n for n in attributes if type(n) is not str or hasattr(OrderedDict, n)]


def _collection(name: str, *fields: str) -> TypeRow:
    return TypeRow(TypeKind.OBJECT, "collections", name, fields=fields, extra={"wraps": True})


_RECORDS: dict[type, Record] = {
    functools.partial: Record(
        TypeRow(TypeKind.OBJECT, "functools", "partial", fields=("func", "args", "keywords")),
        _take_partial,
        _make_partial,
    ),
    Counter: Record(_collection("Counter", "counts"), _take_counter, _make_counter),
    OrderedDict: Record(
        _collection("OrderedDict with attributes", "items", "attributes"),
        _take_attributed,
        _make_attributed,
    ),
}

ADAPTER = PythonAdapter()

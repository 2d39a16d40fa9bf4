"""Built-in scalar types as values (a ``dtype=float`` in a config), and classes of Python's library.

These are functools.partial, collections without their own kind of node (the state_dict of torch is
an OrderedDict with attributes), paths and namespaces. Further modules, `stdlib_*`, have the rest.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import types
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from ckptstore.adapters import stdlib_dates, stdlib_keys, stdlib_numbers, stdlib_random
from ckptstore.types import Adapter, Record, Refusal, object_row, without_alias


class PythonAdapter(Adapter):
    """The adapter of `builtins` and of the modules of Python's library that hold these classes."""

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """The records of these classes, not of their subclasses."""
        return {
            functools.partial: Record(
                object_row("functools.partial", "func", "args", "keywords"),
                _take_partial,
                _make_partial,
                check=_check_partial,
            ),
            Counter: Record(
                object_row("collections.Counter", "counts", wraps=True),
                _take_counter,
                _make_counter,
                check=_check_counter,
                reads="items",
            ),
            OrderedDict: Record(
                object_row(
                    "collections.OrderedDict with attributes", "items", "attributes", wraps=True
                ),
                _take_attributed,
                _make_attributed,
                reads="items",
            ),
            deque: Record(
                object_row("collections.deque", "items", "maxlen", wraps=True),
                _take_deque,
                _make_deque,
                check=_check_deque,
                reads="items",
            ),
            pathlib.PosixPath: _path_of(pathlib.PosixPath),
            pathlib.PurePosixPath: _path_of(pathlib.PurePosixPath),
            argparse.Namespace: _namespace_of(argparse.Namespace),
            types.SimpleNamespace: _namespace_of(types.SimpleNamespace),
            **stdlib_dates.RECORDS,
            **stdlib_keys.RECORDS,
            **stdlib_numbers.RECORDS,
            **stdlib_random.RECORDS,
        }

    @functools.cached_property
    def symbols(self) -> Mapping[str, Any]:
        """The built-in scalar types."""
        return {f"builtins.{t.__name__}": t for t in (bool, int, float, complex, str, bytes)}


def _take_partial(x: Any) -> Sequence[Any]:
    if attributes := without_alias(x, x.__dict__):
        raise Refusal(f"this partial has the attribute {next(iter(attributes))!r}; delete it")
    return (x.func, x.args, x.keywords)


def _check_partial(values: Sequence[Any]) -> None:
    function, args, keywords = values
    if type(args) is not tuple or type(keywords) is not dict or type(function) is functools.partial:
        raise TypeError("its fields have wrong types")


def _make_partial(values: Sequence[Any]) -> Any:
    _check_partial(values)
    function, args, keywords = values
    partial: Any = functools.partial(function)  # this does not call the function
    partial.__setstate__((function, args, keywords, None))  # these very objects, not copies
    return partial


def _take_attributed(x: Any) -> Sequence[Any]:
    attributes = without_alias(x, vars(x))
    hidden = _hidden(attributes)
    if hidden:
        raise Refusal(
            f"this OrderedDict has the attribute {hidden[0]!r}, which hides a method; delete it"
        )
    return (OrderedDict(OrderedDict.items(x)), attributes)


def _make_attributed(values: Sequence[Any]) -> Any:
    items, attributes = values
    if type(items) is not OrderedDict or vars(items) or type(attributes) is not dict:
        raise TypeError("its fields have wrong types")
    if not attributes or _hidden(attributes):
        raise TypeError("its attributes are missing or hide a method")
    made = OrderedDict(items)  # the plain one may also stand elsewhere
    vars(made).update(attributes)
    return made


def _take_counter(x: Any) -> Sequence[Any]:
    if attributes := without_alias(x, vars(x)):
        raise Refusal(f"this Counter has the attribute {next(iter(attributes))!r}; delete it")
    return (dict(dict.items(x)),)


def _check_counter(values: Sequence[Any]) -> None:
    (counts,) = values
    if type(counts) is not dict:
        raise TypeError("the stored content of a Counter is not a dict")


def _make_counter(values: Sequence[Any]) -> Any:
    _check_counter(values)
    (counts,) = values
    return Counter(counts)


def _take_deque(x: Any) -> Sequence[Any]:
    return (list(x), x.maxlen)


def _check_deque(values: Sequence[Any]) -> None:
    items, maxlen = values
    if type(items) is not list or type(maxlen) not in (int, type(None)):
        raise TypeError("a deque is made from a list and its maximum length")


def _make_deque(values: Sequence[Any]) -> Any:
    _check_deque(values)
    items, maxlen = values
    queue = deque(items, maxlen)
    if len(queue) != len(items):
        raise ValueError("it has more items than its maximum length")
    return queue


def _path_of(cls: type[pathlib.PurePath]) -> Record:
    def make(values: Sequence[Any]) -> Any:
        (text,) = values
        if type(text) is not str or str(cls(text)) != text:
            raise TypeError("a path is made from a str in its normal form")
        return cls(text)

    row = object_row(f"pathlib.{cls.__name__}", "path")
    return Record(row, lambda x: (str(x),), make, check=lambda values: None, reads="items")


def _namespace_of(cls: type) -> Record:
    def check(values: Sequence[Any]) -> None:
        (attributes,) = values
        if type(attributes) is not dict or not {str}.issuperset(map(type, attributes)):
            raise TypeError("a namespace is made from a dict with str keys")

    def make(values: Sequence[Any]) -> Any:
        check(values)
        (attributes,) = values
        namespace = cls()
        vars(namespace).update(attributes)
        return namespace

    row = object_row(cls, "attributes", wraps=True)
    return Record(row, lambda x: (dict(vars(x)),), make, check=check, reads="items")


def _hidden(attributes: dict[str, Any]) -> list[str]:
    """Return the names of attributes that would hide a method of the class."""
    return [n for n in attributes if type(n) is not str or hasattr(OrderedDict, n)]


ADAPTER = PythonAdapter()

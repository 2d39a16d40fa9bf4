"""Dicts and sets whose keys or items are objects, such as scalars of numpy, dates and paths.

A node of the format for a key holds no object. So such a dict is stored as a dict with a text in
the place of each object, which its paths show, and the object of each text.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ckptstore.types import CROWD, Record, is_crowd, key_text, object_row, refuse_unfit


def _take_dict(x: Any) -> Sequence[Any]:
    objects = [key for key in x if refuse_unfit((key,))]
    others = {id(key) for key in objects}
    texts: dict[int, str] = {}
    taken = {key for key in x if id(key) not in others}
    for key in objects:
        text, first, number = key_text(key), key_text(key), 1
        while text in taken:  # two NaN have one text
            number += 1
            text = f"{first} ({number})"
        texts[id(key)] = text
        taken.add(text)
    items = _empty(x)
    for key, value in x.items():
        items[texts.get(id(key), key)] = value
    return (items, {texts[id(key)]: key for key in objects})


def _empty(x: Any) -> Any:
    return defaultdict(x.default_factory) if type(x) is defaultdict else type(x)()


def _check_dict(values: Sequence[Any]) -> None:
    items, objects = values
    if type(items) not in (dict, OrderedDict, defaultdict) or type(objects) is not dict:
        raise TypeError("its fields have wrong types")
    if not {str}.issuperset(map(type, objects)) or not objects.keys() <= items.keys():
        raise TypeError("its objects do not belong to its keys")


def _make_dict(values: Sequence[Any]) -> Any:
    _check_dict(values)
    items, objects = values
    _refuse_unfit([*objects.values()])
    _refuse_crowd([objects.get(key, key) for key in items])
    made = _empty(items)
    for key, value in items.items():
        made[objects.get(key, key)] = value
    if len(made) != len(items):
        raise ValueError("a key stands twice")
    return made


def _check_set(values: Sequence[Any]) -> None:
    (items,) = values
    if type(items) is not list:
        raise TypeError("the items of a set are not a list")


def _set_of(cls: type) -> Record:
    def make(values: Sequence[Any]) -> Any:
        _check_set(values)
        (items,) = values
        _refuse_unfit(items)
        made = cls(items)
        if len(made) != len(items):
            raise ValueError("an item stands twice")
        return made

    row = object_row(f"builtins.{cls.__name__} of objects", "items", wraps=True)
    return Record(row, _take_set, make, check=_check_set, reads="last")


def _take_set(x: Any) -> Sequence[Any]:
    return (sorted(x, key=key_text),)


def _refuse_unfit(keys: Collection[Any]) -> None:
    if not refuse_unfit(keys):
        raise TypeError("none of its keys is an object")


def _refuse_crowd(keys: Collection[Any]) -> None:
    if is_crowd(keys):
        raise ValueError(f"more than {CROWD} keys have the same hash")


RECORDS: Mapping[type, Record] = {
    dict: Record(
        object_row("builtins.dict with objects as keys", "items", "objects", wraps=True),
        _take_dict,
        _make_dict,
        check=_check_dict,
        reads="last",
    ),
    set: _set_of(set),
    frozenset: _set_of(frozenset),
}
"""By exact type; an OrderedDict and a defaultdict have the record of a dict."""

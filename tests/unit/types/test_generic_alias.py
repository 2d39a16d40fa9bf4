"""The note that Python leaves in what ``G[int](...)`` makes is no lost attribute."""

from __future__ import annotations

import collections
import functools
import pathlib
import typing
from collections.abc import Callable
from typing import Any

import pytest

import ckptstore

T = typing.TypeVar("T")


class GenericText(str, typing.Generic[T]):
    pass


class GenericCount(int, typing.Generic[T]):
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: GenericText[int]("a"),
        lambda: GenericCount[int](3),
        lambda: collections.Counter[str]("aab"),
        lambda: collections.OrderedDict[str, int](a=1),
        lambda: with_own(collections.OrderedDict[str, int](a=1)),
        lambda: collections.defaultdict[str, int](int, a=1),
        lambda: collections.deque[int]([1]),
    ],
)
def test_the_alias_of_other_objects_is_no_lost_attribute(
    make: Callable[[], Any], tmp_path: pathlib.Path
) -> None:
    x = make()
    ckptstore.save(tmp_path / "c", x)
    again = ckptstore.load(tmp_path / "c")
    assert type(again) is type(x)
    assert again == x
    assert getattr(again, "own", None) == getattr(x, "own", None)


def with_own(x: Any) -> Any:
    x.own = 7
    return x


def test_the_alias_of_a_partial_is_no_lost_attribute(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", functools.partial[int](int, "1"))
    assert ckptstore.load(tmp_path / "c")() == 1


def test_the_alias_of_a_subclass_of_dict_is_not_among_the_attributes_to_save(
    tmp_path: pathlib.Path,
) -> None:
    class Table(dict[str, T], typing.Generic[T]):
        pass

    with pytest.raises(ckptstore.StructureError, match=r"pass dict\(x\), or use"):
        ckptstore.save(tmp_path / "c", Table[int](a=1))

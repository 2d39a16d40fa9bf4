"""What the refusals of objects of NumPy and of Python's library tell you to do, done."""

from __future__ import annotations

import collections
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import StructureError
from tests.support.compare import assert_exact

follows = pytest.mark.follows


def refused(place: Path, tree: Any) -> str:
    with pytest.raises(StructureError) as caught:
        ckptstore.save(place / "refused", tree)
    return str(caught.value)


@follows("adapters.numpy", "delete it")
def test_an_array_with_an_attribute(tmp_path: Path) -> None:
    arrays: list[Any] = [np.rec.array([(1, 2.0)], "i4,f8"), np.ma.array([1, 2], mask=[0, 1])]
    for x in arrays:
        x.note = 1
        refused(tmp_path, [x])
        del x.note
        assert_exact(tmp_path, [x])


@follows("adapters.numpy", "mask a plain numpy array")
def test_a_masked_array_of_a_subclass(tmp_path: Path) -> None:
    class Mine(np.ndarray):  # type: ignore[type-arg]
        pass

    x = np.ma.array(np.arange(3.0).view(Mine), mask=[0, 1, 0])
    refused(tmp_path, [x])
    assert_exact(tmp_path, [np.ma.array(np.asarray(x.data), mask=x.mask)])


@follows("adapters.numpy", "make a new one: np.ma.array(x.data, mask=...)")
def test_a_masked_array_whose_parts_do_not_fit(tmp_path: Path) -> None:
    x: Any = np.ma.array([1, 2], mask=[0, 1])
    x._fill_value = np.array([1, 2])
    refused(tmp_path, [x])
    assert_exact(tmp_path, [np.ma.array(x.data, mask=[0, 1])])


def attributed(x: Any) -> Any:
    x.items = 1
    return x


@follows("adapters.stdlib", "delete it")
@pytest.mark.parametrize(
    "make",
    [
        lambda: functools.partial(max, 1),
        lambda: collections.OrderedDict(a=1),
        lambda: collections.Counter("aab"),
    ],
    ids=["partial", "OrderedDict", "Counter"],
)
def test_an_object_with_an_attribute(make: Any, tmp_path: Path) -> None:
    x = attributed(make())
    if type(x) is functools.partial:
        x = attributed(functools.partial(np.add, 1))
    refused(tmp_path, [x])
    del x.items
    assert_exact(tmp_path, [x])

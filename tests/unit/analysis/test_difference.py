"""What differs between two checkpoints is found, and what is equal is not read."""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import ckptstore
from ckptstore import analysis
from ckptstore.analysis import difference
from ckptstore.storage import LocalStorage
from tests.support import cluster
from tests.support.draws import examples
from tests.support.trees import arrays, trees


@pytest.fixture
def compared(tmp_path: pathlib.Path) -> Any:
    def compare(before: Any, after: Any, *args: Any, **options: Any) -> analysis.Diff:
        ckptstore.save(tmp_path / "before", before, overwrite=True)
        ckptstore.save(tmp_path / "after", after, overwrite=True)
        found = analysis.diff(tmp_path / "before", tmp_path / "after", *args, **options)
        json.dumps(found.to_dict(), allow_nan=False)
        return found

    return compare


def brief(found: analysis.Diff) -> list[tuple[str, str]]:
    return [(change.short, change.what) for change in found.changes]


@examples(40)
@hypothesis.given(trees)
def test_a_tree_does_not_differ_from_itself(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            ckptstore.save(f"{folder}/{name}", tree)
        found = analysis.diff(f"{folder}/a", f"{folder}/b")
        assert not found.changes and not found.differs
        assert found.equal == found.arrays and found.read_nbytes == 0


@examples(40)
@hypothesis.given(array=arrays(), data=st.data())
def test_one_changed_byte_is_a_change(array: Any, data: Any) -> None:
    hypothesis.assume(array.nbytes and array.dtype.kind in "iu")
    other = array.copy()
    flat = other.reshape(-1)
    at = data.draw(st.integers(0, flat.size - 1))
    flat[at] = flat[at] ^ 1
    other = flat.reshape(array.shape)
    with tempfile.TemporaryDirectory() as folder:
        ckptstore.save(f"{folder}/a", [array, array.copy()])
        ckptstore.save(f"{folder}/b", [array, other])
        found = analysis.diff(f"{folder}/a", f"{folder}/b")
        assert [(c.short, c.changed, c.largest) for c in found.changes] == [("1", 1, 1.0)]
        assert (found.arrays, found.equal) == (2, 1)


def test_by_how_much_an_array_moved(compared: Any) -> None:
    (change,) = compared({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 5.0])}).changes
    assert (change.distance, change.norm, change.moved, change.largest) == (1.0, 5.0, 0.2, 1.0)
    (change,) = compared({"w": np.zeros(2)}, {"w": np.array([0.0, 5.0])}).changes
    assert change.moved == float("inf") and change.to_dict()["moved"] == "Infinity"


def test_nan_stays_nan_and_gained_ones_are_counted(compared: Any) -> None:
    a, b = np.array([np.nan, 1.0, 2.0]), np.array([np.nan, 1.0, np.nan])
    assert not compared({"w": a}, {"w": a.copy()}).changes
    (change,) = compared({"w": a, "v": a}, {"w": b, "v": a}).changes
    assert (change.changed, change.nan, change.largest) == (1, 1, 0.0)


def test_structure_comes_by_name(compared: Any) -> None:
    before = {"a": 1, "gone": {"x": np.zeros(2), "y": 3}, "w": np.zeros(3), "t": [1], "s": "x"}
    after = {"a": 2, "w": np.zeros(4), "t": (1,), "new": {"z": np.zeros(1)}, "s": "x"}
    found = compared(before, after)
    assert brief(found) == [
        ("a", "value"), ("w", "array"), ("t", "kind"), ("new", "added"), ("gone", "removed"),
    ]  # fmt: skip
    assert (found.changes[0].before, found.changes[0].after) == ("1", "2")
    assert found.arrays == 0 and found.differs


def test_a_tolerance_marks_what_is_close(compared: Any) -> None:
    found = compared({"w": np.ones(3)}, {"w": np.ones(3) + 1e-7}, atol=1e-6)
    assert found.changes[0].close and not found.differs
    found = compared({"w": np.ones(3)}, {"w": np.array([1.0, 1.0, 2.0])}, rtol=1e-3)
    assert not found.changes[0].close and found.differs


def test_equal_arrays_of_other_cuts_are_read_and_equal(tmp_path: pathlib.Path) -> None:
    host = np.random.default_rng(0).standard_normal((3000, 700))

    def save(together: ckptstore.Processes) -> None:
        ckptstore.save(tmp_path / "cells", {"w": host}, processes=together)

    assert cluster.threads(2, save) == [None] * 2
    ckptstore.save(tmp_path / "whole", {"w": host})
    found = analysis.diff(tmp_path / "cells", tmp_path / "whole")
    assert not found.changes and found.equal == 1 and found.read_nbytes == host.nbytes
    (change,) = analysis.diff(tmp_path / "cells", tmp_path / "whole", data=False).changes
    assert change.what == "unknown"


def test_large_arrays_are_compared_in_blocks(
    compared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(difference, "_BLOCK_NBYTES", 1000)
    a = np.random.default_rng(0).standard_normal((7, 11, 13))
    b = a.copy()
    b[6, 10, 12] += 2.0
    b[0, 0, 0] -= 1.0
    (change,) = compared({"w": a, "v": a}, {"w": b, "v": a}).changes
    assert (change.short, change.changed, change.largest) == ("w", 2, 2.0)
    assert change.distance == pytest.approx(5**0.5)


def test_structure_alone_reads_no_data_file(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    get = LocalStorage.get

    def counted(self: Any, name: str, offset: int, buffer: Any) -> None:
        read.append(name)
        get(self, name, offset, buffer)

    monkeypatch.setattr(LocalStorage, "get", counted)
    before, after = ({"w": np.full(5, n), "v": np.ones(5)} for n in (0, 1))
    found = compared(before, after, data=False)
    assert brief(found) == [("w", "elements")] and found.changes[0].changed is None
    assert not [name for name in read if name.startswith("data")]

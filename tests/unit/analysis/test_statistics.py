"""The statistics of stored arrays are those of numpy on the whole array."""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import Any

import hypothesis
import ml_dtypes
import numpy as np
import pytest

import ckptstore
from ckptstore import StructureError, analysis
from ckptstore.analysis import statistics
from tests.support.draws import examples
from tests.support.trees import arrays


def expected(array: Any) -> dict[str, Any]:
    """Compute all in one go, in float64."""
    numbers = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64).reshape(-1)
    zeros = int(np.count_nonzero(array.reshape(-1).astype(numbers.dtype) == 0))
    nan = int(np.count_nonzero(np.isnan(numbers)))
    inf = int(np.count_nonzero(np.isinf(numbers) & ~np.isnan(numbers)))
    finite = numbers[np.isfinite(numbers)]
    finite = np.abs(finite) if finite.dtype.kind == "c" else finite
    found: dict[str, Any] = {"zeros": zeros, "nan": nan, "inf": inf}
    if finite.size:
        found |= {"mean": finite.mean(), "std": finite.std(), "min": finite.min()}
        found |= {"max": finite.max(), "norm": np.linalg.norm(finite)}
    return found


def of(array: Any) -> analysis.ArrayStats:
    with tempfile.TemporaryDirectory() as folder:
        ckptstore.save(f"{folder}/c", {"w": array})
        (row,) = analysis.stats(f"{folder}/c")
        json.dumps(row.to_dict(), allow_nan=False)
        return row


def agree(row: analysis.ArrayStats, array: Any, scale: float = 1.0) -> None:
    for name, value in expected(array).items():
        found = getattr(row, name)
        if name in ("zeros", "nan", "inf"):
            assert found == value, name
        else:
            assert found == pytest.approx(value, rel=1e-9, abs=1e-9 * scale), name


@examples(60)
@hypothesis.given(arrays())
def test_any_array_is_looked_at_or_left_out(array: Any) -> None:
    row = of(array)
    assert (row.elements, row.shape) == (array.size, array.shape)
    is_number = array.dtype.names is None and array.dtype.kind in "biuf"
    if array.size and is_number:
        assert row.zeros == np.count_nonzero(array == 0)
        finite = array.astype(np.longdouble)[np.isfinite(array)]
        if finite.size and np.abs(finite).max() < 1e100:
            agree(row, array, float(np.abs(finite).max()))
    elif array.dtype.kind in "USmM" or array.dtype.names is not None:
        assert row.mean is None and row.zeros is None


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint64", "bool", "complex64"]
)
def test_many_blocks_add_up(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BLOCK", 100)
    rng = np.random.default_rng(0)
    array = (rng.standard_normal(12_345) * 3 + 100).astype(dtype)
    row = of(array.reshape(5, -1))
    agree(row, array, 100)


def test_bfloat16_and_float8_are_numbers() -> None:
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4):
        array = np.array([0, 1, 2, -3]).astype(dtype)
        agree(of(array), array)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    array = np.array([3.0, 4.0, np.nan, np.inf, -np.inf, 0.0])
    row = of(array)
    assert (row.nan, row.inf, row.zeros, row.norm, row.min, row.max) == (1, 2, 1, 5.0, 0.0, 4.0)
    only = of(np.array([np.nan, np.inf]))
    assert (only.mean, only.min, only.nan, only.inf) == (None, None, 1, 1)
    assert json.dumps(only.to_dict(), allow_nan=False)


def test_a_large_mean_does_not_swallow_the_spread() -> None:
    array = np.random.default_rng(0).standard_normal(200_000) + 1e8
    assert of(array).std == pytest.approx(array.std(), rel=1e-6)


def test_keys_and_texts_have_no_numbers(tmp_path: pathlib.Path) -> None:
    jax = pytest.importorskip("jax")
    tree = {"key": jax.random.key(0), "text": np.array(["a"]), "none": np.zeros((0, 3))}
    ckptstore.save(tmp_path / "c", tree)
    rows = {row.short: row for row in analysis.stats(tmp_path / "c")}
    assert {*rows} == {*tree}
    assert all(row.mean is None and row.zeros is None for row in rows.values())


def test_only_the_selected_arrays_are_read(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"a": {"w": np.ones(3)}, "b": np.ones(4)})
    assert [row.short for row in analysis.stats(tmp_path / "c", "a")] == ["a.w"]
    assert [row.short for row in analysis.stats(tmp_path / "c", ["b", "a.*"])] == ["a.w", "b"]


def test_a_histogram_counts_as_numpy_does(tmp_path: pathlib.Path) -> None:
    array = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    array[3] = np.nan
    ckptstore.save(tmp_path / "c", {"w": array, "text": np.array(["a"])})
    found = analysis.histogram(tmp_path / "c", "w", bins=16)
    counts, edges = np.histogram(array[np.isfinite(array)].astype(np.float64), 16)
    assert found.counts == tuple(counts.tolist())
    assert found.edges == pytest.approx(tuple(edges.tolist()))
    assert json.loads(json.dumps(found.to_dict()))["counts"] == counts.tolist()


@pytest.mark.follows("analysis.histograms", "pass the path of one")
def test_a_histogram_is_of_one_array_of_numbers(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"w": np.ones(3), "text": np.array(["a"])})
    for path in ("text", "*"):
        with pytest.raises(StructureError, match="not one array of numbers"):
            analysis.histogram(tmp_path / "c", path)
    assert sum(analysis.histogram(tmp_path / "c", "w").counts) == 3

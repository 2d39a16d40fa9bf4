"""Objects of pandas are refused with two expressions, which save and restore them."""

from __future__ import annotations

import pathlib
import pickle
import re
from typing import Any

import numpy as np
import pandas
import pytest

import ckptstore
from ckptstore import StructureError
from tests.support.compare import roundtrip

TESTING: Any = pandas.testing
DAYS = pandas.date_range("2020-01-01T01:02:03.000004", periods=3)
FRAMES = {
    "numbers": pandas.DataFrame({"loss": [1 / 3, 1e-300, -0.0], "step": [1, 2, 3]}),
    "dtypes": pandas.DataFrame(
        {
            "a": np.arange(3, dtype="i1"),
            "f": np.array([1 / 3, np.nan, 2], "f4"),
            "i": pandas.array([1, None, 2], dtype="Int64"),
            "b": [True, False, True],
        }
    ),
    "texts": pandas.DataFrame({"s": ["x", "NA", 'a,"b'], "c": pandas.Categorical(["u", "v", "u"])}),
    "times": pandas.DataFrame({"t": DAYS, "z": DAYS.tz_localize("Europe/Berlin")}),
    "texts like numbers": pandas.DataFrame({"s": ["01", "1.0"]}, index=["007", "08"]),
    "empty and missing texts": pandas.DataFrame({"s": ["", None, "NA"]}),
    "numbers as columns": pandas.DataFrame(np.ones((2, 2))),
    "two columns of one name": pandas.DataFrame([[1, 2]], columns=["a", "a"]),
    "an index of times": pandas.DataFrame({"x": [1, 2, 3]}, index=DAYS),
    "categories": pandas.DataFrame({"c": pandas.Categorical(["u"], ["v", "u"], ordered=True)}),
    "nothing": pandas.DataFrame(),
    "an index": pandas.DataFrame({"x": [1, 2]}, index=pandas.Index(["p", "q"], name="k")),
    "levels": pandas.DataFrame(
        {"x": range(4)},
        index=pandas.MultiIndex.from_product([["a", "b"], [1, 2]], names=["k", "n"]),
    ),
}
OTHERS = {
    "a series": pandas.Series([1, 2.5, np.nan], ["a", "b", "c"], "f4", "loss"),
    "a series of text": pandas.Series(["a", "b"], name="names"),
    "a series of times": pandas.Series(DAYS, DAYS),
    "a series with levels": pandas.Series([1, 2], pandas.MultiIndex.from_tuples([(1, 2), (3, 4)])),
    "a series with a gap": pandas.Series([1, None], dtype="Int64"),
    "times": DAYS,
    "an index": pandas.Index([3, 1, 2], dtype="i2", name="k"),
    "a range": pandas.RangeIndex(3, name="n"),
    "levels": pandas.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["k", None]),
    "a moment": pandas.Timestamp("2020-01-01T01:02:03.000000004", tz="UTC"),
    "a span": pandas.Timedelta(3, "h"),
}


def follow(tmp_path: pathlib.Path, x: Any) -> Any:
    """Do what the refusal of an object says, and return the restored one."""
    with pytest.raises(StructureError) as caught:
        ckptstore.save(tmp_path / "refused", {"x": [x]})
    message = str(caught.value)
    assert message.startswith("$['x'][0]: ")
    found = re.search(r"save (.*), and restore it by x = (.*)$", message)
    assert found is not None, message
    names = {"pandas": pandas, "pickle": pickle}
    loaded = roundtrip(tmp_path, eval(found[1], {**names, "x": x}))
    return eval(found[2], {**names, "loaded": loaded})


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_restored_by_what_its_refusal_says(name: str, tmp_path: pathlib.Path) -> None:
    x = FRAMES[name]
    restored = follow(tmp_path, x)
    TESTING.assert_frame_equal(restored, x, check_exact=True)


@pytest.mark.parametrize("name", OTHERS)
def test_another_object_is_restored_by_what_its_refusal_says(
    name: str, tmp_path: pathlib.Path
) -> None:
    x = OTHERS[name]
    restored = follow(tmp_path, x)
    if isinstance(x, pandas.Series):
        TESTING.assert_series_equal(restored, x, check_exact=True)
    elif isinstance(x, pandas.Index):
        TESTING.assert_index_equal(restored, x, exact=True, check_exact=True)
    else:
        assert restored == x

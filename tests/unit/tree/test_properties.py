"""For any tree and any array: what is loaded is what was saved, and nothing else has changed."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import ckptstore
from tests.support.compare import differences
from tests.support.draws import examples
from tests.support.trees import arrays, trees


def there_and_back(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = pathlib.Path(folder) / "c"
        ckptstore.save(url, tree)
        loaded = ckptstore.load(url)
        assert differences(tree, loaded) == []
        assert differences(tree, ckptstore.load(url, tree)) == []
        assert ckptstore.verify(url) == []
        for leaf in ckptstore.inspect(url).leaves:
            selected = ckptstore.load(url, select=leaf.path)
            assert type(selected).__module__ in ("numpy", "ml_dtypes"), leaf


@examples(60)
@hypothesis.given(trees)
def test_any_tree_comes_back(tree: Any) -> None:
    there_and_back(tree)


@examples(60)
@hypothesis.given(st.lists(arrays(), max_size=8))
def test_any_arrays_come_back(tree: Any) -> None:
    there_and_back(tree)


@examples(60)
@hypothesis.given(st.lists(arrays(), max_size=6))
def test_any_numpy_scalar_and_dtype_comes_back(found: Any) -> None:
    scalars = [x.reshape(-1)[0] for x in found if x.size]
    there_and_back([scalars, [x.dtype for x in found]])


@pytest.mark.whole
@examples(2_000)
@hypothesis.given(trees)
def test_any_tree_comes_back_many_times(tree: Any) -> None:
    there_and_back(tree)

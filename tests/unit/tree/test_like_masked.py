"""`like` with a masked array, whose default fill value numpy makes when it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ckptstore


def masked(mask: Any = (0, 1), **options: Any) -> Any:
    return np.ma.array([1, 2], mask=mask, **options)


@pytest.mark.parametrize("asked", ["before", "after", "both", "neither"])
@pytest.mark.parametrize("how", ["whole", "select", "numpy"])
def test_a_masked_array_may_be_printed_before_or_after_the_save(
    asked: str, how: str, tmp_path: Any
) -> None:
    x, like = {"a": masked()}, {"a": masked()}
    for tree in {"before": [x], "after": [like], "both": [x, like], "neither": []}[asked]:
        repr(tree)
    ckptstore.save(tmp_path / "m", x)
    options: Any = {"select": {"select": "$['a']"}, "numpy": {"arrays": "numpy"}}.get(how, {})
    found = ckptstore.load(tmp_path / "m", like=like, **options)["a"]
    assert found.tolist() == [1, None] and found.fill_value == masked().fill_value


def test_the_fill_value_of_the_checkpoint_is_loaded(tmp_path: Any) -> None:
    ckptstore.save(tmp_path / "m", masked(fill_value=7))
    assert ckptstore.load(tmp_path / "m", like=masked()).fill_value == 7
    ckptstore.save(tmp_path / "n", masked())
    assert ckptstore.load(tmp_path / "n", like=masked(fill_value=7)).fill_value == 999999


def test_a_mask_on_one_side_only_is_a_difference(tmp_path: Any) -> None:
    ckptstore.save(tmp_path / "m", masked(np.ma.nomask))
    with pytest.raises(ckptstore.StructureError, match=r"\$\.mask: None in the checkpoint"):
        ckptstore.load(tmp_path / "m", like=masked())

"""What the errors of a load tell you to do, done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import ckptstore
from ckptstore import CorruptError, Manager, StructureError

follows = pytest.mark.follows


@follows("loading.fetch", "load an older checkpoint, or restore the file from a copy")
def test_an_array_that_is_damaged(tmp_path: Path) -> None:
    run = Manager(tmp_path / "run")
    for step in (1, 2):
        run.save(step, {"w": np.arange(1000.0) + step})
    older, newer = sorted((tmp_path / "run").iterdir())
    shutil.copytree(newer, tmp_path / "copy")
    (data,) = newer.glob("data-*")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(CorruptError) as caught:
        ckptstore.load(newer)
    assert data.name in str(caught.value)
    assert ckptstore.load(older)["w"][0] == 1
    shutil.copy(tmp_path / "copy" / data.name, data)
    assert ckptstore.load(newer)["w"][0] == 2


@follows("loading.reader", "for a pattern, pass select={}")
def test_a_pattern_in_the_place_of_like(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"params": {"w": 1}})
    with pytest.raises(StructureError) as caught:
        ckptstore.load(tmp_path / "c", "$.params")
    call = str(caught.value).rpartition("for a pattern, pass ")[2]
    assert ckptstore.load(tmp_path / "c", **eval(f"dict({call})")) == {"w": 1}


class Point(NamedTuple):
    x: int


@follows("loading.classes", "types= takes {}")
def test_types_that_are_none(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", Point(1))
    with pytest.raises(StructureError):
        ckptstore.load(tmp_path / "c", types=["project.Point"])  # type: ignore[list-item]
    assert ckptstore.load(tmp_path / "c", types=[Point]) == Point(1)
    assert ckptstore.load(tmp_path / "c", types={f"{__name__}.Point": Point}) == Point(1)

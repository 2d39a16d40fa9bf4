"""A run that begins in a directory of another library says so."""

from __future__ import annotations

import logging
import pathlib

import flax.serialization
import numpy as np
import pytest

import ckptstore


@pytest.mark.parametrize("foreign", [True, False])
def test_a_run_that_begins_in_a_foreign_directory_names_its_reader(
    foreign: bool, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ckptstore")
    if foreign:
        data = flax.serialization.to_bytes({"w": np.ones(2)})
        (tmp_path / "checkpoint_10").write_bytes(data)
    assert ckptstore.Manager(tmp_path).load_or_init(lambda: {"step": 0}) == {"step": 0}
    (record,) = caplog.records
    assert record.levelno == (logging.WARNING if foreign else logging.INFO)
    assert ("convert.from_flax(" in record.getMessage()) == foreign


def test_a_file_two_directories_below_is_named_by_its_path(tmp_path: pathlib.Path) -> None:
    child = tmp_path / "checkpoint-500"
    child.mkdir()
    np.savez(child / "optimizer.npz", w=np.ones(2))
    with pytest.raises(ckptstore.NotCommittedError, match=r"it holds checkpoint-500/optimizer.npz"):
        ckptstore.load(tmp_path)

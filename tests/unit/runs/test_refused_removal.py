"""A disk that refuses to remove files: saves succeed, and the log says it once."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, keep_last
from tests.support.faults import Faults, faulty

WEIGHTS = np.ones(10)


class Kept(Faults):
    def unlink(self, *_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]


def test_twenty_saves_where_no_step_can_be_evicted_log_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty(Kept()):
        manager = Manager(tmp_path, keep=keep_last(2))
        for step in range(1, 21):
            manager.save(step, {"step": step})
    (line,) = lines(caplog)
    assert "step 1 is not kept" in line and "Operation not permitted" in line
    manager.save(21, {"step": 21})  # the owner and the mode are right now
    assert manager.steps() == [20, 21]


def test_overwrites_that_leave_files_log_one_line_a_directory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty(Kept()):
        for step in range(5):
            for name in ("a", "b"):
                ckptstore.save(tmp_path / name, {"step": step, "w": WEIGHTS}, overwrite=True)
    assert len(lines(caplog)) == 2
    assert ckptstore.load(tmp_path / "a")["step"] == 4

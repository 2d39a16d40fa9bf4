"""A save that will not fit is told before the first byte, and a full disk names both figures."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, convert
from tests.support.faults import Faults, faulty

STATE = {"w": np.ones(100_000)}


class Full(Faults):
    """A disk whose free bytes are told, and on which writes fail if `full`."""

    def __init__(self, free: int, *, full: bool = False) -> None:
        super().__init__()
        self.free, self.full, self.written = free, full, 0

    def statvfs(self, path: str) -> Any:
        found = os.statvfs(path)
        names = [name for name in dir(found) if name.startswith("f_")]
        values = {name: getattr(found, name) for name in names}
        values |= {
            "f_frsize": 1,
            "f_bavail": self.free,
            "f_blocks": 10_000_000 if self.free >= 0 else 0,
        }
        return type("Room", (), values)()

    def write(self, fd: int, data: Any) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written += 1
        return os.write(fd, data)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]


def figures(text: str) -> tuple[int, int]:
    (needed,) = re.findall(r"the save writes (\d+) bytes", text)
    (free,) = re.findall(r"the file system has (\d+) of 10000000 bytes free", text)
    return int(needed), int(free)


@pytest.mark.parametrize("call", ["save", "async", "manager", "export"])
def test_a_save_that_does_not_fit_is_told_once_with_both_figures_and_goes_on(
    call: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty(Full(5000)) as disk:
        if call == "save":
            ckptstore.save(tmp_path / "a", STATE)
        elif call == "async":
            ckptstore.save_async(tmp_path / "a", STATE).result()
        elif call == "manager":
            Manager(tmp_path).save(1, STATE)
        else:
            convert.to_safetensors(tmp_path / "a.safetensors", STATE)
    (line,) = warnings(caplog)
    needed, free = figures(line)
    assert free == 5000 and 800_000 <= needed < 810_000
    assert isinstance(disk, Full) and disk.written  # a quota or a mount may lie: it is tried


@pytest.mark.parametrize("free", [900_000, -1], ids=["enough", "a mount that does not say"])
def test_a_save_that_fits_or_a_disk_that_does_not_say_is_not_told(
    free: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty(Full(free)):
        ckptstore.save(tmp_path / "a", STATE)
    assert warnings(caplog) == []


def test_files_that_are_taken_over_need_no_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager, frozen = Manager(tmp_path), {"w": np.zeros(1 << 20)}
    for step in (1, 2):
        manager.save(step, frozen)
    with faulty(Full(100_000)):
        manager.save(3, frozen)
    assert warnings(caplog) == []


@pytest.mark.follows(
    "storage.local",
    "free some space, or the save will probably fail",
)
def test_a_full_disk_names_both_figures_and_the_save_works_once_space_is_free(
    tmp_path: Path,
) -> None:
    with faulty(Full(5000, full=True)) as disk:
        with pytest.raises(ckptstore.StorageError) as caught:
            ckptstore.save(tmp_path / "a", STATE)
        assert caught.value.reason == "disk-full" and "free some space" in str(caught.value)
        needed, free = figures(str(caught.value))
        assert free == 5000 and 800_000 <= needed < 810_000
        assert isinstance(disk, Full)
        disk.full = False
        ckptstore.save(tmp_path / "a", STATE)
    assert (ckptstore.load(tmp_path / "a")["w"] == STATE["w"]).all()

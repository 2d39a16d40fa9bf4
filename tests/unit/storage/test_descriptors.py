"""No call keeps a file open, and where no descriptor is left each call says so."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, keep_best
from tests.support.faults import Faults, fail, faulty

CALLS: dict[str, Callable[[Path], Any]] = {
    "save": lambda run: ckptstore.save(run / "one", {"a": np.ones(3)}, overwrite=True),
    "async": lambda run: ckptstore.save_async(run / "two", {"a": 1}, overwrite=True).result(),
    "load": lambda run: ckptstore.load(run / f"step-{2:012}"),
    "inspect": lambda run: ckptstore.inspect(run / f"step-{2:012}"),
    "verify": lambda run: ckptstore.verify(run / f"step-{2:012}"),
    "steps": lambda run: Manager(run).steps(),
    "latest": lambda run: Manager(run).latest(),
    "best": lambda run: Manager(run).best("loss", "min"),
    "newest": lambda run: Manager(run).load(),
    "gc": lambda run: Manager(run).gc(grace=3600),
    "evict": lambda run: Manager(run, keep=keep_best(2, "loss", "min")).save(
        9, {"a": np.ones(3)}, metrics={"loss": 1.0}, overwrite=True
    ),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    manager = Manager(tmp_path / "run")
    for step in (1, 2, 3):
        manager.save(step, {"a": np.ones(3), "b": np.zeros(300_000)}, metrics={"loss": step})
    return tmp_path / "run"


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_descriptor() -> Iterator[None]:
    """Lower the limit of open files to those that are open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = os.dup(0)
    os.close(last)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("name", CALLS)
def test_no_call_keeps_a_file_open(name: str, run: Path) -> None:
    CALLS[name](run)
    gc.collect()  # files that other tests left to it
    before = opened()
    for _ in range(3):
        CALLS[name](run)
    assert opened() <= before


@pytest.mark.follows(
    "storage.posix",
    "close some files, or raise the limit of the process (ulimit -n)",
)
@pytest.mark.parametrize("name", [name for name in CALLS if name != "evict"])
def test_a_call_without_a_descriptor_names_the_limit_and_works_once_it_is_raised(
    name: str, run: Path
) -> None:
    CALLS[name](run)
    with no_descriptor(), pytest.raises(ckptstore.StorageError, match=r"ulimit -n") as caught:
        CALLS[name](run)
    assert "no file descriptor is left" in str(caught.value)
    CALLS[name](run)  # the limit is raised


def test_a_system_without_a_descriptor_names_its_own_limit(run: Path) -> None:
    with faulty(Faults(0, fail(errno.ENFILE))), pytest.raises(ckptstore.StorageError) as caught:
        ckptstore.load(run / f"step-{2:012}")
    assert "ulimit -n" in str(caught.value) and "fs.file-max" in str(caught.value)

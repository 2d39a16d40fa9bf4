"""Real mounts without hard links, without fsync of a directory, and with answers of their own."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, keep_last
from tests.support import disks
from tests.support.disks import KINDS, LINKLESS, Mounted

pytestmark = pytest.mark.ci
ASSUMED = {"ckptstore": {"assume_atomic": True}}


def state(step: int) -> dict[str, Any]:
    """A state whose large leaf stays the same, so that steps could share its file."""
    return {"step": step, "w": np.full(1000, step), "frozen": np.arange(150_000.0)}


def holds(found: Any, step: int) -> bool:
    expected = state(step)
    same = all(np.array_equal(found[name], expected[name]) for name in ("w", "frozen"))
    return bool(found["step"] == step and same)


def remedy(error: ckptstore.CheckpointError) -> dict[str, Any]:
    """Return the arguments that a message says to pass."""
    (text,) = re.findall(r"pass (storage_options=\{.*\})$", str(error))
    arguments: dict[str, Any] = eval(f"dict({text})")
    return arguments


def options(kind: str) -> dict[str, Any] | None:
    return ASSUMED if kind in LINKLESS else None


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    """Each kind of mount."""
    with disks.mounted(request.param, tmp_path) as mounted:
        yield mounted


@pytest.fixture(params=LINKLESS)
def linkless(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    """Each kind without hard links."""
    with disks.mounted(request.param, tmp_path) as mounted:
        yield mounted


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Mounted]:
    """A mount that answers what a test chooses."""
    with disks.mounted("passthrough", tmp_path) as mounted:
        mounted.answer()
        yield mounted


@pytest.mark.follows(
    "storage.mounts",
    "save to another disk or to a bucket, or, if only one process ever writes there, pass {}",
)
def test_a_mount_without_an_atomic_commit_is_refused_before_any_data_and_the_remedy_works(
    linkless: Mounted,
) -> None:
    calls: dict[str, Any] = {
        "save": lambda **more: ckptstore.save(linkless.path / "a", state(1), **more),
        "async": lambda **more: ckptstore.save_async(linkless.path / "b", state(1), **more),
        "run": lambda **more: Manager(linkless.path / "run", **more).save(1, state(1)),
        "url": lambda **more: Manager(f"file://{linkless.path}/url", **more).save(1, state(1)),
    }
    for name, call in calls.items():
        with pytest.raises(ckptstore.StorageError, match="neither hard links") as caught:
            saved = call()
            saved.result()
        assert caught.value.reason == "not-atomic" and "nothing was written" in str(caught.value)
        assert str(linkless.path) in str(caught.value)
        if name == "save":
            assert os.listdir(linkless.path) == []
        saved = call(**remedy(caught.value))
        saved = saved.result() if name == "async" else saved
        assert holds(ckptstore.load(saved.url), 1)
        assert ckptstore.verify(saved.url) == []


def test_each_mount_takes_the_whole_loop_of_a_run(
    disk: Mounted, caplog: pytest.LogCaptureFixture
) -> None:
    """Save, overwrite, a Manager with eviction, async, preemption, and another machine resumes."""
    more: Any = {"storage_options": options(disk.kind)}
    ckptstore.save(disk.path / "one", state(1), **more)
    ckptstore.save(disk.path / "one", state(2), overwrite=True, **more)
    assert holds(ckptstore.load(disk.path / "one"), 2)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        ckptstore.save(disk.path / "one", state(3), **more)
    manager = Manager(disk.path / "run", keep=keep_last(2), every=2, **more)
    assert manager.load_or_init(lambda: state(0))["step"] == 0
    with manager:
        preempted = manager.on_preemption()
        for step in range(1, 6):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            stop = bool(preempted)
            assert stop == (step == 5)
            if step == 2:
                manager.save(step, state(step), force=stop)
            else:
                manager.save_async(step, state(step), force=stop)
    assert manager.steps() == [4, 5]
    assert sorted(os.listdir(disk.path / "run")) == [f"step-{n:012}" for n in (4, 5)]
    assert manager.gc(grace=3600) == {} and manager.gc(grace=0) == {}
    manager.delete(4)
    there = disk.again()
    resumed = Manager(there.path / "run", keep=keep_last(2), **more)
    for _ in range(100):  # its listing may be cached
        if resumed.steps() == [5]:
            break
        time.sleep(0.1)
    assert holds(resumed.load_or_init(lambda: state(0)), 5) and resumed.loaded_step == 5
    resumed.save(6, state(6))
    assert holds(resumed.load(6), 6) and resumed.steps() == [5, 6]
    assert ckptstore.verify(there.path / "run" / f"step-{6:012}") == []
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


TRAIN = """
import sys
import numpy as np
from ckptstore import Manager, keep_last, save
from tests.robustness.test_mounts import state, options

place, kind = sys.argv[1:]
manager = Manager(place + "/run", keep=keep_last(2), storage_options=options(kind))
step = manager.load_or_init(lambda: state(0))["step"]
print("resumed", step, flush=True)
while True:
    step += 1
    if step % 3:
        manager.save(step, state(step))
    else:
        manager.save_async(step, state(step)).result()
    print("saved", step, flush=True)
    save(place + "/over", state(step), overwrite=True, storage_options=options(kind))
    print("over", step, flush=True)
"""


def killed(place: Path, kind: str, seconds: float) -> list[tuple[str, int]]:
    """Train and be killed so long after the run was resumed; return what was said before."""
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(place), kind],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(seconds)
    child.kill()
    rest = child.stdout.read()
    child.wait()
    child.stdout.close()
    lines = [line.split() for line in (first + rest).splitlines(keepends=True) if line[-1] == "\n"]
    return [(word, int(number)) for word, number in lines]


def kill_and_resume(disk: Mounted, times: int) -> None:
    """Kill a run many times, and look at the mount from another machine after each."""
    rng, newest, over = random.Random(7), 0, 0
    for turn in range(times):
        said = killed(disk.path, disk.kind, rng.uniform(0.1, 1.0))
        assert said[0][1] >= newest, f"turn {turn}: not from the newest"
        newest = max(number for word, number in said if word != "over")
        over = max([over, *(number for word, number in said if word == "over")])
        disk = disk.again()
        manager = Manager(disk.path / "run", storage_options=options(disk.kind))
        for _ in range(100):  # a listing may be cached, and a write still be under way
            if manager.steps() and max(manager.steps()) >= newest:
                break
            time.sleep(0.1)
        steps = manager.steps()
        assert not newest or max(steps) in (newest, newest + 1), f"turn {turn}: a save is lost"
        for step in steps:
            assert holds(manager.load(step), step)
            assert ckptstore.verify(disk.path / "run" / f"step-{step:012}") == []
        if over:
            found = ckptstore.load(disk.path / "over")
            assert holds(found, found["step"]) and found["step"] >= over
    assert newest and over


def test_a_run_that_is_killed_on_a_mount_goes_on_elsewhere(disk: Mounted) -> None:
    kill_and_resume(disk, 3)


@pytest.mark.whole
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_thirty_times_on_a_mount_goes_on_elsewhere(disk: Mounted) -> None:
    kill_and_resume(disk, 30)


ERRNOS = ["EACCES", "EIO", "EMLINK", "ENOSYS", "ENOTSUP", "EPERM", "EXDEV", "EINVAL", "EREMOTEIO"]


def test_any_error_of_link_means_no_hard_links_where_a_rename_works(rig: Mounted) -> None:
    for answer in ERRNOS:
        rig.answer(link=answer)
        there = rig.again()
        with pytest.raises(ckptstore.StorageError, match="neither hard links") as caught:
            ckptstore.save(there.path / answer, state(1))
        assert caught.value.reason == "not-atomic" and "failing" not in str(caught.value)
        rig.answer(link=answer, renameat2=None)
        there = rig.again()
        ckptstore.save(there.path / answer, state(1))
        with pytest.raises(ckptstore.AlreadyCommittedError):
            ckptstore.save(there.path / answer, state(2))
        assert holds(ckptstore.load(there.path / answer), 1)


def test_where_a_rename_fails_as_well_the_disk_is_failing(rig: Mounted) -> None:
    rig.answer(link="EIO", rename="EIO")
    with pytest.raises(ckptstore.StorageError, match="the disk is failing"):
        ckptstore.save(rig.path / "a", state(1))
    rig.answer()
    for path in rig.path.iterdir():  # an unlink may have been lost with the disk
        path.unlink()
    ckptstore.save(rig.path / "a", state(1))
    assert holds(ckptstore.load(rig.path / "a"), 1)


@pytest.mark.parametrize("answer", ["EIO", "EACCES", "EXDEV", "ENOSYS"])
def test_at_the_commit_an_error_of_link_is_an_error(rig: Mounted, answer: str) -> None:
    ckptstore.save(rig.path / "a", state(1))
    rig.answer(link=answer)
    with pytest.raises(ckptstore.StorageError, match="could not commit") as caught:
        ckptstore.save(rig.path / "b", state(1))
    assert caught.value.reason != "not-atomic" and os.listdir(rig.path / "b") == []
    with pytest.raises(ckptstore.StorageError) as caught:
        ckptstore.save(rig.path / "b", state(1))  # it is tried again after that
    assert caught.value.reason == "not-atomic"
    ckptstore.save(rig.path / "b", state(1), **remedy(caught.value))


@pytest.mark.parametrize("answer", ["EINVAL", "ENOTSUP"])
def test_a_mount_that_cannot_sync_a_directory_is_used_and_logged_once(
    rig: Mounted, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig.answer(fsyncdir=answer)
    for step in (1, 2, 3):
        ckptstore.save(rig.path / "a", state(step), overwrite=True)
        Manager(rig.path / "run", keep=keep_last(1)).save(step, state(step))
    assert holds(ckptstore.load(rig.path / "a"), 3)
    (line,) = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert "cannot make the names in a directory durable" in line.getMessage()
    assert str(rig.path) in line.getMessage()


def test_an_fsync_of_a_directory_that_fails_is_an_error(rig: Mounted) -> None:
    rig.answer(fsyncdir="EIO")
    with pytest.raises(ckptstore.CheckpointError, match="the disk is failing"):
        ckptstore.save(rig.path / "a", state(1))
    rig.answer()
    ckptstore.save(rig.path / "a", state(1))
    rig.answer(fsyncdir="EINVAL")  # but it could, before
    with pytest.raises(ckptstore.CheckpointError, match="could not fsync"):
        ckptstore.save(rig.path / "b", state(1))


def test_without_links_nothing_is_shared_and_eviction_frees_its_room(linkless: Mounted) -> None:
    manager = Manager(linkless.path / "run", keep=keep_last(2), storage_options=ASSUMED)
    for step in (1, 2, 3):
        manager.save(step, state(step))
    files = list((linkless.path / "run").glob("step-*/data-*"))
    assert {file.stat().st_nlink for file in files} == {1}
    assert manager.steps() == [2, 3]
    assert all(holds(manager.load(step), step) for step in (2, 3))


def test_options_that_are_not_ours_are_refused_on_a_mount_too(linkless: Mounted) -> None:
    more: Any = {"storage_options": {**ASSUMED, "anon": True}}
    with pytest.raises(ckptstore.StorageError, match="takes no storage_options, found anon"):
        ckptstore.save(linkless.path / "a", state(1), **more)
    assert os.listdir(linkless.path) == []

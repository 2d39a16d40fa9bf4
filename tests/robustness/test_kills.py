"""A run that is killed at any moment, with saves in the background, retention and collections."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager

SAMPLE, WHOLE = 8, 200
KEEP = 3

TRAIN = """
import sys
import numpy as np
import ckptstore
from ckptstore import keep_every, keep_last

run, journal = sys.argv[1:]
manager = ckptstore.Manager(run, every=2, keep=keep_last({keep}) | keep_every(100))
manager.gc(grace=0)  # nobody saves to this run now


def init():
    moving = {{"step": 0, "w": np.zeros(30_000), "m": np.zeros(3_000, np.float32)}}
    return moving | {{"frozen": np.arange(200_000.0)}}  # over 1 MiB: steps share its file


state = manager.load_or_init(init)
with open(journal, "a", buffering=1) as said:
    print("resumed", manager.loaded_step or 0, file=said)
    print("resumed", flush=True)
    before = None
    while True:
        state["step"] += 1
        state["w"] += np.sin(state["step"] + np.arange(30_000))  # in place, during the save
        state["m"] += np.float32(1) / np.float32(state["step"])
        pending = manager.save_async(state["step"], state)
        if pending is not None:
            if before is not None:
                print("saved", before.result().step, file=said)
            before = pending
        if state["step"] % 7 == 0:
            manager.gc(grace=60)
"""


class Reference:
    """The state of each step, as a run that nobody kills has it."""

    def __init__(self) -> None:
        self.step = 0
        self.w, self.m = np.zeros(30_000), np.zeros(3_000, np.float32)

    def at(self, step: int) -> tuple[bytes, bytes]:
        if step < self.step:
            self.__init__()  # type: ignore[misc]
        while self.step < step:
            self.step += 1
            self.w += np.sin(self.step + np.arange(30_000))
            self.m += np.float32(1) / np.float32(self.step)
        return self.w.tobytes(), self.m.tobytes()


@pytest.mark.smoke
def test_a_run_that_is_killed_goes_on_from_its_newest_save(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, SAMPLE, seed=1)


@pytest.mark.whole
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 6))
def test_a_run_that_is_killed_two_hundred_times_goes_on_from_its_newest_save(
    seed: int, tmp_path: Path
) -> None:
    kill_and_resume(tmp_path, WHOLE // 4, seed)


def kill_and_resume(tmp_path: Path, times: int, seed: int) -> None:
    rng, run, journal = random.Random(seed), tmp_path / "run", tmp_path / "journal"
    manager, reference = Manager(run), Reference()
    newest = garbage = shared = 0
    seconds = 0.25
    for turn in itertools.count():
        if turn >= times and shared:
            break
        train(run, journal, rng.uniform(0.0, seconds))
        resumed, *saved = [int(line.split()[1]) for line in journal.read_text().splitlines()]
        journal.unlink()
        assert resumed == newest, f"turn {turn}: not from the newest"
        steps = manager.steps()
        assert max([newest, *saved]) <= max(steps, default=0), f"turn {turn}: a save is lost"
        newest = max(steps, default=0)
        assert set(range(100, newest, 100)) <= set(steps)
        seconds *= 1.0 if saved else 1.5  # a busy machine saves nothing in less
        if saved:  # that save evicted; another may have been killed before it did
            assert len([step for step in steps if step % 100]) <= KEEP + 1
        for step in steps:  # in the order of the reference
            state = manager.load(step)
            assert (state["w"].tobytes(), state["m"].tobytes()) == reference.at(step)
            assert state["frozen"].tobytes() == np.arange(200_000.0).tobytes()
            assert state["step"] == step and ckptstore.verify(run / f"step-{step:012d}") == []
        garbage += bool(manager.gc(grace=0, dry_run=True))
        shared += any(file.stat().st_nlink > 1 for file in run.glob("step-*/data-*"))
    assert newest > 0
    print(f"{turn} kills, step {newest}, {garbage} of them in the middle of a save or a deletion")


def train(run: Path, journal: Path, seconds: float) -> None:
    """Train, and be killed so long after the run was resumed."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", TRAIN.format(keep=KEEP), str(run), str(journal)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        time.sleep(seconds)
    finally:
        child.kill()
    _, err = child.communicate()
    assert (line, err, child.returncode) == ("resumed\n", "", -signal.SIGKILL)

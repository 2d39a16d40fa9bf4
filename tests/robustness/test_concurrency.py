"""Eight real processes save to one path at once while two others read it without pause."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.checkpoint import commit
from ckptstore.format.names import attempt_of
from tests.support.witness import Outcome, Witness, attempt_to_save, chained

WRITERS, READERS = 8, 2
SAMPLE, WHOLE = 8, 100

spawn = multiprocessing.get_context("spawn")


def tree(writer: int, turn: int) -> dict[str, Any]:
    """A state of one writer in one round, which shows in every leaf."""
    leaves = [np.full(2000 + 100 * i, writer * 1000 + turn, np.int64) for i in range(4)]
    return {"writer": writer, "turn": turn, "leaves": leaves}


def check_whole(loaded: Any) -> tuple[int, int]:
    """Return the writer and the round of a loaded state that nobody mixed."""
    want = tree(loaded["writer"], loaded["turn"])
    assert list(loaded) == list(want)
    for have, expected in zip(loaded["leaves"], want["leaves"], strict=True):
        assert np.array_equal(have, expected)
    return loaded["writer"], loaded["turn"]


def write(link: Connection, start: Any, writer: int) -> None:
    """Save once for every (url, turn, overwrite) that comes, and report how it went."""
    commit.publish = witness = Witness()
    for url, turn, overwrite in iter(link.recv, None):
        state = tree(writer, turn)
        start.wait()
        link.send(attempt_to_save(witness, url, state, overwrite=overwrite))


def read(link: Connection, url: str) -> None:
    """Load without pause until told to stop; report how often, and who was seen."""
    loads, seen = 0, set()
    try:
        link.send("ready")
        while not link.poll():
            seen.add(check_whole(ckptstore.load(url)))
            loads += 1
        link.send((loads, seen))
    except BaseException as error:
        link.send(repr(error))
        raise


class Crowd:
    """The writers' processes, each with a pipe to it."""

    def __init__(self) -> None:
        self.start = spawn.Barrier(WRITERS)  # held until all have started: spawn opens it by name
        self.links = []
        self.processes = []
        for writer in range(WRITERS):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=write, args=(theirs, self.start, writer), daemon=True)
            process.start()
            self.links.append(ours)
            self.processes.append(process)

    def race(self, url: Path, turn: int, *, overwrite: bool) -> list[Outcome]:
        """Let all save to one place at once, and return how it went for each."""
        for link in self.links:
            link.send((str(url), turn, overwrite))
        outcomes = [answer(link) for link in self.links]
        assert {o.result for o in outcomes} <= {"won", "AlreadyCommittedError"}, outcomes
        return outcomes

    def close(self) -> None:
        for link in self.links:
            link.send(None)
        for process in self.processes:
            process.join(60)
            assert process.exitcode == 0


def answer(link: Connection) -> Any:
    assert link.poll(120), "no answer in two minutes"
    return link.recv()


@pytest.fixture(scope="module")
def crowd():
    crowd = Crowd()
    yield crowd
    crowd.close()


def sound(url: Path) -> tuple[int, int]:
    """Check that `url` holds one sound checkpoint and no file of anybody else."""
    found = check_whole(ckptstore.load(url))
    assert ckptstore.verify(url) == []
    attempt = ckptstore.inspect(url).attempt
    names = os.listdir(url)
    assert "MANIFEST" in names and len(names) >= 2
    assert {attempt_of(name) for name in names} == {None, attempt}, names
    assert [name for name in names if attempt_of(name) is None] == ["MANIFEST"]
    return found


def create_rounds(crowd: Crowd, directory: Path, rounds: int) -> Counter[str]:
    total = Counter[str]()
    for turn in range(rounds):
        url = directory / "run" / f"step-{turn}"
        outcomes = crowd.race(url, turn, overwrite=False)
        (winner,) = (n for n, o in enumerate(outcomes) if o.result == "won")
        assert sound(url) == (winner, turn)
        total.update(o.result for o in outcomes)
    return total


def overwrite_rounds(crowd: Crowd, directory: Path, rounds: int) -> tuple[Counter[str], list[Any]]:
    url = directory / "latest"
    current: str | None = ckptstore.save(url, tree(-1, -1)).attempt
    readers, total = [], Counter[str]()
    for _ in range(READERS):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=read, args=(theirs, str(url)), daemon=True)
        process.start()
        assert answer(ours) == "ready"
        readers.append((ours, process))
    for turn in range(rounds):
        outcomes = crowd.race(url, turn, overwrite=True)
        current = chained(outcomes, current)
        writer, last = sound(url)
        assert outcomes[writer].attempt == current and last == turn
        total.update(o.result for o in outcomes)
    reports = []
    for link, process in readers:
        if not link.poll():
            link.send("stop")
        reports.append(answer(link))
        process.join(60)
        assert process.exitcode == 0, reports
    return total, reports


def test_one_of_eight_creates_wins_and_the_others_leave_nothing(
    crowd: Crowd, tmp_path: Path
) -> None:
    total = create_rounds(crowd, tmp_path, SAMPLE)
    assert total == {"won": SAMPLE, "AlreadyCommittedError": SAMPLE * (WRITERS - 1)}


def test_overwrites_by_eight_keep_a_sound_checkpoint_before_two_readers(
    crowd: Crowd, tmp_path: Path
) -> None:
    total, reports = overwrite_rounds(crowd, tmp_path, SAMPLE)
    assert total["won"] >= SAMPLE and total["AlreadyCommittedError"] > 0
    assert all(loads for loads, _ in reports)


@pytest.mark.whole
@pytest.mark.timeout(1800)
def test_one_of_eight_creates_wins_100_times(crowd: Crowd, tmp_path: Path) -> None:
    total = create_rounds(crowd, tmp_path, WHOLE)
    print(f"{WHOLE} rounds: {dict(total)}")
    assert total == {"won": WHOLE, "AlreadyCommittedError": WHOLE * (WRITERS - 1)}


@pytest.mark.whole
@pytest.mark.timeout(1800)
def test_overwrites_by_eight_keep_a_sound_checkpoint_100_times(
    crowd: Crowd, tmp_path: Path
) -> None:
    total, reports = overwrite_rounds(crowd, tmp_path, WHOLE)
    loads = [loads for loads, _ in reports]
    states = [len(seen) for _, seen in reports]
    print(f"{WHOLE} rounds: {dict(total)}; {loads} loads saw {states} different checkpoints")
    assert total["won"] >= WHOLE and total["AlreadyCommittedError"] > 0 and min(loads) >= WHOLE

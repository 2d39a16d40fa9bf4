"""Two processes of 16 threads save to one URL at once while two others read it without pause."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.checkpoint import commit
from ckptstore.format.names import attempt_of
from ckptstore.storage import uploads
from tests.support.places import LESS
from tests.support.servers import Server
from tests.support.servers import proxy as faults
from tests.support.servers.proxy import FaultProxy
from tests.support.witness import Outcome, Witness, attempt_to_save, chained

PROCESSES, THREADS, READERS = 2, 16, 2
WRITERS = PROCESSES * THREADS
CREATES, OVERWRITES, WHOLE = 2, 1, 200
FAULTS = [
    faults.DROP_BEFORE,
    faults.DROP_AFTER,
    faults.SLOW_DOWN,
    faults.ERROR_BEFORE,
    faults.ERROR_AFTER,
    faults.CONFLICT,
    faults.TRUNCATE,
]

spawn = multiprocessing.get_context("spawn")


def tree(writer: int, turn: int, length: int = 2000) -> dict[str, Any]:
    """A state of one writer in one round, which shows in every leaf."""
    leaves = [np.full(length + 100 * i, writer * 1000 + turn, np.int64) for i in range(4)]
    return {"writer": writer, "turn": turn, "leaves": leaves}


def check_whole(loaded: Any) -> tuple[int, int]:
    """Return the writer and the round of a loaded state that nobody mixed."""
    want = tree(loaded["writer"], loaded["turn"], len(loaded["leaves"][0]))
    assert list(loaded) == list(want)
    for have, expected in zip(loaded["leaves"], want["leaves"], strict=True):
        assert np.array_equal(have, expected)
    return loaded["writer"], loaded["turn"]


def write(link: Connection, start: Any, process: int) -> None:
    """Save once in every thread for each (url, options, turn, overwrite) that comes."""
    commit.publish = witness = Witness()
    local = threading.Barrier(THREADS)

    def one(job: tuple[int, str, dict[str, Any], int, bool]) -> Outcome:
        thread, url, options, turn, overwrite = job
        state = tree(process * THREADS + thread, turn)
        local.wait()
        return attempt_to_save(witness, url, state, overwrite=overwrite, storage_options=options)

    with ThreadPoolExecutor(THREADS) as pool:
        for job in iter(link.recv, None):
            start.wait()
            link.send(list(pool.map(one, [(thread, *job) for thread in range(THREADS)])))


def read(link: Connection, url: str, options: dict[str, Any]) -> None:
    """Load without pause until told to stop; report how often, and who was seen."""
    before, loads, seen = 0, 0, set()
    try:
        link.send("ready")
        while not link.poll():
            try:
                seen.add(check_whole(ckptstore.load(url, storage_options=options)))
                loads += 1
            except ckptstore.NotCommittedError:
                assert not loads, "it was there before"
                before += 1
        link.send((before, loads, seen))
    except BaseException as error:
        link.send(repr(error))
        raise


def answer(link: Connection) -> Any:
    assert link.poll(120), "no answer in two minutes"
    return link.recv()


class Crowd:
    """The writers' processes, each with a pipe to it."""

    def __init__(self) -> None:
        self.start = spawn.Barrier(PROCESSES)  # held until all have started: spawn opens it by name
        self.links = []
        self.processes = []
        for number in range(PROCESSES):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=write, args=(theirs, self.start, number), daemon=True)
            process.start()
            self.links.append(ours)
            self.processes.append(process)

    def race(self, url: str, options: dict[str, Any], turn: int, overwrite: bool) -> list[Outcome]:
        """Let all save to one URL at once, and return how it went for each."""
        for link in self.links:
            link.send((url, options, turn, overwrite))
        outcomes = [outcome for link in self.links for outcome in answer(link)]
        assert {o.result for o in outcomes} <= {"won", "AlreadyCommittedError"}, outcomes
        return outcomes

    def close(self) -> None:
        for link in self.links:
            link.send(None)
        for process in self.processes:
            process.join(60)
            assert process.exitcode == 0


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    yield crowd
    crowd.close()


@contextlib.contextmanager
def reading(url: str, options: dict[str, Any]) -> Iterator[list[Any]]:
    """Let processes read `url`; their reports are in the list when this ends."""
    readers, reports = [], list[Any]()
    for _ in range(READERS):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=read, args=(theirs, url, options), daemon=True)
        process.start()
        readers.append((ours, process))
    for link, _ in readers:
        assert answer(link) == "ready"
    yield reports
    for link, process in readers:
        if not link.poll():
            link.send("stop")
        reports.append(answer(link))
        process.join(60)
        assert process.exitcode == 0, reports


def sound(
    server: Server, bucket: str, prefix: str, *, faults: bool = False
) -> tuple[tuple[int, int], str]:
    """Check that there is one sound checkpoint and nothing of anybody else; return whose it is.

    Of an upload that GCS began and whose answer was lost nobody knows the name, nor can list it.
    """
    url, options = f"{server.protocol}://{bucket}/{prefix}", server.storage_options()
    found = check_whole(ckptstore.load(url, storage_options=options))
    assert ckptstore.verify(url, storage_options=options) == []
    kept = ckptstore.inspect(url, storage_options=options).attempt
    names = [key.removeprefix(f"{prefix}/") for key in server.objects(bucket)]
    names = [name for name in names if "/" not in name]  # not of the rounds before
    assert names.count("MANIFEST") == 1 and len(names) >= 2
    assert {attempt_of(name) for name in names if name != "MANIFEST"} == {kept}, names
    assert server.uploads(bucket) == [] or (faults and server.kind == "gcs")
    return found, kept


def create_rounds(crowd: Crowd, server: Server, bucket: str, rounds: int) -> Counter[str]:
    total = Counter[str]()
    for turn in range(rounds):
        prefix = f"run/step-{turn}"
        url, options = f"{server.protocol}://{bucket}/{prefix}", server.storage_options()
        outcomes = crowd.race(url, options, turn, overwrite=False)
        assert [o.result for o in outcomes].count("won") == 1, outcomes
        (winner,) = (n for n, o in enumerate(outcomes) if o.result == "won")
        assert sound(server, bucket, prefix) == ((winner, turn), outcomes[winner].attempt)
        total.update(o.result for o in outcomes)
        total["wrote"] += sum(o.attempt is not None for o in outcomes)
    assert set(server.objects(bucket)) == {
        key for key in server.objects(bucket) if key.startswith("run/step-")
    }
    return total


def overwrite_rounds(
    crowd: Crowd, server: Server, bucket: str, rounds: int
) -> tuple[Counter[str], list[Any]]:
    url, options = f"{server.protocol}://{bucket}/latest", server.storage_options()
    total, current = Counter[str](), None
    with reading(url, options) as reports:
        for turn in range(rounds):
            if turn == 0:
                current = ckptstore.save(url, tree(-1, -1), storage_options=options).attempt
            outcomes = crowd.race(url, options, turn, overwrite=True)
            current = chained(outcomes, current)
            total["won"] += sum(o.result == "won" for o in outcomes)
            (writer, last), kept = sound(server, bucket, "latest")
            assert kept == current and outcomes[writer].attempt == kept and last == turn
            total["lost"] += sum(o.result == "AlreadyCommittedError" for o in outcomes)
    return total, reports


@LESS
def test_one_of_32_creates_wins_and_the_others_leave_nothing(
    crowd: Crowd, server: Server, bucket: str
) -> None:
    total = create_rounds(crowd, server, bucket, CREATES)
    assert total["won"] == CREATES and total["AlreadyCommittedError"] == CREATES * (WRITERS - 1)
    assert total["wrote"] > CREATES, "nobody came second: this was no race"


@LESS
def test_overwrites_by_32_keep_a_sound_checkpoint_before_two_readers(
    crowd: Crowd, server: Server, bucket: str
) -> None:
    total, reports = overwrite_rounds(crowd, server, bucket, OVERWRITES)
    assert total["won"] >= OVERWRITES and total["lost"] > 0
    assert all(loads for _, loads, _ in reports)


def test_of_8_creates_through_faults_none_is_told_wrongly(
    server: Server, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every ten requests one fails; each save has a data file of two parts."""
    monkeypatch.setattr(uploads, "PART_NBYTES", 5 << 20)
    witness = Witness()
    monkeypatch.setattr(commit, "publish", witness)
    url = f"{server.protocol}://{bucket}/run"
    options = proxy.storage_options() | {"ckptstore": {"timeout": 20.0}}
    length = (5 << 20) // 8 // 4
    proxy.some(0.1, *FAULTS, seed=1)
    start = threading.Barrier(8)

    def one(writer: int) -> Outcome:
        state = tree(writer, 0, length)
        start.wait()
        return attempt_to_save(witness, url, state, storage_options=options)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, range(8)))
    assert sum(r.action is not None for r in proxy.requests()) >= 5
    results = Counter(o.result for o in outcomes)
    print(f"{server.kind}: {dict(results)}")
    assert set(results) <= {"won", "AlreadyCommittedError", "OutcomeUnknownError"}, outcomes
    assert results["won"] <= 1
    (writer, _), attempt = sound(server, bucket, "run", faults=True)
    assert outcomes[writer].attempt == attempt
    assert outcomes[writer].result in ("won", "OutcomeUnknownError"), outcomes
    assert results["won"] == (outcomes[writer].result == "won")


@pytest.mark.whole
@pytest.mark.timeout(3600)
def test_one_of_32_creates_wins_200_times(crowd: Crowd, server: Server, bucket: str) -> None:
    total = create_rounds(crowd, server, bucket, WHOLE)
    print(f"{server.kind}, {WHOLE} rounds: {dict(total)}")
    assert total["won"] == WHOLE and total["AlreadyCommittedError"] == WHOLE * (WRITERS - 1)


@pytest.mark.whole
@pytest.mark.timeout(3600)
def test_overwrites_by_32_keep_a_sound_checkpoint_200_times(
    crowd: Crowd, server: Server, bucket: str
) -> None:
    total, reports = overwrite_rounds(crowd, server, bucket, WHOLE)
    loads = [loads for _, loads, _ in reports]
    states = [len(seen) for _, _, seen in reports]
    print(
        f"{server.kind}, {WHOLE} rounds: {dict(total)}; {loads} loads saw {states} different "
        "checkpoints"
    )
    assert total["won"] >= WHOLE and total["lost"] > 0 and min(loads) >= WHOLE

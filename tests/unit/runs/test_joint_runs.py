"""A run of several processes, each with a Manager of its own; threads in their place."""

from __future__ import annotations

import datetime
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import CheckpointError, Manager, Processes, keep_last
from ckptstore.distributed import waiting
from ckptstore.runs import joint_loads
from ckptstore.runs.directory import Run
from tests.support.cluster import threads

COUNT = 3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_MEMBER_PAUSES", (0.01, 0.1))
    monkeypatch.setattr(waiting, "_LEADER_PAUSES", (0.01, 0.1))


def state(step: int) -> dict[str, Any]:
    return {"w": np.full(1_000_000, step, np.float32), "b": np.arange(5), "step": step}


def together(call: Callable[[Processes], Any], count: int = COUNT) -> list[Any]:
    results = threads(count, call, engine=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, CheckpointError):
            raise result
    return results


def reasons(results: Sequence[Any]) -> list[str]:
    return [error.reason if isinstance(error, CheckpointError) else "ok" for error in results]


def fill(place: Path, *steps: int) -> None:
    def train(p: Processes) -> None:
        manager = Manager(place, processes=p)
        for step in steps:
            manager.save(step, state(step))

    assert together(train) == [None] * COUNT


def test_a_run_is_saved_evicted_and_resumed_by_all(tmp_path: Path) -> None:
    def train(p: Processes, until: int) -> tuple[int, list[int], int | None]:
        with Manager(tmp_path, keep=keep_last(2), every=10, processes=p) as manager:
            tree = manager.load_or_init(lambda: state(0))
            first = tree["step"]
            for step in range(first + 1, until + 1):
                manager.save(step, state(step))
            return first, manager.steps()[-1:], manager.loaded_step

    assert together(functools.partial(train, until=40)) == [(0, [40], None)] * COUNT
    assert Manager(tmp_path).steps() == [30, 40]
    assert together(functools.partial(train, until=60)) == [(40, [60], 40)] * COUNT
    assert Manager(tmp_path).steps() == [50, 60]
    assert ckptstore.inspect(f"{tmp_path}/step-000000000060").processes == COUNT
    # Any other number loads it.
    assert Manager(tmp_path).load()["step"] == 60
    assert [t["step"] for t in together(lambda p: Manager(tmp_path, processes=p).load(), 2)] == [
        60
    ] * 2


def test_one_process_evicts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ckptstore")

    def train(p: Processes) -> None:
        manager = Manager(tmp_path, keep=keep_last(1), processes=p)
        for step in (1, 2):
            manager.save(step, state(step))

    together(train)
    lines = [record.message for record in caplog.records]
    assert sum("evicted step(s) 1" in line for line in lines) == 1
    assert sum("saved step 2" in line for line in lines) == 1


def test_all_hold_one_step_even_while_a_newer_one_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1)
    real = Run.newest

    def newest(self: Run, *arguments: Any) -> int | None:
        found = real(self, *arguments)
        if found == 1:  # committed by another program right after the look of process 0
            ckptstore.save(f"{tmp_path}/step-000000000002", state(2), step=2)
        return found

    monkeypatch.setattr(Run, "newest", newest)
    loaded = together(lambda p: Manager(tmp_path, processes=p).load()["step"])
    assert loaded == [1] * COUNT
    assert Manager(tmp_path).load()["step"] == 2


def test_a_run_of_several_processes_is_loaded_together_where_an_engine_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest step says so: without `processes=`, all follow process 0."""
    run = Run(str(tmp_path), None)
    engine = Processes(1, 3, bytes)
    monkeypatch.setattr(joint_loads, "processes", lambda: engine)
    assert joint_loads.group_of(run, None).count == 1  # no step yet
    Manager(tmp_path).save(1, state(1))
    assert joint_loads.group_of(run, None).count == 1  # one process saved it
    fill(tmp_path, 2)
    assert joint_loads.group_of(run, None) is engine
    assert joint_loads.group_of(run, Processes(0, 1)).count == 1


def damage(place: Path, step: int, process: int) -> None:
    (file,) = (place / f"step-{step:012d}").glob(f"data-*-{process}-0.bin")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_with_fallback_all_go_back_to_a_step_that_is_sound_for_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 1, 2, 3)
    damage(tmp_path, 3, 1)
    results = together(lambda p: Manager(tmp_path, processes=p).load())
    assert set(reasons(results)) == {"checksum"}

    def load(p: Processes) -> Any:
        if p.index == 2:  # it sees no damage in its own share
            return Manager(tmp_path, processes=p).load(fallback=True, select="$.b").tolist()
        manager = Manager(tmp_path, processes=p)
        return manager.load(fallback=True)["step"], manager.loaded_step

    assert together(load) == [(2, 2), (2, 2), [0, 1, 2, 3, 4]]
    assert "step 3 is damaged and skipped" in caplog.text


def test_damage_in_one_process_is_told_to_all(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    damage(tmp_path, 1, 1)

    def load(p: Processes) -> Any:
        return Manager(tmp_path, processes=p).load(select=None if p.index == 1 else "$.b")

    results = together(load)
    assert reasons(results) == ["aborted", "checksum", "aborted"]
    assert "process 1" in str(results[0]) and "nothing was loaded" in str(results[0])


def test_without_a_step_all_are_told_and_all_begin(tmp_path: Path) -> None:
    results = together(lambda p: Manager(tmp_path / "run", processes=p).load())
    assert reasons(results) == ["no-step"] * COUNT
    assert {type(error) for error in results} == {ckptstore.NotCommittedError}
    begun = together(lambda p: Manager(tmp_path / "run", processes=p).load_or_init(lambda: "new"))
    assert begun == ["new"] * COUNT


REFUSED: dict[str, tuple[Callable[[Manager], Any], str]] = {
    "a step that is there": (lambda m: m.save(2, state(2)), "already-committed"),
    "a step below": (lambda m: m.save(1, state(1)), "later-steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_process_0_finds_in_the_run_is_told_to_all(tmp_path: Path, name: str) -> None:
    call, reason = REFUSED[name]
    fill(tmp_path, 2)
    Manager(tmp_path).save(3, state(3)) if name == "a step below" else None
    results = together(lambda p: call(Manager(tmp_path, processes=p)))
    assert reasons(results) == [reason] * COUNT
    assert "load_or_init(init)" in str(results[0])


def test_a_time_between_saves_is_refused(tmp_path: Path) -> None:
    def train(p: Processes) -> Any:
        manager = Manager(tmp_path, every=datetime.timedelta(seconds=1e-6), processes=p)
        return manager.save(1, state(1))

    results = together(train)
    assert results[0].reason == "bad-argument" and "every=100" in str(results[0])
    assert reasons(results[1:]) == ["aborted"] * 2
    assert (
        together(lambda p: Manager(tmp_path, every=1, processes=p).save(1, state(1)).step)
        == [1] * 3
    )


def test_a_rewind_is_of_process_0_and_known_to_all(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, 3)

    def go_back(p: Processes) -> Any:
        manager = Manager(tmp_path, processes=p)
        assert manager.rewind(1, dry_run=True) == [2, 3]
        gone = manager.rewind(1)
        tree = manager.load(1)
        manager.save(2, state(20))
        return gone, tree["step"], manager.load()["step"]

    assert together(go_back) == [([2, 3], 1, 20)] * COUNT
    results = together(lambda p: Manager(tmp_path, processes=p).rewind(7))
    assert reasons(results) == ["no-manifest"] * COUNT


def test_a_prune_is_of_process_0_and_known_to_all_and_all_know_what_is_due(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, 3)

    def prune(p: Processes) -> Any:
        manager = Manager(tmp_path, every=2, processes=p)
        assert manager.prune(keep_last(1), dry_run=True) == [1, 2]
        return manager.prune(keep_last(1)), [manager.due(step) for step in (4, 5)]

    assert together(prune) == [([1, 2], [True, True])] * COUNT
    assert Manager(tmp_path).steps() == [3]
    every = datetime.timedelta(hours=1)
    results = together(lambda p: Manager(tmp_path, every=every, processes=p).due(1))
    assert reasons(results) == ["bad-argument"] * COUNT


def test_a_manager_of_several_processes_is_not_pickled(tmp_path: Path) -> None:
    import pickle

    with pytest.raises(TypeError, match="several processes"):
        pickle.dumps(Manager(tmp_path, processes=Processes(0, 2, bytes)))


@pytest.mark.follows(
    "saving.agreement",
    'make them equal (take those of process 0), or save one of each process: per_process=["$.rng"]',
    'give each of them the same tree, or name the places that should differ: per_process=["$.rng"]',
)
def test_trees_are_compared_between_processes(tmp_path: Path) -> None:
    def check(p: Processes) -> list[Any]:
        found: list[Any] = []
        own = {"own": list(range(p.index)), "step": 7}
        ckptstore.in_step(own, processes=p, per_process=["$.own"])
        trees = [state(7), state(7 + (p.index == 2)), [1] * (1 + (p.index == 1)), state(7)]
        for tree in trees:
            try:
                found.append(ckptstore.in_step(tree, processes=p))
            except CheckpointError as error:
                found.append((error.reason, str(error)))
        return found

    results = together(check)
    for first, values, structure, last in results:
        assert first is last is None
        assert values[0] == "values-differ" and "$['step']: 8 in process 2" in values[1]
        assert structure[0] == "trees-differ" and "$[1]" in structure[1]
    assert ckptstore.in_step(state(1)) is None


@pytest.mark.follows(
    "distributed.group", "pass one: Processes(comm.rank, comm.size, comm.bcast, comm.allgather)"
)
def test_what_needs_all_to_speak_asks_for_an_allgather(tmp_path: Path) -> None:
    def check(p: Processes, gather: bool) -> Any:
        p = Processes(p.index, p.count, p.broadcast, p.allgather if gather else None)
        return ckptstore.in_step({"step": 1}, processes=p)

    assert set(reasons(threads(2, functools.partial(check, gather=False)))) == {"no-word"}
    assert threads(2, functools.partial(check, gather=True)) == [None, None]


@pytest.mark.follows("distributed.group", "see in the logs whether all processes are alive")
def test_an_allgather_that_fails_is_an_error_of_ours() -> None:
    def broken(data: bytes) -> list[bytes]:
        raise ConnectionError("the other host is gone")

    with pytest.raises(ckptstore.ProcessError, match="other host is gone"):
        ckptstore.in_step({"a": 1}, processes=Processes(0, 2, bytes, broken))
    assert (
        ckptstore.in_step({"a": 1}, processes=Processes(0, 2, bytes, lambda data: [data] * 2))
        is None
    )


@pytest.mark.follows("runs.joint_loads", "see which process deletes steps")
def test_a_step_that_is_always_gone_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1)
    monkeypatch.setattr(Run, "newest", lambda *_: 5)
    results = together(lambda p: Manager(tmp_path, processes=p).load())
    assert reasons(results) == ["aborted"] * COUNT
    monkeypatch.undo()
    assert [t["step"] for t in together(lambda p: Manager(tmp_path, processes=p).load())] == [
        1
    ] * COUNT


@pytest.mark.follows("runs.joint_loads", "verify them one by one")
def test_if_all_steps_are_damaged_that_is_an_error_in_all(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    for step in (1, 2):
        damage(tmp_path, step, 0)
    results = together(lambda p: Manager(tmp_path, processes=p).load(fallback=True))
    assert {type(error) for error in results} == {ckptstore.CorruptError}
    assert ckptstore.verify(f"{tmp_path}/step-000000000001") != []


def test_each_process_takes_over_its_files_in_which_nothing_changed(tmp_path: Path) -> None:
    """Frozen weights are written once; the steps hold them by links, and each stays whole."""

    def tree(step: int) -> dict[str, Any]:
        frozen = np.arange(6_000_000, dtype=np.float32)
        return {"frozen": frozen, "w": np.full(3_000_000, step, np.float32), "step": step}

    def train(p: Processes) -> None:
        with Manager(tmp_path, keep=keep_last(3), keep_full_every=3, processes=p) as manager:
            for step in range(1, 7):
                manager.save(step, tree(step))

    assert together(train) == [None] * COUNT
    shared = {}
    for step in (4, 5, 6):
        place = tmp_path / f"step-{step:012d}"
        assert ckptstore.verify(place) == []
        loaded = ckptstore.load(place)
        assert loaded["step"] == step and (loaded["w"] == step).all()
        np.testing.assert_array_equal(loaded["frozen"], tree(0)["frozen"])
        shared[step] = {file.stat().st_ino for file in place.glob("data-*")}
    # The frozen weights are the shares of two of the three processes.
    assert len(shared[4] & shared[5]) == 2 or len(shared[5] & shared[6]) == 2
    for path in tmp_path.glob("step-000000000005/data-*"):
        path.unlink()
    assert ckptstore.verify(f"{tmp_path}/step-000000000006") == []


def test_damage_that_was_met_ends_the_sharing(tmp_path: Path) -> None:
    frozen = np.arange(3_000_000, dtype=np.float32)

    def train(p: Processes) -> Any:
        manager = Manager(tmp_path, processes=p)
        for step in (1, 2):
            manager.save(step, {"frozen": frozen, "step": step})
        if p.index == 0:
            for process in range(COUNT):
                for file in (tmp_path / "step-000000000002").glob(f"data-*-{process}-*"):
                    data = bytearray(file.read_bytes())
                    data[-5] ^= 1
                    file.write_bytes(data)
        assert p.allgather is not None
        p.allgather(b"damaged")
        with pytest.raises(CheckpointError):
            manager.load()
        manager.save(3, {"frozen": frozen, "step": 3})
        return manager.load()["step"]

    assert together(train) == [3] * COUNT
    assert ckptstore.verify(f"{tmp_path}/step-000000000003") == []

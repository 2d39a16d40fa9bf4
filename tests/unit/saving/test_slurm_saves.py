"""Saves by the tasks of Slurm, which hear no word; threads in their place."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import CheckpointError, Manager, Processes, StructureError
from ckptstore.checkpoint import commit
from ckptstore.distributed import chosen, waiting
from ckptstore.distributed.slurm import JobStep
from tests.support import cluster

LONG_ENOUGH = 8.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_MEMBER_PAUSES", (0.01, 0.1))
    monkeypatch.setattr(waiting, "_LEADER_PAUSES", (0.01, 0.1))


def srun(
    count: int, call: Callable[[Processes], Any], *, step: str = "a/1/0/0", timeout: float = 60.0
) -> list[Any]:
    """Call a function in each task of a step: a program that counts its saves from 0."""

    def task(p: Processes) -> Any:
        return call(Processes(p.index, p.count, JobStep(step), timeout=timeout))

    return cluster.threads(count, task)


def tried(call: Callable[[], Any]) -> str:
    """Return the reason of the error that a call raises, or "ok"."""
    try:
        call()
    except CheckpointError as error:
        return str(error.reason)
    return "ok"


def reasons(results: Sequence[Any]) -> list[str]:
    return [str(getattr(result, "reason", result)) for result in results]


def state(step: int) -> dict[str, Any]:
    return {"w": np.arange(600_000.0) + step, "step": step}


def left(place: Path) -> set[str]:
    return {path.name.split("-")[0] for path in place.iterdir()}


def test_the_tasks_of_a_step_save_again_and_again_without_a_word(tmp_path: Path) -> None:
    def train(p: Processes) -> list[str]:
        attempts = []
        for step in range(3):
            for place in (tmp_path / f"s{step}", tmp_path / "last"):
                saved = ckptstore.save(place, state(step), overwrite=True, processes=p)
                attempts.append(saved.attempt)
        return attempts

    first, *others = srun(3, train)
    assert others == [first] * 2, others
    assert len(set(first)) == 6
    assert ckptstore.verify(tmp_path / "last") == []
    assert ckptstore.load(tmp_path / "last")["step"] == 2
    assert ckptstore.inspect(tmp_path / "last").processes == 3
    assert left(tmp_path / "last") == {"MANIFEST", "data"}


@pytest.mark.parametrize("who", [0, 1])
def test_what_fails_in_one_task_at_the_beginning_is_told_to_all(tmp_path: Path, who: int) -> None:
    def train(p: Processes) -> list[str]:
        bad = {"f": (lambda: 0) if p.index == who else 1}
        found = [tried(lambda: ckptstore.save(tmp_path / "c", bad, processes=p))]
        found.append(tried(lambda: ckptstore.save(tmp_path / "c", {"x": p.index}, processes=p)))
        found.append(ckptstore.save(tmp_path / "c", {"x": 1}, processes=p).attempt)
        found.append(tried(lambda: ckptstore.save(tmp_path / "c", {"x": 1}, processes=p)))
        return found

    results = srun(3, train)
    for index, (bad, differs, attempt, taken) in enumerate(results):
        assert bad == ("cannot-carry" if index == who else "aborted"), results
        assert (differs, attempt, taken) == ("values-differ", results[0][2], "already-committed")
    assert ckptstore.load(tmp_path / "c") == {"x": 1}


@pytest.mark.follows(
    "distributed.announcements",
    "save in every task, with the same absolute path, in a directory that all of them share",
)
@pytest.mark.ci
def test_tasks_that_made_different_calls_fail_in_time_and_are_in_step_again(tmp_path: Path) -> None:
    """A save that one task had no part in, because it failed before it began, or never called."""
    meet = threading.Barrier(3)

    def train(p: Processes) -> list[str]:
        found = []
        for missing in (1, 0):
            if p.index == missing:  # its call fails before anything is counted
                metrics: Any = {"loss": None}
                save = functools.partial(ckptstore.save, metrics=metrics)
            else:
                save = ckptstore.save  # type: ignore[assignment]
            found.append(tried(lambda save=save: save(tmp_path / "c", state(1), processes=p)))
            meet.wait(60)
        saved = ckptstore.save(tmp_path / "c", state(2), processes=p)
        return [*found, saved.attempt]

    results = srun(3, train, timeout=LONG_ENOUGH)
    assert len({found[-1] for found in results}) == 1, results
    assert [found[:2] for found in results] == [
        ["lost-process", "bad-metric"],
        ["bad-metric", "no-word"],
        ["lost-process", "no-word"],
    ]
    assert ckptstore.load(tmp_path / "c")["step"] == 2


@pytest.mark.follows(
    "distributed.failures",
    "start each program by an srun of its own, or save to another place",
)
@pytest.mark.parametrize("tree", ["arrays", "scalars"])
def test_an_attempt_that_was_used_is_refused_and_nothing_of_it_is_touched(
    tmp_path: Path, tree: str
) -> None:
    """A second program in one step counts from 0 again."""
    made = state if tree == "arrays" else lambda step: {"step": step}

    def save(step: int, p: Processes) -> Any:
        return ckptstore.save(tmp_path / "c", made(step), overwrite=True, processes=p).attempt

    first = srun(2, functools.partial(save, 1))
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    assert reasons(srun(2, functools.partial(save, 2))) == ["twice", "twice"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()} == before
    for step in ("a/1/1/0", "a/1/0/1", "b/1/0/0"):  # requeued, another srun, another cluster
        second = srun(2, functools.partial(save, 2), step=step)
        assert second[0] == second[1] != first[0]
    assert ckptstore.load(tmp_path / "c")["step"] == 2


@pytest.mark.ci
def test_files_that_a_killed_program_of_the_step_left_are_never_taken_for_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit was never sent, and all its notes and data are there."""

    def killed(*_: Any) -> None:
        raise SystemExit

    def save(p: Processes) -> Any:
        return ckptstore.save(tmp_path / "c", state(1), processes=p).attempt

    attempt = "ckptstore.saving.joint_attempt.JointAttempt"
    with monkeypatch.context() as patch:
        patch.setattr(commit, "hold", killed)
        patch.setattr(f"{attempt}._await", killed)
        patch.setattr(f"{attempt}.give_up", lambda *_: None)
        srun(2, save)
    assert {"JOIN", "START", "PART", "data"} <= left(tmp_path / "c")
    results = srun(2, save)
    assert reasons(results) == ["twice", "twice"], results
    assert all("start each program by an srun of its own" in str(error) for error in results)
    with pytest.raises(ckptstore.NotCommittedError):
        ckptstore.load(tmp_path / "c")
    saved = srun(2, save, step="a/1/0/1")
    assert saved[0] == saved[1]
    assert ckptstore.verify(tmp_path / "c") == []


@pytest.mark.follows(
    "distributed.slurm",
    "pass one: Processes(comm.rank, comm.size, comm.bcast, comm.allgather), or do without: "
    "manager.load(manager.latest()) loads the newest step that each task finds, and one task with "
    'a Manager(url, processes="one") may rewind',
)
@pytest.mark.follows(
    "distributed.group", "pass one: Processes(comm.rank, comm.size, comm.bcast, comm.allgather)"
)
def test_a_run_is_saved_and_what_needs_a_word_is_refused_by_name(tmp_path: Path) -> None:
    def train(p: Processes) -> list[Any]:
        manager = Manager(tmp_path, keep=ckptstore.keep_last(2), processes=p)
        for step in (1, 2, 3):
            manager.save(step, state(step))
        found: list[Any] = [
            tried(manager.load),
            tried(lambda: manager.load(fallback=True)),
            tried(lambda: manager.load_or_init(lambda: state(0))),
            tried(lambda: manager.rewind(2)),
            tried(lambda: ckptstore.in_step(state(3), processes=p)),
        ]
        loaded = manager.load(manager.latest())
        return [*found, manager.steps()[-1], loaded["step"], manager.loaded_step]

    assert srun(2, train) == [["no-word"] * 5 + [3, 3, 3]] * 2
    assert Manager(tmp_path, processes="one").rewind(2) == [3]

    def with_a_word(p: Processes) -> Any:
        assert Manager(tmp_path, processes=p).load(fallback=True)["step"] == 2
        return ckptstore.in_step(state(2), processes=p)

    assert cluster.threads(2, with_a_word) == [None, None]


def test_the_stop_of_all_tasks_needs_an_allgather() -> None:
    together = Processes(0, 2, JobStep("a/1/0/0"))
    preempted = ckptstore.Preemption(processes=together)
    try:
        with pytest.raises(ckptstore.ProcessError, match="has no allgather"):
            preempted.at(3)
    finally:
        preempted.close()


# The variables of Slurm.


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in cluster.slurm(4, 1).items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_numbers_alone_are_enough_in_a_task_of_slurm(task: pytest.MonkeyPatch) -> None:
    together = Processes(1, 4)
    named = chosen((1, 4), "save")
    assert isinstance(together.broadcast, JobStep) and named is not None
    assert (named.index, named.count, named.broadcast) == (1, 4, together.broadcast)

    def attempt() -> str:
        step = Processes(1, 4).broadcast
        assert isinstance(step, JobStep)
        return step.attempt("/shared/run")

    found = [attempt()]
    for name, value in {
        "SLURM_JOB_ID": "4712",
        "SLURM_STEP_ID": "1",
        "SLURM_RESTART_COUNT": "1",
        "SLURM_CLUSTER_NAME": "other",
    }.items():
        task.setenv(name, value)
        found.append(attempt())
    assert len(set(found)) == 5
    together.broadcast.count("/shared/run")
    task.undo()
    for name, value in cluster.slurm(4, 1).items():
        task.setenv(name, value)
    assert attempt() not in found  # the count is that of the process


def test_the_tasks_of_this_srun_count_not_those_of_the_job(task: pytest.MonkeyPatch) -> None:
    task.setenv("SLURM_NTASKS", "8")
    assert Processes(1, 4).count == 4


@pytest.mark.follows(
    "distributed.slurm",
    'pass the numbers of Slurm: int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])',
)
@pytest.mark.parametrize("numbers", [(2, 4), (1, 3), (0, 2)])
def test_other_numbers_than_those_of_slurm_are_refused(
    task: pytest.MonkeyPatch, numbers: tuple[int, int]
) -> None:
    with pytest.raises(StructureError, match="and Slurm says 1 of 4") as caught:
        chosen(numbers, "save")
    assert caught.value.reason == "bad-argument"
    assert Processes(1, 4).index == 1
    # An engine of your own has its own numbers.
    assert Processes(*numbers, lambda data: data).index == numbers[0]


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_ID": None},
        {"SLURM_JOB_ID": None},
        {"SLURM_PROCID": None},
        {"SLURM_HET_SIZE": "2"},
        {"SLURM_STEP_NUM_TASKS": "x"},
        {"SLURM_STEP_NUM_TASKS": "1"},
    ],
    ids=str,
)
def test_elsewhere_a_broadcast_is_asked_for(
    task: pytest.MonkeyPatch, change: dict[str, str | None]
) -> None:
    """In the script of a job, in a heterogeneous job, and with one task."""
    for name, value in change.items():
        if value is None:
            task.delenv(name)
        else:
            task.setenv(name, value)
    with pytest.raises(StructureError, match="only the tasks of one srun need none"):
        Processes(1, 4)
    with pytest.raises(StructureError, match="pass a broadcast too"):
        chosen((1, 4), "save")


@pytest.mark.follows(
    "distributed.choice",
    "or name the tasks of this srun, to save with processes="
    '(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]))',
)
def test_all_is_for_engines_and_names_the_way_without(task: pytest.MonkeyPatch) -> None:
    """Slurm starts programs that have nothing to do with each other, too."""
    task.setattr("ckptstore.distributed.engines.running", lambda: None)
    task.delenv("RANK", raising=False)
    assert ckptstore.processes().count == 1
    with pytest.raises(StructureError, match="nothing connects the processes of this job"):
        chosen("all", "save")
    found = chosen((1, 4), "save")
    assert found is not None and found.count == 4

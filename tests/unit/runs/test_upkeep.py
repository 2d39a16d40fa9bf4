"""A run that is looked after: pruned, verified, watched by another process, asked what is due."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import ckptstore
from ckptstore import Manager, StepInfo, keep_best, keep_every, keep_last, storage
from ckptstore.runs import watching
from tests.support import places
from tests.support.places import Place
from tests.support.runs import is_of, manage, name_of, tree


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


def fill(place: Place, *steps: int, **options: Any) -> Manager:
    manager = manage(place, **options)
    for step in steps:
        manager.save(step, tree(step), metrics={"loss": 1 / step})
    return manager


# What a call would save, and the end of a save.


@pytest.mark.parametrize("every", [None, 50, datetime.timedelta(hours=1)])
def test_a_save_is_due_exactly_where_a_call_saves(every: Any, tmp_path: Path) -> None:
    told, untold = Manager(tmp_path / "a", every=every), Manager(tmp_path / "b", every=every)
    for step in range(7, 320, 7):
        due = told.due(step)
        assert due == told.due(step), "to ask changes nothing"
        if due:
            assert told.save(step, tree(step)) is not None
        untold.save(step, tree(step))
    assert told.steps() == untold.steps()
    assert told.steps()[:3] == {None: [7, 14, 21], 50: [56, 105, 154]}.get(every, [])


def test_what_is_due_stays_due_until_it_is_saved_and_asks_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path, every=10)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "open", lambda *_, **__: pytest.fail("the store was asked"))
        assert [manager.due(step) for step in (5, 10, 11)] == [False, True, True]
    manager.save(11, tree(11))
    assert not manager.due(12)
    with pytest.raises(ckptstore.StructureError) as caught:
        manager.due(1.5)  # type: ignore[arg-type]
    assert caught.value.reason == "bad-step"


def test_a_manager_waits_for_its_save_and_raises_its_error_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path, every=10)
    manager.wait()
    manager.save_async(10, tree(10))
    manager.wait()
    assert manager.steps() == [10]

    def put(self: Any, *args: Any) -> None:
        raise ckptstore.StorageError("the disk says no")

    with monkeypatch.context() as patch:
        patch.setattr("ckptstore.storage.local.LocalStorage.put", put)
        manager.save_async(20, tree(20))
        with pytest.raises(ckptstore.StorageError, match="says no"):
            manager.wait()
    manager.wait()
    assert manager.due(21), "the save has failed"


# Verify.


def test_the_steps_of_a_run_are_verified(place: Place) -> None:
    manager = fill(place, 1, 2, 3)
    assert manager.verify() == {1: [], 2: [], 3: []}
    place.put(f"{name_of(1)}/MANIFEST", b"damaged")
    [data] = [n for n in place.files(name_of(2)) if n.startswith("data")]
    whole = place.get(f"{name_of(2)}/{data}")
    place.put(f"{name_of(2)}/{data}", bytes([whole[0] ^ 1]) + whole[1:])
    found = manager.verify()
    assert {step: [p.reason for p in problems] for step, problems in found.items()} == {
        1: ["bad-magic"], 2: ["checksum"], 3: [],
    }  # fmt: skip
    assert manager.verify(2) == found[2] and manager.verify(3) == []
    with pytest.raises(ckptstore.NotCommittedError, match="the nearest first: 3, 2, 1"):
        manager.verify(4)


def test_a_step_that_goes_while_a_run_is_verified_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = fill(Place(tmp_path), 1, 2)
    real = manager._problems

    def problems(step: int) -> Any:
        if step == 1:
            manager.delete(2)
        return real(step)

    monkeypatch.setattr(manager, "_problems", problems)
    assert manager.verify() == {1: []}


# Prune.


def test_a_rule_prunes_a_run_and_the_newest_stays(place: Place) -> None:
    manager = fill(place, 1, 2, 3, 4, 5, 6)
    rule = keep_every(2) | keep_best(1, "loss")
    assert manager.prune(rule, dry_run=True) == [1, 3, 5] and len(manager.steps()) == 6
    assert manager.prune(rule) == [1, 3, 5] and manager.prune(rule) == []
    assert manager.steps() == [2, 4, 6]
    assert manager.prune(lambda steps: []) == [2, 4] and is_of(manager.load(), 6)
    assert {name.split("/")[0] for name in place.files()} == {name_of(6)}
    assert Manager(f"{place.url}/other", storage_options=place.options).prune(keep_last(1)) == []


@pytest.mark.parametrize("keep", [None, 3, "last"])
def test_what_is_no_rule_prunes_nothing(keep: Any, tmp_path: Path) -> None:
    manager = fill(Place(tmp_path), 1, 2)
    with pytest.raises(ckptstore.StructureError, match="prune: keep is") as caught:
        manager.prune(keep)
    assert caught.value.reason == "bad-argument" and manager.steps() == [1, 2]


def test_a_rule_that_fails_prunes_nothing_and_is_raised(tmp_path: Path) -> None:
    manager = fill(Place(tmp_path), 1, 2)

    def rule(steps: Sequence[StepInfo]) -> list[StepInfo]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        manager.prune(rule)
    with pytest.raises(ckptstore.StructureError) as caught:
        manager.prune(keep_best(1, "nope"))
    assert caught.value.reason == "missing-metric" and manager.steps() == [1, 2]


def test_a_prune_that_the_store_stops_is_ended_by_calling_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptstore.checkpoint import deletion

    manager, real = fill(Place(tmp_path), 1, 2, 3, 4), deletion.delete

    def delete(store: Any, *args: Any) -> None:
        if store.url.endswith(name_of(2)):
            raise ckptstore.StorageError("the disk says no")
        real(store, *args)

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "delete", delete)
        with pytest.raises(ckptstore.StorageError, match="says no"):
            manager.prune(keep_last(1))
    assert manager.steps() == [2, 3, 4]
    assert manager.prune(keep_last(1)) == [2, 3]


def test_a_step_that_another_process_deletes_meanwhile_is_not_named(tmp_path: Path) -> None:
    manager = fill(Place(tmp_path), 1, 2, 3)

    def rule(steps: Sequence[StepInfo]) -> Sequence[StepInfo]:
        Manager(tmp_path).delete(1)
        return steps[-1:]

    assert manager.prune(rule) == [2] and manager.steps() == [3]


def test_a_prune_waits_for_the_save_under_way(tmp_path: Path) -> None:
    manager = fill(Place(tmp_path), 1, 2)
    manager.save_async(3, tree(3), metrics={"loss": 1.0})
    assert manager.prune(keep_last(1)) == [1, 2] and manager.steps() == [3]


# Watch.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PAUSES", (0.01, 0.05))


def test_the_steps_that_are_there_come_in_order_and_then_new_ones(
    place: Place, quick: None
) -> None:
    trainer, evaluator = fill(place, 10, 20), manage(place)
    assert list(evaluator.watch(timeout=0)) == [10, 20]
    assert list(evaluator.watch(20, timeout=0)) == [] == list(evaluator.watch(25, timeout=0.02))
    seen = []
    for step in evaluator.watch(after=10, timeout=0):
        assert is_of(evaluator.load(step), step)
        seen.append(step)
        if step < 50:
            trainer.save(step + 10, tree(step + 10), overwrite=True)
    assert seen == [20, 30, 40, 50]


def test_steps_that_go_before_their_turn_are_passed_over(tmp_path: Path, quick: None) -> None:
    trainer = fill(Place(tmp_path), 1, 2, 3, 4)
    found = Manager(tmp_path).watch(timeout=0)
    assert next(found) == 1
    assert trainer.prune(keep_last(1)) == [1, 2, 3]
    assert list(found) == [4]


def test_after_the_run_went_back_its_new_steps_come(tmp_path: Path, quick: None) -> None:
    trainer = fill(Place(tmp_path), 1, 2, 3)
    found = Manager(tmp_path).watch(timeout=0)
    assert [next(found) for _ in range(3)] == [1, 2, 3]
    trainer.rewind(1)
    trainer.save(2, tree(2))
    assert list(found) == [], "a number that was there at the last look is not told from before"
    found = Manager(tmp_path).watch(after=1, timeout=60)
    assert next(found) == 2
    trainer.rewind(1)
    trainer.save(5, tree(5))
    assert next(found) == 5
    trainer.rewind(1)
    trainer.save(4, tree(4))
    assert next(found) == 4, "below the last, and it was not there before"


def test_a_run_that_is_not_there_yet_is_waited_for(tmp_path: Path, quick: None) -> None:
    found = Manager(tmp_path / "run").watch(timeout=60)
    fill(Place(tmp_path / "run"), 7)
    assert next(found) == 7


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", True])
def test_a_bad_timeout_or_step_is_refused_in_the_call(timeout: Any, tmp_path: Path) -> None:
    with pytest.raises(ckptstore.StructureError) as caught:
        Manager(tmp_path).watch(timeout=timeout)
    assert caught.value.reason == "bad-argument"
    with pytest.raises(ckptstore.StructureError):
        Manager(tmp_path).watch(-2)


TRAINER = """
import sys, time
import ckptstore
with ckptstore.Manager(sys.argv[1], keep=ckptstore.keep_last(2)) as manager:
    for step in range(1, 31):
        manager.save_async(step, {"step": step})
        time.sleep(0.02)
"""

EVALUATOR = """
import sys
import ckptstore
print("waits", flush=True)
for step in ckptstore.Manager(sys.argv[1]).watch():
    print(step, flush=True)
"""


@pytest.mark.process
def test_an_evaluation_sees_the_steps_of_a_trainer_that_evicts_until_it_is_interrupted(
    tmp_path: Path,
) -> None:
    evaluator = subprocess.Popen(
        [sys.executable, "-c", EVALUATOR, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert evaluator.stdout is not None and evaluator.stdout.readline() == "waits\n"
    subprocess.run([sys.executable, "-c", TRAINER, str(tmp_path)], check=True, timeout=120)
    seen = []
    while not seen or seen[-1] < 30:
        seen.append(int(evaluator.stdout.readline()))
    assert seen == sorted(set(seen))
    time.sleep(0.2)  # it waits for the next
    evaluator.send_signal(signal.SIGINT)
    out, err = evaluator.communicate(timeout=60)
    assert out == "" and "KeyboardInterrupt" in err

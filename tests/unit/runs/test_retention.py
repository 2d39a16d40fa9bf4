"""Rules of retention, and what a Manager deletes by them."""

from __future__ import annotations

import contextlib
import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, StepInfo, keep_best, keep_every, keep_last
from ckptstore.checkpoint import deletion
from ckptstore.runs import retention
from ckptstore.storage.local import LocalStorage
from tests.support import places
from tests.support.places import Place
from tests.support.runs import is_of, manage, name_of, tree
from tests.support.servers import Moto
from tests.support.servers.proxy import FaultProxy


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


def infos(metrics: Mapping[int, Mapping[str, float]] | Sequence[int]) -> list[StepInfo]:
    given = metrics if isinstance(metrics, Mapping) else {step: {} for step in metrics}
    return [StepInfo(step, given.__getitem__) for step in given]


def kept(rule: Any, metrics: Mapping[int, Mapping[str, float]] | Sequence[int]) -> list[int]:
    return sorted({info.step for info in rule(infos(metrics))})


def losses(*values: float) -> dict[int, dict[str, float]]:
    return {step: {"loss": value} for step, value in enumerate(values)}


# The rules, without a disk.


def test_keep_last_keeps_the_newest() -> None:
    assert kept(keep_last(2), [1, 5, 7]) == [5, 7]
    assert kept(keep_last(9), [1, 5, 7]) == [1, 5, 7]
    assert kept(keep_last(1), []) == []


def test_keep_every_keeps_the_multiples() -> None:
    assert kept(keep_every(100), range(0, 1001, 10)) == list(range(0, 1001, 100))
    assert kept(keep_every(100), range(10, 1001, 10)) == list(range(100, 1001, 100))


def test_keep_every_keeps_the_first_step_after_a_multiple_that_was_not_saved() -> None:
    assert kept(keep_every(100), [7, 95, 103, 110, 250, 260, 400]) == [103, 250, 400]


def test_what_keep_every_keeps_it_keeps_when_more_steps_come() -> None:
    steps: list[int] = []
    for step in range(3, 2000, 7):
        steps = kept(keep_every(100) | keep_last(1), [*steps, step])
    assert steps == kept(keep_every(100) | keep_last(1), range(3, 2000, 7))


def test_keep_best_keeps_the_smallest_or_the_largest() -> None:
    assert kept(keep_best(2, "loss"), losses(3.0, 1.0, 2.0, 4.0)) == [1, 2]
    assert kept(keep_best(2, "loss", "max"), losses(3.0, 1.0, 2.0, 4.0)) == [0, 3]
    assert kept(keep_best(2, "loss", mode="min"), losses(3, 1, 2)) == [1, 2]


def test_of_equals_the_newer_is_better() -> None:
    assert kept(keep_best(1, "loss"), losses(1.0, 1.0, 1.0, 2.0)) == [2]
    assert kept(keep_best(2, "loss", "max"), losses(1.0, 1.0, 1.0)) == [1, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_finite_is_never_the_best(bad: float, mode: Any) -> None:
    assert kept(keep_best(2, "loss", mode), losses(bad, 1.0, bad)) == [1]
    with pytest.raises(ckptstore.StructureError, match="no finite value of the metric 'loss'"):
        kept(keep_best(2, "loss", mode), losses(bad, bad))


def test_a_step_without_the_metric_is_never_the_best() -> None:
    assert kept(keep_best(2, "loss"), {1: {}, 2: {"loss": 3.0}, 3: {"accuracy": 1.0}}) == [2]


def test_a_metric_that_no_step_has_is_an_error_that_names_the_steps_and_the_call() -> None:
    with pytest.raises(ckptstore.StructureError) as caught:
        kept(keep_best(1, "losss"), {step: {"loss": 1.0} for step in range(7)})
    assert caught.value.reason == "missing-metric"
    for part in ("'losss'", "step 0, step 1", "and 2 more", "which have 'loss'", "save(step, tree"):
        assert part in str(caught.value)
    assert kept(keep_best(1, "loss"), []) == []


def test_rules_are_combined() -> None:
    given = losses(*(abs(step - 12.0) for step in range(30)))
    rule = keep_last(2) | keep_every(10) | keep_best(2, "loss")
    assert kept(rule, given) == [0, 10, 12, 13, 20, 28, 29]


def test_a_rule_is_combined_with_a_callable_on_either_side() -> None:
    def third(steps: Sequence[StepInfo]) -> list[StepInfo]:
        return [info for info in steps if info.step == 3]

    assert kept(keep_last(1) | third, range(9)) == [3, 8]
    assert kept(third | keep_last(1), range(9)) == [3, 8]
    with pytest.raises(TypeError):
        keep_last(1) | 3  # type: ignore[operator]


def test_a_callable_may_change_the_list_that_it_is_given() -> None:
    def two_best(steps: Any) -> Any:
        steps.sort(key=lambda info: info.metrics["loss"])
        del steps[2:]
        return steps

    given = losses(*(abs(step - 3.0) for step in range(9)))
    assert kept(two_best | keep_last(2), given) == [2, 3, 7, 8]
    assert kept(keep_last(2) | two_best, given) == [2, 3, 7, 8]


@pytest.mark.parametrize("answer", [[3], None, 7, "all"], ids=repr)
def test_a_combined_rule_that_gives_no_steps_is_the_same_error(answer: Any) -> None:
    with pytest.raises(ckptstore.StructureError, match="lambda steps:") as caught:
        retention.evicted(keep_last(1) | (lambda steps: answer), infos(range(5)), 4)
    assert caught.value.reason == "bad-argument"


def test_only_rules_of_ours_say_which_metrics_they_look_at() -> None:
    class Mine:
        def metrics(self) -> None: ...

        def __call__(self, steps: Sequence[StepInfo]) -> Sequence[StepInfo]:
            return steps

    assert (Mine() | keep_best(1, "loss")).metrics == {"loss"}


def test_a_rule_says_what_it_is_and_survives_a_process_boundary() -> None:
    rule = keep_last(2) | keep_every(10) | keep_best(1, "loss", "max")
    assert repr(rule) == "keep_last(2) | keep_every(10) | keep_best(1, 'loss', 'max')"
    again = pickle.loads(pickle.dumps(rule))
    assert repr(again) == repr(rule) and again.metrics == {"loss"}


@pytest.mark.parametrize("n", [0, -1, True, 1.0, "1", None, np.int64(2), 2**53])
@pytest.mark.parametrize("rule", [keep_last, keep_every, lambda n: keep_best(n, "loss")])
def test_a_number_is_an_int_over_0(rule: Any, n: Any) -> None:
    with pytest.raises(ckptstore.StructureError, match="expected an int over 0") as caught:
        rule(n)
    assert caught.value.reason == "bad-argument"


def test_a_mode_and_a_metric_are_names() -> None:
    with pytest.raises(ckptstore.StructureError, match=r"'min'.*'max'"):
        keep_best(1, "loss", "lowest")  # type: ignore[arg-type]
    with pytest.raises(ckptstore.StructureError, match="expected its name"):
        keep_best(1, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [[3], None, 7, "all", [StepInfo(1, dict)]], ids=repr)
def test_a_rule_that_gives_no_steps_is_an_error(answer: Any) -> None:
    with pytest.raises(ckptstore.StructureError, match="lambda steps:") as caught:
        retention.evicted(lambda steps: answer, infos(range(5)), 4)
    assert caught.value.reason == "bad-argument"


def test_the_newest_and_the_one_just_saved_are_never_evicted() -> None:
    assert retention.evicted(lambda steps: [], infos(range(5)), 4) == [0, 1, 2, 3]
    assert retention.evicted(lambda steps: [], infos(range(5)), 2) == [0, 1, 3]
    assert retention.evicted(lambda steps: [], [], 2) == []


# On disks and in buckets.


def fill(manager: Manager, values: Mapping[int, float]) -> None:
    for step, loss in values.items():
        manager.save(step, tree(step), metrics={"loss": loss})


def test_what_is_not_kept_is_deleted_after_each_save(place: Place) -> None:
    keep = keep_last(2) | keep_best(1, "loss")
    manager = manage(place, keep=keep)
    values = {1: 5.0, 2: 1.0, 3: 4.0, 4: float("nan"), 5: 2.0, 6: 3.0}
    after = {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [2, 4, 5], 6: [2, 5, 6]}
    for step, loss in values.items():
        fill(manager, {step: loss})
        assert manager.steps() == after[step]
    assert {name.split("/")[0] for name in place.files()} == {name_of(s) for s in (2, 5, 6)}
    assert manager.best("loss") == 2 and manager.best("loss", "max") == 6
    assert is_of(manager.load(manager.best("loss")), 2)


def test_a_save_in_the_background_evicts_too(place: Place) -> None:
    with manage(place, keep=keep_last(2)) as manager:
        for step in range(5):
            manager.save_async(step, tree(step))
    assert manage(place).steps() == [3, 4]


def test_without_a_rule_all_is_kept(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    fill(manager, dict.fromkeys(range(5), 1.0))
    assert manager.steps() == [0, 1, 2, 3, 4]


def test_a_step_that_is_not_the_newest_is_kept_right_after_its_save(tmp_path: Path) -> None:
    manager = Manager(tmp_path, keep=keep_last(1))
    for step in (10, 5, 7):
        manager.save(step, tree(step))
        assert manager.steps() == sorted({step, 10})


def test_each_manager_evicts_by_what_it_sees(tmp_path: Path) -> None:
    one, two = Manager(tmp_path, keep=keep_last(2)), Manager(tmp_path, keep=keep_last(3))
    for step in range(0, 10, 2):
        one.save(step, tree(step))
        two.save(step + 1, tree(step + 1))
    assert one.steps() == [7, 8, 9]


def test_two_managers_evict_at_the_same_time(tmp_path: Path) -> None:
    """Each finds what the other has deleted gone, in the middle of its own deletions."""
    failures = []

    def run(first: int) -> None:
        manager = Manager(tmp_path, keep=keep_last(2))
        try:
            for step in range(first, 60, 2):
                with contextlib.suppress(ckptstore.AlreadyCommittedError):  # the other is ahead
                    manager.save(step, tree(step))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    manager = Manager(tmp_path)
    assert manager.latest() in (58, 59) and all(is_of(manager.load(s), s) for s in manager.steps())


def test_a_reader_of_the_newest_never_fails_beside_a_trainer_that_keeps_one(place: Place) -> None:
    trainer, reader = manage(place, keep=keep_last(1)), manage(place)
    trainer.save(0, tree(0))
    done, failures, seen = threading.Event(), list[BaseException](), list[int]()

    def read() -> None:
        try:
            while not done.is_set():
                seen.append(reader.load_or_init(lambda: pytest.fail("begun anew"))["step"])
                assert reader.steps() and reader.latest() is not None
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for step in range(1, 60 if place.options is None else 15):
        trainer.save(step, tree(step))
    done.set()
    thread.join()
    assert failures == [] and seen == sorted(seen) and len(seen) > 3


def test_a_process_that_ends_evicts_after_the_save_that_it_finishes(tmp_path: Path) -> None:
    fill(Manager(tmp_path), {1: 1.0, 2: 2.0, 3: 3.0})
    script = """
import sys, ckptstore
manager = ckptstore.Manager(sys.argv[1], keep=ckptstore.keep_best(1, "loss"))
manager.save_async(4, {"step": 4}, metrics={"loss": 4.0})
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Manager(tmp_path).steps() == [1, 4]


def test_what_is_no_step_is_never_evicted(tmp_path: Path) -> None:
    place = Place(tmp_path / "run")
    for name in ("notes", "step-1/MANIFEST", f"{name_of(1)}/mine", "other/MANIFEST"):
        place.put(name)
    manager = Manager(place.url, keep=keep_last(1))
    for step in (1, 2, 3):
        manager.save(step, tree(step))
    assert manager.steps() == [3]
    left = {name for name in place.files() if name_of(3) not in name}
    assert left == {"notes", "step-1/MANIFEST", f"{name_of(1)}/mine", "other/MANIFEST"}


def test_a_step_copied_in_by_hand_is_evicted_like_any_other(place: Place) -> None:
    manager = manage(place, keep=keep_best(1, "loss"))
    fill(manager, {5: 1.0})
    place.copy(name_of(5), name_of(3))
    fill(manager, {6: 2.0})
    assert manager.steps() == [5, 6]  # of equals the newer


# What fails after a save does not undo it.


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_rule_that_fails_is_logged_and_the_save_has_succeeded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def rule(steps: Sequence[StepInfo]) -> list[StepInfo]:
        raise KeyError("mine")

    manager = Manager(tmp_path, keep=rule)
    assert manager.save(1, tree(1)) is not None
    [text] = warnings_of(caplog)
    assert "step 1 is saved, but older steps are not evicted: KeyError: 'mine'" in text
    assert "in rule" in caplog.text, "with the traceback"
    assert is_of(manager.load(), 1)


@pytest.mark.parametrize("call", ["save", "save_async"])
def test_a_rule_that_saves_does_not_wait_for_itself(
    call: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def rule(steps: Sequence[StepInfo]) -> Sequence[StepInfo]:
        getattr(manager, call)(9, tree(9))
        return steps

    manager = Manager(tmp_path, keep=rule)
    pending = manager.save_async(1, tree(1))
    assert pending is not None and pending.result(timeout=30).step == 1
    [text] = warnings_of(caplog)
    assert "deadlock: a rule of `keep` waits for the save that called it" in text
    assert manager.steps() == [1]


def test_a_deletion_that_fails_is_logged_and_tried_again_after_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager, real = Manager(tmp_path, keep=keep_last(1)), deletion.delete

    def fail(store: Any, attempt: Any) -> None:
        if store.url.endswith(name_of(1)):
            raise ckptstore.StorageError("the disk says no")
        real(store, attempt)

    manager.save(1, tree(1))
    manager.save(2, tree(2), force=True)
    assert manager.steps() == [2]
    manager = Manager(tmp_path, keep=keep_last(1))
    ckptstore.save(tmp_path / name_of(1), tree(1), step=1)
    monkeypatch.setattr(deletion, "delete", fail)
    assert manager.save(3, tree(3)) is not None
    assert manager.steps() == [1, 3], "the others are deleted all the same"
    assert warnings_of(caplog) == ["step 1 is not kept, but could not be evicted: the disk says no"]
    monkeypatch.undo()
    manager.save(4, tree(4))
    assert manager.steps() == [4]


def test_a_listing_that_fails_after_the_save_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(tmp_path, keep=keep_last(1))
    manager.save(1, tree(1))

    def fail(*args: Any) -> None:
        raise ckptstore.StorageError("no listing")

    monkeypatch.setattr(LocalStorage, "holders", fail)
    assert manager.save(2, tree(2)) is not None
    assert len(warnings_of(caplog)) == 1 and "no listing" in caplog.text
    monkeypatch.undo()
    assert manager.steps() == [1, 2]


# Metrics.


def test_a_save_without_the_metric_of_its_rule_is_refused_before_it_writes(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "run", keep=keep_last(1) | keep_best(1, "loss"))
    for metrics in (None, {}, {"accuracy": 1.0}):
        with pytest.raises(ckptstore.StructureError, match="without the metric 'loss'") as caught:
            manager.save(7, tree(7), metrics=metrics)
        assert caught.value.reason == "missing-metric"
        assert "step 7" in str(caught.value) and "metrics={'loss': value}" in str(caught.value)
        with pytest.raises(ckptstore.StructureError, match="without the metric 'loss'"):
            manager.save_async(7, tree(7), metrics=metrics)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ckptstore.StructureError, match="expected a dict") as caught:
        manager.save(7, tree(7), metrics=3.0, force=True)  # type: ignore[arg-type]
    assert caught.value.reason == "bad-metric"


def test_a_forced_save_needs_no_metric_and_is_never_the_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that is told to stop has no time to evaluate."""
    manager = Manager(tmp_path, keep=keep_best(1, "loss"))
    fill(manager, {1: 1.0, 2: 2.0})
    manager.save(3, tree(3), force=True)
    assert manager.steps() == [1, 3]
    fill(manager, {4: 3.0})
    assert manager.steps() == [1, 4]
    assert warnings_of(caplog) == []


def test_where_no_step_has_a_finite_value_nothing_is_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(tmp_path, keep=keep_last(1) | keep_best(1, "loss"))
    fill(manager, dict.fromkeys(range(3), float("nan")))
    assert manager.steps() == [0, 1, 2]
    assert "no finite value of the metric 'loss'" in warnings_of(caplog)[-1]
    fill(manager, {3: 1.0})
    assert manager.steps() == [3]


ACCURACIES = {1: 0.5, 2: 0.9, 3: float("nan"), 4: 0.7}


@pytest.mark.parametrize(
    "keep",
    [
        keep_best(4, "acc", mode="max"),
        keep_best(4, "acc", "max") | keep_last(9),
        keep_last(9) | keep_best(1, "acc", "max") | keep_best(1, "loss"),
        (lambda steps: steps) | keep_best(1, "acc", "max"),
        keep_best(1, "acc", "max") | keep_best(2, "acc", "max"),
    ],
)
def test_the_best_step_is_the_one_that_the_rule_keeps(tmp_path: Path, keep: Any) -> None:
    manager = Manager(tmp_path, keep=keep)
    for step, value in ACCURACIES.items():
        manager.save(step, tree(step), metrics={"acc": value, "loss": value})
    assert manager.best("acc") == 2 == manager.best("acc", "max") == manager.best("acc", None)
    assert manager.best("acc", "min") != 2, "the mode of the call goes before that of the rule"
    if "lambda" not in repr(keep):
        assert pickle.loads(pickle.dumps(manager)).best("acc") == 2
    if "loss" in repr(keep):
        assert manager.best("loss") == manager.best("loss", "min")


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (None, "no rule"),
        (keep_last(9), "no rule"),
        (keep_best(9, "loss"), "no rule"),
        (lambda steps: keep_best(9, "acc", "max")(steps), "no rule"),
        (keep_best(9, "acc", "max") | keep_best(9, "acc", "min"), "both modes"),
        (keep_best(9, "acc", "max") | (keep_last(1) | keep_best(9, "acc")), "both modes"),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_without_one_mode_in_the_rule_the_best_step_asks_for_it(
    tmp_path: Path, keep: Any, says: str, saved: bool
) -> None:
    manager = Manager(tmp_path, keep=keep)
    for step, value in ACCURACIES.items() if saved else ():
        manager.save(step, tree(step), metrics={"acc": value, "loss": value})
    message = rf"{says}.*best\('acc', mode=\"max\"\)"
    with pytest.raises(ckptstore.StructureError, match=message) as caught:
        manager.best("acc")
    assert caught.value.reason == "bad-argument"
    assert manager.best("acc", mode="max") == (2 if saved else None)
    assert manager.best("acc", mode="min") == (1 if saved else None)


def test_best_of_nothing_of_some_and_of_damaged_ones(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manage(place)
    assert manager.best("loss", "min") is None
    manager.save(1, tree(1))
    with pytest.raises(ckptstore.StructureError, match=r"'loss' in step 1; save") as caught:
        manager.best("loss", "min")
    assert caught.value.reason == "missing-metric"
    fill(manager, {2: 2.0, 3: 1.0, 4: 3.0})
    assert manager.best("loss", "min") == 3 and manager.best("loss", mode="max") == 4
    place.put(f"{name_of(3)}/MANIFEST", b"damaged")
    assert manage(place).best("loss", "min") == 2
    assert len(warnings_of(caplog)) == 1 and name_of(3) in caplog.text
    with pytest.raises(ckptstore.StructureError, match=r"'min'.*'max'"):
        manager.best("loss", "best")  # type: ignore[arg-type]


def test_a_step_whose_metrics_cannot_be_read_is_not_evicted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(Manager(tmp_path), {1: 1.0, 2: 2.0, 3: 3.0})
    (tmp_path / name_of(2) / "MANIFEST").write_bytes(b"damaged")
    manager = Manager(tmp_path, keep=keep_best(1, "loss"))
    fill(manager, {4: 4.0})
    assert manager.steps() == [1, 2, 4]
    assert any("it is kept" in text for text in warnings_of(caplog))
    Manager(tmp_path, keep=keep_last(1)).save(5, tree(5))
    assert manager.steps() == [5], "a rule that reads no metrics does not notice"


def test_a_step_that_another_process_replaced_is_not_evicted_by_its_old_metrics(
    tmp_path: Path,
) -> None:
    manager = Manager(tmp_path, keep=keep_best(1, "loss"))
    fill(manager, {1: 1.0, 2: 3.0})
    Manager(tmp_path).save(2, tree(2), metrics={"loss": 0.5}, overwrite=True)
    fill(manager, {3: 5.0})
    assert manager.steps() == [1, 2, 3], "what it knew of step 2 is not what is there"
    fill(manager, {4: 6.0})
    assert manager.steps() == [2, 4]


def test_a_step_that_another_process_replaces_right_before_its_eviction_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, real = Manager(tmp_path, keep=keep_best(1, "loss")), deletion.delete
    fill(Manager(tmp_path), {1: 2.0, 2: 1.0})

    def delete(*args: Any) -> None:
        monkeypatch.undo()
        at = tmp_path / name_of(1)
        ckptstore.save(at, tree(11), step=1, metrics={"loss": 0.5}, overwrite=True)
        real(*args)

    monkeypatch.setattr(deletion, "delete", delete)
    fill(manager, {3: 5.0})
    assert manager.steps() == [1, 2, 3] and is_of(manager.load(1), 11)


@pytest.fixture
def proxied(moto: Moto, request: pytest.FixtureRequest) -> Iterator[tuple[places.BucketPlace, Any]]:
    with FaultProxy(moto) as proxy:
        yield places.BucketPlace(moto), proxy


def test_a_step_may_be_forgotten_in_another_thread_during_a_look(tmp_path: Path) -> None:
    class Forgetful(dict[int, Any]):
        def __contains__(self, step: object) -> bool:
            return self.pop(step, None) is not None  # true, and then it is gone

    manager = Manager(tmp_path)
    for step, loss in [(1, 0.1), (2, 0.2)]:
        manager.save(step, tree(step), metrics={"loss": loss})
    metrics = manager._run.metrics
    metrics._known = Forgetful(metrics._known)
    assert manager.best("loss", "min") == 1


def test_a_manifest_is_read_once_a_process_and_only_for_a_rule_about_metrics(
    proxied: tuple[places.BucketPlace, FaultProxy],
) -> None:
    place, proxy = proxied
    fill(manage(place), dict.fromkeys(range(12), 1.0))
    reads = r"step-0000000000(0\d|10)/MANIFEST"  # the save of 11 and later ones read their own

    def save(manager: Manager, step: int) -> int:
        proxy.reset()
        manager.save(step, tree(step), metrics={"loss": 2.0})
        return proxy.count("GET", reads)

    options = proxy.storage_options()
    assert save(Manager(place.url, keep=keep_last(99), storage_options=options), 12) == 0
    manager = Manager(place.url, keep=keep_best(99, "loss"), storage_options=options)
    assert save(manager, 13) == 11
    assert save(manager, 14) == 0

"""The way back to an older step, and the errors that lead there."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, keep_best, keep_every, keep_last
from ckptstore.checkpoint import deletion
from ckptstore.storage.local import LocalStorage
from tests.support import faults, places
from tests.support.faults import Faults
from tests.support.places import Place
from tests.support.runs import is_of, manage, name_of, tree


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


def fill(place: Place, *steps: int, **options: Any) -> Manager:
    manager = manage(place, **options)
    for step in steps:
        manager.save(step, tree(step), metrics={"loss": float(step)})
    return manager


def call_in(error: Any, name: str) -> str:
    """Return the call of that name that a message prints, such as `load(140)`."""
    found = re.search(rf"\b{name}\([^)]*\)", str(getattr(error, "value", error)))
    assert found is not None, f"{name}: {error}"
    return found[0]


def follow(manager: Manager, error: Any, name: str, **known: Any) -> Any:
    """Make the call of that name that a message prints."""
    return eval(f"manager.{call_in(error, name)}", {"manager": manager, **known})


# A step that is not there.


def test_a_load_of_a_missing_step_names_the_nearest_and_loading_that_works(place: Place) -> None:
    manager = fill(place, *range(100, 200, 10))
    with pytest.raises(ckptstore.NotCommittedError) as caught:
        manager.load(143)
    assert "nearest first: 140, 150, 130, 160, 120, … and 5 more" in str(caught.value)
    assert f"{manager.url}/{name_of(143)}" in str(caught.value)
    assert caught.value.reason == "no-manifest" and manager.loaded_step is None
    assert is_of(follow(manager, caught, "load"), 140)
    assert manager.loaded_step == 140


@pytest.mark.parametrize("call", ["delete", "rewind"])
def test_other_calls_for_a_missing_step_name_the_nearest_and_change_nothing(
    place: Place, call: str
) -> None:
    manager = fill(place, 100, 200)
    with pytest.raises(ckptstore.NotCommittedError, match="nearest first: 200, 100") as caught:
        getattr(manager, call)(190)
    assert manager.steps() == [100, 200]
    assert ("delete(" in str(caught.value)) is False
    if call == "rewind":
        assert follow(manager, caught, "rewind") == []


@pytest.mark.follows("runs.refusals", "check the path, or save a step first")
def test_a_missing_step_of_an_empty_run_says_so(place: Place) -> None:
    manager = manage(place)
    for call in (manager.load, manager.delete, manager.rewind):
        with pytest.raises(ckptstore.NotCommittedError, match="no step at all: check the path"):
            call(7)
    manager.save(7, tree(7))
    assert is_of(manager.load(7), 7)


def test_an_unfinished_step_says_so_and_names_the_others(place: Place) -> None:
    manager = fill(place, 1)
    place.put(f"{name_of(2)}/data-{'a' * 32}-0-0.bin")
    with pytest.raises(ckptstore.NotCommittedError, match=r"unfinished save.*first: 1;") as caught:
        manager.load(2)
    assert caught.value.reason == "unfinished" and is_of(follow(manager, caught, "load"), 1)


def test_an_evicted_step_names_the_rule(place: Place) -> None:
    manager = fill(place, 1, 2, 3, keep=keep_last(2))
    with pytest.raises(ckptstore.NotCommittedError, match=r"keep_last\(2\), the rule") as caught:
        manager.load(1)
    assert "has evicted it" in str(caught.value) and is_of(follow(manager, caught, "load"), 2)
    with pytest.raises(ckptstore.NotCommittedError, match=r"keep=keep_last\(2\) deletes"):
        manage(place, keep=keep_last(2)).load(1)
    with pytest.raises(ckptstore.NotCommittedError) as other:
        manage(place, keep=keep_last(2)).load(4)  # it was never there
    assert "deletes the steps" not in str(other.value)


def test_a_run_that_may_not_be_listed_has_the_plain_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, real = Manager(tmp_path), LocalStorage.children
    manager.save(1, tree(1))

    def children(self: LocalStorage) -> Any:
        if self.url == str(tmp_path):
            raise ckptstore.StorageError("no permission", reason="permission")
        return real(self)

    monkeypatch.setattr(LocalStorage, "children", children)
    with pytest.raises(ckptstore.NotCommittedError, match=r"there is no step 2$"):
        manager.load(2)
    assert is_of(manager.load(1), 1)
    manager.save(0, tree(0))
    assert is_of(manager.load(0), 0)


# A save below later steps.


def saves(save: str, manager: Manager, step: int, **options: Any) -> None:
    pending: Any = getattr(manager, save)(step, tree(step), **options)
    if save == "save_async":
        pending.result()


WAYS = ("save", "save_async")
SAVES = pytest.mark.parametrize(
    ("place", "save"),
    [
        *(("local", save) for save in WAYS),
        ("moto", "save"),
        pytest.param("moto", "save_async", marks=pytest.mark.whole),
    ],
    indirect=["place"],
)
"""In a bucket, which makes no difference to what is refused, one of the two."""


@pytest.mark.follows(
    "runs.refusals",
    "to go on from step {} and give up the later ones, call rewind({}) first: it verifies step {} "
    "and deletes {} step(s)",
)
@pytest.mark.parametrize(
    ("place", "save", "overwrite"),
    [
        *(("local", save, overwrite) for save in WAYS for overwrite in (None, True, False)),
        ("moto", "save_async", None),
        *(
            pytest.param("moto", save, overwrite, marks=pytest.mark.whole)
            for save in WAYS
            for overwrite in (None, True, False)
            if (save, overwrite) != ("save_async", None)
        ),
    ],
    indirect=["place"],
)
def test_a_save_below_a_later_step_is_refused_and_the_call_it_names_leads_on(
    place: Place, save: str, overwrite: bool | None
) -> None:
    fill(place, 100, 300)
    manager = manage(place)
    assert is_of(manager.load(100), 100)
    before = place.files()
    with pytest.raises(ckptstore.AlreadyCommittedError, match=r"would take 300 instead") as caught:
        saves(save, manager, 200, overwrite=overwrite)
    assert caught.value.reason == "later-steps" and place.files() == before
    assert follow(manager, caught, "rewind") == [300]
    saves(save, manager, 200, overwrite=overwrite)
    assert manager.steps() == [100, 200] and is_of(manage(place).load(), 200)


@pytest.mark.follows("runs.refusals", "begin with load_or_init(init), which loads step {}")
@SAVES
def test_a_script_that_did_not_resume_is_told_to(place: Place, save: str) -> None:
    fill(place, 100, 200, 300)
    manager, before = manage(place), place.files()
    for step in (0, 100, 150, 300):
        with pytest.raises(ckptstore.AlreadyCommittedError) as caught:
            saves(save, manager, step)
        there = step in (100, 300)
        assert caught.value.reason == ("already-committed" if there else "later-steps")
        assert "did not resume" in str(caught.value) and place.files() == before
    state = follow(manage(place), caught, "load_or_init", init=lambda: pytest.fail("begun anew"))
    assert is_of(state, 300)
    saves(save, manager, 400)
    assert manager.latest() == 400


@pytest.mark.follows(
    "runs.refusals",
    "to begin anew in this directory, delete its steps first: for step in manager.steps(): "
    "manager.delete(step)",
)
def test_the_way_to_begin_anew_is_followed(tmp_path: Path) -> None:
    fill(Place(tmp_path), 100, 300)
    manager = Manager(tmp_path)
    with pytest.raises(ckptstore.AlreadyCommittedError) as caught:
        manager.save(50, tree(50))
    [line] = re.findall(r"for step in .*", str(caught.value).split("; the other save")[0])
    exec(line, {"manager": manager})
    saves("save", manager, 50)
    assert manager.steps() == [50]


def test_a_manager_may_save_below_its_own_steps(place: Place) -> None:
    assert fill(place, 7, 100, 20).steps() == [7, 20, 100]
    with manage(place) as manager:
        manager.save_async(300, tree(300))
        manager.save_async(200, tree(200))  # below one that may still be under way
    assert manager.steps() == [7, 20, 100, 200, 300]


@pytest.mark.follows("runs.saves", "to go on from step {}, call rewind({}) first")
def test_a_manager_that_goes_back_below_its_own_steps_is_warned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = fill(Place(tmp_path), 100, 200, 300)
    manager.load(100)
    for step in (150, 160):
        manager.save(step, tree(step))
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "takes step 300" in record.getMessage()
    assert follow(manager, record.getMessage(), "rewind") == [150, 160, 200, 300]
    manager.save(170, tree(170))
    assert is_of(Manager(tmp_path).load(), 170)


def test_below_a_step_that_was_skipped_as_damaged_a_save_is_allowed(place: Place) -> None:
    fill(place, 100, 200, 300)
    for step in (200, 300):
        place.put(f"{name_of(step)}/MANIFEST", b"damaged")
    manager = manage(place)
    assert is_of(manager.load(fallback=True), 100)
    manager.save(150, tree(150))
    manager.save(300, tree(301))  # replaces the damaged one
    assert is_of(manager.load(), 301)
    with pytest.raises(ckptstore.AlreadyCommittedError) as caught:
        manage(place).save(250, tree(250))
    assert caught.value.reason == "later-steps"


@pytest.mark.follows("runs.refusals", "if another process saves to this run, stop one of the two")
def test_an_evicted_step_is_not_in_the_way_and_another_managers_step_is(tmp_path: Path) -> None:
    one, two = Manager(tmp_path, keep=keep_last(1)), Manager(tmp_path)
    one.save(1, tree(1))
    two.save(3, tree(3))
    with pytest.raises(ckptstore.AlreadyCommittedError, match="another process saves") as caught:
        one.load(1), one.save(2, tree(2))
    assert caught.value.reason == "later-steps"
    one.save(4, tree(4))
    assert one.steps() == [4]
    two.load()
    two.save(5, tree(5))
    one.delete(5)
    two.save(4, tree(4), overwrite=True)  # 5 was its own, and is gone


def test_a_call_that_does_not_save_is_not_refused(tmp_path: Path) -> None:
    fill(Place(tmp_path), 100)
    manager = Manager(tmp_path, every=10)
    assert manager.save(5, tree(5)) is None
    for _ in range(2):  # it stays due
        with pytest.raises(ckptstore.AlreadyCommittedError):
            manager.save(10, tree(10))


@pytest.mark.parametrize("kind", ["linked", "dangling", "unfinished"])
def test_a_later_link_counts_as_a_step_and_a_directory_without_a_manifest_does_not(
    tmp_path: Path, kind: str
) -> None:
    base = ckptstore.save(tmp_path / "base", tree(300), step=300)
    run = tmp_path / "run"
    manager = fill(Place(run), 100)
    if kind == "linked":
        (run / name_of(300)).symlink_to(base.url)
    elif kind == "dangling":
        (run / name_of(300)).symlink_to("nothing")
    else:
        (run / name_of(300)).mkdir()
    if kind != "linked":
        manager.save(200, tree(200))
    else:
        with pytest.raises(ckptstore.AlreadyCommittedError) as caught:
            manager.save(200, tree(200))
        follow(manager, caught, "rewind")
        manager.save(200, tree(200))
        assert is_of(ckptstore.load(base.url), 300), "the link alone is removed"
    assert manager.rewind(200) == ([300] if kind == "dangling" else [])
    assert is_of(Manager(run).load(), 200)


# A step that is there already.


@pytest.mark.follows(
    "runs.refusals",
    "leave out this save, or replace the step by save({}, tree, overwrite=True)",
    "save the steps after it",
)
@SAVES
def test_a_step_that_this_manager_saved_or_loaded_is_said_to_be_so(place: Place, save: str) -> None:
    manager = fill(place, 1, 2)
    with pytest.raises(ckptstore.AlreadyCommittedError, match="saved step 2 before") as caught:
        saves(save, manager, 2)
    follow(manager, caught, "save", tree=tree(22))
    assert is_of(manager.load(2), 22)
    again = manage(place)
    again.load()
    with pytest.raises(ckptstore.AlreadyCommittedError, match="save the steps after it"):
        saves(save, again, 2)
    saves(save, again, 3)
    with pytest.raises(ckptstore.AlreadyCommittedError, match="count on from loaded_step"):
        saves(save, again, 1)


# Rewind.


def test_a_rewind_deletes_the_later_steps_and_nothing_else(place: Place) -> None:
    manager = fill(place, 100, 200, 300, 400)
    place.put("notes")
    assert manager.rewind(200, dry_run=True) == [300, 400]
    assert manager.steps() == [100, 200, 300, 400]
    assert manager.rewind(200) == [300, 400] and manager.rewind(200) == []
    assert manager.steps() == [100, 200] and "notes" in place.files()
    assert {name.split("/")[0] for name in place.files()} == {"notes", name_of(100), name_of(200)}
    assert is_of(manager.load(), 200)


@pytest.mark.parametrize("step", [-1, 1.5, "1"])
def test_a_rewind_to_no_step_is_refused(tmp_path: Path, step: Any) -> None:
    with pytest.raises(ckptstore.StructureError) as caught:
        fill(Place(tmp_path), 1).rewind(step)
    assert caught.value.reason == "bad-step"


def test_a_rewind_to_a_damaged_step_deletes_nothing_and_names_a_sound_one(place: Place) -> None:
    manager = fill(place, 100, 200, 300)
    [data] = [n for n in place.files(name_of(200)) if n.startswith("data")]
    whole = place.get(f"{name_of(200)}/{data}")
    place.put(f"{name_of(200)}/{data}", bytes([whole[0] ^ 1]) + whole[1:])
    for dry_run in (True, False):
        with pytest.raises(ckptstore.CorruptError, match="nothing was deleted") as caught:
            manager.rewind(200, dry_run=dry_run)
        assert caught.value.reason == "checksum" and manager.steps() == [100, 200, 300]
    assert follow(manager, caught, "rewind") == [200, 300]


def test_damaged_later_steps_are_deleted(place: Place) -> None:
    manager = fill(place, 1, 2, 3)
    place.put(f"{name_of(3)}/MANIFEST", b"damaged")
    [data] = [n for n in place.files(name_of(2)) if n.startswith("data")]
    place.delete(f"{name_of(2)}/{data}")
    assert manager.rewind(1) == [2, 3] and is_of(manager.load(), 1)


def test_a_rewind_waits_for_the_save_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, real, go = fill(Place(tmp_path), 1, 2), LocalStorage.put, threading.Event()

    def put(self: Any, *args: Any) -> None:
        go.wait(20)
        real(self, *args)

    monkeypatch.setattr(LocalStorage, "put", put)
    pending: Any = manager.save_async(3, tree(3))
    threading.Timer(0.1, go.set).start()
    assert manager.rewind(1) == [2, 3] and pending.result().step == 3
    assert manager.steps() == [1]


def test_a_rewind_raises_the_error_of_the_save_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = fill(Place(tmp_path), 1, 2)

    def put(self: Any, *args: Any) -> None:
        raise ckptstore.StorageError("the disk says no")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "put", put)
        manager.save_async(3, tree(3))
        with pytest.raises(ckptstore.StorageError, match="says no"):
            manager.rewind(1)
    assert manager.steps() == [1, 2]
    assert manager.rewind(1) == [2]


@pytest.mark.follows(
    "runs.rewinding", "stop the processes that save to this run, then call rewind({}) again"
)
@pytest.mark.parametrize("step", [300, 400])
def test_a_step_that_comes_during_a_rewind_is_left_and_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    manager, real, came = fill(place, 100, 200, 300), deletion.delete, []

    def delete(store: Any, *args: Any, **options: Any) -> None:
        if not came:  # it replaces the first, which is 300, or comes beside it
            url = f"{place.url}/{name_of(step)}"
            options_ = {"storage_options": place.options, "step": step, "overwrite": True}
            came.append(ckptstore.save(url, tree(step + 1), **options_))  # type: ignore[arg-type]
        real(store, *args, **options)

    monkeypatch.setattr(deletion, "delete", delete)
    with pytest.raises(ckptstore.AlreadyCommittedError, match=f"saved step {step}") as caught:
        manager.rewind(100)
    assert caught.value.reason == "later-steps"
    assert is_of(manager.load(step), step + 1), "what came meanwhile is untouched"
    assert follow(manager, caught, "rewind")[-1] == step
    assert manager.steps() == [100]


def test_a_step_that_another_deletes_during_a_rewind_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, real = fill(Place(tmp_path), 1, 2, 3), deletion.delete

    def delete(store: Any, *args: Any, **options: Any) -> None:
        monkeypatch.undo()
        Manager(tmp_path).delete(3)
        real(store, *args, **options)

    monkeypatch.setattr(deletion, "delete", delete)
    assert manager.rewind(1) == [2] and manager.steps() == [1]


def test_a_rewind_that_the_disk_stops_is_ended_by_calling_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, real = fill(Place(tmp_path), 1, 2, 3, 4), LocalStorage.delete

    def delete(self: Any, name: str, expected: Any = None) -> None:
        if self.url.endswith(name_of(3)):
            raise ckptstore.StorageError("the disk says no")
        real(self, name, expected)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", delete)
        with pytest.raises(ckptstore.StorageError, match="says no"):
            manager.rewind(1)
    assert manager.steps() == [1, 2, 3], "the newest goes first"
    with pytest.raises(ckptstore.AlreadyCommittedError):
        manager.save(2, tree(2), overwrite=True)  # its own steps are not its own any more
    assert manager.rewind(1) == [2, 3]
    manager.save(2, tree(2))
    assert manager.steps() == [1, 2]


def test_after_a_rewind_the_run_saves_the_steps_that_it_would_have_saved(tmp_path: Path) -> None:
    manager = Manager(tmp_path, every=50, keep=keep_last(2) | keep_every(100))
    for step in range(0, 302, 7):
        manager.save(step, tree(step))
    assert manager.steps() == [0, 105, 203, 252, 301]
    assert manager.rewind(105) == [203, 252, 301]
    manager.load()
    for step in range(112, 302, 7):
        manager.save(step, tree(step))
    assert manager.steps() == [0, 105, 203, 252, 301]


def test_after_a_rewind_nothing_is_shared_with_a_step_that_is_gone(tmp_path: Path) -> None:
    frozen = {"frozen": np.zeros(1 << 18)}
    manager = Manager(tmp_path)
    for step in (1, 2, 3):
        manager.save(step, {"step": step} | frozen)
    manager.rewind(1)
    manager.load()
    manager.save(2, {"step": 2} | frozen)
    assert ckptstore.verify(tmp_path / name_of(2)) == []
    assert manager.load()["step"] == 2 and np.array_equal(
        manager.load()["frozen"], frozen["frozen"]
    )


def test_after_a_rewind_the_best_is_of_those_that_are_left(tmp_path: Path) -> None:
    manager = Manager(tmp_path, keep=keep_best(3, "loss", mode="max"))
    for step in (1, 2, 3):
        manager.save(step, tree(step), metrics={"loss": step})
    assert manager.best("loss") == 3
    manager.rewind(2)
    assert manager.best("loss") == 2


def test_a_rewind_to_a_linked_step_and_over_linked_steps(tmp_path: Path) -> None:
    base = ckptstore.save(tmp_path / "base", tree(5), step=5)
    run = tmp_path / "run"
    manager = fill(Place(run), 1, 9)
    for step in (5, 7):
        (run / name_of(step)).symlink_to(base.url)
    assert manager.rewind(5) == [7, 9] and manager.steps() == [1, 5]
    assert is_of(manager.load(), 5) and is_of(ckptstore.load(base.url), 5)


def rewind_and_be_killed(directory: Path, act_name: str) -> tuple[int, int]:
    """Fork a child that dies at call n of a rewind, for every n, and call it again."""
    act: Any = getattr(faults, act_name)
    at, kills = 0, 0
    fill(Place(directory / "base"), 1, 2, 3)
    while True:
        run = directory / f"{act_name}-{at}"
        shutil.copytree(directory / "base", run)
        manager = Manager(run)
        child = os.fork()
        if not child:
            try:
                with faults.faulty(Faults(at, act)):
                    Manager(run).rewind(1)
            finally:
                os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = manager.steps()
        assert left == list(range(1, 1 + len(left))), "the newest went first"
        assert all(ckptstore.verify(run / name_of(step)) == [] for step in left)
        assert Manager(run).rewind(1) == left[1:]
        assert manager.steps() == [1] and is_of(manager.load(), 1)
        assert manager.gc(grace=0) is not None and sorted(os.listdir(run)) == [name_of(1)]
        if code == 0:
            return at, kills
        assert code == -signal.SIGKILL
        at, kills = at + 1, kills + 1


@pytest.mark.parametrize("act", ["kill_before", "kill_after"])
def test_a_rewind_that_is_killed_at_any_call_is_ended_by_calling_it_again(
    tmp_path: Path, act: str
) -> None:
    code = f"""
import pathlib
from tests.unit.runs import test_going_back as this
print(*this.rewind_and_be_killed(pathlib.Path({str(tmp_path)!r}), {act!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls, kills = map(int, done.stdout.split())
    assert calls == kills > 30

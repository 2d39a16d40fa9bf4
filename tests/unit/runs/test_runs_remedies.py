"""What the errors of a `Manager` tell you to do, done."""

from __future__ import annotations

import pickle
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import ckptstore
from ckptstore import CheckpointError, Manager, keep_best, keep_last
from ckptstore.checkpoint import garbage
from ckptstore.format import names
from ckptstore.storage.local import LocalStorage
from tests.support import remedies
from tests.unit.runs.test_leftovers import pass_of
from tests.unit.runs.test_listings import Mount

follows = pytest.mark.follows

ATOMIC: Any = {"ckptstore": {"assume_atomic": True}}


def state(step: int) -> dict[str, Any]:
    return {"step": step}


def trained(run: Path, *steps: int) -> Manager:
    """A run with these steps; return the Manager of a later process."""
    manager = Manager(run)
    for step in steps:
        manager.save(step, state(step))
    return Manager(run)


def refused(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*args, **options)
    return str(caught.value)


@follows("checkpoint.absence", "check the path, or save a step first")
def test_a_run_without_a_step(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "rum")
    refused(manager.load)
    assert trained(tmp_path / "run", 1).load() == state(1)
    manager.save(1, state(1))
    assert manager.load() == state(1)


@follows(
    "runs.directory",
    "load it by ckptstore.load(url), or pass Manager its parent or another directory",
)
def test_a_checkpoint_in_the_place_of_a_run(tmp_path: Path) -> None:
    trained(tmp_path / "run", 1, 2)
    (newest,) = (tmp_path / "run").glob("*2")
    refused(Manager(newest).load)
    refused(Manager(newest).save, 3, state(3))
    assert ckptstore.load(newest) == state(2)
    assert Manager(newest.parent).load() == state(2)
    Manager(tmp_path / "other").save(3, state(3))


@follows(
    "runs.directory",
    "try again later, load a step by its number, or mount the disk with a shorter cache of "
    "directories",
)
@pytest.mark.parametrize("way", ["later", "number", "mount"])
def test_a_listing_of_a_cache(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Manager(tmp_path, keep=keep_last(2))
    for step in (1, 2):
        trainer.save(step, state(step))
    mount = Mount(tmp_path, monkeypatch, lasts=0)
    for step in range(3, 8):
        trainer.save(step, state(step))
    mount.lasts = 1e9
    refused(Manager(tmp_path).load)
    if way == "number":
        assert Manager(tmp_path).load(7) == state(7)
        return
    mount.lasts, mount.slept = (mount.slept + 1, mount.slept) if way == "later" else (1.0, 0.0)
    assert Manager(tmp_path).load() == state(7)


@follows("runs.loads", "leave out the step, or try those of Manager.steps() one by one")
def test_fallback_for_a_step(tmp_path: Path) -> None:
    manager = trained(tmp_path, 1, 2, 3)
    (newest,) = tmp_path.glob("*3")
    (newest / "MANIFEST").write_bytes(b"damaged")
    refused(manager.load, 3, fallback=True)
    assert manager.load(fallback=True) == state(2)
    found = None
    for step in reversed(manager.steps()):
        try:
            found = manager.load(step)
            break
        except ckptstore.CorruptError:
            continue
    assert found == state(2)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    """The URL of a directory in this process's memory."""
    yield f"memory://{tmp_path.name}/run"
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(f"/{tmp_path.name}"):
        filesystem.rm(f"/{tmp_path.name}", recursive=True)


@follows("runs.manager", "make a Manager in the other process")
def test_a_manager_with_options_that_is_sent(memory: str) -> None:
    manager = Manager(memory, storage_options=ATOMIC)
    manager.save(1, state(1))
    with pytest.raises(TypeError) as caught:
        pickle.dumps(manager)
    remedies.seen(str(caught.value))
    assert Manager(memory, storage_options=ATOMIC).load() == state(1)


# --- Preemption ---------------------------------------------------------------------------------


def run_in_thread(target: Any, *args: Any) -> None:
    thread = threading.Thread(target=target, args=args)
    thread.start()
    thread.join()


@follows("runs.preemption", "call it there before you start this thread, and pass the flag")
def test_a_flag_in_a_thread(tmp_path: Path) -> None:
    manager, seen = Manager(tmp_path), []

    def alone() -> None:
        seen.append(refused(manager.on_preemption))

    def with_flag(flag: Any) -> None:
        seen.append(bool(flag))

    run_in_thread(alone)
    flag = manager.on_preemption()
    signal.raise_signal(signal.SIGTERM)
    run_in_thread(with_flag, flag)
    flag.close()
    assert "in the main thread" in seen[0] and seen[1:] == [True]


@follows("runs.preemption", "remove it first")
def test_a_handler_of_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    refused(Manager(tmp_path).on_preemption)
    monkeypatch.undo()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which removes it
    flag = Manager(tmp_path).on_preemption()
    assert not flag
    flag.close()


# --- Metrics ------------------------------------------------------------------------------------


def call_of(words: str) -> str:
    return re.findall(r"save\(step, tree, metrics=\{.*?\}\)", words)[-1]


@follows("runs.retention", "pass it: save(step, tree, metrics={{}: value})")
def test_a_save_without_the_metric_of_its_rule(tmp_path: Path) -> None:
    manager = Manager(tmp_path, keep=keep_best(1, "loss"))
    words = refused(manager.save, 1, state(1))
    names = {"save": manager.save, "step": 1, "tree": state(1), "value": 0.5}
    eval(call_of(words), names)
    assert manager.best("loss") == 1


@follows("runs.retention", "save it with the step: save(step, tree, metrics={{}: value})")
def test_a_metric_that_no_step_has(tmp_path: Path) -> None:
    manager = trained(tmp_path, 1)
    words = refused(manager.best, "loss", "min")
    manager.load()
    names = {"save": manager.save, "step": 2, "tree": state(2), "value": 0.5}
    eval(call_of(words), names)
    assert manager.best("loss", "min") == 2


@follows(
    "runs.retention",
    'pass the mode: best({}, mode="max") for an accuracy, mode="min" for a loss',
)
def test_best_without_a_mode(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    for step, accuracy in ((1, 0.2), (2, 0.9), (3, 0.5)):
        manager.save(step, state(step), metrics={"accuracy": accuracy})
    words = refused(manager.best, "accuracy")
    call = re.findall(r"best\(.*?\)", words)[-1]
    assert eval(call, {"best": manager.best}) == 2
    assert manager.best("accuracy", mode="min") == 1


# --- Steps that are there, or are not -----------------------------------------------------------


@follows("runs.refusals", "check the path, or save a step first")
def test_a_step_of_a_run_without_any(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    refused(manager.load, 1)
    manager.save(1, state(1))
    assert manager.load(1) == state(1)


@follows("runs.refusals", "{}({}) takes the nearest")
def test_a_step_that_is_not_there(tmp_path: Path) -> None:
    manager = trained(tmp_path, 100, 200)
    words = refused(manager.load, 150)
    call = re.findall(r"(load\(\d+\)) takes the nearest", words)[0]
    assert eval(call, {"load": manager.load}) == state(100)


@follows(
    "runs.refusals", "leave out this save, or replace the step by save({}, tree, overwrite=True)"
)
def test_a_step_that_this_manager_saved(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    manager.save(1, state(1))
    words = refused(manager.save, 1, {"step": "again"})
    assert manager.load(1) == state(1)
    call = words.partition("replace the step by ")[2].partition(";")[0]
    eval(call, {"save": manager.save, "tree": {"step": "again"}})
    assert manager.load(1) == {"step": "again"}


@follows("runs.refusals", "a new run needs a directory of its own")
@follows("runs.refusals", "begin with load_or_init(init), which loads step {}")
def test_a_script_that_does_not_resume(tmp_path: Path) -> None:
    trained(tmp_path, 1, 2)
    manager = Manager(tmp_path)
    words = refused(manager.save, 1, state(1))
    call = words.partition("begin with ")[2].partition(",")[0]
    loaded = eval(call, {"load_or_init": manager.load_or_init, "init": lambda: state(0)})
    assert loaded == state(2)
    manager.save(3, state(3))
    Manager(tmp_path / "new").save(1, state(1))


@follows("runs.refusals", "save the steps after it")
def test_a_step_that_was_loaded(tmp_path: Path) -> None:
    manager = trained(tmp_path, 1, 2)
    manager.load()
    refused(manager.save, 2, state(2))
    manager.save(3, state(3))
    assert manager.load() == state(3)


@follows("runs.refusals", "count on from loaded_step, or from the step in your tree")
def test_a_count_that_began_anew(tmp_path: Path) -> None:
    manager = trained(tmp_path, 1, 2, 3)
    tree = manager.load()
    refused(manager.save, 2, state(2))
    assert manager.loaded_step is not None
    manager.save(manager.loaded_step + 1, state(4))
    manager.save(tree["step"] + 2, state(5))
    assert manager.steps() == [1, 2, 3, 4, 5]


@follows(
    "runs.refusals",
    "to go on from step {} and give up the later ones, call rewind({}) first: it verifies step {} "
    "and deletes {} step(s)",
)
@follows("runs.refusals", "load() takes the newest")
@pytest.mark.parametrize("way", ["rewind", "newest"])
def test_going_back(way: str, tmp_path: Path) -> None:
    manager = trained(tmp_path, 100, 200, 300)
    manager.load(100)
    words = refused(manager.save, 150, state(150))
    if way == "newest":
        assert manager.load() == state(300)
        manager.save(400, state(400))
        return
    eval(re.findall(r"rewind\(\d+\)", words)[0], {"rewind": manager.rewind})
    manager.save(150, state(150))
    assert manager.steps() == [100, 150]


@follows("runs.refusals", "if another process saves to this run, stop one of the two")
def test_two_processes_of_one_run(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    one, two = Manager(tmp_path), Manager(tmp_path)
    one.load(), two.load()
    one.save(2, state(2))
    refused(two.save, 2, state(2))
    del two
    one.save(3, state(3))
    assert one.steps() == [1, 2, 3]


@follows(
    "runs.refusals",
    "to begin anew in this directory, delete its steps first: for step in manager.steps(): "
    "manager.delete(step)",
)
def test_a_run_that_begins_anew(tmp_path: Path) -> None:
    manager = trained(tmp_path, 100, 200)
    words = refused(manager.save, 1, state(1))
    line = "for step in" + words.partition("first: for step in")[2].partition(";")[0]
    exec(line, {"manager": manager})
    manager.save(1, state(1))
    assert manager.steps() == [1]


@follows("runs.rewinding", "another step may be sound: rewind({})")
def test_a_rewind_to_a_damaged_step(tmp_path: Path) -> None:
    manager = trained(tmp_path, 1, 2, 3)
    (step,) = tmp_path.glob("*2")
    shutil.copyfile(step / "MANIFEST", tmp_path / "copy")
    (step / "MANIFEST").write_bytes((tmp_path / "copy").read_bytes()[:-1])
    words = refused(manager.rewind, 2)
    eval(re.findall(r"sound: (rewind\(\d+\))", words)[0], {"rewind": manager.rewind})
    assert manager.steps() == [1] and manager.load() == state(1)


@follows("runs.rewinding", "stop the processes that save to this run, then call rewind({}) again")
def test_a_rewind_beside_a_process_that_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptstore.runs import rewinding

    manager, real = trained(tmp_path, 1, 2, 3), rewinding._delete
    other = Manager(tmp_path)
    other.load()

    def delete(*args: Any) -> bool:
        monkeypatch.setattr(rewinding, "_delete", real)
        done = real(*args)
        other.save(9, state(9))
        return done

    monkeypatch.setattr(rewinding, "_delete", delete)
    words = refused(manager.rewind, 1)
    eval(re.findall(r"(rewind\(\d+\)) again", words)[0], {"rewind": manager.rewind})
    assert manager.steps() == [1]


@follows("runs.saves", "to go on from step {}, call rewind({}) first")
def test_a_save_below_a_step_of_this_manager(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(tmp_path)
    for step in (10, 20, 30):
        manager.save(step, state(step))
    manager.load(10)
    manager.save(15, state(15))
    (words,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    eval(re.findall(r"rewind\(\d+\)", words)[0], {"rewind": manager.rewind})
    manager.save(15, state(15))
    assert manager.steps() == [10, 15] and manager.load() == state(15)


@follows("runs.directory", "check the store, and whether other processes keep deleting steps")
@follows("runs.directory", "then try again")
def test_listings_that_contradict_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = trained(tmp_path, 1, 2)
    monkeypatch.setattr(LocalStorage, "holders", lambda self, *args: [])
    refused(manager.steps)
    monkeypatch.undo()
    assert manager.steps() == [1, 2]


@follows("runs.rewinding", "gc() removes them")
def test_files_that_a_rewind_could_not_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, real = trained(tmp_path, 1), LocalStorage.delete
    manager.load()
    manager.save(2, {"w": np.ones(3)})

    def delete(self: LocalStorage, name: str, expected: bytes | None = None) -> None:
        if name.startswith("data-"):
            raise ckptstore.StorageError("no answer")
        real(self, name, expected=expected)

    monkeypatch.setattr(LocalStorage, "delete", delete)
    assert manager.rewind(1) == [2]
    monkeypatch.undo()
    assert len(list(tmp_path.glob("*2/data-*"))) == 1
    manager.gc(grace=0)
    assert not list(tmp_path.glob("*2/data-*"))


@follows("runs.leftovers", "garbage is left, see gc(): {}")
def test_leftovers_that_cannot_be_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, 1)
    (step,) = tmp_path.glob("*1")
    dead = step / names.file_name("data", "a" * 32, 0, 0)
    dead.touch()

    def fail(*args: Any, **options: Any) -> Any:
        raise ckptstore.StorageError("no answer")

    with monkeypatch.context() as broken:
        for name in ("look", "collect"):
            broken.setattr(garbage, name, fail)
        with Manager(tmp_path, grace=0.01) as manager:
            assert manager.load_or_init(dict) == state(1)
            pass_of(manager)
            refused(manager.gc, grace=0)
    assert dead.exists()
    assert manager.gc(grace=0) == {1: [dead.name]}
    assert not dead.exists()

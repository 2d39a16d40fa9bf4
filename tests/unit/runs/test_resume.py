"""How a run goes on: which calls save, what is resumed, and what the end of a block does."""

from __future__ import annotations

import datetime
import logging
import os
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, keep_last
from ckptstore.runs import interval
from ckptstore.saving import background
from ckptstore.saving.attempt import Attempt
from ckptstore.storage.local import LocalStorage
from tests.support import places
from tests.support.places import BucketPlace, Place
from tests.support.runs import is_of, manage, name_of, tree
from tests.support.servers import Moto
from tests.support.servers.proxy import FaultProxy


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


def saved_of(manager: Manager, calls: Any, **options: Any) -> list[int]:
    """Return the steps at which a call said that it saved; what is there is the same."""
    before = manager.steps()
    found = [step for step in calls if manager.save(step, tree(step), **options) is not None]
    assert sorted({*before, *found}) == manager.steps()
    return found


# every=


def test_every_so_many_steps(tmp_path: Path) -> None:
    assert saved_of(Manager(tmp_path, every=10), range(35)) == [0, 10, 20, 30]


def test_every_counts_steps_and_not_calls(tmp_path: Path) -> None:
    assert saved_of(Manager(tmp_path, every=10), range(3, 50, 5)) == [13, 23, 33, 43]
    assert saved_of(Manager(tmp_path, every=1000), range(500, 5000, 500)) == [
        1000,
        2000,
        3000,
        4000,
    ]


@pytest.mark.parametrize("resumed", [True, False])
def test_a_resumed_run_saves_the_steps_that_the_whole_one_would(
    tmp_path: Path, resumed: bool
) -> None:
    whole = saved_of(Manager(tmp_path / "whole", every=10), range(0, 100, 4))
    first = saved_of(Manager(tmp_path / "run", every=10), range(0, 50, 4))
    manager = Manager(tmp_path / "run", every=10)
    start = manager.load()["step"] + 4
    assert start == 44
    assert first + saved_of(manager, range(start, 100, 4)) == whole


def test_a_step_is_saved_after_an_older_one_was_loaded_to_look_at(tmp_path: Path) -> None:
    manager = Manager(tmp_path, every=10)
    assert saved_of(manager, range(35)) == [0, 10, 20, 30]
    assert is_of(manager.load(10), 10)
    assert saved_of(manager, range(35, 42)) == [40]


def test_a_forced_save_saves(tmp_path: Path) -> None:
    manager = Manager(tmp_path, every=10)
    assert saved_of(manager, [7]) == [] and saved_of(manager, [8], force=True) == [8]
    assert saved_of(manager, [9]) == [] and saved_of(manager, [11]) == [11]


def test_every_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(interval.time, "monotonic", lambda: now[0])
    manager = Manager(tmp_path, every=datetime.timedelta(minutes=1))
    assert saved_of(manager, [1]) == []
    now[0] += 59
    assert saved_of(manager, [2]) == []
    now[0] += 1
    assert saved_of(manager, [3, 4]) == [3]
    now[0] += 30
    assert saved_of(manager, [5], force=True) == [5]
    now[0] += 59
    assert saved_of(manager, [6]) == []
    now[0] += 1
    assert saved_of(manager, [7]) == [7]


def test_after_a_save_that_failed_the_next_call_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path, every=10)
    for first in (10, 20):  # no call before; a call before
        fail_once(monkeypatch)
        with pytest.raises(ckptstore.StorageError):
            manager.save(first, tree(first))
        assert saved_of(manager, range(first + 1, first + 5)) == [first + 1]


@pytest.mark.parametrize("every", [10, datetime.timedelta(hours=1)])
def test_after_a_save_that_failed_in_the_background_the_next_call_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: Any
) -> None:
    manager = Manager(tmp_path, every=every)
    for first in (10, 20):
        fail_once(monkeypatch)
        pending = manager.save_async(first, tree(first), force=True)
        assert pending is not None
        with pytest.raises(ckptstore.StorageError):
            pending.result()
        assert saved_of(manager, range(first + 1, first + 5)) == [first + 1]


def test_a_step_that_was_refused_because_a_save_is_under_way_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, real = threading.Event(), LocalStorage.put

    def put(self: Any, *args: Any) -> None:
        go.wait(20)
        real(self, *args)

    monkeypatch.setattr(LocalStorage, "put", put)
    with Manager(tmp_path, every=10) as manager:
        manager.save_async(10, tree(10))
        for step in (20, 21):
            with pytest.raises(ckptstore.CheckpointError) as caught:
                manager.save_async(step, tree(step), wait=False)
            assert caught.value.reason == "save-pending"
        go.set()
        manager.save_async(22, tree(22))
        assert manager.save_async(23, tree(23)) is None
    assert manager.steps() == [10, 22]


@pytest.mark.parametrize(
    "every",
    [0, -1, True, 2.5, "10", np.int64(3), datetime.timedelta(0), datetime.timedelta(seconds=-1)],
    ids=repr,
)
def test_every_is_a_number_of_steps_or_a_time(tmp_path: Path, every: Any) -> None:
    with pytest.raises(ckptstore.StructureError, match=r"datetime\.timedelta\(") as caught:
        Manager(tmp_path, every=every)
    assert caught.value.reason == "bad-argument"


def test_a_call_that_does_not_save_touches_no_store_but_looks_at_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path, every=10)

    def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("ckptstore.storage.open", fail)
    assert manager.save(1, tree(1)) is None and manager.save_async(2, tree(2)) is None
    for save in (manager.save, manager.save_async):
        with pytest.raises(ckptstore.StructureError) as caught:
            save(-1, tree(1))
        assert caught.value.reason == "bad-step"


@pytest.mark.parametrize("keep", [3, "last", [1]])
def test_keep_is_a_callable(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(ckptstore.StructureError, match=r"keep_last\(3\)") as caught:
        Manager(tmp_path, keep=keep)
    assert caught.value.reason == "bad-argument"


def test_a_manager_survives_a_process_boundary(tmp_path: Path) -> None:
    manager = Manager(tmp_path, keep=keep_last(2), every=10)
    manager.save(10, tree(10))
    again = pickle.loads(pickle.dumps(manager))
    assert saved_of(again, range(11, 25)) == [20]
    again.save(30, tree(30))
    assert again.steps() == [20, 30]


# The same step twice.


@pytest.mark.parametrize("save", ["save", "save_async"])
def test_the_same_step_twice_is_an_error_that_names_overwrite(place: Place, save: str) -> None:
    for every in (None, 5):
        with manage(place, every=every) as manager:
            step = 5 if every else 1
            getattr(manager, save)(step, tree(step))
        again = pytest.raises(ckptstore.AlreadyCommittedError, match="overwrite=True")
        with again, manage(place, every=every) as manager:
            getattr(manager, save)(step, tree(step + 1))
        assert is_of(manager.load(step), step)
        with manage(place, every=every) as manager:
            getattr(manager, save)(step, tree(step + 1), overwrite=True)
        assert is_of(manager.load(step), step + 1)


@pytest.mark.parametrize("save", ["save", "save_async"])
def test_what_the_manager_gives_a_save_is_given_once(tmp_path: Path, save: str) -> None:
    call = getattr(Manager(tmp_path), save)
    with pytest.raises(TypeError, match="storage_options"):
        call(1, tree(1), storage_options={})
    saved = call(1, tree(1), metadata={"of": 1}, overwrite=True)
    assert (saved if save == "save" else saved.result()).metadata == {"of": 1}


# Resume.


def test_load_or_init_starts_and_resumes(place: Place) -> None:
    manager = manage(place)
    assert is_of(manager.load_or_init(lambda: tree(0)), 0) and manager.loaded_step is None
    manager.save(4, tree(4))
    again = manage(place)
    assert is_of(again.load_or_init(lambda: pytest.fail("not to be called")), 4)
    assert again.loaded_step == 4
    assert is_of(again.load_or_init(lambda: tree(0), like=tree(9)), 4)
    with pytest.raises(ckptstore.StructureError, match="differ"):
        again.load_or_init(lambda: tree(0), like={"step": 0})


def test_init_is_a_callable(tmp_path: Path) -> None:
    with pytest.raises(ckptstore.StructureError, match=r"load_or_init\(lambda: state\)"):
        Manager(tmp_path).load_or_init(tree(0))  # type: ignore[arg-type]


def test_an_error_of_init_is_its_own(tmp_path: Path) -> None:
    def init() -> None:
        raise ckptstore.NotCommittedError("mine", reason="no-step")

    with pytest.raises(ckptstore.NotCommittedError, match="mine"):
        Manager(tmp_path).load_or_init(init)


def damage_data(place: Place, step: int) -> None:
    [data] = [name for name in place.files(name_of(step)) if name.startswith("data-")]
    path = f"{name_of(step)}/{data}"
    place.put(path, bytes(b ^ 1 for b in place.get(path)))


def damage_manifest(place: Place, step: int) -> None:
    place.put(f"{name_of(step)}/MANIFEST", place.get(f"{name_of(step)}/MANIFEST")[:-9])


def remove_data(place: Place, step: int) -> None:
    [data] = [name for name in place.files(name_of(step)) if name.startswith("data-")]
    place.delete(f"{name_of(step)}/{data}")


DAMAGES = [damage_data, damage_manifest, remove_data]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_passed_over_only_if_asked_and_said_so(
    place: Place, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manage(place)
    for step in (1, 2, 3):
        manager.save(step, tree(step))
    damage(place, 3)
    before = place.files()
    for load in (manager.load, lambda: manager.load_or_init(lambda: tree(0))):
        with pytest.raises(ckptstore.CorruptError):
            load()
    assert manager.loaded_step is None and caplog.records == []
    assert is_of(manager.load(fallback=True), 2) and manager.loaded_step == 2
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "step 3 is damaged and skipped: " in record.getMessage()
    assert name_of(3) in record.getMessage()
    assert is_of(manager.load_or_init(lambda: tree(0), fallback=True), 2)
    assert place.files() == before and manager.steps() == [1, 2, 3]
    assert manager.latest() == 3, "it is there, and nobody hides that"


def test_several_damaged_ones_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(tmp_path)
    manager = manage(place)
    for step in range(5):
        manager.save(step, tree(step))
    for step, damage in zip((4, 3, 2), DAMAGES, strict=True):
        damage(place, step)
    assert is_of(manager.load(fallback=True), 1)
    assert [record.args[0] for record in caplog.records if record.args] == [4, 3, 2]


def test_where_all_are_damaged_nothing_is_begun_anew(tmp_path: Path) -> None:
    place = Place(tmp_path)
    manager = manage(place)
    for step in (1, 2):
        manager.save(step, tree(step))
        damage_data(place, step)
    with pytest.raises(
        ckptstore.CorruptError, match=r"all 2 step\(s\) are damaged.*newest"
    ) as caught:
        manager.load_or_init(lambda: tree(0), fallback=True)
    assert caught.value.reason == "checksum" and name_of(2) in str(caught.value)


def test_what_is_no_damage_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path)
    for step in (1, 2):
        manager.save(step, tree(step))
    with pytest.raises(ckptstore.StructureError):
        manager.load(like={"step": 0}, fallback=True)

    def fail(self: Any, name: str, offset: int, buffer: Any) -> None:
        raise ckptstore.StorageError("the disk cannot be read")

    monkeypatch.setattr(LocalStorage, "get", fail)
    with pytest.raises(ckptstore.StorageError):
        manager.load(fallback=True)


@pytest.mark.parametrize("again", ["save", "save_async"])
def test_a_damaged_step_that_was_saved_again_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    manager, place = Manager(tmp_path), Place(tmp_path)
    for step in (1, 2):
        manager.save(step, tree(step))
    damage_data(place, 2)
    assert is_of(manager.load(fallback=True), 1)
    finish = Attempt.finish

    def slowly(attempt: Attempt) -> Any:
        time.sleep(0.5)
        return finish(attempt)

    monkeypatch.setattr(Attempt, "finish", slowly)
    manager.save_async(2, tree(2))  # replaces the damaged one, after a while
    with pytest.raises(ckptstore.AlreadyCommittedError):
        getattr(manager, again)(2, tree(3))
    assert is_of(manager.load(2), 2)


def test_fallback_is_for_the_newest(tmp_path: Path) -> None:
    with pytest.raises(ckptstore.StructureError, match="for the newest") as caught:
        Manager(tmp_path).load(3, fallback=True)
    assert caught.value.reason == "bad-argument"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("save", ["save", "save_async"])
def test_a_run_that_fell_back_saves_the_damaged_step_again(
    tmp_path: Path, damage: Any, save: str
) -> None:
    place = Place(tmp_path)
    with manage(place) as manager:
        for step in (1, 2, 3):
            manager.save(step, tree(step))
        damage(place, 3)
        state = manager.load(fallback=True)
        getattr(manager, save)(state["step"] + 1, tree(3))
    assert is_of(manage(place).load(), 3)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        manager.save(3, tree(3))
    with pytest.raises(ckptstore.AlreadyCommittedError):
        manager.save(2, tree(2))


def test_the_newest_is_replaced_by_a_newer_one_while_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer, which keeps one step, is faster than who looks at the run."""
    trainer, reader = Manager(tmp_path, keep=keep_last(1)), Manager(tmp_path)
    trainer.save(1, tree(1))
    real, steps = LocalStorage.sizes, [2, 3]

    def sizes(self: Any, names: Any, *among: int) -> Any:
        if steps:
            step = steps.pop(0)
            trainer.save(step, tree(step))
        return real(self, names)

    monkeypatch.setattr(LocalStorage, "sizes", sizes)
    for fallback in (False, True):
        assert is_of(reader.load(fallback=fallback), 3)


def test_a_run_is_not_begun_anew_because_what_was_listed_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save was under way; between two looks it is committed, and the step before it evicted."""
    place = Place(tmp_path)
    manager = manage(place)
    for step in (1, 2):
        manager.save(step, tree(step))
    manifest = place.get(f"{name_of(2)}/MANIFEST")
    place.delete(f"{name_of(2)}/MANIFEST")
    real, looks = LocalStorage.holds, list[str]()

    def holds(self: Any, name: str) -> bool:
        answer = real(self, name)
        looks.append(self.url)
        if len(looks) == 1:
            place.put(f"{name_of(2)}/MANIFEST", manifest)
            place.delete(f"{name_of(1)}/MANIFEST")  # its data is still there
        return answer

    monkeypatch.setattr(LocalStorage, "holds", holds)
    assert is_of(manager.load_or_init(lambda: tree(0)), 2)
    assert [url[-1] for url in looks] == ["2", "1", "2"]


# The wrong directory.


@pytest.mark.parametrize("step", [7, None])
def test_a_manager_of_a_checkpoint_names_the_call_to_use(place: Place, step: int | None) -> None:
    options = {"storage_options": place.options}
    ckptstore.save(place.url, tree(7), step=step, **options)
    before = place.files()
    manager = manage(place)
    calls = {
        "load": manager.load,
        "load_or_init": lambda: manager.load_or_init(lambda: tree(0)),
        "latest": manager.latest,
        "steps": manager.steps,
        "best": lambda: manager.best("loss", "min"),
        "save": lambda: manager.save(1, tree(1)),
        "save_async": lambda: manager.save_async(1, tree(1)),
    }
    for name, call in calls.items():
        with pytest.raises(ckptstore.StructureError) as caught:
            call()
        assert caught.value.reason == "is-a-checkpoint", name
        assert "ckptstore.load(url)" in str(caught.value)
        assert ("of step 7" in str(caught.value)) == (step is not None)
    assert place.files() == before


def test_a_load_of_a_run_names_the_call_to_use(place: Place) -> None:
    options: Any = {"storage_options": place.options}
    manager = manage(place)
    for step in (3, 40):
        manager.save(step, tree(step))
    for call in (ckptstore.load, ckptstore.inspect, ckptstore.verify):
        with pytest.raises(ckptstore.NotCommittedError) as caught:
            call(place.url, **options)
        assert caught.value.reason == "is-a-run"
        assert "up to step 40: Manager(url).load()" in str(caught.value)


def test_a_run_with_a_checkpoint_of_its_own_in_it_is_a_run(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    manager.save(1, tree(1))
    ckptstore.save(tmp_path, tree(9))
    manager = Manager(tmp_path)
    manager.save(2, tree(2))
    assert manager.steps() == [1, 2] and is_of(ckptstore.load(tmp_path), 9)


# Saves in the background.


def fail_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next file that is written fail."""
    real, left = LocalStorage.put, [1]

    def put(self: Any, name: str, chunks: Any, nbytes: int) -> None:
        if left:
            left.clear()
            raise ckptstore.StorageError("the disk is full")
        real(self, name, chunks, nbytes)

    monkeypatch.setattr(LocalStorage, "put", put)


CALLS: dict[str, Any] = {
    "save": lambda manager: manager.save(2, tree(2)),
    "save that is not due": lambda manager: Manager.save(manager, 3, tree(3)),
    "save_async": lambda manager: manager.save_async(2, tree(2)),
    "load": lambda manager: manager.load(),
    "load_or_init": lambda manager: manager.load_or_init(lambda: tree(0)),
    "steps": lambda manager: manager.steps(),
    "latest": lambda manager: manager.latest(),
    "best": lambda manager: manager.best("loss", "min"),
    "delete": lambda manager: manager.delete(0),
    "gc": lambda manager: manager.gc(),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_error_of_a_save_in_the_background_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    manager = Manager(tmp_path, every=2)
    manager.save(0, tree(0), metrics={"loss": 1.0})
    fail_once(monkeypatch)
    pending = manager.save_async(2, tree(2), metrics={"loss": 1.0})
    assert pending is not None
    while not pending.done():
        time.sleep(0.001)
    with pytest.raises(ckptstore.StorageError, match="the disk is full"):
        CALLS[name](manager)
    CALLS[name](manager)  # once, and then it goes on


def test_a_save_waits_for_the_one_in_the_background(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    pending = manager.save_async(1, tree(1))
    manager.save(2, tree(2))
    assert pending is not None and pending.done() and manager.steps() == [1, 2]


def test_the_end_of_a_block_waits(place: Place) -> None:
    with manage(place) as manager:
        manager.save_async(1, tree(1))
    assert is_of(manage(place).load(), 1)
    with manager:
        manager.save_async(2, tree(2))
    assert is_of(manage(place).load(), 2), "a block can be entered again"


@pytest.mark.parametrize("started", [True, False])
def test_the_end_of_a_block_waits_for_a_save_whose_call_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    real, put = threading.Thread.start, LocalStorage.put

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", real)
        if started:
            real(thread)
        raise KeyboardInterrupt

    def slow(self: LocalStorage, *args: Any) -> None:
        time.sleep(0.2)
        put(self, *args)

    monkeypatch.setattr(LocalStorage, "put", slow)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), Manager(tmp_path) as manager:
        manager.save_async(1, tree(1))
    assert Manager(tmp_path).steps() == [1] * started
    assert manager.save(2, tree(2)) is not None, "one that never was is not waited for"


def test_the_end_of_a_block_waits_for_the_save_that_any_thread_began_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, real, put = threading.Event(), background.begin, LocalStorage.put

    def begin(*args: Any, **options: Any) -> Any:
        pending = real(*args, **options)
        assert pending.step == 2 or late.wait(30)
        return pending

    def slow(self: LocalStorage, *args: Any) -> None:
        if name_of(2) in self.url:
            time.sleep(0.2)
        put(self, *args)

    monkeypatch.setattr(background, "begin", begin)
    monkeypatch.setattr(LocalStorage, "put", slow)
    with Manager(tmp_path) as manager:
        first = threading.Thread(target=manager.save_async, args=(1, tree(1)))
        first.start()
        while not Manager(tmp_path).steps():
            time.sleep(0.001)
        manager.save_async(2, tree(2))
        late.set()
        first.join()
    assert Manager(tmp_path).steps() == [1, 2]


def test_the_end_of_a_block_raises_the_error_of_its_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch)
    with pytest.raises(ckptstore.StorageError, match="full"), Manager(tmp_path) as manager:
        manager.save_async(1, tree(1))
    with manager:
        pass


def test_an_exception_in_a_block_is_not_hidden_and_the_save_is_finished(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Manager(tmp_path) as manager:
        manager.save_async(1, tree(1))
        raise ZeroDivisionError
    assert is_of(manager.load(), 1)


def test_an_exception_in_a_block_is_not_hidden_by_the_error_of_its_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch)
    with pytest.raises(ZeroDivisionError), Manager(tmp_path) as manager:
        manager.save_async(1, tree(1))
        raise ZeroDivisionError
    with pytest.raises(ckptstore.StorageError, match="full"):
        manager.steps()  # else it is told when the process ends


# Thousands of steps.


def test_thousands_of_steps_are_listed_without_reading_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path)
    manager.save(0, tree(0), metrics={"loss": 1.0})
    files = list((tmp_path / name_of(0)).iterdir())
    for step in range(1, 3000):
        (tmp_path / name_of(step)).mkdir()
        for file in files:
            os.link(file, tmp_path / name_of(step) / file.name)
    reads: list[str] = []
    real = LocalStorage.read

    def counted(self: Any, name: str, limit: int) -> bytes:
        reads.append(self.url)
        return real(self, name, limit)

    monkeypatch.setattr(LocalStorage, "read", counted)
    assert manager.steps() == list(range(3000)) and manager.latest() == 2999
    assert reads == []
    assert is_of(manager.load(), 0)
    reads.clear()
    manager = Manager(tmp_path, keep=keep_last(3000), grace=None)
    manager.save(3000, tree(3000))
    assert manager.steps() == list(range(1, 3001))
    others = {url for url in reads if name_of(3000) not in url}
    expected = {str(tmp_path / name_of(step)) for step in (0, 2999)}
    assert others == {str(tmp_path)} | expected, "of the one evicted, and the one before"


def test_a_thousand_steps_of_a_bucket_are_listed_in_a_few_requests(moto: Moto) -> None:
    with FaultProxy(moto) as proxy:
        place = BucketPlace(moto)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(place.put, [f"{name_of(step)}/MANIFEST" for step in range(1001)]))
        manager = Manager(place.url, storage_options=proxy.storage_options())
        proxy.reset()
        assert manager.steps() == list(range(1001))
        assert proxy.count() == 2, "a page of 1,000 objects each"
        proxy.reset()
        assert manager.latest() == 1000
        assert proxy.count() == 3, "two pages of names, and a look"

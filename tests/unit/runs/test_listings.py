"""Listings that do not tell the truth: from a cache, or with entries that lead nowhere."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckptstore
from ckptstore import Manager, keep_last
from ckptstore.format import names
from ckptstore.storage.local import LocalStorage
from tests.support.places import BucketPlace
from tests.support.runs import is_of, manage, name_of, tree
from tests.support.servers import Server

DEAD = names.file_name("data", "a" * 32, 0, 0)

READS: dict[str, Callable[[Manager], Any]] = {
    "load_or_init": lambda manager: manager.load_or_init(lambda: pytest.fail("began anew")),
    "load_or_init with fallback": lambda manager: manager.load_or_init(
        lambda: pytest.fail("began anew"), fallback=True
    ),
    "load": lambda manager: manager.load(),
    "load with fallback": lambda manager: manager.load(fallback=True),
    "latest": lambda manager: manager.latest(),
    "steps": lambda manager: manager.steps(),
    "best": lambda manager: manager.best("loss", "min"),
}


class Mount:
    """A mount of a network disk: the directory of the run is listed from a cache for a while.

    Time passes by `time.sleep` alone.
    """

    def __init__(self, run: Path, patch: pytest.MonkeyPatch, *, lasts: float) -> None:
        self.run, self.lasts, self.slept = run, lasts, 0.0
        self.listed = sorted(entry.name for entry in run.iterdir())
        real = LocalStorage.children

        def children(store: LocalStorage) -> Any:
            stale = store.url == str(run) and self.slept < self.lasts
            return self.listed if stale else real(store)

        patch.setattr(LocalStorage, "children", children)
        patch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


def trained(run: Path) -> Manager:
    manager = Manager(run, keep=keep_last(2))
    for step in (1, 2):
        manager.save(step, tree(step), metrics={"loss": float(step)})
    return manager


def go_on(manager: Manager) -> None:
    for step in range(3, 8):
        manager.save(step, tree(step), metrics={"loss": float(step)})


@pytest.mark.parametrize("call", READS)
@pytest.mark.parametrize("lasts", [1.0, 30.0, 89.0])
def test_a_cached_listing_of_steps_that_are_gone_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, lasts: float,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    trainer = trained(tmp_path)
    mount = Mount(tmp_path, monkeypatch, lasts=0)
    go_on(trainer)
    mount.lasts = lasts
    found = READS[call](Manager(tmp_path))
    if isinstance(found, dict):
        assert is_of(found, 7)
    else:
        assert found == {"latest": 7, "steps": [6, 7], "best": 6}[call]
    assert mount.slept == lasts
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(tmp_path) in line and "1, 2" in line


@pytest.mark.parametrize("call", READS)
@pytest.mark.parametrize("also", ["nothing", "an unfinished save", "a damaged step"])
def test_a_listing_that_stays_cached_is_an_error_and_no_run_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, also: str
) -> None:
    if also == "a damaged step" and "fallback" not in call:
        pytest.skip("it is found")
    trainer = trained(tmp_path)
    mount = Mount(tmp_path, monkeypatch, lasts=0)
    go_on(trainer)
    if also != "nothing":
        mount.listed.append(name_of(5))
        (tmp_path / name_of(5)).mkdir()
        file = DEAD if also == "an unfinished save" else "MANIFEST"
        (tmp_path / name_of(5) / file).write_bytes(b"damaged")
    mount.lasts = 1e9
    with pytest.raises(ckptstore.StorageError, match=r"1, 2.*try again later") as caught:
        READS[call](Manager(tmp_path))
    assert caught.value.reason == "stale-listing" and str(tmp_path) in str(caught.value)
    assert mount.slept == 90
    assert is_of(Manager(tmp_path).load(7), 7), "the remedy"


def test_a_cached_listing_whose_step_is_still_there_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trained(tmp_path)
    mount = Mount(tmp_path, monkeypatch, lasts=1e9)
    trainer.save(3, tree(3))
    assert is_of(Manager(tmp_path).load(), 2) and mount.slept == 0


@pytest.mark.parametrize("what", ["empty", "unfinished", "several"])
def test_unfinished_saves_are_no_reason_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for step in (1, 2) if what == "several" else (1,):
        (tmp_path / name_of(step)).mkdir()
        if what != "empty":
            (tmp_path / name_of(step) / DEAD).write_bytes(b"of a save that was killed")
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited"))
    assert Manager(tmp_path).load_or_init(lambda: "anew") == "anew"
    assert Manager(tmp_path).latest() is None


def test_steps_that_are_deleted_while_they_are_looked_at_are_no_reason_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path)
    real, left = LocalStorage.children, [2, 1]

    def children(store: LocalStorage) -> Any:
        found = real(store)
        if left:
            shutil.rmtree(tmp_path / name_of(left.pop()))
        return found

    monkeypatch.setattr(LocalStorage, "children", children)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited"))
    manager = Manager(tmp_path)
    assert manager.latest() == 2 or not left
    assert Manager(tmp_path).load_or_init(lambda: "anew") == "anew"


def test_a_bucket_never_waits(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    place = BucketPlace(moto)
    place.put(f"{name_of(1)}/{DEAD}")
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited"))
    assert manage(place).load_or_init(lambda: "anew") == "anew"


@pytest.mark.parametrize("fallback", [False, True])
def test_a_run_that_begins_says_so_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fallback: bool
) -> None:
    caplog.set_level(logging.INFO, "ckptstore")
    manager = Manager(tmp_path / "run")
    assert manager.load_or_init(lambda: tree(0), fallback=fallback)["step"] == 0
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("INFO", "ckptstore")
    assert str(tmp_path / "run") in record.getMessage() and "init()" in record.getMessage()
    caplog.clear()
    manager.save(1, tree(1))
    manager.load_or_init(lambda: tree(0), fallback=fallback)
    assert not [record for record in caplog.records if "init()" in record.getMessage()]


@pytest.mark.parametrize("call", [*READS, "gc", "made"])
@pytest.mark.parametrize("what", ["file", "below a file", "pipe", "dangling", "loop", "link"])
def test_a_run_in_the_place_of_another_thing_is_an_error_at_the_first_read(
    tmp_path: Path, what: str, call: str
) -> None:
    place = tmp_path / "run"
    (tmp_path / "file").write_text("mine")
    if what == "file":
        place.write_text("mine")
    elif what == "pipe":
        os.mkfifo(place)
    elif what in ("dangling", "loop", "link"):
        place.symlink_to({"dangling": "missing", "loop": "run", "link": "file"}[what])
    else:
        place = tmp_path / "file" / "run"
    reads = READS | {"gc": lambda manager: manager.gc(), "made": lambda manager: None}
    with pytest.raises(ckptstore.StorageError) as caught:
        reads[call](Manager(place))
    assert str(place) in str(caught.value)
    reasons = {"dangling": "dangling-link", "loop": "dangling-link"}
    assert caught.value.reason == reasons.get(what, "not-a-directory")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_that_becomes_a_file_later_is_an_error_and_does_not_begin_anew(
    tmp_path: Path,
) -> None:
    manager = trained(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("mine")
    for call in READS.values():
        with pytest.raises(ckptstore.StorageError) as caught:
            call(manager)
        assert caught.value.reason == "not-a-directory"


# Entries that lead nowhere.


def nowhere(path: Path, what: str) -> None:
    path.symlink_to({"loop": path.name, "dangling": "missing", "file": "notes"}[what])


@pytest.mark.parametrize("what", ["loop", "dangling", "file"])
@pytest.mark.parametrize("name", ["x", "latest", "step-1", "step-000000000009.bak"])
def test_a_link_that_is_no_step_and_leads_nowhere_is_ignored(
    tmp_path: Path, what: str, name: str
) -> None:
    manager = Manager(tmp_path, keep=keep_last(2))
    (tmp_path / "notes").write_text("mine")
    nowhere(tmp_path / name, what)
    assert manager.load_or_init(lambda: "anew") == "anew"
    for step in (1, 2, 3):
        manager.save(step, tree(step), metrics={"loss": float(step)})
    assert manager.steps() == [2, 3] and manager.latest() == 3 and is_of(manager.load(), 3)
    assert manager.best("loss", "min") == 2 and manager.gc(grace=0) == {}
    with pytest.raises(ckptstore.NotCommittedError) as caught:
        ckptstore.load(tmp_path)
    assert caught.value.reason == "is-a-run"
    assert os.path.islink(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_of_somebody_else_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0)
    manager = Manager(tmp_path, keep=keep_last(1))
    manager.save(1, tree(1))
    assert manager.steps() == [1]


@pytest.mark.parametrize("what", ["loop", "dangling"])
@pytest.mark.parametrize("call", [call for call in READS if "fallback" not in call])
def test_a_link_with_the_name_of_a_step_that_leads_nowhere_is_named(
    tmp_path: Path, what: str, call: str
) -> None:
    manager = trained(tmp_path)
    nowhere(tmp_path / name_of(9), what)
    with pytest.raises(ckptstore.StorageError, match=rf"{name_of(9)}.*remove it") as caught:
        READS[call](manager)
    assert caught.value.reason == "dangling-link"
    assert manager.gc(grace=0) == {}
    manager.delete(9)
    READS[call](manager)


@pytest.mark.parametrize("what", ["loop", "dangling"])
def test_a_link_that_leads_nowhere_stops_no_eviction(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = trained(tmp_path)
    nowhere(tmp_path / name_of(0), what)
    go_on(manager)
    assert sorted(os.listdir(tmp_path)) == [name_of(step) for step in (0, 6, 7)]
    assert all(name_of(0) in record.getMessage() for record in caplog.records) and caplog.records
    manager.delete(0)
    assert manager.steps() == [6, 7]


FALLBACKS = {call: read for call, read in READS.items() if "fallback" in call}


@pytest.mark.parametrize("what", ["loop", "dangling"])
@pytest.mark.parametrize("method", ["save", "save_async"])
@pytest.mark.parametrize("call", FALLBACKS)
def test_with_fallback_a_step_that_leads_nowhere_is_skipped_and_makes_room(
    tmp_path: Path, what: str, method: str, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path)
    manager = Manager(tmp_path, keep=keep_last(5))
    for step in (3, 4):
        nowhere(tmp_path / name_of(step), what)
    assert is_of(FALLBACKS[call](manager), 2) and manager.loaded_step == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    for step, record in zip((4, 3), caplog.records, strict=True):
        assert f"step {step} is damaged and skipped: " in record.getMessage()
        assert name_of(step) in record.getMessage()
    assert os.path.islink(tmp_path / name_of(3)) and os.path.islink(tmp_path / name_of(4))
    for read in (manager.latest, manager.steps, manager.load):
        with pytest.raises(ckptstore.StorageError, match="remove it"):
            read()
    save = getattr(manager, method)
    with pytest.raises(ckptstore.StorageError):
        save(3, tree(3), overwrite=False)
    assert os.path.islink(tmp_path / name_of(3))
    for step in (3, 4):
        save(step, tree(step))
    with manager:
        pass
    assert manager.steps() == [1, 2, 3, 4] and is_of(manager.load(), 4)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        save(3, tree(3))


@pytest.mark.parametrize("what", ["loop", "dangling"])
@pytest.mark.parametrize("call", FALLBACKS)
@pytest.mark.parametrize("newest", ["link", "damaged"])
def test_where_no_step_is_sound_the_error_of_the_newest_is_raised(
    tmp_path: Path, what: str, call: str, newest: str
) -> None:
    manager = Manager(tmp_path)
    link, damaged = (2, 1) if newest == "link" else (1, 2)
    manager.save(damaged, tree(damaged))
    (tmp_path / name_of(damaged) / "MANIFEST").write_bytes(b"damaged")
    nowhere(tmp_path / name_of(link), what)
    kind = ckptstore.StorageError if newest == "link" else ckptstore.CorruptError
    with pytest.raises(kind, match=rf"all 2 step\(s\) are damaged.*newest.*{name_of(2)}") as caught:
        FALLBACKS[call](manager)
    assert (caught.value.reason == "dangling-link") == (newest == "link")
    (tmp_path / name_of(damaged) / "MANIFEST").unlink()
    with pytest.raises(ckptstore.StorageError) as caught:
        FALLBACKS[call](manager)
    assert caught.value.reason == "dangling-link"


@pytest.mark.parametrize("call", FALLBACKS)
def test_with_fallback_a_link_whose_target_comes_back_is_a_step_again(
    tmp_path: Path, call: str
) -> None:
    manager = trained(tmp_path / "run")
    (tmp_path / "run" / name_of(3)).symlink_to(tmp_path / "away")
    assert is_of(FALLBACKS[call](manager), 2)
    ckptstore.save(tmp_path / "away", tree(3), step=3)
    assert is_of(FALLBACKS[call](manager), 3) and manager.steps() == [1, 2, 3]

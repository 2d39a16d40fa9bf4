"""A pinned step stays, whoever removes steps by whatever call, until it is unpinned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ckptstore
from ckptstore import Manager, keep_best, keep_last
from ckptstore.format import names
from ckptstore.format.names import PINNED
from ckptstore.runs import pinning
from tests.support import places
from tests.support.places import BucketPlace, Place
from tests.support.runs import is_of, manage, name_of, tree
from tests.support.servers import Server
from tests.support.servers.proxy import FaultProxy


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr("ckptstore.concurrency.pause", made.append)
    return made


def fill(place: Place, *steps: int, **options: Any) -> Manager:
    manager = manage(place, **options)
    for step in steps:
        manager.save(step, tree(step), metrics={"loss": step})
    return manager


def pin_file(step: int) -> str:
    return f"{name_of(step)}/{PINNED}"


def test_a_pinned_step_is_kept_from_the_rules_of_all(place: Place, pauses: list[float]) -> None:
    trainer, other = fill(place, 1, 2, keep=keep_last(2)), manage(place)
    assert other.pinned() == []
    other.pin(1), other.pin(1)
    assert other.pinned() == trainer.pinned() == [1]
    assert pauses == [pinning._SETTLE_SECONDS] * 2
    other.pin(2)
    assert len(pauses) == 2, "no rule deletes the newest"
    for step in (3, 4, 5):
        trainer.save(step, tree(step), metrics={"loss": step})
    assert trainer.steps() == [1, 2, 4, 5]
    for dry_run in (True, False):
        assert other.prune(keep_best(1, "loss", "max"), dry_run=dry_run) == [4]
    other.unpin(1), other.unpin(1)
    assert other.pinned() == [2] and other.steps() == [1, 2, 5]
    trainer.save(6, tree(6), metrics={"loss": 6})
    assert trainer.steps() == [2, 5, 6] and is_of(other.load(2), 2)


def test_a_pin_is_part_of_no_checkpoint_and_nothing_minds_it(place: Place) -> None:
    manager = fill(place, 1, 2)
    manager.pin(1)
    assert place.files(name_of(1)) >= {PINNED}
    assert manager.verify() == {1: [], 2: []} and is_of(manager.load(1), 1)
    assert manager.gc(grace=0) == {} and manager.pinned() == [1]
    manager.save(1, tree(11), overwrite=True)
    assert manager.pinned() == [1] and is_of(manager.load(1), 11), "an overwrite keeps the pin"
    place.copy(name_of(1), name_of(0))
    assert manager.pinned() == [0, 1], "a copy by hand has the pin, too"
    place.put(f"{name_of(3)}/{PINNED}")  # as an older version leaves it, which knows no pins
    assert manager.pinned() == [0, 1] and manager.unfinished() == [] and manager.latest() == 2
    manager.unpin(3)
    assert pin_file(3) not in place.files()
    assert names.is_short_lived(f"{PINNED}.{'0' * 16}.tmp") and not names.is_short_lived(PINNED)


@pytest.mark.follows("checkpoint.pins", "call unpin(step) of its Manager first")
def test_a_pinned_step_is_deleted_once_it_is_unpinned(place: Place) -> None:
    manager = fill(place, 1, 2)
    manager.pin(1)
    before = place.files()
    with pytest.raises(ckptstore.StorageError, match="call unpin") as caught:
        manager.delete(1)
    assert caught.value.reason == "pinned" and place.files() == before
    manager.unpin(1)
    manager.delete(1)
    assert manager.steps() == [2] and not any(name_of(1) in name for name in place.files())


@pytest.mark.follows("runs.rewinding", "call unpin({}) first, then rewind({})")
def test_a_run_goes_back_over_a_pinned_step_once_it_is_unpinned(place: Place) -> None:
    manager = fill(place, 1, 2, 3, 4)
    manager.pin(1), manager.pin(3)
    for dry_run in (True, False):
        with pytest.raises(ckptstore.StorageError, match="step 3 is pinned") as caught:
            manager.rewind(2, dry_run=dry_run)
        assert caught.value.reason == "pinned" and manager.steps() == [1, 2, 3, 4]
    for call in re.findall(r"unpin\(\d+\)|rewind\(\d+\)$", str(caught.value)):
        eval(f"manager.{call}", {"manager": manager})
    assert manager.steps() == [1, 2] and manager.pinned() == [1]


@pytest.mark.parametrize("call", ["pin", "unpin"])
def test_a_step_that_is_not_there_has_no_pin(call: str, place: Place) -> None:
    manager = fill(place, 1, 2)
    with pytest.raises(ckptstore.NotCommittedError, match="the nearest first: 2, 1"):
        getattr(manager, call)(3)
    with pytest.raises(ckptstore.StructureError):
        getattr(manager, call)(-1)
    assert not any(PINNED in name for name in place.files())


def test_a_pin_that_comes_too_late_is_an_error_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal has looked for a pin before, and takes the manifest after."""
    manager = fill(place, 1, 2)
    remove = f"{name_of(1)}/MANIFEST"
    monkeypatch.setattr("ckptstore.concurrency.pause", lambda seconds: place.delete(remove))
    with pytest.raises(ckptstore.NotCommittedError, match="there is no step 1"):
        manager.pin(1)
    assert pin_file(1) not in place.files() and manager.steps() == [2]


def test_a_linked_step_is_not_pinned_and_goes_whatever_its_target_is(tmp_path: Path) -> None:
    archive, run = fill(Place(tmp_path / "archive"), 1, 2), tmp_path / "run"
    archive.pin(1)
    fill(Place(run), 2)
    (run / name_of(1)).symlink_to(tmp_path / "archive" / name_of(1))
    (run / name_of(0)).symlink_to("nothing")
    manager = Manager(run)
    assert manager.pinned() == []
    for call in (manager.pin, manager.unpin):
        with pytest.raises(ckptstore.StorageError) as caught:
            call(1)
        assert caught.value.reason == "linked-step"
    (run / name_of(0)).unlink()
    assert manager.prune(keep_last(1), dry_run=True) == [1] == manager.prune(keep_last(1))
    assert archive.pinned() == [1] and is_of(archive.load(1), 1)


@places.LESS
def test_a_save_asks_for_the_pins_of_the_steps_that_it_deletes_alone(
    server: Server, proxy: FaultProxy
) -> None:
    place = BucketPlace(server)
    manager = Manager(place.url, keep=keep_last(2), storage_options=proxy.storage_options())
    asked = []
    for step in range(1, 7):
        proxy.reset()
        manager.save(step, tree(step))
        asked.append(proxy.count(target=PINNED))
        if step == 4:
            Manager(place.url, storage_options=place.options).pin(3)
    assert asked == [0, 0, 1, 1, 1, 2], "once a step that it would delete, pinned or not"
    assert manager.steps() == [3, 5, 6]

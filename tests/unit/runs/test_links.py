"""Symbolic links in the directory of a run: read as steps, and never followed by a removal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckptstore
from ckptstore import Manager, keep_best, keep_last, storage
from ckptstore.checkpoint import deletion, garbage
from ckptstore.format import names
from ckptstore.storage.local import LocalStorage
from tests.support.runs import is_of, name_of, tree

DEAD = names.file_name("data", "a" * 32, 0, 0)


class Linked:
    """A run whose step 0 is a link to a checkpoint in an archive."""

    def __init__(self, root: Path) -> None:
        self.archive, self.run = root / "archive", root / "run"
        self.step = self.run / name_of(0)
        ckptstore.save(self.archive, tree(0), step=0, metrics={"loss": 1.0})
        (self.archive / DEAD).write_bytes(b"of a save that was killed")
        self.run.mkdir()
        self.step.symlink_to(self.archive)
        self.before = self.files()

    def files(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.archive.iterdir()}

    def is_whole(self) -> bool:
        return self.files() == self.before and is_of(ckptstore.load(self.archive), 0)

    def is_gone(self) -> bool:
        return not os.path.lexists(self.step)


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    return Linked(tmp_path)


@pytest.mark.parametrize("keep", [keep_last(2), lambda steps: steps[-2:]], ids=["rule", "own"])
@pytest.mark.parametrize("background", [False, True])
def test_an_evicted_link_is_removed_and_its_target_stays(
    linked: Linked, keep: Any, background: bool
) -> None:
    with Manager(linked.run, keep=keep) as manager:
        assert manager.steps() == [0] and is_of(manager.load(), 0)
        for step in (1, 2, 3):
            (manager.save_async if background else manager.save)(step, tree(step))
    assert manager.steps() == [2, 3]
    assert linked.is_gone() and linked.is_whole()


def test_a_link_is_evicted_by_the_metrics_of_its_target(linked: Linked) -> None:
    manager = Manager(linked.run, keep=keep_best(1, "loss"))
    manager.save(1, tree(1), metrics={"loss": 2.0})
    assert manager.steps() == [0, 1] and not linked.is_gone()
    manager.save(2, tree(2), metrics={"loss": 0.5})
    assert manager.steps() == [2] and linked.is_gone() and linked.is_whole()


@pytest.mark.parametrize("relative", [False, True])
def test_a_deleted_link_is_removed_and_its_target_stays(linked: Linked, relative: bool) -> None:
    if relative:
        linked.step.unlink()
        linked.step.symlink_to("../archive")
    manager = Manager(linked.run)
    manager.delete(0)
    assert manager.steps() == [] and linked.is_gone() and linked.is_whole()
    with pytest.raises(ckptstore.NotCommittedError):
        manager.delete(0)


@pytest.mark.parametrize("target", ["nothing", "a file", "an empty directory", "itself"])
def test_a_link_to_what_is_no_checkpoint_is_deleted_alone(tmp_path: Path, target: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "a file").write_text("mine")
    (tmp_path / "an empty directory").mkdir()
    step = tmp_path / "run" / name_of(0)
    step.symlink_to(name_of(0) if target == "itself" else tmp_path / target)
    manager = Manager(tmp_path / "run")
    manager.delete(0)
    assert not os.path.lexists(step)
    assert (tmp_path / "a file").read_text() == "mine"
    assert (tmp_path / "an empty directory").is_dir()
    manager.save(0, tree(0))
    assert is_of(manager.load(0), 0)


def test_the_collector_leaves_alone_what_lies_behind_a_link(linked: Linked) -> None:
    manager = Manager(linked.run)
    (linked.run / name_of(1)).mkdir()
    (linked.run / name_of(1) / DEAD).write_bytes(b"of a save that was killed")
    assert manager.gc(grace=0) == {1: [DEAD]}
    assert linked.is_whole() and not linked.is_gone()


@pytest.mark.parametrize("method", ["save", "save_async"])
def test_an_overwrite_of_a_link_is_refused_in_the_call_and_its_remedy_works(
    linked: Linked, method: str
) -> None:
    manager = Manager(linked.run)
    save = getattr(manager, method)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        save(0, tree(9))
    with pytest.raises(ckptstore.StorageError, match=r"Manager\.delete") as caught:
        save(0, tree(9), overwrite=True)
    assert caught.value.reason == "linked-step" and str(linked.archive) in str(caught.value)
    assert linked.is_whole() and not linked.is_gone() and is_of(manager.load(0), 0)
    manager.delete(0)
    save(0, tree(9), overwrite=True)
    with manager:
        pass
    assert is_of(manager.load(0), 9) and linked.is_whole()


@pytest.mark.parametrize("target", ["empty", "garbage", "missing"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_saved_through_a_link(tmp_path: Path, target: str, overwrite: bool) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / DEAD).write_bytes(b"of a save that was killed")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name_of(1)).symlink_to(tmp_path / target)
    manager = Manager(tmp_path / "run")
    with pytest.raises(ckptstore.StorageError) as caught:
        manager.save(1, tree(1), overwrite=overwrite)
    assert caught.value.reason in ("linked-step", "dangling-link")
    assert os.listdir(tmp_path / "empty") == [] and os.listdir(tmp_path / "garbage") == [DEAD]
    assert not (tmp_path / "missing").exists()
    manager.delete(1)
    manager.save(1, tree(1), overwrite=overwrite)
    assert is_of(manager.load(), 1)


def test_a_damaged_step_behind_a_link_makes_room_and_stays_as_it_is(linked: Linked) -> None:
    manager = Manager(linked.run)
    manager.save(1, tree(1))
    (linked.run / name_of(2)).symlink_to(linked.archive)
    (data,) = (p for p in linked.archive.glob("data-*") if p.name != DEAD)
    data.write_bytes(bytes(data.stat().st_size))
    before = linked.files()
    assert is_of(manager.load(fallback=True), 1)
    manager.save(2, tree(2))
    assert is_of(manager.load(), 2) and not (linked.run / name_of(2)).is_symlink()
    assert linked.files() == before


def test_a_run_that_is_itself_a_link_is_the_one_that_you_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    manager = Manager(tmp_path / "run", keep=keep_last(1))
    for step in (1, 2):
        manager.save(step, tree(step))
    manager.save(2, tree(3), overwrite=True)
    (tmp_path / "real" / name_of(2) / DEAD).write_bytes(b"of a save that was killed")
    assert manager.gc(grace=0) == {2: [DEAD]}
    assert os.listdir(tmp_path / "real") == [name_of(2)] and is_of(manager.load(), 3)


def test_a_checkpoint_that_you_name_by_a_link_is_overwritten_in_its_place(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "real", tree(1))
    (tmp_path / "link").symlink_to("real")
    ckptstore.save(tmp_path / "link", tree(2), overwrite=True)
    assert is_of(ckptstore.load(tmp_path / "real"), 2) and (tmp_path / "link").is_symlink()
    assert len(os.listdir(tmp_path / "real")) == 2, "nothing of the save before is left"


@pytest.mark.parametrize("function", [ckptstore.save, ckptstore.save_async])
@pytest.mark.parametrize("spelling", ["{}", "{}/", "file://{}", "{}/../step-000000000000"])
def test_no_archive_is_overwritten_through_the_path_of_a_linked_step(
    linked: Linked, function: Callable[..., Any], spelling: str
) -> None:
    step = spelling.format(linked.step)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        function(step, tree(9))
    with pytest.raises(ckptstore.StorageError, match=r"Manager\.delete") as caught:
        function(step, tree(9), overwrite=True)
    assert caught.value.reason == "linked-step" and str(linked.archive) in str(caught.value)
    assert linked.is_whole() and not linked.is_gone()
    Manager(linked.run).delete(0)
    saved = function(step, tree(9), overwrite=True)
    if isinstance(saved, ckptstore.PendingSave):
        saved.result()
    assert is_of(ckptstore.load(linked.step), 9) and linked.is_whole()


@pytest.mark.parametrize("function", [ckptstore.save, ckptstore.save_async])
def test_nothing_is_saved_below_the_target_of_a_linked_step(
    tmp_path: Path, function: Callable[..., Any]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / name_of(1)).symlink_to("empty")
    with pytest.raises(ckptstore.StorageError) as caught:
        function(tmp_path / name_of(1), tree(1))
    assert caught.value.reason == "linked-step" and os.listdir(tmp_path / "empty") == []


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
@pytest.mark.parametrize("how", ["delete", "evict", "overwrite", "gc"])
def test_a_step_of_linked_files_takes_nothing_from_where_they_lead(
    linked: Linked, link: Callable[[str, str], None], how: str
) -> None:
    """As from ``cp -rs`` and ``cp -rl``."""
    linked.step.unlink()
    linked.step.mkdir()
    for path in linked.archive.iterdir():
        link(str(path), str(linked.step / path.name))
    manager = Manager(linked.run, keep=keep_last(1) if how == "evict" else None)
    assert manager.steps() == [0] and is_of(manager.load(), 0)
    if how == "gc":
        assert manager.gc(grace=0) == {0: [DEAD]}
    elif how == "overwrite":
        manager.save(0, tree(9), overwrite=True)
        assert is_of(manager.load(0), 9)
        assert {p.name for p in linked.step.iterdir() if p.is_symlink()} <= {DEAD}
    elif how == "evict":
        manager.save(1, tree(1))
    else:
        manager.delete(0)
    if how in ("evict", "delete"):
        assert 0 not in manager.steps() and os.listdir(linked.step) == [DEAD]
    assert linked.is_whole()


def swapped(
    linked: Linked, monkeypatch: pytest.MonkeyPatch, module: Any, function: str, after: bool = False
) -> list[int]:
    """Let a link to the archive take the place of the real step 0, right before a call."""
    linked.step.unlink()
    shutil.copytree(linked.archive, linked.step)
    real, done = getattr(module, function), list[int]()

    def call(*args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(1)
            linked.step.rename(linked.run / "aside")
            linked.step.symlink_to(linked.archive)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, function, call)
    return done


@pytest.mark.parametrize("function", ["delete", "discard", "committed_bytes"])
def test_a_link_that_takes_the_place_of_a_step_while_it_is_deleted_is_not_followed(
    linked: Linked, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    done = swapped(linked, monkeypatch, deletion, function)
    with pytest.raises(ckptstore.CheckpointError):
        Manager(linked.run).delete(0)
    assert done and linked.is_whole()


@pytest.mark.parametrize("function", ["collect", "_remove", "_clock"])
def test_a_link_that_takes_the_place_of_a_step_while_it_is_collected_is_not_followed(
    linked: Linked, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    done = swapped(linked, monkeypatch, garbage, function)
    with pytest.raises(ckptstore.CheckpointError):
        Manager(linked.run).gc(grace=0)
    assert done
    assert linked.before.items() <= linked.files().items()


@pytest.mark.parametrize("function", ["prepare", "swap"])
def test_a_link_that_takes_the_place_of_a_step_while_it_is_overwritten_is_not_followed(
    linked: Linked, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    done = swapped(linked, monkeypatch, LocalStorage, function)
    with pytest.raises(ckptstore.CheckpointError):
        Manager(linked.run).save(0, tree(9), overwrite=True)
    assert done and linked.before.items() <= linked.files().items()
    assert is_of(ckptstore.load(linked.archive), 0)


def test_only_a_directory_inside_another_refuses_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with storage.open(tmp_path / "link") as place:
        place.refuse_link()
        assert place.is_link("link") and not place.is_link("nothing")
    inside = storage.open(tmp_path / "link", inside=True)
    with inside as place, pytest.raises(ckptstore.StorageError):
        place.refuse_link()


@pytest.mark.parametrize("method", ["save", "save_async"])
@pytest.mark.parametrize("is_link", [False, True])
def test_a_damaged_step_is_replaced_unless_you_forbid_it(
    linked: Linked, method: str, is_link: bool
) -> None:
    manager = Manager(linked.run)
    manager.save(1, tree(1))
    step = linked.run / name_of(2)
    if is_link:
        step.symlink_to(linked.archive)
    else:
        manager.save(2, tree(2))
    (step / "MANIFEST").write_bytes(b"damaged")
    assert is_of(manager.load(fallback=True), 1)
    save = getattr(manager, method)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        save(2, tree(3), overwrite=False)
    assert (step / "MANIFEST").read_bytes() == b"damaged" and step.is_symlink() == is_link
    save(2, tree(3))
    with manager:
        pass
    assert is_of(manager.load(), 3) and not step.is_symlink()
    with pytest.raises(ckptstore.AlreadyCommittedError):
        save(2, tree(4))

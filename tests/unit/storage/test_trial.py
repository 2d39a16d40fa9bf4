"""The calls of a commit are tried once, and one writer can do without some; no mount is needed."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, keep_last
from ckptstore.storage import claims
from ckptstore.storage.local import LocalStorage
from tests.support import faults
from tests.support.faults import Faults, faulty, tree, which

ASSUMED: Any = {"ckptstore": {"assume_atomic": True}}


class Lacking(Faults):
    """A disk without hard links, without a rename that replaces nothing, and without locks."""

    def link(self, *_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    @staticmethod
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


class Lockless(Faults):
    flock = staticmethod(Lacking.flock)


@pytest.fixture(autouse=True)
def no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptstore.storage.posix._RENAME_NOREPLACE", 1 << 30)  # EINVAL


@pytest.fixture
def lacking() -> Iterator[Lacking]:
    with faulty(Lacking(), known=False) as disk:
        assert isinstance(disk, Lacking)
        yield disk


def remedy(error: ckptstore.CheckpointError) -> dict[str, Any]:
    """Return the arguments that a message says to pass."""
    (text,) = re.findall(r"pass (storage_options=\{.*\}\})", str(error))
    arguments: dict[str, Any] = eval(f"dict({text})")
    return arguments


def changes(disk: Faults) -> list[tuple[str, str]]:
    """Return the calls that change something, and reads of MANIFEST, of all after the trial."""
    names = {"link", "replace", "renameat2", "flock"}
    calls = [(name, re.sub(r"[0-9a-f]{16,}", "*", path)) for name, path in disk.log]
    last = max([at for at, (_, path) in enumerate(calls) if path.startswith("PROBE-")], default=-1)
    return [c for c in calls[last + 1 :] if c[0] in names or c == ("open", "MANIFEST")]


@pytest.mark.follows(
    "storage.mounts",
    "save to a new place, or, if only one process ever writes there, pass {}",
)
def test_an_overwrite_without_locks_is_refused_before_any_data_and_the_remedy_works(
    tmp_path: Path,
) -> None:
    ckptstore.save(tmp_path / "a", tree("old"))
    before = sorted(os.listdir(tmp_path / "a"))
    with faulty(Lockless(), known=False) as disk:
        with pytest.raises(ckptstore.StorageError, match="has no locks") as caught:
            ckptstore.save(tmp_path / "a", tree("new"), overwrite=True)
        assert caught.value.reason == "not-supported"
        assert sorted(os.listdir(tmp_path / "a")) == before and which(tmp_path / "a") == "old"
        assert not [path for name, path in disk.log if name == "write"]
        ckptstore.save(tmp_path / "a", tree("new"), overwrite=True, **remedy(caught.value))
        assert which(tmp_path / "a") == "new"
        ckptstore.save(tmp_path / "b", tree("new"))  # save to a new place


def test_a_disk_that_was_refused_is_tried_again(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, tree("old"))
    with faulty(Lockless(), known=False) as disk:
        with pytest.raises(ckptstore.StorageError, match="has no locks"):
            ckptstore.save(tmp_path, tree("new"), overwrite=True)
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr("ckptstore.storage.mounts.fcntl.flock", Faults.flock)
            patch.setattr("ckptstore.storage.local.fcntl.flock", Faults.flock)
            ckptstore.save(tmp_path, tree("new"), overwrite=True)
        assert disk.log and which(tmp_path) == "new"


@pytest.mark.follows(
    "storage.posix",
    "save to a new place, or, if only one process ever writes there, pass {}",
)
def test_a_delete_without_locks_names_the_option_which_works(tmp_path: Path) -> None:
    with faulty(Lockless(), known=False):
        manager = Manager(tmp_path)
        manager.save(1, {"a": 1})
        with pytest.raises(
            ckptstore.StorageError, match="neither an overwrite nor a del"
        ) as caught:
            manager.delete(1)
        Manager(tmp_path, **remedy(caught.value)).delete(1)
        assert manager.steps() == []


def test_the_disk_is_tried_once_a_process_above_the_step_and_before_the_data(
    tmp_path: Path,
) -> None:
    with faulty(Faults(), known=False) as disk:
        manager = Manager(tmp_path / "run")
        manager.save(1, {"a": np.ones(3)})
        probes = [at for at, (_, path) in enumerate(disk.log) if path.startswith("PROBE-")]
        data = [at for at, (_, path) in enumerate(disk.log) if path.startswith("data-")]
        assert probes and max(probes) < min(data)
        assert sorted(os.listdir(tmp_path / "run")) == [f"step-{1:012}"]
        manager.save(2, {"a": np.ones(3)})
        assert len([1 for _, path in disk.log if path.startswith("PROBE-")]) == len(probes)


def test_a_create_of_one_writer_looks_then_renames_then_reads_back(
    tmp_path: Path, lacking: Lacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    real = os.path.lexists

    def lexists(path: Any) -> bool:
        if str(path).endswith("MANIFEST"):
            looked.append(len(lacking.log))
        return real(path)

    monkeypatch.setattr(os.path, "lexists", lexists)
    ckptstore.save(tmp_path / "a", tree("new"), storage_options=ASSUMED)
    assert changes(lacking)[-2:] == [("replace", "MANIFEST"), ("open", "MANIFEST")]
    (at,) = [at for at, call in enumerate(lacking.log) if call == ("replace", "MANIFEST")]
    assert looked == [at]
    assert which(tmp_path / "a") == "new"


def test_an_overwrite_of_one_writer_compares_and_reads_back(
    tmp_path: Path, lacking: Lacking
) -> None:
    ckptstore.save(tmp_path / "a", tree("old"), storage_options=ASSUMED)
    lacking.log.clear()
    ckptstore.save(tmp_path / "a", tree("new"), overwrite=True, storage_options=ASSUMED)
    read = ("open", "MANIFEST")
    assert changes(lacking) == [read, read, ("replace", "MANIFEST"), read]
    assert which(tmp_path / "a") == "new"
    with pytest.raises(ckptstore.AlreadyCommittedError):
        ckptstore.save(tmp_path / "a", tree("next"), storage_options=ASSUMED)


def test_an_overwrite_of_one_writer_refuses_a_manifest_that_it_has_not_read(
    tmp_path: Path, lacking: Lacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, real = tmp_path / "a", LocalStorage.swap
    ckptstore.save(place, tree("old"), storage_options=ASSUMED)

    def swap(self: LocalStorage, *args: Any) -> None:
        monkeypatch.setattr(LocalStorage, "swap", real)
        ckptstore.save(place, tree("next"), overwrite=True, storage_options=ASSUMED)
        real(self, *args)

    monkeypatch.setattr(LocalStorage, "swap", swap)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        ckptstore.save(place, tree("new"), overwrite=True, storage_options=ASSUMED)
    assert which(place) == "next" and len(os.listdir(place)) == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_writer_that_was_replaced_before_it_read_back_is_told(
    tmp_path: Path, lacking: Lacking, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    place, other = tmp_path / "a", tmp_path / "other"
    ckptstore.save(other, tree("next"), storage_options=ASSUMED)
    if overwrite:
        ckptstore.save(place, tree("old"), storage_options=ASSUMED)
    real = claims.read_back

    def read_back(target: str, data: bytes) -> None:
        for file in other.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        real(target, data)

    monkeypatch.setattr(claims, "read_back", read_back)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        ckptstore.save(place, tree("new"), overwrite=overwrite, storage_options=ASSUMED)
    assert which(place) == "next"


@pytest.mark.follows(
    "storage.claims",
    "check the mount, then load the checkpoint to see which save it holds",
)
def test_a_manifest_that_cannot_be_read_back_is_of_unknown_outcome(
    tmp_path: Path, lacking: Lacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def replace(source: str, target: str) -> None:
        real(source, target if not target.endswith("MANIFEST") else f"{target}.late")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ckptstore.OutcomeUnknownError, match="could not be read back"):
        ckptstore.save(tmp_path / "a", tree("new"), storage_options=ASSUMED)
    (tmp_path / "a" / "MANIFEST.late").rename(tmp_path / "a" / "MANIFEST")
    assert which(tmp_path / "a") == "new"  # nothing was deleted: load it to see


def test_a_kill_at_every_call_of_one_writer_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Of a call that raises out of everything, nothing after it is done: as if killed there."""

    class Killed(BaseException):
        pass

    def act(*_: Any) -> None:
        disk.act = dead
        raise Killed

    def dead(*_: Any) -> None:
        raise Killed

    class Dying(Lacking):
        def wrap(self, name: str, plain: Any) -> Any:
            call = super().wrap(name, plain)

            def alive(*args: Any, **named: Any) -> Any:
                if self.act is dead and name in faults.CHANGES:
                    raise Killed
                return call(*args, **named)

            return alive

    for overwrite in (False, True):
        for at in range(200):
            place = tmp_path / f"{overwrite}-{at}" / "a"
            place.parent.mkdir()
            with faulty(Lacking(), known=False):
                if overwrite:
                    ckptstore.save(place, tree("old"), storage_options=ASSUMED)
            disk = Dying(at, act)
            try:
                with faulty(disk, known=False):
                    ckptstore.save(place, tree("new"), overwrite=overwrite, storage_options=ASSUMED)
            except Killed:
                assert which(place) in ("old" if overwrite else None, "new"), (overwrite, at)
                ckptstore.save(place, tree("next"), overwrite=True)
                assert which(place) == "next"
            else:
                assert at > 15 and which(place) == "new"
                break


def test_an_overwrite_that_dies_where_a_rename_removes_first_is_got_back_by_a_rename(
    tmp_path: Path,
) -> None:
    class Killed(BaseException):
        pass

    class InTwoSteps(Lacking):
        dead = False

        def replace(self, source: str, target: str) -> None:
            os.unlink(target)
            self.dead = True
            raise Killed

        def unlink(self, path: str, **more: Any) -> None:
            if self.dead:
                raise Killed
            os.unlink(path, **more)

    place = tmp_path / "a"
    ckptstore.save(place, tree("old"))
    disk = InTwoSteps()
    with faulty(disk, known=False), pytest.raises(Killed):
        ckptstore.save(place, tree("new"), overwrite=True, storage_options=ASSUMED)
    assert which(place) is None
    (temporary,) = place.glob("MANIFEST.*.tmp")
    temporary.rename(place / "MANIFEST")
    assert which(place) == "new"


def test_a_disk_that_has_all_calls_is_used_as_ever(tmp_path: Path) -> None:
    logs = []
    for more in ({}, {"storage_options": ASSUMED}):
        with faulty(Faults(), known=False) as disk:
            ckptstore.save(tmp_path / f"a{len(logs)}", {"a": np.ones(3)}, **more)
            ckptstore.save(tmp_path / f"a{len(logs)}", {"a": 2}, overwrite=True, **more)
            manager = Manager(tmp_path / f"run{len(logs)}", **more)
            for step in (1, 2):
                manager.save(step, {"step": step, "w": np.zeros(200_000)})
            logs.append(changes(disk))
            shared = (tmp_path / f"run{len(logs) - 1}").glob("step-*/data-*")
            assert 2 in {file.stat().st_nlink for file in shared}
    assert [name for name, _ in logs[0]] == [name for name, _ in logs[1]]
    assert {"link", "flock", "replace"} <= {name for name, _ in logs[1]}


def test_one_writer_evicts_collects_and_deletes_without_locks(
    tmp_path: Path, lacking: Lacking, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(tmp_path, keep=keep_last(1), storage_options=ASSUMED)
    for step in (1, 2, 3):
        manager.save(step, {"step": step})
    (tmp_path / f"step-{3:012}" / f"data-{'0' * 32}-0-0.bin").write_bytes(b"left")
    assert manager.steps() == [3] and len(manager.gc(grace=0)[3]) == 1
    manager.delete(3)
    assert manager.steps() == [] and os.listdir(tmp_path) == []
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


def test_a_collection_removes_what_a_killed_trial_left_in_the_run(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    manager.save(1, {"a": 1})
    (tmp_path / f"PROBE-{'0' * 32}").touch()
    (tmp_path / "PROBE-mine").touch()
    manager.gc(grace=3600)
    manager.gc(grace=0, dry_run=True)
    assert len(list(tmp_path.glob("PROBE-*"))) == 2
    manager.gc(grace=0)
    assert [path.name for path in tmp_path.glob("PROBE-*")] == ["PROBE-mine"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE])
def test_an_error_of_the_moment_says_nothing_about_the_disk(tmp_path: Path, code: int) -> None:
    class Full(Faults):
        def link(self, *_: Any) -> None:
            raise OSError(code, os.strerror(code))

    with (
        faulty(Full(), known=False),
        pytest.raises(ckptstore.StorageError, match=os.strerror(code)) as caught,
    ):
        ckptstore.save(tmp_path / "a", {"a": 1})
    assert caught.value.reason != "not-atomic" and os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [1, "yes", None])
def test_an_option_of_ours_with_another_value_is_refused_on_a_path(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(ckptstore.StorageError, match="expected True or False") as caught:
        ckptstore.save(tmp_path, {}, storage_options={"ckptstore": {"assume_atomic": value}})
    assert caught.value.reason == "bad-options"
    for call in (ckptstore.save, lambda url, _, **more: ckptstore.load(url, **more)):
        call(tmp_path, {}, storage_options={"ckptstore": {"timeout": 5}})

"""The order of writes, and who wins: the invariants of docs/commit.md on a disk without faults."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import storage
from ckptstore.checkpoint import commit, deletion, manifest_file
from ckptstore.checkpoint import snapshot as snapshots
from ckptstore.checkpoint.snapshot import Snapshot
from ckptstore.format import manifest, names
from ckptstore.saving import placement
from ckptstore.storage import proof
from ckptstore.storage.clients.base import ABSENT
from ckptstore.storage.clients.memory import MemoryClient
from ckptstore.storage.local import LocalStorage
from tests.support import DOCS, TESTS, faults
from tests.support.compare import differences
from tests.support.faults import NEW, NEXT, OLD, Faults, Scenario, tree, which


def files(url: Path) -> set[str]:
    return {path.name for path in url.iterdir()}


def attempts(url: Path) -> set[str | None]:
    return {names.attempt_of(path.name) for path in url.iterdir()} - {None}


def once(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[..., None]) -> None:
    """Let something happen just before the first call of a method of LocalStorage."""
    real = getattr(LocalStorage, name)

    def call(self: LocalStorage, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(LocalStorage, name, real)
        before(self, *args, **kwargs)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LocalStorage, name, call)


def order(log: list[tuple[str, str]]) -> list[str]:
    """Return the calls that change the disk, with the random parts of the names cut out."""
    out = []
    for call, name in log:
        if call in faults.CHANGES and call != "open":
            kind = "tmp" if name.endswith(".tmp") else name.split("-")[0]
            out.append(f"{call} {kind}")
    return out


def test_create_writes_in_the_order_of_docs_commit(tmp_path: Path) -> None:
    scenario = Scenario("create-deep", tmp_path)
    assert order(scenario.calls()) == [
        "mkdir run",
        "fsync at",
        "mkdir step",
        "fsync run",
        "write data",
        "fsync data",
        "fsync step",
        "write tmp",
        "fsync tmp",
        "link MANIFEST",
        "unlink tmp",
        "fsync step",
    ]


def test_overwrite_writes_in_the_order_of_docs_commit(tmp_path: Path) -> None:
    scenario = Scenario("overwrite", tmp_path)
    log = scenario.calls()
    assert order(log) == [
        "fsync at",
        "write data",
        "fsync data",
        "fsync ckpt",
        "write tmp",
        "fsync tmp",
        "replace MANIFEST",
        "unlink tmp",
        "fsync ckpt",
        "unlink data",
    ]
    locked = [name for name, _ in log]
    first, last = (i for i, name in enumerate(locked) if name == "flock")
    assert locked[first:last] == ["flock", "open", "fstat", "read", "read", "close", "replace"]


@pytest.mark.parametrize("kind", ["create", "overwrite"])
def test_a_save_looks_in_the_order_of_docs_commit(kind: str, tmp_path: Path) -> None:
    """It reads MANIFEST first, and lists the directory before and after the commit."""
    log = Scenario(kind, tmp_path).calls()
    lists = [at for at, (call, _) in enumerate(log) if call == "scandir"]
    data = [at for at, (_, name) in enumerate(log) if name.startswith("data-")]
    temporary = [at for at, (_, name) in enumerate(log) if name.endswith(".tmp")]
    commits = log.index(("replace" if kind == "overwrite" else "link", "MANIFEST"))
    assert log.index(("open", "MANIFEST")) < data[0]
    written = max(at for at in data if at < temporary[0])
    assert [at for at in lists if written < at < temporary[0]]
    assert [at for at in lists if at > commits]
    assert kind == "create" or max(lists) < data[-1], "the old data goes last"


def test_requests_go_to_a_bucket_in_the_order_of_docs_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, log = f"memory://{os.urandom(8).hex()}/ckpt", list[str]()

    def note(method: str) -> None:
        real = getattr(MemoryClient, method)

        def call(self: MemoryClient, key: str, *args: Any, **named: Any) -> Any:
            condition = {"put": args[1:2], "delete": args[:1]}.get(method) or (None,)
            name = key.rpartition("/")[2].partition("-")[0]
            how = {None: "", ABSENT: " if absent"}.get(condition[0], " if it is")
            log.append(f"{method} {name}{how}".strip())
            return real(self, key, *args, **named)

        monkeypatch.setattr(MemoryClient, method, call)

    for method in ("read", "put", "page", "delete"):
        note(method)
    monkeypatch.setattr(proof, "_proven", {})
    ckptstore.save(url, tree(OLD))
    assert log == [
        "read MANIFEST",
        *("page", "put PROBE if absent", "put PROBE if absent", "put PROBE if it is"),
        *("read PROBE", "put PROBE if it is", "delete PROBE"),
        "put data",
        "page",
        "put MANIFEST if absent",
        "page",
    ]
    log.clear()
    ckptstore.save(url, tree(NEW), overwrite=True)
    assert log == [
        "read MANIFEST",
        "put data",
        "page",
        *("read MANIFEST", "put MANIFEST if it is"),
        "page",
        *("page", "delete data"),
    ]
    assert ckptstore.load(url)["who"] == NEW


def test_the_index_file_is_written_and_synced_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "FILE_NBYTES", placement.FILE_NBYTES)
    monkeypatch.setattr(manifest, "MANIFEST_MAX_NBYTES", manifest.MANIFEST_MAX_NBYTES)
    calls = order(Scenario("create-spread", tmp_path).calls())
    assert calls.count("fsync data") == 3 and calls.count("fsync index") == 1
    synced = calls.index("fsync ckpt")
    last = max(i for i, call in enumerate(calls) if call in ("fsync data", "fsync index"))
    assert last < synced < calls.index("write tmp") < calls.index("link MANIFEST")


def test_a_create_where_a_checkpoint_is_touches_nothing(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    log = Faults()
    with faults.faulty(log), pytest.raises(ckptstore.AlreadyCommittedError, match="overwrite=True"):
        ckptstore.save(tmp_path, tree(NEW))
    assert not [call for call in order(log.log) if call]
    assert which(tmp_path) == OLD


def test_a_create_that_loses_leaves_only_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, "create", lambda *_: ckptstore.save(tmp_path, tree(OLD)))
    with pytest.raises(ckptstore.AlreadyCommittedError, match="committed there first"):
        ckptstore.save(tmp_path, tree(NEW))
    assert which(tmp_path) == OLD and len(files(tmp_path)) == 2


def test_an_overwrite_that_loses_leaves_only_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    once(monkeypatch, "swap", lambda *_: ckptstore.save(tmp_path, tree(NEXT), overwrite=True))
    with pytest.raises(ckptstore.AlreadyCommittedError):
        ckptstore.save(tmp_path, tree(NEW), overwrite=True)
    assert which(tmp_path) == NEXT and len(files(tmp_path)) == 2


def test_an_overwrite_removes_only_the_attempt_that_it_replaced(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    theirs = names.file_name("data", "a" * 32, 0, 0)  # of a save that still goes on
    for name in (theirs, "notes.txt", "MANIFEST.0123.tmp"):
        (tmp_path / name).write_text("theirs")
    ckptstore.save(tmp_path, tree(NEW), overwrite=True)
    assert which(tmp_path) == NEW
    assert {theirs, "notes.txt", "MANIFEST.0123.tmp"} < files(tmp_path)
    assert len(files(tmp_path)) == 5


@pytest.mark.parametrize("call", ["overwrite", "delete"])
def test_a_file_that_a_listing_fails_to_show_is_removed_with_its_checkpoint(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "FILE_NBYTES", 1000)
    url = tmp_path / "here"
    ckptstore.save(url, tree(OLD))
    (old,) = attempts(url)
    real = LocalStorage.list

    def list_(self: LocalStorage, *args: Any) -> dict[str, int]:
        found = real(self, *args)
        missed = min((name for name in found if names.attempt_of(name) == old), default=None)
        return {name: size for name, size in found.items() if name != missed}

    monkeypatch.setattr(LocalStorage, "list", list_)
    if call == "overwrite":
        ckptstore.save(url, tree(NEW), overwrite=True)
        assert old not in attempts(url) and which(url) == NEW
    else:
        with storage.open(str(url)) as store:
            deletion.delete(store)
        assert not url.exists() or files(url) == set()


def test_an_overwrite_of_what_was_deleted_meanwhile_creates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    (old,) = attempts(tmp_path)
    once(monkeypatch, "swap", lambda self, *_: self.delete("MANIFEST"))
    ckptstore.save(tmp_path, tree(NEW), overwrite=True)
    assert which(tmp_path) == NEW
    assert old in attempts(tmp_path), "it replaced nothing, so it removes nothing"


def test_a_manifest_that_is_damaged_can_be_overwritten(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    for damaged in (b"", b"\x94\xa9ckptstore", (tmp_path / "MANIFEST").read_bytes()[:-1]):
        (tmp_path / "MANIFEST").write_bytes(damaged)
        with pytest.raises(ckptstore.AlreadyCommittedError, match="unreadable"):
            ckptstore.save(tmp_path, tree(NEW))
        ckptstore.save(tmp_path, tree(NEW), overwrite=True)
        assert which(tmp_path) == NEW


def test_a_commit_that_meets_a_file_which_vanishes_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, met = LocalStorage.create, []

    def create(self: LocalStorage, name: str, data: bytes) -> None:
        met.append(name)
        if len(met) < 3:
            raise FileExistsError
        real(self, name, data)

    monkeypatch.setattr(LocalStorage, "create", create)
    ckptstore.save(tmp_path, tree(NEW))
    assert which(tmp_path) == NEW and len(met) == 3


def test_a_commit_that_always_meets_a_file_nobody_sees_is_of_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(self: LocalStorage, name: str, data: bytes) -> None:
        raise FileExistsError

    monkeypatch.setattr(LocalStorage, "create", create)
    with pytest.raises(ckptstore.OutcomeUnknownError, match="nothing was deleted"):
        ckptstore.save(tmp_path, tree(NEW))
    assert len(attempts(tmp_path)) == 1


def mark(self: LocalStorage, *_: Any) -> None:
    """What a collector does that takes the only uncommitted attempt for a dead one."""
    committed = manifest_file.attempt_of(commit.current(self))
    (attempt,) = {names.attempt_of(name) for name in self.list()} - {None, committed}
    Path(self.url, f"VOID-{attempt}").touch()


@pytest.mark.parametrize("before", [None, OLD])
def test_a_save_that_is_marked_before_its_commit_gives_up(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before:
        ckptstore.save(tmp_path, tree(before))
    once(monkeypatch, "list", lambda self: monkeypatch.undo() or mark(self))
    with pytest.raises(ckptstore.StorageError, match="garbage collector") as caught:
        ckptstore.save(tmp_path, tree(NEW), overwrite=True)
    assert caught.value.reason == "collected"
    assert which(tmp_path) == before
    assert len(attempts(tmp_path)) == (1 if before else 0)


@pytest.mark.parametrize("taken_back", [False, True])
@pytest.mark.parametrize("before", [None, OLD])
def test_a_save_that_is_marked_during_its_commit_withdraws(
    before: str | None, taken_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the collector sees the commit and takes its mark back."""
    if before:
        ckptstore.save(tmp_path, tree(before))
    once(monkeypatch, "swap" if before else "create", mark)
    withdraw = commit._withdraw

    def and_take_back(*args: Any) -> None:
        withdraw(*args)
        if taken_back:
            next(tmp_path.glob("VOID-*")).unlink()

    monkeypatch.setattr(commit, "_withdraw", and_take_back)
    with pytest.raises(ckptstore.StorageError, match="garbage collector"):
        ckptstore.save(tmp_path, tree(NEW), overwrite=True)
    assert which(tmp_path) == before
    assert len(attempts(tmp_path)) == (1 if before else 0)


def test_a_withdrawal_does_not_bring_back_what_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    old = files(tmp_path)

    def delete_and_mark(self: LocalStorage, *_: Any) -> None:
        mark(self)
        for name in sorted(old):
            self.delete(name)

    once(monkeypatch, "swap", delete_and_mark)
    with pytest.raises(ckptstore.StorageError, match="garbage collector"):
        ckptstore.save(tmp_path, tree(NEW), overwrite=True)
    assert which(tmp_path) is None


def test_a_withdrawal_leaves_a_later_overwrite_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    once(monkeypatch, "swap", mark)
    real = commit._withdraw

    def overtaken(*args: Any) -> None:
        monkeypatch.setattr(commit, "_withdraw", real)
        ckptstore.save(tmp_path, tree(NEXT), overwrite=True)
        real(*args)

    monkeypatch.setattr(commit, "_withdraw", overtaken)
    with pytest.raises(ckptstore.StorageError, match="garbage collector"):
        ckptstore.save(tmp_path, tree(NEW), overwrite=True)
    assert which(tmp_path) == NEXT


def test_a_reader_below_which_the_files_change_reads_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    once(monkeypatch, "sizes", lambda *_: ckptstore.save(tmp_path, tree(NEW), overwrite=True))
    assert which(tmp_path) == NEW


def test_a_reader_of_open_files_reads_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    once(monkeypatch, "get", lambda *_: ckptstore.save(tmp_path, tree(NEW), overwrite=True))
    assert ckptstore.load(tmp_path)["who"] == OLD
    assert which(tmp_path) == NEW


def test_a_reader_with_more_files_than_it_keeps_open_reads_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = LocalStorage.sizes, []

    def sizes(self: LocalStorage, names: list[str], *among: int) -> Any:
        found = real(self, names)
        asked.append(len(found))
        if len(asked) == 1:
            ckptstore.save(tmp_path, tree(NEW), overwrite=True)
        return found

    monkeypatch.setattr("ckptstore.storage.local._HELD_FILES", 1)
    monkeypatch.setattr(placement, "FILE_NBYTES", 5000)
    ckptstore.save(tmp_path, tree(OLD))
    monkeypatch.setattr(LocalStorage, "sizes", sizes)
    assert ckptstore.load(tmp_path)["who"] == NEW
    assert asked == [3, 3]


def test_a_reader_below_which_all_is_deleted_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "a", tree(OLD))
    once(monkeypatch, "sizes", lambda *_: shutil.rmtree(tmp_path / "a"))
    with pytest.raises(ckptstore.NotCommittedError):
        ckptstore.load(tmp_path / "a")


def test_a_reader_that_is_overtaken_for_ever_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    real = LocalStorage.sizes

    def sizes(self: LocalStorage, names: list[str], *among: int) -> Any:
        ckptstore.save(tmp_path, {"a": np.ones(1)}, overwrite=True)
        return real(self, names)

    monkeypatch.setattr(snapshots, "_READS", 5)
    monkeypatch.setattr(LocalStorage, "sizes", sizes)
    with pytest.raises(ckptstore.StorageError, match="overwritten 5 times") as caught:
        ckptstore.load(tmp_path)
    assert caught.value.reason == "overwritten"


def test_a_file_that_is_missing_or_short_is_corrupt(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    (data,) = tmp_path.glob("data-*")
    content = data.read_bytes()
    for damage, reason in ((content[:-1], "file-size"), (content + b"\0", "file-size")):
        data.write_bytes(damage)
        for call in (ckptstore.load, ckptstore.inspect):
            with pytest.raises(ckptstore.CorruptError, match=data.name) as caught:
                call(tmp_path)
            assert caught.value.reason == reason
    data.unlink()
    with pytest.raises(ckptstore.CorruptError, match=r"is missing; .* restore") as caught:
        ckptstore.load(tmp_path)
    assert caught.value.reason == "missing-file"
    assert [problem.reason for problem in ckptstore.verify(tmp_path)] == ["missing-file"]


def test_a_file_that_shrinks_while_it_is_read_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    (data,) = tmp_path.glob("data-*")
    once(monkeypatch, "get", lambda *_: data.write_bytes(b""))
    with pytest.raises(ckptstore.CorruptError, match="has 0 bytes") as caught:
        ckptstore.load(tmp_path)
    assert caught.value.reason == "file-size"


def test_an_error_of_the_callers_code_is_not_taken_for_a_missing_file(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, tree(OLD))

    def use(snapshot: Snapshot) -> None:
        raise FileNotFoundError("a user's own file")

    with storage.open(tmp_path) as store, pytest.raises(FileNotFoundError, match="user's own"):
        snapshots.read_snapshot(store, use)


def test_what_is_no_checkpoint_is_told_from_an_unfinished_one(tmp_path: Path) -> None:
    with pytest.raises(ckptstore.NotCommittedError, match="check the path") as caught:
        ckptstore.load(tmp_path / "nothing")
    assert caught.value.reason == "no-manifest"
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ckptstore.NotCommittedError, match="it holds other files"):
        ckptstore.load(tmp_path)
    (tmp_path / names.file_name("data", "a" * 32, 0, 0)).touch()
    with pytest.raises(ckptstore.NotCommittedError, match="1 unfinished save") as caught:
        ckptstore.verify(tmp_path)
    assert caught.value.reason == "unfinished"
    ckptstore.save(tmp_path, tree(NEW))
    assert which(tmp_path) == NEW


def test_a_copied_checkpoint_is_a_checkpoint(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "a", tree(OLD))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    assert which(tmp_path / "b") == OLD


def test_every_invariant_of_docs_commit_names_tests_that_exist() -> None:
    text = (DOCS / "commit.md").read_text()
    invariants = text.split("## Invariants")[1]
    named = re.findall(r"`(test_\w+\.py)::(?:(Test\w+)::)?(test_\w+)`", invariants)
    assert len(named) >= 20
    for file, holder, name in named:
        (path,) = TESTS.rglob(file)
        sources = [path.read_text()]
        if holder:
            sources.append((TESTS / "support" / "storage_contract.py").read_text())
        assert any(f"def {name}(" in source for source in sources), f"{file}::{name}"
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", invariants, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 10


def test_an_interrupt_before_the_commit_removes_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    once(monkeypatch, "list", interrupt)  # step 6
    with pytest.raises(KeyboardInterrupt):
        ckptstore.save(tmp_path, tree(NEW))
    assert files(tmp_path) == set()


def test_an_interrupt_at_the_link_leaves_garbage_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.link", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ckptstore.save(tmp_path, tree(NEW))
    assert all(name.startswith("data-") for name in files(tmp_path))
    with pytest.raises(ckptstore.NotCommittedError):
        ckptstore.load(tmp_path)
    ckptstore.save(tmp_path, tree(NEXT))
    assert which(tmp_path) == NEXT


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_manifest_too_large_for_one_is_refused_before_anything_is_written(
    overwrite: bool, tmp_path: Path
) -> None:
    foreign = b"x" * (3 << 20)
    (tmp_path / "MANIFEST").write_bytes(foreign)
    with pytest.raises(
        ckptstore.StorageError, match=r"at least 1048577 bytes.*remove it"
    ) as caught:
        ckptstore.save(tmp_path, tree(NEW), overwrite=overwrite)
    assert caught.value.reason == "foreign-manifest"
    assert files(tmp_path) == {"MANIFEST"}
    assert (tmp_path / "MANIFEST").read_bytes() == foreign
    (tmp_path / "MANIFEST").unlink()
    ckptstore.save(tmp_path, tree(NEW), overwrite=overwrite)
    assert which(tmp_path) == NEW


# A delete of the same place, which removes the directory while it is empty.

SMALL = {"step": 2}
LARGE = {"step": 2, "x": np.arange(5000.0), "y": np.arange(5000)}


@pytest.mark.parametrize("tree", [SMALL, LARGE], ids=["no arrays", "arrays"])
def test_a_save_whose_empty_directory_goes_again_and_again_creates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Any
) -> None:
    """Two Managers each have a collector that removes empty directories."""
    manager, met, real = ckptstore.Manager(tmp_path), list[str](), os.mkdir
    manager.save(1, {"step": 1})

    def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
        real(path, *args, **kwargs)
        if len(met) < 4 and str(path).endswith("step-000000000002"):
            met.append(str(path))
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    manager.save(2, tree)
    assert len(met) == 4
    monkeypatch.undo()
    assert manager.steps() == [1, 2] and ckptstore.verify(tmp_path / "step-000000000002") == []


@pytest.mark.parametrize("tree", [SMALL, LARGE], ids=["no arrays", "arrays"])
@pytest.mark.parametrize("before", ["put", "flush", "list", "create", "mkdir"])
@pytest.mark.parametrize("method", ["save", "save_async"])
def test_a_save_that_meets_a_delete_before_its_first_file_creates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Any, before: str, method: str
) -> None:
    manager, met = ckptstore.Manager(tmp_path), list[str]()
    manager.save(1, {"step": 1})
    owner = os if before == "mkdir" else LocalStorage
    real = getattr(owner, before)

    def call(*args: Any, **kwargs: Any) -> Any:
        path = args[0] if before == "mkdir" else args[0].url
        if met or not str(path).endswith("step-000000000002"):
            return real(*args, **kwargs)
        if before == "mkdir":
            real(*args, **kwargs)
        met.append(before)
        with contextlib.suppress(OSError):  # as `Storage.remove`: only where it is empty
            os.rmdir(path)
        return None if before == "mkdir" else real(*args, **kwargs)

    monkeypatch.setattr(owner, before, call)
    getattr(manager, method)(2, tree)
    with manager:
        pass
    assert met or (before == "put" and tree is SMALL)
    monkeypatch.undo()
    assert manager.steps() == [1, 2] and ckptstore.verify(tmp_path / "step-000000000002") == []
    assert differences(manager.load(2), tree) == []


@pytest.mark.parametrize("tree", [SMALL, LARGE], ids=["no arrays", "arrays"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_overwrite_that_meets_a_delete_before_its_first_file_creates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Any, inside: bool
) -> None:
    place, real = tmp_path / "step-000000000002", LocalStorage.prepare

    def prepare(self: LocalStorage, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        monkeypatch.undo()
        ckptstore.Manager(tmp_path).delete(2)
        assert not place.exists()

    ckptstore.save(place, {"step": 1}, step=2)
    monkeypatch.setattr(LocalStorage, "prepare", prepare)
    if inside:
        ckptstore.Manager(tmp_path).save(2, tree, overwrite=True)
    else:
        ckptstore.save(place, tree, overwrite=True)
    assert differences(ckptstore.load(place), tree) == [] and ckptstore.verify(place) == []


@pytest.mark.parametrize("what", ["files", "the run"])
def test_a_save_whose_files_are_removed_by_others_still_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real = LocalStorage.flush

    def flush(self: LocalStorage) -> None:
        shutil.rmtree(self.url if what == "files" else tmp_path / "run")
        real(self)

    monkeypatch.setattr(LocalStorage, "flush", flush)
    manager = ckptstore.Manager(tmp_path / "run")
    with pytest.raises(ckptstore.StorageError):
        manager.save(1, LARGE)
    monkeypatch.undo()
    assert manager.steps() == []
    manager.save(1, LARGE)
    assert differences(manager.load(), LARGE) == []

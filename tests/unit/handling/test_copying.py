"""A copy is the same checkpoint, whole, in another place; what fails leaves nothing half."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import (
    AlreadyCommittedError,
    CorruptError,
    Manager,
    NotCommittedError,
    Reason,
    StorageError,
    StructureError,
    copy_checkpoint,
    storage,
)
from ckptstore.format import manifest, names
from ckptstore.saving import placement
from ckptstore.storage import LocalStorage
from ckptstore.storage.bucket import BucketStorage
from tests.support import cluster
from tests.support.servers import Moto

follows = pytest.mark.follows
_numbers = itertools.count()


def tree(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(700) for _ in range(4)]
    return {"arrays": arrays, "large": rng.standard_normal(3000), "step": seed, "none": None}


def is_tree(url: Any, seed: int = 0) -> bool:
    """Return whether the checkpoint of a tree is there, and sound."""
    loaded, want = ckptstore.load(url), tree(seed)
    equal = [np.array_equal(*pair) for pair in zip(loaded["arrays"], want["arrays"], strict=True)]
    equal += [np.array_equal(loaded["large"], want["large"]), loaded["step"] == seed]
    return all(equal) and ckptstore.verify(url) == []


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `tree` several data files and an index file."""
    monkeypatch.setattr(placement, "FILE_NBYTES", 4000)
    monkeypatch.setattr(manifest, "MANIFEST_MAX_NBYTES", 900)


@pytest.fixture
def base(tmp_path: Path) -> str:
    url = str(tmp_path / "base")
    ckptstore.save(url, tree(), step=7, metadata={"a": [1]}, metrics={"loss": 0.5})
    assert len(list(Path(url).glob("data-*"))) >= 4 and len(list(Path(url).glob("index-*"))) == 1
    return url


@pytest.fixture
def apart() -> str:
    """A place in another store."""
    return f"memory://copies/{next(_numbers)}"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data files that were written byte by byte."""
    found: list[str] = []
    for cls in (LocalStorage, BucketStorage):

        def put(self: Any, name: str, *rest: Any, real: Any = cls.put) -> None:
            real(self, name, *rest)
            if name.startswith("data"):
                found.append(name)

        monkeypatch.setattr(cls, "put", put)
    return found


def files(url: str) -> list[str]:
    with storage.open(url) as store:
        return sorted(store.list())


def flip(url: str, at: int = 9) -> str:
    """Change a byte of the first data file, and return its name."""
    file = min(Path(url).glob("data-*"))
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.unlink()  # it may be a link
    file.write_bytes(data)
    return file.name


@pytest.mark.parametrize("src", ["disk", "memory"])
@pytest.mark.parametrize("dst", ["disk", "memory"])
def test_a_copy_is_the_same_checkpoint_under_another_attempt(
    src: str, dst: str, base: str, apart: str, tmp_path: Path
) -> None:
    if src == "memory":
        copy_checkpoint(base, apart)
        base = apart
    target = str(tmp_path / "deep/copy") if dst == "disk" else f"{apart}-copy"
    copy, before = copy_checkpoint(base, target), ckptstore.inspect(base)
    assert is_tree(target)
    assert copy.attempt != before.attempt
    for info in (copy, ckptstore.inspect(target)):
        for name in ("time", "step", "metadata", "metrics", "writer", "version", "nbytes"):
            assert getattr(info, name) == getattr(before, name)
        assert [str(leaf) for leaf in info.leaves] == [str(leaf) for leaf in before.leaves]
    with ckptstore.open_checkpoint(base) as one, ckptstore.open_checkpoint(target) as other:
        assert [a.digest for a in one.arrays()] == [a.digest for a in other.arrays()]
    assert {names.renamed(n, "0" * 32) for n in files(base) if n != "MANIFEST"} == {
        names.renamed(n, "0" * 32) for n in files(target) if n != "MANIFEST"
    }


def test_on_one_disk_it_takes_no_room_and_each_outlives_the_other(
    base: str, tmp_path: Path, sent: list[str]
) -> None:
    fork, third = str(tmp_path / "fork"), str(tmp_path / "third")
    copy_checkpoint(base, third)
    told: list[int] = []
    bar = SimpleNamespace(set_size=told.append, absolute_update=told.append)
    copy_checkpoint(base, fork, callback=bar)
    assert not sent
    assert told[0] == told[-1] == sum(file.stat().st_size for file in Path(base).glob("data-*"))
    assert {os.stat(file).st_nlink for file in Path(fork).glob("data-*")} == {3}
    ckptstore.save(base, tree(1), overwrite=True)
    assert is_tree(base, 1) and is_tree(fork) and is_tree(third)
    ckptstore.delete_checkpoint(fork)
    assert is_tree(third)


def test_where_nothing_can_be_linked_the_bytes_are_sent(
    base: str, tmp_path: Path, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStorage, "link", lambda *_: False)
    copy_checkpoint(base, tmp_path / "copy")
    assert is_tree(tmp_path / "copy") and len(sent) == len(list(Path(base).glob("data-*")))


def test_files_that_are_not_of_the_checkpoint_stay_where_they_are(
    base: str, tmp_path: Path
) -> None:
    for name in ("notes.txt", f"data-{'a' * 32}-0-0.bin", names.PINNED):
        (Path(base) / name).write_text("mine")
    copy_checkpoint(base, tmp_path / "copy")
    assert len(files(str(tmp_path / "copy"))) == len(files(base)) - 3


def test_what_several_processes_saved_is_copied(tmp_path: Path, apart: str) -> None:
    def job(processes: ckptstore.Processes) -> None:
        ckptstore.save(tmp_path / "joint", tree(), processes=processes)

    assert cluster.threads(2, job) == [None, None]
    assert copy_checkpoint(tmp_path / "joint", apart).processes == 2
    assert is_tree(apart)


@follows(
    "handling.transfer", "copy an older checkpoint, or pass verify=False to copy the damage too"
)
@pytest.mark.parametrize("links", [True, False])
def test_a_damaged_byte_is_named_and_nothing_is_committed(
    links: bool, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(LocalStorage, "link", lambda *_: False)
    name, copy = flip(base), str(tmp_path / "copy")
    with pytest.raises(CorruptError, match=rf"base/{name}: \$\['arrays'\]\[0\]: ") as caught:
        copy_checkpoint(base, copy)
    assert caught.value.reason == Reason.CHECKSUM
    assert files(copy) == []
    older = str(tmp_path / "older")
    ckptstore.save(older, tree())
    copy_checkpoint(base, copy, verify=False)
    assert [str(p).partition("-0-0.bin ")[2] for p in ckptstore.verify(copy)] == [
        "at byte 0: damaged bytes of $['arrays'][0] [checksum]"
    ]
    copy_checkpoint(older, tmp_path / "other")
    assert is_tree(tmp_path / "other")


def test_padding_that_is_not_zero_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "FILE_NBYTES", 1 << 20)
    ckptstore.save(tmp_path / "padded", [np.ones(3), np.ones(3)])
    flip(str(tmp_path / "padded"), at=30)
    with pytest.raises(CorruptError, match="padding: the bytes at 30 are not those") as caught:
        copy_checkpoint(tmp_path / "padded", tmp_path / "copy")
    assert caught.value.reason == Reason.PADDING


def fails_at(
    monkeypatch: pytest.MonkeyPatch, cls: Any, number: int, act: Callable[[Any], None]
) -> None:
    """Call `act` before the data file of that number is written."""
    count = itertools.count()

    def put(self: Any, name: str, chunks: Iterable[Any], nbytes: int, real: Any = cls.put) -> None:
        if name.startswith("data") and next(count) == number:
            act(self)
        real(self, name, chunks, nbytes)

    monkeypatch.setattr(cls, "put", put)


def interrupt(_: Any) -> None:
    raise KeyboardInterrupt


def silent(_: Any) -> None:
    raise StorageError("the store does not answer", reason=Reason.UNAVAILABLE)


def full(_: Any) -> None:
    raise StorageError("the disk is full", reason=Reason.DISK_FULL)


@pytest.mark.parametrize("act", [interrupt, silent])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_copy_that_was_stopped_goes_on_with_the_files_that_are_there(
    where: str,
    act: Callable[[Any], None],
    base: str,
    apart: str,
    tmp_path: Path,
    sent: list[str],
) -> None:
    if where == "memory":
        src, dst, cls = base, apart, BucketStorage
    else:
        copy_checkpoint(base, apart)
        src, dst, cls = apart, str(tmp_path / "copy"), LocalStorage
    whole = len(list(Path(base).glob("data-*")))
    sent.clear()
    with pytest.MonkeyPatch.context() as patch:
        fails_at(patch, cls, whole - 1, act)
        with pytest.raises((KeyboardInterrupt, StorageError)):
            copy_checkpoint(src, dst)
    with pytest.raises(NotCommittedError) as caught:
        ckptstore.load(dst)
    assert caught.value.reason == Reason.UNFINISHED
    before = len(sent)
    assert whole - 4 <= before < whole
    copy_checkpoint(src, dst)
    assert is_tree(dst)
    assert len(sent) == whole, "no file was sent twice"
    ckptstore.delete_checkpoint(dst)
    assert len(files(dst)) >= before, "what the first left is garbage for a collector"


def test_a_file_with_other_bytes_is_never_taken_for_one_that_is_there(
    base: str, apart: str, sent: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fails_at(patch, BucketStorage, 3, interrupt)
        with pytest.raises(KeyboardInterrupt):
            copy_checkpoint(base, apart)
    with storage.open(apart) as store:
        for name, nbytes in store.list().items():
            data = bytearray(store.read(name, nbytes))
            data[-1] ^= 1
            store.put(name, [data], nbytes)
    sent.clear()
    copy_checkpoint(base, apart, verify=False)
    assert is_tree(apart)
    assert len(sent) == len(list(Path(base).glob("data-*")))


def test_what_a_refused_copy_wrote_is_removed(
    base: str, apart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_at(monkeypatch, BucketStorage, 2, full)
    with pytest.raises(StorageError, match="the disk is full"):
        copy_checkpoint(base, apart)
    assert files(apart) == []


@follows(
    "handling.duplicate",
    "copy to another place, or pass overwrite=True",
    "pass overwrite=True to mend it",
)
def test_another_checkpoint_stays_and_the_same_one_is_returned(
    base: str, tmp_path: Path, apart: str, sent: list[str]
) -> None:
    ckptstore.save(apart, tree(1))
    with pytest.raises(AlreadyCommittedError, match="another checkpoint is committed there"):
        copy_checkpoint(base, apart)
    assert is_tree(apart, 1)
    copy_checkpoint(base, f"{apart}-other")
    first = copy_checkpoint(base, apart, overwrite=True)
    assert is_tree(apart) and len(files(apart)) == len(files(base))
    sent.clear()
    assert copy_checkpoint(base, apart).attempt == first.attempt
    assert copy_checkpoint(f"{apart}-other", apart, overwrite=True).attempt == first.attempt
    back = str(tmp_path / "back")
    copy_checkpoint(apart, back)
    flip(back)
    sent.clear()
    assert copy_checkpoint(apart, back, verify=False).url == back
    with pytest.raises(CorruptError, match="the copy is there already, and damaged"):
        copy_checkpoint(apart, back)
    assert not sent
    copy_checkpoint(apart, back, overwrite=True)
    assert is_tree(back) and len(sent) == 1, "sound files were taken over"


def test_a_manifest_that_cannot_be_read_is_replaced_if_you_say_so(base: str, apart: str) -> None:
    with storage.open(apart) as store:
        store.create("MANIFEST", b"x" * 50)
    with pytest.raises(AlreadyCommittedError, match="attempt unreadable"):
        copy_checkpoint(base, apart)
    copy_checkpoint(base, apart, overwrite=True)
    assert is_tree(apart)


@follows("handling.duplicate", "call it again to copy the checkpoint of now")
@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize("event", ["overwritten", "deleted"])
def test_a_checkpoint_that_changes_meanwhile_is_not_committed(
    event: str, where: str, base: str, apart: str, tmp_path: Path
) -> None:
    src, dst, cls = base, apart, BucketStorage
    if where == "memory":
        copy_checkpoint(base, apart)
        src, dst, cls = apart, str(tmp_path / "copy"), LocalStorage

    def change(_: Any) -> None:
        if event == "deleted":
            ckptstore.delete_checkpoint(src)
        else:
            ckptstore.save(src, tree(1), overwrite=True)

    with pytest.MonkeyPatch.context() as patch:
        fails_at(patch, cls, 0, change)
        with pytest.raises(NotCommittedError, match=f"{event} while it was copied, and") as caught:
            copy_checkpoint(src, dst)
    assert caught.value.reason == Reason.OVERWRITTEN
    assert files(dst) == []
    if event == "overwritten":
        copy_checkpoint(src, dst)
        assert is_tree(dst, 1)


def test_a_save_that_comes_first_is_a_conflict_and_stays(
    base: str, apart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_at(monkeypatch, BucketStorage, 2, lambda _: ckptstore.save(apart, {"step": 1}))
    with pytest.raises(AlreadyCommittedError, match="committed there first"):
        copy_checkpoint(base, apart)
    assert ckptstore.load(apart) == {"step": 1} and len(files(apart)) == 1


@follows("handling.duplicate", "pass another dst", "pass that of a step: Manager(dst).url_of(step)")
@follows("checkpoint.absence", "check the path")
def test_places_that_cannot_be_copied_from_or_to(base: str, tmp_path: Path) -> None:
    os.symlink(base, tmp_path / "link")
    for same in (base, tmp_path / "link", f"{base}/", "file://" + base):
        with pytest.raises(StructureError, match="the place of the copy is that") as caught:
            copy_checkpoint(base, same, overwrite=True)
        assert caught.value.reason == Reason.BAD_ARGUMENT
    with pytest.raises(NotCommittedError, match="check the path"):
        copy_checkpoint(tmp_path / "bse", tmp_path / "copy")
    run = tmp_path / "run"
    url = Manager(run).url_of(7)
    copy_checkpoint(base, url)
    with pytest.raises(StructureError, match="a run of 1 step") as refused:
        copy_checkpoint(base, run)
    assert refused.value.reason == Reason.IS_A_RUN
    copy_checkpoint(base, eval("Manager(dst).url_of(8)", {"Manager": Manager, "dst": run}))
    assert Manager(run).steps() == [7, 8] and Manager(run).load()["step"] == 0


@follows("checkpoint.absence", "for the place of one, take Manager(url).url_of(step)")
def test_a_run_is_copied_by_its_steps(base: str, tmp_path: Path) -> None:
    Manager(tmp_path / "run").save(7, tree())
    with pytest.raises(NotCommittedError, match=r"not a checkpoint but a run") as caught:
        copy_checkpoint(tmp_path / "run", tmp_path / "copy")
    assert caught.value.reason == Reason.IS_A_RUN
    url = eval(
        "Manager(url).url_of(step)", {"Manager": Manager, "url": tmp_path / "run", "step": 7}
    )
    copy_checkpoint(url, tmp_path / "copy")
    assert is_tree(tmp_path / "copy")


def test_a_linked_step_is_copied_from_and_not_to(base: str, tmp_path: Path) -> None:
    run = Manager(tmp_path / "run")
    run.save(1, tree(1))
    os.symlink(base, run.url_of(2))
    with pytest.raises(StorageError, match="a symbolic link to") as caught:
        copy_checkpoint(run.url_of(1), run.url_of(2), overwrite=True)
    assert caught.value.reason == Reason.LINKED_STEP
    copy_checkpoint(run.url_of(2), tmp_path / "copy")
    assert is_tree(tmp_path / "copy") and is_tree(base)


def test_a_copied_run_goes_on_and_takes_its_files_over(tmp_path: Path) -> None:
    frozen = np.ones(1 << 18)
    with Manager(tmp_path / "run") as run:
        for step in (1, 2, 3):  # the third takes over what did not change
            run.save(step, {"frozen": frozen, "x": np.full(3, step)})
    copy_checkpoint(run.url_of(3), Manager(tmp_path / "fork").url_of(3))
    with Manager(tmp_path / "fork") as fork:
        state = fork.load()
        saved = fork.save(4, state | {"x": np.zeros(3)})
    assert saved.nbytes - saved.nbytes_written == frozen.nbytes


def test_the_options_are_for_urls_of_one_kind(
    base: str, apart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def seen(url: Any, options: Any = None, *, real: Any = storage.open, **rest: Any) -> Any:
        asked.append((str(url).partition("://")[0][:6], options))
        return real(url, None, **rest)

    monkeypatch.setattr(storage, "open", seen)
    one, two = {"a": 1}, {"b": 2}
    copy_checkpoint(base, apart, storage_options=one)
    assert [options for _, options in asked] == [None, one]
    for more, of_dst in ({}, one), ({"dst_storage_options": two}, two):
        asked.clear()
        copy_checkpoint(apart, f"{apart}-{len(more)}", storage_options=one, **more)
        assert [options for _, options in asked] == [one, of_dst]
    asked.clear()
    copy_checkpoint(base, f"{base}-2", storage_options=one)
    assert [options for _, options in asked] == [one, one]


@pytest.mark.ci
def test_memory_does_not_grow_with_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "FILE_NBYTES", 64 << 20)
    monkeypatch.setattr(LocalStorage, "link", lambda *_: False)
    nbytes = 192 << 20
    ckptstore.save(tmp_path / "base", {"w": np.zeros(nbytes, np.uint8)})
    tracemalloc.start()
    copy_checkpoint(tmp_path / "base", tmp_path / "copy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < nbytes / 3, "8 MiB for each of 4 files, and as much while the next comes"


@pytest.fixture
def buckets(moto: Moto) -> Iterator[tuple[str, dict[str, Any]]]:
    yield f"s3://{moto.new_bucket()}", moto.storage_options()


@pytest.mark.ci
def test_in_one_bucket_the_store_copies(
    buckets: tuple[str, dict[str, Any]], base: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, options = buckets
    copy_checkpoint(base, f"{bucket}/base", storage_options=options)
    sent.clear()
    got: list[str] = []

    def get(self: Any, name: str, *rest: Any, real: Any = BucketStorage.get) -> None:
        got.append(name)
        real(self, name, *rest)

    monkeypatch.setattr(BucketStorage, "get", get)
    for copy, verify in ("fork", True), ("unread", False):
        got.clear()
        url = f"{bucket}/{copy}"
        made = copy_checkpoint(f"{bucket}/base", url, storage_options=options, verify=verify)
        read = [name for name in got if name.startswith("data")]
        assert not sent and len(set(read)) == (len(read) if verify else 0), "each byte once"
        assert verify == any(made.attempt in name for name in read)
        assert ckptstore.verify(url, storage_options=options) == []
    with pytest.raises(StructureError):
        copy_checkpoint(f"{bucket}/fork", f"{bucket}/fork", storage_options=options)

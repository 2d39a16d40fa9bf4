"""The local disk: the contract of every storage, and what only a disk has."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import storage
from ckptstore.storage import Storage, urls
from ckptstore.storage.local import LocalStorage
from tests.support import faults
from tests.support.storage_contract import StorageContract, put


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(str(tmp_path / "run" / "step"))

    def test_a_file_whose_size_was_asked_can_be_read_after_a_delete(self, place: Storage) -> None:
        put(place, "data", b"0123456789")
        place.sizes(["data"])
        with self.again(place) as other:
            other.delete("data")
        buffer = bytearray(10)
        place.get("data", 0, buffer)
        assert buffer == b"0123456789"

    def test_a_link_is_the_very_file_and_never_replaces(self, place: Storage) -> None:
        with self.beside(place) as other:
            put(other, "data", b"0123456789")
            put(place, "mine", b"here first")
            before = os.stat(f"{other.url}/data")
            assert not place.link("mine", other, "data", 10)
            assert place.read("mine", 100) == b"here first"
            assert place.link("linked", other, "data", 10)
            after = os.stat(f"{place.url}/linked")
            assert os.path.samestat(before, after)
            assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)

    def test_a_link_to_what_is_no_plain_file_is_not_made(
        self, place: Storage, tmp_path: Path
    ) -> None:
        with self.beside(place) as other:
            (tmp_path / "theirs").write_bytes(b"0123456789")
            os.symlink(tmp_path / "theirs", f"{other.url}/symlink")
            os.mkfifo(f"{other.url}/fifo")
            os.mkdir(f"{other.url}/directory")
            for name in ("symlink", "fifo", "directory"):
                assert not place.link("mine", other, name, 10)
                assert place.list() == {}
                assert os.listdir(place.url) == []

    def test_no_link_leads_to_another_disk(self, place: Storage) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
            if os.stat(elsewhere).st_dev == os.stat(place.url).st_dev:
                pytest.skip("/dev/shm is the disk of the tests")
            Path(elsewhere, "data").write_bytes(b"0123456789")
            with storage.open(elsewhere) as other:
                assert not place.link("mine", other, "data", 10)
            assert os.listdir(place.url) == []

    @pytest.mark.parametrize("code", [errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSPC])
    def test_where_the_disk_refuses_a_link_nothing_is_left(
        self, code: int, place: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        with self.beside(place) as other:
            put(other, "data", b"0123456789")
            monkeypatch.setattr("os.link", refused)
            assert not place.link("mine", other, "data", 10)
            assert os.listdir(place.url) == []

    def test_what_cannot_be_made_durable_is_not_linked(
        self, place: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with self.beside(place) as other:
            put(other, "data", b"0123456789")
            monkeypatch.setattr("os.fdatasync", failing)
            assert not place.link("mine", other, "data", 10)
            assert os.listdir(place.url) == []

    def test_links_elsewhere_do_not_make_a_file_young(self, place: Storage) -> None:
        with self.beside(place) as other:
            put(other, "data", b"0123456789")
            assert place.link("mine", other, "data", 10)
            before = place.changed()["mine"]
            time.sleep(0.1)
            with other.child("below") as below:
                below.prepare()
                assert below.link("third", other, "data", 10)
                assert below.changed()["third"] > before + 0.05
            assert os.stat(f"{place.url}/mine").st_ctime > before + 0.05
            assert place.changed()["mine"] < before + 0.05


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/a/b", "/a/b"),
        (Path("/a/b"), "/a/b"),
        ("/a/../b/./c/", "/b/c"),
        ("file:///a/b", "/a/b"),
        ("file://localhost/a/b", "/a/b"),
        ("file:///a%20b/%C3%A9", "/a b/é"),
        ("file:///%FF", "/\udcff"),
        ("/a%20b", "/a%20b"),
        ("/é 日本", "/é 日本"),
        ("/a/s3://b", "/a/s3:/b"),
        ("c:/b", os.path.join(os.getcwd(), "c:/b")),
    ],
)
def test_a_path_or_a_file_url_means_a_path(url: Any, path: str) -> None:
    assert urls.local_path(url) == path


def test_relative_paths_and_home_are_taken_when_the_call_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert urls.local_path("a/b") == str(tmp_path / "a/b")
    assert urls.local_path("~/a") == str(tmp_path / "home/a")
    assert urls.local_path("./~x") == str(tmp_path / "~x")
    tree = faults.tree(faults.OLD)
    for url in ("run/a", "~/run b", f"file://{tmp_path}/a%20b", "é 日本/🙂", Path("c")):
        ckptstore.save(url, tree)
        assert faults.which(url) == faults.OLD
    made = {path.parent for path in tmp_path.rglob("MANIFEST")}
    assert made == {tmp_path / d for d in ("run/a", "home/run b", "a b", "é 日本/🙂", "c")}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "bad-url"),
        (None, "bad-url"),
        (3, "bad-url"),
        (b"/a", "bad-url"),
        ("/a\0b", "bad-url"),
        ("file:///a%00b", "bad-url"),
        ("file://host/a", "bad-url"),
        ("file:/a", "bad-url"),
        (Path("file:///a"), "bad-url"),
        (Path("s3://bucket/a"), "bad-url"),
        ("~no-such-user-here/a", "bad-url"),
        ("simplecache::s3://bucket/a", "no-such-store"),
    ],
)
def test_what_is_no_place_is_refused(url: Any, reason: str) -> None:
    for call in (storage.open, ckptstore.load, lambda url: ckptstore.save(url, {})):
        with pytest.raises(ckptstore.StorageError) as caught:
            call(url)
        assert caught.value.reason == reason


def test_a_current_directory_that_is_gone_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ckptstore.StorageError, match="current directory was deleted"):
        ckptstore.save("a", {})


def test_options_of_a_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ckptstore.StorageError, match="takes no storage_options, found anon"):
        ckptstore.load(tmp_path, storage_options={"anon": True})


def test_a_directory_that_is_gone_during_a_save_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalStorage.put

    def put(self: LocalStorage, *args: Any) -> None:
        shutil.rmtree(tmp_path / "run")
        real(self, *args)

    manager = ckptstore.Manager(tmp_path / "run")
    manager.save(1, {"x": 1})
    monkeypatch.setattr(LocalStorage, "put", put)
    with pytest.raises(ckptstore.StorageError, match="moved or deleted in the meantime"):
        manager.save(2, {"x": np.ones(3)})
    monkeypatch.undo()
    manager.save(3, {"x": 3})
    assert manager.steps() == [3]


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for url in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(ckptstore.StorageError, match="not a directory; remove it") as caught:
            ckptstore.save(url, {})
        assert caught.value.reason == "not-a-directory"
        assert str(caught.value).count(f"{tmp_path / 'file'}:") == (url.name == "file")
        with pytest.raises(ckptstore.NotCommittedError, match="no MANIFEST there"):
            ckptstore.load(url)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("function", [ckptstore.save, ckptstore.save_async])
@pytest.mark.parametrize("below", ["", "x", "x/y"])
@pytest.mark.parametrize("target", ["nothing", "another"])
def test_a_save_names_a_link_to_nothing_in_the_place_of_its_directory(
    tmp_path: Path, function: Any, below: str, target: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to(target)
    (tmp_path / "another").symlink_to("nothing")
    place = link / below
    with pytest.raises(ckptstore.StorageError, match="a symbolic link to nothing") as caught:
        saved = function(place, {"a": 1})
        saved.result()
    assert caught.value.reason == "dangling-link"
    said = f"{place}: {link} is a symbolic" if below else f"{link}: a symbolic"
    assert said in str(caught.value) and str(caught.value).count(str(link)) == 1 + bool(below)
    if function is ckptstore.save:
        (tmp_path / "nothing").mkdir()  # restore its target
    else:
        link.unlink()  # remove it
    saved = function(place, {"a": 1})
    if isinstance(saved, ckptstore.PendingSave):
        saved.result()
    assert ckptstore.load(place) == {"a": 1}


def test_symbolic_links(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "real", {"a": 1})
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "nowhere").symlink_to("missing")
    assert ckptstore.load(tmp_path / "link") == {"a": 1}
    ckptstore.save(tmp_path / "link", {"a": 2}, overwrite=True)
    assert ckptstore.load(tmp_path / "real") == {"a": 2}
    with pytest.raises(ckptstore.StorageError, match="a symbolic link to nothing"):
        ckptstore.load(tmp_path / "nowhere")
    (tmp_path / "real" / "MANIFEST").unlink()
    (tmp_path / "real" / "MANIFEST").symlink_to("missing")
    for call in (ckptstore.load, lambda url: ckptstore.save(url, {}, overwrite=True)):
        with pytest.raises(ckptstore.StorageError, match="a symbolic link to nothing"):
            call(tmp_path / "real")


@pytest.mark.parametrize("name", ["MANIFEST", "data"])
def test_a_pipe_or_directory_in_the_place_of_a_file_is_refused_at_once(
    name: str, tmp_path: Path
) -> None:
    ckptstore.save(tmp_path, {"a": np.ones(3)})
    (path,) = tmp_path.glob(f"{name}*")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ckptstore.CorruptError):
        ckptstore.load(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ckptstore.CheckpointError):
        ckptstore.load(tmp_path)


def test_short_writes_and_reads_are_continued(tmp_path: Path) -> None:
    class Slow(faults.Faults):
        def write(self, fd: int, data: Any) -> int:
            return os.write(fd, memoryview(data)[:100])

        def read(self, fd: int, size: int) -> bytes:
            return os.read(fd, min(size, 100))

        def preadv(self, fd: int, buffers: Any, offset: int) -> int:
            return os.preadv(fd, [memoryview(buffers[0])[:100]], offset)

    with faults.faulty(Slow()):
        ckptstore.save(tmp_path, faults.tree(faults.OLD))
        assert faults.which(tmp_path) == faults.OLD


def test_a_disk_with_neither_links_nor_a_rename_that_replaces_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptstore.storage.posix._RENAME_NOREPLACE", 1 << 30)  # EINVAL
    refused = pytest.raises(ckptstore.StorageError, match="would not be atomic")
    with faults.faulty(faults.Faults(), links=False, known=False), refused as caught:
        ckptstore.save(tmp_path, {"a": np.ones(3)})
    assert caught.value.reason == "not-atomic"
    assert list(tmp_path.iterdir()) == []


def test_a_process_forked_during_a_swap_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A data loader that is forked at that moment lives on with a copy of the descriptor."""
    place = LocalStorage(str(tmp_path))
    context = multiprocessing.get_context("spawn")
    inherited = []
    with place.locked():
        # What fork does to a descriptor: another one of the same open file.
        inherited = [os.dup(int(fd)) for fd in _directories(tmp_path)]
    assert inherited
    other = context.Process(target=_lock, args=(str(tmp_path),))
    other.start()
    other.join(60)
    assert other.exitcode == 0
    for fd in inherited:
        os.close(fd)


def _directories(path: Path) -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == str(path):
                found.append(fd)
        except FileNotFoundError:
            continue
    return found


def _lock(path: str) -> None:
    with LocalStorage(path).locked():
        pass


def test_a_reader_leaves_no_file_open(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, faults.tree(faults.OLD))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        ckptstore.load(tmp_path)
        ckptstore.verify(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_directory_that_another_save_makes_right_now_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, real, asked = tmp_path / "run", os.path.isdir, []

    def isdir(path: str) -> bool:
        found = real(path)
        asked.append(path)
        if len(asked) == 1:
            url.mkdir()
        return found

    monkeypatch.setattr(os.path, "isdir", isdir)
    LocalStorage(str(url)).prepare()
    assert asked[0] == str(url) and url.is_dir()

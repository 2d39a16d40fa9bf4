"""What the errors of a path, a URL, options and a disk tell you to do, done."""

from __future__ import annotations

import errno
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import pytest

import ckptstore
from ckptstore import CheckpointError, Manager, OutcomeUnknownError, StorageError, storage
from ckptstore.storage import directories
from tests.support import ROOT, faults, remedies
from tests.support.faults import NEW, OLD, Faults, tree, which

follows = pytest.mark.follows

ATOMIC: Any = {"ckptstore": {"assume_atomic": True}}


def refused(call: Any, *args: Any, error: Any = StorageError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        call(*args, **options)
    return str(caught.value)


def saved(url: Any, **options: Any) -> None:
    """Save at a place, and load from there."""
    ckptstore.save(url, {"x": 1}, **options)
    assert ckptstore.load(url, **options) == {"x": 1}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    """The name of a bucket in this process's memory."""
    yield tmp_path.name
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(f"/{tmp_path.name}"):
        filesystem.rm(f"/{tmp_path.name}", recursive=True)


# --- Paths and URLs -----------------------------------------------------------------------------


@follows("storage.urls", "pass a str or an os.PathLike{}")
@follows("storage.urls", "the place comes first, as in save(place, tree) and load(place)")
def test_a_place_that_is_no_path(tmp_path: Path) -> None:
    refused(ckptstore.save, {"x": 1}, {"x": 1})
    refused(ckptstore.save, b"bytes", {"x": 1})
    saved(str(tmp_path / "a"))
    saved(tmp_path / "b")


@follows("storage.urls", "write file:///...")
def test_a_file_url_with_a_host(tmp_path: Path) -> None:
    refused(ckptstore.save, f"file://host{tmp_path}/a", {"x": 1})
    saved(f"file://{tmp_path}/a")
    assert ckptstore.load(tmp_path / "a") == {"x": 1}


@follows("storage.urls", "pass it as a str, or, if it is a path, as ./{}")
def test_a_url_that_lost_a_slash(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = Path(f"memory://{memory}/run")
    words = refused(ckptstore.save, url, {"x": 1})
    saved(f"memory://{memory}/run", storage_options=ATOMIC)
    monkeypatch.chdir(tmp_path)
    saved(words.rpartition("as ")[2])
    assert (tmp_path / f"memory:/{memory}/run/MANIFEST").exists()


@follows("storage.urls", "check the name")
def test_a_home_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(ckptstore.save, "~nobody-of-this-name/run", {"x": 1})
    monkeypatch.setenv("HOME", str(tmp_path))
    saved("~/run")
    assert ckptstore.load(tmp_path / "run") == {"x": 1}


@follows("storage.urls", "pass an absolute path")
def test_a_current_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    refused(ckptstore.save, "run", {"x": 1})
    saved(str(tmp_path / "run"))
    os.chdir(tmp_path)


@follows("storage.address", "write {}://BUCKET/DIRECTORY")
def test_a_url_without_a_bucket(memory: str) -> None:
    words = refused(ckptstore.save, "memory://", {"x": 1})
    url = words.rpartition("write ")[2].replace("BUCKET/DIRECTORY", f"{memory}/run")
    saved(url, storage_options=ATOMIC)


@follows("storage.address", "leave it out")
def test_a_url_with_dots(memory: str) -> None:
    refused(ckptstore.save, f"memory://{memory}/a/../run", {"x": 1})
    saved(f"memory://{memory}/run", storage_options=ATOMIC)


@follows("storage.address", "choose a shorter one")
def test_a_url_that_is_too_long(memory: str) -> None:
    refused(ckptstore.save, f"memory://{memory}/{'n' * 1000}", {"x": 1})
    saved(f"memory://{memory}/{'n' * 100}", storage_options=ATOMIC)


@follows("storage.chains", "for a local disk, pass the path, or a file:// URL: {}")
def test_the_protocol_local(tmp_path: Path) -> None:
    refused(ckptstore.save, f"local://{tmp_path}/a", {"x": 1})
    saved(f"{tmp_path}/a")
    saved(f"file://{tmp_path}/b")


@follows("storage.chains", "pass the URL of the store itself: {}")
def test_a_chain_of_file_systems(memory: str) -> None:
    refused(ckptstore.save, f"simplecache::memory://{memory}/run", {"x": 1})
    saved(f"memory://{memory}/run", storage_options=ATOMIC)


@follows("storage.connect", "did you mean {}?")
@follows("storage.connect", "check the part before ://")
def test_a_protocol_that_nobody_knows(memory: str) -> None:
    words = refused(ckptstore.save, f"memry://{memory}/run", {"x": 1})
    meant = re.findall(r"\w+://", words.partition("did you mean ")[2])
    assert "memory://" in meant
    refused(ckptstore.save, f"qqqqqqqq://{memory}/run", {"x": 1})
    saved(f"memory://{memory}/run", storage_options=ATOMIC)


# --- Options ------------------------------------------------------------------------------------


@follows("storage.opening", "leave them out")
def test_options_for_a_disk(tmp_path: Path) -> None:
    refused(ckptstore.save, tmp_path / "a", {"x": 1}, storage_options={"anon": True})
    saved(tmp_path / "a")


@follows("storage.options", "use the option names of fsspec")
def test_options_whose_names_are_no_text(memory: str) -> None:
    url = f"memory://{memory}/run"
    refused(ckptstore.save, url, {"x": 1}, storage_options={1: True})
    saved(url, storage_options={**ATOMIC, "use_listings_cache": False})


# --- A disk -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


BIG = {"x": "text" * 50_000}


@pytest.mark.ci  # which may mount
@follows("storage.posix", "free some space, then save again")
def test_a_disk_that_is_full(small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(400_000))
    refused(ckptstore.save, small_disk / "a", BIG)
    (small_disk / "other").unlink()
    ckptstore.save(small_disk / "a", BIG)
    assert ckptstore.load(small_disk / "a") == BIG


@pytest.mark.ci  # which may mount
@follows("storage.posix", "mount the file system writable, or choose another place")
def test_a_disk_that_is_read_only(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused(ckptstore.save, small_disk / "a", {"x": 1})
    saved(tmp_path / "elsewhere")
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    saved(small_disk / "a")


@follows("storage.directories", "remove it, or choose another place")
def test_a_file_where_a_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("notes")
    refused(ckptstore.save, tmp_path / "a", {"x": 1})
    refused(ckptstore.save, tmp_path / "a/b", {"x": 1})
    saved(tmp_path / "b")
    (tmp_path / "a").unlink()
    saved(tmp_path / "a/b")


@follows("storage.directories", "remove it, or restore its target")
@pytest.mark.parametrize("way", ["remove", "restore"])
def test_a_link_to_nothing(way: str, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "target")
    refused(ckptstore.save, tmp_path / "a", {"x": 1})
    (tmp_path / "a").unlink() if way == "remove" else (tmp_path / "target").mkdir()
    saved(tmp_path / "a")


@follows("storage.posix", "remove it")
def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    refused(ckptstore.load, tmp_path / "a")
    (tmp_path / "a").unlink()
    saved(tmp_path / "a")


@follows(
    "storage.links",
    "remove the link (Manager.delete of this step leaves its target alone), then try again",
)
@pytest.mark.parametrize("way", ["unlink", "delete"])
def test_a_step_that_is_a_link(way: str, tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "base", {"x": 0}, step=1)
    run = Manager(tmp_path / "run")
    run.save(2, {"x": 2})
    (step,) = (tmp_path / "run").iterdir()
    link = step.with_name(step.name[:-1] + "1")
    link.symlink_to(tmp_path / "base")
    refused(run.save, 1, {"x": 1}, error=CheckpointError, overwrite=True)
    refused(ckptstore.save, link, {"x": 1}, overwrite=True)
    run.delete(1) if way == "delete" else link.unlink()
    saved(link)
    assert ckptstore.load(tmp_path / "base") == {"x": 0}


LIMITED = """
import resource, sys
import ckptstore
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    ckptstore.save(sys.argv[1], {"x": "text" * 50_000})
except ckptstore.StorageError as error:
    print(error)
"""


@follows("storage.posix", "raise the limit on file size (ulimit -f)")
def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "a")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for limit in ("100000", str(1 << 30)):
        done = subprocess.run([*command, limit], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        remedies.seen(done.stdout)
    assert ckptstore.load(tmp_path / "a") == BIG


def failing(call: str, number: int) -> Any:
    """Let every call of this name fail on the disk."""

    class Failing(Faults):
        def __getattr__(self, name: str) -> Any:
            real = super().__getattr__(name)
            if name != call:
                return real

            def fail(*args: Any, **options: Any) -> Any:
                raise OSError(number, os.strerror(number))

            return fail

    return faults.faulty(Failing())


@pytest.mark.parametrize(
    ("call", "number"),
    [
        pytest.param(
            "fsync",
            errno.EIO,
            marks=follows("storage.posix", "check it before you trust it again"),
        ),
        pytest.param(
            "write",
            errno.EDQUOT,
            marks=follows("storage.posix", "free some of your quota, then save again"),
        ),
        pytest.param(
            "fsync",
            errno.ESTALE,
            marks=follows("storage.posix", "try again, or mount the disk again"),
        ),
        pytest.param(
            "mkdir",
            errno.EACCES,
            marks=follows("storage.posix", "check the owner and the mode of the directory"),
        ),
    ],
)
def test_a_fault_of_the_disk_that_is_mended(call: str, number: int, tmp_path: Path) -> None:
    """What mends it lies outside: the disk works again, and nothing else has to be done."""
    ckptstore.save(tmp_path / "old", tree(OLD))
    with failing(call, number):
        refused(ckptstore.save, tmp_path / "a", {"x": 1}, error=CheckpointError)
        if call != "mkdir":
            again = {"overwrite": True, "error": CheckpointError}
            refused(ckptstore.save, tmp_path / "old", tree(NEW), **again)
    assert which(tmp_path / "old") == OLD
    saved(tmp_path / "a")


@follows("storage.local", "check the disk, then load the checkpoint to see which save it holds")
def test_a_commit_that_may_not_be_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = directories.sync

    def sync(path: str) -> None:
        if (Path(path) / "MANIFEST").exists():
            raise StorageError("the disk is failing")
        real(path)

    monkeypatch.setattr(directories, "sync", sync)
    refused(ckptstore.save, tmp_path / "a", tree(NEW), error=OutcomeUnknownError)
    monkeypatch.undo()
    assert ckptstore.load(tmp_path / "a")["who"] == NEW


@follows("storage.local", "load the checkpoint to see which save it holds")
@pytest.mark.parametrize("arrives", [False, True])
def test_a_commit_whose_temporary_file_stays(
    arrives: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path, tree(OLD))
    real = os.unlink

    def unlink(path: Any, **options: Any) -> None:
        if str(path).endswith(".tmp"):
            raise OSError(errno.EIO, "no answer")
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    with mock.patch.object(os, "replace", side_effect=OSError(errno.EIO, "no answer")):
        refused(ckptstore.save, tmp_path, tree(NEW), error=OutcomeUnknownError, overwrite=True)
    monkeypatch.undo()
    (temporary,) = tmp_path.glob("MANIFEST.*.tmp")
    if arrives:
        temporary.rename(tmp_path / "MANIFEST")
    assert ckptstore.load(tmp_path)["who"] == (NEW if arrives else OLD)


@follows("storage.retry", "open it again from its URL")
def test_a_storage_that_is_sent_to_another_process(memory: str) -> None:
    url = f"memory://{memory}/run"
    saved(url, storage_options=ATOMIC)
    with storage.open(url) as store, pytest.raises(TypeError) as caught:
        pickle.dumps(store)
    remedies.seen(str(caught.value))
    with storage.open(url) as again:
        assert "MANIFEST" in again.list()


@follows("storage.options", "expected a dict with some of {}")
def test_an_option_of_ours_that_is_none(memory: str) -> None:
    url = f"memory://{memory}/run"
    words = refused(ckptstore.save, url, {"x": 1}, storage_options={"ckptstore": {"atomic": True}})
    known = words.partition("a dict with some of ")[2].split(", ")
    values = {name: 60 if name in ("timeout", "deadline") else True for name in known}
    saved(url, storage_options={"ckptstore": values})

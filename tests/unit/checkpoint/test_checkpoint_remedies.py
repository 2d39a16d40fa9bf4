"""What the errors of a commit, a delete, a collector and a reader tell you to do, done."""

from __future__ import annotations

import gzip
import http.server
import os
import pickle
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy
import pytest

import ckptstore
import ckptstore.convert
from ckptstore import (
    AlreadyCommittedError,
    CheckpointError,
    CorruptError,
    Manager,
    NotCommittedError,
    OutcomeUnknownError,
    StorageError,
    storage,
)
from ckptstore.checkpoint import commit, garbage
from ckptstore.checkpoint import snapshot as snapshots
from ckptstore.format import MANIFEST_MAX_NBYTES, names
from ckptstore.storage.local import LocalStorage
from tests.support.faults import NEW, NEXT, OLD, tree, which

follows = pytest.mark.follows

ALL = -60.0  # a grace period after which everything is old
HOUR = 3600.0


class Patch:
    """Replaces the methods of LocalStorage and takes that back."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def before(self, name: str, act: Callable[..., Any], *, call: int = 1) -> None:
        """Let something happen before one call of a method."""
        real, calls = getattr(LocalStorage, name), []

        def method(self_: LocalStorage, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == call:
                act(self_, *args, **kwargs)
            return real(self_, *args, **kwargs)

        self._patch.setattr(LocalStorage, name, method)

    def replace(self, name: str, method: Callable[..., Any]) -> None:
        self._patch.setattr(LocalStorage, name, method)

    def undo(self) -> None:
        self._patch.undo()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Patch:
    return Patch(monkeypatch)


def raising(error: Exception) -> Callable[..., Any]:
    def act(*args: Any, **kwargs: Any) -> Any:
        raise error

    return act


def save(url: Path, who: str = NEW, **options: Any) -> None:
    ckptstore.save(url, tree(who), **options)


# --- A save -------------------------------------------------------------------------------------


@follows("checkpoint.commit", "save to another place, or pass overwrite=True{}")
def test_a_place_that_is_taken(tmp_path: Path) -> None:
    save(tmp_path / "a", OLD)
    with pytest.raises(AlreadyCommittedError):
        save(tmp_path / "a")
    save(tmp_path / "b")
    save(tmp_path / "a", overwrite=True)
    assert which(tmp_path / "a") == which(tmp_path / "b") == NEW


@follows("checkpoint.commit", "load it, or save again with overwrite=True{}")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_save_that_loses(overwrite: bool, tmp_path: Path, disk: Patch) -> None:
    if overwrite:
        save(tmp_path, OLD)
    call = "swap" if overwrite else "create"
    disk.before(call, lambda *args: disk.undo() or save(tmp_path, NEXT, overwrite=overwrite))
    with pytest.raises(AlreadyCommittedError):
        save(tmp_path, overwrite=overwrite)
    assert ckptstore.load(tmp_path)["who"] == NEXT
    save(tmp_path, overwrite=True)
    assert which(tmp_path) == NEW


@follows("ranks", 'call the save in all of them with processes="all", or in one of them under `{}`')
@pytest.mark.parametrize("variable", [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")])
def test_two_processes_of_one_job(
    variable: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, count = variable
    monkeypatch.setenv(count, "2")
    save(tmp_path / "first")
    monkeypatch.setenv(number, "1")
    with pytest.raises(AlreadyCommittedError) as caught:
        save(tmp_path / "first")
    line = str(caught.value).rpartition("or in one of them under `")[2].rstrip("`")
    saved = []
    for rank in ("1", "0"):
        monkeypatch.setenv(number, rank)
        names = {"os": os, "save": lambda: saved.append(save(tmp_path / "second"))}
        exec(f"{line} save()", names)
    assert saved == [None] and which(tmp_path / "second") == NEW


@follows(
    "ranks",
    "if several processes of one job run this script, let one of them save: `if "
    "jax.process_index() == 0:`, or `if rank == 0:`",
)
def test_two_processes_that_do_not_know_of_each_other(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    save(tmp_path / "first")
    with pytest.raises(AlreadyCommittedError) as caught:
        save(tmp_path / "first")
    of_jax, of_rank = re.findall("`(if .*?:)`", str(caught.value))
    exec(f"{of_jax} save(place)", {**globals(), "jax": jax, "place": tmp_path / "of jax"})
    for number in (1, 0):
        names = {**globals(), "rank": number, "place": tmp_path / str(number)}
        exec(f"{of_rank} save(place)", names)
    assert which(tmp_path / "of jax") == which(tmp_path / "0") == NEW
    assert which(tmp_path / "1") is None


@follows("checkpoint.commit", "remove it first, or save to another place")
def test_a_manifest_that_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/MANIFEST").write_bytes(bytes(MANIFEST_MAX_NBYTES + 1))
    with pytest.raises(StorageError):
        save(tmp_path / "a", overwrite=True)
    save(tmp_path / "b")
    (tmp_path / "a/MANIFEST").unlink()
    save(tmp_path / "a")
    assert which(tmp_path / "a") == which(tmp_path / "b") == NEW


@follows("checkpoint.commit", "save again")
def test_a_file_that_is_lost_before_the_commit(tmp_path: Path, disk: Patch) -> None:
    disk.before("list", lambda self: next(tmp_path.glob("data-*")).unlink())
    with pytest.raises(StorageError):
        save(tmp_path)
    save(tmp_path)
    assert which(tmp_path) == NEW


@follows("checkpoint.commit", "save again, and set a longer grace period for the collector")
def test_a_collector_that_is_in_a_hurry(tmp_path: Path, disk: Patch) -> None:
    run, other = Manager(tmp_path), Manager(tmp_path)
    run.save(1, tree(OLD))
    disk.before("create", lambda *args: disk.undo() or other.gc(grace=0))
    with pytest.raises(StorageError):
        run.save(2, tree(NEW))
    assert run.steps() == [1]
    disk.before("create", lambda *args: disk.undo() or other.gc(grace=HOUR))
    run.save(2, tree(NEW))
    assert run.load(2)["who"] == NEW


@follows("checkpoint.commit", "verify the checkpoint")
def test_a_disk_that_fails_after_the_commit(tmp_path: Path, disk: Patch) -> None:
    disk.before("list", raising(StorageError("the disk does not answer")), call=2)
    with pytest.raises(OutcomeUnknownError):
        save(tmp_path)
    assert ckptstore.verify(tmp_path) == []
    assert which(tmp_path) == NEW


@follows("checkpoint.commit", "load it once the storage answers")
@pytest.mark.parametrize("happened", [False, True])
def test_a_commit_whose_answer_is_lost(
    happened: bool, tmp_path: Path, disk: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalStorage.create

    def create(self: LocalStorage, name: str, data: bytes) -> None:
        if happened:
            real(self, name, data)
        monkeypatch.setattr(commit, "committed", raising(StorageError("no answer")))
        raise StorageError("the answer is lost")

    save(tmp_path / "a", OLD)
    disk.replace("create", create)
    with pytest.raises(OutcomeUnknownError):
        save(tmp_path / "b")
    disk.undo()
    assert which(tmp_path / "b") == (NEW if happened else None)
    if not happened:
        save(tmp_path / "b")
        assert which(tmp_path / "b") == NEW


@follows("checkpoint.commit", "verify it")
def test_a_commit_that_meets_a_damaged_manifest(tmp_path: Path, disk: Patch) -> None:
    def damage(self: LocalStorage, name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data[:-1])

    disk.before("create", damage)
    with pytest.raises(OutcomeUnknownError):
        save(tmp_path)
    assert [problem.reason for problem in ckptstore.verify(tmp_path)] == ["truncated"]
    save(tmp_path, overwrite=True)
    assert which(tmp_path) == NEW


@follows("checkpoint.commit", "load the checkpoint to see which save it holds")
def test_a_manifest_that_exists_and_cannot_be_read(
    tmp_path: Path, disk: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalStorage.create

    def create(self: LocalStorage, name: str, data: bytes) -> None:
        monkeypatch.setattr(commit, "committed", lambda storage: None)
        real(self, name, data)
        raise FileExistsError

    disk.replace("create", create)
    with pytest.raises(OutcomeUnknownError):
        save(tmp_path)
    disk.undo()
    assert ckptstore.load(tmp_path)["who"] == NEW


# --- A delete -----------------------------------------------------------------------------------


@follows("checkpoint.deletion", "remove it by hand")
def test_a_manifest_that_stays(tmp_path: Path, disk: Patch) -> None:
    run = Manager(tmp_path)
    run.save(1, tree(OLD))
    disk.replace("delete", lambda self, name, expected=None: None)
    with pytest.raises(StorageError):
        run.delete(1)
    disk.undo()
    (manifest,) = tmp_path.glob("*/MANIFEST")
    manifest.unlink()
    assert Manager(tmp_path).steps() == []


@follows("checkpoint.deletion", "delete again if you want to remove it too")
def test_a_save_in_the_middle_of_a_delete(tmp_path: Path, disk: Patch) -> None:
    run = Manager(tmp_path)
    run.save(1, tree(OLD))
    (step,) = tmp_path.iterdir()
    real = LocalStorage.delete

    def delete(self: LocalStorage, name: str, expected: bytes | None = None) -> None:
        disk.undo()
        real(self, name, expected=expected)
        save(step)

    disk.replace("delete", delete)
    with pytest.raises(AlreadyCommittedError):
        run.delete(1)
    assert which(step) == NEW
    run.delete(1)
    assert which(step) is None


@follows(
    "checkpoint.deletion",
    "delete the checkpoint again, or, if it is gone, call Manager.gc() to remove its files",
)
@pytest.mark.parametrize("happened", [False, True])
def test_a_delete_whose_answer_is_lost(happened: bool, tmp_path: Path, disk: Patch) -> None:
    run = Manager(tmp_path)
    run.save(1, tree(OLD))
    real = LocalStorage.delete

    def delete(self: LocalStorage, name: str, expected: bytes | None = None) -> None:
        if happened:
            real(self, name, expected=expected)
        else:
            disk.replace("read", raising(StorageError("no answer")))
        raise StorageError("the answer is lost")

    disk.replace("delete", delete)
    with pytest.raises(OutcomeUnknownError):
        run.delete(1)
    disk.undo()
    if happened:
        with pytest.raises(NotCommittedError):
            run.delete(1)
        assert list(run.gc(grace=0)) == [1]
    else:
        run.delete(1)
    assert run.steps() == []
    assert not list(tmp_path.rglob("data-*"))


# --- A collector --------------------------------------------------------------------------------


@follows("checkpoint.garbage", "verify the checkpoint")
def test_a_collector_that_meets_a_damaged_manifest(tmp_path: Path) -> None:
    save(tmp_path)
    manifest = tmp_path / "MANIFEST"
    copy = manifest.read_bytes()
    manifest.write_bytes(copy[:-1])
    with pytest.raises(CorruptError):
        garbage.collect(storage.open(tmp_path), ALL)
    assert [problem.reason for problem in ckptstore.verify(tmp_path)] == ["truncated"]
    manifest.write_bytes(copy)
    assert garbage.collect(storage.open(tmp_path), ALL) == []
    assert which(tmp_path) == NEW


@follows("checkpoint.garbage", "try again")
def test_a_collector_whose_own_file_vanishes(tmp_path: Path, disk: Patch) -> None:
    save(tmp_path)
    (tmp_path / names.file_name("data", "a" * 32, 0, 0)).touch()
    real = LocalStorage.put

    def put(self: LocalStorage, name: str, *args: Any, **kwargs: Any) -> Any:
        made = real(self, name, *args, **kwargs)
        (tmp_path / name).unlink()  # another collector
        return made

    disk.replace("put", put)
    with pytest.raises(StorageError):
        garbage.collect(storage.open(tmp_path), ALL)
    disk.undo()
    assert len(garbage.collect(storage.open(tmp_path), ALL)) == 1
    assert which(tmp_path) == NEW


# --- A load -------------------------------------------------------------------------------------


@follows("checkpoint.absence", "check the path")
def test_a_path_that_is_wrong(tmp_path: Path) -> None:
    save(tmp_path / "ckpt")
    with pytest.raises(NotCommittedError):
        ckptstore.load(tmp_path / "chpt")
    assert which(tmp_path / "ckpt") == NEW


@follows("checkpoint.absence", "load an older checkpoint")
def test_a_save_that_was_killed(tmp_path: Path) -> None:
    run = Manager(tmp_path)
    run.save(1, tree(OLD))
    run.save(2, tree(NEW))
    older, newer = sorted(tmp_path.iterdir())
    (newer / "MANIFEST").unlink()
    with pytest.raises(NotCommittedError):
        ckptstore.load(newer)
    assert which(older) == OLD
    assert Manager(tmp_path).load()["who"] == OLD


@follows("checkpoint.snapshot", "restore the file from a copy")
@pytest.mark.parametrize("change", ["missing", "short"])
def test_a_data_file_that_is_not_there(change: str, tmp_path: Path) -> None:
    save(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    (data,) = (tmp_path / "a").glob("data-*")
    data.unlink() if change == "missing" else data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CorruptError) as caught:
        ckptstore.load(tmp_path / "a")
    assert data.name in str(caught.value)
    shutil.copy(tmp_path / "copy" / data.name, data)
    assert which(tmp_path / "a") == NEW


@follows("checkpoint.snapshot", "restore the file from a copy")
def test_an_index_file_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {"who": NEW, "leaves": [f"{n:0100}" for n in range(20_000)]}
    ckptstore.save(tmp_path / "a", many)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    (index,) = (tmp_path / "a").glob("index-*")
    index.write_bytes(bytes(index.stat().st_size))
    with pytest.raises(CorruptError) as caught:
        ckptstore.load(tmp_path / "a")
    assert index.name in str(caught.value)
    shutil.copy(tmp_path / "copy" / index.name, index)
    assert ckptstore.load(tmp_path / "a") == many


@follows("checkpoint.snapshot", "try again")
def test_a_checkpoint_that_is_overwritten_all_the_time(
    tmp_path: Path, disk: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, OLD)
    real = LocalStorage.sizes

    def sizes(self: LocalStorage, names: list[str], *among: int) -> Any:
        save(tmp_path, NEXT, overwrite=True)
        return real(self, names)

    disk.replace("sizes", sizes)
    monkeypatch.setattr(snapshots, "_READS", 3)
    with pytest.raises(StorageError):
        ckptstore.load(tmp_path)
    disk.undo()
    assert which(tmp_path) == NEXT


@follows(
    "checkpoint.absence",
    "Manager(url).load() loads its newest, Manager(url).load(step) another",
)
def test_a_run_in_the_place_of_a_checkpoint(tmp_path: Path) -> None:
    run = Manager(tmp_path)
    run.save(1, tree(OLD))
    run.save(2, tree(NEW))
    with pytest.raises(NotCommittedError) as caught:
        ckptstore.load(tmp_path)
    newest, other = re.findall(r"Manager\(url\)\.load\(.*?\)", str(caught.value))
    names = {"Manager": Manager, "url": tmp_path, "step": 1}
    assert eval(newest, names)["who"] == NEW and eval(other, names)["who"] == OLD


FOREIGN = {
    "empty": (b"", "copy the file again"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "run `git lfs pull` in its repository, or download the file itself",
    ),
    "zeros": (bytes(600), "copy the file again, or load an older checkpoint"),
    "json": (
        b'{"error": {"code": 404}}',
        "copy the file again, or look for the checkpoint in another directory",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
@follows(
    "checkpoint.foreign_files",
    "copy the file again",
    "run `git lfs pull` in its repository, or download the file itself",
    "copy the file again, or load an older checkpoint",
    "copy the file again, or look for the checkpoint in another directory",
    some=True,
)
def test_a_manifest_that_is_another_file(kind: str, tmp_path: Path) -> None:
    run = Manager(tmp_path / "run")
    run.save(1, tree(OLD))
    run.save(2, tree(NEW))
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere")
    older, newer = sorted((tmp_path / "run").iterdir())
    data, remedy = FOREIGN[kind]
    (newer / "MANIFEST").write_bytes(data)
    with pytest.raises(CorruptError) as caught:
        ckptstore.load(newer)
    assert remedy in str(caught.value)
    assert which(older) == OLD
    assert which(tmp_path / "elsewhere" / newer.name) == NEW
    shutil.copy(tmp_path / "elsewhere" / newer.name / "MANIFEST", newer / "MANIFEST")
    assert which(newer) == NEW


@follows("checkpoint.manifest_file", "restore the file from a copy, or load an older checkpoint")
def test_a_manifest_that_is_cut(tmp_path: Path) -> None:
    run = Manager(tmp_path)
    run.save(1, tree(OLD))
    run.save(2, tree(NEW))
    older, newer = sorted(tmp_path.iterdir())
    copy = (newer / "MANIFEST").read_bytes()
    (newer / "MANIFEST").write_bytes(copy[:100])
    with pytest.raises(CorruptError):
        ckptstore.load(newer)
    assert which(older) == OLD
    (newer / "MANIFEST").write_bytes(copy)
    assert which(newer) == NEW


class LogIn(http.server.BaseHTTPRequestHandler):
    """Gives a page to log in to whoever does not say who he is."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer me"
        body = self.files[self.path] if known else b"<!DOCTYPE html><title>Sign in</title>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@follows("checkpoint.foreign_files", "download the file again, with your credentials")
def test_a_page_to_log_in(tmp_path: Path) -> None:
    save(tmp_path)
    LogIn.files = {"/MANIFEST": (tmp_path / "MANIFEST").read_bytes()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), LogIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/MANIFEST"
        for headers in ({}, {"Authorization": "Bearer me"}):
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request) as answer:
                (tmp_path / "MANIFEST").write_bytes(answer.read())
            if not headers:
                with pytest.raises(CorruptError):
                    ckptstore.load(tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert which(tmp_path) == NEW


@follows(
    "checkpoint.foreign_files",
    "unpack it (mv MANIFEST MANIFEST.gz && gunzip MANIFEST.gz), or, in a bucket, upload it without "
    "Content-Encoding: gzip",
)
def test_a_manifest_that_is_packed(tmp_path: Path) -> None:
    save(tmp_path)
    sound = (tmp_path / "MANIFEST").read_bytes()
    (tmp_path / "MANIFEST").write_bytes(gzip.compress(sound))
    with pytest.raises(CorruptError) as caught:
        ckptstore.load(tmp_path)
    command = re.findall(r"unpack it \((.*?)\)", str(caught.value))[0]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert which(tmp_path) == NEW
    assert (tmp_path / "MANIFEST").read_bytes() == sound  # as it is uploaded anew


@follows("checkpoint.foreign_files", "unpack it, and pass the directory or the file that was in it")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_of_a_checkpoint(kind: str, tmp_path: Path) -> None:
    save(tmp_path / "saved")
    archive = shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "saved")
    with pytest.raises(NotCommittedError):
        ckptstore.load(archive)
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    assert which(tmp_path / "unpacked/saved") == NEW


@follows("checkpoint.foreign_files", "unpack it with gunzip, and pass the file that was in it")
def test_a_file_of_another_tool_that_is_packed(tmp_path: Path) -> None:
    data = pickle.dumps({"w": [1.0]})
    (tmp_path / "w.pkl.gz").write_bytes(gzip.compress(data))
    with pytest.raises(CheckpointError):
        ckptstore.load(tmp_path / "w.pkl.gz")
    subprocess.run(["gunzip", "w.pkl.gz"], cwd=tmp_path, check=True)
    assert ckptstore.convert.from_pickle(tmp_path / "w.pkl") == {"w": [1.0]}


@follows("checkpoint.foreign_files", "{}read it with `{}`, and save tree")
@follows("checkpoint.foreign_files", "import torch")
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_module_of_torch_jit(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.jit.script(torch.nn.Linear(2, 3))
    torch.jit.save(module, tmp_path / "m.pt")
    with pytest.raises(NotCommittedError, match=r"a module of torch\.jit\.save") as caught:
        ckptstore.load(tmp_path / "m.pt")
    code = str(caught.value).split("`")[1]
    names: dict[str, Any] = {}
    exec(code, names)
    ckptstore.save(tmp_path / "c", names["tree"])
    weight = ckptstore.load(tmp_path / "c")["weight"]
    assert torch.equal(weight, module.state_dict()["weight"])


@follows("checkpoint.foreign_files", "import h5py")
def test_a_file_of_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["dense/w"] = [1.0, 2.0]
    read_by_the_code(tmp_path / "w.h5", "dense/w")


@follows("checkpoint.foreign_directories", "import zarr")
def test_a_directory_of_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    zarr.save_group(tmp_path / "group", w=numpy.array([1.0, 2.0]))
    read_by_the_code(tmp_path / "group", "w")


def read_by_the_code(place: Path, name: str) -> None:
    """Run the code of the error, and save what it reads."""
    with pytest.raises(NotCommittedError) as caught:
        ckptstore.load(place)
    names: dict[str, Any] = {}
    exec(re.findall("`(.*)`", str(caught.value))[0], names)
    ckptstore.save(place.parent / "moved", names["tree"])
    assert ckptstore.load(place.parent / "moved")[name].tolist() == [1.0, 2.0]


@follows(
    "checkpoint.foreign_files",
    "{}with open({}, 'rb') as file, read the line, file.readline(), then "
    "ckptstore.convert.from_equinox(file, like=model)",
)
def test_a_file_of_equinox_after_a_line(tmp_path: Path) -> None:
    equinox = pytest.importorskip("equinox")
    model = {"w": numpy.array([1.0, 2.0])}
    with (tmp_path / "model.eqx").open("wb") as written:
        written.write(b'{"width": 2}\n')
        equinox.tree_serialise_leaves(written, model)
    with pytest.raises(NotCommittedError) as caught:
        ckptstore.load(tmp_path / "model.eqx")
    words = str(caught.value)
    opening, call = re.findall(r"with (open\(.*?\)) as file.*then (.*)", words)[0]
    with eval(opening) as file:
        file.readline()
        read = eval(call, {"ckptstore": ckptstore, "file": file, "model": model})
    assert read["w"].tolist() == [1.0, 2.0]

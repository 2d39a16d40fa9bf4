"""Whatever fails and whenever: what loads is wholly the old or wholly the new checkpoint."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptstore
from ckptstore.format import manifest
from ckptstore.saving import placement
from tests.support import ROOT, faults
from tests.support.disk_model import ModelDisk, materialise
from tests.support.faults import NEW, OLD, Faults, Scenario, tree, which

SCENARIOS = [
    "create-deep",
    "create-nolinks",
    "create-spread",
    "overwrite",
    pytest.param("overwrite-spread", marks=pytest.mark.whole),  # and more of it is in the next
    "overwrite-shared",
    pytest.param("create-copied-spread", marks=pytest.mark.whole),
    pytest.param("create-copied-spread-nolinks", marks=pytest.mark.whole),
    pytest.param("overwrite-copied-spread", marks=pytest.mark.whole),
]
FEWEST_POINTS = {"create": 20, "overwrite": 30}
"""A sweep over fewer calls than this would show that the faults no longer reach the disk."""

SHM = "/dev/shm"
EIO, ENOSPC = errno.EIO, errno.ENOSPC
ACTS = {
    "eio": faults.fail(EIO),
    "disk-full": faults.half(ENOSPC),
    "eintr": faults.fail(errno.EINTR),
    "lost-reply": faults.lost(EIO),
}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: a thousand saves, and none cuts the power."""
    with tempfile.TemporaryDirectory(dir=SHM if os.path.isdir(SHM) else None) as directory:
        yield Path(directory)


@pytest.fixture
def scenario(request: pytest.FixtureRequest, memory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faults, "frozen", faults.frozen)
    monkeypatch.setattr(placement, "FILE_NBYTES", placement.FILE_NBYTES)
    monkeypatch.setattr(manifest, "MANIFEST_MAX_NBYTES", manifest.MANIFEST_MAX_NBYTES)
    return Scenario(request.param, memory)


def files(url: Path) -> list[str]:
    return sorted(path.name for path in url.iterdir()) if url.is_dir() else []


@pytest.mark.parametrize(
    "act", [pytest.param(a, marks=pytest.mark.ci if a in ("eio", "eintr") else []) for a in ACTS]
)
@pytest.mark.parametrize("scenario", SCENARIOS, indirect=True)
def test_an_error_at_every_call_leaves_the_old_or_the_new_checkpoint(
    scenario: Scenario, act: str
) -> None:
    points, outcomes = len(scenario.calls()), Counter[str]()
    for at in range(points):
        url = scenario.fresh()
        before = files(url)
        disk = Faults(at, ACTS[act])
        outcome = "returned"
        try:
            scenario.save(url, disk)
        except ckptstore.CheckpointError as error:
            outcome = type(error).__name__
            assert str(url.parent.parent) in str(error), f"no place in: {error}"
        found = which(url)
        place = f"call {at}, {disk.log[at]}: {outcome}, found {found}"
        if outcome == "returned":
            assert found == NEW, place
        elif outcome == "OutcomeUnknownError":
            assert found in (scenario.before, NEW), place
        else:
            assert found == scenario.before, place
            assert files(url) == before, f"{place}, left behind: {files(url)}"
        outcomes[outcome] += 1
        scenario.check_next(url)
    print(f"{points} points: {dict(outcomes)}")
    assert points >= FEWEST_POINTS[scenario.kind]
    assert outcomes["StorageError"] >= 8


@pytest.mark.parametrize("act", ["kill-before", "kill-after", "interrupt"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_every_call_leaves_the_old_or_the_new_checkpoint(
    name: str, act: str, memory: Path
) -> None:
    report = json.loads(run_faults(name, act, str(memory)))
    print(report)
    kind = name.split("-")[0]
    assert report["points"] >= FEWEST_POINTS[kind]
    assert report["outcomes"][NEW] >= 4
    assert report["outcomes"][OLD if kind == "overwrite" else "None"] >= 10
    assert report["stopped"] >= (10 if act == "interrupt" else 0)


@pytest.mark.ci
def test_a_copy_that_is_killed_at_any_call_is_ended_by_calling_it_again(memory: Path) -> None:
    report = json.loads(run_faults("create-copied-spread-nolinks", "kill-before", str(memory)))
    print(report)
    assert report["points"] >= 30
    assert report["outcomes"][NEW] >= 4 and report["outcomes"]["None"] >= 20


def run_faults(*args: str) -> str:
    """Run a sweep that forks in a process that has no threads."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.support.faults", *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scenario", SCENARIOS, indirect=True)
def test_a_power_cut_after_every_call_leaves_the_old_or_the_new_checkpoint(
    scenario: Scenario, memory: Path
) -> None:
    url = scenario.fresh()
    disk = ModelDisk(memory)
    scenario.save(url, disk)
    step = url.relative_to(memory)
    outcomes, target = Counter[str](), memory / "after"
    last = len(disk.moments) - 1
    for moment, images in enumerate(disk.moments):
        for image in images:
            part = {name: data for name, data in image.items() if name.startswith(step.parts[0])}
            materialise(part, target)
            found = which(target / step)
            allowed = (NEW,) if moment == last else (scenario.before, NEW)
            assert found in allowed, f"moment {moment} of {last}: {found}, {sorted(part)}"
            outcomes[str(found)] += 1
            shutil.rmtree(target)
    print(f"{last + 1} moments, {sum(outcomes.values())} images: {dict(outcomes)}")
    assert last >= 10 and outcomes[NEW] >= 8 and outcomes[str(scenario.before)] >= 50


@pytest.mark.parametrize("call", ["fsync", "flush"])
def test_the_model_finds_a_save_that_does_not_sync(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would fail if the code forgot an fsync: of a file, or of the directory."""
    scenario = Scenario("create", tmp_path)
    url, disk = scenario.fresh(), ModelDisk(tmp_path)
    if call == "fsync":
        disk.fsync = lambda fd: None
    else:
        monkeypatch.setattr("ckptstore.storage.local.LocalStorage.flush", lambda self: None)
    scenario.save(url, disk)
    bad, target = 0, tmp_path / "after"
    for image in disk.moments[-1] if call == "fsync" else itertools.chain(*disk.moments):
        materialise(image, target)
        try:
            bad += which(target / url.relative_to(tmp_path)) is None and call == "fsync"
        except ckptstore.CorruptError:
            bad += 1
        shutil.rmtree(target)
    assert bad


@pytest.mark.parametrize("act", ["eio", "eintr", "lost-reply"])
@pytest.mark.parametrize("scenario", ["overwrite", "overwrite-spread"], indirect=True)
def test_an_error_at_every_call_of_a_load_is_raised(scenario: Scenario, act: str) -> None:
    url, disk = scenario.fresh(), Faults()
    with faults.faulty(disk):
        ckptstore.load(url)
    for at in range(len(disk.log)):
        with faults.faulty(Faults(at, ACTS[act])):
            try:
                assert ckptstore.load(url)["who"] == OLD
            except ckptstore.StorageError as error:
                assert str(url) in str(error)
            else:
                assert disk.log[at][0] == "close"
        assert which(url) == OLD
    assert len(disk.log) >= 8


def test_an_answer_lost_at_the_commit_is_no_error(tmp_path: Path) -> None:
    for kind, call in (
        ("create", "link"),
        ("create-nolinks", "renameat2"),
        ("overwrite", "replace"),
    ):
        directory = tmp_path / kind
        directory.mkdir()
        scenario = Scenario(kind, directory)
        at = [name for name, _ in scenario.calls()].index(call)
        for number in (EIO, errno.EEXIST, errno.ETIMEDOUT):
            url = scenario.fresh()
            scenario.save(url, Faults(at, faults.lost(number)))
            assert which(url) == NEW


def test_a_commit_whose_temporary_file_stays_is_of_unknown_outcome(tmp_path: Path) -> None:
    """It may be on its way to the server still, so its data must not be removed."""
    scenario = Scenario("create", tmp_path)

    def broken(name: str, real: object, args: tuple[object, ...]) -> None:
        disk.unlink = fail_unlink
        raise OSError(EIO, os.strerror(EIO))

    def fail_unlink(path: str) -> None:
        raise OSError(EIO, os.strerror(EIO))

    at = [name for name, _ in scenario.calls()].index("link")
    url, disk = scenario.fresh(), Faults(at, broken)
    with pytest.raises(ckptstore.OutcomeUnknownError, match="may still happen"):
        scenario.save(url, disk)
    (temporary,) = url.glob("MANIFEST.*.tmp")
    temporary.rename(url / "MANIFEST")  # the commit that was on its way arrives
    assert which(url) == NEW


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount("-t", "tmpfs", "-o", "size=512k", "none", str(directory))
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def mount(*args: str) -> None:
    done = subprocess.run(["mount", *args], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}; the file size limit is tested instead")


def test_a_full_disk_keeps_the_old_checkpoint(small_disk: Path) -> None:
    url = small_disk / "ckpt"
    ckptstore.save(url, tree(OLD))
    outcomes = Counter[str]()
    for kept_nbytes in range(0, 48 << 10, 4 << 10):
        filler = small_disk / "filler"
        disk = os.statvfs(small_disk)
        filler.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - kept_nbytes)))
        try:
            ckptstore.save(url, tree(NEW), overwrite=True)
            outcomes["saved"] += 1
            assert which(url) == NEW
        except ckptstore.StorageError as error:
            outcomes[error.reason] += 1
            assert "free some space" in str(error) and str(url) in str(error)
            assert which(url) == OLD and len(files(url)) == 2
        filler.unlink()
        ckptstore.save(url, tree(OLD), overwrite=True)
    assert outcomes["disk-full"] >= 2 and outcomes["saved"] >= 2 and len(outcomes) == 2


def test_a_read_only_disk_is_an_error_that_says_so(small_disk: Path) -> None:
    ckptstore.save(small_disk / "ckpt", tree(OLD))
    mount("-o", "remount,ro", str(small_disk))
    assert which(small_disk / "ckpt") == OLD
    for url in (small_disk / "ckpt", small_disk / "other"):
        with pytest.raises(
            ckptstore.StorageError, match="mount the file system writable"
        ) as caught:
            ckptstore.save(url, tree(NEW), overwrite=True)
        assert caught.value.reason == "read-only" and str(url) in str(caught.value)
    assert which(small_disk / "ckpt") == OLD


PLAIN_USER = """
import os, resource, sys
import ckptstore
from tests.support import faults
url, limit = sys.argv[1], int(sys.argv[2])
faults.which(url)
ckptstore.save(url + "-warm", {}, overwrite=True)  # imports what only root may read
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    ckptstore.save(url, faults.tree(faults.NEW), overwrite=True)
except ckptstore.CheckpointError as error:
    print(type(error).__name__, error.reason, error)
"""


def save_as_a_plain_user(url: Path, limit: int = 0) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PLAIN_USER, str(url), str(limit)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that other users can reach; pytest's own they cannot."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_file_size_limit_keeps_the_old_checkpoint(open_to_all: Path) -> None:
    url = open_to_all / "ckpt"
    ckptstore.save(url, tree(OLD))
    url.chmod(0o777)
    for limit in (100, 10_000):  # in the middle of the manifest never: the data is larger
        said = save_as_a_plain_user(url, limit)
        assert said.startswith("StorageError storage") and "ulimit -f" in said
        assert which(url) == OLD and len(files(url)) == 2


def test_a_directory_that_may_not_be_written_is_an_error_that_says_so(open_to_all: Path) -> None:
    url = open_to_all / "ckpt"
    ckptstore.save(url, tree(OLD))
    url.chmod(0o555)
    said = save_as_a_plain_user(url)
    assert said.startswith("StorageError permission") and str(url) in said and "mode" in said
    url.chmod(0o755)
    assert which(url) == OLD
    ckptstore.save(url, tree(NEW), overwrite=True)
    assert which(url) == NEW

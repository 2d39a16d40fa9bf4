"""The files that killed saves and deletions left: a Manager removes them in the background."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, keep_last
from ckptstore.checkpoint import garbage
from ckptstore.format import names
from ckptstore.storage.bucket import BucketStorage
from ckptstore.storage.local import LocalStorage
from tests.support import places
from tests.support.places import Place
from tests.support.runs import is_of, manage, name_of, tree
from tests.support.servers import Server
from tests.support.servers.proxy import FaultProxy

DEAD = names.file_name("data", "a" * 32, 0, 0)
YOUNG = names.file_name("data", "b" * 32, 0, 0)
PROBE = f"PROBE-{'c' * 32}"
DAY = 24 * 3600.0


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the store say that all files but `YOUNG` and the manifests named are two days old."""

    def age(*young: str) -> None:
        for kind in (LocalStorage, BucketStorage):
            old = dict.fromkeys({DEAD, PROBE, "MANIFEST"} - {*young}, 2 * DAY)
            places.aged(monkeypatch, kind, old)

    return age


def pass_of(manager: Manager) -> None:
    """Wait for the end of the pass that was begun."""
    thread = manager._saves.leftovers._thread
    assert thread is not None, "no pass was begun"
    thread.join(30)
    assert not thread.is_alive()


def resume(place: Place, **options: Any) -> Manager:
    manager = manage(place, **options)
    manager.load_or_init(lambda: tree(0))
    return manager


def test_a_resume_collects_what_is_old_and_leaves_what_is_young(place: Place, aged: Any) -> None:
    manage(place).save(1, tree(1))
    left = [f"{name_of(1)}/{DEAD}", f"{name_of(2)}/{DEAD}", f"{name_of(2)}/{PROBE}"]
    kept = [f"{name_of(2)}/{YOUNG}", f"{name_of(1)}/notes", f"elsewhere/{DEAD}", "notes"]
    before = place.files()
    for name in left + kept:
        place.put(name)
    aged()
    pass_of(resume(place))
    assert place.files() == before | {*kept}
    assert is_of(manage(place).load(), 1)


def test_a_run_that_never_ended_its_first_save_is_collected(place: Place, aged: Any) -> None:
    for step in (1, 2):
        place.put(f"{name_of(step)}/{DEAD}")
    aged()
    pass_of(resume(place))
    assert place.files() == set()
    if place.options is None:
        assert os.listdir(place.url) == []


def test_empty_directories_of_steps_go(tmp_path: Path) -> None:
    Manager(tmp_path).save(1, tree(1))
    for name in (name_of(2), name_of(3), "mine"):
        (tmp_path / name).mkdir()
    pass_of(resume(Place(tmp_path)))
    assert sorted(os.listdir(tmp_path)) == ["mine", name_of(1)]
    (tmp_path / name_of(7)).mkdir()
    assert Manager(tmp_path).gc(grace=0, dry_run=True) == {}
    assert name_of(7) in os.listdir(tmp_path)
    assert Manager(tmp_path).gc() == {}
    assert name_of(7) not in os.listdir(tmp_path)


def test_a_step_that_is_saved_again_and_evicted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    manage(place).save(1, tree(1))
    place.put(f"{name_of(2)}/{DEAD}")  # killed a moment ago
    manager = resume(place, keep=keep_last(1))
    pass_of(manager)
    for step in (2, 3):
        manager.save(step, tree(step))
    assert f"{name_of(2)}/{DEAD}" in place.files(), "it is young"
    leftovers = manager._saves.leftovers
    places.aged(monkeypatch, LocalStorage, {DEAD: 2 * DAY})
    leftovers._due = 0.0  # an eighth of the grace period later
    manager.save(4, tree(4))
    pass_of(manager)
    assert os.listdir(tmp_path) == [name_of(4)]


def test_beside_a_young_manifest_nothing_goes(place: Place, aged: Any) -> None:
    """Its writer may still put back the manifest that it replaced: docs/commit.md."""
    manage(place).save(1, tree(1))
    place.put(f"{name_of(1)}/{DEAD}")
    aged("MANIFEST")
    pass_of(resume(place))
    assert f"{name_of(1)}/{DEAD}" in place.files()


def test_a_damaged_manifest_keeps_its_step_and_no_other(place: Place, aged: Any) -> None:
    manage(place).save(1, tree(1))
    for step in (2, 3):
        place.put(f"{name_of(step)}/{DEAD}")
    place.put(f"{name_of(2)}/MANIFEST", b"damaged")
    aged()
    manager = manage(place)
    with pytest.raises(ckptstore.CorruptError):
        manager.load_or_init(lambda: tree(0))
    assert is_of(manager.load_or_init(lambda: tree(0), fallback=True), 1)
    pass_of(manager)
    assert f"{name_of(2)}/{DEAD}" in place.files()
    assert f"{name_of(3)}/{DEAD}" not in place.files()


def test_what_lies_behind_a_link_is_left_alone(tmp_path: Path, aged: Any) -> None:
    place = Place(tmp_path / "run")
    manage(place).save(1, tree(1))
    ckptstore.save(tmp_path / "base", tree(2))
    (tmp_path / "base" / DEAD).write_bytes(b"of another place")
    (tmp_path / "run" / name_of(2)).symlink_to(tmp_path / "base")
    aged()
    pass_of(resume(place))
    assert (tmp_path / "base" / DEAD).exists()


def test_with_grace_none_only_gc_collects(tmp_path: Path, aged: Any) -> None:
    place = Place(tmp_path)
    place.put(f"{name_of(1)}/{DEAD}")
    aged()
    manager = resume(place, grace=None)
    assert manager._saves.leftovers._thread is None
    assert manager.gc() == {1: [DEAD]}


@pytest.mark.parametrize("grace", [0, -1.0, True, "1", float("nan"), float("inf"), 1e13])
def test_a_grace_period_is_a_number_of_seconds(tmp_path: Path, grace: Any) -> None:
    with pytest.raises(ckptstore.StructureError, match=r"grace is .* a number of") as error:
        Manager(tmp_path, grace=grace)
    assert error.value.reason == "bad-argument"


def test_a_grace_period_survives_a_process_boundary(tmp_path: Path) -> None:
    for grace in (None, 60.0):
        again = pickle.loads(pickle.dumps(Manager(tmp_path, grace=grace)))
        assert again._saves.leftovers.grace == grace


def test_a_load_alone_removes_nothing(tmp_path: Path, aged: Any) -> None:
    place = Place(tmp_path)
    manage(place).save(1, tree(1))
    place.put(f"{name_of(2)}/{DEAD}")
    aged()
    manager = manage(place)
    manager.load()
    assert manager._saves.leftovers._thread is None and f"{name_of(2)}/{DEAD}" in place.files()


@pytest.mark.parametrize("method", ["changed", "delete", "children", "unfinished"])
def test_a_pass_that_fails_says_so_once_and_fails_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    aged: Any,
    method: str,
) -> None:
    place = Place(tmp_path)
    for step in (2, 3):
        place.put(f"{name_of(step)}/{DEAD}")
    aged()
    real = getattr(LocalStorage, method)

    def fail(self: Any, *args: Any, **options: Any) -> Any:
        if threading.current_thread().name == "ckptstore-leftovers":
            raise OSError(5, "surprise") if method == "children" else denied
        return real(self, *args, **options)

    denied = ckptstore.StorageError("not permitted", reason="permission")
    monkeypatch.setattr(LocalStorage, method, fail)
    caplog.set_level(logging.INFO, "ckptstore")
    with manage(place) as manager:
        manager.load_or_init(lambda: tree(0))
        pass_of(manager)
        manager.save(1, tree(1))
    assert is_of(manager.load(), 1)
    told = [r for r in caplog.records if "garbage is left, see gc()" in r.getMessage()]
    assert len(told) == 1 and not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_neither_a_save_nor_the_end_of_a_block_waits_for_a_pass_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, go, real = threading.Event(), threading.Event(), garbage.look

    def look(storage: Any) -> Any:
        hangs.set()
        assert go.wait(60)
        return real(storage)

    monkeypatch.setattr(garbage, "look", look)
    monkeypatch.setattr("ckptstore.runs.leftovers._END_SECONDS", 0.05)
    place = Place(tmp_path)
    manage(place).save(1, tree(1))
    with resume(place) as manager:
        assert hangs.wait(30)
        manager.save(2, tree(2))
        assert manager.load()["step"] == 2
    assert not go.is_set()
    go.set()
    pass_of(manager)


def test_no_thread_is_left_after_a_block(tmp_path: Path) -> None:
    place = Place(tmp_path)
    manage(place).save(1, tree(1))
    with resume(place, keep=keep_last(1)) as manager:
        manager.save(2, tree(2))
    assert "ckptstore-leftovers" not in {thread.name for thread in threading.enumerate()}


CHILD = """
import os, sys, threading
import ckptstore
from ckptstore.checkpoint import garbage
def look(storage):
    threading.Event().wait()  # for ever
garbage.look = look
manager = ckptstore.Manager(sys.argv[1])
manager.load_or_init(lambda: None)
{then}
"""


@pytest.mark.parametrize(
    "then",
    [
        "",
        "sys.exit(0)",
        """
child = os.fork()
if child == 0:
    garbage.look = lambda storage: garbage.Look(0.0, None)
    with manager:
        manager.save(2, {"step": 2})
        manager._saves.leftovers._due = manager._saves.leftovers._whole_due = 0.0
        manager._saves.leftovers.collect_soon()
    os._exit(0 if manager.load() == {"step": 2} else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
    ],
    ids=["the end", "exit", "fork"],
)
def test_a_process_ends_and_forks_in_the_middle_of_a_pass(tmp_path: Path, then: str) -> None:
    Manager(tmp_path).save(1, {"step": 1})
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning"),
            *("-c", CHILD.format(then=then), str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pass_over_a_bucket_costs_a_bounded_number_of_requests(
    server: Server, proxy: FaultProxy
) -> None:
    """Three for a step, once in a grace period; later passes look at young garbage alone."""
    place = places.BucketPlace(server)
    for step in range(5):
        place.put(f"{name_of(step)}/{DEAD}")
    manage(place).save(4, tree(4))
    manager = Manager(place.url, storage_options=proxy.storage_options())
    manager.load()
    proxy.reset()
    leftovers = manager._saves.leftovers
    leftovers.collect_soon()
    pass_of(manager)
    assert 0 < proxy.count() <= 1 + 3 * 5 + 5
    proxy.reset()
    leftovers.collect_soon()
    assert proxy.count() == 0, "not due"
    leftovers._due = 0.0
    leftovers.collect_soon(evicted=False)
    pass_of(manager)
    assert 0 < proxy.count() <= 3 * 4 + 4


# A run that is killed again and again.


def killed_again_and_again(
    directory: Path, kills: int, grace: float | None, seed: int
) -> list[tuple[int, int, int]]:
    """Fork a trainer that is killed in a save, so often; return (step, steps, bytes) after each."""
    rng, rows = random.Random(seed), []
    for _ in range(kills):
        child = os.fork()
        if not child:
            train(directory, grace)
        time.sleep(rng.uniform(0.2, 0.4))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == -signal.SIGKILL, code
        files = [path.stat() for path in directory.glob("step-*/*")]
        nbytes = sum({status.st_ino: status.st_size for status in files}.values())
        steps = Manager(directory).steps()
        rows.append((max(steps, default=0), len(os.listdir(directory)), nbytes))
    return rows


NBYTES = 1 << 20


def train(directory: Path, grace: float | None) -> None:
    """Save a state of a mebibyte again and again; each save takes a while after its data."""
    real = LocalStorage.flush

    def flush(self: LocalStorage) -> None:
        real(self)
        time.sleep(0.05)

    LocalStorage.flush = flush  # type: ignore[method-assign]
    try:
        manager = Manager(directory, keep=keep_last(2), grace=grace)
        state = manager.load_or_init(lambda: {"step": 0, "w": np.zeros(NBYTES, np.uint8)})
        while True:
            state["step"] += 1
            state["w"] += 1
            manager.save_async(state["step"], state)
    finally:
        os._exit(9)


@pytest.mark.ci
@pytest.mark.parametrize("grace", [2.0, None], ids=["grace", "none"])
def test_a_run_that_is_killed_thirty_times_does_not_fill_the_disk(
    tmp_path: Path, grace: float | None
) -> None:
    (tmp_path / "run").mkdir()
    code = f"""
import json, pathlib
from tests.unit.runs import test_leftovers as this
run = pathlib.Path({str(tmp_path / "run")!r})
print(json.dumps(this.killed_again_and_again(run, 30, {grace}, seed=1)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    for number, (step, directories, nbytes) in enumerate(rows, 1):
        print(f"kill {number:2}: step {step:4}, {directories:2} directories, {nbytes:>12,} bytes")
    most = max(nbytes for _, _, nbytes in rows)
    if grace is None:
        assert most > 10 * NBYTES, "each kill leaves the data of a save"
        return
    # Two steps, the one being saved, and the dead saves of the grace period and an eighth more.
    assert most < 16 * NBYTES
    manager = Manager(tmp_path / "run", keep=keep_last(2), grace=grace)
    time.sleep(grace)
    manager.load_or_init(lambda: pytest.fail("begun anew"))
    pass_of(manager)
    assert len(os.listdir(tmp_path / "run")) <= 3
    assert manager.gc(grace=grace) == {}

"""What the errors of a save, in the call and in the background, tell you to do, done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import CheckpointError, Manager, StorageError, StructureError
from ckptstore.saving import background
from ckptstore.saving.attempt import Attempt
from ckptstore.saving.staging import Staging
from tests.support import ROOT, remedies
from tests.support.compare import differences

follows = pytest.mark.follows


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    yield
    for save in background._saves:
        assert save._ended.wait(30)
    background._saves.clear()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Saves in the background do not write before it is set."""
    opened, real = threading.Event(), Attempt.finish

    def finish(attempt: Attempt) -> Any:
        assert opened.wait(30)
        return real(attempt)

    monkeypatch.setattr(Attempt, "finish", finish)
    yield opened
    opened.set()


@follows("saving.background", "save later, or wait with wait=True")
def test_a_save_while_another_is_under_way(tmp_path: Path, gate: threading.Event) -> None:
    first = ckptstore.save_async(tmp_path / "1", [1])
    with pytest.raises(CheckpointError):
        ckptstore.save_async(tmp_path / "2", [2], wait=False)
    threading.Timer(0.05, gate.set).start()
    second = ckptstore.save_async(tmp_path / "2", [2], wait=True)
    assert first.done()
    second.result()
    ckptstore.save_async(tmp_path / "3", [3], wait=False).result()  # later
    assert [ckptstore.load(tmp_path / name) for name in "123"] == [[1], [2], [3]]


@follows("saving.background", "call save again.")
def test_the_error_of_an_earlier_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Attempt._write

    def write(attempt: Attempt) -> Any:
        monkeypatch.setattr(Attempt, "_write", real)
        raise StorageError("the disk is on fire")

    monkeypatch.setattr(Attempt, "_write", write)
    ckptstore.save_async(tmp_path / "1", [1]).wait()
    with pytest.raises(StorageError):
        ckptstore.save_async(tmp_path / "2", [2])
    ckptstore.save_async(tmp_path / "2", [2]).result()
    assert ckptstore.load(tmp_path / "2") == [2]


INTERRUPTED = """
import sys, threading, time
import ckptstore
from ckptstore.saving.attempt import Attempt

Attempt.finish = lambda attempt: time.sleep(60)
ckptstore.save_async(sys.argv[1], {"step": 1})
print("begun", flush=True)
time.sleep(60)
"""


@follows("saving.background", "interrupt again to abandon it")
def test_a_process_that_is_interrupted_twice(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "c")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        while "interrupt again" not in (line := process.stderr.readline()):
            assert line
        remedies.seen(line)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(ckptstore.NotCommittedError):
        ckptstore.load(tmp_path / "c")
    ckptstore.save(tmp_path / "c", {"step": 1})
    assert ckptstore.load(tmp_path / "c") == {"step": 1}


@follows(
    "saving.pending",
    "call result() there, or load the checkpoint to see whether it exists",
)
def test_a_save_of_the_parent_process(tmp_path: Path, gate: threading.Event) -> None:
    pending = ckptstore.save_async(tmp_path / "c", [1])
    read, write = os.pipe()
    pid = _fork()
    if pid == 0:
        try:
            pending.result()
        except CheckpointError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    remedies.seen(os.read(read, 1 << 16).decode())
    os.close(read), os.close(write)
    gate.set()
    pending.result()
    assert ckptstore.load(tmp_path / "c") == [1]


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork while there are threads
        return os.fork()


@follows("saving.pending", "call save() in the training loop")
def test_a_rule_that_saves(tmp_path: Path) -> None:
    def saves(steps: Any) -> Any:
        manager.save(9, [9])
        return steps

    manager = Manager(tmp_path, keep=saves)
    pending = manager.save_async(1, [1])
    assert pending is not None
    pending.result(timeout=30)
    assert manager.steps() == [1]
    manager = Manager(tmp_path, keep=lambda steps: steps)
    manager.save_async(2, [2])
    manager.save(9, [9])
    assert manager.steps() == [1, 2, 9]


@follows("saving.request", "leave it out, or pass each number under a name of its own")
@pytest.mark.parametrize("value", [None, {"a": 0.25}], ids=["none", "dict"])
def test_a_metric_that_is_none_or_a_dict(value: Any, tmp_path: Path) -> None:
    with pytest.raises(StructureError):
        ckptstore.save(tmp_path / "c", {}, metrics={"loss": value})
    metrics = {f"loss_{name}": number for name, number in (value or {}).items()}
    ckptstore.save(tmp_path / "c", {}, metrics=metrics)
    assert ckptstore.inspect(tmp_path / "c").metrics == metrics


@follows(
    "saving.request", "float(value) of a text or a bool, float(value.mean()) of an array with axes"
)
@pytest.mark.parametrize("value", ["0.25", np.full(4, 0.25)], ids=["text", "array"])
def test_a_metric_that_is_no_number(value: Any, tmp_path: Path) -> None:
    with pytest.raises(StructureError):
        ckptstore.save(tmp_path / "c", {}, metrics={"loss": value})
    number = float(value) if isinstance(value, str) else float(value.mean())
    ckptstore.save(tmp_path / "c", {}, metrics={"loss": number})
    assert ckptstore.inspect(tmp_path / "c").metrics == {"loss": 0.25}


@follows("saving.request", "pass float(value)")
def test_a_metric_that_is_a_huge_int(tmp_path: Path) -> None:
    with pytest.raises(StructureError):
        ckptstore.save(tmp_path / "c", {}, metrics={"tokens": 2**60})
    ckptstore.save(tmp_path / "c", {}, metrics={"tokens": float(2**60)})
    assert ckptstore.inspect(tmp_path / "c").metrics == {"tokens": 2.0**60}


@follows("saving.staging", "do not resize an array while it is saved")
def test_an_array_that_is_resized_while_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, real = np.arange(8.0), Staging._checked

    def resized(self: Staging, leaf: int, read: Any) -> Any:
        x.resize(4, refcheck=False)
        return real(self, leaf, read)

    monkeypatch.setattr(Staging, "_checked", resized)
    with pytest.raises(StructureError):
        ckptstore.save(tmp_path / "c", {"x": x})
    monkeypatch.setattr(Staging, "_checked", real)
    ckptstore.save(tmp_path / "c", {"x": x})
    assert differences({"x": x}, ckptstore.load(tmp_path / "c")) == []


@follows("saving.writer", "to save less, save the array that it repeats, and expand the loaded one")
def test_an_array_that_repeats_its_elements(tmp_path: Path) -> None:
    row = np.arange(1024, dtype="f4")
    whole = np.broadcast_to(row, (1024, 1024))
    ckptstore.save(tmp_path / "whole", {"x": whole})
    ckptstore.save(tmp_path / "row", {"x": row})
    assert (np.broadcast_to(ckptstore.load(tmp_path / "row")["x"], (1024, 1024)) == whole).all()
    sizes = [sum(p.stat().st_size for p in (tmp_path / n).iterdir()) for n in ("row", "whole")]
    assert sizes[0] * 100 < sizes[1]


@follows("saving.request", 'metrics={"name": value}')
def test_a_metric_whose_name_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(StructureError):
        ckptstore.save(tmp_path / "c", {}, metrics={1: 0.5})  # type: ignore[dict-item]
    ckptstore.save(tmp_path / "c", {}, metrics={"1": 0.5})
    assert ckptstore.inspect(tmp_path / "c").metrics == {"1": 0.5}

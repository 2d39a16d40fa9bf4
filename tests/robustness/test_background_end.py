"""Processes that end while a save is under way: what they exit with, what they say, what is saved.

Each is a real process. Its saves begin late, so that all of them happen after the end began.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ckptstore
from tests.support import places
from tests.support.places import Place

HEAD = """
import atexit, json, multiprocessing, os, signal, sys, threading, time
atexit.register(print, "a handler from before")
import numpy as np
import ckptstore
from ckptstore.saving.attempt import Attempt

url, options = sys.argv[1], json.loads(sys.argv[2])
real = Attempt.finish
def late(attempt):
    time.sleep(LATE)
    return real(attempt)
Attempt.finish = late
x = np.arange(4 << 20)  # 32 MiB: a bucket takes it in parts

def begin(at=url + "/ckpt"):
    return ckptstore.save_async(at, {"x": x}, storage_options=options)

def fail():  # another save wins the place, and is on its way when the bad news comes
    pending = begin()
    Attempt.finish = real
    ckptstore.save(pending.url, "other", storage_options=options)
    return pending
"""


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Place:
    return Place(tmp_path / "run")


class Script:
    """A process that runs `HEAD` and then some lines."""

    def __init__(self, place: Place, lines: str, late: float = 0.5) -> None:
        import json

        code = HEAD.replace("LATE", str(late)) + lines
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, place.url, json.dumps(place.options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return its exit status, and what it said."""
        try:
            out, err = self.process.communicate(timeout=60)
        except BaseException:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            raise
        return self.process.returncode, out, err


def is_saved(place: Place, name: str = "ckpt") -> bool:
    try:
        loaded = ckptstore.load(f"{place.url}/{name}", storage_options=place.options)
    except ckptstore.NotCommittedError:
        return False
    assert np.array_equal(loaded["x"], np.arange(4 << 20))
    return True


ENDS = {
    "": (0, ""),
    "sys.exit(0)": (0, ""),
    "sys.exit(3)": (3, ""),
    "raise ValueError('of the loop')": (1, "ValueError: of the loop"),
    "signal.raise_signal(signal.SIGINT)": (-signal.SIGINT, "ckptstore: finishing the save to"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_waits_for_its_save(place, end):
    status, said = ENDS[end]
    script = Script(place, f"begin(); x[:] = 0\n{end}")
    code, out, err = script.end()
    assert code == status, err
    assert err.splitlines() == [] if not said else said in err
    assert "a handler from before" in out
    assert is_saved(place)


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "sys.exit(3)", "raise ValueError('loop')"])
def test_a_process_whose_save_failed_does_not_exit_with_0(place, end):
    code, out, err = Script(place, f"fail()\n{end}").end()
    assert code == ckptstore.AlreadyCommittedError.exit_code
    assert err.count("another save") == 1 and err.count("AlreadyCommittedError") == 1
    assert f"ckptstore: the save to {place.url}/ckpt failed:" in err
    assert ("Traceback" in err) == ("ValueError" in end)
    assert "a handler from before" in out


@pytest.mark.smoke
def test_a_full_disk_is_told_at_the_end(disk):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20,) * 2)"
    code, _, err = Script(disk, f"begin()\n{limit}").end()
    assert code == ckptstore.StorageError.exit_code
    assert "could not write" in err and err.count("StorageError") == 1
    assert not is_saved(disk) and disk.files() == set()


def test_an_error_without_a_reason_is_told_with_its_traceback(disk):
    lines = "def broken(self): raise ZeroDivisionError('bug')\nAttempt.finish = broken\nbegin()"
    code, _, err = Script(disk, lines).end()
    assert code == 1
    assert "in broken" in err and err.endswith("ZeroDivisionError: bug\n")


TOLD = {
    "try: fail().result()\nexcept ckptstore.AlreadyCommittedError: pass": 0,
    "p = fail()\nwhile not p.done(): time.sleep(0.01)\n"
    "try: p.check()\nexcept ckptstore.AlreadyCommittedError: pass\np.check()": 0,
    "fail()\ntry: begin(url + '/next')\nexcept ckptstore.AlreadyCommittedError: pass": 0,
}


@pytest.mark.smoke
@pytest.mark.parametrize("lines", TOLD, ids=["result", "check", "the next save"])
def test_an_error_that_was_raised_is_not_told_again(disk, lines):
    code, _, err = Script(disk, lines).end()
    assert (code, err) == (TOLD[lines], "")


def test_an_error_that_ends_the_process_is_told_once(disk):
    code, _, err = Script(disk, "fail()\nbegin(url + '/next')").end()
    assert code == 1
    assert err.count("ckptstore.errors.AlreadyCommittedError: ") == 1
    note = f"This is the error of the earlier save to {disk.url}/ckpt. The new save was not started"
    assert note in err
    assert not (Path(disk.url) / "next").exists()


def test_what_comes_after_a_failed_save_still_runs(disk):
    lines = """
def slow():
    time.sleep(1.0)
    print("a thread")
threading.Thread(target=slow).start()
atexit.register(print, "a handler from after")
fail()
"""
    code, out, _ = Script(disk, lines, late=0.1).end()
    assert code == 8
    assert out.split("\n") == ["a thread", "a handler from after", "a handler from before", ""]


def test_what_was_written_to_a_file_before_a_failed_save_is_not_lost(disk, tmp_path):
    lines = f"""
log = open({str(tmp_path / "log")!r}, "w")
log.write("losses")
fail()
"""
    code, _, _ = Script(disk, lines, late=0.1).end()
    assert code == 8
    assert (tmp_path / "log").read_text() == "losses"


def test_a_second_interrupt_gives_the_save_up(place):
    script = Script(place, "begin()\nprint('begun', flush=True)\ntime.sleep(60)", late=60)
    assert script.process.stdout is not None and script.process.stderr is not None
    assert script.process.stdout.readline() == "begun\n"
    began = time.monotonic()
    script.process.send_signal(signal.SIGINT)
    while "finishing the save" not in script.process.stderr.readline():
        assert script.process.poll() is None
    script.process.send_signal(signal.SIGINT)
    code, out, err = script.end()
    assert code == 130
    assert "interrupted" in err and "Traceback" not in err
    assert "a handler from before" in out
    assert time.monotonic() - began < 20
    assert not is_saved(place)


def test_a_process_that_is_terminated_saves_nothing_and_breaks_nothing(place):
    code, _, _ = Script(place, "begin()\nos.kill(os.getpid(), signal.SIGTERM)").end()
    assert code == -signal.SIGTERM
    assert not is_saved(place)


@pytest.mark.parametrize("call", ["save", "save_async"])
def test_a_handler_of_the_end_can_save(disk, call):
    lines = f"atexit.register(lambda: ckptstore.{call}(url + '/ckpt', {{'x': x}}))"
    code, _, err = Script(disk, lines).end()
    assert (code, err) == (0, "")
    assert is_saved(disk)


def test_a_thread_that_outlives_the_main_thread_can_save(disk):
    lines = """
def train():
    time.sleep(0.3)
    for n in range(2):
        begin(f"{url}/{n}")
threading.Thread(target=train).start()
begin()
"""
    code, _, err = Script(disk, lines, late=0.1).end()
    assert (code, err) == (0, "")
    assert is_saved(disk) and is_saved(disk, "0") and is_saved(disk, "1")


FORK = """
import warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of a fork while there are threads
pending = begin()
pid = os.fork()
if pid == 0:
    assert pending.done()
    try:
        pending.result()
    except ckptstore.CheckpointError as error:
        assert error.reason == "other-process"
    pending.check()
    begin(url + "/child")
    sys.exit(5)
_, status = os.waitpid(pid, 0)
print("child", os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_saves_its_own_and_leaves_its_parents(place):
    code, out, err = Script(place, FORK).end()
    assert (code, err) == (0, "")
    assert "child 5" in out
    assert is_saved(place) and is_saved(place, "child")


MULTIPROCESSING = """
def child(how):
    getattr(sys.modules["__main__"], how)()

context = multiprocessing.get_context("fork")
pending = begin(url + "/parent")
for how in ("begin", "fail"):
    process = context.Process(target=child, args=(how,))
    process.start()
    process.join()
    print(how, process.exitcode)
    url += "-2"
"""


def test_a_child_of_multiprocessing_waits_for_its_save_too(disk):
    code, out, err = Script(disk, MULTIPROCESSING).end()
    assert (code, out.splitlines()) == (0, ["begin 0", "fail 1", "a handler from before"])
    assert err.count("AlreadyCommittedError") == 1
    assert is_saved(disk) and is_saved(disk, "parent")


SPAWNED = """
import multiprocessing, sys
import ckptstore
from ckptstore.saving.attempt import Attempt

def broken(self):
    raise ckptstore.StorageError("no disk")

def child(url, fails):
    if fails:
        Attempt.finish = broken
    ckptstore.save_async(url, [1, 2])

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for fails in (False, True):
        process = context.Process(target=child, args=(f"{sys.argv[1]}/{fails}", fails))
        process.start()
        process.join()
        print(process.exitcode)
"""


def test_a_spawned_child_waits_for_its_save_too(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.split()) == (0, ["0", "10"])
    assert done.stderr.count("no disk") == 1
    assert ckptstore.load(tmp_path / "False") == [1, 2]

"""Being told to stop: real SIGTERMs to real processes, and notices of a cloud."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ckptstore
from ckptstore import Manager, Preemption
from ckptstore.runs import preemption
from tests.support.runs import is_of

LOOP = """
import os, signal, sys, time
import numpy as np
import ckptstore
{before}
with ckptstore.Manager(sys.argv[1], every=1000) as manager:
    preempted = manager.on_preemption()
    for step in range(1, 1_000_000):
        state = {{"step": step, "leaf": np.arange(3) + step}}
        stop = bool(preempted)
        manager.{save}(step, state, force=stop)
        if stop:
            break
        if step == 5:
            print("training", flush=True)
        time.sleep(0.001)
print("left at", step, flush=True)
{after}
"""


class Child:
    """A process that trains until it is told to stop."""

    def __init__(self, run: Path, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, str(run)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "training\n", (line, self.process.communicate())

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send the signal and return the exit code and what was printed."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert err == "", err
        return self.process.returncode, out


def loop(save: str = "save", before: str = "", after: str = "") -> str:
    return LOOP.format(save=save, before=before, after=after)


@pytest.mark.parametrize("save", ["save", "save_async"])
def test_a_loop_that_is_told_to_stop_saves_once_and_leaves(tmp_path: Path, save: str) -> None:
    code, out = Child(tmp_path / "run", loop(save)).stop()
    manager = Manager(tmp_path / "run")
    assert code == 0
    step = int(out.removeprefix("left at "))
    assert manager.steps() == [step]
    assert is_of(manager.load(), step)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_any_signal_that_you_name_tells_the_loop_to_stop(tmp_path: Path, number: int) -> None:
    named = "manager.on_preemption(signals=(signal.SIGUSR1, signal.SIGINT, 1, signal.SIGTERM))"
    script = loop().replace("manager.on_preemption()", named)
    code, out = Child(tmp_path / "run", script).stop(number)
    assert code == 0 and Manager(tmp_path / "run").steps() == [int(out.removeprefix("left at "))]


def test_each_signal_has_its_own_handler_back(tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    theirs: list[int] = []
    old = signal.signal(signal.SIGUSR2, lambda number, _: theirs.append(number))
    try:
        with Manager(tmp_path) as manager:
            told = manager.on_preemption(signals=[*numbers, signal.SIGUSR2, signal.SIGUSR2])
            assert not told
            signal.raise_signal(signal.SIGUSR2)
            assert told and theirs == [signal.SIGUSR2]
            only = manager.on_preemption(signals=signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR2)
            assert not only
            signal.raise_signal(signal.SIGUSR1)
            assert only
        assert [signal.getsignal(number) for number in numbers] == before
    finally:
        signal.signal(signal.SIGUSR2, old)


def test_a_second_interrupt_does_not_wait_for_the_loop(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        told = manager.on_preemption(signals=(signal.SIGINT,))
        signal.raise_signal(signal.SIGINT)
        assert told
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


BAD: list[Any] = [
    (), None, "SIGTERM", ("SIGTERM",), signal.SIGKILL, (signal.SIGTERM, signal.SIGSTOP), 0, -1,
    9999, True, (15.0,), [signal.SIGSEGV], signal.SIGCHLD,
]  # fmt: skip


@pytest.mark.parametrize("signals", BAD, ids=repr)
def test_signals_that_tell_nobody_to_stop_are_refused_and_the_line_that_helps_is_printed(
    tmp_path: Path, signals: Any
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Manager(tmp_path) as manager:
        with pytest.raises(ckptstore.StructureError, match="signals is ") as caught:
            manager.on_preemption(signals=signals)
        assert caught.value.reason == "bad-argument"
        assert signal.getsignal(signal.SIGTERM) == before and preemption._open == []
        line = str(caught.value).partition("to stop: ")[2]
        told = eval(f"manager.on_preemption({line})", {"manager": manager, "signal": signal})
        signal.raise_signal(signal.SIGUSR1)
        assert told
    if signals == signal.SIGKILL:
        assert "SIGKILL" in str(caught.value)


def test_a_save_under_way_is_finished(tmp_path: Path) -> None:
    """The signal comes in the middle of a save in the background, which takes a second."""
    script = """
import sys, time
import numpy as np
import ckptstore
from ckptstore.storage.local import LocalStorage
real = LocalStorage.put
def slow(self, name, chunks, nbytes):
    print("training", flush=True)
    time.sleep(1)
    real(self, name, chunks, nbytes)
LocalStorage.put = slow
with ckptstore.Manager(sys.argv[1]) as manager:
    preempted = manager.on_preemption()
    manager.save_async(1, {"step": 1, "leaf": np.arange(3) + 1})
    while not preempted:
        time.sleep(0.001)
"""
    code, _ = Child(tmp_path / "run", script).stop()
    assert code == 0
    assert is_of(Manager(tmp_path / "run").load(), 1)


def test_the_handler_that_was_there_runs_too(tmp_path: Path) -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: print('theirs', flush=True))"
    code, out = Child(tmp_path / "run", loop(before=before)).stop()
    assert code == 0
    first, second = out.splitlines()
    assert first == "theirs" and second.startswith("left at ")
    assert len(Manager(tmp_path / "run").steps()) == 1


def test_a_handler_that_exits_still_exits(tmp_path: Path) -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))"
    assert Child(tmp_path / "run", loop(before=before)).stop() == (3, "")


def test_a_process_that_ignored_the_signal_is_told(tmp_path: Path) -> None:
    before = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    after = "os.kill(os.getpid(), signal.SIGTERM); print('ignored')"
    code, out = Child(tmp_path / "run", loop(before=before, after=after)).stop()
    assert code == 0 and out.endswith("ignored\n")


def test_after_the_block_the_signal_ends_the_process_again(tmp_path: Path) -> None:
    after = "os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    code, out = Child(tmp_path / "run", loop(after=after)).stop()
    assert code == -signal.SIGTERM and "alive" not in out


def test_the_signal_ends_a_forked_worker(tmp_path: Path) -> None:
    """multiprocessing ends its workers by SIGTERM, and waits for them."""
    before = """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
"""
    script = loop(before=before).replace(
        'print("training", flush=True)',
        """
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            worker.start()
            time.sleep(0.2)
            worker.terminate()
            worker.join(20)
            assert worker.exitcode == -signal.SIGTERM, worker.exitcode
            print("training", flush=True)
        """.strip(),
    )
    code, out = Child(tmp_path / "run", script).stop()
    assert code == 0 and out.startswith("left at ")


def test_a_loop_of_asyncio_hears_of_the_signal_as_before(tmp_path: Path) -> None:
    script = """
import asyncio, signal, sys
import ckptstore
async def main():
    heard = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.set)
    with ckptstore.Manager(sys.argv[1]) as manager:
        preempted = manager.on_preemption()
        print("training", flush=True)
        await heard.wait()
        assert preempted
    print("heard", flush=True)
asyncio.run(main())
"""
    assert Child(tmp_path / "run", script).stop() == (0, "heard\n")


# In this process.


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Keep the handler of the tests' own process."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)
    assert preemption._open == []


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)  # the handler runs between two instructions of Python


def test_the_old_handler_is_put_back_at_the_end_of_the_block(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Manager(tmp_path) as manager:
        preempted = manager.on_preemption()
        assert not preempted and "not told" in repr(preempted)
        assert signal.getsignal(signal.SIGTERM) is not before
        tell()
        assert preempted and isinstance(preempted, Preemption)
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before
    assert preempted, "the flag stays"


def test_two_flags_are_both_raised_and_put_back_in_any_order(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for order in ((0, 1), (1, 0)):
        flags = Manager(tmp_path).on_preemption(), Manager(tmp_path).on_preemption()
        tell()
        assert all(flags)
        for number in order:
            flags[number].close()
            flags[number].close()
        tell()
        # The first, closed first, is still below the second's place: it only passes on.
        while signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)


def test_a_handler_that_was_put_over_ours_still_reaches_the_one_below(tmp_path: Path) -> None:
    heard: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append("below"))
    with Manager(tmp_path) as manager:
        preempted = manager.on_preemption()
        ours: Any = signal.getsignal(signal.SIGTERM)

        def above(number: int, frame: Any) -> None:
            heard.append("above")
            ours(number, frame)

        signal.signal(signal.SIGTERM, above)
    assert signal.getsignal(signal.SIGTERM) is above
    tell()
    assert heard == ["above", "below"] and not preempted


def test_a_notice_raises_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "_POLL_S", 0.001)
    asked = threading.Event()
    told = threading.Event()

    def notice() -> bool:
        asked.set()
        return told.is_set()

    with Manager(tmp_path) as manager:
        preempted = manager.on_preemption(notice)
        assert asked.wait(10) and not preempted
        told.set()
        wait_for(lambda: bool(preempted))


def test_a_notice_is_not_asked_after_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "_POLL_S", 0.001)
    with Manager(tmp_path) as manager:
        manager.on_preemption(lambda: False)
        wait_for(lambda: "ckptstore-notice" in names_of_threads())
    wait_for(lambda: "ckptstore-notice" not in names_of_threads())


def test_a_notice_that_fails_is_logged_once_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preemption, "_POLL_S", 0.001)
    calls = []

    def notice() -> bool:
        calls.append(1)
        if len(calls) < 5:
            raise OSError("no answer")
        return True

    with Manager(tmp_path) as manager:
        preempted = manager.on_preemption(notice)
        wait_for(lambda: bool(preempted))
    assert len(calls) == 5
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "no answer" in caplog.text


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_only_the_main_thread_can_take_a_signal(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            Manager(tmp_path).on_preemption()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    [error] = caught
    assert isinstance(error, ckptstore.StructureError) and error.reason == "not-main-thread"
    assert "main thread" in str(error)


def test_a_notice_is_a_callable(tmp_path: Path) -> None:
    with pytest.raises(ckptstore.StructureError, match="expected a callable") as caught:
        Manager(tmp_path).on_preemption(True)  # type: ignore[arg-type]
    assert caught.value.reason == "bad-argument"


def test_a_handler_that_python_did_not_install_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with pytest.raises(ckptstore.StructureError, match="not installed by Python") as caught:
        Manager(tmp_path).on_preemption()
    assert caught.value.reason == "foreign-handler"

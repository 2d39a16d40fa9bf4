"""What `process_exit` assumes of names of Python that are not public, or that are blunt."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from ckptstore.saving import process_exit


def end_of(lines: str, *args: object) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", lines, *map(str, args)], capture_output=True, text=True, timeout=60
    )
    assert not done.stderr
    return done.returncode, done.stdout.split()


def test_a_function_registered_with_threading_runs_before_executors_take_no_more_work() -> None:
    lines = """
import atexit, concurrent.futures, threading
pool = concurrent.futures.ThreadPoolExecutor(1)
atexit.register(print, "atexit")
threading._register_atexit(lambda: print(pool.submit(lambda: "works").result(10)))
"""
    assert end_of(lines) == (0, ["works", "atexit"])


def test_the_handlers_of_others_run_once_and_in_their_order() -> None:
    lines = """
import atexit, os
atexit.register(print, "first", flush=True)
atexit.register(print, "second", flush=True)
atexit._run_exitfuncs()
atexit._run_exitfuncs()
os._exit(3)
"""
    assert end_of(lines) == (3, ["second", "first"])


def test_an_exception_in_a_handler_does_not_change_the_status() -> None:
    """Which is why `os._exit` is needed."""
    lines = "import atexit, sys\natexit.register(sys.exit, 3)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, timeout=60)
    assert done.returncode == 0


def test_open_files_are_found_and_flushed(tmp_path: Path) -> None:
    with (tmp_path / "text").open("w") as text, (tmp_path / "bytes").open("wb") as binary:
        files = process_exit._files()
        assert any(file is text for file in files)
        assert any(file is binary for file in files)
        assert all(isinstance(file, io.IOBase) for file in files)
    lines = """
import sys
from ckptstore.saving import process_exit
file = open(sys.argv[1], "w")
file.write("flushed")
process_exit.leave(5)
"""
    assert end_of(lines, tmp_path / "left") == (5, [])
    assert (tmp_path / "left").read_text() == "flushed"

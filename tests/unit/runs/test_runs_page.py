"""The training script of docs/runs.md, stopped and killed, ends with the bits of a whole run."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ckptstore
from tests.support import DOCS

PAGE = DOCS / "runs.md"
SLOW = """
import sys, time
import ckptstore
real = ckptstore.Manager.save_async
def slow(*args, **kwargs):
    time.sleep(0.01)
    return real(*args, **kwargs)
ckptstore.Manager.save_async = slow
"""


def script() -> str:
    found = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None and "load_or_init" in found[1]
    return found[1]


def start(directory: Path, before: str = "") -> subprocess.Popen[str]:
    directory.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", before + script()],
        cwd=directory,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_after(step: int, directory: Path, number: int) -> int:
    """Let the script save a step, then send a signal; return the newest step."""
    process, manager = start(directory, SLOW), ckptstore.Manager(directory / "run")
    try:
        while (manager.latest() or 0) < step and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert err == "" and process.returncode in (0, -number)
    return manager.latest() or 0


def test_the_script_of_the_page_is_stopped_and_killed_and_ends_with_the_same_bits(
    tmp_path: Path,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    first = start(whole)
    told = stop_after(50, stopped, signal.SIGTERM)
    assert 50 < told < 300 and told % 50, "it saved a step of its own"
    killed = stop_after(told - told % 50 + 100, stopped, signal.SIGKILL)
    assert told < killed < 300
    last = start(stopped)
    for process in (first, last):
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
    assert steps_of(whole) == steps_of(stopped) == [200, 250, 300]
    for step in (250, 300):
        assert content(whole, step) == content(stopped, step)


def steps_of(directory: Path) -> list[int]:
    return ckptstore.Manager(directory / "run").steps()


def content(directory: Path, step: int) -> Any:
    state = ckptstore.Manager(directory / "run").load(step)
    leaves, structure = jax.tree.flatten(state)
    return structure, [(type(leaf), np.asarray(leaf).tobytes()) for leaf in leaves]

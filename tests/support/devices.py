"""Scripts that run in a process with several devices of the host: their number is fixed in one."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from tests.support import ROOT


def run(script: str, place: pathlib.Path, *arguments: str, devices: int = 8) -> str:
    """Run a script in a process, and return what it printed.

    Args:
        script: the code.
        place: the directory that it runs in.
        arguments: its arguments; for an empty script, the path of a file and its arguments.
        devices: the number of devices.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, *(("-c", script) if script else ()), *arguments],
        cwd=place,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-4000:]}"
    return done.stdout

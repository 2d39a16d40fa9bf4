"""The scripts of `examples/`: killed in the middle, each ends with the bits of a run left alone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, cluster

KILLED_AFTER = "step 60:"
STEPS = 200
TRIES = 5
"""A busy machine may come to the kill only when the script has ended."""


def jax_distributed(run: Path) -> list[list[str]]:
    port = cluster.free_port()
    script = [sys.executable, str(ROOT / "examples/jax_distributed.py"), str(run)]
    where = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--index"]
    return [[*script, *where, str(index)] for index in range(2)]


def torchrun(run: Path, script: str = "torchrun") -> list[list[str]]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    where = ["--master-addr", "127.0.0.1", "--master-port", str(cluster.free_port())]
    return [[*launcher, *where, str(ROOT / f"examples/{script}.py"), str(run)]]


def fsdp2(run: Path) -> list[list[str]]:
    return torchrun(run, "fsdp2")


SCRIPTS = {"jax_distributed": jax_distributed, "torchrun": torchrun, "fsdp2": fsdp2}


@contextlib.contextmanager
def started(commands: list[list[str]], log: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the processes of a script; the end of the block kills what is left of them."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for i, command in enumerate(commands):
            with log.with_suffix(f".{i}").open("wb") as out:
                processes.append(
                    subprocess.Popen(
                        command,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        env=environment,
                        start_new_session=True,
                    )
                )
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def printed(log: Path) -> str:
    return "".join(file.read_text() for file in sorted(log.parent.glob(f"{log.stem}.*")))


def run(commands: list[list[str]], log: Path) -> dict[int, str]:
    """Run a script to its end; return the loss that it printed at each step."""
    with started(commands, log) as processes:
        codes = [process.wait(cluster.WITHIN) for process in processes]
    text = printed(log)
    assert codes == [0] * len(commands), text
    return losses(text)


def run_and_kill(commands: list[list[str]], log: Path) -> dict[int, str]:
    """Run a script until it has come to a step, and kill it there."""
    end = time.monotonic() + cluster.WITHIN
    with started(commands, log) as processes:
        while KILLED_AFTER not in printed(log):
            assert all(process.poll() is None for process in processes), printed(log)
            assert time.monotonic() < end, printed(log)
            time.sleep(0.005)
    return losses(printed(log))


def losses(text: str) -> dict[int, str]:
    return {int(step): loss for step, loss in re.findall(r"step (\d+): loss (\S+)", text)}


@pytest.mark.ci
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_killed_script_ends_as_if_it_was_left_alone(name: str, tmp_path: Path) -> None:
    commands = SCRIPTS[name]
    whole = run(commands(tmp_path / "whole"), tmp_path / "whole.log")
    assert STEPS in whole
    for attempt in range(TRIES):
        place = tmp_path / f"killed-{attempt}"
        killed = run_and_kill(commands(place), place.with_suffix(".log"))
        if STEPS not in killed:
            break
    assert STEPS not in killed
    log = tmp_path / "resumed.log"
    resumed = run(commands(place), log)
    begun = int(re.findall(r"begins at step (\d+)", printed(log))[0])
    assert begun > 0
    assert killed.items() <= whole.items()
    assert resumed == {step: loss for step, loss in whole.items() if step > begun}

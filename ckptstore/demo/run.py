"""One run of the demonstration: its processes, and the kill in the middle of a save."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import ckptstore
from ckptstore import storage
from ckptstore.demo.progress import Progress
from ckptstore.demo.training import SAVE_EVERY, Line
from ckptstore.storage import Storage

RUNS = ("uninterrupted", "resumed", "naive")
LOG = re.compile(f"({'|'.join(RUNS)})-[0-9]+[.]jsonl")


@dataclass
class Run:
    """One of the three runs: its directory, the logs of its processes, and its kill."""

    name: str
    place: str
    logs: Path
    progress: Progress
    processes: list[list[Line]] = field(default_factory=list)
    killed_at: int = 0
    debris: dict[str, str] = field(default_factory=dict)
    late: int = 0

    def steps(self, processes: slice = slice(None)) -> dict[int, Line]:
        """Return the line of each step, from the last process that took the step."""
        return {line["step"]: line for process in self.processes[processes] for line in process}

    @property
    def resumed_from(self) -> int:
        """The step of the checkpoint that the last process started from."""
        return int(self.processes[-1][0]["step"]) - 1

    def launch(self, naive: bool = False, kill: bool = False) -> int:
        """Continue the run from its newest checkpoint in a new process; return its exit status.

        If ``kill`` is set, the process is killed as soon as the directory of step ``killed_at``
        holds data but no manifest, or if that save is over too quickly, in a later one.
        """
        log = self.logs / f"{self.name}-{len(self.processes)}.jsonl"
        way = ["--child", str(log), "naive" if naive else "full"]
        command = [sys.executable, "-m", "ckptstore.demo", self.place, *way]
        child = subprocess.Popen(command, env={"JAX_PLATFORMS": "cpu", **os.environ})
        shown = 0.0
        try:
            with storage.open(self.place) as run:
                while child.poll() is None:
                    if kill:
                        files = traces(run, self.killed_at)
                        if "MANIFEST" in files:
                            self.killed_at += SAVE_EVERY
                            self.late += 1
                        elif files:
                            child.kill()
                            break
                    if time.monotonic() - shown > 0.1:
                        self.progress.step(self.name, log)
                        shown = time.monotonic()
                    time.sleep(0.001 if kill else 0.02)
            status = child.wait()
        finally:
            child.kill()  # Without effect on a process that has ended.
        self.progress.step(self.name, log)
        if status != 0 and not (kill and status == -signal.SIGKILL):
            raise RuntimeError(f"the {self.name} run failed with exit status {status}")
        self.processes.append([json.loads(line) for line in log.read_text().splitlines()])
        return status

    def kill_in_save(self, step: int) -> None:
        """Start the run and kill it in the save of ``step``, or of a later one; make sure of it."""
        self.killed_at = step
        self.progress.event(self.name, f"training, to be killed in the save of step {step}")
        while self.launch(kill=True) == -signal.SIGKILL:
            with storage.open(self.place) as run:
                self.debris = traces(run, self.killed_at)
            if self.debris and "MANIFEST" not in self.debris:
                self.progress.event(self.name, f"killed in the save of step {self.killed_at}")
                return
            self.killed_at += SAVE_EVERY
            self.late += 1
        raise RuntimeError(f"each of {self.late} saves was over before the kill: {self.name}")

    def finish(self, naive: bool = False) -> None:
        """Run to the last step, then delete all checkpoints but the last, and the garbage."""
        again = "training again after the kill" if self.processes else "training"
        self.progress.event(self.name, again)
        self.launch(naive=naive)
        self.progress.event(self.name, "done")
        manager = ckptstore.Manager(self.place)
        for step in manager.steps()[:-1]:
            manager.delete(step)
        manager.gc(grace=0)  # no process saves any more


def traces(run: Storage, step: int) -> dict[str, str]:
    """Return the files that the save of a step has written so far: names and sizes."""
    place = run.child(f"step-{step:012d}")
    found = {name: f"{size:,} bytes" for name, size in place.list().items() if size}
    return found | dict.fromkeys(place.unfinished(), "an upload that was not finished")


def clear(place: str) -> None:
    """Remove the files of an earlier demo, and nothing else."""
    with storage.open(place) as top:
        directories, files = top.children(), list(top.list())
        if not set(directories) <= set(RUNS) or not all(map(LOG.fullmatch, files)):
            raise RuntimeError(f"{place} holds more than an earlier demo, so it is not replaced")
        for name in directories:
            run = top.child(name)
            for step in run.children():
                below = run.child(step)
                for part in below.unfinished():
                    below.abort(part)
                for file in below.list():
                    below.delete(file)
                below.remove()
            run.remove()
        for file in files:
            top.delete(file)

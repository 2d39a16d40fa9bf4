"""Kill a training run in the middle of a save, then resume it bit for bit.

Run it as ``python -m ckptstore.demo [RUN_DIR_OR_URL]``.  A small classifier learns the digits
bundled with scikit-learn, three times over, each time in processes of its own:

* *uninterrupted*, from the first step to the last;
* *resumed*: killed by SIGKILL in the middle of a save, then restarted with :func:`ckptstore.load`;
* *naive*: killed likewise, but only its parameters are restored and ``optimizer.init`` is called
  anew, so that Adam's moments are lost and the learning rate schedule starts over.

The resumed run has to repeat the uninterrupted one bit for bit, or the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ckptstore
from ckptstore import storage
from ckptstore.storage import Storage

STEPS, WARMUP, BATCH, HIDDEN, PEAK_RATE = 240, 24, 128, 1024, 4e-3
SAVE_EVERY, KILL_AT = 20, 160
RUNS = ("uninterrupted", "resumed", "naive")
LOG = re.compile(f"({'|'.join(RUNS)})-[0-9]+[.]jsonl")
Line = dict[str, Any]


def train(run: str, log: Path, naive: bool) -> None:
    """Train from the newest checkpoint in ``run``, or from scratch, up to the last step."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax  # type: ignore[import-untyped, unused-ignore]
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, WARMUP, STEPS)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def fresh_state() -> dict[str, Any]:
        normal = np.random.default_rng(0).normal
        params = [
            {"w": jnp.float32(normal(0.0, (2 / n) ** 0.5, (n, m))), "b": jnp.zeros(m)}
            for n, m in ((images.shape[1], HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 10))
        ]
        state = {"params": params, "opt_state": optimizer.init(params), "step": 0}
        order = np.arange(len(images))
        return state | {"key": jax.random.key(0), "order": order, "position": len(order)}

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        logits = x @ params[-1]["w"] + params[-1]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def take_step(params: Any, opt_state: Any, key: Any, x: Any, y: Any) -> Any:
        x = x + jax.random.uniform(key, x.shape, minval=-0.15, maxval=0.15)
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        rate = schedule(opt_state[1][2].count)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, rate, loss

    update = jax.jit(take_step)
    manager = ckptstore.Manager(run, every=SAVE_EVERY)
    state = manager.load_or_init(fresh_state)
    if naive:
        state["opt_state"] = optimizer.init(state["params"])

    with log.open("w", encoding="utf-8") as lines:
        while state["step"] < STEPS:
            state["key"], shuffle, noise = jax.random.split(state["key"], 3)
            if state["position"] + BATCH > len(images):  # A new epoch, in a new order.
                state["order"] = np.asarray(jax.random.permutation(shuffle, len(images)))
                state["position"] = 0
            rows = state["order"][state["position"] :][:BATCH]
            state["params"], state["opt_state"], rate, loss = update(
                state["params"], state["opt_state"], noise, images[rows], labels[rows]
            )
            state["position"] += BATCH
            state["step"] += 1
            line: Line = {"step": state["step"], "count": int(state["opt_state"][1][0].count)}
            for name, value in (("lr", float(rate)), ("loss", float(loss))):
                line |= {name: value, f"{name}_bits": struct.pack(">f", value).hex()}
            if state["step"] == STEPS:
                leaves = jax.tree.leaves((state["params"], state["opt_state"]))
                content = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
                line["digest"] = hashlib.sha256(content).hexdigest()
            print(json.dumps(line), file=lines, flush=True)
            manager.save(state["step"], state)


def traces(run: Storage, step: int) -> dict[str, str]:
    """Return what the save of a step has written so far: the names, each with how much."""
    place = run.child(f"step-{step:012d}")
    found = {name: f"{size:,} bytes" for name, size in place.list().items() if size}
    return found | dict.fromkeys(place.unfinished(), "an upload that was not finished")


@dataclass
class Run:
    """One of the three runs: where it lies, what its processes logged, how it was killed."""

    name: str
    place: str
    logs: Path
    processes: list[list[Line]] = field(default_factory=list)
    killed_at: int = 0
    debris: dict[str, str] = field(default_factory=dict)
    late: int = 0

    def steps(self, processes: slice = slice(None)) -> dict[int, Line]:
        """Return the line of each step, from the last of the processes that took it."""
        return {line["step"]: line for process in self.processes[processes] for line in process}

    @property
    def resumed_from(self) -> int:
        """The step of the checkpoint that the last process started from."""
        return int(self.processes[-1][0]["step"]) - 1

    def launch(self, naive: bool = False, kill: bool = False) -> int:
        """Take the run on from its newest checkpoint in a new process; return its exit status.

        If ``kill`` is set, the process is killed as soon as the directory of step ``killed_at``
        holds data but no manifest, or if that save is over too quickly, in a later one.
        """
        log = self.logs / f"{self.name}-{len(self.processes)}.jsonl"
        way = ["--child", str(log), "naive" if naive else "full"]
        command = [sys.executable, "-m", "ckptstore.demo", self.place, *way]
        child = subprocess.Popen(command, env={"JAX_PLATFORMS": "cpu", **os.environ})
        try:
            with storage.open(self.place) as run:
                while kill and child.poll() is None:
                    found = traces(run, self.killed_at)
                    if "MANIFEST" in found:
                        self.killed_at += SAVE_EVERY
                        self.late += 1
                    elif found:
                        child.kill()
                        break
                    time.sleep(0.001)
            status = child.wait()
        finally:
            child.kill()  # Without effect on a process that has ended.
        if status != 0 and not (kill and status == -signal.SIGKILL):
            raise RuntimeError(f"the {self.name} run failed with exit status {status}")
        self.processes.append([json.loads(line) for line in log.read_text().splitlines()])
        return status

    def kill_in_save(self, step: int) -> None:
        """Start the run and kill it in the save of ``step``, or of a later one; make sure of it."""
        self.killed_at = step
        while self.launch(kill=True) == -signal.SIGKILL:
            with storage.open(self.place) as run:
                self.debris = traces(run, self.killed_at)
            if self.debris and "MANIFEST" not in self.debris:
                return
            self.killed_at += SAVE_EVERY
            self.late += 1
        raise RuntimeError(f"each of {self.late} saves was over before the kill: {self.name}")

    def finish(self, naive: bool = False) -> None:
        """Run to the last step, then delete all checkpoints but the last, and the garbage."""
        self.launch(naive=naive)
        manager = ckptstore.Manager(self.place)
        for step in manager.steps()[:-1]:
            manager.delete(step)
        manager.gc(grace=0)  # nobody saves any more


def differences(run: Run, reference: Run) -> list[str]:
    """Return where a run's logs or its final state differ from those of another run."""
    expected = reference.steps()
    pairs = [(line, expected.get(line["step"])) for process in run.processes for line in process]
    found = [f"{line} instead of {other}" for line, other in pairs if line != other]
    if not list(run.steps()) == list(expected) == list(range(1, STEPS + 1)):
        found.append("the runs did not take the same steps")
    if run.resumed_from != run.killed_at - SAVE_EVERY:
        found.append(f"resumed from {run.resumed_from}, not from the last save before the kill")
    return found


def report(runs: Sequence[Run], found: list[str]) -> None:
    """Print the table and say in plain words what happened."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    whole, resumed, _ = runs
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", "run", "step", "rate", "loss", "Adam count", "bits"):
        table.add_column(heading, justify="left" if heading in ("", "run") else "right")
    for moment in ("start", "warmed up", "before kill", "after resume", "end"):
        for run in runs:
            killed = run if run.killed_at else resumed
            line = {
                "start": run.steps()[1],
                "warmed up": run.steps()[WARMUP + 1],
                "before kill": (run.steps(slice(-1)) or run.steps())[killed.killed_at],
                "after resume": run.steps()[killed.resumed_from + 1],
                "end": run.steps()[STEPS],
            }[moment]
            same = line == whole.steps()[line["step"]]
            first, bits = (moment, "") if run is whole else ("", "equal" if same else "differ")
            cells = f"{line['step']} {line['lr']:.2e} {line['loss']:.4e} {line['count']}".split()
            table.add_row(first, run.name, *cells, bits, style=None if same else "red")
    console = Console(highlight=False, markup=False)
    console.print(table, "")
    for run in runs[1:]:
        left = ", ".join(f"{name} ({what})" for name, what in run.debris.items())
        late = f" (saves that escaped the kill: {run.late})" if run.late else ""
        rate = run.steps()[run.resumed_from + 1]["lr"]
        print(f"{run.name}: killed at step {run.killed_at} while saving{late}")
        print(f"  left in that step's directory: {left}; no MANIFEST")
        print(f"  resumed from step {run.resumed_from}, at learning rate {rate:.2e}")
    print(f"mean loss of the last {SAVE_EVERY} steps, and loss of the last:")
    for run in runs:
        losses = [line["loss"] for line in run.steps().values()][-SAVE_EVERY:]
        print(f"  {run.name:13} {sum(losses) / SAVE_EVERY:.4e} {losses[-1]:.4e}")
    verdict = f"resumed run bit-equal to the uninterrupted one: {'NO' if found else 'yes'}"
    console.print(verdict, style="red" if found else "green")
    if found:
        print(f"  {len(found)} differences, the first: {found[0]}")


def draw(runs: Sequence[Run], picture: Path) -> None:
    """Draw learning rate and loss of the three runs over the steps."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    whole, resumed, naive = runs
    for run, label, color, width in (
        (whole, "uninterrupted", "#b9c6da", 7.0),
        (naive, "killed, only parameters restored", "#d9482b", 1.6),
        (resumed, "killed, resumed with ckptstore.load", "#1f4e9c", 1.6),
    ):
        steps, lines = list(run.steps()), run.steps().values()
        losses = np.log([line["loss"] for line in lines])
        smooth = [losses[max(0, i - 4) : i + 5].mean() for i in range(len(losses))]
        top.plot(steps, [line["lr"] for line in lines], color=color, lw=width, label=label)
        bottom.plot(steps, np.exp(losses), color=color, lw=0.6, alpha=0.4)
        bottom.plot(steps, np.exp(smooth), color=color, lw=width)
    for axis in (top, bottom):
        axis.axvspan(resumed.resumed_from, resumed.killed_at, color="0.5", alpha=0.12, lw=0)
        axis.axvline(resumed.killed_at, color="0.2", lw=1.2, ls=":")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    mark = f"killed in the save of step {resumed.killed_at},\nresumed from {resumed.resumed_from}"
    top.text(resumed.resumed_from - 3, 0, mark, fontsize=9, ha="right")
    top.set(ylabel="learning rate")
    bottom.set(ylabel="training loss", yscale="log", xlabel="step", xlim=(0, STEPS))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(picture, dpi=150)


def clear(place: str) -> None:
    """Remove what an earlier demo left, and nothing else."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the demonstration and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m ckptstore.demo")
    parser.add_argument("run", nargs="?", default="demo-run", metavar="RUN_DIR_OR_URL")
    parser.add_argument("--picture", type=Path, help="where the picture goes (demo.png)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    place = options.run.rstrip("/")
    if options.child:
        train(place, Path(options.child[0]), naive=options.child[1] == "naive")
        return 0

    began = time.monotonic()
    local = "://" not in place
    logs = Path(place if local else tempfile.mkdtemp(prefix="ckptstore-demo-"))
    picture = options.picture or (logs.parent if local else Path()) / "demo.png"
    whole, resumed, naive = runs = [Run(name, f"{place}/{name}", logs) for name in RUNS]
    try:
        clear(place)
        logs.mkdir(parents=True, exist_ok=True)
        whole.finish()
        resumed.kill_in_save(KILL_AT)
        resumed.finish()
        naive.kill_in_save(resumed.killed_at)
        naive.finish(naive=True)
    except (RuntimeError, ckptstore.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = differences(resumed, whole)
    report(runs, found)
    draw(runs, picture)
    print(f"picture: {picture}, logs: {logs}\nwall time: {time.monotonic() - began:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

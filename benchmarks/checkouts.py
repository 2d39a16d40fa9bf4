"""Two checkouts of ckptstore side by side: seconds and peak memory of a save and a load.

    python benchmarks/checkouts.py OLD NEW [--rounds N] [--states NAME ...] [--json FILE]

Each checkout runs in a process of its own, which imports its `ckptstore` and nothing of the other.
The processes take turns, one save and one load at a time, so that a machine that slows down slows
both. `README.md` beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from environment import describe
from rich.console import Console
from rich.table import Table

_FIGURES = {
    "save_s": "save, s",
    "load_s": "load, s",
    "save_cpu_s": "save, CPU s",
    "load_cpu_s": "load, CPU s",
    "save_peak": "save, peak MB",
    "load_peak": "load, peak MB",
}


class Checkout:
    """A process that saves and loads with the ckptstore of one checkout."""

    def __init__(self, root: Path, state: str, directory: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", state, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        imported = Path(self._answer()["ckptstore"])
        if not imported.is_relative_to(root):
            raise SystemExit(f"{root}: imported {imported}, not the ckptstore of this checkout")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.communicate()

    def round(self) -> dict[str, float]:
        """Save and load once, and return the figures."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a child process ended; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def child(state: str, directory: str) -> None:
    """Save and load once for each line of stdin, and print the figures."""
    from peak import reset_high_water_mark, return_free_memory, status
    from speed import TOUCHED_STATES, fresh, timed, touch_memory
    from states import STATES, nbytes

    import ckptstore

    def measured(name: str, call: Any, *arguments: Any) -> dict[str, float]:
        touch_memory(TOUCHED_STATES * size)  # before the peak begins to count
        return_free_memory()
        resident = status("VmRSS")
        reset_high_water_mark()
        seconds, cpu, value = timed(0, call, *arguments)
        peak = (status("VmHWM") - resident) / 1e6
        del value
        return {f"{name}_s": seconds, f"{name}_cpu_s": cpu, f"{name}_peak": peak}

    def save(tree: Any) -> None:
        ckptstore.save(path, tree)  # what it returns is not a tree of jax

    tree, path = STATES[state].build(), Path(directory) / f"{os.getpid()}"
    size = nbytes(tree)
    print(json.dumps({"ckptstore": ckptstore.__file__}), flush=True)
    for _ in sys.stdin:
        figures = measured("save", save, fresh(tree))
        figures |= measured("load", ckptstore.load, path)
        shutil.rmtree(path)
        print(json.dumps(figures), flush=True)


def main() -> None:
    """Measure what the command line names, and print a table for each state."""
    parser = argparse.ArgumentParser(description="Compare two checkouts of ckptstore.")
    parser.add_argument("checkouts", nargs=2, metavar=("OLD", "NEW"), type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--states", nargs="+", default=["large", "small"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    console, record = Console(width=110), {}
    facts = describe(options.dir)
    console.print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), highlight=False)
    for state in options.states:
        record[state] = rounds = measure(options, state)
        table = Table("", "old, median", "new, median", "new / old", "each round", title=state)
        for figure, title in _FIGURES.items():
            old, new = ([one[side][figure] for one in rounds] for side in ("old", "new"))
            ratio = statistics.median(new) / max(statistics.median(old), 1e-9)
            each = " ".join(f"{b / max(a, 1e-9):.2f}" for a, b in zip(old, new, strict=True))
            medians = (f"{statistics.median(side):.3f}" for side in (old, new))
            table.add_row(title, *medians, f"{ratio:.3f}", each)
        console.print(table)
    if options.json:
        options.json.write_text(json.dumps({"environment": facts, "rounds": record}, indent=1))


def measure(options: argparse.Namespace, state: str) -> list[dict[str, dict[str, float]]]:
    """Return the figures of both checkouts, a round at a time; the first round is not counted."""
    old, new = (path.resolve() for path in options.checkouts)
    with (
        tempfile.TemporaryDirectory(dir=options.dir, prefix="ckptstore-checkouts-") as directory,
        Checkout(old, state, Path(directory)) as before,
        Checkout(new, state, Path(directory)) as after,
    ):
        rounds = []
        for number in range(options.rounds + 1):
            pair = [("old", before), ("new", after)]
            rounds.append({side: one.round() for side, one in pair[:: 1 if number % 2 else -1]})
        return rounds[1:]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()

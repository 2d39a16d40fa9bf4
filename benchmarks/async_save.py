"""How long `save_async` keeps a training loop waiting, beside Orbax and a plain copy of the state.

    python benchmarks/async_save.py [--rounds N] [--states NAME ...] [--copies N] [--json FILE]
                                    [--dir DIR]

`README.md` beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
from environment import describe
from peak import reset_high_water_mark, return_free_memory, status
from rich.console import Console
from rich.table import Table
from speed import touch_memory
from states import STATES, Tree, nbytes

import ckptstore

Finish = Callable[[], object]
"""Waits until what was begun is saved."""


@dataclass
class Result:
    """What was measured of one way to save; every list has one figure a round.

    Attributes:
        name: Its name.
        blocked_s: Seconds until the call returned.
        step_s: Seconds of the next step of the loop, which changes the whole state in place.
        total_s: Seconds from the call until the checkpoint was there.
        memory: Bytes of resident memory meanwhile, at the highest, beyond the state.
    """

    name: str
    blocked_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def _nothing(path: Path, tree: Tree) -> Finish:
    return lambda: None


def _copy(path: Path, tree: Tree) -> Finish:
    copy = jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)
    return lambda: copy


def _save(path: Path, tree: Tree) -> Finish:
    ckptstore.save(path, tree)
    return lambda: None


def _save_async(path: Path, tree: Tree) -> Finish:
    return ckptstore.save_async(path, tree).result


class _Orbax:
    def __init__(self) -> None:
        self._orbax = import_module("orbax.checkpoint")
        handler = self._orbax.StandardCheckpointHandler()
        self._checkpointer = self._orbax.AsyncCheckpointer(handler)

    def __call__(self, path: Path, tree: Tree) -> Finish:
        self._checkpointer.save(path, args=self._orbax.args.StandardSave(tree))
        return self._checkpointer.wait_until_finished


def main() -> None:
    """Measure, print a table for each state, and write the figures to a file if one is named."""
    options = _options()
    console = Console(width=120)
    facts = describe(Path(options.dir)) | {"device": jax.devices()[0].device_kind}
    console.print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), highlight=False)
    ways = {
        "no save": _nothing,
        "a copy in memory": _copy,
        "ckptstore.save": _save,
        "ckptstore.save_async": _save_async,
        "Orbax AsyncCheckpointer": _Orbax(),
    }
    record: dict[str, object] = {"environment": facts}
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="ckptstore-async-") as directory:
        for name in options.states:
            state = STATES[name]
            tree = [state.build(seed) for seed in range(options.copies)]
            size = f"{len(jax.tree.leaves(tree)):,} leaves, {nbytes(tree) / 1e6:,.0f} MB"
            results = measure(ways, tree, Path(directory), options.rounds)
            console.print(_table(f"{state.about}: {size}", results))
            record[name] = [asdict(result) for result in results]
            del tree
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def measure(
    ways: dict[str, Callable[[Path, Tree], Finish]], tree: Tree, directory: Path, rounds: int
) -> list[Result]:
    """Save the tree in each way in turn, in another order each round, after one that is not kept.

    Each save is followed at once by one step, and then waited for.
    """
    results = {name: Result(name) for name in ways}
    step = _in_place if isinstance(jax.tree.leaves(tree)[0], np.ndarray) else _donating()
    tree = step(tree)  # compiled now
    for number in range(rounds + 1):
        for name in random.Random(number).sample(list(ways), len(ways)):
            path = directory / "checkpoint"
            gc.collect()
            os.sync()
            return_free_memory()
            touch_memory(2 * nbytes(tree))
            before = status("VmRSS")
            reset_high_water_mark()
            begin = time.perf_counter()
            finish = ways[name](path, tree)
            returned = time.perf_counter()
            tree = step(tree)
            stepped = time.perf_counter()
            finish()
            saved = time.perf_counter()
            del finish
            if number:
                result = results[name]
                result.blocked_s.append(returned - begin)
                result.step_s.append(stepped - returned)
                result.total_s.append(saved - begin)
                result.memory.append(status("VmHWM") - before)
            shutil.rmtree(path, ignore_errors=True)
    return list(results.values())


def _in_place(tree: Tree) -> Tree:
    for leaf in jax.tree.leaves(tree):
        leaf += 1
    return tree


def _donating() -> Callable[[Tree], Tree]:
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    return lambda tree: jax.block_until_ready(step(tree))


def _table(title: str, results: list[Result]) -> Table:
    table = Table(title=title)
    table.add_column("medians of " + str(len(results[0].step_s)))
    for column in ("call, s", "min–max", "next step, s", "both, less no save", "until saved, s"):
        table.add_column(column, justify="right")
    table.add_column("memory", justify="right")
    alone = statistics.median(results[0].step_s)
    for result in results:
        blocked, step = statistics.median(result.blocked_s), statistics.median(result.step_s)
        table.add_row(
            result.name,
            f"{blocked:.4f}",
            f"{min(result.blocked_s):.4f}–{max(result.blocked_s):.4f}",
            f"{step:.3f}",
            f"{blocked + step - alone:.3f}",
            f"{statistics.median(result.total_s):.2f}",
            f"{statistics.median(result.memory) / 1e6:,.0f} MB",
        )
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--states", nargs="+", default=["large", "numpy"], choices=list(STATES))
    parser.add_argument("--copies", type=int, default=1, help="of the state, all saved as one")
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where to save")
    parser.add_argument("--json", help="a file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What a save writes, and how long it takes, where most of the state did not change.

    python benchmarks/incremental.py [--rounds N] [--saves N] [--json FILE] [--dir DIR]

`README.md` beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from environment import describe
from rich.console import Console
from rich.table import Table
from speed import touch_memory
from states import STATES, Tree, nbytes

import ckptstore
from ckptstore.digests import Buffer
from ckptstore.storage import local

_RANK = 12
_MODES = {"reuse": 10, "no reuse": 1}
"""`keep_full_every` by name."""

Row = dict[str, Any]
Figures = tuple[float, float, int]


def main() -> None:
    """Measure, print the tables, and write the figures to a file if one is named."""
    options = _options()
    console = Console(width=120)
    facts = describe(Path(options.dir))
    console.print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), highlight=False)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="ckptstore-reuse-") as directory:
        frozen = _frozen(Path(directory), options.rounds, options.saves)
        _print(console, frozen)
        changing = _changing(Path(directory), options.rounds)
        _print(console, changing)
    if options.json:
        record = {"environment": facts, "frozen": frozen, "changing": changing}
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def _frozen(directory: Path, rounds: int, saves: int) -> Row:
    """Save a state of which 95% stays as it is, `saves` times in a row."""
    state = _lora()
    results: dict[str, list[list[Figures]]] = {name: [] for name in _MODES}
    for number in range(rounds):
        for name in _turn(number):
            run = directory / f"{name}-{number}"
            manager = ckptstore.Manager(run, keep_full_every=_MODES[name])
            figures = []
            for step in range(saves):
                state["trained"] = jax.block_until_ready(jax.tree.map(_next, state["trained"]))
                figures.append(_save(manager, step, state))
            results[name].append(figures)
            assert ckptstore.verify(run / f"step-{saves - 1:012d}") == []
            for step in range(saves):
                manager.delete(step)
    trained = nbytes(state["trained"])
    size = nbytes(state)
    rows = []
    for name, all_figures in results.items():
        for step in range(saves):
            rows.append(_row(name, step + 1, [figures[step] for figures in all_figures]))
    head = f"LoRA: {size / 1e6:.0f} MB, {trained / 1e6:.1f} MB ({trained / size:.1%}) of it trained"
    return {"head": head, "rows": rows}


def _changing(directory: Path, rounds: int) -> Row:
    """Save a state of which everything changes, with and without a look at what it was."""
    state = STATES["large"].build()
    managers = {
        name: ckptstore.Manager(directory / name, keep_full_every=every)
        for name, every in _MODES.items()
    }
    results: dict[str, list[Figures]] = {name: [] for name in _MODES}
    for number in range(rounds + 1):
        state = jax.block_until_ready(jax.tree.map(_next, state))
        for name in _turn(number):
            figures = _save(managers[name], number, state)
            if number:  # before the first there is nothing to look at
                results[name].append(figures)
                managers[name].delete(number - 1)
    rows = [_row(name, "all but the first", figures) for name, figures in results.items()]
    return {"head": f"AdamW: {nbytes(state) / 1e6:.0f} MB, all of it changing", "rows": rows}


def _lora() -> Tree:
    """Return the large model's parameters, frozen, with adapters of rank 12 and their AdamW."""
    params = STATES["large"].build()["params"]
    blocks = {name: block for name, block in params.items() if name.startswith("block")}
    adapters = {
        name: {
            f"{part}_{weight}": {
                "a": jnp.ones((matrix.shape[0], _RANK)),
                "b": jnp.zeros((_RANK, matrix.shape[1])),
            }
            for part in ("attention", "mlp")
            for weight, matrix in block[part].items()
        }
        for name, block in blocks.items()
    }
    trained = {"adapters": adapters, "opt_state": optax.adamw(1e-3).init(adapters)}
    return {"params": params, "trained": trained}


def _next(leaf: jax.Array) -> jax.Array:
    """Return a leaf that has changed, in each of its numbers."""
    return leaf + 1 if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf * 1.001 + 1e-3


def _turn(number: int) -> list[str]:
    """Return the modes in another order in each round."""
    return list(_MODES) if number % 2 else list(reversed(_MODES))


def _row(mode: str, save: object, figures: list[Figures]) -> Row:
    seconds, cpu, written = zip(*figures, strict=True)
    return {"mode": mode, "save": save, "seconds": seconds, "cpu": cpu, "written": written[0]}


def _save(manager: ckptstore.Manager, step: int, state: Tree) -> Figures:
    """Return seconds and CPU seconds of a save, and the bytes that this process wrote."""
    written, put = 0, local.LocalStorage.put

    def counted(self: Any, name: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        nonlocal written
        put(self, name, chunks, nbytes)
        written += nbytes

    gc.collect()
    os.sync()
    touch_memory(2 * nbytes(state))
    local.LocalStorage.put = counted  # type: ignore[method-assign]
    try:
        begin, cpu = time.perf_counter(), time.process_time()
        manager.save(step, state)
        return time.perf_counter() - begin, time.process_time() - cpu, written
    finally:
        local.LocalStorage.put = put  # type: ignore[method-assign]


def _print(console: Console, result: Row) -> None:
    table = Table(title=result["head"], title_justify="left")
    for column in ("", "save", "MB written", "seconds", "least", "most", "CPU"):
        table.add_column(column, justify="right" if column else "left")
    for row in result["rows"]:
        seconds = row["seconds"]
        table.add_row(
            row["mode"],
            str(row["save"]),
            f"{row['written'] / 1e6:.1f}",
            *(f"{f(seconds):.3f}" for f in (statistics.median, min, max)),
            f"{statistics.median(row['cpu']):.3f}",
        )
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--saves", type=int, default=4, help="of a run with frozen parameters")
    parser.add_argument("--json")
    parser.add_argument("--dir", default=tempfile.gettempdir())
    return parser.parse_args()


if __name__ == "__main__":
    main()

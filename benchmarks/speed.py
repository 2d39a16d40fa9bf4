"""How long a save and a load take, and how much memory, beside other tools and a raw file.

    python benchmarks/speed.py [--quick] [--json FILE] [--dir DIR] [--states NAME ...]

`README.md` beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from contenders import Contender, Raw, installed, names, sync_all
from environment import describe
from rich.console import Console
from rich.table import Table
from states import STATES, State, Tree, nbytes

_ROUNDS = 5
_QUICK_ROUNDS = 3
_SLOW_S = 8.0
"""A contender that takes longer than this for one save is measured twice, or once if quick."""
_PEAKS_FROM_NBYTES = 100 * 2**20
"""The peak memory of a smaller state is lost in the noise, and is not measured."""

_RAW = Raw.name
_RIVAL = "Orbax"


@dataclass
class Result:
    """What was measured of one contender with one state; every list has one figure a round.

    Attributes:
        contender: Its name.
        save_s: Seconds until the save returned.
        durable_s: Seconds until all that it wrote was fsynced too: `save_s` and the fsyncs left.
        load_s: Seconds until every leaf was ready.
        stored_nbytes: The size of the files.
        save_peak_nbytes: Memory beyond the state at the highest point of a save.
        load_peak_nbytes: Memory beyond the loaded state at the highest point of a load.
        error: What it raised, if it failed; nothing after that was measured.
    """

    contender: str
    save_s: list[float] = field(default_factory=list)
    durable_s: list[float] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    stored_nbytes: int = 0
    save_peak_nbytes: int | None = None
    load_peak_nbytes: int | None = None
    error: str = ""


def main() -> None:
    """Measure, print the tables, and write the figures to a file if one is named."""
    options = _options()
    console = Console(width=118)
    contenders = installed(tuple(options.only))
    facts = describe(Path(options.dir))
    console.print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), highlight=False)
    record: dict[str, Any] = {"environment": facts, "states": {}}
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="ckptstore-speed-") as directory:
        _warm_up(contenders, Path(directory))
        for name in options.states:
            state = STATES[name]
            tree = state.build()
            head = (
                f"{state.about}: {len(jax.tree.leaves(tree)):,} leaves, {nbytes(tree) / 1e9:.3g} GB"
            )
            results = measure(contenders, state, tree, Path(directory), quick=options.quick)
            if not options.no_memory and nbytes(tree) >= _PEAKS_FROM_NBYTES:
                expected = nbytes(tree)
                del tree
                gc.collect()
                record["peak"] = _add_peaks(results, state, expected, Path(directory))
            _clear(Path(directory))
            _print(console, head, results)
            record["states"][name] = {"about": head, "results": [asdict(one) for one in results]}
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def measure(
    contenders: list[Contender], state: State, tree: Tree, directory: Path, *, quick: bool
) -> list[Result]:
    """Save and load the tree with each contender in turn, several rounds of it.

    The contenders take turns within a round, and each round begins with another one. The
    checkpoints of the last round stay in the directory, under `_path`.
    """
    results = {contender.name: Result(contender.name) for contender in contenders}
    like = state.template()
    for number in range(_QUICK_ROUNDS if quick else _ROUNDS):
        start = number % len(contenders)
        for contender in contenders[start:] + contenders[:start]:
            result = results[contender.name]
            slow = bool(result.save_s) and result.save_s[0] > _SLOW_S
            if result.error or (slow and number >= (1 if quick else 2)):
                continue
            path = _path(directory, contender.name)
            _remove(path)
            try:
                _one_round(contender, tree, like, path, result)
            except Exception as error:  # any rival may fail in its own way; the row says how
                result.error = f"{type(error).__name__}: {error}"
    return list(results.values())


def _one_round(contender: Contender, tree: Tree, like: Tree, path: Path, result: Result) -> None:
    save_s, _ = _timed(lambda: contender.save(path, tree))
    begin = time.perf_counter()
    sync_all(path)
    sync_s = time.perf_counter() - begin
    load_s, loaded = _timed(lambda: jax.block_until_ready(contender.load(path, like)))
    if not result.load_s:
        _check(loaded, tree)
        result.stored_nbytes = _stored_nbytes(path)
    result.save_s.append(save_s)
    result.durable_s.append(save_s + sync_s)
    result.load_s.append(load_s)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Run the call with no garbage and no dirty pages of earlier work left, and time it."""
    gc.collect()
    os.sync()
    begin = time.perf_counter()
    value = call()
    return time.perf_counter() - begin, value


def _check(loaded: Tree, tree: Tree) -> None:
    """Raise unless the leaves have the same bits: a wrong load must not win a race."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    if isinstance(loaded, mmap.mmap):
        same = _same_bytes(loaded, leaves)
    else:
        found = [np.asarray(leaf) for leaf in jax.tree.leaves(loaded)]
        same = len(found) == len(leaves) and all(
            one.dtype == other.dtype and np.array_equal(_bits(one), _bits(other))
            for one, other in zip(found, leaves, strict=True)
        )
    if not same:
        raise ValueError("what came back differs from what was saved")


def _same_bytes(buffer: mmap.mmap, leaves: list[np.ndarray]) -> bool:
    flat = np.frombuffer(buffer, np.uint8)
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    parts = np.split(flat, ends[:-1])
    return all(np.array_equal(part, _bits(leaf)) for part, leaf in zip(parts, leaves, strict=True))


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _warm_up(contenders: list[Contender], directory: Path) -> None:
    """Let every tool import and start what it keeps, outside the measured part."""
    few = STATES["few"]
    tree, like = few.build(), few.template()
    for contender in contenders:
        contender.save(_path(directory, contender.name), tree)
        jax.block_until_ready(contender.load(_path(directory, contender.name), like))
    _clear(directory)


def _add_peaks(results: list[Result], state: State, expected: int, directory: Path) -> str:
    """Measure the peak memory of each contender in processes of their own.

    Returns:
        How it was measured.
    """
    how = ""
    for result in results:
        if result.error:
            continue
        path = _path(directory, result.contender)
        fresh = path.with_name(f"{path.name}-peak")
        found, how = _peak(state.name, result.contender, "save", fresh)
        result.save_peak_nbytes = found
        _remove(fresh)
        found, how = _peak(state.name, result.contender, "load", path)
        result.load_peak_nbytes = found - expected
    return how


def _peak(state: str, contender: str, action: str, path: Path) -> tuple[int, str]:
    script = Path(__file__).with_name("peak.py")
    command = [sys.executable, str(script), state, contender, action, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["nbytes"], found["how"]


def _print(console: Console, head: str, results: list[Result]) -> None:
    by_name = {result.contender: result for result in results}
    console.print(_save_table(f"Save · {head}", results, by_name))
    console.print(_load_table(f"Load · {head}", results, by_name))
    for result in results:
        if result.error:
            console.print(f"{result.contender}: {result.error}", markup=False)


def _save_table(title: str, results: list[Result], by_name: dict[str, Result]) -> Table:
    table = Table(title=title)
    table.add_column("tool")
    columns = ("returned, s", "and fsynced, s", "min–max", "÷ raw", "Orbax ÷", "peak", "size", "n")
    for column in columns:
        table.add_column(column, justify="right")
    for result in results:
        if not result.save_s:
            table.add_row(result.contender, "failed")
            continue
        durable_s = _median(result.durable_s)
        table.add_row(
            result.contender,
            _seconds(_median(result.save_s)),
            _seconds(durable_s),
            f"{_seconds(min(result.durable_s))}–{_seconds(max(result.durable_s))}",
            _ratio(durable_s, _other(by_name, _RAW, "durable_s")),
            _ratio(_other(by_name, _RIVAL, "durable_s"), durable_s),
            _megabytes(result.save_peak_nbytes),
            _megabytes(result.stored_nbytes),
            str(len(result.save_s)),
        )
    return table


def _load_table(title: str, results: list[Result], by_name: dict[str, Result]) -> Table:
    table = Table(title=title)
    table.add_column("tool")
    for column in ("loaded, s", "min–max", "÷ raw", "Orbax ÷", "peak", "n"):
        table.add_column(column, justify="right")
    for result in results:
        if not result.load_s:
            table.add_row(result.contender, "failed")
            continue
        load_s = _median(result.load_s)
        table.add_row(
            result.contender,
            _seconds(load_s),
            f"{_seconds(min(result.load_s))}–{_seconds(max(result.load_s))}",
            _ratio(load_s, _other(by_name, _RAW, "load_s")),
            _ratio(_other(by_name, _RIVAL, "load_s"), load_s),
            _megabytes(result.load_peak_nbytes),
            str(len(result.load_s)),
        )
    return table


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def _other(by_name: dict[str, Result], name: str, measured: str) -> float | None:
    result = by_name.get(name)
    seconds = getattr(result, measured) if result is not None else []
    return _median(seconds) if seconds else None


def _seconds(seconds: float) -> str:
    """Return three figures, or as many as a tenth of a millisecond has."""
    return f"{seconds:.4f}" if seconds < 0.1 else f"{seconds:#.3g}"


def _ratio(over: float | None, under: float | None) -> str:
    return "" if over is None or under is None else f"{over / under:.2f}"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.1f} MB"


def _path(directory: Path, contender: str) -> Path:
    return directory.resolve() / contender.replace(",", "").replace(" ", "-")


def _stored_nbytes(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        _remove(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure saves and loads beside other tools.")
    parser.add_argument("--quick", action="store_true", help="3 rounds in place of 5")
    parser.add_argument("--json", metavar="FILE", help="also write every figure to this file")
    parser.add_argument(
        "--dir", default=tempfile.gettempdir(), help="a directory on the disk to measure"
    )
    parser.add_argument("--states", nargs="+", choices=tuple(STATES), default=["large", "small"])
    parser.add_argument("--only", nargs="+", choices=names(), default=[], metavar="TOOL")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    return parser.parse_args()


if __name__ == "__main__":
    main()

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
import pickle
import random
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
_SLOW_S = 12.0
"""A contender that takes longer than this for one save is measured twice, or once if quick."""
_LARGE_NBYTES = 100 * 2**20
"""The peak memory of a smaller state is lost in the noise, and is not measured."""
TOUCHED_STATES = 2
"""Before each call, memory for so many copies of the state is made ready to be handed out."""

_RAW = Raw.name
_RIVAL = "Orbax"


@dataclass
class Result:
    """What was measured of one contender with one state; every list has one figure a round.

    Attributes:
        contender: Its name.
        save_s: Seconds until the save returned.
        save_cpu_s: Processor seconds of all threads of this process meanwhile.
        durable_s: Seconds until all that it wrote was fsynced too: `save_s` and the fsyncs left.
        load_s: Seconds until every leaf was ready.
        load_cpu_s: Processor seconds of all threads of this process meanwhile.
        stored_nbytes: The size of the files.
        save_peak_nbytes: Memory beyond the state at the highest point of a save.
        load_peak_nbytes: Memory beyond the loaded state at the highest point of a load.
        error: What it raised, if it failed; nothing after that was measured.
    """

    contender: str
    save_s: list[float] = field(default_factory=list)
    save_cpu_s: list[float] = field(default_factory=list)
    durable_s: list[float] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    load_cpu_s: list[float] = field(default_factory=list)
    stored_nbytes: int = 0
    save_peak_nbytes: int | None = None
    load_peak_nbytes: int | None = None
    error: str = ""


def main() -> None:
    """Measure, print the tables, and write the figures to a file if one is named."""
    options = _options()
    console = Console(width=130)
    contenders = installed(tuple(options.only))
    facts = describe(Path(options.dir))
    console.print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), highlight=False)
    record: dict[str, Any] = {"environment": facts, "states": {}}
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="ckptstore-speed-") as directory:
        _warm_up(contenders, Path(directory))
        for name in options.states:
            state = STATES[name]
            tree = state.build()
            size = nbytes(tree)
            head = f"{state.about}: {len(jax.tree.leaves(tree)):,} leaves, {_megabytes(size)}"
            results = measure(contenders, state, tree, Path(directory), quick=options.quick)
            if size >= _LARGE_NBYTES and not options.no_memory:
                source = Path(directory) / "state.pickle"
                with open(source, "wb") as file:
                    pickle.dump(tree, file, protocol=5)
                del tree
                gc.collect()
                record["peak"] = _add_peaks(results, state, size, Path(directory), source)
            _clear(Path(directory))
            _print(console, head, results)
            record["states"][name] = {"about": head, "results": [asdict(one) for one in results]}
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def measure(
    contenders: list[Contender], state: State, tree: Tree, directory: Path, *, quick: bool
) -> list[Result]:
    """Save and load the tree with each contender in turn, several rounds of it.

    The contenders take turns within a round, in another order each round.
    """
    results = {contender.name: Result(contender.name) for contender in contenders}
    like = state.template()
    for number in range(_QUICK_ROUNDS if quick else _ROUNDS):
        for contender in random.Random(number).sample(contenders, len(contenders)):
            result = results[contender.name]
            slow = bool(result.save_s) and result.save_s[0] > _SLOW_S
            if result.error or (slow and number >= (1 if quick else 2)):
                continue
            path = _path(directory, contender.name)
            try:
                _one_round(contender, tree, like, path, result)
            except Exception as error:  # any rival may fail in its own way; the row says how
                result.error = f"{type(error).__name__}: {error}"
            _remove(path)
    return list(results.values())


def _one_round(contender: Contender, tree: Tree, like: Tree, path: Path, result: Result) -> None:
    ready_nbytes = TOUCHED_STATES * nbytes(tree)
    save_s, save_cpu_s, _ = timed(ready_nbytes, contender.save, path, fresh(tree))
    begin = time.perf_counter()
    if not contender.durable:  # even an fsync with nothing to write costs a flush of the disk
        sync_all(path)
    sync_s = time.perf_counter() - begin
    load_s, load_cpu_s, loaded = timed(ready_nbytes, contender.load, path, like)
    if not result.load_s:
        _check(loaded, tree)
        result.stored_nbytes = _stored_nbytes(path)
    result.save_s.append(save_s)
    result.save_cpu_s.append(save_cpu_s)
    result.durable_s.append(save_s + sync_s)
    result.load_s.append(load_s)
    result.load_cpu_s.append(load_cpu_s)


def fresh(tree: Tree) -> Tree:
    """Copy the jax leaves, which keep the numpy array that they were once asked for.

    In training each save meets new arrays, and so must each save here.
    """
    leaves, structure = jax.tree.flatten(tree)
    copies = [leaf.copy() if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
    return jax.block_until_ready(jax.tree.unflatten(structure, copies))


def timed(ready_nbytes: int, call: Callable[..., Any], *arguments: Any) -> tuple[float, float, Any]:
    """Run the call with no garbage and no dirty pages of earlier work left, and time it.

    Args:
        ready_nbytes: How much memory to make ready first.
        call: What to time.
        arguments: Its arguments.

    Returns:
        The seconds, the processor seconds, and what the call returned, ready to be used.
    """
    gc.collect()
    os.sync()
    touch_memory(ready_nbytes)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    value = jax.block_until_ready(call(*arguments))
    return time.perf_counter() - begin, time.process_time() - cpu_begin, value


def touch_memory(size: int) -> None:
    """Write to memory and free it at once, at most half of what the machine has free.

    A virtual machine may give pages that are free for two seconds back to its host, and to write
    to them again takes ten to twenty times as long. Without this, whoever comes first after a
    pause would pay for it, and whoever comes next would not.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    np.empty(min(size, free // 2), np.uint8)[:: mmap.PAGESIZE] = 1


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


def _add_peaks(
    results: list[Result], state: State, size: int, directory: Path, source: Path
) -> str:
    """Measure the peak memory of each contender in processes of their own.

    Args:
        results: Where to add the figures.
        state: What they save and load.
        size: Its bytes.
        directory: Where to.
        source: A pickle of the state, for the processes that save it.

    Returns:
        How it was measured.
    """
    how = ""
    for result in results:
        if result.error:
            continue
        path = _path(directory, result.contender)
        result.save_peak_nbytes, how = _peak(state.name, result.contender, "save", path, source)
        found, how = _peak(state.name, result.contender, "load", path, source)
        result.load_peak_nbytes = found - size
        _remove(path)
    return how


def _peak(state: str, contender: str, action: str, path: Path, source: Path) -> tuple[int, str]:
    script = Path(__file__).with_name("peak.py")
    command = [sys.executable, str(script), state, contender, action, str(path), str(source)]
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
    columns = (
        "returned, s",
        "and fsynced, s",
        "min–max",
        "CPU, s",
        "÷ raw",
        "Orbax ÷",
        "peak",
        "size",
        "n",
    )
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
            _seconds(_median(result.save_cpu_s)),
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
    for column in ("loaded, s", "min–max", "CPU, s", "÷ raw", "Orbax ÷", "peak", "n"):
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
            _seconds(_median(result.load_cpu_s)),
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
    if over is None or under is None:
        return ""
    return f"{over / under:.2f}" if over < 100 * under else f"{over / under:,.0f}"


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

"""What a tool does when one bit of a checkpoint has flipped.

    python benchmarks/bitflips.py [--flips N] [--seed N] [--json FILE] [--dir DIR]

`README.md` beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
from compare import differences
from contenders import installed
from environment import describe
from rich.console import Console
from rich.table import Table
from states import STATES

_DRAWS = {
    "ckptstore": ("byte", "file"),
    "Orbax": ("byte", "file"),
    "safetensors": ("byte",),
    "flax msgpack": ("byte",),
    "pickle": ("byte",),
}
"""For each tool, how flips are drawn; where there is but one file the two ways are one."""
_RAISED, _RIGHT, _WRONG = "an error", "the right value", "a wrong value, silently"
_DIED = "died or hung"
_TIMEOUT_S = 60
_MEMORY_NBYTES = 16 * 2**30
"""Damage must not make a loader take the memory of the whole machine."""
_STATE = "few"


def main() -> None:
    """Flip bits in a copy of each tool's checkpoint, one at a time, and count what loading does."""
    options = _options()
    facts = describe(Path(options.dir))
    console = Console(width=100)
    console.print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), highlight=False)
    record: dict[str, Any] = {
        "environment": facts,
        "flips": options.flips,
        "seed": options.seed,
        "counts": {},
    }
    table = Table(title=f"{options.flips} single-bit flips")
    for column in ("tool", "drawn by", _RAISED, _RIGHT, _WRONG, _DIED):
        table.add_column(column, justify="left" if column in ("tool", "drawn by") else "right")
    present = {contender.name for contender in installed(tuple(_DRAWS))}
    for tool in (tool for tool in options.tools if tool in present):
        for draw in _DRAWS[tool]:
            counts = count(tool, draw, options.flips, options.seed, Path(options.dir))
            row = [str(counts[outcome]) for outcome in (_RAISED, _RIGHT, _WRONG, _DIED)]
            table.add_row(tool, draw, *row)
            record["counts"][f"{tool}, drawn by {draw}"] = dict(counts)
    console.print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def count(tool: str, draw: str, flips: int, seed: int, directory: Path) -> Counter[str]:
    """Save once, then load as many damaged copies as asked, each with one bit flipped.

    Args:
        tool: The name of a contender.
        draw: `"byte"` draws from all bytes of all files alike, so that large files get most of the
            flips; `"file"` draws a file first, so that small ones get their share.
        flips: How many copies.
        seed: Makes the draws repeatable, as far as the tool writes the same files again.
        directory: Where the copies are made.

    Returns:
        How often each outcome came.
    """
    chance = random.Random(f"{seed} {draw}")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=directory, prefix="ckptstore-bitflips-") as name:
        sound = Path(name).resolve() / "sound"
        (contender,) = installed((tool,))
        contender.save(sound, STATES[_STATE].build())
        worker = _Worker(tool)
        if worker.load(sound) != _RIGHT:
            raise RuntimeError(f"{tool} does not load what it saved")
        for number in range(flips):
            damaged = sound.with_name(f"damaged-{number}")
            _copy(sound, damaged)
            _flip(damaged, draw, chance)
            counts[worker.load(damaged)] += 1
        worker.close()
    return counts


class _Worker:
    """A process that loads, so that a crash or a hang is counted and not suffered."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._start()

    def load(self, path: Path) -> str:
        """Return the outcome of loading a path, which the process is given a minute for."""
        self._connection.send(str(path))
        try:
            if self._connection.poll(_TIMEOUT_S):
                return str(self._connection.recv())
        except (EOFError, ConnectionError):
            pass
        self.close()
        self._start()
        return _DIED

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        arguments = (self._tool, other_end)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other_end.close()


def _serve(tool: str, connection: Connection) -> None:
    """Load whatever path comes in, and answer with what came of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a damaged file makes some tools print a lot
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_NBYTES, _MEMORY_NBYTES))
    (contender,) = installed((tool,))
    state = STATES[_STATE]
    expected, like = state.build(), state.template()
    while True:
        path = Path(connection.recv())
        try:
            found = jax.block_until_ready(contender.load(path, like))
        except Exception:
            connection.send(_RAISED)
        else:
            connection.send(_WRONG if differences(expected, found) else _RIGHT)


def _flip(path: Path, draw: str, chance: random.Random) -> None:
    """Flip one bit of one file at or below the path."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    sizes = [one.stat().st_size for one in files]
    weights = sizes if draw == "byte" else [min(size, 1) for size in sizes]
    (file,) = chance.choices(files, weights)
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Flip single bits, and see what loading does.")
    parser.add_argument("--flips", type=int, default=60, help="how many for each tool and draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tools", nargs="+", choices=tuple(_DRAWS), default=tuple(_DRAWS), metavar="TOOL"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the counts to this file")
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where to make the copies")
    return parser.parse_args()


if __name__ == "__main__":
    main()

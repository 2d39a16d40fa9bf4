"""The command ``python -m ckptstore.demo``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ckptstore
from ckptstore.demo.progress import Progress
from ckptstore.demo.results import differences, draw, report
from ckptstore.demo.run import RUNS, Run, clear
from ckptstore.demo.training import KILL_AT, SAVE_EVERY, STEPS, train

INTRODUCTION = f"""\
A small classifier is trained three times on the CPU, {STEPS} steps each, with a checkpoint every \
{SAVE_EVERY} steps:
  uninterrupted  from the first step to the last
  resumed        killed by SIGKILL in the middle of a save, then resumed with ckptstore
  naive          killed likewise, but only the parameters are restored
The resumed run must end with the bits of the uninterrupted one. All of it takes a few minutes.
"""


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
    print(INTRODUCTION, flush=True)
    local = "://" not in place
    logs = Path(place if local else tempfile.mkdtemp(prefix="ckptstore-demo-"))
    picture = options.picture or (logs.parent if local else Path()) / "demo.png"
    try:
        clear(place)
        logs.mkdir(parents=True, exist_ok=True)
        with Progress(RUNS) as progress:
            runs = [Run(name, f"{place}/{name}", logs, progress) for name in RUNS]
            whole, resumed, naive = runs
            whole.finish()
            resumed.kill_in_save(KILL_AT)
            resumed.finish()
            naive.kill_in_save(resumed.killed_at)
            naive.finish(naive=True)
    except (RuntimeError, ckptstore.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    differing = differences(resumed, whole)
    report(runs, differing)
    draw(runs, differing, picture)
    print(f"picture: {picture}, logs: {logs}\nwall time: {time.monotonic() - began:.0f} s")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

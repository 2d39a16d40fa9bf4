"""How long 4 processes take to save and load one checkpoint together, beside Orbax.

    python benchmarks/joint_speed.py [--mib 512] [--rounds 5] [--dir DIR]

The processes are real, with 2 devices of jax each. The rounds of the tools are interleaved. The
time of a round is that of the slowest process, from a barrier on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import joint_training
from tests.support import cluster

PROCESSES, DEVICES = 4, 2


def main() -> None:
    """Measure, and print medians and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        job = folder, options.mib, options.rounds
        ended = cluster.run("jax", PROCESSES, joint_training.measure, *job, devices=DEVICES)
    for process in ended:
        if process.value is None:
            raise SystemExit(f"process {process.index} failed:\n{process.stderr[-3000:]}")
    print(
        f"{options.mib} MiB over {PROCESSES} processes of {DEVICES} devices, medians of "
        f"{options.rounds} interleaved rounds of the slowest process\n"
    )
    medians = {}
    for tool in joint_training.TOOLS:
        rounds = zip(*(process.value[tool] for process in ended), strict=True)
        slowest = [[max(seconds) for seconds in zip(*times, strict=True)] for times in rounds]
        medians[tool] = [statistics.median(x) for x in zip(*slowest, strict=True)]
    ours, theirs = medians["ckptstore"], medians["Orbax"]
    print(f"| | save s | load s |\n|{'---|' * 3}")
    for tool, (saved, loaded) in medians.items():
        print(f"| {tool} | {saved:.2f} | {loaded:.2f} |")
    print(f"| Orbax / ckptstore | {theirs[0] / ours[0]:.2f} | {theirs[1] / ours[1]:.2f} |")


if __name__ == "__main__":
    main()

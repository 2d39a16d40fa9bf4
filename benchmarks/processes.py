"""Real processes save and load together: `make show-processes`, `make show-kills`.

With `--faults 0.05` they do so in a bucket of moto, behind a proxy that lets 5 % of the requests
fail.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec.config

sys.path.insert(0, str(Path(__file__).parent.parent))

import ckptstore
from benchmarks import joint_training, sharded_training
from tests.support import cluster
from tests.support.servers import Moto, proxy

FAULTS = [proxy.DROP_BEFORE, proxy.DROP_AFTER, proxy.ERROR_BEFORE, proxy.ERROR_AFTER]
FAULTS += [proxy.SLOW_DOWN, proxy.CONFLICT, proxy.TRUNCATE]
LAYOUTS = [(4, 2), (2, 1), (1, 1)]


@contextlib.contextmanager
def places(faults: float | None) -> Iterator[Iterator[str]]:
    """Give new places: on a disk, or in a bucket where a share of the requests fails."""
    numbers = itertools.count()
    if faults is None:
        with tempfile.TemporaryDirectory() as folder:
            yield (f"{folder}/{number}" for number in numbers)
        return
    with Moto() as server, proxy.FaultProxy(server) as faulty:
        fsspec.config.conf["s3"] = faulty.storage_options()
        os.environ["FSSPEC_S3"] = json.dumps(faulty.storage_options())
        os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
        bucket = server.new_bucket()
        faulty.some(faults, *FAULTS, seed=0)
        yield (f"s3://{bucket}/{number}" for number in numbers)
        print(f"{len(faulty.log)} requests, {faults:.0%} of which failed")


def values(ended: list[cluster.Ended]) -> list[Any]:
    """Return what the function of each process returned."""
    for process in ended:
        if process.value is None:
            raise SystemExit(f"process {process.index} failed:\n{process.stderr[-3000:]}")
    return [process.value for process in ended]


def show_processes(faults: float | None) -> int:
    """Train on 4 × 2 devices, save, and go on from the checkpoint on other layouts."""
    bad = 0
    with places(faults) as fresh:
        place = next(fresh)
        saved = values(cluster.run("jax", 4, joint_training.train, place, "save", devices=2))
        problems = ckptstore.verify(place)
        print(f"saved by 4 processes of 2 devices by save_async; verify: {problems}")
        print("restored on      values    next 20 losses")
        for count, devices in LAYOUTS:
            ran = cluster.run("jax", count, joint_training.train, place, "load", devices=devices)
            got = values(ran)
            equal = all(value["values"] == saved[0]["values"] for value in got)
            losses = sum(a == b for a, b in zip(got[0]["losses"], saved[0]["losses"], strict=True))
            same = (count, devices) == LAYOUTS[0]
            bad += not equal or (same and losses < joint_training.LOSSES)
            print(
                f"{count} × {devices}            {'equal' if equal else 'DIFFER':8}  "
                f"{losses} equal to the bit{'' if same else ' (another layout adds otherwise)'}"
            )
        print("bytes written by each process")
        for kind in ("replicated", "sharded", "mixed"):
            share = joint_training.share
            sizes = values(cluster.run("jax", 4, share, next(fresh), kind, devices=2))[0]
            spread = max(sizes) / min(sizes)
            bad += spread > 1.05
            print(
                f"{kind:11} {' '.join(f'{size:>11,}' for size in sizes)}"
                f"   most / least {spread:.3f}"
            )
    return bad


TORCH_LAYOUTS = {
    ("fsdp", 2): [("fsdp", 2), ("fsdp", 1), ("fsdp", 3), ("plain", 1)],
    ("fsdp and tp 2x2", 4): [("fsdp and tp 2x2", 4), ("fsdp and tp 4x1", 4), ("fsdp", 2)],
    ("ddp", 2): [("ddp", 2), ("fsdp", 3)],
}
"""The layouts that save, and those that restore each of their checkpoints."""


def show_torch(faults: float | None) -> int:
    """Train with FSDP2, tensor parallelism and DDP, save, and go on on other layouts."""
    bad = 0
    print("\ntorch                bytes written by each process            values  next 20 losses")
    with places(faults) as fresh:
        for (kind, count), others in TORCH_LAYOUTS.items():
            place = next(fresh)
            work = sharded_training.train
            saved = values(cluster.run("torch", count, work, place, kind, "save"))[0]
            problems = ckptstore.verify(place)
            bad += bool(problems)
            sizes = " ".join(f"{size:,}" for size in saved["written"])
            print(f"{kind:15} on {count}  {sizes:40} verify: {problems}")
            for other, number in others:
                got = values(cluster.run("torch", number, work, place, other, "load"))
                equal = all(value["values"] == saved["values"] for value in got)
                pairs = zip(got[0]["losses"], saved["losses"], strict=True)
                losses = sum(a == b for a, b in pairs)
                same = (other, number) == (kind, count)
                bad += not equal or (same and losses < joint_training.LOSSES)
                print(
                    f"  {other:15} on {number}{'':41}{'equal' if equal else 'DIFFER':8}"
                    f"{losses} equal to the bit{'' if same else ' (another layout)'}",
                    flush=True,
                )
    return bad


def show_kills(kinds: list[str], points: list[str], timeout: float, faults: float | None) -> int:
    """Kill one of 4 processes, or let it raise, at each point; say what the others got."""
    bad = 0
    print("engine  who  how     point              the others (seconds after its start)     loads")
    with places(faults) as fresh:
        for kind, how, point, who in itertools.product(kinds, ("killed", "raised"), points, (0, 2)):
            if not (who and point in joint_training.LEADER_ALONE):
                bad += _one_kill(next(fresh), kind, how, point, who, timeout)
    return bad


def _one_kill(place: str, kind: str, how: str, point: str, who: int, timeout: float) -> int:
    began = time.monotonic()
    with cluster.Cluster(
        kind, 4, joint_training.fail, place, point, who, how, timeout=timeout, stay=True
    ) as processes:
        others = processes.ended(*(i for i in range(4) if i != who))
    seconds = time.monotonic() - began
    said = {_said(p, kind) for p in others}
    try:
        ckptstore.load(place)
        loads = "whole" if ckptstore.verify(place) == [] else "DAMAGED"
    except ckptstore.NotCommittedError:
        loads = "none"
    wrong = (
        loads == "DAMAGED"
        or "no answer" in said
        or ("saved" in said and (len(said) > 1 or loads != "whole"))
        or (loads == "whole" and said - {"saved", "outcome-unknown", "ended by jax"})
    )
    print(
        f"{kind:7} {who}    {how:7} {point:18} {', '.join(sorted(said)):30} "
        f"({seconds:4.1f} s)   {loads}{'   WRONG' if wrong else ''}",
        flush=True,
    )
    return int(bool(wrong))


def _said(process: cluster.Ended, kind: str) -> str:
    """Return what a process got. jax ends all processes itself once process 0 is dead."""
    if process.value is None:
        by_jax = kind == "jax" and process.returncode not in (None, 0)
        return "ended by jax" if by_jax else "no answer"
    return "saved" if "saved" in process.value else process.value["reason"]


def main() -> int:
    """Show one of the two; return the number of faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["processes", "kills"])
    parser.add_argument("--kinds", nargs="+", default=["torch", "jax"])
    parser.add_argument("--points", type=int, nargs="+", help="numbers of points, from 0")
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--faults", type=float, help="in a bucket; the share of failed requests")
    arguments = parser.parse_args()
    if arguments.what == "processes":
        bad = show_processes(arguments.faults) if "jax" in arguments.kinds else 0
        return bad + (show_torch(arguments.faults) if "torch" in arguments.kinds else 0)
    numbers = arguments.points or range(len(joint_training.POINTS))
    points = [joint_training.POINTS[number] for number in numbers]
    return show_kills(arguments.kinds, points, arguments.timeout, arguments.faults)


if __name__ == "__main__":
    sys.exit(main())

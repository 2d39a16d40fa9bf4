"""``ckptstore ls``: the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import click

from ckptstore import Checkpoint
from ckptstore.cli import tables, texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import manager_of
from ckptstore.texts import plain

_METRIC_WIDTH = 14


@click.command(epilog="Example: ckptstore ls s3://bucket/run")
@common
@click.argument("run")
@click.option("--sort", metavar="METRIC", help="Sort by a metric, the least first.")
@click.option("-a", "--all", "whole", is_flag=True, help="Show all rows.")
def command(output: Output, run: str, sort: str | None, whole: bool) -> None:
    """List the steps of a run: age, size, bytes that each save wrote, metrics."""
    manager = manager_of(run, output.options)
    found, steps, pinned = manager.checkpoints(), manager.steps(), manager.pinned()
    damaged = [step for step in steps if step not in found]
    unfinished = manager.unfinished()
    if output.as_json:
        output.json(
            "ls",
            url=manager.url,
            steps=[_to_dict(step, info) for step, info in _sorted(found, sort)],
            pinned=pinned,
            damaged=damaged,
            unfinished=unfinished,
        )
        return
    metrics = [*dict.fromkeys(name for info in found.values() for name in info.metrics)]
    rows = [
        [
            str(step),
            texts.age(info.time),
            texts.size(info.nbytes),
            texts.size(info.nbytes_written),
            *(texts.number(info.metrics.get(name)) for name in metrics),
            ", ".join(["latest"] * (step == steps[-1]) + ["pinned"] * (step in pinned)),
        ]
        for step, info in _sorted(found, sort)
    ]
    names = [texts.elided(texts.clean(name), _METRIC_WIDTH) for name in metrics]
    heads = ["STEP", "SAVED", "SIZE", "NEW", *names, ""]
    right = ">>>>" + ">" * len(metrics) + "<"
    limit = None if whole else tables.ROWS_SHOWN
    output.lines(tables.lines(rows, heads, right=right, gives=len(heads) - 1, limit=limit))
    output.lines(_end(found, damaged, unfinished, output))


def _sorted(found: Mapping[int, Checkpoint], metric: str | None) -> list[tuple[int, Checkpoint]]:
    if metric is None:
        return [*found.items()]
    return sorted(found.items(), key=lambda row: (_value(row[1], metric), row[0]))


def _value(info: Checkpoint, metric: str) -> float:
    value = info.metrics.get(metric, math.inf)
    return math.inf if math.isnan(value) else value


def _end(
    found: Mapping[int, Checkpoint], damaged: list[int], unfinished: list[int], output: Output
) -> Iterator[str]:
    total = sum(info.nbytes for info in found.values())
    new = sum(info.nbytes_written for info in found.values())
    count = f"{len(found)} step{'' if len(found) == 1 else 's'}"
    written = "" if new == total else f", of which {texts.size(new)} were written"
    yield f"{count}, {texts.size(total)}{written}"
    if damaged:
        numbers = ", ".join(map(str, damaged))
        yield output.red(f"damaged manifest: step {numbers}")
    if unfinished:
        numbers = ", ".join(map(str, unfinished))
        yield f"not finished, by a save that was killed or still runs: step {numbers}"


def _to_dict(step: int, info: Checkpoint) -> dict[str, Any]:
    return {
        "step": step,
        "url": info.url,
        "time": info.time.isoformat(),
        "nbytes": info.nbytes,
        "nbytes_written": info.nbytes_written,
        "processes": info.processes,
        "metrics": {name: plain(value) for name, value in info.metrics.items()},
    }

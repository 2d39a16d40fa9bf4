"""``ckptstore stats``: mean, range, norm and what is not finite, of each array."""

from __future__ import annotations

import math

import click

from ckptstore import analysis
from ckptstore.analysis import ArrayStats
from ckptstore.cli import tables, texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import open_place

_HEADS = ["PATH", "ARRAY", "MEAN", "STD", "MIN", "MAX", "NORM", ""]
_KEYS = {
    "norm": lambda row: -(row.norm or 0.0),
    "size": lambda row: -row.nbytes,
    "max": lambda row: -max(abs(row.min or 0), abs(row.max or 0)),
}


@click.command(epilog="Example: ckptstore stats run params --fail-on nan,inf")
@common
@click.argument("place")
@click.argument("patterns", nargs=-1)
@click.option("--sort", type=click.Choice([*_KEYS]), help="Sort, the largest first.")
@click.option("--fail-on", "fail_on", metavar="nan,inf", help="Exit with 1 if there is one.")
@click.option("-a", "--all", "whole", is_flag=True, help="Show all rows.")
def command(
    output: Output,
    place: str,
    patterns: tuple[str, ...],
    sort: str | None,
    fail_on: str | None,
    whole: bool,
) -> int:
    """Show statistics of each array. Every byte is read once and checked."""
    kinds = _kinds(fail_on)
    with open_place(place, output.options) as reader:
        rows = analysis.stats(reader, list(patterns) or None)
        url = reader.url
    failed = any(
        (kind == "nan" and r.nan) or (kind == "inf" and r.inf) for r in rows for kind in kinds
    )
    if sort is not None:
        rows.sort(key=_KEYS[sort])
    if output.as_json:
        output.json("stats", url=url, arrays=[row.to_dict() for row in rows], failed=failed)
    cells = [_cells(row, output) for row in rows]
    limit = None if whole else tables.ROWS_SHOWN
    output.lines(tables.lines(cells, _HEADS, right="<<>>>>><", limit=limit))
    return int(failed)


def _kinds(text: str | None) -> list[str]:
    kinds = text.split(",") if text else []
    for kind in kinds:
        if kind not in ("nan", "inf"):
            raise click.BadParameter(f"{kind!r} is neither nan nor inf", param_hint="--fail-on")
    return kinds


def _cells(row: ArrayStats, output: Output) -> list[str]:
    notes = [f"{row.nan} NaN"] if row.nan else []
    notes += [f"{row.inf} Inf"] if row.inf else []
    if row.elements and row.zeros == row.elements:
        notes.append("all zero")
    numbers = (row.mean, row.std, row.min, row.max, row.norm)
    texts_ = [texts.number(x) if x is None or math.isfinite(x) else "" for x in numbers]
    return [
        texts.clean(row.short),
        texts.shape(row.dtype, row.shape),
        *texts_,
        output.red(" ".join(notes)) if row.nan or row.inf else " ".join(notes),
    ]

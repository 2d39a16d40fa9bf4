"""``ckptstore export``: write arrays of a checkpoint as safetensors or npz."""

from __future__ import annotations

import dataclasses

import click

from ckptstore import convert
from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import url_of
from ckptstore.handling import split_options

_WRITERS = {"safetensors": convert.to_safetensors, "npz": convert.to_npz}


@click.command(epilog="Example: ckptstore export run@400 params.safetensors --select params")
@common
@click.argument("place")
@click.argument("dst")
@click.option("--select", "patterns", multiple=True, metavar="PATTERN", help="Only these parts.")
@click.option("--format", type=click.Choice([*_WRITERS]), help="Else by the suffix of DST.")
@click.option("--overwrite", is_flag=True, help="Replace a file at DST.")
def command(
    output: Output,
    place: str,
    dst: str,
    patterns: tuple[str, ...],
    format: str | None,
    overwrite: bool,
) -> None:
    """Write arrays of a checkpoint to one file, and say what the file cannot hold."""
    format = format or dst.rpartition(".")[2]
    if format not in _WRITERS:
        raise click.UsageError(f"{dst} has no suffix of a format; pass --format npz, for example")
    of_place, _ = split_options(place, dst, output.options)
    report = _WRITERS[format](
        dst,
        url_of(place, of_place),
        select=patterns[0] if len(patterns) == 1 else list(patterns) or None,
        overwrite=overwrite,
        storage_options=output.options,
    )
    if output.as_json:
        losses = [
            {name: str(value) for name, value in dataclasses.asdict(loss).items()}
            for loss in report.losses
        ]
        names = dict(report.names)
        output.json("export", path=report.path, names=names, nbytes=report.nbytes, losses=losses)
    output.lines(texts.clean(line) for line in str(report).splitlines())

"""``ckptstore verify``: check every byte of a checkpoint, or of a run."""

from __future__ import annotations

import dataclasses

import click

import ckptstore
from ckptstore import CheckpointError, Problem, analysis
from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.bars import bar
from ckptstore.cli.places import manager_of, url_of

DAMAGED = 6


@click.command(epilog="Example: ckptstore verify s3://bucket/run --all")
@common
@click.argument("place")
@click.option("-a", "--all", "whole", is_flag=True, help="Each step of a run.")
@click.option("--finite", is_flag=True, help="Exit with 1 where a number is NaN or infinite.")
def command(output: Output, place: str, whole: bool, finite: bool) -> int:
    """Check every byte of a checkpoint against its checksum.

    Exits with 6 if a byte is damaged.
    """
    if whole:
        manager = manager_of(place, output.options)
        places = {f"step {step}": manager.url_of(step) for step in manager.steps()}
    else:
        places = {texts.clean(place): url_of(place, output.options)}
    damaged = unsound = 0
    for name, url in places.items():
        problems = _problems(url, output)
        odd = _not_finite(url, output) if finite and not problems else []
        damaged += bool(problems)
        unsound += bool(odd)
        nbytes = 0 if problems else _nbytes(url, output)
        if output.as_json:
            rows = [dataclasses.asdict(problem) for problem in problems]
            row = {"sound": not problems, "problems": rows, "not_finite": odd}
            output.json("verify", url=url, nbytes=nbytes, **row)
        for problem in problems:
            output.lines([f"{output.red('damaged')}  {name}   {texts.clean(str(problem))}"])
        for text in odd:
            output.lines([f"{output.red('not finite')}  {name}   {texts.clean(text)}"])
        if not problems and not odd:
            output.lines([f"sound    {name}   {texts.size(nbytes)}"])
    if whole:
        sound = len(places) - damaged - unsound
        more = f", {unsound} not finite" if unsound else ""
        output.lines([f"{len(places)} steps: {sound} sound, {damaged} damaged{more}"])
    return DAMAGED if damaged else int(bool(unsound))


def _problems(url: str, output: Output) -> list[Problem]:
    try:
        callback = bar(output, "verify")
        return ckptstore.verify(url, storage_options=output.options, callback=callback)
    except CheckpointError as error:
        if error.exit_code != DAMAGED:
            raise
        return [Problem(error.reason, url, str(error))]


def _not_finite(url: str, output: Output) -> list[str]:
    rows = analysis.stats(url, storage_options=output.options)
    return [f"{row.short}: {row.nan} NaN, {row.inf} Inf" for row in rows if row.nan or row.inf]


def _nbytes(url: str, output: Output) -> int:
    return ckptstore.inspect(url, storage_options=output.options).nbytes

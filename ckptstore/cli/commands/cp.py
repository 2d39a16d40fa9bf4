"""``ckptstore cp``: copy a checkpoint, or all steps of a run."""

from __future__ import annotations

import click

import ckptstore
from ckptstore import Manager
from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common, options_of
from ckptstore.cli.bars import bar
from ckptstore.cli.places import manager_of, new_url, url_of
from ckptstore.handling import split_options


@click.command(epilog="Example: ckptstore cp s3://bucket/run@400 fork@400")
@common
@click.argument("src")
@click.argument("dst")
@click.option("-a", "--all", "whole", is_flag=True, help="All steps of a run, into the run DST.")
@click.option("--overwrite", is_flag=True, help="Replace another checkpoint at DST.")
@click.option("--no-verify", is_flag=True, help="Check no byte; compare sizes alone.")
@click.option(
    "--dst-option", "pairs", multiple=True, metavar="KEY=VALUE",
    help="A storage option of DST, if -o is for SRC alone.",
)  # fmt: skip
def command(
    output: Output,
    src: str,
    dst: str,
    whole: bool,
    overwrite: bool,
    no_verify: bool,
    pairs: tuple[str, ...],
) -> None:
    """Copy a checkpoint as it is: every byte checked on its way, committed last.

    DST is a directory, or RUN@STEP. A copy that was killed goes on if you call it again. With
    --all, steps that are there already are skipped, and the oldest is copied first.
    """
    of_src, of_dst = split_options(src, dst, output.options, options_of(pairs, "--dst-option"))
    if whole:
        source, target = manager_of(src, of_src), Manager(dst, storage_options=of_dst)
        newest = target.latest()  # a checkpoint is refused
        there = [] if newest is None or overwrite else target.steps()
        steps = source.steps()
        rows = [(source.url_of(s), target.url_of(s)) for s in steps if s not in there]
    else:
        rows, steps = [(url_of(src, of_src), new_url(dst)[0])], [0]
    for one, other in rows:
        copy = ckptstore.copy_checkpoint(
            one,
            other,
            storage_options=of_src,
            dst_storage_options=of_dst,
            overwrite=overwrite,
            verify=not no_verify,
            callback=bar(output, "copy"),
        )
        if output.as_json:
            output.json("cp", src=one, dst=copy.url, step=copy.step, nbytes=copy.nbytes)
        output.lines([f"{texts.clean(copy.url)}   {texts.size(copy.nbytes)}"])
    if whole:
        skipped = len(steps) - len(rows)
        output.lines([f"{len(rows)} steps copied, {skipped} were there already"])

"""``ckptstore rm``: delete checkpoints."""

from __future__ import annotations

import click

import ckptstore
from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import exact_url
from ckptstore.cli.questions import confirmed


@click.command(epilog="Example: ckptstore rm run@100 run@200")
@common
@click.argument("places", nargs=-1, required=True)
@click.option("-n", "--dry-run", is_flag=True, help="Delete nothing; say what would be deleted.")
@click.option("-y", "--yes", is_flag=True, help="Delete without a question.")
def command(output: Output, places: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Delete checkpoints: the manifest first, then the files.

    A run alone is refused: name its step. It asks on a terminal; elsewhere it needs -y.
    """
    urls = [*dict.fromkeys(exact_url(place, output.options) for place in places)]
    shown = [texts.clean(url) for url in urls]
    if not dry_run and not confirmed(f"Delete {', '.join(urls)}?", yes=yes):
        return
    for url, text in zip(urls, shown, strict=True):
        if not dry_run:
            ckptstore.delete_checkpoint(url, storage_options=output.options)
        output.lines([f"{'would delete' if dry_run else 'deleted'}  {text}"])
    if output.as_json:
        output.json("rm", urls=urls, dry_run=dry_run)

"""``ckptstore unpin``: let rules delete pinned steps again."""

from __future__ import annotations

import click

from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import step_of


@click.command(epilog="Example: ckptstore unpin run@400 run@best:loss")
@common
@click.argument("places", nargs=-1, required=True)
def command(output: Output, places: tuple[str, ...]) -> None:
    """Let rules and deletions remove pinned steps again."""
    for place in places:
        manager, step = step_of(place, output.options)
        manager.unpin(step)
        if output.as_json:
            output.json("unpin", url=manager.url_of(step), step=step, pinned=False)
        output.lines([f"unpinned step {step} of {texts.clean(manager.url)}"])

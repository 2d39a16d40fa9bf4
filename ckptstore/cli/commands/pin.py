"""``ckptstore pin``: keep steps from every deletion."""

from __future__ import annotations

import click

from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import step_of


@click.command(epilog="Example: ckptstore pin run@400 run@best:loss")
@common
@click.argument("places", nargs=-1, required=True)
def command(output: Output, places: tuple[str, ...]) -> None:
    """Keep steps from every rule and every deletion, in any process, until unpin."""
    for place in places:
        manager, step = step_of(place, output.options)
        manager.pin(step)
        if output.as_json:
            output.json("pin", url=manager.url_of(step), step=step, pinned=True)
        output.lines([f"pinned step {step} of {texts.clean(manager.url)}"])

"""``ckptstore gc``: remove what killed saves left in a run."""

from __future__ import annotations

import click

from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import manager_of
from ckptstore.cli.questions import seconds


@click.command(epilog="Example: ckptstore gc s3://bucket/run --grace 2d -n")
@common
@click.argument("run")
@click.option(
    "--grace",
    default="1d",
    metavar="TIME",
    show_default=True,
    help="Leave what is younger: longer than any save takes. 90s, 30m, 12h or 1d.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
def command(output: Output, run: str, grace: str, dry_run: bool) -> None:
    """Remove the files that killed saves and deletions left in a run. No step is touched."""
    period = seconds(grace)
    manager = manager_of(run, output.options, finished=False)
    removed = manager.gc(grace=period, dry_run=dry_run)
    if output.as_json:
        rows = [{"step": step, "files": names} for step, names in removed.items()]
        output.json("gc", url=manager.url, dry_run=dry_run, removed=rows)
        return
    verb = "would remove" if dry_run else "removed"
    output.lines(
        f"{verb} {len(names)} file{'' if len(names) == 1 else 's'} of step {step}"
        for step, names in removed.items()
    )
    if not removed:
        output.lines([f"nothing to remove that is older than {grace}"])

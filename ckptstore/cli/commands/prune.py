"""``ckptstore prune``: delete the steps of a run that a rule does not keep."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import click

import ckptstore
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import manager_of
from ckptstore.cli.questions import confirmed

_NUMBER = click.IntRange(1)


@click.command(epilog="Example: ckptstore prune run --keep-last 3 --keep-best loss -n")
@common
@click.argument("run")
@click.option("--keep-last", type=_NUMBER, metavar="N", help="Keep the N newest steps.")
@click.option(
    "--keep-every", type=_NUMBER, metavar="STEPS", help="Keep the multiples of STEPS, or the next."
)
@click.option(
    "--keep-best",
    multiple=True,
    metavar="METRIC[:max]",
    help="Keep the step with the least value, or the largest; several times for several metrics.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Delete nothing; say what would be deleted.")
@click.option("-y", "--yes", is_flag=True, help="Delete without a question.")
def command(
    output: Output,
    run: str,
    keep_last: int | None,
    keep_every: int | None,
    keep_best: tuple[str, ...],
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete the steps of a run that none of the rules keeps.

    The newest step and pinned ones always stay. A terminal is asked first; elsewhere pass -y.
    """
    rule = _rule(keep_last, keep_every, keep_best)
    manager = manager_of(run, output.options)
    steps, gone = manager.steps(), manager.prune(rule, dry_run=True)
    verb = "would delete"
    if gone and not dry_run:
        question = f"Delete {_listed(gone, steps)} from {manager.url}?"
        gone, verb = manager.prune(rule) if confirmed(question, yes=yes) else [], "deleted"
    if output.as_json:
        kept = [step for step in steps if step not in gone]
        output.json("prune", url=manager.url, dry_run=dry_run, deleted=gone, kept=kept)
    output.lines([f"{verb} {_listed(gone, steps)}"])


def _listed(gone: Sequence[int], steps: Sequence[int]) -> str:
    numbers = f": {', '.join(map(str, gone))}" if gone else ""
    return f"{len(gone)} of {len(steps)} steps{numbers}"


def _rule(last: int | None, every: int | None, best: tuple[str, ...]) -> Any:
    rules: list[Any] = [ckptstore.keep_last(last)] if last is not None else []
    rules += [ckptstore.keep_every(every)] if every is not None else []
    for text in best:
        metric, colon, mode = text.rpartition(":")
        is_mode = bool(colon) and mode in ("min", "max")
        chosen: Any = (metric, mode) if is_mode else (text, "min")
        rules.append(ckptstore.keep_best(1, *chosen))
    if not rules:
        raise click.UsageError(
            "no rule is given; pass what to keep: --keep-last N, --keep-every STEPS, --keep-best "
            "METRIC, or several"
        )
    return functools.reduce(operator.or_, rules)

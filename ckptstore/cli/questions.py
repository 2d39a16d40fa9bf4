"""The question before something is deleted, and the lengths of time that a person writes."""

from __future__ import annotations

import re
import sys

import click

from ckptstore.cli.texts import clean

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)")


def confirmed(question: str, *, yes: bool) -> bool:
    """Return whether the user agrees; ask on a terminal, unless it was said before.

    Raises:
        click.UsageError: there is no terminal to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(
            "nothing was deleted: there is no terminal for the question whether to delete; pass -y "
            "to delete without it, or -n to see what would go"
        )
    return click.confirm(clean(question), err=True)


def seconds(text: str) -> float:
    """Return a length of time in seconds.

    Raises:
        click.BadParameter: it is none.

    Example:
        >>> seconds("1d"), seconds("1.5h"), seconds("90")
        (86400.0, 5400.0, 90.0)
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise click.BadParameter(
            f"{text!r} is no time; write 90s, 30m, 12h or 1d", param_hint="--grace"
        )
    return float(found[1]) * _SECONDS[found[2]]

"""The options that all commands take, and what they print with them."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click

SCHEMA = 1
"""The version of the JSON of all commands: docs/cli.md."""


class ClosedPipe(Exception):
    """Nobody reads what is printed any more."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command was asked for by the options of all commands.

    Attributes:
        as_json: print JSON.
        quiet: print nothing but errors.
        colors: whether the terminal shows colors.
        options: the storage options.
    """

    as_json: bool
    quiet: bool
    colors: bool
    options: Mapping[str, Any] | None

    def json(self, command: str, **values: Any) -> None:
        """Print one line of JSON."""
        row = {"schema": SCHEMA, "command": command, **values}
        self._print(json.dumps(row, ensure_ascii=True, allow_nan=False))

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines, unless they are not asked for."""
        if not (self.quiet or self.as_json):
            for line in lines:
                self._print(line)

    def _print(self, line: str) -> None:
        try:
            click.echo(line, color=self.colors)
        except BrokenPipeError:
            raise ClosedPipe from None

    def red(self, text: str) -> str:
        """Return a text in red, where the terminal shows colors."""
        return click.style(text, fg="red", bold=True) if self.colors else text


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all commands to one; it gets them as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON: docs/cli.md.")
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
    @click.option("--no-color", is_flag=True, help="No colors; NO_COLOR=1 says the same.")
    @click.option(
        "-o", "options", multiple=True, metavar="KEY=VALUE",
        help="A storage option; the value is JSON or text. Secrets belong in the environment.",
    )  # fmt: skip
    @functools.wraps(function)
    def command(
        *positional: Any,
        as_json: bool,
        quiet: bool,
        no_color: bool,
        options: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        colors = sys.stdout.isatty() and not no_color and not os.environ.get("NO_COLOR")
        output = Output(as_json, quiet, colors, options_of(options))
        return function(output, *positional, **rest)

    return command


def options_of(pairs: Iterable[str], hint: str = "-o") -> dict[str, Any] | None:
    """Return storage options, whose values are JSON or text; None for none.

    Args:
        pairs: each as ``KEY=VALUE``.
        hint: the option of the command line, for an error.
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=hint)
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found or None

"""The group of commands: what they share, errors in one line, exit codes, the end of a pipe."""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from collections.abc import Sequence

import click

from ckptstore import CheckpointError, __version__
from ckptstore.cli.arguments import ClosedPipe
from ckptstore.cli.texts import clean

COMMANDS = {
    "ls": "the steps of a run: age, size, metrics",
    "show": "the tree of a checkpoint, without its data",
    "cat": "values of one array",
    "stats": "mean, range, norm, NaN of each array",
    "verify": "whether every byte is as it was written",
    "diff": "compare two checkpoints",
    "cp": "a checkpoint, or all steps of a run, to another place",
    "rm": "erase checkpoints",
    "import": "a file of another tool, saved as a checkpoint",
    "export": "arrays of a checkpoint as safetensors or npz",
    "pin": "steps that nothing may delete",
    "unpin": "pinned steps that may be deleted again",
    "prune": "fewer steps: those that a rule keeps",
    "gc": "the files of killed saves, removed",
    "doctor": "versions, and whether a place keeps its promises",
    "demo": "kill a training run, and resume it bit for bit",
}
"""Each command is the module of `commands` with its name, and a _ after a word of Python."""

INTERRUPTED, CLOSED_PIPE = 130, 141


class Commands(click.Group):
    """The commands; each is imported when it is called, so that none costs another its start."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = importlib.import_module(f"ckptstore.cli.commands.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="ckptstore")
def group() -> None:
    """Look into checkpoints and runs, and look after them, on a disk or in a bucket.

    A place is a path or a URL. A step of a run is RUN@STEP: run@400, run@-1 (the newest),
    run@latest, run@best:loss, run@best:acc:max. A run alone means its newest step.

    Exit codes: 0 well; 1 diff found a difference, or stats --fail-on and verify --finite found
    what they look for; 2 usage; 3 to 12 an error (6 damage, 7 not there, 10 the store);
    130 Ctrl-C; 141 the pipe was closed.
    """


def run(arguments: Sequence[str]) -> int:
    """Carry a command out, and return its exit status."""
    try:
        status = group.main([*arguments], prog_name="ckptstore", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CheckpointError as error:
        click.echo(f"error: {clean(str(error), lines=True)} [{error.reason}]", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (ClosedPipe, BrokenPipeError):
        # The interpreter flushes stdout at its end, and would print another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE

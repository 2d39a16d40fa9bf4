"""The command ``ckptstore``: look into checkpoints and runs from a shell, and look after them.

It is thin: each command is one file in `commands`, over the public API. No framework is imported.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command, and leave with its exit status."""
    try:
        import click  # noqa: F401 - of the extra `cli`
    except ImportError:
        print('ckptstore: this needs click: pip install "ckptstore[cli]"', file=sys.stderr)
        sys.exit(2)
    from ckptstore.cli.application import run

    sys.exit(run(sys.argv[1:]))

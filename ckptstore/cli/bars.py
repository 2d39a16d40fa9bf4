"""A bar on stderr while a command reads much, on a terminal only."""

from __future__ import annotations

import sys
from typing import Any

from ckptstore.cli.arguments import Output


def bar(output: Output, text: str) -> Any:
    """Return a callback that draws a bar; None where nobody sees it.

    Args:
        output: the options of the command.
        text: the name of the bar.
    """
    if output.quiet or output.as_json or not sys.stderr.isatty():
        return None
    from fsspec.callbacks import TqdmCallback  # type: ignore[import-untyped, unused-ignore]

    options = {"unit": "B", "unit_scale": True, "desc": text, "leave": False}
    return TqdmCallback(tqdm_kwargs=options)

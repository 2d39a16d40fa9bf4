"""How a difference from `like` is told: one error with every difference, each with its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptstore.errors import Reason, StructureError, listed

LINES_SHOWN = 50
NUMBERS = (int, float, complex)


def differs_from_like(where: str, lines: Sequence[str]) -> StructureError:
    """Return the error that lists differences from `like`, each a line with its path."""
    return StructureError(
        "\n  ".join(
            [f"{where}: {len(lines)} difference(s) from `like`:", *listed(lines, LINES_SHOWN)]
        ),
        reason=Reason.DIFFERS_FROM_LIKE,
    )


def number_hint(x: Any, shape: Sequence[int] | None) -> str:
    """Return what to put into `like` for a number `x`, where an array of this shape is stored."""
    return "; pass an array there" if type(x) in NUMBERS and shape == () else ""


def key_text(impl: str | None) -> str:
    """Return what an array with this key implementation is called."""
    return "a plain array" if impl is None else f"a PRNG key of {impl}"

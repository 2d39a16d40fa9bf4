"""The error for differences from `like`: it lists every difference with its path."""

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
    """Return the remedy for a number `x` in `like`, if an array of this shape is stored."""
    return "; pass an array there" if type(x) in NUMBERS and shape == () else ""


def key_text(impl: str | None) -> str:
    """Return the name of an array with this key implementation, for a message."""
    return "a plain array" if impl is None else f"a PRNG key of {impl}"

"""The error for differences from `like`: it lists every difference with its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptstore.errors import Reason, StructureError, listed
from ckptstore.format import TypeRow
from ckptstore.texts import shown

LINES_SHOWN = 50
NUMBERS = (int, float, complex)


def differs_from_like(where: str, lines: Sequence[str], more: int = 0) -> StructureError:
    """Return the error that lists differences from `like`, each a line with its path.

    Args:
        where: the checkpoint.
        lines: the differences, or the first `LINES_SHOWN` of them.
        more: the number of the others.
    """
    return StructureError(
        "\n  ".join(
            [
                f"{where}: {len(lines) + more} difference(s) from `like`:",
                *listed(lines, LINES_SHOWN, more),
            ]
        ),
        reason=Reason.DIFFERS_FROM_LIKE,
    )


def number_hint(x: Any, shape: Sequence[int] | None) -> str:
    """Return the remedy for a number `x` in `like`, if an array of this shape is stored."""
    is_number = any(type(x) is number for number in NUMBERS)
    return "; pass an array there" if is_number and shape == () else ""


def key_text(impl: Any) -> str:
    """Return the name of an array with this key implementation, for a message."""
    if impl is None:
        return "a plain array"
    return f"a PRNG key of {shown(impl) if isinstance(impl, str) else 'an unknown kind'}"


def moved_hint(row: TypeRow, cls: type) -> str:
    """Return the remedy if a class may only have moved."""
    if row.name.rpartition(".")[2] != cls.__name__:
        return ""
    return (
        f"; if it is the same class, pass types={{'{row}': {cls.__name__}}}, or "
        f"ckptstore.register({cls.__name__}, name='{row}')"
    )

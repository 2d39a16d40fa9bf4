"""Columns: numbers whole and to the right, one column that gives way on a narrow terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence

from ckptstore.cli.texts import elided

ROWS_SHOWN = 200
_GAP = "  "
_LEAST = 12


def width() -> int | None:
    """Return the columns of the terminal; None for a pipe, where nothing is left out."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def lines(
    rows: Sequence[Sequence[str]],
    heads: Sequence[str],
    *,
    right: str = "",
    gives: int = 0,
    limit: int | None = ROWS_SHOWN,
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        rows: the cells of each row.
        heads: the names of the columns; none: no line of names.
        right: for each column ``>`` if its cells stand to the right; missing ones stand left.
        gives: the column whose cells lose their middle where the terminal is too narrow.
        limit: the most rows; None: all.
    """
    shown = rows if limit is None else rows[:limit]
    every = [heads, *shown] if heads else [*shown]
    if not every:
        return
    widths = [max(len(row[i]) for row in every) for i in range(len(every[0]))]
    if (room := width()) is not None:
        over = sum(widths) + len(_GAP) * (len(widths) - 1) - room
        if over > 0:
            widths[gives] = max(widths[gives] - over, min(widths[gives], _LEAST))
    sides = right.ljust(len(widths))
    for row in every:
        cells = [
            elided(cell, most).rjust(most) if side == ">" else elided(cell, most).ljust(most)
            for cell, most, side in zip(row, widths, sides, strict=True)
        ]
        yield _GAP.join(cells).rstrip()
    if len(shown) < len(rows):
        yield f"… and {len(rows) - len(shown):,} more: --all, or --json"

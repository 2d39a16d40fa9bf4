"""Text of a file in messages and prints: cut where it is long, escaped for terminals, as JSON."""

from __future__ import annotations

import math
from typing import Any

from ckptstore import signals

_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def shown(text: str, most: int = 200) -> str:
    """Return text of a file for a message: on one line, with the middle left out if it is long.

    Args:
        text: a stored name, path or description.
        most: the number of characters that are kept.
    """
    if len(text) > most:
        text = f"{text[: most - most // 3]}…{text[len(text) - most // 3 :]}"
    return escaped(text).replace("\n", "\\n")


def escaped(text: str) -> str:
    """Return a text with the characters escaped that a terminal may obey; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def text_of(x: Any, most: int = 80) -> str:
    """Return the start of the `repr` of an object, or its class if that raises an error."""
    try:
        return f"{x!r:.{most}}"
    except Exception as error:  # an object may have code of its own
        signals.pass_on(error)
        return f"<{type(x).__name__}>"


def plain(value: Any) -> Any:
    """Return a value as JSON has it; one that JSON lacks is a text.

    Example:
        >>> plain(float("nan")), plain(2**60), plain(b"a"), plain([1, 0.5])
        ('NaN', '1152921504606846976', "b'a'", [1, 0.5])
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _NOT_FINITE[str(value)]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return repr(value)

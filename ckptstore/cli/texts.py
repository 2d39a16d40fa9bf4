"""Texts for a terminal or a pipe: names of a file made harmless, sizes, ages and numbers."""

from __future__ import annotations

import datetime
import math

from ckptstore.texts import escaped

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_COUNTS = ("", " k", " M", " G", " T")
_AGES = ((86400.0, "day"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def clean(text: str, *, lines: bool = False) -> str:
    """Return a text of a file without characters that a terminal obeys.

    Args:
        text: any text.
        lines: keep its line breaks.

    Example:
        >>> len(clean(chr(27)))  # a backslash and three characters more
        4
    """
    text = escaped(text)
    return text if lines else text.replace("\n", "\\n")


def elided(text: str, width: int) -> str:
    """Return a text of at most `width` characters; its middle is left out.

    Example:
        >>> elided("params.layers.0.attention", 15)
        'params.…tention'
    """
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def size(nbytes: float) -> str:
    """Return a number of bytes in units of 1000.

    Example:
        >>> size(512), size(15_087_752), size(999_960)
        ('512 B', '15.1 MB', '1.0 MB')
    """
    return _scaled(nbytes, _UNITS, " ")


def count(number: int) -> str:
    """Return a large number in units of 1000.

    Example:
        >>> count(128), count(1_376_256)
        ('128', '1.38 M')
    """
    if number < 10_000:
        return str(number)
    power = min(int(math.log10(number)) // 3, len(_COUNTS) - 1)
    return f"{number / 1000**power:.3g}{_COUNTS[power]}"


def _scaled(number: float, units: tuple[str, ...], gap: str) -> str:
    for unit in units[:-1]:
        if number < 999.95 or (unit == units[0] and number < 1000):
            digits = 0 if unit == units[0] else 1
            return f"{number:.{digits}f}{gap}{unit}"
        number /= 1000
    return f"{number:.1f}{gap}{units[-1]}"


def number(x: float | int | None) -> str:
    """Return a number with four digits that matter.

    Example:
        >>> number(1.60123), number(3), number(None), number(float("nan"))
        ('1.601', '3', '', 'NaN')
    """
    if x is None:
        return ""
    if isinstance(x, int):
        return str(x)
    if not math.isfinite(x):
        return "NaN" if x != x else "Inf" if x > 0 else "-Inf"
    return f"{x:.4g}"


def percent(share: float | None) -> str:
    """Return a share in percent.

    Example:
        >>> percent(0.0908), percent(0.1)
        ('9.08 %', '10 %')
    """
    return "" if share is None else f"{number(100 * share)} %"


def age(time: datetime.datetime) -> str:
    """Return how long ago a time was."""
    seconds = max((datetime.datetime.now(datetime.UTC) - time).total_seconds(), 0.0)
    for length, unit in _AGES:
        if seconds >= length:
            amount = int(seconds // length)
            plural = "s" if unit == "day" and amount > 1 else ""
            return f"{amount} {unit}{plural} ago"
    return "now"


def shape(dtype: str, lengths: tuple[int, ...]) -> str:
    """Return dtype and shape in short.

    Example:
        >>> shape("float32", (4096, 128)), shape("int32", ())
        ('f32[4096,128]', 'i32[]')
    """
    return f"{_dtype(dtype)}[{','.join(map(str, lengths))}]"


def _dtype(dtype: str) -> str:
    for name, letter in (("bfloat", "bf"), ("float", "f"), ("uint", "u"), ("int", "i")):
        if dtype.startswith(name) and dtype[len(name) :].isdigit():
            return letter + dtype[len(name) :]
    return clean(dtype)

"""Python's generator of random numbers: its state, as an array."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ckptstore.types import Record, Refusal, object_row

_WORDS = 624


def _take(x: Any) -> Sequence[Any]:
    names = sorted(vars(x).keys() - {"gauss_next"})
    if names:
        raise Refusal(f"this Random has the attribute {names[0]!r}, which would be lost; delete it")
    _, words, gauss = random.Random.getstate(x)
    return (np.array(words[:-1], np.uint32), words[-1], gauss)


def _check(values: Sequence[Any]) -> None:
    words, position, gauss = values
    if type(words) is not np.ndarray or words.dtype != np.uint32 or words.shape != (_WORDS,):
        raise TypeError(f"its words are not {_WORDS} numbers of uint32")
    if type(position) is not int or not 0 <= position <= _WORDS:
        raise ValueError(f"its position is not a number from 0 to {_WORDS}")
    if type(gauss) not in (float, type(None)):
        raise TypeError("its next number of gauss is neither a float nor None")


def _make(values: Sequence[Any]) -> Any:
    _check(values)
    words, position, gauss = values
    made = random.Random(0)
    made.setstate((random.Random.VERSION, (*words.tolist(), position), gauss))
    return made


def _no_state(x: Any) -> Sequence[Any]:
    raise Refusal(
        "a random.SystemRandom has no state; leave it out, and make a new one: "
        "random.SystemRandom()"
    )


_FIELDS = ("words", "position", "gauss_next")
RECORDS: Mapping[type, Record] = {
    random.Random: Record(object_row("random.Random", *_FIELDS), _take, _make, check=_check),
    random.SystemRandom: Record(object_row("random.SystemRandom", *_FIELDS), _no_state, _make),
}
"""By exact type."""

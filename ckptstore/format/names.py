"""The names of the directories of steps in a run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ckptstore.errors import Reason, StructureError
from ckptstore.format import wire

_NAME = re.compile(r"step-[0-9]{12,16}")


def name(step: Any) -> str:
    """Return the name of the directory of a step.

    Raises:
        StructureError: reason ``bad-step``.
    """
    check_step(step)
    return f"step-{step:012d}"


def named(names: Iterable[str]) -> dict[str, int]:
    """Return the step of each name that is one of a step's directory."""
    found = {text: int(text[5:]) for text in names if _NAME.fullmatch(text)}
    return {
        text: step
        for text, step in found.items()
        if step <= wire.MAX_INTEGER and text == name(step)
    }


def check_step(step: Any) -> None:
    """Check the number of a step.

    Raises:
        StructureError: reason ``bad-step``.
    """
    if type(step) is not int or not 0 <= step <= wire.MAX_INTEGER:
        huge = type(step) is int and abs(step) > wire.MAX_INTEGER  # repr may refuse it
        found = "out of range" if huge else f"{step!r:.80} ({type(step).__name__})"
        raise StructureError(
            f"step is {found}, expected an int from 0 to 2^53 - 1; int(step) of an array gives one",
            reason=Reason.BAD_STEP,
        )

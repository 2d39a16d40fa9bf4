"""The names of the directories of steps in a run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ckptstore import wire
from ckptstore.arguments import check_step

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

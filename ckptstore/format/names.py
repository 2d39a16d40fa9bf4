"""The names of files and directories. Spec: section 2; of a run: docs/runs.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from ckptstore.errors import Reason, StructureError
from ckptstore.format import wire

MANIFEST = "MANIFEST"
"""The file whose existence is the commit."""

Role = Literal["data", "index"]

_ATTEMPT = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"(data|index)-([0-9a-f]{32})-(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})\.bin")
_SHORT_LIVED = re.compile(
    r"PROBE-[0-9a-f]{32}|VOID-[0-9a-f]{32}|(MANIFEST|VOID-[0-9a-f]{32})\.[0-9a-f]{16}\.tmp"
)
_STEP = re.compile(r"step-[0-9]{12,16}")


def file_name(role: Role, attempt: str, process: int, number: int) -> str:
    """Return the name of the data or index file `number` of one process of an attempt."""
    return f"{role}-{attempt}-{process}-{number}.bin"


def is_file_name(name: str, role: str, attempt: str) -> bool:
    """Return whether a name is the name of a file of this role and attempt."""
    match = _FILE.fullmatch(name)
    return match is not None and match[1] == role and match[2] == attempt


def attempt_of(name: str) -> str | None:
    """Return the attempt that a data or index file belongs to, or None for any other name."""
    match = _FILE.fullmatch(name)
    return match[2] if match else None


def is_attempt(text: str) -> bool:
    """Return whether a text can be the id of an attempt."""
    return _ATTEMPT.fullmatch(text) is not None


def mark(attempt: str) -> str:
    """Return the name of the mark that a collector makes before it removes an attempt."""
    return f"VOID-{attempt}"


def probe(random: str) -> str:
    """Return the name of the file whose time is the store's clock; `random` is 32 hex digits."""
    return f"PROBE-{random}"


def is_short_lived(name: str) -> bool:
    """Return whether a name is temporary: of a mark, a probe or a temporary file."""
    return _SHORT_LIVED.fullmatch(name) is not None


def step_name(step: Any) -> str:
    """Return the name of the directory of a step.

    Raises:
        StructureError: reason ``bad-step``.
    """
    check_step(step)
    return f"step-{step:012d}"


def steps_of(names: Iterable[str]) -> dict[str, int]:
    """Return the step of each name that names a step's directory."""
    steps = {name: int(name[5:]) for name in names if _STEP.fullmatch(name)}
    return {
        name: step
        for name, step in steps.items()
        if step <= wire.MAX_INTEGER and name == step_name(step)
    }


def is_step(name: str) -> bool:
    """Return whether a name is that of a step's directory."""
    return bool(steps_of([name]))


def check_step(step: Any) -> None:
    """Check the number of a step.

    Raises:
        StructureError: reason ``bad-step``.
    """
    if type(step) is not int or not 0 <= step <= wire.MAX_INTEGER:
        huge = type(step) is int and abs(step) > wire.MAX_INTEGER  # repr may refuse it
        value = "out of range" if huge else f"{step!r:.80} ({type(step).__name__})"
        raise StructureError(
            f"step is {value}, expected an int from 0 to 2^53 - 1; int(step) of an array gives one",
            reason=Reason.BAD_STEP,
        )

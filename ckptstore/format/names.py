"""The names of files and directories. Spec: section 2; of a run: docs/runs.md."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from typing import Any, Literal

from ckptstore import signals
from ckptstore.errors import Reason, StructureError
from ckptstore.format import wire
from ckptstore.texts import text_of

MANIFEST = "MANIFEST"
"""The file whose existence is the commit."""

PINNED = "PINNED"
"""The file that keeps a step from every removal. It is part of no checkpoint."""

Role = Literal["data", "index"]

Note = Literal["JOIN", "PART", "FAIL"]
"""A process has found its tree right, hands in its files and spans, or says that it failed."""

_ATTEMPT = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"(data|index)-([0-9a-f]{32})-(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})\.bin")
_NOTE = re.compile(
    r"(?:(?:START|ABORT)-([0-9a-f]{32})|(?:JOIN|PART|FAIL)-([0-9a-f]{32})-(0|[1-9][0-9]{0,8}))"
)
_SHORT_LIVED = re.compile(
    rf"PROBE-[0-9a-f]{{32}}|VOID-[0-9a-f]{{32}}"
    rf"|(MANIFEST|PINNED|VOID-[0-9a-f]{{32}}|{_NOTE.pattern})\.[0-9a-f]{{16}}\.tmp"
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
    """Return the attempt that a data file, index file or note belongs to, or None."""
    if (match := _FILE.fullmatch(name)) is not None:
        return match[2]
    note = _NOTE.fullmatch(name)
    return None if note is None else note[1] or note[2]


def renamed(name: str, attempt: str) -> str:
    """Return the name of the same data or index file in another attempt.

    Example:
        >>> renamed(file_name("data", "0" * 32, 2, 7), "1" * 32)
        'data-11111111111111111111111111111111-2-7.bin'
    """
    match = _FILE.fullmatch(name)
    assert match is not None
    return f"{match[1]}-{attempt}-{match[3]}-{match[4]}.bin"


def process_of(name: str) -> int | None:
    """Return the process that wrote a data file, index file or note; None for other names.

    Example:
        >>> process_of(file_name("data", "0" * 32, 3, 0)), process_of(note("JOIN", "0" * 32, 2))
        (3, 2)
    """
    if (match := _FILE.fullmatch(name)) is not None:
        return int(match[3])
    found = _NOTE.fullmatch(name)
    return None if found is None or found[3] is None else int(found[3])


def note(kind: Note, attempt: str, process: int) -> str:
    """Return the name of a note of one process to the others of a save: docs/commit.md."""
    return f"{kind}-{attempt}-{process}"


def started(attempt: str) -> str:
    """Return the name of the note that says that all processes may write their data."""
    return f"START-{attempt}"


def aborted(attempt: str) -> str:
    """Return the name of the note that says that an attempt is not and will not be committed."""
    return f"ABORT-{attempt}"


def is_note(name: str) -> bool:
    """Return whether a name is that of a note between the processes of one save.

    Example:
        >>> is_note(aborted("0" * 32)), is_note("MANIFEST")
        (True, False)
    """
    return _NOTE.fullmatch(name) is not None


def is_attempt(text: str) -> bool:
    """Return whether a text can be the id of an attempt."""
    return _ATTEMPT.fullmatch(text) is not None


def mark(attempt: str) -> str:
    """Return the name of the mark that a collector makes before it removes an attempt."""
    return f"VOID-{attempt}"


def probe(random: str) -> str:
    """Return the name of the file whose time is the store's clock; `random` is 32 hex digits."""
    return f"PROBE-{random}"


def is_probe(name: str) -> bool:
    """Return whether a name is one of `probe`."""
    return name.startswith("PROBE-") and is_short_lived(name)


def is_short_lived(name: str) -> bool:
    """Return whether a name is temporary: of a mark, a probe or a temporary file."""
    return _SHORT_LIVED.fullmatch(name) is not None


def step_name(step: Any) -> str:
    """Return the name of the directory of a step.

    Raises:
        StructureError: reason ``bad-step``.
    """
    return f"step-{step_number(step):012d}"


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


def step_number(step: Any) -> int:
    """Return the number of a step, which may be an integer of any framework.

    Args:
        step: an int, or a scalar or array of no axes with ``__index__``; no bool.

    Raises:
        StructureError: reason ``bad-step``.

    Example:
        >>> import numpy as np
        >>> step_number(np.int64(3)), step_number(np.array(4, np.uint8))
        (3, 4)
    """
    number = step if type(step) is int else _index(step)
    if number is None:
        raise StructureError(
            f"step is {text_of(step)} ({type(step).__name__}), expected an int from 0 to 2^53 - 1; "
            f"{_way_to_int(step)}",
            reason=Reason.BAD_STEP,
        )
    if not 0 <= number <= wire.MAX_INTEGER:
        value = f"{number}" if abs(number) < 1 << 64 else "out of range"  # str may refuse it
        raise StructureError(
            f"step is {value}, expected an int from 0 to 2^53 - 1; count from 0",
            reason=Reason.BAD_STEP,
        )
    return number


def _way_to_int(x: Any) -> str:
    """Return the advice how to get an int, by the kind of the object that was passed."""
    if type(x).__name__.endswith("Tracer"):  # of jax, in a function under jit
        return "a traced value has no number yet: save outside of jit"
    if (isinstance(x, str) and x.isdecimal()) or isinstance(x, bool | float):
        return "int(step) gives one"
    if not hasattr(type(x), "__int__"):
        return "the step comes first, as in save(step, tree) and load(step)"
    return "int(step) gives one" if getattr(x, "ndim", 0) == 0 else "step.item() gives one"


def _index(x: Any) -> int | None:
    """Return an integer without axes as an int; None for a bool, and for any other object."""
    try:
        dtype = str(getattr(x, "dtype", ""))
        if isinstance(x, bool) or "bool" in dtype or getattr(x, "ndim", 0) != 0:
            return None
        return int(operator.index(x))
    except Exception as error:  # of the framework: a deleted or traced array, for example
        signals.pass_on(error)
        return None

"""New steps of a run, as another process commits them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ckptstore.errors import bad_argument
from ckptstore.format.names import step_number
from ckptstore.runs.directory import Run

_PAUSES = (0.1, 10.0)
"""The first pause between two listings, and the longest, in seconds."""

_GROWTH = 1.5


def watched(run: Run, after: int | None, timeout: float | None) -> Iterator[int]:
    """Yield the steps of a run; the arguments and errors are those of `Manager.watch`."""
    last = -1 if after is None else step_number(after)
    if timeout is not None and not _is_seconds(timeout):
        raise bad_argument("watch", "timeout", timeout, "a number of seconds, or None")
    return _steps(run, last, timeout)


def _steps(run: Run, last: int, timeout: float | None) -> Iterator[int]:
    is_seen, before = False, list[int]()
    pause, since = _PAUSES[0], time.monotonic()
    while True:
        found = run.committed()
        if is_seen and found and found[-1] < last:  # never evicted: so the run went back
            last = max(set(found).intersection(before), default=-1)
        before = found
        if following := [step for step in found if step > last]:
            last, is_seen = following[0], True
            yield last
            pause, since = _PAUSES[0], time.monotonic()
            continue
        left = None if timeout is None else since + timeout - time.monotonic()
        if left is not None and left <= 0:
            return
        time.sleep(pause if left is None else min(pause, left))
        pause = min(pause * _GROWTH, _PAUSES[1])


def _is_seconds(timeout: Any) -> bool:
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    return is_number and 0 <= timeout < float("inf")

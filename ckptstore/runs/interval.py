"""Which calls save: at steps that are a number apart, or after a time."""

from __future__ import annotations

import datetime
import time
from typing import Any

from ckptstore.errors import Reason, StructureError

Every = int | datetime.timedelta | None


class Cadence:
    """What `every=` of a Manager says, and what it has to know for that.

    Args:
        every: a number of steps, a time, or None for each call.

    Raises:
        StructureError: reason ``bad-argument``.
    """

    def __init__(self, every: Every) -> None:
        _check(every)
        self.every = every
        self._seen: int | None = None
        self._saved_at = time.monotonic()
        self._owed = False

    def resumed(self, step: int) -> None:
        """Count from a step that was loaded, where there was no call yet."""
        if self._seen is None:
            self._seen = step

    def called(self, step: int) -> bool:
        """Tell whether a call for a step is to save.

        That is each multiple of a number of steps, and the first step after one that was jumped
        over; so it does not matter how many calls there were, or where the run was resumed. Until
        `saved` is called, a save that failed, the next call is to save as well.
        """
        if self.every is None or self._owed:
            return True
        if isinstance(self.every, datetime.timedelta):
            return time.monotonic() - self._saved_at >= self.every.total_seconds()
        before = step - 1 if self._seen is None else self._seen
        due = step % self.every == 0 or step // self.every > before // self.every
        self._seen = before if due else step
        return due

    def saved(self, step: int) -> None:
        """Count from a step that was saved, or is being saved, and from now."""
        self._seen = step
        self._saved_at = time.monotonic()
        self._owed = False

    def failed(self) -> None:
        """Let the next call save: the save that `saved` told of came to nothing."""
        self._owed = True


def _check(every: Any) -> None:
    time_ = isinstance(every, datetime.timedelta) and every > datetime.timedelta(0)
    if not (every is None or time_ or (type(every) is int and every > 0)):
        raise StructureError(
            f"Manager: every is {every!r:.80}, expected a number of steps (an int over 0) or "
            "datetime.timedelta(minutes=10)",
            reason=Reason.BAD_ARGUMENT,
        )

"""The save interval of a run: which calls of `Manager.save` save, by step or by time."""

from __future__ import annotations

import datetime
import time
from typing import Any

from ckptstore.errors import bad_argument

Every = int | datetime.timedelta | None
"""A number of steps, a time, or None for each call."""


class SaveInterval:
    """The meaning of ``every=`` of a Manager, and the time of the run's last save.

    Args:
        every: a number of steps, a time, or None for each call.

    Raises:
        StructureError: reason ``bad-argument``.
    """

    def __init__(self, every: Every) -> None:
        _check(every)
        self.every = every
        self._last_step: int | None = None
        self._saved_at = time.monotonic()
        self._overdue = False

    def resumed(self, step: int) -> None:
        """Count from a step that was loaded, if there was no call yet."""
        if self._last_step is None:
            self._last_step = step

    def rewound(self, step: int) -> None:
        """Count from a step to which the run went back."""
        self._last_step = step

    def called(self, step: int) -> bool:
        """Return whether the call for a step should save, and note the call.

        With a number of steps, a save is due at each multiple, and at the first step after a
        skipped multiple. So the number of calls and the step at which a run resumes do not matter.
        A save stays due until `saved` is called.
        """
        if self.every is None or self._overdue:
            return True
        if isinstance(self.every, datetime.timedelta):
            return time.monotonic() - self._saved_at >= self.every.total_seconds()
        before = step - 1 if self._last_step is None else self._last_step
        due = step % self.every == 0 or step // self.every > before // self.every
        self._last_step = before if due else step
        return due

    def saved(self, step: int) -> None:
        """Count from a step that was saved or is being saved, and from the present time."""
        self._last_step = step
        self._saved_at = time.monotonic()
        self._overdue = False

    def failed(self) -> None:
        """Make the next call save, because the save that `saved` announced has failed."""
        self._overdue = True


def _check(every: Any) -> None:
    is_time = isinstance(every, datetime.timedelta) and every > datetime.timedelta(0)
    is_steps = type(every) is int and every > 0
    if every is not None and not is_time and not is_steps:
        raise bad_argument(
            "Manager",
            "every",
            every,
            "a number of steps (an int over 0) or datetime.timedelta(minutes=10)",
        )

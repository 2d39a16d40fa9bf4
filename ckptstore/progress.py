"""The progress of one call in bytes, told to a callback of fsspec from a thread of its own."""

from __future__ import annotations

import logging
import threading
from typing import Any, Self

from ckptstore.errors import bad_argument

_log = logging.getLogger("ckptstore")

_PAUSE_SECONDS = 0.1


class Progress:
    """The bytes of one call: how many there are, and how many are done.

    The callback is called from one thread, at most ten times a second and once at the end. If it
    raises an error, a line is logged at WARNING, and it is not called again.

    Args:
        callback: an `fsspec.Callback`, or any object with `set_size` and `absolute_update`; None:
            nobody is told.
        where: the call, for messages.

    Raises:
        StructureError: reason ``bad-argument``.
    """

    def __init__(self, callback: Any = None, where: str = "") -> None:
        methods = ("set_size", "absolute_update")
        if callback is not None and not all(callable(getattr(callback, m, None)) for m in methods):
            expected = "an fsspec.Callback, such as fsspec.callbacks.TqdmCallback()"
            raise bad_argument(where, "callback", callback, expected)
        self._callback = callback
        self._total = self._done = 0
        self._told: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def expect(self, nbytes: int) -> None:
        """Add bytes to the total."""
        if self._callback is None:
            return
        with self._lock:
            self._total += nbytes
            if self._thread is None and not self._end.is_set():
                self._thread = threading.Thread(
                    target=self._tell, name="ckptstore-progress", daemon=True
                )
                self._thread.start()

    def add(self, nbytes: int) -> None:
        """Count bytes as done."""
        if self._callback is not None:
            with self._lock:
                self._done += nbytes

    def close(self) -> None:
        """Tell the last number, and end."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _tell(self) -> None:
        while True:
            is_last = self._end.wait(_PAUSE_SECONDS)
            with self._lock:
                total, done = self._total, self._done
            try:
                if self._told is None or self._told[0] != total:
                    self._callback.set_size(total)
                if self._told is None or self._told[1] != done:
                    self._callback.absolute_update(done)
            except Exception as error:  # of the caller's code, which must not fail a save
                _log.warning("the callback raised %s: %s; it is not called again",
                             type(error).__name__, error)  # fmt: skip
                return
            self._told = total, done
            if is_last:
                return


NOBODY = Progress()
"""Tells nobody."""

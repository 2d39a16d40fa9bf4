"""The request to stop: a flag for the training loop, raised by SIGTERM or a cloud's notice."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ckptstore.errors import Reason, StructureError, bad_argument

_log = logging.getLogger("ckptstore")

_POLL_S = 1.0

_open: list[Preemption] = []


class Preemption:
    """A flag that is false until this process is told to stop: ``if preempted: …``.

    Until you call `close`, SIGTERM raises the flag and also runs the earlier handler. If there was
    no handler, the process goes on. A forked child has the old handler at once.

    `Manager.on_preemption` makes one that the end of the Manager's `with` block closes.

    Args:
        notice: a function without arguments, called once a second in a thread of its own. When it
            returns a true value, the flag is raised. If it raises an error, that is logged, and it
            is called again.

    Raises:
        StructureError: reason ``not-main-thread``: Python allows signal handlers only in the main
            thread. Reason ``foreign-handler``: SIGTERM has a handler that cannot be restored.
            Reason ``bad-argument``.

    Example:
        >>> import signal
        >>> preempted = Preemption()
        >>> bool(preempted)
        False
        >>> signal.raise_signal(signal.SIGTERM)  # as a cluster does before it takes the machine
        >>> bool(preempted)
        True
        >>> preempted.close()

    Source: docs/runs.md, "Preemption".
    """

    def __init__(self, notice: Callable[[], object] | None = None) -> None:
        if notice is not None and not callable(notice):
            raise bad_argument(
                "on_preemption",
                "notice",
                notice,
                "a callable without arguments that returns a true value once this machine will "
                "be taken away",
            )
        if threading.current_thread() is not threading.main_thread():
            raise StructureError(
                "on_preemption: called in a thread, but Python allows signal handlers only in the "
                "main thread; call it there before you start this thread, and pass the flag",
                reason=Reason.NOT_MAIN_THREAD,
            )
        old = signal.getsignal(signal.SIGTERM)
        if old is None:
            raise StructureError(
                "on_preemption: SIGTERM has a handler that was not installed by Python, so it "
                "could be neither run nor restored; remove it first",
                reason=Reason.FOREIGN_HANDLER,
            )
        self._raised = False
        self._closed = threading.Event()
        self._old: Any = old
        _open.append(self)
        signal.signal(signal.SIGTERM, self._handle)
        if notice is not None:
            threading.Thread(
                target=self._poll, args=(notice,), name="ckptstore-notice", daemon=True
            ).start()

    def __bool__(self) -> bool:
        return self._raised

    def __repr__(self) -> str:
        return f"<Preemption {'told to stop' if self._raised else 'not told'}>"

    def close(self) -> None:
        """Restore the old handler, and stop calling `notice`; the flag does not change.

        Example:
            >>> import signal
            >>> before = signal.getsignal(signal.SIGTERM)
            >>> preempted = Preemption()
            >>> preempted.close()
            >>> signal.getsignal(signal.SIGTERM) == before
            True

        Source: docs/runs.md, "Preemption".
        """
        self._closed.set()
        if self in _open:
            _open.remove(self)
        self._restore()

    def _restore(self) -> None:
        """Restore the old handler, unless a newer handler, which calls this one, is in place."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._old)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Take no lock here, because the interrupted main thread may hold it.
        closed = self not in _open
        if not closed:
            self._raised = True
        if callable(self._old):
            self._old(number, frame)
        elif closed and self._old == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _poll(self, notice: Callable[[], object]) -> None:
        failed = False
        while not self._closed.is_set():
            try:
                if notice():
                    self._raised = True
                    return
                failed = False
            except Exception:
                if not failed:  # log once, not each second
                    _log.warning(
                        "on_preemption: the notice failed; it is called again", exc_info=True
                    )
                failed = True
            self._closed.wait(_POLL_S)


def _after_fork() -> None:
    """Make SIGTERM end a child again, since multiprocessing ends its workers in this way."""
    for preemption in reversed(_open):
        preemption._closed = threading.Event()  # a thread of the parent may hold its lock
        preemption._restore()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)

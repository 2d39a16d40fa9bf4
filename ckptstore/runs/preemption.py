"""Being told to stop: SIGTERM, or a notice of the cloud, becomes a flag that a loop reads."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ckptstore.errors import Reason, StructureError

_log = logging.getLogger("ckptstore")

_POLL_S = 1.0

_open: list[Preemption] = []


class Preemption:
    """A flag, false until this process is told to stop: ``if preempted: …``.

    From when it is made until `close`, SIGTERM raises the flag and does no more than the handler
    that was there before: that one runs too, and where there was none, the process lives on. In a
    forked child the old handler is back at once.

    Args:
        notice: asked once a second, in a thread of its own, until it gives something true; that
            raises the flag too. An error in it is logged, and it is asked again.

    Raises:
        StructureError: reason ``not-main-thread``, ``foreign-handler`` or ``bad-argument``.
    """

    def __init__(self, notice: Callable[[], Any] | None = None) -> None:
        if notice is not None and not callable(notice):
            raise StructureError(
                f"on_preemption: notice is {notice!r:.80}, expected a callable without arguments "
                "that gives something true once this machine will be taken away",
                reason=Reason.BAD_ARGUMENT,
            )
        if threading.current_thread() is not threading.main_thread():
            raise StructureError(
                "on_preemption: called in a thread, and Python lets only the main thread take a "
                "signal; call it there, before the thread is started, and hand it the flag",
                reason=Reason.NOT_MAIN_THREAD,
            )
        old = signal.getsignal(signal.SIGTERM)
        if old is None:
            raise StructureError(
                "on_preemption: SIGTERM has a handler that was not installed by Python, so it "
                "could neither run nor be put back; remove it first",
                reason=Reason.FOREIGN_HANDLER,
            )
        self._told = False
        self._over = threading.Event()
        self._old: Any = old
        _open.append(self)
        signal.signal(signal.SIGTERM, self._handle)
        if notice is not None:
            threading.Thread(
                target=self._poll, args=(notice,), name="ckptstore-notice", daemon=True
            ).start()

    def __bool__(self) -> bool:
        return self._told

    def __repr__(self) -> str:
        return f"<Preemption {'told to stop' if self._told else 'not told'}>"

    def close(self) -> None:
        """Put the old handler back, and ask for no more notices; the flag stays as it is."""
        self._over.set()
        if self in _open:
            _open.remove(self)
        self._restore()

    def _restore(self) -> None:
        """Put the old handler back, if nobody put another over this one: that one calls this."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._old)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Nothing here takes a lock: the main thread may hold it where it was interrupted.
        over = self not in _open
        if not over:
            self._told = True
        if callable(self._old):
            self._old(number, frame)
        elif over and self._old == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _poll(self, notice: Callable[[], Any]) -> None:
        failed = False
        while not self._over.is_set():
            try:
                if notice():
                    self._told = True
                    return
                failed = False
            except Exception:
                if not failed:  # once, not each second
                    _log.warning("on_preemption: the notice failed; asking on", exc_info=True)
                failed = True
            self._over.wait(_POLL_S)


def _after_fork() -> None:
    """Let a child be ended by SIGTERM again, as multiprocessing ends its workers."""
    for preemption in reversed(_open):
        preemption._over = threading.Event()  # a thread that is not here may hold its lock
        preemption._restore()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)

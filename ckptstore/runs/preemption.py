"""The request to stop: a flag for the training loop, raised by a signal or a cloud's notice."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from ckptstore import ranks
from ckptstore.distributed import Processes, processes
from ckptstore.errors import Reason, StructureError, bad_argument

_log = logging.getLogger("ckptstore")

_POLL_S = 1.0

_NEVER = {"SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGCHLD"}
"""Signals that cannot be caught, or that tell of a fault of this process or the end of a child."""

_open: list[Preemption] = []

_running = processes  # an argument has that name


class Preemption:
    """A flag that is false until this process is told to stop: ``if preempted: …``.

    Until you call `close`, the signal raises the flag and also runs the earlier handler. If there
    was no handler, the process goes on. A forked child has the old handler at once. The first
    SIGINT (Ctrl-C) raises the flag alone; the next one raises KeyboardInterrupt, as ever.

    `Manager.on_preemption` makes one that the end of the Manager's `with` block closes.

    Args:
        notice: a function without arguments, called once a second in a thread of its own. When it
            returns a true value, the flag is raised. If it raises an error, that is logged, and it
            is called again.
        signals: the signals that raise the flag, such as ``signal.SIGUSR1`` for Slurm's
            ``--signal=USR1@90``.
        processes: the processes that stop together, for `at`; None: those that an engine connects.

    Raises:
        StructureError: reason ``not-main-thread``: Python allows signal handlers only in the main
            thread. Reason ``foreign-handler``: a signal has a handler that cannot be restored.
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

    def __init__(
        self,
        notice: Callable[[], object] | None = None,
        *,
        signals: Iterable[int] | int = (signal.SIGTERM,),
        processes: Processes | None = None,
    ) -> None:
        self._processes = processes
        if notice is not None and not callable(notice):
            raise bad_argument(
                "on_preemption",
                "notice",
                notice,
                "a callable without arguments that returns something true as soon as this machine "
                "is to be taken away",
            )
        numbers = _checked(signals)
        self._is_of_jax = ranks.of_jax() is not None
        if self._is_of_jax and signal.SIGTERM in numbers:
            # jax.distributed has a handler of its own, and each would silence the other.
            numbers.remove(signal.SIGTERM)
            _log.info(
                "on_preemption: jax.distributed takes SIGTERM; ask preempted.at(step) in each "
                "step, in all processes"
            )
        if threading.current_thread() is not threading.main_thread():
            raise StructureError(
                "on_preemption: called in a thread, but Python allows signal handlers only in the "
                "main thread; call it there before you start this thread, and pass the flag",
                reason=Reason.NOT_MAIN_THREAD,
            )
        self._old: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
        if foreign := [number for number, old in self._old.items() if old is None]:
            raise StructureError(
                f"on_preemption: {_name(foreign[0])} has a handler that was not installed by "
                "Python, so it could be neither run nor restored; remove it first",
                reason=Reason.FOREIGN_HANDLER,
            )
        self._raised = False
        self._interrupted = False
        self._closed = threading.Event()
        _open.append(self)
        for number in numbers:
            signal.signal(number, self._handle)
        if notice is not None:
            threading.Thread(
                target=self._poll, args=(notice,), name="ckptstore-notice", daemon=True
            ).start()

    def __bool__(self) -> bool:
        return self._raised

    def at(self, step: int) -> bool:
        """Return whether all processes should stop at this step: the same answer in all of them.

        Call it once a step in all processes, in the main thread. With `jax.distributed` it is jax's
        own agreement, which takes a microsecond. With another engine the processes gather their
        flags, so call it every few steps there. One process alone gets ``bool(preempted)``.

        Args:
            step: the number of the step, the same in all processes.

        Raises:
            ProcessError: reason ``no-word``: a process did not call this.

        Example:
            >>> preempted = Preemption()
            >>> [step for step in range(3) if preempted.at(step)]
            []
            >>> preempted.close()

        Source: docs/processes.md, "Stopping together".
        """
        if self._is_of_jax:
            utils: Any = importlib.import_module("jax.experimental.multihost_utils")
            self._raised = self._raised or bool(utils.reached_preemption_sync_point(step))
            return self._raised
        group = _running() if self._processes is None else self._processes
        if group.count > 1:
            flags = group.gather(f"preempted.at({step})", b"1" if self._raised else b"")
            self._raised = any(flags)
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
        """Restore the old handlers, unless a newer handler, which calls this one, is in place."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, old in self._old.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, old)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Take no lock here, because the interrupted main thread may hold it.
        closed = self not in _open
        if not closed:
            self._raised = True
        old = self._old[number]
        if old is signal.default_int_handler and not closed and not self._interrupted:
            self._interrupted = True  # the loop ends; another Ctrl-C does not wait for it
        elif callable(old):
            old(number, frame)
        elif closed and old == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _poll(self, notice: Callable[[], object]) -> None:
        failed = False
        while not self._closed.is_set():
            try:
                if notice():
                    if self._is_of_jax:
                        os.kill(os.getpid(), signal.SIGTERM)  # jax tells the other processes
                    else:
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


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _checked(signals: Any) -> list[int]:
    """Return the numbers of signals, each once.

    Raises:
        StructureError: reason ``bad-argument``.
    """
    given = [signals] if isinstance(signals, int) else signals
    rows = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else []
    for number in rows or [signals]:
        known = type(number) in (int, signal.Signals) and number in signal.valid_signals()
        if not known or _name(number) in _NEVER:
            raise bad_argument(
                "on_preemption",
                "signals",
                signal.Signals(number) if known else number,
                "signals that tell a process to stop: signals=(signal.SIGTERM, signal.SIGUSR1)",
            )
    return list(dict.fromkeys(map(int, rows)))


def _after_fork() -> None:
    """Make SIGTERM end a child again, since multiprocessing ends its workers in this way."""
    for preemption in reversed(_open):
        preemption._closed = threading.Event()  # a thread of the parent may hold its lock
        preemption._restore()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)

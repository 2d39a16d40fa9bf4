"""The files that killed saves and deletions left in a run, collected in the background."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from ckptstore import concurrency
from ckptstore.checkpoint import garbage
from ckptstore.errors import CheckpointError, bad_argument
from ckptstore.format.names import steps_of
from ckptstore.runs.directory import Run
from ckptstore.storage import Storage

_log = logging.getLogger("ckptstore")

DAY = 24 * 3600.0
_MOST = 500
"""The number of step directories that one pass looks into, the newest first."""

_PARTS = 8
"""A directory with young leftovers is looked at so often within the grace period."""

_END_SECONDS = 10.0


def check_grace(call: str, grace: Any, *, above: float = 0.0) -> None:
    """Raise StructureError, reason ``bad-argument``, unless a grace period is one."""
    if not isinstance(grace, bool) and isinstance(grace, int | float) and above <= grace < 1e12:
        return
    raise bad_argument(call, "grace", grace, "a number of seconds, such as 24 * 3600")


class Leftovers:
    """Passes over a run that remove garbage as `Manager.gc` does, each in a thread of its own.

    A pass is begun by a resume and by saves. It never makes them wait, and never fails them. The
    first pass looks into each step, and so does one in each grace period; the others look only
    where young garbage was seen.

    Args:
        run: the run.
        grace: seconds by the store's own clock, longer than any save takes; None: no pass at all.

    Raises:
        StructureError: reason ``bad-argument``.
    """

    def __init__(self, run: Run, grace: float | None) -> None:
        if grace is not None:
            check_grace("Manager", grace, above=1e-3)
        self.grace = grace
        self._run = run
        self._young: set[str] = set()
        self._due = self._whole_due = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._told = False

    def collect_soon(self, *, evicted: bool = True) -> None:
        """Begin a pass, if one is due and none is under way.

        Args:
            evicted: a resume or an eviction has come before; otherwise only young garbage that was
                seen before is looked at.
        """
        now = time.monotonic()
        if self.grace is None or now < self._due or self._is_running():
            return
        whole = evicted and now >= self._whole_due
        if not whole and not self._young:
            return
        self._due = now + max(self.grace / _PARTS, 0.1)
        if whole:
            self._whole_due = now + self.grace
        stop = self._stop = threading.Event()
        thread = threading.Thread(
            target=self._collect, args=(stop, whole), name="ckptstore-leftovers", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the process is ending, or may have no more threads
            return
        self._thread = thread

    def end(self) -> None:
        """Stop the pass that is under way; the files that it has not removed stay garbage."""
        self._stop.set()
        until = time.monotonic() + _END_SECONDS
        while self._is_running() and time.monotonic() < until:
            time.sleep(0.01)  # not join: in Python 3.11, an interrupted join marks it as ended

    def _is_running(self) -> bool:
        """Return whether the thread runs; in a forked child it does not."""
        return self._thread is not None and self._thread.is_alive()

    def _collect(self, stop: threading.Event, whole: bool) -> None:
        try:
            with concurrency.stopped_by(stop), self._run.open() as store:
                self._pass(store, stop, whole)
        except Exception as error:
            self._tell(error)

    def _pass(self, store: Storage, stop: threading.Event, whole: bool) -> None:
        assert self.grace is not None
        names = list(self._young)
        if whole:
            found = steps_of(store.children())
            names = sorted(found, key=lambda name: found[name], reverse=True)[:_MOST]
        clock = time.time()  # this machine's, or later: the time of the youngest file
        for name in names:
            if stop.is_set():
                return
            if store.is_link(name):
                continue
            child = store.child(name)
            try:
                look = garbage.look(child)
                clock = max(clock, look.youngest)
                if look.since is None:
                    self._young.discard(name)
                elif clock - look.since < self.grace:
                    self._young.add(name)
                elif removed := garbage.collect(child, self.grace):
                    text = "%s: removed %d file(s) of saves or deletions that were killed"
                    _log.info(text, child.url, len(removed))
            except CheckpointError as error:
                self._tell(error)

    def _tell(self, error: Exception) -> None:
        """Log an error once: the garbage does no harm, and `gc` raises the error."""
        if not self._told and not self._stop.is_set():
            self._told = True
            _log.info("%s: garbage is left, see gc(): %s", self._run.url, error)

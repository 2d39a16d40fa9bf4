"""One save in the background: its thread finishes it, and `result` waits for it."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointError, Reason
from ckptstore.saving.attempt import Attempt
from ckptstore.saving.joint_attempt import JointAttempt

Then = Callable[[Checkpoint | None], None]
"""A function for the thread to call before the save ends, with None if it failed; never raises."""


class PendingSave:
    """A save that goes on in the background.

    Attributes:
        url: the checkpoint's own directory.
        step: as given to `save_async`.

    Example:
        >>> import ckptstore
        >>> pending = ckptstore.save_async("ckpt", {"step": 7}, step=7)
        >>> pending.result().step, pending.done()
        (7, True)

    Source: docs/async.md.
    """

    def __init__(self, attempt: Attempt | JointAttempt, then: Then | None = None) -> None:
        self.url = attempt.url
        self.step = attempt.step
        self._attempt: Attempt | JointAttempt | None = attempt
        self._then = then
        self._thread: threading.Thread | None = None
        self._taken = threading.Lock()
        self._ended = threading.Event()
        self._checkpoint: Checkpoint | None = None
        self._error: BaseException | None = None
        self._told = False

    def __repr__(self) -> str:
        state = "under way" if not self.done() else "failed" if self._error else "saved"
        return f"<PendingSave {self.url} step={self.step} {state}>"

    def done(self) -> bool:
        """Return whether the save has ended, with or without an error.

        Example:
            >>> import ckptstore
            >>> pending = ckptstore.save_async("ckpt", {"step": 7})
            >>> pending.wait()
            >>> pending.done()
            True
        """
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> Checkpoint:
        """Wait for the end of the save; when this returns, it is committed and durable.

        Args:
            timeout: the longest time to wait, in seconds; None: no limit.

        Returns:
            The checkpoint, as from `save`.

        Raises:
            TimeoutError: the save did not end in time; it goes on.
            CheckpointError: as for `save`. Reason ``other-process``: the save belongs to the
                process that this one was forked from.

        Example:
            >>> import ckptstore
            >>> pending = ckptstore.save_async("ckpt", {"step": 7}, step=7)
            >>> pending.result(timeout=60).step
            7
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.url}: not saved after {timeout} s; the save goes on")
        if self._error is not None:
            self._told = True
            raise self._error
        assert self._checkpoint is not None
        return self._checkpoint

    def wait(self) -> None:
        """Wait for the end of the save, and do not raise its error.

        If a signal handler waits before there is a thread, the save is made in this call.

        Example:
            >>> import ckptstore
            >>> pending = ckptstore.save_async("ckpt", {"step": 7})
            >>> pending.wait()
            >>> ckptstore.load("ckpt")
            {'step': 7}
        """
        if not self.done() and (self._thread is None or self._thread.ident is None):
            self._run()
        if not self.done() and self._thread is threading.current_thread():
            raise CheckpointError(
                f"{self.url}: deadlock: a rule of `keep` waits for the save that called it. A rule "
                "may only choose steps; call save() in the training loop",
                reason=Reason.SAVE_PENDING,
            )
        self._ended.wait()

    def check(self) -> None:
        """Raise the error of the save, if it has ended with one that was not raised yet.

        Example:
            >>> import ckptstore
            >>> pending = ckptstore.save_async("ckpt", {"step": 7})
            >>> pending.wait()
            >>> pending.check()  # it went well
        """
        if self._untold() is not None:
            self.result()

    def _untold(self) -> BaseException | None:
        return None if self._told or not self.done() else self._error

    def _run(self) -> None:
        """Finish the save, unless it was started or cancelled before."""
        if self._take():
            self._finish()

    def _drop(self) -> None:
        """Cancel a save that was taken and has not started."""
        assert self._attempt is not None
        try:
            self._attempt.__exit__(None, None, None)
        finally:
            self._end()

    def _take(self) -> bool:
        """Return whether this is the first call."""
        return self._taken.acquire(blocking=False)

    def _finish(self) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        try:
            with attempt:
                self._checkpoint = attempt.finish()
        except BaseException as error:
            _clear_frames(error)
            self._error = error
        del attempt  # free the values before any waiting caller goes on
        self._end()

    def _end(self) -> None:
        try:
            if self._then is not None:
                self._then(self._checkpoint)
        finally:
            self._ended.set()

    def _belongs_to_parent(self) -> None:
        """Mark the save, in a forked process, as one that the parent finishes and reports."""
        self._told = True
        if not self._ended.is_set():
            self._attempt, self._ended = None, threading.Event()  # its lock may be held for good
            self._error = CheckpointError(
                f"{self.url}: the parent process, from which this one was forked, began this "
                "save; call result() there, or load the checkpoint to see whether it exists",
                reason=Reason.OTHER_PROCESS,
            )
            self._ended.set()


def _clear_frames(error: BaseException) -> None:
    """Clear the frames of an error, which would keep the whole state alive with the error."""
    todo, seen = [error], set()
    while todo:
        error = todo.pop()
        if id(error) not in seen:
            seen.add(id(error))
            traceback.clear_frames(error.__traceback__)
            todo += filter(None, (error.__cause__, error.__context__))

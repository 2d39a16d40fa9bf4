"""One save in the background: its thread finishes it, and `result` tells of its end."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointError, Reason
from ckptstore.saving.attempt import Attempt

Then = Callable[[Checkpoint | None], None]
"""What a thread does before the save has ended, with None where it failed; it raises nothing."""


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

    def __init__(self, attempt: Attempt, then: Then | None = None) -> None:
        self.url = attempt.url
        self.step = attempt.step
        self._attempt: Attempt | None = attempt
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
        """Tell whether the save has ended, well or badly.

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
            timeout: seconds to wait at most; None: as long as it takes.

        Returns:
            What `save` would return.

        Raises:
            TimeoutError: the save goes on.
            CheckpointError: what `save` would raise, and (reason ``other-process``) that a parent
                process does this save.

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
        """Wait for the end of the save, however it ends.

        A signal handler may do so before there is a thread: then it is made here.

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
        """Raise the error of the save, if it has ended with one that nobody was told of.

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
        """Finish the save, unless that was begun already or it was given up."""
        if self._take():
            self._finish()

    def _give_up(self) -> bool:
        """Cancel the save if it has not started, and return whether it had not."""
        if not self._take():
            return False
        assert self._attempt is not None
        self._attempt.__exit__(None, None, None)
        self._end()
        return True

    def _take(self) -> bool:
        """Tell whether this is the first call."""
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
        del attempt  # with it go the values, before anybody is told
        self._end()

    def _end(self) -> None:
        try:
            if self._then is not None:
                self._then(self._checkpoint)
        finally:
            self._ended.set()

    def _belongs_to_parent(self) -> None:
        """In a process forked meanwhile: nobody here finishes this save, or tells its error."""
        self._told = True
        if not self._ended.is_set():
            self._attempt, self._ended = None, threading.Event()  # its lock may be held for good
            self._error = CheckpointError(
                f"{self.url}: this save was begun by the process that this one was forked from; "
                "ask there, or load the checkpoint to see whether it is there",
                reason=Reason.OTHER_PROCESS,
            )
            self._ended.set()


def _clear_frames(error: BaseException) -> None:
    """Let go of what the frames of an error hold: the whole state, as long as the error lives."""
    todo, seen = [error], set()
    while todo:
        error = todo.pop()
        if id(error) not in seen:
            seen.add(id(error))
            traceback.clear_frames(error.__traceback__)
            todo += filter(None, (error.__cause__, error.__context__))

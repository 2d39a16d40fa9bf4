"""`save_async`: a save that goes on while training does, and that no end of the process loses."""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ckptstore.checkpoint.description import Checkpoint
from ckptstore.errors import CheckpointError, Reason
from ckptstore.saving import process_exit, writer
from ckptstore.saving.incremental import Series
from ckptstore.saving.writer import Attempt

Begun = Callable[["PendingSave"], None]
"""Given a save before its thread is started: an interrupt may keep it from the caller."""

Then = Callable[[Checkpoint | None], None]
"""What a thread does before the save has ended, with None where it failed; it raises nothing."""

_LOOK_SECONDS = 0.5

_lock = threading.RLock()  # a signal handler may save, too
_saves: list[PendingSave] = []
"""The saves that are under way, or may have an error that nobody was told of: one, but in a signal
handler."""

_watched = False
"""The end of the process waits for the saves."""

_ending = False
"""It has begun, so saves are finished in the call."""


class PendingSave:
    """A save that goes on in the background.

    Attributes:
        url: the checkpoint's own directory.
        step: as given to `save_async`.
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
        """Tell whether the save has ended, well or badly."""
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
        """
        if not self.done() and (self._thread is None or self._thread.ident is None):
            self._run()
        if not self.done() and self._thread is threading.current_thread():
            raise CheckpointError(
                f"{self.url}: a rule of `keep` waits for the save that asks it, which would be for "
                "ever; a rule only says what to keep: save in the loop",
                reason=Reason.SAVE_PENDING,
            )
        self._ended.wait()

    def check(self) -> None:
        """Raise the error of the save, if it has ended with one that nobody was told of."""
        if self._untold() is not None:
            self.result()

    def _untold(self) -> BaseException | None:
        return None if self._told or not self.done() else self._error

    def _run(self) -> None:
        """Finish the save, unless that was begun already or it was given up."""
        if self._take():
            self._finish()

    def _give_up(self) -> None:
        """Make that the save never was, unless it was begun already."""
        if self._take():
            self._forget()
            assert self._attempt is not None
            self._attempt.__exit__(None, None, None)
            self._end()

    def _forget(self) -> None:
        """Wait for this save no more; a signal handler that saved may have done so already."""
        with contextlib.suppress(ValueError):
            _saves.remove(self)

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


def save_async(
    url: Any,
    tree: Any,
    *,
    step: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    supplied: Sequence[str] = (),
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    wait: bool = True,
    _begun: Begun | None = None,
    _then: Then | None = None,
    _series: Series | None = None,
) -> PendingSave:
    """Save a whole tree as it is now, while the caller goes on; `result` tells of the end.

    When this returns, the tree may be changed in any way: arrays donated or written to, containers
    changed. What `save` would refuse before it writes is refused here.

    At most one save of a process is under way. A process that ends normally, or by an exception,
    first waits for it. An error is raised by `result`, or by the next `save_async`, which then
    saves nothing; one that was never raised is written to stderr at the end of the process, whose
    exit status is then not 0. A child process neither waits for nor finishes a save of its parent.

    Args:
        url: the checkpoint's own directory, as of `save`.
        tree: the state.
        step: the training step.
        metadata: plain values of your own.
        metrics: numbers by name.
        supplied: patterns of paths that `load` takes from `like`.
        overwrite: replace the checkpoint that is there.
        storage_options: options of the store.
        wait: for the save before this one to end. If false, and that one is under way, refuse.

    Returns:
        The save: `result(timeout=None)`, `done()`.

    Raises:
        CheckpointError: reason ``save-pending``: a save is under way and `wait` is false. Else as
            `save`, or what the save before this one failed with.

    Until the save ends, memory holds a copy of what can be written to or lives on a device. jax
    arrays in this host's memory are not copied: XLA is kept from reusing them, so a step that was
    to be given their memory takes new memory.
    """
    if not _lock.acquire(blocking=wait):
        raise _pending("another thread begins a save right now")
    try:
        _settle(wait)
        _watch()
        attempt = writer.prepare(
            url,
            tree,
            step=step,
            metadata=metadata,
            metrics=metrics,
            supplied=supplied,
            overwrite=overwrite,
            storage_options=storage_options,
            series=_series,
        )
        try:
            attempt.fix()
        except BaseException:
            attempt.__exit__(None, None, None)
            raise
        return _begin(PendingSave(attempt, _then), _begun)
    finally:
        _lock.release()


def _settle(wait: bool) -> None:
    """See the save before this one end, and raise its error if nobody was told."""
    for save in list(_saves):
        if not wait and not save.done():
            raise _pending(f"the save to {save.url} is under way")
        save.wait()
        save._forget()
        error = save._untold()
        if error is not None:
            error.add_note(f"This was the save to {save.url}; the one begun now was not made.")
            save.result()


def _pending(why: str) -> CheckpointError:
    return CheckpointError(
        f"save_async: {why}; save later, or wait with wait=True", reason=Reason.SAVE_PENDING
    )


def _begin(pending: PendingSave, begun: Begun | None) -> PendingSave:
    """Start the thread of a save. Where none can be started or waited for, make the save here."""
    try:
        _saves.append(pending)
        if begun is not None:
            begun(pending)
        if not _ending and _start(pending):
            return pending
    except BaseException:
        pending._give_up()
        raise
    pending._run()
    pending.check()
    return pending


def _start(pending: PendingSave) -> bool:
    thread = threading.Thread(target=pending._run, name="ckptstore-save", daemon=True)
    pending._thread = thread
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _watch() -> None:
    """See to it, once a process, that its end waits for the saves."""
    global _watched, _ending
    if not _watched:
        if not process_exit.before(_drain):
            _ending = True
        _watched = True


def _drain() -> None:
    """At the end of the process, wait for the save that is under way, and tell what went wrong."""
    failed = None
    for save in _left():
        try:
            if not save.done() and process_exit.is_by_interrupt():
                process_exit.tell(
                    f"finishing the save to {save.url}; interrupt again to give it up"
                )
            while not save._ended.wait(_LOOK_SECONDS):  # a signal right before a wait ends none
                pass
        except BaseException as interrupt:
            process_exit.tell(f"interrupted; {save.url} is saved wholly or not at all")
            process_exit.leave(130 if isinstance(interrupt, KeyboardInterrupt) else 1)
        error = save._untold()
        if error is not None:
            failed, save._told = error, True
            process_exit.tell(f"the save to {save.url} failed:\n{process_exit.text(error)}")
    if failed is not None:
        process_exit.fail(failed)


def _left() -> list[PendingSave]:
    """Return the saves of this process; from now on they are made in the call."""
    global _ending
    with _lock:  # a thread may be beginning one
        _ending = True
        return list(_saves)


def _clear_frames(error: BaseException) -> None:
    """Let go of what the frames of an error hold: the whole state, as long as the error lives."""
    todo, seen = [error], set()
    while todo:
        error = todo.pop()
        if id(error) not in seen:
            seen.add(id(error))
            traceback.clear_frames(error.__traceback__)
            todo += filter(None, (error.__cause__, error.__context__))


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    for save in _saves:
        save._belongs_to_parent()
    _saves.clear()


os.register_at_fork(after_in_child=_after_fork)

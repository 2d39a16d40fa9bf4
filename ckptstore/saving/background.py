"""`save_async`: save while training goes on; a process that ends waits for its save."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ckptstore import peers
from ckptstore.distributed import Processes
from ckptstore.errors import CheckpointError, Reason
from ckptstore.saving import process_exit, writer
from ckptstore.saving.incremental import Series
from ckptstore.saving.joint_saves import Check
from ckptstore.saving.pending import PendingSave, Then
from ckptstore.saving.request import SaveRequest

Begun = Callable[["PendingSave"], None]
"""A function that gets a save before its thread starts, since an interrupt may stop the return."""

_LOOK_SECONDS = 0.5

_lock = threading.RLock()  # a signal handler may save, too
_saves: list[PendingSave] = []
"""The saves that are under way, or may have an error that was not raised yet. There is one, or more
in a signal handler."""

_watched = False
"""Whether the end of the process waits for the saves."""

_ending = False
"""Whether the end of the process has begun, so that saves are finished in the call."""


@peers.explains("save_async", peers.SAVE)
def save_async(
    url: str | os.PathLike[str],
    tree: Any,
    *,
    step: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    supplied: Sequence[str] = (),
    per_process: Sequence[str] = (),
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    processes: Processes | tuple[int, int] | Literal["all", "one"] | None = None,
    callback: Any = None,
    wait: bool = True,
) -> PendingSave:
    """Save a whole tree as it is now, in the background; `result` waits for the end of the save.

    When this returns, you may change the tree in any way: donate or write to its arrays, or change
    its containers. This call raises every error that `save` would raise before it writes.

    A process has at most one save under way, and waits for it when it ends normally or by an
    exception. `result` raises the error of a save; if you do not call it, the next `save_async`
    raises the error and saves nothing. An error that was never raised is written to stderr at the
    end of the process, and the exit status is then not 0. A child process neither waits for nor
    finishes a save of its parent.

    Args:
        url: the checkpoint's own directory, as for `save`.
        tree: the state.
        step: the training step.
        metadata: plain values of your own, at most 256 KiB.
        metrics: numbers by name.
        supplied: patterns of paths that `load` takes from `like`.
        per_process: patterns of paths whose values differ between processes, as for `save`.
        overwrite: replace an existing checkpoint.
        storage_options: options of the store.
        processes: the processes that save together, as for `save`.
        wait: wait for the save before this one. If false and that save is under way, raise.
        callback: an `fsspec.Callback`, as for `save`; it is told while the save is under way.

    Returns:
        The save: `result(timeout=None)`, `done()`.

    Raises:
        CheckpointError: reason ``save-pending``: a save is under way and `wait` is false. Otherwise
            as for `save`, or the error of the save before this one.

    Until the save ends, memory holds a copy of every array that can be written to or lives on a
    device. JAX arrays in this host's memory are not copied. Instead XLA cannot reuse their memory,
    so a step that donates them takes new memory.

    Example:
        >>> import ckptstore, numpy as np
        >>> state = {"w": np.ones(3)}
        >>> pending = save_async("ckpt", state, step=7)
        >>> state["w"][:] = 2  # training goes on
        >>> pending.result().step
        7
        >>> ckptstore.load("ckpt")
        {'w': array([1., 1., 1.])}

    Source: docs/async.md; docs/commit.md.
    """
    request = SaveRequest.of(
        step=step,
        metadata=metadata,
        metrics=metrics,
        supplied=supplied,
        per_process=per_process,
        overwrite=overwrite,
        storage_options=storage_options,
        processes=processes,
        callback=callback,
    )
    return begin(url, tree, request, wait=wait)


def begin(
    url: str | os.PathLike[str],
    tree: Any,
    request: SaveRequest,
    series: Series | None = None,
    check: Check | None = None,
    *,
    wait: bool = True,
    begun: Begun | None = None,
    then: Then | None = None,
) -> PendingSave:
    """Begin a save in the background.

    Args:
        url: the checkpoint's own directory.
        tree: the state.
        request: the other arguments of the save.
        series: the saves of a run, as for `writer.begin`.
        check: completes the request, as for `writer.begin`.
        wait: wait for the save before this one. If false and that save is under way, raise.
        begun: called with the save before its thread starts.
        then: called in that thread at the end of the save.

    Raises:
        CheckpointError: as for `save_async`.
    """
    if not _lock.acquire(blocking=wait):
        raise _pending("another thread is just beginning a save")
    try:
        _settle(wait)
        _watch()
        attempt = writer.begin(url, tree, request, series, check, compare=False)
        try:
            attempt.fix()
        except BaseException:
            attempt.__exit__(None, None, None)
            raise
        return _run_in_thread(PendingSave(attempt, then), begun)
    finally:
        _lock.release()


def _settle(wait: bool) -> None:
    """Wait for the save before this one to end, and raise its error if that was not raised yet."""
    for save in list(_saves):
        if not wait and not save.done():
            raise _pending(f"the save to {save.url} is under way")
        save.wait()
        _forget(save)
        error = save._untold()
        if error is not None:
            error.add_note(
                f"This is the error of the earlier save to {save.url}. The new save was not "
                "started; call save again."
            )
            save.result()


def _pending(why: str) -> CheckpointError:
    return CheckpointError(
        f"save_async: {why}; save later, or wait with wait=True", reason=Reason.SAVE_PENDING
    )


def _run_in_thread(pending: PendingSave, begun: Begun | None) -> PendingSave:
    """Start the thread of a save; if it cannot be started or waited for, save in this call."""
    try:
        _saves.append(pending)
        if begun is not None:
            begun(pending)
        if not _ending and _start(pending):
            return pending
    except BaseException:
        if pending._take():
            _forget(pending)  # first: a signal handler that saves would wait for it
            pending._drop()
        raise
    pending._run()
    pending.check()
    return pending


def _forget(save: PendingSave) -> None:
    """Stop waiting for a save; a signal handler that saved may have done so already."""
    with contextlib.suppress(ValueError):
        _saves.remove(save)


def _start(pending: PendingSave) -> bool:
    thread = threading.Thread(target=pending._run, name="ckptstore-save", daemon=True)
    pending._thread = thread
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _watch() -> None:
    """Make the end of the process wait for the saves; this is done once for each process."""
    global _watched, _ending
    if not _watched:
        if not process_exit.before(_drain):
            _ending = True
        _watched = True


def _drain() -> None:
    """At the end of the process, wait for the save that is under way, and print its error."""
    failed = None
    for save in _left():
        try:
            if not save.done() and process_exit.is_by_interrupt():
                process_exit.tell(
                    f"finishing the save to {save.url}; interrupt again to abandon it"
                )
            while not save._ended.wait(_LOOK_SECONDS):  # a signal just before it ends no wait
                pass
        except BaseException as interrupt:
            process_exit.tell(f"interrupted; {save.url} is saved completely or not at all")
            process_exit.leave(130 if isinstance(interrupt, KeyboardInterrupt) else 1)
        error = save._untold()
        if error is not None:
            failed, save._told = error, True
            process_exit.tell(f"the save to {save.url} failed:\n{process_exit.text(error)}")
    if failed is not None:
        process_exit.fail(failed)


def _left() -> list[PendingSave]:
    """Return the saves of this process; later saves are finished in the call."""
    global _ending
    with _lock:  # a thread may be beginning one
        _ending = True
        return list(_saves)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    for save in _saves:
        save._belongs_to_parent()
    _saves.clear()


os.register_at_fork(after_in_child=_after_fork)

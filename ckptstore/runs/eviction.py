"""The deletion of the steps that a rule does not keep: after each save, or by a call of its own."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

from ckptstore import signals
from ckptstore.checkpoint import deletion, pins
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    NotCommittedError,
    Reason,
    StorageError,
)
from ckptstore.format.names import is_step, step_name
from ckptstore.runs import retention
from ckptstore.runs.directory import Run, committed_steps, nowhere
from ckptstore.runs.retention import Rule
from ckptstore.storage import Storage, warn_once

_log = logging.getLogger("ckptstore")


def evict(run: Run, keep: Rule, saved: int) -> list[int]:
    """Delete the steps that a rule does not keep.

    The save before has succeeded, even if this fails. A failure is logged, and the next save
    tries again.

    Args:
        run: the run.
        keep: the rule.
        saved: the step that was just saved.

    Returns:
        The steps that were deleted, in order.
    """
    gone: list[int] = []
    try:
        with run.open() as store:
            for step, attempt in _unkept(run, store, keep, saved):
                if _evict(store, step, attempt):
                    gone.append(step)
    except Exception as error:
        signals.pass_on(error)
        own = isinstance(error, CheckpointError)
        what = error if own else f"{type(error).__name__}: {error}"
        done = f"{run.url}: step {saved} is saved, but older steps are not evicted"
        _log.warning("%s: %s", done, what, exc_info=not own)
    return gone


def prune(run: Run, keep: Rule, *, dry_run: bool) -> list[int]:
    """Delete the steps that a rule does not keep, and return them in order.

    Args:
        run: the run.
        keep: the rule.
        dry_run: delete nothing.

    Raises:
        CheckpointError: as for `Manager.prune`; the steps before it are deleted.
    """
    gone: list[int] = []
    with run.open() as store:
        for step, attempt in _unkept(run, store, keep):
            try:
                if not dry_run:
                    deletion.delete_inside(store, step_name(step), attempt)
                elif not store.is_link(step_name(step)):
                    pins.refuse(store.child(step_name(step)))
            except (NotCommittedError, AlreadyCommittedError):
                continue  # another process has deleted it, or has just saved it again
            except StorageError as error:
                if error.reason == Reason.PINNED:
                    continue
                raise
            gone.append(step)
    return gone


def _unkept(
    run: Run, store: Storage, keep: Rule, saved: int | None = None
) -> Iterator[tuple[int, str | None]]:
    """Yield the steps to delete, each with its attempt if the rule has read its metrics."""
    readable = functools.partial(_readable, store)
    look = run.metrics.look(store, committed_steps(store, readable))
    for step in retention.evicted(keep, look.infos, saved):
        if not look.stale(step):
            yield step, look.attempt(step)


def _evict(store: Storage, step: int, attempt: str | None) -> bool:
    """Delete a step, and return whether it is deleted; a failure is logged once for the run."""
    try:
        deletion.delete_inside(store, step_name(step), attempt)
    except (NotCommittedError, AlreadyCommittedError):
        return False  # another process has deleted it, or has just saved it again
    except CheckpointError as error:
        if error.reason == Reason.PINNED:
            return False
        cause = getattr(error.__cause__, "strerror", None) or ""
        warn_once(
            store.url,
            f"evict {error.reason} {cause}",
            "step %d is not kept, but could not be evicted: %s",
            step,
            error,
        )
        return error.reason == Reason.NOT_REMOVED
    return True


def _readable(store: Storage, name: str) -> bool:
    """Return whether a name is that of a step, and no link that leads nowhere."""
    if is_step(name) and (error := nowhere(store, name)) is not None:
        _log.warning("%s; it is left alone, and the other steps are evicted", error)
        return False
    return is_step(name)

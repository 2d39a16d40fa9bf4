"""The way back to an older step: the later steps are deleted, once the older one is verified."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from ckptstore import loading
from ckptstore.checkpoint import Committed, committed, deletion
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    CorruptError,
    NotCommittedError,
    Reason,
    StorageError,
    listed,
)
from ckptstore.format.names import PINNED, step_name, steps_of
from ckptstore.runs.directory import Run, nowhere
from ckptstore.storage import Storage

_log = logging.getLogger("ckptstore")

_SHOWN = 3


def verify(run: Run, step: int) -> None:
    """Check every byte of the step to go back to.

    Raises:
        NotCommittedError: there is no such step.
        CorruptError: it is damaged; the message names the damage and the next step to try.
    """
    problems = loading.verify(run.at(step), storage_options=run.options)
    if not problems:
        return
    there = run.there() or []
    others = [s for s in there if s < step][-1:] or [s for s in there if s > step][:1]
    way = f"another step may be sound: rewind({others[0]})" if others else "it is the only step"
    damage = "; ".join(listed(map(str, problems), _SHOWN))
    raise CorruptError(
        f"{run.at(step)}: step {step} is damaged, and nothing was deleted: {damage}; {way}",
        reason=problems[0].reason,
    )


def delete_later(run: Run, step: int, *, dry_run: bool) -> list[int]:
    """Delete the steps after one, the newest first; killed, calling it again ends it.

    Each is deleted on the condition that it has the manifest that was read at the beginning. Of a
    symbolic link, the link alone is removed.

    Args:
        run: the run.
        step: the step to go back to.
        dry_run: delete nothing.

    Returns:
        The steps that were deleted, or would be, in order.

    Raises:
        AlreadyCommittedError: reason ``later-steps``: another process saves to this run.
        StorageError: the store refused an operation; the steps before it are still there. Reason
            ``pinned``: one of them is pinned; nothing was deleted.
    """
    gone: list[int] = []
    with run.open() as store:
        later = _later(store, step)
        _refuse_pinned(store, step, later)
        for found, holder in sorted(later.items(), reverse=True):
            if dry_run or _delete(store, step, found, holder):
                gone.append(found)
        if not dry_run and (came := _later(store, step)):
            raise _other(store, step, max(came))
    return gone[::-1]


def _refuse_pinned(store: Storage, step: int, later: Iterable[int]) -> None:
    for found in sorted(later):
        name = step_name(found)
        if not store.is_link(name) and store.child(name).holds(PINNED):
            raise StorageError(
                f"{store.url}: step {found} is pinned, and nothing was deleted: the run would go "
                f"on from there, not from step {step}; call unpin({found}) first, then "
                f"rewind({step})",
                reason=Reason.PINNED,
            )


def _later(store: Storage, step: int) -> Mapping[int, Committed | None]:
    """Return the manifests of the steps after one; None for a link to nothing."""
    found: dict[int, Committed | None] = {}
    for name, number in steps_of(store.children()).items():
        if number <= step:
            continue
        if nowhere(store, name) is not None:
            found[number] = None
        elif (holder := committed(store.child(name))) is not None:
            found[number] = holder
    return found


def _delete(store: Storage, step: int, found: int, holder: Committed | None) -> bool:
    """Delete a later step, and return whether it was there."""
    name = step_name(found)
    try:
        if store.is_link(name):
            store.delete(name)
            store.flush()
        else:
            deletion.delete(store.child(name), expected=holder)
    except NotCommittedError:
        return False  # another process has deleted it
    except AlreadyCommittedError:
        raise _other(store, step, found) from None
    except CheckpointError as error:
        if error.reason != Reason.NOT_REMOVED:
            raise
        _log.warning("%s; they are garbage: gc() removes them", error)
    return True


def _other(store: Storage, step: int, found: int) -> AlreadyCommittedError:
    return AlreadyCommittedError(
        f"{store.url}: another process saved step {found} while the steps after {step} were "
        f"deleted; stop the processes that save to this run, then call rewind({step}) again",
        reason=Reason.LATER_STEPS,
    )

"""The deletion of a checkpoint, and of the files of an attempt that did not become one.

docs/commit.md shows why a deletion leaves the checkpoint there wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from ckptstore.checkpoint import pins
from ckptstore.checkpoint.absence import not_committed
from ckptstore.checkpoint.manifest_file import Committed, committed, committed_bytes
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    OutcomeUnknownError,
    Reason,
    StorageError,
)
from ckptstore.format import Manifest, names
from ckptstore.format.names import MANIFEST
from ckptstore.storage import Storage


def delete(
    storage: Storage, attempt: str | None = None, *, expected: Committed | None = None
) -> None:
    """Remove a checkpoint: its manifest first, then its files.

    Args:
        storage: the place.
        attempt: the only attempt to remove; None: any attempt.
        expected: the only manifest to remove, also if it cannot be read; None: any manifest.

    Raises:
        NotCommittedError: there is no checkpoint.
        AlreadyCommittedError: another save was committed in between; its files are untouched.
        StorageError: the checkpoint still exists; reason ``pinned``: it has a pin. Reason
            ``not-removed``: it is deleted, but some of its files could not be removed.
    """
    holder = committed(storage)
    if holder is None:
        raise not_committed(storage)
    data, removed = holder.data, holder.attempt
    if attempt not in (None, removed) or (expected is not None and expected.data != data):
        raise AlreadyCommittedError(
            f"{storage.url}: another save (attempt {removed or 'unreadable'}) was "
            "committed there in the meantime; none of its files was touched"
        )
    pins.refuse(storage)
    failed: CheckpointError | None = None
    try:
        storage.delete(MANIFEST, expected=data)
    except StorageError as error:
        failed = error
    try:
        after = committed_bytes(storage)
    except StorageError as error:
        failed, after = failed or error, None
    if after == data:
        raise failed or StorageError(
            f"{storage.url}: {MANIFEST} could not be deleted; remove it by hand"
        )
    if after is not None:
        other = Committed.of(after, where=MANIFEST).attempt
        raise AlreadyCommittedError(
            f"{storage.url}: another save (attempt {other or 'unreadable'}) was "
            "committed there during the deletion; none of its files was touched; delete again "
            "if you want to remove it too"
        )
    if failed is not None:
        raise OutcomeUnknownError(
            f"{storage.url}: whether the deletion of {MANIFEST} is done and durable cannot be "
            f"known ({failed}); no data file was removed; delete the checkpoint again, or, if it "
            "is gone, call Manager.gc() to remove its files"
        ) from failed
    left = None if removed is None else discard(storage, removed, files_of(holder), named=True)
    # The writer may have lost the answer to its commit and sent the commit again in between. If it
    # does so after this check, it finds its files gone and withdraws the commit.
    try:
        if committed_bytes(storage) == data:
            storage.delete(MANIFEST, expected=data)
    except CheckpointError as error:
        left = left or error
    if left is not None:
        raise StorageError(
            f"{storage.url}: the checkpoint is deleted, but some of its files are not removed: "
            f"{left}",
            reason=Reason.NOT_REMOVED,
        )
    storage.remove()


def delete_inside(above: Storage, name: str, attempt: str | None = None) -> None:
    """Delete a checkpoint in a directory above it, such as a step of a run.

    Of a symbolic link the link alone is removed, since its target may be of another run.

    Args:
        above: the directory above.
        name: the name of the checkpoint's directory.
        attempt: as for `delete`, which has the errors.
    """
    if not unlink(above, name):
        delete(above.child(name), attempt)


def unlink(above: Storage, name: str) -> bool:
    """Remove a subdirectory that is a symbolic link, and return whether it was one."""
    if not above.is_link(name):
        return False
    above.delete(name)
    above.flush()
    return True


def discard(
    storage: Storage,
    attempt: str,
    known: Iterable[str],
    process: int | None = None,
    *,
    named: bool = False,
    notes: bool = True,
) -> CheckpointError | None:
    """Remove as many files as possible of an attempt that is known not to be the checkpoint.

    The note that says so stays, for other processes.

    Args:
        storage: the place.
        attempt: the attempt.
        known: the names of its files, for a directory that you may write to and not list.
        process: the process whose files are removed; None: all files.
        named: whether a manifest named them; then those that a listing fails to show go, too.
        notes: remove the notes, too.

    Returns:
        An error, if there was one; the remaining files are garbage, never part of a checkpoint.
    """
    found: Iterable[str]
    try:
        listed = storage.list()
        found = dict.fromkeys([*known, *listed]) if named else listed
    except CheckpointError as error:
        if error.reason != Reason.PERMISSION:
            return error
        found = known
    own = [n for n in found if names.attempt_of(n) == attempt and n != names.aborted(attempt)]
    try:
        storage.delete_many(
            [
                name
                for name in own
                if process in (None, names.process_of(name)) and (notes or not names.is_note(name))
            ]
        )
    except CheckpointError as error:
        return error
    return None


def files_of(holder: Committed | None) -> list[str]:
    """Return the names of the files of a manifest, as far as it can be read."""
    if holder is None or not isinstance(holder.decoded, Manifest):
        return []
    return [file.name for file in holder.decoded.files]

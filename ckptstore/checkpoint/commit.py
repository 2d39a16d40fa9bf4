"""The commit: the one module that decides when a checkpoint begins to exist.

`saving/attempt.py` does the work before it: data files, index, flush.

Invariants and their tests: docs/commit.md. In short: first the data files become durable. Then
`MANIFEST` is created, or compared and swapped, in one step. After an exception, only the contents
of `MANIFEST` tell the outcome.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from ckptstore import ranks
from ckptstore.checkpoint.absence import not_committed
from ckptstore.checkpoint.manifest_file import (
    SENDS,
    Committed,
    attempt_of,
    committed,
    committed_bytes,
)
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    OutcomeUnknownError,
    Reason,
    StorageError,
)
from ckptstore.format import MANIFEST_MAX_NBYTES, Manifest, names
from ckptstore.format.names import MANIFEST
from ckptstore.storage import Storage, warn_once


def current(storage: Storage) -> Committed | None:
    """Return the manifest that a save would replace, or None if there is none.

    Raises:
        StorageError: reason ``foreign-manifest``: the file is too large to be a manifest, so a swap
            cannot compare it.
    """
    holder = committed(storage)
    if holder is not None and len(holder.data) > MANIFEST_MAX_NBYTES:
        raise StorageError(
            f"{storage.url}: {MANIFEST} has at least {len(holder.data)} bytes, so it is not "
            "a manifest of ckptstore, and nothing was written; remove it first, or save to another "
            "place",
            reason=Reason.FOREIGN_MANIFEST,
        )
    return holder


def occupied(storage: Storage, holder: Committed) -> AlreadyCommittedError:
    """Return the error for a place that another attempt holds."""
    return AlreadyCommittedError(
        f"{storage.url}: a checkpoint is already committed there (attempt "
        f"{holder.attempt or 'unreadable'}); save to another place, or pass overwrite=True"
        f"{ranks.advice(holder.time)}"
    )


def publish(storage: Storage, manifest: Manifest, data: bytes, replaced: Committed | None) -> None:
    """Make an attempt, whose files are durable, the checkpoint.

    Args:
        storage: the place.
        manifest: the decoded manifest.
        data: the encoded manifest.
        replaced: the manifest that an overwrite read when it began; None for a create.

    Raises:
        AlreadyCommittedError: another attempt holds the place; this one's files are removed.
        OutcomeUnknownError: it may or may not be committed; nothing is removed.
        StorageError: it is not committed; this attempt's files are removed.
    """
    attempt, known = manifest.attempt, [file.name for file in manifest.files]
    try:
        sizes = storage.list()
        if names.mark(attempt) in sizes:
            raise _collected(storage, attempt)
        if lost := _lost(manifest, sizes):
            raise StorageError(
                f"{storage.url}: {lost}; another program removed the file, or the store lost it; "
                "nothing was committed; save again",
                reason=Reason.LOST_FILE,
            )
    except BaseException:
        discard(storage, attempt, known)
        raise
    swapped = _send(storage, attempt, known, data, replaced)
    try:
        sizes = storage.list()
        collected = names.mark(attempt) in sizes
        if not collected and _lost(manifest, sizes):
            # A collector has removed this attempt, or a later save or a delete came after it.
            collected = attempt_of(committed(storage)) == attempt
        if collected:
            _withdraw(storage, data, swapped)
            holder = committed(storage)
            if holder is not None and holder.attempt in (None, attempt):
                raise StorageError("the commit could not be withdrawn")
    except CheckpointError as failed:
        raise OutcomeUnknownError(
            f"{storage.url}: attempt {attempt} was committed, but a garbage collector may have "
            f"mistaken it for an abandoned save ({failed}); nothing was deleted; verify the "
            "checkpoint"
        ) from failed
    if collected:
        discard(storage, attempt, known)
        raise _collected(storage, attempt)
    old = attempt_of(swapped)
    left = None if old is None else discard(storage, old, _files_of(swapped))  # the swap is durable
    if left is not None:
        message = "%s: saved, but files of the save before are left: %s"
        warn_once(storage.url, "files left", message, storage.url, left)


def _send(
    storage: Storage, attempt: str, known: Sequence[str], data: bytes, replaced: Committed | None
) -> Committed | None:
    """Commit, and return the manifest that was replaced; `known` are the files of the attempt."""
    error: Exception
    for _ in range(SENDS):
        try:
            if replaced is not None:
                try:
                    storage.swap(MANIFEST, data, replaced.data)
                    return replaced
                except FileNotFoundError:
                    replaced = None  # the old manifest was deleted in the meantime
            storage.create(MANIFEST, data)
            return None
        except OutcomeUnknownError:
            raise
        except (CheckpointError, FileExistsError) as caught:
            error = caught
        try:
            holder = committed(storage)
            if attempt_of(holder) == attempt:  # only the answer was lost
                storage.flush()
                return replaced
        except CheckpointError as second:
            raise OutcomeUnknownError(
                f"{storage.url}: the commit of attempt {attempt} failed ({error}), and whether it "
                f"happened cannot be known ({second}); nothing was deleted; load it once the "
                "storage answers"
            ) from error
        if not isinstance(error, FileExistsError):
            discard(storage, attempt, known)
            raise error
        if holder is not None and (replaced is None or holder.data != replaced.data):
            if holder.attempt is None:  # it may be ours, damaged by each transfer
                raise OutcomeUnknownError(
                    f"{storage.url}: {MANIFEST} does not hold a manifest, so whether the "
                    f"commit of attempt {attempt} happened cannot be known; nothing was deleted; "
                    "verify it"
                ) from error
            discard(storage, attempt, known)
            raise AlreadyCommittedError(
                f"{storage.url}: another save (attempt {holder.attempt}) was committed "
                "there first; none of its files was touched; load it, or save again with "
                "overwrite=True"
                f"{ranks.advice(holder.time)}"
            )
        # The file has disappeared, or the manifest to be replaced is still there: ask again.
    raise OutcomeUnknownError(
        f"{storage.url}: the store says that {MANIFEST} exists, but cannot read it; nothing was "
        "deleted; load the checkpoint to see which save it holds"
    ) from error


def _lost(manifest: Manifest, sizes: Mapping[str, int]) -> str | None:
    """Return a description of a missing or short file of an attempt, or None."""
    for file in manifest.files:
        if (nbytes := sizes.get(file.name)) != file.nbytes:
            state = "is missing" if nbytes is None else f"has {nbytes} bytes"
            return f"{file.name} {state}, expected {file.nbytes} bytes"
    return None


def _collected(storage: Storage, attempt: str) -> StorageError:
    return StorageError(
        f"{storage.url}: a garbage collector mistook this save (attempt {attempt}) for an "
        "abandoned one; save again, and set a longer grace period for the collector",
        reason=Reason.COLLECTED,
    )


def _withdraw(storage: Storage, data: bytes, swapped: Committed | None) -> None:
    """Undo a commit whose data files a collector may be about to remove."""
    if swapped is None:
        storage.delete(MANIFEST, expected=data)
    else:
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            storage.swap(MANIFEST, swapped.data, data)


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
        StorageError: the checkpoint still exists. Reason ``not-removed``: it is deleted, but some
            of its files could not be removed.
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
    left = None if removed is None else discard(storage, removed, _files_of(holder))
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


def discard(storage: Storage, attempt: str, known: Iterable[str]) -> CheckpointError | None:
    """Remove as many files as possible of an attempt that is known not to be the checkpoint.

    Args:
        storage: the place.
        attempt: the attempt.
        known: the names of its files, for a directory that you may write to and not list.

    Returns:
        The first error; the remaining files are garbage, never part of a checkpoint.
    """
    first: CheckpointError | None = None
    try:
        found: Iterable[str] = storage.list()
    except CheckpointError as error:
        if error.reason != Reason.PERMISSION:
            return error
        found = known
    for name in found:
        if names.attempt_of(name) == attempt:
            try:
                storage.delete(name)
            except CheckpointError as error:
                first = first or error
    return first


def _files_of(holder: Committed | None) -> list[str]:
    """Return the names of the files of a manifest, as far as it can be read."""
    if holder is None or not isinstance(holder.decoded, Manifest):
        return []
    return [file.name for file in holder.decoded.files]

"""The order of writes: the one file that knows when a checkpoint begins to exist.

Invariants and their tests: docs/commit.md. In short: data first, durable; then one create (or one
compare-and-swap) of `MANIFEST`; whatever an exception says, the outcome is what `MANIFEST` holds.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    NotCommittedError,
    OutcomeUnknownError,
    Reason,
    StorageError,
)
from ckptstore.format import MANIFEST_MAX_NBYTES, Manifest, decode_manifest
from ckptstore.format.names import MANIFEST, attempt_of, mark, steps_of
from ckptstore.storage import Storage

_log = logging.getLogger("ckptstore")

_SENDS = 10


def current(storage: Storage) -> bytes | None:
    """Return the bytes of the manifest that a save would replace, or None where there is none.

    Raises:
        StorageError: reason ``foreign-manifest``: too large to be one, so no swap can compare it.
    """
    data = surely_held(storage)
    if data is not None and len(data) > MANIFEST_MAX_NBYTES:
        raise StorageError(
            f"{storage.url}: {MANIFEST} there has {len(data)} bytes at least, so it is no manifest "
            "of ckptstore, and nothing was written; remove it first, or save to another place",
            reason=Reason.FOREIGN_MANIFEST,
        )
    return data


def held(storage: Storage) -> bytes | None:
    """Return the bytes of the committed manifest, or None where nothing is committed."""
    try:
        return storage.read(MANIFEST, MANIFEST_MAX_NBYTES)
    except FileNotFoundError:
        return None


def surely_held(storage: Storage) -> bytes | None:
    """Return what `held` does; bytes that are no manifest were perhaps damaged on their way."""
    data = held(storage)
    for _ in range(_SENDS):
        if data is None or attempt_in(data) is not None:
            break
        before, data = data, held(storage)
        if data == before:
            break
    return data


def attempt_in(data: bytes | None) -> str | None:
    """Return the attempt id of a manifest, or None where it is none or damaged."""
    if data is None:
        return None
    try:
        return decode_manifest(data, where=MANIFEST).attempt
    except CheckpointError:
        return None


def occupied(storage: Storage, holder: bytes) -> AlreadyCommittedError:
    """Return the error for a place that another attempt holds."""
    return AlreadyCommittedError(
        f"{storage.url}: a checkpoint is committed there already (attempt "
        f"{attempt_in(holder) or 'unreadable'}); save to another place, or pass overwrite=True"
    )


def publish(storage: Storage, manifest: Manifest, data: bytes, replaced: bytes | None) -> None:
    """Make an attempt, whose files are durable, the checkpoint.

    Args:
        storage: the place.
        manifest: what `data` says.
        data: the encoded manifest.
        replaced: the manifest that an overwrite read when it began; None for a create.

    Raises:
        AlreadyCommittedError: another attempt holds the place; this one's files are removed.
        OutcomeUnknownError: it may or may not be committed; nothing is removed.
        StorageError: it is not committed; this attempt's files are removed.
    """
    attempt = manifest.attempt
    try:
        found = storage.list()
        if mark(attempt) in found:
            raise _collected(storage, attempt)
        if lost := _lost(manifest, found):
            raise StorageError(
                f"{storage.url}: {lost}; somebody removes files there, or the store lost them; "
                "nothing was committed; save again",
                reason=Reason.LOST_FILE,
            )
    except BaseException:
        discard(storage, attempt)
        raise
    swapped = _send(storage, attempt, data, replaced)
    try:
        found = storage.list()
        collected = mark(attempt) in found
        if not collected and _lost(manifest, found):
            # A collector is done with this attempt, or a later save or a delete came after it.
            collected = attempt_in(surely_held(storage)) == attempt
        if collected:
            _withdraw(storage, data, swapped)
            holder = surely_held(storage)
            if holder is not None and attempt_in(holder) in (None, attempt):
                raise StorageError("it could not be withdrawn")
    except CheckpointError as failed:
        raise OutcomeUnknownError(
            f"{storage.url}: attempt {attempt} was committed, but whether a garbage collector took "
            f"it for a dead one cannot be known ({failed}); nothing was deleted; verify it"
        ) from failed
    if collected:
        discard(storage, attempt)
        raise _collected(storage, attempt)
    old = attempt_in(swapped)
    left = None if old is None else discard(storage, old)  # the swap is durable
    if left is not None:
        _log.warning("%s: saved, but files of the one before are left: %s", storage.url, left)


def _send(storage: Storage, attempt: str, data: bytes, replaced: bytes | None) -> bytes | None:
    """Commit, and return the manifest that this replaced."""
    error: Exception
    for _ in range(_SENDS):
        try:
            if replaced is not None:
                try:
                    storage.swap(MANIFEST, data, replaced)
                    return replaced
                except FileNotFoundError:
                    replaced = None  # it was deleted meanwhile
            storage.create(MANIFEST, data)
            return None
        except OutcomeUnknownError:
            raise
        except (CheckpointError, FileExistsError) as caught:
            error = caught
        try:
            holder = surely_held(storage)
            if attempt_in(holder) == attempt:  # only the answer was lost
                storage.flush()
                return replaced
        except CheckpointError as second:
            raise OutcomeUnknownError(
                f"{storage.url}: the commit of attempt {attempt} failed ({error}), and whether it "
                f"happened cannot be known ({second}); nothing was deleted; load it once the "
                "storage answers"
            ) from error
        if not isinstance(error, FileExistsError):
            discard(storage, attempt)
            raise error
        if holder is not None and holder != replaced:
            if attempt_in(holder) is None:  # it may be ours, damaged each time on its way
                raise OutcomeUnknownError(
                    f"{storage.url}: {MANIFEST} holds bytes that are no manifest, so whether the "
                    f"commit of attempt {attempt} happened cannot be known; nothing was deleted; "
                    "verify it"
                ) from error
            discard(storage, attempt)
            raise AlreadyCommittedError(
                f"{storage.url}: another save (attempt {attempt_in(holder)}) was committed "
                "there first; nothing of it was touched; load it, or save again"
            )
        # Something was there and is not any more, or what is to be replaced still is: ask again.
    raise OutcomeUnknownError(
        f"{storage.url}: {MANIFEST} is said to exist and cannot be seen; nothing was deleted; load "
        "it to see what is there"
    ) from error


def _lost(manifest: Manifest, found: Mapping[str, int]) -> str | None:
    """Return what is wrong with the files of an attempt that are there, or None."""
    for file in manifest.files:
        if (have := found.get(file.name)) != file.nbytes:
            there = "is missing" if have is None else f"has {have} bytes"
            return f"{file.name} {there}, {file.nbytes} bytes were written"
    return None


def _collected(storage: Storage, attempt: str) -> StorageError:
    return StorageError(
        f"{storage.url}: a garbage collector took this save (attempt {attempt}) for a dead one; "
        "save again, and give the collector a longer grace period",
        reason=Reason.COLLECTED,
    )


def _withdraw(storage: Storage, data: bytes, swapped: bytes | None) -> None:
    """Undo a commit that a collector may be about to remove the data of."""
    if swapped is None:
        storage.delete(MANIFEST, expected=data)
    else:
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            storage.swap(MANIFEST, swapped, data)


def delete(storage: Storage, attempt: str | None = None) -> None:
    """Remove a checkpoint: its manifest first, then its files.

    Args:
        storage: the place.
        attempt: the only one to remove; None is whichever is there.

    Raises:
        NotCommittedError: there is none.
        AlreadyCommittedError: another save came in between; nothing of it was touched.
        StorageError: it is there still; or, reason ``not-removed``, it is deleted, but some of its
            files could not be removed.
    """
    data = surely_held(storage)
    if data is None:
        raise not_committed(storage)
    if attempt not in (None, attempt_in(data)):
        raise AlreadyCommittedError(
            f"{storage.url}: another save (attempt {attempt_in(data) or 'unreadable'}) was "
            "committed there meanwhile; nothing of it was touched"
        )
    failed: CheckpointError | None = None
    try:
        storage.delete(MANIFEST, expected=data)
    except StorageError as error:
        failed = error
    try:
        holder = held(storage)
    except StorageError as error:
        failed, holder = failed or error, None
    if holder == data:
        raise failed or StorageError(
            f"{storage.url}: {MANIFEST} could not be deleted; remove it by hand"
        )
    if holder is not None:
        raise AlreadyCommittedError(
            f"{storage.url}: another save (attempt {attempt_in(holder) or 'unreadable'}) was "
            "committed there while it was deleted; nothing of it was touched; delete it again "
            "if you mean it too"
        )
    if failed is not None:
        raise OutcomeUnknownError(
            f"{storage.url}: whether the deletion of {MANIFEST} is done and durable cannot be "
            f"known ({failed}); none of the data was removed; delete it again"
        ) from failed
    removed = attempt_in(data)
    left = None if removed is None else discard(storage, removed)
    # Its writer may have lost the answer of its commit, and have sent it again in between. If it
    # does so after this look, it finds its files gone, and withdraws.
    try:
        if held(storage) == data:
            storage.delete(MANIFEST, expected=data)
    except CheckpointError as error:
        left = left or error
    if left is not None:
        raise StorageError(
            f"{storage.url}: the checkpoint is deleted, but not all of its files are removed: "
            f"{left}",
            reason=Reason.NOT_REMOVED,
        )
    storage.remove()


def discard(storage: Storage, attempt: str) -> CheckpointError | None:
    """Remove the files of one attempt that is known not to be the checkpoint, as far as it goes.

    Returns the first error; what is left is garbage, never part of a checkpoint.
    """
    first = None
    try:
        for name in storage.list():
            if attempt_of(name) == attempt:
                try:
                    storage.delete(name)
                except CheckpointError as error:
                    first = first or error
    except CheckpointError as error:
        first = error
    return first


def not_committed(storage: Storage) -> NotCommittedError:
    """Return the error for a place without a manifest, saying what is there instead."""
    names = storage.list()
    if run := steps_of(storage.children()):
        return NotCommittedError(
            f"{storage.url}: not a checkpoint but a run, with directories of {len(run)} step(s) up "
            f"to step {max(run.values())}: Manager(url).load() loads its newest, "
            "Manager(url).load(step) another",
            reason=Reason.IS_A_RUN,
        )
    attempts = {attempt_of(name) for name in names} - {None}
    if attempts:
        return NotCommittedError(
            f"{storage.url}: not a committed checkpoint: {len(attempts)} unfinished save(s), no "
            f"{MANIFEST}; the save was killed or is still going on; load an older checkpoint",
            reason=Reason.UNFINISHED,
        )
    return NotCommittedError(
        f"{storage.url}: not a checkpoint: no {MANIFEST} there"
        + (" (it holds other files)" if names else "")
        + "; check the path",
        reason=Reason.NO_MANIFEST,
    )

"""The commit: the one module that decides when a checkpoint begins to exist.

`saving/attempt.py` does the work before it: data files, index, flush.

Invariants and their tests: docs/commit.md. In short: first the data files become durable. Then
`MANIFEST` is created, or compared and swapped, in one step. After an exception, only the contents
of `MANIFEST` tell the outcome.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence

from ckptstore import ranks
from ckptstore.checkpoint.deletion import discard, files_of
from ckptstore.checkpoint.manifest_file import (
    SENDS,
    Committed,
    attempt_of,
    committed,
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

_MARK_NBYTES = 16


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


def occupied(storage: Storage, holder: Committed, *, alone: bool = True) -> AlreadyCommittedError:
    """Return the error for a place that another attempt holds.

    Args:
        storage: the place.
        holder: the manifest there.
        alone: this process saves alone, so another one of its job may have been first.
    """
    return AlreadyCommittedError(
        f"{storage.url}: a checkpoint is already committed there (attempt "
        f"{holder.attempt or 'unreadable'}); save to another place, or pass overwrite=True"
        f"{ranks.advice(holder.time) if alone else ''}"
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
            raise collected(storage, attempt)
        _refuse_lost(storage, manifest, sizes)
    except BaseException:
        discard(storage, attempt, known)
        raise
    swapped = _send(storage, attempt, known, data, replaced)
    try:
        sizes = storage.list()
        marked = names.mark(attempt) in sizes
        if not marked and _lost(manifest, sizes):
            # A collector has removed this attempt, or a later save or a delete came after it.
            marked = attempt_of(committed(storage)) == attempt
        if marked:
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
    if marked:
        discard(storage, attempt, known)
        raise collected(storage, attempt)
    _remove_replaced(storage, swapped)


def hold(
    storage: Storage, manifest: Manifest, look: Callable[[Mapping[str, int]], None]
) -> tuple[str, bytes]:
    """Keep collectors away from an attempt of several processes, until `publish_held` ends.

    Another process may return success as soon as it sees the commit, so the commit is never
    withdrawn. Therefore the mark of a collector is made before it, and a collector that finds the
    mark leaves the attempt alone.

    Args:
        storage: the place.
        manifest: the manifest of the attempt, whose files are durable.
        look: called with all files and their sizes; it raises if nothing may be committed.

    Returns:
        The name and the content of the mark.

    Raises:
        StorageError: a collector was there first, or a file is lost; the mark is removed.
    """
    mark, content = names.mark(manifest.attempt), os.urandom(_MARK_NBYTES)
    try:
        try:
            storage.create(mark, content)
        except FileExistsError:
            if _content(storage, mark) != content:  # or only the answer was lost
                raise collected(storage, manifest.attempt) from None
        sizes = storage.list()
        look(sizes)
        _refuse_lost(storage, manifest, sizes)
    except BaseException:
        with contextlib.suppress(CheckpointError):
            storage.delete(mark, expected=content)
        raise
    return mark, content


def publish_held(
    storage: Storage,
    manifest: Manifest,
    data: bytes,
    replaced: Committed | None,
    mark: tuple[str, bytes],
) -> None:
    """Make an attempt of several processes the checkpoint: as `publish`, but never withdrawn.

    Args:
        storage: the place.
        manifest: the decoded manifest.
        data: the encoded manifest.
        replaced: the manifest that an overwrite read when it began; None for a create.
        mark: the result of `hold`. While the outcome is not known, the mark stays.

    Raises:
        AlreadyCommittedError, OutcomeUnknownError, StorageError: as for `publish`.
    """
    attempt, (name, content) = manifest.attempt, mark
    try:
        known = [file.name for file in manifest.files]
        swapped = _send(storage, attempt, known, data, replaced, alone=False)
        sizes = _refuse_deleted(storage, manifest, data)
    except (AlreadyCommittedError, StorageError):
        with contextlib.suppress(CheckpointError):
            storage.delete(name, expected=content)
        raise
    left: CheckpointError | None = None
    try:
        storage.delete(name, expected=content)
        own = [n for n in sizes if names.is_note(n) and names.attempt_of(n) == attempt]
        storage.delete_many(own)
    except CheckpointError as error:
        left = error  # garbage, which a collector removes
    _remove_replaced(storage, swapped, left)


def _refuse_deleted(storage: Storage, manifest: Manifest, data: bytes) -> Mapping[str, int]:
    """Remove a manifest whose files are gone, and raise StorageError; else return all files.

    While the mark stands, this has one cause: the checkpoint was deleted after its commit, and the
    commit, whose answer was lost, was sent again.
    """
    try:
        sizes = storage.list()
        lost = _lost(manifest, sizes)
        if not lost or attempt_of(committed(storage)) != manifest.attempt:
            return sizes
    except CheckpointError:
        return {}  # it is committed; what is left is garbage
    try:
        storage.delete(MANIFEST, expected=data)
    except CheckpointError as error:
        raise OutcomeUnknownError(
            f"{storage.url}: attempt {manifest.attempt} was committed, but {lost}, and {MANIFEST} "
            f"could not be removed ({error}); delete the checkpoint, and save again"
        ) from error
    raise StorageError(
        f"{storage.url}: {lost}; another program deleted the checkpoint while it was committed; "
        "save again",
        reason=Reason.LOST_FILE,
    )


def _content(storage: Storage, mark: str) -> bytes:
    """Return the content of a mark; b"" if it was just removed."""
    try:
        return storage.read(mark, _MARK_NBYTES)
    except FileNotFoundError:
        return b""


def _remove_replaced(
    storage: Storage, swapped: Committed | None, left: CheckpointError | None = None
) -> None:
    """Remove the files of the manifest that was replaced; the swap is durable."""
    old = attempt_of(swapped)
    if old is not None:
        left = discard(storage, old, files_of(swapped), named=True) or left
    if left is not None:
        message = "%s: saved, but files of the save before are left: %s"
        warn_once(storage.url, "files left", message, storage.url, left)


def _refuse_lost(storage: Storage, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Raise StorageError, reason ``lost-file``, if a file of an attempt is missing or short."""
    if lost := _lost(manifest, sizes):
        raise StorageError(
            f"{storage.url}: {lost}; another program removed the file, or the store lost it; "
            "nothing was committed; save again",
            reason=Reason.LOST_FILE,
        )


def _send(
    storage: Storage,
    attempt: str,
    known: Sequence[str],
    data: bytes,
    replaced: Committed | None,
    *,
    alone: bool = True,
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
                f"{ranks.advice(holder.time) if alone else ''}"
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


def collected(storage: Storage, attempt: str) -> StorageError:
    """Return the error for an attempt that a collector has marked, or whose notes are gone."""
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

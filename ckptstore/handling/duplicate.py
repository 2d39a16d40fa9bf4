"""`copy_checkpoint`: from any store to any store, committed last."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from ckptstore import storage
from ckptstore.checkpoint import (
    Checkpoint,
    Committed,
    Snapshot,
    commit,
    committed,
    deletion,
    read_snapshot,
    unchanged,
)
from ckptstore.errors import (
    AlreadyCommittedError,
    CorruptError,
    NotCommittedError,
    Reason,
    StorageError,
    StructureError,
)
from ckptstore.format import decode_manifest, names, of_attempt
from ckptstore.handling.transfer import Transfer
from ckptstore.loading import verify as verified
from ckptstore.progress import Progress
from ckptstore.storage import Storage

Options = Mapping[str, Any] | None

_COPIED = "copied, and nothing was committed; call it again to copy the checkpoint of now"


def copy_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    storage_options: Options = None,
    dst_storage_options: Options = None,
    overwrite: bool = False,
    verify: bool = True,
    callback: Any = None,
) -> Checkpoint:
    """Copy a checkpoint, as it is, to another place; when this returns, the copy is committed.

    No framework is imported. Memory stays bounded, at a few MiB for each file under way. On one
    disk the files are hard links, and in one bucket the store copies them itself. The copy is
    complete: neither an overwrite nor a deletion of one changes the other.

    If it is killed, call it again: it goes on with the files that are there. If the copy is there
    already, it is returned.

    Args:
        src: the directory of the checkpoint: a path or a URL. For a step of a run:
            ``Manager(run).url_of(step)``.
        dst: the directory of the copy.
        storage_options: options of the store of `src`; also of that of `dst`, if `src` is a path or
            both are URLs of one protocol.
        dst_storage_options: options of the store of `dst`, if it needs others.
        overwrite: replace another checkpoint that is at `dst`. It stays until the copy is durable.
        verify: check every byte by its checksum: those that are sent on their way, those that are
            linked or found at `dst` there. With False, files are compared by their sizes alone.
        callback: an `fsspec.Callback`, which is told the bytes that are there, as for `save`.

    Returns:
        The description of the copy. Its attempt is its own; all else is as in the original.

    Raises:
        NotCommittedError: there is no checkpoint at `src`, or it was overwritten or deleted
            meanwhile (reason ``overwritten``). Nothing was committed.
        CorruptError: a byte of `src` is damaged, and nothing was committed; or the copy that is at
            `dst` already is damaged.
        AlreadyCommittedError: another checkpoint is at `dst`, or a save came there first.
        StructureError: `dst` is the place of `src` (``bad-argument``), or a run (``is-a-run``).
        StorageError: a store refuses or does not answer. Reason ``linked-step``: `dst` is a step
            that is a symbolic link.
        OutcomeUnknownError: as for `save`.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = ckptstore.save("base", {"w": np.ones(3)}, step=7)
        >>> copy = copy_checkpoint("base", ckptstore.Manager("fork").url_of(7))
        >>> copy.step, copy.attempt == saved.attempt
        (7, False)
        >>> ckptstore.Manager("fork").load()
        {'w': array([1., 1., 1.])}

    Source: docs/copying.md; docs/commit.md, "Copy".
    """
    of_src, of_dst = split_options(src, dst, storage_options, dst_storage_options)
    inside = names.is_step(storage.absolute(dst).rpartition("/")[2])
    with (
        Progress(callback, "copy_checkpoint") as progress,
        storage.open(src, of_src) as origin,
        storage.open(dst, of_dst, inside=inside) as target,
    ):
        if target.is_same(origin):
            raise StructureError(
                f"{target.url}: the place of the copy is that of the checkpoint; pass another dst",
                reason=Reason.BAD_ARGUMENT,
            )
        target.refuse_link()
        snapshot = read_snapshot(origin, _whole)
        replaced = commit.current(target)
        if replaced is None:
            _refuse_run(target)
        elif _is_copy(replaced, snapshot):
            if not (verify and verified(dst, storage_options=of_dst)):
                return Checkpoint(target.url, replaced.manifest(), snapshot.index_parts)
            if not overwrite:
                raise _damaged_copy(target)
        elif not overwrite:
            raise _occupied(target, replaced)
        return _copy(snapshot, target, replaced, progress, verify=verify)


def _copy(
    snapshot: Snapshot,
    target: Storage,
    replaced: Committed | None,
    progress: Progress,
    *,
    verify: bool,
) -> Checkpoint:
    attempt = secrets.token_hex(16)
    data = of_attempt(snapshot.data, attempt)
    manifest = decode_manifest(data, where=target.url)
    target.prepare(swap=replaced is not None)
    try:
        with unchanged(snapshot, _COPIED):
            Transfer(snapshot, target, manifest, progress, verify=verify).run()
        _refuse_change(snapshot)
    except BaseException as error:
        if not _may_go_on(error):
            deletion.discard(target, attempt, [file.name for file in manifest.files])
        raise
    commit.publish(target, manifest, data, replaced)
    return Checkpoint(target.url, manifest, snapshot.index_parts)


def split_options(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    shared: Options,
    of_dst: Options = None,
) -> tuple[Options, Options]:
    """Return the options of both places; `storage_options` are not for two kinds of stores."""
    to, of = (storage.absolute(place).rpartition("://")[0] for place in (dst, src))
    if of_dst is None and (to == of or not of):
        of_dst = shared
    return shared if of or not to else None, of_dst


def _whole(snapshot: Snapshot) -> Snapshot:
    snapshot.check_files()
    return snapshot


def _refuse_run(target: Storage) -> None:
    if steps := names.steps_of(target.children()):
        raise StructureError(
            f"{target.url}: a run of {len(steps)} step(s), not the place of a checkpoint; pass "
            "that of a step: Manager(dst).url_of(step)",
            reason=Reason.IS_A_RUN,
        )


def _is_copy(holder: Committed, snapshot: Snapshot) -> bool:
    """Return whether a manifest describes the same checkpoint, under any attempt."""
    attempt = snapshot.manifest.attempt
    is_readable = holder.attempt is not None
    return is_readable and of_attempt(holder.data, attempt) == of_attempt(snapshot.data, attempt)


def _damaged_copy(target: Storage) -> CorruptError:
    return CorruptError(
        f"{target.url}: the copy is there already, and damaged; pass overwrite=True to mend it",
        reason=Reason.CHECKSUM,
    )


def _occupied(target: Storage, holder: Committed) -> AlreadyCommittedError:
    return AlreadyCommittedError(
        f"{target.url}: another checkpoint is committed there (attempt "
        f"{holder.attempt or 'unreadable'}); copy to another place, or pass overwrite=True"
    )


def _refuse_change(snapshot: Snapshot) -> None:
    """Raise NotCommittedError if the checkpoint is not what it was when the copy began."""
    origin = snapshot.storage
    holder = committed(origin)
    if holder is None or holder.data != snapshot.data:
        event = "deleted" if holder is None else "overwritten"
        raise NotCommittedError(
            f"{origin.url}: {event} while it was {_COPIED}", reason=Reason.OVERWRITTEN
        )


def _may_go_on(error: BaseException) -> bool:
    """Return whether another call may end the copy, so that its whole files are worth keeping."""
    if isinstance(error, StorageError):
        return error.reason == Reason.UNAVAILABLE
    return not isinstance(error, Exception)  # an interrupt

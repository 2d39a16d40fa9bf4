"""The collector: removes what killed saves left behind, and nothing that a save may still need.

Why it cannot break a save that returned success: docs/commit.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from ckptstore.checkpoint.manifest_file import attempt_of, committed
from ckptstore.errors import CorruptError, Reason, StorageError
from ckptstore.format import names
from ckptstore.format.names import MANIFEST
from ckptstore.storage import Storage


def collect(storage: Storage, grace: float, *, dry_run: bool = False) -> list[str]:
    """Remove the files of attempts that have not been the checkpoint for `grace` seconds.

    Args:
        storage: the directory of one checkpoint.
        grace: by the store's own clock; longer than any save takes.
        dry_run: only tell.

    Returns:
        The names of the files, and of the unfinished uploads, that were removed.

    Raises:
        CorruptError: the manifest cannot be read, so nothing can be told apart; nothing is removed.
        StorageError: as the store says.
    """
    holder = committed(storage)  # before the listing, whose time of it is then no older
    changed, unfinished = storage.changed(), storage.unfinished()
    kept = attempt_of(holder)
    if holder is not None and kept is None:
        raise CorruptError(
            f"{storage.url}: {MANIFEST} is damaged, so what is garbage cannot be told; nothing was "
            "removed; verify it",
            reason=Reason.CORRUPT,
        )
    attempts = _by_attempt(changed, unfinished)
    attempts.pop(kept or "", None)
    short_lived = [name for name in changed if names.is_short_lived(name)]
    if not attempts and not short_lived:
        return []
    try:
        old = _clock(storage) - grace
    except StorageError:
        if storage.changed():
            raise
        return []  # deleted meanwhile, with its directory
    if changed.get(MANIFEST, old) > old:
        return []  # what it replaced may be put back by its writer
    removed = []
    for name in sorted(short_lived):  # among them the marks of collectors that were killed
        if changed[name] <= old:
            if not dry_run:
                storage.delete(name)
            removed.append(name)
    for attempt, files in attempts.items():
        if max(files.values()) <= old:
            marked = changed.get(names.mark(attempt), old) > old  # another collector is at it
            if marked or not (dry_run or _remove(storage, attempt, files)):
                continue
            removed += sorted(files)
    return removed


def _by_attempt(*times: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return when each file was changed, by the attempt that it belongs to."""
    attempts: dict[str, dict[str, float]] = {}
    for name, time in (item for column in times for item in column.items()):
        if (attempt := names.attempt_of(name)) is not None:
            files = attempts.setdefault(attempt, {})
            files[name] = max(time, files.get(name, time))
    return attempts


def _clock(storage: Storage) -> float:
    """Return the time by the store's own clock: that of a file made now."""
    name = names.probe(os.urandom(16).hex())
    try:
        storage.put(name, [b""], 0)
        time = storage.changed().get(name)
    finally:
        storage.delete(name)
    if time is None:
        raise StorageError(
            f"{storage.url}: the file {name} vanished; another collector with a shorter grace "
            "period is at work there; try again"
        )
    return time


def _remove(storage: Storage, attempt: str, files: Iterable[str]) -> bool:
    """Mark an attempt, look once more that it is not committed, and remove its files.

    Only who made the mark may remove files or take the mark back: a writer that sees neither the
    mark nor a file missing must be safe from every collector.
    """
    mark, content = names.mark(attempt), os.urandom(16)
    try:
        storage.create(mark, content)
    except FileExistsError:
        return False  # another collector's
    holder = committed(storage)
    if holder is not None and holder.attempt in (None, attempt):
        storage.delete(mark, expected=content)
        return False
    for name in files:
        storage.abort(name)
        storage.delete(name)
    storage.delete(mark, expected=content)
    return True

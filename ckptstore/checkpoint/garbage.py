"""The collector: removes the files of killed saves, but no file that a save may still need.

docs/commit.md shows why it cannot break a save that returned success.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ckptstore.checkpoint.manifest_file import attempt_of, committed
from ckptstore.errors import CorruptError, Reason, StorageError
from ckptstore.format import names
from ckptstore.format.names import MANIFEST
from ckptstore.storage import Storage


@dataclass(frozen=True, slots=True)
class Look:
    """The garbage in one directory.

    Attributes:
        youngest: the time of the youngest file, by the store's clock, which shows at least as much.
        since: a time; once the grace period has passed since then, there is garbage to remove. None
            if there is none.
    """

    youngest: float
    since: float | None


def look(storage: Storage) -> Look:
    """Look for garbage, without writing a file; remove the directory if it is empty.

    Args:
        storage: the directory of one checkpoint.

    Raises:
        StorageError: the store refused an operation.
    """
    holder = committed(storage)
    changed, unfinished = storage.changed(), storage.unfinished()
    youngest = max((*changed.values(), *unfinished.values()), default=0.0)
    if holder is not None and holder.attempt is None:
        return Look(youngest, None)  # it cannot be recognized
    if not changed and not unfinished:
        _remove_empty(storage, changed, False)
        return Look(youngest, None)
    attempts = _by_attempt(changed, unfinished)
    attempts.pop(attempt_of(holder) or "", None)
    times = [max(files.values()) for files in attempts.values()]
    times += [changed[name] for name in _notes_and_marks(changed, attempt_of(holder))]
    if not times:
        return Look(youngest, None)
    return Look(youngest, max(min(times), changed.get(MANIFEST, 0.0)))


def collect(storage: Storage, grace: float, *, dry_run: bool = False) -> list[str]:
    """Remove the files of attempts that have not been the checkpoint for `grace` seconds.

    Args:
        storage: the directory of one checkpoint.
        grace: seconds by the store's own clock; longer than any save takes.
        dry_run: return the names, but remove nothing.

    Returns:
        The names of the files, and of the unfinished uploads, that were removed.

    Raises:
        CorruptError: the manifest cannot be read, so garbage cannot be recognized; nothing is
            removed.
        StorageError: the store refused an operation.
    """
    holder = committed(storage)  # before the listing, so that the listed times are no older
    changed, unfinished = storage.changed(), storage.unfinished()
    kept = attempt_of(holder)
    if holder is not None and kept is None:
        raise CorruptError(
            f"{storage.url}: {MANIFEST} is damaged, so garbage cannot be recognized; nothing was "
            "removed; verify the checkpoint",
            reason=Reason.CORRUPT,
        )
    attempts = _by_attempt(changed, unfinished)
    attempts.pop(kept or "", None)
    short_lived = _notes_and_marks(changed, kept)
    if not attempts and not short_lived:
        _remove_empty(storage, changed, dry_run)
        return []
    try:
        old = _clock(storage) - grace
    except StorageError:
        if storage.changed():
            raise
        return []  # deleted in the meantime, with its directory
    if changed.get(MANIFEST, old) > old:
        return []  # its writer may put the replaced manifest back
    removed = sorted(name for name in short_lived if changed[name] <= old)
    if not dry_run:
        storage.delete_many(removed)  # among them the marks of collectors that were killed
    for attempt, files in attempts.items():
        if max(files.values()) <= old:
            marked = changed.get(names.mark(attempt), old) > old  # another collector works on it
            if marked or not (dry_run or _remove(storage, attempt, files)):
                continue
            removed += sorted(files)
    if holder is None and len(removed) == len({*changed, *unfinished}):
        _remove_empty(storage, {}, dry_run)
    return removed


def _notes_and_marks(files: Iterable[str], kept: str | None) -> list[str]:
    """Return the names of marks, probes and temporary files, and of notes about the checkpoint."""
    return [
        name
        for name in files
        if names.is_short_lived(name) or (names.is_note(name) and names.attempt_of(name) == kept)
    ]


def _remove_empty(storage: Storage, changed: Mapping[str, float], dry_run: bool) -> None:
    """Remove the directory if it is empty; a save that has just made it makes it again."""
    if not changed and not dry_run:
        storage.remove()


def sweep(storage: Storage, grace: float) -> None:
    """Remove the probes that killed processes left in the directory of a run.

    Args:
        storage: the directory.
        grace: seconds by the store's own clock.

    Raises:
        StorageError: the store refused an operation.
    """
    probes = {name: at for name, at in storage.changed().items() if names.is_probe(name)}
    if not probes:
        return
    old = _clock(storage) - grace
    storage.delete_many([name for name, changed in probes.items() if changed <= old])


def _by_attempt(*times: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the time of each file's last change, by the attempt that it belongs to."""
    attempts: dict[str, dict[str, float]] = {}
    for name, time in (item for column in times for item in column.items()):
        if (attempt := names.attempt_of(name)) is not None:
            files = attempts.setdefault(attempt, {})
            files[name] = max(time, files.get(name, time))
    return attempts


def _clock(storage: Storage) -> float:
    """Return the time by the store's own clock: the time of a file made now."""
    name = names.probe(os.urandom(16).hex())
    try:
        storage.put(name, [b""], 0)
        time = storage.changed().get(name)
    finally:
        storage.delete(name)
    if time is None:
        raise StorageError(
            f"{storage.url}: the file {name} vanished; another collector with a shorter grace "
            "period is running there; try again"
        )
    return time


def _remove(storage: Storage, attempt: str, files: Iterable[str]) -> bool:
    """Mark an attempt, check once more that it is not committed, and remove its files.

    Only the collector that made the mark may remove files or the mark itself. So a writer that sees
    no mark and no missing file is safe from every collector.
    """
    mark, content = names.mark(attempt), os.urandom(16)
    try:
        storage.create(mark, content)
    except FileExistsError:
        return False  # the mark of another collector
    holder = committed(storage)
    if holder is not None and holder.attempt in (None, attempt):
        storage.delete(mark, expected=content)
        return False
    for name in storage.unfinished():  # also those that began since the first look
        if names.attempt_of(name) == attempt:
            storage.abort(name)
    storage.delete_many([*files])
    storage.delete(mark, expected=content)
    return True

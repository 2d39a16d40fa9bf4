"""The collector: removes what killed saves left behind, and nothing that a save may still need.

Why it cannot break a save that returned success: docs/commit.md.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping

from ckptstore import commit, format
from ckptstore.commit import MANIFEST
from ckptstore.errors import CorruptError
from ckptstore.storage import Storage

_SHORT_LIVED = re.compile(r"PROBE-[0-9a-f]{32}|MANIFEST\.[0-9a-f]{16}\.tmp|VOID-[0-9a-f]{32}")


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
    changed, unfinished = storage.changed(), storage.unfinished()
    manifest = commit.surely_held(storage)
    committed = commit.attempt_in(manifest)
    if manifest is not None and committed is None:
        raise CorruptError(
            f"{storage.url}: {MANIFEST} is damaged, so what is garbage cannot be told; nothing was "
            "removed; verify it",
            reason="corrupt",
        )
    attempts = _by_attempt(changed, unfinished)
    attempts.pop(committed or "", None)
    short_lived = [name for name in changed if _SHORT_LIVED.fullmatch(name)]
    if not attempts and not short_lived:
        return []
    old = _clock(storage) - grace
    if changed.get(MANIFEST, old) > old:
        return []  # what it replaced may be put back by its writer
    removed = []
    for attempt, files in attempts.items():
        if max(files.values()) <= old:
            if not dry_run and not _remove(storage, attempt, changed, files):
                continue
            removed += sorted(files)
    for name in sorted(short_lived):
        if changed[name] <= old:
            if not dry_run:
                storage.delete(name)
            removed.append(name)
    return removed


def _by_attempt(*times: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return when each file was changed, by the attempt that it belongs to."""
    attempts: dict[str, dict[str, float]] = {}
    for name, time in (item for found in times for item in found.items()):
        if (attempt := format.attempt_of(name)) is not None:
            files = attempts.setdefault(attempt, {})
            files[name] = max(time, files.get(name, time))
    return attempts


def _clock(storage: Storage) -> float:
    """Return the time by the store's own clock: that of a file made now."""
    name = f"PROBE-{os.urandom(16).hex()}"
    try:
        storage.put(name, [b""], 0)
        return storage.changed()[name]
    finally:
        storage.delete(name)


def _remove(storage: Storage, attempt: str, there: Iterable[str], files: Iterable[str]) -> bool:
    """Mark an attempt, look once more that it is not committed, and remove its files."""
    mark = commit.mark(attempt)
    with contextlib.suppress(FileExistsError):
        storage.create(mark, b"")
    if commit.attempt_in(commit.surely_held(storage)) == attempt:
        storage.delete(mark)
        return False
    for name in files:
        storage.abort(name)
        storage.delete(name)
    storage.delete(mark)
    return True

"""Directories that are made, and whose names are made durable."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from ckptstore.errors import Reason, StorageError
from ckptstore.storage import mounts, posix

_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EINVAL}  # another user's; autofs, squashfs


def is_dangling(path: str) -> bool:
    """Return whether a path is a symbolic link to nothing."""
    return os.path.islink(path) and not os.path.exists(path)


def obstacle(path: str, target: str) -> StorageError:
    """Return the error for a file or a link to nothing, at or above `target`, a directory."""
    where = f"{path}:" if path == target else f"{target}: {path} is"
    if is_dangling(path):
        way = "remove it, or restore its target"
        if "/annex/objects/" in os.path.realpath(path):
            way = "git-annex holds its target: run `git annex get` on it"
        return StorageError(
            f"{where} a symbolic link to nothing; {way}", reason=Reason.DANGLING_LINK
        )
    return StorageError(
        f"{where} not a directory; remove it, or choose another place",
        reason=Reason.NOT_A_DIRECTORY,
    )


def missing(target: str) -> Sequence[str]:
    """Return the directories that must be made for `target` to exist, the topmost first.

    Raises:
        StorageError: reason ``not-a-directory`` or ``dangling-link``.
    """
    found, path = [], target
    while not os.path.isdir(path):
        if os.path.lexists(path) and not os.path.isdir(path):  # others may be making it
            raise obstacle(path, target)
        found.append(path)
        path = os.path.dirname(path)
    return found[::-1]


def make(target: str, lacking: Sequence[str]) -> None:
    """Make the missing directories of `target`, and make their names durable.

    Also if none is missing: the process that made it may have been killed, or may not have
    finished.

    Raises:
        StorageError: an operation failed.
    """
    for directory in lacking:
        with posix.errors("make the directory", directory), contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        sync(os.path.dirname(directory))
    if not lacking:
        try:
            sync(os.path.dirname(target))
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in _NOT_OURS:
                raise


def sync(path: str) -> None:
    """Make the names in a directory durable, if its file system can.

    Raises:
        StorageError: it failed.
    """
    with posix.errors("fsync the directory", path), posix.opened(path, posix.DIRECTORY) as fd:
        try:
            os.fsync(fd)
        except OSError as error:
            if not mounts.cannot_sync(path, error):
                raise

"""The calls that a file system has, tried once a process before any data is written.

A disk of Linux has all of them. A FUSE mount, a network share or a USB stick may lack some, and
says so by any of a dozen errors. The same errors mean something else at a commit, so they are read
as "cannot" here alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass

from ckptstore import signals
from ckptstore.errors import Reason, StorageError
from ckptstore.storage import notices, posix

_OF_THE_MOMENT = {
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EROFS,
}
"""Errors that say nothing about the abilities of a file system."""
_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NOT_PERMITTED = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, slots=True)
class Mount:
    """The abilities of one mounted file system; each text is the error of a call, or empty.

    Attributes:
        link: of a hard link.
        rename: of a rename that replaces nothing; it is tried where there are no hard links.
        lock: of a lock on a directory.
        syncs: the names in a directory can be made durable.
    """

    link: str = ""
    rename: str = ""
    lock: str = ""
    syncs: bool = True

    def check(self, place: str, *, swap: bool) -> None:
        """Raise StorageError if a commit would not be atomic.

        Args:
            place: the directory, for the message.
            swap: the commit replaces a file.

        Raises:
            StorageError: reason ``not-atomic``; with `swap`, reason ``not-supported``.
        """
        if swap and self.lock:
            raise StorageError(
                f"{place}: {_named(place)} has no locks (flock: {self.lock}), so an overwrite is "
                "not safe: two at once could destroy each other, and the old checkpoint is "
                "untouched; save to a new place, or, if only one process ever writes there, pass "
                + posix.ASSUME_ATOMIC,
                reason=Reason.NOT_SUPPORTED,
            )
        if not swap and self.link and self.rename:
            raise StorageError(
                f"{place}: {_named(place)} has neither hard links (link: {self.link}) nor a rename "
                f"that replaces nothing (renameat2: {self.rename}), so a commit here would not be "
                "atomic: two saves at once could destroy each other, and nothing was written; save "
                "to another disk or to a bucket, or, if only one process ever writes there, pass "
                + posix.ASSUME_ATOMIC,
                reason=Reason.NOT_ATOMIC,
            )


_known: dict[tuple[int, int], Mount] = {}
"""The file systems of which this process knows the abilities, by device and mount."""


def of(directory: str) -> Mount | None:
    """Return the abilities of the file system that holds a directory, or will hold it.

    They are tried in the directory above, which is the one that a new name would change; in the
    directory itself if it is a file system of its own, or if you may not write above it.

    Args:
        directory: an absolute path.

    Returns:
        None if the directory does not exist yet, and you may not write above it.

    Raises:
        StorageError: the disk refused something that every file system can.
    """
    with posix.errors("reach", directory):
        above = os.path.dirname(directory)
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        places, key = [above], _key(above)
        if os.path.isdir(directory):
            own = _key(directory)
            places, key = [above, directory] if own == key else [directory], own
    if (mount := _known.get(key)) is not None:
        return mount
    for place in places:
        try:
            return _known.setdefault(key, _tried(place))
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in _NOT_PERMITTED or place == directory:
                raise
    return None


def forget(directory: str) -> None:
    """Try the file system again at the next save: a call that it had has just failed."""
    with contextlib.suppress(OSError):
        _known.pop(_key(directory), None)


def cannot_sync(directory: str, error: OSError) -> bool:
    """Return whether an fsync of a directory failed because its file system has none.

    If it had one when it was tried, the failure is one of the disk.
    """
    if error.errno not in _CANNOT_SYNC:
        return False
    mount = _known.get(_key(directory))
    if mount is None:
        _warn_of_sync(directory, error)
    return mount is None or not mount.syncs


def _key(path: str) -> tuple[int, int]:
    """Return the numbers of a file system, of which the first is used again after an unmount."""
    return os.stat(path).st_dev, posix.mount_number(path)


def _tried(directory: str) -> Mount:
    syncs = _tried_sync(directory)
    first, second = (os.path.join(directory, f"PROBE-{os.urandom(16).hex()}") for _ in range(2))
    try:
        with posix.errors("write", first):
            _make(first)
            rename = ""
            link = _error(lambda: os.link(first, second))
            if link:
                rename = _error(lambda: posix.rename_no_replace(first, second))
            if rename:  # then a plain rename must work, or the disk is failing
                os.rename(first, second)
            return Mount(link, rename, _tried_lock(directory), syncs)
    finally:
        for path in (first, second):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _tried_sync(directory: str) -> bool:
    try:
        synced = posix.errors("fsync the directory", directory)
        with synced, posix.opened(directory, posix.DIRECTORY) as fd:
            os.fsync(fd)
    except StorageError as error:
        cause = error.__cause__
        assert isinstance(cause, OSError)
        if cause.errno in _CANNOT_SYNC:
            _warn_of_sync(directory, cause)
            return False
        if cause.errno not in _NOT_PERMITTED:
            raise
    return True


def _tried_lock(directory: str) -> str:
    # You may write to it and not list it, or another process may hold the lock.
    with (
        contextlib.suppress(PermissionError, BlockingIOError),
        posix.opened(directory, posix.DIRECTORY) as fd,
    ):
        return _error(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    return ""


def _make(path: str) -> None:
    posix.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def _error(call: Callable[[], None]) -> str:
    """Return the error with which a file system says that it lacks a call; empty if it has it."""
    try:
        call()
    except OSError as error:
        if error.errno in _OF_THE_MOMENT or isinstance(error, BlockingIOError):
            raise
        signals.pass_on(error)
        return error.strerror or str(error)
    return ""


def _warn_of_sync(directory: str, error: OSError) -> None:
    key = str(_key(directory))
    notices.warn_once(
        key,
        "fsync",
        "%s: %s cannot make the names in a directory durable (fsync: %s); after a power cut a save "
        "that returned may be gone",
        directory,
        _named(directory),
        error.strerror,
    )


def _named(path: str) -> str:
    """Return the words for a file system, as Linux names its kind and its mount point."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        device = os.stat(path).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
            rows = [line.split() for line in lines]
        found = [row for row in rows if row[2] == number]
        if found:
            row = found[-1]
            return f"the file system {row[row.index('-') + 1]} at {row[4]}"
    return "this file system"

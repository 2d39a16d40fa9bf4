"""The system calls that make a file durable or a commit atomic, and the meaning of their errors.

`LocalStorage` uses them in the order of docs/commit.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ckptstore import signals
from ckptstore.digests import Buffer
from ckptstore.errors import Reason, StorageError

READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in place of a file must not block
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_CANNOT_SYNC = {errno.EACCES, errno.EPERM, errno.EINVAL}  # another user's; autofs, squashfs
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_STATX_FORCE_SYNC = 0x2000
_STATX_SIZE = 0x200
_STATX_SIZE_AT = slice(40, 48)  # of stx_size
_Status = ctypes.c_char * 256
_statx: Callable[..., Any] | None = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
"""The system call, which Linux has."""

_STALE_TRIES = 10

T = TypeVar("T")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.ENOTSUP}
_NO_FLAG = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}

_READ_NBYTES = 64 << 10
"""Python allocates the requested size before it reads; a small file should not cost its limit."""

_NO_LOCKS = "; without locks here, an overwrite is not safe: save to a new place"
_REMEDIES = {
    errno.ENOSPC: "; free some space, then save again",
    errno.EDQUOT: "; free some of your quota, then save again",
    errno.EROFS: "; mount the file system writable, or choose another place",
    errno.EACCES: "; check the owner and the mode of the directory",
    errno.EPERM: "; check the owner and the mode of the directory",
    errno.ENOENT: "; the directory is gone: was it moved or deleted in the meantime?",
    errno.EIO: "; the disk is failing: check it before you trust it again",
    errno.ELOOP: "; a symbolic link leads back to itself: remove it",
    errno.ESTALE: "; another machine keeps replacing the file, or its server was started anew: try "
    "again, or mount the disk again",
    errno.EFBIG: "; raise the limit on file size (ulimit -f)",
    errno.ENOLCK: _NO_LOCKS,
    errno.ENOSYS: _NO_LOCKS,
    errno.EBADF: _NO_LOCKS,  # flock of a directory on NFS
}
_REASONS = {
    errno.ENOSPC: Reason.DISK_FULL,
    errno.EDQUOT: Reason.DISK_FULL,
    errno.EROFS: Reason.READ_ONLY,
    errno.EACCES: Reason.PERMISSION,
    errno.EPERM: Reason.PERMISSION,
    errno.ELOOP: Reason.DANGLING_LINK,
}


@contextlib.contextmanager
def errors(operation: str, path: str, passing: tuple[type[OSError], ...] = ()) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError, except the classes in `passing`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, passing):
            raise
        signals.pass_on(error)
        if FileNotFoundError in passing and isinstance(error, NotADirectoryError):
            raise FileNotFoundError(error.errno, error.strerror, path) from None
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise StorageError(
            f"{path}: could not {operation}: {error.strerror or error}{remedy}",
            reason=_REASONS.get(error.errno or 0, Reason.STORAGE),
        ) from error


@contextlib.contextmanager
def unless_gone(operation: str, path: str) -> Iterator[None]:
    """Raise a StorageError as `errors` does, but ignore a file that is gone."""
    gone = FileNotFoundError
    with contextlib.suppress(gone), errors(operation, path, (gone,)):
        yield


@contextlib.contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    """Open a file or a directory for the block, for reading only."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        close(fd)


def close(fd: int) -> None:
    """Close a file that was only read or is synced already, and ignore an error."""
    with contextlib.suppress(OSError):
        os.close(fd)


def again(call: Callable[[], T]) -> T:
    """Repeat a call while its file handle is stale (ESTALE): another machine replaced the file."""
    for _ in range(_STALE_TRIES):
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return call()


@contextlib.contextmanager
def stale_is_gone(path: str) -> Iterator[None]:
    """Raise FileNotFoundError for a stale file handle: another machine removed the file."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        raise FileNotFoundError(errno.ENOENT, "removed on its server", path) from None


def size(fd: int) -> int:
    """Return the size of an open file, as its server tells it now.

    A network or FUSE file system may answer `fstat` from a cache, and ends reads there, too. To ask
    the server makes the kernel forget that size.
    """
    if _statx is not None:
        status = _Status()
        if _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC, _STATX_SIZE, status) == 0:
            return int.from_bytes(status.raw[_STATX_SIZE_AT], sys.byteorder)
    return os.fstat(fd).st_size


def read(fd: int, most: int) -> bytes:
    """Return the first bytes of a file, at most `most`."""
    parts = []
    while most and (part := os.read(fd, min(most, _READ_NBYTES))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def files(directory: str) -> dict[str, os.stat_result]:
    """Return the files and symbolic links in a directory; none if there is no directory."""
    out = {}
    with unless_gone("list", directory):
        # By name: a collector removes its mark last, so this must look at it first.
        for entry in sorted(entries(directory), key=lambda entry: entry.name):
            with contextlib.suppress(FileNotFoundError), stale_is_gone(entry.path):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    out[entry.name] = status
    return out


def entries(directory: str) -> list[os.DirEntry[str]]:
    """Return the entries of a directory.

    Raises:
        OSError: FileNotFoundError also for a directory that stays stale.
    """

    def scan() -> list[os.DirEntry[str]]:
        with os.scandir(directory) as found:
            return list(found)

    with stale_is_gone(directory):
        return again(scan)


def changed(directory: str) -> dict[str, float]:
    """Return the files' ctimes: a fresh hard link keeps its old mtime.

    Making or removing other links renews the ctime of a file too. But a file is linked only after
    it is written, and no name here is younger than the last change of the directory.
    """
    found, latest = files(directory), float("inf")
    with contextlib.suppress(OSError):  # it may be gone by now
        latest = os.stat(directory).st_ctime
    return {
        name: status.st_ctime if status.st_nlink == 1 else min(status.st_ctime, latest)
        for name, status in found.items()
    }


def write_new(path: str, chunks: Iterable[Buffer]) -> None:
    """Write and fsync a new file. A failed fsync is not retried."""
    fd = os.open(path, _WRITE, 0o666)
    try:
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            while view.nbytes:
                view = view[os.write(fd, view) :]
            del view, chunk  # the next chunk may need its memory
        os.fsync(fd)
    finally:
        os.close(fd)


def is_durable(path: str, nbytes: int) -> bool:
    """Sync the bytes of a file; return whether that succeeded and the file has that size."""
    try:
        with opened(path, READ | os.O_NOFOLLOW) as fd:
            status = os.fstat(fd)
            getattr(os, "fdatasync", os.fsync)(fd)
    except OSError as error:
        signals.pass_on(error)
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == nbytes


def sync_directory(path: str) -> None:
    """Make the names in a directory durable; raises StorageError."""
    with errors("fsync the directory", path), opened(path, DIRECTORY) as fd:
        os.fsync(fd)


def is_dangling(path: str) -> bool:
    """Return whether a path is a symbolic link to nothing."""
    return os.path.islink(path) and not os.path.exists(path)


def obstacle(path: str, target: str) -> StorageError:
    """Return the error for a file or a link to nothing, at or above `target`, a directory."""
    where = f"{path}:" if path == target else f"{target}: {path} is"
    if is_dangling(path):
        return StorageError(
            f"{where} a symbolic link to nothing; remove it, or restore its target",
            reason=Reason.DANGLING_LINK,
        )
    return StorageError(
        f"{where} not a directory; remove it, or choose another place",
        reason=Reason.NOT_A_DIRECTORY,
    )


def make_directory(target: str) -> None:
    """Make a directory and its missing parents, and make their names durable.

    Raises:
        StorageError: reason ``not-a-directory`` or ``dangling-link``, or an operation failed.
    """
    missing, path = [], target
    while not os.path.isdir(path):
        if os.path.lexists(path) and not os.path.isdir(path):  # others may be making it
            raise obstacle(path, target)
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        with (
            errors("make the directory", directory),
            contextlib.suppress(FileExistsError),
        ):
            os.mkdir(directory)
        sync_directory(os.path.dirname(directory))
    if not missing:
        try:
            sync_directory(os.path.dirname(target))
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in _CANNOT_SYNC:
                raise


def rename_new(source: str, target: str) -> None:
    """Rename a file to an unused name, in one step; the old name may stay.

    Raises:
        FileExistsError: there is a file of that name.
        StorageError: reason ``not-atomic``: this file system cannot do it.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_no_replace(source, target)


def _rename_no_replace(source: str, target: str) -> None:
    """Linux's renameat2(RENAME_NOREPLACE), for file systems without hard links."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    number = errno.ENOSYS
    if call is not None:
        names = os.fsencode(source), os.fsencode(target)
        if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
    if number not in _NO_FLAG:
        raise OSError(number, os.strerror(number), target)
    raise StorageError(
        f"{target}: this file system has neither hard links nor an atomic rename without replacing "
        f"({os.strerror(number)}), so a commit here would not be atomic; save elsewhere",
        reason=Reason.NOT_ATOMIC,
    )

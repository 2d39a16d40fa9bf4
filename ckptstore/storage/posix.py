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

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_STATX_FORCE_SYNC = 0x2000
_STATX_SIZE = 0x200
_STATX_SIZE_AT = slice(40, 48)  # of stx_size
_STATX_MNT_ID = 0x1000
_STATX_MNT_ID_UNIQUE = 0x4000  # since Linux 6.8; before, a later mount may have the number again
_STATX_MNT_ID_AT = slice(144, 152)  # of stx_mnt_id
_Status = ctypes.c_char * 256
_statx: Callable[..., Any] | None = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
"""The system call, which Linux has."""

_STALE_TRIES = 10

T = TypeVar("T")

_READ_NBYTES = 64 << 10
"""Python allocates the requested size before it reads; a small file should not cost its limit."""

ASSUME_ATOMIC = 'storage_options={"ckptstore": {"assume_atomic": True}}'
_NO_LOCKS = (
    "; without locks here, neither an overwrite nor a delete is safe: save to a new place, or, if "
    "only one process ever writes there, pass " + ASSUME_ATOMIC
)
_NO_DESCRIPTOR = (
    "; no file descriptor is left: close some files, or raise the limit of the process (ulimit -n)"
)
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
    errno.EMFILE: _NO_DESCRIPTOR,
    errno.ENFILE: _NO_DESCRIPTOR + " or of the system (sysctl fs.file-max)",
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
def errors(
    operation: str, path: str, passing: tuple[type[OSError], ...] = (), *, needed: int = 0
) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError, except the classes in `passing`.

    Args:
        operation: the words for the message.
        path: the path for the message.
        passing: the classes of errors that pass.
        needed: the number of bytes that the whole save writes, if it is known.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, passing):
            raise
        signals.pass_on(error)
        if FileNotFoundError in passing and isinstance(error, NotADirectoryError):
            raise FileNotFoundError(error.errno, error.strerror, path) from None
        remedy = _REMEDIES.get(error.errno or 0, "")
        reason = _REASONS.get(error.errno or 0, Reason.STORAGE)
        figures = _figures(path, needed) if reason == Reason.DISK_FULL else ""
        raise StorageError(
            f"{path}: could not {operation}: {error.strerror or error}{figures}{remedy}",
            reason=reason,
        ) from error


def _figures(path: str, needed: int) -> str:
    """Return the words for the bytes that a save writes and those that the disk has."""
    free = room(os.path.dirname(path))
    has = f"the file system has {free[0]} of {free[1]} bytes free" if free is not None else ""
    writes = f"the save writes {needed} bytes" if needed else ""
    words = ", and ".join(filter(None, [writes, has]))
    return f" ({words})" if words else ""


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


def rename_no_replace(source: str, target: str) -> None:
    """Rename a file to a name that nobody has, in one step: Linux's renameat2(RENAME_NOREPLACE).

    Raises:
        OSError: FileExistsError if there is a file of that name; any other error.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    number = errno.ENOSYS
    if call is not None:
        names = os.fsencode(source), os.fsencode(target)
        if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), target)


def mount_number(path: str) -> int:
    """Return the number of the mount that a path is on, which no later mount has; 0: not known."""
    if _statx is not None:
        status, wanted = _Status(), _STATX_MNT_ID | _STATX_MNT_ID_UNIQUE
        if _statx(_AT_FDCWD, os.fsencode(path), 0, wanted, status) == 0:
            return int.from_bytes(status.raw[_STATX_MNT_ID_AT], sys.byteorder)
    return 0


def room(directory: str) -> tuple[int, int] | None:
    """Return the free and all bytes of a file system; None if it does not say."""
    with contextlib.suppress(OSError):
        status = os.statvfs(directory)
        if status.f_blocks:
            return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    return None

"""A directory on a local disk, with plain system calls: fsspec's local files never fsync.

docs/commit.md says in which order they are used and why.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from ckptstore.errors import OutcomeUnknownError, StorageError
from ckptstore.wire import Buffer

_HELD_FILES = 128
"""How many data files a reader keeps open: an overwrite can then not take them away."""

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.ENOTSUP}


def parse(url: Any) -> str:
    """Return the absolute path that a path or ``file://`` URL means.

    Raises:
        StorageError: reason ``bad-url`` or ``no-such-store``.
    """
    try:
        path = os.fspath(url)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path or "\0" in path:
        raise StorageError(f"{url!r:.200} is no path and no URL", reason="bad-url")
    scheme, separator, rest = path.partition("://")
    if separator and "/" not in scheme:
        if scheme != "file":
            raise StorageError(
                f"{scheme}:// is not a store that this ckptstore writes or reads; it has local "
                "paths and file:// URLs",
                reason="no-such-store",
            )
        host, slash, rest = rest.partition("/")
        if host not in ("", "localhost"):
            raise StorageError(f"{path}: file:// has no host, found {host!r}", reason="bad-url")
        path = urllib.parse.unquote(slash + rest)
    return os.path.abspath(os.path.expanduser(path))


class LocalStorage:
    """One checkpoint directory. Safe to use from many threads."""

    def __init__(self, path: str) -> None:
        self.url = path
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            held, self._held = self._held, {}
        for fd in held.values():
            os.close(fd)

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def prepare(self) -> None:
        """Make the directory and its missing parents, and make their names durable."""
        missing, path = [], self.url
        while not os.path.isdir(path):
            if os.path.lexists(path):
                raise StorageError(
                    f"{self.url}: {path} is a file, a directory is needed; remove it or choose "
                    "another place",
                    reason="not-a-directory",
                )
            missing.append(path)
            path = os.path.dirname(path)
        for directory in reversed(missing):
            with (
                self._errors("make the directory", directory),
                contextlib.suppress(FileExistsError),
            ):
                os.mkdir(directory)
            self._sync_directory(os.path.dirname(directory))

    def put(self, name: str, chunks: Iterable[Buffer]) -> None:
        """Write and fsync a new file."""
        with self._errors("write", self._at(name)):
            fd = os.open(self._at(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                for chunk in chunks:
                    _write(fd, chunk)
                os.fsync(fd)
            finally:
                os.close(fd)

    def flush(self) -> None:
        """Make the names of the files durable."""
        self._sync_directory(self.url)

    def create(self, name: str, data: bytes) -> None:
        """Write a temporary file and link it to `name`, which fails where `name` exists."""
        with self._temporary(name, data) as temporary:
            with self._errors("commit", self._at(name), (FileExistsError,)):
                try:
                    os.link(temporary, self._at(name))
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    _rename_no_replace(temporary, self._at(name))
        self._settle(name)

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        """Replace `name` under a lock on the directory, if it still holds `expected`."""
        with self._temporary(name, data) as temporary:
            passing = (FileExistsError, FileNotFoundError)
            with self.locked(), self._errors("overwrite", self._at(name), passing):
                if self.read(name, len(expected)) != expected:
                    raise FileExistsError(errno.EEXIST, "another save came first", self._at(name))
                os.replace(temporary, self._at(name))
        self._settle(name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes' swaps and deletes of this directory out."""
        with self._errors("lock", self.url):
            fd = os.open(self.url, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._errors("lock", self.url):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def sizes(self, names: Sequence[str]) -> Mapping[str, int]:
        """Open the files and return their sizes; open files outlive an overwrite."""
        out = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._reading("open", name):
                fd = self._open(name)
                try:
                    out[name] = os.fstat(fd).st_size
                finally:
                    self._release(name, fd)
        return out

    def get(self, name: str, offset: int, buffer: Buffer) -> None:
        """Read exactly the buffer's length."""
        with self._reading("read", name):
            fd = self._open(name)
            try:
                view = memoryview(buffer).cast("B")
                while view.nbytes:
                    count = os.preadv(fd, [view], offset)
                    if count == 0:
                        raise EOFError(f"{self._at(name)} ends at byte {offset}")
                    view, offset = view[count:], offset + count
            finally:
                self._release(name, fd)

    def read(self, name: str, limit: int) -> bytes:
        """Read a small file."""
        with self._reading("read", name), open(self._at(name), "rb") as file:
            return file.read(limit + 1)

    def list(self) -> Mapping[str, int]:
        """List the files of the directory; none where there is no directory."""
        out = {}
        passing = (FileNotFoundError,)
        with contextlib.suppress(*passing), self._errors("list", self.url, passing):
            for entry in os.scandir(self.url):
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        out[entry.name] = entry.stat(follow_symlinks=False).st_size
        return out

    def delete(self, name: str, expected: bytes | None = None) -> None:
        """Unlink a file; with `expected`, under the lock and only if it holds just that."""
        passing = (FileNotFoundError,)
        with contextlib.suppress(*passing), self._errors("delete", self._at(name), passing):
            if expected is None:
                os.unlink(self._at(name))
                return
            with self.locked():
                if self.read(name, len(expected)) == expected:
                    os.unlink(self._at(name))
            self._sync_directory(self.url)

    def _at(self, name: str) -> str:
        return os.path.join(self.url, name)

    @contextlib.contextmanager
    def _temporary(self, name: str, data: bytes) -> Iterator[str]:
        """Write and fsync a temporary file beside `name`; it is gone after the block."""
        temporary = f"{self._at(name)}.{os.urandom(8).hex()}.tmp"
        try:
            with self._errors("write", temporary):
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                try:
                    _write(fd, data)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _settle(self, name: str) -> None:
        """Make a commit durable. A failed fsync may have dropped the name, and is never retried."""
        try:
            self._sync_directory(self.url)
        except StorageError as error:
            raise OutcomeUnknownError(
                f"{self._at(name)} was written, but making it durable failed ({error}); nothing was "
                "deleted; check the disk, then load it to see what is there"
            ) from error

    def _sync_directory(self, path: str) -> None:
        with self._errors("fsync the directory", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _open(self, name: str) -> int:
        with self._lock:
            fd = self._held.get(name)
            if fd is None:
                fd = os.open(self._at(name), os.O_RDONLY | os.O_CLOEXEC)
                if len(self._held) < _HELD_FILES:
                    self._held[name] = fd
            return fd

    def _release(self, name: str, fd: int) -> None:
        with self._lock:
            held = self._held.get(name) == fd
        if not held:
            os.close(fd)

    @contextlib.contextmanager
    def _errors(
        self, operation: str, path: str, passing: tuple[type[OSError], ...] = ()
    ) -> Iterator[None]:
        """Turn an OSError into a StorageError; `passing` ones go to the caller as they are."""
        try:
            yield
        except OSError as error:
            if isinstance(error, passing):
                raise
            remedy = _REMEDIES.get(error.errno or 0, "")
            raise StorageError(
                f"{path}: could not {operation}: {error.strerror or error}{remedy}",
                reason=_REASONS.get(error.errno or 0, "storage"),
            ) from error

    def _reading(self, operation: str, name: str) -> contextlib.AbstractContextManager[None]:
        return self._errors(operation, self._at(name), (FileNotFoundError, NotADirectoryError))


_REMEDIES = {
    errno.ENOSPC: "; free some space, then save again",
    errno.EDQUOT: "; free some of your quota, then save again",
    errno.EROFS: "; mount the file system writable, or choose another place",
    errno.EACCES: "; check the owner and the mode of the directory",
    errno.EPERM: "; check the owner and the mode of the directory",
    errno.EIO: "; the disk is failing: check it before you trust it again",
    errno.EFBIG: "; raise the limit on file size (ulimit -f)",
}
_REASONS = {
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EROFS: "read-only",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
}


def _write(fd: int, data: Buffer) -> None:
    view = memoryview(data).cast("B")
    while view.nbytes:
        view = view[os.write(fd, view) :]


def _rename_no_replace(source: str, target: str) -> None:
    """Linux's renameat2(RENAME_NOREPLACE), for file systems without hard links."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameat2", None)
    failed = -1
    if call is not None:
        failed = call(
            _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
        )
    if failed:
        number = ctypes.get_errno() if call is not None else errno.ENOSYS
        if number == errno.EEXIST:
            raise FileExistsError(number, os.strerror(number), target)
        raise StorageError(
            f"{target}: this file system has neither hard links nor an atomic rename that replaces "
            f"nothing ({os.strerror(number)}), so a commit here would not be atomic; save elsewhere",
            reason="not-atomic",
        )

"""A directory on a local disk, with plain system calls: fsspec's local files never fsync.

docs/commit.md describes their order and the reason for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from ckptstore import signals
from ckptstore.digests import Buffer
from ckptstore.errors import OutcomeUnknownError, StorageError
from ckptstore.storage import links, posix
from ckptstore.storage.base import Expected, Traffic
from ckptstore.storage.held_files import HeldFiles

_HELD_FILES = 128
"""The number of data files that a reader keeps open, so that an overwrite cannot remove them."""


class LocalStorage:
    """One directory. Safe to use from many threads.

    Args:
        path: its absolute path.
        inside: it is a part of a larger directory, such as a step of a run. Then nothing is written
            or removed through it if it is a symbolic link.
    """

    # A piece is hashed while it is still in the cache.
    traffic = Traffic(writes=4, reads=4, piece_nbytes=2 << 20, alone_nbytes=1 << 20, gap_nbytes=64)

    def __init__(self, path: str, *, inside: bool = False) -> None:
        self.url = path
        self._inside = inside
        self._prepared = False
        self._files = HeldFiles(_HELD_FILES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.close()

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def prepare(self, *, swap: bool = False) -> None:
        """Make the directory and its missing parents, and make their names durable.

        Also if the directory exists: the process that made it may have been killed, or may not
        have finished.
        """
        self.refuse_link()
        posix.make_directory(self.url)
        self._prepared = True

    def refuse_link(self) -> None:
        """Raise StorageError, reason ``linked-step``, for a symbolic link inside a directory."""
        if self._inside:
            links.refuse_link(self.url)

    def put(self, name: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        """Write and fsync a new file."""
        with posix.errors("write", self._at(name)):
            self._write(self._at(name), chunks)

    def link(self, name: str, sibling: str, source: str, nbytes: int) -> bool:
        """Make a hard link, and sync the file: a copy made by hand may not be durable."""
        target = self._at(name)
        try:
            os.link(os.path.join(os.path.dirname(self.url), sibling, source), target)
        except OSError as error:  # gone, another disk, many links, another user's: `put` may do
            signals.pass_on(error)
            return False
        if posix.is_durable(target, nbytes):
            return True
        self.delete(name)
        return False

    def stop(self) -> None:
        """Do nothing: a write to a disk ends soon by itself."""

    def flush(self) -> None:
        """Make the names of the files durable."""
        try:
            posix.sync_directory(self.url)
        except StorageError as error:
            if not self._made_again(error.__cause__):
                raise
            posix.sync_directory(self.url)

    def create(self, name: str, data: bytes) -> None:
        """Write a temporary file and link it to `name`, which fails if `name` exists."""
        self.put_atomic(name, [data], len(data), replace=False)

    def put_atomic(
        self, name: str, chunks: Iterable[Buffer], nbytes: int, *, replace: bool
    ) -> None:
        """Write a complete and durable file, or none; see `create`."""
        commit = posix.errors("commit", self._at(name), (FileExistsError,))
        with self._temporary(name, chunks) as temporary, commit:
            (os.replace if replace else posix.rename_new)(temporary, self._at(name))
        self._settle(name)

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        """Replace `name` under a lock on the directory, if it still holds `expected`.

        `create` needs no lock: it cannot succeed while there is a file for `swap` to replace.
        """
        with self._temporary(name, [data]) as temporary:
            passing = (FileExistsError, FileNotFoundError)
            with self.locked(), posix.errors("overwrite", self._at(name), passing):
                if self.read(name, len(expected)) != expected:
                    raise FileExistsError(errno.EEXIST, "another save came first", self._at(name))
                os.replace(temporary, self._at(name))
        self._settle(name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory against other swaps, and against deletes with `expected`."""
        with posix.errors("lock", self.url):
            fd = self._open()
        try:
            with posix.errors("lock", self.url):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            try:
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)  # a process forked meanwhile has a copy of fd
            finally:
                posix.close(fd)

    def sizes(self, names: Sequence[str]) -> Mapping[str, int]:
        """Open the files and return their sizes; open files outlive an overwrite."""
        out = {}
        for name in names:
            path = self._at(name)
            with (
                posix.unless_gone("open", path),
                posix.stale_is_gone(path),
                self._files.opened(path) as fd,
            ):
                out[name] = posix.size(fd)
        return out

    def get(self, name: str, offset: int, buffer: Buffer) -> None:
        """Read exactly the buffer's length."""
        with self._reading(name), self._files.opened(self._at(name)) as fd:
            view = memoryview(buffer).cast("B")
            while view.nbytes:
                count = os.preadv(fd, [view], offset)
                if count == 0:
                    raise EOFError(f"{self._at(name)} ends at byte {offset}")
                view, offset = view[count:], offset + count

    def version(self, name: str) -> str:
        """Return a text that changes with every write to the file that is read."""
        with self._reading(name), self._files.opened(self._at(name)) as fd:
            status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{self._at(name)}: not a regular file; expected one")
        return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"

    def read(self, name: str, limit: int) -> bytes:
        """Read a small file."""
        path = self._at(name)

        def read() -> bytes:
            with posix.opened(path, posix.READ) as fd:
                posix.size(fd)  # makes the kernel forget an old one, at which it would stop
                return posix.read(fd, limit + 1)

        with links.named_link(path), posix.errors("read", path, (FileNotFoundError,)):
            return posix.again(read)

    def list(self) -> Mapping[str, int]:
        """List the files of the directory; none if there is no directory."""
        return {name: status.st_size for name, status in posix.files(self.url).items()}

    def delete(self, name: str, expected: bytes | None = None) -> None:
        """Unlink a file; with `expected`, under the lock and only if it holds those bytes."""
        with posix.unless_gone("delete", self._at(name)):
            if expected is None:
                self._unlink(name)
                return
            with self.locked():
                if self.read(name, len(expected)) == expected:
                    self._unlink(name)
            posix.sync_directory(self.url)

    def changed(self) -> Mapping[str, float]:
        """Return the time of each file's last change; see `posix.changed`."""
        return posix.changed(self.url)

    def unfinished(self) -> Mapping[str, float]:
        """Return nothing: a file exists from its first byte on."""
        return {}

    def abort(self, name: str) -> None:
        """Do nothing."""

    def child(self, name: str) -> LocalStorage:
        """Return a subdirectory."""
        return LocalStorage(self._at(name), inside=True)

    def is_link(self, name: str) -> bool:
        """Return whether a name is that of a symbolic link; `delete` removes the link alone."""
        return os.path.islink(self._at(name))

    def parent(self) -> tuple[LocalStorage, str]:
        """Return the parent directory, and this one's name in it: "" for the root."""
        above, name = os.path.split(self.url)
        return LocalStorage(above), name

    def children(self) -> Sequence[str]:
        """List the subdirectories, also behind symbolic links, and the links that lead nowhere."""
        names: list[str] = []
        with posix.unless_gone("list", self.url):
            found = posix.entries(self.url)
            names = sorted(entry.name for entry in found if links.may_be_directory(entry))
        return names

    def exists(self) -> bool:
        """List it, since a network disk may answer anything else from its cache."""
        return links.directory_exists(self.url)

    def holders(self, name: str, expected: Expected | None = None) -> Sequence[str]:
        """Look into each subdirectory."""
        expected = expected or (lambda child: os.path.isdir(self._at(child)))
        children = [self.child(child) for child in self.children() if expected(child)]
        return [os.path.basename(child.url) for child in children if child.holds(name)]

    def holds(self, name: str) -> bool:
        """Return whether a file exists."""
        is_file = False
        with posix.unless_gone("look for", self._at(name)), links.named_link(self.url):
            status = posix.again(lambda: os.stat(self._at(name)))
            is_file = stat.S_ISREG(status.st_mode)
        return is_file

    def remove(self) -> None:
        """Remove the directory, if it is empty."""
        with contextlib.suppress(OSError):
            os.rmdir(self.url)

    def _write(self, path: str, chunks: Iterable[Buffer]) -> None:
        try:
            posix.write_new(path, chunks)
        except FileNotFoundError as error:
            if not self._made_again(error):
                raise
            posix.write_new(path, chunks)  # nothing was taken from `chunks` before

    def _made_again(self, error: BaseException | None) -> bool:
        """Make the directory again if a delete of this place has removed it while it was empty.

        Another program may have removed it with files in it: the commit finds that they are gone.
        """
        if not (self._prepared and isinstance(error, FileNotFoundError)):
            return False
        making = posix.errors("make the directory", self.url, (FileExistsError,))
        with contextlib.suppress(FileExistsError), making:
            os.mkdir(self.url)
        posix.sync_directory(os.path.dirname(self.url))
        return True

    def _open(self) -> int:
        """Open the directory; one inside another not through a symbolic link."""
        try:
            return os.open(self.url, posix.DIRECTORY | (os.O_NOFOLLOW if self._inside else 0))
        except OSError:
            self.refuse_link()
            raise

    def _unlink(self, name: str) -> None:
        if not self._inside:
            os.unlink(self._at(name))
            return
        fd = self._open()  # a link that is put in its place from now on has no effect
        try:
            os.unlink(name, dir_fd=fd)
        finally:
            posix.close(fd)

    def _at(self, name: str) -> str:
        return os.path.join(self.url, name)

    @contextlib.contextmanager
    def _temporary(self, name: str, chunks: Iterable[Buffer]) -> Iterator[str]:
        """Write and fsync a temporary file beside `name`, and remove it after the block.

        A commit that failed may still be under way (NFS). It cannot succeed once the temporary
        file is gone; if that cannot be removed, the outcome is unknown.
        """
        temporary = f"{self._at(name)}.{os.urandom(8).hex()}.tmp"
        try:
            with posix.errors("write", temporary):
                self._write(temporary, chunks)
            try:
                yield temporary
            except StorageError as error:
                try:
                    self.delete(os.path.basename(temporary))
                except StorageError as second:
                    raise OutcomeUnknownError(
                        f"{error}; and then: {second}; so the commit may still happen; nothing was "
                        "deleted; load the checkpoint to see which save it holds"
                    ) from error
                raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _settle(self, name: str) -> None:
        """Make a commit durable. A failed fsync may have dropped the name, and is never retried."""
        try:
            posix.sync_directory(self.url)
        except StorageError as error:
            raise OutcomeUnknownError(
                f"{self._at(name)} was written, but making it durable failed ({error}); nothing "
                "was deleted; check the disk, then load the checkpoint to see which save it holds"
            ) from error

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        path = self._at(name)
        with posix.errors("read", path, (FileNotFoundError,)), posix.stale_is_gone(path):
            yield

"""A directory on a local disk, with plain system calls: fsspec's local files never fsync.

docs/commit.md describes their order and the reason for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Sequence

from ckptstore import signals
from ckptstore.digests import Buffer
from ckptstore.errors import OutcomeUnknownError, StorageError
from ckptstore.storage import claims, directories, links, mounts, posix
from ckptstore.storage.base import Expected, Storage
from ckptstore.storage.held_files import HeldFiles
from ckptstore.storage.local_reader import LocalReader
from ckptstore.storage.mounts import Mount

_log = logging.getLogger("ckptstore")

_REMOVALS = 8
"""The times that collectors may remove a directory between its making and its first file."""

_HELD_FILES = 128
"""The number of data files that a reader keeps open, so that an overwrite cannot remove them."""


class LocalStorage(LocalReader):
    """One directory. Safe to use from many threads.

    Args:
        path: its absolute path.
        inside: it is a part of a larger directory, such as a step of a run. Then nothing is written
            or removed through it if it is a symbolic link.
        assume_atomic: the caller vouches that nobody else writes here. So a file system will do
            that has no hard links, no rename that replaces nothing, or no locks.
        files: the open files of the directory above, which are closed with it.
    """

    def __init__(
        self,
        path: str,
        *,
        inside: bool = False,
        assume_atomic: bool = False,
        files: HeldFiles | None = None,
    ) -> None:
        super().__init__(path, files if files is not None else HeldFiles(_HELD_FILES))
        self._inside = inside
        self._assume_atomic = assume_atomic
        self._prepared = False
        self._needed = 0

    def prepare(self, *, swap: bool = False) -> None:
        """Make the directory and its missing parents, and make their names durable.

        Before that, check that the file system has the calls of a commit.
        """
        self.refuse_link()
        lacking = directories.missing(self.url)
        mount = self._check(swap=swap)
        directories.make(self.url, lacking)
        if mount is None:
            self._check(swap=swap)
        self._prepared = True

    def expect(self, nbytes: int) -> None:
        """Log a warning if that many bytes do not fit. It may be wrong: quotas are not known."""
        self._needed = nbytes
        room = posix.room(self.url)
        if room is not None and nbytes > room[0]:
            _log.warning(
                "%s: the save writes %d bytes, and the file system has %d of %d bytes free; free "
                "some space, or the save will probably fail",
                self.url,
                nbytes,
                *room,
            )

    def refuse_link(self) -> None:
        """Raise StorageError, reason ``linked-step``, for a symbolic link inside a directory."""
        if self._inside:
            links.refuse_link(self.url)

    def put(self, name: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        """Write and fsync a new file."""
        with posix.errors("write", self._at(name), needed=self._needed or nbytes):
            self._write(self._at(name), chunks)

    def link(self, name: str, origin: Storage, source: str, nbytes: int) -> bool:
        """Make a hard link, and sync the file: a copy made by hand may not be durable."""
        if not isinstance(origin, LocalStorage):
            return False
        target = self._at(name)
        try:
            os.link(origin._at(source), target)
        except OSError as error:  # gone, another disk, many links, another user's: `put` may do
            signals.pass_on(error)
            return False
        if posix.is_durable(target, nbytes):
            return True
        self.delete(name)
        return False

    def is_same(self, other: Storage) -> bool:
        """Compare the paths behind symbolic links."""
        is_local = isinstance(other, LocalStorage)
        return is_local and os.path.realpath(self.url) == os.path.realpath(other.url)

    def stop(self) -> None:
        """Do nothing: a write to a disk ends soon by itself."""

    def flush(self) -> None:
        """Make the names of the files durable."""
        for _ in range(_REMOVALS):
            try:
                return directories.sync(self.url)
            except StorageError as error:
                if not self._made_again(error.__cause__):
                    raise
        directories.sync(self.url)

    def create(self, name: str, data: bytes) -> None:
        """Write a temporary file and link it to `name`, which fails if `name` exists."""
        self._create(name, [data], len(data), data)

    def put_atomic(
        self, name: str, chunks: Iterable[Buffer], nbytes: int, *, replace: bool
    ) -> None:
        """Write a complete and durable file, or none; see `create`."""
        self.expect(nbytes)
        if not replace:
            self._create(name, chunks, nbytes)
            return
        commit = posix.errors("commit", self._at(name))
        with self._temporary(name, chunks, nbytes) as temporary, commit:
            os.replace(temporary, self._at(name))
        self._settle(name)

    def _create(
        self, name: str, chunks: Iterable[Buffer], nbytes: int, data: bytes | None = None
    ) -> None:
        mount, path = self._check(swap=False) or Mount(), self._at(name)
        with self._temporary(name, chunks, nbytes) as temporary:
            with posix.errors("commit", path, (FileExistsError,)):
                claims.create(temporary, path, mount)
            if data is not None and mount.link and mount.rename:
                claims.read_back(path, data)
        self._settle(name)

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        """Replace `name` under a lock on the directory, if it still holds `expected`.

        `create` needs no lock: it cannot succeed while there is a file for `swap` to replace.
        """
        with self._temporary(name, [data], len(data)) as temporary:
            passing = (FileExistsError, FileNotFoundError)
            with self.locked() as alone, posix.errors("overwrite", self._at(name), passing):
                if self.read(name, len(expected)) != expected:
                    raise FileExistsError(errno.EEXIST, "another save came first", self._at(name))
                os.replace(temporary, self._at(name))
                if not alone:
                    claims.read_back(self._at(name), data)
        self._settle(name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Lock the directory against other swaps, and against deletes with `expected`.

        The block gets False if there is no lock, and the caller vouches that it needs none.
        """
        with posix.errors("lock", self.url):
            fd = self._open()
        mount = mounts.of(self.url) if self._assume_atomic else None
        alone = mount is None or not mount.lock
        try:
            if alone:
                with posix.errors("lock", self.url):
                    fcntl.flock(fd, fcntl.LOCK_EX)
            yield alone
        finally:
            try:
                if alone:
                    with contextlib.suppress(OSError):
                        fcntl.flock(fd, fcntl.LOCK_UN)  # a forked process has a copy of fd
            finally:
                posix.close(fd)

    def delete(self, name: str, expected: bytes | None = None) -> None:
        """Unlink a file; with `expected`, under the lock and only if it holds those bytes."""
        with posix.unless_gone("delete", self._at(name)):
            if expected is None:
                self._unlink(name)
                return
            with self.locked():
                if self.read(name, len(expected)) == expected:
                    self._unlink(name)
            directories.sync(self.url)

    def delete_many(self, names: Sequence[str]) -> None:
        """Unlink files, one after the other."""
        first: StorageError | None = None
        for name in names:
            try:
                self.delete(name)
            except StorageError as error:
                first = first or error
        if first is not None:
            raise first

    def abort(self, name: str) -> None:
        """Do nothing."""

    def child(self, name: str) -> LocalStorage:
        """Return a subdirectory."""
        return LocalStorage(
            self._at(name), inside=True, assume_atomic=self._assume_atomic, files=self._files
        )

    def parent(self) -> tuple[LocalStorage, str]:
        """Return the parent directory, and this one's name in it: "" for the root."""
        above, name = os.path.split(self.url)
        return LocalStorage(above, assume_atomic=self._assume_atomic), name

    def holders(self, name: str, expected: Expected | None = None) -> Sequence[str]:
        """Look into each subdirectory."""
        expected = expected or (lambda child: os.path.isdir(self._at(child)))
        children = [self.child(child) for child in self.children() if expected(child)]
        return [os.path.basename(child.url) for child in children if child.holds(name)]

    def remove(self) -> None:
        """Remove the directory, if it is empty."""
        with contextlib.suppress(OSError):
            os.rmdir(self.url)

    def _check(self, *, swap: bool) -> Mount | None:
        """Check that commits are atomic here; return the abilities, or None if not known yet."""
        mount = mounts.of(self.url)
        if mount is not None and not self._assume_atomic:
            try:
                mount.check(self.url, swap=swap)
            except StorageError:
                mounts.forget(self.url)  # its server may have a better day
                raise
        return mount

    def _write(self, path: str, chunks: Iterable[Buffer]) -> None:
        for _ in range(_REMOVALS):
            try:
                return posix.write_new(path, chunks)
            except FileNotFoundError as error:  # nothing was taken from `chunks` yet
                if not self._made_again(error):
                    raise
        posix.write_new(path, chunks)

    def _made_again(self, error: BaseException | None) -> bool:
        """Make the directory again if a delete of this place has removed it while it was empty.

        Another program may have removed it with files in it: the commit finds that they are gone.
        """
        if not (self._prepared and isinstance(error, FileNotFoundError)):
            return False
        making = posix.errors("make the directory", self.url, (FileExistsError,))
        with contextlib.suppress(FileExistsError), making:
            os.mkdir(self.url)
        directories.sync(os.path.dirname(self.url))
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

    @contextlib.contextmanager
    def _temporary(self, name: str, chunks: Iterable[Buffer], nbytes: int) -> Iterator[str]:
        """Write and fsync a temporary file beside `name`, and remove it after the block.

        A commit that failed may still be under way (NFS). It cannot succeed once the temporary
        file is gone; if that cannot be removed, the outcome is unknown.
        """
        temporary = f"{self._at(name)}.{os.urandom(8).hex()}.tmp"
        try:
            with posix.errors("write", temporary, needed=self._needed or nbytes):
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
            directories.sync(self.url)
        except StorageError as error:
            raise OutcomeUnknownError(
                f"{self._at(name)} was written, but making it durable failed ({error}); nothing "
                "was deleted; check the disk, then load the checkpoint to see which save it holds"
            ) from error

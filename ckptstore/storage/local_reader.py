"""A directory on a local disk as its readers see it; nothing here changes it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from ckptstore.digests import Buffer
from ckptstore.errors import StorageError
from ckptstore.storage import links, posix
from ckptstore.storage.base import Traffic
from ckptstore.storage.held_files import HeldFiles


class LocalReader:
    """One directory. Safe to use from many threads.

    Args:
        path: its absolute path.
        files: the data files that it keeps open, also those of its subdirectories.
    """

    # A piece is hashed while it is still in the cache.
    traffic = Traffic(writes=4, reads=4, piece_nbytes=2 << 20, alone_nbytes=1 << 20, gap_nbytes=64)

    def __init__(self, path: str, files: HeldFiles) -> None:
        self.url = path
        self._files = files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.close()

    def __repr__(self) -> str:
        return f"LocalStorage({self.url!r})"

    def sizes(self, names: Sequence[str], among: int = 0) -> Mapping[str, int]:
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

    def changed(self) -> Mapping[str, float]:
        """Return the time of each file's last change; see `posix.changed`."""
        return posix.changed(self.url)

    def unfinished(self) -> Mapping[str, float]:
        """Return nothing: a file exists from its first byte on."""
        return {}

    def is_link(self, name: str) -> bool:
        """Return whether a name is that of a symbolic link; `delete` removes the link alone."""
        return os.path.islink(self._at(name))

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

    def holds(self, name: str) -> bool:
        """Return whether a file exists."""
        is_file = False
        with posix.unless_gone("look for", self._at(name)), links.named_link(self.url):
            status = posix.again(lambda: os.stat(self._at(name)))
            is_file = stat.S_ISREG(status.st_mode)
        return is_file

    def _at(self, name: str) -> str:
        return os.path.join(self.url, name)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        path = self._at(name)
        with posix.errors("read", path, (FileNotFoundError,)), posix.stale_is_gone(path):
            yield

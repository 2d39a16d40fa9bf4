"""Files that a reader keeps open, so that an overwrite cannot take them away."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator

from ckptstore.storage import posix


class HeldFiles:
    """Some open files, by path. Safe to use from many threads.

    Args:
        most: the number of files that stay open.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[str, int] = {}
        self._stale: list[int] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """Open a file for the block; up to a limit, files stay open after it.

        A file whose handle is stale (ESTALE) is opened anew the next time.
        """
        with self._lock:
            fd = self._held.get(path)
            if fd is None:
                fd = os.open(path, posix.READ)
                if len(self._held) < self._most:
                    self._held[path] = fd
            held = self._held.get(path) == fd
        try:
            yield fd
        except OSError as error:
            with self._lock:
                if error.errno == errno.ESTALE and self._held.get(path) == fd:
                    self._stale.append(self._held.pop(path))  # another thread may be using it
            raise
        finally:
            if not held:
                posix.close(fd)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            fds = [*self._held.values(), *self._stale]
            self._held, self._stale = {}, []
        for fd in fds:
            posix.close(fd)

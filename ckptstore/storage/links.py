"""Symbolic links of a disk that lead nowhere, or that nothing may be written through."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from ckptstore.errors import Reason, StorageError
from ckptstore.storage import directories, posix


@contextlib.contextmanager
def named_link(path: str) -> Iterator[None]:
    """Raise StorageError for a symbolic link to nothing, which no commit can replace."""
    try:
        yield
    except FileNotFoundError:
        if directories.is_dangling(path):
            raise directories.obstacle(path, path) from None
        raise


def refuse_link(path: str) -> None:
    """Raise StorageError, reason ``linked-step``, for a symbolic link."""
    with contextlib.suppress(OSError):  # not a link
        raise StorageError(
            f"{path}: a symbolic link to {os.readlink(path)}, and nothing is written or removed "
            "through it; remove the link (Manager.delete of this step leaves its target alone), "
            "then try again",
            reason=Reason.LINKED_STEP,
        )


def may_be_directory(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a directory, leads to one, or cannot be looked at."""
    try:
        return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True  # such as a link to itself


def directory_exists(path: str) -> bool:
    """Return whether a directory exists, by listing it. One that you may not list exists.

    Raises:
        StorageError: reason ``not-a-directory`` or ``dangling-link``; it cannot be listed.
    """
    with posix.errors("list", path), named_link(path):
        try:
            with os.scandir(path) as entries:
                next(entries, None)
        except NotADirectoryError:
            raise directories.obstacle(path, path) from None
        except PermissionError:
            return True  # or it is below a directory that hides it
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            if os.path.islink(path):
                raise
            return False
    return True

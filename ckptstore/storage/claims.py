"""How a complete file gets a name that others may want too, on a disk.

A hard link and a rename that replaces nothing give it in one step. Where a file system has neither,
the caller may vouch that nobody else writes there (`assume_atomic`). Then the file is renamed once
the name was seen to be free, and read back.
"""

from __future__ import annotations

import errno
import os

from ckptstore.errors import OutcomeUnknownError
from ckptstore.storage import mounts, posix
from ckptstore.storage.mounts import Mount


def create(temporary: str, target: str, mount: Mount) -> None:
    """Rename a file to a name that nobody has; the old name may stay.

    Args:
        temporary: the path of the file.
        target: the path with the new name.
        mount: the abilities of the file system, which suffice, or the caller vouches for the rest.

    Raises:
        OSError: FileExistsError if there is a file of that name; any other error.
    """
    try:
        if not mount.link:
            os.link(temporary, target)
        elif not mount.rename:
            posix.rename_no_replace(temporary, target)
        else:
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
            os.replace(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        mounts.forget(os.path.dirname(target))
        raise


def read_back(target: str, data: bytes) -> None:
    """Check that a file, which was renamed without a lock, is the one that its name leads to.

    Args:
        target: its path.
        data: its bytes.

    Raises:
        FileExistsError: another writer has replaced it.
        OutcomeUnknownError: nothing can be read there.
    """
    try:
        with posix.opened(target, posix.READ) as fd:
            posix.size(fd)
            found = posix.read(fd, len(data) + 1)
    except OSError as error:
        raise OutcomeUnknownError(
            f"{target} was renamed and then could not be read back ({error.strerror}); nothing was "
            "deleted; check the mount, then load the checkpoint to see which save it holds"
        ) from error
    if found != data:
        raise FileExistsError(errno.EEXIST, "another save replaced this one", target)

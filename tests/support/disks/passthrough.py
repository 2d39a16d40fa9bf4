"""A FUSE file system that passes everything on to a directory, but for chosen answers.

Run as a program: `passthrough.py REAL MOUNTED ANSWERS`. The file ANSWERS is JSON, and is read at
each call, so a test may change it meanwhile: `{"link": "EIO", "rename MANIFEST": "EACCES"}` names
the call, a pattern of the name that it is about (any, if it is left out), and the error.

`renameat2` is a rename with flags. Linux answers EINVAL where a FUSE file system does not know it,
as most do, so that is the answer of this one unless ANSWERS says `{"renameat2": null}`.
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["FUSE_LIBRARY_NAME"] = "fuse3"  # the older library does not pass the flags of a rename

import mfusepy

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100


class Disk(mfusepy.Operations):
    """The file system; `fh` are descriptors of the files below."""

    use_ns = True

    def __init__(self, real: str, answers: str) -> None:
        self.real = real
        self.answers = Path(answers)

    def at(self, path: str, call: str = "") -> str:
        """Return the path below, or raise the answer that was chosen for the call."""
        chosen: dict[str, Any] = {"renameat2": "EINVAL", **json.loads(self.answers.read_text())}
        for rule, answer in chosen.items():
            name, _, pattern = rule.partition(" ")
            if name == call and answer and fnmatch.fnmatch(os.path.basename(path), pattern or "*"):
                raise OSError(getattr(errno, answer), os.strerror(getattr(errno, answer)))
        return self.real + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = os.lstat(self.at(path)) if fh is None else os.fstat(fh)
        out = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        return out | {f"st_{t}time": out[f"st_{t}time_ns"] for t in "amc"}

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        yield from (".", "..", *os.listdir(self.at(path, "readdir")))

    def readlink(self, path: str) -> str:
        return os.readlink(self.at(path))

    def create(self, path: str, mode: int, flags: int = os.O_RDWR) -> int:
        return os.open(self.at(path, "create"), flags | os.O_CREAT, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self.at(path, "open"), flags & ~os.O_NOFOLLOW)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self.at(path, "read")
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.at(path, "write")
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self.at(path) if fh is None else fh, length)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self.at(path, "fsync")
        os.fsync(fh)

    def opendir(self, path: str) -> int:
        return os.open(self.at(path, "opendir"), os.O_RDONLY | os.O_DIRECTORY)

    def releasedir(self, path: str, fh: int) -> None:
        os.close(fh)

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        self.at(path, "fsyncdir")
        os.fsync(fh)

    def link(self, target: str, source: str) -> None:
        os.link(self.real + source, self.at(target, "link"))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        below = self.at(new, "renameat2" if flags else "rename")
        names = os.fsencode(self.real + old), os.fsencode(below)
        if _LIBC.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags):
            raise OSError(ctypes.get_errno(), "renameat2")

    def unlink(self, path: str) -> None:
        os.unlink(self.at(path, "unlink"))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path, "mkdir"), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at(path, "rmdir"))

    def symlink(self, target: str, source: str) -> None:
        os.symlink(source, self.at(target, "symlink"))

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self.at(path, "statfs"))
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_")}


class Fuse(mfusepy.FUSE):
    """Passes the flags of a rename on, which the library drops."""

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        self.operations.rename(os.fsdecode(old), os.fsdecode(new), flags)
        return 0


if __name__ == "__main__":
    real, mounted, answers = map(os.path.abspath, sys.argv[1:])
    Fuse(Disk(real, answers), mounted, foreground=True, fsname="passthrough")

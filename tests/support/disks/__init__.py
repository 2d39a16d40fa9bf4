"""Mounts of a directory, as a user has them: network disks, clouds and sticks behind FUSE.

`mounted(kind, tmp_path)` mounts one, and `Mounted.again()` mounts the same backing elsewhere, as
another machine would. A machine without FUSE or one of the tools fails the tests that need them;
`make test-ci` installs the tools.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("bindfs", "sshfs", "mergerfs", "rclone", "fusefat", "exfat", "passthrough")
LINKLESS = ("rclone", "fusefat", "exfat", "passthrough")
"""Those with neither hard links nor a rename that replaces nothing."""

_HINT = "; run `make test-ci`, which installs the tools and needs /dev/fuse"
_ROOT = ["sudo", "-n"] if os.geteuid() else []
_IMAGE_NBYTES = 64 << 20
_SFTP = "/usr/lib/openssh:/usr/libexec/openssh"


@dataclass
class Mounted:
    """A mount.

    Attributes:
        kind: one of `KINDS`.
        path: the place at which it is mounted.
        directory: a place for what belongs to it.
        answers: the file of the errors that the pass-through answers.
    """

    kind: str
    path: Path
    directory: Path
    answers: Path
    _last: list[Callable[[], None]] = field(default_factory=list)

    def answer(self, **answers: str | None) -> None:
        """Choose the answers of the pass-through; `rename_MANIFEST` is about that name."""
        chosen = {name.replace("_", " ", 1): answer for name, answer in answers.items()}
        new = self.answers.with_suffix(".new")
        new.write_text(json.dumps(chosen))
        new.replace(self.answers)

    def again(self) -> Mounted:
        """Mount the same backing a second time; unmount an image and a cache first."""
        if self.kind in ("fusefat", "exfat", "rclone"):
            self.unmount()
        path = self.directory / f"again-{time.monotonic_ns()}"
        path.mkdir()
        other = Mounted(self.kind, path, self.directory, self.answers, self._last)
        other._mount()
        return other

    def unmount(self) -> None:
        """Unmount it, and wait until everything is written."""
        if not os.path.ismount(self.path):
            return
        for _ in range(600 if self.kind == "rclone" else 0):  # its uploads go on in the background
            if not _waits(self.directory / "cache"):
                break
            time.sleep(0.05)
        plain, lazily = ["umount", self.path], ["umount", "-l", self.path]
        if self.kind == "exfat":
            plain, lazily = [*_ROOT, *plain], [*_ROOT, *lazily]
        elif _ROOT:
            plain, lazily = (["fusermount3", flags, self.path] for flags in ("-u", "-uz"))
        if subprocess.run(plain, capture_output=True, timeout=60).returncode:
            subprocess.run(lazily, check=True, timeout=60)
        for _ in range(600):  # the program writes its last blocks now, or uploads its last files
            if self.kind not in ("fusefat", "rclone") or not _programs(self.path):
                return
            time.sleep(0.05)
        raise AssertionError(f"the program of {self.kind} does not end")

    def _mount(self) -> None:
        real = self.directory / "real"
        real.mkdir(exist_ok=True)
        background = False
        if self.kind == "bindfs":
            command = ["bindfs", real, self.path]
        elif self.kind == "mergerfs":
            (self.directory / "second").mkdir(exist_ok=True)
            command = ["mergerfs", f"{real}:{self.directory / 'second'}", self.path]
        elif self.kind == "sshfs":
            server = shutil.which("sftp-server", path=_SFTP)
            assert server, f"sftp-server is not installed{_HINT}"
            shell = self.directory / "ssh"
            shell.write_text(f"#!/bin/sh\nexec {server}\n")
            shell.chmod(0o700)
            command = ["sshfs", "-o", f"ssh_command={shell}", f"x:{real}", self.path]
        elif self.kind == "rclone":
            own = [
                "--config",
                os.devnull,
                "--cache-dir",
                self.directory / "cache",
            ]
            now = ["--vfs-cache-mode", "writes", "--dir-cache-time", "1s"]
            command = ["rclone", "mount", *own, *now, "--daemon", real, self.path]
        elif self.kind == "passthrough":
            command = [sys.executable, "-m", "tests.support.disks.passthrough"]
            command += [real, self.path, self.answers]
            background = True
        else:
            image = self._image()
            command = ["fusefat", "-o", "rw+,big_writes", image, self.path]
            if self.kind == "exfat":
                loop = _run([*_ROOT, "losetup", "--find", "--show", image]).strip()
                self._last.append(lambda: subprocess.run([*_ROOT, "losetup", "-d", loop]) and None)
                owner = f"uid={os.getuid()},gid={os.getgid()},allow_other"
                command = [*_ROOT, "mount.exfat-fuse", "-o", owner, loop, self.path]
        if background:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            self._last.append(lambda: _end(process))
        else:
            _run(command)
        self._last.append(self.unmount)
        for _ in range(600):
            if os.path.ismount(self.path):
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.kind} does not mount{_HINT}")

    def _image(self) -> Path:
        image = self.directory / "image"
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(_IMAGE_NBYTES)
            _run(["mkfs.vfat" if self.kind == "fusefat" else "mkfs.exfat", image])
        return image


@contextlib.contextmanager
def mounted(kind: str, directory: Path) -> Iterator[Mounted]:
    """Mount a fresh directory or image for the block.

    Args:
        kind: one of `KINDS`.
        directory: a place for everything that belongs to it.
    """
    assert os.path.exists("/dev/fuse"), f"there is no /dev/fuse{_HINT}"
    path = directory / "mounted"
    path.mkdir(parents=True)
    mount = Mounted(kind, path, directory, directory / "answers")
    mount.answer(**({"link": "EIO"} if kind == "passthrough" else {}))
    try:
        mount._mount()
        yield mount
    finally:
        for last in reversed(mount._last):
            last()


def _run(command: list[Any]) -> str:
    program = str(command[0])
    assert shutil.which(program), f"{program} is not installed{_HINT}"
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # a daemon keeps pipes
        parts = [str(part) for part in command]
        done = subprocess.run(parts, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60)
        said, complaint = (file.seek(0) or file.read().decode() for file in (out, err))
    assert not done.returncode, f"{parts}: {complaint}{_HINT}"
    return said


def _end(process: subprocess.Popen[Any]) -> None:
    """Wait for the program of a mount that is gone, and kill it if somebody holds it."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(60)
        raise AssertionError("a file of the mount was left open") from None


def _waits(cache: Path) -> bool:
    """Return whether a file of a cache of rclone is not uploaded yet."""
    for file in cache.glob("vfsMeta/**/*"):
        with contextlib.suppress(OSError):
            if re.search(rb'"Dirty":\s*true', file.read_bytes()):
                return True
    return False


def _programs(path: Path) -> list[str]:
    """Return the processes that were started with a path among their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(path) in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(process.name)
    return found

"""A disk that fails at call n: a stand-in for the `os` module that LocalStorage uses.

Run as a script it is the sweep over kills and interrupts, in a process of its own that has no
threads, so that it may fork: `faults.py SCENARIO ACT DIRECTORY` prints one JSON object.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import ckptstore
from ckptstore import storage
from ckptstore.format import manifest
from ckptstore.saving import incremental, placement, writer
from ckptstore.saving.incremental import Series
from ckptstore.saving.request import SaveRequest
from ckptstore.storage import claims, directories, held_files, local, local_reader, mounts, posix
from ckptstore.storage.mounts import Mount

READS = ("read", "preadv", "fstat", "close", "scandir", "flock")
CHANGES = ("open", "write", "fsync", "fdatasync", "link", "replace", "unlink", "mkdir", "renameat2")

Act = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]


class Faults:
    """Counts the system calls that touch the disk and lets `act` answer call number `at`.

    `log` is the list of (call, file name) of all calls so far, `paths` what the open files are.
    """

    def __init__(self, at: int = -1, act: Act | None = None) -> None:
        self.at = at
        self.act = act
        self.log: list[tuple[str, str]] = []
        self.paths: dict[int, str] = {}
        self._lock = threading.Lock()

    flock = staticmethod(fcntl.flock)

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.wrap(name, real) if name in READS + CHANGES else real

    def wrap(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, dir_fd: int | None = None) -> Any:
            real = plain
            if dir_fd is not None:
                args = (os.path.join(self.paths[dir_fd], args[0]), *args[1:])
                real = lambda path, *rest: plain(os.path.basename(path), *rest, dir_fd=dir_fd)  # noqa: E731
            with self._lock:
                number = len(self.log)
                target = args[1] if name in ("link", "replace", "renameat2") else args[0]
                path = self.paths.get(target, "?") if isinstance(target, int) else str(target)
                self.log.append((name, os.path.basename(path)))
            if number == self.at and self.act is not None:
                return self.act(name, real, args)
            result = real(*args)
            if name == "open":
                with self._lock:
                    self.paths[result] = path
            self.happened(name, args, result)
            return result

        return call

    def happened(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Called after each call that succeeded."""


@contextlib.contextmanager
def faulty(faults: Faults, *, links: bool = True, known: bool = True) -> Iterator[Faults]:
    """Put `faults` between LocalStorage and the disk.

    With `links=False` it is a disk without hard links. With `known=False` the process has not
    tried the disk yet.
    """

    def link(*args: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    class Flock:
        LOCK_EX, LOCK_NB, LOCK_UN = fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN
        flock = staticmethod(faults.wrap("flock", faults.flock))

    if not links:
        faults.link = faults.wrap("link", link)
    renameat2 = faults.wrap("renameat2", posix.rename_no_replace)
    mount = Mount(link="" if links else os.strerror(errno.EPERM))
    with (
        mock.patch.multiple(local, os=faults, fcntl=Flock),
        mock.patch.multiple(mounts, os=faults, fcntl=Flock, _known=Known(mount) if known else {}),
        mock.patch.multiple(
            posix, os=faults, rename_no_replace=renameat2, size=faults.wrap("fstat", posix.size)
        ),
        mock.patch.object(claims, "os", faults),
        mock.patch.object(directories, "os", faults),
        mock.patch.object(held_files, "os", faults),
        mock.patch.object(local_reader, "os", faults),
    ):
        yield faults


class Known(dict[Any, Mount]):
    """All file systems are known, and have the same abilities."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount

    def get(self, *_: Any) -> Mount:
        return self.mount


def fail(number: int) -> Act:
    """The call does nothing and says so."""

    def act(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        raise OSError(number, os.strerror(number))

    return act


def half(number: int) -> Act:
    """A write stops half way; other calls fail."""

    def act(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        _write_half(name, real, args)
        raise OSError(number, os.strerror(number))

    return act


def lost(number: int) -> Act:
    """The call happens and its answer is lost."""

    def act(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        result = real(*args)
        if name == "open":
            os.close(result)
        if name == "scandir":
            result.close()
        raise OSError(number, os.strerror(number))

    return act


def kill_before(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The process dies before the call; of a write, half happens."""
    _write_half(name, real, args)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The process dies after the call."""
    try:
        real(*args)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def interrupt(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The user presses Ctrl-C: the main thread gets a KeyboardInterrupt here, or soon."""
    os.kill(os.getpid(), signal.SIGINT)
    return real(*args)


def _write_half(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if name == "write":
        real(args[0], memoryview(args[1])[: len(args[1]) // 2])


frozen: list[Any] = []
"""Leaves that all trees have in common."""


def tree(who: str) -> dict[str, Any]:
    """A state that tells its saves apart in every leaf but those that are frozen."""
    seed = sum(who.encode())
    leaves = [np.full(800, seed + i, np.float32) for i in range(5)]
    return {"who": who, "leaves": leaves + frozen, "count": np.int64(seed)}


OLD, NEW, NEXT = "old", "new", "next"


def which(url: Path) -> str | None:
    """Return who saved the checkpoint, which must be sound and whole; None where there is none."""
    try:
        loaded = ckptstore.load(url)
    except ckptstore.NotCommittedError:
        assert not (url / "MANIFEST").exists()
        return None
    who = loaded["who"]
    want = tree(who)
    assert list(loaded) == list(want) and loaded["count"] == want["count"]
    for have, expected in zip(loaded["leaves"], want["leaves"], strict=True):
        assert have.dtype == expected.dtype and np.array_equal(have, expected)
    assert ckptstore.verify(url) == []
    return who


class Scenario:
    """One save, on a fresh copy of the same directory each time: "create" or "overwrite".

    "-spread" has three data files and an index file; "-nolinks" a disk without hard links;
    "-deep" directories to be made; "-shared" takes over a file of the checkpoint that is there;
    "-copied" is no save but a copy of a checkpoint beside it.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.kind, *options = name.split("-")
        self.links = "nolinks" not in options
        self.directory = directory
        self.before = OLD if self.kind == "overwrite" else None
        self.inner = "run/step" if "deep" in options else "ckpt"
        self._fresh = 0
        if "spread" in options:
            placement.FILE_NBYTES = 5000
            manifest.MANIFEST_MAX_NBYTES = 720
        self.copied = "copied" in options
        self.source = directory / "source"
        if self.copied:
            ckptstore.save(self.source, tree(NEW))
        self.shared = "shared" in options
        if self.shared:
            placement.FILE_NBYTES = 1
            globals()["frozen"] = [np.zeros(1 << 20, np.uint8)]
        self.base = directory / "base"
        self.base.mkdir()
        series = Series(10, lambda: None)
        for again in (False, True, True) if self.before else ():  # set apart, then shared
            request = SaveRequest.of(overwrite=again)
            writer.save_now(self.base / self.inner, tree(OLD), request, series)

    def fresh(self) -> Path:
        """Return a new copy of the directory's checkpoint."""
        shutil.rmtree(self.directory / f"at-{self._fresh}", ignore_errors=True)
        self._fresh += 1
        copy = self.directory / f"at-{self._fresh}"
        shutil.copytree(self.base, copy)
        return copy / self.inner

    def save(self, url: Path, faults: Faults) -> None:
        """Save NEW over what is there, on a disk with faults."""
        if self.copied:
            with faulty(faults, links=self.links):
                self.copy(url)
            return
        series = Series(10, lambda: base) if self.shared else None
        with storage.open(url.parent) as run:
            base = incremental.read(run, url.name) if self.shared else None
        with faulty(faults, links=self.links):
            request = SaveRequest.of(overwrite=self.kind == "overwrite")
            writer.save_now(url, tree(NEW), request, series)

    def calls(self) -> list[tuple[str, str]]:
        """Return the log of one save without a fault."""
        faults = Faults()
        url = self.fresh()
        self.save(url, faults)
        assert which(url) == NEW
        is_linked = self.shared or (self.copied and self.links)
        assert is_linked == any(name == "fdatasync" for name, _ in faults.log)
        return faults.log

    def copy(self, url: Path) -> None:
        """Copy the checkpoint beside it there."""
        ckptstore.copy_checkpoint(self.source, url, overwrite=self.kind == "overwrite")

    def check_next(self, url: Path) -> None:
        """The next save succeeds, whatever is left of this one; so does the same copy before it."""
        if self.copied:
            self.copy(url)
            assert which(url) == which(self.source) == NEW
        ckptstore.save(url, tree(NEXT), overwrite=True)
        assert which(url) == NEXT


def main(name: str, act_name: str, directory: str) -> None:
    """Fork a child that dies or is interrupted at call n, for every n, and check what is left."""
    scenario = Scenario(name, Path(directory))
    act = {"kill-before": kill_before, "kill-after": kill_after, "interrupt": interrupt}[act_name]
    log, outcomes = scenario.calls(), Counter[str]()
    stopped = 0  # by an interrupt before the commit, which leaves no file
    commit = next(at for at, (_, path) in enumerate(log) if path.endswith(".tmp"))
    for at in range(len(log)):
        url = scenario.fresh()
        before = set(url.rglob("*"))
        child = os.fork()
        if not child:
            code = 1
            try:
                scenario.save(url, Faults(at, act))
                code = 0
            except KeyboardInterrupt:
                code = 2
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == -signal.SIGKILL if act is not interrupt else code in (0, 2), (at, code)
        found = which(url)
        assert found in (scenario.before, NEW), (at, found)
        assert code or found == NEW, f"call {at}: a save that returned is not there"
        if act is interrupt and at < commit and code:
            left = {path for path in set(url.rglob("*")) - before if path.is_file()}
            assert found == scenario.before, (at, log[at])
            assert scenario.copied or not left, (at, log[at], left)  # a copy goes on with them
            stopped += 1
        outcomes[str(found)] += 1
        scenario.check_next(url)
    print(json.dumps({"points": len(log), "outcomes": outcomes, "stopped": stopped}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Network disks and FUSE mounts, which answer sizes from a cache and lose files that were open."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.checkpoint import snapshot
from ckptstore.storage import posix
from ckptstore.storage.local import LocalStorage
from tests.support import disks
from tests.support.faults import Faults, fail, faulty

CALLS: dict[str, Callable[[Path], Any]] = {
    "load": lambda run: ckptstore.load(run / f"step-{2:012}")["number"],
    "select": lambda run: ckptstore.load(run / f"step-{2:012}", select="$.w")[0],
    "inspect": lambda run: ckptstore.inspect(run / f"step-{2:012}").leaves[0].shape,
    "verify": lambda run: ckptstore.verify(run / f"step-{2:012}"),
    "steps": lambda run: ckptstore.Manager(run).steps(),
    "latest": lambda run: ckptstore.Manager(run).latest(),
    "newest": lambda run: ckptstore.Manager(run).load()["number"],
    "best": lambda run: ckptstore.Manager(run).best("loss", "min"),
    "gc": lambda run: ckptstore.Manager(run).gc(grace=3600, dry_run=True),
}


def tree(number: int) -> dict[str, Any]:
    """A state whose manifest and data have another size for each number."""
    return {"number": number, "w": np.full(500 + 37 * number, number), "names": ["a"] * number}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of the steps 1 and 2."""
    for step in (1, 2):
        url = tmp_path / "run" / f"step-{step:012}"
        ckptstore.save(url, tree(step), step=step, metrics={"loss": 1.0 / step})
    return tmp_path / "run"


# Sizes from a cache.


@pytest.fixture(params=["bindfs", "sshfs"])
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Mount a directory elsewhere; gives both places."""
    with disks.mounted(request.param, tmp_path / "disk") as mounted:
        yield tmp_path / "disk" / "real", mounted.path


@pytest.mark.ci
def test_a_load_sees_each_overwrite_through_a_mount_that_caches_sizes(
    mount: tuple[Path, Path],
) -> None:
    real, mounted = (place / "checkpoint" for place in mount)
    for number in (3, 9, 1, 12, 2, 30, 4):
        ckptstore.save(real, tree(number), overwrite=True)
        loaded = ckptstore.load(mounted)
        assert loaded["number"] == number and (loaded["w"] == number).all()
        assert ckptstore.inspect(mounted).nbytes == ckptstore.inspect(real).nbytes
        assert ckptstore.verify(mounted) == []


class CachedSizes(Faults):
    """A disk that ends each read at the size that it knew at first, until it is asked anew."""

    def __init__(self, known: int) -> None:
        super().__init__()
        self.known = known
        self.fresh: set[int] = set()
        self.left: dict[int, int] = {}

    def open(self, path: str, *arguments: Any) -> int:
        fd = os.open(path, *arguments)
        self.fresh.discard(fd)
        self.left[fd] = self.known if path.endswith("MANIFEST") else 1 << 40
        return fd

    def read(self, fd: int, nbytes: int) -> bytes:
        data = os.read(fd, nbytes if fd in self.fresh else min(nbytes, self.left[fd]))
        self.left[fd] -= len(data)
        return data

    def size(self, fd: int) -> int:
        self.fresh.add(fd)
        return os.fstat(fd).st_size


@pytest.mark.parametrize("call", ["load", "inspect", "verify", "newest", "gc"])
def test_a_manifest_is_read_whole_where_an_old_size_of_it_is_known(
    call: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = CALLS[call](run)
    disk = CachedSizes(known=100)
    monkeypatch.setattr(posix, "size", disk.size)
    with faulty(disk):
        assert CALLS[call](run) == expected
    assert disk.fresh


def test_the_size_of_an_open_file_is_its_size(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for nbytes in (0, 1, 70_000):
        file.write_bytes(bytes(nbytes))
        with posix.opened(str(file), posix.READ) as fd:
            assert posix.size(fd) == nbytes
    with pytest.raises(OSError):
        posix.size(-1)


def test_without_the_system_call_the_size_comes_from_fstat(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "_statx", None)
    assert ckptstore.verify(run / f"step-{1:012}") == []
    monkeypatch.setattr(posix, "_statx", lambda *_: -1)
    assert ckptstore.verify(run / f"step-{1:012}") == []


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("lie", [{}, None], ids=["missing", "another size"])
@pytest.mark.parametrize("call", ["load", "inspect", "verify"])
def test_sizes_that_are_wrong_for_a_while_are_looked_at_again(
    call: str, lie: dict[str, int] | None, times: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, real, left = CALLS[call](run), LocalStorage.sizes, [times]

    def sizes(self: LocalStorage, names: Any, *among: int) -> Any:
        found = real(self, names)
        if not left[0]:
            return found
        left[0] -= 1
        return lie if lie is not None else {name: size - 1 for name, size in found.items()}

    monkeypatch.setattr(LocalStorage, "sizes", sizes)
    assert CALLS[call](run) == expected
    assert not left[0]


def test_sizes_that_stay_wrong_are_an_error_after_a_few_looks(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    monkeypatch.setattr(LocalStorage, "sizes", lambda self, names, *_: looks.append(names) or {})
    with pytest.raises(ckptstore.CorruptError, match="is missing"):
        CALLS["load"](run)
    assert len(looks) == snapshot._LOOKS


# Stale handles.


class Stale(Faults):
    """A disk whose call number `at` meets a stale handle; calls that only look count as well."""

    def __getattr__(self, name: str) -> Any:
        if name in ("stat", "lstat"):
            return self.wrap(name, getattr(os, name))
        return super().__getattr__(name)


@pytest.mark.parametrize("call", CALLS)
def test_a_stale_handle_at_any_call_of_a_reader_is_no_error(call: str, run: Path) -> None:
    expected, count = CALLS[call](run), Stale()
    with faulty(count):
        assert CALLS[call](run) == expected
    calls = [number for number, (name, _) in enumerate(count.log) if name != "close"]
    assert len(calls) >= 2
    for number in calls:
        disk = Stale(number, fail(errno.ESTALE))
        with faulty(disk):
            assert CALLS[call](run) == expected, disk.log[number]


def test_a_handle_that_stays_stale_is_an_error_that_is_none_of_the_checkpoint(run: Path) -> None:
    class Always(Faults):
        def read(self, *_: Any) -> bytes:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with faulty(Always()), pytest.raises(ckptstore.CheckpointError) as caught:
        CALLS["load"](run)
    assert not isinstance(caught.value, ckptstore.CorruptError | ckptstore.NotCommittedError)
    assert "stale" in str(caught.value).lower() and "try again" in str(caught.value)


def test_a_file_that_was_open_when_its_handle_became_stale_is_opened_anew(run: Path) -> None:
    with LocalStorage(str(run / f"step-{1:012}")) as storage:
        [name] = [name for name in storage.list() if name.startswith("data-")]
        storage.sizes([name])
        disk = Faults(0, fail(errno.ESTALE))
        with faulty(disk), pytest.raises(FileNotFoundError):
            storage.get(name, 0, bytearray(4))
        storage.get(name, 0, bytearray(4))

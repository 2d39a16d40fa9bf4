"""The waits of the processes of one save. Each ends: with what it waits for, an error, or in time.

Process 0 lists the files of the attempt. Any new or larger file is a sign of life of the process
that wrote it. The others ask for two files by name, and look for signs of life before they give up.
Source: docs/commit.md.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from ckptstore.checkpoint import Committed, committed
from ckptstore.errors import CheckpointError, Reason, listed
from ckptstore.format import NOTE_NBYTES, Failure, decode_failures, names
from ckptstore.format.names import Note
from ckptstore.storage import Storage

T = TypeVar("T")

_LEADER_PAUSES = (0.05, 2.0)
_MEMBER_PAUSES = (0.05, 5.0)
_GROWTH = 1.5
_NUMBERS_SHOWN = 20
VISIBLE_SECONDS = 90.0
"""The time after which a file that another host wrote is visible on a mount that caches names."""


class Failed(Exception):
    """Other processes failed.

    Attributes:
        failures: their notes.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(failures)
        self.failures = failures


def for_notes(
    storage: Storage, attempt: str, kind: Note, count: int, timeout: float
) -> Mapping[str, int]:
    """Wait until all processes but process 0 have left a note; return all files and their sizes.

    Args:
        storage: the place.
        attempt: the attempt.
        kind: the kind of note.
        count: the number of processes.
        timeout: the longest time without a sign of life of a process, in seconds.

    Raises:
        Failed: some process left a note that it failed, or gave no sign of life in time.
    """
    wanted = {number: names.note(kind, attempt, number) for number in range(1, count)}
    known: dict[str, int] = {}
    alive = dict.fromkeys(wanted, time.monotonic())
    for _ in _pauses(_LEADER_PAUSES):
        sizes = storage.list()
        raise_failures(storage, attempt, sizes)
        missing = {number for number, name in wanted.items() if name not in sizes}
        if not missing:
            return sizes
        now = time.monotonic()
        for name, nbytes in sizes.items():
            if names.attempt_of(name) == attempt and known.get(name) != nbytes:
                known[name] = nbytes
                number = names.process_of(name)
                if number in alive:
                    alive[number] = now
        if lost := sorted(n for n in missing if now - alive[n] > timeout):
            raise _lost(storage, attempt, lost, sizes, timeout)
    raise AssertionError("the pauses have no end")


def raise_failures(storage: Storage, attempt: str, sizes: Mapping[str, int]) -> None:
    """Raise Failed if a process has left a note that it failed.

    Args:
        storage: the place.
        attempt: the attempt.
        sizes: all files there.
    """
    found = [
        name for name in sizes if names.attempt_of(name) == attempt and name.startswith("FAIL-")
    ]
    if found:
        raise Failed(
            [failure for name in sorted(found) for failure in read_failures(storage, name)]
        )


def read_failures(storage: Storage, name: str) -> list[Failure]:
    """Return the failures of a note, also of one that cannot be read or was just removed."""
    where = f"{storage.url}: {name}"
    try:
        return decode_failures(storage.read(name, NOTE_NBYTES), where)
    except (CheckpointError, FileNotFoundError) as error:
        return [Failure.of(names.process_of(name) or 0, "?", error)]


def for_opening(storage: Storage, attempt: str, timeout: float) -> bytes | None:
    """Wait until the opening note of process 0 is visible.

    It is None if it is not in time, or process 0 has given up.

    Args:
        storage: the place.
        attempt: the attempt.
        timeout: the longest time to wait, in seconds.
    """
    until = time.monotonic() + timeout
    for _ in _pauses(_MEMBER_PAUSES):
        try:
            return storage.read(names.note("JOIN", attempt, 0), NOTE_NBYTES)
        except FileNotFoundError:
            if is_aborted(storage, attempt) or time.monotonic() > until:
                return None
    raise AssertionError("the pauses have no end")


def is_missed(storage: Storage, attempt: str, process: int) -> bool:
    """Return whether process 0 gave an attempt up because this process had no part in it."""
    if not is_aborted(storage, attempt):
        return False
    failures = read_failures(storage, names.aborted(attempt))
    return any(f.process == process and f.reason == Reason.LOST_PROCESS for f in failures)


def is_aborted(storage: Storage, attempt: str) -> bool:
    """Return whether process 0 has given an attempt up."""
    return storage.holds(names.aborted(attempt))


def for_start(storage: Storage, attempt: str, timeout: float) -> bool:
    """Wait until process 0 says that all processes may write; False if it has committed already.

    Args:
        storage: the place.
        attempt: the attempt.
        timeout: half of the longest time without a sign of life of any process, in seconds.

    Raises:
        Failed: process 0 gave the attempt up, or gave no sign of life.
    """

    def has_started() -> bool | None:
        if verdict(storage, attempt) is not None:
            return False
        return storage.holds(names.started(attempt)) or None

    if (started := _look_until(has_started, storage, attempt, timeout)) is None:
        text = (
            f"{storage.url}: process 0 gave no sign of life for {2 * timeout:g} s; see whether it "
            "was killed, and save again once all processes run"
        )
        raise Failed([Failure(0, "?", "ProcessError", Reason.LOST_PROCESS, text)])
    return started


def for_verdict(storage: Storage, attempt: str, timeout: float) -> Committed | None:
    """Wait until an attempt is committed or given up; None if neither is known in time.

    Args:
        storage: the place.
        attempt: the attempt.
        timeout: half of the longest time without a sign of life of any process, in seconds.

    Raises:
        Failed: process 0 gave the attempt up.
    """
    return _look_until(lambda: verdict(storage, attempt), storage, attempt, timeout)


def verdict(storage: Storage, attempt: str) -> Committed | None:
    """Return the manifest of an attempt if it is committed, None if nothing is known yet.

    Raises:
        Failed: process 0 gave the attempt up.
    """
    holder = committed(storage)
    if holder is not None and holder.attempt == attempt:
        return holder
    if is_aborted(storage, attempt):
        raise Failed(read_failures(storage, names.aborted(attempt)))
    return None


def _look_until(
    look: Callable[[], T | None], storage: Storage, attempt: str, timeout: float
) -> T | None:
    """Look until there is something; None if no file of the attempt changes for twice `timeout`."""
    known: Mapping[str, int] = {}
    alive = time.monotonic()
    for _ in _pauses(_MEMBER_PAUSES):
        if (found := look()) is not None:
            return found
        now = time.monotonic()
        if now - alive > timeout:
            sizes = storage.list()
            mine = {n: size for n, size in sizes.items() if names.attempt_of(n) == attempt}
            if mine == known:
                return None
            known, alive = mine, now
    raise AssertionError("the pauses have no end")


def _lost(
    storage: Storage, attempt: str, lost: Sequence[int], sizes: Mapping[str, int], timeout: float
) -> Failed:
    """Return the failures of processes that gave no sign of life."""
    numbers = ", ".join(listed(map(str, lost), _NUMBERS_SHOWN))
    which = f"process {numbers}" if len(lost) == 1 else f"processes {numbers}"
    if any(names.note("JOIN", attempt, number) in sizes for number in lost):
        text = (
            f"{which} gave no sign of life for {timeout:g} s; see whether it was killed, and save "
            "again once all processes run"
        )
    else:
        text = (
            f"{which} did not join this save within {timeout:g} s; call save in every process, "
            "with the same path, in a directory that all of them share; if a process is busy for "
            f"longer, wait longer: processes=ckptstore.processes(timeout={2 * timeout:g})"
        )
    text = f"{storage.url}: {text}"
    return Failed([Failure(n, "?", "ProcessError", Reason.LOST_PROCESS, text) for n in lost])


def _pauses(range_: tuple[float, float]) -> Iterator[None]:
    """Yield at once, and then after growing pauses, without an end."""
    pause, most = range_
    while True:
        yield
        time.sleep(pause * random.uniform(0.75, 1.0))  # so that not all ask at once
        pause = min(pause * _GROWTH, most)

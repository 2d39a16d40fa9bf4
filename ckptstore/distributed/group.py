"""The processes that save and load together: their number, and the word of process 0."""

from __future__ import annotations

import math
import operator
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore import signals
from ckptstore.distributed import engines, slurm
from ckptstore.distributed.slurm import JobStep
from ckptstore.distributed.word import Missing, Words
from ckptstore.errors import (
    CheckpointError,
    ProcessError,
    Reason,
    StructureError,
    bad_argument,
)
from ckptstore.texts import shown

_TIMEOUT = 300.0
LIKE_MPI = "as in ckptstore.Processes(comm.rank, comm.size, comm.bcast)"
_BROADCAST = (
    "pass a function that returns in each process the bytes of process 0, as comm.bcast does"
)
_EVERYWHERE = "make this call in every process"
_ALIVE = "see in the logs whether all processes are alive"


def _never(data: bytes) -> bool:
    return False


@dataclass(frozen=True)
class Processes:
    """The processes that save and load one checkpoint together, as this one sees them.

    `ckptstore.processes()` makes it for `jax.distributed` and `torch.distributed`. For another
    engine you make it yourself. For mpi4py: ``Processes(comm.rank, comm.size, comm.bcast)``.

    Attributes:
        index: the number of this process, from 0.
        count: the number of processes.
        broadcast: a function that all processes call in their main thread, each with bytes, and
            that returns in each the bytes of process 0. One process alone needs none, and the tasks
            that one `srun` of Slurm started need none to save.
        allgather: a function that all processes call, each with bytes, and that returns in each
            the bytes of all, in their order.
        timeout: the longest wait for another process, in seconds.

    Raises:
        StructureError: an argument is none of that, with the reason ``bad-argument``.

    Example:
        >>> import ckptstore
        >>> alone = ckptstore.Processes(0, 1)
        >>> ckptstore.Processes(2, 2, lambda data: data)
        Traceback (most recent call last):
        ...
        ckptstore.errors.StructureError: Processes: index is 2 (int), expected ...
    """

    index: int
    count: int
    broadcast: Callable[[bytes], bytes] | None = None
    allgather: Callable[[bytes], Sequence[bytes]] | None = None
    timeout: float = _TIMEOUT

    def __post_init__(self) -> None:
        where = "Processes"
        count = _integer(self.count)
        if count is None or count < 1:
            raise bad_argument(where, "count", self.count, f"the number of processes, {LIKE_MPI}")
        index = _integer(self.index)
        if index is None or not 0 <= index < count:
            numbers = f"an int from 0 to {count - 1}, since there are {count} processes"
            raise bad_argument(where, "index", self.index, f"{numbers}, {LIKE_MPI}")
        for name in ("broadcast", "allgather"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise bad_argument(where, name, value, f"a function, {LIKE_MPI}")
        if count > 1 and self.broadcast is None:
            expected = f"a function that returns the bytes of process 0, {LIKE_MPI}"
            object.__setattr__(self, "broadcast", slurm.joined(index, count, where, expected))
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "timeout", _seconds(self.timeout, where))

    def __str__(self) -> str:
        return _named(self.index, self.count)

    def say(self, topic: str, data: bytes) -> None:
        """Say a word to all others; process 0 does, in its main thread.

        Args:
            topic: what it is about: the call and the place, such as ``"save s3://b/run"``.
            data: the word.

        Raises:
            ProcessError: the engine refused it, with the reason ``no-word``.
        """
        if isinstance(self.broadcast, _Link):
            self.broadcast.say(topic, data)
        elif self.broadcast is not None and self._called(topic, data) != data:
            text = f"{topic}: broadcast returned other bytes in process 0 than it passed"
            raise StructureError(f"{text}; {_BROADCAST}", reason=Reason.BAD_ARGUMENT)

    def hear(self, topic: str, is_stale: Callable[[bytes], bool] = _never) -> bytes:
        """Return the next word of process 0 about a topic; the others do, in their main thread.

        Args:
            topic: the topic that process 0 names.
            is_stale: tells of a word that an earlier call left behind, in which this process had
                no part. It is passed over.

        Raises:
            ProcessError: no word came within the timeout, with the reason ``no-word``.
        """
        end = time.monotonic() + self.timeout
        while True:
            if isinstance(self.broadcast, _Link):
                word = self.broadcast.hear(topic, end, self.timeout)
            else:
                word = self._called(topic, b"")
            if not is_stale(word):
                return word

    def heard(self, topic: str) -> None:
        """Let go of the words of a topic, each of which all others have heard. Process 0 may.

        A save that succeeded says that all have heard its word. It never raises: without it the
        engine keeps the words until the program ends.
        """
        if isinstance(self.broadcast, _Link):
            self.broadcast.heard(topic)

    def require_word(self, topic: str) -> None:
        """Raise unless process 0 can tell the others something.

        Raises:
            ProcessError: these are tasks of Slurm without a broadcast; reason ``no-word``.
        """
        if isinstance(self.broadcast, JobStep) and self.allgather is None:
            raise self.broadcast.refusal(topic)

    def gather(self, topic: str, data: bytes) -> Sequence[bytes]:
        """Return the bytes of all processes in their order; each passes its own.

        Args:
            topic: the call and the place, for messages.
            data: the bytes of this process.

        Raises:
            ProcessError: there is no allgather, or it failed; reason ``no-word``.
            StructureError: it returned something else; reason ``bad-argument``.
        """
        if self.allgather is None:
            raise ProcessError(
                f"{topic}: {self} has no allgather; pass one: "
                "Processes(comm.rank, comm.size, comm.bcast, comm.allgather)",
                reason=Reason.NO_WORD,
            )
        try:
            rows: Any = self.allgather(data)
        except CheckpointError:
            raise
        except Exception as error:
            raise _lost(f"{topic}: {self} could not gather", error) from error
        good = isinstance(rows, list | tuple) and len(rows) == self.count
        if not good or {type(row) for row in rows} != {bytes} or rows[self.index] != data:
            expected = (
                f"a list of {self.count} bytes, those of each process in their order; pass a "
                "function that returns it, as comm.allgather does"
            )
            raise bad_argument(topic, "the result of allgather", rows, expected)
        return list(rows)

    def _called(self, topic: str, data: bytes) -> bytes:
        assert self.broadcast is not None
        try:
            word: Any = self.broadcast(data)
        except CheckpointError:
            raise
        except Exception as error:
            raise _lost(f"{topic}: {self} could not broadcast", error) from error
        if type(word) is not bytes:
            raise bad_argument(topic, "the result of broadcast", word, f"bytes; {_BROADCAST}")
        return word


def processes(timeout: float = _TIMEOUT) -> Processes:
    """Return the processes that `jax.distributed` or `torch.distributed` connects.

    Where your program has started neither, it is this process alone. No engine is imported, and no
    backend starts.

    Args:
        timeout: the longest wait for another process, in seconds.

    Raises:
        StructureError: the timeout is not a positive number, with the reason ``bad-argument``.

    Example:
        >>> import ckptstore
        >>> ckptstore.processes().count
        1
    """
    timeout = _seconds(timeout, "processes")
    engine = engines.running()
    if engine is None:
        return Processes(0, 1, timeout=timeout)
    if engine.words is None:
        return Processes(engine.index, engine.count, engine.broadcast, timeout=timeout)
    name = engine.name

    def words() -> Words:  # The engine may have ended since, or begun anew.
        found = engines.running()
        if found is None or found.name != name or found.words is None:
            raise ConnectionError(f"{name} does not run any more")
        if (found.index, found.count) != (index, count):
            raise ConnectionError(f"this is process {found.index} of {found.count} now")
        return found.words

    index, count = engine.index, engine.count
    return connected(words, index, count, timeout)


def connected(words: Callable[[], Words], index: int, count: int, timeout: float) -> Processes:
    """Return processes that a store connects.

    Args:
        words: returns the words of this process; it may raise an error if there is no store now.
        index: the number of this process.
        count: the number of processes.
        timeout: the longest wait for another process, in seconds.
    """
    link = _Link(words, index, count, timeout)
    return Processes(index, count, link, link.gather, timeout)


@dataclass(frozen=True, slots=True)
class _Link:
    """The broadcast of an engine: words in its store, and no collective."""

    words: Callable[[], Words]
    index: int
    count: int
    timeout: float

    def __call__(self, data: bytes) -> bytes:
        if self.index:
            return self.hear("broadcast", time.monotonic() + self.timeout, self.timeout)
        self.say("broadcast", data)
        return data

    def __str__(self) -> str:
        return _named(self.index, self.count)

    def say(self, topic: str, data: bytes) -> None:
        try:
            self.words().say(topic, data)
        except Exception as error:
            raise _lost(f"{topic}: {self} could not say a word", error) from error

    def hear(self, topic: str, end: float, timeout: float) -> bytes:
        """Return the next word; it comes before `end`, which is `timeout` after the call."""
        try:
            word = self.words().hear(topic, max(end - time.monotonic(), 0))
        except Exception as error:
            raise _lost(f"{topic}: {self} cannot hear process 0 any more", error) from error
        if word is None:
            raise _silent(f"{topic}: {self} heard nothing of process 0", timeout)
        return word

    def heard(self, topic: str) -> None:
        try:
            self.words().heard(topic)
        except Exception as error:
            signals.pass_on(error)

    def gather(self, data: bytes) -> list[bytes]:
        try:
            return self.words().gather(data, self.index, self.count, self.timeout)
        except Missing as missing:
            numbers = ", ".join(map(str, missing.indices))
            text = f"allgather: {self} heard nothing of process {numbers}"
            raise _silent(text, self.timeout) from None
        except Exception as error:
            raise _lost(f"allgather: {self} cannot hear the others any more", error) from error


def _named(index: int, count: int) -> str:
    return f"process {index} of {count} on host {socket.gethostname()}"


def _silent(text: str, timeout: float) -> ProcessError:
    return ProcessError(
        f"{text} within {timeout:g} s; {_EVERYWHERE}; {_ALIVE}; wait longer for a slow one with "
        f"`ckptstore.processes(timeout={2 * timeout:g})`",
        reason=Reason.NO_WORD,
    )


def _lost(text: str, error: Exception) -> ProcessError:
    """Return the error for a failure of the engine, or raise it if a signal handler did."""
    signals.pass_on(error)
    return ProcessError(
        f"{text}: {type(error).__name__}: {shown(str(error))}; {_ALIVE}", reason=Reason.NO_WORD
    )


def _integer(x: Any) -> int | None:
    if isinstance(x, bool):
        return None
    try:
        return operator.index(x)
    except TypeError:
        return None


def _seconds(x: Any, where: str) -> float:
    if isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and x > 0:
        return float(x)
    raise bad_argument(where, "timeout", x, "a positive number of seconds, as in timeout=300.0")

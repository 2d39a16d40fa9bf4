"""The announcement of a save: process 0 makes an attempt known, and the others learn of it.

An engine or a broadcast carries a word. The tasks of Slurm know the id of the attempt, and look for
the opening note of process 0. Source: docs/commit.md.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ckptstore.checkpoint import committed
from ckptstore.distributed import waiting
from ckptstore.distributed.failures import create_once, failure_of, leave, twice
from ckptstore.distributed.group import Processes
from ckptstore.distributed.slurm import JobStep
from ckptstore.distributed.waiting import Failed
from ckptstore.errors import CheckpointError, CorruptError, ProcessError, Reason, bad_argument
from ckptstore.format import Failure, Word, decode_failures, encode_failures, names
from ckptstore.storage import Storage


class Announcement(Protocol):
    """The announcement of one save. Process 0 calls all but `hear`, the others `hear` alone."""

    def attempt(self) -> str:
        """Return the id of the attempt."""

    def open(self, store: Storage, attempt: str, note: bytes) -> None:
        """Leave the opening note.

        Args:
            store: the place, which is prepared.
            attempt: the attempt.
            note: the note, which holds random bytes.

        Raises:
            ProcessError: the attempt belongs to others; reason ``twice``.
        """

    def tell(self, store: Storage, attempt: str) -> None:
        """Tell the others of the attempt, whose opening note is there."""

    def fail(self, store: Storage, attempt: str, error: BaseException) -> None:
        """Tell the others that the save could not begin."""

    def hear(self, store: Storage) -> tuple[str, bytes]:
        """Return the attempt and the opening note of process 0.

        Raises:
            Failed: process 0 could not begin, or has given up.
            CheckpointError: nothing came in time, or not from this place.
        """


def announcement(group: Processes, topic: str, place: str) -> Announcement:
    """Return the announcement of a save.

    Args:
        group: the processes.
        topic: the save, for an engine and for messages.
        place: the absolute place, as this process names it.
    """
    if isinstance(group.broadcast, JobStep):
        return _ByNote(group, topic, place, group.broadcast)
    return _ByWord(group, topic)


@dataclass(frozen=True)
class _ByWord:
    group: Processes
    topic: str

    def attempt(self) -> str:
        return secrets.token_hex(16)

    def open(self, store: Storage, attempt: str, note: bytes) -> None:
        create_once(store, self.group, names.note("JOIN", attempt, 0), note)

    def tell(self, store: Storage, attempt: str) -> None:
        self.group.say(self.topic, Word(attempt, socket.gethostname(), store.url).encode())

    def fail(self, store: Storage, attempt: str, error: BaseException) -> None:
        word = Word("", socket.gethostname(), store.url, [failure_of(self.group, error)])
        with contextlib.suppress(CheckpointError):
            self.group.say(self.topic, word.encode())

    def hear(self, store: Storage) -> tuple[str, bytes]:
        group = self.group

        def is_stale(data: bytes) -> bool:
            """Return whether process 0 gave a save up because this process did not come."""
            word = self._word(data)
            try:
                return bool(word.attempt) and waiting.is_missed(store, word.attempt, group.index)
            except CheckpointError as error:
                leave(store, group, word.attempt, error)
                raise

        word = self._word(group.hear(self.topic, is_stale))
        if word.failures:
            raise Failed(word.failures)
        seconds = min(group.timeout, waiting.VISIBLE_SECONDS)
        try:
            data = waiting.for_opening(store, word.attempt, seconds)
        except CheckpointError as error:
            leave(store, group, word.attempt, error)
            raise
        if data is None:
            waiting.verdict(store, word.attempt)
            raise ProcessError(
                f"{store.url}: {group} does not see the files that process 0 (host {word.host}) "
                f"writes to {word.url}; pass a path in a directory, or a bucket, that all "
                "processes share",
                reason=Reason.NOT_SHARED,
            )
        return word.attempt, data

    def _word(self, data: bytes) -> Word:
        try:
            return Word.decode(data, self.topic)
        except CorruptError:
            expected = (
                "the bytes that process 0 passed; pass a function that returns these in each "
                "process, as comm.bcast does"
            )
            raise bad_argument(self.topic, "the result of broadcast", data, expected) from None


@dataclass
class _ByNote:
    group: Processes
    topic: str
    place: str
    step: JobStep
    _note: bytes = b""

    def attempt(self) -> str:
        attempt = self.step.attempt(self.place)
        self.step.count(self.place)
        return attempt

    def open(self, store: Storage, attempt: str, note: bytes) -> None:
        self._note, name = note, names.note("JOIN", attempt, 0)
        create_once(store, self.group, name, note)
        # From here on nobody else opens it; but another program may have used it before. Notes of
        # others who join, or fail, may be of this save.
        files = [file for file in store.list() if self._is_of(attempt, file)]
        holder = committed(store)
        if files or (holder is not None and holder.attempt == attempt):
            store.delete(name)
            raise twice(store.url, self.group)

    def tell(self, store: Storage, attempt: str) -> None:
        """The opening note is the word."""

    def fail(self, store: Storage, attempt: str, error: BaseException) -> None:
        """Give the attempt up. Only who has opened it may do so."""
        if isinstance(error, ProcessError) and error.reason == Reason.TWICE:
            return
        with contextlib.suppress(CheckpointError, FileExistsError):
            store.prepare()  # the directory may not be there yet
            failures = encode_failures([failure_of(self.group, error)])
            self.open(store, attempt, self._note or failures)
            store.create(names.aborted(attempt), failures)
            store.delete(names.note("JOIN", attempt, 0))

    def hear(self, store: Storage) -> tuple[str, bytes]:
        """Wait for the note of the next attempt; those that this process missed are passed over."""
        group, is_late = self.group, False
        while True:
            attempt, data = self.step.attempt(self.place), None
            try:
                if waiting.is_missed(store, attempt, group.index):
                    self.step.count(self.place)
                    continue
                is_used = waiting.verdict(store, attempt) is not None
                if not is_used and not is_late:
                    data = waiting.for_opening(store, attempt, group.timeout)
            except (CheckpointError, Failed) as error:
                self.step.count(self.place)
                if not isinstance(error, Failed):
                    leave(store, group, attempt, error)
                raise
            if is_used or data is not None:
                self.step.count(self.place)
            if is_used:
                raise twice(store.url, group)
            if data is not None:
                if failures := _failures_in(data):
                    raise Failed(failures)
                return attempt, data
            if is_late:
                raise ProcessError(
                    f"{store.url}: {group} sees no save of process 0 here within "
                    f"{group.timeout:g} s; save in every task, with the same absolute path, in a "
                    "directory that all of them share",
                    reason=Reason.NO_WORD,
                )
            is_late = True

    def _is_of(self, attempt: str, file: str) -> bool:
        """Return whether a file shows that an attempt got further than its beginning."""
        is_beginning = file.startswith(("JOIN-", "FAIL-"))
        is_mark = file == names.mark(attempt)
        return is_mark or (names.attempt_of(file) == attempt and not is_beginning)


def _failures_in(note: bytes) -> Sequence[Failure]:
    """Return the failures that process 0 left in the place of an opening note, if it did."""
    try:
        return decode_failures(note, "the opening note")
    except CorruptError:
        return ()

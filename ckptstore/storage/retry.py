"""Requests to one bucket: retried if that may help, otherwise raised as errors."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from ckptstore import concurrency
from ckptstore.errors import OutcomeUnknownError, Reason, StorageError
from ckptstore.storage.address import redacted
from ckptstore.storage.clients.base import Client, Failure, Kind, Request, Settings
from ckptstore.storage.uploads import Uploader

PARALLEL = 8
"""Requests in flight at once."""

_WAITS = 0.1, 10.0  # seconds: after the first try, and at most
_UNREACHABLE = 20.0  # seconds, while the store never answered: the endpoint may be a typing error
_DOUBTS = 8
"""The number of times that a request is sent whose answer may be for good, and has a remedy."""


class Connect(Protocol):
    """Makes the client of one bucket."""

    def __call__(self) -> Client:
        """Return this process's client of the bucket."""

    def forget(self) -> None:
        """Make the next call return a new client, with freshly read credentials."""

    def redact(self, text: str) -> str:
        """Replace secrets in a text of the store."""


@dataclass(slots=True)
class Link:
    """The connection of one process to a bucket.

    Attributes:
        client: the client.
        uploader: its uploads, with their threads.
        answered: whether the store answered the last request.
    """

    client: Client
    uploader: Uploader
    answered: bool = False


class Requests:
    """Requests to a bucket, retried until the deadline. Safe in many threads and after a fork.

    Args:
        root: the URL of the bucket, with a slash at its end; no secrets.
        connect: returns the client.
        settings: the timeout and the deadline.
    """

    def __init__(self, root: str, connect: Connect, settings: Settings) -> None:
        self.root = root
        self.settings = settings
        self._connect = connect
        self._links: dict[int, Link] = {}

    def __reduce__(self) -> NoReturn:
        raise TypeError("a storage holds connections and secrets; open it again from its URL")

    def close(self) -> None:
        """End the threads of this process."""
        link = self._links.pop(os.getpid(), None)
        if link is not None:
            link.uploader.close()

    @property
    def link(self) -> Link:
        """The link of this process, since threads and connections do not survive a fork."""
        link = self._links.get(os.getpid())
        if link is None:
            client = self._connect()
            uploader = Uploader(self.ask, PARALLEL, any_order=client.any_order)
            link = self._links.setdefault(os.getpid(), Link(client, uploader))
        return link

    def is_same(self, other: Requests) -> bool:
        """Return whether two are of one bucket, and reach it by the same options."""
        return self._connect == other._connect

    def at(self, key: str) -> str:
        """Return the URL of an object, or of a prefix, for messages."""
        return redacted(self.root + key)

    def ask(self, operation: str, key: str, request: Request, *expected: Kind) -> Any:
        """Send a request, and retry it until the deadline if that may help.

        Args:
            operation: the words that follow "could not" in messages.
            key: for messages.
            request: called with the client and the number of earlier tries.
            expected: failures that count as answers: MISSING, CONDITION, SHORT.

        Raises:
            FileNotFoundError, FileExistsError, EOFError: MISSING, CONDITION, SHORT, if expected.
            StorageError: the store refused, did not answer in time, or answered nonsense.
        """
        link, began = self.link, time.monotonic()
        for tries in itertools.count(1):
            try:
                answer = request(link.client, tries - 1)
                link.answered = True
                return answer
            except Failure as caught:
                failure = caught
            if failure.kind in expected:
                link.answered = True
                raise _PLAIN[failure.kind](f"{self.at(key)}: {self._said(failure)}")
            wait = self.wait(began, tries, failure)
            if wait is None:
                raise self.error(operation, key, failure, tries)
            concurrency.pause(wait)
        raise AssertionError("itertools.count ends")

    def wait(self, began: float, tries: int, failure: Failure) -> float | None:
        """Return how long to wait before the next try, in seconds; None: do not try again."""
        link = self.link
        link.answered = link.answered or failure.answered
        if failure.kind is not Kind.AGAIN or concurrency.stopped():
            return None
        if failure.remedy and tries >= _DOUBTS:
            return None
        wait = min(_WAITS[1], _WAITS[0] * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)
        patience = self.settings.deadline
        if not link.answered:
            patience = min(patience, _UNREACHABLE)
        return wait if time.monotonic() + wait - began < patience else None

    def error(self, operation: str, key: str, failure: Failure, tries: int) -> StorageError:
        """Return the error for a request that failed for good."""
        reason = Reason.UNAVAILABLE if failure.kind is not Kind.REFUSED else failure.reason
        if reason == Reason.UNAVAILABLE:
            self.link.answered = False  # cleaning up after this should not take as long again
        if reason == Reason.CREDENTIALS:
            self._connect.forget()
        after = f" ({_times(tries)})" if tries > 1 else ""
        message = f"{self.at(key)}: could not {operation}{after}: {self._said(failure)}"
        remedy = failure.remedy or REMEDIES.get(reason, "")  # some messages name it themselves
        return StorageError(f"{message}; {remedy}" if remedy else message, reason=reason)

    def unknown(
        self, key: str, failure: Failure, tries: int, more: str = ""
    ) -> OutcomeUnknownError:
        """Return the error for a commit that may have happened."""
        return OutcomeUnknownError(
            f"{self.at(key)}: whether the commit happened cannot be known ({_times(tries)}): "
            f"{self._said(failure)}{more}; nothing was deleted; load the checkpoint when the store "
            "answers again"
        )

    def _said(self, failure: Failure) -> str:
        return self._connect.redact(str(failure))


_PLAIN: Mapping[Kind, type[Exception]] = {
    Kind.MISSING: FileNotFoundError,
    Kind.CONDITION: FileExistsError,
    Kind.SHORT: EOFError,
}
REMEDIES: Mapping[str, str] = {
    Reason.BAD_OPTIONS: "correct or leave out that option in storage_options",
    Reason.BAD_URL: "correct the URL, or the endpoint in storage_options",
    Reason.DISK_FULL: "delete old checkpoints there, or ask for a larger quota",
    Reason.NOT_A_DIRECTORY: "save below another prefix, or remove the object that is in the way",
    Reason.NOT_SUPPORTED: "the store lacks this operation: save to another store",
    Reason.READ_ONLY: "save to another place; you can go on reading from this one",
    Reason.RETAINED: "it stays until the rule or hold of the bucket ends; save to a new place, "
    "without overwrite=True",
    Reason.UNAVAILABLE: "the store does not answer as it should: check the endpoint and the "
    "network, or try again later",
    Reason.NO_BUCKET: "create the bucket, or check its name, the endpoint and the account",
    Reason.PERMISSION: "ask for permission to read, write, list and delete there (without the "
    "permission to list, a missing object gives this error too)",
    Reason.CREDENTIALS: "renew the credentials, or pass others in storage_options or the "
    "environment; check this machine's clock, too",
    Reason.STORAGE: "check the endpoint, the bucket and the options",
    Reason.WRONG_REGION: "set the bucket's region, for S3 in the environment as AWS_DEFAULT_REGION "
    'or as storage_options={"client_kwargs": {"region_name": ...}}',
}


def _times(tries: int) -> str:
    return "tried once" if tries == 1 else f"tried {tries} times"

"""One write of one object under a condition, sent until its outcome is known.

docs/commit.md has the meaning of each answer, and what is lost where you vouch for a store that
takes no conditions.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from ckptstore.errors import CheckpointError, Reason
from ckptstore.storage.clients.base import ABSENT, Failure, Kind, Version
from ckptstore.storage.retry import Requests

_CONTRADICTIONS = 5
"""The number of refused conditions that hold after which a commit is given up."""

_NOT_TAKEN = {Reason.NOT_SUPPORTED, Reason.STORAGE}
"""The reasons of a store that does not know the header of a condition: 501, or 400."""

_without_conditions: set[tuple[str, str]] = set()
"""(endpoint, root) of the stores that took no condition, and for which the caller vouches."""


@dataclass(slots=True)
class ConditionalWrite:
    """The writes of one object whose content before is known.

    Attributes:
        requests: the bucket.
        key: the key of the object.
    """

    requests: Requests
    key: str

    def send(self, operation: str, data: bytes, expected: bytes | None) -> None:
        """Store an object, if it has not changed.

        Only a plain success is a reliable answer. After any other one, the client library or this
        loop may have sent the write twice and lost the first answer, so the object itself decides.

        If the store takes no condition, and the caller vouches, the object is read before, and read
        back after a plain write.

        Args:
            operation: the operation, for messages.
            data: its new content.
            expected: its content before; None: the object must not exist.

        Raises:
            FileExistsError: it holds other bytes.
            FileNotFoundError: it does not exist, and `expected` is not None.
            OutcomeUnknownError, StorageError: as for `Storage.create`.
        """
        requests, began = self.requests, time.monotonic()
        store = requests.link.client.endpoint, requests.root
        plain = requests.settings.assume_atomic and store in _without_conditions
        version = self._look(expected) if plain or expected is not None else ABSENT
        limit, doubtful = max(len(data), len(expected or b"")), False
        contradictions = 0
        for tries in itertools.count(1):
            try:
                requests.link.client.put(self.key, data, None if plain else version)
                if not plain:
                    return
                failure = Failure(Kind.AGAIN, "written, but not there when it was read back")
            except Failure as caught:
                failure = caught
            if failure.kind is Kind.REFUSED and not doubtful:
                vouched = requests.settings.assume_atomic and failure.reason in _NOT_TAKEN
                if plain or not vouched:
                    raise requests.error(operation, self.key, failure, tries)
                self._look(expected)
                plain = True
                _without_conditions.add(store)
                continue
            wait = requests.wait(began, tries, Failure(Kind.AGAIN, "", answered=failure.answered))
            doubtful = True
            holder: bytes | None
            try:
                holder, version = self.read(limit)
            except FileNotFoundError:
                holder, version = None, ABSENT
            except CheckpointError as second:
                raise requests.unknown(self.key, failure, tries, f"; and then: {second}") from None
            if holder == data:
                return
            if holder is None and expected is not None:
                raise FileNotFoundError(f"{requests.at(self.key)} was deleted")
            if holder != expected:
                raise FileExistsError(f"{requests.at(self.key)} holds other bytes")
            if wait is None or failure.kind is Kind.REFUSED:
                raise requests.unknown(self.key, failure, tries)
            contradictions += failure.kind is Kind.CONDITION
            if contradictions == _CONTRADICTIONS:
                if not requests.settings.assume_atomic:
                    state = "is not there" if holder is None else "still holds the same bytes"
                    more = f"; but the object {state}: this store's conditions cannot be relied on"
                    raise requests.unknown(self.key, failure, tries, more)
                plain = True
            time.sleep(wait)

    def version(self, expected: bytes) -> Version:
        """Return the version of the object, which holds `expected`.

        Raises:
            FileExistsError: it holds other bytes, also when it is read again.
            FileNotFoundError: there is no object.
        """
        for _ in range(2):
            have, version = self.read(len(expected))
            if have == expected:
                return version
        raise FileExistsError(f"{self.requests.at(self.key)} holds other bytes")

    def read(self, limit: int) -> tuple[bytes, Version]:
        """Return the first `limit` + 1 bytes and the version, or raise FileNotFoundError."""
        key = self.key
        answer: tuple[bytes, Version] = self.requests.ask(
            "read", key, lambda client, _: client.read(key, limit), Kind.MISSING
        )
        return answer

    def _look(self, expected: bytes | None) -> Version:
        """Return the condition that the object has not changed, or raise as `send` does."""
        if expected is not None:
            return self.version(expected)
        try:
            self.read(0)
        except FileNotFoundError:
            return ABSENT
        raise FileExistsError(f"{self.requests.at(self.key)} exists")

"""`Client`, the requests that a bucket accepts, and `Failure`, a request that failed."""

from __future__ import annotations

import contextlib
import enum
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ckptstore import signals
from ckptstore.digests import Buffer, digest
from ckptstore.errors import Reason

Version = str
"""A store's name for one content of an object: in S3 the ETag, in GCS the generation."""

ABSENT: Final = "absent"
"""The condition that the object must not exist."""


FOREIGN: Final = "none"
"""The version that no object has, for stores whose version is the content itself."""


class Kind(enum.Enum):
    """The meaning of a failed request."""

    MISSING = "missing"  # there is no such object, or no such upload
    CONDITION = "condition"  # the condition does not hold; nothing was changed
    SHORT = "short"  # the object ends before the range does
    AGAIN = "again"  # the request may have been applied; sending it again may help
    REFUSED = "refused"  # the request was not applied, and never will be


class Failure(Exception):
    """A request that failed.

    Args:
        kind: the meaning of the failure.
        message: the message of the store or the client library.
        reason: for a refusal, the reason code of the StorageError that it becomes.
        answered: whether the store itself answered; False if it could not be reached.
        remedy: the way on for this very failure; "": the one of its reason. With AGAIN, the request
            is sent only a few times, since the store may always answer so.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        reason: Reason = Reason.STORAGE,
        *,
        answered: bool = True,
        remedy: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason
        self.answered = answered
        self.remedy = remedy


@contextlib.contextmanager
def raising(failure_of: Callable[[Exception], Exception]) -> Iterator[None]:
    """Pass a `Failure` of the block on, and turn other exceptions into that of `failure_of`.

    The exception of the library is not chained, because it may hold secrets.
    """
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        signals.pass_on(error)
        raise failure_of(error) from None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing.

    Attributes:
        sizes: the sizes of objects in bytes, by key.
        changed: the times at which they were written, in seconds of the store's own clock, by key.
        prefixes: the prefixes below, up to the delimiter.
        token: the start of the next page; None on the last.
    """

    sizes: Mapping[str, int]
    changed: Mapping[str, float]
    prefixes: Sequence[str] = ()
    token: str | None = None


class Paging:
    """The course of one listing: each page brings something new, and there is a last one.

    Args:
        seconds: the time for the whole listing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._tokens: set[object] = set()
        self._seen: set[str] = set()

    def check(self, names: Iterable[str], token: object) -> None:
        """Check a page. Pages may be empty, but none may come twice.

        Args:
            names: everything that the page lists.
            token: the start of the next page; None on the last.

        Raises:
            Failure: REFUSED: the listing makes no sense, or takes too long.
        """
        found = set(names)
        if self._tokens and found and found <= self._seen:
            raise nonsense("a later page of the listing has nothing but entries of earlier ones")
        self._seen |= found
        if token is None:
            return
        if token in self._tokens:
            raise nonsense("two pages of the listing name the same next page")
        self._tokens.add(token)
        if time.monotonic() > self._end:
            raise nonsense(
                f"the listing does not end in {self._seconds:.3g} s ({len(self._tokens)} pages)"
            )


def nonsense(message: str) -> Failure:
    """Return the failure for an answer that contradicts itself, so that it counts as none."""
    return Failure(Kind.REFUSED, message, Reason.UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Upload:
    """An unfinished multipart upload.

    Attributes:
        key: the key of the object.
        id: the store's name for the upload.
        nbytes: the size of the whole object in bytes; 0 if it is not known.
        begun: the time at which it began, in seconds of the store's own clock, if `uploads` found
            it.
        create: make the object only if none exists; None for a key that only this call uses.
    """

    key: str
    id: str
    nbytes: int
    begun: float = 0.0
    create: bool | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a caller under the key ``ckptstore`` of ``storage_options``.

    Attributes:
        timeout: seconds for one request, plus one second for each 64 KiB of its body.
        deadline: seconds for one operation, with all its tries.
        assume_atomic: the caller vouches for the conditions of writes.
    """

    timeout: float = 60.0
    deadline: float = 300.0
    assume_atomic: bool = False


class Client(Protocol):
    """One bucket. Each method sends one request, once; every failure is a `Failure`.

    Safe to use from many threads. Keys are whole, as the store knows them.

    Attributes:
        endpoint: a text that identifies the store, for people and for the probe; no secret.
        any_order: the parts of an upload may be sent at once.
        foreign: a version that no object ever has.
        batch: the most keys of one `delete_many`; 0 if the store has no such request. It is set to
            0 once the store has refused one.
    """

    endpoint: str
    any_order: bool
    foreign: Version
    batch: int

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """Return the first `limit` + 1 bytes of an object, and its version."""

    def get(self, key: str, start: int, buffer: Buffer) -> None:
        """Fill a buffer, which is not empty, with the bytes from `start`."""

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """Store an object; with a condition, only if it is ABSENT or has that version."""

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """Make `key` a copy of `origin`, of `nbytes` bytes. REFUSED if the store cannot."""

    def delete(self, key: str, version: Version | None = None) -> None:
        """Remove an object, if it has that version. MISSING, or no failure, if none exists."""

    def delete_many(self, keys: Sequence[str]) -> Sequence[str]:
        """Remove objects, some perhaps and others not.

        Returns the keys of which the store does not say that no object is there now.
        """

    def size(self, key: str) -> int:
        """Return the size of an object, without listing it."""

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """List keys that begin with `prefix`, up to the first delimiter after it."""

    def begin(self, key: str, nbytes: int, create: bool | None = None) -> Upload:
        """Begin a multipart upload; CONDITION, here or at its end, if `create` cannot hold."""

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """Send part `number` (from 1), the bytes from `start`, after `tries` earlier tries.

        Returns its tag, for `finish`.
        """

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """Join the parts to the object. MISSING: no such upload, or it was finished before."""

    def abort(self, upload: Upload) -> None:
        """Abort an upload. MISSING, or no failure, if there is none."""

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Return all unfinished uploads to keys that begin with `prefix`, by any program."""


class WithoutBatches:
    """The answers of a client whose store deletes one object a request."""

    batch = 0

    def delete_many(self, keys: Sequence[str]) -> Sequence[str]:
        """Return all keys."""
        return keys


Request = Callable[[Client, int], Any]
"""Sends a request by a client; the second argument is the number of earlier tries."""


COPIED_NBYTES: Final = 64
"""The number of bytes that a store copies in the time allowed for one byte of a body."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def check_range(found: str | None, start: int, nbytes: int) -> None:
    """Compare the Content-Range of an answer with the request.

    Raises:
        Failure: SHORT if the object ends before; REFUSED if the store ignores ranges.
    """
    match = _CONTENT_RANGE.fullmatch(found or "")
    if match is None or int(match[1]) != start:
        raise Failure(Kind.REFUSED, f"asked for bytes from {start}, got {found or 'all bytes'}")
    if int(match[2]) + 1 - start < nbytes:
        raise Failure(Kind.SHORT, f"the object ends at byte {int(match[2]) + 1}")


def version_of(data: bytes, limit: int) -> Version:
    """Return the version of a content, of which up to `limit` + 1 bytes were read."""
    return f"{len(data)}-{digest(data).hex()}" if len(data) <= limit else FOREIGN

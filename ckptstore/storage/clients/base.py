"""The requests that a bucket takes: `Client`, and how one fails: `Failure`."""

from __future__ import annotations

import contextlib
import enum
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ckptstore.digests import Buffer, digest
from ckptstore.errors import Reason

Version = str
"""The name that a store has for one content of an object: S3 the ETag, GCS the generation."""

ABSENT: Final = "absent"
"""The condition that no object is there."""


FOREIGN: Final = "none"
"""The version that no object has where a version is the content itself."""


class Kind(enum.Enum):
    """The meaning of a failed request."""

    MISSING = "missing"  # there is no such object, or no such upload
    CONDITION = "condition"  # the condition does not hold; nothing was changed
    SHORT = "short"  # the object ends before the range does
    AGAIN = "again"  # it may have been applied or not; sending it again may help
    REFUSED = "refused"  # for good, and it was not applied


class Failure(Exception):
    """A request that failed.

    Args:
        kind: what it means.
        message: what the store or the client library said.
        reason: of a refusal, the reason code of the StorageError that it becomes.
        answered: the store said so itself; False where it could not be reached.
    """

    def __init__(
        self, kind: Kind, message: str, reason: Reason = Reason.STORAGE, *, answered: bool = True
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason
        self.answered = answered


@contextlib.contextmanager
def raising(failure_of: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raise a `Failure` of the block as it is, and for another exception what `failure_of` returns.

    The exception of the library is not shown with it: it may hold secrets.
    """
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        raise failure_of(error) from None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing.

    Attributes:
        sizes: bytes of objects, by key.
        changed: when they were written, in seconds of the store's own clock, by key.
        prefixes: what is below, as far as the delimiter.
        token: where the next page goes on; None on the last.
    """

    sizes: Mapping[str, int]
    changed: Mapping[str, float]
    prefixes: Sequence[str] = ()
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that was begun and is not finished.

    Attributes:
        key: of the object.
        id: the store's name for the upload.
        nbytes: of the whole object; 0 where it is not known.
        begun: when, in seconds of the store's own clock, where `uploads` found it.
        create: make the object only where none is; None for a key that nobody else uploads to.
    """

    key: str
    id: str
    nbytes: int
    begun: float = 0.0
    create: bool | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What a caller may set under the key ``ckptstore`` of ``storage_options``.

    Attributes:
        timeout: seconds for one request, and one more for each 64 KiB of its body.
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
        endpoint: what tells this store from others, for people and for the probe; no secret.
        any_order: the parts of an upload may be sent at once.
        foreign: a version that no object ever has.
    """

    endpoint: str
    any_order: bool
    foreign: Version

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """Return the first `limit` + 1 bytes of an object, and its version."""

    def get(self, key: str, start: int, buffer: Buffer) -> None:
        """Fill a buffer, which is not empty, with the bytes from `start`."""

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """Store an object, where it is ABSENT or has that version if a condition is given."""

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """Make `key` a copy of `origin`, of `nbytes` bytes. REFUSED where the store cannot."""

    def delete(self, key: str, version: Version | None = None) -> None:
        """Remove an object, if it has that version. MISSING, or no failure, where none is."""

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """List keys that begin with `prefix`, as far as the first delimiter after it."""

    def begin(self, key: str, nbytes: int, create: bool | None = None) -> Upload:
        """Begin an upload in parts; CONDITION, here or at its end, where `create` cannot be."""

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """Send part `number` (from 1), the bytes from `start`, after `tries` tries to.

        Returns its tag, for `finish`.
        """

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """Make the parts the object. MISSING: no such upload, or it was finished before."""

    def abort(self, upload: Upload) -> None:
        """Give an upload up. MISSING, or no failure, where there is none."""

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Return the unfinished uploads, of anyone, of keys that begin with `prefix`."""


Request = Callable[[Client, int], Any]
"""Sends a request by a client, given the number of tries before."""


COPIED_NBYTES: Final = 64
"""Bytes that a store copies in the time in which one byte of a body may be sent."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def check_range(found: str | None, start: int, nbytes: int) -> None:
    """Check the Content-Range of an answer against what was asked for.

    Raises:
        Failure: SHORT where the object ends before; REFUSED where the store ignores ranges.
    """
    match = _CONTENT_RANGE.fullmatch(found or "")
    if match is None or int(match[1]) != start:
        raise Failure(Kind.REFUSED, f"asked for bytes from {start}, got {found or 'all of them'}")
    if int(match[2]) + 1 - start < nbytes:
        raise Failure(Kind.SHORT, f"the object ends at byte {int(match[2]) + 1}")


def version_of(data: bytes, limit: int) -> Version:
    """Return the version of a content that was read as far as `limit` + 1 bytes."""
    return f"{len(data)}-{digest(data).hex()}" if len(data) <= limit else FOREIGN

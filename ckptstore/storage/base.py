"""Where the bytes of one checkpoint live: the `Storage` protocol that every store follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from ckptstore.digests import Buffer


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a store likes to be used.

    Attributes:
        writes: files written at once.
        reads: ranges read at once.
        piece_nbytes: bytes of one `get`, at most, where more are wanted.
        alone_nbytes: a span of this many bytes or more is read by itself.
        gap_nbytes: unwanted bytes that are read along to save one `get`.
    """

    writes: int
    reads: int
    piece_nbytes: int
    alone_nbytes: int
    gap_nbytes: int


class Storage(Protocol):
    """One directory of files, on a disk or in a bucket. Names have no slash.

    The bytes that `put` wrote are durable when it returns, their names once `flush` has returned;
    `create` and `swap` make both durable. Every failure is a StorageError that names the file and
    the operation, but where it says else. After a StorageError of `create` or `swap` their effect
    is there or will never be: reading the file back settles which. Where that cannot be promised,
    or the effect is there and may not be durable, they raise OutcomeUnknownError.

    Attributes:
        url: for messages; it holds no secret.
        traffic: how this store likes to be used.
    """

    url: str
    traffic: Traffic

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

    def prepare(self) -> None:
        """Make the place ready to be written to."""

    def put(self, name: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        """Write a new file of `nbytes` from chunks, letting go of each before taking the next."""

    def link(self, name: str, sibling: str, source: str, nbytes: int) -> bool:
        """Give a new file the content of `source`, in the directory `sibling` beside this one.

        No byte of it passes through this process; it is as durable as what `put` wrote. Returns
        False, with nothing left, where that cannot be: the source is gone or has other than
        `nbytes` bytes, or the store cannot do it. The caller then writes the bytes.
        """

    def stop(self) -> None:
        """Make each `put` of another thread fail soon, for good."""

    def flush(self) -> None:
        """Make the names of all files put so far durable."""

    def create(self, name: str, data: bytes) -> None:
        """Create a file wholly or not at all; raises FileExistsError where there is one."""

    def put_atomic(
        self, name: str, chunks: Iterable[Buffer], nbytes: int, *, replace: bool
    ) -> None:
        """Write a file of any size, under a name that others may use, wholly or not at all.

        It is durable then. Where there is one and `replace` is false, raises FileExistsError. Needs
        no `prepare`. After a StorageError it is not there (with `replace` it may be, wholly), and
        after an OutcomeUnknownError it may be.
        """

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        """Replace a file that holds `expected`.

        Raises FileExistsError where it holds other bytes, FileNotFoundError where there is none.
        """

    def sizes(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the bytes of each file that is there, held open for `get` as far as it goes."""

    def get(self, name: str, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from `offset`; raises FileNotFoundError or EOFError."""

    def version(self, name: str) -> str:
        """Return what changes with the content, where the store can tell.

        Raises FileNotFoundError.
        """

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole small file, at most `limit` + 1 bytes; raises FileNotFoundError."""

    def list(self) -> Mapping[str, int]:
        """Return the names and bytes of all files."""

    def delete(self, name: str, expected: bytes | None = None) -> None:
        """Remove a file, where `expected` is given only if it holds that; none is no error."""

    def changed(self) -> Mapping[str, float]:
        """Return when each file was last changed, in seconds of the store's own clock."""

    def unfinished(self) -> Mapping[str, float]:
        """Return the names of files whose upload was begun and not ended, and when, likewise."""

    def abort(self, name: str) -> None:
        """Give up the unfinished uploads of a file."""

    def child(self, name: str) -> Storage:
        """Return a directory below this one; it is closed with this one."""

    def children(self) -> Sequence[str]:
        """Return the names of the directories below."""

    def holders(self, name: str) -> Sequence[str]:
        """Return the names of the directories below that hold a file of that name."""

    def holds(self, name: str) -> bool:
        """Tell whether a file is there."""

    def remove(self) -> None:
        """Remove the directory itself, if it is empty."""

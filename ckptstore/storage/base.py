"""The protocol that every store follows: `Storage`, and how it likes to be used: `Traffic`."""

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

    The bytes that `put` wrote are durable when it returns, their names once `flush` has returned.
    `create` and `swap` make both durable.

    Every failure is a StorageError that names the file and the operation, if a method does not
    name another error. After a StorageError of `create` or `swap`, the new file is there or never
    will be: read the file to learn which. Where that cannot be promised, or the new file may not
    be durable, they raise OutcomeUnknownError.

    Attributes:
        url: for messages; it holds no secret.
        traffic: how this store likes to be used.
    """

    url: str
    traffic: Traffic

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

    def prepare(self) -> None:
        """Make the directory ready to be written to."""

    def put(self, name: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        """Write a new file of `nbytes` from chunks, letting go of each before taking the next."""

    def link(self, name: str, sibling: str, source: str, nbytes: int) -> bool:
        """Make a new file with the content of `source` in `sibling`, a directory beside this one.

        No byte of it passes through this process. It is as durable as a file that `put` wrote.
        Returns False, with nothing left, where the source is gone or does not have `nbytes` bytes,
        and where the store cannot link. Then write the bytes.
        """

    def stop(self) -> None:
        """Make each `put` of another thread fail soon, for good."""

    def flush(self) -> None:
        """Make the names of all files put so far durable."""

    def create(self, name: str, data: bytes) -> None:
        """Create a file wholly or not at all; raises FileExistsError where one is."""

    def put_atomic(
        self, name: str, chunks: Iterable[Buffer], nbytes: int, *, replace: bool
    ) -> None:
        """Write a file of any size, under a name that others may use, wholly or not at all.

        The file is durable then. `prepare` is not needed. Raises FileExistsError where a file of
        that name is and `replace` is false. After a StorageError the file is not there (with
        `replace` it may be, wholly). After an OutcomeUnknownError it may be.
        """

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        """Replace a file that holds `expected`.

        Raises FileExistsError where it holds other bytes, FileNotFoundError where no file is.
        """

    def sizes(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the bytes of each file that is there. As many as possible stay open for `get`."""

    def get(self, name: str, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from `offset`; raises FileNotFoundError or EOFError."""

    def version(self, name: str) -> str:
        """Return a text that changes with the content, as far as the store knows.

        Raises FileNotFoundError.
        """

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole small file, at most `limit` + 1 bytes; raises FileNotFoundError."""

    def list(self) -> Mapping[str, int]:
        """Return the names and bytes of all files."""

    def delete(self, name: str, expected: bytes | None = None) -> None:
        """Remove a file if it is there, and if it holds `expected`, where that is passed."""

    def changed(self) -> Mapping[str, float]:
        """Return when each file was last changed, in seconds of the store's own clock."""

    def unfinished(self) -> Mapping[str, float]:
        """Return when the upload of each unfinished file was begun, by the same clock."""

    def abort(self, name: str) -> None:
        """Give up the unfinished uploads of a file."""

    def child(self, name: str) -> Storage:
        """Return a directory below this one; it is closed with this one."""

    def parent(self) -> tuple[Storage, str]:
        """Return the directory above, and the name of this one in it: "" where there is none."""

    def children(self) -> Sequence[str]:
        """Return the names of the directories below."""

    def holders(self, name: str) -> Sequence[str]:
        """Return the names of the directories below that hold a file of that name."""

    def holds(self, name: str) -> bool:
        """Return whether a file is there."""

    def remove(self) -> None:
        """Remove the directory itself, if it is empty."""

"""`Storage`, the protocol that every store follows, and `Traffic`, the sizes that suit a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from ckptstore.digests import Buffer

Expected = Callable[[str], bool]
"""Whether a subdirectory of that name matters."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """The numbers and sizes of requests that suit a store.

    Attributes:
        writes: the number of files written at once.
        reads: the number of ranges read at once.
        piece_nbytes: the largest size of one `get` in bytes; larger reads are split.
        alone_nbytes: a span of this many bytes or more is read by itself.
        gap_nbytes: the number of unwanted bytes that are read to save one `get`.
    """

    writes: int
    reads: int
    piece_nbytes: int
    alone_nbytes: int
    gap_nbytes: int


class Storage(Protocol):
    """One directory of files, on a disk or in a bucket. Names have no slash.

    The bytes of a file are durable when `put` returns; its name is durable when `flush` returns.
    `create` and `swap` make both durable.

    Every failure is a StorageError that names the file and the operation, unless a method names
    another error. After a StorageError of `create` or `swap`, the new file either exists or never
    will: read the file to learn which. If that cannot be promised, or the new file may not be
    durable, they raise OutcomeUnknownError.

    Attributes:
        url: the place, for messages; it holds no secret.
        traffic: the sizes of requests that suit this store.
    """

    url: str
    traffic: Traffic

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

    def prepare(self, *, swap: bool = False) -> None:
        """Prepare the directory for writing; with `swap`, also for replacing a file."""

    def expect(self, nbytes: int) -> None:
        """Learn how many bytes a save will write, and warn if they do not fit."""

    def refuse_link(self) -> None:
        """Raise StorageError, reason ``linked-step``, if a save would follow a symbolic link.

        Only a directory inside another, opened as such, refuses. `prepare` does the same.
        """

    def put(self, name: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        """Write a new file of `nbytes` from chunks, releasing each before taking the next."""

    def link(self, name: str, origin: Storage, source: str, nbytes: int) -> bool:
        """Make a new file with the content of `source` in the directory `origin`.

        Its bytes do not pass through this process. It is as durable as a file written by `put`.
        Returns False, and leaves nothing, if the source is gone or does not have `nbytes` bytes, if
        `origin` is in another store, or if the store cannot link. Then write the bytes.
        """

    def is_same(self, other: Storage) -> bool:
        """Return whether it is the same directory of the same store, as far as names tell."""

    def stop(self) -> None:
        """Make every `put` of other threads fail soon, now and later."""

    def flush(self) -> None:
        """Make the names of all files put so far durable."""

    def create(self, name: str, data: bytes) -> None:
        """Create a complete file or none; raises FileExistsError if the file exists."""

    def put_atomic(
        self, name: str, chunks: Iterable[Buffer], nbytes: int, *, replace: bool
    ) -> None:
        """Write a complete file of any size, or none, under a name that others may use.

        The file is durable when this returns. `prepare` is not needed. Raises FileExistsError if
        the file exists and `replace` is false. After a StorageError the file does not exist (with
        `replace` it may exist, complete). After an OutcomeUnknownError it may exist.
        """

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        """Replace a file that holds `expected`.

        Raises FileExistsError if it holds other bytes, FileNotFoundError if there is no file.
        """

    def sizes(self, names: Sequence[str], among: int = 0) -> Mapping[str, int]:
        """Return the size of each existing file. As many as possible stay open for `get`.

        `among` is the number of all files there, if it is known: a bucket chooses by it whether it
        lists them or asks by name.
        """

    def get(self, name: str, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from `offset`; raises FileNotFoundError or EOFError."""

    def version(self, name: str) -> str:
        """Return a text that changes with the content, as far as the store can tell.

        Raises FileNotFoundError.
        """

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole small file, at most `limit` + 1 bytes; raises FileNotFoundError."""

    def list(self) -> Mapping[str, int]:
        """Return the names and bytes of all files."""

    def delete(self, name: str, expected: bytes | None = None) -> None:
        """Remove a file if it exists and, if `expected` is passed, holds those bytes."""

    def delete_many(self, names: Sequence[str]) -> None:
        """Remove those of the files that exist, in any order, and not in one step.

        A file that cannot be removed does not keep the others, unless the store does not answer.
        The error of one is raised at the end.
        """

    def changed(self) -> Mapping[str, float]:
        """Return the time of each file's last change, in seconds of the store's own clock."""

    def unfinished(self) -> Mapping[str, float]:
        """Return the time at which each unfinished upload began, by the same clock."""

    def abort(self, name: str) -> None:
        """Abort the unfinished uploads of a file."""

    def child(self, name: str) -> Storage:
        """Return a subdirectory; it is closed with this directory."""

    def is_link(self, name: str) -> bool:
        """Return whether a subdirectory is a symbolic link; `delete` removes the link alone."""

    def exists(self) -> bool:
        """Return whether the directory exists, asking the disk itself; in a bucket it always does.

        Raises StorageError, reason ``not-a-directory`` or ``dangling-link``, for another thing.
        """

    def parent(self) -> tuple[Storage, str]:
        """Return the parent directory, and this one's name in it: "" if there is no parent."""

    def children(self) -> Sequence[str]:
        """Return the names of the subdirectories, and of links and others that lead nowhere."""

    def holders(self, name: str, expected: Expected | None = None) -> Sequence[str]:
        """Return the names of the subdirectories that hold a file of that name.

        Only those that are expected are looked into. By default these are all that can be.
        """

    def holds(self, name: str) -> bool:
        """Return whether a file exists."""

    def remove(self) -> None:
        """Remove the directory itself, if it is empty."""


class WithoutLinks:
    """The answers of a store without symbolic links or a size, whose directories are prefixes."""

    def expect(self, nbytes: int) -> None:
        """Do nothing."""

    def refuse_link(self) -> None:
        """Do nothing."""

    def is_link(self, name: str) -> bool:
        """Return False."""
        return False

    def exists(self) -> bool:
        """Return True: a prefix needs no making."""
        return True

"""One file of another format, on a disk or in a bucket: read by ranges, or written in one step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ckptstore import concurrency, storage
from ckptstore.digests import Buffer
from ckptstore.errors import AlreadyCommittedError, Reason, StorageError
from ckptstore.storage import Storage

Options = Mapping[str, Any] | None
"""What callers pass as ``storage_options``."""

Span = tuple[Storage, str, int, int]
"""A directory, the name of a file in it, a first byte of that, and a number of bytes."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that is open for reading.

    Attributes:
        place: the directory that it is in.
        name: its name there.
        nbytes: its bytes.
        version: of its content, as far as the store can tell.
    """

    place: Storage
    name: str
    nbytes: int
    version: str

    @property
    def where(self) -> str:
        """Its path or URL, for messages; no secret is in it."""
        return os.path.join(self.place.url, self.name)

    def read(self, offset: int = 0, nbytes: int | None = None) -> bytearray:
        """Read a part, or the rest of it.

        Raises:
            StorageError: reason ``overwritten`` where the file changed since it was opened.
        """
        data = bytearray(self.nbytes - offset if nbytes is None else nbytes)
        view = memoryview(data)

        def take(place: Storage, name: str, at: int, size: int) -> None:
            place.get(name, offset + at, view[at : at + size])

        each(spans(self.place, self.name, len(data)), take)
        self.check()
        return data

    def check(self) -> None:
        """Raise StorageError, reason ``overwritten``, where it changed since it was opened."""
        try:
            same = self.place.version(self.name) == self.version
        except FileNotFoundError:
            same = False
        if not same:
            raise changed(self.where)


@contextmanager
def opened(url: Any, storage_options: Options = None) -> Iterator[File]:
    """Open a file for the block.

    Raises:
        StorageError: it is not there, or is no file; reason ``bad-url``, and what the store says.
    """
    place, name = locate(url, storage_options)
    with place:
        yield _look(place, name)


def _look(place: Storage, name: str) -> File:
    try:
        version = place.version(name)
        return File(place, name, place.sizes([name])[name], version)
    except (FileNotFoundError, KeyError):
        below = place.child(name)
        what = "a directory" if below.list() or below.children() else "not there"
        where = os.path.join(place.url, name)
        raise StorageError(f"{where}: {what}; expected a file") from None


def publish(
    url: Any,
    storage_options: Options,
    chunks: Iterable[Buffer],
    nbytes: int,
    *,
    overwrite: bool,
) -> str:
    """Write a file, wholly and durably, or not at all; return where, for messages.

    Raises:
        AlreadyCommittedError: it exists, and is not to be overwritten.
        OutcomeUnknownError: it is there wholly, or not at all.
        StorageError: the disk or the store refuses.
    """
    place, name = locate(url, storage_options)
    where = os.path.join(place.url, name)
    with place:
        try:
            place.put_atomic(name, chunks, nbytes, replace=overwrite)
        except FileExistsError:
            raise AlreadyCommittedError(
                f"{where}: something is there; choose another name, or pass overwrite=True"
            ) from None
    return where


def locate(url: Any, storage_options: Options) -> tuple[Storage, str]:
    """Return the directory that holds a file, and the file's name in it.

    Raises:
        StorageError: as `storage.open`; reason ``bad-url`` for the URL of a bucket, or of a
            directory by its slash.
    """
    whole = storage.open(url, storage_options)  # which may have a query, or a part ..
    directory, _, name = storage.absolute(url).rpartition("/")
    if directory.endswith(":/") or (protocol(url) and os.fspath(url).endswith("/")):
        raise StorageError(
            f"{whole.url}/: a bucket or a directory, where a file in one was expected",
            reason=Reason.BAD_URL,
        )
    return storage.open(directory or "/", storage_options), name


def protocol(url: Any) -> str:
    """Return the protocol of a URL, "" for a path on this machine and for what is neither."""
    if not isinstance(url, str | os.PathLike):
        return ""
    text = storage.absolute(url)
    return "" if text.startswith("/") else text.partition("://")[0]


def shared(storage_options: Options, path: Any, source: Any) -> tuple[Options, Options]:
    """Return the options of `path` and those of `source`: the same, of each that is a URL.

    Raises:
        StorageError: reason ``bad-options`` where they would go to two kinds of stores.
    """
    to, of = protocol(path), protocol(source)
    if storage_options and to and of and to != of:
        raise StorageError(
            f"storage_options for {to}:// and for {of}:// at once; load the checkpoint with its "
            "own, and export the tree with those of the file",
            reason=Reason.BAD_OPTIONS,
        )
    # Where nothing is a URL, the disk says that it takes none.
    return storage_options if to or not of else None, storage_options if of else None


def spans(place: Storage, name: str, nbytes: int) -> Sequence[Span]:
    """Cut a file into what its store likes to give at once."""
    size = place.traffic.piece_nbytes
    return [(place, name, at, min(size, nbytes - at)) for at in range(0, nbytes, size)]


def each(wanted: Sequence[Span], take: Callable[[Storage, str, int, int], None]) -> None:
    """Call `take` with each span, several of one store at a time.

    Raises:
        StorageError: reason ``overwritten`` where a file is gone, or became shorter, meanwhile.
    """

    def call(place: Storage, name: str, at: int, nbytes: int) -> None:
        try:
            take(place, name, at, nbytes)
        except (EOFError, FileNotFoundError):
            raise changed(os.path.join(place.url, name)) from None

    count = wanted[0][0].traffic.reads if wanted else 0
    concurrency.run(call, wanted, count, name="ckptstore-read")


def changed(where: str) -> StorageError:
    """Return the error for what is not as it was when its reading began."""
    return StorageError(
        f"{where}: changed while it was read; read it again", reason=Reason.OVERWRITTEN
    )

"""One file of another format, on a disk or in a bucket: read ranges, or write it in one step."""

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

Path = str | os.PathLike[str]
"""A path on this machine, or a URL."""

Options = Mapping[str, Any] | None
"""The ``storage_options`` of a call."""

Span = tuple[Storage, str, int, int]
"""A directory, the name of a file in it, the first byte, and the number of bytes."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that is open for reading.

    Attributes:
        directory: the directory that it is in.
        name: its name there.
        nbytes: its size.
        version: a text that changes with its content, as far as the store can tell.
    """

    directory: Storage
    name: str
    nbytes: int
    version: str

    @property
    def where(self) -> str:
        """Its path or URL without secrets, for messages."""
        return os.path.join(self.directory.url, self.name)

    def read(self, offset: int = 0, nbytes: int | None = None) -> bytearray:
        """Read a part, or all from an offset on.

        Raises:
            StorageError: reason ``overwritten`` if the file changed since it was opened.
        """
        data = bytearray(self.nbytes - offset if nbytes is None else nbytes)
        view = memoryview(data)

        def fill(directory: Storage, name: str, at: int, size: int) -> None:
            directory.get(name, offset + at, view[at : at + size])

        read_spans(cut(self.directory, self.name, len(data)), fill)
        self.check()
        return data

    def check(self) -> None:
        """Raise StorageError, reason ``overwritten``, if the file changed since it was opened."""
        try:
            same = self.directory.version(self.name) == self.version
        except FileNotFoundError:
            same = False
        if not same:
            raise overwritten(self.where)


@contextmanager
def open_file(path: Path, storage_options: Options = None) -> Iterator[File]:
    """Yield a file that is open for the block.

    Raises:
        StorageError: it does not exist, or is not a file; reason ``bad-url``; the store refused.
    """
    directory, name = locate(path, storage_options)
    with directory:
        yield _look(directory, name)


def _look(directory: Storage, name: str) -> File:
    try:
        version = directory.version(name)
        return File(directory, name, directory.sizes([name])[name], version)
    except (FileNotFoundError, KeyError):
        below = directory.child(name)
        what = "a directory" if below.list() or below.children() else "not there"
        raise StorageError(f"{below.url}: {what}; expected a file") from None


def write(
    path: Path,
    storage_options: Options,
    chunks: Iterable[Buffer],
    nbytes: int,
    *,
    overwrite: bool,
) -> str:
    """Write a complete and durable file, or none; return its place, for messages.

    Raises:
        AlreadyCommittedError: the file exists, and `overwrite` is false.
        OutcomeUnknownError: the file is complete, or does not exist.
        StorageError: the disk or the store refused.
    """
    directory, name = locate(path, storage_options)
    where = os.path.join(directory.url, name)
    with directory:
        try:
            directory.put_atomic(name, chunks, nbytes, replace=overwrite)
        except FileExistsError:
            raise AlreadyCommittedError(
                f"{where}: the file exists; choose another name, or pass overwrite=True"
            ) from None
    return where


def locate(path: Path, storage_options: Options) -> tuple[Storage, str]:
    """Return the directory that holds a file, and the file's name in it.

    Raises:
        StorageError: as for `storage.open`; reason ``bad-url`` for the URL of a bucket, or of a
            directory with a slash at its end.
    """
    place = storage.open(path, storage_options)
    directory, name = place.parent()
    if not name or (protocol_of(path) and os.fspath(path).endswith("/")):
        raise StorageError(
            f"{place.url.rstrip('/')}/: a bucket or a directory, expected a file in one",
            reason=Reason.BAD_URL,
        )
    return directory, name


def protocol_of(path: object) -> str:
    """Return the protocol of a URL; "" for a path on this machine, and for any other object."""
    if not isinstance(path, str | os.PathLike):
        return ""
    text = storage.absolute(path)
    return "" if text.startswith("/") else text.partition("://")[0]


def split_options(storage_options: Options, path: Path, source: object) -> tuple[Options, Options]:
    """Return the options of `path` and those of `source`: the same options for each URL.

    Raises:
        StorageError: reason ``bad-options`` if two kinds of stores would get the same options.
    """
    to, of = protocol_of(path), protocol_of(source)
    if storage_options and to and of and to != of:
        raise StorageError(
            f"storage_options for {to}:// and for {of}:// at once; load the checkpoint with its "
            "own options, then export the tree with those of the file",
            reason=Reason.BAD_OPTIONS,
        )
    # If neither is a URL, the disk refuses them.
    return storage_options if to or not of else None, storage_options if of else None


def cut(directory: Storage, name: str, nbytes: int) -> Sequence[Span]:
    """Cut a file into spans of the size that suits its store."""
    size = directory.traffic.piece_nbytes
    return [(directory, name, at, min(size, nbytes - at)) for at in range(0, nbytes, size)]


def read_spans(spans: Sequence[Span], read: Callable[[Storage, str, int, int], None]) -> None:
    """Call `read` with each span, several of one store at a time.

    Raises:
        StorageError: reason ``overwritten`` if a file is gone or shorter in the meantime.
    """

    def call(directory: Storage, name: str, at: int, nbytes: int) -> None:
        try:
            read(directory, name, at, nbytes)
        except (EOFError, FileNotFoundError):
            raise overwritten(os.path.join(directory.url, name)) from None

    count = spans[0][0].traffic.reads if spans else 0
    concurrency.run(call, spans, count, name="ckptstore-read")


def overwritten(where: str) -> StorageError:
    """Return the error for a file or directory that changed after its reading began."""
    return StorageError(
        f"{where}: changed while it was read; read it again", reason=Reason.OVERWRITTEN
    )

"""Files on this machine for tools that read no others, in a directory that is always removed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ckptstore.convert import files
from ckptstore.convert.files import File, Span
from ckptstore.errors import CorruptError, Reason, StorageError
from ckptstore.storage import LocalStorage, Storage

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def file(held: File) -> Iterator[str]:
    """Give the path of a file for the block; one in a bucket is copied.

    Raises:
        StorageError: reason ``disk-full`` or ``overwritten``, and what the store says.
    """
    if isinstance(held.place, LocalStorage):
        yield held.where
        return
    with _temporary(held.where) as directory:
        with _writing(held.where, directory):
            _copy({held.place: directory}, _made(held.place, {held.name: held.nbytes}, directory))
        held.check()
        yield os.path.join(directory, held.name)


@contextmanager
def tree(place: Storage) -> Iterator[str]:
    """Give the path of a directory for the block; one in a bucket is copied, with all below it.

    Raises:
        CorruptError: an object has a name that no file can have.
        StorageError: reason ``disk-full`` or ``overwritten``, and what the store says.
    """
    if isinstance(place, LocalStorage):
        yield place.url
        return
    with _temporary(place.url) as directory:
        top = os.path.join(directory, place.url.rpartition("/")[2])
        with _writing(place.url, directory):
            targets, times = {place: top}, dict[Storage, Mapping[str, float]]()
            wanted, left = list[Span](), [place]
            while left:
                here = left.pop()
                times[here] = here.changed()
                os.mkdir(targets[here])
                wanted += _made(here, here.list(), targets[here])
                for name in here.children():
                    left.append(here.child(name))
                    targets[left[-1]] = os.path.join(targets[here], _plain(here, name))
            _copy(targets, wanted)
        for here, before in times.items():
            if here.changed() != before:
                raise files.changed(here.url)
        yield top


def _made(place: Storage, sizes: Mapping[str, int], directory: str) -> list[Span]:
    """Make the files of one directory, empty, and return what is to be copied into them."""
    wanted: list[Span] = []
    for name, nbytes in sizes.items():
        with open(os.path.join(directory, _plain(place, name)), "xb"):
            wanted += files.spans(place, name, nbytes)
    return wanted


def _copy(targets: Mapping[Storage, str], wanted: Sequence[Span]) -> None:
    """Copy spans into the files that are there for them."""

    def take(place: Storage, name: str, at: int, nbytes: int) -> None:
        data = bytearray(nbytes)
        place.get(name, at, data)
        with open(os.path.join(targets[place], name), "r+b") as out:
            out.seek(at)
            out.write(data)

    files.each(wanted, take)


def _plain(place: Storage, name: str) -> str:
    """Return a name that stays in its directory."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise CorruptError(
            f"{place.url}: an object below it is named {name!r:.200}, which no file can be; do not "
            "trust it, or copy to a disk what you need of it"
        )
    return name


@contextmanager
def _temporary(where: str) -> Iterator[str]:
    with _writing(where, "a temporary directory"):
        made = tempfile.TemporaryDirectory(prefix="ckptstore-")
    with made as directory:
        yield directory


@contextmanager
def _writing(where: str, directory: str) -> Iterator[None]:
    """Turn what this machine's disk says into an error of ours."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{where}: could not be copied to {directory}: {error.strerror or error}; make room "
            "there, or name another directory in the environment as TMPDIR",
            reason=Reason.DISK_FULL if error.errno in _FULL else Reason.STORAGE,
        ) from error

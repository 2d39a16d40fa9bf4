"""Local copies, for tools that cannot read stores; the temporary directory is always removed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ckptstore import signals
from ckptstore.convert.files import File, Span, cut, overwritten, read_spans
from ckptstore.errors import CorruptError, Reason, StorageError
from ckptstore.storage import LocalStorage, Storage

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def local_file(file: File) -> Iterator[str]:
    """Yield the path of a file on this machine; a file in a bucket is copied for the block.

    Raises:
        StorageError: reason ``disk-full`` or ``overwritten``; or the store refused.
    """
    if isinstance(file.directory, LocalStorage):
        yield file.where
        return
    with _temporary_directory(file.where) as target:
        with _writing(file.where, target):
            spans = _create_files(file.directory, {file.name: file.nbytes}, target)
            _copy(spans, {file.directory: target})
        file.check()
        yield os.path.join(target, file.name)


@contextmanager
def local_directory(directory: Storage) -> Iterator[str]:
    """Yield the path of a directory on this machine; one in a bucket is copied for the block.

    Its subdirectories are copied too.

    Raises:
        CorruptError: an object has a name that is not possible for a file.
        StorageError: reason ``disk-full`` or ``overwritten``; or the store refused.
    """
    if isinstance(directory, LocalStorage):
        yield directory.url
        return
    with _temporary_directory(directory.url) as temporary:
        top = os.path.join(temporary, directory.url.rpartition("/")[2])
        with _writing(directory.url, temporary):
            targets, times = {directory: top}, dict[Storage, Mapping[str, float]]()
            spans, left = list[Span](), [directory]
            while left:
                source = left.pop()
                times[source] = source.changed()
                os.mkdir(targets[source])
                spans += _create_files(source, source.list(), targets[source])
                for name in source.children():
                    child = source.child(name)
                    left.append(child)
                    targets[child] = os.path.join(targets[source], _checked_name(source, name))
            _copy(spans, targets)
        for source, times_before in times.items():
            if source.changed() != times_before:
                raise overwritten(source.url)
        yield top


def _create_files(source: Storage, sizes: Mapping[str, int], target: str) -> list[Span]:
    """Create the files of one directory, empty, and return the spans to copy into them."""
    spans: list[Span] = []
    for name, nbytes in sizes.items():
        with open(os.path.join(target, _checked_name(source, name)), "xb"):
            spans += cut(source, name, nbytes)
    return spans


def _copy(spans: Sequence[Span], targets: Mapping[Storage, str]) -> None:
    """Copy spans into the files that were created for them.

    Args:
        spans: the spans of files in the store.
        targets: the directory on this machine for each directory in the store.
    """

    def copy(source: Storage, name: str, at: int, nbytes: int) -> None:
        data = bytearray(nbytes)
        source.get(name, at, data)
        with open(os.path.join(targets[source], name), "r+b") as out:
            out.seek(at)
            out.write(data)

    read_spans(spans, copy)


def _checked_name(source: Storage, name: str) -> str:
    """Return a name that stays in its directory.

    Raises:
        CorruptError: the name is not possible for a file.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise CorruptError(
            f"{source.url}: an object below it is named {name!r:.200}, which cannot be the name of "
            "a file; do not trust this directory, or copy the objects that you need to a disk"
        )
    return name


@contextmanager
def _temporary_directory(where: str) -> Iterator[str]:
    with _writing(where, "a temporary directory"):
        temporary = tempfile.TemporaryDirectory(prefix="ckptstore-")
    with temporary as path:
        yield path


@contextmanager
def _writing(where: str, target: str) -> Iterator[None]:
    """Turn an error of this machine's disk into a StorageError."""
    try:
        yield
    except OSError as error:
        signals.pass_on(error)
        raise StorageError(
            f"{where}: could not be copied to {target}: {error.strerror or error}; free some space "
            "there, or set TMPDIR in the environment to another directory",
            reason=Reason.DISK_FULL if error.errno in _FULL else Reason.STORAGE,
        ) from error

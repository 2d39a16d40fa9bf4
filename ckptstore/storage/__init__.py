"""Where the bytes of one checkpoint live: the `Storage` protocol, and `open`, which picks one."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

from ckptstore.errors import StorageError
from ckptstore.storage import local
from ckptstore.wire import Buffer

_LIKE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class Storage(Protocol):
    """One directory of files, on a disk or in a bucket. Names have no slash.

    The bytes that `put` wrote are durable when it returns, their names once `flush` has returned;
    `create` and `swap` make both durable. Every failure is a StorageError that names the file and
    the operation, but where it says else. After a StorageError of `create` or `swap` their effect
    is there or will never be: reading the file back settles which. Where that cannot be promised,
    or the effect is there and may not be durable, they raise OutcomeUnknownError.
    """

    url: str

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

    def prepare(self) -> None:
        """Make the place ready to be written to."""

    def put(self, name: str, chunks: Iterable[Buffer]) -> None:
        """Write a new file from chunks, each of which is let go before the next is asked for."""

    def flush(self) -> None:
        """Make the names of all files put so far durable."""

    def create(self, name: str, data: bytes) -> None:
        """Create a file wholly or not at all; raises FileExistsError where there is one."""

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        """Replace a file that holds `expected`.

        Raises FileExistsError where it holds other bytes, FileNotFoundError where there is none.
        """

    def sizes(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the bytes of each file that is there, held open for `get` as far as it goes."""

    def get(self, name: str, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from `offset`; raises FileNotFoundError or EOFError."""

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole small file, at most `limit` + 1 bytes; raises FileNotFoundError."""

    def list(self) -> Mapping[str, int]:
        """Return the names and bytes of all files."""

    def delete(self, name: str, expected: bytes | None = None) -> None:
        """Remove a file, where `expected` is given only if it holds that; none is no error."""


def open(url: Any, storage_options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage of a checkpoint directory.

    Args:
        url: a path (relative, with ``~``, or os.PathLike) or a ``file://`` URL.
        storage_options: options of the store; a local disk has none.

    Raises:
        StorageError: reason ``bad-url``, ``no-such-store`` or ``bad-options``.
    """
    path = parse(url)
    if storage_options:
        named = isinstance(storage_options, Mapping)
        found = ", ".join(map(str, storage_options)) if named else repr(storage_options)
        raise StorageError(
            f"{path}: a local disk takes no storage_options, found {found:.200}; leave them out",
            reason="bad-options",
        )
    return local.LocalStorage(path)


def parse(url: Any) -> str:
    """Return the absolute path on this machine that a path or ``file://`` URL means.

    Raises:
        StorageError: reason ``bad-url`` or ``no-such-store``.
    """
    try:
        path = os.fspath(url)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path:
        raise StorageError(f"{url!r:.200} is no path and no URL", reason="bad-url")
    scheme, separator, rest = path.partition("://")
    if separator and "/" not in scheme:
        if scheme != "file":
            raise StorageError(
                f"{scheme}:// is not a store that this ckptstore writes or reads; it has local "
                "paths and file:// URLs",
                reason="no-such-store",
            )
        host, slash, rest = rest.partition("/")
        if host not in ("", "localhost"):
            raise StorageError(f"{path}: file:// has no host, found {host!r}", reason="bad-url")
        path = os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(slash + rest)))
    elif _LIKE_URL.match(path):
        raise StorageError(
            f"{path}: a URL that lost a slash (pathlib does that); give it as a str, or, if it is "
            f"a path, as ./{path}",
            reason="bad-url",
        )
    home = os.path.expanduser(path)
    if not path or "\0" in path or (path.startswith("~") and home == path):
        raise StorageError(f"{url!r:.200} is no path: check the name", reason="bad-url")
    try:
        return os.path.abspath(home)
    except FileNotFoundError:
        raise StorageError(
            f"{path}: the current directory was deleted; give an absolute path", reason="bad-url"
        ) from None

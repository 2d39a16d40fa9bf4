"""Where the bytes of one checkpoint live: the `Storage` protocol, and `open`, which picks one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

from ckptstore.errors import StorageError
from ckptstore.storage import local
from ckptstore.wire import Buffer


class Storage(Protocol):
    """One directory of files, on a disk or in a bucket. Names have no slash.

    What `put`, `create` and `swap` return from is durable once `flush` has returned too.
    Every failure is a StorageError that names the file and the operation, but where it says else.
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
        """Replace a file that holds `expected`; raises FileExistsError where it holds other bytes,
        and FileNotFoundError where there is none.
        """

    def sizes(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the bytes of each file that is there, and hold them so that `get` can read them."""

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
    path = local.parse(url)
    if storage_options:
        raise StorageError(
            f"{path}: a local disk takes no storage_options, found {', '.join(storage_options)}",
            reason="bad-options",
        )
    return local.LocalStorage(path)

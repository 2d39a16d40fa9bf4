"""What a reader of a foreign format reads: bytes, an open file, or a file by its path."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ckptstore import registry, storage
from ckptstore.dtypes import Array
from ckptstore.errors import (
    CheckpointError,
    CorruptError,
    StorageError,
    StructureError,
    UnknownTypeError,
)
from ckptstore.index import TypeKind, TypeRow
from ckptstore.storage.local import LocalStorage
from ckptstore.wire import Buffer

_JAX_ARRAY = TypeRow(TypeKind.ARRAY, "jax", "Array")


def read(source: Any) -> tuple[str, Buffer]:
    """Return a name for messages, and all bytes of a source.

    Args:
        source: a path on this machine; or bytes; or an open binary file, read from where it stands.

    Raises:
        StorageError: the file cannot be read; reason ``bad-url`` for what is no source.
        CorruptError: reason ``truncated`` where the file became shorter meanwhile.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return "the bytes", memoryview(source).cast("B")
    if callable(getattr(source, "read", None)):
        data = source.read()
        if not isinstance(data, bytes):
            raise StorageError(
                f"{source!r:.200} is open as text; open it as 'rb'", reason="bad-url"
            )
        return str(getattr(source, "name", "the open file")), data
    path = storage.parse(source)
    return path, read_range(path, 0, size(path))


def size(path: str) -> int:
    """Return the bytes of a file; raises StorageError where there is none."""
    with LocalStorage(os.path.dirname(path)) as directory:
        name = os.path.basename(path)
        found = directory.sizes([name])
        if not directory.holds(name):
            what = "no regular file" if found else "not there"
            raise StorageError(f"{path}: {what}; expected a file")
    return found[name]


def read_range(path: str, offset: int, nbytes: int) -> bytearray:
    """Read a part of a file; raises StorageError or CorruptError."""
    buffer = bytearray(nbytes)
    with LocalStorage(os.path.dirname(path)) as directory:
        try:
            directory.get(os.path.basename(path), offset, buffer)
        except (EOFError, FileNotFoundError) as error:
            raise CorruptError(
                f"{path}: changed while it was read: {error}; read it again", reason="truncated"
            ) from None
    return buffer


def framework(name: str, distribution: str | None = None) -> Any:
    """Import what a reader needs.

    Raises:
        UnknownTypeError: reason ``not-installed``, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if registry.top_level(error.name) != registry.top_level(name):
            raise
        package = distribution or registry.top_level(name)
        raise UnknownTypeError(
            f"the package {package} is not installed here: pip install {package}",
            reason="not-installed",
        ) from None


def maker(arrays: Any) -> Callable[[Array], Any]:
    """Return what makes an array of the kind that the caller asked for.

    Raises:
        StructureError: reason ``bad-argument``.
    """
    if arrays == "numpy":
        return lambda host: host
    if arrays != "jax":
        raise StructureError(
            f"arrays={arrays!r:.80}, expected 'numpy' or 'jax'", reason="bad-argument"
        )
    framework("jax")
    adapter = registry.adapter("jax")
    assert adapter is not None
    return lambda host: adapter.array(host, _JAX_ARRAY, None)


def owned(data: Buffer) -> Array:
    """Return a copy of bytes as flat uint8 that nobody else holds."""
    return np.frombuffer(data, np.uint8).copy()


@contextmanager
def damage(where: str, what: str) -> Iterator[None]:
    """Turn what a foreign parser raises on damaged bytes, which can be anything, into an error."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CorruptError(
            f"{where}: {what} ({type(error).__name__}: {error!s:.300}); restore it from a copy, or "
            "check that it is what you think it is"
        ) from error

"""What a reader of a foreign format reads: bytes, an open file, or a file by its path or URL."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ckptstore.convert import files
from ckptstore.convert.files import Options
from ckptstore.digests import Buffer
from ckptstore.errors import (
    CheckpointError,
    CorruptError,
    Reason,
    StorageError,
    StructureError,
    UnknownTypeError,
)
from ckptstore.format import TypeKind, TypeRow
from ckptstore.format.dtypes import Array
from ckptstore.types import find_adapter, top_level

_JAX_ARRAY = TypeRow(TypeKind.ARRAY, "jax", "Array")


def read(source: Any, storage_options: Options) -> tuple[str, Buffer]:
    """Return a name for messages, and all bytes of a source.

    Args:
        source: a path or URL; or bytes; or an open binary file, read from where it stands.
        storage_options: options of the store of a URL.

    Raises:
        StorageError: the file cannot be read; reason ``bad-url`` for what is no source,
            ``bad-options`` where no store takes them, ``overwritten`` where the file changed
            meanwhile.
    """
    held = isinstance(source, bytes | bytearray | memoryview)
    if storage_options and (held or hasattr(source, "read")):
        raise StorageError(
            "bytes and open files take no storage_options; leave them out, or give the URL",
            reason=Reason.BAD_OPTIONS,
        )
    if held:
        return "the bytes", memoryview(source).cast("B")
    if callable(getattr(source, "read", None)):
        data = source.read()
        if not isinstance(data, bytes):
            raise StorageError(
                f"{source!r:.200} is open as text; open it as 'rb'", reason=Reason.BAD_URL
            )
        return str(getattr(source, "name", "the open file")), data
    with files.opened(source, storage_options) as file:
        return file.where, file.read()


def framework(name: str, distribution: str | None = None) -> Any:
    """Import what a reader needs.

    Raises:
        UnknownTypeError: reason ``not-installed``, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if top_level(error.name) != top_level(name):
            raise
        package = distribution or top_level(name)
        raise UnknownTypeError(
            f"the package {package} is not installed here: pip install {package}",
            reason=Reason.NOT_INSTALLED,
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
            f"arrays={arrays!r:.80}, expected 'numpy' or 'jax'", reason=Reason.BAD_ARGUMENT
        )
    framework("jax")
    adapter = find_adapter("jax")
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

"""The inputs of a reader: bytes, an open file, a path or a URL; and the packages it imports."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar, cast

import numpy as np

from ckptstore import signals, storage
from ckptstore.checkpoint import foreign_directories, foreign_files
from ckptstore.checkpoint.foreign_files import Lead
from ckptstore.convert.files import Options, Path, open_file
from ckptstore.digests import Buffer
from ckptstore.errors import (
    CheckpointError,
    CorruptError,
    Reason,
    StorageError,
    StructureError,
    UnknownTypeError,
    UnsupportedError,
    bad_argument,
)
from ckptstore.format import TypeKind, TypeRow
from ckptstore.format.dtypes import Array
from ckptstore.types import find_adapter, top_level

P = ParamSpec("P")
T = TypeVar("T")

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path or URL; bytes; or an open binary file, read from its position to its end."""

_JAX_ARRAY = TypeRow(TypeKind.ARRAY, "jax", "Array")
_WEAK_ARRAY = TypeRow(TypeKind.ARRAY, "jax", "Array", extra={"weak": True})


class MakeArray(Protocol):
    """Makes the array of a tree from one of numpy."""

    def __call__(self, host: Array, *, weak: bool = False) -> Any:
        """Return it; `weak` is whether it had a weak type in jax."""


def read(source: Source, storage_options: Options) -> tuple[str, Buffer]:
    """Return a name for messages, and all bytes of a source.

    Args:
        source: a path or URL; or bytes; or an open binary file, read from its position.
        storage_options: options of the store of a URL.

    Raises:
        StorageError: the file cannot be read. Reason ``bad-url``: any other object;
            ``bad-options``: the source is not in a store; ``overwritten``: the file changed
            meanwhile.
    """
    is_bytes = isinstance(source, bytes | bytearray | memoryview)
    read_file = getattr(source, "read", None)
    if storage_options and (is_bytes or read_file is not None):
        raise StorageError(
            "bytes and open files take no storage_options; leave them out, or pass the URL",
            reason=Reason.BAD_OPTIONS,
        )
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source)
        plain = view.c_contiguous and view.nbytes > 0
        return "the bytes", view.cast("B") if plain else memoryview(view.tobytes())
    if callable(read_file):
        try:
            data = read_file()
        except (OSError, ValueError) as error:  # a file that is closed, or only written to
            raise StorageError(
                f"{source!r:.200} cannot be read: {error}; open it as 'rb'", reason=Reason.BAD_URL
            ) from error
        if not isinstance(data, bytes):
            raise StorageError(
                f"{source!r:.200} is open as text; open it as 'rb'", reason=Reason.BAD_URL
            )
        return str(getattr(source, "name", "the open file")), data
    path = cast("Path", source)  # `open_file` refuses any other object
    with open_file(path, storage_options) as file:
        return file.where, file.read()


def import_package(name: str, distribution: str | None = None) -> Any:
    """Import a module that a reader needs.

    Args:
        name: the name of the module.
        distribution: the name to install, if it differs from that of the package.

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


def array_maker(where: str, arrays: Any) -> MakeArray:
    """Return a function from a numpy array to an array of the kind in ``arrays=``.

    Raises:
        StructureError: reason ``bad-argument``.
    """
    if arrays == "numpy":
        return lambda host, *, weak=False: host
    if arrays != "jax":
        raise bad_argument(where, "arrays", arrays, "'numpy' or 'jax'")
    import_package("jax")
    adapter = find_adapter("jax")
    assert adapter is not None
    return lambda host, *, weak=False: adapter.array(
        host, _WEAK_ARRAY if weak else _JAX_ARRAY, None
    )


def copy_bytes(data: Buffer) -> Array:
    """Return a private copy of bytes as flat uint8."""
    return np.frombuffer(data, np.uint8).copy()


@contextmanager
def corrupt_on_error(where: str, what: str) -> Iterator[None]:
    """Turn any error of a foreign parser, which damaged bytes may cause, into a CorruptError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        signals.pass_on(error)
        raise CorruptError(
            f"{where}: {what} ({type(error).__name__}: {error!s:.300}); restore it from a copy, or "
            "check that it is the kind of file that you expect"
        ) from error


def leading_on(read: Callable[P, T]) -> Callable[P, T]:
    """Make the errors of a reader name the kind of a source that it cannot read, and its reader."""

    @functools.wraps(read)
    def wrapper(*args: P.args, **options: P.kwargs) -> T:
        try:
            return read(*args, **options)
        except CheckpointError as error:
            source = args[0] if args else options.get("source", options.get("path"))
            lead = _lead(source, options.get("storage_options")) if _may_be_kind(error) else None
            if lead is None or lead.reader == read.__name__:
                raise
            if read.__name__ == "from_equinox" and lead.what == foreign_files.NUMPY_SAVE:
                raise  # its files begin so, too
            where = source if isinstance(source, str | os.PathLike) else "the bytes"
            raise type(error)(
                f"{where}: not a source for {read.__name__}, but {lead}", reason=error.reason
            ) from error

    return wrapper


def _may_be_kind(error: CheckpointError) -> bool:
    """Return whether a source of another kind can be the cause of an error."""
    if error.reason == Reason.OVERWRITTEN:  # its first bytes may be those of another file
        return False
    if isinstance(error, StructureError):
        return error.reason == Reason.AMBIGUOUS
    kinds = CorruptError, UnsupportedError, StorageError
    return isinstance(error, kinds) and error.reason != Reason.CHECKSUM


def _lead(source: Any, storage_options: Any) -> Lead | None:
    """Return the kind of a source, by its content; None if it cannot be looked at."""
    if isinstance(source, bytes | bytearray | memoryview):
        head = bytes(memoryview(source).cast("B")[: foreign_files.HEAD_NBYTES])
        return foreign_files.lead_of(head, "data") if head else None
    if not isinstance(source, str | os.PathLike):
        return None
    try:
        with storage.open(source, storage_options) as place:
            return foreign_directories.lead_of(place)
    except CheckpointError:
        return None

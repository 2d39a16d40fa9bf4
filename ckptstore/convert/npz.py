"""``.npz`` files of numpy: read into a dict of arrays, or written for `numpy.load`."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ckptstore.convert import files, inputs
from ckptstore.convert.export_plan import Entry, Report, plan_export
from ckptstore.convert.flat_names import Loss
from ckptstore.convert.inputs import MakeArray, Source
from ckptstore.convert.pickle import unpickled
from ckptstore.digests import Buffer
from ckptstore.errors import CorruptError, Reason, StructureError
from ckptstore.format import array_bytes
from ckptstore.format.dtypes import Array
from ckptstore.texts import shown

_GROWTH, _GROWTH_LEAST = 64, 256 << 20
"""The bytes that the arrays of a compressed file may take: for each of its own, and at least."""

_NPY = b"\x93NUMPY"


@inputs.leading_on
def from_npz(
    source: Source,
    *,
    arrays: Literal["numpy", "jax"] = "numpy",
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Read a file of `numpy.savez`, `numpy.savez_compressed` or `numpy.save`.

    No code of the file runs. Arrays of Python objects are read as by `from_pickle`: of arrays,
    numbers, texts and plain containers.

    Args:
        source: a path or URL; the bytes; or an open binary file, read from its position to its end.
        arrays: the kind of the arrays.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        A dict from name to array. For a file of `numpy.save`, the array. An array of one Python
        object, as `numpy.save` makes of a dict, comes as that object.

    Raises:
        CorruptError: the file is damaged, or not one of numpy. A ``.npz`` has CRC-32 checksums; in
            a ``.npy``, a damaged number is not noticed. Reason ``too-many``: compressed arrays that
            are over 64 times as large as the file.
        StorageError: the file cannot be read.
        StructureError: reason ``bad-argument``.
        UnsupportedError: reason ``weights-only``: Python objects of other classes.
        UnknownTypeError: reason ``not-installed``.

    Example:
        >>> import numpy as np
        >>> np.savez("params.npz", w=np.ones(3), b=np.zeros(2))
        >>> from_npz("params.npz")
        {'w': array([1., 1., 1.]), 'b': array([0., 0.])}

    Source: docs/moving.md, "In" and "npz".
    """
    make = inputs.array_maker("from_npz", arrays)
    where, data = inputs.read(source, storage_options)
    if bytes(data[: len(_NPY)]) == _NPY:
        return _of_record(where, data, make)
    with (
        inputs.corrupt_on_error(where, "not a file of numpy"),
        zipfile.ZipFile(io.BytesIO(data)) as archive,
    ):
        _check_parts(where, archive, len(data))
        return {
            part.filename.removesuffix(".npy"): _of_record(
                f"{where}: {part.filename!r:.200}", archive.read(part), make
            )
            for part in archive.infolist()
        }


def _check_parts(where: str, archive: zipfile.ZipFile, nbytes: int) -> None:
    """Refuse, before any is read, parts that are not arrays, and too many bytes."""
    parts = archive.infolist()
    names = [part.filename for part in parts]
    other = [name for name in names if not name.endswith(".npy")]
    if other or len(set(names)) < len(names):
        what = f"the part {other[0]!r:.200} is not an array" if other else "it has a name twice"
        raise CorruptError(f"{where}: not a file of numpy.savez: {what}")
    whole = sum(part.file_size for part in parts)
    if whole > max(_GROWTH * nbytes, _GROWTH_LEAST):
        raise CorruptError(
            f"{where}: the file has {nbytes} bytes and claims to hold {whole}, more than {_GROWTH} "
            "times as many; if you trust the file and have the memory, read it with "
            "dict(numpy.load(path))",
            reason=Reason.TOO_MANY,
        )


def _of_record(where: str, data: Buffer, make: MakeArray) -> Any:
    """Return the array of a ``.npy`` record, after a check that its bytes exist."""
    with inputs.corrupt_on_error(where, "not a .npy record"):
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        # The header of version 3 differs in its encoding, which the sizes do not depend on.
        first = version == (1, 0)
        shape, _, dtype = (
            np.lib.format.read_array_header_1_0(stream)
            if first
            else np.lib.format.read_array_header_2_0(stream)
        )
        left = len(data) - stream.tell()
        if dtype.hasobject:
            return _objects(where, memoryview(data)[stream.tell() :], dtype, shape)
        count = math.prod(shape)
        # With a dtype of 0 bytes, any number of elements would fit.
        if count * dtype.itemsize != left or min(shape, default=0) < 0 or count > len(data):
            raise CorruptError(
                f"{where}: {dtype}{list(shape)} needs {count * dtype.itemsize} bytes, found {left}",
                reason=Reason.TRUNCATED,
            )
        stream.seek(0)
        return make(np.lib.format.read_array(stream, allow_pickle=False))


def _objects(where: str, data: Buffer, dtype: np.dtype[Any], shape: Sequence[int]) -> Any:
    value, _ = unpickled(where, data, inputs.array_maker("from_npz", "numpy"))
    if type(value) is not np.ndarray or (value.dtype, value.shape) != (dtype, tuple(shape)):
        raise CorruptError(f"{where}: its objects are not {dtype}{list(shape)}")
    return value[()] if not value.shape else value


def to_npz(
    path: str | os.PathLike[str],
    source: Any,
    *,
    select: str | Sequence[str] | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Report:
    """Write the arrays of a checkpoint, or of a tree, as one uncompressed ``.npz`` file.

    You get a complete file or none. The file is durable when the call returns.

    Args:
        path: the path or URL of the file to write; no suffix is added.
        source: the path or URL of a checkpoint, all bytes of which are checked; or a tree.
        select: as for `load`; names then begin below the selected place.
        overwrite: replace an existing file.
        storage_options: options of the stores of `path` and `source`, if these are URLs.

    Returns:
        The name of each written array, and everything that the format cannot hold.

    Raises:
        StructureError: reason ``name-clash`` for two arrays of one name; ``bad-name`` for a name
            over 65,531 bytes; ``cannot-carry`` for a dtype of ml_dtypes, of which ``.npy`` keeps
            only the size. Nothing is written then.
        AlreadyCommittedError: the file exists.
        OutcomeUnknownError: in a bucket: the file is complete, or does not exist.
        CorruptError, NotCommittedError, StorageError: as for `load`.

    Example:
        >>> import numpy as np
        >>> report = to_npz("params.npz", {"dense": {"w": np.ones(3), "b": np.zeros(2)}})
        >>> sorted(report.names)
        ['dense.b', 'dense.w']
        >>> np.load("params.npz")["dense.w"]
        array([1., 1., 1.])

    Source: docs/moving.md, "Out".
    """
    options, source_options = files.split_options(storage_options, path, source)
    plan = plan_export(source, select, source_options)
    # `numpy.load` removes ".npy" from a name, and a zip ends a name at a NUL.
    held = {id(e.dtype): e.dtype for e in plan.entries}
    bad = {number for number, dtype in held.items() if not _is_held(dtype)}
    plan.refuse("npz", lambda e: id(e.dtype) in bad or e.name.endswith(".npy") or "\0" in e.name)
    _refuse_long_names(plan.entries)
    # Only a bucket needs the size of the file in advance.
    nbytes = sum(map(len, _chunks(plan.entries, _zeros))) if files.protocol_of(path) else 0
    chunks = _chunks(plan.entries, _array)
    where = files.write(path, options, chunks, nbytes, overwrite=overwrite)
    losses = [
        Loss(e.path, "dtype-flags", "that its dtype is aligned, or of records; the fields are held")
        for e in plan.entries
        if e.dtype.isalignedstruct or e.dtype.type is np.record
    ]
    return plan.report(where, losses)


def _refuse_long_names(entries: Sequence[Entry]) -> None:
    """Raise StructureError for a name or headers that are too long for a file."""
    for entry in entries:
        nbytes = len(entry.name.encode())
        if nbytes > _NAME_MAX_NBYTES:
            raise StructureError(
                f"{shown(entry.path)}: its name in the file would have {nbytes} bytes, and npz "
                f"holds {_NAME_MAX_NBYTES} at most; export it by itself with select=",
                reason=Reason.BAD_NAME,
            )
    dtypes = {id(e.dtype): e.dtype for e in entries}
    headers = {n: len(repr(np.lib.format.dtype_to_descr(dtype))) for n, dtype in dtypes.items()}
    nbytes = sum(headers[id(e.dtype)] for e in entries)
    if nbytes > _HEADERS_MAX_NBYTES:
        raise StructureError(
            f"headers of {nbytes} bytes, since each array of an npz repeats the names of its "
            "fields; select fewer arrays",
            reason=Reason.TOO_MANY,
        )


_HEADERS_MAX_NBYTES = 1 << 26
_NAME_MAX_NBYTES = (1 << 16) - 1 - len(".npy")


def _is_held(dtype: np.dtype[Any]) -> bool:
    """Return whether the header of a ``.npy`` leads back to the dtype."""
    try:
        descr: Any = np.lib.format.dtype_to_descr(dtype)
        return bool(np.lib.format.descr_to_dtype(descr) == dtype)
    except (TypeError, ValueError):  # '<f1' of float8_e5m2; fields out of their order
        return False


class _Sink:
    """A stream that cannot seek, and whose bytes are removed as they come."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: Buffer, /) -> int:
        self.pieces.append(bytes(data))
        return len(self.pieces[-1])

    def flush(self) -> None: ...

    def take(self) -> Iterator[bytes]:
        pieces, self.pieces = self.pieces, []
        yield from pieces


def _array(entry: Entry) -> Array:
    return array_bytes.from_bytes(entry.read(), entry.dtype, entry.shape, where=entry.path)


def _zeros(entry: Entry) -> Array:
    """Return an array of the same size that uses no memory."""
    return np.broadcast_to(np.zeros((), entry.dtype), entry.shape)


def _chunks(entries: Sequence[Entry], array: Callable[[Entry], Array]) -> Iterator[bytes]:
    sink = _Sink()
    stream: Any = sink  # it has the methods of a file that a sequentially written zip needs
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            info = zipfile.ZipInfo(f"{entry.name}.npy")  # no time: the same tree, the same bytes
            with archive.open(info, "w", force_zip64=True) as part:
                _write(part, array(entry))
            yield from sink.take()
    yield from sink.take()


def _write(part: Any, array: Array) -> None:
    """Write one ``.npy``; numpy itself would count all elements of an array that has no bytes."""
    if array.nbytes or not array.size:
        np.lib.format.write_array(part, array, allow_pickle=False)
    else:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(part, header)

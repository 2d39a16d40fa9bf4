"""``.npz`` files, as `numpy.load` reads them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ckptstore.convert import files
from ckptstore.convert.export_plan import Entry, Report, plan_export
from ckptstore.convert.flat_names import Loss
from ckptstore.digests import Buffer
from ckptstore.format import array_bytes
from ckptstore.format.dtypes import Array


def to_npz(
    path: str | os.PathLike[str],
    source: Any,
    *,
    select: str | Sequence[str] | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Report:
    """Write the arrays of a checkpoint, or of a tree, as one uncompressed ``.npz`` file.

    The file is there wholly or not at all, and durable when the call returns.

    Args:
        path: the path or URL of the file to write; nothing is added to its name.
        source: the path or URL of a checkpoint, each byte of which is checked; or a tree.
        select: as for `load`; names then begin below what is selected.
        overwrite: replace a file that is there.
        storage_options: options of the store of `path` and of that of `source`, as far as they are
            URLs.

    Returns:
        The name of each array that was written, and all that the format cannot hold.

    Raises:
        StructureError: reason ``name-clash`` for two arrays of one name; ``cannot-carry`` for a
            dtype of ml_dtypes, of which ``.npy`` keeps only the size. Nothing is written then.
        AlreadyCommittedError: the file exists.
        OutcomeUnknownError: in a bucket: the file is there wholly, or not at all.
        CorruptError, NotCommittedError, StorageError: as `load`.

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
    # `numpy.load` takes ".npy" off a name, and a zip ends a name at a NUL.
    plan.refuse("npz", lambda e: not _is_held(e) or e.name.endswith(".npy") or "\0" in e.name)
    # Only a bucket needs to know how long the file will be.
    nbytes = sum(map(len, _chunks(plan.entries, _zeros))) if files.protocol_of(path) else 0
    chunks = _chunks(plan.entries, _array)
    where = files.write(path, options, chunks, nbytes, overwrite=overwrite)
    losses = [
        Loss(e.path, "dtype-flags", "that its dtype is aligned, or of records; the fields are held")
        for e in plan.entries
        if e.dtype.isalignedstruct or e.dtype.type is np.record
    ]
    return plan.report(where, losses)


def _is_held(entry: Entry) -> bool:
    """Return whether the header of a ``.npy`` leads back to the dtype."""
    descr: Any = np.lib.format.dtype_to_descr(entry.dtype)
    try:
        return bool(np.lib.format.descr_to_dtype(descr) == entry.dtype)
    except TypeError:  # '<f1', which float8_e5m2 calls itself
        return False


class _Sink:
    """A stream that cannot seek, and whose bytes are taken out as they come."""

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
    """Return an array of the same size that takes no memory."""
    return np.broadcast_to(np.zeros((), entry.dtype), entry.shape)


def _chunks(entries: Sequence[Entry], array: Callable[[Entry], Array]) -> Iterator[bytes]:
    sink = _Sink()
    stream: Any = sink  # of a file it has what a zip needs that is written from end to end
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            info = zipfile.ZipInfo(f"{entry.name}.npy")  # no time: the same tree, the same bytes
            with archive.open(info, "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array(entry), allow_pickle=False)
            yield from sink.take()
    yield from sink.take()

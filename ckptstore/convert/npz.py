"""``.npz`` files, as `numpy.load` reads them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ckptstore import elements
from ckptstore.convert import outline
from ckptstore.convert.outline import Entry, Loss, Report
from ckptstore.wire import Buffer


def to_npz(
    path: Any,
    source: Any,
    *,
    select: str | Sequence[str] | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Report:
    """Write the arrays of a checkpoint, or of a tree, as one uncompressed ``.npz`` file.

    The file is there wholly or not at all, and durable when the call returns.

    Args:
        path: the file to write, on this machine; nothing is added to its name.
        source: the path or URL of a checkpoint, each byte of which is checked; or a tree.
        select: as for `load`; names then begin below what is selected.
        overwrite: replace a file that is there.
        storage_options: options of the store of a checkpoint.

    Returns:
        What was written under which name, and all that the format could not hold.

    Raises:
        StructureError: reason ``name-clash`` for two arrays of one name; ``cannot-carry`` for a
            dtype of ml_dtypes, of which ``.npy`` keeps only the size. Nothing is written then.
        AlreadyCommittedError: the file exists.
        CorruptError, NotCommittedError, StorageError: as `load`.
    """
    found = outline.outline(source, select, storage_options)
    # `numpy.load` takes ".npy" off a name, and a zip ends a name at a NUL.
    found.refuse("npz", lambda e: not _is_held(e) or e.name.endswith(".npy") or "\0" in e.name)
    outline.publish(path, _chunks(found.entries), overwrite=overwrite)
    lost = [
        Loss(e.path, "dtype-flags", "that its dtype is aligned, or of records; the fields are held")
        for e in found.entries
        if e.dtype.isalignedstruct or e.dtype.type is np.record
    ]
    return found.report(path, lost)


def _is_held(entry: Entry) -> bool:
    """Tell whether the header of a ``.npy`` leads back to the dtype."""
    descr: Any = np.lib.format.dtype_to_descr(entry.dtype)
    try:
        return bool(np.lib.format.descr_to_dtype(descr) == entry.dtype)
    except TypeError:  # '<f1', which float8_e5m2 calls itself
        return False


class _Sink:
    """A stream without an end to seek to, whose bytes are taken out as they come."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: Buffer, /) -> int:
        self.pieces.append(bytes(data))
        return len(self.pieces[-1])

    def flush(self) -> None: ...

    def take(self) -> Iterator[bytes]:
        pieces, self.pieces = self.pieces, []
        yield from pieces


def _chunks(entries: Sequence[Entry]) -> Iterator[Buffer]:
    sink = _Sink()
    stream: Any = sink  # of a file it has what a zip needs that is written from end to end
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            data = entry.read()
            array = elements.from_bytes(data, entry.dtype, entry.shape, where=entry.path)
            info = zipfile.ZipInfo(f"{entry.name}.npy")  # no time: the same tree, the same bytes
            with archive.open(info, "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)
            yield from sink.take()
    yield from sink.take()

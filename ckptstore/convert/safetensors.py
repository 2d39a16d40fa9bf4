"""safetensors files: read by the `safetensors` library, and written directly in its format.

The library checks the header of an untrusted file. It is not used for writing, because it needs all
tensors in memory at once. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ckptstore import storage
from ckptstore.convert import files, inputs
from ckptstore.convert.export_plan import Entry, Report, plan_export
from ckptstore.convert.files import Options
from ckptstore.convert.flat_names import Loss
from ckptstore.digests import Buffer
from ckptstore.errors import (
    CorruptError,
    Reason,
    StructureError,
    UnsupportedError,
    bad_argument,
)
from ckptstore.format import array_bytes, dtypes
from ckptstore.format.dtypes import Array

_HEADER_MAX_NBYTES = 100_000_000  # the library refuses more
_DTYPES = {
    "BOOL": "bool",
    **{
        f"{letter}{bits}": f"{name}{bits}"
        for letter, name in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""The name of each dtype in the format of ckptstore, by its name in safetensors."""

_NAMES = {name: code for code, name in _DTYPES.items()}
_METADATA = "__metadata__"


@inputs.leading_on
def from_safetensors(
    path: str | os.PathLike[str],
    *,
    arrays: Literal["numpy", "jax"] = "numpy",
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Read a safetensors file, or all files of a sharded one.

    Args:
        path: the path or URL of the file, or of the index of a sharded one (``….json``), whose
            files stand beside it.
        arrays: the kind of the arrays.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        A dict from name to array, with the dtypes of the file, also bfloat16 and float8.

    Raises:
        CorruptError: the file or the index is damaged. There is no checksum, so a damaged number is
            not noticed.
        StorageError: a file cannot be read.
        StructureError: reason ``bad-argument``.
        UnsupportedError: reason ``dtype-not-here`` for a dtype of less than a byte.
        UnknownTypeError: reason ``not-installed``.

    Example:
        >>> import numpy as np
        >>> report = to_safetensors("model.safetensors", {"w": np.arange(3)})
        >>> from_safetensors("model.safetensors")
        {'w': array([0, 1, 2])}

    Source: docs/moving.md, "In" and "safetensors".
    """
    make = inputs.array_maker("from_safetensors", arrays)
    if not storage.absolute(path).endswith(".json"):
        return {name: make(array) for name, array in _read(path, storage_options).items()}
    where, file_of = _weight_map(path, storage_options)
    beside = storage.absolute(path).rpartition("/")[0]
    shards = {
        file: _read(f"{beside}/{file}", storage_options) for file in dict.fromkeys(file_of.values())
    }
    stored = {(name, file) for file, tensors in shards.items() for name in tensors}
    if stored != set(file_of.items()):
        name, file = sorted(stored ^ set(file_of.items()))[0]
        raise CorruptError(
            f"{where}: the index and the files disagree about {name!r:.200} in {file:.200}; "
            "download all files again"
        )
    return {name: make(shards[file].pop(name)) for name, file in file_of.items()}


def safetensors_metadata(
    path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Read the metadata of one safetensors file, and none of its tensors.

    Args:
        path: the path or URL of the file.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        The metadata of the header; an empty dict if it has none.

    Raises:
        CorruptError: the header is missing or damaged.
        StorageError: the file cannot be read.

    Example:
        >>> import numpy as np
        >>> tree, metadata = {"w": np.ones(3)}, {"format": "np"}
        >>> report = to_safetensors("model.safetensors", tree, metadata=metadata)
        >>> safetensors_metadata("model.safetensors")
        {'format': 'np'}

    Source: docs/moving.md, "safetensors".
    """
    with files.open_file(path, storage_options) as file:
        where, nbytes = file.where, file.nbytes
        length = int.from_bytes(file.read(0, min(8, nbytes)), "little")
        if nbytes < 8 or length > min(nbytes - 8, _HEADER_MAX_NBYTES):
            raise CorruptError(
                f"{where}: not a safetensors file: its first 8 bytes claim a header of {length} "
                "bytes"
            )
        header = file.read(8, length)
    metadata = _json(where, header).get(_METADATA, {})
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise CorruptError(f"{where}: the metadata is not a map from str to str")
    return metadata


def _read(path: str | os.PathLike[str], storage_options: Options) -> dict[str, Array]:
    library = inputs.import_package("safetensors")
    where, data = inputs.read(path, storage_options)
    with inputs.corrupt_on_error(where, "not a sound safetensors file"):
        tensors = library.deserialize(bytes(data))
    # If two tensors have one name, the library returns the last.
    _json(where, data[8 : 8 + int.from_bytes(data[:8], "little")])
    del data
    out = {}
    for name, tensor in tensors:
        code, shape = tensor["dtype"], tuple(tensor["shape"])
        if code not in _DTYPES:
            raise UnsupportedError(
                f"{where}: {name!r:.200} is of {code}, which has no numpy dtype of whole bytes",
                reason=Reason.DTYPE_NOT_HERE,
            )
        dtype = dtypes.resolve(_DTYPES[code], where=where)
        with inputs.corrupt_on_error(where, f"not an array: {name!r:.200}"):
            values = inputs.copy_bytes(tensor.pop("data"))
            at = f"{where}: {name!r:.200}"
            out[name] = array_bytes.from_bytes(values, dtype, shape, where=at)
    return out


def _weight_map(
    path: str | os.PathLike[str], storage_options: Options
) -> tuple[str, dict[str, str]]:
    where, data = inputs.read(path, storage_options)
    file_of = _json(where, data).get("weight_map")
    if type(file_of) is not dict or not all(_is_plain(file) for file in file_of.values()):
        raise CorruptError(
            f"{where}: not an index of safetensors: its weight_map must have, for each name, a "
            "file beside it"
        )
    return where, file_of


def _is_plain(file: Any) -> bool:
    """Return whether an index names a file beside it, not one in another directory."""
    return type(file) is str and os.path.basename(file) == file and file.endswith(".safetensors")


def _json(where: str, data: Buffer) -> dict[str, Any]:
    with inputs.corrupt_on_error(where, "not a JSON object"):
        value = json.loads(bytes(data), object_pairs_hook=_unique)
    if type(value) is not dict:
        raise CorruptError(f"{where}: not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; raise ValueError if it has a key twice."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a key stands twice")
    return entries


def to_safetensors(
    path: str | os.PathLike[str],
    source: Any,
    *,
    select: str | Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Report:
    """Write the arrays of a checkpoint, or of a tree, as one safetensors file.

    You get a complete file or none. The file is durable when the call returns.

    Args:
        path: the path or URL of the file to write.
        source: the path or URL of a checkpoint, all bytes of which are checked; or a tree.
        select: as for `load`; names then begin below the selected place.
        metadata: strings by name, for the header.
        overwrite: replace an existing file.
        storage_options: options of the stores of `path` and `source`, if these are URLs.

    Returns:
        The name of each written array, and everything that the format cannot hold.

    Raises:
        StructureError: reason ``name-clash`` for two arrays of one name; ``cannot-carry`` for a
            dtype that the format lacks; ``metadata``. Nothing is written then.
        AlreadyCommittedError: the file exists.
        OutcomeUnknownError: in a bucket: the file is complete, or does not exist.
        CorruptError, NotCommittedError, StorageError: as for `load`.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = ckptstore.save("ckpt", {"params": {"w": np.ones(3)}, "step": 7})
        >>> report = to_safetensors("model.safetensors", "ckpt", select="$.params")
        >>> dict(report.names), report.nbytes
        ({'w': "$['params']['w']"}, 24)

    Source: docs/moving.md, "Out".
    """
    metadata = _checked(metadata)
    options, source_options = files.split_options(storage_options, path, source)
    plan = plan_export(source, select, source_options)
    plan.refuse("safetensors", lambda e: _code(e) is None or e.name == _METADATA)
    # Widest first, so that every tensor is aligned for its dtype.
    entries = sorted(plan.entries, key=lambda entry: -entry.itemsize)
    losses = [
        Loss(e.path, "byte-order", "big-endian; written little-endian, with equal values")
        for e in entries
        if str(e.stored).startswith(">")
    ]
    if len(entries) > 1:
        losses.append(Loss("$", "order", "readers return the names in their own order"))
    header = _header(entries, metadata)
    nbytes = len(header) + plan.nbytes
    where = files.write(path, options, _chunks(header, entries), nbytes, overwrite=overwrite)
    return plan.report(where, losses)


def _checked(metadata: Mapping[str, str] | None) -> dict[str, str]:
    if metadata is None:
        return {}
    is_map = isinstance(metadata, Mapping)
    if not is_map or not all(_is_text(x) for item in metadata.items() for x in item):
        raise bad_argument(
            "to_safetensors",
            "metadata",
            metadata,
            "a map from str to str without lone surrogates, such as {'format': 'np'}",
            reason=Reason.METADATA,
        )
    return dict(metadata)


def _is_text(x: Any) -> bool:
    """Return whether readers accept a str: JSON can hold lone surrogates, which they refuse."""
    return type(x) is str and not any("\ud800" <= c <= "\udfff" for c in x)


def _code(entry: Entry) -> str | None:
    stored = entry.stored
    return _NAMES.get(stored.removeprefix(">")) if isinstance(stored, str) else None


def _header(entries: Sequence[Entry], metadata: dict[str, str]) -> bytes:
    table: dict[str, Any] = {_METADATA: metadata} if metadata else {}
    at = 0
    for entry in entries:
        table[entry.name] = {
            "dtype": _code(entry),
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.nbytes],
        }
        at += entry.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    if len(text) > _HEADER_MAX_NBYTES:
        raise StructureError(
            f"the header has {len(text)} bytes, and readers of safetensors refuse more than "
            f"{_HEADER_MAX_NBYTES}; select fewer arrays",
            reason=Reason.TOO_MANY,
        )
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _chunks(header: bytes, entries: Sequence[Entry]) -> Iterator[Buffer]:
    yield header
    for entry in entries:
        yield entry.read()

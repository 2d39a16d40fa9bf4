"""equinox leaves: `eqx.tree_serialise_leaves`, one ``.npy`` record after another."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.convert import files, inputs
from ckptstore.convert.files import Options
from ckptstore.convert.inputs import Source
from ckptstore.convert.like import (
    Differences,
    array_form,
    describe_value,
    with_leaves,
)
from ckptstore.digests import Buffer
from ckptstore.errors import CorruptError, Reason
from ckptstore.format import array_bytes, dtypes
from ckptstore.format.dtypes import Array

_SCALARS = {bool: "b", int: "iu", float: "f", complex: "c"}


@inputs.leading_on
def from_equinox(
    source: Source, like: Any, *, storage_options: Mapping[str, Any] | None = None
) -> Any:
    """Read the leaves of `eqx.tree_serialise_leaves` into the tree that wrote them.

    The file has neither names nor structure: arrays are matched by their order, and everything
    else comes from `like`, as in equinox. Files that were written with a filter_spec cannot be
    read.

    Args:
        source: a path or URL (equinox adds ``.eqx`` if there is no suffix); bytes; or an open
            binary file, read from its position to its end.
        like: a tree of the same structure, of live values or `jax.ShapeDtypeStruct`.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        A tree of the types of `like`.

    Raises:
        CorruptError: a record is damaged or cut short. There is no checksum: a damaged number is
            not noticed.
        StorageError: the file cannot be read.
        StructureError: reason ``differs-from-like``, with all differences; also if the file holds
            fewer or more leaves.
        UnknownTypeError: reason ``not-installed``.

    Example:
        >>> import equinox as eqx, jax.numpy as jnp
        >>> eqx.tree_serialise_leaves("model.eqx", {"w": jnp.arange(3), "steps": 7})
        >>> from_equinox("model.eqx", like={"w": jnp.zeros(3, int), "steps": 0})
        {'w': Array([0, 1, 2], dtype=int32), 'steps': 7}

    Source: docs/moving.md, "In" and "equinox".
    """
    tree_util = inputs.import_package("jax").tree_util
    where, data = inputs.read(_with_suffix(source, storage_options), storage_options)
    leaves = tree_util.tree_flatten_with_path(like)[0]
    differences, at, out = Differences(where), 0, []
    for steps, x in leaves:
        path = f"${tree_util.keystr(steps)}"
        if not _is_stored(x):
            if hasattr(x, "__jax_array__"):
                differences.add(path, f"{describe_value(x)} is not an array that can be read")
            out.append(x)
            continue
        if at == len(data):
            text = f"{describe_value(x)} in `like`, not in the file, which ends here"
            differences.add(path, text)
            continue
        record = _read(data, at, f"{where}: {path}")
        at = record.end
        out.append(_value(differences, path, record, x))
    if at < len(data):
        differences.add("$", f"{len(data) - at} bytes in the file after the last leaf of `like`")
    differences.check()
    return with_leaves(like, out)


@dataclass(frozen=True, slots=True)
class _Record:
    """One array of the file; `end` is the start of the next."""

    data: Array
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    end: int

    def array(self, dtype: np.dtype[Any], where: str) -> Array:
        """Return the array, of a dtype of the same size."""
        shape = self.shape[::-1] if self.fortran else self.shape
        array = array_bytes.from_bytes(self.data, dtype, shape, where=where)
        return array.transpose() if self.fortran else array


def _with_suffix(source: Source, storage_options: Options) -> Source:
    """Return the source, or the file with ``.eqx`` if a path without a suffix does not exist."""
    if not isinstance(source, str | os.PathLike) or os.path.splitext(source)[1]:
        return source
    directory, name = files.locate(source, storage_options)
    with directory:
        return source if directory.holds(name) else f"{os.fspath(source)}.eqx"


def _is_stored(x: Any) -> bool:
    """Return whether equinox writes a record for a leaf (it refuses a key, and skips others)."""
    if type(x) in _SCALARS or isinstance(x, np.ndarray | np.generic):
        return True
    return array_form(x) is not None


def _read(data: Buffer, at: int, where: str) -> _Record:
    """Read the record at a byte; memory is allocated only after a check that its bytes exist."""
    with inputs.corrupt_on_error(where, "not a .npy record"):
        stream = io.BytesIO(memoryview(data)[at : at + (64 << 10)])
        version = np.lib.format.read_magic(stream)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = header(stream)
    start = at + stream.tell()
    nbytes = math.prod(shape) * dtype.itemsize
    # With a dtype of 0 bytes, any number of elements would fit.
    if dtype.hasobject or not dtype.itemsize or min(shape, default=0) < 0:
        raise CorruptError(f"{where}: {dtype}{list(shape)} is not an array of numbers")
    if nbytes > len(data) - start:
        raise CorruptError(
            f"{where}: {dtype}{list(shape)} needs {nbytes} bytes, found {len(data) - start}",
            reason=Reason.TRUNCATED,
        )
    end = start + nbytes
    return _Record(inputs.copy_bytes(memoryview(data)[start:end]), dtype, shape, fortran, end)


def _value(differences: Differences, path: str, record: _Record, like: Any) -> Any:
    # For dtypes of ml_dtypes, numpy's own writer keeps only the size of an element.
    form, dtype = array_form(like), record.dtype
    if isinstance(like, np.generic) or type(like) in _SCALARS:
        return _scalar(differences, path, record, like)
    if form is not None and dtype.kind == "V" and dtype.names is None:
        wanted = dtypes.resolve(form.dtype, where="like")
        if wanted.itemsize == dtype.itemsize and wanted.names is None:
            dtype = wanted
    with inputs.corrupt_on_error(path, "not an array"):
        stored = record.array(dtype, path)
    return differences.as_like(path, stored, like)


def _scalar(differences: Differences, path: str, record: _Record, like: Any) -> Any:
    """Return a Python or numpy scalar, stored in any width."""
    dtype, wanted = record.dtype, np.asarray(like).dtype
    if dtype.kind == wanted.kind == "V" and dtype.itemsize == wanted.itemsize:
        dtype = wanted
    if record.shape or dtype.kind not in _SCALARS.get(type(like), wanted.kind):
        stored = f"{dtype}{list(record.shape)}"
        differences.add(path, f"{stored} in the file, {describe_value(like)} in `like`")
        return like
    return type(like)(record.array(dtype, path).item())

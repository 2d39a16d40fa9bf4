"""flax msgpack bytes: `flax.serialization.to_bytes` and `msgpack_serialize`.

They are read without flax: the contents are msgpack with three extension types, and large arrays in
chunks. https://flax.readthedocs.io/en/latest/api_reference/flax.serialization.html
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgpack
import numpy as np

from ckptstore import signals, storage
from ckptstore.checkpoint import numbered
from ckptstore.convert import inputs
from ckptstore.convert.files import Options
from ckptstore.convert.inputs import Source
from ckptstore.convert.like import Differences, describe_value, path_step
from ckptstore.digests import Buffer
from ckptstore.errors import CorruptError, Reason, StorageError, StructureError
from ckptstore.format import array_bytes, dtypes, wire
from ckptstore.format.dtypes import Array

_MAX_ELEMENTS = 1 << 24
_MAX_DEPTH = 500  # the limit of msgpack's own decoder is 511
_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"


@inputs.leading_on
def from_flax(
    source: Source,
    like: Any = None,
    *,
    arrays: Literal["numpy", "jax"] = "numpy",
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Read the msgpack bytes of `flax.serialization.to_bytes` or `msgpack_serialize`.

    flax stores every container as a dict with str keys. It stores a list or tuple without a state
    dict as a list.

    Args:
        source: the bytes, a path or URL, or an open binary file. Of a directory of checkpoints
            you get the newest (``checkpoint_10`` before ``checkpoint_9``), and a line in the log
            names it.
        like: a tree of the same structure, of live values or `jax.ShapeDtypeStruct`. Types, static
            fields and shardings come from it, values from the file; needs flax.
        arrays: the kind of the arrays, if you pass no `like`.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        Without `like` the dicts that flax stored, else a tree of the types of `like`.

    Raises:
        CorruptError: flax did not write these bytes. They have no checksum: a damaged number is
            not noticed.
        StorageError: the file cannot be read.
        StructureError: reason ``differs-from-like``, with all differences; ``bad-argument``.
        UnknownTypeError: reason ``not-installed``.

    Example:
        >>> import flax.serialization, numpy as np
        >>> data = flax.serialization.to_bytes({"w": np.ones(3), "sizes": (1, 2)})
        >>> from_flax(data)
        {'w': array([1., 1., 1.]), 'sizes': {'0': 1, '1': 2}}
        >>> from_flax(data, like={"w": np.zeros(3), "sizes": (0, 0)})
        {'w': array([1., 1., 1.]), 'sizes': (1, 2)}

    Source: docs/moving.md, "In" and "flax".
    """
    make = inputs.array_maker("from_flax", arrays if like is None else "numpy")
    where, data = _read(source, storage_options)
    stored = _Decoder(where).decode(data)
    return _map_arrays(stored, make) if like is None else _fill(stored, like, where)


def _read(source: Source, storage_options: Options) -> tuple[str, Buffer]:
    """Return a name for messages, and the bytes: of a directory, those of the newest checkpoint."""
    try:
        return inputs.read(source, storage_options)
    except StorageError:
        if not isinstance(source, str | os.PathLike):
            raise
        with storage.open(source, storage_options) as place:
            files, children = place.list(), place.children()
        steps = numbered.newest_first([*files, *children])
        if not steps or steps[0] in children:
            raise
        numbered.log_choice(place.url, steps[0], len(steps))
        return inputs.read(f"{storage.absolute(source)}/{steps[0]}", storage_options)


def _map_arrays(x: Any, make: Callable[[Array], Any]) -> Any:
    """Put another array in the place of each array, and return the tree."""
    top = [x]
    todo: list[Any] = [top]
    while todo:
        part = todo.pop()
        for key, value in list(part.items() if type(part) is dict else enumerate(part)):
            if type(value) is np.ndarray:
                part[key] = make(value)
            elif type(value) in (dict, list):
                todo.append(value)
    return top[0]


class _Decoder:
    """A reader of flax's msgpack, which checks it before anything is allocated."""

    def __init__(self, where: str) -> None:
        self.where = where

    def decode(self, data: Buffer) -> Any:
        wire.scan(data, self.where, _MAX_ELEMENTS, _MAX_DEPTH, foreign=True)
        with inputs.corrupt_on_error(self.where, "not the msgpack of flax"):
            return msgpack.unpackb(
                data,
                raw=False,
                strict_map_key=False,
                ext_hook=self._extension,
                object_pairs_hook=self._pairs,
            )

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> Any:
        out: dict[Any, Any] = {}
        for key, value in pairs:
            if type(key) not in (str, int):
                raise self._bad(f"a key of type {type(key).__name__}")
            if key in out:
                raise CorruptError(
                    f"{self.where}: the key {key!r:.200} stands twice",
                    reason=Reason.DUPLICATE_KEY,
                )
            out[key] = value
        return self._joined(out) if _CHUNKED in out else out

    def _extension(self, code: int, data: bytes) -> Any:
        if code == _COMPLEX:
            parts = self._inner(data)
            if type(parts) is not list or [*map(type, parts)] != [float, float]:
                raise self._bad("a complex number that is not two floats")
            return complex(*parts)
        if code not in (_NDARRAY, _SCALAR):
            raise self._bad(f"the extension type {code}")
        array = self._array(self._inner(data))
        if code == _SCALAR and array.shape:
            raise self._bad(f"a scalar of shape {list(array.shape)}")
        return array[()] if code == _SCALAR else array

    def _inner(self, data: bytes) -> Any:
        wire.scan(data, self.where, dtypes.MAX_RANK + 8, 4, foreign=True)
        return msgpack.unpackb(data, raw=True)

    def _array(self, parts: Any) -> Array:
        kinds = [*map(type, parts)] if type(parts) is list else []
        if kinds != [list, bytes, bytes] or not _is_shape(parts[0]):
            raise self._bad("an array that is not (shape, dtype, bytes)")
        shape, name, data = parts
        stored = name.decode("ascii", "replace")
        dtype = dtypes.resolve(stored.removeprefix(">"), where=self.where)
        # With a dtype of 0 bytes, any number of elements would fit.
        if not dtype.itemsize or dtype.itemsize * math.prod(shape) != len(data):
            raise CorruptError(
                f"{self.where}: {len(data)} bytes for an array of {stored}{shape}",
                reason=Reason.TRUNCATED,
            )
        return array_bytes.from_bytes(
            inputs.copy_bytes(data), dtype, tuple(shape), where=self.where
        )

    def _joined(self, chunked: dict[Any, Any]) -> Any:
        """Return an array that flax cut because of msgpack's limit of 4 GiB."""
        shape, chunks = (_values(chunked.get(name)) for name in ("shape", "chunks"))
        sound = chunks and all(type(chunk) is np.ndarray for chunk in chunks)
        if not sound or not _is_shape(shape) or len({chunk.dtype for chunk in chunks}) > 1:
            raise self._bad("an array in chunks that do not fit together")
        whole = np.concatenate([chunk.reshape(-1) for chunk in chunks])
        return whole.reshape(shape)

    def _bad(self, what: str) -> CorruptError:
        return CorruptError(
            f"{self.where}: {what}, which flax does not write", reason=Reason.BAD_MSGPACK
        )


def _values(part: Any) -> list[Any]:
    """Return the items of a tuple, which flax wrote as a dict; no items for anything else."""
    return list(part.values()) if type(part) is dict else []


def _is_shape(shape: Any) -> bool:
    return type(shape) is list and all(type(n) is int and n >= 0 for n in shape)


def _fill(stored: Any, like: Any, where: str) -> Any:
    """Return `like` with the stored values, by flax's own rule for each class."""
    serialization = inputs.import_package("flax.serialization")
    differences = Differences(where)
    state_dict = _as_like(differences, "$", stored, serialization.to_state_dict(like))
    differences.check()
    try:
        return serialization.from_state_dict(like, state_dict)
    except Exception as error:  # of functions that the user registered for a class
        signals.pass_on(error)
        raise StructureError(
            f"{where}: flax could not put the values into `like`: {error!s:.500}",
            reason=Reason.DIFFERS_FROM_LIKE,
        ) from error


def _as_like(differences: Differences, path: str, stored: Any, like: Any) -> Any:
    """Return a stored state dict with leaves of the same types as in that of `like`."""
    if type(like) is not dict:
        return differences.as_like(path, stored, like)
    if type(stored) is not dict:
        text = f"{describe_value(stored)} in the file, a container in `like`"
        differences.add(path, text)
        return like
    for key in stored:
        if key not in like:
            text = f"{describe_value(stored[key])} in the file, not in `like`"
            differences.add(path + path_step(key), text)
    out = {}
    for key, value in like.items():
        below = path + path_step(key)
        if key in stored:
            out[key] = _as_like(differences, below, stored[key], value)
        else:
            differences.add(below, f"{describe_value(value)} in `like`, not in the file")
    return out

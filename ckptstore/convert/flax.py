"""flax msgpack bytes: `flax.serialization.to_bytes` and `msgpack_serialize`.

They are read without flax: what is inside is msgpack with three extension types, and large arrays
in chunks. https://flax.readthedocs.io/en/latest/api_reference/flax.serialization.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgpack
import numpy as np

from ckptstore.convert import inputs
from ckptstore.convert.files import Options
from ckptstore.convert.like import Likeness, step, text_of
from ckptstore.digests import Buffer
from ckptstore.errors import CorruptError, Reason, StructureError
from ckptstore.format import array_bytes, dtypes, wire
from ckptstore.format.dtypes import Array

_MAX_ELEMENTS = 1 << 24
_MAX_DEPTH = 500  # of msgpack's own decoder: 511
_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"


def from_flax(
    source: Any,
    like: Any = None,
    *,
    arrays: Literal["numpy", "jax"] = "numpy",
    storage_options: Options = None,
) -> Any:
    """Read flax msgpack bytes.

    flax stores every container as a dict with str keys, but for lists and tuples that stand where
    no state dict was made, which are lists.

    Args:
        source: the bytes, a path or URL, or an open binary file.
        like: a tree of the same structure, of live values or `jax.ShapeDtypeStruct`. Types, static
            fields and shardings come from it, values from the file; needs flax.
        arrays: what arrays become where there is no `like`.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        Without `like` the dicts that flax stored, else a tree of the types of `like`.

    Raises:
        CorruptError: the bytes are not what flax writes. Nothing in them is a checksum: a damaged
            number is not noticed.
        StorageError: the file cannot be read.
        StructureError: reason ``differs-from-like``, with all differences.
        UnknownTypeError: reason ``not-installed``.
    """
    make = inputs.maker(arrays if like is None else "numpy")
    where, data = inputs.read(source, storage_options)
    stored = _Decoder(where).decode(data)
    return _each(stored, make) if like is None else _fill(stored, like, where)


def _each(x: Any, make: Callable[[Array], Any]) -> Any:
    """Turn every array into what the caller asked for."""
    if type(x) is dict:
        return {key: _each(value, make) for key, value in x.items()}
    if type(x) is list:
        return [_each(item, make) for item in x]
    return make(x) if type(x) is np.ndarray else x


class _Decoder:
    def __init__(self, where: str) -> None:
        self.where = where

    def decode(self, data: Buffer) -> Any:
        wire.scan(data, self.where, _MAX_ELEMENTS, _MAX_DEPTH, foreign=True)
        with inputs.damage(self.where, "not the msgpack of flax"):
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
                    f"{self.where}: the key {key!r:.200} stands twice", reason=Reason.DUPLICATE_KEY
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
        # Of a dtype of no bytes any number of elements would be there.
        if not dtype.itemsize or dtype.itemsize * math.prod(shape) != len(data):
            raise CorruptError(
                f"{self.where}: {len(data)} bytes for an array of {stored}{shape}",
                reason=Reason.TRUNCATED,
            )
        return array_bytes.from_bytes(inputs.owned(data), dtype, tuple(shape), where=self.where)

    def _joined(self, chunked: dict[Any, Any]) -> Any:
        """Put an array together that flax cut because msgpack takes no more than 4 GiB."""
        shape, chunks = (_values(chunked.get(name)) for name in ("shape", "chunks"))
        sound = chunks and all(type(chunk) is np.ndarray for chunk in chunks)
        if not sound or not _is_shape(shape) or len({chunk.dtype for chunk in chunks}) > 1:
            raise self._bad("an array in chunks that do not fit together")
        whole = np.concatenate([chunk.reshape(-1) for chunk in chunks])
        return whole.reshape(shape)

    def _bad(self, what: str) -> CorruptError:
        return CorruptError(
            f"{self.where}: {what} is nothing that flax writes", reason=Reason.BAD_MSGPACK
        )


def _values(part: Any) -> list[Any]:
    """Return the items of a tuple, which flax wrote as a dict; none where it is something else."""
    return list(part.values()) if type(part) is dict else []


def _is_shape(shape: Any) -> bool:
    return type(shape) is list and all(type(n) is int and n >= 0 for n in shape)


def _fill(stored: Any, like: Any, where: str) -> Any:
    """Give `like` the stored values, by flax's own rules for each class."""
    serialization = inputs.framework("flax.serialization")
    likeness = Likeness(where)
    fitted = _fit(likeness, "$", stored, serialization.to_state_dict(like))
    likeness.done()
    try:
        return serialization.from_state_dict(like, fitted)
    except Exception as error:  # functions that classes of the user registered
        raise StructureError(
            f"{where}: flax could not put the values into `like`: {error!s:.500}",
            reason=Reason.DIFFERS_FROM_LIKE,
        ) from error


def _fit(likeness: Likeness, path: str, stored: Any, like: Any) -> Any:
    if type(like) is not dict:
        return likeness.leaf(path, stored, like)
    if type(stored) is not dict:
        likeness.differ(path, f"{text_of(stored)} in the file, a container in `like`")
        return like
    for key in stored:
        if key not in like:
            likeness.differ(path + step(key), f"{text_of(stored[key])} in the file, not in `like`")
    out = {}
    for key, value in like.items():
        if key in stored:
            out[key] = _fit(likeness, path + step(key), stored[key], value)
        else:
            likeness.differ(path + step(key), f"{text_of(value)} in `like`, not in the file")
    return out

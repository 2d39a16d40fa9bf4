"""The elements of an array as the bytes of a span, and back. Spec: section 6.

The bytes are always little-endian and C-ordered, in any memory layout of the array.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.errors import CorruptError, Reason
from ckptstore.format import dtypes
from ckptstore.format.dtypes import Array, DtypeRefusal

_LAST_CODE_POINT = 0x10FFFF
_MANY_AXES = 30
_FORMS_KEPT = 64


def to_bytes(array: Array) -> Array:
    """Return the stored bytes of an array as a flat uint8 array, as a view if possible.

    Byte order becomes little-endian, order C; padding of structures and of longdouble, the unused
    bits of sub-byte dtypes and the unused values of a bool byte become zero.

    Args:
        array: an array of a dtype that `describe_dtype` accepts, in any layout of memory.

    Raises:
        DtypeRefusal: the array holds text with a code point that Unicode does not have.

    Example:
        >>> to_bytes(np.array([[1, 2]], ">u2"))
        array([1, 0, 2, 0], dtype=uint8)
    """
    dtype = array.dtype
    if _beyond_unicode(array):
        raise DtypeRefusal(
            "an array of str holds a code point over U+10FFFF, which is not text; save it as "
            'numbers: np.ascontiguousarray(x).view("uint32")'
        )
    if not _is_little(dtype):
        array = _swapped(array, dtype.newbyteorder("<"))
    flat = _flat(array)
    if dtype.names is not None or dtypes.is_long(dtype):
        return _without_padding(flat, dtype)
    bits = dtypes.used_bits(dtype)
    if bits < 8 and flat.size and flat.max() >= 1 << bits:
        return (flat != 0).view(np.uint8) if dtype == np.bool_ else flat & np.uint8((1 << bits) - 1)
    return flat


def _swapped(array: Array, dtype: np.dtype[Any]) -> Array:
    """Convert between byte orders; `astype` leaves the bytes of a datetime64 without unit."""
    return array.astype(dtype) if dtype.names is not None else array.byteswap().view(dtype)


def _beyond_unicode(array: Array) -> bool:
    """Return whether text of the array or its fields is invalid, so that Python cannot print it."""
    dtype = array.dtype
    if not array.size or not _has_text(dtype):
        return False
    if array.ndim > _MANY_AXES:
        array = array.squeeze()  # the view of a field adds axes, and numpy has 64 at most
    if dtype.names is not None:
        return any(_beyond_unicode(field) for field in _fields(array.view(np.ndarray)))
    words = np.dtype("u4").newbyteorder(dtype.byteorder)
    # Through a field: a plain view of other itemsize needs contiguous memory.
    view = array.view([("points", words, (dtype.itemsize // 4,))])["points"]
    return int(view.max()) > _LAST_CODE_POINT


def _fields(array: Array) -> Iterator[Array]:
    """Yield each field with text of an array of structures; a sub-array adds one axis."""
    dtype = array.dtype
    assert dtype.fields is not None
    for name in _form_of(dtype).text_fields:
        field, offset = dtype.fields[name][:2]
        if field.subdtype is not None:
            base, shape = field.subdtype
            flat = np.dtype((base, (math.prod(shape),)))
            only: Any = {"names": ["x"], "formats": [flat], "offsets": [offset]}
            yield array.view(np.dtype(only | {"itemsize": dtype.itemsize}))["x"]
        else:
            yield array[name]


def _has_text(dtype: np.dtype[Any]) -> bool:
    if dtype.subdtype is not None:
        return _has_text(dtype.subdtype[0])
    if dtype.names is not None:
        return bool(_form_of(dtype).text_fields)
    return dtype.kind == "U" and dtype.itemsize > 0


@dataclass(frozen=True, slots=True)
class _Form:
    """Facts about a dtype, since many leaves may have one of thousands of fields.

    Attributes:
        dtype: the dtype.
        little: the same, little-endian.
        swaps: whether the two differ.
        bits: how many bits of a byte are used, as of `dtypes.used_bits`.
        text_fields: the names of the fields that hold text.
    """

    dtype: np.dtype[Any]
    little: np.dtype[Any]
    swaps: bool
    bits: int
    text_fields: list[str]


_FORMS: dict[int, _Form] = {}
"""By the id of the dtype; numpy's own hash of a structure reads all of its fields."""


def _form_of(dtype: np.dtype[Any]) -> _Form:
    form = _FORMS.get(id(dtype))
    if form is None or form.dtype is not dtype:
        fields: Any = dtype.fields or {}
        names = [name for name in dtype.names or () if _has_text(fields[name][0])]
        bits = 8 if dtype.names is not None else dtypes.used_bits(dtype)
        little = dtype if _is_little(dtype) else dtype.newbyteorder("<")
        form = _Form(dtype, little, little is not dtype, bits, names)
        if len(_FORMS) >= _FORMS_KEPT:
            _FORMS.clear()
        _FORMS[id(dtype)] = form
    return form


def _flat(array: Array) -> Array:
    """Flatten to bytes, without a copy if the array is contiguous."""
    if array.size == 0 or array.dtype.itemsize == 0:
        return np.zeros(0, np.uint8)
    return np.ascontiguousarray(array).view(np.ndarray).reshape(-1).view(np.uint8)


def _is_little(dtype: np.dtype[Any]) -> bool:
    if dtype.names is not None:
        assert dtype.fields is not None
        return all(_is_little(dtype.fields[name][0]) for name in dtype.names)
    if dtype.subdtype is not None:
        return _is_little(dtype.subdtype[0])
    return dtype.itemsize < 2 or dtype.kind in "SV" or dtype.isnative == (sys.byteorder == "little")


def _without_padding(flat: Array, dtype: np.dtype[Any]) -> Array:
    """Zero the bytes that belong to no value, because they hold old contents of the memory."""
    used = _used_bytes(dtype)
    return flat if used.all() or not flat.size else (flat.reshape(-1, used.size) * used).reshape(-1)


def _used_bytes(dtype: np.dtype[Any]) -> Array:
    """Return one uint8 for each byte of an item: 1 if the byte belongs to a value, else 0."""
    if dtype.subdtype is not None:
        base = _used_bytes(dtype.subdtype[0])
        return np.tile(base, dtype.itemsize // base.size) if base.size else base
    used = np.ones(dtype.itemsize, np.uint8)
    if dtype.names is not None:
        assert dtype.fields is not None
        used[:] = 0
        for name in dtype.names:
            field, offset = dtype.fields[name][:2]
            used[offset : offset + field.itemsize] = _used_bytes(field)
    elif dtypes.is_long(dtype) and dtypes.longdouble() == "x87-80":
        used.reshape(-1, 16)[:, 10:] = 0
    return used


def from_bytes(data: Array, dtype: np.dtype[Any], shape: tuple[int, ...], *, where: str) -> Array:
    """Return stored bytes as an array: a view of `data`, unless the array was big-endian.

    Args:
        data: flat uint8, exactly the bytes of the leaf, writable and owned by the caller.
        dtype: the dtype in its original byte order.
        shape: the shape of the array.
        where: the place, for messages.

    Raises:
        CorruptError: reason ``bad-value`` for a bool byte over 1, a set unused bit, a code point
            over U+10FFFF.
    """
    if dtype.itemsize == 0 or data.size == 0:
        array = np.ndarray(shape, dtype)  # not np.zeros, which makes U1 of U0
        return array
    form = _form_of(dtype)
    bits = form.bits
    if bits < 8 and int(data.max()) >= 1 << bits:
        raise CorruptError(
            f"{where}: an array of {dtype.name} has a byte over {(1 << bits) - 1}",
            reason=Reason.BAD_VALUE,
        )
    array = data.view(form.little).reshape(shape)
    if _beyond_unicode(array):
        raise CorruptError(
            f"{where}: an array of str has a code point over U+10FFFF", reason=Reason.BAD_VALUE
        )
    return _swapped(array, dtype) if form.swaps else array

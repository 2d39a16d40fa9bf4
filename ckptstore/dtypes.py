"""The dtypes of the format: their names, and their bytes.

A stored dtype is a string, or a map for structured and sub-array dtypes. The bytes of a span are
always little-endian and C-ordered; a leading ``>`` in the name says that the array was big-endian
in memory and is made so again. Spec: section 6.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import ml_dtypes
import numpy as np

from ckptstore.errors import CorruptError, UnsupportedError

Array = np.ndarray[Any, Any]
Stored = str | dict[str, Any]
"""A dtype as the file holds it."""

MAX_ITEM_NBYTES = 2**31 - 1
MAX_DEPTH = 16
MAX_RANK = 64

_NATIVE = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
# Names of ml_dtypes with the bits that are used of the one byte an element takes.
_ML_BITS = {
    "bfloat16": 16,
    **dict.fromkeys(("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"), 8),
    **dict.fromkeys(("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 8),
    **dict.fromkeys(("float6_e2m3fn", "float6_e3m2fn"), 6),
    **dict.fromkeys(("float4_e2m1fn", "int4", "uint4"), 4),
    **dict.fromkeys(("int2", "uint2"), 2),
    **dict.fromkeys(("int1", "uint1"), 1),
}
_LONGDOUBLES = {80: "x87-80", 113: "binary128", 106: "double-double", 53: "binary64"}
_COUNTED = re.compile(r"(str|bytes|void)\[(0|[1-9][0-9]{0,9})\]")
_TIME = re.compile(
    r"(datetime64|timedelta64)(?:\[([1-9][0-9]{0,9})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
_LONG = re.compile(r"(c?)longdouble\[(x87-80|binary128|double-double|binary64)\]")
_KEY = re.compile(r"key\[[0-9a-z_]{1,64}\]")
_KIND = {"str": "U", "bytes": "S", "void": "V"}


class DtypeRefusal(Exception):
    """A dtype that no checkpoint can carry; the text says why and what to do."""


def describe(dtype: np.dtype[Any]) -> Stored:
    """Return the stored form of a numpy dtype.

    Raises:
        DtypeRefusal: for object and variable-width string dtypes, dtype metadata, overlapping
            fields, and dtypes of packages that the format does not know.
    """
    if dtype.metadata:
        raise DtypeRefusal(
            "a dtype with metadata cannot be carried; use np.dtype(x.dtype.descr) to drop it"
        )
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": describe(base), "shape": [int(n) for n in shape]}
    if dtype.names is not None:
        return _describe_fields(dtype)
    if dtype.hasobject:
        raise DtypeRefusal(
            "an array of Python objects cannot be carried; make it a list, or give it a numeric, "
            "str or bytes dtype"
        )
    # dtype.isnative is true where byte order does not apply.
    order = "" if dtype.isnative == (sys.byteorder == "little") or dtype.itemsize < 2 else ">"
    if dtype.kind in "?biufc" and dtype.char not in "gG" and dtype.name in _NATIVE:
        return order + dtype.name
    if dtype.char in "gG":
        name = "longdouble" if dtype.char == "g" else "clongdouble"
        return f"{order}{name}[{_longdouble()}]"
    if dtype.kind in "USV" and type(dtype).__module__ == "numpy.dtypes" and dtype.char in "USV":
        count = dtype.itemsize // 4 if dtype.kind == "U" else dtype.itemsize
        name = {"U": "str", "S": "bytes", "V": "void"}[dtype.kind]
        return f"{order if dtype.kind == 'U' else ''}{name}[{count}]"
    if dtype.kind in "mM":
        name = "datetime64" if dtype.kind == "M" else "timedelta64"
        unit, count = np.datetime_data(dtype)
        step = "" if count == 1 else str(count)
        return f"{order}{name}" + ("" if unit == "generic" else f"[{step}{unit}]")
    scalar = getattr(ml_dtypes, dtype.name, None) if dtype.name in _ML_BITS else None
    if scalar is not None and np.dtype(scalar) == dtype:
        return order + dtype.name
    raise DtypeRefusal(
        f"the dtype {dtype!r} is not one of the format; convert the array with .astype(...)"
        + (" (a fixed-width 'U' or 'S' dtype holds strings)" if dtype.char == "T" else "")
    )


def _describe_fields(dtype: np.dtype[Any]) -> Stored:
    fields = []
    assert dtype.names is not None and dtype.fields is not None
    for name in dtype.names:
        field, offset, *title = dtype.fields[name]
        if title and not isinstance(title[0], str):
            raise DtypeRefusal(f"the title of the field {name!r} is not a str; rename the field")
        entry: dict[str, Any] = {"name": name, "dtype": describe(field), "offset": int(offset)}
        if title:
            entry["title"] = title[0]
        fields.append(entry)
    ends = sorted(
        (dtype.fields[n][1], dtype.fields[n][1] + dtype.fields[n][0].itemsize) for n in dtype.names
    )
    if any(start < end for (_, end), (start, _) in zip(ends, ends[1:], strict=False)):
        raise DtypeRefusal("a dtype whose fields overlap cannot be carried; save the fields apart")
    return {
        "fields": fields,
        "itemsize": int(dtype.itemsize),
        "aligned": bool(dtype.isalignedstruct),
        "record": dtype.type is np.record,
    }


def _longdouble() -> str:
    return _LONGDOUBLES[
        np.finfo(np.longdouble).nmant + 1 + (np.finfo(np.longdouble).nmant == 63) * 16
    ]


def resolve(stored: Stored, *, where: str, depth: int = 0) -> np.dtype[Any]:
    """Return the numpy dtype, in its original byte order, for a stored one.

    Raises:
        CorruptError: reason ``bad-dtype``.
        UnsupportedError: reason ``dtype-not-here`` where this machine or this ml_dtypes lacks it.
    """
    if depth > MAX_DEPTH:
        raise _bad(stored, where)
    if type(stored) is dict:
        return _resolve_map(stored, where, depth)
    if type(stored) is not str:
        raise _bad(stored, where)
    big = stored.startswith(">")
    dtype = _resolve_name(stored[big:], where)
    if big and (dtype.itemsize < 2 or dtype.kind in "SV"):
        raise _bad(stored, where)
    return dtype.newbyteorder(">" if big else "<")


def item_nbytes(stored: Stored, *, where: str) -> int:
    """Return the bytes that one element takes in a span; -1 for a dtype that holds no array.

    Needs neither the machine's longdouble nor a new ml_dtypes to know them.
    """
    if type(stored) is str:
        name = stored.removeprefix(">")
        if name in _ML_BITS:
            return 2 if name == "bfloat16" else 1
        if match := _LONG.fullmatch(name):
            return (8 if match[2] == "binary64" else 16) * (2 if match[1] else 1)
        if _KEY.fullmatch(stored):
            return -1
    elif type(stored) is dict and "base" in stored:
        return -1
    return resolve(stored, where=where).itemsize


def _resolve_name(name: str, where: str) -> np.dtype[Any]:
    if name in _NATIVE:
        return np.dtype(name)
    if name in _ML_BITS:
        scalar = getattr(ml_dtypes, name, None)
        if scalar is None:
            raise UnsupportedError(
                f"{where}: the dtype {name} needs a newer ml_dtypes than {ml_dtypes.__version__}",
                reason="dtype-not-here",
            )
        return np.dtype(scalar)
    if match := _COUNTED.fullmatch(name):
        count = int(match[2])
        if count * (4 if match[1] == "str" else 1) <= MAX_ITEM_NBYTES:
            return np.dtype(f"{_KIND[match[1]]}{count}")
    elif match := _TIME.fullmatch(name):
        if match[1] is not None and int(match[2] or 1) < 2**31:
            return np.dtype(name)
    elif match := _LONG.fullmatch(name):
        if not name.endswith(f"[{_longdouble()}]"):
            raise UnsupportedError(
                f"{where}: {name} in the checkpoint, but a longdouble of this machine is "
                f"{_longdouble()}; load it on a machine of the first kind",
                reason="dtype-not-here",
            )
        return np.dtype(np.clongdouble if match[1] else np.longdouble)
    raise _bad(name, where)


def _resolve_map(stored: dict[str, Any], where: str, depth: int) -> np.dtype[Any]:
    if set(stored) == {"base", "shape"}:
        shape = stored["shape"]
        if type(shape) is not list or len(shape) > MAX_RANK or not all(_is_count(n) for n in shape):
            raise _bad(stored, where)
        base = resolve(stored["base"], where=where, depth=depth + 1)
        nbytes = base.itemsize
        for n in shape:
            nbytes *= n
        if nbytes > MAX_ITEM_NBYTES:
            raise _bad(stored, where)
        return np.dtype((base, tuple(shape)))
    if not {"fields", "itemsize", "aligned", "record"} <= set(stored):
        raise _bad(stored, where)
    fields, itemsize = stored["fields"], stored["itemsize"]
    if type(fields) is not list or not _is_count(itemsize):
        raise _bad(stored, where)
    names, formats, offsets, titles, ends = [], [], [], [], []
    for field in fields:
        if type(field) is not dict or type(field.get("name")) is not str:
            raise _bad(stored, where)
        offset, title = field.get("offset"), field.get("title")
        if not _is_count(offset) or not isinstance(title, str | None):
            raise _bad(stored, where)
        dtype = resolve(field.get("dtype", 0), where=where, depth=depth + 1)
        names.append(field["name"])
        formats.append(dtype)
        offsets.append(offset)
        titles.append(title)
        ends.append((offset, offset + dtype.itemsize))
    ends.sort()
    gaps = zip([(0, 0), *ends], [*ends, (itemsize, itemsize)], strict=True)
    if any(start < end for (_, end), (start, _) in gaps):
        raise _bad(stored, where)
    layout: dict[str, Any] = {"names": names, "formats": formats, "offsets": offsets}
    layout["itemsize"] = itemsize
    if any(title is not None for title in titles):
        layout["titles"] = titles
    try:
        dtype = np.dtype(layout, align=bool(stored["aligned"]))
    except (ValueError, TypeError):
        raise _bad(stored, where) from None
    return np.dtype((np.record, dtype)) if stored["record"] else dtype


def _is_count(n: Any) -> bool:
    return type(n) is int and 0 <= n <= MAX_ITEM_NBYTES


def _bad(stored: Any, where: str) -> CorruptError:
    return CorruptError(
        f"{where}: {stored!r:.200} is not a dtype of the format", reason="bad-dtype"
    )


def to_bytes(array: Array) -> Array:
    """Return the stored bytes of an array as a flat uint8 array: a view where that is possible.

    Byte order becomes little-endian, order C; padding of structures and of longdouble, the unused
    bits of sub-byte dtypes and the unused values of a bool byte become zero.
    """
    dtype = array.dtype
    if not _is_little(dtype):
        array = array.astype(dtype.newbyteorder("<"))
    flat = _flat(array)
    if dtype.names is not None or dtype.char in "gG":
        return _without_padding(flat, dtype)
    if dtype == np.bool_:
        return flat if not flat.size or flat.max() <= 1 else (flat != 0).view(np.uint8)
    bits = _ML_BITS.get(dtype.name, 8)
    if bits < 8 and flat.size and flat.max() >= 1 << bits:
        return flat & np.uint8((1 << bits) - 1)
    return flat


def _flat(array: Array) -> Array:
    """Flatten to bytes without a copy where the array is contiguous."""
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
    """Zero the bytes that belong to no value: they hold whatever memory held before."""
    used = _used_bytes(dtype)
    return flat if used.all() or not flat.size else (flat.reshape(-1, used.size) * used).reshape(-1)


def _used_bytes(dtype: np.dtype[Any]) -> Array:
    """Return one uint8 for each byte of an item: 1 where it belongs to a value, else 0."""
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
    elif dtype.char in "gG" and _longdouble() == "x87-80":
        used.reshape(-1, 16)[:, 10:] = 0
    return used


def from_bytes(data: Array, stored: Stored, shape: tuple[int, ...], *, where: str) -> Array:
    """Give stored bytes their dtype and shape: a view of `data` unless its order was big-endian.

    Args:
        data: flat uint8, exactly the bytes of the leaf, writable and owned by the caller.

    Raises:
        CorruptError: reason ``bad-value`` for a bool byte over 1, a set unused bit.
    """
    dtype = resolve(stored, where=where)
    if dtype.itemsize == 0 or data.size == 0:
        array = np.ndarray(shape, dtype)  # not np.zeros, which makes U1 of U0
        return array
    little = dtype.newbyteorder("<")
    bits = 1 if dtype == np.bool_ else _ML_BITS.get(dtype.name, 8)
    if bits < 8 and int(data.max()) >= 1 << bits:
        raise CorruptError(
            f"{where}: a byte over {(1 << bits) - 1} in an array of {dtype.name}",
            reason="bad-value",
        )
    array = data.view(little).reshape(shape)
    if dtype != little:
        array = array.astype(dtype)
    elif dtype.type is np.record:
        array = array.view(dtype)
    return array

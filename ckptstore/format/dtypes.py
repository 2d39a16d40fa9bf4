"""The dtypes of the format: their names and sizes. Spec: section 6.

A stored dtype is a string, or a map for structured and sub-array dtypes. A leading ``>`` in the
name means that the array was big-endian in memory, and is again after loading; its bytes are always
little-endian (see `array_bytes`).
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import sys
from typing import Any

import ml_dtypes
import numpy as np

from ckptstore.errors import CorruptError, Reason, UnsupportedError

Array = np.ndarray[Any, Any]
Stored = str | dict[str, Any]
"""A dtype as it stands in the file."""

MAX_ITEM_NBYTES = 2**31 - 1
MAX_DEPTH = 16
MAX_RANK = 64

_NATIVE = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
# Names of ml_dtypes, with the number of bits that each uses of an element's one byte.
_ML_BITS = {
    **dict.fromkeys(("complex32", "bcomplex32"), 32),
    "bfloat16": 16,
    **dict.fromkeys(("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"), 8),
    **dict.fromkeys(("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 8),
    **dict.fromkeys(("float6_e2m3fn", "float6_e3m2fn"), 6),
    **dict.fromkeys(("float4_e2m1fn", "int4", "uint4"), 4),
    **dict.fromkeys(("int2", "uint2"), 2),
    **dict.fromkeys(("int1", "uint1"), 1),
}
_NBYTES = {
    **{name: np.dtype(name).itemsize for name in _NATIVE},
    **{name: max(bits // 8, 1) for name, bits in _ML_BITS.items()},
}
_MISREAD = (">complex32", ">bcomplex32")
_LONGDOUBLES = {64: "x87-80", 113: "binary128", 106: "double-double", 53: "binary64"}
_COUNTED = re.compile(r"(str|bytes|void)\[(0|[1-9][0-9]{0,9})\]")
_TIME = re.compile(
    r"(datetime64|timedelta64)(?:\[([1-9][0-9]{0,9})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
_LONG = re.compile(r"(c?)longdouble\[(x87-80|binary128|double-double|binary64)\]")
_KIND = {"str": "U", "bytes": "S", "void": "V"}


class DtypeRefusal(Exception):
    """A dtype that cannot be stored; the text gives the reason and the remedy."""


def describe(dtype: np.dtype[Any]) -> Stored:
    """Return the stored form of a numpy dtype.

    Args:
        dtype: the dtype of an array, such as ``x.dtype``.

    Raises:
        DtypeRefusal: for object and variable-width string dtypes, dtype metadata, overlapping
            fields, scalars of a class of their own, and dtypes of packages that the format does not
            know.

    Example:
        >>> describe(np.dtype("float32"))
        'float32'
        >>> describe(np.dtype([("x", "i2"), ("y", "f8")]))["fields"][1]["name"]
        'y'
    """
    if dtype.metadata:
        raise DtypeRefusal(
            "a dtype with metadata cannot be saved; drop the metadata: x.astype(x.dtype.str), "
            "or for a structured array x.astype(...) with a new dtype without metadata"
        )
    _refuse_own_scalars(dtype)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        stored: Stored = {"base": describe(base), "shape": [int(n) for n in shape]}
    else:
        stored = _describe_plain(dtype) if dtype.names is None else _describe_fields(dtype)
    try:
        item_nbytes(stored, where="save")
    except CorruptError:
        raise DtypeRefusal(
            f"a dtype nested over {MAX_DEPTH} deep, or of over {MAX_ITEM_NBYTES} bytes an element, "
            "cannot be saved; save its fields apart"
        ) from None
    return stored


def _refuse_own_scalars(dtype: np.dtype[Any]) -> None:
    """Refuse numbers with fields, and a class of the scalars that the stored form does not tell."""
    cls, has_fields = dtype.type, dtype.names is not None
    if cls is np.void or (cls is np.record if has_fields else not issubclass(cls, np.void)):
        return
    plain = "(numpy.void, x.dtype)" if has_fields and issubclass(cls, np.void) else f"{dtype.str!r}"
    raise DtypeRefusal(
        f"a dtype with scalars of {cls.__module__}.{cls.__qualname__} would come back without that "
        f"class; save x.view({plain}), and view the loaded array as the dtype again"
    )


@functools.cache  # by equality, which tells plain dtypes fully apart
def _describe_plain(dtype: np.dtype[Any]) -> str:
    if dtype.hasobject and dtype.char == "O":
        raise DtypeRefusal(
            "an array of Python objects cannot be saved; convert it to a list, or to a "
            "numeric, str or bytes dtype"
        )
    # dtype.isnative is true if byte order does not apply.
    order = "" if dtype.isnative == (sys.byteorder == "little") or dtype.itemsize < 2 else ">"
    if dtype.kind in "?biufc" and not is_long(dtype) and dtype.name in _NATIVE:
        return order + dtype.name
    if is_long(dtype):
        name = "longdouble" if dtype.char == "g" else "clongdouble"
        return f"{order}{name}[{longdouble()}]"
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
        f"the dtype {dtype!r} is not a dtype of the format; convert the array with .astype(...)"
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
    if any(start < end for (_, end), (start, _) in itertools.pairwise(ends)):
        raise DtypeRefusal("a dtype whose fields overlap cannot be saved; save the fields apart")
    return {
        "fields": fields,
        "itemsize": int(dtype.itemsize),
        "aligned": bool(dtype.isalignedstruct),
        "record": dtype.type is np.record,
    }


def is_long(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is a longdouble.

    ``dtype.char`` does not tell, because ml_dtypes uses the characters of numpy again.
    """
    return dtype.type in (np.longdouble, np.clongdouble)


def longdouble() -> str:
    """Return the kind of this machine's longdouble."""
    digits = np.finfo(np.longdouble).nmant
    return _LONGDOUBLES[digits + 1]


def item_nbytes(stored: Any, *, where: str, depth: int = 0) -> int:
    """Check a stored dtype and return the bytes that one element takes in a span.

    It builds no numpy dtype, so it also knows dtypes that this machine or this ml_dtypes lacks.

    Raises:
        CorruptError: reason ``bad-dtype``.
    """
    nbytes = -1
    if depth <= MAX_DEPTH:
        if type(stored) is str:
            nbytes = _name_nbytes(stored)
        elif type(stored) is dict and "fields" in stored and "base" not in stored:
            nbytes = _structure_nbytes(stored, where, depth)
        elif type(stored) is dict and "base" in stored and "fields" not in stored:
            nbytes = _sub_array_nbytes(stored, where, depth)
    if not 0 <= nbytes <= MAX_ITEM_NBYTES:
        text = f"{where}: {stored!r:.200} is not a dtype of the format"
        raise CorruptError(text, reason=Reason.BAD_DTYPE)
    return nbytes


def is_sub_array(stored: Stored) -> bool:
    """Return whether a checked dtype is a sub-array's, which only fields and values have."""
    return type(stored) is dict and "base" in stored


@functools.lru_cache(1024)
def _name_nbytes(stored: str) -> int:
    name = stored.removeprefix(">")
    nbytes = _NBYTES.get(name, -1)
    if match := _COUNTED.fullmatch(name):
        nbytes = int(match[2]) * (4 if match[1] == "str" else 1)
    elif match := _TIME.fullmatch(name):
        nbytes = 8 if int(match[2] or 1) < 2**31 else -1
    elif match := _LONG.fullmatch(name):
        nbytes = (8 if match[2] == "binary64" else 16) * (2 if match[1] else 1)
    swaps = nbytes > 1 and not name.startswith(("bytes", "void"))
    return nbytes if swaps or name == stored else -1


def _structure_nbytes(stored: dict[str, Any], where: str, depth: int) -> int:
    """Return the size in bytes of a structure whose fields lie side by side, else -1."""
    fields, itemsize = stored["fields"], _count(stored.get("itemsize"))
    flags = {type(stored.get(flag)) for flag in ("aligned", "record")}
    if type(fields) is not list or flags != {bool}:
        return -1
    names, places = [], [(0, 0)]
    for field in fields:
        offset = _count(field.get("offset")) if type(field) is dict else -1
        if offset < 0:
            return -1
        names += [field.get("name"), *([field["title"]] if "title" in field else [])]
        size = item_nbytes(field.get("dtype"), where=where, depth=depth + 1)
        places.append((offset, offset + size))
    if not all(type(name) is str for name in names) or len(set(names)) < len(names):
        return -1
    places.sort()
    beside = all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
    return itemsize if beside and places[-1][1] <= itemsize else -1


def _sub_array_nbytes(stored: dict[str, Any], where: str, depth: int) -> int:
    shape = stored.get("shape")
    if type(shape) is not list or not 1 <= len(shape) <= MAX_RANK or min(map(_count, shape)) < 0:
        return -1
    return item_nbytes(stored["base"], where=where, depth=depth + 1) * math.prod(shape)


def _count(n: Any) -> int:
    return n if type(n) is int and 0 <= n <= MAX_ITEM_NBYTES else -1


def resolve(stored: Stored, *, where: str) -> np.dtype[Any]:
    """Return the numpy dtype, in its original byte order, for a stored one.

    Raises:
        CorruptError: reason ``bad-dtype``.
        UnsupportedError: reason ``dtype-not-here`` if this machine or its packages lack it.
    """
    item_nbytes(stored, where=where)
    try:
        return _resolve(stored)
    except (DtypeRefusal, ValueError, TypeError) as error:
        raise UnsupportedError(
            f"{where}: the dtype {stored!r:.200} cannot be made here: {error}",
            reason=Reason.DTYPE_NOT_HERE,
        ) from None


def _resolve(stored: Any) -> np.dtype[Any]:
    if type(stored) is str:
        dtype = _resolve_name(stored.removeprefix(">"))
        if stored in _MISREAD:
            raise DtypeRefusal("ml_dtypes reads other values from its big-endian elements")
        # An explicit order of this machine would be another object than numpy's own dtype.
        is_native = stored.startswith(">") == (sys.byteorder == "big")
        return dtype if is_native or dtype.itemsize < 2 else dtype.newbyteorder()
    if "base" in stored:
        return np.dtype((_resolve(stored["base"]), tuple(stored["shape"])))
    fields = stored["fields"]
    layout: Any = {
        "names": [field["name"] for field in fields],
        "formats": [_resolve(field["dtype"]) for field in fields],
        "offsets": [field["offset"] for field in fields],
        "itemsize": stored["itemsize"],
    }
    if any("title" in field for field in fields):
        layout["titles"] = [field.get("title") for field in fields]
    made = np.dtype(layout, align=stored["aligned"])
    if made.names != tuple(layout["names"]) or made.itemsize != stored["itemsize"]:
        raise ValueError("numpy changes its fields")
    return np.dtype((np.record, made)) if stored["record"] else made


@functools.lru_cache(1024)
def _resolve_name(name: str) -> np.dtype[Any]:
    if name in _ML_BITS:
        scalar: Any = getattr(ml_dtypes, name, None)
        if scalar is None:
            raise DtypeRefusal(f"it needs a newer ml_dtypes than {ml_dtypes.__version__}")
        made: np.dtype[Any] = np.dtype(scalar)
        return made
    if match := _COUNTED.fullmatch(name):
        return np.dtype(f"{_KIND[match[1]]}{match[2]}")
    if match := _LONG.fullmatch(name):
        if match[2] != longdouble():
            raise DtypeRefusal(f"the longdouble of this machine is {longdouble()}")
        return np.dtype(np.clongdouble if match[1] else np.longdouble)
    return np.dtype(name)


@functools.cache
def used_bits(dtype: np.dtype[Any]) -> int:
    """Return how many bits of an element's byte are used; 8 for all wider dtypes."""
    return 1 if dtype == np.bool_ else min(_ML_BITS.get(dtype.name, 8), 8)


def text(stored: Stored) -> str:
    """Return a stored dtype as a text for people.

    Example:
        >>> text("float32"), text({"base": "int8", "shape": [2]})
        ('float32', 'int8[2]')
    """
    if isinstance(stored, str):
        return stored
    if "base" in stored:
        return f"{text(stored['base'])}[{','.join(map(str, stored['shape']))}]"
    return "{" + ", ".join(f"{f['name']}: {text(f['dtype'])}" for f in stored["fields"]) + "}"

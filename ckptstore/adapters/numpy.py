"""NumPy: arrays, scalars, record arrays, masked arrays, scalar types and ufuncs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ckptstore.errors import CorruptError, Reason
from ckptstore.format import TypeKind, TypeRow, array_bytes, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.types import Adapter, Leaf, Record, Refusal, object_row, repeated_nbytes

ARRAY = TypeRow(TypeKind.ARRAY, "numpy", "ndarray")
_RECARRAY = TypeRow(TypeKind.ARRAY, "numpy", "recarray")
_SCALAR = TypeRow(TypeKind.ARRAY, "numpy", "generic")
_ARRAYS = {np.ndarray: ARRAY, np.recarray: _RECARRAY}
_NAMES = {str(row) for row in (ARRAY, _RECARRAY, _SCALAR)}
_MASKED = object_row("numpy.ma.MaskedArray", "data", "mask", "fill_value", "hard_mask")


class NumpyAdapter(Adapter):
    """The adapter of numpy and ml_dtypes."""

    def leaf(self, x: Any) -> Leaf | None:
        """Describe an array or a scalar; subclasses of ndarray are not arrays of numpy's own."""
        cls = type(x)
        if cls in _ARRAYS:
            if cls is np.recarray:
                _refuse_attributes(list(vars(x)))
            return _leaf(x, _ARRAYS[cls])
        if isinstance(x, np.generic) and (np.dtype(cls).type is cls or cls is np.record):
            host = np.asarray(x)
            if host.dtype.kind in "US" and not len(x):  # type: ignore[arg-type]
                host = np.ndarray((), f"{host.dtype.kind}0")  # numpy makes it one zero long
            return _leaf(host, _SCALAR)
        return None

    def array(self, host: Array, row: TypeRow, place: Any) -> Any:
        """Return the array itself, or a recarray or scalar if it was one."""
        if str(row) not in _NAMES:
            raise KeyError(row.name)
        if row.name == "generic":
            return _scalar(host)
        return host.view(np.recarray) if row.name == "recarray" else host

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """Masked arrays."""
        return {np.ma.MaskedArray: Record(_MASKED, _take_masked, _make_masked)}

    @functools.cached_property
    def symbols(self) -> Mapping[str, Any]:
        """The scalar types and ufuncs that numpy and ml_dtypes publish."""
        # The scalar types of ml_dtypes enter themselves in numpy's table: leave them out.
        # Lists: another thread may import a part of numpy meanwhile, which enters itself.
        scalars = {t for t in list(np.sctypeDict.values()) if t.__module__ == "numpy"}
        types = {n: t for n, t in list(vars(ml_dtypes).items()) if isinstance(t, type)}
        return {
            **{f"numpy.{t.__name__}": t for t in scalars},
            **{f"numpy.{n}": f for n, f in list(vars(np).items()) if isinstance(f, np.ufunc)},
            **{f"ml_dtypes.{n}": t for n, t in types.items() if n not in ("finfo", "iinfo")},
        }

    def record(self, cls: type) -> Record | None:
        """Take masked arrays and generators of random numbers apart."""
        if cls.__module__.startswith("numpy.random"):
            return _of_random().get(cls)
        return super().record(cls)

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the record of a masked array, or of a generator of random numbers."""
        if row.module == "numpy.random":
            return next((r for r in _of_random().values() if str(r.row) == str(row)), None)
        return super().record_named(row)


def _of_random() -> Mapping[type, Record]:
    """Return the records of `numpy.random`, which takes time to import and few trees need."""
    from ckptstore.adapters import numpy_random

    return numpy_random.RECORDS


def _leaf(x: Array, row: TypeRow) -> Leaf:
    stored = dtypes.describe(x.dtype)
    nbytes = repeated_nbytes(x.shape, x.strides, x.itemsize)
    return Leaf(row, stored, x.shape, lambda: array_bytes.to_bytes(x), memory_nbytes=nbytes)


def _scalar(host: Array) -> Any:
    if host.shape:
        raise CorruptError(f"a scalar has the shape {list(host.shape)}", reason=Reason.BAD_LEAF)
    if host.dtype.type is np.bytes_:
        return np.bytes_(host.tobytes())  # indexing would drop the zeros at its end
    if host.dtype.type is np.str_:
        order = "utf-32-be" if host.dtype.str[0] == ">" else "utf-32-le"
        try:
            return np.str_(host.tobytes().decode(order, "surrogatepass"))
        except UnicodeDecodeError as error:
            raise CorruptError(
                f"the bytes of a numpy.str_ are not text: {error}", reason=Reason.BAD_VALUE
            ) from None
    # A void scalar would be a view of the array, so copy its bytes.
    return host.copy()[()] if host.dtype.kind == "V" else host.reshape(-1)[0]


def _refuse_attributes(names: Sequence[str]) -> None:
    if names:
        raise Refusal(f"this array has the attribute {names[0]!r}, which would be lost; delete it")


def _take_masked(x: Any) -> Sequence[Any]:
    if type(x.data) is not np.ndarray:
        raise Refusal(f"a masked {type(x.data).__qualname__}; mask a plain numpy array")
    mask = None if x.mask is np.ma.nomask else np.asarray(x.mask)
    fill = None if x._fill_value is None else np.asarray(x._fill_value)
    if not _fit_together(x.data, mask, fill):
        raise Refusal(
            "this masked array has a mask or a fill value of another shape or dtype than its "
            "data; make a new one: np.ma.array(x.data, mask=...)"
        )
    attributes = vars(x)
    own = [name for name in attributes if name not in _OF_MASKED]
    _refuse_attributes([*own, *attributes.get("_optinfo", ()), *attributes.get("_basedict", ())])
    return (np.asarray(x.data), mask, fill, bool(x.hardmask))


def _make_masked(values: Sequence[Any]) -> Any:
    data, mask, fill, hard = values
    arrays = [data, *(x for x in (mask, fill) if x is not None)]
    if any(type(x) is not np.ndarray for x in arrays) or type(hard) is not bool:
        raise TypeError("a masked array is made from numpy arrays")
    if not _fit_together(data, mask, fill):
        raise TypeError("the mask or the fill value of a masked array does not fit its data")
    out = np.ma.MaskedArray(
        data, mask=np.ma.nomask if mask is None else mask, hard_mask=hard, copy=False
    )
    if fill is not None:
        out._fill_value = fill  # type: ignore[attr-defined]
    return out


def _fit_together(data: Array, mask: Array | None, fill: Array | None) -> bool:
    """Return whether numpy uses these arrays as they are, without allocating its own mask."""
    if fill is not None and fill.shape:
        return False
    if mask is None:
        return data.dtype.names is None
    return mask.shape == data.shape and bool(mask.dtype == np.ma.make_mask_descr(data.dtype))


_OF_MASKED = set(vars(np.ma.MaskedArray([0])))

ADAPTER = NumpyAdapter()

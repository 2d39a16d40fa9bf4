"""The few functions that a pickle of arrays names, each as a rule of ours that makes its value.

None is imported by its name in a pickle. numpy and jax moved them between releases, so most have
several names.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ckptstore.errors import CorruptError
from ckptstore.format import dtypes
from ckptstore.format.dtypes import Array

_CODE = re.compile(r"[|<>=]?(?:[biufcSUVmMO][0-9]{1,10}|\?)")
_ML_DTYPE = re.compile(r"bfloat16|u?int[24]|float[468]_e[0-9a-z]+")
_ML_DTYPES = {"ml_dtypes", "jaxlib.xla_extension", "jaxlib.xla_client", "jax._src.dtypes"}
_UNIT = re.compile(rb"[A-Za-z\xce\xbc]{1,7}")


class Maker(Protocol):
    """The part of a machine that the rules use."""

    def spend(self, nbytes: int) -> None:
        """Count the bytes of a copy before it is made."""

    def array(self, host: Array, *, weak: bool = False) -> Any:
        """Return the array of the tree for one of numpy; `weak`: it had a weak type in jax."""

    def keys(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield keys of a dict or items of a set, each checked."""


@dataclass(frozen=True, slots=True)
class Global:
    """A known function or class; `call` takes the machine and the arguments."""

    call: Callable[[Maker, list[Any]], Any]


class Pending:
    """An object whose state comes later.

    Attributes:
        numbers: its places in the memo.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def built(self, machine: Maker, state: list[Any]) -> Any:
        """Return the finished object."""
        raise NotImplementedError


class _Array(Pending):
    """An array of numpy before its state."""

    def built(self, machine: Maker, state: list[Any]) -> Any:
        return machine.array(_array_of_state(machine, state))


class _Dtype(Pending):
    """A dtype before its state, which holds the byte order and the fields."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code

    def built(self, machine: Maker, state: list[Any]) -> np.dtype[Any]:
        version, order, base, names, fields, itemsize, _, flags, *more = state
        if base is not None:
            inner, shape = base
            dtype = np.dtype((_dtype(inner), _shape(shape)))
        elif names is not None:
            machine.spend(64 * len(names))
            rows = [fields[name] for name in names]
            form: Any = {
                "names": [*names],
                "formats": [_dtype(row[0]) for row in rows],
                "offsets": [row[1] for row in rows],
                "titles": [row[2] if len(row) > 2 else None for row in rows],
                "itemsize": itemsize,
            }
            dtype = np.dtype(form, align=bool(flags & 128))
        elif more and more[0] is not None:
            _, (unit, number, *_rest) = more[0]
            if not isinstance(unit, bytes) or not _UNIT.fullmatch(unit):
                raise CorruptError(f"a unit of time {unit!r:.40}")
            dtype = np.dtype(f"{self.code}[{int(number)}{unit.decode()}]")
        else:
            dtype = np.dtype(self.code)
        if version not in (3, 4) or (base is names is None and dtype.itemsize == 0):
            raise CorruptError(f"a dtype of version {version!r:.40}, {dtype}")
        return dtype.newbyteorder(order) if order in ("<", ">") and names is None else dtype


def find(name: str) -> Global | None:
    """Return the rule for a function or class, by its module and name; None for all others."""
    module, _, last = name.rpartition(".")
    if module in _ML_DTYPES and _ML_DTYPE.fullmatch(last):
        resolved = dtypes.resolve(last, where=name)
        return _Scalar(_refuse, resolved)
    return _KNOWN.get(name)


@dataclass(frozen=True, slots=True)
class _Scalar(Global):
    """A scalar class of ml_dtypes, which stands for its dtype."""

    dtype: np.dtype[Any]


def _refuse(_: Maker, arguments: Sequence[Any]) -> Any:
    raise CorruptError("a class is called that only stands for an argument")


def _dtype(x: Any) -> np.dtype[Any]:
    """Return a finished dtype; one without a state has the byte order of its code."""
    if isinstance(x, _Dtype):
        return np.dtype(x.code)
    if not isinstance(x, np.dtype):
        raise CorruptError(f"{x!r:.40} is not a dtype")
    return x


def _shape(x: Any) -> tuple[int, ...]:
    shape = (x,) if type(x) is int else x
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise CorruptError(f"{x!r:.80} is not a shape")
    return shape


def _bytes(x: Any) -> bytes:
    if isinstance(x, str):
        return x.encode("latin-1")
    if not isinstance(x, bytes | bytearray):
        raise CorruptError(f"a {type(x).__name__} is not the bytes of an array")
    return bytes(x)


def _array_of_state(machine: Maker, state: list[Any]) -> Array:
    shape, dtype, fortran, data = state[-4:]
    return _array(machine, data, _dtype(dtype), _shape(shape), "F" if fortran else "C")


def _array(
    machine: Maker, data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> Array:
    count = math.prod(shape)
    if order not in ("C", "F"):
        raise CorruptError(f"{order!r:.40} is not an order of axes")
    if dtype.hasobject:
        if dtype != np.dtype(object) or type(data) is not list or len(data) != count:
            raise CorruptError(f"{dtype}{list(shape)} without its objects")
        machine.spend(8 * count)
        objects = np.empty(count, object)
        objects[:] = data
        return objects.reshape(shape, order=order)
    raw = _bytes(data)
    # With a dtype of 0 bytes, any number of elements would fit.
    if not dtype.itemsize or dtype.itemsize * count != len(raw):
        raise CorruptError(f"{len(raw)} bytes for an array of {dtype}{list(shape)}")
    machine.spend(len(raw))
    return np.frombuffer(bytearray(raw), dtype).reshape(shape, order=order)


def _new_array(_: Maker, arguments: Sequence[Any]) -> _Array:
    if not arguments or arguments[0] is not _NDARRAY:
        raise CorruptError("an array of a class of its own")
    return _Array()


def _new_dtype(_: Maker, arguments: Sequence[Any]) -> Any:
    code = arguments[0]
    if isinstance(code, _Scalar):
        code = code.dtype.name
        return _MlDtype(code)
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise CorruptError(f"{code!r:.40} is not a dtype")
    return _Dtype(code)


class _MlDtype(_Dtype):
    """A dtype of ml_dtypes, whose state adds nothing."""

    def built(self, machine: Maker, state: list[Any]) -> np.dtype[Any]:
        return np.dtype(self.code)


def _from_buffer(machine: Maker, arguments: Sequence[Any]) -> Any:
    data, dtype, shape, order = arguments[:4]
    return machine.array(_array(machine, data, _dtype(dtype), _shape(shape), order))


def _scalar(machine: Maker, arguments: Sequence[Any]) -> Any:
    dtype, data = arguments
    return _array(machine, data, _dtype(dtype), (), "C")[()]


def _jax_array(machine: Maker, arguments: Sequence[Any]) -> Any:
    function, inner, state, *more = arguments
    if function is not _RECONSTRUCT or not inner or inner[0] is not _NDARRAY:
        raise CorruptError("an array of jax that is made of no array of numpy")
    properties = more[0] if more else {}
    weak = type(properties) is dict and properties.get("weak_type") is True
    return machine.array(_array_of_state(machine, list(state)), weak=weak)


def _ordered_dict(machine: Maker, arguments: Sequence[Any]) -> Any:
    (rows,) = arguments or ([],)  # Python 2 passes the entries, each as a list
    machine.spend(64 * len(rows))
    pairs = [(key, value) for key, value in map(tuple, rows)]
    keys = machine.keys(key for key, _ in pairs)
    return collections.OrderedDict(zip(keys, (value for _, value in pairs), strict=True))


def _set(cls: type) -> Callable[[Maker, Sequence[Any]], Any]:
    def make(machine: Maker, arguments: Sequence[Any]) -> Any:
        (items,) = arguments or ([],)
        if type(items) is not list:
            raise CorruptError(f"a {cls.__name__} of a {type(items).__name__}")
        machine.spend(16 * len(items))
        return cls(machine.keys(items))

    return make


def _complex(_: Maker, arguments: Sequence[Any]) -> complex:
    real, imaginary = arguments
    if type(real) is not float or type(imaginary) is not float:
        raise CorruptError("a complex number that is not two floats")
    return complex(real, imaginary)


def _encoded(machine: Maker, arguments: Sequence[Any]) -> bytes:
    """Return bytes that Python wrote as text for the protocols before 3."""
    text, encoding = arguments
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise CorruptError(f"text in the encoding {encoding!r:.40}")
    machine.spend(len(text))
    return text.encode("latin-1")


def _bytearray(machine: Maker, arguments: Sequence[Any]) -> bytearray:
    data = _bytes(arguments[0]) if arguments else b""
    machine.spend(len(data))
    return bytearray(data)


_RECONSTRUCT = Global(_new_array)
_FROM_BUFFER = Global(_from_buffer)
_NDARRAY = Global(_refuse)
_KNOWN = {
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": Global(_new_dtype),
    "_codecs.encode": Global(_encoded),
    "collections.OrderedDict": Global(_ordered_dict),
    **{f"numpy.{core}.multiarray._reconstruct": _RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _FROM_BUFFER for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Global(_scalar) for core in ("core", "_core")},
    "jax._src.array._reconstruct_array": Global(_jax_array),
    "jax._src.device_array.reconstruct_device_array": Global(_jax_array),
    "jax.interpreters.xla.reconstruct_device_array": Global(_jax_array),
}
for _module in ("builtins", "__builtin__"):
    _KNOWN |= {
        f"{_module}.set": Global(_set(set)),
        f"{_module}.frozenset": Global(_set(frozenset)),
        f"{_module}.complex": Global(_complex),
        f"{_module}.bytearray": Global(_bytearray),
        f"{_module}.bytes": Global(
            lambda machine, arguments: bytes(_bytearray(machine, arguments))
        ),
    }

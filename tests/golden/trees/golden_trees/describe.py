"""What a tree is, said without ckptstore: kind by kind, bit by bit, in what msgpack carries.

A description is a list of rows in preorder, ``[step, kind, detail, number of children]``. An
object that stood before is a row of kind ``same`` whose detail is the number of its row. Classes
go by their package and their name, not by their module: packages move their private modules.
"""

from __future__ import annotations

import collections
import datetime
import enum
import functools
import hashlib
import pathlib
import struct
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

Row = list[Any]
Children = list[tuple[str, Any]]
LONGEST = 2048  # of what is longer, the length and the SHA-256 are said

_BY_REPR = pathlib.PurePath, datetime.date, datetime.timedelta, datetime.timezone
_SYMBOLS = type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, np.ufunc
_NO_IDENTITY = (enum.Enum, np.dtype, np.generic, range, *_SYMBOLS)
_PUBLIC = "builtins numpy ml_dtypes jax.numpy jax.numpy.linalg jax.nn jax.lax torch"
_SUB_BYTE = {"int1": 1, "uint1": 1, "int2": 2, "uint2": 2, "int4": 4, "uint4": 4}
_SUB_BYTE |= {"float4_e2m1fn": 4, "float6_e2m3fn": 6, "float6_e3m2fn": 6}
_ML_SCALARS = tuple(
    cls
    for cls in vars(ml_dtypes).values()
    if isinstance(cls, type) and cls not in (ml_dtypes.finfo, ml_dtypes.iinfo)
)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), *_ML_SCALARS)
_CACHES = {"FrozenDict": {"_hash"}}  # what hash() keeps is no part of the value


def describe(tree: Any, *, identity: bool = True) -> list[Row]:
    """Say what a tree is; without `identity`, not which objects are one."""
    rows: list[Row] = []
    seen: dict[int, int] = {}
    kept: list[Any] = []  # so that no other object gets the id of one that was seen
    stack: Children = [("$", tree)]
    while stack:
        step, x = stack.pop()
        if identity and _has_identity(x):
            if id(x) in seen:
                rows.append([step, "same", seen[id(x)], 0])
                continue
            seen[id(x)] = len(rows)
            kept.append(x)
        kind, detail, children = _node(x)
        rows.append([step, kind, detail, len(children)])
        stack.extend(reversed(children))
    return rows


def difference(said: list[Row], found: list[Row], *, numpy: bool = False) -> str:
    """Say where two descriptions first differ, or "".

    Args:
        said: what the tree was.
        found: what it is.
        numpy: `found` was loaded with ``arrays="numpy"``, and has plain arrays for all others.
    """
    for number, (a, b) in enumerate(zip(said, found, strict=False)):
        if (as_numpy(a) if numpy else a) != b:
            return f"{_path(said, number)}: {a!r:.400} became {b!r:.400}"
    return "" if len(said) == len(found) else f"{len(said)} rows became {len(found)}"


def as_numpy(row: Row) -> Row:
    """Say of an array of a framework what ``arrays="numpy"`` makes of it."""
    step, kind, detail, count = row
    if kind != "array" or detail[0].startswith(("numpy:", "ml_dtypes:")):
        return row
    _, _, dtype, shape, data = detail
    if dtype[0] == "torch":  # a dtype that numpy has not: a structure, as the format has it
        dtype = _dtype(np.dtype([(dtype[1], f"u{dtype[2]}")]))
    return [step, kind, ["numpy:ndarray", [], dtype, shape, data], count]


def _path(rows: list[Row], number: int) -> str:
    open_: list[list[Any]] = []
    for step, _, _, count in rows[: number + 1]:
        while open_ and not open_[-1][1]:
            open_.pop()
        if open_:
            open_[-1][1] -= 1
        open_.append([step, count])
    return "".join(step for step, _ in open_)


def _has_identity(x: Any) -> bool:
    if type(x) in _PLAIN or isinstance(x, _NO_IDENTITY):
        return False
    return type(x).__name__ != "PyTreeDef" and not (type(x) in (tuple, frozenset) and not x)


def _name(cls: type) -> str:
    return f"{cls.__module__.partition('.')[0]}:{cls.__qualname__}"


def _long(data: bytes) -> Any:
    return data if len(data) <= LONGEST else [len(data), hashlib.sha256(data).digest()]


def _node(x: Any) -> tuple[str, Any, Children]:
    """Give the kind and the detail of a node, and its children."""
    cls = type(x)
    if cls in (type(None), bool, type(...)):
        return cls.__name__, repr(x), []
    if cls is int:
        return "int", _long(hex(x).encode()), []
    if cls is float:
        return "float", struct.pack("<d", x), []
    if cls is complex:
        return "complex", struct.pack("<dd", x.real, x.imag), []
    if cls is str:
        return "str", _long(x.encode("utf-8", "surrogatepass")), []
    if cls in (bytes, bytearray):
        return cls.__name__, _long(bytes(x)), []
    if isinstance(x, enum.Enum):
        return "enum", [_name(cls), x.name or "", ascii(x.value)], []
    if isinstance(x, np.ma.MaskedArray):
        hard = [x.mask is np.ma.nomask, x.hardmask]
        parts = {"data": x.data, "mask": x.mask, "fill_value": x.fill_value}
        return _name(cls), hard, [(f".{n}", np.array(part)) for n, part in parts.items()]
    if isinstance(x, np.ndarray | np.generic) or cls in _ML_SCALARS:
        host = np.asarray(x)
        return "array", [_name(cls), [], *_host(host)], []
    if isinstance(x, np.dtype):
        return "dtype", _dtype(x), []
    if isinstance(x, _BY_REPR):
        return _name(cls), ascii(x), []
    found = _of_jax(x) or _of_torch(x) or _of_flax(x)
    if found:
        return found
    symbol = _symbol(x)
    if symbol:
        return "symbol", symbol, []
    return _object(x)


def _symbol(x: Any) -> str:
    name = getattr(x, "__name__", None)
    if not callable(x) or type(name) is not str:
        return ""
    for module in _PUBLIC.split():
        if getattr(sys.modules.get(module), name, None) is x:
            return f"{module}.{name}"
    package = str(getattr(x, "__module__", "")).partition(".")[0]
    return f"{package}:{x.__qualname__}" if isinstance(x, _SYMBOLS) else ""


def _object(x: Any) -> tuple[str, Any, Children]:
    """Say the container that something is, and what hangs on it."""
    cls, detail, children = type(x), None, list[tuple[str, Any]]()
    hidden = _CACHES.get(cls.__name__, set())
    own = {n: v for n, v in _attributes(x).items() if n not in hidden}
    if isinstance(x, collections.deque):
        detail, children = x.maxlen, _items(x)
    elif isinstance(x, dict):
        factory = getattr(x, "default_factory", None)
        detail = [[describe(key, identity=False) for key in x], str(_symbol(factory))]
        children = _entries(zip(x, dict.values(x), strict=True))
    elif isinstance(x, tuple):
        children = _items(
            tuple.__iter__(x)
        )  # the items themselves: a class may iterate as it likes
    elif isinstance(x, list):
        children = _items(x)
    elif isinstance(x, set | frozenset):
        detail = sorted(msgpack.packb(describe(item, identity=False)) for item in x)
    elif cls in (range, slice):
        children = [(f".{n}", getattr(x, n)) for n in ("start", "stop", "step")]
    elif isinstance(x, functools.partial):
        children = [(f".{n}", getattr(x, n)) for n in ("func", "args", "keywords")]
    elif type(x).__name__ == "FlatMap":
        own, detail = {}, [describe(key, identity=False) for key in x]
        children = _entries((key, x[key]) for key in x)
    elif not own:
        detail = ascii(x) if type(x).__repr__ is not object.__repr__ else None
    return _name(cls), detail, children + [(f".{n}", own[n]) for n in sorted(own)]


def _items(x: Iterable[Any]) -> Children:
    return [(f"[{i}]", item) for i, item in enumerate(x)]


def _entries(pairs: Iterable[tuple[Any, Any]]) -> Children:
    """Give the values of a dict; a key that is no text is said elsewhere, here only counted."""
    return [
        (f"[{ascii(key)[:60]}]" if type(key) is str else f"[key {i}]", value)
        for i, (key, value) in enumerate(pairs)
    ]


def _attributes(x: Any) -> dict[str, Any]:
    """Return what hangs on an object, cached properties aside."""
    found: dict[str, Any] = {}
    for cls in type(x).__mro__:
        for name, member in cls.__dict__.items():
            if type(member) is types.MemberDescriptorType and cls.__module__ != "functools":
                try:
                    found[name] = member.__get__(x)
                except AttributeError:
                    continue
    try:
        own = object.__getattribute__(x, "__dict__")
    except AttributeError:
        return found
    cached = {
        name
        for cls in type(x).__mro__
        for name, member in cls.__dict__.items()
        if isinstance(member, functools.cached_property)
    }
    return found | {name: value for name, value in own.items() if name not in cached}


# --- Arrays ------------------------------------------------------------------------------------


def _host(host: np.ndarray[Any, Any]) -> Row:
    return [_dtype(host.dtype), list(host.shape), _long(_bits(host))]


def _dtype(dtype: np.dtype[Any]) -> Row:
    """Say all of a dtype: byte order, layout, titles."""
    if dtype.subdtype is not None:
        return ["of", _dtype(dtype.subdtype[0]), list(dtype.subdtype[1])]
    if dtype.names is None:
        return [dtype.str, dtype.name]
    fields = [(n, (dtype.fields or {})[n]) for n in dtype.names]
    parts = [[n, _dtype(f[0]), f[1], *map(str, f[2:])] for n, f in fields]
    return ["struct", dtype.itemsize, dtype.isalignedstruct, dtype.type is np.record, parts]


def _bits(array: np.ndarray[Any, Any]) -> bytes:
    """Return the bytes of all values, little-endian, without those that belong to none."""
    dtype = array.dtype
    if dtype.names is not None:
        return b"".join(_bits(array[name]) for name in dtype.names)
    if dtype.str[0] == ">":
        array = array.astype(dtype.newbyteorder("<"))
    data = np.frombuffer(array.tobytes(), np.uint8)
    if dtype.type in (np.longdouble, np.clongdouble) and np.finfo(np.longdouble).nmant == 63:
        data = data.reshape(-1, 16)[:, :10]
    if dtype.name in _SUB_BYTE:
        data = data & np.uint8((1 << _SUB_BYTE[dtype.name]) - 1)
    return data.tobytes()


def _of_jax(x: Any) -> tuple[str, Any, Children] | None:
    jax = sys.modules.get("jax")
    if jax is None:
        return None
    if isinstance(x, jax.Array):
        about = [["committed", x.committed], ["weak", bool(getattr(x, "weak_type", False))]]
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            about.append(["impl", str(jax.random.key_impl(x))])
            x = jax.random.key_data(x)
        return "array", ["jax:Array", about, *_host(np.asarray(x))], []
    if isinstance(x, jax.ShapeDtypeStruct):
        about = {"shape": tuple(x.shape), "dtype": str(x.dtype), "weak_type": x.weak_type}
        return "jax:ShapeDtypeStruct", None, [(f".{n}", about[n]) for n in about]
    if isinstance(x, jax.sharding.PartitionSpec):
        sets = [[str(n) for n in sorted(getattr(x, name, ()))] for name in ("unreduced", "reduced")]
        return "jax:PartitionSpec", [[ascii(part) for part in x], *sets], []
    if type(x).__name__ == "KeyTy":  # the dtype of typed keys
        return "dtype", str(x), []
    return None


def _of_torch(x: Any) -> tuple[str, Any, Children] | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(x, torch.dtype | torch.layout | torch.memory_format | torch.device):
        return _name(type(x)), str(x), []
    if not isinstance(x, torch.Tensor):
        return None
    numbers = {1: "uint8", 2: "int16", 4: "int32", 8: "int64", 16: "complex128"}
    about = [[n, str(getattr(x, n))] for n in ("device", "is_leaf", "layout", "requires_grad")]
    about.append(["attributes", [[n, ascii(v)] for n, v in sorted(vars(x).items())]])
    plain = x.detach().cpu().resolve_conj().resolve_neg()
    host = plain.view(getattr(torch, numbers[x.dtype.itemsize])).numpy()
    name = str(x.dtype).removeprefix("torch.")
    try:
        dtype = _dtype(np.dtype(getattr(ml_dtypes, name, name)))
    except TypeError:
        dtype = ["torch", name, x.dtype.itemsize]
    if name in _SUB_BYTE:  # torch has names for them, and no arithmetic: the bytes count
        dtype = ["torch", name, x.dtype.itemsize]
    return "array", [_name(type(x)), about, dtype, list(x.shape), _long(host.tobytes())], []


def _of_flax(x: Any) -> tuple[str, Any, Children] | None:
    """Say what a variable or a state of nnx holds, without the trace that it knows."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return None
    if isinstance(x, nnx.Variable):
        metadata = dict(sorted(x.get_metadata().items()))
        return _name(type(x)), None, [(".value", x.get_raw_value()), (".metadata", metadata)]
    if isinstance(x, nnx.statelib.FlatState):
        pairs: Mapping[Any, Any] = dict(x)
        keys = [describe(key, identity=False) for key in pairs]
        return _name(type(x)), keys, _entries(pairs.items())
    return None

"""A strict comparer of trees, which shares nothing with the package but its purpose.

``differences(a, b)`` lists by path all in which two trees differ: exact types, order and types of
keys, bits of floats (NaN payloads, -0.0), dtypes with byte order and layout, the weak type,
commitment and key implementation of jax arrays, what hangs on a tensor of torch, attributes, and
which objects are one object. It is iterative: jax's own walk and ``==`` stop near 1,000 levels.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import random
import struct
import sys
import types
import zoneinfo
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ckptstore

_PLAIN = (type(None), bool, int, str, bytes, type(...))
_BY_REPR = (
    *(pathlib.PurePath, datetime.date, datetime.timedelta, datetime.timezone, datetime.time),
    *(zoneinfo.ZoneInfo, decimal.Decimal, fractions.Fraction),
)
_PLAIN_OF = {
    str: str.__str__,
    bytes: bytes.__bytes__,
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
}
_SUB_BYTE = {"int1": 1, "uint1": 1, "int2": 2, "uint2": 2, "int4": 4, "uint4": 4}
_SUB_BYTE |= {"float4_e2m1fn": 4, "float6_e2m3fn": 6, "float6_e3m2fn": 6}


def roundtrip(tmp_path: Any, tree: Any, *, supplied: Any = (), **options: Any) -> Any:
    """Save a tree in a new place and load it."""
    url = tmp_path / f"c{len(list(tmp_path.iterdir()))}"
    ckptstore.save(url, tree, supplied=supplied)
    return ckptstore.load(url, **options)


def assert_exact(tmp_path: Any, tree: Any, **options: Any) -> Any:
    """Save and load a tree, require that nothing differs, and return what was loaded."""
    loaded = roundtrip(tmp_path, tree, **options)
    assert differences(tree, loaded) == []
    return loaded


def assert_refused(tmp_path: Any, tree: Any, path: str, *words: str) -> str:
    """Require that save refuses a tree by path, with these words, and writes nothing at all."""
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.save(tmp_path / "refused", tree)
    message = str(caught.value)
    assert any(line.strip().startswith(f"{path}: ") for line in message.split("\n")), message
    for word in words:
        assert word in message, message
    assert not (tmp_path / "refused").exists()
    return message


def differences(a: Any, b: Any) -> list[str]:
    """List all in which `b` differs from `a`, by path; [] when they are the same."""
    return _Walk().run(a, b)


class _Walk:
    def __init__(self, *, identity: bool = True) -> None:
        self.identity = identity
        self.found: list[str] = []
        self.to_b: dict[int, int] = {}
        self.to_a: dict[int, int] = {}

    def run(self, a: Any, b: Any) -> list[str]:
        # A path is a linked list of steps: as text, 10,000 of them would take 10,000² characters.
        stack: list[tuple[Any, Any, Any]] = [((None, "$"), a, b)]
        while stack:
            path, x, y = stack.pop()
            if type(x) is not type(y):
                self.note(path, f"{_full(type(x))} {x!r:.60} became {_full(type(y))} {y!r:.60}")
                continue
            if self.identity and _has_identity(x):
                first = id(x) not in self.to_b and id(y) not in self.to_a
                if not first:
                    if self.to_b.get(id(x)) != id(y) or self.to_a.get(id(y)) != id(x):
                        self.note(path, "objects that were one are two, or two are one")
                    continue
                self.to_b[id(x)], self.to_a[id(y)] = id(y), id(x)
            children = self.node(path, x, y)
            stack.extend(((path, step), c, d) for step, c, d in reversed(children))
        return self.found

    def note(self, path: Any, text: str) -> None:
        steps = []
        while path is not None:
            path, step = path
            steps.append(step)
        self.found.append(f"{''.join(reversed(steps))}: {text}")

    def node(self, path: Any, x: Any, y: Any) -> list[tuple[str, Any, Any]]:
        """Compare two nodes of one type; return the pairs of children to go on with."""
        cls = type(x)
        if cls in _PLAIN:
            return self.equal(path, x, y)
        if cls is float:
            return self.equal(path, struct.pack("<d", x), struct.pack("<d", y))
        if cls is complex:
            return self.equal(
                path, struct.pack("<dd", x.real, x.imag), struct.pack("<dd", y.real, y.imag)
            )
        if isinstance(x, np.ndarray | np.generic) or cls in _ML_SCALARS:
            return self.arrays(path, x, y)
        if isinstance(x, np.dtype):
            return self.equal(path, dtype_parts(x), dtype_parts(y))
        jax = sys.modules.get("jax")
        if jax is not None and isinstance(x, jax.Array):
            return self.jax_arrays(jax, path, x, y)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(x, torch.Tensor):
            return self.tensors(torch, path, x, y)
        if torch is not None and isinstance(x, torch.device | torch.dtype | torch.layout):
            return self.equal(path, x, y)
        if isinstance(x, enum.Enum | type | types.FunctionType | types.BuiltinFunctionType):
            if x is not y:
                self.note(path, f"{x!r:.60} became {y!r:.60}")
            return []
        if isinstance(x, _BY_REPR):
            return self.equal(path, repr(x), repr(y))
        if (parts := _of_random(x, y)) is not None:
            return parts
        if isinstance(x, collections.deque) and x.maxlen != y.maxlen:
            self.note(path, f"the maxlen {x.maxlen} became {y.maxlen}")
        if isinstance(x, collections.defaultdict) and x.default_factory is not y.default_factory:
            self.note(path, f"the factory {x.default_factory} became {y.default_factory}")
        pairs = self.attributes(path, x, y)
        if isinstance(x, dict):
            return pairs + self.dicts(path, x, y)
        if isinstance(x, tuple):
            # The items themselves: a subclass may iterate as it likes.
            return pairs + self.items(path, tuple.__iter__(x), tuple.__iter__(y))
        if isinstance(x, list | collections.deque):
            return pairs + self.items(path, x, y)
        if isinstance(x, set | frozenset):
            self.keys(path, sorted(x, key=_order), sorted(y, key=_order))
            return pairs
        if cls is bytearray:
            return pairs + self.equal(path, bytes(x), bytes(y))
        if cls in (range, slice):
            return [(f".{n}", getattr(x, n), getattr(y, n)) for n in ("start", "stop", "step")]
        if cls is functools.partial or (jax is not None and cls is jax.tree_util.Partial):
            return pairs + [(f".{n}", getattr(x, n), getattr(y, n)) for n in _PARTIAL]
        if jax is not None and cls in (jax.sharding.PartitionSpec, jax.ShapeDtypeStruct):
            return pairs + self.equal(path, x, y)
        for base, plain in _PLAIN_OF.items():
            if isinstance(x, base):
                return [*pairs, ("(plain)", plain(x), plain(y))]
        if not pairs and not dataclasses.is_dataclass(x) and x is not y and x != y:
            self.note(path, f"{x!r:.60} became {y!r:.60}")
        return pairs

    def equal(self, path: Any, x: Any, y: Any) -> list[Any]:
        if x != y or type(x) is not type(y):
            self.note(path, f"{x!r:.200} became {y!r:.200}")
        return []

    def items(self, path: Any, x: Any, y: Any) -> list[tuple[str, Any, Any]]:
        x, y = list(x), list(y)
        if len(x) != len(y):
            self.note(path, f"{len(x)} items became {len(y)}")
        return [(f"[{i}]", c, d) for i, (c, d) in enumerate(zip(x, y, strict=False))]

    def keys(self, path: Any, x: Any, y: Any) -> None:
        """Compare keys of dicts or items of sets: values, of which nobody asks which is which."""
        for difference in _Walk(identity=False).run(list(x), list(y)):
            self.note(path, f"key {difference}")

    def dicts(self, path: Any, x: Any, y: Any) -> list[tuple[str, Any, Any]]:
        self.keys(path, x.keys(), y.keys())
        pairs: list[tuple[str, Any, Any]] = []
        for key, c, d in zip(list(x), dict.values(x), dict.values(y), strict=False):
            pairs.append((f"[{key!r:.60}]" if type(key) is not int else "[int]", c, d))
        return pairs

    def attributes(self, path: Any, x: Any, y: Any) -> list[tuple[str, Any, Any]]:
        """Compare what hangs on two objects, cached properties aside."""
        mine, other = _attributes(x), _attributes(y)
        if mine.keys() != other.keys():
            self.note(path, f"the attributes {sorted(mine)} became {sorted(other)}")
        return [(f".{n}", mine[n], other[n]) for n in mine if n in other]

    def arrays(self, path: Any, x: Any, y: Any) -> list[tuple[str, Any, Any]]:
        own = [sorted(getattr(a, "__dict__", {})) for a in (x, y)]
        if own[0] != own[1]:
            self.note(path, f"the attributes {own[0]} became {own[1]}")
        if isinstance(x, np.ma.MaskedArray):
            if (x.mask is np.ma.nomask) != (y.mask is np.ma.nomask):
                self.note(path, "masked, or not masked at all")
            if x.hardmask != y.hardmask:
                self.note(path, "hard or soft mask")
            return [
                (".data", np.asarray(x.data), np.asarray(y.data)),
                (".mask", np.asarray(x.mask), np.asarray(y.mask)),
                (".fill_value", np.asarray(x.fill_value), np.asarray(y.fill_value)),
            ]
        a, b = np.asarray(x), np.asarray(y)
        if dtype_parts(a.dtype) != dtype_parts(b.dtype):
            self.note(path, f"dtype {dtype_parts(a.dtype)} became {dtype_parts(b.dtype)}")
        elif a.shape != b.shape:
            self.note(path, f"shape {a.shape} became {b.shape}")
        elif bits(a) != bits(b):
            self.note(path, f"the values {a!r:.100} became {b!r:.100}")
        return []

    def jax_arrays(self, jax: Any, path: Any, x: Any, y: Any) -> list[Any]:
        mine, other = ((a.shape, a.committed, a.is_deleted()) for a in (x, y))
        if mine != other:
            self.note(path, f"(shape, committed, deleted) {mine} became {other}")
        elif x.dtype != y.dtype:
            self.note(path, f"dtype {x.dtype} became {y.dtype}")
        elif jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            if jax.random.key_impl(x) != jax.random.key_impl(y):
                self.note(path, "another key implementation")
            return self.arrays(path, jax.random.key_data(x), jax.random.key_data(y))
        elif x.weak_type != y.weak_type:
            self.note(path, f"weak type {x.weak_type} became {y.weak_type}")
        elif bits(np.asarray(x)) != bits(np.asarray(y)):
            self.note(path, f"the values {x!r:.100} became {y!r:.100}")
        return []

    def tensors(self, torch: Any, path: Any, x: Any, y: Any) -> list[Any]:
        """Compare two tensors with all that hangs on them, but for their strides."""
        names = ("dtype", "shape", "device", "layout", "requires_grad", "is_leaf", "__dict__")
        mine, other = ([getattr(a, name) for name in names] for a in (x, y))
        if mine != other:
            self.note(path, f"{names} {mine} became {other}")
        elif tensor_bits(torch, x) != tensor_bits(torch, y):
            self.note(path, f"the values {x!r:.100} became {y!r:.100}")
        return []


_PARTIAL = ("func", "args", "keywords")
_ML_SCALARS = {t for t in vars(ml_dtypes).values() if isinstance(t, type)} - {
    ml_dtypes.finfo,
    ml_dtypes.iinfo,
}


def _of_random(x: Any, y: Any) -> list[tuple[str, Any, Any]] | None:
    """Return the parts of two generators of random numbers, or of their seeds; else None."""
    # What a call makes anew is compared by its text: another object may get its id.
    cls, names = type(x), ("entropy", "spawn_key")
    if cls is random.Random:
        return [(".getstate()", repr(x.getstate()), repr(y.getstate()))]
    if cls is np.random.SeedSequence:
        rest = [repr((z.pool_size, z.n_children_spawned, z.pool)) for z in (x, y)]
        return [*((f".{n}", getattr(x, n), getattr(y, n)) for n in names), ("{pool}", *rest)]
    if cls is np.random.Generator:
        return [(".bit_generator", x.bit_generator, y.bit_generator)]
    if cls is np.random.RandomState:
        states = [repr(z.get_state(legacy=False)) for z in (x, y)]
        return [("._bit_generator", x._bit_generator, y._bit_generator), (".state", *states)]
    if isinstance(x, np.random.BitGenerator):
        return [(".seed_seq", x.seed_seq, y.seed_seq), (".state", repr(x.state), repr(y.state))]
    torch = sys.modules.get("torch")
    if torch is not None and cls is torch.Generator:
        return [(".state", *(repr((z.device, z.get_state().tolist())) for z in (x, y)))]
    return None


def _has_identity(x: Any) -> bool:
    if type(x) in _PLAIN or type(x) in (float, complex) or type(x) in _ML_SCALARS:
        return False
    if isinstance(x, enum.Enum | type | np.dtype | np.generic | range):
        return False
    if type(x).__name__ == "PyTreeDef":  # of jax: what a mapping of Haiku knows of its shape
        return False
    return not (type(x) in (tuple, frozenset) and not x)


def _full(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _order(item: Any) -> tuple[str, str]:
    return _full(type(item)), ascii(item) if type(item) is not int else hex(item)


def _attributes(x: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in type(x).__mro__:
        for name, member in cls.__dict__.items():
            if type(member) is types.MemberDescriptorType and cls.__module__ != "functools":
                try:
                    found[name] = member.__get__(x)
                except AttributeError:
                    continue
    if _on_device(found.get("_memory_space")):  # the default of a ShapeDtypeStruct, as is None
        found.pop("_memory_space", None)
    try:
        own = object.__getattribute__(x, "__dict__")
    except AttributeError:
        return found
    for name, value in own.items():
        cached = any(
            isinstance(cls.__dict__.get(name), functools.cached_property) for cls in type(x).__mro__
        )
        if not cached:
            found[name] = value
    return found


def _on_device(space: Any) -> bool:
    return getattr(space, "name", "Device") == "Device"


def dtype_parts(dtype: np.dtype[Any]) -> Any:
    """Say all of a dtype that ``==`` says, and what it does not: layout, titles, class, order."""
    if dtype.subdtype is not None:
        return "sub-array", dtype_parts(dtype.subdtype[0]), dtype.subdtype[1]
    # A long long is another class than an int64 of the same size, and an equal dtype.
    cls = None if dtype.kind in "iu" else dtype.type
    kind = (cls, dtype.itemsize, dtype.isalignedstruct, dtype.metadata)
    if dtype.names is None:
        return (dtype.str, dtype.name, *kind)
    fields = dtype.fields or {}
    parts = [(n, dtype_parts(fields[n][0]), *fields[n][1:]) for n in dtype.names]
    return (*kind, tuple(parts))


def tensor_bits(torch: Any, x: Any) -> bytes:
    """Return the bytes of all values of a tensor in C order."""
    numbers = {1: "uint8", 2: "int16", 4: "int32", 8: "int64", 16: "complex128"}
    plain = x.detach().cpu().resolve_conj().resolve_neg()
    found: bytes = plain.view(getattr(torch, numbers[x.dtype.itemsize])).numpy().tobytes()
    return found


def bits(array: np.ndarray[Any, Any]) -> bytes:
    """Return the bytes of all values, without those that belong to none."""
    dtype = array.dtype
    if dtype.names is not None:
        return b"".join(bits(array[name]) for name in dtype.names)
    if dtype.str[0] == ">" and dtype.subdtype is None:
        array = array.astype(dtype.newbyteorder("<"))
    data = np.frombuffer(array.tobytes(), np.uint8)
    if dtype.type in (np.longdouble, np.clongdouble) and np.finfo(np.longdouble).nmant == 63:
        data = data.reshape(-1, 16)[:, :10]
    if dtype.name in _SUB_BYTE:
        data = data & np.uint8((1 << _SUB_BYTE[dtype.name]) - 1)
    return data.tobytes()

"""Whether `load` gave the value that the independent reader gives for the same file.

`disagreements(read, loaded)` compares the plain words of tests/support/independent_reader.py (a
Record, a Member, a Leaf) with live objects. It shares nothing with the package.
"""

from __future__ import annotations

import collections
import enum
import functools
import operator
import struct
import types
from typing import Any

import jax
import ml_dtypes
import numpy as np

from tests.support import compare
from tests.support import independent_reader as ir

STAND_INS = "ckptstore.types.standins"
_MUTABLE = (list, dict, set, bytearray, np.ndarray)
_ONE = (list, dict, set, frozenset, bytearray, ir.Leaf, ir.Record, tuple)


def disagreements(read: Any, loaded: Any, *, plain: bool = False) -> list[str]:
    """List by path all in which a loaded tree is not the one that was read.

    Args:
        read: the tree of the independent reader.
        loaded: the tree of `load`.
        plain: whether ``arrays="numpy"`` was passed, which allows stand-ins.
    """
    found: list[str] = []
    twins: dict[int, tuple[Any, Any]] = {}
    owners: dict[int, Any] = {}
    todo = [("$", read, loaded)]
    while todo and len(found) < 20:
        path, r, x = todo.pop()
        if isinstance(r, _Content):
            r, one = r.value, False
        else:
            one = isinstance(r, _ONE) and not (isinstance(r, tuple | frozenset) and not r)
        if one:
            if id(r) in twins:
                if twins[id(r)][1] is not x and not _is_value(r):
                    found.append(f"{path}: one object became two")
                continue
            if type(x) in _MUTABLE and owners.setdefault(id(x), r) is not r:
                found.append(f"{path}: two objects became one")
            twins[id(r)] = (r, x)
        try:
            below = _compare(r, x, plain)
        except _Differs as difference:
            found.append(f"{path}: {difference}")
            continue
        # A path is cut, so that a chain of 10,000 containers has no paths of 10,000² characters.
        todo += [(f"{path[-200:]}{step}", a, b) for step, a, b in below]
    return found


class _Differs(Exception):
    pass


def _need(same: Any, text: str) -> None:
    if not same:
        raise _Differs(text)


def _is_value(r: Any) -> bool:
    """Tell what may be one object or several: numpy's scalars, and what is made of its fields."""
    return isinstance(r, ir.Leaf) and r.type[1:3] == ("numpy", "generic")


def _compare(r: Any, x: Any, plain: bool) -> list[tuple[str, Any, Any]]:
    if isinstance(r, ir.Record):
        return _record(r, x, plain)
    if isinstance(r, ir.Leaf):
        _leaf(r, x, plain)
        return []
    if isinstance(r, ir.Member):
        return _member(r, x, plain)
    if isinstance(r, ir.Symbol):
        _need(_is_symbol(r.name, x, plain), f"the symbol {r.name!r:.80} became {_short(x)}")
        return []
    if isinstance(r, ir.Supplied):
        _need(plain and type(x).__name__ == "Supplied", f"supplied: {_short(x)}")
        return []
    if isinstance(r, ir.Dtype):
        want = dtype_of(r)
        _need(isinstance(x, np.dtype), f"a dtype became {_short(x)}")
        _need(compare.dtype_parts(x) == compare.dtype_parts(want), f"{want} became {x}")
        return []
    _need(type(r) is type(x), f"{type(r).__name__} became {_short(x)}")
    if isinstance(r, dict):
        _need(len(r) == len(x) and not getattr(x, "__dict__", None), f"{len(r)} entries")
        if isinstance(r, collections.defaultdict):
            _need(r.default_factory is x.default_factory, "another factory")
        keys = [("{key}", a, b) for a, b in zip(r, x, strict=True)]
        values = zip(dict.values(r), dict.values(x), strict=True)
        return keys + [(f"[{_short(k)}]", *pair) for k, pair in zip(x, values, strict=True)]
    if isinstance(r, list | tuple):
        _need(len(r) == len(x), f"{len(r)} items became {len(x)}")
        return [(f"[{i}]", a, b) for i, (a, b) in enumerate(zip(r, x, strict=True))]
    if isinstance(r, set | frozenset):
        _need(len(r) == len(x), f"{len(r)} items became {len(x)}")
        pairs = zip(sorted(r, key=_order), sorted(x, key=_order), strict=True)
        return [("{item}", a, b) for a, b in pairs]
    if isinstance(r, slice):
        return [(f".{n}", getattr(r, n), getattr(x, n)) for n in ("start", "stop", "step")]
    if isinstance(r, range):  # equal ranges may have other ends
        _need((r.start, r.stop, r.step) == (x.start, x.stop, x.step), f"{r} became {x}")
    elif isinstance(r, float | complex):
        a, b = (struct.pack("<dd", z.real, z.imag) for z in (r, x))
        _need(a == b, f"{r} became {x}")
    else:
        _need(r == x, f"{_short(r)} became {_short(x)}")
    return []


def _short(x: Any) -> str:
    """Say a value without code of its class."""
    if isinstance(x, int) and abs(x) > 10**100:
        return f"an int of {x.bit_length()} bits"
    known = type(x) in (int, float, complex, str, bytes, bool, type(None))
    return f"{x!r:.80}" if known else f"a {type(x).__module__}.{type(x).__qualname__}"


def _order(x: Any) -> Any:
    """Sort items of sets, from either side, by what both sides know of them."""
    if isinstance(x, ir.Member):
        return ("enum", x.name, _order(x.value))
    if isinstance(x, enum.Enum):
        return ("enum", x._name_ or "", _order(x._value_))
    if type(x).__module__ == STAND_INS:  # a stand-in of a member
        return ("enum", x[0], _order(x[1]))
    if type(x) is tuple:
        return ("tuple", str([_order(item) for item in x]))
    if type(x) is frozenset:
        return ("frozenset", str(sorted(map(_order, x), key=str)))
    if isinstance(x, float | complex):
        return (type(x).__name__, struct.pack("<dd", x.real, x.imag).hex())
    if isinstance(x, int):
        return (type(x).__name__, hex(x))
    return (type(x).__name__, ascii(x))


# --- records --------------------------------------------------------------------------------------


def _partial(x: Any) -> dict[str, Any]:
    func = x.func
    if type(func).__name__ == "_HashableCallableShim":
        func = func.fun
    return {"func": func, "args": x.args, "keywords": x.keywords}


def _named(*names: str) -> Any:
    return lambda x: {name: getattr(x, name) for name in names}


def _masked(x: Any) -> dict[str, Any]:
    mask = None if x.mask is np.ma.nomask else np.asarray(x.mask)
    fill = None if x._fill_value is None else np.asarray(x._fill_value)
    return {"data": np.asarray(x.data), "mask": mask, "fill_value": fill, "hard_mask": x.hardmask}


_NAMES = {"PartitionSpec": jax.P.__name__}
_TIME = ("hour", "minute", "second", "microsecond", "fold")
_DATE = ("year", "month", "day")
_TAKE: dict[str, Any] = {
    "numpy.ma.MaskedArray": _masked,
    "jax.tree_util.Partial": _partial,
    "functools.partial": _partial,
    "jax.sharding.PartitionSpec": _named("partitions", "unreduced", "reduced"),
    "jax.ShapeDtypeStruct": _named("shape", "dtype", "weak_type"),
    "collections.Counter": lambda x: {"counts": dict(x)},
    "collections.OrderedDict with attributes": lambda x: {
        "items": collections.OrderedDict(x.items()), "attributes": dict(vars(x)),
    },
    "collections.deque": lambda x: {"items": list(x), "maxlen": x.maxlen},
    "pathlib.PosixPath": lambda x: {"path": str(x)},
    "pathlib.PurePosixPath": lambda x: {"path": str(x)},
    "argparse.Namespace": lambda x: {"attributes": dict(vars(x))},
    "types.SimpleNamespace": lambda x: {"attributes": dict(vars(x))},
    "datetime.date": _named(*_DATE),
    "datetime.datetime": _named(*_DATE, *_TIME, "tzinfo"),
    "datetime.timedelta": _named("days", "seconds", "microseconds"),
    "datetime.timezone": lambda x: dict(
        zip(("offset", "name"), (*x.__getinitargs__(), None), strict=False)
    ),
    "datetime.time": _named(*_TIME, "tzinfo"),
    "zoneinfo.ZoneInfo": lambda x: {"key": x.key},
    "decimal.Decimal": lambda x: {"value": str(x)},
    "fractions.Fraction": _named("numerator", "denominator"),
    "uuid.UUID": lambda x: {"int": x.int, "is_safe": x.is_safe.name},
    **{
        f"ipaddress.IPv{version}{kind}": lambda x: {"address": str(x)}
        for version in (4, 6) for kind in ("Address", "Interface", "Network")
    },
    "torch.Size": lambda x: {"dims": tuple(x)},
    "torch.device": lambda x: {"name": str(x)},
    "flax.core.frozen_dict.FrozenDict": lambda x: {"mapping": x._dict},
    "flax.nnx.statelib.State": lambda x: {"mapping": x._mapping},
    "flax.nnx.statelib.FlatState": lambda x: {"keys": x._keys, "values": x._values},
    "equinox.nn._stateful.State": lambda x: {"state": x._state},
    "equinox.nn._shared.SharedNode": lambda x: {},
    "haiku._src.data_structures.FlatMap": lambda x: {"mapping": _mapping(x)},
    "haiku._src.base.PRNGSequence": lambda x: {"key": x._key, "subkeys": tuple(x._subkeys)},
}  # fmt: skip


_ELSEWHERE = (
    *("torch.Generator", "omegaconf.", "ml_collections.", "random.", "numpy.random."),
    *("builtins.dict with", "builtins.set of", "builtins.frozenset of"),
)
"""Their parts are hidden or made of others. tests/frameworks compares what they do."""

_TEXTS_AND_NUMBERS = (str, bytes, int, float, complex)


def _mapping(x: Any) -> Any:
    return x._mapping if x._mapping is not None else jax.tree.unflatten(x._structure, x._leaves)


def _record(r: ir.Record, x: Any, plain: bool) -> list[tuple[str, Any, Any]]:
    name = f"{r.type.module}.{r.type.name}"
    cls, kind = type(x), r.type.kind
    stand_in = plain and cls.__module__ == STAND_INS
    if stand_in or kind == "pytree":
        _need(stand_in, f"{name} became {_short(x)}")
        values = tuple(x) if kind != "pytree" else (x[0], *x[1])
        wanted = list(r.fields.values())
        _need(len(values) == len(wanted), f"{len(wanted)} fields of {name}")
        return [(f".{n}", a, b) for n, a, b in zip(r.fields, wanted, values, strict=True)]
    if kind == "object" and (name.startswith(_ELSEWHERE) or isinstance(x, _TEXTS_AND_NUMBERS)):
        return []
    if kind == "object":
        want = name.removesuffix(" with attributes").rpartition(".")[2]
        _need(cls.__name__ == _NAMES.get(want, want), f"{name} became {_short(x)}")
        take = _TAKE.get(name, lambda x: {"value": x._raw_value, "metadata": x._var_metadata})
        return _paired(r.fields, take(x), copied=True)
    bound = r.type.binding or r.type.name
    _need(cls.__qualname__ in (r.type.name, bound), f"{name} became {_short(x)}")
    _need(cls.__module__ == r.type.module, f"{name} became {_short(x)}")
    if kind == "namedtuple":
        _need(tuple.__len__(x) == len(r.fields), "another number of fields")
        return _paired(r.fields, dict(zip(cls._fields, tuple.__iter__(x), strict=True)))
    return _paired(r.fields, _attributes(x))


def _attributes(x: Any) -> dict[str, Any]:
    """Return the slots and the __dict__ of a dataclass instance, without its code."""
    found: dict[str, Any] = {}
    for base in type(x).__mro__:
        for name, member in base.__dict__.items():
            if type(member) is types.MemberDescriptorType:
                try:
                    found[name] = member.__get__(x)
                except AttributeError:
                    continue
    try:
        return found | object.__getattribute__(x, "__dict__")
    except AttributeError:
        return found


def _paired(fields: Any, values: Any, copied: bool = False) -> list[tuple[str, Any, Any]]:
    _need(fields.keys() == values.keys(), f"the fields {[*fields]} became {[*values]}")
    return [
        # The dict in a Counter is another object than the one that stands elsewhere.
        (f".{n}", _Content(fields[n]) if copied else fields[n], values[n])
        for n in fields
    ]


class _Content:
    """A value that may be held as a copy; it has no identity."""

    def __init__(self, value: Any) -> None:
        self.value = value


# --- enums and symbols ----------------------------------------------------------------------------


def _member(r: ir.Member, x: Any, plain: bool) -> list[tuple[str, Any, Any]]:
    if plain and type(x).__module__ == STAND_INS:
        return [(".name", r.name, x[0]), (".value", r.value, x[1])]
    cls = type(x)
    _need(isinstance(x, enum.Enum) and cls.__module__ == r.type.module, f"became {_short(x)}")
    _need((x._name_ or "") == r.name, f"the member {r.name!r:.80} became {_short(x)}")
    return [(".value", r.value, x._value_)]


def _is_symbol(name: str, x: Any, plain: bool) -> bool:
    if plain and type(x).__name__ == "Symbol":
        return bool(x.name == name)
    import importlib

    package = name.partition(".")[0]
    if name.startswith("jax.random.key<"):
        return bool(x.name.startswith("key<")) and str(x.name) in name
    if name == "equinox.nn.MLP.final_activation":
        name = "equinox.nn._mlp._identity"
    if name == "equinox.nn.WeightNorm.norm":
        name = "equinox.nn._weight_norm._norm_except_axis"
    root = importlib.import_module(package)
    path = name.partition(".")[2]
    if package == "numpy":
        return x is (np.sctypeDict.get(path) or getattr(np, path, None))
    return operator.attrgetter(path)(root) is x


# --- arrays ---------------------------------------------------------------------------------------


def _leaf(r: ir.Leaf, x: Any, plain: bool) -> None:
    name, extra = f"{r.type.module}.{r.type.name}", r.type.extra
    if name == "numpy.generic":
        _scalar(r, x)
    elif plain or name.startswith("numpy."):
        want = np.recarray if name == "numpy.recarray" else np.ndarray
        _need(type(x) is want, f"{name} became {_short(x)}")
        _array(r, x)
        _need(x.flags.c_contiguous and (not plain or x.flags.writeable), "another layout")
    elif name == "jax.Array":
        _need(isinstance(x, jax.Array), f"{name} became {_short(x)}")
        _need(x.committed == extra.get("committed", False), "committed")
        if impl := extra.get("impl", ""):
            _need(str(jax.random.key_impl(x)) == impl, f"a key of {impl}")
            x = jax.random.key_data(x)
        else:
            _need(x.weak_type == extra.get("weak", False), "weak type")
        _array(r, np.asarray(x))
    else:
        import torch

        _need(type(x) is (torch.nn.Parameter if r.type.name == "Parameter" else torch.Tensor), name)
        _need(x.requires_grad == extra.get("requires_grad", False), "requires_grad")
        marks = {"persistent": extra["persistent"]} if "persistent" in extra else {}
        _need(vars(x) == marks | ({"_is_buffer": True} if marks else {}), "attributes")
        _need(tuple(x.shape) == r.shape, f"{r.shape} became {tuple(x.shape)}")
        spec = r.dtype.spec if type(r.dtype.spec) is str else r.dtype.spec["fields"][0]["name"]
        _need(str(x.dtype) == f"torch.{spec}", f"{spec} became {x.dtype}")
        _need(compare.tensor_bits(torch, x) == r.data, "other values")


def _scalar(r: ir.Leaf, x: Any) -> None:
    base = r.dtype.base
    if base in ("str", "bytes"):
        want = ir.elements(r.dtype, r.data, 1, keep_zeros=True)[0]
        _need(type(x) is (np.str_ if base == "str" else np.bytes_), f"became {_short(x)}")
        # numpy's own methods drop the zeros at the end.
        got = "".join(x) if base == "str" else bytes(x)
        _need(got == want, f"{want!r:.80} became {got!r:.80}")
        return
    _need(not isinstance(x, np.ndarray) and isinstance(x, np.generic), f"became {_short(x)}")
    _array(r, np.asarray(x), order=False)


def _array(r: ir.Leaf, x: Any, order: bool = True) -> None:
    want = dtype_of(r.dtype)
    _need(x.shape == r.shape, f"the shape {r.shape} became {x.shape}")
    got = x.dtype
    if not order and want.names is None:  # a scalar is always in this machine's order
        want, got = want.newbyteorder("="), got.newbyteorder("=")
    if isinstance(x, np.recarray) and got.names is not None and want.type is np.void:
        got = np.dtype((np.void, got))  # a view as recarray makes records of its elements
    _need(compare.dtype_parts(got) == compare.dtype_parts(want), f"{want!r} became {got!r}")
    if r.data:
        stored = np.frombuffer(r.data, np.uint8).view(dtype_of(r.dtype, stored=True))
        try:
            same = compare.bits(stored) == compare.bits(np.asarray(x).reshape(-1))
        except ValueError:  # a sub-array of 64 axes, of which numpy makes no array
            same = stored.dtype.names is not None
        _need(same, "other values")


@functools.singledispatch
def _plain(spec: Any, stored: bool) -> np.dtype[Any]:
    raise AssertionError(spec)


@_plain.register
def _(spec: str, stored: bool) -> np.dtype[Any]:
    name = spec.removeprefix(">")
    order = ">" if name != spec and not stored else "<"
    base, _, count = name.partition("[")
    count = count.removesuffix("]")
    if base in ("str", "bytes", "void"):
        found = np.dtype({"str": "U", "bytes": "S", "void": "V"}[base] + count)
    elif base in ("longdouble", "clongdouble"):
        found = np.dtype(getattr(np, base))
    elif base in ("datetime64", "timedelta64"):
        found = np.dtype(name)
    else:
        found = np.dtype(getattr(ml_dtypes, name, None) or name)
    return found.newbyteorder(order)


@_plain.register
def _(spec: dict, stored: bool) -> np.dtype[Any]:
    if "base" in spec:
        return np.dtype((_plain(spec["base"], stored), tuple(spec["shape"])))
    fields = spec["fields"]
    layout = {
        "names": [f["name"] for f in fields],
        "formats": [_plain(f["dtype"], stored) for f in fields],
        "offsets": [f["offset"] for f in fields],
        "itemsize": spec["itemsize"],
    }
    if any("title" in f for f in fields):
        layout["titles"] = [f.get("title") for f in fields]
    made = np.dtype(layout, align=spec["aligned"])
    return np.dtype((np.record, made)) if spec["record"] else made


def dtype_of(dtype: ir.Dtype, stored: bool = False) -> np.dtype[Any]:
    """Return numpy's dtype of one of the format, or with `stored` that of its stored bytes."""
    return _plain(dtype.spec, stored)

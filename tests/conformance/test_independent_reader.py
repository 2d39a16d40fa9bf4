"""docs/spec.md suffices: a reader written from it alone reads what the package writes, and the
package reads what the page allows and the package does not write.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import enum
import functools
import math
import random
import re
import shutil
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import optax
import pytest
import torch
import xxhash

import ckptstore
from tests.support import DOCS
from tests.support import independent_reader as ir

# ---------------------------------------------------------------- what the reader must give


def bits(number: float) -> bytes:
    return struct.pack("<d", number)


def plain(value: Any) -> Any:
    """Return NumPy's own idea of an array or an element as plain values."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value] if value.ndim else plain(value[()])
    kind = value.dtype.name
    if isinstance(value, np.void):
        names = value.dtype.names
        return value.tobytes() if names is None else tuple(plain(value[name]) for name in names)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else int(value.view("i8"))
    if isinstance(value, np.longdouble):
        exact = np.isfinite(value) and (value or not np.signbit(value))
        return Fraction(*value.as_integer_ratio()) if exact else float(value)
    if isinstance(value, np.clongdouble):
        return plain(value.real), plain(value.imag)
    if type(value).__module__ == "ml_dtypes":
        return (
            int(value) if "int" in kind else complex(value) if "complex" in kind else float(value)
        )
    return value.item()


def equal(got: Any, want: Any) -> bool:
    if isinstance(want, list | tuple):
        same = type(got) is type(want) and len(got) == len(want)
        return same and all(map(equal, got, want))
    if isinstance(want, complex):
        return type(got) is complex and equal([got.real, got.imag], [want.real, want.imag])
    if isinstance(want, float) and type(got) is float:
        return bits(got) == bits(want) or (math.isnan(got) and math.isnan(want))
    return type(got) is type(want) and got == want


def assert_leaf(leaf: Any, want: np.ndarray) -> None:
    assert type(leaf) is ir.Leaf and leaf.shape == want.shape
    if want.size > 100_000:
        assert leaf.values == want.tolist()
    else:
        assert equal(leaf.values, plain(want)), leaf.dtype.spec
    if want.dtype.kind in "biufcmMSU" and want.dtype.char not in "gG":
        assert leaf.data == want.astype(want.dtype.newbyteorder("<")).tobytes()


def assert_record(got: Any, want: Any, kind: str, fields: Any) -> None:
    assert type(got) is ir.Record and list(got.fields) == list(got.type.fields) == list(fields)
    assert_type(got.type, type(want), kind)


def assert_type(row: Any, cls: type, kind: str) -> None:
    assert (row.kind, row.module, row.name) == (kind, cls.__module__, cls.__qualname__)


SHARED = (list, dict, set, frozenset, bytearray, np.ndarray, np.generic, jax.Array)


def assert_agrees(got: Any, want: Any) -> None:
    """Compare what the reader gave with what was saved: types, order, bits, identity."""
    todo, seen = [(got, want)], {}
    while todo:
        got, want = todo.pop()
        if isinstance(want, SHARED) or dataclasses.is_dataclass(want):
            assert seen.setdefault(id(want), got) is got, "one object came back as two"
        if isinstance(want, dict):
            assert type(got) is type(want)
            todo += zip([*got], [*want], strict=True)
            todo += zip(got.values(), want.values(), strict=True)
            if isinstance(want, collections.defaultdict):
                assert got.default_factory is want.default_factory
        elif isinstance(want, tuple) and hasattr(want, "_fields"):
            assert_record(got, want, "namedtuple", want._fields)
            todo += zip(got.fields.values(), want, strict=True)
        elif dataclasses.is_dataclass(want):
            names = [item.name for item in dataclasses.fields(want)]
            assert_record(got, want, "dataclass", names)
            todo += [(got.fields[name], getattr(want, name)) for name in names]
        elif isinstance(want, enum.Enum):
            assert_type(got.type, type(want), "enum")
            assert got.name == (want.name or "")
            todo.append((got.value, want.value))
        elif isinstance(want, list | tuple):
            assert type(got) is type(want)
            todo += zip(got, want, strict=True)
        elif isinstance(want, slice):
            todo += [(got.start, want.start), (got.stop, want.stop), (got.step, want.step)]
        elif isinstance(want, jax.Array):
            is_key = jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key)
            impl = str(jax.random.key_impl(want)) if is_key else None
            assert (got.type.module, got.type.name) == ("jax", "Array")
            assert got.type.extra.get("impl") == impl
            assert got.type.extra.get("weak", False) == (not is_key and want.weak_type)
            assert_leaf(got, np.asarray(jax.random.key_data(want) if is_key else want))
        elif isinstance(want, np.ndarray | np.generic):
            name = type(want).__name__ if isinstance(want, np.ndarray) else "generic"
            assert (got.type.module, got.type.name) == ("numpy", name)
            if isinstance(want, np.str_ | np.bytes_):  # as an element it would lose zeros
                assert got.values == want.item()
            else:
                assert_leaf(got, np.asarray(want))
        elif isinstance(want, float | complex):
            assert type(got) is type(want)
            assert (bits(got.real), bits(got.imag)) == (bits(want.real), bits(want.imag))
        else:
            assert type(got) is type(want) and got == want


def round_trip(path: Path, tree: Any, **options: Any) -> Any:
    ckptstore.save(path / "c", tree, **options)
    return ir.read(path / "c").tree


# ---------------------------------------------------------------- what the package writes


class Colour(enum.Enum):
    RED = "red"
    MIXED = (1, (2.5, "x"))


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Config:
    rate: float
    inner: Any = None


class Pair:
    def __init__(self, a: Any, b: Any, note: str):
        self.a, self.b, self.note = a, b, note


jax.tree_util.register_pytree_node(
    Pair, lambda p: ((p.a, p.b), (p.note,)), lambda aux, ab: Pair(*ab, *aux)
)

PAYLOADS = ("0100000000f07f", "0100000000f0ff", "efbeadde00f87f", "efbeadde00f8ff")
NANS = [struct.unpack("<d", bytes.fromhex(text).rjust(8, b"\7"))[0] for text in PAYLOADS]
SCALARS = [
    [None, True, False, ..., "", "text", "\0zero\0", "ünï → 𝄞", b"", b"\0\xff", bytearray(b"ab")],
    [0, 1, -1, 127, 128, -128, -129, 255, 2**63, -(2**63), -(2**64) - 1, 7**9000, -(7**9000)],
    [0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, sys.float_info.max, *NANS],
    [complex(-0.0, 0.0), complex(1, -math.inf), complex(NANS[0], NANS[2])],
    ["\ud800", "a\udfff\ud800", "\ud83d\ude00 as two halves", "long " * 999, "\udc80" * 5000],
    [b"x" * 4096, b"y" * 4097, bytearray(b"z" * 9000), "é" * 2048, "é" * 2049],
    [slice(None), slice(1, "two", (3.0,)), range(5), range(-3, 10**20, 7), range(5, 0, -2)],
    [Colour.RED, Colour.MIXED, Level.LOW, Mode.READ, Mode.READ | Mode.WRITE, Mode(0)],
]
CONTAINERS = [
    [[], (), {}, set(), frozenset(), [[]], ((),), {"a": {}}, bytearray()],
    {"list": [1, [2, [3]]], "tuple": (1, (2,)), "point": Point(1, [2]), "empty": Point((), {})},
    collections.OrderedDict(b=1, a=collections.OrderedDict()),
    [collections.defaultdict(cls, a=1) for cls in ir.FACTORIES] + [collections.defaultdict()],
    [{1, "1", b"1", 1.5, (1, (2,)), frozenset({3})}, frozenset({None, ..., 2**70, "x"})],
    Config(0.1, inner=Config(0.2, inner=[Config(0.3)])),
]
KEYS: dict[Any, Any] = {
    **{"z": 1, "": 2, "\ud800": 3, "0": 4, 0: 5, 1: 6, -7: 7, 2**80: 8, 2.5: 9, -3.0: 10},
    **{math.inf: 11, NANS[0]: 12, NANS[2]: 13, 1j: 14, b"": 15, b"z": 16, None: 17, ...: 18},
    **{(): 19, (1, (2.5, None)): 20, frozenset(): 21, frozenset({(1, 2)}): 22},
    **{Colour.RED: 23, Colour.MIXED: 24, Mode.WRITE: 25, (Colour.RED, "red"): 26, "red": 27},
}


@pytest.mark.parametrize("tree", [*SCALARS, *CONTAINERS, KEYS], ids=lambda _: "")
def test_python_values_are_given_as_they_were(tmp_path: Path, tree: Any):
    assert_agrees(round_trip(tmp_path, tree), tree)


@pytest.mark.parametrize("tree", [None, -1, "root", b"x" * 5000, (), np.int8(3), np.arange(4.0)])
def test_a_root_needs_no_container(tmp_path: Path, tree: Any):
    assert_agrees(round_trip(tmp_path, tree), tree)


def test_an_object_in_two_places_is_given_as_one(tmp_path: Path):
    array, inner, text = np.arange(3), [1], "s" * 5000
    both = {"t": (inner, array), "c": Config(1.0)}
    tree = [array, inner, both, array, inner, both, Config(1.0), text, text, both["t"], set(), [1]]
    got = round_trip(tmp_path, tree)
    assert_agrees(got, tree)
    assert got[0] is got[3] is got[2]["t"][1] and got[1] is got[4] and got[2] is got[5]
    assert got[1] is not got[11] and got[6] is not got[2]["c"]


def test_a_tree_of_10000_containers_inside_one_another_is_read(tmp_path: Path):
    tree: Any = "bottom"
    for level in range(10_000):
        tree = [tree] if level % 2 else {"k": tree}
    got, levels = round_trip(tmp_path, tree), 0
    while got != "bottom":
        assert len(got) == 1
        got, levels = got[0] if type(got) is list else got["k"], levels + 1
    assert levels == 10_000
    with pytest.raises(ckptstore.CheckpointError) as error:
        ckptstore.save(tmp_path / "deeper", [tree])
    assert error.value.reason == "too-deep"


def test_names_stand_for_what_is_not_data(tmp_path: Path):
    symbols = [np.float32, np.add, jax.nn.relu, ml_dtypes.bfloat16, int]
    dtypes = [np.dtype(">f4"), np.dtype([("a", "i2"), ("b", ">f8", (2, 3))]), np.dtype("M8[25s]")]
    tree = {"symbols": symbols, "dtypes": dtypes, "f": lambda: 0}
    got = round_trip(tmp_path, tree, supplied=["$.f"])
    names = ["numpy.float32", "numpy.add", "jax.nn.relu", "ml_dtypes.bfloat16", "builtins.int"]
    assert got["symbols"] == [ir.Symbol(name) for name in names]
    assert type(got["f"]) is ir.Supplied
    assert [dtype.size for dtype in got["dtypes"]] == [dtype.itemsize for dtype in dtypes]
    assert got["dtypes"][0].spec == ">float32" and got["dtypes"][2].spec == "datetime64[25s]"
    fields = got["dtypes"][1].spec["fields"]
    assert [(field["name"], field["offset"]) for field in fields] == [("a", 0), ("b", 2)]
    assert fields[1]["dtype"] == {"base": ">float64", "shape": [2, 3]}


def test_objects_are_given_as_type_and_fields(tmp_path: Path):
    masked = np.ma.MaskedArray([1, 2, 3], mask=[0, 1, 0], fill_value=9, hard_mask=True)
    tree = {
        "masked": masked,
        "partial": jax.tree_util.Partial(jax.nn.relu, 1, x=2),
        "spec": jax.sharding.PartitionSpec("a", None, ("b", "c")),
        "struct": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16),
        "pair": Pair(1, [2], "note"),
    }
    got = round_trip(tmp_path, tree)
    fields = {name: record.fields for name, record in got.items()}
    kinds = {name: (r.type.kind, r.type.module, r.type.name) for name, r in got.items()}
    assert kinds["masked"] == ("object", "numpy.ma", "MaskedArray")
    assert [fields["masked"][name].values for name in ("data", "mask", "fill_value")] == [
        [1, 2, 3],
        [False, True, False],
        9,
    ]
    assert fields["masked"]["hard_mask"] is True
    assert kinds["partial"] == ("object", "jax.tree_util", "Partial")
    relu = ir.Symbol("jax.nn.relu")
    assert fields["partial"] == {"func": relu, "args": (1,), "keywords": {"x": 2}}
    assert kinds["spec"] == ("object", "jax.sharding", "PartitionSpec")
    assert fields["spec"]["partitions"] == ("a", None, ("b", "c"))
    assert fields["spec"]["unreduced"] == fields["spec"]["reduced"] == frozenset()
    assert kinds["struct"] == ("object", "jax", "ShapeDtypeStruct")
    assert fields["struct"]["shape"] == (2, 3) and fields["struct"]["weak_type"] is False
    assert fields["struct"]["dtype"].spec == "bfloat16"
    assert kinds["pair"] == ("pytree", __name__, "Pair")
    assert fields["pair"] == {"static": ("note",), "0": 1, "1": [2]}


NATIVE = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
SMALL = [getattr(ml_dtypes, name) for name in (*ir.FLOATS, *ir.BITS) if name != "bool"]
SMALL += [getattr(ml_dtypes, n) for n in ("complex32", "bcomplex32") if hasattr(ml_dtypes, n)]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", NATIVE)
def test_numbers_are_given_by_value_and_bits(tmp_path: Path, name: str, order: str):
    dtype = np.dtype(name).newbyteorder(order)
    count = 1 << 16 if dtype.itemsize <= 2 else 1000
    raw = np.arange(1 << 16, dtype="u2").tobytes() if dtype.itemsize == 2 else None
    raw = raw or random.Random(1).randbytes(count * dtype.itemsize)
    flat = np.frombuffer(raw, np.dtype(name)) if name != "?" else np.array([0, 1] * 4, "?")
    flat = flat.astype(dtype)
    tree = [flat, flat[:24].reshape(2, 3, 4) if flat.size > 24 else flat[::-1], flat[1], flat[:0]]
    got = round_trip(tmp_path, tree)
    assert_agrees(got, tree)
    assert got[0].dtype.spec.startswith(">") == (order == ">" and dtype.itemsize > 1)


@pytest.mark.parametrize("scalar", SMALL, ids=lambda scalar: scalar.__name__)
def test_every_value_of_a_small_dtype_is_given(tmp_path: Path, scalar: Any):
    size = np.dtype(scalar).itemsize
    patterns = np.arange(1 << ir.BITS.get(scalar.__name__, min(16, 8 * size)))
    array = patterns.astype(f"u{min(size, 2)}").repeat(-(-size // 2)).view(scalar)
    got = round_trip(tmp_path, [array, array[:2].reshape(1, 2, 1), array[1]])
    assert got[0].dtype.spec == scalar.__name__
    for leaf, want in zip(got, [array, array[:2].reshape(1, 2, 1), array[1]], strict=True):
        assert_leaf(leaf, np.asarray(want))


def special_arrays() -> dict[str, np.ndarray]:
    nested = np.dtype([("n", "<i2"), ("deep", [("x", ">f4"), ("y", "S3", (2, 2))])])
    holes = np.dtype({"names": ["b", "a"], "formats": ["?", ">u4"], "offsets": [7, 1]})
    titled = np.dtype([(("a title", "name"), "f8"), ("other", "U2")])
    texts = ["0", "-0.0", "1", "-1", "1e4000", "inf", "-inf", "nan"]
    long = np.array([np.longdouble(text) for text in texts] + [np.ldexp(np.longdouble(-3), -16443)])
    rng = np.random.default_rng(3)
    fields = [("dtype", nested), ("aligned", np.dtype("i1,f8,i2", align=True)), ("holes", holes)]
    structured = {
        name: np.frombuffer(rng.integers(32, 90, 5 * d.itemsize, "u1").tobytes(), d)
        for name, d in [*fields, ("titled", np.dtype("i4,(2,0)f4")), ("empty", np.dtype([]))]
        if d.itemsize
    }
    return structured | {
        "titled": np.array([(1.5, "ab"), (-0.0, "c")], titled),
        "small": np.array([(1, 2)], [("e", ml_dtypes.bfloat16), ("i", ml_dtypes.int4)]),
        "no fields": np.zeros(3, np.dtype([])),
        "record": np.rec.array([(1, "x"), (2, "y")], dtype=[("a", ">i8"), ("b", "U1")]),
        "longdouble": np.append(long, np.longdouble(1) / 3),
        "big longdouble": long.astype(long.dtype.newbyteorder(">")),
        "longdouble inside": np.array([(1, 0.1)], [("i", "i1"), ("l", np.longdouble)]),
        "clongdouble": long[:8].view(np.clongdouble),
        "text": np.array(["", "a", "ünï", "𝄞", "a\0b"]),
        "big text": np.array([["ab", "c"]], ">U3"),
        "lone surrogates": np.array(["\ud800", "x"]),
        "bytes": np.array([b"", b"ab", b"\0\xff", b"a\0"]),
        "no bytes": np.array([b"", b""], "S0"),
        "void": np.array([b"abc", b"\0\0\0"], "V3"),
        "no void": np.zeros((2, 3), "V0"),
        "without elements": np.zeros((3, 0, 2), "f4"),
    }


@pytest.mark.parametrize("name", special_arrays())
def test_other_dtypes_of_numpy_are_given_by_value(tmp_path: Path, name: str):
    array = special_arrays()[name]
    tree = [array, array.ravel()[:1][0]] if array.size and name != "record" else [array]
    assert_agrees(round_trip(tmp_path, tree), tree)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("unit", ["", "[Y]", "[M]", "[W]", "[D]", "[h]", "[m]", "[s]", "[25us]"])
@pytest.mark.parametrize("kind", "Mm")
def test_times_are_given_as_counts_of_their_unit(tmp_path: Path, kind: str, unit: str, order: str):
    counts = np.array([0, 1, -1, 2**62, -(2**63)])
    array = counts.astype(f"{order}i8").view(f"{order}{kind}8{unit}")
    got = round_trip(tmp_path, [array, array[1]])
    assert got[0].values == [0, 1, -1, 2**62, None] and got[1].values == 1
    name = {"M": "datetime64", "m": "timedelta64"}[kind] + unit
    assert got[0].dtype.spec == (">" if order == ">" else "") + name


def test_trailing_zeros_are_part_of_a_scalar_and_not_of_an_element(tmp_path: Path):
    got = round_trip(tmp_path, [np.str_("a\0\0"), np.bytes_(b"a\0"), np.array(["a\0\0"], "U3")])
    assert [leaf.values for leaf in got] == ["a\0\0", b"a\0", ["a"]]


def test_jax_arrays_and_keys_are_given_with_their_marks(tmp_path: Path):
    weak = jnp.asarray(1.0) * 2.0
    keys = [jax.random.key(0), jax.random.split(jax.random.key(1, impl="rbg"), (2, 3))]
    tree = {
        "plain": [jnp.arange(6.0).reshape(2, 3), jnp.ones((), jnp.bfloat16), weak],
        "weak": jax.lax.full_like(3, 2),
        "keys": keys,
        "raw": jax.random.PRNGKey(0),
        "committed": jax.device_put(np.arange(3), jax.devices()[0]),
        "narrow": jnp.arange(4).astype(jnp.int4),
    }
    got = round_trip(tmp_path, tree)
    assert_agrees(got, tree)
    assert got["committed"].type.extra.get("committed") is True
    assert got["keys"][1].shape == (2, 3, 4)


def test_tensors_and_state_dicts_of_torch_are_given_with_their_marks(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    numbers = torch.arange(6).reshape(2, 3)
    tree = {
        "model": model.state_dict(),
        "parameter": torch.nn.Parameter(numbers * 0.5),
        "buffer": torch.nn.Buffer(numbers, persistent=False),
        "transposed": numbers.t(),
        "half": (numbers * 0.5).bfloat16(),
        "packed": numbers.to(torch.uint8).view(torch.float4_e2m1fn_x2),
        "size": numbers.shape,
        "device": torch.device("cuda:1"),
        "dtype": torch.bfloat16,
        "counter": collections.Counter("aab"),
    }
    got = round_trip(tmp_path, tree)
    state = got["model"].fields
    assert {k: v.values for k, v in state["items"].items()} == {
        k: v.tolist() for k, v in model.state_dict().items()
    }
    assert state["attributes"] == {"_metadata": model.state_dict()._metadata}
    for name, full in (("parameter", "torch.nn.parameter.Parameter"), ("half", "torch.Tensor")):
        assert f"{got[name].type.module}.{got[name].type.name}" == full
        assert got[name].values == tree[name].tolist()
    assert got["parameter"].type.extra == {"requires_grad": True}
    assert got["buffer"].type.extra == {"persistent": False}
    assert got["transposed"].values == [[0, 3], [1, 4], [2, 5]]
    assert got["packed"].data == bytes(range(6))
    assert [field["name"] for field in got["packed"].dtype.spec["fields"]] == ["float4_e2m1fn_x2"]
    assert got["size"].fields == {"dims": (2, 3)}
    assert got["device"].fields == {"name": "cuda:1"}
    assert got["dtype"].name == "torch.bfloat16"
    assert got["counter"].fields == {"counts": {"a": 2, "b": 1}}


def test_a_trained_adamw_state_is_given_by_type_field_and_value(tmp_path: Path):
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 10, 100)),
    )
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros((), jnp.bfloat16)}
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    tree = {"params": optax.apply_updates(params, updates), "opt_state": state, "step": 2}
    got = round_trip(tmp_path, tree, step=2, metrics={"loss": -0.5, "n": -3})
    assert_agrees(got, tree)
    adam = got["opt_state"][1][0]
    assert (adam.type.name, adam.fields["count"].values) == ("ScaleByAdamState", 2)


def test_an_index_of_its_own_file_is_read(tmp_path: Path):
    rows = np.random.default_rng(2).standard_normal((25_000, 2), dtype=np.float32)
    got = round_trip(tmp_path, {str(i): row for i, row in enumerate(rows)})
    assert any(path.name.startswith("index-") for path in (tmp_path / "c").iterdir())
    assert list(got) == list(map(str, range(25_000)))
    assert b"".join(leaf.data for leaf in got.values()) == rows.tobytes()


def test_a_leaf_of_several_spans_and_metadata_are_read(tmp_path: Path):
    large = np.random.default_rng(4).standard_normal((5, 1_000_003))
    metadata = {"a": [None, -(2**53) + 1, {"b": [1.5, "x", b"y", True]}], "deep": {}}
    ckptstore.save(
        tmp_path / "c", [np.int8(1), large], step=3, metadata=metadata, metrics={"loss": 0.5}
    )
    checkpoint = ir.read(tmp_path / "c")
    assert len(ckptstore.inspect(tmp_path / "c").leaves) == 2
    assert checkpoint.tree[1].data == large.tobytes()
    assert checkpoint.tree[1].values == large.tolist()
    assert checkpoint.metadata["a"] == [None, -(2**53) + 1, {"b": [1.5, "x", b"y", True]}]
    assert (checkpoint.payload["step"], checkpoint.payload["metrics"]) == (3, {"loss": 0.5})


# ---------------------------------------------------------------- what the reader refuses


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path):
    rng = np.random.default_rng(1)
    tree: dict[str, Any] = {f"w{i}": rng.standard_normal((7, 3 + i)) for i in range(8)}
    tree |= {"large": rng.integers(0, 255, (1 << 20) + 5, "u1"), "text": "long " * 999, "n": 7}
    ckptstore.save(tmp_path / "c", tree, metadata={"about": "damage"})
    choose, paddings = random.Random(5), 0
    for path in (tmp_path / "c").iterdir():
        whole = path.read_bytes()
        small = range(16_384 if path.name.startswith("data") else len(whole))
        places = choose.sample(small, 250) + [choose.randrange(len(whole)) for _ in range(20)]
        with path.open("r+b", buffering=0) as file:
            for place in places:
                file.seek(place)
                file.write(bytes([whole[place] ^ 1 << choose.randrange(8)]))
                with pytest.raises(ir.SpecError) as error:
                    ir.read(tmp_path / "c")
                paddings += error.value.reason == "padding"
                file.seek(place)
                file.write(whole[place : place + 1])
        for damaged in (whole[:-1], whole + b"\0", whole[: len(whole) // 2], b""):
            path.write_bytes(damaged)
            with pytest.raises(ir.SpecError):
                ir.read(tmp_path / "c")
        path.write_bytes(whole)
    assert paddings, "no bit of padding was tried"
    assert_agrees(ir.read(tmp_path / "c").tree, tree)


def test_the_reader_has_nothing_of_the_package():
    tree = ast.parse(Path(ir.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
        assert not (isinstance(node, ast.Name) and node.id in ("__import__", "exec", "eval"))
    assert {"msgpack", "xxhash"} <= imported <= {"msgpack", "xxhash", *sys.stdlib_module_names}
    assert "importlib" not in imported


# ---------------------------------------------------------------- what the package does not write


class Column(list):
    """An integer column that is not yet packed."""


def packed(value: Any, width: int = 0) -> Any:
    if type(value) is Column:
        least = next(w for w in (1, 2, 4, 8) if max(value, default=0) < 256**w)
        return b"".join(number.to_bytes(width or least, "little") for number in value)
    return (
        {key: packed(item, width) for key, item in value.items()}
        if isinstance(value, dict)
        else value
    )


ATTEMPT = "0123456789abcdef" * 2
GRID = np.arange(30, dtype="<i4").reshape(5, 6) * 1_000_003
LARGE = np.arange(2 * (2**20 + 1), dtype="<u4").astype("u1").reshape(2, -1)
BIG = np.array([1, 2, 515], ">u2")
WANT = {"grid": GRID, "large": LARGE, "big": BIG, "zero": np.float32(-0.0), "none": np.ones((0, 3))}


class Handmade:
    """A checkpoint made from docs/spec.md alone: cut leaves, two data files, two index parts."""

    def __init__(self) -> None:
        one = [GRID[a:b, c:d] for a, b in ((0, 2), (2, 5)) for c, d in ((0, 1), (1, 4), (4, 6))]
        cells = [[c.tobytes() for c in one], [LARGE[0].tobytes(), LARGE[1].tobytes()]]
        cells += [[BIG.astype("<u2").tobytes()], [b"\0\0\0\x80"], [b""]]
        # leaf, cell, which of the cell's bytes, data file; the cells in no order
        rows = [(1, 1, 0, 2**20, 1), (0, 4, 0, 4, 0), (0, 1, 0, 24, 1), (2, 0, 0, 1, 1)]
        rows += [(0, 0, 0, 8, 0), (0, 4, 4, 36, 1), (3, 0, 0, 4, 0), (0, 5, 0, 24, 0)]
        rows += [(1, 0, 0, 2**20 + 1, 0), (1, 1, 2**20, 2**20 + 1, 1), (0, 2, 0, 16, 1)]
        rows += [(2, 0, 1, 6, 0), (0, 3, 0, 12, 1)]
        self.data, spans = [bytearray(), bytearray()], []
        for leaf, cell, start, stop, file in rows:
            piece = cells[leaf][cell][start:stop]
            self.data[file] += bytes(-len(self.data[file]) % (4096 if len(piece) >= 2**20 else 64))
            row = 2 - 2 * file  # rows of the table of files: data 1, index, data 0
            hashed = xxhash.xxh3_128_digest(piece)
            spans.append((leaf, cell, row, len(self.data[file]), len(piece), hashed))
            self.data[file] += piece
        names = [f"data-{ATTEMPT}-7-1.bin", f"index-{ATTEMPT}-7-0.bin", f"data-{ATTEMPT}-0-12.bin"]
        sizes = Column([len(self.data[1]), 0, len(self.data[0])])
        text = "".join(WANT).encode()
        kinds = [("numpy", "ndarray"), ("numpy", "generic")]
        self.types = {
            **{"kind": ["array"] * 2, "module": [m for m, _ in kinds]},
            **{"name": [n for _, n in kinds], "binding": [None] * 2, "main": [None] * 2},
            **{"fields": [[], []], "package": [None, "numpy"], "version": [None, "2"]},
            **{"extra": [{}, {"unknown": 1}], "a later column": [1, 2]},
        }
        self.nodes = {
            **{"count": 11, "kind": Column([22] + [5, 40] * 5), "arity": Column([10] + [0] * 10)},
            **{"type": Column([0] * 11), "arg": Column([0, 0, 0, 0, 1, 0, 2, 0, 3, 0, 4])},
            **{"size": Column([0, 4, 0, 5, 0, 3, 0, 4, 0, 4, 0]), "heap": text},
        }
        self.leaves = {
            **{"count": 5, "type": Column([1, 1, 1, 2, 1]), "dtype": Column([0, 1, 2, 3, 4])},
            **{"ndim": Column([2, 2, 1, 0, 2]), "dims": Column([5, 6, 2, 2**20 + 1, 3, 0, 3])},
            **{"grid": Column([2, 3, 2, 1, 1, 1, 1]), "cut_count": 4, "cuts": Column([2, 1, 4, 1])},
        }
        self.dtypes = ["int32", "uint8", ">uint16", "float32", "float64"]
        self.spans, self.more_spans = map(self.span_table, (spans[:6], spans[6:]))
        self.inline = {"spans": self.spans, "nodes": self.nodes, "types": self.types}
        self.second = {"leaves": self.leaves, "dtypes": self.dtypes, "spans": self.more_spans}
        self.inline["a later table"] = [[None]]
        self.files = {"name": names, "size": sizes, "role": ["data", "index", "data"]}
        self.files["xxh3-128"] = [None, b"", None]
        self.payload: dict[str, Any] = {
            **{"later": [{}], "metadata": msgpack.packb({"by": "hand"}), "step": None},
            **{"attempt": ATTEMPT, "time_ms": 0, "metrics": {"m": -1}, "writer": {"x": "y"}},
            **{"features": {"required": [], "optional": ["later"]}},
        }
        self.magic, self.width = b"\x94\xa9ckptstore\x92\x01\x05\xc6", 0

    @staticmethod
    def span_table(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
        *columns, digests = zip(*rows, strict=True)
        names = ("leaf", "cell", "file", "offset", "size")
        table = {name: Column(column) for name, column in zip(names, columns, strict=True)}
        return {"xxh3-128": b"".join(digests), "other-hash": b"?", "count": len(rows), **table}

    def write(self, path: Path) -> Path:
        path.mkdir()
        index = msgpack.packb(packed(self.second, self.width))
        if "size" in self.files:
            self.files["size"][1] = len(index)
        if self.files.get("xxh3-128", [0, 0])[1] == b"":
            self.files["xxh3-128"][1] = xxhash.xxh3_128_digest(index)
        names = [f"data-{ATTEMPT}-7-1.bin", f"index-{ATTEMPT}-7-0.bin", f"data-{ATTEMPT}-0-12.bin"]
        for name, content in zip(names, (self.data[1], index, self.data[0]), strict=True):
            (path / name).write_bytes(content)
        inline = self.inline and msgpack.packb(packed(self.inline, self.width))
        payload = msgpack.packb(
            packed({"index": inline, "files": self.files} | self.payload, self.width)
        )
        head = self.magic + len(payload).to_bytes(4, "big") + payload
        digests = {"later": b"", "xxh3-128": xxhash.xxh3_128_digest(head)}
        (path / "MANIFEST").write_bytes(head + msgpack.packb(digests))
        return path


def assert_both_read_it(path: Path) -> None:
    assert_agrees(ir.read(path).tree, WANT)
    loaded = ckptstore.load(path)
    assert list(loaded) == list(WANT)
    for name, want in WANT.items():
        assert type(loaded[name]) is type(want)
        assert loaded[name].dtype == want.dtype and loaded[name].shape == want.shape
        assert loaded[name].tobytes() == want.tobytes(), name
    assert ckptstore.verify(path) == []


def test_cut_leaves_in_two_data_files_and_two_index_parts_are_read_by_both(tmp_path: Path):
    assert_both_read_it(Handmade().write(tmp_path / "c"))


@pytest.mark.parametrize("width", [2, 4, 8])
def test_columns_wider_than_they_need_are_read_by_both(tmp_path: Path, width: int):
    made = Handmade()
    made.width = width if width > 2 else 0
    for table in (made.nodes, made.spans):
        for key, column in table.items():
            if type(column) is Column and max(column) < 256**width:
                table[key] = packed(column, width)
    assert_both_read_it(made.write(tmp_path / "c"))


def loose(value: Any) -> bytes:
    """Pack with the longest form of every int, length and type."""
    if isinstance(value, dict):
        pairs = b"".join(loose(item) for pair in value.items() for item in pair)
        return b"\xdf" + struct.pack(">I", len(value)) + pairs
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(loose, value))
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        kind = b"\xdb" if isinstance(value, str) else b"\xc6"
        return kind + struct.pack(">I", len(data)) + data
    if type(value) is int:
        return struct.pack(">Bq", 0xD3, value)
    return msgpack.Packer().pack(value)


def test_longer_forms_of_msgpack_are_read_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr(msgpack, "packb", loose)
        path = Handmade().write(tmp_path / "c")
    assert_both_read_it(path)


def test_the_checkpoint_in_hex_on_the_page_is_read_by_both(tmp_path: Path):
    page = DOCS / "spec.md"
    content, blocks = page.read_text().partition("## 13 ")[2].split("```")[1::2], []
    for block in content:
        data = b""
        for line in block.strip("\n").split("\n"):
            found = re.match(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", line)
            assert found and int(found[1], 16) == len(data), line
            data += bytes.fromhex(found[2])
        blocks.append(data)
    (name,) = set(re.findall(rb"data-[0-9a-f]{32}-0-0.bin", blocks[0]))
    (tmp_path / "MANIFEST").write_bytes(blocks[0])
    (tmp_path / name.decode()).write_bytes(blocks[1])
    want = {"w": np.arange(3, dtype=np.float32), "lr": 0.5}
    assert_agrees(ir.read(tmp_path).tree, want)
    assert str(ckptstore.load(tmp_path)) == str(want)


def test_all_parts_in_index_files_are_read_by_both(tmp_path: Path):
    made = Handmade()
    made.second |= made.inline
    made.second["spans"] = {
        key: value + made.more_spans[key] for key, value in made.spans.items() if key != "count"
    } | {"count": made.spans["count"] + made.more_spans["count"]}
    for key, value in made.second["spans"].items():
        made.second["spans"][key] = Column(value) if isinstance(value, list) else value
    made.inline = None
    assert_both_read_it(made.write(tmp_path / "c"))


def test_a_partial_read_of_a_cut_leaf_is_the_same(tmp_path: Path):
    path = Handmade().write(tmp_path / "c")
    assert (ckptstore.load(path, select="$['grid']") == GRID).all()


Change = Callable[[Handmade], Any]


def put(table: str, key: Any, value: Any) -> Change:
    return lambda made: getattr(made, table).__setitem__(key, value)


def drop(table: str, key: str) -> Change:
    return lambda made: getattr(made, table).pop(key)


def row(table: str, key: str, at: int, value: Any) -> Change:
    return lambda made: getattr(made, table)[key].__setitem__(at, value)


def root(kind: int, arg: int = 0, heap: bytes = b"", type_: int = 0) -> Change:
    """Make the last node, whose leaf has no bytes, another one."""

    def change(made: Handmade) -> None:
        made.nodes["kind"][10], made.nodes["arg"][10], made.nodes["type"][10] = kind, arg, type_
        made.nodes["size"][10], made.nodes["heap"] = len(heap), made.nodes["heap"] + heap
        for key, values in (("count", 4), ("type", 4), ("dtype", 4), ("ndim", 4)):
            column = made.leaves[key]
            made.leaves[key] = values if key == "count" else Column(column[:values])
        made.leaves["dims"], made.leaves["grid"] = (
            Column(made.leaves[key][:5]) for key in ("dims", "grid")
        )

    return change


FAULTS: list[tuple[str, Change]] = [
    ("bad-magic", lambda made: setattr(made, "magic", b"\x94\xa9checkpnt\x92\x01\0\xc6")),
    ("newer-major", lambda made: setattr(made, "magic", b"\x94\xa9ckptstore\x92\x02\0\xc6")),
    ("newer-major", lambda made: setattr(made, "magic", b"\x94\xa9ckptstore\x92\x01\x80\xc6")),
    ("bad-msgpack", lambda made: setattr(made, "magic", b"\x94\xa9ckptstore\x92\x01\0\xc5")),
    ("manifest-size", put("payload", "later", b"x" * 2**20)),
    ("too-many", put("payload", "later", [0] * 131_072)),
    ("too-deep", put("payload", "later", functools.reduce(lambda a, _: [a], range(80), 1))),
    ("too-deep", put("inline", "later", functools.reduce(lambda a, _: [a], range(80), 1))),
    ("bad-msgpack", put("payload", "later", msgpack.ExtType(1, b"x"))),
    ("bad-key", put("payload", "later", {1: 2})),
    ("missing-field", put("payload", "features", {"optional": []})),
    ("bad-field", put("payload", "features", [])),
    ("bad-field", put("payload", "features", {"required": [1], "optional": []})),
    ("bad-field", put("payload", "features", {"required": [], "optional": {}})),
    ("unknown-feature", put("payload", "features", {"required": ["new"], "optional": []})),
    ("unknown-feature", put("payload", "features", {"required": ["new"]})),
    *[
        (reason, put("payload", key, value))
        for key, reason, values in [
            ("attempt", "bad-field", [1, ATTEMPT.upper(), ATTEMPT + "\n", ATTEMPT[1:]]),
            ("time_ms", "bad-field", [None, True, 1.0]),
            ("time_ms", "integer-range", [-1, 2**53]),
            ("step", "bad-field", [True, 1.0, "1"]),
            ("step", "integer-range", [-1, 2**53]),
            ("metrics", "bad-field", [[], {"m": True}, {"m": None}]),
            ("metrics", "integer-range", [{"m": 2**53}, {"m": -(2**53)}]),
            ("writer", "bad-field", [[], {"x": 1}]),
            ("metadata", "bad-field", [{}, None, msgpack.packb([])]),
            ("metadata", "integer-range", [msgpack.packb({"n": [2**53]})]),
            ("metadata", "truncated", [b"", b"\x81"]),
            ("metadata", "trailing-bytes", [b"\x80\x80"]),
            ("metadata", "too-many", [msgpack.packb({"n": b"x" * 2**18})]),
            ("metadata", "duplicate-key", [b"\x82\xa1a\x01\xa1a\x02"]),
            ("metadata", "bad-msgpack", [b"\x81\xa1a\xa1\xff"]),
            ("index", "bad-field", [{}, 1]),
            ("index", "truncated", [b"\x81\xa1a"]),
            ("files", "bad-field", [[]]),
        ]
        for value in values
    ],
    *[
        ("missing-field", drop(table, key))
        for table, keys in [
            ("files", "name size role xxh3-128"),
            ("inline", "spans nodes types"),
            ("second", "spans leaves dtypes"),
            ("types", "kind module name binding main fields package version extra"),
            ("nodes", "count kind arity type arg size heap"),
            ("leaves", "count type dtype ndim dims cut_count cuts"),
            ("spans", "count leaf cell file offset size xxh3-128"),
        ]
        for key in keys.split()
    ],
    ("bad-column", row("files", "role", slice(1), [])),
    ("bad-field", put("files", "name", [1, 2, 3])),
    ("bad-file-name", row("files", "name", 0, f"data-{ATTEMPT}-07-1.bin")),
    ("bad-file-name", row("files", "name", 0, f"data-{ATTEMPT}-7-1.bin\n")),
    ("bad-file-name", row("files", "name", 0, f"../data-{ATTEMPT}-7-1.bin")),
    ("bad-file-name", row("files", "name", 0, f"data-{'0' * 32}-7-1.bin")),
    ("bad-file-name", row("files", "name", 0, f"index-{ATTEMPT}-7-0.bin")),
    ("bad-file-name", row("files", "name", 0, f"data-{ATTEMPT}-0-12.bin")),
    ("bad-field", row("files", "xxh3-128", 0, b"x" * 16)),
    ("bad-field", row("files", "xxh3-128", 1, b"x" * 15)),
    ("bad-field", row("files", "xxh3-128", 1, None)),
    ("checksum", row("files", "xxh3-128", 1, b"x" * 16)),
    ("missing-file", row("files", "name", 0, f"data-{ATTEMPT}-7-2.bin")),
    ("file-size", lambda made: made.data[0].append(0)),
    ("duplicate-table", put("second", "types", {})),
    ("duplicate-table", put("second", "nodes", {})),
    ("bad-field", put("inline", "types", [])),
    ("bad-field", put("second", "dtypes", {})),
    ("bad-field", put("types", "kind", {})),
    ("bad-field", row("types", "name", 0, 1)),
    ("bad-column", put("types", "binding", [None])),
    ("bad-type", row("types", "kind", 0, "class")),
    ("bad-type", row("types", "binding", 0, 1)),
    ("bad-type", row("types", "main", 0, 1)),
    ("bad-type", row("types", "package", 0, 1)),
    ("bad-type", row("types", "version", 0, 1)),
    ("bad-type", row("types", "extra", 0, None)),
    ("bad-type", row("types", "fields", 0, ["x"])),
    ("bad-type", row("types", "fields", 0, None)),
    ("bad-type", row("types", "name", 0, "tensor")),
    ("bad-field", put("nodes", "count", "11")),
    ("integer-range", put("nodes", "count", -1)),
    ("bad-column", put("nodes", "count", 12)),
    ("bad-column", put("nodes", "kind", b"123456789012")),
    ("bad-field", put("nodes", "heap", "text")),
    ("integer-range", row("nodes", "arg", 10, 2**53)),
    ("bad-tree", row("nodes", "arity", 0, 12)),
    ("bad-tree", row("nodes", "arity", 0, 8)),
    ("bad-node", row("nodes", "kind", 10, 15)),
    ("bad-node", row("nodes", "kind", 0, 1)),
    ("bad-node", row("nodes", "kind", 0, 10)),
    ("bad-node", lambda made: made.nodes["arity"].__setitem__(slice(0, 9, 8), [9, 1])),
    ("bad-node", row("nodes", "size", 1, 5)),
    ("bad-node", row("nodes", "size", 1, 2**53 - 1)),
    ("bad-node", row("nodes", "type", 1, 9)),
    ("bad-node", row("nodes", "kind", 0, 30)),
    (
        "bad-node",
        lambda made: (row("nodes", "kind", 0, 30)(made), row("nodes", "type", 0, 1)(made)),
    ),
    ("bad-node", root(14, 5)),
    ("bad-reference", row("nodes", "arg", 10, 3)),
    ("bad-reference", row("nodes", "arg", 10, 5)),
    (
        "bad-reference",
        lambda made: made.nodes.update(
            kind=Column([22] + [5, 40] * 4 + [5, 0]), arg=Column([0, 0, 0, 0, 1, 0, 2, 0, 3, 0, 0])
        ),
    ),
    ("bad-reference", root(41, 10)),
    ("bad-reference", root(41, 0)),
    ("bad-leaf", row("leaves", "type", 0, 0)),
    ("bad-leaf", row("leaves", "type", 0, 3)),
    ("bad-leaf", row("leaves", "dtype", 0, 5)),
    ("bad-leaf", put("dtypes", 4, {"base": "float64", "shape": [1]})),
    *[
        ("bad-dtype", put("dtypes", 4, spec))
        for spec in [
            *[
                1,
                None,
                [],
                {},
                "",
                ">",
                "float65",
                "<f4",
                ">>float64",
                ">bool",
                ">int8",
                ">bytes[4]",
            ],
            *["str", "str[01]", "str[-1]", "str[ 1]", "bytes[2147483648]", "str[536870912]"],
            *["datetime64[]", "datetime64[0s]", "datetime64[2147483648s]", "datetime64[x]"],
            *["longdouble", "longdouble[x]", ">void[4]", ">float8_e4m3", "float64\n", "str[1]\n"],
            {"fields": [], "itemsize": 2**31, "aligned": False, "record": False},
            {"fields": [], "itemsize": 0, "aligned": 0, "record": False},
            {"fields": [], "aligned": False, "record": False},
            *[
                {"fields": fields, "itemsize": 8, "aligned": False, "record": False}
                for fields in [
                    [{"name": "a", "dtype": "float64", "offset": 1}],
                    [{"name": "a", "dtype": "float64", "offset": -1}],
                    [{"name": 1, "dtype": "float64", "offset": 0}],
                    [{"name": "a", "dtype": "float64"}],
                    [{"name": n, "dtype": "int8", "offset": 0} for n in "ab"],
                    [{"name": "a", "dtype": "int8", "offset": i} for i in range(2)],
                    [{"name": n, "title": "b", "dtype": "int8", "offset": 0} for n in "b"],
                ]
            ],
        ]
    ],
    ("bad-shape", row("leaves", "ndim", 0, 65)),
    ("shape-overflow", row("leaves", "dims", 6, 2**51)),
    ("integer-range", row("leaves", "dims", 5, 2**53)),
    ("bad-column", row("leaves", "ndim", 0, 1)),
    ("bad-grid", row("leaves", "grid", 0, 0)),
    ("bad-grid", row("leaves", "grid", 0, 1)),
    ("bad-grid", row("leaves", "grid", 5, 6)),
    ("bad-grid", row("leaves", "cuts", 0, 0)),
    ("bad-grid", row("leaves", "cuts", 0, 5)),
    ("bad-grid", row("leaves", "cuts", 2, 1)),
    ("bad-grid", lambda made: made.leaves["grid"].__setitem__(slice(2, 7), [1, 1, 1, 1, 2])),
    ("bad-span", row("spans", "leaf", 0, 5)),
    ("bad-span", row("spans", "cell", 0, 2)),
    ("bad-span", row("spans", "size", 0, 0)),
    ("bad-span", row("spans", "size", 0, 2**26 + 1)),
    ("span-sum", row("spans", "size", 0, 2**20 + 1)),
    ("span-sum", row("spans", "cell", 0, 0)),
    ("span-sum", row("leaves", "dims", 5, 1)),
    ("bad-span", row("spans", "file", 0, 1)),
    ("bad-span", row("spans", "file", 0, 3)),
    ("span-range", row("spans", "offset", 0, 2**30)),
    ("span-alignment", row("spans", "offset", 1, 2)),
    ("span-overlap", row("spans", "offset", 4, 0)),
    ("checksum", lambda made: made.data[0].__setitem__(0, made.data[0][0] ^ 1)),
    ("bad-node", root(1, 2)),
    ("bad-node", root(3, 0, b"1234567")),
    ("bad-node", root(4, 0, b"12345678")),
    ("bad-scalar", root(5, 0, b"\xed\xa0\x80")),
    ("bad-scalar", root(6, 0, b"\xff")),
    ("bad-scalar", root(24, 0, b"object")),
    ("duplicate-key", lambda made: made.nodes.__setitem__("heap", b"gridlargebignonenone")),
    ("bad-key", row("nodes", "kind", 1, 8)),
]


@pytest.mark.parametrize("at", range(len(FAULTS)), ids=lambda at: f"{at}-{FAULTS[at][0]}")
def test_both_refuse_a_fault_for_the_same_reason(tmp_path: Path, at: int):
    reason, change = FAULTS[at]
    made = Handmade()
    change(made)
    path = made.write(tmp_path / "c")
    with pytest.raises(ir.SpecError) as mine:
        ir.read(path)
    with pytest.raises(ckptstore.CheckpointError) as theirs:
        ckptstore.load(path)
    assert (mine.value.reason, theirs.value.reason) == (reason, reason)
    shutil.rmtree(path)  # two MiB for each fault

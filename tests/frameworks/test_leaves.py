"""Every array, scalar, key and dtype comes back with its bits, or save refuses it by its path."""

from __future__ import annotations

import os
import pathlib
import pickle
import re
import shutil
import struct
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ckptstore
from ckptstore.format import Kind, TypeKind, TypeRow
from ckptstore.types import Refusal, registry
from tests.conformance import make_conformance as made
from tests.support.compare import assert_exact, assert_refused, differences, roundtrip

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = jnp = None  # type: ignore[assignment]

needs_jax = pytest.mark.skipif(jax is None, reason="jax is not installed")

ML = [
    "bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn",
    "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn",
    "float6_e3m2fn", "float4_e2m1fn", "int1", "int2", "int4", "uint1", "uint2", "uint4",
    "complex32", "bcomplex32",
]  # fmt: skip
ML_BITS = {"float6": 6, "float4": 4, "int1": 1, "int2": 2, "int4": 4, "uint": 4}
NATIVE = [
    *("?", "i1", "i2", "i4", "i8", "q", "u1", "u2", "u4", "u8", "Q", "f2", "f4", "f8", "c8", "c16"),
    *("g", "G", "m8[ns]", "M8[3D]", "M8", "S3", "U2", "V5"),
]


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
import ckptstore
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
specs = [P("a"), P("a", "b"), P(None, ("a", "b")), P(), P("b", None)]
hosts = [np.arange(64).reshape(8, 8) % 7, np.arange(64.0, dtype="f4").reshape(8, 8)]
for host in [hosts[0].astype(jnp.int4), *hosts]:
    host = host.astype("i4") if host.dtype == "i8" else host
    def make():
        return [jax.device_put(host, NamedSharding(mesh, spec)) for spec in specs]
    xs = make()
    ckptstore.save("c", xs, overwrite=True)
    for x in xs:
        assert len(x.devices()) == 4
        assert x._npy_value is None
        assert all(shard.data._npy_value is None for shard in x.addressable_shards)
    for got in ckptstore.load("c", arrays="numpy"):
        assert got.dtype == host.dtype and got.tobytes() == host.tobytes()
    step = jax.jit(lambda x: x, donate_argnums=0)
    for x in xs:
        step(x)
    for x, got, fresh in zip(xs, ckptstore.load("c", like=xs), make()):
        assert x.is_deleted() and got.sharding == fresh.sharding
        assert np.asarray(got).tobytes() == host.tobytes()
key = jax.device_put(jax.random.split(jax.random.key(0), 4), NamedSharding(mesh, P("a")))
ckptstore.save("k", key)
data = np.asarray(jax.random.key_data(key))
assert (ckptstore.load("k", arrays="numpy") == data).all()
"""


def all_patterns(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Every bit pattern of a dtype of at most 16 bits; many of a wider one."""
    nbytes = dtype.itemsize
    if nbytes > 2:
        return np.frombuffer(np.random.default_rng(0).bytes(64 * nbytes), dtype)
    top = next((b for name, b in ML_BITS.items() if dtype.name.startswith(name)), 8 * nbytes)
    if dtype.name in ("uint1", "uint2"):
        top = int(dtype.name[-1])
    return np.arange(1 << top, dtype=f"u{nbytes}").view(dtype)


def ml(name: str) -> np.dtype[Any]:
    if not hasattr(ml_dtypes, name):
        pytest.skip(f"this ml_dtypes has no {name}")
    return np.dtype(getattr(ml_dtypes, name))


# --- numpy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", NATIVE)
def test_a_numpy_array_comes_back(code: str, order: str, tmp_path: pathlib.Path) -> None:
    dtype = np.dtype(code).newbyteorder(order)
    values = np.arange(12).astype(dtype) if code[0] != "V" else np.frombuffer(bytes(60), dtype)
    x = values.astype(dtype).reshape(3, 4)
    assert_exact(tmp_path, [x, x[0, 0:0], x[:0], x[1, 1, ...], x[1], np.zeros((0, 3, 0), dtype)])


@pytest.mark.parametrize("name", ML)
def test_every_bit_pattern_of_ml_dtypes_comes_back(name: str, tmp_path: pathlib.Path) -> None:
    dtype = ml(name)
    x = all_patterns(dtype)
    loaded = assert_exact(tmp_path, [x, x[:0], x[1], x.reshape(2, -1).T, dtype, dtype.type])
    assert loaded[2].dtype == dtype


@pytest.mark.parametrize("code", ["f2", "f4", "f8", "c8"])
def test_nan_payloads_and_negative_zeros_come_back(code: str, tmp_path: pathlib.Path) -> None:
    dtype = np.dtype(code)
    part = np.dtype(code.replace("c8", "f4"))
    bits = {2: 0x7C01, 4: 0x7F800001, 8: 0x7FF0000000000001}[part.itemsize]
    unsigned = np.dtype(f"u{part.itemsize}")
    raw = [bits, bits + 6, bits | 1 << (8 * part.itemsize - 1), 1 << (8 * part.itemsize - 1)]
    x = np.array(raw, unsigned).view(dtype)
    assert_exact(tmp_path, [x, *x])


def test_any_memory_layout_comes_back_in_order_c(tmp_path: pathlib.Path) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    read_only = x.copy()
    read_only.flags.writeable = False
    views = [
        np.asfortranarray(x), x.T, x[::-1], x[:, ::2, ::-3], np.broadcast_to(x[0, 0], (5, 4)),
        read_only, x[None, ..., 1:], np.frombuffer(b"x" + bytes(16), "f8", offset=1)[:2],
    ]  # fmt: skip
    for loaded in assert_exact(tmp_path, views):
        assert loaded.flags.c_contiguous
        assert loaded.flags.writeable
        assert loaded.flags.owndata or loaded.base is not None


STRUCTURED = {
    "plain": [("a", "i1"), ("b", "f8")],
    "big-endian": [("a", ">i4"), ("b", ">f8"), ("c", ">U2")],
    "aligned": np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    "aligned and big-endian": np.dtype([("a", "i1"), ("b", ">f8")], align=True),
    "titles": [(("Title", "a"), "i1"), ("b", "f8")],
    "titles and big-endian": [(("Title", "a"), ">i2"), ("b", "f8")],
    "nested": [("a", [("x", "<i4", (2, 3)), ("y", "S3")]), ("b", "?", (2,))],
    "nested and big-endian": [("a", [("x", ">i4", (2, 3)), ("y", "S3")]), ("b", ">M8[s]")],
    "offsets": {"names": ["b", "a"], "formats": ["i4", "i2"], "offsets": [4, 0], "itemsize": 16},
    "record": (np.record, [("a", ">i4"), ("b", "f8")]),
    "no fields": [],
    "no fields, some bytes": {"names": [], "formats": [], "itemsize": 8},
    "ml_dtypes inside": [("a", ml_dtypes.bfloat16), ("b", ml_dtypes.int4, (3,))],
    "longdouble inside": [("a", "g"), ("b", "i1")],
    "a unicode name": [("é \0", "i4"), ("f1", "i2")],
    "float0": [("float0", "V")],
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_dtypes_come_back(name: str, tmp_path: pathlib.Path) -> None:
    dtype = np.dtype(STRUCTURED[name])  # type: ignore[call-overload]
    x = np.zeros((2, 3), dtype)
    for k, field in enumerate(dtype.names or ()):
        if dtype[field].base.kind in "if?":
            x[field] = k + 1
    assert_exact(tmp_path, [x, x[0, 0], x.T, x[:0], dtype, np.rec.array(x)])


def test_padding_is_not_saved(tmp_path: pathlib.Path) -> None:
    secret = np.frombuffer(b"SECRET__" * 32, np.dtype([("a", "i1"), ("b", "f8")], align=True))
    long = np.frombuffer(b"SECRET__" * 32, np.longdouble)
    ckptstore.save(tmp_path / "c", [secret, long])
    data = b"".join(path.read_bytes() for path in (tmp_path / "c").iterdir())
    assert b"SECRET__SECRET__SECRET" not in data
    assert b"ECRET__S" in data  # the field b itself is there


SCALARS = [
    np.float32(0.1), np.float64(-0.0), np.int8(-3), np.bool_(True), np.complex64(1j),
    np.longdouble("0.1"), np.clongdouble(1j), np.str_("é\ud800"), np.str_(""), np.str_("a\0"),
    np.bytes_(b"ab\0\0"), np.bytes_(b""), np.void(b"\0a\0"), np.int64(-2**63).view("M8"),
    np.datetime64("2020-01-01T00:00", "m"), np.datetime64(5, "25s"), np.int64(3).view("m8"),
    np.timedelta64(-3, "us"), np.array((1, 2.5), "i4,>f8")[()], np.float16(np.nan),
    np.rec.array([(1, 2.0)], dtype="i4,f8")[0], np.array([("ab", b"c")], "U3,S2")[0],
]  # fmt: skip


@pytest.mark.parametrize("x", SCALARS, ids=lambda x: f"{type(x).__name__}-{ascii(x)[:20]}")
def test_a_numpy_scalar_comes_back(x: Any, tmp_path: pathlib.Path) -> None:
    loaded = assert_exact(tmp_path, {"x": x})["x"]
    if isinstance(x, np.str_ | np.bytes_):
        assert loaded == x
        assert len(loaded) == len(x)


@pytest.mark.parametrize(
    "dtype",
    ["U2", ">U1", [("n", "i1"), ("s", ">U1")], [("in", [("n", "i1"), ("s", "U1", (2,))])]],
    ids=["plain", "big-endian", "field", "nested"],
)
def test_text_beyond_unicode_is_refused(dtype: Any, tmp_path: pathlib.Path) -> None:
    size = np.dtype(dtype).itemsize
    for high in (b"\0\0\x11\0", b"\0\x11\0\0"):
        big = ">" in str(dtype)
        start = size % 4
        raw = bytearray(2 * size)
        raw[start : start + 4] = high
        x = np.frombuffer(bytes(raw), dtype)
        if (high[2] == 0x11) is not big:
            with pytest.raises(ckptstore.StructureError, match=r"U\+10FFFF"):
                ckptstore.save(tmp_path / "bad", {"x": x})
            assert not (tmp_path / "bad" / "MANIFEST").exists()
    top = bytearray(size)
    top[size % 4 : size % 4 + 4] = b"\0\x10\xff\xff" if ">" in str(dtype) else b"\xff\xff\x10\0"
    good = np.frombuffer(bytes(top), dtype)
    assert_exact(tmp_path, [good, good[:0], np.broadcast_to(good, (3, 1)), good[0]])


@pytest.mark.parametrize("index", [0, slice(None, None, 2)])
def test_text_of_any_layout_is_looked_at(index: Any, tmp_path: pathlib.Path) -> None:
    words = np.zeros((4, 4), np.uint32)
    words[2, 2] = 0x110000
    x = words.view("U1").T
    if index == 0:
        assert_exact(tmp_path, [x[index]])
    else:
        with pytest.raises(ckptstore.StructureError, match=r"U\+10FFFF"):
            ckptstore.save(tmp_path / "bad", [x[index]])


def odd_mask(**parts: Any) -> Any:
    x = np.ma.array([1.0, 2.0], mask=[0, 1], fill_value=7)
    vars(x).update(parts)
    return x


def test_a_mask_that_numpy_would_not_make_is_refused(tmp_path: pathlib.Path) -> None:
    for parts in (
        {"_mask": np.zeros(1, bool)},
        {"_mask": np.zeros(2, np.int8)},
        {"_fill_value": np.zeros(1)},
    ):
        assert_refused(tmp_path, [odd_mask(**parts)], "$[0]", "another shape or dtype")


MASKED = {
    "plain": lambda: np.ma.array([1.0, 2.0], mask=[0, 1]),
    "what is hidden": lambda: np.ma.masked_invalid([1.0, np.nan]),
    "no mask": lambda: np.ma.array([1, 2]),
    "an empty mask": lambda: np.ma.array([1, 2], mask=[0, 0]),
    "a fill value": lambda: np.ma.array([1, 2], mask=[0, 1], fill_value=7),
    "a hard mask": lambda: np.ma.array([1, 2], mask=[0, 1], hard_mask=True),
    "0-d": lambda: np.ma.array(3, mask=True),
    "structured": lambda: np.ma.array([(1, 2.0)], mask=[(0, 1)], dtype="i4,f8"),
    "text": lambda: np.ma.array(["a", "b"], mask=[0, 1], fill_value="zz"),
    "time": lambda: np.ma.array(np.array(["2020"], "M8[Y]"), mask=[1]),
    "big-endian": lambda: np.ma.array(np.arange(3, dtype=">i4"), mask=[1, 0, 0]),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_array_comes_back(name: str, tmp_path: pathlib.Path) -> None:
    x = MASKED[name]()
    x_shared = x._sharedmask
    assert_exact(tmp_path, [x, x])
    assert x._sharedmask == x_shared


DTYPES = ["f4", ">f4", "U0", ">U5", "S", "V", "V0", "M8[25s]", "?", "g", "(2,3)>i4", "i4,(2,)S3"]


@pytest.mark.parametrize("code", DTYPES)
def test_a_dtype_comes_back_as_a_value(code: str, tmp_path: pathlib.Path) -> None:
    assert_exact(tmp_path, [np.dtype(code), {"dtype": np.dtype(code)}])


class Sub(np.ndarray):  # type: ignore[type-arg]
    pass


class Float(np.float64):
    pass


def with_attribute(x: Any) -> Any:
    x.extra = 1
    return x


def overlapping() -> Any:
    return np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})


def string_dtype() -> Any:
    return np.array(["a"], np.dtypes.StringDType())  # type: ignore[attr-defined]


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "an object array": (
        lambda: np.array([1, "a"], object),
        ("Python objects", "convert it to a list"),
    ),
    "a field of objects": (lambda: np.zeros(2, "i4,O"), ("Python objects",)),
    "variable-width strings": (string_dtype, ("StringDType", "fixed-width 'U'")),
    "a memmap": (None, ("memmap", "np.array(x)")),
    "a matrix": (lambda: np.zeros((2, 2)).view(np.matrix), ("matrix", "np.array(x)")),
    "a subclass": (lambda: np.zeros(2).view(Sub), ("test_leaves.Sub", "np.array(x)")),
    "a subclass of a scalar": (lambda: Float(1), ("test_leaves.Float",)),
    "an attribute of a masked array": (lambda: with_attribute(np.ma.array([1])), ("'extra'",)),
    "an attribute of a recarray": (
        lambda: with_attribute(np.rec.array([(1, 2)], dtype="i4,i4")), ("'extra'",)),
    "a masked matrix": (lambda: np.ma.array(np.zeros((2, 2)).view(np.matrix)), ("matrix",)),
    "numpy.ma.masked": (lambda: np.ma.masked, ("numpy.ma.masked", "None")),
    "dtype metadata": (
        lambda: np.zeros(2, np.dtype("f4", metadata={"a": 1})), ("metadata", ".astype(")),
    "metadata of a field": (
        lambda: np.zeros(2, [("a", np.dtype("f4", metadata={"a": 1}))]),
        ("metadata", "new dtype without metadata"),
    ),
    "overlapping fields": (overlapping, ("overlap", "apart")),
    "a swapped bfloat16": (
        lambda: np.zeros(2, np.dtype(ml_dtypes.bfloat16).newbyteorder(">")), ("bfloat16",)),
    "a dtype with metadata": (lambda: np.dtype("f4", metadata={"a": 1}), ("metadata",)),
    "an object dtype": (lambda: np.dtype("O"), ("Python objects",)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_save_refuses_an_array_by_path(name: str, tmp_path: pathlib.Path) -> None:
    make, words = REFUSED[name]
    if name == "variable-width strings" and not hasattr(np, "dtypes"):
        pytest.skip("numpy 1")
    if name == "variable-width strings" and not hasattr(np.dtypes, "StringDType"):
        pytest.skip("numpy 1")
    x = np.memmap(tmp_path / "m", "i4", "w+", shape=3) if make is None else make()
    assert_refused(tmp_path, {"x": (1, x)}, "$['x'][1]", *words)


def test_the_state_of_a_generator_of_random_numbers_comes_back_without_it(
    tmp_path: pathlib.Path,
) -> None:
    new, old = np.random.default_rng(3), np.random.RandomState(3)
    ckptstore.save(tmp_path / "c", [new.bit_generator.state, old.get_state()])
    states = ckptstore.load(tmp_path / "c")
    again, old_again = np.random.default_rng(), np.random.RandomState()
    again.bit_generator.state = states[0]
    old_again.set_state(states[1])
    assert (again.normal(), old_again.normal()) == (new.normal(), old.normal())


def test_the_remedy_for_metadata_works(tmp_path: pathlib.Path) -> None:
    x = np.ones(2, np.dtype("f4", metadata={"a": 1}))
    assert_exact(tmp_path, x.astype(x.dtype.str))
    y = np.ones(2, [("a", np.dtype(">f4", metadata={"a": 1}))])
    assert_exact(tmp_path, y.astype([("a", ">f4")]))


@pytest.mark.parametrize("nbytes", [100, 3 << 20])
def test_a_loaded_array_does_not_need_the_files(nbytes: int, tmp_path: pathlib.Path) -> None:
    x = np.random.default_rng(0).bytes(nbytes)
    tree = [np.frombuffer(x, np.uint8), np.frombuffer(x, np.uint8)[7:]]
    ckptstore.save(tmp_path / "c", tree)
    loaded = ckptstore.load(tmp_path / "c")
    for path in (tmp_path / "c").iterdir():
        with path.open("r+b") as file:
            file.write(bytes(64))
            file.truncate(64)
    assert differences(tree, loaded) == []
    shutil.rmtree(tmp_path / "c")
    loaded[1][:] = 0
    assert differences(tree[0], loaded[0]) == []


class OwnRecord(np.record):
    """A scalar class that a file does not know."""


class OwnVoid(np.void):
    """Another."""


HALVES = {"lo": (np.int16, 0), "hi": (np.int16, 2)}
OWN = {
    "an integer with fields": np.dtype((np.int32, HALVES)),
    "a float with fields": np.dtype((np.float64, {"bits": (np.uint64, 0)})),
    "a complex number with fields": np.dtype((np.complex64, {"re": ("f4", 0), "im": ("f4", 4)})),
    "a time with fields": np.dtype(("M8[s]", {"n": (np.int64, 0)})),
    "a big-endian integer with fields": np.dtype((np.int32, HALVES)).newbyteorder(">"),
    "a record of one's own": np.dtype((OwnRecord, [("a", "i4"), ("b", "f8")])),
    "a void of one's own with fields": np.dtype((OwnVoid, [("a", "i4")])),
    "a void of one's own": np.dtype((OwnVoid, 8)),
    "a record without fields": np.dtype((np.record, 8)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_dtype_whose_scalars_have_a_class_of_their_own_is_refused(
    name: str, tmp_path: pathlib.Path
) -> None:
    dtype = OWN[name]
    x = np.zeros(3, dtype)
    words = ("would come back without that class", dtype.type.__name__, "save x.view(")
    for value in (x, dtype, x[:0], np.zeros((), dtype)):
        assert_refused(tmp_path, {"x": value}, "$['x']", *words)
    inside = [[("a", dtype)], [("a", dtype, (2,))], [("a", [("b", dtype)])]]
    for outer in map(np.dtype, inside):
        assert_refused(tmp_path, {"x": [np.zeros(2, outer), 1]}, "$['x'][0]", *words)
        assert_refused(tmp_path, {"x": [outer]}, "$['x'][0]", *words)


@pytest.mark.parametrize("name", OWN)
def test_the_remedy_for_a_class_of_scalars_loads(name: str, tmp_path: pathlib.Path) -> None:
    x = np.frombuffer(bytes(range(3 * OWN[name].itemsize)), OWN[name])
    text = assert_refused(tmp_path, x, "$", "save x.view(")
    found = re.search(r"save (x\.view\(.*?\)), and view", text)
    assert found
    plain = eval(found[1], {"numpy": np, "x": x})  # a remedy of our own text
    assert assert_exact(tmp_path, plain).view(x.dtype).tobytes() == x.tobytes()


def natives() -> list[np.dtype[Any]]:
    codes = [code for code in NATIVE if code not in ("q", "Q")]
    return [*map(np.dtype, codes), *(ml(name) for name in ML if hasattr(ml_dtypes, name))]


def test_a_native_dtype_comes_back_as_that_of_numpy(tmp_path: pathlib.Path) -> None:
    for dtype in natives():
        loaded = assert_exact(tmp_path, [np.zeros(2, dtype), np.zeros(0, dtype), dtype])
        for found in (loaded[0].dtype, loaded[1].dtype, loaded[2]):
            assert (repr(found), found.byteorder) == (repr(dtype), dtype.byteorder)
            assert found is dtype or dtype.kind in "mMSUV"  # of these numpy makes one each time


def test_the_fields_of_a_structure_come_back_as_native_dtypes(tmp_path: pathlib.Path) -> None:
    dtype = np.dtype([("a", "f4"), ("b", "i8", (2,)), ("c", [("d", "u2"), ("e", ">u2")])])
    for outer in (dtype, np.dtype((np.record, dtype)), np.dtype(dtype.descr[:2], align=True)):
        for x in (np.zeros(2, outer), outer, np.zeros(0, outer), np.zeros(2, outer)[0]):
            loaded = assert_exact(tmp_path, x)
            found = loaded if isinstance(loaded, np.dtype) else loaded.dtype
            assert repr(found) == repr(outer) and found.type is outer.type
            assert found["a"] is np.dtype("f4") and found["b"].base is np.dtype("i8")
            if "c" in found.names:
                assert found["c"]["d"] is np.dtype("u2") and found["c"]["e"].byteorder == ">"


def test_a_loaded_array_has_the_dtype_that_pickle_keeps(tmp_path: pathlib.Path) -> None:
    tree = {"f4": np.arange(3, dtype="f4"), "swapped": np.arange(3, dtype=">f4"), "s": np.int16(2)}
    for options in ({}, {"like": tree}, {"arrays": "numpy"}):
        ckptstore.save(tmp_path / "c", tree, overwrite=True)
        loaded = ckptstore.load(tmp_path / "c", **options)
        for name, x in pickle.loads(pickle.dumps(tree, protocol=5)).items():
            assert repr(loaded[name].dtype) == repr(x.dtype)
            assert loaded[name].dtype.byteorder == x.dtype.byteorder
    cast = ckptstore.load(tmp_path / "c", {**tree, "f4": np.zeros(3)}, cast=True)
    assert cast["f4"].dtype is np.dtype("f8")


# --- jax ---------------------------------------------------------------------------------------


def weak(x: Any, dtype: Any) -> Any:
    """A weak-typed array of any shape."""
    scalar = jnp.asarray(1.0 if jnp.issubdtype(dtype, jnp.floating) else 1)
    assert scalar.weak_type
    return scalar * jnp.ones_like(x).astype(bool)


def as_weak(x: Any) -> Any:
    """The same array, of a weak type, made without a program."""
    return type(x)(x.aval.update(weak_type=True), x.sharding, [x], x.committed)


@needs_jax
class TestJax:
    @pytest.mark.parametrize("name", [*ML, "bool", "int8", "int16", "int32", "uint8", "uint16",
                                      "uint32", "float16", "float32", "complex64"])  # fmt: skip
    def test_every_dtype_that_jax_takes_comes_back(self, name: str, tmp_path: pathlib.Path) -> None:
        dtype = ml(name) if name in ML else np.dtype(name)
        host = all_patterns(dtype)
        if dtype == np.bool_:
            host = np.array([True, False])
        try:
            x = jax.device_put(host)  # not sliced by jax, which does not compile uint1
            parts = [x, *map(jax.device_put, (host[1], host[:0], host.reshape(1, -1, 2)))]
        except (TypeError, jax.errors.JaxRuntimeError):
            pytest.skip(f"this jax has no arrays of {name}")
        loaded = assert_exact(tmp_path, [*parts, jnp.dtype(dtype)])
        assert bytes(np.asarray(loaded[0]).tobytes()) == bytes(np.asarray(x).tobytes())

    @pytest.mark.parametrize("name", ["int64", "uint64", "float64", "complex128"])
    def test_64_bits_stay_64_bits_with_and_without_x64(
        self, name: str, tmp_path: pathlib.Path
    ) -> None:
        with jax.enable_x64(True):
            x = jnp.arange(5).astype(name) * 3
            parts = [x, x[0], x[:0], jnp.asarray(2.5), jnp.asarray(2), jax.device_put(x)]
            assert parts[3].dtype == np.float64
            assert parts[3].weak_type
            ckptstore.save(tmp_path / "c", parts)
            inside = ckptstore.load(tmp_path / "c")
        outside = ckptstore.load(tmp_path / "c")
        with jax.enable_x64(True):
            assert differences(parts, inside) == []
        assert differences(parts, outside) == []
        assert not jax.config.jax_enable_x64

    def test_weak_types_stay_weak(self, tmp_path: pathlib.Path) -> None:
        tree = {
            "0-d": [jnp.asarray(1.0), jnp.asarray(1), jnp.asarray(1j), jnp.asarray(True)],
            "shaped": jnp.asarray(2.0) * jnp.ones(3, bool),
            "zero-size": jnp.asarray(2.0) * jnp.ones((0, 2), bool),
            "strong": [jnp.float32(1), jnp.zeros(3)],
        }
        assert tree["shaped"].weak_type  # type: ignore[attr-defined]
        committed = jax.device_put(tree["shaped"], jax.devices()[0])
        assert committed.weak_type
        assert committed.committed
        assert_exact(tmp_path, [tree, committed])

    def test_arrays_of_any_shape_are_saved_and_loaded_without_a_program(
        self, tmp_path: pathlib.Path
    ) -> None:
        def strong(*shape: int, dtype: Any = np.float32) -> Any:
            return jax.device_put(np.ones(shape, dtype))

        def committed(x: Any) -> Any:
            return jax.device_put(x, jax.devices()[0])

        # Lengths that no other test uses: a program stays with the process that compiled it.
        lengths = range(7001, 7031)
        tree: dict[str, list[Any]] = {
            "strong": [strong(n) for n in lengths],
            "weak": [as_weak(strong(n)) for n in lengths],
            "weak and empty": [as_weak(strong(0, n)) for n in lengths],
            "weak and committed": [as_weak(committed(strong(n))) for n in lengths],
            "int4": [strong(n, dtype=jnp.int4) for n in lengths],
            "keys": [jax.random.wrap_key_data(strong(n, 2, dtype=np.uint32)) for n in lengths],
        }
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
        other = jax.tree.map(lambda x: x, shapes)
        other["strong"] = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in tree["strong"]]
        assert_exact(tmp_path, [as_weak(strong(1)), strong(1), jax.random.key(0)])  # once a process
        programs: list[str] = []

        def note(event: str, duration: float, **about: Any) -> None:
            if "backend_compile" in event:
                programs.append(event)

        jax.monitoring.register_event_duration_secs_listener(note)
        try:
            loaded = assert_exact(tmp_path, tree)
            for like, cast in ((tree, False), (shapes, False), (other, True)):
                ckptstore.load(tmp_path / "c1", like, cast=cast)
            assert programs == []
            jax.jit(lambda x: x + 1)(tree["weak"][0])
            assert len(programs) == 1
        finally:
            jax.monitoring.clear_event_listeners()
        for name in tree:
            step = jax.jit(lambda x: x)
            step(tree[name][0])
            step(loaded[name][0])
            assert step._cache_size() == 1, name

    @pytest.mark.parametrize("count", [0, 1, 10, 1 << 20])
    def test_commitment_comes_back(self, count: int, tmp_path: pathlib.Path) -> None:
        free = jnp.arange(count, dtype=jnp.float32)
        held = jax.device_put(free, jax.devices()[0])
        assert (free.committed, held.committed) == (False, True)
        assert_exact(tmp_path, [free, held, free[:1], held[:1]])

    @pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
    def test_keys_come_back_with_their_implementation(
        self, impl: str, tmp_path: pathlib.Path
    ) -> None:
        key = jax.random.key(7, impl=impl)
        batch = jax.random.split(key, (2, 3))
        held = jax.device_put(key, jax.devices()[0])
        tree = [key, batch, batch[:0], held, jax.random.PRNGKey(7, impl=impl), key.dtype]
        loaded = assert_exact(tmp_path, tree)
        assert jax.random.key_impl(loaded[0]) == jax.random.key_impl(key)
        assert loaded[2].shape == (0, 3)
        draws = [jax.random.normal(k, (4,)) for k in (key, loaded[0])]
        assert differences(*draws) == []

    def test_scalar_types_functions_specs_and_structs_come_back(
        self, tmp_path: pathlib.Path
    ) -> None:
        spec, unconstrained = jax.sharding.PartitionSpec, jax.sharding.PartitionSpec.UNCONSTRAINED
        scalars = [v for v in vars(jnp).values() if type(v) is type(jnp.float32)]
        assert len(scalars) > 25
        key = jax.eval_shape(lambda: jax.random.key(0))
        loaded = assert_exact(
            tmp_path,
            {
                "scalars": scalars,
                "functions": [jax.nn.relu, jnp.tanh, jax.nn.silu, jax.lax.tanh, jax.nn.softmax],
                "specs": [spec(), spec("a"), spec(("a", "b"), None), spec(unconstrained, "x")],
                "structs": [
                    jax.ShapeDtypeStruct((2, 0), jnp.bfloat16),
                    jax.ShapeDtypeStruct((), jnp.float32, weak_type=True),
                    key,
                ],
                "partials": [
                    jax.tree_util.Partial(jax.nn.relu),
                    jax.tree_util.Partial(jax.tree_util.Partial(jnp.add, 1), jnp.ones(2)),
                    jax.tree_util.Partial(jnp.mean, jnp.ones(2), axis=[0]),
                ],
            },
        )
        assert loaded["functions"][0] is jax.nn.relu
        assert loaded["specs"][3][0] is unconstrained
        assert jax.tree.structure(loaded["partials"][0]) == jax.tree.structure(
            jax.tree_util.Partial(jax.nn.relu)
        )
        assert float(loaded["partials"][2](axis=0)) == 1.0

    @pytest.mark.parametrize("part", [[], ["x"]])
    def test_a_spec_of_parts_that_jax_would_change_is_refused(
        self, part: list[str], tmp_path: pathlib.Path
    ) -> None:
        axis = made.N(Kind.TUPLE, [made.text(name) for name in part])
        spec = [made.N(Kind.TUPLE, [axis]), made.N(Kind.FROZENSET), made.N(Kind.FROZENSET)]
        fields = ["partitions", "unreduced", "reduced"]
        row = ("object", "jax.sharding", "PartitionSpec", fields)
        for name, content in made.bare(made.record(*spec), row).files().items():
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ckptstore.UnknownTypeError, match="could not be made") as caught:
            ckptstore.load(tmp_path)
        assert caught.value.reason == "cannot-make"

    def test_a_struct_in_the_memory_of_the_host_is_refused(self, tmp_path: pathlib.Path) -> None:
        def make() -> Any:
            return jax.device_put(jnp.ones(3), jax.memory.Space.Host)

        struct = jax.eval_shape(make)
        if not hasattr(struct, "_memory_space"):
            pytest.skip("this jax has no structs of a memory space")
        assert_refused(tmp_path, {"x": struct}, "$['x']", "memory space Host", "shape and dtype")

    def test_every_function_of_the_table_is_there(self) -> None:
        from ckptstore.adapters import jax_symbols

        newer = {"float6_e2m3fn", "float6_e3m2fn", "int1", "uint1"}  # than jax 0.8
        table = jax_symbols.table()
        for module, names in jax_symbols._PUBLIC.items():
            for name in names.split():
                if name not in newer or hasattr(jnp, name):
                    assert f"{module}.{name}" in table

    def test_one_leaf_in_two_places_is_one_leaf(self, tmp_path: pathlib.Path) -> None:
        x, key = jnp.arange(3), jax.random.key(0)
        loaded = assert_exact(tmp_path, {"a": [x, key], "b": (key, x), "c": jnp.arange(3)})
        assert loaded["a"][0] is loaded["b"][1]
        assert loaded["a"][1] is loaded["b"][0]

    def test_save_refuses_what_is_no_array_any_more(self, tmp_path: pathlib.Path) -> None:
        deleted, donated = jnp.arange(3.0), jnp.arange(3.0)
        deleted.delete()
        jax.jit(lambda x: x + 1, donate_argnums=0)(donated).block_until_ready()
        assert donated.is_deleted()
        for x in (deleted, donated):
            assert_refused(tmp_path, {"x": [x]}, "$['x'][0]", "deleted or donated", "save before")
        good = jnp.ones(2)
        assert_refused(tmp_path, [good, deleted], "$[1]", "deleted or donated")

    @pytest.mark.parametrize("kind", ["plain", "int4", "key"])
    def test_an_array_that_is_donated_during_the_save_is_refused(
        self, kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        makers = {"int4": lambda: jnp.ones(3, jnp.int4), "key": lambda: jax.random.key(0)}
        x = makers.get(kind, lambda: jnp.arange(3.0))()
        known = registry.find_adapter("jax")
        assert known is not None
        described = known.leaf(x)
        assert described is not None
        (jax.random.key_data(x) if kind == "key" else x).delete()
        with pytest.raises(Refusal, match="while it was saved; let save return"):
            described.read()

    def test_like_may_be_a_state_that_was_donated(self, tmp_path: pathlib.Path) -> None:
        device = jax.devices()[0]

        def fresh() -> dict[str, Any]:
            return {
                "w": jnp.arange(3.0),
                "placed": jax.device_put(jnp.arange(4), device),
                "weak": jnp.asarray(2.0),
                "key": jax.random.split(jax.random.key(7), 2),
                "n": 3,
            }

        state = fresh()
        ckptstore.save(tmp_path / "c", state)
        for x in state.values():
            if isinstance(x, jax.Array):
                x.delete()
        assert all(x.is_deleted() for x in state.values() if isinstance(x, jax.Array))
        assert differences(fresh(), ckptstore.load(tmp_path / "c", like=state)) == []
        state["w"] = jnp.arange(4.0)
        state["w"].delete()
        with pytest.raises(ckptstore.StructureError, match=r"shape \[3\].*\[4\] in `like`"):
            ckptstore.load(tmp_path / "c", like=state)

    def test_save_refuses_a_traced_value(self, tmp_path: pathlib.Path) -> None:
        @jax.jit
        def step(x: Any) -> Any:
            assert_refused(tmp_path, {"x": x}, "$['x']", "traced", "outside of jit")
            return x

        step(jnp.ones(2))

    def test_save_refuses_a_reference_and_a_placed_struct(self, tmp_path: pathlib.Path) -> None:
        assert_refused(tmp_path, [jax.new_ref(jnp.ones(2))], "$[0]", "reference", "ref[...]")
        placed = jax.ShapeDtypeStruct(
            (2,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
        )
        assert_refused(tmp_path, [placed], "$[0]", "sharding", "leave the sharding out")
        assert_refused(
            tmp_path, jax.tree_util.Partial(lambda x: x), "$.func", "a lambda", "supplied="
        )
        assert_refused(tmp_path, [jax.jit(lambda x: x)], "$[0]", "supplied=")

    @pytest.mark.parametrize("count", [3, 1 << 20])
    def test_a_buffer_can_be_donated_after_save_and_after_load(
        self, count: int, tmp_path: pathlib.Path
    ) -> None:
        step = jax.jit(lambda x: x + 1, donate_argnums=0)
        x = jnp.zeros(count)
        ckptstore.save(tmp_path / "c", {"x": x})
        (loaded,) = ckptstore.load(tmp_path / "c").values()
        for array in (x, loaded):
            place = array.unsafe_buffer_pointer()
            after = step(array).block_until_ready()
            assert array.is_deleted()
            assert float(after[-1]) == 1.0
            if array is x:  # a loaded one may stand in memory that XLA did not allocate
                assert after.unsafe_buffer_pointer() == place

    def test_save_leaves_nothing_on_the_arrays(self, tmp_path: pathlib.Path) -> None:
        x, key = jnp.arange(3.0), jax.random.key(0)
        before = (x.committed, x.weak_type, x.sharding, x._npy_value is None)
        ckptstore.save(tmp_path / "c", [x, key])
        assert (x.committed, x.weak_type, x.sharding, x._npy_value is None) == before

    @pytest.mark.parametrize("name", ["int4", "uint2", "float4_e2m1fn", "bool_"])
    def test_save_leaves_no_host_copy_of_small_dtypes(
        self, name: str, tmp_path: pathlib.Path
    ) -> None:
        x = jnp.asarray(np.array([1, 0, 1]), getattr(jnp, name))
        assert_exact(tmp_path, [x])
        x = jnp.asarray(np.array([1, 0, 1]), getattr(jnp, name))
        ckptstore.save(tmp_path / "again", [x])
        assert x._npy_value is None
        assert x.addressable_data(0)._npy_value is None

    def test_save_leaves_no_host_copy_of_sharded_arrays(self, tmp_path: pathlib.Path) -> None:
        flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
        done = subprocess.run(
            [sys.executable, "-c", SHARDED],
            cwd=tmp_path,
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("count", [3, 1 << 20])
    def test_loaded_arrays_do_not_need_the_files(self, count: int, tmp_path: pathlib.Path) -> None:
        tree = [jnp.arange(count, dtype=jnp.float32), jnp.arange(count + 1), jax.random.key(3)]
        ckptstore.save(tmp_path / "c", tree)
        loaded = ckptstore.load(tmp_path / "c")
        again = ckptstore.load(tmp_path / "c")
        for path in (tmp_path / "c").iterdir():
            with path.open("r+b") as file:
                file.write(bytes(64))
                file.truncate(64)
        shutil.rmtree(tmp_path / "c")
        assert differences(tree, loaded) == []
        jax.jit(lambda x: x * 0, donate_argnums=0)(loaded[0]).block_until_ready()
        assert differences(tree, again) == []

    def test_arrays_numpy_gives_writable_numpy_arrays(self, tmp_path: pathlib.Path) -> None:
        x, key = jnp.arange(3, dtype=jnp.bfloat16), jax.random.key(5)
        loaded = roundtrip(tmp_path, {"x": x, "key": key, "n": np.ones(2)}, arrays="numpy")
        assert {type(v) for v in loaded.values()} == {np.ndarray}
        assert loaded["x"].dtype == ml_dtypes.bfloat16
        assert loaded["x"].flags.writeable
        assert loaded["key"].tolist() == jax.random.key_data(key).tolist()

    def test_the_numpy_scalars_of_jax_stay_numpy(self, tmp_path: pathlib.Path) -> None:
        float0 = np.zeros((3,), jax.dtypes.float0)
        loaded = assert_exact(tmp_path, [np.float32(3), np.asarray(jnp.ones(2)), float0])
        assert loaded[2].dtype == jax.dtypes.float0


def test_a_float_of_python_is_no_array(tmp_path: pathlib.Path) -> None:
    payload = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000009))[0]
    assert_exact(tmp_path, [payload, np.float64(payload), np.array(payload)])


# --- What a damaged or foreign checkpoint may ask of the adapters ------------------------------


def asked(package: str, name: str, host: Any, **extra: Any) -> Any:
    known = registry.find_adapter(package)
    assert known is not None
    return known.array(host, TypeRow(TypeKind.ARRAY, package, name, extra=extra), None)


def test_the_numpy_adapter_makes_no_array_it_does_not_know() -> None:
    with pytest.raises(KeyError):
        asked("numpy", "matrix", np.zeros(2))
    for host in (np.zeros(0), np.zeros(2)):
        with pytest.raises(ckptstore.CorruptError, match="a scalar has the shape"):
            asked("numpy", "generic", host)
    with pytest.raises(ckptstore.CorruptError, match="not text"):
        asked("numpy", "generic", np.frombuffer(b"\xff" * 4, "<U1").reshape(()))


@needs_jax
def test_the_jax_adapter_makes_no_array_it_cannot_make_exactly() -> None:
    words = [(np.zeros(2, "U1"), {}), (np.zeros(2, "M8[s]"), {}), (np.zeros(2, "f4,i4"), {})]
    data = np.zeros((3, 2), np.uint32)
    impls = [(data, {"impl": "no-such"}), (data[0, :1], {"impl": "rbg"})]
    for host, extra in [*words, *impls]:
        with pytest.raises(ckptstore.UnsupportedError) as caught:
            asked("jax", "Array", host, **extra)
        assert caught.value.reason == "array-not-exact"
    for extra in ({"impl": 5}, {"weak": "yes"}, {"committed": 1}):
        with pytest.raises(KeyError):
            asked("jax", "Array", data, **extra)
    known = registry.find_adapter("jax")
    assert known is not None
    for name in ("jax.random.key<no-such>.dtype", "jax.numpy.load", "jax.pure_callback"):
        with pytest.raises(KeyError):
            known.symbol_named(name)

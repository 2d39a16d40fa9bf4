"""Trees of numpy: arrays and scalars of every dtype, and dtypes as values."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from golden_trees import Case

_CODES = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16 m8 m8[ns] M8 M8[3D] M8[25s] S3 U2 V5"
_STRUCTURED: dict[str, Any] = {
    "plain": [("a", "i1"), ("b", "f8")],
    "big-endian": [("a", ">i4"), ("b", ">f8"), ("c", ">U2")],
    "aligned": np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    "aligned and big-endian": np.dtype([("a", "i1"), ("b", ">f8")], align=True),
    "titles": [(("Title", "a"), ">i2"), ("b", "f8")],
    "nested": [("a", [("x", "<i4", (2, 3)), ("y", "S3")]), ("b", "?", (2,))],
    "nested and big-endian": [("a", [("x", ">i4", (2, 3)), ("y", "S3")]), ("b", ">M8[s]")],
    "offsets": {"names": ["b", "a"], "formats": ["i4", "i2"], "offsets": [4, 0], "itemsize": 16},
    "record": (np.record, [("a", ">i4"), ("b", "f8")]),
    "no fields": [],
    "no fields, some bytes": {"names": [], "formats": [], "itemsize": 8},
    "ml_dtypes inside": [("a", ml_dtypes.bfloat16), ("b", ml_dtypes.int4, (3,))],
    "a unicode name": [("é \0", "i4"), ("f1", "i2")],
    "float0": [("float0", "V")],
}
_DTYPES = "f4 >f4 U0 >U5 S V V0 M8[25s] ? (2,3)>i4 i4,(2,)S3"


def _arrays(code: str) -> Any:
    """Make arrays of many shapes in both byte orders."""
    made = []
    for order in "<>":
        dtype = np.dtype(code).newbyteorder(order)
        flat = np.frombuffer(bytes(range(60)), dtype) if code[0] == "V" else np.arange(12)
        x = flat.astype(dtype).reshape(3, 4)
        made += [x, x[0, 0:0], x[1, 1, ...], x[1], np.zeros((0, 3, 0), dtype)]
    return made


def _patterns(code: str) -> Any:
    """Make NaNs with payloads, also signalling ones, and -0.0."""
    part = np.dtype(code.replace("c8", "f4"))
    size = part.itemsize
    bits = {2: 0x7C01, 4: 0x7F800001, 8: 0x7FF0000000000001}[size]
    top = 1 << (8 * size - 1)
    x = np.array([bits, bits + 6, bits | top, top], f"u{size}").view(code)
    return [x, *x]


def _structured(name: str) -> Any:
    dtype = np.dtype(_STRUCTURED[name])
    x = np.zeros((2, 3), dtype)
    for k, field in enumerate(dtype.names or ()):
        if dtype[field].base.kind in "if?":
            x[field] = k + 1
    return [x, x[0, 0], x.T, x[:0], dtype, np.rec.array(x)]


def _layouts() -> Any:
    x = np.arange(24.0).reshape(2, 3, 4)
    return [
        np.asfortranarray(x), x.T, x[::-1], x[:, ::2, ::-3], np.broadcast_to(x[0, 0], (5, 4)),
        x[None, ..., 1:], np.frombuffer(b"x" + bytes(16), "f8", offset=1)[:2],
    ]  # fmt: skip


def _scalars() -> Any:
    return [
        np.float32(0.1), np.float64(-0.0), np.int8(-3), np.bool_(True), np.complex64(1j),
        np.str_("é\ud800"), np.str_(""), np.str_("a\0"), np.float16(np.nan), np.uint64(2**64 - 1),
        np.bytes_(b"ab\0\0"), np.bytes_(b""), np.void(b"\0a\0"), np.int64(-2**63).view("M8"),
        np.datetime64("2020-01-01T00:00", "m"), np.datetime64(5, "25s"), np.int64(3).view("m8"),
        np.timedelta64(-3, "us"), np.array((1, 2.5), "i4,>f8")[()],
        np.rec.array([(1, 2.0)], dtype="i4,f8")[0], np.array([("ab", b"c")], "U3,S2")[0],
    ]  # fmt: skip


def _masked() -> Any:
    return [
        np.ma.array([1.0, 2.0], mask=[0, 1]), np.ma.masked_invalid([1.0, np.nan]),
        np.ma.array([1, 2]), np.ma.array([1, 2], mask=[0, 0]),
        np.ma.array([1, 2], mask=[0, 1], fill_value=7),
        np.ma.array([1, 2], mask=[0, 1], hard_mask=True), np.ma.array(3, mask=True),
        np.ma.array([(1, 2.0)], mask=[(0, 1)], dtype="i4,f8"),
        np.ma.array(["a", "b"], mask=[0, 1], fill_value="zz"),
        np.ma.array(np.array(["2020"], "M8[Y]"), mask=[1]),
        np.ma.array(np.arange(3, dtype=">i4"), mask=[1, 0, 0]),
    ]  # fmt: skip


def _longdoubles() -> Any:
    return [
        np.arange(3, dtype="g") / 3, np.arange(3, dtype=">g"), np.arange(2, dtype="G") * 1j,
        np.longdouble("0.1"), np.clongdouble(1j), np.dtype("g"),
        np.array([(1, 2)], [("a", "g"), ("b", "i1")]),
    ]  # fmt: skip


def _rng() -> Any:
    old = np.random.RandomState(3)
    old.normal()
    return [np.random.default_rng(3).bit_generator.state, old.get_state()]


CASES: dict[str, Case] = {}
for _code in _CODES.split():
    CASES[f"arrays of {_code}"] = Case(lambda code=_code: _arrays(code))
for _code in ("f2", "f4", "f8", "c8"):
    CASES[f"nan payloads of {_code}"] = Case(lambda code=_code: _patterns(code))
for _name in _STRUCTURED:
    CASES[f"structured, {_name}"] = Case(lambda name=_name: _structured(name))
CASES |= {
    "memory layouts": Case(_layouts),
    "scalars": Case(_scalars),
    "masked arrays": Case(_masked),
    "dtypes": Case(lambda: [np.dtype(code) for code in _DTYPES.split()]),
    "scalar types": Case(lambda: [np.float32, np.bool_, np.int64, np.str_, np.datetime64]),
    "functions": Case(lambda: [np.tanh, np.add, np.logaddexp]),
    "states of generators": Case(_rng),
    "long doubles": Case(_longdoubles, longdouble=True),
}

"""`load(cast=True)`: a number comes back as itself, or rounded to a float, or the load refuses."""

from __future__ import annotations

import fractions
import functools
import math
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import ckptstore
from ckptstore.tree.casting import cast

INTEGERS = {f"{s}int{n}": (s, n) for s in ("", "u") for n in (1, 2, 4, 8, 16, 32, 64)}


class Float(NamedTuple):
    """A binary float as section 6 of docs/spec.md has it."""

    digits: int  # of the significand, with the implicit one
    lowest: int  # exponent of the smallest normal number
    largest: fractions.Fraction
    has_inf: bool = True
    has_nan: bool = True


def ieee(exponent: int, mantissa: int, **special: bool) -> Float:
    bias = 2 ** (exponent - 1) - 1
    top = fractions.Fraction(2) ** (bias + 1) - fractions.Fraction(2) ** (bias - mantissa)
    return Float(mantissa + 1, 1 - bias, top, **special)


def finite(mantissa: int, bias: int, largest: float, has_nan: bool = True) -> Float:
    return Float(mantissa + 1, 1 - bias, fractions.Fraction(largest), False, has_nan)


FLOATS = {
    "float16": ieee(5, 10), "float32": ieee(8, 23), "float64": ieee(11, 52),
    "bfloat16": ieee(8, 7), "float8_e3m4": ieee(3, 4), "float8_e4m3": ieee(4, 3),
    "float8_e5m2": ieee(5, 2), "float8_e4m3fn": finite(3, 7, 448),
    "float8_e4m3fnuz": finite(3, 8, 240), "float8_e4m3b11fnuz": finite(3, 11, 30),
    "float8_e5m2fnuz": finite(2, 16, 57344), "float8_e8m0fnu": finite(0, 128, 2.0**127),
    "float6_e2m3fn": finite(3, 1, 7.5, False), "float6_e3m2fn": finite(2, 3, 28, False),
    "float4_e2m1fn": finite(1, 1, 6, False),
}  # fmt: skip
COMPLEX = {
    "complex64": "float32", "complex128": "float64", "complex32": "float16",
    "bcomplex32": "bfloat16",
}  # fmt: skip
NAMES = ["bool", *INTEGERS, *FLOATS, *COMPLEX]


def rank(name: str) -> int:
    return next(i for i, of in enumerate((["bool"], INTEGERS, FLOATS, COMPLEX)) if name in of)


@functools.cache
def dtype(name: str) -> np.dtype[Any]:
    if not hasattr(np, name) and not hasattr(ml_dtypes, name):
        pytest.skip(f"this ml_dtypes has no {name}")
    return np.dtype(getattr(np, name, None) or getattr(ml_dtypes, name))


@functools.cache
def numbers(name: str) -> np.ndarray[Any, Any]:
    """Extreme and random numbers of a dtype, NaN and infinities among them."""
    kind = dtype(name)
    random = np.random.default_rng(sum(map(ord, name)))
    if name == "bool":
        return np.array([False, True])
    if name in INTEGERS:
        sign, bits = INTEGERS[name]
        low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        powers = [1 << n for n in (0, 2, 4, 7, 8, 15, 16, 31, 53, 63)]
        near = [low, high, *(s * n + d for n in powers for s in (1, -1) for d in (-1, 0, 5))]
        near += [int(low + (high - low) * share) for share in random.random(8)]
        wide = np.uint64 if sign else np.int64
        return np.array(sorted({n for n in near if low <= n <= high}), wide).astype(kind)
    edges = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e-300, math.inf, -math.inf, math.nan, 1e30, -1e300]
    edges += [float(f.largest) * s for f in FLOATS.values() for s in (1, -1, 1.2, 0.99)]
    reals = np.array([*edges, *random.normal(size=12) * 10.0 ** random.integers(-9, 9, 12)])
    with np.errstate(all="ignore"):
        if name in COMPLEX:
            return (reals + 1j * np.roll(reals, 1)).astype(kind)
        return reals.astype(kind)


def exact(x: Any, name: str) -> list[Any]:
    """The real parts of a number: an int, a Fraction, or a float that is not finite."""
    if name in INTEGERS or name == "bool":
        return [int(x)]
    if name in COMPLEX:
        wide = np.asarray(x).astype(np.complex128)[()]
        return exact(wide.real, "float64") + exact(wide.imag, "float64")
    wide = float(np.asarray(x).astype(np.float64)[()])
    return [fractions.Fraction(wide) if math.isfinite(wide) else wide]


def step(form: Float, value: fractions.Fraction) -> fractions.Fraction:
    """The distance of two neighbours at a value."""
    exponent = form.lowest
    if value:
        up, down = abs(value).numerator, abs(value).denominator
        power = up.bit_length() - down.bit_length()
        power -= abs(value) < fractions.Fraction(2) ** power
        exponent = max(power, form.lowest)
    return fractions.Fraction(2) ** (exponent - form.digits + 1)


SLACK = fractions.Fraction(1, 2**20)  # ml_dtypes rounds a float64 to a float32 first


def fits(value: Any, form: Float, name: str) -> bool | None:
    """Whether a float has room for a value; None just where it ends."""
    if isinstance(value, float):
        return form.has_nan if math.isnan(value) else form.has_inf
    if name == "float8_e8m0fnu" and value <= 0:
        return False
    if name == "float8_e8m0fnu" and value < fractions.Fraction(2) ** -149:
        return None  # a float32 has none so small
    end = form.largest + step(form, form.largest) / 2
    if abs(abs(value) - end) <= end * SLACK:
        return None
    return bool(abs(value) < end)


def is_rounded(got: Any, value: Any, form: Float, name: str) -> bool:
    if isinstance(value, float):
        return got == value or (math.isnan(value) and isinstance(got, float) and math.isnan(got))
    if isinstance(got, float):
        return False
    if name == "float8_e8m0fnu" and value < fractions.Fraction(2) ** -127:
        return got == fractions.Fraction(2) ** -127
    return bool(abs(got - value) <= step(form, value) / 2 + abs(value) * SLACK)


def check(x: Any, source: str, target: str) -> None:
    """Cast one number and hold the outcome against exact arithmetic."""
    try:
        out = cast(np.array(x, dtype(source)), dtype(target))
    except ckptstore.StructureError as error:
        assert error.reason == "cast-range"
        made = None
    else:
        assert out.dtype == dtype(target) and out.shape == ()
        made = exact(out[()], target)
    values = exact(x, source)
    if target in INTEGERS:
        sign, bits = INTEGERS[target]
        low, high = (0, 2**bits) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        assert made == (values if low <= values[0] < high else None)
        return
    form = FLOATS[COMPLEX.get(target, target)]
    name = COMPLEX.get(target, target)
    if source not in COMPLEX and target in COMPLEX:
        values = [*values, 0]
    room = [fits(fractions.Fraction(v) if type(v) is int else v, form, name) for v in values]
    if made is None:
        assert not all(room)
    else:
        assert False not in room
        assert all(is_rounded(got, v, form, name) for got, v in zip(made, values, strict=True))


@pytest.mark.parametrize("source", NAMES)
def test_every_cast_gives_the_number_or_its_rounding_or_refuses(source: str) -> None:
    for target in NAMES:
        if target == source or rank(target) < rank(source):
            continue
        for x in numbers(source):
            try:
                check(x, source, target)
            except AssertionError as error:
                raise AssertionError(f"{x!r} of {source} as {target}") from error


def test_every_dtype_of_the_format_but_longdouble_has_a_cast() -> None:
    from ckptstore.format import dtypes

    assert {*dtypes._NBYTES} == set(NAMES)


LOST = [
    (np.array([0, -1], np.int8), np.uint8, "-1 of an array of int8 at [1]"),
    (np.array([[1], [255]], np.uint8), np.int8, "255 of an array of uint8 at [1, 0]"),
    (np.uint64(2**63 + 5), np.int64, "9223372036854775813 of an array of uint64 does"),
    (np.array([-1]), np.uint64, "-1 of an array of int64"),
    (np.array([1e30]), np.float16, "1e+30 of an array of float64"),
    (np.array([70000], ">i4"), np.float16, "70000 of an array of >i4"),
    (np.array([1e300]), ">f4", "1e+300"),
    (np.array([1j * 1e300]), np.complex64, "1e+300j"),
    (np.array([1e300]), np.complex64, "1e+300"),
    (np.longdouble("1e400"), np.float64, "1e+400") ,
    (np.array([1e300]), ml_dtypes.bfloat16, "1e+300"),
    (np.array([1e9]), ml_dtypes.float8_e4m3fn, "1000000000.0"),
    (np.array([np.inf]), ml_dtypes.float8_e4m3fn, "inf"),
    (np.array([0.5, 0.0]), ml_dtypes.float8_e8m0fnu, "0.0 of an array of float64 at [1]"),
    (np.array([np.nan]), ml_dtypes.float4_e2m1fn, "nan"),
    (np.array([9.0]), ml_dtypes.float4_e2m1fn, "9.0"),
    (np.array([True]), ml_dtypes.int1, "True of an array of bool"),
    (np.array([-8]).astype(ml_dtypes.int4), ml_dtypes.uint4, "-8 of an array of int4"),
]  # fmt: skip


@pytest.mark.parametrize(("x", "target", "words"), LOST, ids=lambda x: str(x).replace(" ", ""))
def test_a_number_without_a_place_in_the_dtype_is_refused_by_path_and_value(
    x: Any, target: Any, words: str, tmp_path: pathlib.Path
) -> None:
    if words == "1e+400" and np.finfo(np.longdouble).maxexp <= 1024:
        pytest.skip("longdouble is float64 here")
    ckptstore.save(tmp_path / "c", {"a": [0, x]})
    like = np.zeros(np.shape(x), target)
    like = like if isinstance(x, np.ndarray) else like[()]
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(tmp_path / "c", {"a": [0, like]}, cast=True)
    assert caught.value.reason == "cast-range"
    text = str(caught.value)
    assert f"/c: $['a'][1]: {words}" in text
    assert f"does not fit into {np.dtype(target)}; put a dtype" in text


def test_the_remedy_of_a_refused_cast_loads(tmp_path: pathlib.Path) -> None:
    x = np.array([-1], np.int8)
    ckptstore.save(tmp_path / "c", x)
    assert ckptstore.load(tmp_path / "c", np.zeros(1, np.int16), cast=True).tolist() == [-1]


def test_a_cast_keeps_the_shape_of_no_numbers(tmp_path: pathlib.Path) -> None:
    x = np.zeros((0, 3), np.int64)
    ckptstore.save(tmp_path / "c", x)
    for target in (np.uint8, np.float16, np.complex64, ml_dtypes.float4_e2m1fn):
        loaded = ckptstore.load(tmp_path / "c", np.zeros((0, 3), target), cast=True)
        assert loaded.shape == (0, 3) and loaded.dtype == target


@pytest.mark.parametrize("kind", ["array", "struct"])
def test_an_array_of_jax_is_refused_the_same(kind: str, tmp_path: pathlib.Path) -> None:
    jax = pytest.importorskip("jax")
    ckptstore.save(tmp_path / "c", {"w": jax.numpy.array([1e30, 1.0])})
    for name in ("float16", "float8_e4m3fn"):
        like = jax.ShapeDtypeStruct((2,), name)
        if kind == "array":
            like = jax.numpy.zeros(2, name)
        with pytest.raises(ckptstore.StructureError, match=r"\$\['w'\]: 1e\+30 .* does not fit"):
            ckptstore.load(tmp_path / "c", {"w": like}, cast=True)


def test_a_tensor_of_torch_is_refused_the_same(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    ckptstore.save(tmp_path / "c", [torch.tensor([-1]), torch.tensor([1e30])])
    for like, path in (
        ([torch.zeros(1, dtype=torch.uint8), torch.zeros(1)], r"\$\[0\]: -1"),
        ([torch.zeros(1).long(), torch.zeros(1).to(torch.float8_e4m3fn)], r"\$\[1\]: 1e\+30"),
        ([torch.zeros(1).long(), torch.zeros(1, device="meta").half()], r"\$\[1\]: 1e\+30"),
    ):
        with pytest.raises(ckptstore.StructureError, match=path):
            ckptstore.load(tmp_path / "c", like, cast=True)


@pytest.mark.parametrize(
    "x",
    [np.zeros(2, "M8[s]"), np.zeros(2, "m8[s]"), np.zeros(2, "U3"), np.zeros(2, "S3"),
     np.zeros(2, "V4"), np.zeros(2, "i4,f4"), np.ones(2) * 1j, np.array([0.0, np.nan])],
    ids=lambda x: x.dtype.str,
)  # fmt: skip
def test_no_cast_leads_to_integers_or_truth_values(x: Any, tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", x)
    for target in ("i8", "?", "u1"):
        with pytest.raises(ckptstore.StructureError, match="no cast converts one to the other"):
            ckptstore.load(tmp_path / "c", np.zeros(2, target), cast=True)

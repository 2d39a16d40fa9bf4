"""Each error of `load` about one value names its path, and the checkpoint."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import ckptstore
from ckptstore.format import Kind, dtypes
from tests.conformance import make_conformance as made
from tests.conformance.make_conformance import Draft, L, N, bare, entries, leaf, none, text

JAX = ("array", "jax", "Array")
OTHER = ("array", "numpy", "other")
ENUM = ("enum", "tests.robustness.test_errors_name_paths", "Phase")


class Phase(enum.Enum):
    WARMUP = 1


def deep(node: N) -> N:
    """Return a tree that holds a node at `$['a'][1]`."""
    return entries(text("a"), N(Kind.LIST, [none(), node]))


FORGED: dict[str, Draft] = {
    "a text that is not UTF-8": bare(deep(N(Kind.STR, data=b"\xff"))),
    "a factory that is not allowed": bare(deep(N(Kind.DEFAULT_DICT, data=b"os.system"))),
    "a key twice": bare(deep(entries(text("k"), none(), text("k"), none()))),
    "a function that is not allowed": bare(deep(made.symbol("jax.numpy.nothing"))),
    "a member that is gone": bare(
        deep(N(Kind.ENUM, [made.integer(2)], type=1, data=b"DECAY")), ENUM
    ),
    "an array type that nobody knows": Draft(deep(leaf()), [L()], types=(OTHER,)),
    "an array type of a package that nobody knows": Draft(
        deep(leaf()), [L()], types=(("array", "nobody", "Array"),)
    ),
    "a jax array that jax lacks": Draft(deep(leaf()), [L()], types=(JAX,), dtypes=["complex32"]),
}


@pytest.mark.parametrize("kind", FORGED)
def test_an_error_about_a_stored_value_names_its_path(kind: str, tmp_path: Path) -> None:
    draft = FORGED[kind]
    for name, data in draft.files().items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ckptstore.CheckpointError) as caught:
        ckptstore.load(tmp_path)
    assert f"{tmp_path}: $['a'][1]" in str(caught.value), caught.value


def test_a_dtype_that_is_not_here_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", {"a": [None, np.ones(3, ml_dtypes.int4)]})
    monkeypatch.delattr(dtypes.ml_dtypes, "int4")
    dtypes._resolve_name.cache_clear()
    try:
        with pytest.raises(ckptstore.UnsupportedError, match=r"\$\['a'\]\[1\]: .*int4"):
            ckptstore.load(tmp_path / "c")
    finally:
        dtypes._resolve_name.cache_clear()


ASKED: dict[str, tuple[Any, Callable[[Path], Any], list[str]]] = {
    "an integer that does not fit": (
        np.array([1, 300]),
        lambda p: ckptstore.load(p, like={"a": [None, np.zeros(2, np.uint8)]}, cast=True),
        ["300", "[1]", "uint8"],
    ),
    "a float that does not fit": (
        np.array(1e30),
        lambda p: ckptstore.load(p, like={"a": [None, np.zeros((), np.float16)]}, cast=True),
        ["1e+30", "float16"],
    ),
    "a number of ml_dtypes that does not fit": (
        np.array([1000], ml_dtypes.bfloat16),
        lambda p: ckptstore.load(
            p, like={"a": [None, np.zeros(1, ml_dtypes.float8_e4m3fn)]}, cast=True
        ),
        ["1000", "float8_e4m3fn"],
    ),
    "an array of jax that does not fit": (
        jnp.array([-1]),
        lambda p: ckptstore.load(p, like={"a": [None, jnp.zeros(1, jnp.uint8)]}, cast=True),
        ["-1", "uint8"],
    ),
    "another shape": (
        np.zeros(2),
        lambda p: ckptstore.load(p, like={"a": [None, np.zeros(3)]}),
        ["[2]", "[3]"],
    ),
    "another type": (3, lambda p: ckptstore.load(p, like={"a": [None, "x"]}), ["int", "str"]),
}


@pytest.mark.parametrize("kind", ASKED)
def test_an_error_about_a_value_asked_for_names_its_path_and_the_value(
    kind: str, tmp_path: Path
) -> None:
    value, call, words = ASKED[kind]
    ckptstore.save(tmp_path / "c", {"a": [None, value]})
    with pytest.raises(ckptstore.StructureError) as caught:
        call(tmp_path / "c")
    message = str(caught.value)
    assert "$['a'][1]: " in message and str(tmp_path / "c") in message
    assert [word for word in words if word not in message] == []


def test_a_damaged_array_is_named_by_its_path(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"a": [None, np.ones(100)]})
    (file,) = (tmp_path / "c").glob("data-*")
    file.write_bytes(b"x" + file.read_bytes()[1:])
    with pytest.raises(ckptstore.CorruptError, match=r"\$\['a'\]\[1\]"):
        ckptstore.load(tmp_path / "c")

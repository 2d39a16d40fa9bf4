"""What the refusals of a dtype, of metadata and of a manifest tell you to do, done."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import CorruptError, StructureError, UnsupportedError
from ckptstore.digests import digest
from ckptstore.format import manifest, wire
from tests.support.compare import assert_exact

follows = pytest.mark.follows


def refused(place: Path, tree: Any, **options: Any) -> str:
    with pytest.raises(StructureError) as caught:
        ckptstore.save(place / "refused", tree, **options)
    return str(caught.value)


@follows("format.array_bytes", 'save it as numbers: np.ascontiguousarray(x).view("uint32")')
def test_text_that_is_none(tmp_path: Path) -> None:
    x = np.array([0x110000, 97], "u4").view("U1")
    for array in (x, np.stack([x, x])[:, ::2], x[:1]):
        words = refused(tmp_path, array)
        numbers = eval(words.partition("as numbers: ")[2], {"np": np, "x": array})
        loaded = assert_exact(tmp_path, numbers)
        assert loaded.view("U1").tobytes() == array.tobytes()


@follows(
    "format.dtypes",
    "drop the metadata: x.astype(x.dtype.str), or for a structured array x.astype(...) with a new "
    "dtype without metadata",
)
def test_a_dtype_with_metadata(tmp_path: Path) -> None:
    x = np.zeros(3, np.dtype("f4", metadata={"unit": "m"}))  # type: ignore[call-overload]
    words = refused(tmp_path, x)
    plain = eval(words.partition("drop the metadata: ")[2].partition(", or")[0], {"x": x})
    assert_exact(tmp_path, plain)
    fields = np.dtype([("a", "f4"), ("b", "i2")])
    x = np.zeros(3, np.dtype(fields.descr, metadata={"unit": "m"}))  # type: ignore[call-overload]
    refused(tmp_path, x)
    assert_exact(tmp_path, x.astype(fields))


@follows("format.dtypes", "convert it to a list, or to a numeric, str or bytes dtype")
def test_an_array_of_objects(tmp_path: Path) -> None:
    x = np.array([1, 2], object)
    refused(tmp_path, x)
    for plain in (x.tolist(), x.astype("i8"), x.astype("U"), x.astype("S")):
        assert_exact(tmp_path, plain)


class Meters(np.void):
    pass


@follows("format.dtypes", "save x.view({}), and view the loaded array as the dtype again")
def test_scalars_of_a_class_of_their_own(tmp_path: Path) -> None:
    dtypes = [
        np.dtype((Meters, [("a", "f4"), ("b", "i2")])),
        np.dtype((Meters, 6)),
        np.dtype((np.int32, {"low": ("i2", 0), "high": ("i2", 2)})),
    ]
    for dtype in dtypes:
        x = np.frombuffer(bytes(range(12)), dtype)
        words = refused(tmp_path, x)
        view = words.partition("; save ")[2].partition(", and view")[0]
        loaded = assert_exact(tmp_path, eval(view, {"x": x, "numpy": np}))
        again = loaded.view(dtype)
        assert again.dtype == dtype and again.dtype.type is dtype.type
        assert again.tobytes() == x.tobytes()


@follows("format.dtypes", "convert the array with .astype(...){}")
def test_a_dtype_that_the_format_lacks(tmp_path: Path) -> None:
    x = np.array(["a", "long text"], np.dtypes.StringDType())
    assert refused(tmp_path, x).endswith("(a fixed-width 'U' or 'S' dtype holds strings)")
    assert assert_exact(tmp_path, x.astype("U9")).tolist() == x.tolist()
    assert assert_exact(tmp_path, x.astype("S9")).tolist() == [b"a", b"long text"]


@follows("format.dtypes", "rename the field")
def test_a_title_that_is_no_text(tmp_path: Path) -> None:
    x = np.zeros(2, np.dtype({"names": ["a"], "formats": ["f4"], "titles": [(1, 2)]}))
    refused(tmp_path, x)
    named = np.dtype({"names": ["a"], "formats": ["f4"], "titles": ["one"]})
    assert_exact(tmp_path, x.view(named))


@follows("format.dtypes", "save the fields apart")
def test_fields_that_overlap(tmp_path: Path) -> None:
    dtype = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})
    x = np.zeros(2, dtype)
    refused(tmp_path, x)
    assert_exact(tmp_path, {name: np.ascontiguousarray(x[name]) for name in ("a", "b")})


@follows("format.dtypes", "save its fields apart")
def test_a_dtype_that_is_nested_too_deep(tmp_path: Path) -> None:
    dtype = np.dtype("f4")
    for _ in range(40):
        dtype = np.dtype([("a", dtype), ("b", "i2")])
    x = np.ones(2, dtype)
    refused(tmp_path, x)
    apart = []
    while x.dtype.names:
        apart.append(np.ascontiguousarray(x["b"]))
        x = x["a"]
    assert_exact(tmp_path, [*apart, np.ascontiguousarray(x)])


@pytest.mark.parametrize(
    "value",
    [(1, 2), 2**60, "\ud800", np.float32(1), np.arange(3), {"a": {1: 2}}, Path("a"), {"\ud800": 1}],
    ids=lambda value: type(value).__name__,
)
@follows(
    "format.metadata",
    "pass {}",
    "pass str({})",
    "pass {str(key): entry for key, entry in {}.items()}",
    "pass {ascii(key): entry for key, entry in {}.items()}",
    some=True,
)
@follows("format.metadata", "or put it in the tree")
def test_metadata_that_are_not_plain(value: Any, tmp_path: Path) -> None:
    metadata = {"x": value}
    words = refused(tmp_path, {}, metadata=metadata)
    place, expression = words.removeprefix("save: ").partition("; or put")[0].split("; pass ")
    place = place.partition(": ")[0]
    exec(f"{place} = {expression}", {"metadata": metadata})
    ckptstore.save(tmp_path / "c", {}, metadata=metadata)
    assert ckptstore.inspect(tmp_path / "c").metadata == metadata
    assert_exact(tmp_path, {"x": value})


@follows("format.metadata", "or put it in the tree")
def test_metadata_that_are_too_large(tmp_path: Path) -> None:
    big = {"x": b"x" * (300 << 10)}
    refused(tmp_path, {}, metadata=big)
    assert_exact(tmp_path, big)


@follows("format.names", "int(step) gives one")
def test_a_step_that_is_no_integer(tmp_path: Path) -> None:
    step = np.array(7.0)
    with pytest.raises(StructureError):
        ckptstore.save(tmp_path / "c", {}, step=step)  # type: ignore[arg-type]
    ckptstore.save(tmp_path / "c", {}, step=int(step))
    assert ckptstore.inspect(tmp_path / "c").step == 7


@follows("format.names", "step.item() gives one")
def test_a_step_that_has_axes(tmp_path: Path) -> None:
    step = np.array([7])
    with pytest.raises(StructureError):
        ckptstore.save(tmp_path / "c", {}, step=step)  # type: ignore[arg-type]
    ckptstore.save(tmp_path / "c", {}, step=step.item())
    assert ckptstore.inspect(tmp_path / "c").step == 7


@follows("format.names", "the step comes first, as in save(step, tree) and load(step)")
@pytest.mark.parametrize("step", [{"w": 1}, [1], "latest", "run/step-000000000001"], ids=str)
def test_a_step_in_the_place_of_something_else(step: Any, tmp_path: Path) -> None:
    manager = ckptstore.Manager(tmp_path)
    for call in (lambda: manager.save(step, {"w": 1}), lambda: manager.load(step)):
        with pytest.raises(StructureError, match=r"the step comes first, as in save\(step, tree\)"):
            call()
    manager.save(3, step)
    assert manager.load(3) == step


@follows("format.names", "save outside of jit")
@follows("saving.request", "save outside of jit")
def test_a_step_or_a_metric_that_is_traced(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    manager = ckptstore.Manager(tmp_path)

    def saves(x: Any, **arguments: Any) -> Any:
        manager.save(arguments.get("step", x), {}, metrics=arguments.get("metrics", {"x": x}))
        return x

    with pytest.raises(StructureError, match="save outside of jit"):
        jax.jit(lambda x: saves(x, metrics={}))(3)
    with pytest.raises(StructureError, match="save outside of jit"):
        jax.jit(lambda x: saves(x, step=3))(3)
    saves(jax.jit(lambda x: x)(3))
    assert manager.steps() == [3]


@follows("format.names", "count from 0")
def test_a_step_below_0(tmp_path: Path) -> None:
    with pytest.raises(StructureError):
        ckptstore.save(tmp_path / "c", {}, step=-1)
    for step in range(2):
        ckptstore.save(tmp_path / str(step), {}, step=step)
        assert ckptstore.inspect(tmp_path / str(step)).step == step


def _forged(url: Path, change: Any) -> None:
    """Change a manifest and give it the checksum that fits."""
    data = bytearray((url / "MANIFEST").read_bytes())[: -manifest._SEAL_NBYTES]
    change(data)
    data += wire.pack({wire.DIGEST: digest(bytes(data))})
    (url / "MANIFEST").write_bytes(data)


@follows("format.manifest", "restore it from a copy")
def test_a_manifest_that_is_damaged(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "a", {"x": 1})
    shutil.copy(tmp_path / "a/MANIFEST", tmp_path / "copy")
    data = bytearray((tmp_path / "copy").read_bytes())
    data[60] ^= 1
    (tmp_path / "a/MANIFEST").write_bytes(data)
    with pytest.raises(CorruptError):
        ckptstore.load(tmp_path / "a")
    shutil.copy(tmp_path / "copy", tmp_path / "a/MANIFEST")
    assert ckptstore.load(tmp_path / "a") == {"x": 1}


@follows("format.wire", "restore the file from a copy")
def test_a_manifest_that_is_no_msgpack(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "a", {"x": 1}, metadata={"name": "text"})
    shutil.copy(tmp_path / "a/MANIFEST", tmp_path / "copy")

    def damage(data: bytearray) -> None:
        at = data.index(b"attempt")
        data[at : at + 7] = b"\xff" * 7  # no UTF-8

    _forged(tmp_path / "a", damage)
    with pytest.raises(CorruptError):
        ckptstore.load(tmp_path / "a")
    shutil.copy(tmp_path / "copy", tmp_path / "a/MANIFEST")
    assert ckptstore.load(tmp_path / "a") == {"x": 1}


@follows("format.manifest", "upgrade ckptstore to read it")
def test_a_format_of_a_later_major_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade is stood in for by the version that it reads; the bytes are those of today."""
    ckptstore.save(tmp_path / "a", {"x": 1})

    def newer(data: bytearray) -> None:
        data[manifest._VERSION_AT] = 2

    _forged(tmp_path / "a", newer)
    with pytest.raises(UnsupportedError):
        ckptstore.load(tmp_path / "a")
    monkeypatch.setattr(manifest, "VERSION", (2, 0))
    assert ckptstore.load(tmp_path / "a") == {"x": 1}


@follows("format.manifest", "upgrade ckptstore to read it")
def test_a_feature_of_a_later_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade is stood in for by the feature that it has; the bytes are those of today."""
    ckptstore.save(tmp_path / "a", {"x": 1})
    path = tmp_path / "a/MANIFEST"
    today = manifest.decode_manifest(path.read_bytes(), where="here")
    path.write_bytes(manifest.encode_manifest(dataclasses.replace(today, required=["zip"])))
    with pytest.raises(UnsupportedError):
        ckptstore.load(tmp_path / "a")
    monkeypatch.setattr(manifest, "SUPPORTED", {"zip"})
    assert ckptstore.load(tmp_path / "a") == {"x": 1}

"""A small file costs little work, and every error that it causes is a CheckpointError."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import CheckpointError, Migration, StorageError, StructureError, convert
from ckptstore.format import Kind
from tests.conformance.make_conformance import Draft, L, N, bare, entries, leaf, none, text

NDARRAY = ("array", "numpy", "ndarray")


def put(directory: Path, draft: Draft) -> str:
    directory.mkdir()
    for name, data in draft.files().items():
        (directory / name).write_bytes(data)
    return str(directory)


def _long_keys(directory: Path, levels: int = 60, leaves: int = 2000) -> str:
    """60 keys of 4000 bytes around 2000 leaves: 260 KB, whose paths have 480 MB together."""
    root = N(Kind.LIST, [leaf(n) for n in range(leaves)])
    for _ in range(levels):
        root = entries(text("k" * 4000), root)
    rows = [L(shape=[0], data=b"") for _ in range(leaves)]
    return put(directory, Draft(root, rows))


def test_a_path_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    url = _long_keys(tmp_path / "c")
    checkpoint = ckptstore.inspect(url)
    assert len(checkpoint.leaves) == 2000
    assert checkpoint.leaves[-1].path.endswith("[1999]")
    assert len(checkpoint.leaves[7].path) == 1 + 60 * 4004 + len("[7]")
    assert len(str(checkpoint)) < 100_000
    assert len(repr(checkpoint.leaves)) < 200_000
    assert ckptstore.verify(url) == []


def test_the_leaves_of_a_checkpoint_are_a_sequence(tmp_path: Path) -> None:
    saved = ckptstore.save(tmp_path / "c", {"a": np.zeros(2), "b": [np.ones(3), 1]})
    paths = [leaf.path for leaf in saved.leaves]
    assert paths == ["$['a']", "$['b'][0]"]
    assert [leaf.nbytes for leaf in saved.leaves[::-1]] == [24, 16]
    assert saved.leaves == ckptstore.inspect(tmp_path / "c").leaves == list(saved.leaves)
    assert saved.leaves != saved.leaves[:1]
    assert repr(saved.leaves) == repr(list(saved.leaves))


@pytest.mark.parametrize("write", [convert.to_npz, convert.to_safetensors])
def test_an_export_whose_names_would_outgrow_the_file_is_refused(
    write: Any, tmp_path: Path
) -> None:
    url = _long_keys(tmp_path / "c")
    with pytest.raises(StructureError, match="too long for names") as caught:
        write(tmp_path / "x", url)
    assert caught.value.reason == "bad-name"
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "x").exists()


def test_a_pattern_whose_paths_would_outgrow_the_file_is_refused(tmp_path: Path) -> None:
    url = _long_keys(tmp_path / "c")
    with pytest.raises(StructureError, match="select their container") as caught:
        ckptstore.load(url, select="$.**")
    assert caught.value.reason == "too-many"
    below = ckptstore.load(url, select="$" + ".*" * 60)
    assert [len(x) for x in below.values()] == [2000]


def test_an_array_of_elements_without_bytes_is_exported_at_once(tmp_path: Path) -> None:
    draft = Draft(leaf(), [L(shape=[2**50], data=b"")], dtypes=["str[0]"])
    url = put(tmp_path / "c", draft)
    convert.to_npz(tmp_path / "x.npz", url)
    assert np.load(tmp_path / "x.npz")["array"].shape == (2**50,)
    assert ckptstore.load(url).shape == (2**50,)


@dataclasses.dataclass
class Slim:
    a: Any


ckptstore.register(Slim, name="project.Slim", migrate=[Migration(removed=["b"])])


def test_values_that_only_like_supplies_may_stand_deep_in_a_removed_field(tmp_path: Path) -> None:
    inner = N(Kind.LIST, [N(Kind.SUPPLIED, data=b"code") for _ in range(5000)])
    for _ in range(5000):
        inner = N(Kind.LIST, [inner])
    root = N(Kind.RECORD, [none(), inner], type=1)
    draft = bare(root, ("dataclass", "project", "Slim", ["a", "b"]))
    assert ckptstore.load(put(tmp_path / "c", draft)) == Slim(None)
    kept = bare(N(Kind.RECORD, [inner, none()], type=1), *draft.types)
    with pytest.raises(StructureError, match="not stored") as caught:
        ckptstore.load(put(tmp_path / "k", kept))
    assert "more" in str(caught.value) and len(str(caught.value)) < 50_000


def test_keys_that_are_nan_are_compared_in_linear_time(tmp_path: Path) -> None:
    keys = [N(Kind.FLOAT, data=np.float64("nan").tobytes()) for _ in range(20_000)]
    draft = bare(N(Kind.DICT, [part for key in keys for part in (key, none())]))
    with pytest.raises(StructureError, match="difference") as caught:
        ckptstore.load(put(tmp_path / "c", draft), like={"x": 2})
    assert len(str(caught.value)) < 10_000


def test_a_name_of_a_type_is_not_repeated_for_each_of_its_nodes(tmp_path: Path) -> None:
    records = [N(Kind.RECORD, type=1) for _ in range(5000)]
    draft = bare(N(Kind.LIST, records), ("dataclass", "m", "N" * 400_000))
    url = put(tmp_path / "c", draft)
    for like in ([], [1] * 5000):
        with pytest.raises(StructureError, match="5000 difference") as caught:
            ckptstore.load(url, like=like)
        assert len(str(caught.value)) < 50_000


EVIL = "evil\x1b[31m\nfake\u202e"


def test_control_characters_of_a_file_are_escaped_in_messages_and_prints(tmp_path: Path) -> None:
    row = ("dataclass", EVIL, f"{EVIL}.C", [EVIL])
    url = put(tmp_path / "c", Draft(N(Kind.RECORD, [leaf()], type=2), [L()], (NDARRAY, row)))
    texts = [str(ckptstore.inspect(url))]
    supplied = put(tmp_path / "s", bare(N(Kind.SUPPLIED, data=EVIL.encode())))
    symbol = put(tmp_path / "y", bare(N(Kind.SYMBOL, data=f"numpy.{EVIL}".encode())))
    calls: list[Any] = [
        lambda: ckptstore.load(url),
        lambda: ckptstore.load(url, like=[1]),
        lambda: ckptstore.load(url, like={"a": Slim(1)}),
        lambda: ckptstore.load(url, select="$.b"),
        lambda: ckptstore.load(supplied),
        lambda: ckptstore.load(symbol),
    ]
    for call in calls:
        with pytest.raises(CheckpointError) as caught:
            call()
        texts.append(str(caught.value))
    texts.append(str(convert.to_npz(tmp_path / "x.npz", url)))
    for shown in texts:
        lines = shown.splitlines()
        assert all(line.isprintable() for line in lines), shown
        assert not any(line.startswith("fake") for line in lines), shown


def test_a_pytree_that_a_file_marks_as_a_wrapper_has_paths(tmp_path: Path) -> None:
    row: dict[str, Any] = dict.fromkeys(("binding", "main", "package", "version"))
    row |= {"kind": "pytree", "module": "m", "name": "C", "fields": [], "extra": {"wraps": True}}
    root = N(Kind.RECORD, [none(), leaf()], type=2)
    url = put(tmp_path / "c", Draft(root, [L()], (NDARRAY, row)))
    assert [x.path for x in ckptstore.inspect(url).leaves] == ["$[0]"]
    assert list(convert.to_npz(tmp_path / "x.npz", url).names) == ["0"]
    assert ckptstore.load(url, select="$[0]").shape == (3,)


@pytest.mark.parametrize(
    "dtype", ["U1", "U3", [("a", "U1"), ("b", "i4")], [("a", "U1", (2, 1, 2))]]
)
def test_text_of_as_many_axes_as_numpy_permits_is_saved_and_loaded(
    dtype: Any, tmp_path: Path
) -> None:
    axes = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    x = np.zeros((1,) * axes, dtype)
    ckptstore.save(tmp_path / "c", x)
    assert ckptstore.load(tmp_path / "c").shape == x.shape


def test_a_name_that_a_zip_cannot_hold_is_refused(tmp_path: Path) -> None:
    for name, fits in (("k" * 65531, True), ("k" * 65532, False), ("ü" * 40000, False)):
        if fits:
            convert.to_npz(tmp_path / "x.npz", {name: np.ones(1)})
            continue
        with pytest.raises(StructureError, match="65531") as caught:
            convert.to_npz(tmp_path / "y.npz", {name: np.ones(1)})
        assert caught.value.reason == "bad-name"
        by_itself = f"$['{name}']"
        convert.to_npz(tmp_path / "z.npz", {name: np.ones(1)}, select=by_itself, overwrite=True)


@pytest.mark.parametrize("levels", [400, 499, 500, 501, 520, 5000])
@pytest.mark.parametrize("unit", [b"\x91", b"\x81\xa1k"])
def test_nested_bytes_of_flax_are_a_value_or_a_checkpoint_error(levels: int, unit: bytes) -> None:
    try:
        value = convert.from_flax(unit * levels + b"\xc0")
    except CheckpointError:
        assert levels > 499
    else:
        assert type(value) in (list, dict)


def test_sources_that_cannot_be_read_are_storage_errors() -> None:
    data = b"\x93\x01\x02\x03"
    twice = bytes(x for x in data for _ in range(2))
    assert convert.from_flax(memoryview(twice)[::2]) == [1, 2, 3]
    closed = io.BytesIO(data)
    closed.close()
    with pytest.raises(StorageError, match="open it as 'rb'"):
        convert.from_flax(closed)
    with pytest.raises(CheckpointError):
        convert.from_flax(memoryview(b""))


def test_load_and_verify_read_in_the_callers_thread_where_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"small": np.arange(5), "large": np.zeros(3 << 20, np.uint8), "text": "x" * 5000}
    ckptstore.save(tmp_path / "c", tree)
    started = []

    def refuse(self: threading.Thread) -> None:
        started.append(self.name)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    loaded = ckptstore.load(tmp_path / "c")
    assert loaded["text"] == tree["text"] and not loaded["large"].any()
    assert ckptstore.load(tmp_path / "c", select="$.small").tolist() == [0, 1, 2, 3, 4]
    assert ckptstore.verify(tmp_path / "c") == []
    convert.to_npz(tmp_path / "x.npz", str(tmp_path / "c"))
    assert started


def test_a_handler_of_atexit_can_load_and_verify(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"w": np.arange(3)})
    lines = f"""
import atexit, ckptstore
atexit.register(lambda: print(ckptstore.verify({str(tmp_path / "c")!r})))
atexit.register(lambda: print(ckptstore.load({str(tmp_path / "c")!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines() == ["{'w': array([0, 1, 2])}", "[]"], done.stderr
    assert done.stderr == ""

"""safetensors and npz: what they hold is there bit for bit, and the rest is in the report."""

import collections
import json
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors
import safetensors.numpy

import ckptstore
from ckptstore import convert
from tests.support.compare import differences

WRITERS = [convert.to_safetensors, convert.to_npz]


class Pair(NamedTuple):
    left: object
    right: object


def state():
    shared = jnp.arange(3.0)
    return {
        "params": {"dense.kernel": jnp.ones((2, 3)), "bias": np.arange(3)},
        "opt_state": optax.adam(1e-3).init({"w": jnp.ones(2)}),
        "key": jax.random.key(1),
        "weak": jnp.asarray(2.0) * 1,
        "tied": Pair(shared, shared),
        "step": 3,
        "none": None,
        "nothing": (),
        "ordered": collections.OrderedDict(a=np.ones(1)),
        7: np.zeros((0, 2)),
        "scalar": np.float32(2),
        "big": np.arange(3, dtype=">i4"),
    }


def read(path):
    if str(path).endswith(".npz"):
        with np.load(path) as held:
            return {name: held[name] for name in held.files}
    return safetensors.numpy.load_file(path)


def kinds(report):
    out = {}
    for loss in report.losses:
        out.setdefault(loss.kind, []).append(loss.path)
    return out


@pytest.mark.parametrize("source", ["checkpoint", "tree"])
@pytest.mark.parametrize("write", WRITERS)
def test_arrays_are_exact_and_the_report_lists_the_rest(tmp_path, write, source):
    tree = state()
    ckptstore.save(tmp_path / "c", tree)
    path = tmp_path / f"out.{write.__name__.removeprefix('to_')}"
    report = write(path, tmp_path / "c" if source == "checkpoint" else tree)
    held = read(path)
    expected = {
        "params.dense.kernel": tree["params"]["dense.kernel"],
        "params.bias": tree["params"]["bias"],
        "opt_state.0.count": tree["opt_state"][0].count,
        "opt_state.0.mu.w": tree["opt_state"][0].mu["w"],
        "opt_state.0.nu.w": tree["opt_state"][0].nu["w"],
        "key": jax.random.key_data(tree["key"]),
        "weak": tree["weak"],
        "tied.left": tree["tied"].left,
        "ordered.a": tree["ordered"]["a"],
        "7": tree[7],
        "scalar": np.asarray(tree["scalar"]),
        "big": tree["big"],
    }
    assert set(held) == set(expected) == set(report.names)
    for name, array in expected.items():
        array = np.asarray(array)
        if name == "big" and write is convert.to_safetensors:
            array = array.astype("<i4")
        assert differences(array, held[name]) == [], name
    assert report.names["opt_state.0.mu.w"] == "$['opt_state'][0].mu['w']"
    assert report.nbytes == sum(array.nbytes for array in held.values())
    found = kinds(report)
    assert found.pop("container") == [
        "$['opt_state']",
        "$['opt_state'][0]",
        "$['tied']",
        "$['ordered']",
    ]
    assert found.pop("value") == ["$['opt_state'][1]", "$['step']", "$['none']", "$['nothing']"]
    assert found.pop("array-type") == ["$"]
    if write is convert.to_safetensors:
        assert found.pop("order") == ["$"]
        assert found.pop("byte-order") == ["$['big']"]
    assert found == {
        "key": ["$['key']"],
        "weak-type": ["$['weak']"],
        "tied": ["$['tied'].right"],
        "keys-of-dict": ["$"],
        "scalar": ["$['scalar']"],
    }
    assert "$['tied'].right: the same object as $['tied'].left" in str(report)
    with pytest.raises(AttributeError):
        report.nbytes = 0


@pytest.mark.parametrize("write", WRITERS)
def test_a_selected_sub_tree_has_names_of_its_own(tmp_path, write):
    tree = state()
    ckptstore.save(tmp_path / "c", tree)
    for source in (tree, tmp_path / "c"):
        for select, names in (
            ("$.params", {"dense.kernel", "bias"}),
            ("$.params.bias", {"array"}),
            ("$.opt_state[0].*", {f"opt_state.0.{n}" for n in ("count", "mu.w", "nu.w")}),
            (["$.weak", "$.tied.right"], {"weak", "tied.right"}),
        ):
            path = tmp_path / f"out.{write.__name__.removeprefix('to_')}"
            assert set(write(path, source, select=select, overwrite=True).names) == names
            assert set(read(path)) == names
    with pytest.raises(ckptstore.StructureError, match="nothing is at"):
        write(tmp_path / "x", tree, select="$.no")
    with pytest.raises(ckptstore.StructureError, match="expected a pattern"):
        write(tmp_path / "x", tree, select=7)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "tree",
    [{"a": {"b": np.ones(1)}, "a.b": np.zeros(1)}, {1: np.ones(1), "1": np.zeros(1)}],
)
def test_two_arrays_of_one_name_are_refused(tmp_path, write, tree):
    with pytest.raises(ckptstore.StructureError, match="would both be named") as caught:
        write(tmp_path / "x", tree)
    assert caught.value.reason == "name-clash"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("write", "bad"),
    [
        (convert.to_safetensors, {"a": np.ones(1, "complex128")}),
        (convert.to_safetensors, {"a": np.ones(1, ml_dtypes.int4)}),
        (convert.to_safetensors, {"a": np.array(["x"])}),
        (convert.to_safetensors, {"a": np.zeros(1, [("x", "f4")])}),
        (convert.to_safetensors, {"__metadata__": np.ones(1)}),
        (convert.to_safetensors, {"\ud800": np.ones(1)}),
        (convert.to_npz, {"a": np.ones(1, ml_dtypes.bfloat16)}),
        (convert.to_npz, {"a": np.ones(1, ml_dtypes.float8_e5m2)}),
        (convert.to_npz, {"a": np.zeros(1, [("x", ml_dtypes.bfloat16)])}),
        (convert.to_npz, {"a": np.ones(1), "a.npy": np.ones(1)}),
        (convert.to_npz, {"a\0b": np.ones(1)}),
        (convert.to_npz, {"\ud800": np.ones(1)}),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(tmp_path, write, bad):
    with pytest.raises(ckptstore.StructureError) as caught:
        write(tmp_path / "x", bad)
    assert caught.value.reason in ("cannot-carry", "bad-name")
    assert os.listdir(tmp_path) == []


def test_safetensors_hold_bfloat16_and_float8_and_align_what_is_wide(tmp_path):
    names = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "complex64", "bool")
    tree = {"odd": np.ones(3, np.int8)}
    tree |= {n: np.ones((3, 2)).astype(getattr(ml_dtypes, n, n)) for n in names}
    tree["none"] = np.ones((0, 3))
    convert.to_safetensors(tmp_path / "x.safetensors", tree, metadata={"format": "np"})
    again = convert.from_safetensors(tmp_path / "x.safetensors")
    assert differences(tree, {name: again[name] for name in tree}) == []
    assert convert.safetensors_metadata(tmp_path / "x.safetensors") == {"format": "np"}
    data = (tmp_path / "x.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for name, array in tree.items():
        assert (8 + size + header[name]["data_offsets"][0]) % array.itemsize == 0
    for metadata in ({"a": 1}, 7, {"a": "\ud800"}, {"\udfff": "a"}):
        with pytest.raises(ckptstore.StructureError, match="from str to str"):
            convert.to_safetensors(tmp_path / "y", tree, metadata=metadata)


def test_npz_refuses_fields_that_lie_in_another_order_than_their_names(tmp_path):
    dtype = np.dtype({"names": ["b", "a"], "formats": ["u1", "u1"], "offsets": [1, 0]})
    with pytest.raises(ckptstore.StructureError, match=r"\$\['x'\]") as caught:
        convert.to_npz(tmp_path / "x.npz", {"x": np.zeros(3, dtype)})
    assert caught.value.reason == "cannot-carry"
    assert list(tmp_path.iterdir()) == []


def test_npz_holds_every_dtype_of_numpy(tmp_path):
    tree = {
        "text": np.array(["ab", "ü"]),
        "bytes": np.array([b"a\0", b"bc"]),
        "times": np.array(["2020-01-01"], "datetime64[D]"),
        "fields": np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")])),
        "long": np.ones(2, np.longdouble),
        "big": np.arange(3, dtype=">c16"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "void": np.zeros(2, "V3"),
        "slash/in": np.ones(1),
        "../out": np.ones(1),
    }
    convert.to_npz(tmp_path / "x.npz", tree)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as held:
        assert differences(tree, {name: held[name] for name in held.files}) == []
    aligned = {"x": np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True))}
    assert kinds(convert.to_npz(tmp_path / "y.npz", aligned)) == {"dtype-flags": ["$['x']"]}


def test_names_survive_the_way_in_and_out(tmp_path):
    tensors = {"model.layers.0.weight": np.ones((2, 2)), "lm_head.weight": np.arange(3)}
    safetensors.numpy.save_file(tensors, tmp_path / "in.safetensors")
    ckptstore.save(tmp_path / "c", convert.from_safetensors(tmp_path / "in.safetensors"))
    convert.to_safetensors(tmp_path / "out.safetensors", tmp_path / "c")
    assert read(tmp_path / "out.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_is_there_wholly_or_not_at_all(tmp_path, write, monkeypatch):
    path = tmp_path / "x"
    write(path, {"a": np.ones(3)})
    before = path.read_bytes()
    with pytest.raises(ckptstore.AlreadyCommittedError, match="overwrite=True"):
        write(path, {"a": np.zeros(3)})
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ckptstore.AlreadyCommittedError):
        write(tmp_path / "link", {"a": np.zeros(3)})

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ckptstore.StorageError) as caught:
        write(path, {"a": np.zeros(3)}, overwrite=True)
    assert caught.value.reason == "disk-full"
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["link", "x"]
    write(path, {"a": np.zeros(3)}, overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(ckptstore.StorageError):
        write(tmp_path / "no" / "x", {"a": np.zeros(3)})


@pytest.mark.parametrize("write", WRITERS)
def test_a_damaged_checkpoint_is_not_exported(tmp_path, write):
    ckptstore.save(tmp_path / "c", {"a": np.arange(10_000)})
    data = next((tmp_path / "c").glob("data-*"))
    bad = bytearray(data.read_bytes())
    bad[5000] ^= 1
    data.write_bytes(bad)
    with pytest.raises(ckptstore.CorruptError, match=r"\['a'\]"):
        write(tmp_path / "x", tmp_path / "c")
    assert os.listdir(tmp_path) == ["c"]


def test_a_chain_of_shared_pairs_is_written_once(tmp_path):
    x = (np.ones(1), np.ones(2))
    for _ in range(50):
        x = (x, x)
    report = convert.to_npz(tmp_path / "x.npz", x)
    assert len(report.names) == 2
    assert len(kinds(report)["tied"]) == 50
    assert "and 45 more" in str(report)


def test_what_cannot_be_carried_is_refused_by_path(tmp_path):
    with pytest.raises(ckptstore.StructureError, match=r"\$\['f'\]"):
        convert.to_npz(tmp_path / "x.npz", {"f": lambda: 0})

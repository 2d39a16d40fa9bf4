"""flax, equinox, safetensors and torch files: exact, or an error of ours; also where damaged."""

import collections
import io
import itertools
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import equinox as eqx
import flax
import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import optax
import pytest
import safetensors.numpy
import torch
from flax.training.train_state import TrainState

import ckptstore
from ckptstore import convert
from tests.support.compare import differences

OPTIMIZER = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 5, 50))


def state():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    return {
        "params": params,
        "opt_state": OPTIMIZER.init(params),
        "step": 7,
        "z": 1 - 2j,
        "n": None,
    }


def refused(read, *args, error=ckptstore.CheckpointError, words=None, **options):
    with pytest.raises(error, match=words) as caught:
        read(*args, **options)
    return caught.value


def flips(data, count=60):
    """Give the data with single bits flipped, and cut short, at places spread over it."""
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), count):
        bad = bytearray(data)
        bad[at] ^= 1 << int(rng.integers(8))
        yield bytes(bad)
    yield from (data[: int(at)] for at in rng.integers(0, len(data), 40))


# flax


def test_flax_with_like_is_exact():
    saved = state()
    data = flax.serialization.to_bytes(saved)
    saved["params"] = {name: x + 1 for name, x in saved["params"].items()}
    data = flax.serialization.to_bytes(saved)
    assert differences(saved, convert.from_flax(data, like=state())) == []
    shapes = {name: jax.eval_shape(lambda x=x: x) for name, x in saved["params"].items()}
    assert differences(saved, convert.from_flax(data, like=state() | {"params": shapes})) == []


def test_flax_structs_and_sequences_come_back_as_their_classes():
    @flax.struct.dataclass
    class Inner:
        x: jax.Array
        name: str = flax.struct.field(pytree_node=False)

    saved = {"inner": Inner(jnp.ones(2), "a"), "seq": [(np.arange(3),), np.float32(2.5)]}
    like = {"inner": Inner(jnp.zeros(2), "a"), "seq": [(np.zeros(3, int),), np.float32(0)]}
    assert differences(saved, convert.from_flax(flax.serialization.to_bytes(saved), like)) == []


def test_flax_without_like_gives_what_flax_gives(tmp_path):
    saved = flax.serialization.to_state_dict(state()) | {
        "dtypes": {
            name: jnp.ones(3, name)
            for name in ("bool", "int4", "uint8", "float8_e5m2", "float16", "complex64")
        },
        "scalar": np.float16(1.5),
        "none": np.zeros((0, 2)),
    }
    path = tmp_path / "flax.msgpack"
    path.write_bytes(flax.serialization.msgpack_serialize(saved))
    theirs = flax.serialization.msgpack_restore(path.read_bytes())
    assert differences(theirs, convert.from_flax(path)) == []
    with open(path, "rb") as file:
        assert differences(theirs, convert.from_flax(file)) == []
    as_jax = convert.from_flax(path, arrays="jax")
    assert differences(dict(sorted(saved["params"].items())), as_jax["params"]) == []
    ckptstore.save(tmp_path / "ours", as_jax)
    assert differences(as_jax, ckptstore.load(tmp_path / "ours")) == []


def test_flax_arrays_in_chunks_are_put_together(monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 100)
    saved = {"w": np.arange(120.0).reshape(4, 30), "small": np.arange(3)}
    data = flax.serialization.to_bytes(saved)
    assert b"__msgpack_chunked_array__" in data
    assert differences(saved, convert.from_flax(data)) == []
    assert differences(saved, convert.from_flax(data, like=saved)) == []
    made = convert.from_flax(data, arrays="jax")
    assert differences({"w": jnp.asarray(saved["w"])}, {"w": made["w"].astype("float32")}) == []


def test_flax_differences_are_told_at_once():
    like = state()
    like["params"] = {"w": jnp.ones((3, 2)), "c": jnp.ones(1)}
    like["step"] = 7.0
    error = refused(
        convert.from_flax,
        flax.serialization.to_bytes(state()),
        like=like,
        error=ckptstore.StructureError,
    )
    assert error.reason == "differs-from-like"
    for words in (
        "$.params.w: float32[2, 3] in the file, float32[3, 2]",
        "$.params.b: bfloat16[3] in the file, not in `like`",
        "$.params.c: ",
        "$.step: int in the file, float in `like`",
    ):
        assert words in str(error)


def test_a_trained_train_state_moves_into_the_shapes_of_a_fresh_one():
    def fresh():
        return TrainState.create(apply_fn=len, params={"w": jnp.ones(2)}, tx=optax.adam(1e-2))

    trained = jax.jit(lambda state: state.apply_gradients(grads=state.params))(fresh())
    data = flax.serialization.to_bytes(trained)
    words = r"step: int32\[\] in the file, int in `like`; pass an array there"
    refused(convert.from_flax, data, like=fresh(), error=ckptstore.StructureError, words=words)
    loaded = convert.from_flax(data, like=jax.eval_shape(fresh))
    assert differences(trained.opt_state, loaded.opt_state) == []
    assert differences(trained.params, loaded.params) == []
    assert int(loaded.step) == 1


def test_flax_holds_no_keys_and_no_byte_order():
    data = flax.serialization.to_bytes({"k": jax.random.key_data(jax.random.key(0))})
    refused(convert.from_flax, data, like={"k": jax.random.key(0)}, words="PRNG key")
    data = flax.serialization.to_bytes({"k": np.ones(2, ">f4")})
    refused(convert.from_flax, data, like={"k": np.ones(2, ">f4")}, words=">float32")


def extension(*parts, code=1):
    return msgpack.packb({"x": msgpack.ExtType(code, msgpack.packb(parts))})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xdd\x3b\x9a\xca\x00",  # an array of 10^9 items
        b"\xdd\x00\x0f\xff\xff" * 1000 + b"\0" * (1 << 20),  # a million items, 1,000 times
        b"\x91" * 5000 + b"\xc0",
        msgpack.packb({"a": 1}) + b"\0",
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x90\x01",  # a list for a key
        extension([2**60], "float32", b""),
        extension([2**31, 2**31, 2**31], "float32", b""),
        extension([0] * 5000, "float32", b""),
        extension([-1], "float32", b"1234"),
        extension([1], "object", b"12345678"),
        extension([1], "bool", b"\2"),
        extension([2], "float32", b"1234"),
        extension([1], b"\xff\xfe", b"1234"),
        extension([True], "float32", b"1234"),
        extension([2**62], "str[0]", b""),
        extension(1.0, code=2),
        extension([1], "float32", b"1234", code=3),
        extension(1, 2, code=77),
        msgpack.packb({"__msgpack_chunked_array__": True}),
        msgpack.packb(
            {"__msgpack_chunked_array__": True, "shape": {"0": 9**18}, "chunks": {"0": 1}}
        ),
    ],
    ids=itertools.count(),
)
def test_hostile_flax_bytes_are_refused(data):
    refused(convert.from_flax, data, error=ckptstore.CorruptError)


def test_damaged_flax_bytes_are_errors_or_values():
    data = flax.serialization.to_bytes(state())
    for bad in flips(data):
        for like in (None, state()):
            try:
                convert.from_flax(bad, like=like)
            except ckptstore.CheckpointError:
                continue


# equinox


def model():
    return eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(1))


def leaves():
    return {
        "model": model(),
        "z_first": jnp.ones(2, jnp.bfloat16),
        "numpy": np.arange(6.0).reshape(2, 3).T,
        "e4m3": jnp.ones(3, jnp.float8_e4m3fn),
        "n": 3,
        "x": 0.25,
        "flag": True,
        "c": 1j,
        "g": np.float32(1.5),
        "h": ml_dtypes.bfloat16(1.5),
        "text": "stays",
        "none": None,
    }


def equinox_bytes(tree):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, tree)
    return file.getvalue()


def test_equinox_leaves_are_exact(tmp_path):
    saved = leaves()
    eqx.tree_serialise_leaves(tmp_path / "model", saved)  # equinox adds .eqx
    like = {name: x * 0 if eqx.is_array(x) else x for name, x in saved.items()}
    like |= {"n": 0, "x": 0.0, "flag": False}
    assert differences(saved, convert.from_equinox(tmp_path / "model", like)) == []
    assert differences(saved, convert.from_equinox(equinox_bytes(saved), like)) == []
    shapes = eqx.filter_eval_shape(model)
    eqx.tree_serialise_leaves(tmp_path / "m.eqx", model())
    read = convert.from_equinox(tmp_path / "m.eqx", shapes)
    assert differences(model(), read) == []
    assert differences(eqx.tree_deserialise_leaves(tmp_path / "m.eqx", shapes), read) == []


def test_equinox_leaves_after_a_line_of_hyperparameters(tmp_path):
    with open(tmp_path / "m.eqx", "wb") as file:
        file.write(b'{"width": 4}\n')
        eqx.tree_serialise_leaves(file, model())
    with open(tmp_path / "m.eqx", "rb") as file:
        file.readline()
        assert differences(model(), convert.from_equinox(file, model())) == []


def test_equinox_differences_are_told_at_once():
    data = equinox_bytes({"a": jnp.ones(2), "b": jnp.ones(3), "n": 1})
    like = {"a": jnp.ones(3), "b": jnp.ones(3, int), "n": 1.0}
    error = refused(convert.from_equinox, data, like, error=ckptstore.StructureError)
    for words in (
        "3 difference(s)",
        "$['a']: float32[2] in the file, float32[3] in `like`",
        "$['b']: float32[3] in the file, int32[3] in `like`",
        "$['n']: int64[] in the file, float in `like`",
    ):
        assert words in str(error)


def test_equinox_files_with_more_or_fewer_leaves_are_refused():
    data = equinox_bytes({"a": jnp.ones(2), "b": jnp.ones(3)})
    refused(convert.from_equinox, data, {"a": jnp.ones(2)}, words="after the last leaf")
    like = {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(1)}
    refused(convert.from_equinox, data, like, words=r"\$\['c'\].*ends here")
    short = data[:-1], {"a": jnp.ones(2), "b": jnp.ones(3)}
    refused(convert.from_equinox, *short, words="needs 12 bytes, found 11")


def npy(header):
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': ()}") + pickle.dumps(print),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 5000 + "}"),
        npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1152921504606846976,)}"),
        npy("__import__('os').system('true')"),
        b"\x93NUMPY\x03\x00" + b"\0" * 100,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"\0" * 100,
    ],
    ids=itertools.count(),
)
def test_hostile_equinox_files_are_refused(data):
    refused(convert.from_equinox, data, {"a": jnp.ones(2)})


def test_damaged_equinox_files_are_errors_or_values():
    data = equinox_bytes(leaves())
    for bad in flips(data):
        try:
            convert.from_equinox(bad, leaves())
        except ckptstore.CheckpointError:
            continue


# safetensors

TENSORS = {
    name: np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, name, name))
    for name in (
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64", "bfloat16", "complex64", "float8_e4m3fn", "float8_e5m2"),
        *("float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    )
} | {"none": np.zeros((0, 3), np.float32), "one": np.array(3.0, np.float32)}


def test_safetensors_are_exact(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(TENSORS, path, {"license": "ours"})
    read = convert.from_safetensors(path)
    assert differences(TENSORS, {name: read[name] for name in TENSORS}) == []
    assert len(read) == len(TENSORS) and all(array.flags.writeable for array in read.values())
    assert convert.safetensors_metadata(path) == {"license": "ours"}
    ckptstore.save(tmp_path / "ours", read)
    assert differences(read, ckptstore.load(tmp_path / "ours")) == []
    made = convert.from_safetensors(path, arrays="jax")
    assert differences(jnp.asarray(TENSORS["bfloat16"]), made["bfloat16"]) == []
    assert made["int64"].dtype == np.int64  # not made 32-bit


def shards(tmp_path, **changes):
    one, two = {"a": TENSORS["float32"], "b": TENSORS["int8"]}, {"c": TENSORS["bfloat16"]}
    safetensors.numpy.save_file(one, tmp_path / "m-1.safetensors")
    safetensors.numpy.save_file(two, tmp_path / "m-2.safetensors")
    places = {"a": "m-1.safetensors", "c": "m-2.safetensors", "b": "m-1.safetensors"} | changes
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, {"a": one["a"], "c": two["c"], "b": one["b"]}


def test_sharded_safetensors_are_one_dict(tmp_path):
    index, whole = shards(tmp_path)
    assert differences(whole, convert.from_safetensors(index)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"a": "m-2.safetensors"},
        {"d": "m-1.safetensors"},
        {"a": "../m-1.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "m-3.safetensors"},
        {"a": 1},
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, changes):
    index, _ = shards(tmp_path, **changes)
    refused(convert.from_safetensors, index)


def st(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"123",
        st({}, length=2**60),
        st({}, length=2**64 - 1),
        st(b"[]"),
        st(b"{" * 1000),
        st({"a": entry(shape=(2**60,), offsets=(0, 2**62))}, bytes(4)),
        st({"a": entry(shape=(2**32, 2**32, 4), offsets=(0, 4))}, bytes(4)),
        st({"a": entry(offsets=(4, 0))}, bytes(4)),
        st({"a": entry()}, bytes(5)),
        st({"a": entry(), "b": entry()}, bytes(4)),
        st(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)),
        st({"a": entry(dtype="F4", shape=(8,))}, bytes(4)),
        st({"a": entry(dtype="OBJECT")}, bytes(4)),
        st({"a": entry(dtype="BOOL", shape=(4,))}, b"\2\2\2\2"),
        st({"a": entry(), "__metadata__": {"x": 1}}, bytes(4)),
    ],
    ids=itertools.count(),
)
def test_hostile_safetensors_are_refused(tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    refused(convert.from_safetensors, path)


@pytest.mark.parametrize(
    "data", [b"", st({}, length=2**60), st({"__metadata__": {"x": 1}}), st(b"[]")]
)
def test_hostile_metadata_is_refused(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    refused(convert.safetensors_metadata, tmp_path / "x.safetensors", error=ckptstore.CorruptError)


def test_damaged_safetensors_are_errors_or_values(tmp_path):
    data = safetensors.numpy.save(TENSORS)
    path = tmp_path / "x.safetensors"
    for bad in flips(data):
        path.write_bytes(bad)
        try:
            convert.from_safetensors(path)
        except ckptstore.CheckpointError:
            continue


# torch


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )


def torch_state():
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(3)
    return {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "dtypes": [torch.ones(2, dtype=d) for d in (torch.bfloat16, torch.float8_e4m3fn)],
        "tied": (shared, shared),
        "strided": torch.arange(6).reshape(2, 3).t(),
        "conj": torch.tensor([1j]).conj(),
        "step": 3,
    }


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a.resolve_conj(), b.resolve_conj())
    elif isinstance(a, dict):
        assert list(a) == list(b)
        all(same(a[key], b[key]) for key in a)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        all(same(x, y) for x, y in zip(a, b, strict=True))
    else:
        assert a == b
    return True


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_give_what_torch_gives(tmp_path, zipped):
    saved = torch_state()
    if not zipped:
        del saved["dtypes"]  # torch cannot read float8 back from there
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    same(saved, convert.from_torch(tmp_path / "x.pt"))


def test_torch_files_become_numpy_and_are_carried(tmp_path):
    saved = torch_state()
    torch.save(saved, tmp_path / "x.pt")
    read = convert.from_torch(tmp_path / "x.pt", arrays="numpy")
    assert read["dtypes"][0].dtype == ml_dtypes.bfloat16
    assert read["dtypes"][1].dtype == ml_dtypes.float8_e4m3fn
    assert read["tied"][0] is read["tied"][1]
    assert read["conj"].tolist() == [-1j]
    assert read["strided"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert type(read["net"]) is collections.OrderedDict
    weight = saved["net"]["0.weight"]
    assert differences(weight.numpy(), read["net"]["0.weight"]) == []
    ckptstore.save(tmp_path / "ours", read)
    assert differences(read, ckptstore.load(tmp_path / "ours")) == []


def test_torch_attributes_and_counters_become_numpy_too(tmp_path):
    tensors = collections.OrderedDict(w=torch.ones(2))
    tensors._metadata, tensors.scale = {"": {"version": 1}}, torch.ones(1)
    torch.save([tensors, collections.Counter(n=torch.ones(3))], tmp_path / "x.pt")
    read, counter = convert.from_torch(tmp_path / "x.pt", arrays="numpy")
    assert vars(read).keys() == {"scale"} and type(read.scale) is np.ndarray
    assert type(counter) is collections.Counter and type(counter["n"]) is np.ndarray


@pytest.mark.parametrize("place", ["key", "tuple in a key", "set", "storage"])
def test_a_tensor_where_no_array_can_stand_is_refused(place, tmp_path):
    x = torch.ones(2)
    saved = {
        "key": {x: 1},
        "tuple in a key": {(1, x): 1},
        "set": {x},
        "storage": x.untyped_storage(),
    }[place]
    torch.save({"a": saved}, tmp_path / "x.pt")
    convert.from_torch(tmp_path / "x.pt")
    error = refused(
        convert.from_torch, tmp_path / "x.pt", arrays="numpy", error=ckptstore.UnsupportedError
    )
    assert "$.a" in str(error) and error.reason == "dtype-not-here"


def test_what_numpy_has_no_array_for_is_refused(tmp_path):
    torch.save({"a": [torch.eye(2).to_sparse()]}, tmp_path / "x.pt")
    error = refused(convert.from_torch, tmp_path / "x.pt", arrays="numpy", words=r"\$\.a\[0\]: ")
    assert error.reason == "dtype-not-here"


def test_numpy_arrays_take_no_more_than_a_few_times_the_file(tmp_path):
    torch.save({"a": torch.ones(1).expand(2**40)}, tmp_path / "x.pt")
    refused(convert.from_torch, tmp_path / "x.pt", arrays="numpy", words="4 times the bytes")
    loop = []
    loop.append(loop)
    torch.save(loop, tmp_path / "x.pt")
    refused(convert.from_torch, tmp_path / "x.pt", arrays="numpy", words="holds itself")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("bomb", [Bomb(), network()])
def test_more_than_weights_is_refused_and_runs_nothing(tmp_path, monkeypatch, zipped, bomb):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "x": bomb}, "x.pt", _use_new_zipfile_serialization=zipped)
    error = refused(convert.from_torch, "x.pt", error=ckptstore.UnsupportedError)
    assert error.reason == "weights-only"
    assert "state_dict()" in str(error)
    assert "weights_only=False" not in str(error)
    assert not os.path.exists("exploded")


def test_plain_pickles_are_refused_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Bomb()))
    refused(convert.from_torch, "x.pt")
    assert not os.path.exists("exploded")


def test_a_zip_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    torch.save({"w": torch.zeros(1 << 18)}, tmp_path / "x.pt")
    old = zipfile.ZipFile(tmp_path / "x.pt")
    new = zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED)
    with old, new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(convert.from_torch, tmp_path / "y.pt", words="compressed")


def test_damaged_torch_files_are_refused_or_the_right_value(tmp_path):
    path, saved = tmp_path / "x.pt", {"w": torch.arange(1000.0), "n": [1, "a"]}
    torch.save(saved, path)
    data = path.read_bytes()
    refusals = 0
    for bad in flips(data):
        path.write_bytes(bad)
        try:
            same(saved, convert.from_torch(path))
        except ckptstore.CheckpointError:
            refusals += 1
    assert refusals > 80
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    for bad in flips(path.read_bytes()):
        path.write_bytes(bad)
        try:
            convert.from_torch(path)
        except ckptstore.CheckpointError:
            continue


# all


@pytest.mark.parametrize(
    "read",
    [
        convert.from_flax,
        convert.from_safetensors,
        convert.from_torch,
        convert.safetensors_metadata,
        lambda path: convert.from_equinox(path, {"a": jnp.ones(1)}),
    ],
)
def test_what_is_no_file_is_an_error_of_ours(tmp_path, read):
    os.mkfifo(tmp_path / "fifo.pt")
    (tmp_path / "link.pt").symlink_to("nowhere")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "fifo.pt", tmp_path / "link.pt", 7):
        refused(read, path)


def test_arrays_of_another_kind_are_refused():
    for read in (convert.from_flax, convert.from_safetensors, convert.from_torch):
        assert refused(read, b"", arrays="mlx").reason == "bad-argument"


MISSING = """
import sys
for name in ("jax", "flax", "torch", "safetensors", "orbax", "orbax.checkpoint"):
    sys.modules[name] = None
import numpy as np
from ckptstore import convert, CheckpointError
for read in (
    lambda: convert.from_flax(b"\\x80", arrays="jax"),
    lambda: convert.from_flax(b"\\x80", like={}),
    lambda: convert.from_equinox(b"", {}),
    lambda: convert.from_safetensors(sys.argv[1]),
    lambda: convert.from_torch(sys.argv[1]),
):
    try:
        read()
    except CheckpointError as error:
        assert error.reason == "not-installed" and "pip install " in str(error), error
    else:
        raise AssertionError
assert convert.from_flax(b"\\x81\\xa1a\\x01") == {"a": 1}
convert.to_npz(sys.argv[1] + ".npz", {"a": np.ones(2)})
convert.to_safetensors(sys.argv[1] + ".safetensors", {"a": np.ones(2)})
"""


def test_what_is_not_installed_is_said_with_the_remedy(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"12345678")
    subprocess.run([sys.executable, "-W", "error", "-c", MISSING, str(path)], check=True)

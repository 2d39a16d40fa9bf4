"""Pickles and files of numpy: exact, and nothing of a pickle but arrays and plain containers."""

import collections
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import flax.core
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import ckptstore
from ckptstore import convert
from ckptstore.convert import npz
from tests.support import forging
from tests.support.compare import differences

follows = pytest.mark.follows

PROTOCOLS = range(6)
ALIGNED = np.dtype([("x", "<i4"), ("y", ">f8", (2,)), ("in", [("z", "i1")])], align=True)
ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "strided": np.arange(10)[::2],
    "no axes": np.array(3),
    "empty": np.zeros((0, 3), np.float16),
    "big-endian": np.arange(3, dtype=">f4"),
    "bool": np.array([True, False]),
    "complex": np.ones(2, np.complex64),
    "text": np.array(["ab", "c"]),
    "bytes": np.array([b"ab", b"\xff"]),
    "dates": np.array(["2020", "2021"], "M8[Y]"),
    "spans": np.array([1, 2], "m8[25s]"),
    "structure": np.ones(2, ALIGNED),
    "bfloat16": np.ones(2, ml_dtypes.bfloat16),
    "float8": np.ones(2, ml_dtypes.float8_e5m2),
    "int4": np.ones(3, ml_dtypes.int4),
}
VALUES = {
    "numbers": [0, -3, 2**40, 2**70, 1.5, float("inf"), 1 - 2j, True, None],
    "texts": ["é", "", b"\xff", b"", bytearray(b"x"), "a" * 300],
    "scalars": [np.float32(2.5), np.bool_(1), ml_dtypes.bfloat16(2), np.datetime64("2020", "Y")],
    "containers": [(), (1,), (1, 2, 3, 4), {}, [], set(), {1, "a"}, frozenset([1]), [[[]]]],
    "dtype": np.dtype("<f4"),
    ("a", 1): collections.OrderedDict(b=1, a=collections.OrderedDict()),
    3: "a key that is a number",
}
TREE = ARRAYS | VALUES


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_protocol_is_read_exactly(protocol, tmp_path):
    (tmp_path / "x.pkl").write_bytes(data := pickle.dumps(TREE, protocol))
    assert differences(TREE, convert.from_pickle(tmp_path / "x.pkl")) == []
    assert differences(TREE, convert.from_pickle(data)) == []
    with open(tmp_path / "x.pkl", "rb") as file:
        assert differences(TREE, convert.from_pickle(file)) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_read_is_saved_and_written_to(protocol, tmp_path):
    read = convert.from_pickle(pickle.dumps(TREE, protocol))
    assert all(read[name].flags.writeable for name in ARRAYS)
    ckptstore.save(tmp_path / "ours", read)
    assert differences(TREE, ckptstore.load(tmp_path / "ours")) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_object_in_two_places_stays_one(protocol):
    w, inner = np.ones(3), {"a": 1}
    read = convert.from_pickle(pickle.dumps([w, {"w": w}, inner, (inner,)], protocol))
    assert read[0] is read[1]["w"] and read[2] is read[3][0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_jax_come_as_those_of_numpy_or_of_jax(protocol):
    saved = {"w": jnp.arange(3), "b": jnp.ones(2, jnp.bfloat16), "weak": jnp.asarray(2.0)}
    data = pickle.dumps(saved, protocol)
    assert differences(saved, convert.from_pickle(data, arrays="jax")) == []
    as_numpy = {name: np.asarray(x) for name, x in saved.items()}
    assert differences(as_numpy, convert.from_pickle(data)) == []


OLD_NAMES = {
    b"jax._src.array\n_reconstruct_array": [
        b"jax._src.device_array\nreconstruct_device_array",
        b"jax.interpreters.xla\nreconstruct_device_array",
    ],
    b"numpy._core.multiarray\n": [b"numpy.core.multiarray\n"],
}


@pytest.mark.parametrize("new", OLD_NAMES)
def test_old_releases_gave_the_functions_other_names(new):
    """The bytes differ from those of the old release in the name alone."""
    saved = {"w": jnp.arange(3.0)}
    data = pickle.dumps(saved, 2)
    assert new in data
    for old in OLD_NAMES[new]:
        read = convert.from_pickle(data.replace(new, old), arrays="jax")
        assert differences(saved, read) == []


def test_a_pickle_of_python_2_is_read():
    """`pickle.dumps({'w': numpy.array([1.5, -2.0])}, protocol)` of Python 2 and numpy 1.16."""
    raw = struct.pack("<2d", 1.5, -2.0)
    data = (
        b"\x80\x02}q\x01U\x01wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85q\x05U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02\x85q\tcnumpy\ndtype\nq\n"
        b"U\x02f8q\x0bK\x00K\x01\x87q\x0cRq\r(K\x03U\x01<q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tq\x0fb\x89U\x10" + raw + b"q\x10tq\x11bs."
    )
    assert differences({"w": np.array([1.5, -2.0])}, convert.from_pickle(data)) == []
    theirs = pickle.loads(data, encoding="latin1")
    assert differences(theirs, convert.from_pickle(data)) == []


def test_neither_numpy_names_nor_jax_are_imported():
    data = pickle.dumps({"w": jnp.arange(3)})
    code = (
        "import sys, ckptstore.convert as c; c.from_pickle(sys.stdin.buffer); "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], input=data, check=True)


class Evil:
    def __reduce__(self):
        return os.system, ("echo run > /tmp/ckptstore-evil",)


class Local:
    def __init__(self, x):
        self.x = x


def others():
    params = {"w": jnp.ones(2)}
    return {
        "code": (Evil(), "posix.system"),
        "a class": (Local(1), "Local"),
        "optax": ({"s": optax.adam(1e-3).init(params)}, "optax._src.transform.ScaleByAdamState"),
        "flax": (flax.core.freeze(params), "FrozenDict"),
        "a key": ({"k": jax.random.key(0)}, "PRNGKeyArray"),
        "a function": ([np.sum], "numpy.sum"),
        "a builtin": (print, r"builtin.*\.print"),
        "a masked array": (np.ma.array([1]), "numpy.ma"),
        "a matrix": (np.ones((2, 2)).view(np.matrix), "numpy.matrix"),
        "a defaultdict": (collections.defaultdict(list), "collections.defaultdict"),
        "two": ([Local(1), optax.EmptyState()], "EmptyState"),
    }


@pytest.mark.parametrize("kind", others())
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_anything_else_is_refused_by_its_name(kind, protocol):
    value, name = others()[kind]
    with pytest.raises(ckptstore.UnsupportedError, match=name) as caught:
        convert.from_pickle(pickle.dumps({"w": np.ones(2), "x": value}, protocol))
    assert caught.value.reason == "weights-only"
    assert not os.path.exists("/tmp/ckptstore-evil")


@follows(
    "convert.pickle",
    "if you trust the file, save it again in a program that can read it: with open(path, 'rb') as "
    "file: ckptstore.save(directory, pickle.load(file))",
)
def test_the_way_on_for_other_classes_works(tmp_path):
    path, directory = tmp_path / "x.pkl", tmp_path / "moved"
    state = optax.adam(1e-3).init({"w": jnp.ones(2)})
    path.write_bytes(pickle.dumps(state))
    with pytest.raises(ckptstore.UnsupportedError) as caught:
        convert.from_pickle(path)
    code = str(caught.value).partition("in a program that can read it: ")[2]
    exec(code, {"ckptstore": ckptstore, "pickle": pickle, "path": path, "directory": directory})
    assert differences(state, ckptstore.load(directory)) == []


@follows(
    "convert.pickle",
    "read each by itself, with data = open(path, 'rb').read(): from_pickle(data[:{}]), then "
    "from_pickle(data[{}:])",
)
def test_several_objects_in_one_file_are_read_as_the_error_says(tmp_path):
    data = pickle.dumps({"w": np.ones(2)}) + pickle.dumps(7)
    with pytest.raises(ckptstore.CorruptError) as caught:
        convert.from_pickle(data)
    assert caught.value.reason == "trailing-bytes"
    end = int(str(caught.value).partition("data[:")[2].partition("]")[0])
    names = {"from_pickle": convert.from_pickle, "data": data}
    assert differences({"w": np.ones(2)}, eval(f"from_pickle(data[:{end}])", names)) == []
    assert eval(f"from_pickle(data[{end}:])", names) == 7


BOMBS = {
    "a memo of 2^32 places": b"\x80\x04Nr\xff\xff\xff\x7f0.",
    "bytes of 2^60": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".",
    "text of 2^31": b"\x80\x04X\xff\xff\xff\x7f.",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "nested tuples as a key": b"\x80\x04})" + b"\x85" * 20_000 + b"Ns.",
    "tuples in tuples as a key": b"\x80\x04}K\x01" + b"2\x86" * 64 + b"Ns.",
    "copies of bytes": b"\x80\x04]"
    + b"\x8cx" * 0
    + b"B"
    + struct.pack("<I", 1 << 20)
    + bytes(1 << 20)
    + b"\x940"
    + b"cbuiltins\nbytearray\nh\x00\x85Ra" * 200
    + b".",
    "copies of sets": b"\x80\x04]("
    + b"".join(b"M" + struct.pack("<H", n) for n in range(5000))
    + b"e\x940]"
    + b"cbuiltins\nset\nh\x00\x85Ra" * 5000
    + b".",
    "an array of 2^60 elements": b"\x80\x04cnumpy.core.numeric\n_frombuffer\n(C\x01xcnumpy\ndtype\n"
    b"\x8c\x02V0\x89\x88\x87R\x8a\x08" + struct.pack("<Q", 1 << 60) + b"\x85\x8c\x01Ct\x52.",
    "an array that its bytes do not fill": b"\x80\x04cnumpy.core.numeric\n_frombuffer\n(C\x01x"
    b"cnumpy\ndtype\n\x8c\x02f8\x89\x88\x87RM\xff\xff\x85\x8c\x01CtR.",
    "a range": b"\x80\x04cbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R.",
    "zeros of bytes": b"\x80\x04cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "a list in itself is no bomb, and no stack": b"\x80\x04]\x94h\x00a0.",
    "marks": b"\x80\x04" + b"(" * 20_000 + b".",
    "nothing on the stack": b"\x80\x040.",
    "a function as a value": b"\x80\x04cnumpy\nndarray\n.",
    "a function in a list": b"\x80\x04]cnumpy\nndarray\na.",
    "an unfinished array": b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00"
    b"\x85C\x01b\x87R.",
    "a persistent id": b"\x80\x04X\x01\x00\x00\x00aQ.",
    "an extension": b"\x80\x04\x82\x01.",
    "a buffer from outside": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_forged_pickles_are_refused_in_little_memory(kind):
    tracemalloc.start()
    with pytest.raises(ckptstore.CheckpointError):
        convert.from_pickle(BOMBS[kind])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 << 20


def test_no_changed_pickle_does_more_than_give_a_value_or_an_error():
    rng = random.Random(7)
    sound = [
        pickle.dumps({name: TREE[name] for name in TREE if name != "texts"}, p) for p in PROTOCOLS
    ]
    refused = 0
    for number in range(300):
        data = sound[number % len(sound)]
        for _ in range(rng.choice([1, 1, 3])):
            data = forging.bend_bytes(data, rng)
        try:
            convert.from_pickle(data)
        except ckptstore.CheckpointError:
            refused += 1
    assert 100 < refused < 300


# npz and npy

PLAIN = {name: x for name, x in ARRAYS.items() if name not in ("bfloat16", "float8", "int4")}
"""numpy keeps only the size of other dtypes, and not that a structure is aligned."""


def test_npz_is_exact(tmp_path):
    np.savez(tmp_path / "a.npz", **PLAIN)
    np.savez_compressed(tmp_path / "b.npz", **PLAIN)
    plain = dict(np.load(tmp_path / "a.npz"))
    for name in ("a.npz", "b.npz"):
        assert differences(plain, convert.from_npz(tmp_path / name)) == []
        assert differences(plain, convert.from_npz((tmp_path / name).read_bytes())) == []
    ckptstore.save(tmp_path / "ours", convert.from_npz(tmp_path / "a.npz"))
    report = convert.to_npz(tmp_path / "c.npz", tmp_path / "ours")
    assert differences(plain, convert.from_npz(report.path)) == []


def test_npz_of_jax_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", w=jnp.arange(3), b=np.ones(2, np.float16))
    read = convert.from_npz(tmp_path / "a.npz", arrays="jax")
    assert differences({"w": jnp.arange(3), "b": jnp.ones(2, jnp.float16)}, read) == []


@pytest.mark.parametrize("name", PLAIN)
def test_npy_is_exact(name, tmp_path):
    np.save(tmp_path / "a.npy", PLAIN[name])
    theirs = np.load(tmp_path / "a.npy")
    assert differences([theirs], [convert.from_npz(tmp_path / "a.npy")]) == []
    np.testing.assert_array_equal(theirs, PLAIN[name])


def test_fields_with_other_than_ascii_names(tmp_path):
    with pytest.warns(UserWarning, match=r"format 3\.0"):
        np.save(tmp_path / "a.npy", saved := np.ones(2, [("λ", "f8")]))
    assert differences([saved], [convert.from_npz(tmp_path / "a.npy")]) == []


def test_python_objects_in_files_of_numpy_are_read_by_the_same_rules(tmp_path):
    state = {"params": {"w": np.ones(2)}, "step": 3}
    np.save(tmp_path / "a.npy", state, allow_pickle=True)
    assert differences(state, convert.from_npz(tmp_path / "a.npy")) == []
    np.savez(tmp_path / "a.npz", state=state, w=np.ones(1))
    assert (
        differences({"state": state, "w": np.ones(1)}, convert.from_npz(tmp_path / "a.npz")) == []
    )
    np.save(tmp_path / "evil.npy", {"x": Evil()}, allow_pickle=True)
    with pytest.raises(ckptstore.UnsupportedError, match="system"):
        convert.from_npz(tmp_path / "evil.npy")
    ragged = np.array([np.ones(1), "a"], object)
    np.save(tmp_path / "list.npy", ragged, allow_pickle=True)
    read = convert.from_npz(tmp_path / "list.npy")
    assert read.dtype == object and differences(ragged.tolist(), read.tolist()) == []


def record(descr, shape, data=b"", *, text=None):
    header = text or f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zipped(**parts):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name.replace("__", "."), data)
    return out.getvalue()


SOUND = record("<f8", "(2,)", bytes(16))
DAMAGED = {
    "too few bytes": record("<f8", "(1000,)"),
    "too many bytes": SOUND + b"x",
    "elements of 0 bytes": record("|V0", f"({2**60},)"),
    "a negative length": record("<f8", "(-2,)", bytes(16)),
    "a header that is code": record("", "", text="__import__('os').system('echo')"),
    "objects without a pickle": record("|O", "(2,)"),
    "a part that is no array": zipped(w__npy=SOUND, a__txt=b"x"),
    "not a file of numpy": b"x" * 100,
    "a cut zip": zipped(w__npy=SOUND)[:-30],
    "a version of the future": SOUND.replace(b"\x01\x00", b"\x09\x00", 1),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_of_numpy_are_refused(kind):
    with pytest.raises(ckptstore.CorruptError):
        convert.from_npz(DAMAGED[kind])


def test_a_changed_byte_in_an_npz_is_noticed():
    data = bytearray(zipped(w__npy=SOUND))
    data[data.index(SOUND) + len(SOUND) - 3] ^= 1
    with pytest.raises(ckptstore.CorruptError, match="CRC"):
        convert.from_npz(bytes(data))


@follows(
    "convert.npz",
    "if you trust the file and have the memory, read it with dict(numpy.load(path))",
)
def test_a_file_that_would_grow_too_much_is_read_as_the_error_says(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "_GROWTH_LEAST", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(1 << 18))
    with pytest.raises(ckptstore.CorruptError) as caught:
        convert.from_npz(path := tmp_path / "a.npz")
    assert caught.value.reason == "too-many"
    code = str(caught.value).partition("read it with ")[2]
    ckptstore.save(tmp_path / "ours", eval(code, {"numpy": np, "path": path}))
    assert differences({"w": np.zeros(1 << 18)}, ckptstore.load(tmp_path / "ours")) == []


@follows(
    "convert.pickle",
    "restore it from a copy, or check that it is the kind of file that you expect",
)
def test_a_damaged_pickle_is_read_from_a_copy():
    with pytest.raises(ckptstore.CorruptError, match="cut short"):
        convert.from_pickle((copy := pickle.dumps(TREE))[:-1])
    assert differences(TREE, convert.from_pickle(copy)) == []


def test_opcodes_that_python_writes_are_all_known():
    """No protocol of this Python writes one that would be an unknown object."""
    used = {op.name for p in PROTOCOLS for op, *_ in pickletools.genops(pickle.dumps(TREE, p))}
    assert {"STACK_GLOBAL", "GLOBAL", "MEMOIZE", "BINPUT", "PUT", "BYTEARRAY8"} <= used

"""Wrong arguments: each an error that says what, where, found, expected and what to do; and `save`
raises it before anything is written.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ckptstore
from ckptstore.format import dtypes
from tests.conformance import make_conformance as made
from tests.support.compare import differences


class Point(NamedTuple):
    x: Any
    y: Any


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class State:
    params: Any
    step: Any = 0


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    ckptstore.save(tmp_path / "saved", {"w": np.ones((2, 3), np.float32), "a": [1, 2]})
    return tmp_path / "saved"


def raised(call: Callable[[], Any], reason: str, *words: str) -> ckptstore.CheckpointError:
    """Require the error of this reason, and that its message is short and has all the words."""
    with pytest.raises(ckptstore.CheckpointError) as caught:
        call()
    assert caught.value.reason == reason, caught.value
    message = str(caught.value)
    assert len(message) < 1500
    for word in words:
        assert word in message, message
    return caught.value


def refused(tmp_path: Path, reason: str, *words: str, tree: Any = 1, **options: Any) -> None:
    """Require that `save` raises this, and that not even the directory is made."""
    place = tmp_path / "deep" / "new"
    raised(lambda: ckptstore.save(place, tree, **options), reason, *words)
    assert not (tmp_path / "deep").exists()


EVERY_CALL = {
    "save": lambda url: ckptstore.save(url, 1),
    "load": ckptstore.load,
    "inspect": ckptstore.inspect,
    "verify": ckptstore.verify,
}
HUGE = 10**5000


# --- url ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", EVERY_CALL)
@pytest.mark.parametrize(
    ("url", "reason", "word"),
    [
        (None, "bad-url", "None"),
        (5, "bad-url", "5"),
        (b"/tmp/x", "bad-url", "b'/tmp/x'"),
        ("", "bad-url", "''"),
        ("a\0b", "bad-url", "\\x00"),
        (["a"], "bad-url", "['a']"),
        (np.float32(1), "bad-url", "1.0"),
        ("~no-such-user/x", "bad-url", "~no-such-user"),
        ("file://", "bad-url", "file://"),
        ("file://elsewhere/x", "bad-url", "elsewhere"),
        ("file:/x", "bad-url", "./file:/x"),
        ("s3:/bucket/key", "bad-url", "lost a slash"),
        ("s3://", "bad-url", "no bucket"),
        ("s3:///key", "bad-url", "no bucket"),
        ("s3://key:secret@bucket/x", "bad-url", "s3://***"),
        ("gs://user@bucket/x", "bad-url", "storage_options"),
        ("s5://bucket/key", "no-such-store", "did you mean s3://"),
        ("simplecache::s3://bucket/key", "no-such-store", "chain"),
    ],
)
def test_a_bad_url_is_refused_by_every_call(
    call: str, url: Any, reason: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raised(lambda: EVERY_CALL[call](url), reason, word)
    assert list(tmp_path.iterdir()) == []


TREES = {"dict": {"w": np.ones(3)}, "tuple": (1, 2), "array": np.ones(3), "object": State(1)}
SWAPPED = {
    "save": lambda tree, place: ckptstore.save(tree, place),
    "save_async": lambda tree, place: ckptstore.save_async(tree, place),
    "load": lambda tree, place: ckptstore.load(tree, place),
    "load alone": lambda tree, _: ckptstore.load(tree),
    "inspect": lambda tree, _: ckptstore.inspect(tree),
    "Manager": lambda tree, _: ckptstore.Manager(tree),
}


@pytest.mark.follows("storage.urls", "pass a str or an os.PathLike{}")
@pytest.mark.parametrize("call", SWAPPED)
@pytest.mark.parametrize("tree", TREES)
def test_a_tree_before_the_place_is_told_to_come_after_it(
    call: str, tree: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = "out"
    error = raised(lambda: SWAPPED[call](TREES[tree], place), "bad-url", "the place comes first")
    calls = re.findall(r"(?:save|load)\([a-z, ]*\)", str(error))
    assert calls == ["save(place, tree)", "load(place)"]
    names = {"place": place, "tree": TREES[tree], "save": ckptstore.save, "load": ckptstore.load}
    eval(calls[0], names)
    assert differences(TREES[tree], eval(calls[1], names)) == []


@pytest.mark.parametrize("call", ["load", "inspect", "verify"])
def test_what_is_not_there_is_said_to_be_not_there(call: str, tmp_path: Path) -> None:
    error = raised(lambda: EVERY_CALL[call](tmp_path / "no"), "no-manifest", str(tmp_path / "no"))
    assert isinstance(error, ckptstore.NotCommittedError)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_file_where_the_directory_should_be_is_said(call: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    reason = "not-a-directory" if call == "save" else "no-manifest"
    raised(lambda: EVERY_CALL[call](tmp_path / "file"), reason, str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("options", [{"key": "x"}, 5, ["x"], {1: 2}])
def test_storage_options_of_a_local_disk_are_refused(options: Any, saved: Path) -> None:
    raised(lambda: ckptstore.load(saved, storage_options=options), "bad-options", str(saved))


# --- save -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        -1,
        2**53,
        HUGE,
        1.0,
        True,
        "7",
        [1],
        np.float64(3),
        np.bool_(1),
        np.array([1]),
        np.array(3.0),
    ],
    ids=lambda step: type(step).__name__,
)
def test_a_bad_step_is_refused_before_anything_is_written(step: Any, tmp_path: Path) -> None:
    refused(tmp_path, "bad-step", "step is", "expected an int", step=step)


@pytest.mark.parametrize(
    "metrics",
    [
        {"loss": np.ones(3)},
        {"loss": "0.5"},
        {"loss": True},
        {"loss": None},
        {"loss": 2**53},
        {"loss": HUGE},
        {1: 0.5},
        {HUGE: "x"},
        [("loss", 0.5)],
        "loss",
        5,
    ],
    ids=lambda metrics: f"{type(metrics).__name__}",
)
def test_bad_metrics_are_refused_before_anything_is_written(metrics: Any, tmp_path: Path) -> None:
    refused(tmp_path, "bad-metric", "save: metrics", metrics=metrics)


def test_metrics_are_refused_by_the_first_call_of_a_run(tmp_path: Path) -> None:
    manager = ckptstore.Manager(tmp_path / "run", every=100)
    for save in (manager.save, manager.save_async):
        with pytest.raises(ckptstore.StructureError) as caught:
            save(1, {}, metrics={"loss": np.ones(1)})
        assert caught.value.reason == "bad-metric"


def test_a_mean_of_numpy_is_a_metric(tmp_path: Path) -> None:
    manager = ckptstore.Manager(tmp_path / "run", keep=ckptstore.keep_best(1, "loss"))
    for step, loss in enumerate(([1.0, 3.0], [0.5, 0.25])):
        manager.save(step, {}, metrics={"loss": np.mean(loss)})
    assert manager.best("loss") == 1
    metrics = ckptstore.inspect(tmp_path / "run" / "step-000000000001").metrics
    assert metrics == {"loss": 0.375} and type(metrics["loss"]) is float


def test_metrics_that_do_not_fit_in_the_manifest_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "cannot-carry", "1048576", metrics={"x" * (1 << 20): 0.5})


class Own:
    def __repr__(self) -> str:
        return "x" * 10_000


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DAG: list[Any] = []
for _ in range(31):
    DAG = [DAG, DAG]


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"a": np.ones(3)}, "metadata['a']: found ndarray, expected None, bool"),
        ({"a": {"b": [0, (1,)]}}, "metadata['a']['b'][1]: found tuple"),
        ({"a": {1, 2}}, "metadata['a']: found set"),
        ({"a": np.float64(1)}, "found float64"),
        ({"a": Color.RED}, "found Color"),
        ({"a": Own()}, "found Own"),
        ({"a": 2**53}, "metadata['a']: the int is over 2^53 - 1"),
        ({"a": -HUGE}, "metadata['a']: the int is over 2^53 - 1"),
        ({1: 1}, "metadata: the key 1 is not a str"),
        ({"a": {None: 1}}, "metadata['a']: the key None is not a str"),
        ({"a": "\ud800"}, "metadata['a']: the str has a lone surrogate"),
        ({"\ud800": 1}, "metadata: the key '\\ud800' is not a str of valid Unicode"),
        ({"a": "x" * (1 << 18)}, "262144"),
        ({"a": [None] * (1 << 18)}, "262144"),
        ({"a": CYCLE}, "nested over 32 deep"),
        ({"a": DAG}, "over 262144 values"),
        ([("a", 1)], "expected a dict"),
        ("abc", "expected a dict"),
        (5, "expected a dict"),
        (Own(), "expected a dict"),
    ],
    ids=lambda x: x[:20] if isinstance(x, str) else type(x).__name__,
)
def test_bad_metadata_is_refused_before_anything_is_written(
    metadata: Any, word: str, tmp_path: Path
) -> None:
    refused(tmp_path, "metadata", "save: metadata", word, metadata=metadata)


@pytest.mark.parametrize(
    ("supplied", "word"),
    [
        ("$.f", "expected a list of patterns"),
        (b"$.f", "expected a list of patterns"),
        (5, "expected a list of patterns"),
        (["g"], "nothing in the tree is at g"),
        ([5], "5 is not a pattern"),
        ([""], "'' is not a pattern"),
        (["$["], "cannot be read from '['"),
        (["$.nothing"], "nothing in the tree is at $.nothing"),
        (["$.a"], "can be stored"),
    ],
)
def test_bad_supplied_is_refused_before_anything_is_written(
    supplied: Any, word: str, tmp_path: Path
) -> None:
    tree = {"f": len, "a": 1}
    refused(tmp_path, "bad-pattern", "supplied", word, tree=tree, supplied=supplied)


def test_all_that_cannot_be_carried_is_said_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    tree = {"f": lambda x: x, "o": np.array([object()]), "m": [os], "p": Own(), "fine": 1}
    paths = ["$['f']: a lambda", "$['o']: an array of Python", "$['m'][0]: a module", "$['p']: "]
    refused(tmp_path, "cannot-carry", *paths, tree=tree)


def test_a_tree_beyond_a_limit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(10_001):
        deep = [deep]
    refused(tmp_path, "too-deep", "10000", "flatter", tree=deep)
    key: Any = 1
    for _ in range(40):
        key = (key,)
    refused(tmp_path, "cannot-carry", "32", tree={key: 1})
    nested = np.dtype("i1")
    for _ in range(18):
        nested = np.dtype([("a", nested)])
    refused(tmp_path, "cannot-carry", "$['x']: ", "16", tree={"x": np.zeros(1, nested)})


# --- load -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", [5, None, "State", State, [5], ["State"], [[]], {"State": 5}])
def test_types_that_are_no_classes_are_refused(types: Any, saved: Path) -> None:
    raised(lambda: ckptstore.load(saved, types=types), "bad-argument", "load: types", "expected")


def test_types_by_a_name_that_is_no_str_are_refused(saved: Path) -> None:
    raised(lambda: ckptstore.load(saved, types={5: State}), "bad-argument", "5", "by stored name")  # type: ignore[dict-item]


@pytest.mark.parametrize("arrays", ["jax", "NUMPY", 5, True, [], np.ndarray])
def test_arrays_of_another_kind_are_refused(arrays: Any, saved: Path) -> None:
    raised(lambda: ckptstore.load(saved, arrays=arrays), "bad-argument", "arrays is", "'numpy'")


def test_a_cast_without_like_is_refused(saved: Path) -> None:
    raised(lambda: ckptstore.load(saved, cast=True), "bad-argument", "cast=True needs like=")


@pytest.mark.parametrize(
    ("select", "word"),
    [
        (5, "expected a pattern"),
        (b"$.a", "expected a pattern"),
        ([5], "5 is not a pattern"),
        ("", "'' is not a pattern"),
        ("$.", "cannot be read from '.'"),
        ("$[", "cannot be read from '['"),
        ("$['a", "cannot be read"),
        ("$.a]", "cannot be read from ']'"),
        ("$..a", "cannot be read from '..a'"),
        ("$$", "cannot be read from '$'"),
        ("$" + "[" * 100_000, "cannot be read"),
        ("$.a" + "['" * 10_000, "cannot be read"),
    ],
    ids=lambda x: str(x)[:12],
)
def test_a_bad_pattern_is_refused_with_its_place(select: Any, word: str, saved: Path) -> None:
    raised(lambda: ckptstore.load(saved, select=select), "bad-pattern", "select", word)


@pytest.mark.parametrize("select", ["$.nothing", ["$.a", "$.nothing"], "$.nothing.**"])
def test_a_pattern_that_matches_nothing_says_what_is_there(select: Any, saved: Path) -> None:
    words = (str(saved), ".nothing", "$['w']", "$['a']")
    raised(lambda: ckptstore.load(saved, select=select), "no-match", *words)


def test_all_differences_from_like_are_said_at_once(tmp_path: Path) -> None:
    stored = {
        "shape": np.ones((2, 3), np.float32),
        "dtype": np.ones(3, np.float32),
        "kind": [1, 2],
        "class": Point(1, 2),
        "enum": Color.RED,
        "long": [1, 2, 3],
        "array": np.ones(3),
        "gone": 1,
        "same": State(1),
    }
    ckptstore.save(tmp_path / "c", stored)
    like = {
        "shape": np.ones((2, 4), np.float32),
        "dtype": np.ones(3, np.float64),
        "kind": (1, 2),
        "class": State(1, 2),
        "enum": Point(1, 2),
        "long": [1],
        "array": 5.0,
        "new": None,
        "same": State(2),
    }
    error = raised(
        lambda: ckptstore.load(tmp_path / "c", like),
        "differs-from-like",
        str(tmp_path / "c"),
        "$['shape']: shape [2, 3] in the checkpoint, [2, 4] in `like`",
        "$['dtype']: float32 in the checkpoint, float64 in `like`",
        "cast=True",
        "$['kind']: list in the checkpoint, tuple in `like`",
        "$['class']: ",
        "$['enum']: ",
        "$['long'][1]: int in the checkpoint, not in `like`",
        "$['array']: ",
        "$['gone']: int in the checkpoint, not in `like`",
        "$['new']: ",
        "not in the checkpoint",
    )
    assert "$['same']" not in str(error)


@pytest.mark.parametrize("like", [5, [], object(), len, "x", np.ones(3), CYCLE, State])
def test_a_like_of_another_kind_is_refused(like: Any, saved: Path) -> None:
    with pytest.raises(ckptstore.StructureError):
        ckptstore.load(saved, like)


def test_a_class_that_is_not_there_any_more_is_said_with_the_remedy(tmp_path: Path) -> None:
    script = (
        "import dataclasses, ckptstore, sys\n"
        "@dataclasses.dataclass\n"
        "class Lost:\n    a: int\n"
        "@dataclasses.dataclass\n"
        "class AlsoLost:\n    a: int\n"
        "ckptstore.save(sys.argv[1], [Lost(1), AlsoLost(2)])"
    )
    path = {**os.environ, "PYTHONPATH": str(Path(ckptstore.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script, tmp_path / "c"], check=True, env=path)
    words = ("2 types", "__main__.Lost", "__main__.AlsoLost", "types=")
    raised(lambda: ckptstore.load(tmp_path / "c"), "no-such-name", *words)


# --- what depends on the machine ------------------------------------------------------------------


def place(draft: made.Draft, directory: Path) -> Path:
    directory.mkdir()
    for name, content in draft.files().items():
        (directory / name).write_bytes(content)
    return directory


def test_a_dtype_that_is_not_here_is_described_and_refused(tmp_path: Path) -> None:
    here = dtypes.describe(np.dtype(np.longdouble))
    names = [f"longdouble[{kind}]" for kind in ("x87-80", "binary128", "double-double")]
    other = next(name for name in names if name != here)
    leaf = made.L(shape=(1,), data=bytes(16))
    url = place(made.Draft(made.leaf(), [leaf], dtypes=[other]), tmp_path / "c")
    error = raised(lambda: ckptstore.load(url), "dtype-not-here", str(url), other)
    assert isinstance(error, ckptstore.UnsupportedError)
    assert ckptstore.inspect(url).leaves[0].dtype == other
    assert ckptstore.verify(url) == []


@pytest.mark.parametrize("name", [">complex32", ">bcomplex32"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_dtype_whose_values_are_misread_here_is_refused(
    name: str, inside: bool, tmp_path: Path
) -> None:
    flags = {"aligned": False, "record": False}
    field = {"name": "a", "dtype": name, "offset": 0}
    stored = {"fields": [field], "itemsize": 4, **flags} if inside else name
    leaf = made.L(shape=(1,), data=bytes.fromhex("003e00c0"))
    url = place(made.Draft(made.leaf(), [leaf], dtypes=[stored]), tmp_path / "c")
    raised(lambda: ckptstore.load(url), "dtype-not-here", str(url), name, "ml_dtypes")
    assert ckptstore.verify(url) == []


def test_a_dtype_of_a_newer_ml_dtypes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = made.L(shape=(3,), data=bytes(3))
    url = place(made.Draft(made.leaf(), [leaf], dtypes=["int4"]), tmp_path / "c")
    monkeypatch.delattr(dtypes.ml_dtypes, "int4")
    dtypes._resolve_name.cache_clear()
    try:
        raised(lambda: ckptstore.load(url), "dtype-not-here", "int4", "newer ml_dtypes")
    finally:
        dtypes._resolve_name.cache_clear()


@pytest.mark.parametrize("axes", [2, 31, 32, 33, 63, 64])
@pytest.mark.parametrize("dtype", ["int16", "complex128", "void[3]"])
def test_an_array_of_many_axes_that_is_cut_is_joined(axes: int, dtype: str, tmp_path: Path) -> None:
    shape = (3, *[1] * (axes - 2), 2)
    size = np.dtype(dtype.replace("void[3]", "V3")).itemsize
    data = bytes(range(6 * size))
    cells = [data[i * size : (i + 1) * size] for i in (0, 1, 2, 4, 3, 5)]
    cells = [cells[0], cells[1], cells[2] + cells[3], cells[4] + cells[5]]
    cuts = [[1], *[()] * (axes - 2), [1]]
    leaf = made.L(shape=shape, cuts=cuts, cells=cells)
    url = place(made.Draft(made.leaf(), [leaf], dtypes=[dtype]), tmp_path / "c")
    try:
        loaded = ckptstore.load(url)
    except ckptstore.UnsupportedError:  # numpy before 2 has 32 axes
        assert axes > 32 and np.__version__ < "2"
    else:
        assert loaded.shape == shape and loaded.tobytes() == data


# --- time and memory that grow no faster than the file --------------------------------------------


def test_a_dtype_of_many_fields_is_made_once_for_many_leaves(tmp_path: Path) -> None:
    fields = [{"name": f"f{i}", "dtype": "int8", "offset": i} for i in range(5000)]
    stored = {"fields": fields, "itemsize": 5000, "aligned": False, "record": False}
    leaves = [made.L(shape=(0,), data=b"") for _ in range(2000)]
    root = made.items(*(made.leaf(i) for i in range(2000)))
    url = place(made.Draft(root, leaves, dtypes=[stored]), tmp_path / "c")
    assert len(ckptstore.load(url)) == 2000
    texts = {id(leaf.dtype) for leaf in ckptstore.inspect(url).leaves}
    assert len(texts) == 1


def test_every_damaged_leaf_of_many_is_found_in_time(tmp_path: Path) -> None:
    ckptstore.save(tmp_path, {f"w{i}": np.full(4, i, np.int16) for i in range(1, 4001)})
    for data in tmp_path.glob("data-*"):
        data.write_bytes(bytes(data.stat().st_size))
    problems = ckptstore.verify(tmp_path)
    assert len(problems) == 4000
    assert "$['w4000']" in problems[-1].message


def test_long_paths_of_many_leaves_are_not_made_by_inspect(tmp_path: Path) -> None:
    leaves = [made.L(shape=(0,), data=b"") for _ in range(5000)]
    root = made.items(*(made.leaf(i) for i in range(5000)))
    for _ in range(100):
        root = made.entries(made.text("x" * 4096), root)
    url = place(made.Draft(root, leaves), tmp_path / "c")
    ckptstore.inspect(url)  # the paths have 2 GB

"""A reader shows what was saved: the tree, the arrays, any part of them, and all bytes once."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

import ckptstore
from ckptstore import ArrayNode, CorruptError, NotCommittedError, StructureError
from ckptstore.loading import stream
from ckptstore.storage import LocalStorage
from tests.support import cluster
from tests.support.compare import differences
from tests.support.draws import examples
from tests.support.trees import trees

follows = pytest.mark.follows


def same_bits(a: Any, b: Any) -> bool:
    return differences(np.ascontiguousarray(a), np.ascontiguousarray(b)) == []


@examples(60)
@hypothesis.given(trees)
def test_each_place_of_any_tree_is_found_by_both_forms_of_its_path(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = pathlib.Path(folder) / "c"
        ckptstore.save(url, tree)
        arrays = {leaf.path: leaf for leaf in ckptstore.inspect(url).leaves}
        with ckptstore.open_checkpoint(url) as reader:
            met = {}
            for node in reader.tree.walk():
                if isinstance(node, ArrayNode) and node.same is None:
                    met[node.path] = node
                node.value  # noqa: B018 - it can be read
                for form in (node.path, node.short):
                    try:
                        found = reader[form]
                    except StructureError as error:
                        assert error.reason in ("ambiguous", "bad-pattern"), form
                        continue
                    assert (found.path, found.kind, found.type) == (node.path, node.kind, node.type)
            assert {*met} == {*arrays}
            for path, node in met.items():
                leaf = arrays[path]
                assert (node.dtype, node.shape, node.type) == (leaf.dtype, leaf.shape, leaf.type)
                assert node.nbytes == leaf.nbytes
                assert same_bits(node.read(), ckptstore.load(url, select=path, arrays="numpy"))
            assert reader.tree.nbytes == sum(leaf.nbytes for leaf in arrays.values())
            assert reader.tree.arrays == len(arrays)
            sizes = dict.fromkeys(met, 0)
            for piece in reader.pieces():
                sizes[piece.array.path] += piece.values.size
            whole = {path: node.elements for path, node in met.items()}
            assert {p: n for p, n in sizes.items() if met[p].nbytes} == {
                p: n for p, n in whole.items() if met[p].nbytes
            }


SHAPE = (7, 5, 6)


@pytest.fixture(scope="module")
def one_array(tmp_path_factory: pytest.TempPathFactory) -> Any:
    host = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    place = tmp_path_factory.mktemp("reading") / "c"
    ckptstore.save(place, {"w": host})
    with ckptstore.open_checkpoint(place) as reader:
        yield reader["w"], host


@examples(200)
@hypothesis.given(index=hnp.basic_indices(SHAPE, allow_newaxis=False))
def test_a_part_of_an_array_is_that_of_numpy(one_array: Any, index: Any) -> None:
    array, host = one_array
    found, expected = array[index], host[index]
    assert same_bits(found, expected)
    assert np.shape(found) == np.shape(expected)


@follows(
    "reading.cutting",
    "pass ints, slices and ... inside it, or read the whole array and index that: "
    "reader[path].read()",
)
@pytest.mark.parametrize(
    "index", [7, -8, (0, 0, 0, 0), None, [1, 2], True, "a", 1.0, (..., 1, ...), slice("a")]
)
def test_an_index_that_does_not_fit_is_refused(one_array: Any, index: Any) -> None:
    array, host = one_array
    with pytest.raises(StructureError, match="does not fit an array of shape"):
        array[index]
    assert same_bits(array[-1, ::2], host[-1, ::2])
    assert same_bits(array.read()[[1, 2]], host[[1, 2]])


def test_a_part_of_an_array_in_cells_is_that_of_numpy(tmp_path: pathlib.Path) -> None:
    host = np.random.default_rng(0).standard_normal((3000, 700))

    def save(together: ckptstore.Processes) -> None:
        ckptstore.save(tmp_path / "c", {"w": host}, processes=together)

    assert cluster.threads(3, save) == [None] * 3
    with ckptstore.open_checkpoint(tmp_path / "c") as reader:
        w = reader["w"]
        assert len(w.cuts[0]) == 2
        assert same_bits(w.read(), host)
        cut = w.cuts[0][0]
        for index in (cut, slice(cut - 1, cut + 1), slice(2900, 5, -700), (..., 3), (cut - 1, -1)):
            assert same_bits(w[index], host[index])
        out = np.zeros_like(host)
        for piece in reader.pieces():
            rows = slice(*piece.box[0])
            out[rows].reshape(-1)[piece.start :][: piece.values.size] = piece.values
        assert same_bits(out, host)


@pytest.fixture
def large(tmp_path: pathlib.Path) -> tuple[pathlib.Path, Any]:
    host = np.random.default_rng(0).standard_normal((6000, 1024), np.float32)  # 24 MB
    place = tmp_path / "c"
    ckptstore.save(place, {"w": host, "n": np.arange(3)})
    return place, host


def test_some_rows_of_a_large_array_read_only_their_spans(
    large: tuple[pathlib.Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, host = large
    read = []
    get = LocalStorage.get

    def counted(self: Any, name: str, offset: int, buffer: Any) -> None:
        read.append(memoryview(buffer).nbytes)
        get(self, name, offset, buffer)

    with ckptstore.open_checkpoint(place) as reader:
        monkeypatch.setattr(LocalStorage, "get", counted)
        assert same_bits(reader["w"][0:100], host[0:100])
        assert sum(read) == reader["w"].spans[0] < host.nbytes / 4


def test_pieces_are_verified_small_and_in_file_order(large: tuple[pathlib.Path, Any]) -> None:
    place, host = large
    with ckptstore.open_checkpoint(place) as reader:
        out = np.zeros(host.size, np.float32)
        starts = []
        for piece in reader.pieces("w"):
            assert piece.values.nbytes <= stream.PIECE_NBYTES
            assert piece.box == ((0, 6000), (0, 1024))
            starts.append(piece.start)
            out[piece.start : piece.start + piece.values.size] = piece.values
    assert starts == sorted(starts) and len(starts) > 1
    assert same_bits(out.reshape(host.shape), host)


def test_a_flipped_byte_is_found_where_it_is_read_and_nowhere_else(
    large: tuple[pathlib.Path, Any],
) -> None:
    place, host = large
    with ckptstore.open_checkpoint(place) as reader:
        file = max(place.glob("data-*"), key=lambda file: file.stat().st_size)
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        assert same_bits(reader["w"][0:100], host[0:100])
        for read in (
            reader["w"].read,
            lambda: reader["w"][-1],
            lambda: list(reader.pieces()),
        ):
            with pytest.raises(CorruptError, match=r"\$\['w'\].*checksum"):
                read()


def test_a_piece_never_ends_inside_an_element(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer may cut an array of structures anywhere."""
    from ckptstore.saving import placement

    monkeypatch.setattr(placement, "SPAN_NBYTES", 1 << 20)
    host = np.zeros(500_000, [("a", "<f8"), ("b", "<u2")])  # 10 bytes
    host["b"] = np.arange(500_000)
    ckptstore.save(tmp_path / "c", {"w": host, "v": np.arange(5)})
    with ckptstore.open_checkpoint(tmp_path / "c") as reader:
        assert any(size % 10 for size in reader["w"].spans)
        found = [piece.values for piece in reader.pieces() if piece.array.short == "w"]
        assert same_bits(np.concatenate(found), host)
        assert sum(piece.values.size for piece in reader.pieces("v")) == 5


@follows("checkpoint.snapshot", "open it again, or another checkpoint")
@pytest.mark.parametrize("change", ["overwritten", "deleted"])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_reader_never_mixes_two_saves(where: str, change: str, tmp_path: pathlib.Path) -> None:
    place = str(tmp_path / "run") if where == "disk" else f"memory://reading-{change}"
    old, new = np.zeros(3_000_000), np.ones(3_000_000)
    with ckptstore.Manager(place) as manager:
        manager.save(1, {"a": old, "b": old})
        url = f"{place}/step-{1:012}"
        with ckptstore.open_checkpoint(url) as reader:
            if change == "deleted":
                manager.delete(1)
            else:
                manager.save(1, {"a": new, "b": new}, overwrite=True)
            for read in (
                reader["b"].read,
                lambda: reader["a"][5:10],
                lambda: list(reader.pieces()),
            ):
                try:
                    found = read()
                except NotCommittedError as error:
                    assert error.reason == "overwritten"
                    assert f"{change} while it was open" in str(error)
                else:
                    assert where == "disk"  # files that are open stay
                    parts = [p.values for p in found] if isinstance(found, list) else [found]
                    assert not any(part.any() for part in parts)
        if change == "overwritten":
            with ckptstore.open_checkpoint(url) as reader:
                assert reader["b"][0] == 1


@follows("reading.view", "read inside its with block")
def test_a_closed_reader_says_so(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"w": np.arange(3), "text": "x" * 1_000_000})
    with ckptstore.open_checkpoint(tmp_path / "c") as reader:
        w, text = reader["w"], reader["text"]
        assert text.is_long and text.value == "x" * 1_000_000
        assert same_bits(w.read(), np.arange(3))
    for read in (w.read, lambda: w[0], lambda: list(reader.pieces())):
        with pytest.raises(StructureError, match="the reader is closed"):
            read()


def test_one_path_is_one_place(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"a": [{"w": np.zeros(2)}, {"w": np.ones(3)}]})
    with ckptstore.open_checkpoint(tmp_path / "c") as reader:
        with pytest.raises(StructureError, match="not the path of one place"):
            reader["a.*"]
        assert [node.short for node in reader.select("a.*.w")] == ["a.0.w", "a.1.w"]
        assert [array.shape for array in reader.arrays("a.1")] == [(3,)]


def test_equal_digests_are_equal_bits(tmp_path: pathlib.Path) -> None:
    tree = {"a": np.zeros(4), "b": np.zeros(4), "c": np.zeros((2, 2)), "d": np.zeros(4, np.int64)}
    tree["e"] = np.array([0, 0, 0, -0.0])
    ckptstore.save(tmp_path / "c", tree)
    with ckptstore.open_checkpoint(tmp_path / "c") as reader:
        digests = {array.short: array.digest for array in reader.arrays()}
        assert digests["a"] == digests["b"]
        assert len({*digests.values()}) == 4


SCRIPT = """
import sys, ckptstore
with ckptstore.open_checkpoint(sys.argv[1]) as reader:
    for node in reader.tree.walk():
        node.type, node.value
    [array.read() for array in reader.arrays()], list(reader.pieces())
    assert reader["opt_state.0.count"].read() == 0
    assert "ScaleByAdamState" in reader["opt_state.0"].type
print(sorted({"jax", "optax", "torch", "flax"} & {*sys.modules}))
"""


def test_no_framework_is_imported(tmp_path: pathlib.Path) -> None:
    optax = pytest.importorskip("optax")
    import jax

    params = {"w": jax.numpy.ones((4, 4)), "key": jax.random.key(0)}
    opt_state = optax.adam(1e-3).init({"w": params["w"]})
    ckptstore.save(tmp_path / "c", {"params": params, "opt_state": opt_state})
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "c")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[]\n"


def test_values_of_all_kinds(tmp_path: pathlib.Path) -> None:
    values = {"s": slice(1, None), "r": range(0, 9, 2), "odd": slice("a", (1, 2)), "n": None}
    values |= {"i": 2**100, "f": -0.0, "c": 1j, "b": b"x", "t": "text", "e": ..., "ok": True}
    ckptstore.save(tmp_path / "c", values)
    with ckptstore.open_checkpoint(tmp_path / "c") as reader:
        found = {node.short: node.value for node in reader.tree.children}
    assert repr(found) == repr(values | {"odd": None})

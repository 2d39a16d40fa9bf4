"""DTensors of torch: their parts, and what a load makes of them, in processes one by one.

Real processes: tests/robustness/test_dtensors.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

import ckptstore
from ckptstore import CheckpointError, StructureError, convert
from ckptstore.adapters import torch_layouts
from ckptstore.adapters.torch import ADAPTER
from ckptstore.checkpoint import Snapshot, read_snapshot
from ckptstore.sharding import slices
from ckptstore.types import Leaf, Refusal
from tests.support.fake_world import dtensor, world

STRIDED = _StridedShard(0, split_factor=2)
LAYOUTS: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "rows": ((3,), [Shard(0)]),
    "columns": ((4,), [Shard(1)]),
    "copies": ((2,), [Replicate()]),
    "hsdp": ((2, 2), [Replicate(), Shard(0)]),
    "both": ((2, 2), [Shard(0), Shard(1)]),
    "fsdp and tp": ((2, 2), [STRIDED, Shard(0)]),
    "fsdp and tp, uneven": ((3, 2), [STRIDED, Shard(0)]),
    "more processes than rows": ((8,), [Shard(0)]),
}
SHAPES = [(7, 5), (1, 5), (6, 4), (0, 3)]
EACH = pytest.mark.parametrize("name", LAYOUTS)


def mesh_of(sizes: tuple[int, ...]) -> DeviceMesh:
    return init_device_mesh("cpu", sizes, mesh_dim_names=("dp", "tp")[: len(sizes)])


def whole_of(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(np.prod(shape), dtype=torch.float32).reshape(shape)


def leaf_of(x: Any) -> Leaf:
    leaf = ADAPTER.leaf(x)
    assert leaf is not None
    return leaf


@EACH
def test_all_processes_see_the_same_cells_and_each_reads_those_that_it_holds(name: str) -> None:
    sizes, placements = LAYOUTS[name]
    count = int(np.prod(sizes))
    for shape in SHAPES:
        full = whole_of(shape)
        seen: list[Any] = []
        for rank in range(count):
            with world(rank, count):
                leaf = leaf_of(dtensor(full, mesh_of(sizes), placements))
            assert leaf.grid is not None and leaf.holders is not None
            assert leaf.shape == shape and len(leaf.cells) == len(leaf.grid) == len(leaf.holders)
            seen.append((leaf.row, leaf.grid, leaf.holders))
            rows = zip(leaf.grid, leaf.cells, leaf.holders, strict=True)
            for box, cell, holders in rows:
                if rank in holders:
                    expected = full[slices(box)].contiguous().numpy().tobytes()
                    assert cell.read().tobytes() == expected
                else:
                    with pytest.raises(Refusal, match="other processes hold a part"):
                        cell.read()
        assert all(other == seen[0] for other in seen)


def test_copies_on_the_meshes_beside_are_held_by_all() -> None:
    full = whole_of((4, 3))
    for rank in range(6):
        with world(rank, 6):
            mesh = mesh_of((3, 2))
            leaf = leaf_of(dtensor(full, mesh["tp"], [Shard(0)]))
            assert leaf.holders is not None
            assert set(leaf.holders) <= {(0, 2, 4), (1, 3, 5), (0, 1, 2, 3, 4, 5)}
            assert leaf.row.extra["mesh"] == (("tp", 2),)
            flat = mesh["dp", "tp"]._flatten("all")
            assert len(leaf_of(dtensor(full, flat, [Shard(0)])).holders or ()) >= 1


def test_tied_weights_are_one_object_also_where_a_process_holds_nothing_of_them() -> None:
    for rank in range(2):
        with world(rank, 2):
            mesh = mesh_of((2,))
            x = dtensor(whole_of((1, 4)), mesh, [Shard(0)])
            same, other = x.detach(), dtensor(whole_of((1, 4)), mesh, [Shard(0)])
            assert leaf_of(x).memory == leaf_of(same).memory != leaf_of(other).memory


# A checkpoint that one process wrote, loaded by each process of a world.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A state of one process, with the marks of parameters and buffers."""
    with world(0, 1):
        mesh = mesh_of((1, 1))
        w = dtensor(whole_of((7, 5)), mesh, [Shard(0), Shard(1)])
        tree = {
            "w": w,
            "p": nn.Parameter(w),
            "frozen": nn.Parameter(w.clone(), requires_grad=False),
            "buffer": nn.Buffer(w.clone(), persistent=False),
            "int": dtensor(torch.arange(7), mesh["dp"], [Shard(0)]),
            "half": dtensor(whole_of((7, 5)).bfloat16(), mesh, [STRIDED_ONE, Shard(0)]),
            "scalar": dtensor(torch.tensor(3.5), mesh, [Replicate(), Replicate()]),
            "plain": torch.arange(3),
            "n": 7,
        }
        ckptstore.save(tmp_path / "c", tree, step=7)
        assert ckptstore.verify(tmp_path / "c") == []
        again = ckptstore.load(tmp_path / "c", like=tree)
        for name in ("w", "p", "frozen", "buffer", "int", "half", "scalar"):
            assert type(again[name]) is DTensor
            assert torch.equal(again[name].to_local(), tree[name].to_local())
            assert again[name].placements == tree[name].placements
        for one, name in ((again["p"], "p"), (again["frozen"], "frozen")):
            assert isinstance(one, nn.Parameter) and one.requires_grad is (name == "p")
        assert again["buffer"].persistent is False and not isinstance(again["w"], nn.Parameter)
    return tmp_path / "c"


STRIDED_ONE = _StridedShard(0, split_factor=1)


def test_the_file_says_minor_1_only_where_a_dtensor_is_stored(saved: Path, tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "plain", {"x": torch.ones(2), "y": np.ones(2)})
    assert (saved / "MANIFEST").read_bytes()[12:14] == b"\x01\x01"
    assert (tmp_path / "plain" / "MANIFEST").read_bytes()[12:14] == b"\x01\x00"


@EACH
def test_each_process_gets_its_part_of_the_layout_of_like_and_asks_no_other(
    saved: Path, name: str
) -> None:
    sizes, placements = LAYOUTS[name]
    count = int(np.prod(sizes))
    for rank in range(count):
        with world(rank, count):
            like = dtensor(torch.zeros(7, 5), mesh_of(sizes), placements)
            expected = dtensor(whole_of((7, 5)), mesh_of(sizes), placements)
            meta = dtensor(torch.zeros(7, 5, device="meta"), mesh_of(sizes), placements)
            for wanted in (like, meta):
                x = ckptstore.load(saved, like={"w": wanted}, select="$.w")["w"]
                assert type(x) is DTensor and x.placements == tuple(placements)
                assert (x.shape, x.dtype, x.device_mesh) == (like.shape, like.dtype, mesh_of(sizes))
                assert torch.equal(x.to_local(), expected.to_local())


def test_a_plain_tensor_in_like_takes_the_whole_and_a_dtensor_takes_a_plain_one(
    saved: Path, tmp_path: Path
) -> None:
    plain = {"w": torch.zeros(7, 5), "p": nn.Parameter(torch.zeros(7, 5))}
    for name, like in plain.items():
        x = ckptstore.load(saved, like={name: like}, select=f"$.{name}")[name]
        assert type(x) is type(like) and torch.equal(x, whole_of((7, 5)))
    ckptstore.save(tmp_path / "whole", {"w": whole_of((7, 5))})
    for rank in range(3):
        with world(rank, 3):
            like = dtensor(torch.zeros(7, 5), mesh_of((3,)), [Shard(0)])
            x = ckptstore.load(tmp_path / "whole", like={"w": like})["w"]
            expected = dtensor(whole_of((7, 5)), mesh_of((3,)), [Shard(0)])
            assert torch.equal(x.to_local(), expected.to_local())
            with pytest.raises(StructureError, match=r"\$\['w'\].*one of them is a Parameter"):
                ckptstore.load(saved, like={"w": nn.Parameter(like)}, select="$.w")
            # Other numbers, as of any leaf.
            half = dtensor(torch.zeros(7, 5, dtype=torch.float64), mesh_of((3,)), [Shard(0)])
            x = ckptstore.load(saved, like={"w": half}, select="$.w", cast=True)["w"]
            assert x.dtype == torch.float64
            assert torch.equal(x.to_local(), expected.to_local().double())


def test_a_process_outside_of_the_mesh_of_like_gets_nothing(saved: Path) -> None:
    with world(2, 3):
        mesh = DeviceMesh("cpu", [0, 1])
        like = DTensor.from_local(
            torch.zeros(0),
            mesh,
            [Shard(0)],
            run_check=False,
            shape=torch.Size((7, 5)),
            stride=(5, 1),
        )
        x = ckptstore.load(saved, like={"w": like}, select="$.w")["w"]
        assert type(x) is DTensor and x.to_local().numel() == 0


@pytest.mark.follows("adapters.torch_layouts", "pass like=, a tree of DTensors or of plain tensors")
def test_without_a_place_it_is_refused_and_each_way_that_is_named_works(saved: Path) -> None:
    with pytest.raises(StructureError) as caught:
        ckptstore.load(saved)
    assert caught.value.reason == "needs-like" and "$['w']" in str(caught.value)
    assert "(dp=1, tp=1)" in str(caught.value)
    for words in ("pass like=", "sharding=, a DeviceMesh", 'sharding="whole"', 'arrays="numpy"'):
        assert words in str(caught.value)
    whole = ckptstore.load(saved, sharding="whole")
    assert type(whole["w"]) is torch.Tensor and type(whole["p"]) is nn.Parameter
    assert whole["buffer"].persistent is False and whole["n"] == 7
    assert torch.equal(whole["half"], whole_of((7, 5)).bfloat16())
    numpy = ckptstore.load(saved, arrays="numpy")
    assert type(numpy["w"]) is np.ndarray
    np.testing.assert_array_equal(numpy["w"], whole_of((7, 5)).numpy())
    for rank in range(4):
        with world(rank, 4):
            mesh = mesh_of((2, 2))
            x = ckptstore.load(saved, sharding=mesh)
            assert x["w"].placements == (Shard(0), Shard(1))
            assert x["half"].placements == (Shard(0), Shard(0))
            assert x["int"].device_mesh == mesh["dp"] and x["int"].placements == (Shard(0),)
            expected = dtensor(whole_of((7, 5)), mesh, [Shard(0), Shard(1)])
            assert torch.equal(x["w"].to_local(), expected.to_local())
            assert isinstance(x["p"], nn.Parameter) and type(x["plain"]) is torch.Tensor
            expected = dtensor(whole_of((7, 5)).bfloat16(), mesh, [Shard(0), Shard(0)])
            assert torch.equal(x["half"].to_local(), expected.to_local())
            seen: list[Any] = []

            def place(path: str, aval: Any, mesh: Any = mesh, seen: list[Any] = seen) -> Any:
                seen.append((path, aval.is_meta, tuple(aval.shape)))
                return mesh if "w" in path else "whole"

            y = ckptstore.load(saved, sharding=place)
            assert type(y["w"]) is DTensor and type(y["int"]) is torch.Tensor
            assert ("$['w']", True, (7, 5)) in seen


@pytest.mark.parametrize(("sizes", "factor"), [((4, 2), 2), ((1, 8), 8), ((8, 1), None)])
def test_the_stored_order_of_cuts_holds_on_a_mesh_of_other_sizes(
    sizes: tuple[int, int], factor: int | None
) -> None:
    stored = {"mesh": [["dp", 2], ["tp", 2]], "placements": [[0, 2], 0]}
    with world(0, 8):
        layout = torch_layouts.on_mesh(mesh_of(sizes), stored, 2)
    first = Shard(0) if factor is None else _StridedShard(0, split_factor=factor)
    assert layout.placements == (first, Shard(0))


@pytest.mark.follows("adapters.torch_layouts", "pass like=, a tree of DTensors on your mesh")
def test_a_mesh_that_lacks_an_axis_is_refused(saved: Path) -> None:
    for names in (("dp",), ("x", "y"), None):
        with world(1, 2):
            sizes = (2,) if names != ("x", "y") else (2, 1)
            mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
            with pytest.raises(StructureError, match=r"do not fit") as caught:
                ckptstore.load(saved, sharding=mesh, select="$.w")
            assert "pass like=, a tree of DTensors on your mesh" in str(caught.value)
            like = {"w": dtensor(torch.zeros(7, 5), mesh, [Shard(0), Replicate()][: mesh.ndim])}
            x = ckptstore.load(saved, like=like, select="$.w")["w"]
            assert torch.equal(x.to_local(), whole_of((7, 5))[4:])


@pytest.mark.follows(
    "adapters.torch_layouts",
    "put DTensors of other placements into like=, and redistribute the loaded ones",
)
@pytest.mark.parametrize("wrong", ["a sum", "several boxes", "another part"])
def test_a_like_that_gives_no_box_is_refused(saved: Path, wrong: str) -> None:
    with world(0, 2):
        mesh = mesh_of((2,))
        placement = {"a sum": Partial(), "several boxes": _StridedShard(0, split_factor=3)}.get(
            wrong, Shard(0)
        )
        local = torch.zeros((7, 5) if wrong == "a sum" else (3, 5))
        like = DTensor.from_local(
            local, mesh, [placement], run_check=False, shape=torch.Size((7, 5)), stride=(5, 1)
        )
        with pytest.raises(StructureError, match="put DTensors of other placements") as caught:
            ckptstore.load(saved, like={"w": like}, select="$.w")
        assert "$['w']" in str(caught.value) and caught.value.reason == "bad-argument"
        like = dtensor(torch.zeros(7, 5), mesh, [Replicate()])
        x = ckptstore.load(saved, like={"w": like}, select="$.w")["w"]
        again = x.redistribute(placements=[Shard(0)])
        assert torch.equal(again.to_local(), whole_of((7, 5))[:4])


def test_each_process_reads_the_spans_of_its_own_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 MiB in spans of 4 MiB: each of four processes reads a quarter."""
    full = torch.arange(4 << 20, dtype=torch.float32).reshape(4096, 1024)
    ckptstore.save(tmp_path / "c", {"w": full})
    read: list[int] = []
    real = Snapshot.fill

    def fill(self: Snapshot, name: str, offset: int, buffer: Any) -> Any:
        read.append(buffer.nbytes)
        return real(self, name, offset, buffer)

    monkeypatch.setattr(Snapshot, "fill", fill)
    for rank in range(4):
        with world(rank, 4):
            like = dtensor(torch.zeros(4096, 1024), mesh_of((4,)), [Shard(0)])
            read.clear()
            x = ckptstore.load(tmp_path / "c", like={"w": like})["w"]
            assert torch.equal(x.to_local(), full[rank * 1024 : (rank + 1) * 1024])
            assert sum(read) == full.nbytes // 4, read


# What is refused.


@pytest.fixture
def two() -> Iterator[DeviceMesh]:
    with world(0, 2):
        yield mesh_of((2,))


def test_a_dtensor_keeps_the_refusals_of_other_tensors(two: DeviceMesh) -> None:
    x = dtensor(whole_of((4, 2)), two, [Shard(0)])
    with_grad = nn.Parameter(x)
    with_grad.grad = x.clone()
    computed = nn.Parameter(x) * 2
    hooked = x.clone().requires_grad_()
    hooked.register_hook(lambda grad: grad)
    marked = x.clone()
    marked.note = 1
    for bad in (with_grad, computed, hooked, marked):
        with pytest.raises(Refusal):
            ADAPTER.leaf(bad)
        assert ADAPTER.is_spread(bad)
    assert not ADAPTER.is_spread(torch.ones(2))


@pytest.mark.follows(
    "convert.export_plan",
    "save the tree with ckptstore.save in all of them, and export that checkpoint in one",
)
def test_a_part_of_a_dtensor_is_never_exported_as_the_whole(saved: Path, tmp_path: Path) -> None:
    with world(1, 2):
        tree = {"w": dtensor(whole_of((7, 5)), mesh_of((2,)), [Shard(0)])}
        for export in (convert.to_safetensors, convert.to_npz):
            with pytest.raises(StructureError, match=r"\$\['w'\]: this array lies in several"):
                export(tmp_path / "x", tree)
            assert not (tmp_path / "x").exists()
    convert.to_npz(tmp_path / "w.npz", saved, select="$.w")
    np.testing.assert_array_equal(np.load(tmp_path / "w.npz")["array"], whole_of((7, 5)).numpy())


class Marked(torch.Tensor):
    pass


@pytest.mark.follows(
    "adapters.torch_shards", "make the DTensor of x.to_local().as_subclass(torch.Tensor)"
)
def test_a_part_of_another_class_is_refused(tmp_path: Path) -> None:
    with world(0, 1):
        mesh = mesh_of((1,))
        x = DTensor.from_local(torch.ones(2).as_subclass(Marked), mesh, [Shard(0)])
        with pytest.raises(StructureError, match=r"is a .*Marked, which may hold more"):
            ckptstore.save(tmp_path / "c", {"x": x})
        plain = x.to_local().as_subclass(torch.Tensor)
        like = {"x": DTensor.from_local(plain, mesh, [Shard(0)])}
        ckptstore.save(tmp_path / "c", like)
        assert torch.equal(ckptstore.load(tmp_path / "c", like=like)["x"].to_local(), plain)


@pytest.mark.follows(
    "adapters.torch_shards",
    "save it before you call torch.distributed.destroy_process_group()",
)
def test_a_dtensor_that_outlived_its_process_group_is_refused(tmp_path: Path) -> None:
    with world(0, 1):
        x = dtensor(whole_of((4, 2)), mesh_of((1,)), [Shard(0)])
        ckptstore.save(tmp_path / "before", {"x": x})
    with pytest.raises(StructureError, match=r"\$\['x'\]: this DTensor outlived"):
        ckptstore.save(tmp_path / "after", {"x": x})
    assert torch.equal(ckptstore.load(tmp_path / "before", sharding="whole")["x"], whole_of((4, 2)))


def test_a_dtensor_of_one_process_is_saved_alone(tmp_path: Path) -> None:
    with world(0, 1):
        x = dtensor(whole_of((4, 2)), mesh_of((1,)), [Shard(0)])
        assert not ADAPTER.is_spread(x)
        place = tmp_path / "one"
        ckptstore.save(place, {"x": x})
        assert ckptstore.inspect(place).processes == 1
        ckptstore.save_async(tmp_path / "async", {"x": x}).result()
        x.to_local().zero_()
        loaded = ckptstore.load(tmp_path / "async", like={"x": x})["x"]
        assert torch.equal(loaded.to_local(), whole_of((4, 2)))


@pytest.mark.parametrize("bad", ["nope", [["dp", 0], ["tp", 1]], [["dp", True], ["tp", 1]], 5])
def test_a_forged_mesh_is_a_clear_error(saved: Path, bad: Any) -> None:
    forged(saved, mesh=bad)


@pytest.mark.parametrize("bad", [None, "x", [0], [0, -1], [0, [0, 0]], [0, 1.5], [[0], 0]])
def test_forged_placements_are_a_clear_error(saved: Path, bad: Any) -> None:
    forged(saved, placements=bad)


def test_a_stored_mesh_without_axes_goes_on_any_mesh() -> None:
    for names in (("dp",), None):
        with world(0, 2):
            mesh = init_device_mesh("cpu", (2,), mesh_dim_names=names)
            layout = torch_layouts.on_mesh(mesh, {"mesh": [], "placements": []}, 2)
            assert layout.placements == (Replicate(),) * layout.mesh.ndim


def test_errors_show_a_forged_mesh_on_one_line_and_in_part() -> None:
    axes = [["\x1b[31mred\n", 1], *([f"axis {n}", 1] for n in range(9_999))]
    extra = {"mesh": axes, "placements": [0] * 10_000}
    with world(0, 2):
        mesh = mesh_of((2,))
        with pytest.raises(Refusal, match="do not fit") as caught:
            torch_layouts.on_mesh(mesh, extra, 2)
        for text in (str(caught.value), str(torch_layouts.needs_like(extra))):
            assert text.isprintable() and "red" in text and len(text) < 1500


def test_one_array_in_several_processes_has_no_others(tmp_path: Path) -> None:
    with world(0, 2):
        x = dtensor(whole_of((4, 2)), mesh_of((2,)), [Shard(0)])
        with pytest.raises(StructureError, match=r"several processes; call save in every process"):
            ckptstore.save(tmp_path / "c", {"x": x}, processes="one")
        with pytest.raises(
            StructureError, match=r"several processes, and so do 1 other\(s\); call"
        ):
            ckptstore.save(tmp_path / "c", {"x": x, "y": x.clone()}, processes="one")


def forged(saved: Path, **entries: Any) -> None:
    """See that a row with these entries of `extra` is refused, whatever the way to load it."""
    from ckptstore import storage

    with storage.open(saved) as store:
        tree = read_snapshot(store, lambda snapshot: snapshot.tree())
    row = next(row for row in tree.types if row.name == "DTensor")
    changed = type(row)(row.kind, row.module, row.name, extra={**row.extra, **entries})
    (name,) = entries
    for place in (None, torch.device("cpu")):
        with pytest.raises(CheckpointError, match=f"the {name} of a .*DTensor is") as caught:
            ADAPTER.boxes((7, 5), changed, place)
        assert caught.value.reason == "bad-type"

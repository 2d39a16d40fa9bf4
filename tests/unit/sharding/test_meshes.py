"""The parts of a mesh: pure, and so compared with torch's own on many meshes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptstore.sharding import (
    Cut,
    Order,
    alike_meshes,
    cuts_of,
    held_cells,
    mesh_box,
    mesh_boxes,
    order_of,
    shape_of,
    slices,
    whole,
)
from tests.support.draws import examples

torch = pytest.importorskip("torch")

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@st.composite
def meshes(draw: Any, longest: int = 9) -> tuple[tuple[int, ...], list[int], Order]:
    """A shape, the sizes of a mesh, and an order in which its axes cut, or do not."""
    shape = tuple(draw(st.lists(st.integers(0, longest), min_size=1, max_size=3)))
    sizes = draw(SIZES)
    order: list[list[int]] = [[] for _ in shape]
    for axis in draw(st.permutations(range(len(sizes)))):
        along = draw(st.integers(-1, len(shape) - 1))
        if along >= 0:
            order[along].append(axis)
    return shape, sizes, tuple(map(tuple, order))


def placements(cuts: tuple[Cut, ...]) -> list[Any]:
    """Return the placements of torch."""
    from torch.distributed.tensor.placement_types import Replicate, Shard, _StridedShard

    made: list[Any] = []
    for cut in cuts:
        if cut is None:
            made.append(Replicate())
        else:
            strided = not isinstance(cut, int)
            made.append(_StridedShard(cut[0], split_factor=cut[1]) if strided else Shard(cut))
    return made


@examples(200)
@given(meshes(), st.data())
def test_a_part_is_what_torch_computes(
    mesh: tuple[tuple[int, ...], list[int], Order], data: Any
) -> None:
    from torch.distributed.tensor import _utils

    shape, sizes, _ = mesh
    cuts = tuple(data.draw(st.sampled_from([None, *range(len(shape))])) for _ in sizes)
    order = order_of(cuts, sizes, len(shape))
    assert order is not None
    for coordinate in itertools.product(*map(range, sizes)):
        box = mesh_box(shape, order, sizes, coordinate)
        there, offset = _utils._compute_local_shape_and_global_offset(
            shape, sizes, list(coordinate), placements(cuts)
        )
        assert shape_of(box) == tuple(there)
        if 0 not in there:
            assert tuple(start for start, _ in box) == tuple(offset)


@examples(200)
@given(meshes(4), st.data())
def test_a_strided_part_is_what_torch_computes_where_all_pieces_are_equal(
    mesh: tuple[tuple[int, ...], list[int], Order], data: Any
) -> None:
    from torch.distributed.tensor import _utils

    factors, sizes, order = mesh
    shape = tuple(
        max(length, 1) * math.prod(sizes[axis] for axis in axes)
        for length, axes in zip(factors, order, strict=True)
    )
    cuts = cuts_of(order, sizes)
    coordinate = [data.draw(st.integers(0, size - 1)) for size in sizes]
    there, offset = _utils._compute_local_shape_and_global_offset(
        shape, sizes, coordinate, placements(cuts)
    )
    box = mesh_box(shape, order, sizes, coordinate)
    assert (shape_of(box), tuple(start for start, _ in box)) == (tuple(there), tuple(offset))


@examples(200)
@given(meshes(), st.data())
def test_a_part_is_cut_by_one_axis_of_the_mesh_after_another(
    mesh: tuple[tuple[int, ...], list[int], Order], data: Any
) -> None:
    shape, sizes, order = mesh
    coordinate = [data.draw(st.integers(0, size - 1)) for size in sizes]
    full = torch.arange(math.prod(shape)).reshape(shape)
    part = full
    for along, axes in enumerate(order):
        for axis in axes:
            pieces = torch.chunk(part, sizes[axis], dim=along) if part.shape[along] else ()
            inside = coordinate[axis] < len(pieces)
            part = pieces[coordinate[axis]] if inside else part.narrow(along, 0, 0)
    box = mesh_box(shape, order, sizes, coordinate)
    assert torch.equal(full[slices(box)], part)


@examples(300)
@given(meshes())
def test_the_order_is_read_from_the_work_of_each_axis(
    mesh: tuple[tuple[int, ...], list[int], Order],
) -> None:
    shape, sizes, order = mesh
    found = order_of(cuts_of(order, sizes), sizes, len(shape))
    assert found is not None
    longer = [[axis for axis in axes if sizes[axis] > 1] for axes in order]
    assert [[axis for axis in axes if sizes[axis] > 1] for axes in found] == longer
    for coordinate in itertools.product(*map(range, sizes)):
        assert mesh_box(shape, found, sizes, coordinate) == mesh_box(
            shape, order, sizes, coordinate
        )


@pytest.mark.parametrize(
    ("cuts", "sizes", "ndim"),
    [([(0, 3)], [4], 1), ([(0, 2), (0, 4)], [2, 2], 1), ([1], [2], 1), ([-1], [2], 1)],
)
def test_work_that_gives_no_one_box_has_no_order(cuts: Any, sizes: list[int], ndim: int) -> None:
    assert order_of(cuts, sizes, ndim) is None


@examples(200)
@given(meshes(), st.integers(1, 3), st.sampled_from([1, 1000]))
def test_each_element_is_in_one_cell_and_its_holders_have_it(
    mesh: tuple[tuple[int, ...], list[int], Order], copies: int, least: int
) -> None:
    shape, sizes, order = mesh
    ranks = np.arange(copies * math.prod(sizes)).reshape(copies, *sizes)
    parts = mesh_boxes(shape, order, ranks)
    grid, holders = held_cells(shape, parts, 1, least)
    assert len(grid) == len(holders)
    seen = np.zeros(shape, int)
    for cell, held in zip(grid, holders, strict=True):
        seen[slices(cell)] += 1
        assert held
        for rank in held:
            own = next(box for box, ranks_ in parts.items() if rank in ranks_)
            within = zip(cell, own, strict=True)
            assert 0 in shape or all(a <= start and stop <= b for (start, stop), (a, b) in within)
    assert (seen == 1).all()
    if least == 1:
        assert {rank for held in holders for rank in held} == {
            rank for box, held in parts.items() if 0 not in shape_of(box) for rank in held
        } or 0 in shape


@examples(100)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_the_meshes_beside_a_part_of_a_mesh_are_found(sizes: list[int], data: Any) -> None:
    root = np.array(data.draw(st.permutations(range(math.prod(sizes))))).reshape(sizes)
    inner = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1)))
    outer = [axis for axis in range(len(sizes)) if axis not in inner]
    there = root.transpose([*outer, *inner]).reshape(-1, *(sizes[axis] for axis in inner))
    own = there[data.draw(st.integers(0, len(there) - 1))]
    found = alike_meshes(root, own)
    assert found is not None
    assert sorted(found.tolist()) == sorted(there.tolist())
    flat = alike_meshes(root, own.reshape(-1))  # as a mesh of which two axes were made one
    assert flat is not None and sorted(flat.tolist()) == sorted(
        there.reshape(len(there), -1).tolist()
    )


def test_a_mesh_that_is_not_of_whole_axes_has_none_beside_it() -> None:
    root = np.arange(8).reshape(2, 4)
    assert alike_meshes(root, [0, 1]) is None
    assert alike_meshes(root, [0, 5]) is None
    assert alike_meshes(root, [8]) is None
    assert alike_meshes(root, [3]) is not None


def test_an_array_without_elements_has_one_cell_that_all_hold() -> None:
    parts = mesh_boxes((0, 4), ((), (0,)), np.arange(2).reshape(1, 2))
    assert held_cells((0, 4), parts, 4, 1)[1] == ((0, 1),)
    assert mesh_boxes((), (), np.arange(3).reshape(3, 1)) == {whole(()): {0, 1, 2}}

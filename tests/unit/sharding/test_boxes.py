"""Boxes and grids: pure functions, held against numpy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ckptstore.sharding import (
    Box,
    Grid,
    grid_of,
    joined,
    offset_of,
    overlap,
    runs,
    shape_of,
    slices,
    whole,
)
from tests.support.grids import grids

sides = st.tuples(st.integers(0, 5), st.integers(1, 5)).map(lambda p: (p[0], p[0] + p[1]))
some_boxes = st.lists(sides, max_size=4).map(tuple)


def numbered(box: Box) -> Any:
    return np.arange(math.prod(shape_of(box))).reshape(shape_of(box))


@given(some_boxes, st.data())
def test_the_runs_of_a_box_are_its_elements_in_order(box: Box, data: st.DataObject) -> None:
    elements = numbered(box)
    start = data.draw(st.integers(0, elements.size))
    stop = data.draw(st.integers(start, elements.size))
    parts = list(runs(box, start, stop))
    found = [n for part in parts for n in elements[slices(part, box)].ravel().tolist()]
    assert found == list(range(start, stop))
    assert len(parts) <= 2 * len(box) + 1


@given(st.integers(0, 3), st.data())
def test_an_overlap_is_what_both_boxes_hold(ndim: int, data: st.DataObject) -> None:
    one, other = (tuple(data.draw(sides) for _ in range(ndim)) for _ in range(2))
    count = np.zeros((11,) * ndim, int)
    count[slices(one)] += 1
    count[slices(other)] += 1
    expected = np.zeros_like(count)
    if (shared := overlap(one, other)) is not None:
        expected[slices(shared)] = 1
        assert min(shape_of(shared), default=1) > 0
    assert ((count == 2) == expected).all()


@given(some_boxes, st.data())
def test_an_offset_says_where_a_part_lies_in_one_run(box: Box, data: st.DataObject) -> None:
    part = tuple(data.draw(sides) for _ in box)
    inside = all(first <= a < b <= last for (a, b), (first, last) in zip(part, box, strict=True))
    offset = offset_of(part, box)
    if not inside:
        assert offset is None
        return
    elements = numbered(box)[slices(part, box)].ravel()
    is_run = (np.diff(elements) == 1).all()
    assert offset == (int(elements[0]) if is_run else None)


@given(grids())
def test_each_element_is_in_one_cell(grid: Grid) -> None:
    count = np.zeros(grid.shape, int)
    cells = list(grid)
    for cell in cells:
        count[slices(cell)] += 1
    assert (count == 1).all() and len(cells) == len(grid)
    assert cells == sorted(cells), "the last axis is the fastest"


@given(grids())
def test_the_grid_of_boxes_is_the_coarsest_that_keeps_them(grid: Grid) -> None:
    assert grid_of(grid.shape, [*grid, *grid, whole(grid.shape)]) == grid


@example(Grid((5,), ((1, 2, 3, 4),)), 1, 2)
@given(grids(), st.sampled_from([1, 4, 8]), st.integers(0, 3000))
def test_joined_cells_are_unions_and_large_enough(grid: Grid, itemsize: int, least: int) -> None:
    found = joined(grid, itemsize, least)
    assert found.shape == grid.shape
    for new, old in zip(found.cuts, grid.cuts, strict=True):
        assert set(new) <= set(old)
    nbytes = math.prod(grid.shape) * itemsize
    assert len(found) == 1 or nbytes / len(found) >= least
    if nbytes / len(grid) >= least:
        assert found == grid


def test_an_array_of_no_elements_is_not_cut() -> None:
    assert grid_of((0, 8), [((0, 0), (0, 4)), ((0, 0), (4, 8))]) == Grid.uncut((0, 8))


@given(some_boxes)
def test_the_overlap_with_oneself_is_oneself(box: Box) -> None:
    assume(box)
    assert overlap(box, box) == box


def test_the_cells_of_a_grid_are_found_by_number_and_by_box() -> None:
    grid = Grid((7, 5, 4), ((2, 3), (), (1, 3)))
    cells = [*grid]
    assert [grid.cell(number) for number in range(len(grid))] == cells
    spans = [[(a, b) for a in range(n + 1) for b in range(a, n + 1)] for n in grid.shape]
    for box in itertools.product(*spans):
        near = [n for n, cell in enumerate(cells) if overlap(cell, box) is not None]
        assert grid.within(box) == near
    assert Grid.uncut(()).within(()) == [0] and Grid.uncut(()).cell(0) == ()

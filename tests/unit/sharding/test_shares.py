"""The shares of several processes: pure, and so tested on many grids."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptstore.sharding import Grid, Held, joined_alike, shape_of, share_out
from tests.support.draws import examples

SHAPES = [(), (1,), (7,), (64,), (1, 1, 9), (8, 6), (0, 3), (1, 1)]


@st.composite
def held(draw: Any) -> Held:
    shape = draw(st.sampled_from(SHAPES))
    cuts = tuple(
        tuple(sorted(draw(st.sets(st.integers(1, n - 1), max_size=3)))) if n > 1 else ()
        for n in shape
    )
    grid = Grid(shape, cuts if math.prod(shape) else ((),) * len(shape))
    members = st.sets(st.integers(0, 4), min_size=1).map(lambda s: tuple(sorted(s)))
    return Held(grid, tuple(draw(members) for _ in grid), draw(st.sampled_from([1, 4])))


@examples(300)
@given(st.lists(held(), max_size=6), st.sampled_from([1, 8, 64]))
def test_each_byte_is_written_once_by_one_that_holds_it(arrays: list[Held], least: int) -> None:
    shares = share_out(arrays, least)
    assert len(shares) == len(arrays)
    for array, share in zip(arrays, shares, strict=True):
        assert len(share.writers) == len(share.grid)
        assert share.grid.shape == array.grid.shape
        holder_at = np.full(array.grid.shape, -1, object)
        for box, holders in zip(array.grid, array.holders, strict=True):
            holder_at[tuple(slice(*side) for side in box)] = frozenset(holders)
        for box, writer in zip(share.grid, share.writers, strict=True):
            part = holder_at[(*(slice(*side) for side in box), ...)]
            assert all(writer in holders for holders in part.flat)
        if len(array.grid) > 1:
            assert share.grid == array.grid
        else:
            sizes = [math.prod(shape_of(box)) * array.itemsize for box in share.grid]
            assert len(sizes) == 1 or min(sizes) >= least


@examples(200)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.integers(2, 9))
def test_processes_that_hold_the_same_write_as_many_bytes(lengths: list[int], count: int) -> None:
    arrays = [Held(Grid.uncut((n, 4)), (tuple(range(count)),), 4) for n in lengths]
    written = [0] * count
    for share in share_out(arrays, least=1):
        for box, writer in zip(share.grid, share.writers, strict=True):
            written[writer] += math.prod(shape_of(box)) * 4
    assert sum(written) == sum(lengths) * 16
    assert max(written) - min(written) <= 2 * 16 + 2  # a row on each side


def test_a_large_replicated_array_is_cut_evenly() -> None:
    shares = share_out([Held(Grid.uncut((1, 1000, 10)), ((0, 1, 2, 3),), 4)], least=1)
    assert shares[0].grid.cuts == ((), (250, 500, 750), ())
    assert shares[0].writers == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_cuts_between_cells_of_other_holders_stay(seed: int) -> None:
    random = np.random.default_rng(seed)
    grid = Grid((12, 12), ((3, 6, 9), (4, 8)))
    holders = [tuple(sorted(set(random.integers(0, 2, 2).tolist()))) for _ in grid]
    joined, kept = joined_alike(grid, holders)
    assert len(joined) == len(kept) <= len(grid)
    before = dict(zip(grid, holders, strict=True))
    for box, held_by in zip(joined, kept, strict=True):
        inside = [
            cell
            for cell in grid
            if all(a <= c and d <= b for (a, b), (c, d) in zip(box, cell, strict=True))
        ]
        assert {before[cell] for cell in inside} == {held_by}
        assert sum(math.prod(shape_of(cell)) for cell in inside) == math.prod(shape_of(box))


def test_cells_of_one_process_are_joined() -> None:
    grid = Grid((8, 8), ((2, 4, 6), (4,)))
    rows = [(row // 2,) for row, _ in itertools.product(range(4), range(2))]
    assert joined_alike(grid, rows) == (Grid((8, 8), ((4,), ())), ((0,), (1,)))


def test_small_arrays_of_all_processes_are_written_by_few() -> None:
    """Who reads them all finds them in as many files; the writers are spread."""
    array = Held(Grid.uncut((100,)), (tuple(range(64)),), 1)
    shares = share_out([array] * 40, least=1000)
    writers = [writer for share in shares for writer in share.writers]
    assert sorted(set(writers)) == [0, 16, 32, 48]
    assert [writers.count(writer) for writer in (0, 16, 32, 48)] == [10] * 4
    assert [len(share.writers) for share in shares] == [1] * 40
    (alone,) = share_out([array], least=1000)
    assert alone.writers == [0]

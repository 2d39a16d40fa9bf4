"""The wanted boxes of a leaf, whatever grid and spans it is stored in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ckptstore.loading.assembly import Assembly, Parts
from ckptstore.sharding import Box, Grid, shape_of, slices, whole
from tests.support.grids import grids


@st.composite
def boxes_of(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Box]:
    """Boxes as devices hold them: they may share elements, and leave some out."""

    def box() -> Box:
        ends = (sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape)
        return tuple((low, high) for low, high in ends)

    return list(dict.fromkeys(box() for _ in range(draw(st.integers(1, 4)))))


def spans_of(draw: Any, nbytes: int) -> list[tuple[int, int]]:
    """Cut the bytes of a cell anywhere, also inside an element."""
    cuts = sorted(draw(st.sets(st.integers(1, nbytes - 1), max_size=4))) if nbytes > 1 else []
    return list(zip([0, *cuts], [*cuts, nbytes], strict=True))


@given(grids(), st.sampled_from(["u1", "<u2", "<u4", "V3", "<c16"]), st.data())
def test_each_wanted_box_gets_its_elements_from_the_spans_that_it_needs(
    grid: Grid, dtype: str, data: st.DataObject
) -> None:
    itemsize = np.dtype(dtype).itemsize
    count = math.prod(grid.shape) * itemsize
    raw = np.random.default_rng(0).integers(0, 256, count).astype(np.uint8)
    array = raw.view(np.dtype((np.void, itemsize))).reshape(grid.shape)
    wanted = data.draw(st.none() | boxes_of(grid.shape))
    parts = Parts(grid, itemsize, wanted)
    assembly = Assembly(parts)
    read = 0
    for number, cell in enumerate(grid):
        stored = np.frombuffer(array[slices(cell)].tobytes(), np.uint8)
        for start, stop in data.draw(st.permutations(spans_of(data.draw, stored.size))):
            assert assembly.missing >= 0
            if not parts.wants(number, start, stop - start):
                continue
            read += stop - start
            memory = assembly.memory(number, start, stop - start)
            if memory is None:
                assembly.spread(number, start, stored[start:stop])
            else:
                memory[:] = stored[start:stop]
                assembly.missing -= stop - start
    assert assembly.missing == 0
    expected = [whole(grid.shape)] if wanted is None else wanted
    for box, buffer in zip(expected, assembly.buffers, strict=True):
        assert buffer.tobytes() == array[slices(box)].tobytes()
        assert buffer.__array_interface__["data"][0] % 64 == 0
    if wanted is None:
        assert read == count


def test_a_cell_that_is_a_box_is_read_into_its_memory() -> None:
    grid = Grid((4, 6), ((2,), (3,)))
    assembly = Assembly(Parts(grid, 4, list(grid)))
    for number, cell in enumerate(grid):
        memory = assembly.memory(number, 0, math.prod(shape_of(cell)) * 4)
        assert memory is not None and np.shares_memory(memory, assembly.buffers[number])


def test_a_span_beside_the_wanted_box_is_not_wanted() -> None:
    parts = Parts(Grid.uncut((8, 100)), 1, [((2, 4), (0, 100))])
    assert [parts.wants(0, start, 100) for start in range(0, 800, 100)] == [
        False, False, True, True, False, False, False, False,
    ]  # fmt: skip

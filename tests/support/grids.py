"""Grids of arrays, for tests that try many."""

from __future__ import annotations

from hypothesis import strategies as st

from ckptstore.sharding import Grid


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=4)))
    cuts = [
        sorted(draw(st.sets(st.integers(1, n - 1), max_size=3))) if n > 1 else [] for n in shape
    ]
    return Grid(shape, tuple(map(tuple, cuts)))

"""Boxes of arrays: the grids that leaves are cut into, and the parts of them that devices hold.

Everything here is a pure function of shapes and positions. It knows no framework and no file.
"""

from ckptstore.sharding.boxes import Box, offset_of, overlap, runs, shape_of, slices, whole
from ckptstore.sharding.grid import Grid, grid_of, joined

__all__ = [
    "Box",
    "Grid",
    "grid_of",
    "joined",
    "offset_of",
    "overlap",
    "runs",
    "shape_of",
    "slices",
    "whole",
]

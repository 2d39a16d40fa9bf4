"""Boxes of arrays: the grids that leaves are cut into, and the parts of them that devices hold.

Everything here is a pure function of shapes and positions. It knows no framework and no file.
"""

from ckptstore.sharding.boxes import Box, offset_of, overlap, runs, shape_of, slices, whole
from ckptstore.sharding.grid import Grid, grid_of, joined
from ckptstore.sharding.shares import Held, Holders, Shared, joined_alike, share_out

__all__ = [
    "Box",
    "Grid",
    "Held",
    "Holders",
    "Shared",
    "grid_of",
    "joined",
    "joined_alike",
    "offset_of",
    "overlap",
    "runs",
    "shape_of",
    "share_out",
    "slices",
    "whole",
]

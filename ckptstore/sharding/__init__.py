"""Boxes of arrays: the grids that leaves are cut into, and the parts of them that devices hold.

Everything here is a pure function of shapes and positions. It knows no framework and no file.
"""

from ckptstore.sharding.boxes import Box, offset_of, overlap, runs, shape_of, slices, whole
from ckptstore.sharding.grid import Grid, grid_of, joined
from ckptstore.sharding.meshes import (
    Cut,
    Order,
    Ranks,
    alike_meshes,
    cuts_of,
    mesh_box,
    mesh_boxes,
    order_of,
)
from ckptstore.sharding.shares import Held, Holders, Shared, held_cells, joined_alike, share_out

__all__ = [
    "Box",
    "Cut",
    "Grid",
    "Held",
    "Holders",
    "Order",
    "Ranks",
    "Shared",
    "alike_meshes",
    "cuts_of",
    "grid_of",
    "held_cells",
    "joined",
    "joined_alike",
    "mesh_box",
    "mesh_boxes",
    "offset_of",
    "order_of",
    "overlap",
    "runs",
    "shape_of",
    "share_out",
    "slices",
    "whole",
]

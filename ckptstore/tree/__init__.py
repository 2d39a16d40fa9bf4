"""Conversion between trees of Python objects and the flat table of nodes in a checkpoint.

`flatten` turns objects into a `LiveTree`, an index holds a `StoredTree`, and `unflatten` builds the
objects of either. Open to other wings: `paths`, `patterns`, and `leaves` for arrays.
"""

from ckptstore.tree.arrangement import extracted, joined
from ckptstore.tree.comparison import Target, compare
from ckptstore.tree.differences import differs_from_like, key_text, number_hint
from ckptstore.tree.filling import fill
from ckptstore.tree.flattening import flatten
from ckptstore.tree.live import LiveTree
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.outline import Outline, outline_of
from ckptstore.tree.own_values import PerProcess, own_records, resolved, within
from ckptstore.tree.records import with_path
from ckptstore.tree.scalars import SCALAR_KINDS, SCALAR_TYPES
from ckptstore.tree.selection import (
    is_one_place,
    named_as_today,
    paired,
    patterns_of,
    select,
)
from ckptstore.tree.separation import separate
from ckptstore.tree.stored import StoredTree
from ckptstore.tree.unflattening import unflatten

__all__ = [
    "SCALAR_KINDS",
    "SCALAR_TYPES",
    "LiveTree",
    "NodeTable",
    "Outline",
    "PerProcess",
    "StoredTree",
    "Target",
    "compare",
    "differs_from_like",
    "extracted",
    "fill",
    "flatten",
    "is_one_place",
    "joined",
    "key_text",
    "named_as_today",
    "number_hint",
    "outline_of",
    "own_records",
    "paired",
    "patterns_of",
    "resolved",
    "select",
    "separate",
    "unflatten",
    "with_path",
    "within",
]

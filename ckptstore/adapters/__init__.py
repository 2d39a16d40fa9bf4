"""Adapters: one module for each framework, and the names that authors of further adapters need.

Guide: docs/adapters.md.
"""

from __future__ import annotations

from ckptstore.format import TypeKind, TypeRow
from ckptstore.format.array_bytes import to_bytes
from ckptstore.format.dtypes import describe as describe_dtype
from ckptstore.sharding import Grid
from ckptstore.types import Adapter, Cell, Child, Leaf, Migration, Record, Refusal

__all__ = [
    "Adapter",
    "Cell",
    "Child",
    "Grid",
    "Leaf",
    "Migration",
    "Record",
    "Refusal",
    "TypeKind",
    "TypeRow",
    "describe_dtype",
    "to_bytes",
]

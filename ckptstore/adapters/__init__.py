"""Adapters: one module for each framework, and the names that authors of further adapters need.

Guide: docs/adapters.md.

Example:
    >>> from ckptstore.adapters import Adapter, Migration
    >>> class RingAdapter(Adapter):
    ...     modules = ("ringlib.states",)
    ...     migrations = {"ringlib.states.RingState": [Migration(renamed={"lr": "scale"})]}
    >>> ADAPTER = RingAdapter()  # its entry point: ringlib = "ringlib.checkpoint:ADAPTER"
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


def __dir__() -> list[str]:
    """Return the public names only, so that completion hides internal modules."""
    return __all__

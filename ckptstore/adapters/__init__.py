"""Adapters: one module for each framework, and the names that authors of further adapters need.

Guide: docs/adapters.md.
"""

from __future__ import annotations

from ckptstore.format import TypeKind, TypeRow
from ckptstore.format.array_bytes import to_bytes
from ckptstore.format.dtypes import describe as describe_dtype
from ckptstore.types import Adapter, Child, Leaf, Migration, Record, Refusal

__all__ = [
    "Adapter",
    "Child",
    "Leaf",
    "Migration",
    "Record",
    "Refusal",
    "TypeKind",
    "TypeRow",
    "describe_dtype",
    "to_bytes",
]

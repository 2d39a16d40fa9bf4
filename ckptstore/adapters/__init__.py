"""Adapters: one module for each framework, and what the author of another one needs.

Guide: docs/adapters.md.
"""

from __future__ import annotations

from ckptstore.dtypes import describe as describe_dtype
from ckptstore.elements import to_bytes
from ckptstore.index import TypeKind, TypeRow
from ckptstore.migrations import Migration
from ckptstore.registry import Adapter, Child, Leaf, Record, Refusal

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

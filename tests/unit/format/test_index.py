"""The tables of an index, encoded."""

from __future__ import annotations

import types

import numpy as np

from ckptstore.format import Index, Leaves, Nodes, Spans, TypeKind, TypeRow, encode_index

_NONE = np.zeros(0, np.int64)


def index_of(row: TypeRow) -> Index:
    nodes = Nodes(_NONE, _NONE, _NONE, _NONE, _NONE, b"")
    leaves = Leaves(_NONE, _NONE, _NONE, _NONE, _NONE, _NONE)
    return Index([row], [], nodes, leaves, Spans(_NONE, _NONE, _NONE, _NONE, _NONE, []))


def test_a_row_may_hold_any_mapping_and_any_sequence_of_names() -> None:
    plain = TypeRow(TypeKind.OBJECT, "a", "B", fields=("x", "y"), extra={"weak": True})
    other = TypeRow(
        "object",
        "a",
        "B",
        fields=["x", "y"],  # type: ignore[arg-type]
        extra=types.MappingProxyType({"weak": True}),
    )
    assert encode_index(index_of(other)) == encode_index(index_of(plain))

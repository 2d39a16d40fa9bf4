"""The tables of an index, encoded."""

from __future__ import annotations

import types

import numpy as np
import pytest

from ckptstore.format import Index, Leaves, Nodes, Spans, TypeKind, TypeRow, encode_index, wire

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


def test_digests_in_a_column_are_a_sequence() -> None:
    rows = [bytes([n]) * 16 for n in range(5)]
    digests = wire.unpack_digests(b"".join(rows), 5, "digests")
    assert digests == rows and [*digests] == rows and len(digests) == 5
    assert digests[-1] == rows[-1] and digests[1:3] == rows[1:3]
    assert digests != rows[:4] and repr(digests) == repr(rows)
    assert digests.taken(np.array([4, 0, 4])) == [rows[4], rows[0], rows[4]]
    assert wire.pack_digests(digests) == wire.pack_digests(rows)
    with pytest.raises(IndexError):
        digests[5]

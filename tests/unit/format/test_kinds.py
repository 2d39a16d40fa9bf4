"""Every kind of node is known to the checks of an index."""

from __future__ import annotations

from ckptstore.format import DICT_KINDS, Kind
from ckptstore.format.validate import _FIXED_ARITY


def test_each_kind_has_a_number_of_children_or_may_have_any() -> None:
    any_arity = {Kind.LIST, Kind.TUPLE, *DICT_KINDS, Kind.SET, Kind.FROZENSET, Kind.RECORD}
    assert set(_FIXED_ARITY) == set(Kind) - any_arity

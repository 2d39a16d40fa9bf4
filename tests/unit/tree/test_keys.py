"""Keys and items of sets: the work for them is bounded by their nodes, and their order is fixed."""

from __future__ import annotations

import enum
import itertools
import random
import struct
from pathlib import Path
from typing import Any

import pytest

import ckptstore
from ckptstore import CorruptError, StructureError
from ckptstore.format import Kind
from ckptstore.tree import ordering
from ckptstore.types import Refusal, is_crowd, refuse_unfit
from tests.conformance.make_conformance import N, bare, integer, nested


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


def _order_of_0_1(item: Any) -> tuple[str, bytes]:
    """Return the key by which ckptstore 0.1 sorted the items of a set."""
    if type(item) in (tuple, frozenset):
        parts = item if type(item) is tuple else sorted(item, key=_order_of_0_1)
        return type(item).__qualname__, repr([_order_of_0_1(part) for part in parts]).encode()
    if isinstance(item, enum.Enum):
        return type(item).__qualname__, repr(item._name_).encode()
    if type(item) in (float, complex):
        return type(item).__qualname__, struct.pack("<dd", complex(item).real, complex(item).imag)
    if type(item) is int:
        nbytes = (item if item >= 0 else ~item).bit_length() // 8 + 1 if item else 0
        return "int", item.to_bytes(nbytes, "little", signed=True)
    return type(item).__qualname__, repr(item).encode("utf-8", "surrogatepass")


SCALARS = [0, 1, -1, 2**70, 255, True, None, ..., 1.5, -0.0, 2j, Color.RED, Color.BLUE, b"", b"'"]
SCALARS += ["", "a", "it's", '"q"', "\\", "ü\n", "\ud800", b"\x00\\", "x" * 300]


def _value(source: random.Random, depth: int) -> Any:
    if not depth or source.random() < 0.6:
        return source.choice(SCALARS)
    items = [_value(source, depth - 1) for _ in range(source.randrange(4))]
    return tuple(items) if source.random() < 0.6 else frozenset(items)


def test_the_items_of_a_set_keep_the_order_of_0_1_so_that_the_bytes_stay_the_same() -> None:
    source = random.Random(0)
    for _ in range(1000):
        items = frozenset(_value(source, 4) for _ in range(source.randrange(8)))
        assert ordering.in_order(items) == sorted(items, key=_order_of_0_1)


def _deep(levels: int, container: Any, bottom: Any) -> Any:
    x = bottom
    for _ in range(levels):
        x = container((x,))
    return x


@pytest.mark.parametrize("container", [tuple, frozenset])
def test_items_nested_to_the_limit_are_saved_at_once_and_in_an_order_of_their_values(
    container: Any, tmp_path: Path
) -> None:
    items = [_deep(30, container, (n, "it's")) for n in range(50)]
    tree = {"s": set(items), "f": frozenset(items), items[0]: {"d": {items[1]: 1}}}
    orders = [ordering.in_order(order) for order in (items, reversed(items))]
    assert orders[0] == orders[1]
    ckptstore.save(tmp_path / "c", tree)
    assert ckptstore.load(tmp_path / "c") == tree
    assert ckptstore.load(tmp_path / "c", like=tree) == tree
    assert ckptstore.load(tmp_path / "c", select="$['s']") == tree["s"]


def test_a_key_that_holds_one_object_again_and_again_is_refused_by_path(tmp_path: Path) -> None:
    x: Any = frozenset({1})
    for _ in range(15):
        x = frozenset({x, (x,)})
    for tree in ({"a": {x}}, {"a": {x: 1}}, {"a": frozenset({(x, 1)})}):
        with pytest.raises(StructureError, match="make them flatter") as caught:
            ckptstore.save(tmp_path / "c", tree)
        assert str(caught.value).startswith("$['a']: ")
    ckptstore.save(tmp_path / "c", {"a": {tuple([("a", "b")] * 1000): 1}})


def test_a_key_twice_is_reported_at_once_however_deep_it_is(tmp_path: Path) -> None:
    for kind in (Kind.TUPLE, Kind.FROZENSET):
        one, two = (nested(kind, 31, integer(1)) for _ in range(2))
        draft = bare(N(Kind.DICT, children=[one, integer(1), two, integer(2)]))
        for name, data in draft.files().items():
            (tmp_path / name).write_bytes(data)
        with pytest.raises(CorruptError, match="stands twice") as caught:
            ckptstore.load(tmp_path)
        assert caught.value.reason == "duplicate-key"
        assert len(str(caught.value)) < 500


def test_equal_hashes_inside_equal_hashes_do_not_multiply() -> None:
    pairs = list(itertools.product((-1, -2), repeat=6))  # -1 and -2 have one hash
    assert len({hash(pair) for pair in pairs}) == 1
    refuse_unfit(pairs)
    sets = [frozenset(pairs[n:] + pairs[:n]) - {pairs[n]} for n in range(3)]
    assert len({hash(x) for x in sets}) == 1
    with pytest.raises(Refusal, match="the same hash"):
        refuse_unfit(sets)
    assert is_crowd(sets)
    assert not is_crowd(sets[:1])

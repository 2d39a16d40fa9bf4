"""The work of a load is bounded by the nodes of the file, however often they share their parts.

Python's containers may be shared at no cost. A record whose class copies or hashes its parts may
not: 30 pairs inside one another, each of one object twice, have 2^30 ends.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import haiku
import jax
import pytest

import ckptstore
from ckptstore import CorruptError, StructureError
from ckptstore.types import Child, Record, find_adapter


def _shared(levels: int, container: Any = tuple) -> Any:
    x = container([None])
    for _ in range(levels):
        x = container([x, x])
    return x


def _unmade(children: Sequence[Any]) -> Any:
    """Let a save pass, which tries the `make` of a record."""


def _forged(package: str, name: str, values: Sequence[Any]) -> Child:
    """Return a record of these children, whatever its class would take."""
    adapter = find_adapter(package)
    assert adapter is not None
    record = next(r for r in adapter.records.values() if str(r.row) == name)
    return Child(object(), Record(record.row, lambda x: values, _unmade, check=_unmade))


@pytest.mark.parametrize("arrays", [None, "numpy"])
@pytest.mark.parametrize(
    ("package", "name", "values"),
    [
        ("jax", "jax.sharding.PartitionSpec", [_shared(60), frozenset(), frozenset()]),
        ("jax", "jax.sharding.PartitionSpec", [(_shared(60),), frozenset(), frozenset()]),
        ("haiku", "haiku._src.data_structures.FlatMap", [{"a": _shared(60)}]),
        ("haiku", "haiku._src.data_structures.FlatMap", [{"a": _shared(60, list)}]),
    ],
)
def test_a_load_takes_no_more_steps_for_parts_that_are_shared_than_for_nodes(
    package: str, name: str, values: Sequence[Any], arrays: Any, tmp_path: Path
) -> None:
    ckptstore.save(tmp_path / "c", {"x": _forged(package, name, values)})
    with pytest.raises(CorruptError, match="would read more than 64 parts") as caught:
        ckptstore.load(tmp_path / "c", arrays=arrays)
    assert caught.value.reason == "too-many"
    assert len(str(caught.value)) < 1000


MANY = list(range(2000))
ALL = tuple(MANY)
NAMED = {str(n): n for n in MANY}


@pytest.mark.parametrize(
    ("package", "name", "values"),
    [
        ("builtins", "collections.deque", [MANY, None]),
        ("builtins", "collections.Counter", [NAMED]),
        ("builtins", "argparse.Namespace", [NAMED]),
        ("builtins", "types.SimpleNamespace", [NAMED]),
        ("jax", "jax.tree_util.Partial", [len, ALL, {}]),
        ("jax", "jax.tree_util.Partial", [len, (), NAMED]),
        ("torch", "torch.Size", [ALL]),
        ("haiku", "haiku._src.base.PRNGSequence", [None, ALL]),
    ],
)
def test_records_that_copy_one_shared_container_do_not_take_memory_each(
    package: str, name: str, values: Sequence[Any], tmp_path: Path
) -> None:
    if values[0] is len:
        values = [jax.numpy.tanh, *values[1:]]
    tree = [_forged(package, name, values) for _ in range(1000)]
    ckptstore.save(tmp_path / "c", tree)
    with pytest.raises(CorruptError, match="would read more than 64 parts"):
        ckptstore.load(tmp_path / "c")


def test_records_that_keep_a_shared_container_may_share_it_a_thousand_times(tmp_path: Path) -> None:
    partials = [functools.partial(jax.numpy.tanh) for _ in range(1000)]
    for partial in partials:
        partial.__setstate__((jax.numpy.tanh, ALL, NAMED, None))  # type: ignore[attr-defined]
    ckptstore.save(tmp_path / "c", partials)
    loaded = ckptstore.load(tmp_path / "c")
    assert loaded[0].keywords is loaded[999].keywords


def test_a_flatmap_that_shares_its_parts_often_is_refused_before_it_is_saved(
    tmp_path: Path,
) -> None:
    flat = haiku.data_structures.to_immutable_dict({"a": _shared(17, list)})
    with pytest.raises(StructureError, match="copies of the parts") as caught:
        ckptstore.save(tmp_path / "c", {"x": flat})
    assert str(caught.value).startswith("$['x']")
    copied = haiku.data_structures.to_immutable_dict({"a": [[[None] * 9] * 9] * 9})
    ckptstore.save(tmp_path / "c", {"x": copied})
    assert ckptstore.load(tmp_path / "c")["x"] == copied

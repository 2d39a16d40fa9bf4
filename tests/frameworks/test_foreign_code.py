"""No method of a class that a file names runs in `load` before its object could be built.

A file may put an instance of any plain class that is imported into any field of any record. Each
record of each adapter is tried with classes whose every special method notes that it ran.
"""

from __future__ import annotations

import enum
import functools
import importlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import pytest
import torch

import ckptstore
from ckptstore import CheckpointError
from ckptstore.types import Child, Record, find_adapter
from tests.support import hostile

PACKAGES = (
    "numpy",
    "jax",
    "flax",
    "equinox",
    "haiku",
    "torch",
    "builtins",
    "ml_collections",
    "omegaconf",
)


def _records() -> Iterator[Record]:
    seen: set[str] = set()
    for package in PACKAGES:
        adapter = find_adapter(package)
        assert adapter is not None
        for record in adapter.records.values():
            if str(record.row) not in seen:
                seen.add(str(record.row))
                yield record
    nnx: Any = importlib.import_module("flax.nnx")
    flax = find_adapter("flax")
    assert flax is not None
    from ckptstore.adapters import numpy_random

    yield from numpy_random.RECORDS.values()
    for cls in (nnx.State, nnx.Param, nnx.statelib.FlatState):
        record = flax.record(cls)
        assert record is not None
        yield record


RECORDS = {str(record.row): record for record in _records()}

CONFIGS = "ml_collections.config_dict.config_dict"

# Values that a field may have in a genuine file, to get past the checks of the other fields.
GENUINE: dict[str, Sequence[Any]] = {
    "numpy.ma.MaskedArray": [np.arange(2), np.array([True, False]), np.array(3), True],
    "jax.tree_util.Partial": [np.add, (1,), {"k": 2}],
    "jax.sharding.PartitionSpec": [("x", None), frozenset(), frozenset()],
    "jax.ShapeDtypeStruct": [(2,), np.dtype("f4"), False],
    "functools.partial": [np.add, (1,), {"k": 2}],
    "collections.Counter": [{"a": 1}],
    "collections.OrderedDict with attributes": [OrderedDict(a=1), {"b": 1}],
    "collections.deque": [[1], 3],
    "builtins.dict with objects as keys": [{"a": 1, "b": 2}, {"a": np.int64(1)}],
    "builtins.set of objects": [[np.int64(1), "a"]],
    "builtins.frozenset of objects": [[np.int64(1), ("a", np.int8(2))]],
    "pathlib.PosixPath": ["a"],
    "pathlib.PurePosixPath": ["a"],
    "argparse.Namespace": [{"a": 1}],
    "types.SimpleNamespace": [{"a": 1}],
    "omegaconf.dictconfig.DictConfig": [{"a": 1}, {"readonly": True}, True, True],
    "omegaconf.listconfig.ListConfig": [[1], {"readonly": True}, True, True],
    f"{CONFIGS}.ConfigDict": [{"a": 1}, {"locked": True}],
    f"{CONFIGS}.FrozenConfigDict": [{"a": 1}, {"locked": True}, ml_collections.ConfigDict()],
    f"{CONFIGS}.FieldReference": [1, "int", False],
    "decimal.Decimal": ["0.1"],
    "fractions.Fraction": [1, 2],
    "uuid.UUID": [1, "unknown"],
    "ipaddress.IPv4Address": ["1.2.3.4"],
    "zoneinfo.ZoneInfo": ["UTC"],
    "random.Random": [np.zeros(624, np.uint32), 1, None],
    "numpy.random.PCG64": [
        np.random.SeedSequence(1),
        {"state": {"state": 1, "inc": 1}, "has_uint32": 0, "uinteger": 0},
    ],
    "numpy.random.SFC64": [
        np.random.SeedSequence(1),
        {"state": {"state": np.zeros(4, np.uint64)}, "has_uint32": 0, "uinteger": 0},
    ],
    "numpy.random.SeedSequence": [1, (), 4, 0],
    "numpy.random.Generator": [np.random.PCG64(1)],
    "numpy.random.RandomState": [np.random.PCG64(1), 0, 0.0],
    "torch.Generator": ["cpu", torch.Generator().get_state()],
    "datetime.time": [0, 0, 0, 0, 0, None],
    "datetime.date": [2020, 1, 1],
    "datetime.datetime": [2020, 1, 1, 0, 0, 0, 0, 0, None],
    "datetime.timedelta": [1, 1, 1],
    "torch.Size": [(1, 2)],
    "torch.device": ["cpu"],
    "flax.core.frozen_dict.FrozenDict": [{"a": 1}],
    "flax.nnx.statelib.State": [{"a": 1}],
    "flax.nnx.statelib.FlatState": [(("a",),), [1]],
    "flax.nnx.variablelib.Param": [1, {"m": 1}],
    "equinox.nn._stateful.State": [{"a": 1}],
    "haiku._src.data_structures.FlatMap": [{"a": {"b": 1}}],
    "haiku._src.base.PRNGSequence": [np.arange(2), ()],
}


def _around(value: Any, canary: Any) -> Iterator[Any]:
    """Yield the values of a field in which the canary stands in each possible place."""
    yield canary
    yield [canary]
    yield (canary, (canary,))
    yield {"k": canary}
    if isinstance(canary, enum.Enum):
        yield {canary: 1, type(canary)(2): 2}
        yield {(canary, 1): {canary: 1}, (type(canary)(2), 1): 2}
        yield frozenset({canary, type(canary)(2)})
        yield (canary, type(canary)(2))
    if type(value) is dict:
        yield {**value, "canary": canary}
        yield {**value, "canary": [canary, (canary,)]}


@pytest.mark.parametrize("canary_name", list(hostile.CANARIES))
@pytest.mark.parametrize("name", RECORDS)
def test_no_adapter_runs_a_method_of_an_object_in_a_record(
    name: str, canary_name: str, tmp_path: Path
) -> None:
    canary = hostile.CANARIES[canary_name]
    record = RECORDS[name]
    genuine = GENUINE.get(name, [None] * len(record.row.fields))
    forged: dict[str, Child] = {}
    for number, value in enumerate(genuine):
        for wrong in _around(value, canary):
            values = [*genuine[:number], wrong, *genuine[number + 1 :]]
            take = functools.partial(_taken, values)
            forged[str(len(forged))] = Child(
                object(), Record(record.row, take, _unmade, check=_unmade)
            )
    ckptstore.save(tmp_path / "c", forged)
    for place in forged:
        with hostile.listening():
            try:
                ckptstore.load(tmp_path / "c", select=f"$['{place}']")
            except CheckpointError as error:
                assert len(str(error)) < 1000
        assert hostile.RAN == []


def _unmade(children: Sequence[Any]) -> Any:
    """Let a save pass, which tries the `make` of a record."""


def _taken(values: Sequence[Any], x: Any) -> Sequence[Any]:
    return values


@pytest.mark.parametrize("name", sorted(GENUINE))
def test_the_genuine_values_of_these_tests_do_load(name: str, tmp_path: Path) -> None:
    record = RECORDS[name]
    forged = Record(record.row, lambda x: GENUINE[name], _unmade, check=_unmade)
    ckptstore.save(tmp_path / "c", Child(object(), forged))
    ckptstore.load(tmp_path / "c")


def test_no_migration_of_optax_runs_a_method_of_an_object_in_a_state(tmp_path: Path) -> None:
    optax = find_adapter("optax")
    assert optax is not None
    for name, steps in optax.migrations.items():
        for step in steps:
            for make in step.added.values():
                for canary in hostile.CANARIES.values():
                    if callable(make):
                        fields = ["cooldown_counter", "best_loss", "value"]
                        with hostile.listening(), pytest.raises(TypeError):
                            make(dict.fromkeys(fields, canary))
                    assert hostile.RAN == [], name


class Watching(enum.Enum):
    ONE = 1

    def __getattribute__(self, name: str) -> Any:
        hostile.ran(f"__getattribute__ {name}")
        return enum.Enum.__getattribute__(self, name)


def test_an_enum_that_hashes_by_an_attribute_of_its_own_code_is_not_made() -> None:
    from ckptstore.format import TypeKind
    from ckptstore.types import Unsafe, check_safe

    with pytest.raises(Unsafe, match="__getattribute__"):
        check_safe(Watching, TypeKind.ENUM)

"""Flax: FrozenDict, and the modules of the dataclasses of linen and its training loops.

The classes of `flax.struct` (PyTreeNode, TrainState, Partitioned) are plain dataclasses.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen
from flax.core import FrozenDict

from ckptstore.format import TypeRow
from ckptstore.types import Adapter, Record, Refusal, object_row


class FlaxAdapter(Adapter):
    """The adapter of flax."""

    modules = (
        "flax.training.dynamic_scale",
        "flax.training.early_stopping",
        "flax.training.train_state",
    )

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """FrozenDict."""
        row = object_row("flax.core.frozen_dict.FrozenDict", "mapping", wraps=True)
        return {FrozenDict: Record(row, _take_frozen, _make_frozen, check=_check_frozen)}

    def record(self, cls: type) -> Record | None:
        """Take a FrozenDict and the states of nnx apart; refuse modules."""
        if issubclass(cls, linen.Module):
            raise Refusal(
                f"the linen module {cls.__qualname__} is code and holds no state; keep it out of "
                "the tree, or in a field of flax.struct with pytree_node=False, which `like` fills"
            )
        record = super().record(cls)
        if record is None and "flax.nnx" in sys.modules:  # importing it is slow
            from ckptstore.adapters import flax_nnx

            record = flax_nnx.record(cls)
        return record

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the record for a FrozenDict, or for a state or variable of nnx."""
        if row.module.startswith("flax.nnx."):
            from ckptstore.adapters import flax_nnx

            return flax_nnx.record_named(row)
        return super().record_named(row)


def _take_frozen(x: Any) -> Sequence[Any]:
    return (x._dict,)  # x.unfreeze() would copy, and x['a'] makes a new FrozenDict each time


def _check_frozen(values: Sequence[Any]) -> None:
    (mapping,) = values
    if type(mapping) is not dict:
        raise TypeError("a FrozenDict is made from a dict")


def _make_frozen(values: Sequence[Any]) -> Any:
    _check_frozen(values)
    (mapping,) = values
    frozen: Any = object.__new__(FrozenDict)
    frozen._dict, frozen._hash = mapping, None
    return frozen


ADAPTER = FlaxAdapter()

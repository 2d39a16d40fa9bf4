"""Flax: FrozenDict, and where the dataclasses of linen and its training loops are.

What `flax.struct` makes (PyTreeNode, TrainState, Partitioned) is a plain dataclass.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from flax import linen
from flax.core import FrozenDict

from ckptstore.format import TypeKind, TypeRow
from ckptstore.types import Adapter, Record, Refusal, package_version


class FlaxAdapter(Adapter):
    """The adapter of flax."""

    modules = (
        "flax.training.dynamic_scale",
        "flax.training.early_stopping",
        "flax.training.train_state",
    )

    def record(self, cls: type) -> Record | None:
        """Take a FrozenDict apart; refuse modules."""
        if issubclass(cls, linen.Module):
            raise Refusal(
                f"the linen module {cls.__qualname__} is code and holds no state; keep it out of "
                "the tree, or in a field of flax.struct with pytree_node=False, which `like` fills"
            )
        if cls is FrozenDict:
            return _FROZEN_DICT
        return _nnx().record(cls) if "flax.nnx" in sys.modules else None

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the same for the stored name."""
        if str(row) == str(_FROZEN_DICT.row):
            return _FROZEN_DICT
        return _nnx().record_named(row) if row.module.startswith("flax.nnx.") else None


def _nnx() -> Any:
    """Return what knows nnx; importing nnx takes long, and many who use linen never do."""
    return importlib.import_module("ckptstore.adapters.flax_nnx")


def _take_frozen(x: Any) -> Sequence[Any]:
    return (x._dict,)  # as it is: x.unfreeze() copies, and x['a'] makes a new FrozenDict each time


def _make_frozen(values: Sequence[Any]) -> Any:
    (mapping,) = values
    if type(mapping) is not dict:
        raise TypeError("a FrozenDict is made of a dict")
    made: Any = object.__new__(FrozenDict)
    made._dict, made._hash = mapping, None
    return made


_FROZEN_DICT = Record(
    TypeRow(
        TypeKind.OBJECT,
        "flax.core.frozen_dict",
        "FrozenDict",
        fields=("mapping",),
        package="flax",
        version=package_version("flax"),
        extra={"wraps": True},
    ),
    _take_frozen,
    _make_frozen,
)

ADAPTER = FlaxAdapter()

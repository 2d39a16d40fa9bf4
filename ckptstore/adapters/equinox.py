"""Equinox: Modules, and State with its indices.

A Module is a dataclass whose metaclass and `__setattr__` only check its construction; instances are
made without either.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import equinox
from equinox.nn import State, StateIndex

from ckptstore.format import TypeKind
from ckptstore.types import Adapter, Record, Refusal, class_row, fields_of, object_row, record_of


class EquinoxAdapter(Adapter):
    """The adapter of equinox."""

    modules = ("equinox",)
    harmless = (type(equinox.Module), equinox.Module.__setattr__)

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """State, and the node that `eqx.nn.Shared` puts into a shared place."""
        records = {State: Record(object_row(State, "state", wraps=True), _take_state, _make_state)}
        if hasattr(equinox.nn, "Shared"):
            node = equinox.nn._shared.SharedNode
            make = functools.partial(object.__new__, node)
            records[node] = Record(object_row(node), lambda x: (), lambda values: make())
        return records

    @functools.cached_property
    def symbols(self) -> Mapping[str, Any]:
        """The functions that a layer of `equinox.nn` holds by itself."""
        functions = {
            "equinox.nn.MLP.final_activation": vars(equinox.nn._mlp).get("_identity"),
            "equinox.nn.WeightNorm.norm": vars(equinox.nn._weight_norm).get("_norm_except_axis"),
        }
        return {name: value for name, value in functions.items() if value is not None}

    def record(self, cls: type) -> Record | None:
        """Take apart StateIndex, and the classes of `records`."""
        if cls is StateIndex:  # stored by its fields, as a dataclass
            return Record(_index_record().row, _take_index, _index_record().make)
        return super().record(cls)


@functools.cache
def _index_record() -> Record:
    fields = fields_of(StateIndex, TypeKind.DATACLASS)
    row = class_row(StateIndex, TypeKind.DATACLASS, fields)
    return record_of(StateIndex, row)


def _take_index(x: Any) -> Sequence[Any]:
    _refuse_unnamed(x.marker)
    return _index_record().take(x)


def _refuse_unnamed(marker: Any) -> None:
    if type(marker) is object:
        raise Refusal(
            "this index of a State has no name that survives the process; make the model and its "
            "State by eqx.nn.make_with_state(Model)(...)"
        )


def _take_state(x: Any) -> Sequence[Any]:
    attributes = dict(vars(x))
    state = attributes.pop("_state", None)
    if attributes:
        raise Refusal(f"this State has the attribute {next(iter(attributes))!r}; delete it")
    if type(state) is not dict:
        raise Refusal("this State was replaced by state.set or state.update; save the new one")
    for marker in state:
        _refuse_unnamed(marker)
    return (state,)


def _make_state(values: Sequence[Any]) -> Any:
    (state,) = values
    if type(state) is not dict:
        raise TypeError("a State is made from a dict")
    new: Any = object.__new__(State)
    new._state = state
    return new


ADAPTER = EquinoxAdapter()

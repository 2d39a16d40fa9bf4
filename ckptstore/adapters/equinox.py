"""Equinox: Modules, and State with its indices.

A Module is a dataclass whose metaclass and `__setattr__` only watch its construction; instances are
made without either.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import equinox
from equinox.nn import State, StateIndex

from ckptstore.format import TypeKind, TypeRow
from ckptstore.types import Adapter, Record, Refusal, class_row, fields_of, object_row, record_of

_Shared = getattr(equinox.nn, "Shared", None)


class EquinoxAdapter(Adapter):
    """The adapter of equinox."""

    modules = ("equinox",)
    harmless = (type(equinox.Module), equinox.Module.__setattr__)

    def record(self, cls: type) -> Record | None:
        """Take apart State, StateIndex and what `eqx.nn.Shared` leaves in a shared place."""
        if cls is StateIndex:
            return Record(_index_record().row, _take_index, _index_record().make)
        return _RECORDS.get(cls)

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the same for a stored name."""
        return next((r for r in _RECORDS.values() if str(r.row) == str(row)), None)

    def symbol(self, x: Any) -> str | None:
        """Return the name of a function that a layer of `equinox.nn` holds by itself."""
        return next((name for name, value in _symbols().items() if value is x), None)

    def symbol_named(self, name: str) -> Any:
        """Return what has that name."""
        return _symbols()[name]


@functools.cache
def _symbols() -> dict[str, Any]:
    found = {
        "equinox.nn.MLP.final_activation": vars(equinox.nn._mlp).get("_identity"),
        "equinox.nn.WeightNorm.norm": vars(equinox.nn._weight_norm).get("_norm_except_axis"),
    }
    return {name: value for name, value in found.items() if value is not None}


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
            "this index of a State has no name that outlives the process; make the model and its "
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
        raise TypeError("a State is made of a dict")
    made: Any = object.__new__(State)
    made._state = state
    return made


_RECORDS: dict[type, Record] = {
    State: Record(object_row(State, "state", wraps=True), _take_state, _make_state)
}
if _Shared is not None:
    _NODE = equinox.nn._shared.SharedNode
    _RECORDS[_NODE] = Record(
        object_row(_NODE),
        lambda x: (),
        lambda values: object.__new__(_NODE),
    )

ADAPTER = EquinoxAdapter()

"""Stand-ins, which `load(arrays="numpy")` returns for types that are not installed.

A host that only reads arrays needs neither jax nor the training script. A stand-in is a NamedTuple
of the stored name and fields; it is never used without ``arrays="numpy"``.
"""

from __future__ import annotations

import collections
import keyword
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ckptstore.errors import Reason
from ckptstore.format import TypeKind, TypeRow
from ckptstore.types.registry import find_adapter

_NOT_HERE = frozenset(
    {Reason.NOT_INSTALLED, Reason.MODULE_NOT_IMPORTED, Reason.NO_SUCH_NAME, Reason.NEEDS_TYPES}
)


class Symbol(NamedTuple):
    """A function or scalar type of a framework that is not installed, by its public name.

    Example:
        >>> Symbol("jax.numpy.tanh").name
        'jax.numpy.tanh'
    """

    name: str


class Supplied(NamedTuple):
    """A mark for a value that is not stored. Only stand-ins hold it, never the class itself.

    Example:
        >>> Supplied("a function").name
        'a function'
    """

    name: str


@dataclass(frozen=True, slots=True)
class StandIn:
    """Makes the stand-ins of one stored type.

    Attributes:
        make: returns a stand-in from the children of an instance.

    Example:
        >>> StandIn(tuple).make([1, 2])
        (1, 2)
    """

    make: Callable[[Sequence[Any]], Any]


def may_stand_in(row: TypeRow, reason: str) -> bool:
    """Return whether a stand-in may replace a type, because it is missing.

    An unsafe or changed type stays an error.

    Args:
        row: a stored type.
        reason: the reason code of the error for its class.

    Example:
        >>> row = TypeRow(TypeKind.DATACLASS, "project", "State", fields=("step",))
        >>> may_stand_in(row, Reason.MODULE_NOT_IMPORTED), may_stand_in(row, Reason.UNSAFE_CLASS)
        (True, False)
    """
    if reason == Reason.UNKNOWN_OBJECT:
        return find_adapter(row.module) is None
    return reason in _NOT_HERE


def stand_in(row: TypeRow) -> StandIn:
    """Return the maker of the stand-ins for a stored type.

    A record has its fields, a pytree ``static`` and ``children``, an enum ``name`` and ``value``.

    Example:
        >>> row = TypeRow(TypeKind.DATACLASS, "project", "State", fields=("step", "loss"))
        >>> stand_in(row).make([3, 0.5])
        State(step=3, loss=0.5)
    """
    if row.kind == TypeKind.ENUM:
        fields: Sequence[str] = ("name", "value")
    elif row.kind == TypeKind.PYTREE:
        fields = ("static", "children")
    else:
        fields = row.fields
    name = row.name.rpartition(".")[2]
    namedtuple = collections.namedtuple(  # type: ignore[misc]
        name if name.isidentifier() and not keyword.iskeyword(name) else "StandIn",
        [unicodedata.normalize("NFKC", field) for field in fields],  # as Python reads names
        rename=True,
        module=__name__,
    )
    cls: Any = namedtuple
    if row.kind == TypeKind.PYTREE:
        return StandIn(lambda values: cls(values[0], tuple(values[1:])))
    return StandIn(lambda values: cls(*values))

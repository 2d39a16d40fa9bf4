"""`Record`, by which an adapter takes the instances of a class apart, and `Child`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ckptstore.format import TypeRow


@dataclass(frozen=True, slots=True)
class Record:
    """The conversion of the instances of one class to children and back.

    Attributes:
        row: the type. The children of a ``pytree`` are its static part and its content; the
            children of every other kind are the fields.
        take: returns the children of an instance; raises Refusal.
        make: returns an instance from its children. Without a `check`, a save calls it, too, for
            the first instance of the class whose fields have such types, to find out whether the
            load will succeed; so it must not change the children.
        check: raises if `make` would raise. A save calls it for each instance, and not `make`.
        unused: the numbers of children for fields that the class no longer has.
        reads: how far `make` looks into the children: not at all (it keeps them, or looks at their
            types), at the ``"items"`` of each, at these and all that is below the ``"last"`` child,
            or at ``"everything"`` below. A file may let many records share one child, so `load`
            bounds the sum of this work.

    Example:
        >>> import fractions
        >>> from ckptstore.adapters import Record, TypeKind, TypeRow
        >>> row = TypeRow(TypeKind.OBJECT, "fractions", "Fraction", fields=("above", "below"))
        >>> record = Record(row, lambda x: x.as_integer_ratio(), lambda xs: fractions.Fraction(*xs))
        >>> record.take(fractions.Fraction(2, 6)), record.make((1, 3))
        ((1, 3), Fraction(1, 3))
    """

    row: TypeRow
    take: Callable[[Any], Sequence[Any]]
    make: Callable[[Sequence[Any]], Any]
    unused: frozenset[int] = frozenset()
    check: Callable[[Sequence[Any]], None] | None = None
    reads: Literal["children", "items", "last", "everything"] = "children"


@dataclass(frozen=True, slots=True)
class Child:
    """A child of `Record.take` that is not stored in the usual way of its class.

    Attributes:
        value: the child.
        record: the record that takes the child apart; None for a child that `like` supplies if it
            cannot be saved.

    Example:
        >>> from ckptstore.adapters import Child
        >>> Child(len).record is None  # stored if possible, else supplied by `like`
        True
    """

    value: Any
    record: Record | None = None

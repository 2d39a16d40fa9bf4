"""Built-in scalar types as values (a ``dtype=float`` in a config), and functools.partial."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ckptstore.index import TypeKind, TypeRow
from ckptstore.registry import Adapter, Record, Refusal

_TYPES = {f"builtins.{t.__name__}": t for t in (bool, int, float, complex, str, bytes)}


class PythonAdapter(Adapter):
    """The adapter of the packages `builtins` and `functools`."""

    def record(self, cls: type) -> Record | None:
        """Take a functools.partial apart."""
        return _PARTIAL if cls is functools.partial else None

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the same for the stored name."""
        return _PARTIAL if str(row) == str(_PARTIAL.row) else None

    def symbol(self, x: Any) -> str | None:
        """Return the name of a built-in scalar type."""
        return next((name for name, t in _TYPES.items() if t is x), None)

    def symbol_named(self, name: str) -> Any:
        """Return the built-in scalar type of that name."""
        return _TYPES[name]


def _take_partial(x: Any) -> Sequence[Any]:
    if x.__dict__:
        raise Refusal(f"this partial has the attribute {next(iter(x.__dict__))!r}; delete it")
    return (x.func, x.args, x.keywords)


def _make_partial(values: Sequence[Any]) -> Any:
    function, args, keywords = values
    if type(args) is not tuple or type(keywords) is not dict or type(function) is functools.partial:
        raise TypeError("its fields are of other types")
    made: Any = functools.partial(function)  # which calls nothing
    made.__setstate__((function, args, keywords, None))  # these very objects, not copies
    return made


_PARTIAL = Record(
    TypeRow(TypeKind.OBJECT, "functools", "partial", fields=("func", "args", "keywords")),
    _take_partial,
    _make_partial,
)

ADAPTER = PythonAdapter()

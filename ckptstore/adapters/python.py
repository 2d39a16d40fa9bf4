"""Built-in scalar types as values (a ``dtype=float`` in a config). Nothing else is published."""

from __future__ import annotations

from typing import Any

from ckptstore.registry import Adapter

_TYPES = {f"builtins.{t.__name__}": t for t in (bool, int, float, complex, str, bytes)}


class PythonAdapter(Adapter):
    """The adapter of the package `builtins`."""

    def symbol(self, x: Any) -> str | None:
        """Return the name of a built-in scalar type."""
        return next((name for name, t in _TYPES.items() if t is x), None)

    def symbol_named(self, name: str) -> Any:
        """Return the built-in scalar type of that name."""
        return _TYPES[name]


ADAPTER = PythonAdapter()

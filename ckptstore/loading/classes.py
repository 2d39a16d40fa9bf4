"""The classes that a caller of `load` passes, by their stored names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptstore.errors import bad_argument
from ckptstore.types import stored_name


def by_name(types: Iterable[type] | Mapping[str, type]) -> dict[str, type]:
    """Return the classes of ``types=`` by stored name."""
    expected = "classes in a list, or in a dict by stored name"
    if isinstance(types, Mapping):
        pairs = list(types.items())
    elif isinstance(types, Iterable) and not isinstance(types, str | type):
        pairs = [("", cls) for cls in types]
    else:
        raise bad_argument("load", "types", types, expected)
    for number, (name, cls) in enumerate(pairs):
        if not isinstance(cls, type) or not isinstance(name, str):
            raise bad_argument(
                "load", f"types[{name or number!r:.80}]", cls, f"a class; types= takes {expected}"
            )
    by_name: dict[str, type] = {}
    for name, cls in pairs:
        name = name or stored_name(cls)
        if by_name.setdefault(name, cls) is not cls:
            raise bad_argument("load", "types", types, f"not two classes for {name}")
    return by_name

"""Plain forms of Python's own objects that cannot be saved themselves."""

from __future__ import annotations

import array
import collections
import types
from collections.abc import Sequence
from typing import Any

_FORMS: Sequence[tuple[type, str]] = (
    (types.MappingProxyType, "dict"),
    (collections.UserDict, "dict"),
    (collections.ChainMap, "dict"),
    (collections.UserList, "list"),
    (type({}.keys()), "list"),
    (type({}.values()), "list"),
    (type({}.items()), "list"),
    (collections.UserString, "str"),
    (array.array, "numpy.array"),
)


def plain_form(x: Any, name: str) -> str | None:
    """Return the expression that makes an object which can be saved, or None.

    Args:
        x: an object.
        name: the expression for `x`.

    Example:
        >>> plain_form(memoryview(b"weights"), "x"), plain_form(b"weights", "x")
        ('bytes(x)', None)
    """
    function = next((made for cls, made in _FORMS if type(x) is cls), None)
    if type(x) is memoryview:
        try:
            function = "bytes" if (x.format, x.ndim) == ("B", 1) else "numpy.array"
        except ValueError:  # it was released
            return None
    return f"{function}({name})" if function else None

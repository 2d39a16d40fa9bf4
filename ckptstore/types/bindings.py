"""Names of classes in imported modules: the object of a name, and the name of a class.

A name is looked up through ``vars(module)`` and class ``__dict__``s, never by `getattr`, and only
in modules that are already imported. Spec: section 5.1.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from ckptstore.types.fields import (
    MISSING,
    class_dict,
    fields_of,
    kind_of,
    module_of,
    qualname_of,
)


def locate(module: str, name: str) -> Any:
    """Return the object that has a name in an imported module, or None; runs no code.

    Example:
        >>> import collections
        >>> locate("collections", "deque"), locate("collections", "deck")
        (<class 'collections.deque'>, None)
    """
    value: Any = sys.modules.get(module)
    if not isinstance(value, types.ModuleType):
        return None
    scope: Mapping[str, Any] = object.__getattribute__(value, "__dict__")
    for part in name.split("."):
        value = scope.get(part, MISSING)
        if value is MISSING:
            return None
        if issubclass(type(value), type):  # isinstance could run code of `value`
            scope = class_dict(value)
        else:
            scope = {}
    return value


def locate_dotted(name: str) -> Any:
    """Return the object of the name ``module.qualname``, or None; imports nothing."""
    module = name
    while (module := module.rpartition(".")[0]) and module not in sys.modules:
        pass
    return locate(module, name.removeprefix(f"{module}."))


def binding_of(cls: type) -> str | None:
    """Return the name of a class in its module, if its own name differs or is missing."""
    return next((name for name, value in _bound(cls) if value is cls), None)


def class_of_today(cls: type) -> type:
    """Return the class that has taken the place of a class, or the class itself.

    A notebook cell that is run again defines its classes anew, and so does a reload of a module.
    The new class has the name of the old one, which no name of the module leads to any more. It is
    of the same kind, with the same fields or members.

    Example:
        >>> import fractions
        >>> class_of_today(fractions.Fraction) is fractions.Fraction
        True
    """
    module, name = module_of(cls), qualname_of(cls)
    today = locate(module, name)
    if today is cls or "<locals>" in name or not issubclass(type(today), type):
        return cls
    same = _shape(today) == _shape(cls)
    if not same or binding_of(cls) is not None or _is_inside_a_class(cls):
        return cls
    found: type = today
    return found


def is_defined_again(cls: type) -> bool:
    """Return whether another class has the place of a class, by the same definition, later."""
    module, name = module_of(cls), qualname_of(cls)
    today = locate(module, name)
    if today is cls or not issubclass(type(today), type):
        return False
    return bool((module_of(today), qualname_of(today)) == (module, name))


def _shape(cls: type) -> tuple[Any, ...]:
    """Return the part that two definitions of one class have in common."""
    kind = kind_of(cls)
    names: Any = fields_of(cls, kind) if kind is not None else ()
    if issubclass(cls, enum.Enum):
        names = tuple(class_dict(cls)["_member_map_"])
    return module_of(cls), qualname_of(cls), kind, names


def _is_inside_a_class(cls: type) -> bool:
    """Return whether a class of its module holds it."""
    holders = [value for _, value in _bound(cls) if issubclass(type(value), type)]
    return any(cls is value for holder in holders for value in list(class_dict(holder).values()))


def _bound(cls: type) -> Iterator[tuple[str, Any]]:
    module = sys.modules.get(module_of(cls))
    if isinstance(module, types.ModuleType):
        yield from list(vars(module).items())

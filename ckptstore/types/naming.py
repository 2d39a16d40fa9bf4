"""Stored names: the row of a class, and the class of a name.

A name is looked up through ``vars(module)`` and class ``__dict__``s, never by `getattr`, and only
in modules that are already imported. Spec: section 5.1.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

from ckptstore.format import TypeKind, TypeRow
from ckptstore.types.fields import MISSING, class_dict
from ckptstore.types.leaf import Refusal
from ckptstore.types.registry import (
    DISTRIBUTIONS,
    default_name,
    find_registration,
    module_of,
    top_level,
)


def class_row(cls: type, kind: TypeKind, fields: Sequence[str] = ()) -> TypeRow:
    """Return the stored row of a class, and check that its name leads back to it.

    Args:
        cls: the class.
        kind: the kind of its row.
        fields: the names of the children, for a NamedTuple or a dataclass.

    Raises:
        Refusal: the class is local to a function, or its module does not hold it.

    Example:
        >>> import sched
        >>> str(class_row(sched.Event, TypeKind.NAMEDTUPLE, sched.Event._fields))
        'sched.Event'
    """
    registered = find_registration(cls)
    if registered is not None and registered.name != default_name(cls):
        module, _, name = registered.name.rpartition(".")
        return TypeRow(kind, module, name, fields=tuple(fields))
    module, name = module_of(cls), cls.__qualname__
    binding = None
    if "<locals>" in name:
        raise Refusal(
            f"the class {module}.{name} is local to a function, so no later process can find it; "
            "move it to the top of its module"
        )
    if locate(module, name) is not cls:
        binding = _binding(cls)
        if binding is None:
            raise Refusal(
                f"the class {module}.{name} is not the object of that name in its module; bind it "
                f"there (from {module} import {name.partition('.')[0]} must import it), or use "
                "ckptstore.register(cls, name=..., flatten=..., unflatten=...)"
            )
    main = main_name() if module == "__main__" else None
    package = top_level(module)
    return TypeRow(
        kind, module, name, binding, main, tuple(fields), package, package_version(package)
    )


def object_row(cls: type | str, *fields: str, wraps: bool = False) -> TypeRow:
    """Return the stored row of a class that an adapter makes from these fields.

    Args:
        cls: the class, or the public ``module.name`` under which it is stored.
        fields: the names of the children.
        wraps: whether paths show its only or first field without a step.

    Example:
        >>> object_row("numpy.ma.MaskedArray", "data", "mask").package
        'numpy'
    """
    if isinstance(cls, str):
        module, _, name = cls.rpartition(".")
    else:
        module, name = cls.__module__, cls.__qualname__
    extra = {"wraps": True} if wraps else {}
    package = top_level(module)
    if package in sys.stdlib_module_names:  # Python's library has no release of its own
        return TypeRow(TypeKind.OBJECT, module, name, fields=fields, extra=extra)
    return TypeRow(
        TypeKind.OBJECT,
        module,
        name,
        fields=fields,
        package=package,
        version=package_version(package),
        extra=extra,
    )


def stored_name(cls: type) -> str:
    """Return the name under which instances of a class are stored.

    Example:
        >>> import fractions
        >>> stored_name(fractions.Fraction)
        'fractions.Fraction'
    """
    registered = find_registration(cls)
    if registered is not None:
        return registered.name
    if locate(module_of(cls), cls.__qualname__) is cls:
        return default_name(cls)
    return f"{module_of(cls)}.{_binding(cls) or cls.__qualname__}"


def _binding(cls: type) -> str | None:
    """Return the name of a class in its module, if its own name differs or is missing."""
    module = sys.modules.get(cls.__module__)
    if not isinstance(module, types.ModuleType):
        return None
    return next((key for key, value in list(vars(module).items()) if value is cls), None)


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


def main_name() -> str | None:
    """Return the name under which the running script can be imported, or None."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else None


@functools.cache
def package_version(package: str) -> str | None:
    """Return the version of an installed top-level package, or None if it has none.

    Example:
        >>> import numpy
        >>> package_version("numpy") == numpy.__version__
        True
    """
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        version = getattr(sys.modules.get(package), "__version__", None)
        return version if type(version) is str else None

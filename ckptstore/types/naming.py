"""Stored names: the row of a class, which leads back to it. Spec: section 5.1."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections.abc import Sequence

from ckptstore.format import TypeKind, TypeRow
from ckptstore.types.bindings import binding_of, class_of_today, is_defined_again, locate
from ckptstore.types.leaf import Refusal
from ckptstore.types.registry import (
    DISTRIBUTIONS,
    default_name,
    find_registration,
    find_registration_named,
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
            f"move it to the top of its module, or {_by_a_name(cls)}"
        )
    if locate(module, name) is not class_of_today(cls):
        binding = binding_of(cls)
        if binding is None and is_defined_again(cls):
            raise Refusal(
                f"the class {module}.{name} was defined again, with other fields or of another "
                f"kind, after this object was made; make the object again with today's {name}"
            )
        if binding is None:
            raise Refusal(
                f"the name {module}.{name} does not lead to this class, so no load would find it; "
                f"bind it there (from {module} import {name.partition('.')[0]} must import it), or "
                f"{_by_a_name(cls)}"
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
    if locate(module_of(cls), cls.__qualname__) is class_of_today(cls):
        return default_name(cls)
    return f"{module_of(cls)}.{binding_of(cls) or cls.__qualname__}"


def _by_a_name(cls: type) -> str:
    """Return the call that gives a class a name of its own."""
    module, name = module_of(cls), cls.__qualname__.replace("<locals>.", "")
    if module == "__main__" or locate(module, name) is not None:
        module = "project"
    full = f"{module}.{name}"
    while full == default_name(cls) or _is_of_another(full, cls):  # its own name gives it none
        full += "_2"
    return (
        f"call ckptstore.register({cls.__name__}, name={full!r}) in the process that saves and in "
        "the one that loads"
    )


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


def _is_of_another(name: str, cls: type) -> bool:
    registered = find_registration_named(name)
    return registered is not None and registered.cls is not cls

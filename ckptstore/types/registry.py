"""The registry of types: the table of frameworks, adapters of other packages, registrations.

An adapter is loaded by name, and only when an object or a stored type of its package is met. Other
distributions provide adapters by entry points. Guide: docs/adapters.md.
"""

from __future__ import annotations

import collections
import functools
import importlib
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore import signals
from ckptstore.errors import Reason, StructureError, UnknownTypeError
from ckptstore.format import TypeKind, TypeRow
from ckptstore.types import fields
from ckptstore.types.adapter import Adapter
from ckptstore.types.bindings import class_of_today
from ckptstore.types.migrations import Migration
from ckptstore.types.pytrees import pytree
from ckptstore.types.records import Record
from ckptstore.types.tables import fault_of

ADAPTERS: Mapping[str, str] = {
    "numpy": "ckptstore.adapters.numpy",
    "ml_dtypes": "ckptstore.adapters.numpy",
    "jax": "ckptstore.adapters.jax",
    "jaxlib": "ckptstore.adapters.jax",
    "optax": "ckptstore.adapters.optax",
    "flax": "ckptstore.adapters.flax",
    "equinox": "ckptstore.adapters.equinox",
    "haiku": "ckptstore.adapters.haiku",
    "chex": "ckptstore.adapters.chex",
    "jmp": "ckptstore.adapters.jmp",
    "torch": "ckptstore.adapters.torch",
    "omegaconf": "ckptstore.adapters.omegaconf",
    "ml_collections": "ckptstore.adapters.ml_collections",
    **dict.fromkeys(
        (
            *("argparse", "builtins", "collections", "datetime", "decimal", "fractions"),
            *("functools", "ipaddress", "pathlib", "random", "types", "uuid", "zoneinfo"),
        ),
        "ckptstore.adapters.stdlib",
    ),
}
"""Top-level package to the module that holds its adapter, as ``ADAPTER``."""

DISTRIBUTIONS: Mapping[str, str] = {"haiku": "dm-haiku"}
"""The name of a package's distribution, if pip knows it by another name."""

GROUP = "ckptstore.adapters"
"""The entry points by which a distribution provides an adapter for its own package."""

_RESERVED = sys.stdlib_module_names | {"", "__main__", "__mp_main__"}
"""Packages for which no distribution provides an adapter, so that none is looked for."""

_BUILT_IN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, type(...), list, tuple, dict),
    *(collections.OrderedDict, collections.defaultdict, set, frozenset, range, slice),
)


def top_level(module: Any) -> str:
    """Return the first part of a module name; "" for an object that is not a str.

    Example:
        >>> top_level("jax.numpy")
        'jax'
    """
    return module.partition(".")[0] if isinstance(module, str) else ""


def find_adapter(module: Any) -> Adapter | None:
    """Return the adapter for the package of a module, or None if there is none.

    An adapter of ckptstore itself takes precedence over one of an installed distribution.

    Args:
        module: a module name such as a class has in ``__module__``, or a package name.

    Raises:
        UnknownTypeError: reason ``not-installed`` if the adapter's framework is missing;
            ``bad-adapter`` if it cannot be imported, or the entry point is not an adapter.

    Example:
        >>> type(find_adapter("numpy.ma")).__name__, find_adapter("string")
        ('NumpyAdapter', None)
    """
    package = top_level(module)
    source = ADAPTERS.get(package)
    if source is None:
        brought = package not in _RESERVED and package in _entry_points()
        return _load_entry_point(package) if brought else None
    loaded = getattr(sys.modules.get(source), "ADAPTER", None)  # the last name that it binds
    if loaded is not None:
        adapter: Adapter = loaded
        return adapter
    try:
        adapter = importlib.import_module(source).ADAPTER
    except Exception as error:  # importing the framework may raise anything
        signals.pass_on(error)
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and top_level(missing) in ADAPTERS:
            raise _not_installed(missing) from None
        raise _bad_adapter(package, f"cannot be loaded: {type(error).__name__}: {error}") from error
    return adapter


def _not_installed(package: str) -> UnknownTypeError:
    return UnknownTypeError(
        f"the package {package} is not installed here: pip install "
        f'{DISTRIBUTIONS.get(package, package)}, or load with arrays="numpy"',
        reason=Reason.NOT_INSTALLED,
    )


@functools.cache
def _entry_points() -> Mapping[str, Sequence[importlib.metadata.EntryPoint]]:
    """Return the entry points of installed distributions, by package; they are listed once."""
    by_package: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        by_package.setdefault(entry.name, []).append(entry)
    return by_package


@functools.cache
def _load_entry_point(package: str) -> Adapter:
    """Return the adapter that an installed distribution provides for a package."""
    entries = _entry_points()[package]
    names = [
        f"{e.value} of {e.dist.name if e.dist else 'an unknown distribution'}" for e in entries
    ]
    if len(entries) > 1:
        raise _bad_adapter(package, f"is provided twice: {' and '.join(names)}; uninstall one")
    try:
        adapter = entries[0].load()
    except Exception as error:  # importing the module may raise anything
        signals.pass_on(error)
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise _not_installed(package) from None
        raise _bad_adapter(
            package, f"cannot be loaded: {names[0]}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(adapter, Adapter):
        raise _bad_adapter(
            package,
            f"is not an adapter: {names[0]} is {adapter!r:.80}, expected an instance of "
            "ckptstore.adapters.Adapter",
        )
    same = {name for name, others in _entry_points().items() if entries[0].value in _values(others)}
    if fault := fault_of(adapter, same):
        raise _bad_adapter(package, f"cannot be used: {names[0]}: {fault}")
    return adapter


def _values(entries: Sequence[importlib.metadata.EntryPoint]) -> list[str]:
    return [entry.value for entry in entries]


def _bad_adapter(package: str, text: str) -> UnknownTypeError:
    return UnknownTypeError(
        f"the adapter of the package {package} {text}", reason=Reason.BAD_ADAPTER
    )


@dataclass(frozen=True, slots=True)
class Registration:
    """A class that a user passed to `register`, with the other arguments.

    Attributes:
        cls: the class.
        name: its stored name, as ``module.qualname``.
        migrate: the changes of its fields, oldest first.
        flatten: from an instance to (children, static part), or None.
        unflatten: from (static part, children) to an instance, or None.
    """

    cls: type
    name: str
    migrate: Sequence[Migration] = ()
    flatten: Callable[[Any], tuple[Iterable[Any], Any]] | None = None
    unflatten: Callable[[Any, Sequence[Any]], Any] | None = None

    def record(self) -> Record | None:
        """Return the record of the user's functions, or None if there are none."""
        if self.flatten is None or self.unflatten is None:
            return None
        unflatten = self.unflatten
        module, _, name = self.name.rpartition(".")
        return pytree(
            TypeRow(TypeKind.PYTREE, module, name),
            self.flatten,
            lambda values: unflatten(values[0], values[1:]),
            owner=self,
        )


# A table is filled and then published: another thread that saves meanwhile sees no half of it.
_BY_CLASS: dict[type, Registration] = {}
_BY_NAME: dict[str, Registration] = {}
_adding = threading.Lock()


def add(new: Registration) -> None:
    """Enter a registration, and replace an earlier one of the same class.

    Raises:
        StructureError: reason ``register`` if the name belongs to another class.
    """
    global _BY_CLASS, _BY_NAME
    with _adding:
        by_class, by_name = dict(_BY_CLASS), dict(_BY_NAME)
        other = by_name.get(new.name)
        if other is not None and default_name(other.cls) != default_name(new.cls):
            raise StructureError(
                f"register: the name {new.name} belongs to {other.cls!r}; pass another name=",
                reason=Reason.REGISTER,
            )
        for old in (other, by_class.get(new.cls)):
            if old is not None:  # the class was defined again, or is registered again
                by_name.pop(old.name, None)
                by_class.pop(old.cls, None)
        by_class[new.cls] = by_name[new.name] = new
        _BY_CLASS, _BY_NAME = by_class, by_name


def find_registration(cls: type) -> Registration | None:
    """Return the registration of this class, or None, without calling its hash.

    That of a class of which it is another definition, from a cell that was run again, counts too.
    """
    table = _BY_CLASS
    for other, known in table.items():
        if other is cls:
            return known
    name = default_name(cls)
    for other, known in table.items():
        if default_name(other) == name and class_of_today(other) is class_of_today(cls):
            return known
    return None


def find_registration_named(name: str) -> Registration | None:
    """Return the registration under a stored name, or None."""
    return _BY_NAME.get(name)


def module_of(cls: type) -> str:
    """Return the module of a class; a spawned process has another name for the script."""
    module = fields.module_of(cls)
    return "__main__" if module == "__mp_main__" else module


def default_name(cls: type) -> str:
    """Return the name under which a class is registered if the user passes none."""
    return f"{module_of(cls)}.{fields.qualname_of(cls)}"


def is_built_in(cls: type) -> bool:
    """Return whether the format itself has nodes for such objects, without any registration."""
    return any(cls is built_in for built_in in _BUILT_IN)

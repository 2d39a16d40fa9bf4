"""Who knows a type: the `Adapter` class, the table of frameworks, the user's own registrations.

An adapter is loaded by name, only once an object of its package, or a stored type of it, is met.
Other distributions bring theirs by entry points. Guide: docs/adapters.md.
"""

from __future__ import annotations

import collections
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ckptstore.errors import Reason, StructureError, UnknownTypeError
from ckptstore.format import TypeKind, TypeRow
from ckptstore.format.dtypes import Array, Stored
from ckptstore.types.migrations import Migration

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
    **dict.fromkeys(
        ("argparse", "builtins", "collections", "datetime", "functools", "pathlib", "types"),
        "ckptstore.adapters.stdlib",
    ),
}
"""Top-level package to the module that holds its adapter, as ``ADAPTER``."""

GROUP = "ckptstore.adapters"
"""The entry points by which a distribution brings an adapter for its own package."""

_RESERVED = sys.stdlib_module_names | {"", "__main__", "__mp_main__"}
"""Packages for which nobody brings an adapter, so that none is looked for."""

_DISTRIBUTIONS = {"haiku": "dm-haiku"}
"""What pip calls a package, where that is another name."""


class Refusal(Exception):
    """Why an object cannot be carried, and what to do; the walk adds the path."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """An array on its way to a file.

    Attributes:
        row: the array's type, of kind ``array``; `row.extra` is its adapter's.
        dtype: as stored.
        shape: of what is stored.
        read: gives the stored bytes, flat uint8, when it is time to write them; raises Refusal.
        fixed: nobody can write to those bytes.
        start: begins to bring them to this host, where that takes a while, and gives the `read`
            that waits for it.
        memory: equal for arrays of one type that are the same view of the same memory: these are
            stored once and come back as one object. None where only identity counts.
    """

    row: TypeRow
    dtype: Stored
    shape: tuple[int, ...]
    read: Callable[[], Array]
    fixed: bool = False
    start: Callable[[], Callable[[], Array]] | None = None
    memory: Any = None


@dataclass(frozen=True, slots=True)
class Record:
    """How the instances of one class become children and come back.

    Attributes:
        row: the type; for ``pytree`` the first child is the static part, else children are fields.
        take: the children of an instance; raises Refusal.
        make: an instance from its children.
        unused: which children no instance has: fields that its class had once.
    """

    row: TypeRow
    take: Callable[[Any], Sequence[Any]]
    make: Callable[[Sequence[Any]], Any]
    unused: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Child:
    """What `Record.take` gives for a child that is not stored as its own class would have it.

    Attributes:
        value: the child.
        record: how it is taken apart; None for what `like` supplies where it cannot be carried.
    """

    value: Any
    record: Record | None = None


class Adapter:
    """How one framework's types become nodes and leaves; this base knows none.

    Attributes:
        modules: what may be imported to find a stored class of this framework.
        harmless: metaclasses and ``__setattr__`` functions of the framework that need not run when
            an instance is made by its fields.
        moved: stored names, as ``module.qualname``, that are gone or are an alias today, to where
            the class is now.
        migrations: what became of the fields of a class, oldest first, by its name of today. To be
            named here or in `moved` also allows a NamedTuple to have become a dataclass, or back.
    """

    modules: Sequence[str] = ()
    harmless: Sequence[Any] = ()
    moved: Mapping[str, str] = MappingProxyType({})
    migrations: Mapping[str, Sequence[Migration]] = MappingProxyType({})

    def leaf(self, x: Any) -> Leaf | None:
        """Describe `x` if it is an array of this framework; raises Refusal."""
        return None

    def array(self, host: Array, row: TypeRow, place: Any) -> Any:
        """Make the array that `row` describes from verified host memory that nobody else holds.

        Args:
            host: C-ordered, writable.
            row: the stored type.
            place: where the array is to live, in the framework's terms, or None.

        Raises:
            KeyError: a row that is not in its table.
            CorruptError, UnsupportedError: without the place, which `load` adds.
        """
        raise KeyError(row.name)

    def record(self, cls: type) -> Record | None:
        """Return how instances of a class of this framework are taken apart, or None."""
        return None

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the same for a stored type, or None."""
        return None

    def ready(self, cls: type) -> None:
        """Do once what the framework's constructor does for a class, before `load` makes one."""

    def symbol(self, x: Any) -> str | None:
        """Return the public name of a function or scalar type in the adapter's closed table."""
        return None

    def symbol_named(self, name: str) -> Any:
        """Return what has that name in the closed table; raises KeyError."""
        raise KeyError(name)

    def expected(self, x: Any) -> tuple[TypeRow, Stored, tuple[int, ...]] | None:
        """Return (type, dtype, shape) of the leaf that a placeholder in `like` stands for."""
        return None

    def place(self, x: Any) -> Any:
        """Return where an array or placeholder of `like` wants its leaf to live, or None."""
        return None


def top_level(module: Any) -> str:
    """Return the package that a module name begins with."""
    return module.partition(".")[0] if isinstance(module, str) else ""


def adapter(package: str) -> Adapter | None:
    """Return the adapter of a top-level package, or None where there is none.

    One of ckptstore itself comes before one that an installed distribution brings.

    Raises:
        UnknownTypeError: reason ``not-installed`` where the adapter's framework is missing,
            ``bad-adapter`` where it cannot be imported, or a distribution brings what is none.
    """
    name = ADAPTERS.get(package)
    if name is None:
        brought = package not in _RESERVED and package in _entry_points()
        return _brought(package) if brought else None
    try:
        found: Adapter = importlib.import_module(name).ADAPTER
    except Exception as error:  # whatever the framework does when it is imported
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and top_level(missing) in ADAPTERS:
            raise _not_installed(missing) from None
        raise _bad_adapter(package, f"cannot be loaded: {type(error).__name__}: {error}") from error
    return found


def _not_installed(name: str) -> UnknownTypeError:
    return UnknownTypeError(
        f"the package {name} is not installed here: pip install {_DISTRIBUTIONS.get(name, name)}, "
        'or load with arrays="numpy"',
        reason=Reason.NOT_INSTALLED,
    )


@functools.cache
def _entry_points() -> Mapping[str, Sequence[importlib.metadata.EntryPoint]]:
    """Return the adapters of installed distributions, by package; they are listed once."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


@functools.cache
def _brought(package: str) -> Adapter:
    """Return the adapter that an installed distribution brings for a package."""
    entries = _entry_points()[package]
    names = [
        f"{e.value} of {e.dist.name if e.dist else 'an unknown distribution'}" for e in entries
    ]
    if len(entries) > 1:
        raise _bad_adapter(package, f"is brought twice: {' and '.join(names)}; uninstall one")
    try:
        found = entries[0].load()
    except Exception as error:  # whatever the module does when it is imported
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise _not_installed(package) from None
        raise _bad_adapter(
            package, f"cannot be loaded: {names[0]}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Adapter):
        raise _bad_adapter(
            package,
            f"is none: {names[0]} is {found!r:.80}, expected an instance of "
            "ckptstore.adapters.Adapter",
        )
    return found


def _bad_adapter(package: str, text: str) -> UnknownTypeError:
    return UnknownTypeError(
        f"the adapter of the package {package} {text}", reason=Reason.BAD_ADAPTER
    )


@dataclass(frozen=True, slots=True)
class Registration:
    """What a user said of a class with `register`."""

    cls: type
    name: str
    migrate: Sequence[Migration] = ()
    flatten: Callable[[Any], tuple[Sequence[Any], Any]] | None = None
    unflatten: Callable[[Any, Sequence[Any]], Any] | None = None

    def record(self) -> Record | None:
        """Return how instances are taken apart, where the user gave both functions."""
        if self.flatten is None or self.unflatten is None:
            return None
        flatten, unflatten = self.flatten, self.unflatten

        def take(x: Any) -> Sequence[Any]:
            try:
                children, aux = flatten(x)
                return [aux, *children]
            except Exception as error:  # the user's function
                raise Refusal(
                    f"flatten of {self.cls.__qualname__}, which must return (children, static "
                    f"part), failed: {type(error).__name__}: {error}"
                ) from error

        module, _, name = self.name.rpartition(".")
        row = TypeRow(TypeKind.PYTREE, module, name)
        return Record(row, take, lambda children: unflatten(children[0], children[1:]))


_BY_CLASS: dict[type, Registration] = {}
_BY_NAME: dict[str, Registration] = {}


def add(new: Registration) -> None:
    """Enter what a user said of a class, in the place of what was said before.

    Raises:
        StructureError: reason ``register`` where the name belongs to another class.
    """
    other = _BY_NAME.get(new.name)
    if other is not None and default_name(other.cls) != default_name(new.cls):
        raise StructureError(
            f"register: the name {new.name} belongs to {other.cls!r}; give another name=",
            reason=Reason.REGISTER,
        )
    for old in (other, _BY_CLASS.get(new.cls)):
        if old is not None:  # the class was defined again, or is registered again
            _BY_NAME.pop(old.name, None)
            _BY_CLASS.pop(old.cls, None)
    _BY_CLASS[new.cls] = _BY_NAME[new.name] = new


def module_of(cls: type) -> str:
    """Return the module of a class; a process that was spawned calls the script by another name."""
    return "__main__" if cls.__module__ == "__mp_main__" else cls.__module__


def default_name(cls: type) -> str:
    """Return the name under which a class is registered where the user gives none."""
    return f"{module_of(cls)}.{cls.__qualname__}"


def registration(cls: type) -> Registration | None:
    """Return what was registered for exactly this class, without asking it for its hash."""
    return next((known for other, known in _BY_CLASS.items() if other is cls), None)


def registration_named(name: str) -> Registration | None:
    """Return what was registered under a stored name."""
    return _BY_NAME.get(name)


_BUILT_IN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, type(...), list, tuple, dict),
    *(collections.OrderedDict, collections.defaultdict, set, frozenset, range, slice),
)


def is_built_in(cls: type) -> bool:
    """Tell whether the format itself has such objects, whatever is registered."""
    return any(cls is own for own in _BUILT_IN)

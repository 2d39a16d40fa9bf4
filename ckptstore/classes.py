"""Classes: their stored names, how they are found again, and which are safe to rebuild.

A class is found through `vars(module)` and class ``__dict__``s, never `getattr`, and only in
modules that are imported already or that an adapter lists. Spec: section 5.1.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import importlib
import importlib.metadata
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ckptstore import migrations, registry
from ckptstore.errors import UnknownTypeError
from ckptstore.index import TypeKind, TypeRow
from ckptstore.migrations import Migration, Upgrade
from ckptstore.registry import Refusal

HEAP_TYPE = 1 << 9
"""The flag of what a class statement defined: Py_TPFLAGS_HEAPTYPE."""

RECORDS = (TypeKind.NAMEDTUPLE, TypeKind.DATACLASS)
"""The kinds whose instances are made by writing the fields."""

_METACLASSES = (type, abc.ABCMeta, type(typing.Protocol))
_ENUM_METACLASSES = (enum.EnumType,)
_ENUMS = {t for t in vars(enum).values() if type(t) is enum.EnumType}
MISSING = object()
"""What `lookup` returns where there is nothing."""


class Unsafe(Exception):
    """Why instances of a class are not rebuilt without the user's word."""


def class_dict(cls: type) -> Mapping[str, Any]:
    """Return ``cls.__dict__`` past any metaclass."""
    found: Mapping[str, Any] = type.__dict__["__dict__"].__get__(cls)
    return found


def lookup(cls: type, name: str) -> Any:
    """Return what a class or a base of it has under a name, or MISSING; runs no code."""
    for base in type.__dict__["__mro__"].__get__(cls):
        if name in class_dict(base):
            return class_dict(base)[name]
    return MISSING


def kind_of(cls: type) -> TypeKind | None:
    """Return which kind of record or enum a class is by itself, or None."""
    if issubclass(cls, enum.Enum):
        return TypeKind.ENUM
    if issubclass(cls, tuple) and type(lookup(cls, "_fields")) is tuple:
        return TypeKind.NAMEDTUPLE
    if type(lookup(cls, "__dataclass_fields__")) is dict:
        return TypeKind.DATACLASS
    return None


def fields_of(cls: type, kind: TypeKind) -> tuple[str, ...]:
    """Return the field names of a NamedTuple or dataclass in order; an enum has none."""
    if kind == TypeKind.NAMEDTUPLE:
        return tuple(lookup(cls, "_fields"))
    if kind == TypeKind.DATACLASS:
        fields = lookup(cls, "__dataclass_fields__").values()
        fields = [f for f in fields if type(f) is dataclasses.Field]
        return tuple(f.name for f in fields if f._field_type.name == "_FIELD")
    return ()


def check(cls: type, kind: TypeKind) -> None:
    """Refuse a class whose instances could not be made without running its code.

    Raises:
        Unsafe: for ``__del__``, an own ``__setattr__``, a metaclass, a built-in base, or a
            descriptor in the place of a field.
    """
    allowed = _ENUM_METACLASSES if kind == TypeKind.ENUM else _METACLASSES
    if type(cls) not in allowed and not _is_harmless(type(cls), type(cls)):
        raise Unsafe(f"its metaclass {type(cls).__qualname__} may run code")
    if lookup(cls, "__del__") is not MISSING:
        raise Unsafe("it has a __del__")
    if kind == TypeKind.ENUM:
        for name in ("__eq__", "__hash__"):
            owner = next(base for base in cls.__mro__ if name in class_dict(base))
            if owner.__flags__ & HEAP_TYPE and owner not in _ENUMS:
                raise Unsafe(f"it has an {name} of its own")
        return
    for base in cls.__mro__:
        if not base.__flags__ & HEAP_TYPE and base not in (object, tuple, typing.Generic):
            raise Unsafe(f"it is also a {base.__qualname__}, whose contents are not its fields")
    fields = fields_of(cls, kind)
    if kind == TypeKind.NAMEDTUPLE:
        getter = type(class_dict(_Example)["a"])
        if not all(type(lookup(cls, name)) is getter for name in fields):
            raise Unsafe("a field is not what NamedTuple made of it")
        return
    try:
        object.__new__(cls)  # runs no code of the class, and refuses the built-in bases left
    except TypeError as error:
        raise Unsafe(f"an instance cannot be made without its own code ({error})") from None
    setter = lookup(cls, "__setattr__")
    plain = setter is object.__setattr__ or _is_frozen_setter(cls, setter)
    if not plain and not _is_harmless(type(cls), setter):
        raise Unsafe("it has a __setattr__ of its own")
    for name in fields:
        found = lookup(cls, name)
        hook = found is not MISSING and lookup(type(found), "__set__") is not MISSING
        if hook and type(found) is not types.MemberDescriptorType:
            raise Unsafe(f"its field {name!r} is a {type(found).__qualname__}, which runs code")


def _is_harmless(metaclass: type, what: Any) -> bool:
    """Tell whether the framework of a metaclass says that making instances needs no `what`."""
    if metaclass in _METACLASSES:
        return False
    known = registry.adapter(registry.top_level(metaclass.__module__))
    return known is not None and any(what is one for one in known.harmless)


class _Example(typing.NamedTuple):
    a: int


def _is_frozen_setter(cls: type, setter: Any) -> bool:
    """Tell whether `setter` is the one that `dataclass(frozen=True)` generates."""
    params = lookup(cls, "__dataclass_params__")
    code = getattr(setter, "__code__", None) if type(setter) is types.FunctionType else None
    return (
        getattr(params, "frozen", False) is True
        and code is not None
        and "FrozenInstanceError" in str((code.co_names, code.co_freevars))
    )


def locate(module: str, name: str) -> Any:
    """Return what `name` leads to in an imported module, or None; runs no code."""
    found: Any = sys.modules.get(module)
    if not isinstance(found, types.ModuleType):
        return None
    scope: Mapping[str, Any] = object.__getattribute__(found, "__dict__")
    for part in name.split("."):
        found = scope.get(part, MISSING)
        if found is MISSING:
            return None
        if issubclass(type(found), type):  # isinstance would ask `found`
            scope = class_dict(found)
        else:
            scope = {}
    return found


def _locate_dotted(name: str) -> Any:
    """Return what ``module.qualname`` leads to, where the module is imported, or None."""
    module = name
    while (module := module.rpartition(".")[0]) and module not in sys.modules:
        pass
    return locate(module, name.removeprefix(f"{module}."))


def describe(cls: type, kind: TypeKind, fields: Sequence[str] = ()) -> TypeRow:
    """Return the stored row of a class, making sure that its name leads back to it.

    Raises:
        Refusal: for a class local to a function, or one that its module does not hold.
    """
    registered = registry.registration(cls)
    if registered is not None and registered.name != registry.default_name(cls):
        module, _, name = registered.name.rpartition(".")
        return TypeRow(kind, module, name, fields=tuple(fields))
    module, name = cls.__module__, cls.__qualname__
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
                f"the class {module}.{name} is not what that name holds in its module; bind it "
                f"there (from {module} import {name.partition('.')[0]} must give it), or use "
                "ckptstore.register(cls, name=..., flatten=..., unflatten=...)"
            )
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    main = spec.name if module == "__main__" and spec is not None else None
    package = registry.top_level(module)
    return TypeRow(
        kind, module, name, binding, main, tuple(fields), package, package_version(package)
    )


def _binding(cls: type) -> str | None:
    """Find the name that a module gives a class whose own name is another (or none)."""
    found = sys.modules.get(cls.__module__)
    if not isinstance(found, types.ModuleType):
        return None
    return next((key for key, value in vars(found).items() if value is cls), None)


def stored_name(cls: type) -> str:
    """Return the name under which instances of a class are stored."""
    registered = registry.registration(cls)
    if registered is not None:
        return registered.name
    found = locate(cls.__module__, cls.__qualname__) is cls
    return f"{cls.__module__}.{cls.__qualname__ if found else _binding(cls) or cls.__qualname__}"


@functools.cache
def package_version(package: str) -> str | None:
    """Return the version of an installed top-level package, where it says one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = getattr(sys.modules.get(package), "__version__", None)
        return version if type(version) is str else None


def find(row: TypeRow, given: Mapping[str, type]) -> tuple[type, Upgrade]:
    """Return the class of a stored type, and how the stored fields become those that it has.

    Args:
        row: a stored NamedTuple, dataclass, enum or pytree; the last two have no fields.
        given: what the caller passed as ``types=`` or `like` holds, by stored name.

    Raises:
        UnknownTypeError: it says what was looked for, and the remedy.
    """
    where = str(row)
    cls = meant(row, given)
    trusted = where in given or registry.registration(cls) is not None
    stored, kind = TypeKind(row.kind), kind_of(cls)
    if stored == TypeKind.PYTREE:
        if trusted:
            return cls, Upgrade((), (), ())
        raise UnknownTypeError(
            f"{row}: its unflatten runs code of its own; pass types=[{row.name}] to load, or call "
            f"ckptstore.register({row.name})",
            reason="needs-types",
        )
    if kind is None or (kind != stored and not _became(row, cls, kind)):
        raise UnknownTypeError(
            f"{row}: found {type.__repr__(cls)}, expected a {stored}; pass "
            f"types={{{where!r}: YourClass}}",
            reason="wrong-kind",
        )
    if not trusted:
        try:
            check(cls, kind)
        except Unsafe as error:
            raise UnknownTypeError(
                f"{row}: not rebuilt, because {error}; if you trust the class, pass "
                f"types=[{row.name}]",
                reason="unsafe-class",
            ) from None
    have = fields_of(cls, kind)
    upgrade = migrations.upgrade(row.fields, have, _migrations(cls))
    if upgrade is None:
        raise UnknownTypeError(_fields_differ(row, cls, have), reason="fields-differ")
    return cls, upgrade


def meant(row: TypeRow, given: Mapping[str, type]) -> type:
    """Return the class that a stored name leads to, whatever it is.

    Raises:
        UnknownTypeError: there is none.
    """
    cls = given.get(str(row))
    if cls is None and (registered := registry.registration_named(str(row))) is not None:
        cls = registered.cls
    return _find_by_name(row) if cls is None else cls


def _became(row: TypeRow, cls: type, kind: TypeKind) -> bool:
    """Tell whether somebody vouches that a NamedTuple is a dataclass today, or the reverse."""
    if kind not in RECORDS or row.kind not in RECORDS:
        return False
    theirs = registry.adapter(registry.top_level(row.module))
    ours = registry.adapter(registry.top_level(cls.__module__))
    return (
        registry.registration(cls) is not None
        or (theirs is not None and str(row) in theirs.moved)
        or (ours is not None and registry.default_name(cls) in ours.migrations)
    )


def _migrations(cls: type) -> Sequence[Migration]:
    """Return what became of the fields of a class, by its user's word or by its adapter's."""
    registered = registry.registration(cls)
    if registered is not None and registered.migrate:
        return registered.migrate
    known = registry.adapter(registry.top_level(cls.__module__))
    return known.migrations.get(registry.default_name(cls), ()) if known is not None else ()


def _fields_differ(row: TypeRow, cls: type, have: Sequence[str]) -> str:
    gone = [name for name in row.fields if name not in have]
    new = [name for name in have if name not in row.fields]
    parts = {
        "renamed": f"{{{gone[0]!r}: {new[0]!r}}}" if len(gone) == len(new) == 1 else "",
        "added": ", ".join(f"{name!r}: ..." for name in new),
        "removed": ", ".join(map(repr, gone)),
    }
    apart = [f"added={{{parts['added']}}}"] * bool(new) + [f"removed=[{parts['removed']}]"] * bool(
        gone
    )
    steps = [f"Migration({', '.join(apart)})"]
    if parts["renamed"]:
        steps.insert(0, f"Migration(renamed={parts['renamed']})")
    first = "as the first step of " if _migrations(cls) else "with "
    here = package_version(row.package) if row.package else None
    versions = f" ({row.package} {row.version} saved it, here is {here})"
    return (
        f"{row}: only in the checkpoint: {', '.join(gone) or '(none)'}; only in the class: "
        f"{', '.join(new) or '(none)'}"
        + (versions if here != row.version else "")
        + f"; say what became of them {first}ckptstore.register({cls.__qualname__}, "
        f"migrate=[ckptstore.{' or '.join(steps)}]), or pass types={{'{row}': OldClass}} with a "
        "class of the stored fields"
    )


def _find_by_name(row: TypeRow) -> type:
    package = registry.top_level(row.module)
    adapter = registry.adapter(package)
    for module in adapter.modules if adapter else ():
        importlib.import_module(module)
    name = row.binding or row.name
    found = locate(row.module, name)
    if found is None and row.main is not None:
        found = locate(row.main, name)
    if found is None and row.main is None and row.module != "__main__":
        main = sys.modules.get("__main__")
        spec = getattr(main, "__spec__", None)
        if spec is not None and spec.name == row.module:
            found = locate("__main__", name)
    if found is None and adapter is not None and str(row) in adapter.moved:
        found = _locate_dotted(adapter.moved[str(row)])
    if found is None:
        loaded = row.module in sys.modules
        raise UnknownTypeError(
            f"{row}: "
            + (
                f"the module {row.module} has no {name}; "
                if loaded
                else f"the module {row.module} is not imported; import it first, or "
            )
            + f"pass types={{'{row}': YourClass}}",
            reason="no-such-name" if loaded else "module-not-imported",
        )
    if not issubclass(type(found), type):  # neither isinstance nor repr: they would ask it
        raise UnknownTypeError(
            f"{row}: found {object.__repr__(found)}, which is no class; a checkpoint names only "
            "classes",
            reason="wrong-kind",
        )
    cls: type = found
    return cls

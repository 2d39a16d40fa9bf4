"""Lookup: from a stored type to today's class.

A class that the caller passed or registered comes first, then the class of the stored name, then
the new name in an adapter's table of moved classes. Spec: section 5.1.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence

from ckptstore import signals
from ckptstore.errors import Reason, UnknownTypeError
from ckptstore.format import TypeKind, TypeRow
from ckptstore.texts import shown
from ckptstore.types.bindings import class_of_today, locate, locate_dotted
from ckptstore.types.fields import RECORD_KINDS, fields_of, kind_of
from ckptstore.types.migrations import Migration, Upgrade, upgrade
from ckptstore.types.naming import main_name, package_version
from ckptstore.types.registry import (
    ADAPTERS,
    default_name,
    find_adapter,
    find_registration,
    find_registration_named,
    top_level,
)
from ckptstore.types.safety import Unsafe, check_safe


def find_class(row: TypeRow, classes: Mapping[str, type]) -> tuple[type, Upgrade]:
    """Return the class of a stored type, and the upgrade from the stored fields to its fields.

    Args:
        row: a stored NamedTuple, dataclass, enum or pytree; the last two have no fields.
        classes: the classes of ``types=`` or `like`, by stored name.

    Raises:
        UnknownTypeError: the class was not found; the message names the places and the remedy.

    Example:
        >>> row = TypeRow(TypeKind.DATACLASS, "project", "State", fields=("step",))
        >>> State = __import__("dataclasses").make_dataclass("State", ["step"])
        >>> find_class(row, {"project.State": State})[0] is State
        True
    """
    stored_name = str(row)
    cls = find_named(row, classes)
    trusted = stored_name in classes or find_registration(cls) is not None
    stored, kind = TypeKind(row.kind), kind_of(cls)
    if stored == TypeKind.PYTREE:
        if trusted:
            return cls, Upgrade((), (), ())
        raise UnknownTypeError(
            f"{row}: its unflatten runs its own code; pass types=[{shown(row.name)}] to load, or "
            f"call ckptstore.register({shown(row.name)})",
            reason=Reason.NEEDS_TYPES,
        )
    wrong_kind = UnknownTypeError(
        f"{row}: found {type.__repr__(cls)}, expected a {stored}; pass "
        f"types={{{stored_name!r}: YourClass}}",
        reason=Reason.WRONG_KIND,
    )
    if kind is None or (kind != stored and not {kind, stored} <= {*RECORD_KINDS}):
        raise wrong_kind
    if not trusted:
        try:
            check_safe(cls, kind)
        except Unsafe as error:
            raise UnknownTypeError(
                f"{row}: not rebuilt, because {error}; if you trust the class, pass "
                f"types=[{shown(row.name)}]",
                reason=Reason.UNSAFE_CLASS,
            ) from None
    if kind != stored and not _may_be_either(row, cls):  # may use the class, which is safe by now
        raise wrong_kind
    fields = fields_of(cls, kind)
    way = upgrade(row.fields, fields, _migrations(cls))
    if way is None:
        raise UnknownTypeError(_fields_differ(row, cls, fields), reason=Reason.FIELDS_DIFFER)
    return cls, way


def find_named(row: TypeRow, classes: Mapping[str, type]) -> type:
    """Return the class that a stored name leads to, of any kind and with any fields.

    Args:
        row: a stored type.
        classes: as for `find_class`.

    Raises:
        UnknownTypeError: there is no such class.

    Example:
        >>> find_named(TypeRow(TypeKind.NAMEDTUPLE, "ckptstore.types.migrations", "Upgrade"), {})
        <class 'ckptstore.types.migrations.Upgrade'>
    """
    cls = classes.get(str(row))
    if cls is None and (registered := find_registration_named(str(row))) is not None:
        cls = class_of_today(registered.cls)
    return _find_by_name(row) if cls is None else cls


def _may_be_either(row: TypeRow, cls: type) -> bool:
    """Return whether a table or the user allows a NamedTuple to be a dataclass, or the reverse."""
    before = find_adapter(row.module)
    today = find_adapter(cls.__module__)
    return (
        find_registration(cls) is not None
        or (before is not None and str(row) in before.moved)
        or (today is not None and default_name(cls) in today.migrations)
    )


def _migrations(cls: type) -> Sequence[Migration]:
    """Return the migrations of a class: the registered ones, else those of its adapter."""
    registered = find_registration(cls)
    if registered is not None and registered.migrate:
        return registered.migrate
    adapter = find_adapter(cls.__module__)
    return adapter.migrations.get(default_name(cls), ()) if adapter is not None else ()


def _fields_differ(row: TypeRow, cls: type, fields: Sequence[str]) -> str:
    gone = [name for name in row.fields if name not in fields]
    new = [name for name in fields if name not in row.fields]
    changes = []
    if new:
        changes.append(f"added={{{', '.join(f'{name!r}: ...' for name in new)}}}")
    if gone:
        changes.append(f"removed={gone}")
    steps = [f"Migration({', '.join(changes)})"]
    if len(gone) == len(new) == 1:
        steps.insert(0, f"Migration(renamed={{{gone[0]!r}: {new[0]!r}}})")
    first = "as the first step of " if _migrations(cls) else "with "
    package = top_level(cls.__module__)
    version = package_version(package)
    differs = package == row.package and version != row.version
    return (
        f"{row}: only in the checkpoint: {shown(', '.join(gone), 1000) or '(none)'}; only in the "
        f"class: {', '.join(new) or '(none)'}"
        + (f" ({package} {row.version} saved it, {version} is installed)" if differs else "")
        + f"; describe the change {first}ckptstore.register({cls.__qualname__}, "
        f"migrate=[ckptstore.{' or '.join(steps)}]), or pass types={{'{row}': OldClass}} with a "
        "class of the stored fields"
    )


def _versions(row: TypeRow) -> str:
    """Return the release of a known framework that saved a class, if another is installed."""
    if row.package not in ADAPTERS:  # reading its version could run its code
        return ""
    version = package_version(row.package)
    if row.version is None or row.version == version:
        return ""
    return f" ({row.package} {shown(row.version)} saved it, {version or 'none'} is installed)"


def _find_by_name(row: TypeRow) -> type:
    adapter = find_adapter(row.module)
    for module in adapter.modules if adapter else ():
        try:
            importlib.import_module(module)
        except Exception as error:  # importing a module may raise anything
            signals.pass_on(error)
            raise UnknownTypeError(
                f"{row}: its adapter lists the module {module}, which cannot be imported: "
                f"{type(error).__name__}: {error}",
                reason=Reason.BAD_ADAPTER,
            ) from error
    name = row.binding or row.name
    values = (locate(module, name) for module in _modules(row))
    value = next((x for x in values if x is not None), None)
    if value is None and adapter is not None and str(row) in adapter.moved:
        value = locate_dotted(adapter.moved[str(row)])
    if value is None:
        raise _not_found(row)
    if not issubclass(type(value), type):  # isinstance and repr could run its code
        raise UnknownTypeError(
            f"{row}: found {object.__repr__(value)}, which is not a class; a checkpoint names only "
            "classes",
            reason=Reason.WRONG_KIND,
        )
    cls: type = value
    return cls


def _modules(row: TypeRow) -> Sequence[str]:
    """Return the modules that may hold a class; a running script also has its import name."""
    script = main_name()
    if row.module != "__main__":
        return (row.module, "__main__") if row.module == script else (row.module,)
    return ("__main__",) if row.main in (None, script) else (row.main or "", "__main__")


def _not_found(row: TypeRow) -> UnknownTypeError:
    """Return the error that names the places where a class was looked for, and the remedy."""
    loaded, module = row.module in sys.modules, shown(row.module)
    line = import_line(row)
    passed = f"pass types={{{str(row)!r}: YourClass}}"
    named = f"ckptstore.register(YourClass, name={str(row)!r})"
    versions = _versions(row)
    release = f", or load with {row.package} {shown(row.version or '')}" if versions else ""
    if row.package is None:
        text = (
            "ckptstore.register gave it this name, which is not a name in a module; "
            f"{named} first, or {passed}"
        )
    elif row.module == "__main__":
        text = (
            f"it was defined in the script that saved it, which is not this script; "
            f"{f'{line} first' if line else passed}; a class in a module, or with a name that "
            "ckptstore.register gave it before it was saved, loads in any script"
        )
    elif loaded:
        text = (
            f"the module {module} has no {shown(row.binding or row.name)}{versions}; if the class "
            f"has moved, {named}, or {passed}{release}"
        )
    else:
        text = (
            f"the module {module} is not imported{versions}; {line or 'import it'} first, or "
            f"if the class has moved, {named}, or {passed}{release}"
        )
    return UnknownTypeError(
        f"{row}: {text}", reason=Reason.NO_SUCH_NAME if loaded else Reason.MODULE_NOT_IMPORTED
    )


def import_line(row: TypeRow) -> str:
    """Return the line that imports the module of a stored class, or "" if there is none.

    Example:
        >>> import_line(TypeRow(TypeKind.DATACLASS, "project.states", "State", package="project"))
        'import project.states'
    """
    module = row.main if row.module == "__main__" else row.module
    plain = module is not None and all(part.isidentifier() for part in module.split("."))
    return f"import {shown(module or '')}" if plain and row.package is not None else ""

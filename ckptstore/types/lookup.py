"""Resolution: from a stored type to the class that it is today.

What the caller gave or registered comes first, then what the stored name leads to, then where the
table of an adapter says that the class is now. Spec: section 5.1.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence

from ckptstore.errors import Reason, UnknownTypeError
from ckptstore.format import TypeKind, TypeRow
from ckptstore.types import classes, migrations, registry
from ckptstore.types.migrations import Migration, Upgrade


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
    stored, kind = TypeKind(row.kind), classes.kind_of(cls)
    if stored == TypeKind.PYTREE:
        if trusted:
            return cls, Upgrade((), (), ())
        raise UnknownTypeError(
            f"{row}: its unflatten runs code of its own; pass types=[{row.name}] to load, or call "
            f"ckptstore.register({row.name})",
            reason=Reason.NEEDS_TYPES,
        )
    wrong_kind = UnknownTypeError(
        f"{row}: found {type.__repr__(cls)}, expected a {stored}; pass "
        f"types={{{where!r}: YourClass}}",
        reason=Reason.WRONG_KIND,
    )
    if kind is None or (kind != stored and not {kind, stored} <= {*classes.RECORDS}):
        raise wrong_kind
    if not trusted:
        try:
            classes.check(cls, kind)
        except classes.Unsafe as error:
            raise UnknownTypeError(
                f"{row}: not rebuilt, because {error}; if you trust the class, pass "
                f"types=[{row.name}]",
                reason=Reason.UNSAFE_CLASS,
            ) from None
    if kind != stored and not _may_be_either(row, cls):  # asks the class, which is safe by now
        raise wrong_kind
    have = classes.fields_of(cls, kind)
    upgrade = migrations.upgrade(row.fields, have, _migrations(cls))
    if upgrade is None:
        raise UnknownTypeError(_fields_differ(row, cls, have), reason=Reason.FIELDS_DIFFER)
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


def _may_be_either(row: TypeRow, cls: type) -> bool:
    """Tell whether somebody vouches that a NamedTuple is a dataclass today, or the reverse."""
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
    apart = []
    if new:
        apart.append(f"added={{{', '.join(f'{name!r}: ...' for name in new)}}}")
    if gone:
        apart.append(f"removed={gone}")
    steps = [f"Migration({', '.join(apart)})"]
    if len(gone) == len(new) == 1:
        steps.insert(0, f"Migration(renamed={{{gone[0]!r}: {new[0]!r}}})")
    first = "as the first step of " if _migrations(cls) else "with "
    package = registry.top_level(cls.__module__)
    here = classes.package_version(package)
    other = package == row.package and here != row.version
    return (
        f"{row}: only in the checkpoint: {', '.join(gone) or '(none)'}; only in the class: "
        f"{', '.join(new) or '(none)'}"
        + (f" ({package} {row.version} saved it, here is {here})" if other else "")
        + f"; say what became of them {first}ckptstore.register({cls.__qualname__}, "
        f"migrate=[ckptstore.{' or '.join(steps)}]), or pass types={{'{row}': OldClass}} with a "
        "class of the stored fields"
    )


def _versions(row: TypeRow) -> str:
    """Say which release of a known framework saved a class, where another one is here."""
    if row.package not in registry.ADAPTERS:  # asking for its version could run its code
        return ""
    here = classes.package_version(row.package)
    if row.version is None or row.version == here:
        return ""
    return f" ({row.package} {row.version} saved it, here is {here or 'none'})"


def _find_by_name(row: TypeRow) -> type:
    adapter = registry.adapter(registry.top_level(row.module))
    for module in adapter.modules if adapter else ():
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a module does when it is imported
            raise UnknownTypeError(
                f"{row}: its adapter lists the module {module}, which cannot be imported: "
                f"{type(error).__name__}: {error}",
                reason=Reason.BAD_ADAPTER,
            ) from error
    name = row.binding or row.name
    places = (classes.locate(module, name) for module in _modules(row))
    found = next((x for x in places if x is not None), None)
    if found is None and adapter is not None and str(row) in adapter.moved:
        found = classes.locate_dotted(adapter.moved[str(row)])
    if found is None:
        raise _not_found(row)
    if not issubclass(type(found), type):  # neither isinstance nor repr: they would ask it
        raise UnknownTypeError(
            f"{row}: found {object.__repr__(found)}, which is no class; a checkpoint names only "
            "classes",
            reason=Reason.WRONG_KIND,
        )
    cls: type = found
    return cls


def _modules(row: TypeRow) -> Sequence[str]:
    """Return where a class may be: a script has one name when it runs and one when imported."""
    here = classes.main_name()
    if row.module != "__main__":
        return (row.module, "__main__") if row.module == here else (row.module,)
    return ("__main__",) if row.main in (None, here) else (row.main or "", "__main__")


def _not_found(row: TypeRow) -> UnknownTypeError:
    """Say where a class was looked for, and what its user can do."""
    loaded = row.module in sys.modules
    line = import_line(row)
    given = f"pass types={{{str(row)!r}: YourClass}}"
    named = f"ckptstore.register(YourClass, name={str(row)!r})"
    versions = _versions(row)
    release = f", or load with {row.package} {row.version}" if versions else ""
    if row.package is None:
        text = f"the name was given by register, and is none of a module; {named} first, or {given}"
    elif row.module == "__main__":
        text = (
            f"it was defined in the script that saved it, and this is another; "
            f"{f'{line} first' if line else given}; a class in a module, or with a name that "
            "ckptstore.register gave it before it was saved, loads in any script"
        )
    elif loaded:
        text = (
            f"the module {row.module} has no {row.binding or row.name}{versions}; if the class "
            f"has moved, {named}, or {given}{release}"
        )
    else:
        text = (
            f"the module {row.module} is not imported{versions}; {line or 'import it'} first, or "
            f"if the class has moved, {named}, or {given}{release}"
        )
    return UnknownTypeError(
        f"{row}: {text}", reason=Reason.NO_SUCH_NAME if loaded else Reason.MODULE_NOT_IMPORTED
    )


def import_line(row: TypeRow) -> str:
    """Return what imports the module of a stored class, or "" where nothing can."""
    module = row.main if row.module == "__main__" else row.module
    plain = module is not None and all(part.isidentifier() for part in module.split("."))
    return f"import {module}" if plain and row.package is not None else ""

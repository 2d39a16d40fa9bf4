"""Migrations: the steps from the old fields of a class to today's.

A checkpoint stores no version of a class: the stored field names tell which version wrote it. So a
step that changes no name is refused. If two versions have the same names, the newer one counts.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptstore import signals
from ckptstore.errors import Reason, StructureError, UnknownTypeError


@dataclass(frozen=True, slots=True, eq=False)
class Migration:
    """One change of a class's fields, from one release to the next.

    Attributes:
        renamed: old name to new name.
        added: new name to its value in older checkpoints. You can pass a function: it is called
            with the fields of the version before, by their names there, and returns the value. Any
            other value is copied for each instance.
        removed: names of fields that no longer exist.

    Raises:
        StructureError: reason ``bad-migration``: an argument is not a mapping or sequence of names,
            or the step describes one field twice.

    Example:
        >>> from ckptstore import Migration
        >>> str(Migration(renamed={"lr": "scale"}, removed=["best"]))
        "Migration(renamed={'lr': 'scale'}, removed=['best'])"
        >>> Migration(added={"lowest": lambda old: min(old["best"])}, removed=["best"]).removed
        ('best',)
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)
    removed: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.renamed, Mapping) or not isinstance(self.added, Mapping):
            raise _bad(f"{self}: renamed and added must be mappings")
        if isinstance(self.removed, str) or not isinstance(self.removed, Sequence):
            raise _bad(f"{self}: removed must be a list of names")
        # Copies, so that they cannot change after these checks.
        object.__setattr__(self, "renamed", dict(self.renamed))
        object.__setattr__(self, "added", dict(self.added))
        object.__setattr__(self, "removed", tuple(self.removed))
        for names in ([*self.renamed, *self.removed], [*self.renamed.values(), *self.added]):
            for name in names:
                if not isinstance(name, str):
                    raise _bad(f"{self}: {name!r:.80} is not the name of a field")
                if names.count(name) > 1:
                    raise _bad(f"{self}: names the field {name!r} twice")
        for name, value in self.added.items():
            if isinstance(value, type):
                raise _bad(
                    f"{self}: the added field {name!r} is the class {value.__qualname__}; pass an "
                    "instance, or a function of the old fields"
                )

    def __str__(self) -> str:
        parts = [f"renamed={self.renamed!r}"] if self.renamed else []
        if self.added:
            names = self.added if isinstance(self.added, Mapping) else [self.added]
            parts.append(f"added={{{', '.join(f'{name!r}: ...' for name in names)}}}")
        if self.removed:
            shown = self.removed if isinstance(self.removed, str) else list(self.removed)
            parts.append(f"removed={shown!r}")
        return f"Migration({', '.join(parts)})"

    def before(self, after: frozenset[str]) -> frozenset[str]:
        """Return the field names of the version before, from those of the version after.

        Raises:
            StructureError: reason ``bad-migration`` if this step cannot lead to them.
        """
        new, old = {*self.renamed.values(), *self.added}, {*self.renamed, *self.removed}
        kept = after - new
        if new - after:
            raise _bad(f"{self}: makes {_listed(new - after)}, which the next version lacks")
        if kept & old:
            raise _bad(f"{self}: drops {_listed(kept & old)}, which the next version still has")
        if kept | old == after:
            raise _bad(
                f"{self}: changes no name, so a checkpoint could not show whether it is older; "
                "rename a field, too"
            )
        return kept | old

    def carry(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the version before that this step keeps, by their names after it."""
        return {self.renamed.get(n, n): v for n, v in values.items() if n not in self.removed}


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The conversion from the fields in a checkpoint to the fields of today's class.

    Attributes:
        stored: the fields of the checkpoint, in order.
        fields: the fields of the class, in order.
        steps: the migrations between them, oldest first.
    """

    stored: tuple[str, ...]
    fields: tuple[str, ...]
    steps: tuple[Migration, ...]

    def origins(self) -> list[int | None]:
        """Return the place of each field of the class in `stored`; None for an added one."""
        places: dict[str, Any] = {name: place for place, name in enumerate(self.stored)}
        for step in self.steps:
            places = step.carry(places) | dict.fromkeys(step.added)
        return [places[name] for name in self.fields]

    def apply(self, values: Sequence[Any]) -> list[Any]:
        """Return the values of the class's fields, from those of the checkpoint.

        Raises:
            UnknownTypeError: reason ``cannot-make`` if a user's function fails.
        """
        named = dict(zip(self.stored, values, strict=True))
        for step in self.steps:
            added = {name: _value(name, value, named) for name, value in step.added.items()}
            named = step.carry(named) | added
        return [named[name] for name in self.fields]


def check(fields: Sequence[str], steps: Sequence[Migration]) -> None:
    """Check that the steps lead to the fields of a class.

    Raises:
        StructureError: reason ``bad-migration``.
    """
    names = frozenset(fields)
    for step in reversed(steps):
        names = step.before(names)


def upgrade(
    stored: tuple[str, ...], fields: tuple[str, ...], steps: Sequence[Migration]
) -> Upgrade | None:
    """Return the upgrade from stored fields to a class's, or None if no version has them.

    Args:
        stored: the fields of a checkpoint.
        fields: the fields of the class.
        steps: the migrations, oldest first. The last ones are left out if the class does not have
            these changes yet, since the installed release may be older than the list.
    """
    names, done = frozenset(fields), len(steps)
    while done:
        try:
            check(fields, steps[:done])
            break
        except StructureError:
            done -= 1
    for first in range(done, -1, -1):
        if names == frozenset(stored):
            return Upgrade(stored, fields, tuple(steps[first:done]))
        if first:
            names = steps[first - 1].before(names)
    return None


def _value(name: str, value: Any, old: Mapping[str, Any]) -> Any:
    try:
        if inspect.isroutine(value):
            return value(types.MappingProxyType(old))
        return copy.deepcopy(value)
    except Exception as error:  # of the user's function or object
        signals.pass_on(error)
        raise UnknownTypeError(
            f"computing its added field {name!r} failed: {type(error).__name__}: {error}",
            reason=Reason.CANNOT_MAKE,
        ) from error


def _bad(message: str) -> StructureError:
    return StructureError(message, reason=Reason.BAD_MIGRATION)


def _listed(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))

"""Migrations: how the fields of a class became what they are today.

A checkpoint has no version of a class: the names of the fields that it stores say which one wrote
it. So a step that changes no name is refused, and where two versions have the same names, it is
the newer one.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptstore.errors import Reason, StructureError, UnknownTypeError


@dataclass(frozen=True, slots=True, eq=False)
class Migration:
    """One change of a class's fields, from one release to the next.

    Attributes:
        renamed: old name to new name.
        added: new name to its value in older checkpoints. A function is called with the fields
            of the version before, by the names that they had there, and returns the value; any
            other value is copied for each instance.
        removed: old names that are gone.

    Raises:
        StructureError: reason ``bad-migration`` for an argument that is not a mapping, or sequence,
            of names, and for a step that says two things of one field.

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
        # Copies, so that nobody changes them after these checks.
        object.__setattr__(self, "renamed", dict(self.renamed))
        object.__setattr__(self, "added", dict(self.added))
        object.__setattr__(self, "removed", tuple(self.removed))
        for names in ([*self.renamed, *self.removed], [*self.renamed.values(), *self.added]):
            for name in names:
                if not isinstance(name, str):
                    raise _bad(f"{self}: {name!r:.80} is not the name of a field")
                if names.count(name) > 1:
                    raise _bad(f"{self}: says two things of the field {name!r}")
        for name, value in self.added.items():
            if isinstance(value, type):
                raise _bad(
                    f"{self}: the added field {name!r} is the class {value.__qualname__}; give an "
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
            StructureError: reason ``bad-migration`` where this step cannot have led there.
        """
        new, old = {*self.renamed.values(), *self.added}, {*self.renamed, *self.removed}
        kept = after - new
        if new - after:
            raise _bad(f"{self}: leads to {_listed(new - after)}, but the next version has no such")
        if kept & old:
            raise _bad(f"{self}: ends {_listed(kept & old)}, which the next version still has")
        if kept | old == after:
            raise _bad(
                f"{self}: changes no name, so no checkpoint could show that it is older; give a "
                "field another name, too"
            )
        return kept | old

    def carry(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the version before that this step keeps, by their names after it."""
        return {self.renamed.get(n, n): v for n, v in values.items() if n not in self.removed}


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The way from the fields that a checkpoint has to those that a class has today.

    Attributes:
        stored: the fields of the checkpoint, in order.
        fields: those of the class, in order.
        steps: the migrations between them, oldest first.
    """

    stored: tuple[str, ...]
    fields: tuple[str, ...]
    steps: tuple[Migration, ...]

    def origins(self) -> list[int | None]:
        """Return where each field of the class stands in `stored`; None for an added one."""
        places: dict[str, Any] = {name: place for place, name in enumerate(self.stored)}
        for step in self.steps:
            places = step.carry(places) | dict.fromkeys(step.added)
        return [places[name] for name in self.fields]

    def apply(self, values: Sequence[Any]) -> list[Any]:
        """Return the values of the class's fields, from those of the checkpoint.

        Raises:
            UnknownTypeError: reason ``cannot-make`` where a user's function fails.
        """
        named = dict(zip(self.stored, values, strict=True))
        for step in self.steps:
            added = {name: _value(name, value, named) for name, value in step.added.items()}
            named = step.carry(named) | added
        return [named[name] for name in self.fields]


def check(fields: Sequence[str], steps: Sequence[Migration]) -> None:
    """Make sure that the steps lead to the fields of a class.

    Raises:
        StructureError: reason ``bad-migration``.
    """
    names = frozenset(fields)
    for step in reversed(steps):
        names = step.before(names)


def upgrade(
    stored: tuple[str, ...], fields: tuple[str, ...], steps: Sequence[Migration]
) -> Upgrade | None:
    """Return the way from stored fields to those of a class, or None where no version has them.

    Args:
        stored: the fields of a checkpoint.
        fields: those of the class.
        steps: oldest first. The last ones are left out where the class has not made them yet:
            the release that is installed may be older than the list.
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
        raise UnknownTypeError(
            f"the value of its added field {name!r} failed: {type(error).__name__}: {error}",
            reason=Reason.CANNOT_MAKE,
        ) from error


def _bad(message: str) -> StructureError:
    return StructureError(message, reason=Reason.BAD_MIGRATION)


def _listed(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))

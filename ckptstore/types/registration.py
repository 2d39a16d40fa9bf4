"""`register`: what a user says of a class of their own, checked before it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ckptstore.errors import Reason, StructureError
from ckptstore.format import TypeKind
from ckptstore.types import classes, migrations, registry
from ckptstore.types.migrations import Migration


def register(
    cls: type,
    *,
    name: str | None = None,
    migrate: Sequence[Migration] = (),
    flatten: Callable[[Any], tuple[Sequence[Any], Any]] | None = None,
    unflatten: Callable[[Any, Sequence[Any]], Any] | None = None,
) -> type:
    """Let `cls` be rebuilt by `load`, and by its own code where it has some.

    A NamedTuple or a plain dataclass needs no registration. A class that `jax.tree_util` knows
    needs `register(cls)` in the process that loads, because its unflatten runs code. Any other
    class needs `flatten` and `unflatten`, in both processes.

    Args:
        cls: the class; also usable as a decorator without arguments.
        name: the stored name, dotted; by default ``module.qualname``. It stays the same when the
            class moves: give a class that moved the name that it had.
        migrate: what became of its fields, oldest first, where checkpoints of older versions are
            to load.
        flatten: from an instance to (children, static part), as `jax.tree_util` has it.
        unflatten: from (static part, children) to an instance.

    Returns:
        cls.

    Raises:
        StructureError: reason ``register`` where `cls` is no class or needs none, only one of the
            two functions is given, or the name has no dot or belongs to another class; reason
            ``bad-migration`` where `migrate` does not lead to the fields of `cls`.
    """
    if not isinstance(cls, type):
        raise StructureError(f"register: found {cls!r}, expected a class", reason=Reason.REGISTER)
    if (flatten is None) != (unflatten is None):
        raise StructureError(
            f"register({cls.__qualname__}): give flatten and unflatten both, or neither",
            reason=Reason.REGISTER,
        )
    if registry.is_built_in(cls):
        raise StructureError(
            f"register: {cls.__qualname__} is built in and needs no registration",
            reason=Reason.REGISTER,
        )
    name = registry.default_name(cls) if name is None else name
    if not isinstance(name, str) or not all(name.rpartition(".")[::2]):
        raise StructureError(
            f"register: name={name!r}, expected a dotted name such as 'project.State'",
            reason=Reason.REGISTER,
        )
    migrate = _checked(cls, migrate, own=flatten is not None)
    registry.add(registry.Registration(cls, name, migrate, flatten, unflatten))
    return cls


def _checked(cls: type, migrate: Any, *, own: bool) -> Sequence[Migration]:
    """Return the steps if they lead to the fields that the class has."""
    if not isinstance(migrate, Sequence) or not all(type(step) is Migration for step in migrate):
        raise StructureError(
            f"register({cls.__qualname__}): migrate={migrate!r:.200}, expected a list of "
            "ckptstore.Migration, oldest first",
            reason=Reason.BAD_MIGRATION,
        )
    if not migrate:
        return ()
    kind = classes.kind_of(cls)
    if own or kind not in classes.RECORDS:
        raise StructureError(
            f"register({cls.__qualname__}): migrate is for a NamedTuple or a dataclass without "
            "flatten and unflatten; let unflatten know the old static parts",
            reason=Reason.BAD_MIGRATION,
        )
    fields = classes.fields_of(cls, TypeKind(kind))
    try:
        migrations.check(fields, migrate)
    except StructureError as error:
        raise StructureError(
            f"register({cls.__qualname__}): {error} (the class has the fields "
            f"{', '.join(fields) or '(none)'})",
            reason=error.reason,
        ) from None
    return tuple(migrate)

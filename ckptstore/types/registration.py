"""`register`: check a user's own class and enter it in the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ckptstore.errors import Reason, StructureError
from ckptstore.format import TypeKind
from ckptstore.types import migrations, registry
from ckptstore.types.fields import RECORD_KINDS, fields_of, kind_of
from ckptstore.types.migrations import Migration

T = TypeVar("T")


def register(
    cls: type[T],
    *,
    name: str | None = None,
    migrate: Sequence[Migration] = (),
    flatten: Callable[[T], tuple[Iterable[Any], Any]] | None = None,
    unflatten: Callable[[Any, Sequence[Any]], T] | None = None,
) -> type[T]:
    """Permit `load` to rebuild your class, with the class's own code if it has some.

    You need not register a NamedTuple or a plain dataclass. For a class that `jax.tree_util` knows,
    call `register(cls)` in the process that loads, because its unflatten runs code. For any other
    class, pass `flatten` and `unflatten`, in both processes.

    Args:
        cls: the class; you can also use `register` as a decorator without arguments.
        name: the stored name, dotted; by default ``module.qualname``. If you have moved the class,
            pass its old name.
        migrate: the changes of its fields, oldest first, so that checkpoints of older versions
            load.
        flatten: from an instance to (children, static part), as for `jax.tree_util`. The children
            are a list, a tuple or another iterable of the objects to store, each whole; a mapping,
            a set, a text or an array is refused as the children.
        unflatten: from (static part, list of children) to an instance. It must give back what
            `flatten` took apart, and change neither of its arguments. The first save of the class
            in a process tries it.

    Returns:
        cls.

    Raises:
        StructureError: reason ``register``: `cls` is not a class or needs no registration, only
            one of the two functions is passed, or the name has no dot or belongs to another class.
            Reason ``bad-migration``: `migrate` does not lead to the fields of `cls`.

    Example:
        >>> import tempfile
        >>> import ckptstore
        >>> class Ratio:
        ...     def __init__(self, above, below):
        ...         self.above, self.below = above, below
        >>> Ratio = ckptstore.register(
        ...     Ratio,
        ...     name="project.Ratio",
        ...     flatten=lambda ratio: ((ratio.above, ratio.below), None),
        ...     unflatten=lambda static, children: Ratio(*children),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = ckptstore.save(f"{folder}/ratio", Ratio(1, 3))
        ...     ckptstore.load(f"{folder}/ratio").below
        3
    """
    if not isinstance(cls, type):
        raise StructureError(f"register: found {cls!r}, expected a class", reason=Reason.REGISTER)
    if (flatten is None) != (unflatten is None):
        raise StructureError(
            f"register({cls.__qualname__}): pass flatten and unflatten both, or neither",
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
    kind = kind_of(cls)
    if own or kind not in RECORD_KINDS:
        raise StructureError(
            f"register({cls.__qualname__}): migrate is for a NamedTuple or a dataclass without "
            "flatten and unflatten; handle the old static parts in unflatten",
            reason=Reason.BAD_MIGRATION,
        )
    fields = fields_of(cls, TypeKind(kind))
    try:
        migrations.check(fields, migrate)
    except StructureError as error:
        raise StructureError(
            f"register({cls.__qualname__}): {error} (the class has the fields "
            f"{', '.join(fields) or '(none)'})",
            reason=error.reason,
        ) from None
    return tuple(migrate)

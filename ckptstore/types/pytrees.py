"""Pytrees: objects that two functions of their author take apart and make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MappingView, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ckptstore import signals
from ckptstore.format import TypeRow
from ckptstore.types.leaf import Refusal
from ckptstore.types.plain import plain_form
from ckptstore.types.records import Record

_OF_ARRAYS = ("__array__", "__array_interface__", "__dlpack__", "shape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pytree(Record):
    """A record made of the two functions of a class's author.

    `take` iterates over whatever `flatten` gives for the children, as every release did. A save
    uses `apart`, which refuses children that would lose data.

    Attributes:
        flatten: from an instance to (children, static part).
        owner: the object that holds the functions: a registration, or the class.
        of_jax: whether jax calls `unflatten`, which always passes it a tuple of children.
        trusted: whether a load may use it without your permission.
    """

    flatten: Callable[[Any], Any]
    owner: Any
    of_jax: bool = False
    trusted: bool = False

    def own_functions(self, x: Any) -> str:
        """Return the remedy for a class of jax whose functions another package wrote, or ""."""
        if not self.of_jax:
            return ""
        return (
            "; if the class is not yours, pass two functions of your own: "
            f"ckptstore.register({type(x).__qualname__}, flatten=..., unflatten=...)"
        )

    def apart(self, x: Any) -> tuple[Any, list[Any], type]:
        """Return the static part of an instance, its children, and the type that held these.

        Raises:
            Refusal: `flatten` fails, or its children are not a series of objects.
        """
        name = type(x).__qualname__
        try:
            pair = self.flatten(x)
            if fault := _no_series(pair):
                raise Refusal(
                    f"flatten of {name} returned {fault}, expected the pair (children, static "
                    "part); return the two as a tuple"
                )
            children, static = pair
            if fault := _no_series(children):
                form = plain_form(children, "b.data") or "b.data"
                mend = f"make it the only child, as in `return ({form},), None`"
                if children is x:
                    mend = (
                        "put its content into an object of another class and make that the only "
                        "child, as in `return (dict(b),), None`"
                    )
                raise Refusal(
                    f"flatten of {name} returned {fault} in the place of the children: only the "
                    f"items of an iteration over it would be stored; {mend}; unflatten gets it as "
                    f"children[0]{self.own_functions(x)}"
                )
            return static, list(children), type(children)
        except Refusal:
            raise
        except Exception as error:
            signals.pass_on(error)
            raise _failed(name, error) from error


def pytree(
    row: TypeRow,
    flatten: Callable[[Any], Any],
    make: Callable[[Sequence[Any]], Any],
    *,
    owner: Any,
    of_jax: bool = False,
    trusted: bool = False,
) -> Pytree:
    """Return the record of two functions.

    Args:
        row: the type, of kind ``pytree``.
        flatten: from an instance to (children, static part).
        make: from a list of the static part and the children to an instance.
        owner: as for `Pytree`.
        of_jax: as for `Pytree`.
        trusted: as for `Pytree`.

    Example:
        >>> from ckptstore.format import TypeKind
        >>> row = TypeRow(TypeKind.PYTREE, "project", "Pair")
        >>> record = pytree(row, lambda x: (x, None), lambda values: tuple(values[1:]), owner=tuple)
        >>> record.take((3, 4)), record.make([None, 3, 4])
        ([None, 3, 4], (3, 4))
    """

    def take(x: Any) -> Sequence[Any]:
        try:
            children, static = flatten(x)
            return [static, *children]
        except Exception as error:  # the author's function
            signals.pass_on(error)
            raise _failed(type(x).__qualname__, error) from error

    return Pytree(row, take, make, flatten=flatten, owner=owner, of_jax=of_jax, trusted=trusted)


def _failed(name: str, error: Exception) -> Refusal:
    return Refusal(
        f"flatten of {name}, which must return (children, static part), failed: "
        f"{type(error).__name__}: {error}"
    )


def _no_series(x: Any) -> str:
    """Return the kind of an object whose iteration would lose a part of it, or ""."""
    cls = type(x)
    if issubclass(cls, list | tuple | Iterator) or isinstance(x, MappingView):
        return ""
    full = f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")
    if isinstance(x, Mapping) or hasattr(cls, "keys"):
        return f"a mapping ({full})"
    if isinstance(x, Set):
        return f"a set ({full})"
    if issubclass(cls, str | bytes | bytearray):
        return f"a {cls.__name__}"
    if _is_array(x):
        return f"an array ({full})"
    return "" if hasattr(cls, "__iter__") else f"an object that is not a list ({full})"


def _is_array(x: Any) -> bool:
    if any(hasattr(x, name) for name in _OF_ARRAYS):
        return True
    try:
        memoryview(x).release()
    except TypeError:
        return False
    return True

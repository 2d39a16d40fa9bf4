"""The trial of a class's two functions: the first save checks that unflatten undoes flatten.

No value of an array is read. Spec: section 5.1, kind ``pytree``.
"""

from __future__ import annotations

import collections
import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ckptstore import signals
from ckptstore.errors import CheckpointError
from ckptstore.format import Kind, dtypes
from ckptstore.tree import encoding
from ckptstore.tree.held_sets import HeldSets
from ckptstore.tree.live import Encode, LiveTree
from ckptstore.tree.scalars import ENCODERS, SCALAR_TYPES
from ckptstore.types import (
    Child,
    Pytree,
    Refusal,
    class_of_today,
    find_registration,
    full_name,
    qualname_of,
)

_TRIED: dict[tuple[int, int], Any] = {}
"""The functions that were tried in this process: their owner and the type that held the children.

By the ids of both, since a metaclass may define a hash.
"""

_TOLD: dict[int, type] = {}
"""The classes of which a save has told that a load needs `types`, by id."""

_log = logging.getLogger("ckptstore")

_SERIES = (list, tuple)
_DICTS = (dict, collections.OrderedDict, collections.defaultdict)
_SETS = (set, frozenset)


def for_save(encode: Encode) -> Encode:
    """Return the encoder that a save uses: as `encode`, but of a pytree it tries the functions."""
    record = encode.args[0] if isinstance(encode, functools.partial) and encode.args else None
    if not isinstance(record, Pytree):
        return encode
    if record.of_jax and not record.trusted:
        _tell_of_types(record.owner)
    return functools.partial(_encode, record)


def _tell_of_types(cls: type) -> None:
    """Log once in a process that a load will need your permission to run code of a class."""
    if id(cls) in _TOLD or find_registration(cls) is not None:
        return
    _TOLD[id(cls)] = cls
    name = qualname_of(cls)
    _log.warning(
        "%s is made by functions of its own. To load it, pass load(url, types=[%s]) or like=, or "
        "call ckptstore.register(%s) before save and load",
        full_name(cls),
        name,
        name,
    )


def _encode(record: Pytree, live: LiveTree, x: Any) -> Sequence[Any]:
    static, children, holder = record.apart(x)
    if (id(record.owner), id(holder)) not in _TRIED:
        _try(record, x, static, children, holder)
        _TRIED[id(record.owner), id(holder)] = record.owner, holder
    live.add(Kind.RECORD, type=live.type_number(record.row))
    return [static, *children]


def _try(record: Pytree, x: Any, static: Any, children: list[Any], holder: type) -> None:
    """Make an object from the parts of `x`, take it apart, and compare its parts with these."""
    name = type(x).__qualname__
    values, atoms = _copied([static, *children])
    try:
        again = record.make(values)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # the author's function
        signals.pass_on(error)
        raise Refusal(
            f"unflatten of {name} failed on the static part and the children that flatten "
            f"returned, as it would in a load: {type(error).__name__}: {error}"
        ) from error
    if class_of_today(type(again)) is not class_of_today(type(x)):
        raise Refusal(
            f"unflatten of {name} returned {full_name(type(again))}, expected "
            f"{full_name(type(x))}; let it return what flatten took apart"
        )
    try:
        static_again, children_again, holder_again = record.apart(again)
    except Refusal as refusal:
        raise Refusal(
            f"unflatten of {name} made an object that cannot be taken apart again: {refusal}"
        ) from refusal
    text = _of_holders(holder, holder_again, record.of_jax)
    if not text and len(children) != len(children_again):
        text = f"{len(children)} children became {len(children_again)}"
    sets = HeldSets(x, again)
    if not text and (found := _difference([static], [static_again], None, sets)):
        text = f"in the static part {found[1]}"
    if not text and (found := _difference(children, children_again, atoms, sets)):
        text = f"in child {found[0]} {found[1]}"
    if text:
        raise Refusal(
            f"unflatten of {name} does not undo flatten, so `load` would return another object: "
            f"{text}; let flatten return each part of the object, and unflatten put each part back"
            f"{record.own_functions(x)}"
        )


def _of_holders(before: type, after: type, of_jax: bool) -> str:
    if before is after or (of_jax and {before, after} == {list, tuple}):
        return ""
    return (
        f"the children were {full_name(before)} and became {full_name(after)} (to keep the "
        f"{full_name(before)} itself, return it as the only child)"
    )


def _copied(parts: list[Any]) -> tuple[list[Any], Mapping[int, Any]]:
    """Return the parts with copies of Python's containers, and all other objects by id.

    So a function that changes its arguments does not change the object that is saved.
    """
    atoms: dict[int, Any] = {}
    seen: set[int] = set()
    stack: list[Any] = [parts]
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        cls = type(x)
        if cls in _SERIES or cls in _SETS:
            stack.extend(x)
        elif cls in _DICTS:
            stack.extend((*x.keys(), *x.values(), *getattr(x, "__dict__", {}).values()))
            stack.append(getattr(x, "default_factory", None))
        else:
            atoms[id(x)] = x
    try:
        return copy.deepcopy(parts, dict(atoms)), atoms
    except RecursionError:  # too many levels for Python's copy
        return list(parts), atoms


def _difference(
    before: Sequence[Any], after: Sequence[Any], atoms: Mapping[int, Any] | None, sets: HeldSets
) -> tuple[int, str] | None:
    """Return the number of the first part that differs, and the difference; None without one.

    Args:
        before: the parts that `flatten` returned first.
        after: as many parts, which it returned of the second object.
        atoms: the objects in `before`, by id. Without them, Python's scalars must be equal, too.
        sets: the sets of the two objects. Only the items of one may stand in another order.
    """
    if _ordered_difference(before, after, atoms, lambda a, b: False) is None:
        return None
    return _ordered_difference(before, after, atoms, sets.hold)  # which looks into the objects


def _ordered_difference(
    before: Sequence[Any],
    after: Sequence[Any],
    atoms: Mapping[int, Any] | None,
    may_differ: Callable[[Any, Any], bool],
) -> tuple[int, str] | None:
    scalars = [ENCODERS[type(x)](x) for x in before if type(x) in SCALAR_TYPES]
    done: set[tuple[int, int]] = set()
    stack = [(i, a, b) for i, (a, b) in enumerate(zip(before, after, strict=True))][::-1]
    while stack:
        number, a, b = stack.pop()
        if a is b or (id(a), id(b)) in done or may_differ(a, b):
            continue
        done.add((id(a), id(b)))
        cls = type(a)
        if type(b) is not cls:
            return number, f"{full_name(cls)} became {full_name(type(b))}"
        if cls in SCALAR_TYPES:
            x, y = ENCODERS[cls](a), ENCODERS[cls](b)
            if x != y and (atoms is None or (b is after[number] and y in scalars)):
                return number, f"{a!r:.40} became {b!r:.40}"
            continue
        if atoms is not None and id(b) in atoms:
            return number, f"an object of {full_name(cls)} became another object of that class"
        try:
            below = _below(a, b)
        except (Refusal, dtypes.DtypeRefusal):  # the walk refuses it, unless `supplied` names it
            continue
        if isinstance(below, str):
            return number, below
        stack.extend((number, x, y) for x, y in reversed(below))
    return None


def _below(a: Any, b: Any) -> list[tuple[Any, Any]] | str:
    """Compare two objects of one type but for the objects in them; return the pairs of these.

    Returns:
        The pairs, or the difference.
    """
    cls = type(a)
    if cls in _SERIES:
        if len(a) != len(b):
            return f"{len(a)} items of {full_name(cls)} became {len(b)}"
        return list(zip(a, b, strict=True))
    if cls in _SETS or cls is bytearray:
        return [] if a == b else f"{full_name(cls)} has other items"
    if cls in _DICTS:
        ordered = cls is collections.OrderedDict
        if a.keys() != b.keys() or (ordered and list(a) != list(b)):
            return f"{full_name(cls)} has other keys"
        if ordered and vars(a).keys() != vars(b).keys():
            return f"{full_name(cls)} has other attributes"
        attributes = [(vars(a)[n], vars(b)[n]) for n in vars(a)] if ordered else []
        return [*((a[key], b[key]) for key in a), *attributes]
    encode = encoding.encoder(cls, a)
    left, right = LiveTree(lenient=True), LiveTree(lenient=True)
    children, others = encode(left, a) or (), encode(right, b) or ()
    if left.kind == right.kind == [Kind.LEAF]:
        leaves = [table.leaf(0) for table in (left, right)]
        shown = [f"{row} {dtype}{list(shape)}" for row, dtype, shape in leaves]
        return [] if shown[0] == shown[1] else f"{shown[0]} became {shown[1]}"
    columns = [
        (t.kind, t.types, t.heap, t.dtypes, len(c)) for t, c in ((left, children), (right, others))
    ]
    if columns[0] != columns[1] and left.kind == [Kind.RECORD]:
        return f"{full_name(cls)} has other parts"
    if columns[0] != columns[1]:
        return f"{full_name(cls)} {a!r:.40} became {b!r:.40}"
    return [(_value(x), _value(y)) for x, y in zip(children, others, strict=True)]


def _value(child: Any) -> Any:
    return child.value if type(child) is Child else child

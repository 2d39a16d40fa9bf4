"""The part of a stored array that an index like that of numpy asks for."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from ckptstore.errors import Reason, StructureError
from ckptstore.sharding import Box

Rest = tuple[int | slice, ...]
"""The index that is left once the box is read."""


def cut(index: Any, shape: Sequence[int], path: str) -> tuple[Box, Rest]:
    """Return the smallest box of an array that holds what an index asks for, and the rest.

    Args:
        index: ints, slices and one ``...``, as numpy takes them.
        shape: the shape of the array.
        path: the path of the array, for messages.

    Raises:
        StructureError: reason ``bad-argument``.

    Example:
        >>> cut((slice(2, 8, 3), -1), (10, 4), "$.w")
        (((2, 6), (3, 4)), (slice(None, None, 3), 0))
    """
    items = list(index) if isinstance(index, tuple) else [index]
    if sum(item is ... for item in items) > 1:
        raise _refused(index, shape, path)
    dots = next((i for i, item in enumerate(items) if item is ...), None)
    if dots is not None:
        items[dots : dots + 1] = [slice(None)] * (len(shape) - len(items) + 1)
    if len(items) > len(shape):
        raise _refused(index, shape, path)
    items += [slice(None)] * (len(shape) - len(items))
    parts: list[tuple[tuple[int, int], int | slice]] = []
    for item, length in zip(items, shape, strict=True):
        if isinstance(item, slice):
            parts.append(_of_slice(item, length, index, shape, path))
        else:
            parts.append(_of_number(item, length, index, shape, path))
    return tuple(bounds for bounds, _ in parts), tuple(rest for _, rest in parts)


def _of_slice(
    item: slice, length: int, index: Any, shape: Sequence[int], path: str
) -> tuple[tuple[int, int], slice]:
    try:
        chosen = range(*item.indices(length))
    except (TypeError, ValueError):
        raise _refused(index, shape, path) from None
    if not chosen:
        return (0, 0), slice(None)
    first, last = sorted((chosen[0], chosen[-1]))
    return (first, last + 1), slice(None, None, chosen.step)


def _of_number(
    item: Any, length: int, index: Any, shape: Sequence[int], path: str
) -> tuple[tuple[int, int], int]:
    try:
        number = operator.index(item)
    except TypeError:
        raise _refused(index, shape, path) from None
    if isinstance(item, bool) or not -length <= number < length:
        raise _refused(index, shape, path)
    return (number % length, number % length + 1), 0


def _refused(index: Any, shape: Sequence[int], path: str) -> StructureError:
    return StructureError(
        f"{path}: the index {index!r:.200} does not fit an array of shape {list(shape)}; pass "
        "ints, slices and ... inside it, or read the whole array and index that: "
        "reader[path].read()",
        reason=Reason.BAD_ARGUMENT,
    )

"""A strict comparison of two trees: every class, dtype, weak type, bit, key and its order.

`==` is not enough: a NamedTuple equals a tuple, `1` equals `True` and `1.0`, NaN equals nothing,
and an attribute that was lost on the way is not seen. Left out on purpose: which devices a jax
array is committed to, the strides of a numpy array, and whether it may be written.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import struct
import types
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

_MISSING = object()


@dataclass(frozen=True)
class Difference:
    """One place where two trees differ.

    Attributes:
        path: The place, such as `$.opt_state[0].mu`.
        words: What was found for what was expected, in words that are the same for every tree.
    """

    path: str
    words: str


def differences(expected: Any, found: Any) -> list[Difference]:
    """Return every difference between the tree that was saved and the one that came back.

    An empty list means that they are the same. Below two containers of different classes the
    comparison goes on as far as their parts can be paired by name or by position.
    """
    out: list[Difference] = []
    _walk(expected, found, "$", out)
    if not out and _structure(expected) != _structure(found):
        out.append(Difference("$", "another jax tree structure"))
    return out


def _structure(tree: Any) -> Any:
    """Return what jax takes the structure for, or None where it cannot sort the keys of a dict."""
    try:
        return jax.tree.structure(tree)
    except ValueError:
        return None


def _walk(expected: Any, found: Any, path: str, out: list[Difference]) -> None:
    def differ(words: str) -> None:
        out.append(Difference(path, words))

    if expected is found:
        return
    if type(expected) is not type(found):
        differ(_class_words(expected, found))
        _walk_parts(expected, found, path, out, only_common=True)
    elif isinstance(expected, jax.Array):
        _compare_jax(expected, found, differ)
    elif isinstance(expected, np.ndarray | np.generic):
        _compare_numpy(np.asarray(expected), np.asarray(found), differ)
    elif isinstance(expected, float):
        if struct.pack("<d", expected) != struct.pack("<d", found):
            differ("another value of a float")
    elif isinstance(expected, complex):
        pairs = (struct.pack("<dd", one.real, one.imag) for one in (expected, found))
        if next(pairs) != next(pairs):
            differ("another value of a complex")
    elif isinstance(expected, set | frozenset):
        _compare_in_order(sorted(expected, key=repr), sorted(found, key=repr), path, out)
    elif _parts(expected) is None:
        if expected is not found and not _is_equal(expected, found):
            differ(f"another value of a {_kind(expected)}")
    else:
        if isinstance(expected, deque) and expected.maxlen != found.maxlen:
            differ("another maxlen of a deque")
        if isinstance(expected, defaultdict):
            _walk(expected.default_factory, found.default_factory, f"{path}.default_factory", out)
        _walk_parts(expected, found, path, out, only_common=False)


def _walk_parts(
    expected: Any, found: Any, path: str, out: list[Difference], *, only_common: bool
) -> None:
    """Compare the parts of two containers.

    Args:
        expected: The container that was saved.
        found: The one that came back.
        path: Their place.
        out: Where differences go.
        only_common: For containers of different classes: pair parts by the text of their names,
            and pass over what only one of the two has.
    """
    ours, theirs = _parts(expected), _parts(found)
    if ours is None or theirs is None:
        return
    if only_common:
        by_text = {str(name): part for (_, name), part in theirs.items()}
        for (prefix, name), part in ours.items():
            if str(name) in by_text:
                _walk(part, by_text[str(name)], f"{path}{_label(prefix, name)}", out)
        return
    for (prefix, name), part in ours.items():
        place = f"{path}{_label(prefix, name)}"
        other = theirs.get((prefix, name), _MISSING)
        if other is _MISSING:
            out.append(Difference(place, f"no {'item' if prefix else 'attribute'}"))
        else:
            _walk(part, other, place, out)
    for prefix, name in theirs.keys() - ours.keys():
        place = f"{path}{_label(prefix, name)}"
        out.append(Difference(place, f"an {'item' if prefix else 'attribute'} too many"))
    if isinstance(expected, Mapping):
        _compare_keys(list(expected), list(found), path, out)


def _compare_keys(expected: list[Any], found: list[Any], path: str, out: list[Difference]) -> None:
    if expected == found:  # `1` and `True` are equal keys, so their classes are still to be seen
        _compare_in_order(expected, found, f"{path} key ", out)
    elif len(expected) == len(found) and all(key in expected for key in found):
        out.append(Difference(path, "dict keys in another order"))


def _compare_in_order(
    expected: list[Any], found: list[Any], path: str, out: list[Difference]
) -> None:
    for number, (one, other) in enumerate(zip(expected, found, strict=False)):
        _walk(one, other, f"{path}[{number}]", out)
    if len(expected) != len(found):
        out.append(Difference(path, "another number of items"))


def _compare_jax(expected: jax.Array, found: jax.Array, differ: Callable[[str], None]) -> None:
    if expected.dtype != found.dtype:
        differ(f"{found.dtype} for {expected.dtype}")
    elif expected.shape != found.shape:
        differ("another shape")
    elif jax.dtypes.issubdtype(expected.dtype, jax.dtypes.prng_key):
        _compare_jax(jax.random.key_data(expected), jax.random.key_data(found), differ)
    elif expected.weak_type != found.weak_type:
        differ("weak type lost" if expected.weak_type else "weak type gained")
    else:
        _compare_numpy(np.asarray(expected), np.asarray(found), differ)


def _compare_numpy(expected: np.ndarray, found: np.ndarray, differ: Callable[[str], None]) -> None:
    if expected.dtype != found.dtype:
        differ(f"{found.dtype} for {expected.dtype}")
    elif expected.shape != found.shape:
        differ("another shape")
    elif expected.dtype.hasobject:
        if expected.tolist() != found.tolist():
            differ("other objects in an array")
    elif expected.tobytes() != found.tobytes():
        differ("other bits in an array")


def _parts(node: Any) -> dict[tuple[str, Any], Any] | None:
    """Return what a container holds, by the kind and the name of each part; None for a scalar.

    The kind is `"["` for an item and empty for an attribute. Attributes beyond the fields count.
    """
    if isinstance(node, jax.Array | np.ndarray | np.generic | type | enum.Enum | types.ModuleType):
        return None
    if isinstance(node, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return None
    attributes = {("", name): part for name, part in _attributes(node).items()}
    if isinstance(node, functools.partial):
        own = {"func": node.func, "args": node.args, "keywords": node.keywords}
        return {**{("", name): part for name, part in own.items()}, **attributes}
    if isinstance(node, Mapping):
        return {**{("[", key): part for key, part in node.items()}, **attributes}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        named = zip(node._fields, node, strict=True)
        return {**{("", name): part for name, part in named}, **attributes}
    if isinstance(node, tuple | list | deque):
        return {**{("[", number): part for number, part in enumerate(node)}, **attributes}
    if dataclasses.is_dataclass(node) or attributes:
        return attributes
    return None


def _attributes(node: Any) -> dict[str, Any]:
    """Return the attributes that an instance itself holds, in its `__dict__` or in its slots."""
    found = dict(getattr(node, "__dict__", {}))
    for kind in type(node).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType) and not name.startswith("__"):
                value = getattr(node, name, _MISSING)
                if value is not _MISSING:
                    found.setdefault(name, value)
    return found


def _is_equal(expected: Any, found: Any) -> bool:
    """Return whether `==` says a plain yes."""
    return bool((expected == found) is True)


def _class_words(expected: Any, found: Any) -> str:
    want, have = _kind(expected), _kind(found)
    if want == have:
        return f"another class of {want}"
    return f"{have} for {want}"


def _kind(node: Any) -> str:
    if isinstance(node, jax.Array):
        return "jax array"
    if isinstance(node, np.ndarray):
        return "numpy array"
    if isinstance(node, np.generic):
        return "numpy scalar"
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return "NamedTuple" if node._fields else "empty NamedTuple"
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return "dataclass"
    if isinstance(node, bool | int | float | complex | str | bytes):
        return f"Python {type(node).__name__}"
    return "None" if node is None else type(node).__qualname__


def _label(prefix: str, name: Any) -> str:
    return f"[{name!r}]" if prefix else f".{name}"

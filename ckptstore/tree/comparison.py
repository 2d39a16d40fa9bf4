"""Holding a checkpoint against `like`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptstore.errors import Reason, StructureError, UnknownTypeError
from ckptstore.format import DICT_KINDS, Kind, TypeKind, TypeRow, dtypes
from ckptstore.tree import paths
from ckptstore.tree.flattening import Walk
from ckptstore.tree.stored import StoredTree
from ckptstore.types import classes, lookup, registry

_SHOWN = 50
_CASTABLE = "biufcV"
_NUMBERS = (int, float, complex)
_VALUE_KINDS = {Kind.SURROGATE_STR: Kind.STR}
_KIND_NAMES = {Kind.NONE: "None", Kind.SURROGATE_STR: "str", Kind.DEFAULT_DICT: "defaultdict"}

_Table = StoredTree | Walk


@dataclass
class Fit:
    """How the leaves and types of a checkpoint are to come back.

    Attributes:
        given: classes by stored name.
        places: where a leaf is to live, in its framework's terms.
        casts: the dtype that a leaf is cast to.
        numbers: leaves that come back as the Python number that they were before jit.
        overrides: stored nodes that are taken from `like` as they are.
    """

    given: dict[str, type] = field(default_factory=dict)
    places: dict[int, Any] = field(default_factory=dict)
    casts: dict[int, np.dtype[Any]] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)
    overrides: dict[int, Any] = field(default_factory=dict)


def number_hint(x: Any, shape: Sequence[int] | None) -> str:
    """Say what to put into `like` for a number `x`, where an array of this shape is stored."""
    return "; pass an array there" if type(x) in _NUMBERS and shape == () else ""


def key_text(impl: str | None) -> str:
    """Say what an array with this key implementation is."""
    return "a plain array" if impl is None else f"a PRNG key of {impl}"


def check_same_paths(stored: Mapping[str, int], like: Mapping[str, int], where: str) -> None:
    """Refuse a selection that means other places in the checkpoint than in `like`."""
    if stored.keys() != like.keys():
        lines = [f"{p}: not in `like`" for p in stored if p not in like]
        lines += [f"{p}: not in the checkpoint" for p in like if p not in stored]
        raise differences(where, lines)


def differences(where: str, lines: list[str]) -> StructureError:
    """Return the error that lists differences from `like`, each a line with its path."""
    more = f"\n  … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return StructureError(
        f"{where}: {len(lines)} difference(s) from `like`:\n  "
        + "\n  ".join(lines[:_SHOWN])
        + more,
        reason=Reason.DIFFERS_FROM_LIKE,
    )


def fit(
    stored: StoredTree,
    like: Walk,
    pairs: Sequence[tuple[int, int]],
    given: Mapping[str, type],
    *,
    cast: bool,
    numpy: bool,
) -> Fit:
    """Compare the subtrees of each pair of (stored node, node of `like`).

    Args:
        stored: the checkpoint.
        like: the tree that it is held against.
        pairs: what to compare.
        given: classes of the caller's by stored name.
        cast: note differing dtypes in `Fit.casts`.
        numpy: take a numpy array for any array.

    Raises:
        StructureError: reason ``differs-from-like``, listing every difference by path.
    """
    return _Comparison(stored, like, given, cast=cast, numpy=numpy).run(pairs)


class _Comparison:
    """One comparison; what differs is noted by the node of either table."""

    def __init__(
        self,
        stored: StoredTree,
        like: Walk,
        given: Mapping[str, type],
        *,
        cast: bool,
        numpy: bool,
    ) -> None:
        self.stored = stored
        self.like = like
        self.given = given
        self.cast = cast
        self.numpy = numpy
        self.fit = Fit()
        self.noted: list[tuple[_Table, int, str]] = []
        self.origins: dict[tuple[int, type], list[int | None]] = {}
        self.wishes: dict[int, tuple[str, Any]] = {}  # dtype and place of a leaf in `like`

    def run(self, pairs: Sequence[tuple[int, int]]) -> Fit:
        like = self.like
        for number, kind in enumerate(like.kind):
            if kind in (Kind.RECORD, Kind.ENUM):
                self.fit.given[str(like.row(number))] = type(like.objects[number])
        todo, done = list(reversed(pairs)), set()
        while todo:
            i, j = todo.pop()
            i = self.stored.arg[i] if self.stored.kind[i] == Kind.SAME else i
            j = like.arg[j] if like.kind[j] == Kind.SAME else j
            if (i, j) not in done:
                done.add((i, j))
                todo.extend(reversed(self._compare(i, j)))
        if self.noted:
            places = {id(table): self._places(table) for table in (self.stored, like)}
            lines = [f"{places[id(table)][node]}: {text}" for table, node, text in self.noted]
            raise differences(self.stored.where, lines)
        return self.fit

    def _places(self, table: _Table) -> dict[int, str]:
        """Return the paths of the nodes of a table of which something was noted."""
        nodes = [node for other, node, _ in self.noted if other is table]
        return dict(zip(nodes, paths.format_paths(table, nodes), strict=True))

    def _compare(self, i: int, j: int) -> list[tuple[int, int]]:
        """Note how two nodes differ; return the pairs of children to go on with."""
        stored, like = self.stored, self.like
        kind, kind_like = Kind(stored.kind[i]), Kind(like.kind[j])
        if kind == Kind.SUPPLIED:
            self.fit.overrides[i] = like.objects[j]
            return []
        if kind == Kind.LEAF:
            self._compare_leaf(i, j)
            return []
        if _VALUE_KINDS.get(kind, kind) != _VALUE_KINDS.get(kind_like, kind_like):
            self._differ(i, self._name(i), self._like(j))
            return []
        if kind == Kind.DEFAULT_DICT and stored.data(i) != like.data[j]:
            mine, theirs = (d.decode() or "None" for d in (stored.data(i), like.data[j]))
            self._differ(i, f"factory {mine}", theirs)
        if kind in DICT_KINDS:
            return self._compare_dicts(i, j)
        if kind in (Kind.RECORD, Kind.ENUM):
            return self._compare_records(i, j)
        if kind in (Kind.SET, Kind.FROZENSET, Kind.RANGE, Kind.SLICE):
            return []
        return self._compare_children(i, j)

    def _compare_children(self, i: int, j: int) -> list[tuple[int, int]]:
        ours, theirs = self.stored.layout.children(i), self.like.layout.children(j)
        self._unmatched(ours[len(theirs) :], theirs[len(ours) :])
        return list(zip(ours, theirs, strict=False))

    def _compare_records(self, i: int, j: int) -> list[tuple[int, int]]:
        row, other = self.stored.row(i), self.like.row(j)
        cls = type(self.like.objects[j])
        if str(row) != str(other) and not self._leads_to(row, cls):
            self._differ(i, str(row), str(other), _hint(row, cls))
            return []
        if row.kind not in classes.RECORDS or other.kind not in classes.RECORDS:
            if row.kind != other.kind or row.fields != other.fields:
                mine, theirs = (f"{r.kind} ({', '.join(r.fields)})" for r in (row, other))
                self._differ(i, f"{row}: {mine}", theirs)
                return []
            self.fit.given[str(row)] = cls
            return self._compare_children(i, j) if row.kind != TypeKind.ENUM else []
        origins = self.origins.get((self.stored.type[i], cls))
        if origins is None:
            try:
                origins = lookup.find(row, {str(row): cls})[1].origins()
            except UnknownTypeError as error:
                self._note(self.stored, i, str(error))
                return []
            self.origins[self.stored.type[i], cls] = origins
            self.fit.given[str(row)] = cls
        ours = self.stored.layout.children(i)
        places = zip(origins, self.like.layout.children(j), strict=True)
        return [(ours[place], node) for place, node in places if place is not None]

    def _leads_to(self, row: TypeRow, cls: type) -> bool:
        """Tell whether a stored name that is not that of `cls` means it all the same."""
        try:
            return lookup.meant(row, self.given) is cls
        except UnknownTypeError:
            return False

    def _compare_dicts(self, i: int, j: int) -> list[tuple[int, int]]:
        stored, like = self.stored, self.like
        mine = _by_key(stored, stored.layout.children(i))
        other = _by_key(like, like.layout.children(j))
        self._unmatched(
            [node for key, node in mine.items() if key not in other],
            [node for key, node in other.items() if key not in mine],
        )
        ordered = stored.kind[i] == Kind.ORDERED_DICT and mine.keys() == other.keys()
        if ordered and list(mine) != list(other):
            here, there = (", ".join(key for key, *_ in keys) for keys in (mine, other))
            self._differ(i, f"order {here}", there)
        return [(node, other[key]) for key, node in mine.items() if key in other]

    def _compare_leaf(self, i: int, j: int) -> None:
        leaf, x = self.stored.arg[i], self.like.objects[j]
        known = registry.adapter(registry.top_level(type(x).__module__))
        expected = known.expected(x) if known is not None else None
        if self.like.kind[j] == Kind.LEAF:
            expected = self.like.leaf(self.like.arg[j])
        row, dtype, shape = self.stored.leaf(leaf)
        if expected is None and row.extra.get("weak") is True and self._is_number(x, dtype, shape):
            self._wish(i, (type(x).__name__, None))
            self.fit.numbers.add(leaf)
            return
        if expected is None:
            self._differ(i, self._name(i), self._like(j), number_hint(x, shape))
            return
        other, dtype_like, shape_like = expected
        impl, impl_like = row.extra.get("impl"), other.extra.get("impl")
        if str(row) == str(other) and impl != impl_like:
            self._differ(i, key_text(impl), key_text(impl_like))
        elif str(row) != str(other) and not self.numpy:
            remedy = ""
            if other.module == "numpy":
                remedy = '; arrays="numpy" gives numpy arrays'
            elif row.module == "numpy":
                remedy = "; have numpy arrays in `like`, and convert what is loaded"
            self._differ(i, self._name(i), self._like(j), remedy)
        elif shape != shape_like:
            self._differ(i, f"shape {list(shape)}", str(list(shape_like)))
        elif dtype != dtype_like:
            self._compare_dtype(i, dtype, dtype_like)
        wish = (str(dtype_like), known.place(x) if known is not None else None)
        self._wish(i, wish)
        self.fit.places[leaf] = wish[1]

    def _is_number(self, x: Any, stored: dtypes.Stored, shape: Sequence[int]) -> bool:
        """Tell whether jit makes of such a Python number an array of this dtype and shape."""
        kind = dtypes.resolve(stored, where=self.stored.where).kind
        return type(x) in _NUMBERS and not shape and np.dtype(type(x)).kind == kind

    def _wish(self, i: int, wish: tuple[str, Any]) -> None:
        """Note what `like` has for a leaf, which may stand in several places."""
        if self.wishes.setdefault(self.stored.arg[i], wish) != wish:
            self._note(
                self.stored,
                i,
                "stands in two places in the checkpoint, for which `like` has different dtypes or "
                "shardings; make them equal in `like`",
            )

    def _compare_dtype(self, i: int, mine: dtypes.Stored, theirs: dtypes.Stored) -> None:
        source = dtypes.resolve(mine, where=self.stored.where)
        target = dtypes.resolve(theirs, where="like")
        numeric = _is_numeric(source) and _is_numeric(target)
        if not numeric or _rank(theirs, target) < _rank(mine, source):
            self._differ(i, str(mine), str(theirs), "; no cast leads there")
        elif self.cast:
            self.fit.casts[self.stored.arg[i]] = target
        else:
            self._differ(i, str(mine), str(theirs), "; change `like`, or pass cast=True")

    def _unmatched(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        """Note what stands on one side only."""
        for node in ours:
            self._note(self.stored, node, f"{self._name(node)} in the checkpoint, not in `like`")
        for node in theirs:
            self._note(self.like, node, f"{self._like(node)} in `like`, not in the checkpoint")

    def _differ(self, i: int, mine: str, theirs: str, remedy: str = "") -> None:
        """Note what is found at a stored node, and in its place in `like`."""
        self._note(self.stored, i, f"{mine} in the checkpoint, {theirs} in `like`{remedy}")

    def _note(self, table: _Table, node: int, text: str) -> None:
        self.noted.append((table, node, text))

    def _name(self, i: int) -> str:
        """Say what a stored node is."""
        kind = Kind(self.stored.kind[i])
        if kind == Kind.LEAF:
            return _array(*self.stored.leaf(self.stored.arg[i]))
        if kind in (Kind.RECORD, Kind.ENUM):
            return str(self.stored.row(i))
        return _KIND_NAMES.get(kind, kind.name.lower())

    def _like(self, j: int) -> str:
        """Say what a node of `like` is."""
        if self.like.kind[j] == Kind.SUPPLIED:
            return f"something that cannot be stored ({self.like.data[j].decode()})"
        if self.like.kind[j] == Kind.LEAF:
            return _array(*self.like.leaf(self.like.arg[j]))
        cls = type(self.like.objects[j])
        return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def _array(row: TypeRow, dtype: dtypes.Stored, shape: Sequence[int]) -> str:
    return f"{row} {dtype}{list(shape)}"


def _by_key(table: _Table, entries: Sequence[int]) -> dict[tuple[str, tuple[str, ...], int], int]:
    """Return the values of a dict by printed key and the enums in it; equal ones are numbered."""
    out: dict[tuple[str, tuple[str, ...], int], int] = {}
    for key, value in zip(entries[::2], entries[1::2], strict=True):
        enums = [n for n in range(key, value) if table.kind[n] == Kind.ENUM]
        text = (table.key(key), tuple(str(table.row(n)) for n in enums))
        number = 0
        while (*text, number) in out:
            number += 1
        out[*text, number] = value
    return out


def _hint(row: TypeRow, cls: type) -> str:
    """Say what to do where a class may only have moved."""
    if row.name.rpartition(".")[2] != cls.__name__:
        return ""
    return (
        f"; if it is the same class, pass types={{'{row}': {cls.__name__}}}, or "
        f"ckptstore.register({cls.__name__}, name='{row}')"
    )


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _CASTABLE and not issubclass(dtype.type, np.void)


def _rank(stored: dtypes.Stored, dtype: np.dtype[Any]) -> int:
    """Order dtypes so that a cast never goes down: bool, integers, floats, complex numbers."""
    if "int" in str(stored):
        return 1
    return {"b": 0, "f": 2, "V": 2, "c": 3}[dtype.kind]  # V: the floats of ml_dtypes

"""Comparing a checkpoint with `like`: every difference, and the form of each loaded leaf."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptstore.errors import UnknownTypeError
from ckptstore.format import DICT_KINDS, Kind, TypeKind, TypeRow, dtypes
from ckptstore.texts import shown
from ckptstore.tree import paths
from ckptstore.tree.differences import (
    LINES_SHOWN,
    NUMBERS,
    differs_from_like,
    key_text,
    moved_hint,
    number_hint,
)
from ckptstore.tree.entries import by_key
from ckptstore.tree.live import LiveTree
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.stored import StoredTree
from ckptstore.types import RECORD_KINDS, find_adapter, find_class, find_named, module_of

_ENOUGH = 1 << 17
"""The differences after which a comparison ends."""

_TWO = "stands in two places, for which `like` has two {}; make them equal in `like`"
_CASTABLE = "biufcVW"  # V and W: the numbers of ml_dtypes
_VALUE_KINDS: dict[int, int] = {Kind.SURROGATE_STR: Kind.STR}
_KIND_NAMES = {Kind.NONE: "None", Kind.SURROGATE_STR: "str", Kind.DEFAULT_DICT: "defaultdict"}


@dataclass(frozen=True, slots=True)
class Target:
    """The wanted form of the leaves and types of a checkpoint.

    Attributes:
        classes: the classes, by stored name.
        places: the place of a leaf (its device or sharding), in its framework's terms.
        casts: the dtype that a leaf is cast to.
        numbers: leaves that come back as the Python number that they were before jit.
        overrides: stored nodes that are replaced by objects of `like`.
    """

    classes: dict[str, type] = field(default_factory=dict)
    places: dict[int, Any] = field(default_factory=dict)
    casts: dict[int, np.dtype[Any]] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)
    overrides: dict[int, Any] = field(default_factory=dict)


def compare(
    stored: StoredTree,
    like: LiveTree,
    pairs: Sequence[tuple[int, int]],
    *,
    classes: Mapping[str, type],
    cast: bool,
    numpy: bool,
) -> Target:
    """Compare the subtrees of each pair of (stored node, node of `like`).

    Args:
        stored: the checkpoint.
        like: the tree that it is compared with.
        pairs: the pairs of nodes to compare.
        classes: the classes of the caller, by stored name.
        cast: note differing dtypes in `Target.casts`.
        numpy: accept a numpy array in place of any array.

    Raises:
        StructureError: reason ``differs-from-like``, listing every difference by path.
    """
    return _Comparison(stored, like, classes, cast=cast, numpy=numpy).run(pairs)


class _Comparison:
    """One comparison, which notes each difference by a node of either table."""

    def __init__(
        self,
        stored: StoredTree,
        like: LiveTree,
        classes: Mapping[str, type],
        *,
        cast: bool,
        numpy: bool,
    ) -> None:
        self.stored = stored
        self.like = like
        self.classes = classes
        self.cast = cast
        self.numpy = numpy
        self.target = Target()
        self.noted: list[tuple[NodeTable, int, str]] = []  # the first ones
        self.more = 0
        self.leads: dict[tuple[int, type], bool] = {}
        self.names = functools.cache(lambda number: f"{stored.types[number - 1]}")
        self.origins: dict[tuple[int, type], list[int | None]] = {}
        self.wishes: dict[int, tuple[str, Any]] = {}  # dtype and place in `like`, by leaf

    def run(self, pairs: Sequence[tuple[int, int]]) -> Target:
        stored, like = self.stored, self.like
        self.target.classes.update(like.classes())
        todo, done = list(reversed(pairs)), set()
        while todo:
            i, j = todo.pop()
            i = stored.arg[i] if stored.kind[i] == Kind.SAME else i
            j = like.arg[j] if like.kind[j] == Kind.SAME else j
            if self.more > _ENOUGH:
                break  # a stored node may stand in many places of `like`
            if (i, j) not in done:
                done.add((i, j))
                todo.extend(reversed(self._compare(i, j)))
        if self.noted:
            raise differs_from_like(self.stored.where, self._lines(), self.more)
        return self.target

    def _lines(self) -> list[str]:
        """Return the noted differences, with the paths of the nodes that will be shown."""
        places: dict[tuple[int, int], str] = {}
        for table in (self.stored, self.like):
            nodes = [node for other, node, _ in self.noted if other is table]
            for node, path in zip(nodes, paths.shown_paths(table, nodes), strict=True):
                places[id(table), node] = path
        return [f"{places[id(table), node]}: {text}" for table, node, text in self.noted]

    def _compare(self, i: int, j: int) -> list[tuple[int, int]]:
        """Note the differences of two nodes; return the pairs of children to compare next."""
        stored, like = self.stored, self.like
        kind, kind_like = stored.kind[i], like.kind[j]
        if kind == Kind.SUPPLIED:
            self.target.overrides[i] = like.objects[j]
            return []
        if kind == Kind.LEAF:
            self._compare_leaf(i, j)
            return []
        if _VALUE_KINDS.get(kind, kind) != _VALUE_KINDS.get(kind_like, kind_like):
            self._differ(i, self._name(i), self._like(j))
            return []
        if kind == Kind.DEFAULT_DICT and stored.data(i) != like.data(j):
            self._differ(i, f"factory {shown(stored.text(i)) or None}", like.text(j) or "None")
        if kind in DICT_KINDS:
            return self._compare_dicts(i, j)
        if kind in (Kind.RECORD, Kind.ENUM):
            return self._compare_records(i, j)
        if kind in (Kind.SET, Kind.FROZENSET, Kind.RANGE, Kind.SLICE):
            return []
        return self._compare_children(i, j)

    def _compare_children(self, i: int, j: int) -> list[tuple[int, int]]:
        stored, like = self.stored.layout.children(i), self.like.layout.children(j)
        self._unmatched(stored[len(like) :], like[len(stored) :])
        return list(zip(stored, like, strict=False))

    def _compare_records(self, i: int, j: int) -> list[tuple[int, int]]:
        row, row_like = self.stored.row(i), self.like.row(j)
        cls = self.like.class_of(j)
        if str(row) != str(row_like) and not self._leads_to(self.stored.type[i], cls):
            self._differ(i, f"{row}", f"{row_like}", moved_hint(row, cls))
            return []
        if row.kind not in RECORD_KINDS or row_like.kind not in RECORD_KINDS:
            if row.kind != row_like.kind or row.fields != row_like.fields:
                texts = [f"{r.kind} ({shown(', '.join(r.fields))})" for r in (row, row_like)]
                self._differ(i, f"{row}: {texts[0]}", texts[1])
                return []
            self.target.classes[str(row)] = cls
            pairs = self._compare_children(i, j) if row.kind != TypeKind.ENUM else []
            if str(row) == "numpy.ma.MaskedArray" and not self.cast:  # a print sets its fill value
                kinds = self.stored.kind[pairs[2][0]], self.like.kind[pairs[2][1]]
                del pairs[2 : 3 if Kind.NONE in kinds else 2]
            return pairs
        origins = self.origins.get((self.stored.type[i], cls))
        if origins is None:
            try:
                origins = find_class(row, {str(row): cls})[1].origins()
            except UnknownTypeError as error:
                self._note(self.stored, i, str(error))
                return []
            self.origins[self.stored.type[i], cls] = origins
            self.target.classes[str(row)] = cls
        fields = self.stored.layout.children(i)
        nodes = zip(origins, self.like.layout.children(j), strict=True)
        return [(fields[origin], node) for origin, node in nodes if origin is not None]

    def _leads_to(self, number: int, cls: type) -> bool:
        """Return whether the stored name of a type, other than that of `cls`, leads to `cls`."""
        if (number, cls) not in self.leads:
            try:
                found = find_named(self.stored.types[number - 1], self.classes) is cls
            except UnknownTypeError:
                found = False
            self.leads[number, cls] = found
        return self.leads[number, cls]

    def _compare_dicts(self, i: int, j: int) -> list[tuple[int, int]]:
        stored = by_key(self.stored, self.stored.layout.children(i))
        like = by_key(self.like, self.like.layout.children(j))
        self._unmatched(
            [node for key, node in stored.items() if key not in like],
            [node for key, node in like.items() if key not in stored],
        )
        ordered = self.stored.kind[i] == Kind.ORDERED_DICT and stored.keys() == like.keys()
        if ordered and list(stored) != list(like):
            orders = [shown(", ".join(text for text, *_ in keys), 1000) for keys in (stored, like)]
            self._differ(i, f"order {orders[0]}", orders[1])
        return [(node, like[key]) for key, node in stored.items() if key in like]

    def _compare_leaf(self, i: int, j: int) -> None:
        leaf, x = self.stored.arg[i], self.like.objects[j]
        adapter = find_adapter(module_of(type(x)))
        expected = adapter.expected(x) if adapter is not None else None
        if self.like.kind[j] == Kind.LEAF:
            expected = self.like.leaf(self.like.arg[j])
        row, dtype, shape = self.stored.leaf(leaf)
        if expected is None and row.extra.get("weak") is True and self._is_number(x, i, shape):
            self._wish(i, type(x).__name__, None)
            self.target.numbers.add(leaf)
            return
        if expected is None:
            self._differ(i, self._name(i), self._like(j), number_hint(x, shape))
            return
        row_like, dtype_like, shape_like = expected
        impl, impl_like = row.extra.get("impl") or None, row_like.extra.get("impl")
        if str(row) == str(row_like) and impl != impl_like:
            self._differ(i, key_text(impl), key_text(impl_like))
        elif not self.numpy and not (adapter is not None and adapter.takes(row, row_like)):
            remedy = ""
            if row_like.module == "numpy":
                remedy = '; arrays="numpy" gives numpy arrays'
            elif row.module == "numpy":
                remedy = "; put numpy arrays into `like`, and convert the loaded ones"
            elif str(row) == str(row_like):
                remedy = "; one of them is a Parameter"
            self._differ(i, self._name(i), self._like(j), remedy)
        elif shape != shape_like:
            self._differ(i, f"shape {list(shape)}", str(list(shape_like)))
        elif dtype != dtype_like:
            self._compare_dtype(i, row, dtype, dtype_like)
        place = adapter.place(x) if adapter is not None else None
        self.target.places[leaf] = self._wish(i, str(dtype_like), place)

    def _stored_dtype(self, i: int) -> np.dtype[Any]:
        return self.stored.dtype(int(self.stored.index.leaves.dtype[self.stored.arg[i]]))

    def _is_number(self, x: Any, i: int, shape: Sequence[int]) -> bool:
        """Return whether jit turns such a Python number into an array as at the leaf `i`."""
        kind = self._stored_dtype(i).kind
        return type(x) in NUMBERS and not shape and np.dtype(type(x)).kind == kind

    def _wish(self, i: int, dtype: str, place: Any) -> Any:
        """Note the wish of `like` for a leaf, which may stand in several places; return where."""
        before, first = self.wishes.get(self.stored.arg[i], (dtype, place))
        place = first if place is None else place  # a placeholder may name none
        self.wishes[self.stored.arg[i]] = dtype, place
        if dtype != before:
            self._note(self.stored, i, _TWO.format(f"dtypes, {shown(before)} and {shown(dtype)}"))
        elif first is not None and first != place:
            self._note(self.stored, i, _TWO.format("shardings, or commits only one to a device"))
        return place

    def _compare_dtype(
        self, i: int, row: TypeRow, stored: dtypes.Stored, like: dtypes.Stored
    ) -> None:
        source = self._stored_dtype(i)
        if _in_memory(row, source) == like:
            return
        texts = ("", "") if self._is_full() else (shown(str(stored)), shown(str(like)))
        target = dtypes.resolve(like, where="like")
        numeric = _is_numeric(source) and _is_numeric(target)
        if not numeric or _rank(like, target) < _rank(stored, source):
            self._differ(i, texts[0], texts[1], "; no cast converts one to the other")
        elif self.cast:
            self.target.casts[self.stored.arg[i]] = target
        else:
            self._differ(i, texts[0], texts[1], "; change `like`, or pass cast=True")

    def _unmatched(self, stored: Sequence[int], like: Sequence[int]) -> None:
        """Note the nodes that are on one side only."""
        for node in stored:
            self._note(self.stored, node, f"{self._name(node)} in the checkpoint, not in `like`")
        for node in like:
            self._note(self.like, node, f"{self._like(node)} in `like`, not in the checkpoint")

    def _differ(self, i: int, stored: str, like: str, remedy: str = "") -> None:
        """Note the difference between a stored node and its counterpart in `like`."""
        self._note(self.stored, i, f"{stored} in the checkpoint, {like} in `like`{remedy}")

    def _is_full(self) -> bool:
        return len(self.noted) >= LINES_SHOWN

    def _note(self, table: NodeTable, node: int, text: str) -> None:
        if self._is_full():
            self.more += 1
        else:
            self.noted.append((table, node, text))

    def _name(self, i: int) -> str:
        """Return the type of a stored node, while its difference would be shown."""
        if self._is_full():
            return ""
        kind = Kind(self.stored.kind[i])
        if kind == Kind.LEAF:
            return _array(*self.stored.leaf(self.stored.arg[i]))
        if kind in (Kind.RECORD, Kind.ENUM):
            return self.names(self.stored.type[i])
        return _KIND_NAMES.get(kind, kind.name.lower())

    def _like(self, j: int) -> str:
        """Return the type of a node of `like`."""
        if self.like.kind[j] == Kind.SUPPLIED:
            return f"an object that cannot be stored ({self.like.text(j)})"
        if self.like.kind[j] == Kind.LEAF:
            return _array(*self.like.leaf(self.like.arg[j]))
        cls = type(self.like.objects[j])
        return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def _array(row: TypeRow, dtype: dtypes.Stored, shape: Sequence[int]) -> str:
    return f"{row} {shown(str(dtype))}{list(shape)}"


def _in_memory(row: TypeRow, dtype: np.dtype[Any]) -> dtypes.Stored | None:
    """Return the form in which `save` would store a loaded dtype; None if it would refuse it.

    Another writer may spell it differently (``[1D]``), and numpy's scalars have no byte order.
    """
    if str(row) == "numpy.generic" and dtype.names is None:
        dtype = dtype.newbyteorder("=")
    try:
        return dtypes.describe(dtype)
    except dtypes.DtypeRefusal:
        return None


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _CASTABLE and not issubclass(dtype.type, np.void)


def _rank(stored: dtypes.Stored, dtype: np.dtype[Any]) -> int:
    """Order dtypes so that a cast never goes down: bool, integers, floats, complex numbers."""
    if "int" in str(stored):
        return 1
    return {"b": 0, "f": 2, "V": 2, "c": 3, "W": 3}[dtype.kind]

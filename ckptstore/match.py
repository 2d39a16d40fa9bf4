"""Holding a checkpoint against `like`, and filling `like` with values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptstore import classes, dtypes, paths, registry, resolution, validate
from ckptstore.errors import StructureError, UnknownTypeError
from ckptstore.index import DICT_KINDS, Index, Kind, Leaves, Spans, TypeKind, TypeRow
from ckptstore.rebuild import Rebuild
from ckptstore.tree import Walk

_SHOWN = 50
_CASTABLE = "?biufcV"
_VALUE_KINDS = {Kind.SURROGATE_STR: Kind.STR}


@dataclass
class Fit:
    """How the leaves and types of a checkpoint are to come back.

    Attributes:
        given: classes by stored name.
        places: where a leaf is to live, in its framework's terms.
        casts: the dtype that a leaf is cast to.
        overrides: stored nodes that are taken from `like` as they are.
    """

    given: dict[str, type] = field(default_factory=dict)
    places: dict[int, Any] = field(default_factory=dict)
    casts: dict[int, np.dtype[Any]] = field(default_factory=dict)
    overrides: dict[int, Any] = field(default_factory=dict)


def _by_key(table: Any, entries: Sequence[int]) -> dict[tuple[str, tuple[str, ...], int], int]:
    """Return the values of a dict by printed key and the enums in it; equal ones are numbered."""
    out: dict[tuple[str, tuple[str, ...], int], int] = {}
    for key, value in zip(entries[::2], entries[1::2], strict=True):
        enums = [n for n in range(key, value) if table.kind[n] == Kind.ENUM]
        text = (table.key(key), tuple(str(table.types[table.type[n] - 1]) for n in enums))
        number = 0
        while (*text, number) in out:
            number += 1
        out[*text, number] = value
    return out


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
        reason="differs-from-like",
    )


def fit(
    stored: Rebuild,
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
    def __init__(
        self,
        stored: Rebuild,
        like: Walk,
        given: Mapping[str, type],
        *,
        cast: bool,
        numpy: bool,
    ) -> None:
        self.stored = stored
        self.like = like
        self.like_end = validate.layout(like.arity, where="like").end
        self.given = given
        self.cast = cast
        self.numpy = numpy
        self.fit = Fit()
        self.lines: list[tuple[Any, int, str]] = []
        self.origins: dict[tuple[int, type], list[int | None]] = {}
        self.wishes: dict[int, tuple[str, Any]] = {}  # dtype and place of a leaf in `like`

    def run(self, pairs: Sequence[tuple[int, int]]) -> Fit:
        like = self.like
        for number, kind in enumerate(like.kind):
            if kind in (Kind.RECORD, Kind.ENUM):
                row = like.types[like.type[number] - 1]
                self.fit.given[str(row)] = type(like.objects[number])
        todo, done = list(reversed(pairs)), set()
        while todo:
            i, j = todo.pop()
            i = self.stored.arg[i] if self.stored.kind[i] == Kind.SAME else i
            j = like.arg[j] if like.kind[j] == Kind.SAME else j
            if (i, j) not in done:
                done.add((i, j))
                todo.extend(reversed(self._compare(i, j)))
        if self.lines:
            stored_paths = self._paths(
                self.stored, [n for t, n, _ in self.lines if t is self.stored]
            )
            like_paths = self._paths(like, [n for t, n, _ in self.lines if t is like])
            raise differences(
                self.stored.where,
                [
                    f"{(stored_paths if t is self.stored else like_paths)[n]}: {text}"
                    for t, n, text in self.lines
                ],
            )
        return self.fit

    @staticmethod
    def _paths(table: Any, nodes: list[int]) -> dict[int, str]:
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
            self._differ(i, f"{self._name(stored, i)} in the checkpoint, {self._like(j)} in `like`")
            return []
        if kind == Kind.DEFAULT_DICT and stored.data(i) != like.data[j]:
            factories = (d.decode() or "None" for d in (stored.data(i), like.data[j]))
            self._differ(i, "factory {} in the checkpoint, {} in `like`".format(*factories))
        if kind in DICT_KINDS:
            return self._compare_dicts(i, j)
        if kind in (Kind.RECORD, Kind.ENUM):
            return self._compare_records(i, j)
        if kind in (Kind.SET, Kind.FROZENSET, Kind.RANGE, Kind.SLICE):
            return []
        return self._compare_children(i, j)

    def _compare_children(self, i: int, j: int) -> list[tuple[int, int]]:
        stored, like = self.stored, self.like
        ours, theirs = stored.layout.children(i), self._like_children(j)
        for extra in ours[len(theirs) :]:
            self._differ(extra, f"{self._name(stored, extra)} in the checkpoint, not in `like`")
        for missing in theirs[len(ours) :]:
            self.lines.append(
                (like, missing, f"{self._like(missing)} in `like`, not in the checkpoint")
            )
        return list(zip(ours, theirs, strict=False))

    def _compare_records(self, i: int, j: int) -> list[tuple[int, int]]:
        row = self.stored.types[self.stored.type[i] - 1]
        other = self.like.types[self.like.type[j] - 1]
        cls = type(self.like.objects[j])
        if str(row) != str(other) and not self._leads_to(row, cls):
            self._differ(i, f"{row} in the checkpoint, {other} in `like`{_hint(row, cls)}")
            return []
        if row.kind not in classes.RECORDS or other.kind not in classes.RECORDS:
            if row.kind != other.kind or row.fields != other.fields:
                mine, theirs = (f"{r.kind} ({', '.join(r.fields)})" for r in (row, other))
                self._differ(i, f"{row}: {mine} in the checkpoint, {theirs} in `like`")
                return []
            self.fit.given[str(row)] = cls
            return self._compare_children(i, j) if row.kind != TypeKind.ENUM else []
        origins = self.origins.get((self.stored.type[i], cls))
        if origins is None:
            try:
                origins = resolution.find(row, {str(row): cls})[1].origins()
            except UnknownTypeError as error:
                self._differ(i, str(error))
                return []
            self.origins[self.stored.type[i], cls] = origins
            self.fit.given[str(row)] = cls
        ours = self.stored.layout.children(i)
        places = zip(origins, self._like_children(j), strict=True)
        return [(ours[place], theirs) for place, theirs in places if place is not None]

    def _leads_to(self, row: TypeRow, cls: type) -> bool:
        """Tell whether a stored name that is not that of `cls` means it all the same."""
        try:
            return resolution.meant(row, self.given) is cls
        except UnknownTypeError:
            return False

    def _compare_dicts(self, i: int, j: int) -> list[tuple[int, int]]:
        stored, like = self.stored, self.like
        ours, theirs = stored.layout.children(i), self._like_children(j)
        mine, other = _by_key(stored, ours), _by_key(like, theirs)
        for key, node in mine.items():
            if key not in other:
                self._differ(node, f"{self._name(stored, node)} in the checkpoint, not in `like`")
        for key, node in other.items():
            if key not in mine:
                self.lines.append(
                    (like, node, f"{self._like(node)} in `like`, not in the checkpoint")
                )
        ordered = stored.kind[i] == Kind.ORDERED_DICT and mine.keys() == other.keys()
        if ordered and list(mine) != list(other):
            self._differ(
                i,
                f"order {', '.join(key for key, *_ in mine)} in the checkpoint, "
                f"{', '.join(key for key, *_ in other)} in `like`",
            )
        return [(node, other[key]) for key, node in mine.items() if key in other]

    def _compare_leaf(self, i: int, j: int) -> None:
        stored, like, leaf = self.stored, self.like, self.stored.arg[i]
        index = stored.index
        row = index.types[int(index.leaves.type[leaf]) - 1]
        mine = (index.dtypes[int(index.leaves.dtype[leaf])], index.shape(leaf))
        x = like.objects[j]
        known = registry.adapter(registry.top_level(type(x).__module__))
        expected = known.expected(x) if known is not None else None
        if like.kind[j] == Kind.LEAF:
            held = like.leaves[like.arg[j]]
            expected = (held.row, held.dtype, held.shape)
        if expected is None:
            self._differ(i, f"{self._name(stored, i)} in the checkpoint, {self._like(j)} in `like`")
            return
        other, theirs = expected[0], expected[1:]
        impl, impl_like = row.extra.get("impl"), other.extra.get("impl")
        if str(row) == str(other) and impl != impl_like:
            self._differ(i, f"{key_text(impl)} in the checkpoint, {key_text(impl_like)} in `like`")
        elif str(row) != str(other) and not self.numpy:
            as_numpy = other.module == "numpy" != row.module
            self._differ(
                i,
                f"{self._name(stored, i)} in the checkpoint, {self._like(j)} in `like`"
                + ('; arrays="numpy" gives numpy arrays' if as_numpy else ""),
            )
        elif mine[1] != theirs[1]:
            self._differ(i, f"shape {list(mine[1])} in the checkpoint, {list(theirs[1])} in `like`")
        elif mine[0] != theirs[0]:
            self._compare_dtype(i, mine[0], theirs[0])
        wish = (str(theirs[0]), known.place(x) if known is not None else None)
        if self.wishes.setdefault(leaf, wish) != wish:
            self._differ(
                i,
                "stands in two places in the checkpoint, for which `like` has different dtypes or "
                "shardings; make them equal in `like`",
            )
        self.fit.places[leaf] = wish[1]

    def _compare_dtype(self, i: int, mine: dtypes.Stored, theirs: dtypes.Stored) -> None:
        where = self.stored.where
        source, target = dtypes.resolve(mine, where=where), dtypes.resolve(theirs, where="like")
        numeric = all(
            t.kind in _CASTABLE
            and t.names is None
            and t.kind + str(t)[:4] != "Vvoid"
            and not str(t).startswith("|V")
            for t in (source, target)
        )
        if not numeric or _rank(theirs, target) < _rank(mine, source):
            self._differ(i, f"{mine} in the checkpoint, {theirs} in `like`; no cast leads there")
        elif self.cast:
            self.fit.casts[self.stored.arg[i]] = target
        else:
            self._differ(
                i,
                f"{mine} in the checkpoint, {theirs} in `like`; change `like`, or pass cast=True",
            )

    def _differ(self, node: int, text: str) -> None:
        self.lines.append((self.stored, node, text))

    def _like_children(self, j: int) -> list[int]:
        out, child = [], j + 1
        for _ in range(self.like.arity[j]):
            out.append(child)
            child = self.like_end[child]
        return out

    def _like(self, j: int) -> str:
        kind = self.like.kind[j]
        if kind == Kind.SUPPLIED:
            return f"something that cannot be stored ({self.like.data[j].decode()})"
        x = self.like.objects[j]
        return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")

    @staticmethod
    def _name(table: Rebuild, node: int) -> str:
        kind = Kind(table.kind[node])
        if kind == Kind.LEAF:
            leaf = table.arg[node]
            index = table.index
            row = index.types[int(index.leaves.type[leaf]) - 1]
            return f"{row} {index.dtypes[int(index.leaves.dtype[leaf])]}{list(index.shape(leaf))}"
        if kind in (Kind.RECORD, Kind.ENUM):
            return str(table.types[table.type[node] - 1])
        return _KIND_NAMES.get(kind, kind.name.lower())


def _hint(row: TypeRow, cls: type) -> str:
    """Say what to do where a class may only have moved."""
    if row.name.rpartition(".")[2] != cls.__name__:
        return ""
    return (
        f"; if it is the same class, pass types={{'{row}': {cls.__name__}}}, or "
        f"ckptstore.register({cls.__name__}, name='{row}')"
    )


def _rank(stored: dtypes.Stored, dtype: np.dtype[Any]) -> int:
    """Order dtypes so that a cast never goes down: bool, integers, floats, complex numbers."""
    if "int" in str(stored):
        return 1
    return {"b": 0, "f": 2, "V": 2, "c": 3}[dtype.kind]  # V: the floats of ml_dtypes


_KIND_NAMES = {Kind.NONE: "None", Kind.SURROGATE_STR: "str", Kind.DEFAULT_DICT: "defaultdict"}


def fill(like: Walk, values: Mapping[int, Any]) -> Any:
    """Return the tree of `like` with some of its nodes replaced; the rest are the same objects."""
    none = np.zeros(0, np.int64)
    index = Index(
        like.types,
        like.dtypes,
        like.nodes(),
        Leaves(none, none, none, none, none, none),
        Spans(none, none, none, none, none, []),
    )
    layout = validate.layout(like.arity, where="like")
    ancestors: set[int] = set()
    for node in values:
        while (node := layout.parent[node]) >= 0:
            ancestors.add(node)
    tree = Rebuild(index, layout, "like")
    given = {}
    for node in ancestors:
        if like.kind[node] == Kind.RECORD:
            row = like.types[like.type[node] - 1]
            given[str(row)] = type(like.objects[node])
    tree.resolve({like.type[n] for n in ancestors if like.type[n]}, given)
    for node, parent in enumerate(layout.parent):
        if node in values:
            tree.overrides[node] = values[node]
        elif like.kind[node] == Kind.SAME and like.arg[node] in ancestors:
            continue  # the filled object stands here too
        elif node not in ancestors and (parent in ancestors or parent < 0):
            tree.overrides[node] = like.objects[node]
    return tree.build([0])[0]

"""What of a tree a file of named arrays holds, under which names, and what it cannot hold.

A name is the steps of a path joined by dots: ``$.opt_state[0].mu['dense']`` is
``opt_state.0.mu.dense``, so that a flat dict of arrays keeps its names.
"""

from __future__ import annotations

import ast
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ckptstore import dtypes, fetch, paths, selection, snapshots, storage, tree, validate
from ckptstore.dtypes import Array, DtypeRefusal, Stored
from ckptstore.errors import AlreadyCommittedError, StructureError
from ckptstore.index import DICT_KINDS, Kind
from ckptstore.registry import Refusal
from ckptstore.snapshots import Snapshot
from ckptstore.storage.local import LocalStorage
from ckptstore.stored import StoredTree
from ckptstore.tree import Walk
from ckptstore.wire import Buffer

_SHOWN = 5
_LONE = "array"
_SEQUENCES = (Kind.LIST, Kind.TUPLE)
_LEFT_OUT = (Kind.SET, Kind.FROZENSET, Kind.ENUM, Kind.SLICE, Kind.RANGE)


@dataclass(frozen=True, slots=True)
class Loss:
    """One thing that a file of named arrays does not hold.

    Attributes:
        path: where it stands in the tree.
        kind: ``array-type``, ``byte-order``, ``container``, ``dtype-flags``, ``key``,
            ``keys-of-dict``, ``order``, ``scalar``, ``static``, ``supplied``, ``tied``, ``value``
            or ``weak-type``.
        text: what is lost, and what stands in the file instead.
    """

    path: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a writer of another format wrote, and what it could not.

    Attributes:
        path: the file.
        names: the path in the tree of each array, by its name in the file.
        nbytes: bytes of all arrays.
        losses: all that the file does not hold.
    """

    path: str
    names: Mapping[str, str]
    nbytes: int
    losses: tuple[Loss, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.names)} arrays, {self.nbytes:,} bytes"]
        for kind in dict.fromkeys(loss.kind for loss in self.losses):
            of_kind = [loss for loss in self.losses if loss.kind == kind]
            lines.append(f"  not held: {kind} ({len(of_kind)})")
            lines += [f"    {loss}" for loss in of_kind[:_SHOWN]]
            if len(of_kind) > _SHOWN:
                lines.append(f"    … and {len(of_kind) - _SHOWN} more")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of the file.

    Attributes:
        name: in the file.
        path: in the tree.
        stored: its dtype in the format's words; `dtype` the same for numpy.
        shape: of what is stored (a PRNG key's ends with the axes of its data).
        read: gives its bytes, little-endian, flat uint8.
    """

    name: str
    path: str
    stored: Stored
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Callable[[], Array]

    @property
    def itemsize(self) -> int:
        """The bytes of one element in a file."""
        return dtypes.item_nbytes(self.stored, where=self.path)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements in a file."""
        return self.itemsize * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Outline:
    """What goes into the file, in the tree's order, and what does not."""

    entries: list[Entry]
    losses: list[Loss]

    def refuse(self, form: str, is_refused: Callable[[Entry], bool]) -> None:
        """Raise StructureError, reason ``cannot-carry``, naming what the format cannot hold."""
        bad = [entry for entry in self.entries if is_refused(entry)]
        if bad:
            lines = [f"\n  {e.path}: {e.stored}, as {e.name!r:.200}" for e in bad[:20]]
            lines += [f"\n  … and {len(bad) - 20} more"] * (len(bad) > 20)
            raise StructureError(
                f"{form} cannot hold {len(bad)} array(s), and nothing is cast:{''.join(lines)}\n"
                "leave them out with select=, or convert them in a tree of your own",
                reason="cannot-carry",
            )

    def report(self, path: Any, more: Iterable[Loss]) -> Report:
        """Return the report of a file that was written."""
        return Report(
            storage.parse(path),
            MappingProxyType({entry.name: entry.path for entry in self.entries}),
            sum(entry.nbytes for entry in self.entries),
            (*self.losses, *more),
        )


def outline(
    source: Any,
    select: str | Sequence[str] | None,
    storage_options: Mapping[str, Any] | None,
) -> Outline:
    """Plan the file of a checkpoint (a path or URL), whose bytes are read here, or of a tree.

    Raises:
        StructureError: reason ``name-clash``, ``bad-name``, ``cannot-carry``, ``no-match``.
        CorruptError, NotCommittedError, StorageError: as `load`.
    """
    if not isinstance(source, str | os.PathLike):
        return _of_tree(source, select)

    def use(snapshot: Snapshot) -> Outline:
        return _of_checkpoint(snapshot, select)

    with storage.open(source, storage_options) as store:
        return snapshots.read(store, use)


def publish(path: Any, chunks: Iterator[Buffer], *, overwrite: bool) -> None:
    """Write the file, wholly and durably, or not at all.

    Raises:
        AlreadyCommittedError: it exists, and is not to be overwritten.
        StorageError: the disk refuses.
    """
    at = storage.parse(path)
    with LocalStorage(os.path.dirname(at)) as directory:
        try:
            directory.publish(os.path.basename(at), chunks, 0, replace=overwrite)
        except FileExistsError:
            raise AlreadyCommittedError(
                f"{at}: something is there; choose another name, or pass overwrite=True"
            ) from None


def _of_tree(x: Any, select: str | Sequence[str] | None) -> Outline:
    walk = tree.flatten(x)
    plan = _Plan(walk, "the tree", select)
    return plan.outline(lambda leaf, path: functools.partial(_read, walk, leaf, path))


def _read(walk: Walk, leaf: int, path: str) -> Array:
    try:
        return walk.leaves[leaf].read()
    except (Refusal, DtypeRefusal) as refusal:
        raise StructureError(f"{path}: {refusal}", reason="cannot-carry") from None


def _of_checkpoint(snapshot: Snapshot, select: str | Sequence[str] | None) -> Outline:
    where = snapshot.storage.url
    index, layout = validate.decode(snapshot.index_parts, snapshot.manifest.files, where=where)
    table = StoredTree(index, layout, where)

    def name(leaf: int) -> str:
        return table.path(table.leaf_nodes[leaf])

    keys = dict.fromkeys(table.key_leaves(), bytes)
    table.leaf_values.update(fetch.fetch(snapshot, index, keys, name))
    plan = _Plan(table, where, select)
    found = dict(fetch.fetch(snapshot, index, dict.fromkeys(plan.leaves, lambda data: data), name))
    return plan.outline(lambda leaf, path: functools.partial(found.get, leaf))


@dataclass(slots=True)
class _Place:
    """A node that is still to be looked at."""

    node: int
    name: tuple[str, ...]
    path: str


class _Plan:
    """Walks the nodes, each once, and decides what becomes of them."""

    def __init__(
        self, table: StoredTree | Walk, where: str, select: str | Sequence[str] | None
    ) -> None:
        self.table = table
        self.where = where
        self.found: dict[str, tuple[str, int]] = {}  # path and leaf, by name
        self.losses: list[Loss] = []
        self.placed: dict[int, str] = {}
        for root in self._roots(select):
            self._walk(root)
        kinds = sorted({str(table.leaf(leaf)[0]) for leaf in self.leaves} - {"numpy.ndarray"})
        if kinds:
            text = f"{', '.join(kinds)}: readers make their own kind of array of each"
            self.losses.append(Loss("$", "array-type", text))

    @property
    def leaves(self) -> list[int]:
        return [leaf for _, leaf in self.found.values()]

    def outline(self, read: Callable[[int, str], Callable[[], Any]]) -> Outline:
        entries = []
        for name, (path, leaf) in self.found.items():
            _, stored, shape = self.table.leaf(leaf)
            dtype = dtypes.resolve(stored, where=path)
            entries.append(Entry(name, path, stored, dtype, shape, read(leaf, path)))
        return Outline(entries, self.losses)

    def _roots(self, select: str | Sequence[str] | None) -> list[_Place]:
        if select is None:
            return [_Place(0, (), "$")]
        found = selection.selected(self.table, selection.patterns_of(select), self.where)
        if isinstance(select, str) and not {"*", "**"} & set(paths.parse(select)):
            return [_Place(node, (), path) for path, node in found.items()]
        return [
            _Place(node, tuple(map(_part, paths.parse(path))), path) for path, node in found.items()
        ]

    def _walk(self, root: _Place) -> None:
        stack = [root]
        while stack:
            place = stack.pop()
            if self.table.kind[place.node] == Kind.SAME:
                place.node = self.table.arg[place.node]
            if (first := self.placed.setdefault(place.node, place.path)) != place.path:
                self._lose(place, "tied", f"the same object as {first}, where it is written")
            elif self.table.kind[place.node] == Kind.LEAF:
                self._leaf(place)
            else:
                stack.extend(reversed(self._below(place)))

    def _lose(self, place: _Place, kind: str, text: str) -> None:
        self.losses.append(Loss(place.path, kind, text))

    def _leaf(self, place: _Place) -> None:
        name = ".".join(place.name) or _LONE
        leaf = self.table.arg[place.node]
        if name in self.found:
            raise StructureError(
                f"{place.path} and {self.found[name][0]} would both be named {name!r:.200}; export "
                "them one by one with select=",
                reason="name-clash",
            )
        try:
            name.encode()
        except UnicodeEncodeError:
            raise StructureError(
                f"{place.path}: its name is no text that a file can hold; select it by itself",
                reason="bad-name",
            ) from None
        self.found[name] = place.path, leaf
        row = self.table.leaf(leaf)[0]
        if (impl := row.extra.get("impl")) is not None:
            self._lose(place, "key", f"a PRNG key of {impl}; its data are written, of uint32")
        if row.extra.get("weak"):
            self._lose(place, "weak-type", "a weak type; the array is written")
        if row.name == "generic":
            self._lose(place, "scalar", "a scalar; written as an array of no axes")

    def _below(self, place: _Place) -> list[_Place]:
        """Note what is lost of a container or scalar, and return what to go on with."""
        table, node = self.table, place.node
        kind = Kind(table.kind[node])
        if kind == Kind.SUPPLIED:
            self._lose(place, "supplied", "what `like` supplies; left out")
            return []
        children = table.layout.children(node)
        if kind in _LEFT_OUT or not children:
            self._lose(place, "value", f"{self._name(node)}; left out")
            return []
        if kind == Kind.RECORD or kind in _SEQUENCES or (kind in DICT_KINDS and kind != Kind.DICT):
            self._lose(place, "container", f"{self._name(node)}; only names are left of it")
        below = []
        for position, child in enumerate(children):
            step = paths.step(table, node, position, children[position - 1])
            if kind in DICT_KINDS and position % 2 == 0:
                if table.kind[child] != Kind.STR:
                    text = f"a key of another type than str: {table.key(child):.200}"
                    self._lose(place, "keys-of-dict", text)
            elif step == "{static}":
                if table.kind[child] != Kind.NONE:
                    self._lose(place, "static", "the static part of its class; left out")
            else:
                name = (*place.name, *([_part(step)] if step else []))
                below.append(_Place(child, name, place.path + step))
        return below

    def _name(self, node: int) -> str:
        kind = Kind(self.table.kind[node])
        if kind in (Kind.RECORD, Kind.ENUM):
            return str(self.table.row(node))
        return "None" if kind == Kind.NONE else kind.name.lower().replace("_", " ")


def _part(step: str) -> str:
    """Return what a step of a path adds to a name."""
    if not step.startswith("["):
        return step.removeprefix(".")
    inner = step[1:-1]
    if inner[:1] in ("'", '"'):
        return str(ast.literal_eval(inner))
    return inner

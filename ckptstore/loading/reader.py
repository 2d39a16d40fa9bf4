"""`load`, `inspect` and `verify`: from a committed checkpoint to verified values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ckptstore import storage
from ckptstore.checkpoint import snapshot as snapshots
from ckptstore.checkpoint.description import Checkpoint
from ckptstore.checkpoint.snapshot import Snapshot
from ckptstore.errors import CorruptError, Reason, StructureError
from ckptstore.format import decode_index
from ckptstore.format.dtypes import Array
from ckptstore.loading import fetch
from ckptstore.tree import comparison, filling, flattening, paths, selection
from ckptstore.tree import leaves as arrays
from ckptstore.tree.stored import StoredTree
from ckptstore.tree.unflattening import Rebuild
from ckptstore.types import classes, registry


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that `verify` found.

    Attributes:
        reason: the code that a `CheckpointError` for it carries.
        where: the file, and the place in it.
        message: what was found against what was expected.
    """

    reason: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.reason}]"


def load(
    url: Any,
    like: Any = None,
    *,
    select: str | Sequence[str] | None = None,
    types: Iterable[type] | Mapping[str, type] = (),
    cast: bool = False,
    arrays: Literal["numpy"] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Load a checkpoint and return the tree that was saved: same types, same dtypes, same bits.

    Every byte is checked against its checksum before it becomes a value.

    Args:
        url: the checkpoint's directory.
        like: a tree of the same structure, of live values, `jax.ShapeDtypeStruct` or meta tensors.
            Types, shardings, devices and what was `supplied` come from it, values from the
            checkpoint; every difference is reported at once.
        select: a pattern, such as ``$.params`` or ``$.opt_state[0].mu``; only its bytes are read,
            and that sub-tree is returned. A pattern with ``*``, or several patterns, give a dict of
            path to sub-tree. With `like`, all of `like` with the selected places filled in.
        types: classes that are not found by name, or whose code may run: a sequence, or a map of
            stored name to class.
        cast: convert arrays to the dtypes of `like` where they differ.
        arrays: ``"numpy"`` gives every array as a writable numpy array, and needs no framework; a
            type whose module is not here is then a NamedTuple of its stored fields.
        storage_options: options of the store.

    Raises:
        NotCommittedError: there is no checkpoint, or its save never finished.
        CorruptError: a byte is not as it was written; it says which leaf.
        UnknownTypeError: types that cannot be rebuilt, all of them, each with the remedy.
        StructureError: all differences from `like`; a pattern that matches nothing.
        UnsupportedError: a newer format, or a dtype that this machine lacks.

    The checkpoint is only read. Source: docs/spec.md, section 8.
    """
    if arrays not in (None, "numpy"):
        raise StructureError(
            f"load: arrays={arrays!r}, expected None or 'numpy'", reason=Reason.BAD_ARGUMENT
        )
    if isinstance(like, str) and like.startswith("$"):
        raise StructureError(
            f"load: like={like!r} looks like a pattern; pass select={like!r}",
            reason=Reason.BAD_ARGUMENT,
        )
    if cast and like is None:
        raise StructureError("load: cast=True needs like=", reason=Reason.BAD_ARGUMENT)
    given = _given(types)

    def use(snapshot: Snapshot) -> Any:
        return _Load(snapshot, given, cast, arrays == "numpy").run(like, select)

    with storage.open(url, storage_options) as store:
        return snapshots.read(store, use)


def inspect(url: Any, *, storage_options: Mapping[str, Any] | None = None) -> Checkpoint:
    """Describe a checkpoint from its manifest and index, without reading its arrays.

    Imports no framework.

    Raises:
        NotCommittedError, CorruptError, UnsupportedError: as `load`.
    """

    def use(snapshot: Snapshot) -> Checkpoint:
        found = Checkpoint(snapshot.storage.url, snapshot.manifest, snapshot.index_parts)
        found.types  # noqa: B018 - decodes and checks the index
        return found

    with storage.open(url, storage_options) as store:
        return snapshots.read(store, use)


def verify(url: Any, *, storage_options: Mapping[str, Any] | None = None) -> list[Problem]:
    """Read every byte of a checkpoint and return all that is wrong with it; [] is sound.

    Imports no framework, and reads what `load` does not: the padding between spans.

    Raises:
        NotCommittedError: there is no checkpoint.
        UnsupportedError: a newer format.
        StorageError: the disk cannot be read.
    """
    with storage.open(url, storage_options) as store:
        try:
            return snapshots.read(store, _verify)
        except CorruptError as error:
            return [Problem(error.reason, store.url, str(error))]


def _given(types: Iterable[type] | Mapping[str, type]) -> dict[str, type]:
    if isinstance(types, Mapping):
        pairs = list(types.items())
    elif isinstance(types, Iterable) and not isinstance(types, str | type):
        pairs = [("", cls) for cls in types]
    else:
        raise _bad_types(f"is {types!r:.80}")
    for name, cls in pairs:
        if not isinstance(cls, type) or not isinstance(name, str):
            raise _bad_types(f"holds {name!r:.80}: {cls!r:.80}")
    found: dict[str, type] = {}
    for name, cls in pairs:
        name = name or classes.stored_name(cls)
        if found.setdefault(name, cls) is not cls:
            raise _bad_types(f"holds two classes for the name {name}")
    return found


def _bad_types(found: str) -> StructureError:
    return StructureError(
        f"load: types {found}, expected classes in a list, or in a dict by stored name",
        reason=Reason.BAD_ARGUMENT,
    )


class _Load:
    """One load of one snapshot."""

    def __init__(
        self, snapshot: Snapshot, given: Mapping[str, type], cast: bool, numpy: bool
    ) -> None:
        self.snapshot = snapshot
        self.given = given
        self.cast = cast
        self.numpy = numpy
        self.where = snapshot.storage.url
        parts, files = snapshot.index_parts, snapshot.manifest.files
        self.index, layout = decode_index(parts, files, where=self.where)
        self.tree = Rebuild(self.index, layout, self.where, stand_in=numpy)

    def run(self, like: Any, select: str | Sequence[str] | None) -> Any:
        if like is not None:
            return self._into(like, select)
        if select is None:
            return self._build([0], comparison.Fit())[0]
        patterns = selection.patterns_of(select)
        self._read_keys()
        found = selection.selected(self.tree, patterns, self.where)
        if isinstance(select, str) and not {"*", "**"} & set(paths.parse(select)):
            return self._build(list(found.values()), comparison.Fit())[0]
        return dict(zip(found, self._build(list(found.values()), comparison.Fit()), strict=True))

    def _into(self, like: Any, select: str | Sequence[str] | None) -> Any:
        walk = flattening.flatten(like, lenient=True)
        self._read_keys()
        if select is None:
            fit = self._fit(walk, [(0, 0)])
            return self._build([0], fit)[0]
        patterns = selection.patterns_of(select)
        today = selection.as_today(self.tree, walk, self.given)
        stored = selection.selected(today, patterns, self.where)
        wanted = selection.selected(walk, patterns, "like")
        comparison.check_same_paths(stored, wanted, self.where)
        pairs = [(stored[path], wanted[path]) for path in wanted]
        fit = self._fit(walk, pairs)
        values = self._build([node for node, _ in pairs], fit)
        filled = {like_node: value for (_, like_node), value in zip(pairs, values, strict=True)}
        return filling.fill(walk, filled)

    def _fit(self, walk: flattening.Walk, pairs: Sequence[tuple[int, int]]) -> comparison.Fit:
        return comparison.fit(self.tree, walk, pairs, self.given, cast=self.cast, numpy=self.numpy)

    def _build(self, roots: list[int], fit: comparison.Fit) -> list[Any]:
        tree_ = self.tree
        tree_.overrides = fit.overrides
        closure = tree_.closure(roots)
        given = {**fit.given, **self.given}
        tree_.resolve(tree_.types_in(closure), given)
        makers = self._makers(tree_.leaves(closure), fit)
        for leaf, value in fetch.fetch(self.snapshot, self.index, makers, self._name):
            tree_.leaf_values[leaf] = value
        return tree_.build(roots)

    def _read_keys(self) -> None:
        """Long dict keys are in data files: paths need them before anything is selected."""
        leaves = self.tree.key_leaves()
        for leaf, value in fetch.fetch(
            self.snapshot, self.index, dict.fromkeys(leaves, bytes), self._name
        ):
            self.tree.leaf_values[leaf] = value

    def _makers(
        self, leaves: Sequence[int], fit: comparison.Fit
    ) -> dict[int, Callable[[Array], Any]]:
        """Say, for each leaf, what its verified bytes become."""
        scalars = set(self.tree.long_scalars.values())
        type_, dtype = self.index.leaves.type.tolist(), self.index.leaves.dtype.tolist()
        makers: dict[int, Callable[[Array], Any]] = {}
        adapters: dict[str, Any] = {}
        for leaf in leaves:
            if leaf in self.tree.leaf_values:
                continue
            if leaf in scalars:
                makers[leaf] = bytes
                continue
            row = self.index.types[type_[leaf] - 1]
            package = registry.top_level(row.module)
            if package not in adapters and (package == "numpy" or not self.numpy):
                adapters[package] = registry.adapter(package)
                if adapters[package] is None:
                    raise arrays.unknown(row, where=self.where)
            makers[leaf] = arrays.Maker(
                self.where,
                self.tree.dtype(dtype[leaf]),
                self.index.shape(leaf),
                adapters.get(package),
                row,
                fit.casts.get(leaf),
                fit.places.get(leaf),
                leaf in fit.numbers,
            )
        return makers

    def _name(self, leaf: int) -> str:
        return self.tree.path(self.tree.leaf_nodes[leaf])


def _verify(snapshot: Snapshot) -> list[Problem]:
    """Read all data files from end to end: spans against digests, padding against zero."""
    manifest, where = snapshot.manifest, snapshot.storage.url
    index, layout = decode_index(snapshot.index_parts, manifest.files, where=where)
    tree_ = StoredTree(index, layout, where)
    found = list(fetch.damage(snapshot, index))
    nodes = {leaf: tree_.leaf_nodes[leaf] for *_, leaf in found if leaf is not None}
    names = dict(zip(nodes, paths.format_paths(tree_, [*nodes.values()]), strict=True))
    return [
        Problem(
            reason,
            f"{where}/{file} at byte {offset}",
            "padding is not zero" if leaf is None else f"damaged bytes of {names[leaf]}",
        )
        for reason, file, offset, leaf in found
    ]

"""`load` and `inspect`: from a committed checkpoint to its tree, or to its description."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ckptstore import peers, storage, tree
from ckptstore.checkpoint import Checkpoint, Snapshot, read_snapshot
from ckptstore.distributed import Processes, chosen
from ckptstore.distributed import processes as running_processes
from ckptstore.errors import CheckpointError, Reason, StructureError, bad_argument
from ckptstore.format import TypeRow
from ckptstore.loading import fetch
from ckptstore.loading.choice import Choice, Choose
from ckptstore.loading.classes import by_name
from ckptstore.loading.wishes import Wishes
from ckptstore.progress import Progress
from ckptstore.sharding import Box
from ckptstore.tree import StoredTree, Target
from ckptstore.tree.leaves import Maker, making, unknown_array
from ckptstore.types import Adapter, Refusal, find_adapter, top_level


@peers.explains("load", peers.LOAD)
def load(
    url: str | os.PathLike[str],
    like: Any = None,
    *,
    select: str | Sequence[str] | None = None,
    types: Iterable[type] | Mapping[str, type] = (),
    cast: bool = False,
    arrays: Literal["numpy"] | None = None,
    sharding: Any = None,
    processes: Processes | tuple[int, int] | Literal["all", "one"] | None = None,
    per_process: Choose | None = None,
    storage_options: Mapping[str, Any] | None = None,
    callback: Any = None,
) -> Any:
    """Load a checkpoint and return the tree that you saved: same types, same dtypes, same bits.

    Every byte is checked against its checksum before it becomes a value. The checkpoint is not
    changed.

    Args:
        url: the checkpoint's directory: a path, or a URL of a store.
        like: a tree of the same structure, of live values, `jax.ShapeDtypeStruct` or meta tensors.
            Values come from the checkpoint. Types, shardings, devices and `supplied` values come
            from `like`. The error lists all differences.
        select: a pattern, such as ``$.params`` or ``$.opt_state[0].mu``. Only its bytes are read,
            and you get that sub-tree. For a pattern with ``*``, or several patterns, you get a dict
            from path to sub-tree. With `like`, you get `like` with the selected places filled in.
        types: classes for stored types that cannot be found by name, or that need your permission
            to run code: a list, or a dict from stored name to class.
        cast: convert arrays to the dtypes of `like` if they differ. Floats are rounded; a number
            outside the range of the dtype is an error.
        arrays: with ``"numpy"``, every array is a writable numpy array, and you need no framework.
            A type whose module is not installed is then a NamedTuple of its stored fields.
        sharding: the place of the arrays of jax and of DTensors of torch: a sharding, a mesh (each
            array gets its stored spec or placements on it), ``"whole"`` (each array on one device),
            a function of path and `jax.ShapeDtypeStruct`, or meta tensor, that returns one of these
            or None, or a tree of these that is like the top of the state. None: that of `like`,
            else the stored one, which a DTensor does not have.
        processes: the processes of which this one gets its own values, where they were saved by
            ``per_process=``; None: those that an engine connects.
        per_process: a function of a path and of the values of all processes there that returns the
            one of this process: for another number of processes than the one that saved.
        storage_options: options of the store, as fsspec takes them; docs/mounts.md for a disk.
        callback: an `fsspec.Callback`, which is told the bytes that are read and checked, as for
            `save`.

    Returns:
        The tree, or the part of it that `select` names.

    Raises:
        NotCommittedError: there is no checkpoint, or its save never finished.
        CorruptError: a byte is not as it was written; the message names the leaf.
        UnknownTypeError: some types cannot be rebuilt; the message lists all, each with its remedy.
        StructureError: the tree differs from `like` (the message lists all differences), a pattern
            matches nothing, an argument is wrong, or no place is given for a DTensor. Reason
            ``per-process``: another number of processes saved values of each.
        UnsupportedError: a newer format, or a dtype that this machine lacks.
        StorageError: the disk or the store cannot be read.

    Source: docs/spec.md, section 8.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import ckptstore
        >>> state = {"params": {"w": np.arange(3.0)}, "step": 7}
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     checkpoint = ckptstore.save(f"{directory}/step-7", state)
        ...     loaded = ckptstore.load(checkpoint.url)
        ...     params = ckptstore.load(checkpoint.url, select="$.params")
        >>> loaded
        {'params': {'w': array([0., 1., 2.])}, 'step': 7}
        >>> params
        {'w': array([0., 1., 2.])}
    """
    if arrays not in (None, "numpy"):
        raise bad_argument("load", "arrays", arrays, "None or 'numpy'")
    if issubclass(type(like), str) and like.startswith("$"):
        raise bad_argument("load", "like", like, f"a tree; for a pattern, pass select={like!r}")
    if cast and like is None:
        raise StructureError(
            "load: cast=True needs like=, whose dtypes the arrays are converted to",
            reason=Reason.BAD_ARGUMENT,
        )
    classes, group = by_name(types), chosen(processes, "load") or running_processes()

    def use(snapshot: Snapshot) -> Any:
        snapshot = dataclasses.replace(snapshot, progress=progress)
        load = _Load(snapshot, classes, cast, arrays == "numpy", sharding, group, per_process)
        return load.run(like, select)

    with Progress(callback, "load") as progress, storage.open(url, storage_options) as store:
        some = any(x is not None for x in (like, select, sharding))
        return read_snapshot(store, use, some=some)


def inspect(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Describe a checkpoint from its manifest and index, without reading its arrays.

    Imports no framework.

    Args:
        url: the checkpoint's directory: a path, or a URL of a store.
        storage_options: options of the store, as fsspec takes them; docs/mounts.md for a disk.

    Returns:
        The description; its `nbytes` are bytes, its `time` is in UTC.

    Raises:
        NotCommittedError: there is no checkpoint, or its save never finished.
        CorruptError: the manifest or the index is not as it was written.
        UnsupportedError: a newer format.
        StorageError: the disk or the store cannot be read.

    Source: docs/spec.md, sections 4 and 5.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import ckptstore
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     saved = ckptstore.save(f"{directory}/step-7", {"w": np.zeros((2, 3))}, step=7)
        ...     checkpoint = ckptstore.inspect(saved.url)
        >>> checkpoint.step
        7
        >>> [(leaf.path, leaf.dtype, leaf.shape) for leaf in checkpoint.leaves]
        [("$['w']", 'float64', (2, 3))]
    """

    def use(snapshot: Snapshot) -> Checkpoint:
        snapshot.check_files()
        checkpoint = Checkpoint(snapshot.storage.url, snapshot.manifest, snapshot.index_parts)
        checkpoint.types  # noqa: B018 - decodes and checks the index
        return checkpoint

    with storage.open(url, storage_options) as store:
        return read_snapshot(store, use)


class _Load:
    """One load of one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        classes: Mapping[str, type],
        cast: bool,
        numpy: bool,
        sharding: Any,
        group: Processes,
        per_process: Choose | None,
    ) -> None:
        self.snapshot = snapshot
        self.classes = classes
        self.cast = cast
        self.numpy = numpy
        self.sharding = sharding
        self.where = snapshot.storage.url
        self.stored = snapshot.tree()
        self.wishes: Wishes | None = None
        self.group = group
        self.per_process = per_process
        self.choice: Choice | None = None

    def run(self, like: Any, select: str | Sequence[str] | None) -> Any:
        by_path = (self.sharding, like, select, self.per_process)
        if any(x is not None for x in by_path):
            self.stored = fetch.with_keys(self.snapshot, self.stored)
        if not self.numpy or like is not None or self.per_process is not None:
            shows = like is None and self.group.count == 1
            self.choice = Choice(self.stored, self.group, self.per_process, shows=shows)
            self.stored = self.choice.tree
        if self.sharding is not None:
            self.wishes = Wishes(self.sharding, self.stored)
        if like is not None:
            return self._into(like, select)
        if select is None:
            return self._build([0], Target())[0]
        patterns = tree.patterns_of(select, "load")
        nodes = tree.select(self.stored, patterns, self.where)
        values = self._build(list(nodes.values()), Target())
        return values[0] if tree.is_one_place(select) else dict(zip(nodes, values, strict=True))

    def _into(self, like: Any, select: str | Sequence[str] | None) -> Any:
        live = tree.flatten(like, lenient=True, where="like")
        compare = functools.partial(
            tree.compare, self.stored, live, classes=self.classes, cast=self.cast, numpy=self.numpy
        )
        assert self.choice is not None
        if select is None:
            self.choice.refuse([0])  # before all that differs from `like` is listed
            return self._build([0], compare([(0, 0)]))[0]
        patterns = tree.patterns_of(select, "load")
        renamed = tree.named_as_today(self.stored, live, self.classes)
        stored_nodes = tree.select(renamed, patterns, self.where, places=True)
        like_nodes = tree.select(live, patterns, "like", places=True)
        pairs = tree.paired(stored_nodes, like_nodes, live, self.where)
        roots = [self.stored.target(node) for node, _ in pairs]
        self.choice.refuse(roots)
        values = dict(zip(pairs, self._build(roots, compare(pairs)), strict=True))
        separate, places = tree.separate(live, renamed, pairs)
        return tree.fill(separate, {node: values[pair] for node, pair in places.items()})

    def _build(self, roots: Sequence[int], target: Target) -> list[Any]:
        overrides = target.overrides
        if self.choice is not None:
            self.choice.refuse(roots)
            overrides = {**overrides, **self.choice.values(roots, self._all_values)}
        return tree.unflatten(
            self.stored,
            roots,
            read=functools.partial(self._read, target),
            classes={**target.classes, **self.classes},
            overrides=overrides,
            stand_in=self.numpy,
        )

    def _all_values(self, whole: StoredTree, nodes: Sequence[int]) -> list[Any]:
        """Return the values of nodes of the tree with the values of all processes."""
        load = copy.copy(self)
        load.stored, load.wishes, load.choice = whole, None, None
        return load._build(nodes, Target())

    def _read(self, target: Target, leaves: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield the values of leaves; those of long dict keys may have been read before."""
        keys = self.stored.long_keys
        yield from ((leaf, keys[leaf]) for leaf in leaves if leaf in keys)
        makers = self._makers([leaf for leaf in leaves if leaf not in keys], target)
        boxes = {
            leaf: make.boxes
            for leaf, make in makers.items()
            if isinstance(make, Maker) and make.boxes is not None
        }
        yield from fetch.fetch(self.snapshot, self.stored, makers, boxes)

    def _makers(self, leaves: Sequence[int], target: Target) -> dict[int, fetch.Make]:
        """Return, for each leaf, the function that turns its verified bytes into its value."""
        stored, index = self.stored, self.stored.index
        long_scalars = set(stored.long_scalars.values())
        type_, dtype = index.leaves.type.tolist(), index.leaves.dtype.tolist()
        makers: dict[int, fetch.Make] = {}
        adapters: dict[str, Any] = {}
        for leaf in leaves:
            if leaf in long_scalars:
                makers[leaf] = bytes
                continue
            row = index.types[type_[leaf] - 1]
            package = top_level(row.module)
            if package not in adapters and (package == "numpy" or not self.numpy):
                adapters[package] = find_adapter(package)
                if adapters[package] is None:
                    where = f"{self.where}: {stored.leaf_path(leaf)}"
                    raise unknown_array(row, where=where)
            adapter, shape = adapters.get(package), index.shape(leaf)
            stored_dtype = self._dtype(dtype[leaf], leaf)
            place, is_number = target.places.get(leaf), leaf in target.numbers
            boxes = None
            if adapter is not None and not is_number:
                place, boxes = self._place(leaf, adapter, row, stored_dtype, shape, place)
            makers[leaf] = Maker(
                self.where,
                functools.partial(stored.leaf_path, leaf),
                row,
                stored_dtype,
                shape,
                adapter,
                target.casts.get(leaf),
                place,
                is_number,
                boxes,
            )
        return makers

    def _place(
        self,
        leaf: int,
        adapter: Adapter,
        row: TypeRow,
        dtype: Any,
        shape: tuple[int, ...],
        place: Any,
    ) -> tuple[Any, Sequence[Box] | None]:
        """Return the place of an array, which is `place` without a wish, and its boxes there."""
        try:
            if self.wishes is not None:
                wished = self.wishes.place(leaf, adapter, row, dtype, shape)
                place = place if wished is None else wished
            with making(row, dtype, shape, where=self.where):
                return place, adapter.boxes(shape, row, place)
        except Refusal as refusal:
            text = f"{self.where}: {self.stored.leaf_path(leaf)}: {refusal}"
            raise StructureError(text, reason=Reason.BAD_ARGUMENT) from None
        except CheckpointError as error:
            raise self._named(error, leaf) from error.__cause__

    def _dtype(self, number: int, leaf: int) -> Any:
        try:
            return self.stored.dtype(number)
        except CheckpointError as error:
            raise self._named(error, leaf) from None

    def _named(self, error: CheckpointError, leaf: int) -> CheckpointError:
        """Return an error with the path of its leaf, which takes a walk over the whole tree."""
        return tree.with_path(error, self.stored, self.stored.leaf_nodes[leaf])

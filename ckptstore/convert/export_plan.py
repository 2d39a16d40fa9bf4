"""The plan of an export: the arrays of a tree or checkpoint for a file, and the report."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ckptstore import storage
from ckptstore.checkpoint import Snapshot, read_snapshot
from ckptstore.convert.files import Options
from ckptstore.convert.flat_names import FlatNames, Loss
from ckptstore.errors import Reason, StructureError, listed
from ckptstore.format import dtypes
from ckptstore.format.dtypes import Array, DtypeRefusal, Stored
from ckptstore.loading import fetch
from ckptstore.texts import shown
from ckptstore.tree import LiveTree, flatten
from ckptstore.types import Refusal

_LOSSES_SHOWN = 5
_ARRAYS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Report:
    """The arrays that `to_npz` or `to_safetensors` wrote, and everything that the file lacks.

    Attributes:
        path: the file, or its URL without secrets.
        names: the path in the tree of each array, by its name in the file.
        nbytes: the size of all arrays together, in bytes.
        losses: everything that the file does not hold.

    Example:
        >>> import numpy as np
        >>> from ckptstore import convert
        >>> report = convert.to_npz("x.npz", {"w": np.ones(3), "step": 7})
        >>> print(report)  # doctest: +ELLIPSIS
        /...x.npz: 1 arrays, 24 bytes
          not held: value (1)
            $['step']: int; left out
        >>> dict(report.names)
        {'w': "$['w']"}

    Source: docs/moving.md, "Out".
    """

    path: str
    names: Mapping[str, str]
    nbytes: int
    losses: tuple[Loss, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.names)} arrays, {self.nbytes:,} bytes"]
        for kind in dict.fromkeys(loss.kind for loss in self.losses):
            of_kind = [str(loss) for loss in self.losses if loss.kind == kind]
            lines.append(f"  not held: {kind} ({len(of_kind)})")
            lines += [f"    {line}" for line in listed(of_kind, _LOSSES_SHOWN)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of the file.

    Attributes:
        name: its name in the file.
        path: its path in the tree.
        stored: the name of its dtype in ckptstore's format.
        dtype: the same for numpy.
        shape: its stored shape (a PRNG key's ends with the axes of its data).
        itemsize: the size of one element in a file, in bytes.
        read: returns its bytes, little-endian, flat uint8.
    """

    name: str
    path: str
    stored: Stored
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    itemsize: int
    read: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        """The size of all elements in a file, in bytes."""
        return self.itemsize * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The arrays for the file, in the tree's order, and everything that it cannot hold."""

    entries: list[Entry]
    losses: list[Loss]

    def refuse(self, form: str, is_refused: Callable[[Entry], bool]) -> None:
        """Raise StructureError, reason ``cannot-carry``, if the format cannot hold an array."""
        bad = [entry for entry in self.entries if is_refused(entry)]
        if bad:
            lines = [
                f"{shown(e.path)}: {shown(str(e.stored))}, as {e.name!r:.200}"
                for e in bad[:_ARRAYS_SHOWN]
            ]
            raise StructureError(
                f"{form} cannot hold {len(bad)} array(s), and nothing is cast:\n  "
                + "\n  ".join(listed(lines, len(lines), len(bad) - len(lines)))
                + "\nleave them out with select=, or convert them and export your own tree",
                reason=Reason.CANNOT_CARRY,
            )

    @property
    def nbytes(self) -> int:
        """The size of all arrays in a file, in bytes."""
        return sum(entry.nbytes for entry in self.entries)

    def report(self, where: str, more: Iterable[Loss]) -> Report:
        """Return the report of a file that was written."""
        names = {entry.name: entry.path for entry in self.entries}
        return Report(where, MappingProxyType(names), self.nbytes, (*self.losses, *more))


def plan_export(
    source: Any, select: str | Sequence[str] | None, storage_options: Options
) -> ExportPlan:
    """Plan the file for a tree, or for a checkpoint (a path or URL), whose bytes are read now.

    Raises:
        StructureError: reason ``name-clash``, ``bad-name``, ``cannot-carry``, ``no-match``.
        CorruptError, NotCommittedError, StorageError: as for `load`.
    """
    if not isinstance(source, str | os.PathLike):
        return _of_tree(source, select)

    def use(snapshot: Snapshot) -> ExportPlan:
        return _of_checkpoint(snapshot, select)

    with storage.open(source, storage_options) as store:
        return read_snapshot(store, use)


def _of_tree(x: Any, select: str | Sequence[str] | None) -> ExportPlan:
    tree = flatten(x)
    names = FlatNames(tree, tree.where, select)
    return _plan_of(names, functools.partial(_reader, tree))


def _reader(tree: LiveTree, leaf: int, path: str) -> Callable[[], Array]:
    """Return the function that reads an array, which must lie in this process."""
    if tree.leaves[leaf].holders is not None:
        raise StructureError(
            f"{shown(path)}: this array lies in several processes; save the tree with "
            "ckptstore.save in all of them, and export that checkpoint in one",
            reason=Reason.CANNOT_CARRY,
        )
    return functools.partial(_read, tree, leaf, path)


def _read(tree: LiveTree, leaf: int, path: str) -> Array:
    try:
        return tree.leaves[leaf].read()
    except (Refusal, DtypeRefusal) as refusal:
        raise StructureError(f"{path}: {refusal}", reason=Reason.CANNOT_CARRY) from None


def _of_checkpoint(snapshot: Snapshot, select: str | Sequence[str] | None) -> ExportPlan:
    tree = fetch.with_keys(snapshot, snapshot.tree())
    names = FlatNames(tree, tree.where, select)
    values = dict(fetch.fetch(snapshot, tree, dict.fromkeys(names.leaves, lambda data: data)))
    return _plan_of(names, lambda leaf, path: lambda: values[leaf])


def _plan_of(names: FlatNames, read: Callable[[int, str], Callable[[], Array]]) -> ExportPlan:
    entries = []
    made: dict[int, tuple[np.dtype[Any], int]] = {}  # many arrays may have one large dtype
    for name, (path, leaf) in names.arrays.items():
        _, stored, shape = names.table.leaf(leaf)
        if id(stored) not in made:
            dtype = dtypes.resolve(stored, where=shown(path))
            made[id(stored)] = dtype, dtypes.item_nbytes(stored, where=shown(path))
        dtype, itemsize = made[id(stored)]
        entries.append(Entry(name, path, stored, dtype, shape, itemsize, read(leaf, path)))
    return ExportPlan(entries, names.losses)

"""What goes into a file of named arrays, of a tree or of a checkpoint; and what to report of it."""

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
from ckptstore.checkpoint import snapshot as snapshots
from ckptstore.checkpoint.snapshot import Snapshot
from ckptstore.convert.files import Options
from ckptstore.convert.flat_names import Loss, Names
from ckptstore.errors import Reason, StructureError
from ckptstore.format import dtypes
from ckptstore.format.dtypes import Array, DtypeRefusal, Stored
from ckptstore.loading import fetch
from ckptstore.tree import LiveTree, flatten
from ckptstore.types import Refusal

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What a writer of another format wrote, and what it could not.

    Attributes:
        path: the file, or its URL without secrets.
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
                reason=Reason.CANNOT_CARRY,
            )

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays in a file."""
        return sum(entry.nbytes for entry in self.entries)

    def report(self, where: str, more: Iterable[Loss]) -> Report:
        """Return the report of a file that was written."""
        names = {entry.name: entry.path for entry in self.entries}
        return Report(where, MappingProxyType(names), self.nbytes, (*self.losses, *more))


def outline(source: Any, select: str | Sequence[str] | None, storage_options: Options) -> Outline:
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


def _of_tree(x: Any, select: str | Sequence[str] | None) -> Outline:
    tree = flatten(x)
    names = Names(tree, tree.where, select)
    return _outlined(names, lambda leaf, path: functools.partial(_read, tree, leaf, path))


def _read(tree: LiveTree, leaf: int, path: str) -> Array:
    try:
        return tree.leaves[leaf].read()
    except (Refusal, DtypeRefusal) as refusal:
        raise StructureError(f"{path}: {refusal}", reason=Reason.CANNOT_CARRY) from None


def _of_checkpoint(snapshot: Snapshot, select: str | Sequence[str] | None) -> Outline:
    tree = fetch.with_keys(snapshot, snapshot.tree())
    names = Names(tree, tree.where, select)
    values = dict(fetch.fetch(snapshot, tree, dict.fromkeys(names.leaves, lambda data: data)))
    return _outlined(names, lambda leaf, path: lambda: values[leaf])


def _outlined(names: Names, read: Callable[[int, str], Callable[[], Array]]) -> Outline:
    entries = []
    for name, (path, leaf) in names.found.items():
        _, stored, shape = names.table.leaf(leaf)
        dtype = dtypes.resolve(stored, where=path)
        entries.append(Entry(name, path, stored, dtype, shape, read(leaf, path)))
    return Outline(entries, names.losses)

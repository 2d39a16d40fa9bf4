"""The description of a checkpoint, from its manifest and index alone."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from ckptstore.errors import listed
from ckptstore.format import Kind, Manifest, dtypes
from ckptstore.texts import shown
from ckptstore.tree import StoredTree, paths

_LINES_SHOWN = 100


@dataclass(frozen=True, slots=True)
class LeafInfo:
    """One array of a checkpoint.

    Attributes:
        path: its path in the tree.
        type: the array's type, such as ``jax.Array``.
        dtype: its dtype, by the name in the format.
        shape: its stored shape (a PRNG key's ends with the axes of its data).
        nbytes: its size in the data files, in bytes.

    Example:
        >>> import ckptstore, numpy as np
        >>> [leaf] = ckptstore.save("ckpt", {"w": np.zeros((2, 3)), "step": 7}).leaves
        >>> leaf.path, leaf.type, leaf.dtype, leaf.shape, leaf.nbytes
        ("$['w']", 'numpy.ndarray', 'float64', (2, 3), 48)

    Source: docs/spec.md, section 5.
    """

    path: str
    type: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Checkpoint:
    """A committed checkpoint, as its manifest describes it.

    Attributes:
        url: its directory.
        attempt: the id of the save that made it.
        time: the time of the save by the writer's clock, in UTC.
        step, metrics, metadata: your arguments of `save`.
        writer: versions of the packages that wrote it.
        version: the version of the format.
        nbytes: the size of all files but the manifest, in bytes.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = ckptstore.save("ckpt", {"w": np.zeros(3)}, step=7, metrics={"loss": 0.5})
        >>> checkpoint = ckptstore.inspect("ckpt")
        >>> checkpoint.step, checkpoint.metrics, checkpoint.attempt == saved.attempt
        (7, {'loss': 0.5}, True)
        >>> [leaf.path for leaf in checkpoint.leaves]
        ["$['w']"]

    Source: docs/spec.md, section 4.
    """

    def __init__(self, url: str, manifest: Manifest, index_parts: Sequence[bytes]) -> None:
        self.url = url
        self.attempt = manifest.attempt
        self.time = datetime.datetime.fromtimestamp(manifest.time_ms / 1000, datetime.UTC)
        self.step = manifest.step
        self.metrics: Mapping[str, float] = manifest.metrics
        self.metadata: Mapping[str, Any] = manifest.metadata
        self.writer: Mapping[str, str] = manifest.writer
        self.version = manifest.version
        self.nbytes = sum(file.nbytes for file in manifest.files)
        self._files = manifest.files
        self._parts = index_parts

    @functools.cached_property
    def _tree(self) -> StoredTree:
        return StoredTree.decode(self._parts, self._files, where=self.url)

    @functools.cached_property
    def types(self) -> Sequence[str]:
        """The stored names of its types."""
        return [str(row) for row in self._tree.types if row.module != "ckptstore"]

    @functools.cached_property
    def leaves(self) -> Sequence[LeafInfo]:
        """Its arrays, in the order of the tree; each is described when you ask for it."""
        return _Leaves(self._tree)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.url} step={self.step} attempt={self.attempt}>"

    def __str__(self) -> str:
        step = "" if self.step is None else f" step {self.step},"
        head = f"{self.url}:{step} {len(self.leaves)} leaves, {self.nbytes:,} bytes"
        lines = [
            f"  {shown(leaf.path)}  {shown(leaf.dtype)}[{','.join(map(str, leaf.shape))}]  "
            f"{shown(leaf.type)}"
            for leaf in self.leaves[:_LINES_SHOWN]
        ]
        if len(self.leaves) > len(lines):
            lines.append(f"  … and {len(self.leaves) - len(lines)} more")
        return "\n".join([head, *lines])


class _Leaves(Sequence[LeafInfo]):
    """The arrays of a tree. Their paths may be much longer than the file, so none is kept."""

    def __init__(self, tree: StoredTree) -> None:
        index = tree.index
        self._tree = tree
        self._nodes = [node for node, kind in enumerate(tree.kind) if kind == Kind.LEAF]
        self._types = [str(row) for row in index.types]
        self._dtypes = [_dtype_text(stored) for stored in index.dtypes]
        nbytes = np.zeros(len(index.leaves), np.int64)
        np.add.at(nbytes, index.spans.leaf, index.spans.size)
        columns = (index.leaves.type, index.leaves.dtype, nbytes)
        self._rows = list(zip(*(column.tolist() for column in columns), strict=True))

    @functools.cached_property
    def _places(self) -> paths.Places:
        return paths.Places(self._tree, self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, number: int) -> LeafInfo: ...
    @overload
    def __getitem__(self, number: slice) -> list[LeafInfo]: ...
    def __getitem__(self, number: int | slice) -> LeafInfo | list[LeafInfo]:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        node = self._nodes[number]
        leaf = self._tree.arg[node]
        type_, dtype, nbytes = self._rows[leaf]
        return LeafInfo(
            self._places.path(node),
            self._types[type_ - 1],
            self._dtypes[dtype],
            self._tree.index.shape(leaf),
            nbytes,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        lines = [shown(repr(leaf), 1000) for leaf in self[:_LINES_SHOWN]]
        return f"[{', '.join(listed(lines, len(lines), len(self) - len(lines)))}]"


def _dtype_text(stored: dtypes.Stored) -> str:
    if isinstance(stored, str):
        return stored
    if "base" in stored:
        return f"{_dtype_text(stored['base'])}[{','.join(map(str, stored['shape']))}]"
    return (
        "{" + ", ".join(f"{f['name']}: {_dtype_text(f['dtype'])}" for f in stored["fields"]) + "}"
    )

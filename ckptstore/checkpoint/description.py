"""The description of a checkpoint, from its manifest and index alone."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.format import Kind, Manifest, dtypes
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
        """Its arrays, in the order of the tree."""
        tree = self._tree
        index, leaves = tree.index, tree.index.leaves
        nodes = [node for node, kind in enumerate(tree.kind) if kind == Kind.LEAF]
        texts = [_dtype_text(stored) for stored in index.dtypes]
        nbytes = np.zeros(len(leaves), np.int64)
        np.add.at(nbytes, index.spans.leaf, index.spans.size)
        return [
            LeafInfo(
                path,
                str(index.types[int(leaves.type[leaf]) - 1]),
                texts[int(leaves.dtype[leaf])],
                index.shape(leaf),
                int(nbytes[leaf]),
            )
            for path, leaf in zip(
                paths.format_paths(tree, nodes), [tree.arg[node] for node in nodes], strict=True
            )
        ]

    def __repr__(self) -> str:
        return f"<Checkpoint {self.url} step={self.step} attempt={self.attempt}>"

    def __str__(self) -> str:
        step = "" if self.step is None else f" step {self.step},"
        head = f"{self.url}:{step} {len(self.leaves)} leaves, {self.nbytes:,} bytes"
        lines = [
            f"  {leaf.path}  {leaf.dtype}[{','.join(map(str, leaf.shape))}]  {leaf.type}"
            for leaf in self.leaves[:_LINES_SHOWN]
        ]
        if len(self.leaves) > len(lines):
            lines.append(f"  … and {len(self.leaves) - len(lines)} more")
        return "\n".join([head, *lines])


def _dtype_text(stored: dtypes.Stored) -> str:
    if isinstance(stored, str):
        return stored
    if "base" in stored:
        return f"{_dtype_text(stored['base'])}[{','.join(map(str, stored['shape']))}]"
    return (
        "{" + ", ".join(f"{f['name']}: {_dtype_text(f['dtype'])}" for f in stored["fields"]) + "}"
    )

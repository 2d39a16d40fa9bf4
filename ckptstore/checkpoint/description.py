"""The description of a checkpoint, from its manifest and index alone."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ckptstore.checkpoint.contents import LeafInfo, Leaves, lines_of
from ckptstore.format import Manifest
from ckptstore.tree import StoredTree


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
        nbytes_written: the size of the files that its save wrote, and did not take over from the
            step before, in bytes.
        processes: the number of processes that saved it together.

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

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        index_parts: Sequence[bytes] | Callable[[], Sequence[bytes]],
    ) -> None:
        self.url = url
        self.attempt = manifest.attempt
        self.time = datetime.datetime.fromtimestamp(manifest.time_ms / 1000, datetime.UTC)
        self.step = manifest.step
        self.metrics: Mapping[str, float] = manifest.metrics
        self.metadata: Mapping[str, Any] = manifest.metadata
        self.writer: Mapping[str, str] = manifest.writer
        self.version = manifest.version
        self.processes = manifest.processes
        self.nbytes = sum(file.nbytes for file in manifest.files)
        self.nbytes_written = sum(file.nbytes for file in manifest.files if not file.age)
        self._files = manifest.files
        self._parts = index_parts

    @functools.cached_property
    def _tree(self) -> StoredTree:
        parts = self._parts() if callable(self._parts) else self._parts
        return StoredTree.decode(parts, self._files, where=self.url)

    @functools.cached_property
    def types(self) -> Sequence[str]:
        """The stored names of its types."""
        return [str(row) for row in self._tree.types if row.module != "ckptstore"]

    @functools.cached_property
    def leaves(self) -> Sequence[LeafInfo]:
        """Its arrays, in the order of the tree; each is described when you ask for it."""
        return Leaves(self._tree)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.url} step={self.step} attempt={self.attempt}>"

    def __str__(self) -> str:
        step = "" if self.step is None else f" step {self.step},"
        head = f"{self.url}:{step} {len(self.leaves)} leaves, {self.nbytes:,} bytes"
        lines = lines_of(self._tree, Leaves(self._tree))
        return "\n".join([head, *(f"  {line}" for line in lines)])

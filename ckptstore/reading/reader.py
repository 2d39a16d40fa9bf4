"""`open_checkpoint` and `Reader`: one committed checkpoint that stays open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from ckptstore import storage, tree
from ckptstore.checkpoint import Checkpoint, Snapshot, read_snapshot
from ckptstore.errors import Reason, StructureError
from ckptstore.format.dtypes import Array
from ckptstore.reading.nodes import ArrayNode, Node, node_at
from ckptstore.reading.pieces import Piece, pieces_of
from ckptstore.reading.view import View
from ckptstore.tree import patterns


def open_checkpoint(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Reader:
    """Open a checkpoint to look into it: its tree, its arrays, slices of them.

    The index is decoded once. Nothing else is read until you ask for it, and no framework is
    imported. Close the reader, or use it in a with block.

    Args:
        url: the checkpoint's directory: a path, or a URL of a store.
        storage_options: options of the store, as fsspec takes them; docs/mounts.md for a disk.

    Raises:
        NotCommittedError: there is no checkpoint, or its save never finished.
        CorruptError: the manifest or the index is not as it was written.
        UnsupportedError: a newer format.
        StorageError: the disk or the store cannot be read.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = ckptstore.save("ckpt", {"params": {"w": np.arange(6.0)}, "step": 7})
        >>> with ckptstore.open_checkpoint("ckpt") as reader:
        ...     reader["step"].value, reader["params.w"][2:4]
        (7, array([2., 3.]))

    Source: docs/looking.md.
    """
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(storage.open(url, storage_options))
        snapshot = read_snapshot(store, _opened, some=True)
        return Reader(snapshot, stack.pop_all())


def _opened(snapshot: Snapshot) -> Snapshot:
    return snapshot


class Reader:
    """One committed checkpoint that stays open; `open_checkpoint` returns it.

    If the checkpoint is overwritten or deleted meanwhile, a read raises `NotCommittedError` or
    returns what was saved: never a mixture. Threads may share a reader.

    Attributes:
        url: its directory.
        checkpoint: its description, as `inspect` returns it.
        tree: the root of its tree.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = ckptstore.save("ckpt", {"a": np.zeros(3), "b": np.ones(2)})
        >>> with ckptstore.open_checkpoint("ckpt") as reader:
        ...     {array.short: float(array.read().sum()) for array in reader.arrays()}
        {'a': 0.0, 'b': 2.0}

    Source: docs/looking.md.
    """

    def __init__(self, snapshot: Snapshot, resources: contextlib.ExitStack) -> None:
        self._resources = resources
        try:
            self._view = View(snapshot)
        except BaseException:
            resources.close()
            raise
        self.url = self._view.url
        self.checkpoint = Checkpoint(self.url, snapshot.manifest, snapshot.index_parts)
        self.tree: Node = node_at(self._view, 0, ())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its files. What you have read stays as it is."""
        self._view.is_open = False
        self._resources.close()

    def __getitem__(self, path: str) -> Any:
        """Return the node at a path: an `ArrayNode` if an array stands there.

        Args:
            path: such as ``$.params['w']``, or short: ``params.w``. ``layers.0`` also means
                ``layers[0]``.

        Raises:
            StructureError: reason ``no-match``, with the paths that are near; ``bad-pattern``.
        """
        if not isinstance(path, str) or not tree.is_one_place(path):
            raise StructureError(
                f"{self.url}: {path!r:.200} is not the path of one place; for patterns with stars "
                "call reader.select",
                reason=Reason.BAD_PATTERN,
            )
        (node,) = self.select(path)
        return node

    def select(self, select: str | Sequence[str]) -> list[Node]:
        """Return the nodes at all places that patterns match, in the order of the tree.

        Args:
            select: a pattern or several, such as ``$.params.*`` or ``opt_state.**.mu``.

        Raises:
            StructureError: as for `load`.
        """
        chosen = tree.patterns_of(select, "select")
        found = tree.select(self._view.tree, chosen, self.url, places=True)
        return [node_at(self._view, node, patterns.steps_of(path)) for path, node in found.items()]

    def arrays(self, select: str | Sequence[str] | None = None) -> Iterator[ArrayNode]:
        """Yield each array once, in the order of the tree.

        Args:
            select: a pattern or several; None: all arrays.

        Raises:
            StructureError: as for `load`.
        """
        seen = set[int]()
        for root in [self.tree] if select is None else self.select(select):
            for node in root.walk():
                if isinstance(node, ArrayNode) and node.leaf not in seen:
                    seen.add(node.leaf)
                    yield node

    def read(self, arrays: Iterable[ArrayNode]) -> dict[str, Array]:
        """Return arrays by path. Many small ones are read together, and so faster.

        Args:
            arrays: nodes of this reader.

        Raises:
            CorruptError, UnsupportedError, NotCommittedError: as for `ArrayNode.read`.

        Example:
            >>> import ckptstore, numpy as np
            >>> saved = ckptstore.save("ckpt", {"w": np.zeros(2), "n": np.array(3)})
            >>> with ckptstore.open_checkpoint("ckpt") as reader:
            ...     reader.read(reader.arrays())
            {"$['w']": array([0., 0.]), "$['n']": array(3)}
        """
        nodes = [*arrays]
        found = self._view.arrays({node.leaf: None for node in nodes})
        return {node.path: found[node.leaf] for node in nodes}

    def pieces(self, select: str | Sequence[str] | None = None) -> Iterator[Piece]:
        """Yield the elements of arrays in verified pieces of at most 16 MiB, in file order.

        It is the fastest way through much data: each file is read once from its begin to its end,
        and no array is joined. Use a piece before you take the next.

        Args:
            select: a pattern or several; None: all arrays.

        Raises:
            StructureError: as for `load`.
            CorruptError: a byte is not as it was written.
            NotCommittedError: the checkpoint was overwritten or deleted meanwhile.

        Example:
            >>> import ckptstore, numpy as np
            >>> saved = ckptstore.save("ckpt", {"w": np.arange(4.0), "n": np.array(3)})
            >>> with ckptstore.open_checkpoint("ckpt") as reader:
            ...     sum(piece.values.size for piece in reader.pieces())
            5
        """
        arrays = {array.leaf: array for array in self.arrays(select)}
        yield from pieces_of(self._view, arrays)

    def __repr__(self) -> str:
        return f"<Reader {self.url} step={self.checkpoint.step}>"

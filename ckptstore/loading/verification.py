"""`verify`: check every byte of a checkpoint against its checksum, and all padding for zeros."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore import concurrency, storage
from ckptstore.checkpoint import Snapshot, read_snapshot
from ckptstore.errors import CorruptError
from ckptstore.loading import stretches
from ckptstore.loading.stretches import Damage, Stretch
from ckptstore.progress import Progress
from ckptstore.tree import paths


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem that `verify` found.

    Attributes:
        reason: the code that a `CheckpointError` for it carries.
        where: the file, and the place in it.
        message: a description of the problem.
        path: the path of the damaged array, without its middle if it is very long; None if the
            damage is elsewhere.

    Example:
        >>> import ckptstore, numpy as np, pathlib
        >>> saved = ckptstore.save("ckpt", {"w": np.zeros(3)})
        >>> [file] = pathlib.Path("ckpt").glob("data-*")
        >>> _ = file.write_bytes(b"x" + file.read_bytes()[1:])
        >>> [problem] = ckptstore.verify("ckpt")
        >>> problem.reason == "checksum", problem.message, problem.path
        (True, "damaged bytes of $['w']", "$['w']")

    Source: docs/spec.md, section 12.
    """

    reason: str
    where: str
    message: str
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.reason}]"


def verify(
    url: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    callback: Any = None,
) -> list[Problem]:
    """Read every byte of a checkpoint and return all problems.

    This imports no framework. Unlike `load`, it also reads the padding between spans.

    Args:
        url: the checkpoint's directory: a path, or a URL of a store.
        storage_options: options of the store, as fsspec takes them; docs/mounts.md for a disk.
        callback: an `fsspec.Callback`, which is told the bytes that are read, as for `save`.

    Returns:
        The problems; an empty list if the checkpoint is intact.

    Raises:
        NotCommittedError: there is no checkpoint.
        UnsupportedError: a newer format.
        StorageError: the disk cannot be read.

    Source: docs/spec.md, sections 5.6 and 6.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import ckptstore
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     checkpoint = ckptstore.save(f"{directory}/step-7", {"w": np.zeros(3)})
        ...     ckptstore.verify(checkpoint.url)
        []
    """

    def use(snapshot: Snapshot) -> list[Problem]:
        return _problems(dataclasses.replace(snapshot, progress=progress))

    with Progress(callback, "verify") as progress, storage.open(url, storage_options) as store:
        try:
            return read_snapshot(store, use)
        except CorruptError as error:
            return [Problem(error.reason, store.url, str(error))]


def _problems(snapshot: Snapshot) -> list[Problem]:
    snapshot.check_files()
    tree, where, files = snapshot.tree(), snapshot.storage.url, snapshot.manifest.files
    snapshot.progress.expect(sum(file.nbytes for file in files if file.role == "data"))

    def look(stretch: Stretch) -> Sequence[Damage]:
        fill = stretches.filler(snapshot, stretch.file)
        memory, damages = stretches.read(stretch, tree.index, fill)
        snapshot.progress.add(memory.size)
        return damages

    parts = concurrency.map(
        look,
        stretches.stretches_of(tree.index),
        snapshot.storage.traffic.reads,
        name="ckptstore-verify",
    )
    damages = [damage for part in parts for damage in part]
    nodes = {d.leaf: tree.leaf_nodes[d.leaf] for d in damages if d.leaf is not None}
    names = dict(zip(nodes, paths.shown_paths(tree, [*nodes.values()]), strict=True))
    return [
        Problem(
            reason,
            f"{where}/{files[file].name} at byte {offset}",
            "padding is not zero" if leaf is None else f"damaged bytes of {names[leaf]}",
            None if leaf is None else names[leaf],
        )
        for reason, file, offset, leaf in damages
    ]

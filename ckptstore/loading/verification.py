"""`verify`: check every byte of a checkpoint against its checksum, and all padding for zeros."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ckptstore import concurrency, storage
from ckptstore.checkpoint import Snapshot, read_snapshot
from ckptstore.digests import digest
from ckptstore.errors import CorruptError, Reason
from ckptstore.format import Index
from ckptstore.loading import ranges
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


class _Damage(NamedTuple):
    """A damaged place: a span of a leaf, or padding that is not zero."""

    reason: Reason
    file: str
    offset: int
    leaf: int | None


def _problems(snapshot: Snapshot) -> list[Problem]:
    snapshot.check_files()
    tree, where = snapshot.tree(), snapshot.storage.url
    snapshot.progress.expect(sum(f.nbytes for f in snapshot.manifest.files if f.role == "data"))
    parts = concurrency.map(
        lambda stretch: _damages(snapshot, tree.index, *stretch),
        _stretches(tree.index),
        snapshot.storage.traffic.reads,
        name="ckptstore-verify",
    )
    damages = [damage for part in parts for damage in part]
    nodes = {d.leaf: tree.leaf_nodes[d.leaf] for d in damages if d.leaf is not None}
    names = dict(zip(nodes, paths.shown_paths(tree, [*nodes.values()]), strict=True))
    return [
        Problem(
            reason,
            f"{where}/{file} at byte {offset}",
            "padding is not zero" if leaf is None else f"damaged bytes of {names[leaf]}",
            None if leaf is None else names[leaf],
        )
        for reason, file, offset, leaf in damages
    ]


def _stretches(index: Index) -> Iterator[tuple[int, int, list[int]]]:
    """Cut the data files into reads: (file, first byte, spans in it), with the padding before."""
    spans = index.spans
    order = np.lexsort((spans.offset, spans.file))
    rows = zip(*(c[order].tolist() for c in (spans.file, spans.offset, spans.size)), strict=True)
    file, begin, end, inside = -1, 0, 0, list[int]()
    for number, (file_of_span, offset, size) in zip(order.tolist(), rows, strict=True):
        if inside and (file_of_span != file or offset + size - begin > ranges.RANGE_NBYTES):
            yield file, begin, inside
            begin, inside = end, []
        if file_of_span != file:
            file, begin = file_of_span, 0
        inside.append(number)
        end = offset + size
    if inside:
        yield file, begin, inside


def _damages(
    snapshot: Snapshot, index: Index, file: int, begin: int, inside: Sequence[int]
) -> list[_Damage]:
    """Check some neighbouring spans; a damaged one is read once more."""
    spans, name = index.spans, snapshot.manifest.files[file].name
    damages: list[_Damage] = []
    for _ in range(2):
        damages, end = [], begin
        memory = np.empty(int(spans.offset[inside[-1]] + spans.size[inside[-1]]) - begin, np.uint8)
        snapshot.fill(name, begin, memory)
        for span in inside:
            offset, size = int(spans.offset[span]), int(spans.size[span])
            padding = memory[end - begin : offset - begin]
            if padding.any():
                first = end + int(np.argmax(padding != 0))
                damages.append(_Damage(Reason.PADDING, name, first, None))
            end = offset + size
            if digest(memory[offset - begin : end - begin]) != spans.digests[span]:
                damages.append(_Damage(Reason.CHECKSUM, name, offset, int(spans.leaf[span])))
        if not damages:
            break
    snapshot.progress.add(end - begin)
    return damages

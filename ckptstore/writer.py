"""`save`: from a tree to a committed checkpoint."""

from __future__ import annotations

import dataclasses
import math
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import xxhash

from ckptstore import classes, commit, dtypes, format, index, paths, plan, storage, validate, wire
from ckptstore.checkpoint import Checkpoint
from ckptstore.dtypes import Array
from ckptstore.errors import CheckpointError, CorruptError, StructureError
from ckptstore.format import File, Manifest
from ckptstore.index import Index, Kind, Leaves, Spans
from ckptstore.plan import Plan
from ckptstore.registry import Refusal
from ckptstore.storage import Storage
from ckptstore.tree import Walk, flatten

_PIECE_NBYTES = 1 << 20
"""A piece is hashed and then written while it is still in the cache."""


def save(
    url: Any,
    tree: Any,
    *,
    step: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    supplied: Sequence[str] = (),
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Save a whole tree as one checkpoint; when this returns, it is committed and durable.

    The tree is not changed. Everything that cannot come back exactly is refused before anything is
    written.

    Args:
        url: the checkpoint's own directory: a path, or a URL as of a bucket. It is made if need be.
        tree: the state: params, opt_state, step, keys, in any nesting of the carried containers.
        step: the training step, 0 or more; for people and for listing.
        metadata: plain values of your own, at most 256 KiB.
        metrics: numbers by name.
        supplied: patterns of paths that no file can carry and that `load` takes from `like`.
        overwrite: replace the checkpoint that is there. The old one stays until the new is durable.
        storage_options: options of the store.

    Returns:
        What `inspect` would return.

    Raises:
        StructureError: something cannot be carried; it lists every path and the remedy.
        AlreadyCommittedError: a checkpoint is there and `overwrite` is false, or another save won.
        OutcomeUnknownError: the disk or the store failed while it committed.
        StorageError: the disk or the store refused; the old checkpoint is whole.

    An array that another thread writes to during the call may be saved half before and half after;
    the checkpoint is sound all the same. On failure an old checkpoint is as it was, and the files
    of this save are removed. A killed process leaves data files that no manifest names; they are
    in nobody's way. Source: docs/spec.md, section 7; docs/commit.md.
    """
    _check_arguments(step, metadata, metrics, supplied)
    format.encode_metadata(dict(metadata or {}))
    walk = flatten(tree, supplied=list(supplied or ()))
    with storage.open(url, storage_options) as store:
        replaced = commit.current(store)
        if replaced is not None and not overwrite:
            raise commit.occupied(store, replaced)
        attempt = secrets.token_hex(16)
        try:
            manifest, parts = _write(store, attempt, walk, step, metadata, metrics)
            data = format.encode(manifest)
        except BaseException:
            commit.discard(store, attempt)  # no commit was sent, so this is nobody's data
            raise
        commit.publish(store, manifest, data, replaced)
        return Checkpoint(store.url, manifest, parts)


def _check_arguments(step: Any, metadata: Any, metrics: Any, supplied: Any) -> None:
    if step is not None and (type(step) is not int or not 0 <= step <= wire.MAX_INTEGER):
        found = "out of range" if type(step) is int else f"{step!r:.80} ({type(step).__name__})"
        raise StructureError(
            f"save: step is {found}, expected an int from 0 to 2^53 - 1; int(step) of an array "
            "gives one",
            reason="bad-step",
        )
    for what, given, reason in (
        ("metadata", metadata, "metadata"),
        ("metrics", metrics, "bad-metric"),
    ):
        if given is not None and not isinstance(given, Mapping):
            raise StructureError(
                f"save: {what} is {given!r:.80} ({type(given).__name__}), expected a dict; "
                f'{what}={{"name": value}}',
                reason=reason,
            )
    for name, value in dict(metrics or {}).items():
        if type(name) is not str:
            raise StructureError(
                f"save: metrics has a name that is a {type(name).__name__}, expected a str; "
                'metrics={"name": value}',
                reason="bad-metric",
            )
        if type(value) not in (int, float):
            raise StructureError(
                f"save: metrics[{name!r:.80}] is {value!r:.80} ({type(value).__name__}), expected "
                "a float; float(value) of an array gives one",
                reason="bad-metric",
            )
        if type(value) is int and abs(value) > wire.MAX_INTEGER:
            raise StructureError(
                f"save: metrics[{name!r:.80}] is over 2^53 - 1; pass float(value)",
                reason="bad-metric",
            )
    if supplied is not None and not isinstance(supplied, list | tuple | set | frozenset):
        raise StructureError(
            f'save: supplied={supplied!r:.80}, expected a list of patterns, such as ["$.apply_fn"]',
            reason="bad-pattern",
        )


def _write(
    store: Storage,
    attempt: str,
    walk: Walk,
    step: int | None,
    metadata: Mapping[str, Any] | None,
    metrics: Mapping[str, float] | None,
) -> tuple[Manifest, list[bytes]]:
    """Write the data files, and the index where it does not fit; return the manifest."""
    itemsize = [dtypes.item_nbytes(stored, where="save") for stored in walk.dtypes]
    nbytes = [
        math.prod(leaf.shape) * itemsize[number]
        for leaf, number in zip(walk.leaves, walk.leaf_dtype, strict=True)
    ]
    placement = plan.plan(nbytes)
    names = [format.file_name("data", attempt, 0, n) for n in range(len(placement.file_nbytes))]
    files = [
        File(name, size, "data") for name, size in zip(names, placement.file_nbytes, strict=True)
    ]
    table = Index(
        types=walk.types,
        dtypes=walk.dtypes,
        nodes=walk.nodes(),
        leaves=_leaf_table(walk),
        spans=_span_table(placement),
    )
    manifest = Manifest(
        attempt=attempt,
        time_ms=time.time_ns() // 1_000_000,
        step=step,
        metrics=dict(metrics or {}),
        writer=_versions(walk),
        metadata=dict(metadata or {}),
        files=files,
        index=None,
    )
    _check_readable(manifest, table)  # before anything is written
    store.prepare()
    table.spans.digests[:] = _write_files(store, names, placement, walk, nbytes)
    encoded = index.encode(table)
    manifest, outside = _with_index(manifest, encoded)
    if outside is not None:
        store.put(outside.name, [encoded], len(encoded))
    store.flush()
    return manifest, [encoded]


def _with_index(manifest: Manifest, encoded: bytes) -> tuple[Manifest, File | None]:
    """Put the index inside the manifest, or where it does not fit, in a file of its own."""
    inside = dataclasses.replace(manifest, index=encoded)
    if len(format.encode(inside)) <= format.MANIFEST_MAX_NBYTES:
        return inside, None
    name = format.file_name("index", manifest.attempt, 0, 0)
    outside = File(name, len(encoded), "index", wire.digest(encoded))
    return dataclasses.replace(manifest, files=[*manifest.files, outside]), outside


def _check_readable(manifest: Manifest, table: Index) -> None:
    """Hold what is about to be written against every check of a reader: a save that returns loads.

    Raises:
        StructureError: reason ``cannot-carry``.
    """
    encoded = index.encode(table)
    try:
        if len(encoded) > index.INDEX_MAX_NBYTES:
            raise CorruptError(f"an index of {len(encoded)} bytes")
        final, _ = _with_index(manifest, encoded)
        format.decode(format.encode(final), where="manifest")
        validate.decode([encoded], final.files, where="manifest")
    except CorruptError as error:
        raise StructureError(
            f"save: this tree is beyond a limit of the format: {error}", reason="cannot-carry"
        ) from None


def _leaf_table(walk: Walk) -> Leaves:
    ndim = [len(leaf.shape) for leaf in walk.leaves]
    dims = [n for leaf in walk.leaves for n in leaf.shape]
    type_, dtype, ndim_, dims_ = (
        np.asarray(c, np.int64) for c in (walk.leaf_type, walk.leaf_dtype, ndim, dims)
    )
    return Leaves(type_, dtype, ndim_, dims_, np.ones(len(dims), np.int64), np.zeros(0, np.int64))


def _span_table(placement: Plan) -> Spans:
    """Return the table of spans; their digests are not known yet."""
    rows = [(span.leaf, 0, span.file, span.offset, span.size) for span in placement.spans]
    leaf, cell, file, offset, size = np.array(rows, np.int64).reshape(-1, 5).T
    return Spans(leaf, cell, file, offset, size, [bytes(16)] * len(rows))


def _versions(walk: Walk) -> dict[str, str]:
    """The versions of Python, of this package and of every package whose types are stored."""
    packages = {"ckptstore", "numpy"} | {row.package for row in walk.types if row.package}
    found = {name: classes.package_version(name) for name in sorted(packages)}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v is not None}


def _write_files(
    store: Storage, names: Sequence[str], placement: Plan, walk: Walk, leaf_nbytes: Sequence[int]
) -> list[wire.Digest]:
    """Write all data files in parallel and return the digest of every span."""
    job = _Job(placement, walk, leaf_nbytes)

    def write(name: str, numbers: Sequence[int], nbytes: int) -> None:
        try:
            store.put(name, job.chunks(numbers), nbytes)
        except BaseException as error:
            job.errors.append(error)  # the first one is what went wrong
            job.stop.set()
            store.stop()

    rows = zip(names, placement.by_file(), placement.file_nbytes, strict=True)
    with ThreadPoolExecutor(store.traffic.writes, thread_name_prefix="ckptstore-write") as pool:
        try:
            wait([pool.submit(write, *row) for row in rows])
        except BaseException:
            job.stop.set()
            store.stop()
            raise
    if job.errors:
        raise job.errors[0]
    return job.digests


class _Stopped(CheckpointError):
    """Another file of this save failed."""


class _Job:
    """The data files of one save, being written by several threads."""

    def __init__(self, placement: Plan, walk: Walk, leaf_nbytes: Sequence[int]) -> None:
        self.placement = placement
        self.walk = walk
        self.leaf_nbytes = leaf_nbytes
        self.digests: list[wire.Digest] = [bytes(16)] * len(placement.spans)
        self.errors: list[BaseException] = []
        self.stop = threading.Event()

    def chunks(self, numbers: Sequence[int]) -> Iterator[wire.Buffer]:
        """Give the bytes of one data file in order, hashing each span on the way.

        Small spans are gathered in one buffer; of a large leaf, the host view is let go as soon as
        its last span of this file is done. What others could write to is copied, a piece at a
        time, so that what is hashed is what is written.
        """
        slab, end, held, host = bytearray(), 0, -1, np.zeros(0, np.uint8)
        for number in numbers:
            if self.stop.is_set():
                raise _Stopped("another file of this save failed")
            span = self.placement.spans[number]
            slab += bytes(span.offset - end)
            end = span.offset + span.size
            if span.leaf != held:
                del host
                held, host = span.leaf, self._host(span.leaf)
            fixed = self.walk.leaves[span.leaf].fixed
            if span.size < _PIECE_NBYTES:
                data: wire.Buffer = host[span.start : span.start + span.size]
                data = data if fixed else data.tobytes()
                self.digests[number] = wire.digest(data)
                slab += memoryview(data)
                if len(slab) >= _PIECE_NBYTES:
                    yield slab
                    slab = bytearray()
                continue
            if slab:
                yield slab
                slab = bytearray()
            state = xxhash.xxh3_128()
            for at in range(span.start, span.start + span.size, _PIECE_NBYTES):
                piece: wire.Buffer = host[at : min(at + _PIECE_NBYTES, span.start + span.size)]
                piece = piece if fixed else piece.copy()
                state.update(piece)
                yield piece
            self.digests[number] = state.digest()
        if slab:
            yield slab

    def _host(self, leaf: int) -> Array:
        """Return the stored bytes of a leaf.

        Raises:
            StructureError: reason ``cannot-carry`` where a value cannot be stored, or the array
                was deleted or resized since the walk.
        """
        try:
            host = self.walk.leaves[leaf].read()
        except (Refusal, dtypes.DtypeRefusal) as refusal:
            raise StructureError(f"{self._path(leaf)}: {refusal}", reason="cannot-carry") from None
        if host.size != self.leaf_nbytes[leaf]:
            raise StructureError(
                f"{self._path(leaf)}: {host.size} bytes, {self.leaf_nbytes[leaf]} when the save "
                "began; do not resize an array while it is saved",
                reason="cannot-carry",
            )
        return host

    def _path(self, leaf: int) -> str:
        rows = zip(self.walk.kind, self.walk.arg, strict=True)
        node = next(i for i, row in enumerate(rows) if row == (Kind.LEAF, leaf))
        return paths.format_paths(self.walk, [node])[0]

"""`save`: from a tree to a committed checkpoint."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ckptstore import concurrency, storage
from ckptstore.checkpoint import commit
from ckptstore.checkpoint.commit import Committed
from ckptstore.checkpoint.description import Checkpoint
from ckptstore.digests import Digest, digest
from ckptstore.errors import CorruptError, Reason, StructureError
from ckptstore.format import (
    INDEX_MAX_NBYTES,
    File,
    Index,
    Leaves,
    Manifest,
    Spans,
    decode_index,
    decode_manifest,
    encode_index,
    encode_manifest,
    encode_metadata,
)
from ckptstore.format import manifest as format
from ckptstore.format.names import file_name
from ckptstore.saving import incremental, request
from ckptstore.saving import placement as plan
from ckptstore.saving.incremental import Base, Series
from ckptstore.saving.placement import Plan
from ckptstore.saving.staging import Job, Staging
from ckptstore.storage import Storage
from ckptstore.tree import LiveTree, flatten
from ckptstore.types import package_version

_LOOKED_AT_ONCE = 4
"""Leaves compared with the save before."""


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
    _series: Series | None = None,
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
    with prepare(
        url,
        tree,
        step=step,
        metadata=metadata,
        metrics=metrics,
        supplied=supplied,
        overwrite=overwrite,
        storage_options=storage_options,
        series=_series,
    ) as attempt:
        return attempt.finish()


def prepare(
    url: Any,
    tree: Any,
    *,
    step: int | None,
    metadata: Mapping[str, Any] | None,
    metrics: Mapping[str, float] | None,
    supplied: Sequence[str],
    overwrite: bool,
    storage_options: Mapping[str, Any] | None,
    series: Series | None,
) -> Attempt:
    """Begin a save: refuse what cannot be saved, and write nothing yet. Arguments as of `save`.

    With a `series`, it takes over what did not change since the save before, and is its last then.

    Raises:
        StructureError, AlreadyCommittedError, StorageError: as `save`.
    """
    request.check(step, metadata, metrics, supplied)
    encode_metadata(dict(metadata or {}))
    walk = flatten(tree, supplied=list(supplied or ()))
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(storage.open(url, storage_options))
        replaced = commit.current(store)
        if replaced is not None and not overwrite:
            raise commit.occupied(store, replaced)
        attempt = Attempt(store, walk, replaced, series, step, metadata, metrics)
        stack.pop_all()
        return attempt


class Attempt:
    """A save that may be written; it holds the place open until its `with` block ends.

    Attributes:
        url: the place.
        step: as given to `save`.
    """

    def __init__(
        self,
        store: Storage,
        walk: LiveTree,
        replaced: Committed | None,
        series: Series | None,
        step: int | None,
        metadata: Mapping[str, Any] | None,
        metrics: Mapping[str, float] | None,
    ) -> None:
        self.url = store.url
        self.step = step
        self._store = store
        self._replaced = replaced
        self._series = series
        self._base = series.base() if series else None  # now: at its end a process cannot connect
        self._samples: dict[int, Digest] = {}
        self._misses: dict[int, int] = {}
        self._staging = Staging(walk)
        self._placement = plan.plan(self._staging.nbytes)
        self._table = Index(
            types=walk.types,
            dtypes=walk.dtypes,
            nodes=walk.nodes(),
            leaves=_leaf_table(walk),
            spans=_span_table(self._placement),
        )
        attempt = secrets.token_hex(16)
        self._manifest = Manifest(
            attempt=attempt,
            time_ms=time.time_ns() // 1_000_000,
            step=step,
            metrics=request.plain(metrics or {}),
            writer=_versions(walk),
            metadata=copy.deepcopy(dict(metadata or {})),
            files=_new_files(attempt, 0, self._placement),
            index=None,
        )
        _check_readable(self._manifest, self._table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._staging.let_go()
        self._store.__exit__(*exc)

    def fix(self) -> None:
        """Keep the values that the tree holds now; `Staging.fix` says how."""
        self._staging.fix()

    def finish(self) -> Checkpoint:
        """Write and commit.

        Raises:
            CheckpointError: as `save`.
        """
        store, attempt = self._store, self._manifest.attempt
        try:
            manifest, encoded = self._write()
            data = encode_manifest(manifest)
        except BaseException:
            commit.discard(store, attempt)  # no commit was sent, so this is nobody's data
            raise
        commit.publish(store, manifest, data, self._replaced)
        if self._series is not None:
            directory, spans = self.url.rpartition("/")[2], self._table.spans
            saved = incremental.base(directory, manifest.files, spans, self._samples, self._misses)
            self._series.saved(saved, self._base)
        return Checkpoint(self.url, manifest, [encoded])

    def _write(self) -> tuple[Manifest, bytes]:
        """Write the data files, and the index where it does not fit; return manifest and index."""
        store = self._store
        store.prepare()
        if self._series is not None and self._base is not None:
            self._take_over(self._base, self._series.keep_full_every)
        names = [file.name for file in self._manifest.files[self._placement.taken :]]
        job = Job(self._placement, self._staging, self._samples)
        _write_files(store, names, job)
        self._table.spans.digests[:] = job.digests
        encoded = encode_index(self._table)
        manifest, outside = _with_index(self._manifest, encoded)
        if outside is not None:
            store.put(outside.name, [encoded], len(encoded))
        store.flush()
        return manifest, encoded

    def _take_over(self, base: Base, keep_full_every: int) -> None:
        """Link the files of the save before of which no leaf changed, and plan the rest anew."""
        unchanged = self._unchanged(base)
        if not unchanged:
            return
        store, attempt = self._store, self._manifest.attempt
        rows = incremental.takeable(base, unchanged, keep_full_every)
        linked: dict[int, File] = {}

        def link(number: int, row: int) -> None:
            file, name = base.files[row], file_name("data", attempt, 0, number)
            if store.link(name, base.directory, file.name, file.nbytes):
                linked[row] = File(name, file.nbytes, "data", age=file.age + 1)

        concurrency.run(
            link, enumerate(rows), store.traffic.writes, name="ckptstore-link", stop=store.stop
        )
        rest = [row for row in rows if row in linked]
        self._placement = plan.plan(self._staging.nbytes, unchanged, incremental.taken(base, rest))
        files = [linked[row] for row in rest] + _new_files(attempt, len(rows), self._placement)
        self._manifest = dataclasses.replace(self._manifest, files=files)
        self._table = dataclasses.replace(self._table, spans=_span_table(self._placement))
        _check_readable(self._manifest, self._table)

    def _unchanged(self, base: Base) -> set[int]:
        """Return the large leaves that hold what the save before holds of them."""
        unchanged: set[int] = set()

        def look(leaf: int) -> None:
            host = self._staging.read(leaf)
            seen = self._samples[leaf] = incremental.sample(host)
            if base.samples.get(leaf, seen) == seen and incremental.is_unchanged(base, leaf, host):
                unchanged.add(leaf)

        rows = [(leaf,) for leaf in incremental.candidates(base, self._staging.nbytes)]
        concurrency.run(look, rows, _LOOKED_AT_ONCE, name="ckptstore-look")
        self._misses = {n: base.misses.get(n, 0) + 1 for n in base.leaves if n not in unchanged}
        return unchanged


def _new_files(attempt: str, first: int, placement: Plan) -> list[File]:
    """Return the rows of the files that are to be written, numbered from `first` on."""
    return [
        File(file_name("data", attempt, 0, n), size, "data")
        for n, size in enumerate(placement.file_nbytes[placement.taken :], first)
    ]


def _with_index(manifest: Manifest, encoded: bytes) -> tuple[Manifest, File | None]:
    """Put the index inside the manifest, or where it does not fit, in a file of its own."""
    inside = dataclasses.replace(manifest, index=encoded)
    if len(encode_manifest(inside)) <= format.MANIFEST_MAX_NBYTES:
        return inside, None
    name = file_name("index", manifest.attempt, 0, 0)
    outside = File(name, len(encoded), "index", digest(encoded))
    return dataclasses.replace(manifest, files=[*manifest.files, outside]), outside


def _check_readable(manifest: Manifest, table: Index) -> None:
    """Hold what is about to be written against every check of a reader: a save that returns loads.

    Raises:
        StructureError: reason ``cannot-carry``.
    """
    encoded = encode_index(table)
    try:
        if len(encoded) > INDEX_MAX_NBYTES:
            raise CorruptError(f"an index of {len(encoded)} bytes")
        final, _ = _with_index(manifest, encoded)
        decode_manifest(encode_manifest(final), where="manifest")
        decode_index([encoded], final.files, where="manifest")
    except CorruptError as error:
        raise StructureError(
            f"save: this tree is beyond a limit of the format: {error}", reason=Reason.CANNOT_CARRY
        ) from None


def _leaf_table(walk: LiveTree) -> Leaves:
    ndim = [len(leaf.shape) for leaf in walk.leaves]
    dims = [n for leaf in walk.leaves for n in leaf.shape]
    type_, dtype, ndim_, dims_ = (
        np.asarray(c, np.int64) for c in (walk.leaf_type, walk.leaf_dtype, ndim, dims)
    )
    return Leaves(type_, dtype, ndim_, dims_, np.ones(len(dims), np.int64), np.zeros(0, np.int64))


def _span_table(placement: Plan) -> Spans:
    """Return the table of spans; the digests of those to be written are not known yet."""
    rows = [(span.leaf, 0, span.file, span.offset, span.size) for span in placement.spans]
    leaf, cell, file, offset, size = np.array(rows, np.int64).reshape(-1, 5).T
    digests = [span.digest or bytes(16) for span in placement.spans]
    return Spans(leaf, cell, file, offset, size, digests)


def _versions(walk: LiveTree) -> dict[str, str]:
    """The versions of Python, of this package and of every package whose types are stored."""
    packages = {"ckptstore", "numpy"} | {row.package for row in walk.types if row.package}
    found = {name: package_version(name) for name in sorted(packages)}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v is not None}


def _write_files(store: Storage, names: Sequence[str], job: Job) -> None:
    """Write data files in parallel."""

    def write(name: str, numbers: Sequence[int], nbytes: int) -> None:
        store.put(name, job.chunks(numbers), nbytes)

    def stop() -> None:
        job.stop.set()
        store.stop()

    nbytes = job.placement.file_nbytes[job.placement.taken :]
    rows = zip(names, job.placement.by_file(), nbytes, strict=True)
    concurrency.run(write, rows, store.traffic.writes, name="ckptstore-write", stop=stop)

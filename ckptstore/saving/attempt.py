"""One attempt to save: first the encoded and checked contents, then the writing."""

from __future__ import annotations

import dataclasses
import platform
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ckptstore import concurrency
from ckptstore.checkpoint import Checkpoint, Committed, commit
from ckptstore.errors import CorruptError, Reason, StructureError
from ckptstore.format import Draft, File, Index, Leaves, Manifest, Spans, encode_draft, seal
from ckptstore.format.names import file_name
from ckptstore.format.wire import DIGEST_NBYTES
from ckptstore.saving import incremental
from ckptstore.saving.incremental import Comparison, Previous, Series
from ckptstore.saving.placement import Piece, Placement, place
from ckptstore.saving.request import SaveRequest
from ckptstore.saving.staging import Job, Staging
from ckptstore.storage import Storage
from ckptstore.tree import LiveTree
from ckptstore.types import package_version


def prepare(
    store: Storage,
    live: LiveTree,
    request: SaveRequest,
    replaced: Committed | None,
    series: Series | None,
    *,
    compare: bool,
) -> Attempt:
    """Return a save that has passed every check of a reader; nothing is written yet.

    Args:
        store: the place.
        live: the flattened tree.
        request: the other arguments of the save.
        replaced: the manifest that an overwrite replaces.
        series: as for `writer.begin`.
        compare: as for `writer.begin`: compare with the save before now.

    Raises:
        StructureError: reason ``cannot-carry``: the tree exceeds a limit of the format.
    """
    staging = Staging(live)
    content = Content(
        manifest=Manifest(
            attempt=secrets.token_hex(16),
            time_ms=time.time_ns() // 1_000_000,
            step=request.step,
            metrics=request.metrics,
            writer=_versions(live),
            metadata={},  # encoded already
            files=(),
            index=None,
        ),
        tables=Index(
            types=live.types,
            dtypes=live.dtypes,
            nodes=live.nodes(),
            leaves=_leaf_table(live),
            spans=_span_table(Placement((), ())),
        ),
        metadata=request.metadata,
        piece_nbytes=staging.nbytes,
    )
    # Connect now, because a process that is ending cannot.
    previous = series.previous() if series is not None else None
    comparison = None
    if series is not None and previous is not None and compare:
        comparison = incremental.compare(
            previous, staging.nbytes, staging.read, series.keep_full_every
        )
    plan = content.plan(previous, comparison, comparison.rows if comparison is not None else ())
    return Attempt(store, staging, content, replaced, series, previous, comparison, plan)


@dataclass(frozen=True, slots=True, repr=False)  # it holds the state
class Content:
    """The contents of a save, without their placement in files.

    Attributes:
        manifest: the manifest without files and metadata.
        tables: the tables of the index without spans.
        metadata: the encoded metadata.
        piece_nbytes: the size of each piece in bytes.
    """

    manifest: Manifest
    tables: Index
    metadata: bytes
    piece_nbytes: Mapping[Piece, int]

    def plan(
        self, previous: Previous | None, comparison: Comparison | None, linked: Collection[int]
    ) -> Plan:
        """Place the leaves in files, and encode and check the manifest and index.

        Args:
            previous: the save before.
            comparison: the leaves that have not changed since then; None: not known yet.
            linked: the rows of its files that are taken over.

        Raises:
            StructureError: reason ``cannot-carry``.
        """
        attempt, files = self.manifest.attempt, list[File]()
        if previous is None or comparison is None:
            placement = place(self.piece_nbytes)
        else:
            rows = [row for row in comparison.rows if row in linked]
            taken = incremental.taken(previous, rows)
            placement = place(self.piece_nbytes, comparison.unchanged, taken)
            names = comparison.names(attempt)
            for row in rows:
                file = previous.files[row]
                files.append(File(names[row], file.nbytes, "data", age=file.age + 1))
        first = len(comparison.rows) if comparison is not None else 0
        for number, nbytes in enumerate(placement.file_nbytes[placement.taken :], first):
            files.append(File(file_name("data", attempt, 0, number), nbytes, "data"))
        spans = _span_table(placement)
        try:
            draft = encode_draft(
                dataclasses.replace(self.manifest, files=files),
                dataclasses.replace(self.tables, spans=spans),
                self.metadata,
            )
        except CorruptError as error:
            raise StructureError(
                f"save: this tree exceeds a limit of the format: {error}",
                reason=Reason.CANNOT_CARRY,
            ) from None
        return Plan(placement, spans, draft)


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """The placement of all bytes, and the manifest without its digests.

    Attributes:
        placement: the files and the spans in them.
        spans: the same as a table of the index.
        draft: the encoded manifest and index.
    """

    placement: Placement
    spans: Spans
    draft: Draft


@dataclass(eq=False, repr=False)
class Attempt:
    """A save that is ready to be written; it holds the place open until its `with` block ends.

    Attributes:
        store: the place.
        staging: the bytes of the leaves.
        content: the contents of the save.
        replaced: the manifest that an overwrite replaces.
        series: the saves of the run, if this save belongs to one.
        previous: the save before.
        comparison: the leaves that have not changed since then; None: not known yet.
        plan: the placement of the bytes.
    """

    store: Storage
    staging: Staging
    content: Content
    replaced: Committed | None
    series: Series | None
    previous: Previous | None
    comparison: Comparison | None
    plan: Plan

    @property
    def url(self) -> str:
        """The place, for messages."""
        return self.store.url

    @property
    def step(self) -> int | None:
        """The step of training, or None."""
        return self.content.manifest.step

    def __repr__(self) -> str:
        return f"<Attempt {self.url} step={self.step}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.staging.let_go()
        self.store.__exit__(*exc)

    def fix(self) -> None:
        """Keep the values that the tree holds now, as described at `Staging.fix`."""
        self.staging.fix()

    def finish(self) -> Checkpoint:
        """Write and commit.

        Raises:
            CheckpointError: as for `save`.
        """
        store = self.store
        try:
            draft, job = self._write()
        except BaseException:
            # No commit was sent, so no manifest names these files.
            commit.discard(store, self.content.manifest.attempt, self._names())
            raise
        commit.publish(store, draft.manifest, draft.data, self.replaced)
        if self.series is not None:
            spans = dataclasses.replace(self.plan.spans, digests=job.digests)
            misses = self.comparison.misses if self.comparison is not None else {}
            saved = incremental.previous(
                self.url.rpartition("/")[2], draft.manifest.files, spans, job.samples, misses
            )
            self.series.saved(saved, self.previous)
        return Checkpoint(self.url, draft.manifest, [draft.index])

    def _names(self) -> set[str]:
        """Return the names of all files that were perhaps written."""
        attempt = self.content.manifest.attempt
        links = self.comparison.names(attempt).values() if self.comparison is not None else ()
        return {file.name for file in self.plan.draft.manifest.files} | set(links)

    def _write(self) -> tuple[Draft, Job]:
        """Write the data files, and the index if it is not in the manifest."""
        store = self.store
        store.prepare(swap=self.replaced is not None)
        if self.series is not None and self.previous is not None:
            self._take_over(self.previous, self.series.keep_full_every)
        plan = self.plan
        store.expect(sum(plan.placement.file_nbytes[plan.placement.taken :]) + plan.draft.nbytes)
        samples = dict(self.comparison.samples) if self.comparison is not None else {}
        job = Job(plan.placement, self.staging, samples)
        names = [file.name for file in plan.draft.manifest.files]
        _write_files(store, names, job)
        draft = seal(plan.draft, job.digests)
        if (file := draft.index_file) is not None:
            store.put(file.name, [draft.index], len(draft.index))
        store.flush()
        return draft, job

    def _take_over(self, previous: Previous, keep_full_every: int) -> None:
        """Link those files of the save before in which no leaf changed.

        If the plan was made before this was known, or a link fails, plan again.
        """
        planned = self.comparison is not None
        if self.comparison is None:
            self.comparison = incremental.compare(
                previous, self.staging.nbytes, self.staging.read, keep_full_every
            )
        comparison, linked = self.comparison, set[int]()
        names = comparison.names(self.content.manifest.attempt)

        def link(row: int, name: str) -> None:
            file = previous.files[row]
            if self.store.link(name, previous.directory, file.name, file.nbytes):
                linked.add(row)

        concurrency.run(
            link,
            names.items(),
            self.store.traffic.writes,
            name="ckptstore-link",
            stop=self.store.stop,
        )
        if len(linked) < len(names) or (comparison.unchanged and not planned):
            self.plan = self.content.plan(previous, comparison, linked)


def _write_files(store: Storage, names: Sequence[str], job: Job) -> None:
    """Write the data files that are not taken over, in parallel."""

    def write(name: str, numbers: Sequence[int], nbytes: int) -> None:
        store.put(name, job.chunks(numbers), nbytes)

    def stop() -> None:
        job.stop.set()
        store.stop()

    placement = job.placement
    rows = zip(
        names[placement.taken : len(placement.file_nbytes)],
        placement.by_file(),
        placement.file_nbytes[placement.taken :],
        strict=True,
    )
    concurrency.run(write, rows, store.traffic.writes, name="ckptstore-write", stop=stop)


def _leaf_table(live: LiveTree) -> Leaves:
    cuts = [
        inner
        for leaf in live.leaves
        for inner in ([()] * len(leaf.shape) if leaf.grid is None else leaf.grid.cuts)
    ]
    columns = (
        live.leaf_type,
        live.leaf_dtype,
        [len(leaf.shape) for leaf in live.leaves],
        [length for leaf in live.leaves for length in leaf.shape],
        [len(inner) + 1 for inner in cuts],
        [cut for inner in cuts for cut in inner],
    )
    return Leaves(*(np.asarray(column, np.int64) for column in columns))


def _span_table(placement: Placement) -> Spans:
    """Return the table of spans. The digests of spans that are still to be written are zero."""
    rows = [(*span.piece, span.file, span.offset, span.size) for span in placement.spans]
    leaf, cell, file, offset, size = np.array(rows, np.int64).reshape(-1, 5).T
    digests = [span.digest or bytes(DIGEST_NBYTES) for span in placement.spans]
    return Spans(leaf, cell, file, offset, size, digests)


def _versions(live: LiveTree) -> dict[str, str]:
    """Return the versions of Python, of this package and of each package with a stored type."""
    packages = {"ckptstore", "numpy"} | {row.package for row in live.types if row.package}
    versions = {name: package_version(name) for name in sorted(packages)}
    known = {name: version for name, version in versions.items() if version is not None}
    return {"python": platform.python_version()} | known

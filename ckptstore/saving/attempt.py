"""One attempt to save: first the encoded and checked contents, then the writing."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from typing import Self

from ckptstore.checkpoint import Checkpoint, Committed, commit, deletion
from ckptstore.format import Draft, seal
from ckptstore.saving import incremental
from ckptstore.saving.contents import Content, Plan
from ckptstore.saving.incremental import Comparison, Previous, Series
from ckptstore.saving.request import SaveRequest
from ckptstore.saving.staging import Job, Staging, link_files, write_files
from ckptstore.storage import Storage
from ckptstore.tree import LiveTree


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
    staging = Staging(live, progress=request.progress)
    content = Content.of(live, request, secrets.token_hex(16), staging.nbytes)
    if live.own:
        content, _ = content.with_values(live.own)  # of one process, so each leaf keeps its number
    # Connect now, because a process that is ending cannot.
    previous = series.previous() if series is not None else None
    comparison = None
    if series is not None and previous is not None and compare:
        comparison = incremental.compare(
            previous, staging.nbytes, staging.read, series.keep_full_every
        )
    plan = content.plan(previous, comparison, comparison.rows if comparison is not None else ())
    return Attempt(store, staging, content, replaced, series, previous, comparison, plan)


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
            deletion.discard(store, self.content.manifest.attempt, self._names())
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
        write_files(store, names, job)
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
        comparison = self.comparison
        names = comparison.names(self.content.manifest.attempt)
        linked = link_files(self.store, previous, names)
        if len(linked) < len(names) or (comparison.unchanged and not planned):
            self.plan = self.content.plan(previous, comparison, linked)

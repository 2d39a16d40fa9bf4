"""The saves of one `Manager`, in their order: when one is due, and the steps after each."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import (
    AlreadyCommittedError,
    NotCommittedError,
    OutcomeUnknownError,
    Reason,
    listed,
)
from ckptstore.format.names import step_number
from ckptstore.runs import refusals, retention, rewinding
from ckptstore.runs.directory import Run
from ckptstore.runs.eviction import evict
from ckptstore.runs.history import History
from ckptstore.runs.interval import Every, SaveInterval
from ckptstore.runs.leftovers import Leftovers
from ckptstore.runs.retention import Rule
from ckptstore.saving import PendingSave, background, writer
from ckptstore.saving.incremental import Series
from ckptstore.saving.request import SaveRequest

_log = logging.getLogger("ckptstore")


class Saves:
    """The saves of one run by this process.

    Args:
        run: its directory.
        keep: the rule for the steps to keep.
        every: the save interval.
        keep_full_every: the number of steps that may share a data file.
        grace: the age at which garbage is removed by itself; None: never.

    Attributes:
        keep: the argument.
        history: the steps that it knows.
        leftovers: the passes that remove garbage.

    Raises:
        StructureError: reason ``bad-argument``.
    """

    def __init__(
        self,
        run: Run,
        *,
        keep: Rule | None,
        every: Every,
        keep_full_every: int,
        grace: float | None,
    ) -> None:
        retention.check_rule(keep)
        self.keep = keep
        self._run = run
        self._interval = SaveInterval(every)
        # The first save may take over files of the step that this process has loaded.
        self._series = Series(keep_full_every, lambda: run.previous(self.history.loaded))
        self._checked = False
        self.history = History()
        self.leftovers = Leftovers(run, grace)
        self._pending: PendingSave | None = None

    @property
    def every(self) -> Every:
        """The save interval, as passed."""
        return self._interval.every

    @property
    def keep_full_every(self) -> int:
        """The number of steps that may share a data file, as passed."""
        return self._series.keep_full_every

    def is_due(self, step: int, metrics: Any, *, force: bool) -> bool:
        """Check the arguments of a call, raise a pending error, and return whether it saves."""
        self.check()
        if not self._interval.called(step) and not force:
            return False
        if not force:
            retention.check_given(self.keep, step, metrics)
        if not self._checked:
            self._run.check()
            self._checked = True
        return True

    def request(
        self,
        step: int,
        *,
        metadata: Mapping[str, Any] | None,
        metrics: Mapping[str, float] | None,
        supplied: Sequence[str],
        overwrite: bool | None,
    ) -> SaveRequest:
        """Check the arguments of a save."""
        return SaveRequest.of(
            step=step,
            metadata=metadata,
            metrics=metrics,
            supplied=supplied,
            overwrite=overwrite,
            storage_options=self._run.options,
        )

    def save(self, step: int, tree: Any, request: SaveRequest) -> Checkpoint:
        """Save in the call, once the save in the background has ended."""
        self.wait()
        self.check()
        began, request = time.monotonic(), self._replacing(step, request)
        try:
            saved = writer.save_now(self._run.at(step), tree, request, self._series)
        except AlreadyCommittedError as error:
            raise self._occupied(step, error, request) from None
        except OutcomeUnknownError:
            self.history.save(step)  # it may exist
            raise
        self.history.save(step)
        self._interval.saved(step)
        self._after(saved, began)
        return saved

    def save_async(self, step: int, tree: Any, request: SaveRequest, *, wait: bool) -> PendingSave:
        """Begin a save in the background."""

        def begun(pending: PendingSave) -> None:
            self._pending = pending  # with several threads, the last one counts
            self.history.save(step)
            self._interval.saved(step)

        def then(saved: Checkpoint | None) -> None:
            if saved is None:
                self._interval.failed()
            else:
                self._after(saved, began)

        if wait:
            self.wait()  # it may be of this step, which is then not damaged any more
        began = time.monotonic()
        place, request = self._run.at(step), self._replacing(step, request)
        try:
            return background.begin(
                place, tree, request, self._series, wait=wait, begun=begun, then=then
            )
        except AlreadyCommittedError as error:
            if hasattr(error, "__notes__"):
                raise  # of the save before this one
            raise self._occupied(step, error, request) from None

    def wait(self) -> None:
        """Wait for the save in the background to end, with or without an error."""
        if self._pending is not None:
            self._pending.wait()

    def check(self) -> None:
        """Raise the error of a save in the background, unless it was raised before."""
        if self._pending is not None:
            self._pending.check()

    def missing(self, call: str, step: int, error: NotCommittedError) -> NotCommittedError:
        """Return the error of a call for a step that is not there, with the steps that are."""
        if error.reason not in (Reason.NO_MANIFEST, Reason.UNFINISHED):
            return error
        return refusals.missing(call, step, error, self._run.there(), self.history, self.keep)

    def loaded(self, step: int) -> None:
        """Count from a step that was loaded."""
        self.history.load(step)
        self._interval.resumed(step)

    def rewind(self, step: int, *, dry_run: bool) -> list[int]:
        """Go back to a step, after the save under way; the errors are as for `Manager.rewind`."""
        self.wait()
        self.check()
        step = step_number(step)
        try:
            rewinding.verify(self._run, step)
        except NotCommittedError as error:
            raise self.missing("rewind", step, error) from None
        if dry_run:
            return rewinding.delete_later(self._run, step, dry_run=True)
        try:
            return rewinding.delete_later(self._run, step, dry_run=False)
        finally:  # in any case some of its knowledge is of steps that are gone
            self.history.rewind(step)
            self._interval.rewound(step)
            self._series = Series(self.keep_full_every, lambda: self._run.previous(step))

    def damaged(self, steps: Iterable[int]) -> None:
        """Replace these steps when they are saved again."""
        self.history.damaged.update(steps)

    def distrust(self) -> None:
        """Make the next save write everything: a step is damaged, and may share its files."""
        self._series.distrust()

    def _replacing(self, step: int, request: SaveRequest) -> SaveRequest:
        """Return the request with `overwrite`: if you left it out, for a step skipped as damaged.

        If that step is a symbolic link, the link makes room; its target is left alone.
        """
        damaged = step in self.history.damaged
        wanted = damaged if request.overwrite is None else request.overwrite
        self._check_later(step, overwrite=bool(wanted))
        if wanted and damaged and self._run.unlink(step):
            _log.warning("step %d was a link to a damaged checkpoint; the link is removed", step)
        return dataclasses.replace(request, overwrite=wanted)

    def _check_later(self, step: int, *, overwrite: bool) -> None:
        """Refuse a save below committed steps of others: a resume would take the newest of them.

        Raises:
            AlreadyCommittedError: reason ``later-steps``.
        """
        if (left := max(self.history.left, default=-1)) > step:
            _log.warning(
                "%s: step %d is below step %d, which this Manager saved before you loaded step %s: "
                "the next resume takes step %d; to go on from step %s, call rewind(%s) first",
                *(self._run.url, step, left, self.history.loaded, left),
                *(self.history.loaded, self.history.loaded),
            )
            self.history.left.clear()  # once
        if not (found := self._run.later(step, self.history.own())):
            return
        if not overwrite and self._run.holds(step):
            return  # the save itself says more about that
        raise refusals.later(
            self._run.url,
            step,
            found,
            self._run.there() or found,
            self.history,
            self._run.saved_at(found[-1]),
        )

    def _occupied(
        self, step: int, error: AlreadyCommittedError, request: SaveRequest
    ) -> AlreadyCommittedError:
        """Return the error for a step that is there already, with the usual cause."""
        if request.overwrite:
            return error  # another save came in between
        return refusals.occupied(step, error, self._run.there() or [step], self.history)

    def _after(self, saved: Checkpoint, began: float) -> None:
        """Log the save and evict steps, after the commit and in the thread of the save."""
        assert saved.step is not None
        size, seconds = f"{saved.nbytes:,} bytes", time.monotonic() - began
        _log.info("%s: saved step %d (%s, %.2f s)", self._run.url, saved.step, size, seconds)
        self._run.metrics.remember(saved.step, saved.attempt, saved.metrics)
        self.history.damaged.discard(saved.step)
        gone = evict(self._run, self.keep, saved.step) if self.keep is not None else []
        if gone:
            steps = ", ".join(listed(map(str, gone), 5))
            _log.info("%s: evicted step(s) %s: keep=%.200r", self._run.url, steps, self.keep)
        self.history.evicted.update(dict.fromkeys(gone, f"{self.keep!r:.200}"))
        self.leftovers.collect_soon(evicted=bool(gone))

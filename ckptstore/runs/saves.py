"""The saves of one `Manager`, in their order: when one is due, and the steps after each."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore.checkpoint import Checkpoint
from ckptstore.distributed import Processes, chosen
from ckptstore.errors import (
    AlreadyCommittedError,
    NotCommittedError,
    OutcomeUnknownError,
    Reason,
    bad_argument,
    listed,
)
from ckptstore.format.names import step_number
from ckptstore.runs import joint_loads, refusals, retention, rewinding
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
        processes: the argument of the same name of `save`.

    Attributes:
        keep: the argument.
        history: the steps that it knows.
        leftovers: the passes that remove garbage.
        processes: the processes that save and load together; None: found out for each call.
        leads: whether this process is alone, or process 0 of the last joint load.

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
        processes: Any,
    ) -> None:
        if keep is not None:
            retention.check_rule(keep, "Manager")
        self.processes = chosen(processes, "Manager")
        self.keep = keep
        self._run = run
        self._interval = SaveInterval(every)
        # The first save may take over files of the step that this process has loaded.
        self._series = Series(keep_full_every, lambda: run.previous(self.history.loaded))
        self._checked = False
        self.history = History()
        self.leftovers = Leftovers(run, grace)
        self._pending: PendingSave | None = None
        self.leads = True

    @property
    def every(self) -> Every:
        """The save interval, as passed."""
        return self._interval.every

    @property
    def keep_full_every(self) -> int:
        """The number of steps that may share a data file, as passed."""
        return self._series.keep_full_every

    def is_due(self, step: int, *, force: bool) -> bool:
        """Raise a pending error, and return whether a call saves."""
        self.check()
        return self._interval.called(step) or force

    def due(self, step: int) -> bool:
        """Return what `is_due` returns, and refuse an interval by clocks that differ."""
        if self.processes is not None:
            self._check_clocks(self.processes)
        return self.is_due(step, force=False)

    def _check_clocks(self, group: Processes) -> None:
        if group.count > 1 and isinstance(self.every, datetime.timedelta):
            raise bad_argument(
                "Manager",
                "every",
                self.every,
                f"a number of steps, since the clocks of {group.count} processes differ: every=100",
            )

    def request(
        self,
        step: int,
        *,
        metadata: Mapping[str, Any] | None,
        metrics: Mapping[str, float] | None,
        supplied: Sequence[str],
        per_process: Sequence[str],
        overwrite: bool | None,
        callback: Any,
    ) -> SaveRequest:
        """Check the arguments of a save."""
        return SaveRequest.of(
            step=step,
            metadata=metadata,
            metrics=metrics,
            supplied=supplied,
            per_process=per_process,
            overwrite=overwrite,
            storage_options=self._run.options,
            processes=self.processes,
            callback=callback,
        )

    def save(self, step: int, tree: Any, request: SaveRequest, *, force: bool) -> Checkpoint:
        """Save in the call, once the save in the background has ended."""
        self.wait()
        self.check()
        began, check = time.monotonic(), _Check(self, step, request, force)
        try:
            saved = writer.save_now(self._run.at(step), tree, request, self._series, check)
        except AlreadyCommittedError as error:
            raise self._occupied(step, error, check) from None
        except OutcomeUnknownError:
            self.history.save(step)  # it may exist
            raise
        self.history.save(step)
        self._interval.saved(step)
        self._after(saved, began, leads=check.leads)
        return saved

    def save_async(
        self, step: int, tree: Any, request: SaveRequest, *, wait: bool, force: bool
    ) -> PendingSave:
        """Begin a save in the background."""

        def begun(pending: PendingSave) -> None:
            self._pending = pending  # with several threads, the last one counts
            self.history.save(step)
            self._interval.saved(step)

        def then(saved: Checkpoint | None) -> None:
            if saved is None:
                self._interval.failed()
            else:
                self._after(saved, began, leads=check.leads)

        if wait:
            self.wait()  # it may be of this step, which is then not damaged any more
        began, check = time.monotonic(), _Check(self, step, request, force)
        place = self._run.at(step)
        try:
            return background.begin(
                place, tree, request, self._series, check, wait=wait, begun=begun, then=then
            )
        except AlreadyCommittedError as error:
            if hasattr(error, "__notes__"):
                raise  # of the save before this one
            raise self._occupied(step, error, check) from None

    def checked(
        self, step: int, request: SaveRequest, group: Processes, force: bool
    ) -> SaveRequest:
        """Check a save against the run and its rule, and decide whether it overwrites.

        Raises:
            CheckpointError: as for `Manager.save`.
        """
        self._check_clocks(group)
        if not force:
            retention.check_given(self.keep, step, request.metrics)
        if not self._checked:
            self._run.check()
            self._checked = True
        return self._replacing(step, request)

    def wait(self) -> None:
        """Wait for the save in the background to end, with or without an error."""
        if self._pending is not None:
            self._pending.wait()

    def check(self) -> None:
        """Raise the error of a save in the background, unless it was raised before."""
        if self._pending is not None:
            self._pending.check()

    def collect_soon(self) -> None:
        """Begin to collect garbage after a resume; of several processes, process 0 does."""
        if self.leads:
            self.leftovers.collect_soon()

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

        def delete_later() -> list[int]:
            try:
                rewinding.verify(self._run, step)
            except NotCommittedError as error:
                raise self.missing("rewind", step, error) from None
            if dry_run:
                return rewinding.delete_later(self._run, step, dry_run=True)
            is_gone.append(True)
            return rewinding.delete_later(self._run, step, dry_run=False)

        is_gone: list[bool] = []
        try:
            gone = joint_loads.by_leader_of(self._run, self.processes, "rewinding", delete_later)
            is_gone += [True] * (not dry_run)
            return gone
        finally:
            if is_gone:  # in any case some of its knowledge is of steps that are gone
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
        self, step: int, error: AlreadyCommittedError, check: _Check
    ) -> AlreadyCommittedError:
        """Return the error for a step that is there already, with the usual cause."""
        if error.reason == Reason.LATER_STEPS or not check.leads or check.request.overwrite:
            return error  # or another save came in between
        return refusals.occupied(step, error, self._run.there() or [step], self.history)

    def _after(self, saved: Checkpoint, began: float, *, leads: bool) -> None:
        """Log the save and evict steps, after the commit and in the thread of the save.

        Of several processes, process 0 does so for all.
        """
        assert saved.step is not None
        if not leads:
            return
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


@dataclass(eq=False)
class _Check:
    """The check of one save: called in the process that saves alone or leads the others.

    Attributes:
        saves: the saves of the run.
        step: the step to save.
        request: the other arguments, completed once it was called.
        force: as of `Manager.save`.
        leads: whether it was called.
    """

    saves: Saves
    step: int
    request: SaveRequest
    force: bool
    leads: bool = False

    def __call__(self, request: SaveRequest, group: Processes) -> SaveRequest:
        self.leads = True
        self.request = self.saves.checked(self.step, request, group, self.force)
        return self.request

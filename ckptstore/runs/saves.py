"""The saves of one `Manager`, in their order: when one is due, and the steps after each."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ckptstore.checkpoint import Checkpoint
from ckptstore.format.names import check_step
from ckptstore.runs import retention
from ckptstore.runs.directory import Run
from ckptstore.runs.eviction import evict
from ckptstore.runs.interval import Every, SaveInterval
from ckptstore.runs.retention import Rule
from ckptstore.saving import PendingSave, background, writer
from ckptstore.saving.incremental import Series
from ckptstore.saving.request import SaveRequest, check_metrics

_log = logging.getLogger("ckptstore")


class Saves:
    """The saves of one run by this process.

    Args:
        run: its directory.
        keep: the rule for the steps to keep.
        every: the save interval.
        keep_full_every: the number of steps that may share a data file.
        loaded_step: returns the step that this process has loaded, or None.

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
        loaded_step: Callable[[], int | None],
    ) -> None:
        retention.check_rule(keep)
        self.keep = keep
        self._run = run
        self._interval = SaveInterval(every)
        # The first save may take over files of the step that this process has loaded.
        self._series = Series(keep_full_every, lambda: run.previous(loaded_step()))
        self._checked = False
        self._damaged: set[int] = set()
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
        check_step(step)
        check_metrics(metrics)
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
        request = self._replacing(step, request)
        saved = writer.save_now(self._run.at(step), tree, request, self._series)
        self._interval.saved(step)
        self._after(saved)
        return saved

    def save_async(self, step: int, tree: Any, request: SaveRequest, *, wait: bool) -> PendingSave:
        """Begin a save in the background."""

        def begun(pending: PendingSave) -> None:
            self._pending = pending  # with several threads, the last one counts
            self._interval.saved(step)

        def then(saved: Checkpoint | None) -> None:
            if saved is None:
                self._interval.failed()
            else:
                self._after(saved)

        if wait:
            self.wait()  # it may be of this step, which is then not damaged any more
        place, request = self._run.at(step), self._replacing(step, request)
        return background.begin(
            place, tree, request, self._series, wait=wait, begun=begun, then=then
        )

    def wait(self) -> None:
        """Wait for the save in the background to end, with or without an error."""
        if self._pending is not None:
            self._pending.wait()

    def check(self) -> None:
        """Raise the error of a save in the background, unless it was raised before."""
        if self._pending is not None:
            self._pending.check()

    def loaded(self, step: int) -> None:
        """Count from a step that was loaded."""
        self._interval.resumed(step)

    def damaged(self, steps: Iterable[int]) -> None:
        """Replace these steps when they are saved again."""
        self._damaged.update(steps)

    def distrust(self) -> None:
        """Make the next save write everything: a step is damaged, and may share its files."""
        self._series.distrust()

    def _replacing(self, step: int, request: SaveRequest) -> SaveRequest:
        """Return the request with `overwrite`: if you left it out, for a step skipped as damaged.

        If that step is a symbolic link, the link makes room; its target is left alone.
        """
        wanted = step in self._damaged if request.overwrite is None else request.overwrite
        if wanted and step in self._damaged and self._run.unlink(step):
            _log.warning("step %d was a link to a damaged checkpoint; the link is removed", step)
        return dataclasses.replace(request, overwrite=wanted)

    def _after(self, saved: Checkpoint) -> None:
        """Evict steps, after the commit and in the thread of the save."""
        assert saved.step is not None
        self._run.metrics.remember(saved.step, saved.attempt, saved.metrics)
        self._damaged.discard(saved.step)
        if self.keep is not None:
            evict(self._run, self.keep, saved.step)

"""`Manager`: the checkpoints of one training run, by step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

from ckptstore import loading
from ckptstore.checkpoint.description import Checkpoint
from ckptstore.errors import CorruptError, NotCommittedError, Reason, StructureError
from ckptstore.format.names import check_step
from ckptstore.runs import retention
from ckptstore.runs.directory import Run
from ckptstore.runs.interval import Every, SaveInterval
from ckptstore.runs.preemption import Preemption
from ckptstore.runs.retention import Mode, Rule
from ckptstore.saving import background, request, writer
from ckptstore.saving.background import PendingSave
from ckptstore.saving.incremental import Series


class Manager:
    """A directory with one checkpoint for each step, on a disk or in a bucket.

    The steps are looked up in the store at each call: another process sees new ones at once, and a
    checkpoint that was copied in by hand is a step. Other files are left alone.

    The end of a `with` block waits for the save under way and raises its error. Otherwise the error
    of a `save_async` that failed is raised by the next call of any method.

    Args:
        url: the directory of the run.
        keep: the rule that tells which steps to keep, such as
            ``keep_last(3) | keep_best(1, "loss")``; None keeps all. It is asked after each save,
            and what it does not keep is deleted, but never the newest step or the one just saved.
            Where that fails, the save has succeeded all the same; a line is logged at WARNING, and
            the next save tries again.
        every: which calls of `save` and `save_async` save; None lets all. An int is a number of
            steps: each multiple of it is saved, and the first step after one that was jumped over.
            A `datetime.timedelta` is the time since this Manager saved last, or was made.
        keep_full_every: how many steps may share a data file. Large arrays that did not change
            since the save before are not written again: on a disk their files are linked, in a
            bucket the store copies them. A bad sector under a file damages every step that has it,
            so each file is written anew by one save of so many; 1: nothing is shared.
        storage_options: options of the store.

    Attributes:
        url: the directory of the run.
        loaded_step: the step that the last `load` gave; None before.

    Raises:
        StructureError: reason ``bad-argument``.

    Source: docs/runs.md; docs/commit.md.
    """

    def __init__(
        self,
        url: Any,
        *,
        keep: Rule | None = None,
        every: Every = None,
        keep_full_every: int = 10,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        retention.check_rule(keep)
        self._keep = keep
        self._interval = SaveInterval(every)
        self._run = Run(url, storage_options)
        # The first save may take over what is in the step that this process has read.
        self._series = Series(keep_full_every, lambda: self._run.base(self.loaded_step))
        self.url = self._run.url
        self.loaded_step: int | None = None
        self._checked = False
        self._damaged: set[int] = set()
        self._pending: PendingSave | None = None
        self._at_exit = contextlib.ExitStack()

    def __reduce__(self) -> Any:
        if self._run.options:
            raise TypeError("storage_options may hold secrets; make the Manager again where it is")
        made = functools.partial(
            Manager,
            keep=self._keep,
            every=self._interval.every,
            keep_full_every=self._series.keep_full_every,
        )
        return made, (self._run.place,)

    def __repr__(self) -> str:
        return f"Manager({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        with self._at_exit:
            self._wait()
            if error is None:
                self._tell()  # else its error is told by the next call, or when the process ends

    def save(
        self,
        step: int,
        tree: Any,
        *,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
        **options: Any,
    ) -> Checkpoint | None:
        """Save a step; when this returns, it is committed and durable.

        Args:
            step: 0 or more.
            tree: the state.
            metrics: numbers by name, for `best` and for rules of retention.
            force: save whatever `every` says, as before the process ends. The metrics that `keep`
                looks at may then be left out.
            options: the other arguments of `ckptstore.save`.

        Returns:
            What `inspect` would return, or None where `every` says that this call does not save.

        Raises:
            AlreadyCommittedError: the step is there; ``overwrite=True`` replaces it.
            StructureError: reason ``missing-metric``: one that `keep` looks at; or
                ``is-a-checkpoint``: the URL is not of a run.
            CheckpointError: as `ckptstore.save`.
        """
        if not self._is_due(step, metrics, force):
            return None
        self._wait()
        self._tell()
        saved = writer.save(self._run.at(step), tree, **self._told(step, metrics, options))
        self._interval.saved(step)
        self._saved(saved)
        return saved

    def save_async(
        self,
        step: int,
        tree: Any,
        *,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
        **options: Any,
    ) -> PendingSave | None:
        """Save a step while training goes on; return once the tree may be changed.

        The arguments are those of `save`, the `options` those of `ckptstore.save_async`.

        Returns:
            The save under way, or None where `every` says that this call does not save.

        Raises:
            CheckpointError: as `save` and `ckptstore.save_async`; that of the save before, too.
        """
        if not self._is_due(step, metrics, force):
            return None
        told = self._told(step, metrics, options)
        place = self._run.at(step)
        return background.save_async(place, tree, _begun=self._begun, _then=self._ended, **told)

    def load(
        self, step: int | None = None, like: Any = None, *, fallback: bool = False, **options: Any
    ) -> Any:
        """Load a step, or the newest.

        Args:
            step: None is the newest.
            like: as of `ckptstore.load`.
            fallback: where the newest is damaged, load the newest that is not. Each step passed
                over is logged at WARNING and stays as it is, until this Manager saves that step
                again: that replaces it.
            options: the other arguments of `ckptstore.load`.

        Raises:
            NotCommittedError: no such step, or none at all (reason ``no-step``).
            CorruptError: it is damaged; with `fallback`, all of them are.
            StructureError: reason ``is-a-checkpoint``: the URL is not of a run.
            CheckpointError: as `ckptstore.load`. What is no damage is never passed over, such as
                types that are not found or a disk that cannot be read.
        """
        self._tell()
        if step is None:
            load = functools.partial(self._load, like=like, options=options)
            loaded, damaged = self._run.load_newest(load, fallback=fallback)
            self._damaged.update(damaged)
            return loaded
        if fallback:
            raise StructureError(
                "load: fallback=True is for the newest; leave out the step, or try those of "
                "Manager.steps() one by one",
                reason=Reason.BAD_ARGUMENT,
            )
        return self._load(step, like, options)

    def load_or_init(
        self, init: Callable[[], Any], like: Any = None, *, fallback: bool = False, **options: Any
    ) -> Any:
        """Load the newest step, or where the run has none yet, return ``init()``.

        So a script starts and resumes by the same line. The step belongs into the tree, with all
        else that the next step needs; `loaded_step` tells it too, and is None after ``init()``.

        `init` is not called where there is a step. The other arguments are those of `load`.

        Raises:
            CheckpointError: as `load`. A run is never begun anew because its steps are damaged.
        """
        if not callable(init):
            raise StructureError(
                f"load_or_init: init is {init!r:.80} ({type(init).__name__}), expected a function "
                "that makes the state: load_or_init(lambda: state)",
                reason=Reason.BAD_ARGUMENT,
            )
        try:
            return self.load(like=like, fallback=fallback, **options)
        except NotCommittedError as error:
            if error.reason != Reason.NO_STEP:
                raise
        return init()

    def steps(self) -> list[int]:
        """Return the committed steps, in order, without reading a manifest."""
        self._tell()
        return self._run.committed()

    def latest(self) -> int | None:
        """Return the newest committed step, or None; saves that were killed are passed over."""
        self._tell()
        return self._run.newest()

    def best(self, metric: str, mode: Mode = "min") -> int | None:
        """Return the step with the best value of a metric, the newer of equals; None of no steps.

        Where ``mode="max"``, the largest value is the best.

        Raises:
            StructureError: reason ``missing-metric``: no step has a finite value of it.
        """
        retention.check_metric("best", metric, mode)
        self._tell()
        return self._run.best(metric, mode)

    def delete(self, step: int) -> None:
        """Delete a step.

        Raises:
            NotCommittedError: there is none.
            AlreadyCommittedError: it was overwritten meanwhile; nothing of that was touched.
            StorageError: it is there still, or (reason ``not-removed``) not all of its files are
                removed.
        """
        self._tell()
        self._run.delete(step)

    def gc(self, *, grace: float = 24 * 3600.0, dry_run: bool = False) -> dict[int, list[str]]:
        """Remove what saves left behind that were killed more than `grace` seconds ago.

        Args:
            grace: by the store's own clock. No save may take longer.
            dry_run: only tell.

        Returns:
            The names of the files removed, by step.

        Raises:
            StructureError: reason ``bad-argument``.
            CorruptError: of a step whose manifest is damaged; the steps before it are done.
        """
        self._tell()
        return self._run.collect(grace, dry_run=dry_run)

    def on_preemption(self, notice: Callable[[], Any] | None = None) -> Preemption:
        """Return a flag, raised once this process is told to stop by SIGTERM or by `notice`.

        The loop reads it once a step, saves with ``force=True`` and leaves. The handler that was
        there before runs too, and is put back at the end of the `with` block. `notice` is for what
        a cloud announces otherwise: see `Preemption`. Source: docs/runs.md.

        Raises:
            StructureError: reason ``not-main-thread``, ``foreign-handler`` or ``bad-argument``.
        """
        preempted = Preemption(notice)
        self._at_exit.callback(preempted.close)
        return preempted

    def _is_due(self, step: int, metrics: Any, force: bool) -> bool:
        """Tell whether a call of `save` saves, after a look at its arguments."""
        self._tell()
        check_step(step)
        request.check_metrics(metrics)
        if not self._interval.called(step) and not force:
            return False
        if not force:
            retention.check_given(self._keep, step, metrics)
        if not self._checked:
            self._run.check()
            self._checked = True
        return True

    def _told(self, step: int, metrics: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a save is told beside the place and the tree."""
        return dict(
            step=step,
            metrics=metrics,
            storage_options=self._run.options,
            _series=self._series,
            **{"overwrite": step in self._damaged, **options},
        )

    def _begun(self, pending: PendingSave) -> None:
        """Know the save in the background, of several threads the one that was begun last."""
        assert pending.step is not None
        self._pending = pending
        self._interval.saved(pending.step)

    def _ended(self, saved: Checkpoint | None) -> None:
        """Do what comes after a save in the background, in its thread."""
        if saved is None:
            self._interval.failed()
        else:
            self._saved(saved)

    def _saved(self, saved: Checkpoint) -> None:
        """Evict, after the commit and in the thread of the save."""
        assert saved.step is not None
        self._run.metrics.remember(saved.step, saved.attempt, saved.metrics)
        self._damaged.discard(saved.step)
        if self._keep is not None:
            self._run.evict(self._keep, saved.step)

    def _load(self, step: int, like: Any, options: Mapping[str, Any]) -> Any:
        at, stored = self._run.at(step), self._run.options
        try:
            loaded = loading.load(at, like, storage_options=stored, **options)
        except CorruptError:
            self._series.distrust()
            raise
        self.loaded_step = step
        self._interval.resumed(step)
        return loaded

    def _wait(self) -> None:
        """Wait for the save in the background to end, well or badly."""
        if self._pending is not None:
            self._pending.wait()

    def _tell(self) -> None:
        """Raise the error of a save in the background that nobody was told of yet."""
        if self._pending is not None:
            self._pending.check()

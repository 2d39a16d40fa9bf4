"""`Manager`: the checkpoints of one training run, by step."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from ckptstore import peers
from ckptstore.checkpoint import Checkpoint
from ckptstore.distributed import Processes
from ckptstore.format.names import step_number
from ckptstore.runs.directory import Run
from ckptstore.runs.interval import Every
from ckptstore.runs.leftovers import DAY
from ckptstore.runs.loads import Loads
from ckptstore.runs.preemption import Preemption
from ckptstore.runs.retention import Rule
from ckptstore.runs.saves import Saves
from ckptstore.saving import PendingSave
from ckptstore.saving.request import checked_metrics


class Manager(Loads):
    """A directory with one checkpoint for each step, on a disk or in a bucket.

    Each call looks the steps up in the store. So another process sees a new step at once, and you
    can copy a checkpoint in by hand. Other files are left alone.

    The end of a `with` block waits for the save under way and raises its error. Without the block,
    the next call of any method raises the error of a `save_async` that failed.

    Args:
        url: the directory of the run.
        keep: the rule for the steps to keep, such as ``keep_last(3) | keep_best(1, "loss")``; None
            keeps all. After each save, the steps that it does not keep are deleted, but never the
            newest step or the one just saved. If a deletion fails, the save has still succeeded: a
            line is logged at WARNING, and the next save tries again.
        every: the calls of `save` and `save_async` that save; None: all. An int is a number of
            steps: each multiple of it is saved, and the first step after a skipped multiple. A
            `datetime.timedelta` is the time since this Manager saved last, or was made.
        keep_full_every: the number of steps that may share a data file; 1: no file is shared. Large
            arrays that have not changed since the save before are not written again: on a disk
            their files are linked, in a bucket the store copies them. A bad sector under a file
            damages every step that shares it, so each file is rewritten after this many saves.
        grace: seconds, longer than any save takes. Files that killed saves and deletions left are
            removed once they are older, in the background, after a resume and after saves; None:
            only by `gc`.
        storage_options: options of the store.
        processes: the processes that save and load this run together, as for `ckptstore.save`. Each
            has its own Manager and makes the same calls. None: found out for each call.

    Attributes:
        url: the directory of the run.
        loaded_step: the step that you loaded last; None before.

    Raises:
        StructureError: reason ``bad-argument``.
        StorageError: reason ``not-a-directory`` or ``dangling-link``: the URL is another thing.

    Example:
        >>> import ckptstore
        >>> with Manager("run", every=100, keep=ckptstore.keep_last(2)) as manager:
        ...     state = manager.load_or_init(lambda: {"step": 0})
        ...     while state["step"] < 400:
        ...         state["step"] += 1
        ...         pending = manager.save_async(state["step"], state)
        >>> manager.steps()
        [300, 400]
        >>> Manager("run").load()
        {'step': 400}

    Source: docs/runs.md; docs/commit.md.
    """

    @peers.explains("Manager", peers.MANAGER)
    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        keep: Rule | None = None,
        every: Every = None,
        keep_full_every: int = 10,
        grace: float | None = DAY,
        storage_options: Mapping[str, Any] | None = None,
        processes: Processes | tuple[int, int] | Literal["all", "one"] | None = None,
    ) -> None:
        self._run = Run(url, storage_options)
        self._saves = Saves(
            self._run,
            keep=keep,
            every=every,
            keep_full_every=keep_full_every,
            grace=grace,
            processes=processes,
        )
        self.url = self._run.url
        self._at_exit = contextlib.ExitStack()

    def __reduce__(self) -> Any:
        if self._run.options:
            raise TypeError("storage_options may hold secrets; make a Manager in the other process")
        if self._saves.processes is not None and self._saves.processes.count > 1:
            raise TypeError("a Manager of several processes cannot be sent to another process")
        made = functools.partial(
            Manager,
            keep=self._saves.keep,
            every=self._saves.every,
            keep_full_every=self._saves.keep_full_every,
            grace=self._saves.leftovers.grace,
        )
        return made, (self._run.place,)

    def __repr__(self) -> str:
        return f"Manager({self.url!r})"

    if not TYPE_CHECKING:  # or a type checker would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise peers.unknown_name("a Manager", name, peers.METHODS, dir(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        with self._at_exit:
            self._saves.wait()
            self._saves.leftovers.end()
            if error is None:
                self._saves.check()  # else the next call raises it, or the process prints it

    @peers.explains("Manager.save", peers.STEP)
    def save(
        self,
        step: int,
        tree: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        supplied: Sequence[str] = (),
        per_process: Sequence[str] = (),
        overwrite: bool | None = None,
        force: bool = False,
        callback: Any = None,
    ) -> Checkpoint | None:
        """Save a step; when this returns, it is committed and durable.

        Args:
            step: the training step, 0 or more: an int, or an integer of any framework.
            tree: the state.
            metadata: as for `ckptstore.save`.
            metrics: numbers of any framework by name, for `best` and for your `keep` rule.
            supplied: as for `ckptstore.save`.
            per_process: as for `ckptstore.save`.
            overwrite: replace an existing step. None: only if it was skipped as damaged.
            callback: as for `ckptstore.save`.
            force: save in any case, whatever `every` is, for example before the process ends. You
                may then leave out the metrics that `keep` needs.

        Returns:
            The description of the checkpoint, or None if `every` makes this call not save.

        Raises:
            AlreadyCommittedError: the step exists; pass ``overwrite=True`` to replace it.
            StructureError: reason ``missing-metric``: a metric that `keep` needs is missing. Reason
                ``is-a-checkpoint``: the URL is a checkpoint, not a run.
            CheckpointError: as for `ckptstore.save`.

        Example:
            >>> manager = Manager("run", every=100)
            >>> manager.save(100, {"step": 100}, metrics={"loss": 0.5}).step
            100
            >>> manager.save(101, {"step": 101}) is None  # not a multiple of 100
            True
            >>> manager.save(101, {"step": 101}, force=True).step
            101

        Source: docs/runs.md, "Which calls save".
        """
        step, metrics = step_number(step), checked_metrics(metrics)
        if not self._saves.is_due(step, force=force):
            return None
        request = self._saves.request(
            step,
            metadata=metadata,
            metrics=metrics,
            supplied=supplied,
            per_process=per_process,
            overwrite=overwrite,
            callback=callback,
        )
        return self._saves.save(step, tree, request, force=force)

    @peers.explains("Manager.save_async", peers.STEP)
    def save_async(
        self,
        step: int,
        tree: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        supplied: Sequence[str] = (),
        per_process: Sequence[str] = (),
        overwrite: bool | None = None,
        wait: bool = True,
        force: bool = False,
        callback: Any = None,
    ) -> PendingSave | None:
        """Save a step in the background; return as soon as you may change the tree.

        Args:
            step: the training step, 0 or more: an int, or an integer of any framework.
            tree: the state.
            metadata: as for `ckptstore.save`.
            metrics: as for `save`.
            supplied: as for `ckptstore.save`.
            per_process: as for `ckptstore.save`.
            overwrite: as for `save`.
            wait: as for `ckptstore.save_async`.
            force: as for `save`.
            callback: as for `ckptstore.save_async`.

        Returns:
            The save under way, or None if `every` makes this call not save.

        Raises:
            CheckpointError: as for `save` and `ckptstore.save_async`; or of the save before.

        Example:
            >>> with Manager("run") as manager:
            ...     pending = manager.save_async(100, {"step": 100})
            >>> pending.result().step
            100

        Source: docs/runs.md, "Which calls save"; docs/async.md.
        """
        step, metrics = step_number(step), checked_metrics(metrics)
        if not self._saves.is_due(step, force=force):
            return None
        request = self._saves.request(
            step,
            metadata=metadata,
            metrics=metrics,
            supplied=supplied,
            per_process=per_process,
            overwrite=overwrite,
            callback=callback,
        )
        return self._saves.save_async(step, tree, request, wait=wait, force=force)

    def due(self, step: int) -> bool:
        """Return whether ``save(step, …)`` would save, by `every` alone. The store is not asked.

        So you compute metrics only for the steps that are saved: ``float(loss)`` waits for the
        device. Ask at each step, as you would save: this counts as a call for the step.

        Args:
            step: the training step that you are at.

        Returns:
            The same in each process of a job that makes the same calls.

        Raises:
            StructureError: reason ``bad-step``; reason ``bad-argument``: `every` is a time, and
                several processes were passed, whose clocks differ.
            CheckpointError: of the save under way, if it has failed.

        Example:
            >>> manager = Manager("run", every=100)
            >>> for step in range(1, 251):
            ...     if manager.due(step):
            ...         saved = manager.save(step, {"step": step}, metrics={"loss": 1 / step})
            >>> manager.steps()
            [100, 200]

        Source: docs/runs.md, "Which calls save".
        """
        return self._saves.due(step_number(step))

    def wait(self) -> None:
        """Wait for the save under way, and for those before it. The last of them is then durable.

        Raises:
            CheckpointError: of a save that failed, unless another call has raised it.

        Example:
            >>> manager = Manager("run")
            >>> pending = manager.save_async(100, {"step": 100})
            >>> manager.wait()
            >>> manager.latest()
            100

        Source: docs/runs.md, "The end of a process".
        """
        self._saves.wait()
        self._saves.check()

    def on_preemption(
        self,
        notice: Callable[[], Any] | None = None,
        *,
        signals: Iterable[int] | int = (signal.SIGTERM,),
    ) -> Preemption:
        """Return a flag that is raised when a signal or `notice` tells this process to stop.

        Read it once in each step; if it is raised, save with ``force=True`` and leave the loop. In
        several processes read ``preempted.at(step)``, which is true in all at the same step. The
        earlier handler runs too, and is restored at the end of the `with` block.

        Args:
            notice: a function that tells of a stop that your cloud announces in another way: see
                `Preemption`.
            signals: the signals, SIGTERM by default, such as ``(signal.SIGTERM, signal.SIGUSR1)``.

        Raises:
            StructureError: reason ``not-main-thread``, ``foreign-handler`` or ``bad-argument``.

        Example:
            >>> import signal
            >>> with Manager("run") as manager:
            ...     preempted = manager.on_preemption()
            ...     signal.raise_signal(signal.SIGTERM)  # as a cluster does
            ...     if preempted:
            ...         saved = manager.save(7, {"step": 7}, force=True)
            >>> manager.steps()
            [7]

        Source: docs/runs.md, "Preemption".
        """
        preempted = Preemption(notice, signals=signals, processes=self._saves.processes)
        self._at_exit.callback(preempted.close)
        return preempted

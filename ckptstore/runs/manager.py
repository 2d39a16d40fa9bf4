"""`Manager`: the checkpoints of one training run, by step."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from ckptstore import loading
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CorruptError, NotCommittedError, Reason, StructureError
from ckptstore.runs.directory import Run
from ckptstore.runs.interval import Every
from ckptstore.runs.preemption import Preemption
from ckptstore.runs.retention import Rule
from ckptstore.runs.saves import Saves
from ckptstore.runs.steps import Steps
from ckptstore.saving import PendingSave


class Manager(Steps):
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

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        keep: Rule | None = None,
        every: Every = None,
        keep_full_every: int = 10,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._run = Run(url, storage_options)
        self._saves = Saves(
            self._run,
            keep=keep,
            every=every,
            keep_full_every=keep_full_every,
            loaded_step=lambda: self.loaded_step,
        )
        self.url = self._run.url
        self.loaded_step: int | None = None
        self._at_exit = contextlib.ExitStack()

    def __reduce__(self) -> Any:
        if self._run.options:
            raise TypeError("storage_options may hold secrets; make the Manager again where it is")
        made = functools.partial(
            Manager,
            keep=self._saves.keep,
            every=self._saves.every,
            keep_full_every=self._saves.keep_full_every,
        )
        return made, (self._run.place,)

    def __repr__(self) -> str:
        return f"Manager({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        with self._at_exit:
            self._saves.wait()
            if error is None:
                self._saves.check()  # else the next call raises it, or the process tells of it

    def save(
        self,
        step: int,
        tree: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        supplied: Sequence[str] = (),
        overwrite: bool = False,
        force: bool = False,
    ) -> Checkpoint | None:
        """Save a step; when this returns, it is committed and durable.

        Args:
            step: 0 or more.
            tree: the state.
            metadata: as of `ckptstore.save`.
            metrics: numbers by name, for `best` and for rules of retention.
            supplied: as of `ckptstore.save`.
            overwrite: replace the step that is there.
            force: save whatever `every` says, as before the process ends. The metrics that `keep`
                looks at may then be left out.

        Returns:
            What `inspect` would return, or None where `every` says that this call does not save.

        Raises:
            AlreadyCommittedError: the step is there; ``overwrite=True`` replaces it.
            StructureError: reason ``missing-metric``: one that `keep` looks at; or
                ``is-a-checkpoint``: the URL is not of a run.
            CheckpointError: as `ckptstore.save`.

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
        if not self._saves.is_due(step, metrics, force=force):
            return None
        request = self._saves.request(
            step, metadata=metadata, metrics=metrics, supplied=supplied, overwrite=overwrite
        )
        return self._saves.save(step, tree, request)

    def save_async(
        self,
        step: int,
        tree: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        supplied: Sequence[str] = (),
        overwrite: bool = False,
        wait: bool = True,
        force: bool = False,
    ) -> PendingSave | None:
        """Save a step while training goes on; return once the tree may be changed.

        Args:
            step: 0 or more.
            tree: the state.
            metadata: as of `ckptstore.save`.
            metrics: as of `save`.
            supplied: as of `ckptstore.save`.
            overwrite: as of `save`.
            wait: as of `ckptstore.save_async`.
            force: as of `save`.

        Returns:
            The save under way, or None where `every` says that this call does not save.

        Raises:
            CheckpointError: as `save` and `ckptstore.save_async`; that of the save before, too.

        Example:
            >>> with Manager("run") as manager:
            ...     pending = manager.save_async(100, {"step": 100})
            >>> pending.result().step
            100

        Source: docs/runs.md, "Which calls save"; docs/async.md.
        """
        if not self._saves.is_due(step, metrics, force=force):
            return None
        request = self._saves.request(
            step, metadata=metadata, metrics=metrics, supplied=supplied, overwrite=overwrite
        )
        return self._saves.save_async(step, tree, request, wait=wait)

    def load(
        self,
        step: int | None = None,
        like: Any = None,
        *,
        select: str | Sequence[str] | None = None,
        types: Iterable[type] | Mapping[str, type] = (),
        cast: bool = False,
        arrays: Literal["numpy"] | None = None,
        fallback: bool = False,
    ) -> Any:
        """Load a step, or the newest.

        Args:
            step: None is the newest.
            like: as of `ckptstore.load`.
            select: as of `ckptstore.load`.
            types: as of `ckptstore.load`.
            cast: as of `ckptstore.load`.
            arrays: as of `ckptstore.load`.
            fallback: where the newest is damaged, load the newest that is not. Each step passed
                over is logged at WARNING and stays as it is, until this Manager saves that step
                again: that replaces it.

        Raises:
            NotCommittedError: no such step, or none at all (reason ``no-step``).
            CorruptError: it is damaged; with `fallback`, all of them are.
            StructureError: reason ``is-a-checkpoint``: the URL is not of a run.
            CheckpointError: as `ckptstore.load`. What is no damage is never passed over, such as
                types that are not found or a disk that cannot be read.

        Example:
            >>> manager = Manager("run")
            >>> for step in (100, 200):
            ...     saved = manager.save(step, {"step": step})
            >>> manager.load(), manager.loaded_step
            ({'step': 200}, 200)
            >>> manager.load(100)
            {'step': 100}

        Source: docs/runs.md, "Resume".
        """
        self._saves.check()
        load = functools.partial(
            self._load, like=like, select=select, types=types, cast=cast, arrays=arrays
        )
        if step is None:
            loaded, damaged = self._run.load_newest(load, fallback=fallback)
            self._saves.damaged(damaged)
            return loaded
        if fallback:
            raise StructureError(
                "load: fallback=True is for the newest; leave out the step, or try those of "
                "Manager.steps() one by one",
                reason=Reason.BAD_ARGUMENT,
            )
        return load(step)

    def load_or_init(
        self,
        init: Callable[[], Any],
        like: Any = None,
        *,
        select: str | Sequence[str] | None = None,
        types: Iterable[type] | Mapping[str, type] = (),
        cast: bool = False,
        arrays: Literal["numpy"] | None = None,
        fallback: bool = False,
    ) -> Any:
        """Load the newest step, or where the run has none yet, return ``init()``.

        So a script starts and resumes by the same line. The step belongs into the tree, with all
        else that the next step needs; `loaded_step` tells it too, and is None after ``init()``.

        `init` is not called where there is a step. The other arguments are those of `load`.

        Raises:
            CheckpointError: as `load`. A run is never begun anew because its steps are damaged.

        Example:
            >>> manager = Manager("run")
            >>> manager.load_or_init(lambda: {"step": 0})
            {'step': 0}
            >>> saved = manager.save(100, {"step": 100})
            >>> manager.load_or_init(lambda: {"step": 0})
            {'step': 100}

        Source: docs/runs.md, "Resume".
        """
        if not callable(init):
            raise StructureError(
                f"load_or_init: init is {init!r:.80} ({type(init).__name__}), expected a function "
                "that makes the state: load_or_init(lambda: state)",
                reason=Reason.BAD_ARGUMENT,
            )
        try:
            return self.load(
                like=like, select=select, types=types, cast=cast, arrays=arrays, fallback=fallback
            )
        except NotCommittedError as error:
            if error.reason != Reason.NO_STEP:
                raise
        return init()

    def on_preemption(self, notice: Callable[[], Any] | None = None) -> Preemption:
        """Return a flag, raised once this process is told to stop by SIGTERM or by `notice`.

        The loop reads it once a step, saves with ``force=True`` and leaves. The handler that was
        there before runs too, and is put back at the end of the `with` block. `notice` is for what
        a cloud announces otherwise: see `Preemption`.

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
        preempted = Preemption(notice)
        self._at_exit.callback(preempted.close)
        return preempted

    def _load(self, step: int, **arguments: Any) -> Any:
        """Load a step; the arguments are those of `ckptstore.load`."""
        try:
            loaded = loading.load(
                self._run.at(step), storage_options=self._run.options, **arguments
            )
        except CorruptError:
            self._saves.distrust()
            raise
        self.loaded_step = step
        self._saves.loaded(step)
        return loaded

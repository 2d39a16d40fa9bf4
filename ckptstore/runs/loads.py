"""The methods of a `Manager` that load a step: the newest, or the one that you name."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from ckptstore import loading, peers
from ckptstore.errors import CorruptError, NotCommittedError, Reason, StructureError, bad_argument
from ckptstore.format.names import step_number
from ckptstore.runs import joint_loads
from ckptstore.runs.upkeep import Upkeep

_log = logging.getLogger("ckptstore")


class Loads(Upkeep):
    """The methods of a `Manager` that load a step."""

    @property
    def loaded_step(self) -> int | None:
        """The step that this Manager loaded last; None before."""
        return self._saves.history.loaded

    @peers.explains("Manager.load", peers.LOAD)
    def load(
        self,
        step: int | None = None,
        like: Any = None,
        *,
        select: str | Sequence[str] | None = None,
        types: Iterable[type] | Mapping[str, type] = (),
        cast: bool = False,
        arrays: Literal["numpy"] | None = None,
        sharding: Any = None,
        per_process: Callable[[str, tuple[Any, ...]], Any] | None = None,
        fallback: bool = False,
        callback: Any = None,
    ) -> Any:
        """Load a step, or the newest.

        Args:
            step: the step; None: the newest. Of a run that several processes saved, all load the
                one that process 0 finds, so all must call this.
            like: as for `ckptstore.load`.
            select: as for `ckptstore.load`.
            types: as for `ckptstore.load`.
            cast: as for `ckptstore.load`.
            arrays: as for `ckptstore.load`.
            sharding: as for `ckptstore.load`.
            per_process: as for `ckptstore.load`.
            callback: as for `ckptstore.load`.
            fallback: if the newest step is damaged, or a link to nothing, load the newest intact
                one. Each skipped step is logged at WARNING and left alone, until this Manager saves
                that step again, which replaces it.

        Raises:
            NotCommittedError: there is no such step (the message names those that are there), or no
                step at all (reason ``no-step``).
            CorruptError: the step is damaged; with `fallback`, all are (a link: StorageError).
            StructureError: reason ``is-a-checkpoint``: the URL is a checkpoint, not a run.
            CheckpointError: as for `ckptstore.load`. A step is skipped only for damage, not for
                other errors, such as a missing type or a disk that cannot be read.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
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
            self._load,
            like=like,
            select=select,
            types=types,
            cast=cast,
            arrays=arrays,
            sharding=sharding,
            per_process=per_process,
            callback=callback,
        )
        if step is None:
            began = time.monotonic()
            group = joint_loads.group_of(self._run, self._saves.processes)
            self._saves.leads = group.index == 0
            loaded, damaged = joint_loads.load_newest(self._run, group, load, fallback=fallback)
            self._saves.damaged(damaged)
            self._tell("resumed from", began)
            return loaded
        if fallback:
            raise StructureError(
                "load: fallback=True works only for the newest step; leave out the step, or try "
                "those of Manager.steps() one by one",
                reason=Reason.BAD_ARGUMENT,
            )
        step, began = step_number(step), time.monotonic()
        try:
            loaded = load(step)
        except NotCommittedError as error:
            raise self._saves.missing("load", step, error) from None
        self._tell("loaded", began)
        return loaded

    @peers.explains("Manager.load_or_init", peers.LOAD)
    def load_or_init(
        self,
        init: Callable[[], Any],
        like: Any = None,
        *,
        select: str | Sequence[str] | None = None,
        types: Iterable[type] | Mapping[str, type] = (),
        cast: bool = False,
        arrays: Literal["numpy"] | None = None,
        sharding: Any = None,
        per_process: Callable[[str, tuple[Any, ...]], Any] | None = None,
        fallback: bool = False,
        callback: Any = None,
    ) -> Any:
        """Load the newest step, or return ``init()`` if the run has no step yet.

        So your script starts and resumes with the same line. Put everything that the next step
        needs into the tree, also its number. `loaded_step` holds it too, None after ``init()``.

        A call of `init` is logged at INFO, and at WARNING if the directory holds a run of another
        library, such as Orbax. The other arguments are those of `load`.

        Raises:
            CheckpointError: as for `load`. A run never starts again because its steps are damaged,
                or because a cached listing names only steps that are gone (``stale-listing``).

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> manager.load_or_init(lambda: {"step": 0})
            {'step': 0}
            >>> saved = manager.save(100, {"step": 100})
            >>> manager.load_or_init(lambda: {"step": 0})
            {'step': 100}

        Source: docs/runs.md, "Resume".
        """
        if not callable(init):
            raise bad_argument(
                "load_or_init", "init", init, "a function: load_or_init(lambda: state)"
            )
        try:
            loaded = self.load(
                like=like,
                select=select,
                types=types,
                cast=cast,
                arrays=arrays,
                sharding=sharding,
                per_process=per_process,
                fallback=fallback,
                callback=callback,
            )
            self._saves.collect_soon()
            return loaded
        except NotCommittedError as error:
            if error.reason != Reason.NO_STEP:
                raise
            self._run.begins(error)
        self._saves.collect_soon()
        return init()

    def _tell(self, what: str, began: float) -> None:
        """Log the step that was loaded, with its bytes on disk and the seconds."""
        if _log.isEnabledFor(logging.INFO) and (step := self.loaded_step) is not None:
            nbytes, seconds = self._run.nbytes(step), time.monotonic() - began
            size = "" if nbytes is None else f"{nbytes:,} bytes, "
            _log.info("%s: %s step %d (%s%.2f s)", self._run.url, what, step, size, seconds)

    def _load(self, step: int, **arguments: Any) -> Any:
        """Load a step; the arguments are those of `ckptstore.load`."""
        try:
            loaded = loading.load(
                self._run.at(step),
                storage_options=self._run.options,
                processes=self._saves.processes,
                **arguments,
            )
        except CorruptError:
            self._saves.distrust()
            raise
        self._saves.loaded(step)
        return loaded

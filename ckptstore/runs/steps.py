"""The committed steps of a run: list, describe, compare by a metric, verify, and wait for new."""

from __future__ import annotations

from collections.abc import Iterator
from typing import overload

from ckptstore import loading
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import NotCommittedError
from ckptstore.format.names import step_number
from ckptstore.loading import Problem
from ckptstore.runs import retention
from ckptstore.runs.descriptions import described, unfinished
from ckptstore.runs.directory import Run
from ckptstore.runs.retention import Mode
from ckptstore.runs.saves import Saves
from ckptstore.runs.watching import watched


class Steps:
    """The methods of a `Manager` that look at steps, and neither save, load nor delete one."""

    _run: Run
    _saves: Saves

    def steps(self) -> list[int]:
        """Return the committed steps, in order, without reading a manifest.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> for step in (200, 100):
            ...     saved = manager.save(step, {"step": step})
            >>> manager.steps()
            [100, 200]

        Source: docs/runs.md.
        """
        self._saves.check()
        return self._run.committed()

    def unfinished(self) -> list[int]:
        """Return the steps whose directory holds files and no checkpoint, in order.

        Their saves were killed, or are under way. `gc` removes those that are old enough.

        Example:
            >>> import ckptstore, pathlib
            >>> step = pathlib.Path("run/step-000000000100")
            >>> step.mkdir(parents=True)
            >>> _ = (step / f"data-{'0' * 32}-0-0.bin").write_bytes(b"of a save that was killed")
            >>> ckptstore.Manager("run").unfinished()
            [100]

        Source: docs/runs.md.
        """
        self._saves.check()
        return unfinished(self._run)

    def latest(self) -> int | None:
        """Return the newest committed step, or None; saves that were killed do not count.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> manager.latest() is None
            True
            >>> saved = manager.save(100, {"step": 100})
            >>> manager.latest()
            100

        Source: docs/runs.md, "Resume".
        """
        self._saves.check()
        return self._run.newest()

    def url_of(self, step: int) -> str:
        """Return the path or URL of a step, whether it is there or not.

        Example:
            >>> import ckptstore
            >>> ckptstore.Manager("memory://bucket/run").url_of(100)
            'memory://bucket/run/step-000000000100'

        Source: docs/runs.md.
        """
        return self._run.at(step_number(step))

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return the description of each committed step, in order. No array is read.

        The manifests are read several at a time. A step whose manifest is damaged is left out; you
        find a line at WARNING in the log.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> for step in (100, 200):
            ...     saved = manager.save(step, {"step": step}, metrics={"loss": 1 / step})
            >>> {step: found.metrics["loss"] for step, found in manager.checkpoints().items()}
            {100: 0.01, 200: 0.005}

        Source: docs/runs.md.
        """
        self._saves.check()
        return described(self._run)

    def best(self, metric: str, mode: Mode | None = None) -> int | None:
        """Return the step with the best value of a metric.

        Args:
            metric: its name in ``save(step, tree, metrics={name: value})``.
            mode: ``"min"`` if the smallest value is the best (a loss), ``"max"`` if the largest is
                (an accuracy). None: as `keep_best` in the `keep` rule of this Manager compares the
                metric. A mode that you pass goes before that of the rule.

        Returns:
            The step; if two values are equal, the newer step; None if the run has no steps.

        Raises:
            StructureError: reason ``missing-metric``: no step has a finite value of the metric.
                Reason ``bad-argument``: `mode` is None, and `keep` does not compare this metric, or
                by both modes.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run", keep=ckptstore.keep_best(2, "acc", mode="max"))
            >>> for step, acc in [(100, 0.5), (200, 0.9), (300, 0.7)]:
            ...     saved = manager.save(step, {"step": step}, metrics={"acc": acc})
            >>> manager.best("acc")
            200
            >>> manager.load(manager.best("acc"))
            {'step': 200}
            >>> ckptstore.Manager("run").best("acc", mode="min")
            300

        Source: docs/runs.md, "What is kept".
        """
        retention.check_metric("best", metric, "min" if mode is None else mode)
        mode = mode or retention.mode_of(self._saves.keep, metric)
        self._saves.check()
        return self._run.best(metric, mode)

    @overload
    def verify(self, step: int) -> list[Problem]: ...
    @overload
    def verify(self, step: None = None) -> dict[int, list[Problem]]: ...
    def verify(self, step: int | None = None) -> list[Problem] | dict[int, list[Problem]]:
        """Read every byte of a step, or of all steps, and return all problems.

        A damaged manifest is a problem like any other. No framework is imported.

        Args:
            step: the step; None: all.

        Returns:
            The problems of the step, an empty list if it is sound. For all: those of each step, in
            order. A step that another process deletes meanwhile is left out.

        Raises:
            NotCommittedError: there is no such step.
            UnsupportedError: a step has a newer format.
            StorageError: the store refused a read.

        Example:
            >>> import ckptstore, pathlib
            >>> manager = ckptstore.Manager("run")
            >>> for step in (100, 200):
            ...     saved = manager.save(step, {"step": step})
            >>> _ = pathlib.Path(manager.url_of(200), "MANIFEST").write_bytes(b"damaged")
            >>> manager.verify(100)
            []
            >>> {step: len(problems) for step, problems in manager.verify().items()}
            {100: 0, 200: 1}

        Source: docs/runs.md, "Look after a run".
        """
        self._saves.check()
        if step is not None:
            try:
                return self._problems(step_number(step))
            except NotCommittedError as error:
                raise self._saves.missing("verify", step, error) from None
        found = {}
        for there in self._run.committed():
            try:
                found[there] = self._problems(there)
            except NotCommittedError:
                continue  # deleted meanwhile
        return found

    def _problems(self, step: int) -> list[Problem]:
        return loading.verify(self._run.at(step), storage_options=self._run.options)

    def watch(self, after: int | None = None, *, timeout: float | None = None) -> Iterator[int]:
        """Yield the steps of the run in order, and wait for each new one.

        An evaluation waits on it for the saves of another process. The store is listed before each
        step, and while there is no new one, after pauses that grow from 0.1 to 10 seconds. A step
        that is evicted before its turn is passed over. If the run goes back to an older step, the
        steps after that come again.

        Args:
            after: yield only steps after this one, such as the last that you evaluated; None: all.
            timeout: the seconds without a new step after which it ends; None: it never ends. The
                time that you spend with a step does not count.

        Raises:
            StructureError: reason ``bad-step`` or ``bad-argument``.
            StorageError: the store does not answer, also after its retries.

        Example:
            >>> import ckptstore
            >>> trainer = ckptstore.Manager("run")
            >>> for step in (100, 200, 300):
            ...     saved = trainer.save(step, {"step": step})
            >>> evaluator = ckptstore.Manager("run")
            >>> for step in evaluator.watch(after=100, timeout=0):
            ...     print(evaluator.load(step))
            {'step': 200}
            {'step': 300}

        Source: docs/runs.md, "Wait for new steps".
        """
        self._saves.check()
        return watched(self._run, after, timeout)

"""The committed steps of a run: list, compare by a metric, delete, and clean up."""

from __future__ import annotations

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import NotCommittedError
from ckptstore.format.names import step_number
from ckptstore.runs import retention
from ckptstore.runs.descriptions import described, unfinished
from ckptstore.runs.directory import Run
from ckptstore.runs.leftovers import DAY, check_grace
from ckptstore.runs.retention import Mode
from ckptstore.runs.saves import Saves


class Steps:
    """The methods of a `Manager` that neither save nor load a step."""

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

    def delete(self, step: int) -> None:
        """Delete a step.

        Args:
            step: its number.

        Raises:
            NotCommittedError: there is no such step.
            AlreadyCommittedError: the step was overwritten meanwhile; the new save is untouched.
            StorageError: the step still exists. Reason ``not-removed``: it is deleted, but some of
                its files are not removed.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> for step in (100, 200):
            ...     saved = manager.save(step, {"step": step})
            >>> manager.delete(200)
            >>> manager.steps()
            [100]

        Source: docs/runs.md; docs/commit.md.
        """
        self._saves.check()
        step = step_number(step)
        try:
            self._run.delete(step)
        except NotCommittedError as error:
            raise self._saves.missing("delete", step, error) from None

    def rewind(self, step: int, *, dry_run: bool = False) -> list[int]:
        """Go back to a step: verify it wholly, and delete all later steps.

        A run goes on at its newest step. So this is the call before you train on from an older one:
        ``manager.rewind(100)``, then ``manager.load(100)``.

        It waits for the save of this Manager, and reads every byte of the step before it deletes
        another. The newest step goes first. If the process is killed, call it again. If a step is a
        symbolic link, the link alone is removed. No other process may save to the run meanwhile.
        Of several processes that save together, all call this, and process 0 deletes.

        Args:
            step: the step to go back to.
            dry_run: delete nothing, and return the steps that would be deleted.

        Returns:
            The steps that were deleted, in order.

        Raises:
            NotCommittedError: there is no such step; nothing was deleted.
            CorruptError: the step is damaged; nothing was deleted.
            AlreadyCommittedError: reason ``later-steps``: another process saved a later step
                meanwhile. Stop it, and call this again.
            StorageError: the store refused an operation; call this again.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> for step in (100, 200, 300):
            ...     saved = manager.save(step, {"step": step})
            >>> manager.rewind(100, dry_run=True)
            [200, 300]
            >>> manager.rewind(100)
            [200, 300]
            >>> manager.load()
            {'step': 100}

        Source: docs/runs.md, "Go back".
        """
        return self._saves.rewind(step, dry_run=dry_run)

    def gc(self, *, grace: float = DAY, dry_run: bool = False) -> dict[int, list[str]]:
        """Remove the files of saves that were killed more than `grace` seconds ago.

        A Manager that saves does so by itself, in the background: see ``Manager(grace=…)``.

        Args:
            grace: seconds by the store's own clock. It must be longer than any save takes.
            dry_run: remove nothing, and return the files that would be removed.

        Returns:
            The names of the files removed, by step.

        Raises:
            StructureError: reason ``bad-argument``.
            CorruptError: the manifest of a step is damaged; the steps before it are cleaned up.

        Example:
            >>> import ckptstore, pathlib
            >>> step = pathlib.Path("run/step-000000000100")
            >>> step.mkdir(parents=True)
            >>> _ = (step / f"data-{'0' * 32}-0-0.bin").write_bytes(b"of a save that was killed")
            >>> manager = ckptstore.Manager("run")
            >>> sorted(manager.gc(grace=0))
            [100]

        Source: docs/commit.md.
        """
        self._saves.check()
        check_grace("gc", grace)
        return self._run.collect(grace, dry_run=dry_run)

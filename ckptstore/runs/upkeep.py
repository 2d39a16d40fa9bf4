"""The steps that stay in a run: pin, delete, prune, rewind, and remove what killed saves left."""

from __future__ import annotations

from ckptstore.errors import NotCommittedError, Reason
from ckptstore.format.names import step_number
from ckptstore.runs import joint_loads, pinning, retention
from ckptstore.runs.eviction import prune
from ckptstore.runs.leftovers import DAY, check_grace
from ckptstore.runs.retention import Rule
from ckptstore.runs.steps import Steps


class Upkeep(Steps):
    """The methods of a `Manager` that delete steps or garbage, or keep steps from that."""

    def pin(self, step: int) -> None:
        """Keep a step: no rule and no other call removes it, in any process, until `unpin`.

        `delete` and `rewind` refuse to remove it, and `prune` passes it over. The file ``PINNED``
        in the directory of the step says so. An overwrite replaces the step, and keeps the pin.

        A removal of another process that has already looked for a pin is waited for: one second,
        unless the step is the newest. Then the step is looked at once more.

        Args:
            step: its number.

        Raises:
            NotCommittedError: there is no such step, or it was removed meanwhile.
            StorageError: reason ``linked-step``: the step is a symbolic link, and what it leads to
                belongs to another place.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run", keep=ckptstore.keep_last(1))
            >>> saved = manager.save(100, {"step": 100})
            >>> manager.pin(100)
            >>> for step in (200, 300):
            ...     saved = manager.save(step, {"step": step})
            >>> manager.steps(), manager.pinned()
            ([100, 300], [100])

        Source: docs/runs.md, "Pin a step"; docs/commit.md.
        """
        self._saves.check()
        step = step_number(step)
        try:
            pinning.pin(self._run, step)
        except NotCommittedError as error:
            raise self._saves.missing("pin", step, error) from None

    def unpin(self, step: int) -> None:
        """Let rules and calls remove a step again; one that is not pinned stays as it is.

        Args:
            step: its number.

        Raises:
            NotCommittedError: there is no such step.
            StorageError: reason ``linked-step``.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> saved = manager.save(100, {"step": 100})
            >>> manager.pin(100)
            >>> manager.unpin(100)
            >>> manager.pinned()
            []

        Source: docs/runs.md, "Pin a step".
        """
        self._saves.check()
        step = step_number(step)
        if not pinning.unpin(self._run, step):
            absent = NotCommittedError(self._run.at(step), reason=Reason.NO_MANIFEST)
            raise self._saves.missing("unpin", step, absent)

    def pinned(self) -> list[int]:
        """Return the pinned steps, in order: one or two listings, and no manifest is read.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> for step in (100, 200):
            ...     saved = manager.save(step, {"step": step})
            ...     manager.pin(step)
            >>> manager.pinned()
            [100, 200]

        Source: docs/runs.md, "Pin a step".
        """
        self._saves.check()
        return pinning.pinned(self._run)

    def delete(self, step: int) -> None:
        """Delete a step.

        Args:
            step: its number.

        Raises:
            NotCommittedError: there is no such step.
            AlreadyCommittedError: the step was overwritten meanwhile; the new save is untouched.
            StorageError: the step still exists; reason ``pinned``: call `unpin` first. Reason
                ``not-removed``: it is deleted, but some of its files are not removed.

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

    def prune(self, keep: Rule, *, dry_run: bool = False) -> list[int]:
        """Delete the steps that a rule does not keep; the newest and the pinned always stay.

        It is for a run that was saved without a rule, or that should shrink once more. The rule of
        this Manager does not count. The call waits for the save of this Manager. Of several
        processes that save together, all call this, and process 0 deletes. If it fails or is
        killed, call it again.

        Args:
            keep: the rule, such as ``keep_last(3) | keep_every(1000)``.
            dry_run: delete nothing, and return the steps that would be deleted.

        Returns:
            The steps that were deleted, in order.

        Raises:
            StructureError: reason ``bad-argument``: `keep` is no rule, or returned an object that
                is not a step. Reason ``missing-metric``: no step has a metric that it looks at.
            StorageError: the store refused a deletion; the steps before it are deleted.

        Example:
            >>> import ckptstore
            >>> manager = ckptstore.Manager("run")
            >>> for step in (100, 200, 300, 400):
            ...     saved = manager.save(step, {"step": step})
            >>> rule = ckptstore.keep_last(1) | ckptstore.keep_every(200)
            >>> manager.prune(rule, dry_run=True)
            [100, 300]
            >>> manager.prune(rule)
            [100, 300]
            >>> manager.steps()
            [200, 400]

        Source: docs/runs.md, "Look after a run".
        """
        retention.check_rule(keep, "prune")
        self._saves.wait()
        self._saves.check()

        def delete() -> list[int]:
            return prune(self._run, keep, dry_run=dry_run)

        return joint_loads.by_leader_of(self._run, self._saves.processes, "pruning", delete)

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
            StorageError: the store refused an operation; call this again. Reason ``pinned``: a
                later step is pinned; nothing was deleted.

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

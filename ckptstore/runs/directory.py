"""The directory of a run, whose steps are looked up in the store at each call."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from ckptstore import storage
from ckptstore.checkpoint import absence, committed, deletion, garbage
from ckptstore.errors import (
    CheckpointError,
    CorruptError,
    NotCommittedError,
    Reason,
    StorageError,
    StructureError,
    listed,
)
from ckptstore.format.names import MANIFEST, is_step, step_name, steps_of
from ckptstore.runs import retention
from ckptstore.runs.metrics import Metrics
from ckptstore.runs.retention import Mode
from ckptstore.saving import incremental
from ckptstore.saving.incremental import Previous
from ckptstore.storage import Storage

_log = logging.getLogger("ckptstore")

_TRIES = 10
_STALE_SECONDS = 90
"""NFS keeps the listing of a directory for a minute, sshfs for less."""
_LISTINGS = 100
_Loaded = TypeVar("_Loaded")


class Run:
    """One run, to which other processes may write at the same time.

    Args:
        url: its directory.
        options: the options of the store.

    Raises:
        StorageError: reason ``not-a-directory`` or ``dangling-link``: it is another thing.

    Attributes:
        place: the absolute path or URL of the directory.
        url: the same for messages.
        options: the argument.
        metrics: the known metrics of its steps.
    """

    def __init__(self, url: str | os.PathLike[str], options: Mapping[str, Any] | None) -> None:
        self.place = storage.absolute(url)
        self.options = options
        self.metrics = Metrics()
        with self.open() as store:
            self.url = store.url
            absence.refuse_other(store)

    def at(self, step: int) -> str:
        """Return the URL of a step."""
        return f"{self.place}/{step_name(step)}"

    def committed(self) -> list[int]:
        """Return the committed steps, in order, without reading a manifest."""
        with self.open() as store:
            for _ in range(_LISTINGS):
                if (found := committed_steps(store)) or self.newest() is None:
                    return found
            raise _unsettled(store)

    def newest(
        self,
        but: Collection[int] = (),
        nowhere: Callable[[int, StorageError], None] | None = None,
    ) -> int | None:
        """Return the newest committed step outside of `but`: one listing, then checks downwards.

        If there is none, another process may have saved a step and deleted the listed ones. So the
        search is repeated until two listings in a row are the same, and name no step that is gone.

        Args:
            but: the steps to pass over.
            nowhere: takes each newer step that is a link to nothing, with its error, and adds it to
                `but`; None: raise the error.

        Raises:
            StorageError: reason ``dangling-link``. Reason ``stale-listing``: they name such steps
                for a long time, because a network disk answers them from a cache. So newer steps
                may exist.
        """
        before: Mapping[str, int] | None = None
        gone: set[int] = set()
        waits = 0
        with self.open() as store:
            for _ in range(_LISTINGS):
                found = steps_of(store.children())
                for name in sorted(found, key=lambda name: found[name], reverse=True):
                    try:
                        if found[name] not in but and store.child(name).holds(MANIFEST):
                            return found[name]
                    except StorageError as error:
                        if nowhere is None or error.reason != Reason.DANGLING_LINK:
                            raise
                        nowhere(found[name], error)
                store.exists()  # or it is something else
                left = {step: name for name, step in found.items() if step not in but}
                gone_before = gone
                gone = {step for step, name in left.items() if not store.child(name).exists()}
                if stale := sorted(gone & gone_before):
                    self._wait(stale, waits)
                    waits += 1
                elif found == before and not gone:
                    _refuse_checkpoint(store)
                    return None
                before = found
            raise _unsettled(store)

    def _wait(self, stale: Sequence[int], waits: int) -> None:
        """Wait for a cached listing to expire."""
        steps = ", ".join(listed(map(str, stale), 5))
        says = f"{self.url}: the listing names steps that are gone ({steps})"
        if waits == _STALE_SECONDS:
            raise StorageError(
                f"{says}, still after {waits} s; it comes from a cache (NFS, sshfs), and newer "
                "steps may exist; try again later, load a step by its number, or mount the disk "
                "with a shorter cache of directories",
                reason=Reason.STALE_LISTING,
            )
        if waits == 0:
            _log.warning("%s; it is read again each second, for %d s", says, _STALE_SECONDS)
        time.sleep(1)

    def load_newest(
        self, load: Callable[[int], _Loaded], *, fallback: bool
    ) -> tuple[_Loaded, Collection[int]]:
        """Load the newest step, or with `fallback` the newest intact one.

        Args:
            load: loads a step.
            fallback: skip damaged steps and links to nothing, each with a line in the log.

        Returns:
            The loaded value, and the skipped steps.

        Raises:
            NotCommittedError: there is no step (reason ``no-step``).
            CorruptError: the newest step is damaged; with `fallback`, all steps are.
            StorageError: reason ``dangling-link``: the same for a link to nothing, also of the
                directory itself or one above it.
            CheckpointError: as for `load`.
        """
        damaged: dict[int, CorruptError | StorageError] = {}

        def skip(step: int, error: CorruptError | StorageError) -> None:
            _log.warning("step %d is damaged and skipped: %s", step, error)
            damaged[step] = error

        tries = 0
        while (found := self.newest(damaged, skip if fallback else None)) is not None:
            try:
                return load(found), damaged
            except NotCommittedError:  # deleted after the listing
                tries += 1
                if tries == _TRIES:
                    raise
            except CorruptError as error:
                if not fallback:
                    raise
                skip(found, error)
        for newest in damaged.values():
            raise type(newest)(
                f"{self.url}: all {len(damaged)} step(s) are damaged; the newest: {newest}",
                reason=newest.reason,
            )
        with self.open() as store:
            raise absence.no_step(store)

    def later(self, step: int, own: Collection[int]) -> list[int]:
        """Return the committed steps after one, but for those of `own`, in order.

        It takes one listing, and more only if there is such a step. In a directory that you may
        write to and not list, none is found.

        Args:
            step: the step.
            own: the steps to pass over.
        """
        try:
            with self.open() as store:
                found = steps_of(store.children())
                names = {n for n, there in found.items() if there > step and there not in own}
                names = {name for name in names if nowhere(store, name) is None}
                return committed_steps(store, names.__contains__) if names else []
        except StorageError as error:
            if error.reason != Reason.PERMISSION:
                raise
            return []

    def there(self) -> list[int] | None:
        """Return the committed steps of one listing, for a message; None if that fails."""
        try:
            with self.open() as store:
                readable = (n for n in steps_of(store.children()) if nowhere(store, n) is None)
                return committed_steps(store, set(readable).__contains__)
        except CheckpointError:
            return None

    def holds(self, step: int) -> bool:
        """Return whether a step is committed."""
        with self.open() as store:
            return store.child(step_name(step)).holds(MANIFEST)

    def saved_at(self, step: int) -> float | None:
        """Return the time at which the save of a step began, in seconds since 1970, if known."""
        try:
            with self.open() as store:
                holder = committed(store.child(step_name(step)))
                return None if holder is None else holder.time
        except CheckpointError:
            return None

    def nbytes(self, step: int) -> int | None:
        """Return the bytes of the files of a step, for the log; None if they are not known."""
        try:
            with self.open() as store:
                holder = committed(store.child(step_name(step)))
                return None if holder is None else sum(f.nbytes for f in holder.manifest().files)
        except CheckpointError:
            return None

    def begins(self, why: NotCommittedError) -> None:
        """Log that the run has no step yet, so that its first state is made.

        Files of another library may be the run that you meant to go on with: a line at WARNING.
        """
        if "not a run, but" in str(why):
            _log.warning("%s; the run begins anew with init()", why)
        else:
            _log.info("%s: no step yet; the run begins with init()", self.url)

    def previous(self, step: int | None) -> Previous | None:
        """Return a step, or the newest, for a save to take files over; None if there is none.

        Raises:
            CheckpointError: the step cannot be read.
        """
        found = self.newest() if step is None else step
        if found is None:
            return None
        with self.open() as store:
            return incremental.read(store, step_name(found))

    def best(self, metric: str, mode: Mode) -> int | None:
        """Return the step with the best value of a metric, or None if there are no steps."""
        with self.open() as store:
            look = self.metrics.look(store, self.committed())
            ranked = retention.ranked(look.infos, metric, mode)
        return ranked[0].step if ranked else None

    def check(self) -> None:
        """Raise StructureError, reason ``is-a-checkpoint``, if the directory is not a run."""
        with self.open() as store:
            _refuse_checkpoint(store)

    def delete(self, step: int) -> None:
        """Delete a step; the errors are as for `deletion.delete`."""
        name = step_name(step)
        with self.open() as store:
            deletion.delete_inside(store, name)

    def unlink(self, step: int) -> bool:
        """Remove the directory of a step if it is a symbolic link, and return whether it was."""
        with self.open() as store:
            return deletion.unlink(store, step_name(step))

    def collect(self, grace: float, *, dry_run: bool) -> dict[int, list[str]]:
        """Collect the garbage of each step; the errors are as for `garbage.collect`.

        What lies behind a symbolic link belongs to its own place, and is left alone.
        """
        removed = {}
        with self.open() as store:
            for name, step in sorted(steps_of(store.children()).items()):
                if store.is_link(name):
                    continue
                if names := garbage.collect(store.child(name), grace, dry_run=dry_run):
                    removed[step] = names
            if not dry_run:
                garbage.sweep(store, grace)
        return removed

    def open(self) -> Storage:
        """Return the storage of the directory, for a `with` block."""
        return storage.open(self.place, self.options)


def committed_steps(store: Storage, expected: Callable[[str], bool] = is_step) -> list[int]:
    """Return the committed steps of one listing, in order."""
    return sorted(steps_of(store.holders(MANIFEST, expected)).values())


def nowhere(store: Storage, name: str) -> StorageError | None:
    """Return the error for a step that is a link to nothing; None for any other."""
    if store.is_link(name):
        try:
            store.child(name).holds(MANIFEST)
        except StorageError as error:
            return error
    return None


def _unsettled(store: Storage) -> StorageError:
    return StorageError(
        f"{store.url}: {_LISTINGS} listings in a row contradict each other about the steps of the "
        "run; check the store, and whether other processes keep deleting steps; then try again",
        reason=Reason.UNAVAILABLE,
    )


def _refuse_checkpoint(store: Storage) -> None:
    """Raise an error if a directory holds a manifest of its own, and no step."""
    holder = committed(store)
    if holder is None or holder.attempt is None or committed_steps(store):
        return
    step = holder.manifest().step
    raise StructureError(
        f"{store.url}: a checkpoint{'' if step is None else f' of step {step}'}, not a run; "
        "load it by ckptstore.load(url), or pass Manager its parent or another directory",
        reason=Reason.IS_A_CHECKPOINT,
    )

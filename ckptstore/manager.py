"""`Manager`: the checkpoints of one training run, by step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ckptstore import commit, garbage, reader, storage, wire, writer
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import NotCommittedError, StructureError
from ckptstore.storage import Storage

_STEP = re.compile(r"step-[0-9]{12,16}")
_TRIES = 10
_GRACE = 24 * 3600.0


class Manager:
    """A directory with one checkpoint for each step, on a disk or in a bucket.

    Nothing is remembered between calls: another process sees new steps at once, and a checkpoint
    that was copied in by hand is a step. Other files are left alone.

    Args:
        url: the directory of the run.
        storage_options: options of the store.

    Source: docs/commit.md.
    """

    def __init__(self, url: Any, *, storage_options: Mapping[str, Any] | None = None) -> None:
        self._place = storage.absolute(url)
        self._options = storage_options
        with self._open() as store:
            self.url = store.url

    def __reduce__(self) -> Any:
        if self._options:
            raise TypeError("storage_options may hold secrets; make the Manager again where it is")
        return Manager, (self._place,)

    def __repr__(self) -> str:
        return f"Manager({self.url!r})"

    def save(self, step: int, tree: Any, **options: Any) -> Checkpoint:
        """Save a step. The `options` are the other arguments of `ckptstore.save`."""
        return writer.save(
            self._at(step), tree, step=step, storage_options=self._options, **options
        )

    def load(self, step: int | None = None, like: Any = None, **options: Any) -> Any:
        """Load a step, or the newest. The `options` are the other arguments of `ckptstore.load`.

        Raises:
            NotCommittedError: no such step, or none at all (reason ``no-step``).
            CheckpointError: as `ckptstore.load`; the newest is not passed over for being damaged.
        """
        for _ in range(_TRIES):
            found = self.latest() if step is None else step
            if found is None:
                raise NotCommittedError(
                    f"{self.url}: no checkpoint of any step there; check the path, or save one "
                    "first",
                    reason="no-step",
                )
            try:
                return reader.load(self._at(found), like, storage_options=self._options, **options)
            except NotCommittedError as caught:
                if step is not None:
                    raise
                error = caught  # it was deleted after it was found
        raise error

    def steps(self) -> list[int]:
        """Return the committed steps, in order, without reading a manifest."""
        with self._open() as store:
            return sorted(_steps(store.holders(commit.MANIFEST)).values())

    def latest(self) -> int | None:
        """Return the newest committed step, or None; saves that were killed are passed over."""
        with self._open() as store:
            steps = _steps(store.children())
            for name in sorted(steps, key=lambda name: steps[name], reverse=True):
                if store.child(name).holds(commit.MANIFEST):
                    return steps[name]
        return None

    def delete(self, step: int) -> None:
        """Delete a step.

        Raises:
            NotCommittedError: there is none.
            AlreadyCommittedError: it was overwritten meanwhile; nothing of that was touched.
            StorageError: it is there still, or (reason ``not-removed``) not all of its files are
                removed.
        """
        with storage.open(self._at(step), self._options) as store:
            commit.delete(store)

    def gc(self, *, grace: float = _GRACE, dry_run: bool = False) -> dict[int, list[str]]:
        """Remove what saves left behind that were killed more than `grace` seconds ago.

        Args:
            grace: by the store's own clock. No save may take longer.
            dry_run: only tell.

        Returns:
            The names of the files removed, by step.

        Raises:
            CorruptError: of a step whose manifest is damaged; the steps before it are done.
        """
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < 1e12:
            raise StructureError(
                f"gc: grace is {grace!r:.80}, expected seconds, 0 or more", reason="bad-argument"
            )
        removed = {}
        with self._open() as store:
            for name, step in sorted(_steps(store.children()).items()):
                if names := garbage.collect(store.child(name), grace, dry_run=dry_run):
                    removed[step] = names
        return removed

    def _open(self) -> Storage:
        return storage.open(self._place, self._options)

    def _at(self, step: int) -> str:
        if type(step) is not int or not 0 <= step <= wire.MAX_INTEGER:
            raise StructureError(
                f"step is {step!r:.80}, expected an int from 0 to 2^53 - 1; int(step) of an array "
                "gives one",
                reason="bad-step",
            )
        return f"{self._place}/{_name(step)}"


def _name(step: int) -> str:
    return f"step-{step:012d}"


def _steps(names: Iterable[str]) -> dict[str, int]:
    """Return the step of each directory that is named for one."""
    found = {name: int(name[5:]) for name in names if _STEP.fullmatch(name)}
    return {
        name: step
        for name, step in found.items()
        if name == _name(step) and step <= wire.MAX_INTEGER
    }

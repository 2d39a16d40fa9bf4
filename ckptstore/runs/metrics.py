"""The metrics of the steps of a run, which are read from the manifests on demand."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ckptstore import concurrency
from ckptstore.checkpoint import committed
from ckptstore.errors import CorruptError, UnsupportedError
from ckptstore.format.names import step_name
from ckptstore.runs.retention import StepInfo
from ckptstore.storage import Storage

_log = logging.getLogger("ckptstore")

Known = dict[int, tuple[str, Mapping[str, float]]]
"""The attempt of a step and its metrics."""


class Metrics:
    """The known metrics of a run in this process: by step, with the attempt of each."""

    def __init__(self) -> None:
        self._known: Known = {}

    def remember(self, step: int, attempt: str, metrics: Mapping[str, float]) -> None:
        """Store the metrics of a save, so that they need not be read."""
        self._known[step] = attempt, metrics

    def look(self, run: Storage, found: Sequence[int]) -> Look:
        """Return a view of the steps that exist now; it reads metrics only on demand."""
        for step in set(self._known).difference(found):
            self._known.pop(step, None)
        return Look(run, found, self._known)


class Look:
    """One view of the steps of a run.

    Attributes:
        infos: the steps, in order. The first access to unknown metrics reads those of all steps,
            several at a time.
    """

    def __init__(self, run: Storage, found: Sequence[int], known: Known) -> None:
        self.infos = [StepInfo(step, self._metrics) for step in found]
        self._run = run
        self._known = known
        now = known.copy()  # another thread may remove a deleted step
        self._here = {step: now[step] for step in found if step in now}
        self._used = False
        self._unreadable: set[int] = set()

    def stale(self, step: int) -> bool:
        """Return whether metrics were read, and those of this step are no longer valid."""
        if not self._used:
            return False
        if step in self._unreadable:
            return True
        holder = committed(self._run.child(step_name(step)))
        if holder is not None and holder.attempt == self._here[step][0]:
            return False
        self._known.pop(step, None)
        return True

    def attempt(self, step: int) -> str | None:
        """Return the attempt of a step whose metrics were read; None if none were read."""
        return self._here[step][0] if self._used else None

    def _metrics(self, step: int) -> Mapping[str, float]:
        self._used = True
        missing = [info.step for info in self.infos if info.step not in self._here]
        if not self._unreadable.issuperset(missing):
            self._read(missing)
        return self._here[step][1] if step in self._here else {}

    def _read(self, missing: Sequence[int]) -> None:
        rows = [(step,) for step in missing]
        concurrency.run(self._read_one, rows, self._run.traffic.reads, name="ckptstore-metrics")

    def _read_one(self, step: int) -> None:
        holder = committed(self._run.child(step_name(step)))
        if holder is None:  # deleted in the meantime
            self._unreadable.add(step)
            return
        try:
            manifest = holder.manifest()
        except (CorruptError, UnsupportedError) as error:
            _log.warning("%s; so the metrics of this step are unknown, and it is kept", error)
            self._unreadable.add(step)
            return
        self._known[step] = self._here[step] = manifest.attempt, manifest.metrics

"""The metrics of the steps of a run, read from the manifests when they are asked for."""

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
    """What this process knows of the metrics of a run: by step, and of which attempt."""

    def __init__(self) -> None:
        self._known: Known = {}

    def remember(self, step: int, attempt: str, metrics: Mapping[str, float]) -> None:
        """Know the metrics of a save without reading them."""
        self._known[step] = attempt, metrics

    def look(self, run: Storage, found: Sequence[int]) -> Look:
        """Begin to look at the steps that are there now; nothing is read before it is asked for."""
        for step in set(self._known).difference(found):
            self._known.pop(step, None)
        return Look(run, found, self._known)


class Look:
    """One look at the steps of a run.

    Attributes:
        infos: the steps, in order. The first whose metrics are asked for and not known lets those
            of all be read, several at a time.
    """

    def __init__(self, run: Storage, found: Sequence[int], known: Known) -> None:
        self.infos = [StepInfo(step, self._metrics) for step in found]
        self._run = run
        self._known = known
        now = known.copy()  # another thread may let go of a step that was deleted
        self._here = {step: now[step] for step in found if step in now}
        self._used = False
        self._unreadable: set[int] = set()

    def stale(self, step: int) -> bool:
        """Tell whether metrics were asked for, and those of this step are not what is there now."""
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
        """Return the attempt of a step whose metrics were asked for; None where none were."""
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
        if holder is None:  # it was deleted meanwhile
            self._unreadable.add(step)
            return
        try:
            manifest = holder.manifest()
        except (CorruptError, UnsupportedError) as error:
            _log.warning("%s; so its metrics are not known, and it is not evicted", error)
            self._unreadable.add(step)
            return
        self._known[step] = self._here[step] = manifest.attempt, manifest.metrics

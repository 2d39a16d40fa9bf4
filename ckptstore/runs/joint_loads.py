"""Loads of a run by several processes: all of them load one step, which process 0 chooses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TypeVar

from ckptstore.checkpoint import absence, committed
from ckptstore.distributed import Processes, by_leader, error_of, failures_of_all, processes
from ckptstore.errors import CheckpointError, CorruptError, NotCommittedError, ProcessError, Reason
from ckptstore.format.names import step_name
from ckptstore.runs.directory import Run

_log = logging.getLogger("ckptstore")

_Loaded = TypeVar("_Loaded")
_TRIES = 10
_ALONE = Processes(0, 1)


def group_of(run: Run, given: Processes | None) -> Processes:
    """Return the processes that load a run together.

    Args:
        run: the run.
        given: those that the program named; None: if several processes saved the newest step, those
            that an engine connects, else this one alone.
    """
    if given is not None:
        return given
    group = processes()
    return group if group.count > 1 and _is_joint(run) else _ALONE


def _is_joint(run: Run) -> bool:
    """Return whether several processes saved the newest step; False if that is not known."""
    try:
        step = run.newest()
        if step is None:
            return False
        with run.open() as store:
            holder = committed(store.child(step_name(step)))
            return holder is not None and holder.manifest().processes > 1
    except CheckpointError:
        return False


def load_newest(
    run: Run, group: Processes, load: Callable[[int], _Loaded], *, fallback: bool
) -> tuple[_Loaded, Collection[int]]:
    """Load the newest step in all processes, or with `fallback` the newest that is intact for all.

    The arguments and the result are those of `Run.load_newest`, and `group`, the processes.

    Raises:
        ProcessError: reason ``aborted``: another process could not load the step.
        CheckpointError: as for `Run.load_newest`.
    """
    if group.count == 1:
        return run.load_newest(load, fallback=fallback)
    topic = f"loading {run.url.rpartition('/')[2]}"
    if fallback:
        group.gather(f"{topic} with fallback=True", b"")  # or each would go back by itself
    damaged: dict[int, str] = {}
    for _ in range(_TRIES):
        step = int(by_leader(group, topic, lambda: b"%d" % _newest(run, damaged)))
        loaded, own = list[_Loaded](), None
        try:
            loaded.append(load(step))
        except CheckpointError as error:
            own = error
        failures = failures_of_all(group, topic, own)
        if not failures:
            return loaded[0], damaged
        names = {failure.error for failure in failures}
        if fallback and names == {CorruptError.__name__}:
            text = f"process {failures[0].process}: {failures[0].text}"
            _log.warning("step %d is damaged and skipped: %s", step, text)
            damaged[step] = text
        elif names != {NotCommittedError.__name__}:  # or it was deleted after the listing
            raise own if own is not None else error_of(run.at(step), failures, "loaded")
    raise ProcessError(
        f"{run.url}: the newest step was deleted {_TRIES} times while it was loaded; see which "
        "process deletes steps",
        reason=Reason.ABORTED,
    )


def _newest(run: Run, damaged: Collection[int]) -> int:
    """Return the step that all processes load next."""
    found = run.newest(damaged)
    if found is not None:
        return found
    if damaged:
        raise CorruptError(
            f"{run.url}: all {len(damaged)} step(s) are damaged; verify them one by one"
        )
    with run.open() as store:
        raise absence.no_step(store)


def by_leader_of(
    run: Run, given: Processes | None, what: str, work: Callable[[], list[int]]
) -> list[int]:
    """Return in all processes of a run the steps that a function of process 0 returns.

    Args:
        run: the run.
        given: as for `group_of`.
        what: the work, for messages.
        work: the function, such as one that deletes steps.
    """
    group = group_of(run, given)
    if group.count == 1:
        return work()
    topic = f"{what} {run.url.rpartition('/')[2]}"
    said = by_leader(group, topic, lambda: ",".join(map(str, work())).encode())
    return [int(step) for step in said.split(b",") if step]

"""The errors of a `Manager` about a step that is missing, or is there already, or is later."""

from __future__ import annotations

from collections.abc import Sequence

from ckptstore import ranks
from ckptstore.errors import AlreadyCommittedError, NotCommittedError, Reason, listed
from ckptstore.runs.history import History
from ckptstore.runs.retention import Rule

_SHOWN = 5


def missing(
    call: str,
    step: int,
    error: NotCommittedError,
    steps: Sequence[int] | None,
    history: History,
    keep: Rule | None,
) -> NotCommittedError:
    """Return the error for a step that a run does not have; it names the steps that are there.

    Args:
        call: the method that was called, such as ``"load"``.
        step: the step.
        error: the error of its place.
        steps: the steps that are there, in order; None: not known.
        history: the steps that this process knows.
        keep: the rule of this Manager.
    """
    text = f"{error}; there is no step {step}"
    if step in history.evicted:
        text += f": {history.evicted[step]}, the rule of this Manager, has evicted it"
    elif keep is not None and steps and step < steps[-1] and error.reason != Reason.UNFINISHED:
        text += f"; keep={keep!r:.200} deletes the steps that it does not keep"
    if steps:
        nearest = sorted(steps, key=lambda there: (abs(there - step), there))
        shown = ", ".join(listed(map(str, nearest), _SHOWN))
        text += f"; the steps that are there, the nearest first: {shown}"
        text += "" if call == "delete" else f"; {call}({nearest[0]}) takes the nearest"
    elif steps is not None:
        text += "; the run has no step at all: check the path, or save a step first"
    return NotCommittedError(text, reason=error.reason)


def occupied(
    step: int, error: AlreadyCommittedError, steps: Sequence[int], history: History
) -> AlreadyCommittedError:
    """Return the error for a step that a save found there already.

    Args:
        step: the step.
        error: the error of its place.
        steps: the steps that are there, in order.
        history: the steps that this process knows.
    """
    return AlreadyCommittedError(f"{error}; {_cause(step, steps, history)}", reason=error.reason)


def later(
    url: str,
    step: int,
    found: Sequence[int],
    steps: Sequence[int],
    history: History,
    saved_at: float | None,
) -> AlreadyCommittedError:
    """Return the error for a save below steps that this process neither saved nor skipped.

    Args:
        url: the run.
        step: the step to save.
        found: the later steps, in order.
        steps: all steps that are there, in order.
        history: the steps that this process knows.
        saved_at: the time at which the save of the newest began, in seconds since 1970.
    """
    shown = ", ".join(listed(map(str, reversed(found)), _SHOWN))
    text = (
        f"{url}: nothing was written: step {step} is below steps that this Manager neither saved "
        f"nor skipped as damaged ({shown}), so the next resume would take {found[-1]} instead; "
        f"{_cause(step, steps, history)}"
    )
    if (base := _base(step, steps, history)) is not None:
        gone = [there for there in steps if there > base]
        text += (
            f"; to go on from step {base} and give up the later ones, call rewind({base}) first: "
            f"it verifies step {base} and deletes {len(gone)} step(s)"
        )
    else:
        text += (
            "; to begin anew in this directory, delete its steps first: "
            "for step in manager.steps(): manager.delete(step)"
        )
    return AlreadyCommittedError(text + ranks.advice(saved_at), reason=Reason.LATER_STEPS)


def _cause(step: int, steps: Sequence[int], history: History) -> str:
    """Return the usual cause, by what this process did before, and the way on."""
    newest, loaded = steps[-1] if steps else step, history.loaded
    if step in history.saved:
        return (
            f"this Manager saved step {step} before: leave out this save, or replace the step by "
            f"save({step}, tree, overwrite=True)"
        )
    if loaded is None:
        return (
            "this Manager has loaded no step, so your script did not resume: begin with "
            f"load_or_init(init), which loads step {newest}; a new run needs a directory of its own"
        )
    if loaded == step:
        return f"you loaded step {step}, which is saved: save the steps after it"
    if loaded > step:
        return f"you loaded step {loaded}: count on from loaded_step, or from the step in your tree"
    return (
        f"you loaded step {loaded}, and the run has steps up to {newest}: load() takes the newest; "
        "if another process saves to this run, stop one of the two"
    )


def _base(step: int, steps: Sequence[int], history: History) -> int | None:
    """Return the step to rewind to: the loaded one, or the newest below."""
    if history.loaded is not None and history.loaded in steps and history.loaded <= step:
        return history.loaded
    return max((there for there in steps if there < step), default=None)

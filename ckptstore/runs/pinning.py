"""The pinned steps of a run, which no rule and no other call removes."""

from __future__ import annotations

from ckptstore import concurrency
from ckptstore.checkpoint import pins
from ckptstore.format.names import MANIFEST, PINNED, is_step, step_name, steps_of
from ckptstore.runs.directory import Run

_SETTLE_SECONDS = 1.0
"""A removal sends the deletion of the manifest within that time after it looked for a pin."""


def pin(run: Run, step: int) -> None:
    """Pin a step; the errors are as for `pins.pin`."""

    def settle() -> None:
        if run.newest() != step:  # which no rule deletes
            concurrency.pause(_SETTLE_SECONDS)

    with run.open() as store:
        pins.pin(store.child(step_name(step)), settle)


def unpin(run: Run, step: int) -> bool:
    """Remove the pin of a step, and return whether there was a step or a pin."""
    with run.open() as store:
        child = store.child(step_name(step))
        is_there = child.holds(PINNED) or child.holds(MANIFEST)
        pins.unpin(child)
        return is_there


def pinned(run: Run) -> list[int]:
    """Return the committed steps that are pinned, in order.

    A step that is a symbolic link is not one of them: a pin in its target belongs to that place.
    """
    with run.open() as store:
        own = steps_of(store.holders(PINNED, lambda n: is_step(n) and not store.is_link(n)))
        if not own:
            return []
        there = steps_of(store.holders(MANIFEST, own.__contains__))
        return sorted({*own.values()}.intersection(there.values()))

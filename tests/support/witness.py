"""Which save replaced which: writers note the attempt that they are about to replace."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ckptstore
from ckptstore.checkpoint import commit, manifest_file
from ckptstore.format import Manifest


@dataclass(frozen=True)
class Outcome:
    """How one save went; `attempt` is None for one that gave up before it wrote anything."""

    result: str  # "won", or the name of the exception
    attempt: str | None = None
    seen: str | None = None  # the attempt that it was about to replace
    message: str = ""


class Witness:
    """Notes for each thread which attempt its save is, and which one it is about to replace."""

    def __init__(self) -> None:
        self.publish = commit.publish
        self.notes = threading.local()

    def __call__(
        self,
        storage: Any,
        manifest: Manifest,
        data: bytes,
        replaced: manifest_file.Committed | None,
    ) -> None:
        self.notes.attempt, self.notes.seen = manifest.attempt, manifest_file.attempt_of(replaced)
        self.publish(storage, manifest, data, replaced)


def attempt_to_save(witness: Witness, url: str, state: Any, **arguments: Any) -> Outcome:
    notes = witness.notes
    notes.attempt = notes.seen = None
    try:
        saved = ckptstore.save(url, state, **arguments)
    except ckptstore.CheckpointError as error:
        return Outcome(type(error).__name__, notes.attempt, notes.seen, str(error))
    except BaseException as error:
        return Outcome(repr(error))
    assert saved.attempt == notes.attempt
    return Outcome("won", notes.attempt, notes.seen)


def chained(outcomes: Iterable[Outcome], current: str | None) -> str | None:
    """Check that each save that won replaced the one before it; return the attempt of the last."""
    winners = [outcome for outcome in outcomes if outcome.result == "won"]
    won = {outcome.seen: outcome for outcome in winners}
    assert len(won) == len(winners), "two replaced the same"
    while current in won:
        current = won.pop(current).attempt
    assert not won, "it replaced what was not the checkpoint then"
    return current

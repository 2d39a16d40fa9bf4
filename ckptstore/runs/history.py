"""The steps that one `Manager` has saved, loaded, skipped and evicted in this process."""

from __future__ import annotations

from collections.abc import Collection


class History:
    """What this process knows of the steps of a run.

    Attributes:
        saved: the steps that it saved.
        damaged: the steps that it skipped as damaged.
        evicted: the steps that its rule deleted, each with the text of the rule.
        loaded: the step that it loaded last; None before.
        left: the steps that it had saved when it loaded an older one.
    """

    def __init__(self) -> None:
        self.saved: set[int] = set()
        self.damaged: set[int] = set()
        self.evicted: dict[int, str] = {}
        self.loaded: int | None = None
        self.left: set[int] = set()

    def save(self, step: int) -> None:
        """Note a step that is saved, or is being saved."""
        self.saved.add(step)
        self.evicted.pop(step, None)
        self.left.discard(step)

    def load(self, step: int) -> None:
        """Note a step that was loaded."""
        self.loaded = step
        self.left = {saved for saved in self.saved if saved > step}

    def own(self) -> Collection[int]:
        """Return the steps below which it may save."""
        return self.saved | self.damaged

    def rewind(self, step: int) -> None:
        """Forget all steps after one, since they are deleted."""
        self.saved = {saved for saved in self.saved if saved <= step}
        self.damaged = {damaged for damaged in self.damaged if damaged <= step}
        self.left = set()

"""The progress of each run, on a terminal or in a log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ckptstore.demo.training import STEPS


class Progress:
    """The progress of each run: a bar on a terminal, otherwise a line for each event."""

    def __init__(self, runs: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        console = Console(highlight=False)
        self._bars = Bars(
            TextColumn("{task.description:13}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[event]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._rows = {name: self._bars.add_task(name, total=STEPS, event="") for name in runs}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._bars.stop()

    def event(self, run: str, text: str) -> None:
        """Show the latest event of a run."""
        self._bars.update(self._rows[run], event=text)
        if self._bars.disable:
            print(f"{run:13}  {text}", flush=True)

    def step(self, run: str, log: Path) -> None:
        """Show the last step in a log."""
        lines = log.read_bytes().rpartition(b"\n")[0].splitlines() if log.exists() else []
        if lines:
            self._bars.update(self._rows[run], completed=json.loads(lines[-1])["step"])

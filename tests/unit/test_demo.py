"""The demonstration says what it does before it does it, and explains its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ckptstore
from ckptstore.demo import __main__ as command
from ckptstore.demo.progress import Progress
from ckptstore.demo.results import differences, draw, report
from ckptstore.demo.run import RUNS, Run
from ckptstore.demo.training import KILL_AT, SAVE_EVERY, STEPS

RESUMED_AT = KILL_AT - SAVE_EVERY


def line(step: int, count: int) -> dict[str, Any]:
    bits = {"lr_bits": f"{count:08x}", "loss_bits": f"{step + count:08x}"}
    return {"step": step, "count": count, "lr": count / 1e5, "loss": 1 / (step + 1), **bits}


def three_runs(directory: Path, lost: int = 0) -> list[Run]:
    """Return runs as the demonstration leaves them; the resumed one lost some counts of Adam."""
    runs = [Run(name, "", directory, Progress(RUNS)) for name in RUNS]
    runs[0].processes = [[line(step, step) for step in range(1, STEPS + 1)]]
    for run, start in ((runs[1], lost), (runs[2], RESUMED_AT)):
        run.killed_at = KILL_AT
        run.debris = {"data-0.bin": "5 bytes"}
        before = [line(step, step) for step in range(1, KILL_AT + 1)]
        after = [line(step, step - start) for step in range(RESUMED_AT + 1, STEPS + 1)]
        run.processes = [before, after]
    return runs


def test_the_demo_says_what_it_does_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Run, **_: bool) -> int:
        raise RuntimeError(f"{self.name} begins")

    monkeypatch.setattr(Run, "launch", refuse)
    assert command.main([str(tmp_path / "run")]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("A small classifier is trained three times")
    assert printed.out.rstrip().endswith("uninterrupted  training")
    assert printed.err == "error: uninterrupted begins\n"


def test_the_table_puts_the_kill_above_the_resume_and_explains_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = three_runs(tmp_path)
    assert differences(runs[1], runs[0]) == []
    report(runs, [])
    printed = capsys.readouterr().out
    moments = ["start", "warmed up", "before kill", "after resume", "end", "bits: "]
    places = [printed.index(moment) for moment in moments]
    assert places == sorted(places)
    assert "resumed run bit-equal to the uninterrupted one: yes" in printed
    assert f"left in that step's directory: data-0.bin (5 bytes); no {'MANIFEST'}" in printed


def test_a_resumed_run_that_differs_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = three_runs(tmp_path, lost=1)
    differing = differences(runs[1], runs[0])
    assert len(differing) == STEPS - RESUMED_AT
    report(runs, differing)
    assert "resumed run bit-equal to the uninterrupted one: NO" in capsys.readouterr().out


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw(three_runs(tmp_path), [], tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.whole  # a minute of CPU
@pytest.mark.timeout(1200)
def test_the_demo_ends_with_the_same_bits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path / "run")]) == 0
    assert "bit-equal to the uninterrupted one: yes" in capfd.readouterr().out
    assert (tmp_path / "demo.png").exists()
    assert ckptstore.Manager(tmp_path / "run" / "resumed").steps() == [STEPS]

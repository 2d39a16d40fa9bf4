"""The commands that delete steps and garbage, or keep steps from that."""

from __future__ import annotations

import io
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("click")

import ckptstore
from ckptstore import Manager
from ckptstore.cli import application
from ckptstore.format import names
from tests.support import remedies
from tests.unit.cli.test_cli import Shell

DEAD = names.file_name("data", "a" * 32, 0, 0)


@pytest.fixture
def sh(capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    yield Shell(capsys)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    manager = Manager(tmp_path / "run")
    for step in range(100, 700, 100):
        metrics = {"loss": abs(step - 200), "acc:top": int(step == 300)}
        manager.save(step, {"step": step}, metrics=metrics)
    return tmp_path / "run"


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    stdin = io.StringIO(text)
    stdin.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stdin)


RULES = ("--keep-last", 1, "--keep-every", 400, "--keep-best", "loss", "--keep-best", "acc:top:max")


@pytest.mark.follows("cli.questions", "pass -y to delete without it, or -n to see what would go")
def test_a_run_is_pruned_where_no_terminal_can_be_asked(sh: Shell, run: pathlib.Path) -> None:
    sh("prune", run, *RULES, code=2)
    assert "pass -y" in sh.err and "nothing was deleted" in sh.err
    remedies.seen(sh.err)
    assert sh("prune", run, *RULES, "-n") == "would delete 2 of 6 steps: 100, 500\n"
    found = sh.json("prune", run, *RULES, "-n")
    assert (found["deleted"], found["kept"]) == ([100, 500], [200, 300, 400, 600])
    assert found["dry_run"] and len(Manager(run).steps()) == 6
    assert sh("prune", run, *RULES, "-y") == "deleted 2 of 6 steps: 100, 500\n"
    assert Manager(run).steps() == [200, 300, 400, 600]
    assert sh("prune", run, *RULES) == "would delete 0 of 4 steps\n", "nothing to ask"
    assert sh("prune", run, "--keep-last", 1, "-y", "-q") == ""
    assert Manager(run).steps() == [600]


@pytest.mark.parametrize(("text", "left"), [("y\n", [500, 600]), ("n\n", 6), ("\n", 6)])
def test_a_terminal_is_asked_before_steps_go(
    sh: Shell, run: pathlib.Path, text: str, left: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, text)
    out = sh("prune", run, "--keep-last", 2)
    assert f"Delete 4 of 6 steps: 100, 200, 300, 400 from {run}? [y/N]" in sh.err
    if left == 6:
        assert out == "deleted 0 of 6 steps\n" and len(Manager(run).steps()) == 6
    else:
        assert out.startswith("deleted 4 of 6") and Manager(run).steps() == left
    answer(monkeypatch, "")  # the end of the input
    sh("prune", run, "--keep-last", 1, code=application.INTERRUPTED)


@pytest.mark.follows(
    "cli.commands.prune",
    "pass what to keep: --keep-last N, --keep-every STEPS, --keep-best METRIC, or several",
)
def test_a_prune_without_a_rule_is_refused(sh: Shell, run: pathlib.Path) -> None:
    sh("prune", run, "-y", code=2)
    assert "--keep-last N" in sh.err
    remedies.seen(sh.err)
    sh("prune", run, "--keep-last", 0, "-y", code=2)
    sh("prune", run, "--keep-best", "nope", "-y", code=3)
    sh("prune", f"{run}s", "--keep-last", 1, "-y", code=7)
    assert len(Manager(run).steps()) == 6
    sh("prune", run, "--keep-last", 5, "-y")
    assert len(Manager(run).steps()) == 5


@pytest.mark.follows("cli.questions", "write 90s, 30m, 12h or 1d")
def test_what_killed_saves_left_is_removed(sh: Shell, run: pathlib.Path) -> None:
    for step in (600, 700):
        (run / f"step-{step:012d}").mkdir(exist_ok=True)
        (run / f"step-{step:012d}" / DEAD).touch()
    assert sh("gc", run) == "nothing to remove that is older than 1d\n"
    sh("gc", run, "--grace", "soon", code=2)
    remedies.seen(sh.err)
    for grace in ("90s", "30m", "12h", "1d", "0.5d"):
        assert sh("gc", run, "--grace", grace).startswith("nothing")
    lines = "would remove 1 file of step 600\nwould remove 1 file of step 700\n"
    assert sh("gc", run, "--grace", "0", "-n") == lines
    found = sh.json("gc", run, "--grace", "0")
    assert found["removed"] == [{"step": s, "files": [DEAD]} for s in (600, 700)]
    assert not [*run.glob(f"*/{DEAD}")] and not found["dry_run"]
    sh("gc", f"{run}s", code=7)
    (run.parent / "killed" / "step-000000000001").mkdir(parents=True)
    (run.parent / "killed" / "step-000000000001" / DEAD).touch()
    assert "step 1" in sh("gc", run.parent / "killed", "--grace", "0")


def test_steps_are_pinned_by_any_of_their_names(
    sh: Shell, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptstore.concurrency.pause", lambda seconds: None)
    out = sh("pin", f"{run}@best:loss", f"{run}@-2", run / "step-000000000300", run)
    assert out.splitlines() == [f"pinned step {s} of {run}" for s in (200, 500, 300, 600)]
    assert Manager(run).pinned() == [200, 300, 500, 600]
    assert sh("prune", run, "--keep-last", 1, "-y") == "deleted 2 of 6 steps: 100, 400\n"
    assert sh.json("unpin", f"{run}@200")["step"] == 200
    assert sh.json("pin", f"{run}@300")["pinned"]
    sh("unpin", f"{run}@100", code=7)
    sh("pin", run / "step-000000000100", code=7)
    sh("pin", code=2)
    sh("pin", f"{run}s", code=7)
    assert Manager(run).pinned() == [300, 500, 600]
    with pytest.raises(ckptstore.StorageError):
        Manager(run).delete(300)

"""The results of the demonstration: differences, a table, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ckptstore.demo.run import Run
from ckptstore.demo.training import SAVE_EVERY, STEPS, WARMUP

BITS = f"""\
bits: "equal" if learning rate, loss and Adam's count are, bit for bit, those of the
uninterrupted run at the same step; at step {STEPS} all parameters and the optimizer state too.\
"""


def differences(run: Run, reference: Run) -> list[str]:
    """Return the differences of a run's logs and final state from those of another run."""
    expected = reference.steps()
    pairs = [(line, expected.get(line["step"])) for process in run.processes for line in process]
    differing = [f"{line} instead of {other}" for line, other in pairs if line != other]
    if not list(run.steps()) == list(expected) == list(range(1, STEPS + 1)):
        differing.append("the runs did not take the same steps")
    if run.resumed_from != run.killed_at - SAVE_EVERY:
        differing.append(f"resumed from {run.resumed_from}, not from the last save before the kill")
    return differing


def report(runs: Sequence[Run], differing: list[str]) -> None:
    """Print the table of the three runs, the kill of each, and the verdict."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    whole, resumed, _ = runs
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", "run", "step", "rate", "loss", "Adam count", "bits"):
        table.add_column(heading, justify="left" if heading in ("", "run") else "right")
    for moment in ("start", "warmed up", "before kill", "after resume", "end"):
        for run in runs:
            killed = run if run.killed_at else resumed
            line = {
                "start": run.steps()[1],
                "warmed up": run.steps()[WARMUP + 1],
                "before kill": (run.steps(slice(-1)) or run.steps())[killed.killed_at],
                "after resume": run.steps()[killed.resumed_from + 1],
                "end": run.steps()[STEPS],
            }[moment]
            same = line == whole.steps()[line["step"]]
            first, bits = (moment, "") if run is whole else ("", "equal" if same else "differ")
            cells = f"{line['step']} {line['lr']:.2e} {line['loss']:.4e} {line['count']}".split()
            table.add_row(first, run.name, *cells, bits, style=None if same else "red")
    console = Console(highlight=False, markup=False)
    console.print("", table, sep="\n")
    print(f"\n{BITS}\n")
    for run in runs[1:]:
        left = ", ".join(f"{name} ({what})" for name, what in run.debris.items())
        late = f" (saves that escaped the kill: {run.late})" if run.late else ""
        rate = run.steps()[run.resumed_from + 1]["lr"]
        print(f"{run.name}: killed at step {run.killed_at} while saving{late}")
        print(f"  left in that step's directory: {left}; no MANIFEST")
        print(f"  resumed from step {run.resumed_from}, at learning rate {rate:.2e}")
    print(f"mean loss of the last {SAVE_EVERY} steps, and loss of the last:")
    for run in runs:
        losses = [line["loss"] for line in run.steps().values()][-SAVE_EVERY:]
        print(f"  {run.name:13} {sum(losses) / SAVE_EVERY:.4e} {losses[-1]:.4e}")
    verdict = f"resumed run bit-equal to the uninterrupted one: {'NO' if differing else 'yes'}"
    console.print(verdict, style="red" if differing else "green")
    if differing:
        print(f"  {len(differing)} differences, the first: {differing[0]}")


def draw(runs: Sequence[Run], differing: list[str], picture: Path) -> None:
    """Draw learning rate and loss of the three runs over the steps.

    The colours are from Okabe and Ito's palette, which colour-blind readers can tell apart. Width
    and dashes distinguish the lines without colour.
    """
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    whole, resumed, naive = runs
    for run, label, color, width, style in (
        (whole, "uninterrupted", "#c3c8cf", 8.0, "-"),
        (resumed, "killed, resumed with ckptstore", "#0072b2", 2.2, "-"),
        (naive, "killed, only parameters restored", "#d55e00", 2.2, (0, (4, 1))),
    ):
        steps, lines = list(run.steps()), run.steps().values()
        losses = np.log([line["loss"] for line in lines])
        smooth = np.exp([losses[max(0, i - 4) : i + 5].mean() for i in range(len(losses))])
        rates = [line["lr"] for line in lines]
        top.plot(steps, rates, color=color, lw=width, ls=style, label=label)
        bottom.plot(steps, smooth, color=color, lw=width, ls=style)
    for axis in (top, bottom):
        axis.axvspan(resumed.resumed_from, resumed.killed_at, color="0.5", alpha=0.15, lw=0)
        axis.axvline(resumed.killed_at, color="0.2", lw=1.2, ls=":")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    mark = (
        f"killed in the save of step {resumed.killed_at},\nresumed from step {resumed.resumed_from}"
    )
    top.text(resumed.resumed_from - 3, 0, mark, fontsize=12, ha="right")
    top.set_ylabel("learning rate", fontsize=12)
    bottom.set(yscale="log", xlim=(0, STEPS))
    bottom.set_ylabel("loss (mean of 9 steps)", fontsize=12)
    bottom.set_xlabel("step", fontsize=12)
    outcome = "other bits" if differing else "the same bits"
    figure.suptitle(f"Killed in the middle of a save, then resumed: {outcome}", fontsize=14)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    figure.savefig(picture, dpi=120)

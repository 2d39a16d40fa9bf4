"""Any file: each call gives exactly what the specification says, or a CheckpointError.

The inputs are numbered, and a number gives the same input on every machine that has the same
packages. A fault is shown with its number and the bytes of its files. `CKPTSTORE_FUZZ` sets how
many inputs the whole sweep has.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import ckptstore
from tests.support import ROOT, forging, fuzzing
from tests.support.draws import examples
from tests.support.trees import trees

WHOLE = int(os.environ.get("CKPTSTORE_FUZZ", "20000"))


def run(kind: str, first: int, count: int) -> None:
    """Run inputs in a process of its own: an input that ends the process is a fault, too."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzzing", kind, str(first), str(count)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = done.stdout.splitlines()
    faults = [line for line in lines if line.startswith("fault ")]
    shown = [json.loads(line.partition(" ")[2]) for line in faults[:3]]
    text = "\n".join(f"input {seed}: {'; '.join(found)}\n{files}" for seed, found, files in shown)
    assert not faults, f"{len(faults)} faults\n{text}"
    last = next((line for line in reversed(lines) if line.startswith("input ")), "no input")
    ended = f"the process ended with {done.returncode} at {last}: {done.stderr[-2000:]}"
    assert lines[-1:] == ["done"], ended
    assert len(lines) == count + 1


@pytest.mark.ci
def test_a_forged_checkpoint_gives_what_the_specification_says_or_an_error() -> None:
    run("forged", 0, 1500)


@pytest.mark.ci
def test_a_bent_file_of_another_tool_gives_a_value_or_an_error() -> None:
    run("foreign", 0, 600)


@pytest.mark.whole
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(4))
def test_many_forged_checkpoints_give_what_the_specification_says(part: int) -> None:
    run("forged", 100_000 + part * WHOLE, WHOLE // 4)


@pytest.mark.whole
@pytest.mark.timeout(0)
def test_many_bent_files_of_other_tools_give_a_value_or_an_error() -> None:
    run("foreign", 100_000, WHOLE // 2)


def bent_after_save(tree: Any, seed: int) -> None:
    """Save a tree, bend what was written, and run every call on it."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        url = ckptstore.save(work / "saved", tree).url
        saved = {path.name: path.read_bytes() for path in Path(url).iterdir()}
        parts = forging.Parts.of(saved)
        assert forging.Parts.of(parts.files()) == parts
        for _ in range(rng.choice([0, 1, 1, 2])):
            forging.bend(parts, rng)
        files = forging.sealed(parts)
        faults = fuzzing.faults(files, seed, work)
        assert not faults, f"{faults}\n{fuzzing.as_hex(files)}"


BENT = {"tree": trees, "seed": st.integers(0, 2**32)}


@pytest.mark.ci
@examples(300)
@hypothesis.given(**BENT)
def test_what_save_wrote_and_somebody_bent_gives_what_the_specification_says(
    tree: Any, seed: int
) -> None:
    bent_after_save(tree, seed)


@pytest.mark.whole
@pytest.mark.timeout(0)
@examples(WHOLE // 4)
@hypothesis.given(**BENT)
def test_what_save_wrote_and_somebody_bent_many_times(tree: Any, seed: int) -> None:
    bent_after_save(tree, seed)

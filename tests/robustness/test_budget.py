"""No file makes a call work more than in proportion to its bytes.

Work is counted, not timed: lines of Python, functions of C, bytes of memory. What runs inside a
single function of C is not counted. So each shape is also tried at a larger size, in a process
that may take 30 seconds of a processor and 3 GB: what grows as 2^n takes years, and ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import TESTS, budget, forging, fuzzing, shapes

LONGEST = 1 << 16
"""The characters of an error, or as many as the file has bytes: it lists all types at once."""
TOGETHER = 40
"""The shapes that one process measures, since its imports take as long as some shapes."""
NAMED = {"to_npz", "to_safetensors"}
"""The calls whose files hold the whole path of each array, however long."""


CHAINS = [name for name in shapes.SHAPES if name.startswith("chain of ")]
"""Of lists, of tuples and of dicts in each field; CI runs one or two of the three."""
SHAPES = [
    pytest.param(name, marks=pytest.mark.whole if name in CHAINS[1::2] else pytest.mark.ci)
    for name in shapes.SHAPES
]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """Return what came of a shape; the process that measured it goes on with those after it."""
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {spec.params.get("name") for spec in asked if spec is not None}
    names = [name for name in shapes.SHAPES if name in wanted]
    coming: Iterator[tuple[str, Any]] = iter(())

    def outcome(name: str) -> Any:
        nonlocal coming
        measured, found = next(coming, ("", None))
        if measured != name:
            first = names.index(name)
            coming = budget.outcomes(names[first : first + TOGETHER])
            measured, found = next(coming)
        assert measured == name
        return found

    yield outcome
    if isinstance(coming, Generator):
        coming.close()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SHAPES)
def test_twice_the_file_takes_no_more_than_twice_the_work(
    name: str, outcomes: Callable[[str], Any]
) -> None:
    found = outcomes(name)
    assert isinstance(found, dict), found
    growth = shapes.SHAPES[name].growth
    for call, measured in found.items():
        (steps, peak, _, _), (steps_of_two, peak_of_two, _, nbytes) = measured[:2]
        if call not in NAMED:
            assert steps_of_two <= growth * steps + 500, f"{call}: {steps}, then {steps_of_two}"
            text = f"{call}: {steps_of_two} steps for {nbytes} bytes"
            assert steps_of_two <= 200 * nbytes + 300_000, text
            assert peak_of_two <= growth * peak + (512 << 10), f"{call}: {peak}, then {peak_of_two}"
        for _, _, length, nbytes in measured:
            assert length <= max(LONGEST, nbytes), f"{call}: an error of {length} characters"


def check(directory: Path, nbytes: int) -> None:
    """Hold the calls on a checkpoint against a budget that grows with its bytes."""
    calls = budget.Calls(directory).each()
    for name in ("load", "load numpy", "leaves", "verify"):
        calls[name]()  # what a process does once, such as an import, is not the file's
        steps = budget.steps(calls[name])
        assert steps <= 200 * nbytes + 300_000, f"{name}: {steps} steps for {nbytes} bytes"
        peak = budget.peak(calls[name])
        assert peak <= 100 * nbytes + (1 << 20), f"{name}: {peak} bytes for {nbytes}"
        assert calls[name]() <= LONGEST


@pytest.mark.parametrize(
    ("kind", "every"),
    [
        pytest.param("valid", 1, marks=pytest.mark.ci),
        pytest.param("invalid", 5, marks=pytest.mark.ci),
        pytest.param("invalid", 1, marks=pytest.mark.whole),
    ],
)
def test_a_conformance_file_takes_no_more_than_its_budget(kind: str, every: int) -> None:
    fuzzing.import_all()
    for directory in sorted((TESTS / "conformance" / kind).iterdir())[::every]:
        check(directory, sum(path.stat().st_size for path in directory.iterdir()))


def forged(first: int, count: int, work: Path) -> None:
    fuzzing.import_all()
    for seed in range(first, first + count):
        nbytes = budget.put(forging.forge(seed), work / f"{seed}")
        try:
            check(work / f"{seed}", nbytes)
        except AssertionError as error:
            raise AssertionError(f"input {seed}: {error}") from None


@pytest.mark.ci
def test_a_forged_file_takes_no_more_than_its_budget(tmp_path: Path) -> None:
    forged(0, 60, tmp_path)


@pytest.mark.whole
@pytest.mark.timeout(0)
def test_10_000_forged_files_take_no_more_than_their_budget(tmp_path: Path) -> None:
    forged(60, 10_000, tmp_path)


def test_an_endless_chain_is_found_by_the_count() -> None:
    """The counter itself: work that doubles is seen to double."""

    def double(n: int) -> int:
        return 1 if not n else double(n - 1) + double(n - 1)

    few, many = (budget.steps(lambda n=n: double(n)) for n in (4, 8))  # type: ignore[misc]
    assert many > 10 * few
    assert budget.peak(lambda: bytes(1 << 20)) >= 1 << 20

"""The lines that a Manager writes to the log: one at INFO for each event, none at WARNING."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Manager, keep_last
from tests.support import places
from tests.support.places import Place
from tests.support.runs import is_of, manage, tree


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines since the last call, none of them above INFO."""
    records = [record for record in caplog.records if record.name == "ckptstore"]
    assert all(record.levelno == logging.INFO for record in records), records
    caplog.clear()
    return [record.getMessage() for record in records]


def test_a_healthy_run_writes_one_line_for_each_event(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ckptstore")
    sized = r"\([\d,]+ bytes, \d+\.\d\d s\)"

    def said(*patterns: str) -> None:
        found = lines(caplog)
        assert len(found) == len(patterns), found
        for line, pattern in zip(found, patterns, strict=True):
            assert re.fullmatch(f"{re.escape(manager.url)}: {pattern}", line), line

    with manage(place, keep=keep_last(2), every=10) as manager:
        assert is_of(manager.load_or_init(lambda: tree(0)), 0)
        said(r"no step yet; the run begins with init\(\)")
        manager.save(5, tree(5))
        said()
        manager.save(10, tree(10))
        said(f"saved step 10 {sized}")
        manager.save_async(20, tree(20))
    said(f"saved step 20 {sized}")
    manager = manage(place, keep=keep_last(2))
    manager.load_or_init(lambda: tree(0))
    said(f"resumed from step 20 {sized}")
    manager.load(10)
    said(f"loaded step 10 {sized}")
    manager.load()
    said(f"resumed from step 20 {sized}")
    manager.save(30, tree(30))
    said(f"saved step 30 {sized}", r"evicted step\(s\) 10: keep=keep_last\(2\)")


def test_the_bytes_are_those_of_the_files(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ckptstore")
    saved = Manager(tmp_path).save(1, tree(1))
    assert saved is not None and saved.nbytes > 0
    Manager(tmp_path).load()
    assert all(f"({saved.nbytes:,} bytes, " in line for line in lines(caplog))


def test_without_info_nothing_more_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    manager = Manager(tmp_path)
    manager.save(1, tree(1))
    monkeypatch.setattr(manager._run, "nbytes", lambda step: pytest.fail("read for no line"))
    assert is_of(manager.load(), 1)


def test_an_expanded_array_is_told_once_a_run(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ckptstore")
    manager = Manager(tmp_path)
    wide = np.broadcast_to(np.zeros(1), (1 << 18,))
    for step in (1, 2, 3):
        manager.save(step, {"a": wide, "b": wide[:-1] if step > 1 else 0})
    told = [line for line in lines(caplog) if "repeats" in line]
    assert len(told) == 2 and "$['a']" in told[0] and "$['b']" in told[1]


STEPS: list[Any] = [np.int64(7), np.uint8(7), np.array(7), np.array(7, np.int16)]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_step_of_any_framework_is_a_step_in_every_call(tmp_path: Path, step: Any) -> None:
    with Manager(tmp_path, every=7) as manager:
        saved = manager.save(step, tree(7))
        assert saved is not None and type(saved.step) is int
        assert is_of(manager.load(step), 7) and type(manager.loaded_step) is int
        assert manager.rewind(step) == []
        pending: Any = manager.save_async(step, tree(8), overwrite=True)
        assert pending.result().step == 7
        assert manager.steps() == [7] and manager.latest() == 7
        assert manager._saves.history.saved == {7}
        manager.delete(step)
        assert manager.steps() == []

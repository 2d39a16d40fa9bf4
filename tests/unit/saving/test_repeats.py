"""An array that repeats its elements is saved whole, and a line in the log says so."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import numpy as np
import pytest

import ckptstore
from tests.support.compare import differences

ROW = np.arange(1 << 10, dtype=np.float64)


def lines(caplog: pytest.LogCaptureFixture, url: pathlib.Path, tree: Any) -> list[str]:
    with caplog.at_level(logging.INFO, logger="ckptstore"):
        caplog.clear()
        ckptstore.save(url, tree, overwrite=True)
    return [f"{r.levelname} {r.getMessage()}" for r in caplog.records]


def size(url: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in url.glob("data-*"))


def test_a_broadcast_array_is_saved_whole_and_named_once(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = np.broadcast_to(ROW, (256, 1 << 10))
    tree = {"a": [x, x], "b": {"c": np.broadcast_to(np.float32(1), (1 << 20,))}, "plain": ROW}
    found = lines(caplog, tmp_path / "c", tree)
    assert found == [
        f"INFO {tmp_path}/c: {path} repeats {memory} bytes of memory, and takes {disk} bytes on "
        "disk; to save less, save the array that it repeats, and expand the loaded one"
        for path, memory, disk in (
            ("$['a'][0]", 8 << 10, 2 << 20),
            ("$['b']['c']", 4, 4 << 20),
        )
    ]
    assert size(tmp_path / "c") >= 6 << 20
    loaded = ckptstore.load(tmp_path / "c")
    assert np.array_equal(loaded["a"][0], x) and loaded["a"][0] is loaded["a"][1]
    assert 0 not in loaded["a"][0].strides


def test_the_remedy_for_a_broadcast_array_saves_less(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert lines(caplog, tmp_path / "c", {"row": ROW}) == []
    assert size(tmp_path / "c") == ROW.nbytes
    whole = np.broadcast_to(ckptstore.load(tmp_path / "c")["row"], (256, 1 << 10))
    assert np.array_equal(whole, np.broadcast_to(ROW, (256, 1 << 10)))


def test_arrays_that_repeat_little_or_nothing_are_not_named(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = [
        np.broadcast_to(ROW, (4, 1 << 10)),
        np.broadcast_to(ROW, (1 << 20, 0, 1 << 10)),
        np.broadcast_to(ROW[:0], (1 << 20, 0)),
        np.zeros((1, 1 << 18)),
        np.zeros((1 << 18, 2))[:, ::2],
        np.broadcast_to(np.zeros(1 << 18), (1, 1 << 18)),
    ]
    assert lines(caplog, tmp_path / "c", tree) == []


def test_a_view_of_a_large_array_writes_the_view_alone(tmp_path: pathlib.Path) -> None:
    large = np.zeros((1 << 10, 1 << 10))
    ckptstore.save(tmp_path / "c", [large[:1], large[:, 0], large[::512, ::512]])
    assert size(tmp_path / "c") < 20 << 10


def test_an_expanded_tensor_is_named_and_a_view_writes_the_view_alone(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch")
    expanded = torch.ones(1).expand(8, 64, 1024)
    (line,) = lines(caplog, tmp_path / "c", {"t": [expanded]})
    assert f"$['t'][0] repeats 4 bytes of memory, and takes {2 << 20} bytes on disk" in line
    assert differences(ckptstore.load(tmp_path / "c")["t"][0], torch.ones(8, 64, 1024)) == []
    large = torch.zeros(1 << 10, 1 << 10)
    assert lines(caplog, tmp_path / "c", [large[:1], large[:, 0], large.t()[:2]]) == []
    assert size(tmp_path / "c") < 20 << 10


def test_a_save_in_the_background_names_it_in_the_call(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="ckptstore"):
        pending = ckptstore.save_async(tmp_path / "c", np.broadcast_to(ROW, (256, 1 << 10)))
        assert "$ repeats 8192 bytes of memory" in caplog.text
        pending.result()

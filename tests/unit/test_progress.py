"""A callback of fsspec is told the bytes of a call, from one thread, and cannot fail it."""

from __future__ import annotations

import logging
import pathlib
import threading
import time
from typing import Any

import numpy as np
import pytest
from fsspec.callbacks import Callback

import ckptstore
from ckptstore.progress import Progress
from tests.support import cluster

NBYTES, PADDING = 24_000_000, 10_000


class Heard(Callback):
    """Keeps what it was told, and in which thread and when."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.values: list[int] = []
        self.threads: set[threading.Thread] = set()
        self.times: list[float] = []

    def set_size(self, size: int) -> None:
        self.sizes.append(size)
        self.threads.add(threading.current_thread())

    def absolute_update(self, value: int) -> None:
        self.values.append(value)
        self.threads.add(threading.current_thread())
        self.times.append(time.monotonic())

    def check(self, nbytes: int = NBYTES) -> None:
        assert self.sizes[-1] == self.values[-1] >= nbytes
        assert self.values == sorted(self.values)
        assert len(self.threads) == 1
        assert self.threads != {threading.main_thread()}
        assert not self.threads.pop().is_alive()


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "c"


def tree() -> dict[str, Any]:
    return {f"w{n}": np.full(1_000_000, n, np.float64) for n in range(3)}


def test_all_calls_tell_their_bytes(place: pathlib.Path) -> None:
    for call in (
        lambda heard: ckptstore.save(place, tree(), overwrite=True, callback=heard),
        lambda heard: ckptstore.save_async(place, tree(), overwrite=True, callback=heard).result(),
        lambda heard: ckptstore.load(place, callback=heard),
        lambda heard: ckptstore.verify(place, callback=heard),
    ):
        heard = Heard()
        call(heard)
        heard.check()
    heard = Heard()
    ckptstore.load(place, select="w1", callback=heard)
    heard.check(8_000_000)
    assert heard.sizes[-1] == 8_000_000


def test_a_run_tells_the_bytes_of_its_steps(place: pathlib.Path) -> None:
    heard = [Heard() for _ in range(5)]
    with ckptstore.Manager(place, keep_full_every=10) as manager:
        state = manager.load_or_init(tree, callback=heard[0])
        manager.save(1, state, callback=heard[1])
        state["w0"] = state["w0"] + 1
        manager.save_async(2, state, callback=heard[2])
    manager.load(callback=heard[3])
    manager.load_or_init(tree, callback=heard[4])
    assert heard[0].sizes == []
    for one in (heard[1], heard[3], heard[4]):
        one.check()
    assert heard[2].sizes[-1] == heard[2].values[-1] <= NBYTES + PADDING


def test_each_process_tells_its_own_share(place: pathlib.Path) -> None:
    heard = [Heard() for _ in range(2)]

    def save(together: ckptstore.Processes) -> None:
        ckptstore.save(place, tree(), processes=together, callback=heard[together.index])

    assert cluster.threads(2, save) == [None] * 2
    assert 0 <= sum(one.values[-1] for one in heard) - NBYTES < PADDING
    for one in heard:
        one.check(NBYTES // 3)


def test_a_callback_that_raises_fails_nothing(
    place: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Raises(Heard):
        def absolute_update(self, value: int) -> None:
            super().absolute_update(value)
            raise RuntimeError("no bar")

    heard = Raises()
    with caplog.at_level(logging.WARNING, "ckptstore"):
        ckptstore.save(place, tree(), callback=heard)
    assert len(heard.values) == 1
    assert [r.getMessage() for r in caplog.records] == [
        "the callback raised RuntimeError: no bar; it is not called again"
    ]
    assert ckptstore.verify(place) == []


def test_a_failed_save_ends_the_thread(place: pathlib.Path, monkeypatch: Any) -> None:
    from ckptstore.storage import LocalStorage

    def fails(*_: Any) -> None:
        raise ckptstore.StorageError("the disk is gone")

    heard = Heard()
    monkeypatch.setattr(LocalStorage, "create", fails)
    with pytest.raises(ckptstore.StorageError, match="the disk is gone"):
        ckptstore.save(place, tree(), callback=heard)
    assert not [t for t in threading.enumerate() if t.name == "ckptstore-progress"]


def test_it_is_not_called_more_than_ten_times_a_second() -> None:
    heard = Heard()
    with Progress(heard, "test") as progress:
        progress.expect(1000)
        end = time.monotonic() + 0.55
        while time.monotonic() < end:
            progress.add(1)
    gaps = np.diff(heard.times)[:-1]  # the last is told at once
    assert (gaps > 0.05).all()


@pytest.mark.parametrize("call", ["save", "load", "verify"])
def test_another_object_is_refused(call: str, place: pathlib.Path) -> None:
    ckptstore.save(place, {"x": 1})
    with pytest.raises(ckptstore.StructureError, match=r"callback is .* expected an fsspec"):
        arguments = [place, {"x": 1}] if call == "save" else [place]
        getattr(ckptstore, call)(*arguments, callback=print)
    ckptstore.load(place, callback=Callback())


def test_a_bar_of_tqdm_is_drawn(place: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    from fsspec.callbacks import TqdmCallback

    options = {"unit": "B", "unit_scale": True, "desc": "saving"}
    ckptstore.save(place, tree(), callback=TqdmCallback(tqdm_kwargs=options))
    assert "saving: 100%" in capsys.readouterr().err

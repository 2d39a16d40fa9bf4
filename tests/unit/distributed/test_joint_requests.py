"""How many requests each process of a save sends to a bucket."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Processes
from ckptstore.distributed import waiting
from tests.support import counted
from tests.support.cluster import threads
from tests.support.counted import kinds

COUNT = 4


@pytest.mark.ci
def test_a_member_asks_by_name_alone_and_process_0_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = counted.Requests(monkeypatch)
    looks: dict[str, int] = {}
    real = waiting._pauses

    def pauses(range_: tuple[float, float]) -> Any:
        for _ in real(range_):
            who = "leader" if range_ == waiting._LEADER_PAUSES else "members"
            looks[who] = looks.get(who, 0) + 1
            yield

    monkeypatch.setattr(waiting, "_pauses", pauses)
    tree = {"w": np.arange(1 << 20, dtype=np.float32), "step": 7}

    def save(step: int) -> list[tuple[int, str, str]]:
        def call(together: Processes) -> None:
            options = counted.options(together.index)
            url = f"memory://joint/run/step-{step:012}"
            ckptstore.save(url, tree, processes=together, storage_options=options)

        assert threads(COUNT, call) == [None] * COUNT
        return requests.take()

    save(1)  # the first of a process also tests the store
    looks.clear()
    log = save(2)
    members = 0
    for who in range(1, COUNT):
        found = kinds(log, who)
        assert not any(kind.startswith("page") for kind in found), found
        assert {"put JOIN": 1, "put data": 1, "put PART": 1}.items() <= found.items(), found
        assert not found["delete"] and not found["read data"], found
        polls = found["read MANIFEST"] + found["read ABORT"] + found["read START"]
        assert polls <= 3 * looks["members"] + 6
        members += polls
    found = kinds(log, 0)
    # Its own waits list; so do the last look before the commit and the look after it.
    assert found["page"] == looks["leader"] + 2, (found, looks)
    notes = {"read PART": COUNT - 1, "put JOIN": 1, "put START": 1, "put data": 1}
    changes = {"put VOID": 1, "put MANIFEST": 1, "delete VOID": 1}
    gone = {"delete JOIN": COUNT, "delete PART": COUNT - 1, "delete START": 1}
    assert (notes | changes | gone).items() <= found.items(), found
    assert members <= 3 * looks["members"] + 6 * COUNT

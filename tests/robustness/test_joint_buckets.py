"""Several processes save one checkpoint to a bucket, through faults; threads in their place."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

import ckptstore
from ckptstore import OutcomeUnknownError, Processes
from ckptstore.distributed import waiting
from tests.support import bucket_faults
from tests.support.bucket_faults import Place, tree
from tests.support.cluster import threads
from tests.support.servers import Server
from tests.support.servers.proxy import (
    CONFLICT,
    DROP_AFTER,
    DROP_BEFORE,
    ERROR_AFTER,
    ERROR_BEFORE,
    SLOW_DOWN,
    TRUNCATE,
)

COUNT = 3
ACTIONS = [DROP_BEFORE, DROP_AFTER, ERROR_BEFORE, ERROR_AFTER, SLOW_DOWN, CONFLICT, TRUNCATE]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_MEMBER_PAUSES", (0.02, 0.2))
    monkeypatch.setattr(waiting, "_LEADER_PAUSES", (0.02, 0.2))


def save(place: Place, who: str, p: Processes) -> str:
    return ckptstore.save(
        place.url, tree(who), overwrite=True, storage_options=place.options, processes=p
    ).attempt


@pytest.mark.smoke
def test_processes_save_together_to_a_bucket(server: Server) -> None:
    with Place(server) as place:
        place.restore(None)
        saved = threads(COUNT, lambda p: save(place, "together", p))
        assert len({*saved}) == 1 and type(saved[0]) is str, saved
        assert place.which() == "together"
        assert place.left() == []
        assert ckptstore.inspect(place.url, storage_options=place.direct).processes == COUNT


@pytest.mark.parametrize(
    "rounds", [pytest.param(6, marks=pytest.mark.ci), pytest.param(100, marks=pytest.mark.whole)]
)
def test_faults_leave_the_old_or_the_new_and_all_processes_agree(
    rounds: int, server: Server
) -> None:
    outcomes = Counter[str]()
    with Place(server) as place:
        place.restore(None)
        now: str | None = None
        for number in range(rounds):
            place.proxy.reset()
            rate = random.Random(number).uniform(0.05, 0.3)
            place.proxy.some(rate, *ACTIONS, seed=number)
            who = f"round {number}"
            results: list[Any] = threads(COUNT, lambda p, who=who: save(place, who, p))  # type: ignore[misc]
            place.proxy.reset()
            saved = {result for result in results if isinstance(result, str)}
            failed = [r for r in results if not isinstance(r, str)]
            assert all(isinstance(error, ckptstore.CheckpointError) for error in failed), failed
            definite = [e for e in failed if not isinstance(e, OutcomeUnknownError)]
            before, now = now, place.which()
            assert len(saved) <= 1 and not (saved and definite), (saved, failed)
            assert now == who if saved else now in ((before,) if definite else (before, who))
            outcomes["saved" if saved else "refused" if definite else "unknown"] += 1
    print(f"{server.kind}: {rounds} rounds: {dict(outcomes)}")
    assert outcomes["saved"]


@pytest.fixture(scope="module")
def moto() -> Any:
    """A moto that takes parts of `bucket_faults.PART_NBYTES`."""
    yield from bucket_faults.moto_of_small_parts()

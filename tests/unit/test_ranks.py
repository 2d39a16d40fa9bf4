"""Several processes of one job save one step: the losers are told who should call save."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ckptstore
from ckptstore import Manager, ranks

ENVIRONMENTS: list[dict[str, str]] = [
    {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
    {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8"},
    {"PMI_RANK": "3", "PMI_SIZE": "8"},
    {"PMIX_RANK": "3"},
    {"JAX_PROCESS_ID": "3", "JAX_NUM_PROCESSES": "8"},
    {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"},
]
ALONE: list[dict[str, str]] = [
    {},
    {"RANK": "0", "WORLD_SIZE": "1"},
    {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
    {"PMIX_RANK": "0"},
    {"RANK": "first", "WORLD_SIZE": "8"},
    {"RANK": "-1", "WORLD_SIZE": "8"},
    {"RANK": "9", "WORLD_SIZE": "8"},
]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ranks._VARIABLES:
        for name in filter(None, names):
            monkeypatch.delenv(name, raising=False)


def be(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: next(iter(e)))
def test_the_launcher_tells_the_rank_and_the_condition_is_true_in_one_process(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, environment)
    found = ranks.rank()
    assert found is not None and found.number == 3 and found.count in (8, None)
    for number in range(8):
        monkeypatch.setenv(found.source, str(number))
        assert holds(found.condition) == (number == 0)


def holds(condition: str) -> bool:
    """Run the line that a message prints."""
    space: dict[str, Any] = {"saves": False}
    exec(f"import os, sys\n{condition}\n    saves = True", space)
    return bool(space["saves"])


@pytest.mark.parametrize("environment", ALONE, ids=repr)
def test_one_process_alone_has_no_rank(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, environment)
    assert ranks.rank() is None and ranks.advice(None) == ranks.advice(time.time() - 3600) == ""


def test_jax_and_torch_are_asked_only_once_they_are_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = SimpleNamespace(client=None, process_id=1, num_processes=4)
    monkeypatch.setitem(sys.modules, "jax._src.distributed", SimpleNamespace(global_state=state))
    group = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "torch.distributed", group)
    assert ranks.rank() is None
    group.is_initialized, group.get_rank, group.get_world_size = (lambda: True), (lambda: 2), int
    assert ranks.rank() is None  # a group of none
    group.get_world_size = lambda: 4
    found = ranks.rank()
    assert found is not None and found.condition == "if torch.distributed.get_rank() == 0:"
    state.client = object()
    found = ranks.rank()
    assert found is not None and found.condition == "if jax.process_index() == 0:"
    assert "process 1 of 4" in str(found)


@pytest.mark.parametrize("save", ["save", "save_async", "Manager.save", "Manager.save_async"])
def test_a_loser_is_told_who_should_save(
    save: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "step-000000000007", {"step": 7}, step=7)

    def lose() -> str:
        with pytest.raises(ckptstore.AlreadyCommittedError) as caught:
            if save.startswith("Manager"):
                getattr(Manager(tmp_path), save.partition(".")[2])(7, {"step": 7})
            else:
                getattr(ckptstore, save)(tmp_path / "step-000000000007", {"step": 7})
        return str(caught.value)

    text = lose()  # no rank is known, but the other save was a moment ago
    assert "`if jax.process_index() == 0:`" in text and "`if rank == 0:`" in text
    be(monkeypatch, {"RANK": "1", "WORLD_SIZE": "2"})
    assert "process 1 of 2 (RANK) of one job" in lose()


def test_a_rank_that_is_too_late_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late = Manager(tmp_path), Manager(tmp_path)
    for step in (1, 2):
        first.save(step, {"step": step})
    be(monkeypatch, {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
    first.delete(1)
    with pytest.raises(ckptstore.AlreadyCommittedError, match="SLURM_PROCID") as caught:
        late.save(1, {"step": 1})
    assert caught.value.reason == "later-steps"


JOB = """
import os, sys, time
import ckptstore
manager = ckptstore.Manager(sys.argv[1])
while time.time() < float(sys.argv[2]):  # all begin at once
    pass
{condition}
    manager.{save}(7, {{"step": 7}})
manager.latest()
"""


def launch(run: Path, save: str, condition: str) -> list[str]:
    """Start four ranks that save one step, and return what the losers print."""
    code = JOB.format(save=save, condition=condition)
    begin = str(time.time() + 3)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(run), begin],
            env={"RANK": str(number), "WORLD_SIZE": "4"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    printed = [process.communicate(timeout=60)[1] for process in processes]
    assert Manager(run).load() == {"step": 7}
    return [text for text in printed if text]


@pytest.mark.parametrize("save", ["save", "save_async"])
def test_of_four_ranks_three_lose_and_following_the_message_nobody_does(
    tmp_path: Path, save: str
) -> None:
    lost = launch(tmp_path / "all", save, "if True:")
    assert 1 <= len(lost) <= 3
    conditions = {re.findall(r"in one of them under `(if .*?:)`", text)[0] for text in lost}
    assert len(conditions) == 1
    assert launch(tmp_path / "one", save, conditions.pop()) == []

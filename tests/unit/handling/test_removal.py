"""`delete_checkpoint` removes one checkpoint and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ckptstore
from ckptstore import AlreadyCommittedError, Manager, NotCommittedError, Reason
from ckptstore.checkpoint import deletion


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_checkpoint_goes_and_its_neighbours_stay(where: str, tmp_path: Path) -> None:
    base = str(tmp_path) if where == "disk" else "memory://removal"
    for name in ("a", "b"):
        ckptstore.save(f"{base}/{name}", {"w": [1.0, 2.0]})
    ckptstore.delete_checkpoint(f"{base}/a")
    with pytest.raises(NotCommittedError):
        ckptstore.delete_checkpoint(f"{base}/a")
    assert ckptstore.load(f"{base}/b") == {"w": [1.0, 2.0]}
    assert where == "memory" or os.listdir(base) == ["b"]


def test_files_of_yours_stay(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "a", {"step": 1})
    (tmp_path / "a" / "notes.txt").write_text("mine")
    ckptstore.delete_checkpoint(tmp_path / "a")
    assert os.listdir(tmp_path / "a") == ["notes.txt"]


def test_of_a_linked_step_the_link_goes(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "base", {"step": 1})
    run = Manager(tmp_path / "run")
    run.save(1, {"step": 1})
    os.symlink(tmp_path / "base", run.url_of(2))
    ckptstore.delete_checkpoint(run.url_of(2))
    assert run.steps() == [1] and ckptstore.load(tmp_path / "base") == {"step": 1}
    os.symlink(tmp_path / "base", tmp_path / "link")
    ckptstore.delete_checkpoint(tmp_path / "link")
    with pytest.raises(NotCommittedError):
        ckptstore.load(tmp_path / "base")


def test_a_run_is_no_checkpoint(tmp_path: Path) -> None:
    Manager(tmp_path).save(1, {"step": 1})
    with pytest.raises(NotCommittedError) as caught:
        ckptstore.delete_checkpoint(tmp_path)
    assert caught.value.reason == Reason.IS_A_RUN
    assert Manager(tmp_path).steps() == [1]


def test_a_save_that_comes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ckptstore.save(tmp_path, {"step": 1})
    real = deletion.committed

    def overwritten(store: object) -> object:
        found = real(store)  # type: ignore[arg-type]
        monkeypatch.undo()
        ckptstore.save(tmp_path, {"step": 2}, overwrite=True)
        return found

    monkeypatch.setattr(deletion, "committed", overwritten)
    with pytest.raises(AlreadyCommittedError):
        ckptstore.delete_checkpoint(tmp_path)
    assert ckptstore.load(tmp_path) == {"step": 2}

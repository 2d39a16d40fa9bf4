"""Uploads of several objects at once, of which one fails: nothing of the others is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.saving import placement
from ckptstore.storage.clients import memory
from ckptstore.storage.clients.base import Failure, Kind
from ckptstore.storage.clients.memory import MemoryClient


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """One object fails for good; the others are given up, and are slow to let that be."""
    keys: dict[str, list[str]] = {"begun": [], "slow": []}
    begin, abort = MemoryClient.begin, MemoryClient.abort
    several = threading.Event()

    def begins(client: MemoryClient, key: str, nbytes: int) -> Any:
        upload = begin(client, key, nbytes)
        keys["begun"].append(key)
        if len(keys["begun"]) > 1:
            several.set()
        return upload

    def fails(client: MemoryClient, upload: Any, *arguments: Any) -> str:
        assert several.wait(30)
        kind = Kind.REFUSED if upload.key == keys["begun"][0] else Kind.AGAIN
        raise Failure(kind, "no")

    def aborts_at_the_second_try(client: MemoryClient, upload: Any) -> None:
        if upload.key not in (*keys["slow"], keys["begun"][0]):
            keys["slow"].append(upload.key)
            raise Failure(Kind.AGAIN, "503: slow down")
        abort(client, upload)

    monkeypatch.setattr(placement, "FILE_NBYTES", 16 << 20)
    monkeypatch.setattr(MemoryClient, "begin", begins)
    monkeypatch.setattr(MemoryClient, "part", fails)
    monkeypatch.setattr(MemoryClient, "abort", aborts_at_the_second_try)
    yield keys


def test_a_failed_save_gives_up_the_uploads_of_all_its_files(faults: dict[str, list[str]]) -> None:
    before = len(memory._parts)
    with pytest.raises(ckptstore.StorageError):
        ckptstore.save("memory://uploads/x", [np.zeros(4 << 20), np.zeros(4 << 20)])
    assert len(faults["begun"]) > 1 and faults["slow"]
    assert len(memory._parts) == before

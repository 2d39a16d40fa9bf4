"""`storage_options`: what is refused, and the way on."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import ckptstore


@pytest.mark.follows(
    "storage.options", "pass storage_options={'ckptstore': {'assume_atomic': True}}"
)
@pytest.mark.parametrize("url", ["c", "memory://options/c"])
def test_a_setting_of_ckptstore_beside_those_of_the_store(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ckptstore.StorageError) as caught:
        ckptstore.save(url, {"step": 1}, storage_options={"assume_atomic": True})
    assert caught.value.reason == "bad-options"
    said: Any = ast.literal_eval(str(caught.value).rpartition("storage_options=")[2])
    ckptstore.save(url, {"step": 1}, storage_options=said)
    assert ckptstore.load(url, storage_options=said) == {"step": 1}

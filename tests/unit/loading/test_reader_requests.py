"""How many requests a reader sends to a bucket, and the files that it looks at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ckptstore
from ckptstore.saving import placement
from ckptstore.storage import LocalStorage
from ckptstore.storage import bucket as buckets
from tests.support import counted
from tests.support.counted import kinds

PLACE = "memory://reads/run/step"
COUNT = 40


def tree() -> dict[str, np.ndarray]:
    return {f"w{n:02}": np.full(n + 9, n, np.int64) for n in range(COUNT)}


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    """Give each array a file of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "FILE_NBYTES", 1)
        patch.setattr(placement, "MAX_FILES", 10 * COUNT)
        yield


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> counted.Requests:
    monkeypatch.setattr(buckets, "_PAGE", 10)
    requests = counted.Requests(monkeypatch)
    ckptstore.save(PLACE, tree(), overwrite=True, storage_options=counted.options())
    requests.take()
    return requests


@pytest.mark.parametrize(("patterns", "looks"), [(1, "page data"), (4, "page data"), (8, "page")])
def test_a_reader_of_some_leaves_asks_for_their_files_alone(
    requests: counted.Requests, patterns: int, looks: str
) -> None:
    """A listing of four pages takes as many requests as the names of four files."""
    select = [f"$['w{n:02}']" for n in range(patterns)]
    loaded = ckptstore.load(PLACE, select=select, storage_options=counted.options())
    assert [int(x[0]) for x in loaded.values()] == list(range(patterns))
    count = 1 if looks == "page" else patterns
    assert kinds(requests.take()) == {"read MANIFEST": 1, looks: count, "get data": patterns}


def test_verify_and_inspect_look_at_all_files(requests: counted.Requests) -> None:
    assert ckptstore.verify(PLACE, storage_options=counted.options()) == []
    assert kinds(requests.take()) == {"read MANIFEST": 1, "page": 1, "get data": COUNT}
    ckptstore.inspect(PLACE, storage_options=counted.options())
    assert kinds(requests.take()) == {"read MANIFEST": 1, "page": 1}


@pytest.mark.parametrize(("damage", "reason"), [(None, "missing-file"), (-1, "file-size")])
def test_a_file_that_nobody_reads_may_be_damaged(
    damage: int | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads it is told as ever, before any data is read; so are `verify` and `inspect`."""
    ckptstore.save(tmp_path, tree())
    (file,) = tmp_path.glob("data-*-0-7.bin")
    data = file.read_bytes()
    file.unlink() if damage is None else file.write_bytes(data[:damage])
    assert int(ckptstore.load(tmp_path, select="$['w08']")[0]) == 8
    reads: list[str] = []
    real = LocalStorage.get

    def get(self: LocalStorage, name: str, offset: int, buffer: memoryview) -> None:
        reads.append(name)
        real(self, name, offset, buffer)

    monkeypatch.setattr(LocalStorage, "get", get)
    for read in (
        lambda: ckptstore.load(tmp_path, select="$['w07']"),
        lambda: ckptstore.load(tmp_path),
        lambda: ckptstore.inspect(tmp_path),
    ):
        with pytest.raises(ckptstore.CorruptError, match=file.name) as caught:
            read()
        assert caught.value.reason == reason
        if damage is not None:
            assert f"has {len(data) - 1} bytes, the manifest says {len(data)}" in str(caught.value)
    assert reads == []
    assert [problem.reason for problem in ckptstore.verify(tmp_path)] == [reason]

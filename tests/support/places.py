"""A directory on each kind of store, which tests look into and tamper with past ckptstore."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import Server

KINDS = ("local", "moto", "ministack", "gcs")

LESS = pytest.mark.parametrize(
    "server", ["moto", pytest.param("ministack", marks=pytest.mark.whole), "gcs"], indirect=True
)
"""Each server in turn; of the two for S3, one is left to `make test-all`."""


class Place:
    """A directory of a disk; `url` and `options` are what ckptstore is given."""

    url: str
    options: dict[str, Any] | None = None

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.url = str(directory)

    def files(self, below: str = "") -> set[str]:
        """Return the paths of all files below."""
        root = self._directory / below
        return {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}

    def put(self, path: str, data: bytes = b"theirs") -> None:
        at = self._directory / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(data)

    def get(self, path: str) -> bytes:
        return (self._directory / path).read_bytes()

    def delete(self, path: str) -> None:
        (self._directory / path).unlink()

    def copy(self, source: str, target: str) -> None:
        """Copy a directory, as a person would."""
        for name in self.files(source):
            self.put(f"{target}/{name}", self.get(f"{source}/{name}"))


class BucketPlace(Place):
    """A prefix in a bucket of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.bucket = server.new_bucket()
        self.url = f"{server.protocol}://{self.bucket}/run"
        self.options = server.storage_options()

    def files(self, below: str = "") -> set[str]:
        root = f"run/{below}/" if below else "run/"
        return {k[len(root) :] for k in self.server.objects(self.bucket) if k.startswith(root)}

    def put(self, path: str, data: bytes = b"theirs") -> None:
        self.server.put(self.bucket, f"run/{path}", data)

    def get(self, path: str) -> bytes:
        return self.server.get(self.bucket, f"run/{path}")

    def delete(self, path: str) -> None:
        self.server.delete(self.bucket, f"run/{path}")


def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Give a place of the kind that a fixture's parameter names."""
    if request.param == "local":
        yield Place(tmp_path / "run")
        shutil.rmtree(tmp_path, ignore_errors=True)
    else:
        yield BucketPlace(request.getfixturevalue(request.param))


def aged(
    patch: pytest.MonkeyPatch, storage: type, ages: Mapping[str, float], offset: float = 0.0
) -> None:
    """Let the store say that files changed so many seconds earlier, and let its clock be off."""
    for method in ("changed", "unfinished"):
        real = getattr(storage, method)

        def told(self: Any, real: Any = real, method: str = method) -> Mapping[str, float]:
            times = real(self)
            if method == "unfinished":  # moto says 2010 of every upload
                times = dict.fromkeys(times, time.time())
            return {name: t + offset - ages.get(name, 0.0) for name, t in times.items()}

        patch.setattr(storage, method, told)

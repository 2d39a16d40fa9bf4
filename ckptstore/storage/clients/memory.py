"""The memory of this process, fsspec's ``memory://``: for tests and first trials."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec  # type: ignore[import-untyped, unused-ignore]

from ckptstore import signals
from ckptstore.digests import Buffer
from ckptstore.errors import Reason
from ckptstore.storage.clients.base import (
    ABSENT,
    FOREIGN,
    Failure,
    Kind,
    Page,
    Settings,
    Upload,
    Version,
    WithoutBatches,
    version_of,
)

_lock = threading.Lock()
_parts: dict[str, tuple[Upload, dict[int, bytes]]] = {}
"""Unfinished uploads by id. The objects themselves are fsspec's, which any code can see."""


def _unlock() -> None:
    """Release the lock in a child that was forked while another thread held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)


class MemoryClient(WithoutBatches):
    """All objects below the first part of a path.

    Conditions hold between the clients of this process, not against other code that writes there.

    Args:
        bucket: its name.
        options: the arguments of fsspec's `MemoryFileSystem`.
        settings: not used.
    """

    endpoint = "memory"
    any_order = True
    foreign = FOREIGN

    def __init__(self, bucket: str, options: Mapping[str, Any], settings: Settings) -> None:
        self._fs = fsspec.filesystem("memory", skip_instance_cache=True, **options)
        self._root = f"/{bucket}/"

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """Copy the beginning; its version is its content."""
        data = self._copy(key, 0, limit + 1)
        return data, version_of(data, limit)

    def get(self, key: str, start: int, buffer: Buffer) -> None:
        """Copy a range."""
        view = memoryview(buffer).cast("B")
        data = self._copy(key, start, start + view.nbytes)
        if len(data) < view.nbytes:
            raise Failure(Kind.SHORT, f"the object ends at byte {start + len(data)} or before")
        view[:] = data

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """Compare and store under one lock."""
        with _lock:
            self._check(key, condition)
            self._store(key, bytes(data))

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """Copy under the lock."""
        with _lock:
            self._store(key, self._copy(origin, 0, None))

    def delete(self, key: str, version: Version | None = None) -> None:
        """Compare and remove under one lock."""
        with _lock:
            self._check(key, version)
            try:
                self._fs.rm_file(self._root + key)
            except FileNotFoundError:
                raise _missing(key) from None

    def size(self, key: str) -> int:
        """Count the bytes."""
        return len(self._copy(key, 0, None))

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """Look at every object there is; one page holds them all."""
        sizes: dict[str, int] = {}
        changed: dict[str, float] = {}
        prefixes: dict[str, None] = {}
        for path, file in tuple(self._fs.store.items()):
            if not path.startswith(self._root + prefix):
                continue
            key = path[len(self._root) :]
            below = key[len(prefix) :]
            if delimiter and delimiter in below:
                prefixes[prefix + below.partition(delimiter)[0] + delimiter] = None
            else:
                sizes[key], changed[key] = file.size, file.modified.timestamp()
        return Page(sizes, changed, list(prefixes))

    def begin(self, key: str, nbytes: int, create: bool | None = None) -> Upload:
        """Make room for parts."""
        upload = Upload(key, secrets.token_hex(16), nbytes, time.time(), create)
        with _lock:
            _parts[upload.id] = upload, {}
        return upload

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """Keep a part."""
        with _lock:
            if upload.id not in _parts:
                raise _missing(upload.key)
            _parts[upload.id][1][number] = bytes(data)
        return str(number)

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """Join the parts."""
        with _lock:
            if upload.id not in _parts:
                raise _missing(upload.key)
            self._check(upload.key, ABSENT if upload.create else None)
            _, parts = _parts.pop(upload.id)
            self._store(upload.key, b"".join(parts[int(tag)] for tag in tags))

    def abort(self, upload: Upload) -> None:
        """Forget the parts."""
        with _lock:
            _parts.pop(upload.id, None)

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Return the uploads of this process, also of other buckets."""
        with _lock:
            return [upload for upload, _ in _parts.values() if upload.key.startswith(prefix)]

    def _copy(self, key: str, start: int, end: int | None) -> bytes:
        try:
            data: bytes = self._fs.cat_file(self._root + key, start, end)
        except FileNotFoundError:
            raise _missing(key) from None
        return data

    def _check(self, key: str, condition: Version | None) -> None:
        """Compare the object with a condition; the lock is held."""
        if condition == ABSENT:
            if self._root + key in self._fs.store:
                raise Failure(Kind.CONDITION, f"{key} exists")
        elif condition is not None:
            file = self._fs.store.get(self._root + key)
            if file is None:
                raise _missing(key)
            if version_of(file.getvalue(), file.size) != condition:
                raise Failure(Kind.CONDITION, f"{key} holds other bytes")

    def _store(self, key: str, data: bytes) -> None:
        try:
            self._fs.pipe_file(self._root + key, data)
        except OSError as error:  # a file where a directory should be, or the reverse
            signals.pass_on(error)
            message = f"{type(error).__name__}: {error}"
            raise Failure(Kind.REFUSED, message, Reason.NOT_A_DIRECTORY) from None


def _missing(key: str) -> Failure:
    return Failure(Kind.MISSING, f"there is no {key}")

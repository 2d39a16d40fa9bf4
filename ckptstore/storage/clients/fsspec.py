"""Any file system that fsspec knows: always readable, writable only if the caller vouches for it.

fsspec cannot create a file on the condition that it does not exist: most of its file systems look
first and then write. So a commit there is not atomic. The caller must vouch, by the setting
``assume_atomic``, that nobody else writes to the place.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any

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
from ckptstore.storage.clients.fsspec_files import Filesystem, WebFilesystem, time_of


class FilesystemClient(WithoutBatches):
    """All files below the first part of a path: a host, or a bucket.

    Args:
        protocol: its name in fsspec.
        bucket: the first part, perhaps with a user name, a password and a port.
        options: the arguments of the file system.
        settings: the timeout of a request, and whether the caller vouches for writes.
    """

    any_order = False
    foreign = FOREIGN

    def __init__(
        self, protocol: str, bucket: str, options: Mapping[str, Any], settings: Settings
    ) -> None:
        kind = WebFilesystem if protocol in ("http", "https") else Filesystem
        self._files = kind(protocol, bucket, options, settings.timeout)
        self._protocol = protocol
        self._vouched = settings.assume_atomic
        self._conditions = threading.Lock()  # held from a check to the write that depends on it
        self._begun: dict[str, Any] = {}  # open files, by the id of an upload
        self.endpoint = self._files.endpoint

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """Read from 0; the version is the content."""
        try:
            data = self._files.range(key, 0, limit + 1)[: limit + 1]
        except Failure as failure:
            if failure.kind is not Kind.SHORT:
                raise
            data = b""  # an empty file has no byte 0
        return data, version_of(data, limit)

    def get(self, key: str, start: int, buffer: Buffer) -> None:
        """Read a range."""
        view = memoryview(buffer).cast("B")
        data = self._files.range(key, start, start + view.nbytes)
        if len(data) > view.nbytes:
            raise Failure(
                Kind.REFUSED,
                f"asked for {view.nbytes} bytes, got {len(data)}: the server ignores ranges",
            )
        if len(data) < view.nbytes:
            entry = self._files.info(key)
            if entry is None:
                raise Failure(Kind.MISSING, f"there is no {key}")
            size = entry.get("size")
            if size is not None and size < start + view.nbytes:
                raise Failure(Kind.SHORT, f"the file ends at byte {size}")
            raise Failure(Kind.AGAIN, f"the answer ended after {len(data)} of {view.nbytes} bytes")
        view[:] = data

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """Write a whole file, after a check of the condition, if there is one."""
        self._check_vouched()
        if condition is None:
            self._files.write(key, bytes(data), create=False)
            return
        with self._conditions:
            self._check(key, condition)
            self._files.write(key, bytes(data), create=condition == ABSENT)

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """Refuse, because most file systems would read the file and write it again."""
        raise Failure(Kind.REFUSED, "copies are not supported", Reason.NOT_SUPPORTED)

    def delete(self, key: str, version: Version | None = None) -> None:
        """Remove a file, after a check of the condition, if there is one."""
        self._check_vouched()
        with self._conditions:
            if version is not None:
                self._check(key, version)
            self._files.remove(key)

    def size(self, key: str) -> int:
        """Ask for the entry of a file."""
        entry = self._sized(key, {})
        if entry is None:
            raise Failure(Kind.MISSING, f"there is no {key}")
        return int(entry["size"])

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """List a directory in one page. A file that cannot be listed is asked for by name."""
        directory, slash, name = prefix.rpartition("/")
        entries: Mapping[str, Any] = {}
        refusal: Failure | None = None
        try:
            entries = self._files.entries(directory + slash, deep=not delimiter)
        except Failure as failure:
            if not name or failure.kind is not Kind.REFUSED:
                raise
            refusal = failure
        files: dict[str, Mapping[str, Any]] = {}
        prefixes: list[str] = []
        for key, entry in entries.items():
            if not key.startswith(prefix):
                continue
            if entry.get("type") != "directory":
                files[key] = entry
            elif delimiter:
                prefixes.append(key.rstrip("/") + "/")
        if name:
            files.setdefault(prefix, {})
        sizes: dict[str, int] = {}
        changed: dict[str, float] = {}
        for key, listed in files.items():
            entry = self._sized(key, listed)
            if entry is not None:
                sizes[key] = int(entry["size"])
                if (time := time_of(entry)) is not None:
                    changed[key] = time
        if refusal is not None and prefix not in sizes:
            raise refusal
        return Page(sizes, changed, prefixes)

    def begin(self, key: str, nbytes: int, create: bool | None = None) -> Upload:
        """Open the file, unless the store would show it while it grows."""
        self._check_vouched()
        if create is not None:
            raise Failure(
                Kind.REFUSED,
                f"{self._protocol}:// may show a file of {nbytes} bytes while it grows; write it "
                "to a local disk, and copy it there",
                Reason.NOT_ATOMIC,
            )
        upload = Upload(key, secrets.token_hex(16), nbytes)
        self._begun[upload.id] = self._files.open(key)
        return upload

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """Write to the file. This cannot be retried, as the number of written bytes is unknown."""
        file = self._file(upload)
        try:
            with self._files.alone():
                written = file.write(bytes(data))
        except Failure as failure:
            reason = failure.reason if failure.kind is Kind.REFUSED else Reason.UNAVAILABLE
            raise Failure(Kind.REFUSED, str(failure), reason) from None
        if isinstance(written, int) and written < memoryview(data).nbytes:
            raise Failure(Kind.REFUSED, f"wrote {written} of {memoryview(data).nbytes} bytes")
        return str(number)

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """Close the file."""
        file = self._file(upload)
        del self._begun[upload.id]
        with self._files.alone():
            file.close()

    def abort(self, upload: Upload) -> None:
        """Drop the open file, and remove the part of it that was written."""
        file = self._file(upload)
        del self._begun[upload.id]
        with contextlib.suppress(Failure), self._files.alone():
            if hasattr(file, "discard"):
                file.discard()
                file.closed = True  # its destructor would flush it
            else:
                file.close()
        self._files.remove(upload.key)

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Return none: an unfinished file is already a file."""
        return ()

    def _check_vouched(self) -> None:
        if not self._vouched:
            raise Failure(
                Kind.REFUSED,
                f"{self._protocol}:// may replace an existing file when it creates one, so a "
                "commit there would not be atomic, and nothing is written; save to a local disk or "
                "to s3://, gs:// or abfs://, or, if only one process ever writes, pass "
                'storage_options={"ckptstore": {"assume_atomic": True}}',
                Reason.NOT_ATOMIC,
            )

    def _check(self, key: str, condition: Version) -> None:
        """Compare the file with a condition."""
        if condition == ABSENT:
            if self._files.info(key) is not None:
                raise Failure(Kind.CONDITION, f"{key} exists")
            return
        nbytes = int(condition.partition("-")[0]) if condition != FOREIGN else 0
        if self.read(key, nbytes)[1] != condition:
            raise Failure(Kind.CONDITION, f"{key} holds other bytes")

    def _sized(self, key: str, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the entry of a file, with its size; None if there is no such file."""
        if entry.get("size") is None:
            found = self._files.info(key)
            if found is None:
                return None
            if found.get("size") is None:
                raise Failure(Kind.REFUSED, f"the server does not tell the size of {key}")
            entry = found
        return None if entry.get("type") == "directory" else entry

    def _file(self, upload: Upload) -> Any:
        if upload.id not in self._begun:
            raise Failure(Kind.MISSING, f"no file is open for {upload.key}")
        return self._begun[upload.id]

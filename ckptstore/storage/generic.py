"""Any file system that fsspec knows: read as it is, written only where the caller vouches for it.

fsspec does not promise that a file is created only where none is: most of its file systems look
first and then write. So a commit there is not atomic, and a write needs the caller's word, the
setting ``assume_atomic``, that nobody else writes to the place.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import ftplib
import re
import secrets
import threading
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import fsspec  # type: ignore[import-untyped, unused-ignore]

from ckptstore import wire
from ckptstore.storage import loops
from ckptstore.storage.client import ABSENT, Failure, Kind, Page, Settings, Upload, Version
from ckptstore.wire import Buffer

FOREIGN: Final = "none"
"""The version that no object has where versions are contents."""

_WEB = ("http", "https")


class FilesystemClient:
    """What is below one first part of the paths: a host, or a bucket.

    Args:
        protocol: as fsspec knows it.
        bucket: the first part, perhaps with a user name, a password and a port.
        options: the arguments of the file system.
        settings: the timeout of a request, and whether the caller vouches for writes.
    """

    any_order = False
    foreign = FOREIGN

    def __init__(
        self, protocol: str, bucket: str, options: Mapping[str, Any], settings: Settings
    ) -> None:
        self._protocol = protocol
        self._root = f"{protocol}://{bucket}/"
        user, _, host = bucket.rpartition("@")
        self._secrets = _secrets(user)
        self.endpoint = f"{protocol}://{host if self._secrets else bucket}"
        self._settings = settings
        self._lock = threading.RLock()  # of a file system that one thread at a time may use
        self._conditions = threading.Lock()  # from a look until the write that depends on it
        self._files: dict[str, Any] = {}
        self._made: set[str] = set()
        try:
            kind = fsspec.get_filesystem_class(protocol)
            given = kind._get_kwargs_from_urls(self._root) | dict(options)
            self._fs = fsspec.filesystem(protocol, skip_instance_cache=True, **given)
        except ImportError as error:
            raise Failure(Kind.REFUSED, str(error), "missing-package") from error
        except (TypeError, ValueError) as error:
            raise type(error)(self._redact(str(error))) from None  # of the options
        except Exception as error:
            failure = self._failure(error)
            reason = failure.reason if failure.kind is Kind.REFUSED else "unavailable"
            raise Failure(Kind.REFUSED, str(failure), reason) from None
        self._async = bool(getattr(self._fs, "async_impl", False))
        if hasattr(getattr(self._fs, "dircache", None), "use_listings_cache"):
            self._fs.dircache.use_listings_cache = False

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """Read from 0; the version is the content."""
        try:
            data = self._range(self._path(key), 0, limit + 1)[: limit + 1]
        except Failure as failure:
            if failure.kind is not Kind.SHORT:
                raise
            data = b""  # it has no byte 0
        return data, version_of(data, limit)

    def get(self, key: str, start: int, buffer: Buffer) -> None:
        """Read a range."""
        view, path = memoryview(buffer).cast("B"), self._path(key)
        data = self._range(path, start, start + view.nbytes)
        if len(data) > view.nbytes:
            raise Failure(
                Kind.REFUSED, f"asked for {view.nbytes} bytes, got {len(data)}: no ranges there"
            )
        if len(data) < view.nbytes:
            size = self._size(path)
            if size is not None and size < start + view.nbytes:
                raise Failure(Kind.SHORT, f"the file ends at byte {size}")
            raise Failure(Kind.AGAIN, f"the answer ended after {len(data)} of {view.nbytes} bytes")
        view[:] = data

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """Write a whole file; look first, where there is a condition."""
        self._check_vouched()
        if condition is None:
            self._write(self._path(key), bytes(data))
            return
        with self._conditions:
            self._check(key, condition)
            self._write(self._path(key), bytes(data), create=condition == ABSENT)

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """Refuse: most file systems would read the file and write it again."""
        raise Failure(Kind.REFUSED, "copies are not supported", "not-supported")

    def delete(self, key: str, version: Version | None = None) -> None:
        """Remove a file; look first, where there is a condition."""
        self._check_vouched()
        with self._conditions:
            if version is not None:
                self._check(key, version)
            self._call("rm_file", self._path(key))

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """List a directory; one page holds it all. What cannot be listed is asked for by name."""
        directory, slash, name = prefix.rpartition("/")
        top = self._path(directory + slash)
        entries: Mapping[str, Any] = {}
        refusal: Failure | None = None
        try:
            entries = self._entries(top, directory + slash, deep=not delimiter)
        except _NotThereError:
            pass
        except Failure as failure:
            if not name or failure.kind is not Kind.REFUSED:
                raise
            refusal = failure
        sizes: dict[str, int] = {}
        changed: dict[str, float] = {}
        prefixes: list[str] = []
        for key, entry in entries.items():
            if not key.startswith(prefix):
                continue
            if entry.get("type") == "directory":
                if delimiter:
                    prefixes.append(key.rstrip("/") + "/")
                continue
            self._add(key, entry, sizes, changed)
        if name and prefix not in sizes:
            self._add(prefix, {}, sizes, changed)
        if refusal is not None and prefix not in sizes:
            raise refusal
        return Page(sizes, changed, prefixes)

    def begin(self, key: str, nbytes: int) -> Upload:
        """Open the file. Where the store shows it before its end, it is seen to grow."""
        self._check_vouched()
        path, upload = self._path(key), Upload(key, secrets.token_hex(16), nbytes)
        self._make_parent(path)
        with self._alone():
            self._files[upload.id] = self._fs.open(path, "wb")
        return upload

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """Write to the file. That cannot be done again: how much was written is not known."""
        file = self._file(upload)
        try:
            with self._alone():
                written = file.write(bytes(data))
        except Failure as failure:
            reason = failure.reason if failure.kind is Kind.REFUSED else "unavailable"
            raise Failure(Kind.REFUSED, str(failure), reason) from None
        if isinstance(written, int) and written < memoryview(data).nbytes:
            raise Failure(Kind.REFUSED, f"wrote {written} of {memoryview(data).nbytes} bytes")
        return str(number)

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """Close the file."""
        file = self._file(upload)
        del self._files[upload.id]
        with self._alone():
            file.close()

    def abort(self, upload: Upload) -> None:
        """Throw the file away, and remove what is there of it."""
        file = self._file(upload)
        del self._files[upload.id]
        with contextlib.suppress(Failure), self._alone():
            if hasattr(file, "discard"):
                file.discard()
                file.closed = True  # its end would flush it
            else:
                file.close()
        self._call("rm_file", self._path(upload.key))

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Return none: a file that was begun is a file."""
        return ()

    def _check_vouched(self) -> None:
        if not self._settings.assume_atomic:
            raise Failure(
                Kind.REFUSED,
                f"{self._protocol}:// is not known to create a file only where none is, so a "
                "commit there would not be atomic, and nothing is written; save to a local disk or "
                "to s3://, gs:// or abfs://, or, where only one process ever writes, pass "
                'storage_options={"ckptstore": {"assume_atomic": True}}',
                "not-atomic",
            )

    def _check(self, key: str, condition: Version) -> None:
        """Compare with what is there now."""
        if condition == ABSENT:
            with contextlib.suppress(_NotThereError):
                self._info(self._path(key))
                raise Failure(Kind.CONDITION, f"{key} is there")
            return
        nbytes = int(condition.partition("-")[0]) if condition != FOREIGN else 0
        if self.read(key, nbytes)[1] != condition:
            raise Failure(Kind.CONDITION, f"{key} holds something else")

    def _write(self, path: str, data: bytes, *, create: bool = False) -> None:
        self._make_parent(path)
        if create:  # some stores keep this promise
            try:
                self._call("pipe_file", path, data, mode="create")
                return
            except Failure as failure:
                if failure.kind is not Kind.REFUSED or failure.reason not in _UNSUPPORTED:
                    raise
        self._call("pipe_file", path, data)

    def _make_parent(self, path: str) -> None:
        parent = self._fs._parent(path)
        if self._protocol not in _WEB and parent not in self._made:
            with contextlib.suppress(Failure):  # where that matters, the write says so
                self._call("makedirs", parent, exist_ok=True)
                self._made.add(parent)

    def _file(self, upload: Upload) -> Any:
        if upload.id not in self._files:
            raise Failure(Kind.MISSING, f"no file is open for {upload.key}")
        return self._files[upload.id]

    def _path(self, key: str) -> str:
        """Return what the file system calls a key."""
        path: str = self._fs._strip_protocol(self._root + key)
        if self._protocol in _WEB:
            if "?" in key or "#" in key:
                raise Failure(Kind.REFUSED, "a URL of a directory has no ? and no #", "bad-url")
            return path
        return path.rstrip("/") or self._fs.root_marker

    def _range(self, path: str, start: int, end: int) -> bytes:
        """Return bytes that are there from `start`, up to `end`, which is greater."""
        data: bytes
        if self._protocol not in _WEB:
            data = self._call("cat_file", path, start=start, end=end)
            return data
        # Its `cat_file` would take the whole of a file into memory where a server ignores ranges.
        with self._alone():
            headers = dict(self._fs.kwargs.get("headers") or {}) | {"Accept-Encoding": "identity"}
            file = self._fs.open(
                path, "rb", block_size=1 << 20, size=end, cache_type="none", headers=headers
            )
            data = loops.run(
                self._fs.loop, file.async_fetch_range(start, end), self._settings.timeout
            )
        return data

    def _entries(self, top: str, prefix: str, *, deep: bool) -> dict[str, Mapping[str, Any]]:
        """Return what the file system says of what is in a directory, by key."""
        found: Iterable[Any]
        self._fs.invalidate_cache()
        try:
            if deep:
                found = self._call("find", top, detail=True).values()
            else:
                found = self._call("ls", top, detail=True)
        except Failure as failure:
            if failure.kind is Kind.REFUSED and failure.reason == "read-only":
                return {}  # it cannot list
            raise
        entries: dict[str, Mapping[str, Any]] = {}
        below = top.strip("/") + "/" if top.strip("/") else ""
        for entry in found:
            path = str(entry["name"]).lstrip("/")
            name = path[len(below) :] if path.startswith(below) else path.rpartition("/")[2]
            if self._protocol in _WEB:
                if "?" in name or "#" in name:
                    continue  # a link that sorts the listing
                name = urllib.parse.unquote(name)
            if name.strip("/") and (deep or "/" not in name.rstrip("/")):
                entries[prefix + name] = entry
        return entries

    def _add(
        self,
        key: str,
        entry: Mapping[str, Any],
        sizes: dict[str, int],
        changed: dict[str, float],
    ) -> None:
        """Note the size and the time of a file; ask for them where a listing has none."""
        if entry.get("size") is None:
            with contextlib.suppress(_NotThereError):
                entry = self._info(self._path(key))
                if entry.get("size") is None:
                    raise Failure(Kind.REFUSED, f"the server does not tell the size of {key}")
        if entry.get("size") is not None and entry.get("type") != "directory":
            sizes[key] = int(entry["size"])
            time = _time(entry)
            if time is not None:
                changed[key] = time

    def _size(self, path: str) -> int | None:
        size: int | None = self._info(path).get("size")
        return size

    def _info(self, path: str) -> Mapping[str, Any]:
        self._fs.invalidate_cache()
        found: Mapping[str, Any] = self._call("info", path)
        return found

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        with self._alone():
            if self._async:
                request = getattr(self._fs, f"_{method}")(*arguments, **named)
                return loops.run(self._fs.loop, request, self._settings.timeout)
            return getattr(self._fs, method)(*arguments, **named)

    @contextlib.contextmanager
    def _alone(self) -> Any:
        """Let in one thread at a time where the file system needs that; turn what it raises."""
        with contextlib.nullcontext() if self._async else self._lock:
            try:
                yield
            except Failure:
                raise
            except Exception as error:
                raise self._failure(error) from None

    def _failure(self, error: Exception) -> Failure:
        failure = failure_of(error)
        made = _NotThereError if failure.kind is Kind.MISSING else Failure
        return made(
            failure.kind, self._redact(str(failure)), failure.reason, answered=failure.answered
        )

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _NotThereError(Failure):
    """MISSING."""


def version_of(data: bytes, limit: int) -> Version:
    """Return the version of a content that was read as far as `limit` + 1 bytes."""
    return f"{len(data)}-{wire.digest(data).hex()}" if len(data) <= limit else FOREIGN


def _secrets(user: str) -> list[str]:
    """Return what of ``user:password`` must not be shown, the longest first."""
    _, colon, password = user.partition(":")
    if not colon or not password:
        return []
    return [user, *sorted({password, urllib.parse.unquote(password)}, key=len, reverse=True)]


_TIMES = "mtime", "modified", "last_modified", "LastModified", "Last-Modified", "updated", "created"


def _time(entry: Mapping[str, Any]) -> float | None:
    """Return when a file was changed, in seconds, as far as its file system says so."""
    for name in _TIMES:
        value = entry.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = email.utils.parsedate_to_datetime(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


_UNSUPPORTED = {"read-only", "storage"}
_ERRNOS = {errno.ENOSPC: "disk-full", errno.EDQUOT: "disk-full", errno.EROFS: "read-only"}
_STATUSES = {
    404: Kind.MISSING,
    410: Kind.MISSING,
    412: Kind.CONDITION,
    416: Kind.SHORT,
    408: Kind.AGAIN,
    429: Kind.AGAIN,
}
_REFUSALS = {401: "credentials", 403: "permission", 405: "read-only", 501: "read-only"}
_LOGIN = re.compile(r"Auth|Credential|Login")
_NO_LOGIN = re.compile(r"error_perm: 530")  # of ftplib


def failure_of(error: Exception) -> Failure:
    """Return what an exception of a file system means, with an HTTP status or without."""
    message = f"{type(error).__name__}: {error}"
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    if isinstance(status, int) and status >= 400:
        if status in _STATUSES:
            return Failure(_STATUSES[status], message)
        if status in _REFUSALS or status < 500:
            return Failure(Kind.REFUSED, message, _REFUSALS.get(status, "storage"))
        return Failure(Kind.AGAIN, message)
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__  # fsspec's HTTP says this whatever happened
        if isinstance(cause, Exception) and type(cause).__module__.startswith("aiohttp"):
            return failure_of(cause)
        return Failure(Kind.MISSING, message)
    if isinstance(error, FileExistsError):
        return Failure(Kind.CONDITION, message)
    if isinstance(error, PermissionError):
        return Failure(Kind.REFUSED, message, "permission")
    if isinstance(error, NotImplementedError):
        return Failure(Kind.REFUSED, message, "read-only")
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return Failure(Kind.REFUSED, message, "not-a-directory")
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return Failure(Kind.REFUSED, message, _ERRNOS[error.errno])
    if _LOGIN.search(type(error).__name__) or _NO_LOGIN.match(message):
        return Failure(Kind.REFUSED, message, "credentials")
    if isinstance(error, ftplib.error_perm):
        return Failure(Kind.REFUSED, message, "permission")
    if isinstance(error, TypeError | ValueError | LookupError | AttributeError | ImportError):
        return Failure(Kind.REFUSED, message)
    return Failure(Kind.AGAIN, message, answered=False)

"""The calls of a file system of fsspec, and its answers in one form for all kinds.

Calls of an asynchronous file system are waited for; others are called by one thread at a time.
"""

from __future__ import annotations

import contextlib
import email.utils
import threading
import urllib.parse
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar

import fsspec  # type: ignore[import-untyped, unused-ignore]

from ckptstore import signals
from ckptstore.errors import Reason
from ckptstore.storage.clients import sync
from ckptstore.storage.clients.base import Failure, Kind, raising
from ckptstore.storage.clients.fsspec_errors import failure_of

T = TypeVar("T")

_UNSUPPORTED = {Reason.READ_ONLY, Reason.STORAGE}
_TIMES = "mtime", "modified", "last_modified", "LastModified", "Last-Modified", "updated", "created"


class Filesystem:
    """The files below the first part of a path: a host, or a bucket.

    A key is the rest of the path. Every exception of a call becomes a `Failure`.

    Args:
        protocol: its name in fsspec.
        bucket: the first part, perhaps with a user name, a password and a port.
        options: the arguments of the file system.
        timeout: seconds for one call of an asynchronous file system.

    Attributes:
        endpoint: the protocol and the first part, without secrets.

    Raises:
        Failure: REFUSED if the file system cannot be made.
        TypeError, ValueError: the file system does not accept these options.
    """

    def __init__(
        self, protocol: str, bucket: str, options: Mapping[str, Any], timeout: float
    ) -> None:
        self._root = f"{protocol}://{bucket}/"
        user, _, host = bucket.rpartition("@")
        self._secrets = _secrets(user)
        self.endpoint = f"{protocol}://{host if self._secrets else bucket}"
        self._timeout = timeout
        self._lock = threading.RLock()  # for a file system that only one thread at a time may use
        self._made: set[str] = set()
        try:
            kind = fsspec.get_filesystem_class(protocol)
            arguments = kind._get_kwargs_from_urls(self._root) | dict(options)
            self._fs = fsspec.filesystem(protocol, skip_instance_cache=True, **arguments)
        except ImportError as error:
            raise Failure(Kind.REFUSED, str(error), Reason.MISSING_PACKAGE) from error
        except (TypeError, ValueError) as error:
            raise type(error)(self._redact(str(error))) from None  # of the options
        except Exception as error:
            signals.pass_on(error)
            failure = self._failure(error)
            reason = failure.reason if failure.kind is Kind.REFUSED else Reason.UNAVAILABLE
            raise Failure(Kind.REFUSED, str(failure), reason) from None
        self._async = bool(getattr(self._fs, "async_impl", False))
        if hasattr(getattr(self._fs, "dircache", None), "use_listings_cache"):
            self._fs.dircache.use_listings_cache = False

    def range(self, key: str, start: int, end: int) -> bytes:
        """Return the existing bytes from `start` up to `end`, which is greater."""
        data: bytes = self._call("cat_file", self._path(key), start=start, end=end)
        return data

    def info(self, key: str) -> Mapping[str, Any] | None:
        """Return the file system's entry for a file, or None if there is none."""
        self._fs.invalidate_cache()
        try:
            entry: Mapping[str, Any] = self._call("info", self._path(key))
        except Failure as failure:
            if failure.kind is not Kind.MISSING:
                raise
            return None
        return entry

    def entries(self, directory: str, *, deep: bool) -> dict[str, Mapping[str, Any]]:
        """Return the entries of a directory, by key; {} if there is no directory.

        Args:
            directory: a key with a slash at its end, or empty.
            deep: list all files below, and not only the direct entries.
        """
        listed: Iterable[Any]
        top = self._path(directory)
        self._fs.invalidate_cache()
        try:
            if deep:
                listed = self._call("find", top, detail=True).values()
            else:
                listed = self._call("ls", top, detail=True)
        except Failure as failure:
            if failure.kind is Kind.MISSING or failure.reason == Reason.READ_ONLY:
                return {}  # there is no directory, or it cannot be listed
            raise
        entries: dict[str, Mapping[str, Any]] = {}
        below = top.strip("/") + "/" if top.strip("/") else ""
        for entry in listed:
            path = str(entry["name"]).lstrip("/")
            name = path[len(below) :] if path.startswith(below) else path.rpartition("/")[2]
            name = self._unquoted(name)
            if name.strip("/") and (deep or "/" not in name.rstrip("/")):
                entries[directory + name] = entry
        return entries

    def write(self, key: str, data: bytes, *, create: bool) -> None:
        """Write a whole file; with `create`, only if none exists, as far as the store can tell."""
        path = self._path(key)
        self._make_parent(path)
        if create:  # some stores keep this promise
            try:
                self._call("pipe_file", path, data, mode="create")
                return
            except Failure as failure:
                if failure.kind is not Kind.REFUSED or failure.reason not in _UNSUPPORTED:
                    raise
        self._call("pipe_file", path, data)

    def open(self, key: str) -> Any:
        """Open a file for writing from its start. Use it inside `alone`."""
        path = self._path(key)
        self._make_parent(path)
        with self.alone():
            return self._fs.open(path, "wb")

    def remove(self, key: str) -> None:
        """Remove a file."""
        self._call("rm_file", self._path(key))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Admit one thread at a time if the file system needs that; raise only a `Failure`."""
        with contextlib.nullcontext() if self._async else self._lock, raising(self._failure):
            yield

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        with self.alone():
            if self._async:
                return self._wait(getattr(self._fs, f"_{method}")(*arguments, **named))
            return getattr(self._fs, method)(*arguments, **named)

    def _wait(self, request: Coroutine[Any, Any, T]) -> T:
        return sync.run(self._fs.loop, request, self._timeout, failure_of=self._failure)

    def _path(self, key: str) -> str:
        """Return the path of a key in the file system."""
        path: str = self._fs._strip_protocol(self._root + key)
        return path.rstrip("/") or self._fs.root_marker

    def _unquoted(self, name: str) -> str:
        """Return the file name for a name in a listing; "" if it is not a file."""
        return name

    def _make_parent(self, path: str) -> None:
        parent = self._fs._parent(path)
        if parent not in self._made:
            with contextlib.suppress(Failure):  # if that matters, the write will fail
                self._call("makedirs", parent, exist_ok=True)
                self._made.add(parent)

    def _failure(self, error: Exception) -> Failure:
        failure = failure_of(error)
        message = self._redact(str(failure))
        return Failure(failure.kind, message, failure.reason, answered=failure.answered)

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class WebFilesystem(Filesystem):
    """A web server: files by URL, and perhaps pages that list them."""

    def range(self, key: str, start: int, end: int) -> bytes:
        """Return bytes, however many the server sends; fsspec would read them all."""
        path = self._path(key)

        async def request() -> bytes:
            given = dict(self._fs.kwargs)
            headers = dict(given.pop("headers", None) or {}) | {
                "Accept-Encoding": "identity",
                "Range": f"bytes={start}-{end - 1}",
            }
            session = await self._fs.set_session()
            url = self._fs.encode_url(path)
            async with session.get(url, headers=headers, **given) as answer:
                if answer.status == 416:
                    return b""
                answer.raise_for_status()
                if start and answer.status != 206:
                    raise ValueError("the server ignores ranges")
                return await sync.beginning(answer.content, end - start)

        with self.alone():
            return self._wait(request())

    def _path(self, key: str) -> str:
        if "?" in key or "#" in key:
            raise Failure(
                Kind.REFUSED, "the URL of a directory must not contain ? or #", Reason.BAD_URL
            )
        path: str = self._fs._strip_protocol(self._root + key)
        return path

    def _unquoted(self, name: str) -> str:
        if "?" in name or "#" in name:
            return ""  # a link that sorts the listing
        return urllib.parse.unquote(name)

    def _make_parent(self, path: str) -> None:
        pass  # a server has no directories


def time_of(entry: Mapping[str, Any]) -> float | None:
    """Return the time of a file's last change, in seconds, if its file system tells it."""
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


def _secrets(user: str) -> list[str]:
    """Return the parts of ``user:password`` that must not be shown, the longest first."""
    _, colon, password = user.partition(":")
    if not colon or not password:
        return []
    return [user, *sorted({password, urllib.parse.unquote(password)}, key=len, reverse=True)]

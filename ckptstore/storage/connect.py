"""From a URL and fsspec's `storage_options` to a bucket: which client, made once a process."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fsspec.config import conf  # type: ignore[import-untyped, unused-ignore]
from fsspec.registry import (  # type: ignore[import-untyped, unused-ignore]
    known_implementations,
    registry,
)
from fsspec.utils import tokenize  # type: ignore[import-untyped, unused-ignore]

from ckptstore.errors import Reason, StorageError
from ckptstore.storage.bucket import BucketStorage
from ckptstore.storage.clients.base import Client, Failure, Settings
from ckptstore.storage.retry import Requests

_CLIENTS = {
    "s3": ("s3", "S3Client", "s3fs", "s3"),
    "s3a": ("s3", "S3Client", "s3fs", "s3"),
    "gs": ("gcs", "GCSClient", "gcsfs", "gcs"),
    "gcs": ("gcs", "GCSClient", "gcsfs", "gcs"),
    "abfs": ("azure", "AzureClient", "adlfs", "azure"),
    "abfss": ("azure", "AzureClient", "adlfs", "azure"),
    "az": ("azure", "AzureClient", "adlfs", "azure"),
    "memory": ("memory", "MemoryClient", "fsspec", ""),
}
"""Protocol: the module here, its class, the library that it needs, the extra that installs that.

All other protocols of fsspec have `generic.FilesystemClient`.
"""

_KEPT = 8
"""Clients that are kept for the next call: making one costs 100 ms and new connections."""

_PREFIX_MAX_NBYTES = 900
"""Stores take keys of 1,024 bytes, and the names of files come after the directory."""

_ENVIRONMENT = "AWS_", "AZURE_", "FSSPEC_", "GCSFS_", "GOOGLE_", "STORAGE_"
"""What clients read from the environment begins with these."""

_OWN = "ckptstore"
_SECRET = re.compile(r"key|secret|token|pass|credential|auth|sas|connection", re.IGNORECASE)
_SHORTEST_SECRET = 4
_USERINFO = re.compile(r"(?<=://).*@|\?.*", re.DOTALL)

_clients: dict[tuple[Any, ...], Client] = {}


def open(url: str, storage_options: Mapping[str, Any] | None) -> BucketStorage:
    """Return the storage of a directory that is not on a local disk.

    Raises:
        StorageError: reason ``bad-url``, ``bad-options``, ``no-such-store`` or
            ``missing-package``.
    """
    protocol, _, rest = url.partition("://")
    shown = _shown(url)
    if "::" in protocol:
        raise StorageError(
            f"{shown}: a chain of file systems cannot promise what a commit needs (caches drop the "
            "condition of a write); give the URL of the store itself",
            reason=Reason.NO_SUCH_STORE,
        )
    _check_known(protocol, shown)
    bucket, _, prefix = rest.strip("/").partition("/")
    slash_first = rest.startswith("/") and protocol in _CLIENTS and protocol != "memory"
    if not bucket or slash_first or "\0" in rest:
        raise StorageError(
            f"{shown}: no bucket there; a URL is {protocol}://BUCKET/DIRECTORY",
            reason=Reason.BAD_URL,
        )
    account_allowed = protocol in _CLIENTS and _CLIENTS[protocol][0] == "azure"
    if protocol in _CLIENTS and (":" in bucket or ("@" in bucket and not account_allowed)):
        raise StorageError(
            f"{protocol}://***: no place for a host or for credentials; give them in "
            "storage_options or in the environment",
            reason=Reason.BAD_URL,
        )
    if protocol not in _CLIENTS and (
        ("@" in prefix and ":" in bucket) or (protocol.startswith("http") and "?" in rest)
    ):
        raise StorageError(
            f"{shown}: a password with a slash, or a query, has no place in the URL of a "
            "directory; give them in storage_options",
            reason=Reason.BAD_URL,
        )
    if not {".", ".."}.isdisjoint(prefix.split("/")):
        raise StorageError(
            f"{shown}: has a part . or .., which some clients would take out of a key; "
            "leave them out",
            reason=Reason.BAD_URL,
        )
    if len(os.fsencode(prefix)) > _PREFIX_MAX_NBYTES:
        raise StorageError(
            f"{shown:.200}...: a directory of {len(os.fsencode(prefix))} bytes, at most "
            f"{_PREFIX_MAX_NBYTES}; take a shorter one",
            reason=Reason.BAD_URL,
        )
    settings, options = _settings(shown, storage_options)
    root = f"{protocol}://{bucket}/"
    connector = Connector(protocol, bucket, options, settings)
    if prefix:
        prefix += "/"
    return BucketStorage(Requests(_shown(root), connector, settings), prefix)


@dataclass(frozen=True, slots=True, repr=False)
class Connector:
    """How to reach one bucket; the options may hold secrets."""

    protocol: str
    bucket: str
    options: Mapping[str, Any]
    settings: Settings

    def __call__(self) -> Client:
        """Return this process's client of the bucket."""
        key = self._key()
        client = _clients.get(key)
        if client is None:
            for old in list(_clients)[: max(0, len(_clients) - _KEPT + 1)]:
                _clients.pop(old, None)
            client = _clients.setdefault(key, self._make())
        return client

    def forget(self) -> None:
        """Make the next call return a new client, with credentials read anew."""
        _clients.pop(self._key(), None)

    def redact(self, text: str) -> str:
        """Take the values of secret options out of a text."""
        for secret in sorted(_secrets(self.options), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _key(self) -> tuple[Any, ...]:
        environment = {k: v for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)}
        around = environment, conf.get(self.protocol)
        options = tokenize(self.protocol, self.bucket, dict(self.options), self.settings, around)
        return os.getpid(), options

    def _make(self) -> Client:
        where = _shown(f"{self.protocol}://{self.bucket}")
        generic = "fsspec", "FilesystemClient", "fsspec", ""
        module, name, library, extra = _CLIENTS.get(self.protocol, generic)
        try:
            made = getattr(importlib.import_module(f"ckptstore.storage.clients.{module}"), name)
            if self.protocol not in _CLIENTS:
                made = functools.partial(made, self.protocol)
        except ImportError as error:
            raise StorageError(
                f"{where}: needs the package {library}, which cannot be imported ({error}); "
                f'pip install "ckptstore[{extra}]"',
                reason=Reason.MISSING_PACKAGE,
            ) from error
        try:
            client: Client = made(self.bucket, self.options, self.settings)
            return client
        except Failure as failure:
            raise StorageError(
                f"{where}: {self.redact(str(failure))}", reason=failure.reason
            ) from None
        except Exception as error:
            raise StorageError(
                f"{where}: {library} does not take these storage_options "
                f"({', '.join(self.options) or 'none'}): "
                f"{type(error).__name__}: {self.redact(str(error))}",
                reason=Reason.BAD_OPTIONS,
            ) from None


def _check_known(protocol: str, shown: str) -> None:
    """Refuse a protocol that neither this package nor fsspec knows."""
    if protocol == "local":
        raise StorageError(
            f"{shown}: for a local disk give the path, or a file:// URL",
            reason=Reason.NO_SUCH_STORE,
        )
    known = {*_CLIENTS, *known_implementations, *registry}
    if protocol not in known:
        close = difflib.get_close_matches(protocol, sorted(known), n=3, cutoff=0.5)
        meant = " or ".join(f"{name}://" for name in close)
        raise StorageError(
            f"{shown}: no store is known as {protocol!r}"
            + (f"; did you mean {meant}?" if meant else "; check the part before ://"),
            reason=Reason.NO_SUCH_STORE,
        )


def _shown(url: str) -> str:
    """Return a URL without what may be secret: who logs in, and a query.

    Stores that take neither there may have ``@`` and ``?`` in their keys.
    """
    if url.partition("://")[0] in _CLIENTS:
        return url
    return _USERINFO.sub("***", url).replace("://***", "://***@")


def _settings(
    where: str, storage_options: Mapping[str, Any] | None
) -> tuple[Settings, dict[str, Any]]:
    """Split options into ours, under the key ``ckptstore``, and those of the client library."""
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise StorageError(
            f"{where}: storage_options is a {type(storage_options).__name__}, expected a dict",
            reason=Reason.BAD_OPTIONS,
        )
    options = dict(storage_options or {})
    if not all(isinstance(name, str) for name in options):
        raise StorageError(
            f"{where}: storage_options has a name that is no str; they are those of fsspec",
            reason=Reason.BAD_OPTIONS,
        )
    given = options.pop(_OWN, {})
    known = [field.name for field in fields(Settings)]
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        found = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise StorageError(
            f"{where}: storage_options[{_OWN!r}] has {found:.200}; expected a dict with some of "
            + ", ".join(known),
            reason=Reason.BAD_OPTIONS,
        )
    for name, value in given.items():
        if name in ("timeout", "deadline"):
            fits = type(value) in (int, float) and value > 0
            expected = "seconds, more than 0"
        else:
            fits, expected = type(value) is bool, "True or False"
        if not fits:
            found = value if type(value) in (int, float, bool) else f"a {type(value).__name__}"
            raise StorageError(
                f"{where}: storage_options[{_OWN!r}][{name!r}] is {found}, expected {expected}",
                reason=Reason.BAD_OPTIONS,
            )
    return Settings(**given), options


def _secrets(options: Any, secret: bool = False) -> set[str]:
    """Return the texts among options that may be secrets, by the names of the options."""
    if isinstance(options, Mapping):
        found = [_secrets(v, secret or bool(_SECRET.search(str(k)))) for k, v in options.items()]
        return set().union(*found)
    if isinstance(options, list | tuple):
        return set().union(*(_secrets(item, secret) for item in options))
    kept = secret and isinstance(options, str) and len(options) >= _SHORTEST_SECRET
    return {options} if kept else set()

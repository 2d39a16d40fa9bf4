"""From a URL and `storage_options` to a bucket, with one client for each process."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsspec.registry import (  # type: ignore[import-untyped, unused-ignore]
    known_implementations,
    registry,
)

from ckptstore import signals
from ckptstore.errors import Reason, StorageError
from ckptstore.storage.address import address_of, redacted
from ckptstore.storage.bucket import BucketStorage
from ckptstore.storage.clients.base import Client, Failure, Settings
from ckptstore.storage.clients.stores import OTHER, STORES
from ckptstore.storage.options import fingerprint, split
from ckptstore.storage.redaction import redact
from ckptstore.storage.retry import REMEDIES, Requests

_KEPT = 8
"""Clients that are kept for the next call: making one costs 100 ms and new connections."""

_clients: dict[tuple[int, str], Client] = {}
"""Keyed by the process and by everything that a client is made from."""


def bucket(url: str, storage_options: Mapping[str, Any] | None) -> BucketStorage:
    """Return the storage of a directory that is not on a local disk.

    Args:
        url: the URL of the directory.
        storage_options: options of the store, as fsspec takes them.

    Raises:
        StorageError: reason ``bad-url``, ``bad-options``, ``no-such-store`` or
            ``missing-package``.
    """
    shown = redacted(url)
    _check_known(url.partition("://")[0], shown)
    address = address_of(url)
    settings, options = split(shown, storage_options)
    connector = Connector(address.protocol, address.bucket, options, settings)
    requests = Requests(redacted(address.root), connector, settings)
    return BucketStorage(requests, address.prefix)


@dataclass(frozen=True, slots=True, repr=False)
class Connector:
    """The information that is needed to reach one bucket; the options may hold secrets."""

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
        """Make the next call return a new client, with freshly read credentials."""
        _clients.pop(self._key(), None)

    def redact(self, text: str) -> str:
        """Put stars in place of the secrets in a text."""
        login = "" if self.protocol in STORES else self.bucket.rpartition("@")[0]
        secrets = {"password": [login, login.partition(":")[2]]}
        return redact(text, [self.options, secrets], self.protocol)

    def _key(self) -> tuple[int, str]:
        made_from = fingerprint(self.protocol, self.bucket, self.options, self.settings)
        return os.getpid(), made_from

    def _make(self) -> Client:
        where = redacted(f"{self.protocol}://{self.bucket}")
        store = STORES.get(self.protocol, OTHER)
        try:
            make = store.load()
        except ImportError as error:
            raise StorageError(
                f"{where}: needs the package {store.library}, which cannot be imported ({error}); "
                f'pip install "ckptstore[{store.extra}]"',
                reason=Reason.MISSING_PACKAGE,
            ) from error
        if store is OTHER:
            make = functools.partial(make, self.protocol)
        try:
            return make(self.bucket, self.options, self.settings)
        except Failure as failure:
            message, reason, remedy = str(failure), failure.reason, failure.remedy
        except Exception as error:
            signals.pass_on(error)
            message = (
                f"{store.library} does not take these storage_options "
                f"({', '.join(self.options) or 'none'}): {type(error).__name__}: {error}"
            )
            reason, remedy = Reason.BAD_OPTIONS, ""
        # Out of the except block: the exception of the library may hold secrets.
        said = "; ".join(filter(None, [self.redact(message), remedy or REMEDIES.get(reason)]))
        raise StorageError(f"{where}: {said}", reason=reason)


def _check_known(protocol: str, shown: str) -> None:
    """Raise for a protocol that neither this package nor fsspec knows."""
    problem = ""
    known = {*STORES, *known_implementations, *registry}
    if protocol not in known:
        close = difflib.get_close_matches(protocol, sorted(known), n=3, cutoff=0.5)
        meant = " or ".join(f"{name}://" for name in close)
        hint = f"did you mean {meant}?" if meant else "check the part before ://"
        problem = f"no store is known as {protocol!r}; {hint}"
    if problem:
        raise StorageError(f"{shown}: {problem}", reason=Reason.NO_SUCH_STORE)

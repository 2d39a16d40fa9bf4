"""The address of a directory in a store: its URL taken apart, and shown without secrets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ckptstore.errors import Reason, StorageError
from ckptstore.storage.clients.stores import STORES

_PREFIX_MAX_NBYTES = 900
"""Stores accept keys of 1,024 bytes, and the names of files come after the directory."""


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A URL of a store in its parts; `bucket` may hold a password.

    Attributes:
        protocol: the part before ``://``.
        bucket: the part after it: a bucket, or a host.
        prefix: the prefix of the keys in the directory: empty, or with a slash at its end.
    """

    protocol: str
    bucket: str
    prefix: str

    @property
    def root(self) -> str:
        """The URL of the bucket, with a slash at its end."""
        return f"{self.protocol}://{self.bucket}/"


def address_of(url: str) -> Address:
    """Split the URL of a directory in a store into its parts.

    Raises:
        StorageError: reason ``bad-url``.
    """
    protocol, _, rest = url.partition("://")
    bucket, _, prefix = rest.strip("/").partition("/")
    shown, store, nbytes = redacted(url), STORES.get(protocol), len(os.fsencode(prefix))
    slash_first = rest.startswith("/") and store is not None and protocol != "memory"
    problem = ""
    if not bucket or slash_first or "\0" in rest:
        problem = f"the URL names no bucket; write {protocol}://BUCKET/DIRECTORY"
    elif store is not None and (":" in bucket or ("@" in bucket and not store.account_in_url)):
        shown = f"{protocol}://***"
        problem = (
            "the URL must not contain a host or credentials; pass them in storage_options or in "
            "the environment"
        )
    elif store is None and (
        ("@" in prefix and ":" in bucket) or (protocol.startswith("http") and "?" in rest)
    ):
        problem = (
            "the URL of a directory must not contain a query or a password with a slash in it; "
            "pass them in storage_options"
        )
    elif not {".", ".."}.isdisjoint(prefix.split("/")):
        problem = "the URL has a part . or .., which some clients would resolve; leave it out"
    elif nbytes > _PREFIX_MAX_NBYTES:
        shown = f"{shown:.200}..."
        problem = (
            f"the directory's name has {nbytes} bytes, expected at most {_PREFIX_MAX_NBYTES}; "
            "choose a shorter one"
        )
    if problem:
        raise StorageError(f"{shown}: {problem}", reason=Reason.BAD_URL)
    return Address(protocol, bucket, prefix + "/" if prefix else "")


def redacted(url: str) -> str:
    """Return a URL with stars in place of its user, password and query, which may be secret.

    Stores whose URLs have none of these may have ``@`` and ``?`` in their keys.
    """
    protocol, _, rest = url.partition("://")
    if protocol in STORES:
        return url
    _, at, place = rest.rpartition("@")
    place, question, _ = place.partition("?")
    return f"{protocol}://{'***@' if at else ''}{place}{'***' if question else ''}"

"""Paths and URLs: made absolute, taken apart, and shown without secrets."""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass

from ckptstore.errors import Reason, StorageError
from ckptstore.storage.clients.stores import STORES

_USER = re.compile(r"(?<=:/)[^/]*@")
_LIKE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")

_PREFIX_MAX_NBYTES = 900
"""Stores accept keys of 1,024 bytes, and the names of files come after the directory."""


def absolute(url: str | os.PathLike[str]) -> str:
    """Return an absolute path or URL without a slash at its end.

    Raises:
        StorageError: reason ``bad-url``.
    """
    text = text_of(url)
    if not is_remote(text):
        return local_path(text)
    return text.rstrip("/") if text.partition("://")[2].strip("/") else text


def text_of(url: object) -> str:
    """Return a path or URL as text.

    Raises:
        StorageError: reason ``bad-url`` if it is neither, or empty.
    """
    text = os.fspath(url) if isinstance(url, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise StorageError(
            f"{url!r:.200} is neither a path nor a URL; pass a str or an os.PathLike",
            reason=Reason.BAD_URL,
        )
    return text


def is_remote(text: str) -> bool:
    """Return whether a text is the URL of a store other than a disk of this machine."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and "/" not in scheme and scheme != "file"


def local_path(url: str | os.PathLike[str]) -> str:
    """Return the absolute local path of a path or ``file://`` URL.

    Raises:
        StorageError: reason ``bad-url``.
    """
    path = text_of(url)
    scheme, separator, rest = path.partition("://")
    if scheme == "file" and separator:
        host, slash, rest = rest.partition("/")
        if host not in ("", "localhost"):
            raise StorageError(
                f"{path}: a file:// URL has no host, found {host!r}; write file:///...",
                reason=Reason.BAD_URL,
            )
        path = os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(slash + rest)))
    elif _LIKE_URL.match(path):
        shown = _USER.sub("***@", path)
        if separator:
            problem = "a URL, expected a path on this machine or a file:// URL"
        else:
            problem = (
                "a URL that lost a slash (pathlib does that); pass it as a str, or, if it is a "
                f"path, as ./{shown}"
            )
        raise StorageError(f"{shown}: {problem}", reason=Reason.BAD_URL)
    home = os.path.expanduser(path)
    if not path or "\0" in path or (path.startswith("~") and home == path):
        raise StorageError(f"{url!r:.200} is not a path; check the name", reason=Reason.BAD_URL)
    try:
        return os.path.abspath(home)
    except FileNotFoundError:
        raise StorageError(
            f"{path}: the current directory was deleted; pass an absolute path",
            reason=Reason.BAD_URL,
        ) from None


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


def address(url: str) -> Address:
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

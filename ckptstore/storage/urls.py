"""Paths and URLs as text: local or remote, and absolute."""

from __future__ import annotations

import os
import re
import urllib.parse

from ckptstore.errors import Reason, StorageError
from ckptstore.storage import chains

_USER = re.compile(r"(?<=:/)[^/]*@")
_LIKE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


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
        StorageError: reason ``bad-url`` if it is neither, or empty; reason ``no-such-store`` for a
            chain of fsspec.
    """
    text = os.fspath(url) if isinstance(url, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        plain = isinstance(url, str | bytes | int | float | None)
        more = "" if plain else "; the place comes first, as in save(place, tree) and load(place)"
        raise StorageError(
            f"{url!r:.200} is neither a path nor a URL; pass a str or an os.PathLike{more}",
            reason=Reason.BAD_URL,
        )
    chains.refuse(text)
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

"""Where the bytes of one checkpoint live: `open` picks the storage that a path or URL means."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from ckptstore.errors import Reason, StorageError
from ckptstore.storage import local
from ckptstore.storage.base import Storage

_USER = re.compile(r"(?<=:/)[^/]*@")
_LIKE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


__all__ = ["Storage", "absolute", "open", "parse"]


def open(url: Any, storage_options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage of a checkpoint directory.

    Args:
        url: a path (relative, with ``~``, or os.PathLike), or a URL.
        storage_options: options of the store, as fsspec takes them; a local disk has none.

    Raises:
        StorageError: reason ``bad-url``, ``bad-options``, ``no-such-store`` or
            ``missing-package``.
    """
    text = _text(url)
    if _remote(text):
        from ckptstore.storage import connect

        return connect.open(text, storage_options)
    path = parse(text)
    if storage_options:
        named = isinstance(storage_options, Mapping)
        found = ", ".join(map(str, storage_options)) if named else type(storage_options).__name__
        raise StorageError(
            f"{path}: a local disk takes no storage_options, found {found:.200}; leave them out",
            reason=Reason.BAD_OPTIONS,
        )
    return local.LocalStorage(path)


def absolute(url: Any) -> str:
    """Return a path or URL that means the same in any working directory, with no slash at its end.

    Raises:
        StorageError: reason ``bad-url``.
    """
    text = _text(url)
    if not _remote(text):
        return parse(text)
    return text.rstrip("/") if text.partition("://")[2].strip("/") else text


def _remote(text: str) -> bool:
    scheme, separator, _ = text.partition("://")
    return bool(separator) and "/" not in scheme and scheme != "file"


def _text(url: Any) -> str:
    try:
        text = os.fspath(url)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text:
        raise StorageError(f"{url!r:.200} is no path and no URL", reason=Reason.BAD_URL)
    return text


def parse(url: Any) -> str:
    """Return the absolute path on this machine that a path or ``file://`` URL means.

    Raises:
        StorageError: reason ``bad-url``.
    """
    path = _text(url)
    scheme, separator, rest = path.partition("://")
    if scheme == "file" and separator:
        host, slash, rest = rest.partition("/")
        if host not in ("", "localhost"):
            raise StorageError(
                f"{path}: file:// has no host, found {host!r}", reason=Reason.BAD_URL
            )
        path = os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(slash + rest)))
    elif _LIKE_URL.match(path):
        shown = _USER.sub("***@", path)
        if separator:
            text = "a URL, where only a path on this machine or a file:// URL will do"
        else:
            text = (
                "a URL that lost a slash (pathlib does that); give it as a str, or, if it is a "
                f"path, as ./{shown}"
            )
        raise StorageError(f"{shown}: {text}", reason=Reason.BAD_URL)
    home = os.path.expanduser(path)
    if not path or "\0" in path or (path.startswith("~") and home == path):
        raise StorageError(f"{url!r:.200} is no path: check the name", reason=Reason.BAD_URL)
    try:
        return os.path.abspath(home)
    except FileNotFoundError:
        raise StorageError(
            f"{path}: the current directory was deleted; give an absolute path",
            reason=Reason.BAD_URL,
        ) from None

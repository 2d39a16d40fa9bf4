"""fsspec's spellings of a place inside or behind another one, which are refused by name."""

from __future__ import annotations

import re
import urllib.parse

from ckptstore.errors import Reason, StorageError

_CACHES = {"blockcache", "cached", "filecache", "simplecache"}
_LOCAL = {"asynclocal", "local"}
_UNPACK = {
    "zip": "python -m zipfile -e {} DIRECTORY",
    "tar": "python -m tarfile -e {} DIRECTORY",
    "libarchive": "bsdtar -xf {} -C DIRECTORY",
}
_VIEWS = {"async_wrapper", "asyncwrapper", "dir", "generic", "reference"}
_KNOWN = _CACHES | _LOCAL | set(_UNPACK) | _VIEWS | {"file"}

_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)(::|://)(.*)", re.DOTALL)


def refuse(text: str) -> None:
    """Raise StorageError, reason ``no-such-store``, for a chain, an archive or a view.

    Args:
        text: a path or a URL. A path may hold ``::``, unless it begins like a chain.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        return
    protocol, separator, rest = match.groups()
    chained = "::" in text.partition("://")[0] if "://" in text else separator == "::"
    if protocol not in _KNOWN and not (chained and "://" in text):
        return
    if protocol == "file" and separator == "://":
        return
    inner, _, behind = rest.rpartition("::") if separator == "://" else ("", "", rest)
    behind = behind.rpartition("::")[2]
    problem = _problem(protocol, inner, behind, chained="::" in text)
    secret = "@" in text or "?" in text
    shown = f"{protocol}{separator}***" if secret else text
    if separator == "::" and "://" not in text:
        problem += f"; if it is a path, write ./{text}"
    raise StorageError(
        f"{shown}: {problem.replace(behind, '***') if secret and behind else problem}",
        reason=Reason.NO_SUCH_STORE,
    )


def _problem(protocol: str, inner: str, behind: str, *, chained: bool) -> str:
    place = _place(behind, inner) if chained else ""
    if protocol in _LOCAL and not chained:
        return f"for a local disk, pass the path, or a file:// URL: {_place(behind, '')}"
    if protocol in _UNPACK:
        archive = _place(behind, "") if chained else "ARCHIVE"
        below = f"DIRECTORY/{inner}".rstrip("/")
        return (
            f"an archive holds no checkpoint that can be saved or loaded in place; unpack it "
            f"({_UNPACK[protocol].format(archive)}) and pass {below}"
        )
    if protocol in _VIEWS:
        return (
            "a view into another file system cannot commit safely; pass the URL of the place itself"
            + (f": {place}" if place else "")
        )
    return (
        "a chain of file systems cannot commit safely (caches drop the condition of a write); pass "
        f"the URL of the store itself: {place}"
    )


def _place(behind: str, inner: str) -> str:
    """Return the place that a chain leads to: a path, or the URL of a store."""
    protocol, separator, rest = behind.partition("://")
    if separator and protocol in (_LOCAL | {"file"}):
        behind = urllib.parse.unquote(rest) if protocol == "file" else rest
    return f"{behind.rstrip('/')}/{inner}" if inner else behind

"""Texts without secrets: those of options, of the environment, of URLs, and of echoed requests."""

from __future__ import annotations

import html
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from fsspec.config import conf  # type: ignore[import-untyped, unused-ignore]

from ckptstore.storage.options import ENVIRONMENT

_STARS = "***"
_SHORTEST = 4
_SECRET = re.compile(r"key|secret|token|pass|credential|auth|sas|connection|cookie", re.IGNORECASE)
_EVERYWHERE = re.compile(r"secret|token|passw", re.IGNORECASE)

_USERINFO = re.compile(r"(?<=://)[^/\s@'\"]*:[^/\s'\"]*@")
_HEADER = re.compile(
    r"((?:proxy-)?authorization|(?:set-)?cookie|x-amz-security-token|x-goog-[a-z-]*token)"
    r"([\"']?\s*[:=]\s*[\"']?)[^\"'\r\n<>]+",
    re.IGNORECASE,
)
_PARAMETER = re.compile(
    r"\b(sig|(?:x-amz-|x-goog-)?(?:signature|credential|security-token)|(?:[a-z]+_)?token"
    r"|client_secret|passw(?:or)?d|pwd|accountkey|sharedaccesssignature)(=|%3D)[^\s\"'&<>,;)]+",
    re.IGNORECASE,
)


def redact(text: str, options: Any, protocol: str) -> str:
    """Put stars in place of the secrets in a text of a store or of its library.

    Args:
        text: the text.
        options: the options of the store, or a list of such options.
        protocol: its protocol, for the options in the configuration of fsspec.
    """
    given = {*_of_options(options), *_of_options(conf.get(protocol)), *_of_environment()}
    secrets = {form for secret in given for form in _forms(secret)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _STARS)
    text = _USERINFO.sub(f"{_STARS}@", text)
    text = _HEADER.sub(rf"\1\2{_STARS}", text)
    return _PARAMETER.sub(rf"\1\2{_STARS}", text)


def _of_options(options: Any, secret: bool = False) -> Iterator[str]:
    """Yield the texts among options that may be secrets, by their names or their form."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield from _of_options(value, secret or bool(_SECRET.search(str(name))))
    elif isinstance(options, list | tuple):
        for item in options:
            yield from _of_options(item, secret)
    elif isinstance(options, str):
        if secret:
            yield from _of_text(options)
        yield from _of_url(options)


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _EVERYWHERE.search(name) or (name.startswith(ENVIRONMENT) and _SECRET.search(name)):
            yield from _of_text(value)
        if name.startswith(ENVIRONMENT):
            yield from _of_url(value)


def _of_text(text: str) -> Iterator[str]:
    """Yield a secret, and the secret values in it if it is a connection string or a query."""
    yield text
    for part in re.split("[;&]", text.lstrip("?")):
        name, equals, value = part.partition("=")
        if equals and (_SECRET.search(name) or name.lower() == "sig"):
            yield value


def _of_url(text: str) -> Iterator[str]:
    """Yield the user, the password and the query of a URL, also of one without its scheme."""
    scheme, separator, rest = text.partition("://")
    rest = rest if separator else scheme
    place, _, query = rest.partition("?")
    user, at, _ = place.rpartition("@")
    _, colon, password = user.partition(":")
    if at and (colon or separator):
        yield user
        yield password
    if separator:
        yield query


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it stands in a text, in a URL and in XML."""
    if len(secret) >= _SHORTEST:
        plain = urllib.parse.unquote(secret)
        quoted = urllib.parse.quote(plain, safe="")
        yield from (secret, plain, quoted, html.escape(secret), quoted.replace("%20", "+"))

"""Warnings that are logged once, however often their cause comes back."""

from __future__ import annotations

import logging

_log = logging.getLogger("ckptstore")
_MOST = 10_000

_said: set[tuple[str, str]] = set()


def warn_once(place: str, cause: str, message: str, *arguments: object) -> None:
    """Log a warning, or at DEBUG if this process has logged this cause for this place before.

    Args:
        place: the directory, or the file system, that the warning is about.
        cause: tells two warnings about one place apart.
        message: the message, in the form of `logging`.
        *arguments: the arguments of the message.
    """
    known = (place, cause) in _said
    if not known and len(_said) < _MOST:
        _said.add((place, cause))
    _log.log(logging.DEBUG if known else logging.WARNING, message, *arguments)

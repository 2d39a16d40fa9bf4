"""The meaning of errors of fsspec's file systems, with any library below them."""

from __future__ import annotations

import errno
import ftplib
import re

from ckptstore.errors import Reason
from ckptstore.storage.clients.base import Failure, Kind

_ERRNOS = {
    errno.ENOSPC: Reason.DISK_FULL,
    errno.EDQUOT: Reason.DISK_FULL,
    errno.EROFS: Reason.READ_ONLY,
}
_STATUSES = {
    404: Kind.MISSING,
    410: Kind.MISSING,
    412: Kind.CONDITION,
    416: Kind.SHORT,
    408: Kind.AGAIN,
    429: Kind.AGAIN,
}
_REFUSALS = {
    401: Reason.CREDENTIALS,
    403: Reason.PERMISSION,
    405: Reason.READ_ONLY,
    501: Reason.READ_ONLY,
}
_LOGIN = re.compile(r"Auth|Credential|Login")
_NO_LOGIN = re.compile(r"error_perm: 530")  # of ftplib


def failure_of(error: Exception) -> Failure:
    """Return the failure for an exception of a file system, with or without an HTTP status."""
    message = f"{type(error).__name__}: {error}"
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    if isinstance(status, int) and status >= 400:
        if status in _STATUSES:
            return Failure(_STATUSES[status], message)
        if status in _REFUSALS or status < 500:
            return Failure(Kind.REFUSED, message, _REFUSALS.get(status, Reason.STORAGE))
        return Failure(Kind.AGAIN, message)
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__  # fsspec's HTTP raises this error for every problem
        if isinstance(cause, Exception) and type(cause).__module__.startswith("aiohttp"):
            return failure_of(cause)
        return Failure(Kind.MISSING, message)
    if isinstance(error, FileExistsError):
        return Failure(Kind.CONDITION, message)
    if isinstance(error, PermissionError):
        return Failure(Kind.REFUSED, message, Reason.PERMISSION)
    if isinstance(error, NotImplementedError):
        return Failure(Kind.REFUSED, message, Reason.READ_ONLY)
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return Failure(Kind.REFUSED, message, Reason.NOT_A_DIRECTORY)
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return Failure(Kind.REFUSED, message, _ERRNOS[error.errno])
    if _LOGIN.search(type(error).__name__) or _NO_LOGIN.match(message):
        return Failure(Kind.REFUSED, message, Reason.CREDENTIALS)
    if isinstance(error, ftplib.error_perm):
        return Failure(Kind.REFUSED, message, Reason.PERMISSION)
    if isinstance(error, TypeError | ValueError | LookupError | AttributeError | ImportError):
        return Failure(Kind.REFUSED, message)
    return Failure(Kind.AGAIN, message, answered=False)

"""The meaning of errors of Google Cloud Storage, gcsfs, google-auth and aiohttp."""

from __future__ import annotations

import json
import re

import aiohttp
from google.auth.exceptions import GoogleAuthError, TransportError

from ckptstore.errors import Reason
from ckptstore.storage.clients.base import Failure, Kind


def failure_of(error: BaseException) -> Failure:
    """Return the failure for an exception of gcsfs, google-auth or aiohttp."""
    failure = no_credentials(error)
    if failure is not None:
        return failure
    message = _shown(f"{type(error).__name__}: {error}")
    if isinstance(error, aiohttp.InvalidURL):
        return Failure(Kind.REFUSED, message, Reason.BAD_URL)
    return Failure(Kind.AGAIN, message, answered=False)


def no_credentials(error: BaseException) -> Failure | None:
    """Return the failure for an exception of google-auth, which gcsfs hides as a cause."""
    for cause in (error, error.__cause__, error.__context__):
        if not isinstance(cause, GoogleAuthError):
            continue
        message = _shown(f"{type(cause).__name__}: {cause.args[0] if cause.args else ''}")
        if isinstance(cause, TransportError) or getattr(cause, "retryable", False):
            return Failure(Kind.AGAIN, message, Reason.UNAVAILABLE, answered=False)
        return Failure(Kind.REFUSED, message, Reason.CREDENTIALS)
    if type(error).__module__.startswith("requests"):  # it shows the URL, which holds the token
        message = f"the token could not be checked: {type(error).__name__}"
        return Failure(Kind.AGAIN, message, Reason.UNAVAILABLE, answered=False)
    if type(error) is ValueError and re.search(r"\b[Tt]oken", str(error)):
        return Failure(Kind.REFUSED, _shown(str(error)), Reason.CREDENTIALS)
    return None


_SECRET = re.compile(r"(upload_id|access_token|Bearer)(=|%3D|\s)[^\s&\"'<>),]+", re.IGNORECASE)
_NO_BUCKET = re.compile(
    r"(The specified )?[Bb]ucket .*(does not|doesn't) exist|Invalid bucket name"
)
_DAMAGED = re.compile(r"(crc32c|md5|hash|checksum).*match", re.IGNORECASE)
_RETAINED = re.compile(r"retention|\bhold\b|object.?lock", re.IGNORECASE)
_REQUESTER_PAYS = re.compile(r"requester.?pays", re.IGNORECASE)
_ORG_POLICY = re.compile(r"\bconstraints?/|org.?policy", re.IGNORECASE)
_ASK = (
    "ask for permission to read, write, list and delete there (the role Storage Object User has "
    "all of them; without storage.objects.list, a missing object gives this error too)"
)
_PAY = (
    'the bucket wants to know who pays: pass storage_options={"requester_pays": "<your project>"}'
)
_KEY_IS_DEMANDED = (
    "a rule of the organization refuses this write; if it demands keys of your own, set a default "
    "key on the bucket (gcloud storage buckets update --default-encryption-key), which then takes "
    "every write, or save to a bucket that has one"
)
_REASONS = {401: Reason.CREDENTIALS, 403: Reason.PERMISSION}
_BUSY = {"rateLimitExceeded", "userRateLimitExceeded", "backendError"}


def answered(status: int, body: bytes, where: str) -> Failure:
    """Return the failure for an error of the store."""
    text, detail = body.decode(errors="replace"), ""
    try:
        error = json.loads(text)["error"]
        text = error["message"]
        detail = error["errors"][0]["reason"]
    except (ValueError, TypeError, LookupError):
        pass  # a download's error is a bare text
    said = f"({text.strip():.500})" if text.strip() else ""
    message = _shown(" ".join(filter(None, (str(status), detail, said))))
    if status == 412 and _ORG_POLICY.search(text):
        return Failure(Kind.REFUSED, message, Reason.PERMISSION, remedy=_KEY_IS_DEMANDED)
    if status in (400, 403) and _REQUESTER_PAYS.search(text):
        return Failure(Kind.REFUSED, message, Reason.PERMISSION, remedy=_PAY)
    if status == 403 and _RETAINED.search(f"{detail} {text}"):
        return Failure(Kind.REFUSED, message, Reason.RETAINED)
    if status in (304, 412):
        return Failure(Kind.CONDITION, message)
    if status == 416:
        return Failure(Kind.SHORT, message)
    if _NO_BUCKET.match(text) or (status == 404 and where == "bucket"):
        return Failure(Kind.REFUSED, message, Reason.NO_BUCKET)
    if where == "upload" and status in (404, 410, 499):
        return Failure(Kind.REFUSED, f"the store aborted the upload: {message}")
    if status in (404, 410, 499):
        return Failure(Kind.MISSING, message)
    if status in (405, 501):  # not implemented: never will be
        return Failure(Kind.REFUSED, message, Reason.NOT_SUPPORTED)
    if status in (408, 409, 429) or status >= 500 or detail in _BUSY:
        return Failure(Kind.AGAIN, message)
    if status == 400 and _DAMAGED.search(text):
        return Failure(Kind.AGAIN, message)
    reason = _REASONS.get(status, Reason.STORAGE)
    return Failure(Kind.REFUSED, message, reason, remedy=_ASK if status == 403 else "")


def _shown(message: str) -> str:
    return _SECRET.sub(r"\1\2***", message)

"""The meaning of errors of S3 and botocore."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ckptstore.errors import Reason
from ckptstore.storage.clients.base import Failure, Kind

_CONDITION = {"PreconditionFailed", "412"}
_MISSING = {"NoSuchKey", "NoSuchUpload", "404", "NotFound"}
_SHORT = {"InvalidRange", "416"}
_DAMAGED_ON_THE_WAY = {"BadDigest", "IncompleteBody", "InvalidDigest", "XAmzContentSHA256Mismatch"}
_BUSY = {
    "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown",
    "Throttling", "ThrottlingException", "TooManyRequests",
}  # fmt: skip
_REASONS = {
    "NoSuchBucket": Reason.NO_BUCKET,
    "InvalidBucketName": Reason.NO_BUCKET,
    "AccessDenied": Reason.PERMISSION,
    "AllAccessDisabled": Reason.PERMISSION,
    "403": Reason.PERMISSION,
    "Forbidden": Reason.PERMISSION,
    "ExpiredToken": Reason.CREDENTIALS,
    "ExpiredTokenException": Reason.CREDENTIALS,
    "TokenRefreshRequired": Reason.CREDENTIALS,
    "InvalidToken": Reason.CREDENTIALS,
    "InvalidAccessKeyId": Reason.CREDENTIALS,
    "SignatureDoesNotMatch": Reason.CREDENTIALS,
    "RequestTimeTooSkewed": Reason.CREDENTIALS,
    "PermanentRedirect": Reason.WRONG_REGION,
    "TemporaryRedirect": Reason.WRONG_REGION,
    "301": Reason.WRONG_REGION,
    "AuthorizationHeaderMalformed": Reason.WRONG_REGION,
    "IllegalLocationConstraintException": Reason.WRONG_REGION,
    "QuotaExceeded": Reason.DISK_FULL,
    "InsufficientStorage": Reason.DISK_FULL,
    "NotImplemented": Reason.NOT_SUPPORTED,
    "501": Reason.NOT_SUPPORTED,
    "507": Reason.DISK_FULL,
    "InvalidObjectState": Reason.STORAGE,
}
_NO_CREDENTIALS = re.compile(r"Credential|Profile|SSO|Token|Config")
_BAD_URL = re.compile(r"ParamValidation|InvalidRegion|UnknownEndpoint|EndpointResolver")
_BAD_OPTION = re.compile(r"UnknownSignature|UnknownService|InvalidS3|UnsupportedS3|InvalidRetry")


def failure_of(error: Exception) -> Failure:
    """Return the failure for an exception of botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping) and "Error" in response:
        return _answered(response)
    name, message = type(error).__name__, f"{type(error).__name__}: {error}"
    if type(error).__module__.startswith("botocore") and not isinstance(error, OSError):
        if _NO_CREDENTIALS.search(name):
            return Failure(Kind.REFUSED, message, Reason.CREDENTIALS)
        if _BAD_URL.search(name):
            return Failure(Kind.REFUSED, message, Reason.BAD_URL)
        if _BAD_OPTION.search(name):
            return Failure(Kind.REFUSED, message, Reason.BAD_OPTIONS)
    return Failure(Kind.AGAIN, message, answered=False)


def _answered(response: Mapping[str, Any]) -> Failure:
    """Return the failure for an error of the store; its code is more exact than its status."""
    code = str(response["Error"].get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = f"{status} {code} ({response['Error'].get('Message', '')})"
    if code in _CONDITION or status == 412:
        return Failure(Kind.CONDITION, message)
    if code in _SHORT or status == 416:
        return Failure(Kind.SHORT, message)
    if code in _MISSING:
        return Failure(Kind.MISSING, message)
    again = code in _BUSY | _DAMAGED_ON_THE_WAY or status in (409, 429) or status >= 500
    if again and code not in _REASONS:
        return Failure(Kind.AGAIN, message)
    if region := response["Error"].get("Region"):
        message += f"; the bucket is in {region}"
    reason = _REASONS.get(code) or {403: Reason.PERMISSION, 401: Reason.CREDENTIALS}.get(
        status, Reason.STORAGE
    )
    return Failure(Kind.REFUSED, message, reason)

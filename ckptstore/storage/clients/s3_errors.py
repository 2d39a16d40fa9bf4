"""The meaning of errors of S3 and botocore."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ckptstore.errors import Reason
from ckptstore.storage.clients.base import Failure, Kind
from ckptstore.storage.clients.s3_remedies import DAMAGED, Manner, remedy_of

_CONDITION = {"PreconditionFailed", "412"}
_MISSING = {"NoSuchKey", "NoSuchUpload", "404", "NotFound"}
_SHORT = {"InvalidRange", "416"}
_DAMAGED_ON_THE_WAY = DAMAGED | {"IncompleteBody"}
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
    "MethodNotAllowed": Reason.NOT_SUPPORTED,
    "EntityTooLarge": Reason.NOT_SUPPORTED,
    "405": Reason.NOT_SUPPORTED,
    "501": Reason.NOT_SUPPORTED,
    "SecondLevelDomainForbidden": Reason.BAD_OPTIONS,
    "AccessControlListNotSupported": Reason.BAD_OPTIONS,
    "FileImmutable": Reason.RETAINED,
    "ObjectLocked": Reason.RETAINED,
    "507": Reason.DISK_FULL,
    "InvalidObjectState": Reason.STORAGE,
}
_STATUSES = {
    401: Reason.CREDENTIALS,
    403: Reason.PERMISSION,
    405: Reason.NOT_SUPPORTED,
    501: Reason.NOT_SUPPORTED,
}
_RETAINED = re.compile(r"object.?lock|retention|immutable|legal hold|WORM", re.IGNORECASE)
_NO_CREDENTIALS = re.compile(r"Credential|Profile|SSO|Token|Config")
_BAD_URL = re.compile(r"ParamValidation|InvalidRegion|UnknownEndpoint|EndpointResolver")
_BAD_OPTION = re.compile(r"UnknownSignature|UnknownService|InvalidS3|UnsupportedS3|InvalidRetry")


def failure_of(error: Exception, manner: Manner = Manner()) -> Failure:  # noqa: B008
    """Return the failure for an exception of botocore, met by requests of this manner."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping) and "Error" in response:
        return _answered(response, str(getattr(error, "operation_name", "")), manner)
    name, message = type(error).__name__, f"{type(error).__name__}: {error}"
    if type(error).__module__.startswith("botocore") and not isinstance(error, OSError):
        if _NO_CREDENTIALS.search(name):
            return Failure(Kind.REFUSED, message, Reason.CREDENTIALS)
        if _BAD_URL.search(name):
            return Failure(Kind.REFUSED, message, Reason.BAD_URL)
        if _BAD_OPTION.search(name):
            return Failure(Kind.REFUSED, message, Reason.BAD_OPTIONS)
    return Failure(Kind.AGAIN, message, answered=False)


def _answered(response: Mapping[str, Any], operation: str, manner: Manner) -> Failure:
    """Return the failure for an error of the store; its code is more exact than its status."""
    code = str(response["Error"].get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = str(response["Error"].get("Message", ""))
    message = f"{status} {code} ({said})"
    if code in _CONDITION or status == 412:
        return Failure(Kind.CONDITION, message)
    if code in _SHORT or status == 416:
        return Failure(Kind.SHORT, message)
    if code in _MISSING:
        return Failure(Kind.MISSING, message)
    reason = _REASONS.get(code) or _STATUSES.get(status, Reason.STORAGE)
    if reason is Reason.PERMISSION and operation != "CreateMultipartUpload":
        reason = Reason.RETAINED if _RETAINED.search(said) else reason
    remedy = remedy_of(operation, code, reason, said, manner)
    again = code in _BUSY | _DAMAGED_ON_THE_WAY or status in (409, 429) or status >= 500
    if again and code not in _REASONS and status not in _STATUSES:
        return Failure(Kind.AGAIN, message, remedy=remedy if code in DAMAGED else "")
    if region := response["Error"].get("Region"):
        message += f"; the bucket is in {region}"
    return Failure(Kind.REFUSED, message, reason, remedy=remedy)

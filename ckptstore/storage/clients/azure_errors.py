"""The meaning of errors of Azure Blob Storage and its SDK."""

from __future__ import annotations

from azure.core.exceptions import ClientAuthenticationError

from ckptstore.errors import Reason
from ckptstore.storage.clients.base import Failure, Kind

_CODES = {
    "BlobAlreadyExists": Kind.CONDITION,
    "UnauthorizedBlobOverwrite": Kind.CONDITION,  # of a token that may only create
    "ConditionNotMet": Kind.CONDITION,
    "BlobNotFound": Kind.MISSING,
    "InvalidBlockList": Kind.MISSING,
    "InvalidRange": Kind.SHORT,
    "Md5Mismatch": Kind.AGAIN,
}
_STATUSES = {404: Kind.MISSING, 412: Kind.CONDITION, 416: Kind.SHORT, 408: Kind.AGAIN}
_REASONS = {
    "ContainerNotFound": Reason.NO_BUCKET,
    "ContainerBeingDeleted": Reason.NO_BUCKET,
    "ContainerDisabled": Reason.NO_BUCKET,
    "InvalidResourceName": Reason.BAD_URL,
    "AuthenticationFailed": Reason.CREDENTIALS,
    "InvalidAuthenticationInfo": Reason.CREDENTIALS,
    "NoAuthenticationInformation": Reason.CREDENTIALS,
    "LeaseIdMissing": Reason.PERMISSION,
    "BlobImmutableDueToPolicy": Reason.RETAINED,
    "BlobImmutableDueToLegalHold": Reason.RETAINED,
    "OperationNotAllowedOnBlobWithLegalHold": Reason.RETAINED,
    "PublicAccessNotPermitted": Reason.PERMISSION,
    "AccountIsDisabled": Reason.PERMISSION,
}
_ROLE = (
    "ask for permission to read, write, list and delete there (the role Storage Blob Data "
    "Contributor has all of them)"
)
_LOGIN = (
    "the account takes no account keys: log in as yourself, with storage_options="
    '{"anon": False} and without account_key and connection_string'
)
_NETWORK = (
    "the firewall of the account does not let this machine in: save from a network that it allows, "
    "or let it be added"
)
_REMEDIES = {
    "AuthorizationFailure": _NETWORK,
    "KeyBasedAuthenticationNotPermitted": _LOGIN,
    "LeaseIdMissing": "another program holds a lease of the blob: wait for its end, or break it",
    "AccountRequiresHttps": "the account demands TLS: write https in the connection_string",
}


def failure_of(error: Exception) -> Failure:
    """Return the failure for an exception of the SDK; its code is more exact than its status."""
    status = getattr(error, "status_code", None)
    code = getattr(error, "error_code", None)
    code = str(getattr(code, "value", code) or "")
    lines = str(error).splitlines() or [""]
    message = f"{status or type(error).__name__} {code} ({lines[0]})"
    if not isinstance(status, int):
        if isinstance(error, ClientAuthenticationError):
            return Failure(Kind.REFUSED, message, Reason.CREDENTIALS)
        return Failure(Kind.AGAIN, message, answered=False)
    if code in _REASONS:
        return Failure(Kind.REFUSED, message, _REASONS[code], remedy=_REMEDIES.get(code, ""))
    kind = _CODES.get(code) or _STATUSES.get(status)
    if kind is not None:
        return Failure(kind, message)
    if status == 429 or status >= 500:
        return Failure(Kind.AGAIN, message)
    reason = {401: Reason.CREDENTIALS, 403: Reason.PERMISSION}.get(status, Reason.STORAGE)
    remedy = _REMEDIES.get(code, _ROLE if status == 403 else "")
    return Failure(Kind.REFUSED, message, reason, remedy=remedy)

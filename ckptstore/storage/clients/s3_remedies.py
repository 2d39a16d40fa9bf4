"""The way on after an answer of S3, for the request and the options that it was given to."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckptstore.errors import Reason


@dataclass(frozen=True, slots=True)
class Manner:
    """The manner in which a client sends its requests.

    Attributes:
        sums: it sends checksums with each write, as boto does since 2025.
        tls: the endpoint is one of https.
        pays: the requester says that it pays.
        headers: the names in ``s3_additional_kwargs``.
    """

    sums: bool = False
    tls: bool = True
    pays: bool = True
    headers: frozenset[str] = frozenset()


WRITES = frozenset(
    {"PutObject", "UploadPart", "CreateMultipartUpload", "CompleteMultipartUpload", "CopyObject"}
)
DAMAGED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"})

NO_SUMS = 'storage_options={"config_kwargs": {"request_checksum_calculation": "when_required"}}'
_KEY = '{"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "<key>"}'
_NEEDED = {
    "GetObject": "s3:GetObject; without s3:ListBucket, a missing object gives this error too",
    "ListObjectsV2": "s3:ListBucket on the bucket, at least for this prefix",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads on the bucket",
} | dict.fromkeys(WRITES, "s3:PutObject")
_NEEDED["HeadObject"] = _NEEDED["GetObject"]
_ABOUT_KEYS = re.compile(r"\bkms:|\bKMS\b", re.IGNORECASE)
_ABOUT_SUMS = re.compile(
    r"checksum|aws-chunked|content-sha256|trailer|encoding|content-length|header", re.IGNORECASE
)
_SUM_IS_NEEDED = re.compile(r"Content-MD5 OR x-amz-checksum", re.IGNORECASE)


def remedy_of(operation: str, code: str, reason: Reason, message: str, manner: Manner) -> str:
    """Return the way on; "" if that of the reason is all that can be said.

    Args:
        operation: the name of the request in the API.
        code: the code of the error, or the status.
        reason: the reason of the StorageError that it becomes.
        message: the message of the store.
        manner: the manner of the client.
    """
    if code == "SecondLevelDomainForbidden":
        return (
            "this store takes the bucket in the host name: pass "
            'storage_options={"config_kwargs": {"s3": {"addressing_style": "virtual"}}}'
        )
    if code == "AccessControlListNotSupported":
        return "the bucket takes no ACL: leave ACL out of s3_additional_kwargs"
    if code == "EntityTooLarge":
        return "split the array into several smaller ones, or save to another store"
    if code.startswith("KMS.") or (reason is Reason.PERMISSION and _ABOUT_KEYS.search(message)):
        return (
            "ask for the permissions kms:GenerateDataKey and kms:Decrypt on the key, and check "
            "that it is enabled and in the bucket's region, or pass another key in storage_options="
            f'{{"s3_additional_kwargs": {_KEY}}}'
        )
    if operation in WRITES and _SUM_IS_NEEDED.search(message) and not manner.sums:
        return (
            "a bucket with Object Lock demands a checksum of each write: leave "
            "request_checksum_calculation out of config_kwargs, and of the environment "
            "(AWS_REQUEST_CHECKSUM_CALCULATION)"
        )
    if operation in WRITES and manner.sums and _may_be_sums(code, reason, message):
        also = "renew the credentials, or pass others in storage_options or the environment; "
        return (
            (also if reason is Reason.CREDENTIALS else "")
            + "if this store does not know the checksums that today's boto sends, pass "
            + NO_SUMS
        )
    return _permission(operation, manner) if reason is Reason.PERMISSION else ""


def _may_be_sums(code: str, reason: Reason, message: str) -> bool:
    """Return whether a store that does not know checksums may answer a write so."""
    if code in DAMAGED | {"SignatureDoesNotMatch", "MissingContentLength", "411"}:
        return True
    bare = code in ("", "400", "501", "InvalidArgument", "InvalidRequest", "NotImplemented")
    fits = reason in (Reason.STORAGE, Reason.NOT_SUPPORTED)
    return fits and (bare or _ABOUT_SUMS.search(message) is not None)


def _permission(operation: str, manner: Manner) -> str:
    said = "ask for permission to read, write, list and delete there"
    if needed := _NEEDED.get(operation):
        said += f" (this request needs {needed})"
    more = []
    if operation in WRITES - {"UploadPart", "CompleteMultipartUpload"}:
        if "ServerSideEncryption" not in manner.headers:
            more.append(f'encryption with a key: {{"s3_additional_kwargs": {_KEY}}}')
        if "ACL" not in manner.headers:
            more.append(
                "an ACL for the bucket's owner: "
                '{"s3_additional_kwargs": {"ACL": "bucket-owner-full-control"}}'
            )
    if not manner.pays:
        more.append('that you pay for requests: {"requester_pays": True}')
    if not manner.tls:
        more.append("TLS: an endpoint_url with https://")
    if more:
        said += "; the bucket's policy may demand more, to be passed in storage_options: "
        said += ", ".join(more)
    return said

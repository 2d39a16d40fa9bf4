"""What the policy of a bucket, or a store with less than S3, refuses: as its makers document it.

    with FaultProxy(moto) as proxy:
        enforce(proxy, NEEDS_KMS)  # every write without the key is answered by 403

A policy is a sequence of pairs: which requests, and what they are answered.
"""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Sequence

from tests.support.servers import Server
from tests.support.servers.proxy import Action, FaultProxy, Match, Request, status

Policy = Sequence[tuple[Match, Action]]

SUMS = re.compile(r"x-amz-(checksum-|sdk-checksum|trailer)")


def enforce(proxy: FaultProxy, *policies: Policy) -> None:
    """Let a proxy refuse what the policies refuse, until it is reset."""
    for policy in policies:
        for match, action in policy:
            proxy.rule(match, action, times=math.inf)


# Kinds of requests to S3.


def has_key(request: Request) -> bool:
    return "/" in request.target.partition("?")[0].lstrip("/").rstrip("/")


def puts(request: Request) -> bool:
    """PutObject or CopyObject."""
    return request.method == "PUT" and has_key(request) and "partNumber=" not in request.target


def begins(request: Request) -> bool:
    return request.method == "POST" and re.search(r"\?(.*&)?uploads", request.target) is not None


def parts(request: Request) -> bool:
    return request.method == "PUT" and "partNumber=" in request.target


def writes(request: Request) -> bool:
    """A request that makes an object: PutObject, CopyObject, CreateMultipartUpload."""
    return puts(request) or begins(request)


def deletes_many(request: Request) -> bool:
    return request.method == "POST" and re.search(r"\?(.*&)?delete\b", request.target) is not None


def deletes(request: Request) -> bool:
    one = request.method == "DELETE" and "uploadId=" not in request.target
    return one or deletes_many(request)


def lists(request: Request) -> bool:
    return request.method == "GET" and "list-type=2" in request.target


def lists_uploads(request: Request) -> bool:
    return request.method == "GET" and re.search(r"\?(.*&)?uploads", request.target) is not None


def reads(request: Request) -> bool:
    return request.method in ("GET", "HEAD") and has_key(request)


def without(header: str, value: str = "", *, of: Match) -> Match:
    """Match requests that lack a header, or have another value."""
    return lambda r: of(r) and (header not in r.headers or value not in r.headers[header])


def has_sums(request: Request) -> bool:
    return any(SUMS.match(name) for name in request.headers)


def is_chunked(request: Request) -> bool:
    return "aws-chunked" in request.headers.get("content-encoding", "")


def is_conditional(request: Request) -> bool:
    changes = request.method in ("PUT", "POST", "DELETE")
    return changes and ("if-none-match" in request.headers or "if-match" in request.headers)


def denied(action: str) -> Action:
    """Return the answer of AWS to a request that a policy denies."""
    return status(
        403,
        "AccessDenied",
        f"User: arn:aws:iam::111122223333:user/trainer is not authorized to perform: {action} on "
        "this resource with an explicit deny in a resource-based policy",
    )


# Policies of buckets of S3.

KEY = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
NEEDS_KMS: Policy = [
    (without("x-amz-server-side-encryption", "aws:kms", of=writes), denied("s3:PutObject")),
    (
        without("x-amz-server-side-encryption-aws-kms-key-id", KEY, of=writes),
        denied("s3:PutObject"),
    ),
]
NEEDS_ACL: Policy = [
    (without("x-amz-acl", "bucket-owner-full-control", of=writes), denied("s3:PutObject")),
]
NEEDS_TLS: Policy = [(lambda r: not r.tls, denied("s3:*"))]
REQUESTER_PAYS: Policy = [
    (
        lambda r: r.headers.get("x-amz-request-payer") != "requester",
        status(403, "AccessDenied", "Access Denied"),
    ),
]
NEEDS_SUM: Policy = [  # Object Lock with a default retention
    (
        lambda r: (
            (puts(r) or parts(r))
            and "x-amz-copy-source" not in r.headers
            and "content-md5" not in r.headers
            and not any(name.startswith("x-amz-checksum-") for name in r.headers)
            and "x-amz-trailer" not in r.headers
        ),
        status(
            400,
            "InvalidRequest",
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with "
            "Object Lock parameters",
        ),
    ),
]
NO_DELETE: Policy = [(deletes, denied("s3:DeleteObject"))]
NO_LIST: Policy = [
    (lists, denied("s3:ListBucket")),
    (lists_uploads, denied("s3:ListBucketMultipartUploads")),
    (reads, status(403, "AccessDenied", "Access Denied", instead_of=404)),
]
NO_READ: Policy = [(reads, denied("s3:GetObject"))]
NO_WRITE: Policy = [(writes, denied("s3:PutObject"))]
NO_KEY: Policy = [  # the account may write there, and may not use the key of the bucket
    (
        writes,
        status(
            403,
            "AccessDenied",
            "User: arn:aws:iam::111122223333:user/trainer is not authorized to perform: "
            "kms:GenerateDataKey on the resource associated with this ciphertext",
        ),
    ),
]
KEY_DISABLED: Policy = [(writes, status(400, "KMS.DisabledException", f"{KEY} is disabled."))]
NO_ACLS: Policy = [
    (
        lambda r: "x-amz-acl" in r.headers,
        status(400, "AccessControlListNotSupported", "The bucket does not allow ACLs"),
    ),
]

# Stores with less than S3.

_NOT_IMPLEMENTED = "A header you provided implies functionality that is not implemented"
NO_CONDITIONS: Policy = [(is_conditional, status(501, "NotImplemented", _NOT_IMPLEMENTED))]
NO_IF_MATCH: Policy = [
    (
        lambda r: is_conditional(r) and "if-match" in r.headers,
        status(501, "NotImplemented", _NOT_IMPLEMENTED),
    ),
]
CONDITIONS_ARE_INVALID: Policy = [
    (
        is_conditional,
        status(400, "InvalidArgument", "Unsupported header received for this API call."),
    )
]
NO_PARTS: Policy = [(begins, status(501, "NotImplemented", "Multipart is not implemented."))]
NO_PARTS_BY_METHOD: Policy = [
    (begins, status(405, "MethodNotAllowed", "The specified method is not allowed.")),
]
SUMS_OF_B2: Policy = [  # before 2025
    (
        has_sums,
        status(
            400, "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm' received."
        ),
    ),
]
SUMS_OF_MINIO: Policy = [  # an older one
    (
        lambda r: has_sums(r) and r.method == "PUT",
        status(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ),
    ),
]
SUMS_OF_R2: Policy = [
    (has_sums, status(501, "NotImplemented", "Header 'x-amz-checksum-crc32' not implemented")),
]
SUMS_OF_GOOGLE: Policy = [  # its S3 interface signs other headers
    (
        has_sums,
        status(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        ),
    ),
]
SUMS_OF_CEPH: Policy = [(has_sums, status(411, "MissingContentLength", "Unknown"))]
CHUNKS_OF_OSS: Policy = [
    (
        is_chunked,
        status(
            400,
            "InvalidArgument",
            "aws-chunked encoding is not supported with the specified x-amz-content-sha256 value.",
        ),
    ),
]
NO_PATHS: Policy = [  # of OSS: the bucket stands in the host name
    (
        lambda r: not r.virtual,
        status(403, "SecondLevelDomainForbidden", "Please use virtual hosted style to access."),
    ),
]
WORM: Policy = [  # of OSS
    (
        lambda r: deletes(r) or is_conditional(r),
        status(409, "FileImmutable", "The object you specified is immutable."),
    ),
]

B2: Policy = [*NO_CONDITIONS]
OSS: Policy = [*NO_PATHS, *CHUNKS_OF_OSS, *NO_CONDITIONS]

STORES: dict[str, Policy] = {"b2": B2, "b2-2024": [*SUMS_OF_B2, *B2], "oss": OSS}


def holding(server: Server, kept: Action) -> Policy:
    """Return the policy of a bucket of which no object is replaced or deleted."""

    def is_there(request: Request) -> bool:
        url = urllib.parse.urlsplit(request.target)
        bucket, _, key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        if server.protocol == "gs":
            bucket = urllib.parse.unquote(url.path).partition("/b/")[2].partition("/")[0]
            key = dict(urllib.parse.parse_qsl(url.query)).get("name", "")
        return key in server.objects(bucket)

    def replaces(request: Request) -> bool:
        sends = puts(request) if server.protocol == "s3" else request.method == "POST"
        return sends and is_there(request)

    return [(deletes, kept), (replaces, kept)]


HELD_BY_OSS = status(409, "FileImmutable", "The object you specified is immutable.")
HELD_BY_S3 = status(403, "AccessDenied", "Access Denied because object protected by object lock.")
HELD_BY_GCS = status(
    403,
    "retentionPolicyNotMet",
    "Object 'bucket/key' is subject to bucket's retention policy or object retention and cannot be "
    "deleted or overwritten until 2036-01-01T00:00:00Z",
)

"""S3 and compatible stores: one request for each call, through the client that s3fs makes.

s3fs supplies options, credentials and sessions. Its own requests are not used: it retries them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import s3fs  # type: ignore[import-untyped, unused-ignore]

from ckptstore.digests import Buffer
from ckptstore.errors import Reason
from ckptstore.storage.clients import sync
from ckptstore.storage.clients.base import (
    ABSENT,
    COPIED_NBYTES,
    Failure,
    Kind,
    Page,
    Settings,
    Upload,
    Version,
    check_range,
)

_PIECE_NBYTES = 256 << 10
_CONNECTIONS = 32
_COPY_MAX_NBYTES = 5 << 30
_USERINFO = re.compile(r"(?<=://)[^/]*@")

T = TypeVar("T")


class S3Client:
    """One bucket.

    Args:
        bucket: its name.
        options: the arguments of `s3fs.S3FileSystem`.
        settings: the timeout of a request.
    """

    any_order = True
    foreign = '"00000000000000000000000000000000"'

    def __init__(self, bucket: str, options: Mapping[str, Any], settings: Settings) -> None:
        config = {
            "connect_timeout": min(10.0, settings.timeout),
            "read_timeout": settings.timeout,
            "max_pool_connections": _CONNECTIONS,
            "retries": {"total_max_attempts": 1},
            "response_checksum_validation": "when_required",  # our own checksums decide
        } | dict(options.get("config_kwargs") or {})
        arguments = {"use_listings_cache": False} | dict(options) | {"config_kwargs": config}
        self._fs = s3fs.S3FileSystem(skip_instance_cache=True, **arguments)
        self._always = {**self._fs.s3_additional_kwargs, **self._fs.req_kw}
        self._bucket = bucket
        self._timeout = settings.timeout
        client = sync.run(
            self._fs.loop, self._fs.set_session(), settings.timeout, failure_of=_refusal_of
        )
        self.endpoint: str = _USERINFO.sub("", client.meta.endpoint_url)

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """GetObject of a range from 0."""

        async def request() -> tuple[bytes, Version]:
            answer = await self._call("get_object", Key=key, Range=f"bytes=0-{limit}")
            try:
                return (await answer["Body"].read())[: limit + 1], answer["ETag"]
            finally:
                answer["Body"].close()

        try:
            return self._run(request())
        except Failure as failure:
            if failure.kind is not Kind.SHORT:
                raise
        head = self._run(self._call("head_object", Key=key))  # an empty object has no byte 0
        return b"", head.get("ETag", "")

    def get(self, key: str, start: int, buffer: Buffer) -> None:
        """GetObject of a range, straight into the buffer."""
        view = memoryview(buffer).cast("B")
        asked = f"bytes={start}-{start + view.nbytes - 1}"

        async def request() -> None:
            answer = await self._call("get_object", Key=key, Range=asked)
            body, at = answer["Body"], 0
            try:
                check_range(answer.get("ContentRange"), start, view.nbytes)
                while at < view.nbytes and (
                    piece := await body.read(min(_PIECE_NBYTES, view.nbytes - at))
                ):
                    view[at : at + len(piece)] = piece
                    at += len(piece)
            finally:
                body.close()
            if at < view.nbytes:
                raise Failure(Kind.AGAIN, f"the answer to {asked} ended after {at} bytes")

        self._run(request(), view.nbytes)

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """PutObject, with If-None-Match or If-Match."""
        body = io.BytesIO(data)  # aiohttp sends plain bytes in one piece, and blocks the loop
        request = self._call("put_object", Key=key, Body=body, **_header(condition))
        self._run(request, body.getbuffer().nbytes)

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """CopyObject, which is limited to 5 GiB."""
        if nbytes > _COPY_MAX_NBYTES:
            raise Failure(Kind.REFUSED, f"{nbytes} bytes in one copy", Reason.NOT_SUPPORTED)
        source = {"Bucket": self._bucket, "Key": origin}
        self._run(self._call("copy_object", Key=key, CopySource=source), nbytes // COPIED_NBYTES)

    def delete(self, key: str, version: Version | None = None) -> None:
        """DeleteObject, with If-Match."""
        self._run(self._call("delete_object", Key=key, **_header(version)))

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """ListObjectsV2."""
        more = {"ContinuationToken": token} if token else {}
        if delimiter:
            more["Delimiter"] = delimiter

        async def request() -> Page:
            listing = _listing(await self._call("list_objects_v2", Prefix=prefix, **more))
            items = listing.get("Contents", ())
            return Page(
                {item["Key"]: item["Size"] for item in items},
                {item["Key"]: item["LastModified"].timestamp() for item in items},
                [item["Prefix"] for item in listing.get("CommonPrefixes", ())],
                listing.get("NextContinuationToken"),
            )

        return self._run(request())

    def begin(self, key: str, nbytes: int, create: bool | None = None) -> Upload:
        """CreateMultipartUpload."""

        async def request() -> Upload:
            answer = await self._call("create_multipart_upload", Key=key)
            return Upload(key, answer["UploadId"], nbytes, create=create)

        return self._run(request())

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """UploadPart; the same number again replaces the part."""
        body = io.BytesIO(data)

        async def request() -> str:
            answer = await self._call(
                "upload_part", Key=upload.key, UploadId=upload.id, PartNumber=number, Body=body
            )
            tag: str = answer["ETag"]
            return tag

        return self._run(request(), body.getbuffer().nbytes)

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """CompleteMultipartUpload, with If-None-Match."""
        parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]
        request = self._call(
            "complete_multipart_upload",
            Key=upload.key,
            UploadId=upload.id,
            MultipartUpload={"Parts": parts},
            **_header(ABSENT if upload.create else None),
        )
        self._run(request)

    def abort(self, upload: Upload) -> None:
        """AbortMultipartUpload."""
        self._run(self._call("abort_multipart_upload", Key=upload.key, UploadId=upload.id))

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """ListMultipartUploads."""

        async def request() -> list[Upload]:
            uploads: list[Upload] = []
            more: dict[str, str] = {}
            while True:
                listing = _listing(
                    await self._call("list_multipart_uploads", Prefix=prefix, **more)
                )
                uploads += [
                    Upload(item["Key"], item["UploadId"], 0, item["Initiated"].timestamp())
                    for item in listing.get("Uploads", ())
                ]
                if not listing["IsTruncated"]:
                    return [upload for upload in uploads if upload.key.startswith(prefix)]
                more = {
                    "KeyMarker": listing["NextKeyMarker"],
                    "UploadIdMarker": listing["NextUploadIdMarker"],
                }

        return self._run(request())

    async def _call(self, method: str, **arguments: Any) -> Any:
        """Send one request, with the general options that this kind of request accepts."""
        await self._fs.set_session()  # reopens connections that other code has closed
        client = await self._fs.get_s3(self._bucket)
        operation = client.meta.method_to_api_mapping[method]
        known = client.meta.service_model.operation_model(operation).input_shape.members
        always = {k: v for k, v in self._always.items() if k in known and v is not None}
        return await getattr(client, method)(**always | {"Bucket": self._bucket} | arguments)

    def _run(self, request: Coroutine[Any, Any, T], nbytes: int = 0) -> T:
        return sync.run(self._fs.loop, request, self._timeout, nbytes, failure_of=failure_of)


def _header(condition: Version | None) -> dict[str, str]:
    if condition is None:
        return {}
    return {"IfNoneMatch": "*"} if condition == ABSENT else {"IfMatch": condition}


def _listing(answer: Any) -> Any:
    """Return an answer that is a listing; a gateway may answer otherwise with status 200."""
    if "IsTruncated" not in answer:
        raise Failure(Kind.AGAIN, "the answer is not a listing")
    return answer


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


def _refusal_of(error: Exception) -> Exception:
    """Return the error for an exception of making a client, unless an option is wrong."""
    failure = failure_of(error)
    return failure if failure.kind is Kind.REFUSED else error


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

"""S3 and compatible stores: one request for each call, through the client that s3fs makes.

s3fs supplies options, credentials and sessions. Its own requests are not used: it retries them.
"""

from __future__ import annotations

import functools
import inspect
import io
import logging
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import s3fs  # type: ignore[import-untyped, unused-ignore]
from aiobotocore.config import AioConfig  # type: ignore[import-untyped, unused-ignore]
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped, unused-ignore]

from ckptstore.digests import Buffer
from ckptstore.errors import Reason
from ckptstore.storage.clients import sync
from ckptstore.storage.clients.base import (
    ABSENT,
    COPIED_NBYTES,
    Failure,
    Kind,
    Page,
    Paging,
    Settings,
    Upload,
    Version,
    check_range,
    nonsense,
)
from ckptstore.storage.clients.s3_errors import failure_of
from ckptstore.storage.clients.s3_remedies import Manner

_PIECE_NBYTES = 256 << 10
_CONNECTIONS = 32
_COPY_MAX_NBYTES = 5 << 30
_DELETED_AT_ONCE = 1000
_USERINFO = re.compile(r"(?<=://)[^/]*@")

_log = logging.getLogger("ckptstore")

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
            **_BOUNDED,
        } | dict(options.get("config_kwargs") or {})
        arguments = {"use_listings_cache": False} | dict(options) | {"config_kwargs": config}
        self._fs = s3fs.S3FileSystem(skip_instance_cache=True, **arguments)
        self._always = {**self._fs.s3_additional_kwargs, **self._fs.req_kw}
        self._bucket = bucket
        self._timeout = settings.timeout
        self._deadline = settings.deadline
        self._told = False  # that the bucket keeps versions
        self.batch = _DELETED_AT_ONCE
        client = sync.run(
            self._fs.loop, self._fs.set_session(), settings.timeout, failure_of=_refusal_of
        )
        self.endpoint: str = _USERINFO.sub("", client.meta.endpoint_url)
        self._check_names(client.meta.service_model)
        sums = getattr(client.meta.config, "request_checksum_calculation", "when_required")
        self._manner = Manner(
            sums=sums == "when_supported",
            tls=self.endpoint.startswith("https:"),
            pays="RequestPayer" in self._always,
            headers=frozenset(self._always),
        )

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """GetObject of a range from 0."""

        async def request() -> tuple[bytes, Version]:
            answer = await self._call("get_object", Key=key, Range=f"bytes=0-{limit}")
            try:
                return await sync.beginning(answer["Body"], limit + 1), answer.get("ETag", "")
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
        keys = {f"CopySource{k}": v for k, v in self._always.items() if k.startswith("SSECustomer")}
        request = self._call("copy_object", Key=key, CopySource=source, **keys)
        self._run(request, nbytes // COPIED_NBYTES)

    def delete(self, key: str, version: Version | None = None) -> None:
        """DeleteObject, with If-Match."""
        self._tell(self._run(self._call("delete_object", Key=key, **_header(version))))

    def delete_many(self, keys: Sequence[str]) -> Sequence[str]:
        """DeleteObjects; its answer names each key."""
        objects = [{"Key": key} for key in keys]
        answer = self._run(self._call("delete_objects", Delete={"Objects": objects}))
        gone = {item.get("Key"): item for item in answer.get("Deleted", ())}
        for item in gone.values():
            self._tell(item)
        return [key for key in keys if key not in gone]

    def _tell(self, deleted: Mapping[str, Any]) -> None:
        """Log once that the bucket keeps versions, if the answer to a deletion says so."""
        if deleted.get("DeleteMarker") and not self._told:
            self._told = True
            _log.info(
                "s3://%s: this bucket keeps the versions of deleted objects, so eviction frees no "
                "room: add a lifecycle rule with NoncurrentVersionExpiration to the bucket",
                self._bucket,
            )

    def size(self, key: str) -> int:
        """HeadObject."""
        return int(self._run(self._call("head_object", Key=key))["ContentLength"])

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """ListObjectsV2."""
        more = {"ContinuationToken": token} if token else {}
        if delimiter:
            more["Delimiter"] = delimiter

        async def request() -> Page:
            listing = _listing(await self._call("list_objects_v2", Prefix=prefix, **more))
            items, token = listing.get("Contents", ()), listing.get("NextContinuationToken")
            if listing["IsTruncated"] and not token:
                raise nonsense("more entries follow, but the answer does not say where")
            return Page(
                {item["Key"]: item["Size"] for item in items},
                {item["Key"]: item["LastModified"].timestamp() for item in items},
                [item["Prefix"] for item in listing.get("CommonPrefixes", ())],
                token or None,
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
        uploads: list[Upload] = []
        paging, more = Paging(self._deadline), dict[str, str]()
        while True:
            asked = self._call("list_multipart_uploads", Prefix=prefix, **more)
            listing = _listing(self._run(asked))
            found = [
                Upload(item["Key"], item["UploadId"], 0, item["Initiated"].timestamp())
                for item in listing.get("Uploads", ())
            ]
            uploads += [upload for upload in found if upload.key.startswith(prefix)]
            names = "KeyMarker", "UploadIdMarker"
            more = {name: listing[f"Next{name}"] for name in names if listing.get(f"Next{name}")}
            if not listing["IsTruncated"]:
                return uploads
            if "KeyMarker" not in more:
                raise nonsense("more uploads follow, but the answer does not say where")
            paging.check((upload.id for upload in found), tuple(more.values()))

    def _check_names(self, model: Any) -> None:
        """Refuse a general option that no request takes: a typing error would leave it out."""
        for name in self._always:
            if not any(
                name in shape.members
                for operation in model.operation_names
                if (shape := model.operation_model(operation).input_shape) is not None
            ):
                raise Failure(
                    Kind.REFUSED,
                    f"s3_additional_kwargs has {name!r:.80}, which no request of S3 takes; they "
                    "are named as in boto3, such as ServerSideEncryption, SSEKMSKeyId and ACL",
                    Reason.BAD_OPTIONS,
                )

    async def _call(self, method: str, **arguments: Any) -> Any:
        """Send one request, with the general options that this kind of request accepts."""
        await self._fs.set_session()  # reopens connections that other code has closed
        client = await self._fs.get_s3(self._bucket)
        operation = client.meta.method_to_api_mapping[method]
        known = client.meta.service_model.operation_model(operation).input_shape.members
        always = {k: v for k, v in self._always.items() if k in known and v is not None}
        return await getattr(client, method)(**always | {"Bucket": self._bucket} | arguments)

    def _run(self, request: Coroutine[Any, Any, T], nbytes: int = 0) -> T:
        failing = functools.partial(failure_of, manner=self._manner)
        return sync.run(self._fs.loop, request, self._timeout, nbytes, failure_of=failing)


class _Session(AIOHTTPSession):  # type: ignore[misc, unused-ignore]
    """Connections on which an answer that is read whole, a listing or an error, has a bound."""

    async def send(self, request: Any) -> Any:
        streamed, request.stream_output = request.stream_output, True
        answer = await super().send(request)
        answer.raw = _Bounded(answer.raw)
        if not streamed:
            await answer.content
        return answer


class _Bounded:
    """An answer of aiohttp that ends with an error if it is too long to be read whole."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)

    async def read(self) -> bytes:
        return await sync.whole(self._answer)


_BOUNDED: Mapping[str, Any] = (  # aiobotocore before 2.20 has no such option
    {"http_session_cls": _Session}
    if "http_session_cls" in inspect.signature(AioConfig).parameters
    else {}
)


def _header(condition: Version | None) -> dict[str, str]:
    if condition is None:
        return {}
    if not condition:
        raise Failure(Kind.REFUSED, "the store gives no ETag", Reason.NOT_SUPPORTED)
    return {"IfNoneMatch": "*"} if condition == ABSENT else {"IfMatch": condition}


def _listing(answer: Any) -> Any:
    """Return an answer that is a listing; a gateway may answer otherwise with status 200."""
    if "IsTruncated" not in answer:
        raise Failure(Kind.AGAIN, "the answer is not a listing")
    return answer


def _refusal_of(error: Exception) -> Exception:
    """Return the error for an exception of making a client, unless an option is wrong."""
    failure = failure_of(error)
    return failure if failure.kind is Kind.REFUSED else error

"""Azure Blob Storage through adlfs: one request for each call, without the SDK's own retries."""

from __future__ import annotations

import io
import re
import secrets
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import adlfs  # type: ignore[import-untyped, unused-ignore]
from azure.core import MatchConditions
from azure.storage.blob import BlobBlock, BlobProperties

from ckptstore.digests import Buffer
from ckptstore.errors import Reason
from ckptstore.storage.clients import sync
from ckptstore.storage.clients.azure_errors import failure_of
from ckptstore.storage.clients.base import (
    ABSENT,
    Failure,
    Kind,
    Page,
    Paging,
    Settings,
    Upload,
    Version,
    WithoutBatches,
)

_LARGE_NBYTES = 1 << 20
_HOST = re.compile(r"(.+)\.(?:dfs|blob)\.core\.windows\.net")
_ONCE: Mapping[str, Any] = {"retry_total": 0}

T = TypeVar("T")


class AzureClient(WithoutBatches):
    """One container.

    Args:
        bucket: its name, or ``CONTAINER@ACCOUNT.dfs.core.windows.net``.
        options: the arguments of `adlfs.AzureBlobFileSystem`.
        settings: the timeout of a request.
    """

    any_order = True
    foreign = '"0x0"'

    def __init__(self, bucket: str, options: Mapping[str, Any], settings: Settings) -> None:
        container, _, host = bucket.partition("@")
        account = _HOST.fullmatch(host)
        if host and account is None:
            raise Failure(
                Kind.REFUSED,
                f"{host} is not ACCOUNT.dfs.core.windows.net; pass account_name and account_host "
                "in storage_options",
                Reason.BAD_URL,
            )
        named = {"account_name": account[1]} if account else {}
        arguments = {"use_listings_cache": False} | named | dict(options)
        self._fs = adlfs.AzureBlobFileSystem(skip_instance_cache=True, **arguments)
        self._container_name = container
        self._timeout = settings.timeout
        self._deadline = settings.deadline
        self.endpoint: str = self._fs.service_client.primary_hostname

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """Get Blob of a range from 0."""

        async def request() -> tuple[bytes, Version]:
            download = await self._blob(key).download_blob(
                offset=0, length=limit + 1, max_concurrency=1, **_ONCE
            )
            return await download.readall(), download.properties.etag

        async def properties() -> Version:
            etag: Version = (await self._blob(key).get_blob_properties(**_ONCE)).etag
            return etag

        try:
            return self._run(request())
        except Failure as failure:
            if failure.kind is not Kind.SHORT:
                raise
        return b"", self._run(properties())  # an empty blob has no byte 0

    def get(self, key: str, start: int, buffer: Buffer) -> None:
        """Get Blob of a range."""
        view = memoryview(buffer).cast("B")

        async def request() -> None:
            download = await self._blob(key).download_blob(
                offset=start, length=view.nbytes, max_concurrency=1, **_ONCE
            )
            if download.size < view.nbytes:
                raise Failure(Kind.SHORT, f"the object ends at byte {start + download.size}")
            at = 0
            async for piece in download.chunks():
                view[at : at + len(piece)] = piece
                at += len(piece)
            if at < view.nbytes:
                raise Failure(Kind.AGAIN, f"the answer ended after {at} of {view.nbytes} bytes")

        self._run(request())

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """Put Blob, with If-None-Match or If-Match; a large blob without a condition in parts.

        The SDK passes a whole blob on as bytes, and aiohttp warns if these are large.
        """
        whole = bytes(data)
        if condition is None and len(whole) > _LARGE_NBYTES:
            upload = self.begin(key, len(whole))
            self.finish(upload, [self.part(upload, 1, 0, whole, 0)])
            return
        if condition == ABSENT:
            how: dict[str, Any] = {"overwrite": False}
        else:
            how = {"overwrite": True} | _if_match(condition)
        blob = self._blob(key)
        self._run(blob.upload_blob(whole, length=len(whole), max_concurrency=1, **how, **_ONCE))

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """Refuse, because a copy would need a signed URL of the source."""
        raise Failure(Kind.REFUSED, "copies are not supported", Reason.NOT_SUPPORTED)

    def delete(self, key: str, version: Version | None = None) -> None:
        """Delete Blob, with If-Match."""
        self._run(self._blob(key).delete_blob(**_if_match(version), **_ONCE))

    def size(self, key: str) -> int:
        """Get Blob Properties."""

        async def request() -> int:
            return int((await self._blob(key).get_blob_properties(**_ONCE)).size)

        return self._run(request())

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """List Blobs."""
        items, token = self._run(self._list(prefix, token, delimiter=delimiter))
        blobs = [item for item in items if isinstance(item, BlobProperties)]
        return Page(
            {blob.name: blob.size for blob in blobs},
            {blob.name: blob.last_modified.timestamp() for blob in blobs},
            [item.name for item in items if not isinstance(item, BlobProperties)],
            token,
        )

    def begin(self, key: str, nbytes: int, create: bool | None = None) -> Upload:
        """Choose the names of the blocks; the store learns of them with the first block."""
        return Upload(key, secrets.token_hex(16), nbytes, create=create)

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """Put Block; the same name again replaces the block."""
        name, blob = f"{upload.id}-{number:06}", self._blob(upload.key)
        nbytes = memoryview(data).nbytes
        self._run(blob.stage_block(name, io.BytesIO(data), length=nbytes, **_ONCE))
        return name

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """Put Block List, with If-None-Match. Without it, repeating the request is not an error."""
        blocks = [BlobBlock(block_id=name) for name in tags]
        how = {"match_condition": MatchConditions.IfMissing} if upload.create else {}
        self._run(self._blob(upload.key).commit_block_list(blocks, **how, **_ONCE))

    def abort(self, upload: Upload) -> None:
        """Put an empty blob and delete it, which makes Azure drop the blocks.

        This is not done under a name that others may read; Azure drops those blocks after a week.
        """
        if upload.create is not None:
            return

        async def request() -> bool:
            blob = self._blob(upload.key)
            if await blob.exists(**_ONCE):
                return False
            created = await blob.upload_blob(b"", length=0, overwrite=True, **_ONCE)
            await blob.delete_blob(**_if_match(created["etag"]), **_ONCE)
            return True

        if not self._run(request()):
            raise Failure(Kind.MISSING, f"{upload.key} was finished")

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """List Blobs, once with and once without the uncommitted ones.

        All blocks of one blob are one upload. An upload without a time has just begun.
        """
        begun = {blob.name: blob for blob in self._all(prefix, include=["uncommittedblobs"])}
        for blob in self._all(prefix):
            begun.pop(blob.name, None)
        now = time.time()
        return [
            Upload(key, "", 0, blob.last_modified.timestamp() if blob.last_modified else now)
            for key, blob in begun.items()
        ]

    def _all(self, prefix: str, **more: Any) -> Iterator[Any]:
        paging, token = Paging(self._deadline), None
        while True:
            items, token = self._run(self._list(prefix, token, **more))
            paging.check((item.name for item in items), token)
            yield from items
            if token is None:
                return

    async def _list(
        self, prefix: str, token: str | None, *, delimiter: str = "", **more: Any
    ) -> tuple[list[Any], str | None]:
        container = self._fs.service_client.get_container_client(self._container_name)
        if delimiter:
            blobs = container.walk_blobs(prefix or None, delimiter=delimiter, **more, **_ONCE)
        else:
            blobs = container.list_blobs(prefix or None, **more, **_ONCE)
        pages = blobs.by_page(token)
        async for page in pages:
            return [item async for item in page], pages.continuation_token or None
        return [], None

    def _blob(self, key: str) -> Any:
        return self._fs.service_client.get_blob_client(self._container_name, key)

    def _run(self, request: Coroutine[Any, Any, T]) -> T:
        return sync.run(self._fs.loop, request, self._timeout, failure_of=failure_of)


def _if_match(version: Version | None) -> dict[str, Any]:
    if version is None:
        return {}
    return {"etag": version, "match_condition": MatchConditions.IfNotModified}

"""The JSON API of Google Cloud Storage: its URLs, and one request, sent once.

gcsfs supplies credentials and connections. Its own requests are not used: it retries them for half
a minute, and its small uploads lose bytes.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from gcsfs.core import (  # type: ignore[import-untyped, unused-ignore]
    GCSFileSystem,  # not gcsfs.GCSFileSystem, which asks for the kind of a bucket by gRPC
)
from yarl import URL

from ckptstore import signals
from ckptstore.digests import Buffer
from ckptstore.errors import Reason
from ckptstore.storage.clients import sync
from ckptstore.storage.clients.base import Failure, Kind, Settings, raising
from ckptstore.storage.clients.gcs_errors import answered, failure_of, no_credentials

_PIECE_NBYTES = 256 << 10
_CONNECT_TIMEOUT = 10.0  # seconds

T = TypeVar("T")
Receive = Callable[[aiohttp.ClientResponse], Awaitable[T]]
"""Reads a successful answer; an exception of it is a failure of the request."""


class Api:
    """The requests to one bucket.

    Args:
        bucket: its name.
        options: the arguments of `gcsfs.GCSFileSystem`.
        settings: the timeout of a request.

    Attributes:
        endpoint: the address of the store, without credentials.
    """

    def __init__(self, bucket: str, options: Mapping[str, Any], settings: Settings) -> None:
        unknown = sorted(set(options) - _known_options())
        if unknown:
            raise Failure(
                Kind.REFUSED, f"gcsfs has no option {', '.join(unknown)}", Reason.BAD_OPTIONS
            )
        own = {"skip_instance_cache": True, "use_listings_cache": False, "asynchronous": False}
        try:
            self._fs = GCSFileSystem(**dict(options) | own)
        except Exception as error:
            signals.pass_on(error)
            failure = no_credentials(error)
            if failure is None:
                raise
            raise failure from None
        self._base = str(self._fs.base).removesuffix("/storage/v1/").rstrip("/")
        self._objects = f"/b/{quote(bucket, safe='')}/o"
        self._timeout = settings.timeout
        self.endpoint = re.sub(r"(?<=://)[^/@]*@", "", self._base)

    def objects(self, **params: str | None) -> URL:
        """Return the URL of all objects."""
        return self._url(f"/storage/v1{self._objects}", params)

    def object(self, key: str, **params: str | None) -> URL:
        """Return the URL of an object."""
        return self._url(f"/storage/v1{self._path(key)}", params)

    def rewrite(self, origin: str, key: str, **params: str | None) -> URL:
        """Return the URL that makes `key` a copy of `origin`."""
        return self._url(f"/storage/v1{self._path(origin)}/rewriteTo{self._path(key)}", params)

    def upload(self, key: str, **params: str | None) -> URL:
        """Return the URL that takes the bytes of an object."""
        return self._url(f"/upload/storage/v1{self._objects}", {"name": key, **params})

    def ask(
        self,
        method: str,
        url: URL,
        receive: Receive[T],
        headers: Mapping[str, str] | None = None,
        data: Buffer | None = None,
        where: str = "object",
        received: int = 0,
    ) -> T:
        """Send a request.

        Args:
            method: the HTTP method.
            url: a URL from a method above, or the URL of an upload.
            receive: reads a successful answer.
            headers: further headers besides the credentials.
            data: the body.
            where: the thing that a 404 means: ``object``, ``bucket`` or ``upload``.
            received: the size of the answer in bytes, for which the timeout allows.

        Raises:
            Failure: of any kind.
        """
        sent, view = dict(headers or {}), memoryview(data or b"").cast("B")
        if method == "POST":
            sent["Content-Length"] = str(view.nbytes)

        async def request() -> T:
            session = await self._fs._set_session()
            async with session.request(
                method,
                url,
                headers=sent,
                data=_pieces(view) if view.nbytes else None,
                timeout=limits,
                allow_redirects=False,
            ) as answer:
                if answer.status < 300 or (answer.status == 308 and where == "upload"):
                    return await receive(answer)
                raise answered(answer.status, await sync.whole(answer), where)

        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=min(_CONNECT_TIMEOUT, self._timeout)
        )
        with raising(failure_of):
            self._fs.credentials.apply(sent)  # not on the loop: it may wait for a new token
        nbytes = view.nbytes + received
        return sync.run(self._fs.loop, request(), self._timeout, nbytes, failure_of=failure_of)

    def _path(self, key: str) -> str:
        return f"{self._objects}/{quote(key, safe='')}"

    def _url(self, path: str, params: Mapping[str, str | None]) -> URL:
        payer = self._fs.requester_pays
        project = payer if isinstance(payer, str) else self._fs.project if payer else None
        params = {**params, "userProject": project}
        query = {name: value for name, value in params.items() if value}
        return URL(f"{self._base}{path}?{urlencode(query, quote_via=quote)}", encoded=True)


def json_of(parse: Callable[[Any], T]) -> Receive[T]:
    """Return a reader of JSON answers; if `parse` rejects an answer, the request failed."""

    async def receive(answer: aiohttp.ClientResponse) -> T:
        return parse(json.loads(await sync.whole(answer)))

    return receive


async def nothing(answer: aiohttp.ClientResponse) -> None:
    """Read an answer whose status is all that matters."""
    await sync.whole(answer)


def _known_options() -> set[str]:
    """Return the options of gcsfs, which itself ignores unknown ones.

    A typing error in ``endpoint_url`` would send data to Google.
    """
    classes = GCSFileSystem.__mro__
    return {name for cls in classes for name in inspect.signature(cls.__init__).parameters}


async def _pieces(data: memoryview) -> AsyncIterator[memoryview]:
    """Yield pieces, so that other requests get a turn; aiohttp cannot send this a second time."""
    for at in range(0, data.nbytes, _PIECE_NBYTES):
        yield data[at : at + _PIECE_NBYTES]

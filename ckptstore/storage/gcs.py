"""Google Cloud Storage through gcsfs: its credentials and connections, our requests, each once.

gcsfs's own requests are tried again for half a minute, and its small uploads lose bytes.
"""

from __future__ import annotations

import base64
import inspect
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from gcsfs.core import (  # type: ignore[import-untyped, unused-ignore]
    GCSFileSystem,  # not gcsfs.GCSFileSystem, which asks for the kind of a bucket by gRPC
)
from yarl import URL

from ckptstore.storage import loops
from ckptstore.storage.client import (
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
from ckptstore.storage.gcs_failures import answered, failure_of, no_credentials
from ckptstore.wire import Buffer

try:
    import google_crc32c
except ImportError:
    google_crc32c = None  # type: ignore[assignment, unused-ignore]

_PIECE_NBYTES = 256 << 10
_CONNECT_TIMEOUT = 10.0  # seconds
_PAGE_LENGTH = 1000  # the most that one answer lists
_REPAIRS = 2
_DATA = {"Content-Type": "application/octet-stream"}
_AS_IT_IS = {"Accept-Encoding": "identity"}

T = TypeVar("T")
Receive = Callable[[aiohttp.ClientResponse], Awaitable[T]]


@dataclass(slots=True, repr=False)
class _Session:
    """A resumable upload. Whoever knows its URI can write to it: no message may hold that."""

    uri: URL
    nbytes: int  # of the object
    crc: int | None  # of the bytes before the part that is being sent


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the store says of an object that was sent: its generation, and how it is damaged."""

    generation: Version
    damage: str

    @classmethod
    def of(cls, got: Any, *, nbytes: int, crc: int | None) -> _Stored:
        damage = ""
        if int(got["size"]) != nbytes:
            damage = f"the store has {int(got['size'])} bytes of the {nbytes} that were sent"
        elif crc is not None and got.get("crc32c", "") not in ("", _encoded(crc)):
            damage = "the bytes were damaged on their way to the store"
        return cls(str(int(got["generation"])), damage)


class GCSClient:
    """One bucket.

    Args:
        bucket: its name.
        options: the arguments of `gcsfs.GCSFileSystem`.
        settings: the timeout of a request.
    """

    any_order = False
    foreign = "1"

    def __init__(self, bucket: str, options: Mapping[str, Any], settings: Settings) -> None:
        unknown = sorted(set(options) - _known_options())
        if unknown:
            raise Failure(Kind.REFUSED, f"gcsfs has no option {', '.join(unknown)}", "bad-options")
        own = {"skip_instance_cache": True, "use_listings_cache": False, "asynchronous": False}
        try:
            self._fs = GCSFileSystem(**dict(options) | own)
        except Exception as error:
            failure = no_credentials(error)
            if failure is None:
                raise
            raise failure from None
        self._base = str(self._fs._location).rstrip("/")
        self._bucket = quote(bucket, safe="")
        self._timeout = settings.timeout
        self._sessions: dict[str, _Session] = {}
        self.endpoint = re.sub(r"(?<=://)[^/@]*@", "", self._base)

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """objects.get of a range from 0; once more where the answer does not name a generation."""

        async def receive(answer: aiohttp.ClientResponse) -> tuple[bytes, Version | None]:
            data = bytearray()
            async for piece, _ in answer.content.iter_chunks():
                data += piece
                if len(data) > limit:
                    break
            return bytes(data[: limit + 1]), answer.headers.get("x-goog-generation")

        def media(generation: Version | None) -> tuple[bytes, Version | None]:
            url = self._object(key, alt="media", ifGenerationMatch=generation)
            return self._ask("GET", url, receive, {"Range": f"bytes=0-{limit}", **_AS_IT_IS})

        try:
            data, version = media(None)
            if version:
                return data, version
        except Failure as failure:
            if failure.kind is not Kind.SHORT:  # which says that it has no byte 0
                raise
        url = self._object(key, fields="generation,size")
        version, nbytes = self._ask(
            "GET", url, _json(lambda it: (it["generation"], int(it["size"])))
        )
        if nbytes == 0:
            return b"", version
        try:
            return media(version)[0], version
        except Failure as failure:
            if failure.kind is not Kind.CONDITION:
                raise
        raise Failure(Kind.AGAIN, "replaced while it was read")

    def get(self, key: str, start: int, buffer: Buffer) -> None:
        """objects.get of a range, straight into the buffer."""
        view = memoryview(buffer).cast("B")
        asked = f"bytes={start}-{start + view.nbytes - 1}"

        async def receive(answer: aiohttp.ClientResponse) -> None:
            check_range(answer.headers.get("Content-Range"), start, view.nbytes)
            at = 0
            async for piece, _ in answer.content.iter_chunks():
                taken = piece[: view.nbytes - at]
                view[at : at + len(taken)] = taken
                at += len(taken)
            if at < view.nbytes:
                raise Failure(Kind.AGAIN, f"the answer to {asked} ended after {at} bytes")

        url, headers = self._object(key, alt="media"), {"Range": asked, **_AS_IT_IS}
        self._ask("GET", url, receive, headers, received=view.nbytes)

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """objects.insert, with ifGenerationMatch and the checksum.

        A store that does not look at the checksum may hold damaged bytes now. They are ours: where
        there was a condition, only they are replaced, as the old ones are gone.
        """
        view = memoryview(data).cast("B")
        crc = _extend(_START, view)
        version = "0" if condition == ABSENT else condition
        for _ in range(_REPAIRS + 1):
            url = self._upload(key, uploadType="media", ifGenerationMatch=version)
            receive = _json(partial(_Stored.of, nbytes=view.nbytes, crc=crc))
            stored = self._ask("POST", url, receive, _DATA | _hash(crc), view, where="bucket")
            if not stored.damage:
                return
            if condition is None:
                break  # to send it again replaces whatever is there
            version = stored.generation
        if condition == ABSENT:
            self.delete(key, version)
        raise Failure(Kind.AGAIN, stored.damage)

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """objects.rewrite, with the token of the answer before until it is done."""
        source, target = (f"/b/{self._bucket}/o/{quote(k, safe='')}" for k in (origin, key))
        token, before = None, None
        while True:
            url = self._url(f"/storage/v1{source}/rewriteTo{target}", rewriteToken=token)
            done, copied, token = self._ask(
                "POST", url, _json(_rewritten), received=nbytes // COPIED_NBYTES
            )
            if done:
                return
            if copied == before or not token:
                raise Failure(Kind.AGAIN, f"the store copied no more than {copied} bytes")
            before = copied

    def delete(self, key: str, version: Version | None = None) -> None:
        """objects.delete, with ifGenerationMatch."""
        self._ask("DELETE", self._object(key, ifGenerationMatch=version), _nothing)

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """objects.list."""
        url = self._url(
            f"/storage/v1/b/{self._bucket}/o",
            prefix=prefix,
            delimiter=delimiter,
            pageToken=token,
            maxResults=str(_PAGE_LENGTH),
            fields="items(name,size,timeCreated),prefixes,nextPageToken",
        )
        return self._ask("GET", url, _json(_page), where="bucket")

    def begin(self, key: str, nbytes: int) -> Upload:
        """Begin a resumable upload."""

        async def receive(answer: aiohttp.ClientResponse) -> _Session:
            return _Session(URL(answer.headers["Location"], encoded=True), nbytes, _START)

        headers = {
            "X-Upload-Content-Type": _DATA["Content-Type"],
            "X-Upload-Content-Length": str(nbytes),
        }
        url = self._upload(key, uploadType="resumable")
        session = self._ask("POST", url, receive, headers, where="bucket")
        upload = Upload(key, secrets.token_hex(8), nbytes)
        self._sessions[upload.id] = session
        return upload

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """Send a chunk, or what the store lacks of it; the last one makes the object."""
        session = self._session(upload)
        view = memoryview(data).cast("B")
        end, total = start + view.nbytes, upload.nbytes
        crc = _extend(session.crc, view)
        whole = crc if end == total else None
        got = self._send(session, f"bytes */{total}", whole) if tries else start
        while isinstance(got, int) and got < end:
            if got < start:
                raise Failure(Kind.REFUSED, "the store lost bytes of an upload that it had taken")
            asked, before = f"bytes {got}-{end - 1}/{total}", got
            got = self._send(session, asked, whole, view[got - start :])
            if isinstance(got, int) and got <= before:
                raise Failure(Kind.AGAIN, f"the store took nothing of {asked}")
        if isinstance(got, int) and end == total:
            raise Failure(Kind.AGAIN, "the store has all bytes and did not make the object")
        if isinstance(got, _Stored) and got.damage:
            try:
                self.delete(upload.key, got.generation)
            except Failure as failure:
                if failure.kind not in (Kind.MISSING, Kind.CONDITION):
                    raise
            raise Failure(Kind.REFUSED, f"{got.damage}; it was deleted")
        session.crc = crc
        return str(number)

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """Do nothing: the last part made the object."""
        self._session(upload)
        del self._sessions[upload.id]

    def abort(self, upload: Upload) -> None:
        """Delete the session. One that is left expires after a week."""
        try:
            self._ask("DELETE", self._session(upload).uri, _nothing)
        except Failure as failure:
            if failure.kind is not Kind.MISSING:
                raise
        self._sessions.pop(upload.id, None)

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Return none: the store lists its sessions to nobody, and lets them expire."""
        return []

    def _session(self, upload: Upload) -> _Session:
        session = self._sessions.get(upload.id)
        if session is None:
            raise Failure(Kind.MISSING, "no such upload")
        return session

    def _send(
        self, session: _Session, content_range: str, crc: int | None, data: Buffer | None = None
    ) -> int | _Stored:
        """Send bytes, or none to ask. Returns how many are stored, or the finished object."""

        async def receive(answer: aiohttp.ClientResponse) -> int | _Stored:
            if answer.status != 308:
                return await _json(partial(_Stored.of, nbytes=session.nbytes, crc=crc))(answer)
            taken = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
            return int(taken[1]) + 1 if taken else 0

        # By POST, which the store takes as well: aiohttp may send a PUT twice.
        headers = {"Content-Range": content_range, **_hash(crc if data else None)}
        return self._ask("POST", session.uri, receive, headers, data, where="upload")

    def _object(self, key: str, **params: str | None) -> URL:
        return self._url(f"/storage/v1/b/{self._bucket}/o/{quote(key, safe='')}", **params)

    def _upload(self, key: str, **params: str | None) -> URL:
        return self._url(f"/upload/storage/v1/b/{self._bucket}/o", name=key, **params)

    def _url(self, path: str, **params: str | None) -> URL:
        given = {name: value for name, value in self._fs._get_params(params).items() if value}
        return URL(f"{self._base}{path}?{urlencode(given, quote_via=quote)}", encoded=True)

    def _ask(
        self,
        method: str,
        url: URL,
        receive: Receive[T],
        headers: Mapping[str, str] | None = None,
        data: Buffer | None = None,
        where: str = "object",
        received: int = 0,
    ) -> T:
        """Send a request; 404 means that there is no such object, bucket or upload."""
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
                raise answered(answer.status, await answer.read(), where)

        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=min(_CONNECT_TIMEOUT, self._timeout)
        )
        try:
            sent = self._fs._get_headers(sent)  # not on the loop: it may wait for a new token
            return loops.run(self._fs.loop, request(), self._timeout, view.nbytes + received)
        except Failure:
            raise
        except Exception as error:
            raise failure_of(error) from None


def _known_options() -> set[str]:
    """Return the options of gcsfs, which itself takes no notice of others.

    A typing error in ``endpoint_url`` would send data to Google.
    """
    classes = GCSFileSystem.__mro__
    return {name for cls in classes for name in inspect.signature(cls.__init__).parameters}


async def _pieces(data: memoryview) -> AsyncIterator[memoryview]:
    """Give the other requests a turn between pieces; aiohttp cannot send this a second time."""
    for at in range(0, data.nbytes, _PIECE_NBYTES):
        yield data[at : at + _PIECE_NBYTES]


def _json(parse: Callable[[Any], T]) -> Receive[T]:
    """Return what receives JSON; where it is not as it should be, the request failed."""

    async def receive(answer: aiohttp.ClientResponse) -> T:
        return parse(json.loads(await answer.read()))

    return receive


async def _nothing(answer: aiohttp.ClientResponse) -> None:
    await answer.read()


def _page(got: Any) -> Page:
    items = got.get("items", ())
    times = {item["name"]: datetime.fromisoformat(item["timeCreated"]) for item in items}
    return Page(
        {item["name"]: int(item["size"]) for item in items},
        {name: time.timestamp() for name, time in times.items()},
        got.get("prefixes", ()),
        got.get("nextPageToken"),
    )


def _rewritten(got: Any) -> tuple[bool, int, str | None]:
    return got["done"] is True, int(got["totalBytesRewritten"]), got.get("rewriteToken")


_START = 0 if google_crc32c is not None and google_crc32c.implementation == "c" else None


def _extend(crc: int | None, view: memoryview) -> int | None:
    """Return the CRC-32C with more bytes; None stands for no CRC, where it would take long."""
    if crc is None:
        return None
    for at in range(0, view.nbytes, _PIECE_NBYTES):  # it takes nothing but bytes
        crc = google_crc32c.extend(crc, bytes(view[at : at + _PIECE_NBYTES]))
    return crc


def _hash(crc: int | None) -> dict[str, str]:
    return {} if crc is None else {"X-Goog-Hash": f"crc32c={_encoded(crc)}"}


def _encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()

"""Google Cloud Storage: its requests, and the check that the bytes arrived."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import aiohttp
from yarl import URL

from ckptstore.digests import Buffer
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
    WithoutBatches,
    check_range,
)
from ckptstore.storage.clients.gcs_api import Api, json_of, nothing

try:
    import google_crc32c
except ImportError:
    google_crc32c = None  # type: ignore[assignment, unused-ignore]

_PIECE_NBYTES = 256 << 10
_PAGE_LENGTH = 1000  # the most that one answer lists
_REPAIRS = 2
_DATA = {"Content-Type": "application/octet-stream"}
_AS_IT_IS = {"Accept-Encoding": "identity"}


@dataclass(slots=True, repr=False)
class _Session:
    """A resumable upload. Its URI is a secret, since anybody who knows it can write to it."""

    uri: URL
    nbytes: int  # of the object
    crc: int | None  # of the bytes before the part that is being sent


@dataclass(frozen=True, slots=True)
class _Stored:
    """The store's answer about an object that was sent: its generation, and its damage if any."""

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


class GCSClient(WithoutBatches):
    """One bucket.

    Args:
        bucket: its name.
        options: the arguments of `gcsfs.GCSFileSystem`.
        settings: the timeout of a request.
    """

    any_order = False
    foreign = "1"

    def __init__(self, bucket: str, options: Mapping[str, Any], settings: Settings) -> None:
        self._api = Api(bucket, options, settings)
        self._sessions: dict[str, _Session] = {}
        self.endpoint = self._api.endpoint

    def read(self, key: str, limit: int) -> tuple[bytes, Version]:
        """objects.get of a range from 0; again if the answer does not name a generation."""

        async def receive(answer: aiohttp.ClientResponse) -> tuple[bytes, Version | None]:
            data = await sync.beginning(answer.content, limit + 1)
            return data, answer.headers.get("x-goog-generation")

        def media(generation: Version | None) -> tuple[bytes, Version | None]:
            url = self._api.object(key, alt="media", ifGenerationMatch=generation)
            return self._api.ask("GET", url, receive, {"Range": f"bytes=0-{limit}", **_AS_IT_IS})

        try:
            data, version = media(None)
            if version:
                return data, version
        except Failure as failure:
            if failure.kind is not Kind.SHORT:  # which says that it has no byte 0
                raise
        url = self._api.object(key, fields="generation,size")
        version, nbytes = self._api.ask(
            "GET", url, json_of(lambda it: (it["generation"], int(it["size"])))
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
            while at < view.nbytes and (
                piece := await answer.content.read(min(_PIECE_NBYTES, view.nbytes - at))
            ):
                view[at : at + len(piece)] = piece
                at += len(piece)
            if at < view.nbytes:
                raise Failure(Kind.AGAIN, f"the answer to {asked} ended after {at} bytes")

        url, headers = self._api.object(key, alt="media"), {"Range": asked, **_AS_IT_IS}
        self._api.ask("GET", url, receive, headers, received=view.nbytes)

    def put(self, key: str, data: Buffer, condition: Version | None = None) -> None:
        """objects.insert, with ifGenerationMatch and the checksum.

        A store that ignores the checksum may hold damaged bytes now. They are those of this call:
        with a condition, only they are replaced, as the old bytes are gone.
        """
        view = memoryview(data).cast("B")
        crc = _extend(_START, view)
        version = "0" if condition == ABSENT else condition
        for _ in range(_REPAIRS + 1):
            url = self._api.upload(key, uploadType="media", ifGenerationMatch=version)
            receive = json_of(partial(_Stored.of, nbytes=view.nbytes, crc=crc))
            stored = self._api.ask("POST", url, receive, _DATA | _hash(crc), view, where="bucket")
            if not stored.damage:
                return
            if condition is None:
                break  # sending it again replaces any object
            version = stored.generation
        if condition == ABSENT:
            self.delete(key, version)
        raise Failure(Kind.AGAIN, stored.damage)

    def copy(self, origin: str, key: str, nbytes: int) -> None:
        """objects.rewrite, repeated with the token of the last answer until the copy is done."""
        token, before = None, None
        while True:
            url = self._api.rewrite(origin, key, rewriteToken=token)
            done, copied, token = self._api.ask(
                "POST", url, json_of(_rewritten), received=nbytes // COPIED_NBYTES
            )
            if done:
                return
            if copied > nbytes or (before is not None and copied <= before) or not token:
                raise Failure(Kind.AGAIN, f"the store copied only {copied} bytes")
            before = copied

    def delete(self, key: str, version: Version | None = None) -> None:
        """objects.delete, with ifGenerationMatch."""
        self._api.ask("DELETE", self._api.object(key, ifGenerationMatch=version), nothing)

    def size(self, key: str) -> int:
        """objects.get of the size alone."""
        url = self._api.object(key, fields="size")
        return self._api.ask("GET", url, json_of(lambda it: int(it["size"])))

    def page(self, prefix: str, token: str | None, *, delimiter: str = "") -> Page:
        """objects.list."""
        url = self._api.objects(
            prefix=prefix,
            delimiter=delimiter,
            pageToken=token,
            maxResults=str(_PAGE_LENGTH),
            fields="kind,items(name,size,timeCreated),prefixes,nextPageToken",
        )
        return self._api.ask("GET", url, json_of(_page), where="bucket")

    def begin(self, key: str, nbytes: int, create: bool | None = None) -> Upload:
        """Begin a resumable upload, with ifGenerationMatch, which is checked at its end too."""

        async def receive(answer: aiohttp.ClientResponse) -> _Session:
            return _Session(URL(answer.headers["Location"], encoded=True), nbytes, _START)

        headers = {
            "X-Upload-Content-Type": _DATA["Content-Type"],
            "X-Upload-Content-Length": str(nbytes),
        }
        generation = "0" if create else None
        url = self._api.upload(key, uploadType="resumable", ifGenerationMatch=generation)
        session = self._api.ask("POST", url, receive, headers, where="bucket")
        upload = Upload(key, secrets.token_hex(8), nbytes, create=create)
        self._sessions[upload.id] = session
        return upload

    def part(self, upload: Upload, number: int, start: int, data: Buffer, tries: int) -> str:
        """Send a chunk, or the part of it that the store lacks; the last one makes the object."""
        session = self._session(upload)
        view = memoryview(data).cast("B")
        end, total = start + view.nbytes, upload.nbytes
        crc = _extend(session.crc, view)
        whole = crc if end == total else None
        taken = self._send(session, f"bytes */{total}", whole) if tries else start
        while isinstance(taken, int) and taken < end:
            if taken < start:
                raise Failure(Kind.REFUSED, "the store lost bytes of an upload that it had taken")
            asked, before = f"bytes {taken}-{end - 1}/{total}", taken
            taken = self._send(session, asked, whole, view[taken - start :])
            if isinstance(taken, int) and taken <= before:
                raise Failure(Kind.AGAIN, f"the store took nothing of {asked}")
        if isinstance(taken, int) and end == total:
            raise Failure(Kind.AGAIN, "the store has all bytes, but did not create the object")
        if isinstance(taken, _Stored) and taken.damage:
            try:
                self.delete(upload.key, taken.generation)
            except Failure as failure:
                if failure.kind not in (Kind.MISSING, Kind.CONDITION):
                    raise
            raise Failure(Kind.REFUSED, f"{taken.damage}; it was deleted")
        session.crc = crc
        return str(number)

    def finish(self, upload: Upload, tags: Sequence[str]) -> None:
        """Do nothing: the last part made the object."""
        self._session(upload)
        del self._sessions[upload.id]

    def abort(self, upload: Upload) -> None:
        """Delete the session. A session that is left expires after a week."""
        try:
            self._api.ask("DELETE", self._session(upload).uri, nothing)
        except Failure as failure:
            if failure.kind is not Kind.MISSING:
                raise
        self._sessions.pop(upload.id, None)

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Return none: the store does not list its sessions, and they expire."""
        return []

    def _session(self, upload: Upload) -> _Session:
        session = self._sessions.get(upload.id)
        if session is None:
            raise Failure(Kind.MISSING, "no such upload")
        return session

    def _send(
        self, session: _Session, content_range: str, crc: int | None, data: Buffer | None = None
    ) -> int | _Stored:
        """Send bytes, or none to ask. Return the number of stored bytes, or the object."""

        async def receive(answer: aiohttp.ClientResponse) -> int | _Stored:
            if answer.status != 308:
                return await json_of(partial(_Stored.of, nbytes=session.nbytes, crc=crc))(answer)
            taken = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
            return int(taken[1]) + 1 if taken else 0

        # By POST, which the store accepts as well, because aiohttp may send a PUT twice.
        headers = {"Content-Range": content_range, **_hash(crc if data else None)}
        return self._api.ask("POST", session.uri, receive, headers, data, where="upload")


def _page(got: Any) -> Page:
    if not {"kind", "items", "prefixes"} & set(got):
        raise Failure(Kind.AGAIN, "the answer is not a listing")
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
    """Return the CRC-32C with more bytes; None stands for no CRC, if that would be slow."""
    if crc is None:
        return None
    for at in range(0, view.nbytes, _PIECE_NBYTES):  # the library accepts only bytes
        crc = google_crc32c.extend(crc, bytes(view[at : at + _PIECE_NBYTES]))
    return crc


def _hash(crc: int | None) -> dict[str, str]:
    return {} if crc is None else {"X-Goog-Hash": f"crc32c={_encoded(crc)}"}


def _encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()

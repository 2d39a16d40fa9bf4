"""gcp-storage-emulator with what it lacks: `python -m tests.support.servers.gcs`.

The emulator keeps buckets and objects, lists and describes them. Added here, after the
documentation of the JSON API: conditions on generations, increasing generations, uploads that keep
every byte, resumable sessions, ranges, lists in pages, the headers of downloads, errors with a
body, HTTP/1.1, threads, and one lock that lets in one request at a time.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import secrets
import threading
import time
import urllib.parse
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from io import BytesIO
from typing import Any

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import Conflict
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.storage import Storage

from tests.support.servers import child

CHUNK_NBYTES = 256 * 1024  # each chunk of a session but its last is a multiple of it
PAGE_LENGTH = 1000

UPLOAD = re.compile(r"(?:/resumable)?/upload/storage/v1/b/(?P<bucket>[^/]+)/o")
OBJECTS = re.compile(r"(?:/storage/v1)?/b/(?P<bucket>[^/]+)/o")
OBJECT = re.compile(r"(?:/download)?(?:/storage/v1)?/b/(?P<bucket>[^/]+)/o/(?P<key>[^/]+)")
WRITE = re.compile(
    r"(?:/storage/v1)?/b/[^/]+/o/[^/]+/(?:rewriteTo|copyTo)/b/(?P<bucket>[^/]+)/o/(?P<key>[^/]+)"
    r"|(?:/storage/v1)?/b/(?P<composed_in>[^/]+)/o/(?P<composed>[^/]+)/compose"
)
PASSED_ON = re.compile(r"(?:/storage/v1)?/b(?:/[^/]+)?|/batch/storage/v1")
SESSIONS = re.compile(r"/test/sessions/(?P<bucket>[^/]+)")

REASONS = {
    304: "notModified",
    400: "invalid",
    404: "notFound",
    410: "uploadBroken",
    412: "conditionNotMet",
    416: "requestedRangeNotSatisfiable",
    499: "clientClosedRequest",
    501: "notImplemented",
    503: "backendError",
}
PHRASES = {308: "Resume Incomplete", 499: "Client Closed Request"}


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Memory(Storage):
    """The emulator's storage, with increasing generations and any name for an object."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)
        self.last_generation = 0

    def _write_config_to_file(self) -> None:
        """Everything is in memory."""

    def _bucket_soft_delete_retention_seconds(self, bucket_name: str) -> int:
        return 0

    def _object_path(self, bucket_name: str, file_name: str) -> str:
        return f"{bucket_name}/{urllib.parse.quote(file_name, safe='')}"

    def create_file(
        self, bucket_name: str, file_name: str, content: bytes, file_obj: dict[str, Any], *_: Any
    ) -> None:
        self.last_generation = max(self.last_generation + 1, time.time_ns() // 1000)
        generation = str(self.last_generation)
        file_obj.update(
            generation=generation,
            metageneration="1",
            size=str(len(content)),
            id=f"{bucket_name}/{file_name}/{generation}",
            etag=base64.b64encode(generation.encode()).decode(),
        )
        super().create_file(bucket_name, file_name, content, file_obj)


@dataclass
class Session:
    """A resumable upload: what came so far, and the answer once it is finished."""

    bucket: str
    key: str
    meta: dict[str, Any]
    query: dict[str, list[str]]
    data: bytearray
    resource: dict[str, Any] | None = None
    cancelled: bool = False

    def range(self) -> dict[str, str]:
        return {"Range": f"bytes=0-{len(self.data) - 1}"} if self.data else {}


class Service:
    """Every bucket and session, and the lock."""

    def __init__(self) -> None:
        self.storage = Memory()
        self.sessions: dict[str, Session] = {}
        self.lock = threading.Lock()


class Query(dict[str, list[str]]):
    """The parameters of a request."""

    def one(self, name: str) -> str | None:
        return self[name][0] if name in self else None

    def number(self, name: str) -> int | None:
        value = self.one(name)
        if value is None:
            return None
        if not re.fullmatch(r"\d+", value):
            raise Refused(400, f"Invalid value for {name}: {value}")
        return int(value)


class Handler(emulator.RequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True

    def __init__(self, service: Service, *args: Any) -> None:
        self.service = service
        super().__init__(service.storage, *args)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer_one(self) -> None:
        self.body = self._read_body()
        split = urllib.parse.urlsplit(self.path)
        self.url_path = split.path
        self.query = Query(urllib.parse.parse_qs(split.query, keep_blank_values=True))
        media = self.query.one("alt") == "media" or split.path.startswith("/download/")
        method = self.headers.get("X-HTTP-Method-Override") or self.command
        with self.service.lock:
            try:
                status, headers, body = self._route(method, media)
            except Refused as refused:
                status, headers = refused.status, refused.headers
                kind, body = _error(status, str(refused), media)
                headers["Content-Type"] = kind
        self.send_response(status, PHRASES.get(status) or HTTPStatus(status).phrase)
        if status in (204, 304):
            body = b""
        if status != 204:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer_one

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return bytes(body)

    def _route(self, method: str, media: bool) -> tuple[int, dict[str, str], bytes]:
        match = UPLOAD.fullmatch(self.url_path)
        if match and method in ("POST", "PUT", "DELETE"):
            return self._upload(method, urllib.parse.unquote(match["bucket"]))
        match = OBJECTS.fullmatch(self.url_path)
        if match and method in ("GET", "HEAD"):
            return self._list(urllib.parse.unquote(match["bucket"]))
        match = OBJECT.fullmatch(self.url_path)
        if match:
            bucket, key = (urllib.parse.unquote(match[name]) for name in ("bucket", "key"))
            return self._object(method, bucket, key, media)
        match = WRITE.fullmatch(self.url_path)
        if match and method == "POST":
            bucket = urllib.parse.unquote(match["bucket"] or match["composed_in"])
            self._check(self.query, bucket, urllib.parse.unquote(match["key"] or match["composed"]))
            return self._emulate(method)
        match = SESSIONS.fullmatch(self.url_path)
        if match:
            begun = [s for s in self.service.sessions.values() if s.bucket == match["bucket"]]
            return _json(sorted(s.key for s in begun if s.resource is None and not s.cancelled))
        if not PASSED_ON.fullmatch(self.url_path):
            raise Refused(404, "Not Found")
        return self._emulate(method)

    def _emulate(self, method: str) -> tuple[int, dict[str, str], bytes]:
        """Let the emulator answer."""
        self.rfile, rfile = BytesIO(self.body), self.rfile
        try:
            del self.headers["Transfer-Encoding"]
            del self.headers["Content-Length"]
            self.headers["Content-Length"] = str(len(self.body))
            request = emulator.Request(self, method)
            response = emulator.Response(self)
            for pattern, handlers in emulator.HANDLERS:
                match = re.fullmatch(pattern, request.path)
                if match and method in handlers:
                    request.set_match(match)
                    handlers[method](request, response, self.storage)
                    break
            else:
                raise Refused(501, f"The emulator has no {method} of this path.")
        finally:
            self.rfile = rfile
        content = response._content
        body = content.encode() if isinstance(content, str) else bytes(content)
        if response.status >= 400 and not body:
            raise Refused(int(response.status), response.status.phrase)
        return int(response.status), dict(response._headers), body

    def _live(self, bucket: str, key: str) -> dict[str, Any] | None:
        if bucket not in self.storage.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.storage.objects.get(bucket, {}).get(key)

    def _check(self, query: Query, bucket: str, key: str) -> None:
        """Refuse where a condition does not hold; no object is generation 0."""
        live = self._live(bucket, key) or {}
        for name, have in (
            ("Generation", int(live.get("generation", 0))),
            ("Metageneration", int(live.get("metageneration", 0))),
        ):
            want, unwanted = (query.number(f"if{name}{end}") for end in ("Match", "NotMatch"))
            if want is not None and want != have:
                raise Refused(412, CONDITION_NOT_MET)
            if unwanted is not None and unwanted == have:
                status = 304 if self.command in ("GET", "HEAD") else 412
                raise Refused(status, CONDITION_NOT_MET)

    def _object(
        self, method: str, bucket: str, key: str, media: bool
    ) -> tuple[int, dict[str, str], bytes]:
        live = self._live(bucket, key)
        generation = self.query.number("generation")
        if live is None or (generation is not None and generation != int(live["generation"])):
            raise Refused(404, f"No such object: {bucket}/{key}")
        self._check(self.query, bucket, key)
        if method == "DELETE":
            self.storage.delete_file(bucket, key)
            return 204, {}, b""
        if media and method in ("GET", "HEAD"):
            return self._download(bucket, key, live)
        return self._emulate("GET" if method == "HEAD" else method)

    def _download(
        self, bucket: str, key: str, live: dict[str, Any]
    ) -> tuple[int, dict[str, str], bytes]:
        data = self.storage.get_file(bucket, key)
        headers = {
            "Content-Type": live.get("contentType") or "application/octet-stream",
            "Accept-Ranges": "bytes",
            "X-Goog-Generation": live["generation"],
            "X-Goog-Metageneration": live["metageneration"],
            "X-Goog-Hash": f"crc32c={live['crc32c']},md5={live['md5Hash']}",
            "X-Goog-Stored-Content-Encoding": "identity",
            "X-Goog-Stored-Content-Length": live["size"],
            "ETag": live["etag"],
        }
        asked = re.fullmatch(r"\s*bytes=(\d*)-(\d*)\s*", self.headers.get("Range", ""))
        if asked is None or asked.groups() == ("", ""):
            return 200, headers, data
        first, last = (int(number) if number else None for number in asked.groups())
        if first is None:  # the last so many bytes
            assert last is not None
            if last == 0:
                raise _out_of_range(len(data))
            first, last = max(len(data) - last, 0), None
        end = len(data) if last is None else min(last + 1, len(data))
        if last is not None and last < first:
            return 200, headers, data  # no range at all
        if first >= len(data):
            raise _out_of_range(len(data))
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        return 206, headers, data[first:end]

    def _list(self, bucket: str) -> tuple[int, dict[str, str], bytes]:
        """One page: what the emulator lists, objects and prefixes in the order of their names."""
        if bucket not in self.storage.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        _, _, body = self._emulate("GET")
        listed = json.loads(body)
        found = [(item["name"], item) for item in listed["items"]]
        found += [(prefix, None) for prefix in listed["prefixes"]]
        found.sort(key=lambda pair: pair[0].encode())
        start, end = self.query.one("startOffset") or "", self.query.one("endOffset")
        token = self.query.one("pageToken")
        after = base64.urlsafe_b64decode(token).decode() if token else None
        found = [
            (name, item)
            for name, item in found
            if name >= start and not (end and name >= end) and not (after and name <= after)
        ]
        limit = min(self.query.number("maxResults") or PAGE_LENGTH, PAGE_LENGTH)
        page: dict[str, Any] = {"kind": "storage#objects"}
        if len(found) > limit:
            last = found[limit - 1][0].encode()
            page["nextPageToken"] = base64.urlsafe_b64encode(last).decode()
        items = [item for _, item in found[:limit] if item is not None]
        prefixes = [name for name, item in found[:limit] if item is None]
        page.update({k: v for k, v in (("prefixes", prefixes), ("items", items)) if v})
        return _json(page)

    def _upload(self, method: str, bucket: str) -> tuple[int, dict[str, str], bytes]:
        upload_id = self.query.one("upload_id")
        if upload_id is not None:
            return self._continue(method, upload_id)
        if method != "POST":
            raise Refused(400, "An upload begins with a POST.")
        kind, data = self.query.one("uploadType"), self.body
        meta: dict[str, Any]
        if kind == "multipart":
            meta, part_type, data = _parts(self.headers.get("Content-Type", ""), data)
            meta.setdefault("contentType", part_type)
        elif kind == "resumable":
            meta = json.loads(data) if data else {}
            meta.setdefault("contentType", self.headers.get("X-Upload-Content-Type"))
        elif kind == "media":
            meta = {"contentType": self.headers.get("Content-Type")}
        else:
            raise Refused(400, "Unknown uploadType.")
        key = self.query.one("name") or meta.get("name")
        if not key:
            raise Refused(400, "Required")
        self._check(self.query, bucket, key)
        if kind != "resumable":
            return _json(self._store(bucket, key, data, meta))
        upload_id = secrets.token_urlsafe(48)
        query = Query({**self.query, "name": [key], "upload_id": [upload_id]})
        self.service.sessions[upload_id] = Session(bucket, key, meta, query, bytearray())
        host = self.headers.get("Host") or "{}:{}".format(*self.server.server_address)
        target = f"{self.url_path}?{urllib.parse.urlencode(query, doseq=True)}"
        return 200, {"Location": f"http://{host}{target}", "X-GUploader-UploadID": upload_id}, b""

    def _store(self, bucket: str, key: str, data: bytes, meta: dict[str, Any]) -> dict[str, Any]:
        host = self.headers.get("Host") or "{}:{}".format(*self.server.server_address)
        content_type = meta.get("contentType") or "application/octet-stream"
        resource = objects._make_object_resource(
            f"http://{host}", bucket, key, content_type, str(len(data)), meta
        )
        try:
            objects._checksums(data, resource)
        except Conflict as error:
            raise Refused(400, str(error)) from None
        self.storage.create_file(bucket, key, data, resource)
        return resource

    def _continue(self, method: str, upload_id: str) -> tuple[int, dict[str, str], bytes]:
        """A chunk of a session, or a question about it."""
        session = self.service.sessions.get(upload_id)
        if session is None:
            raise Refused(404, "No such upload session.")
        if method == "DELETE" or session.cancelled:
            session.cancelled = True
            session.data.clear()
            raise Refused(499, "The upload was cancelled.")
        if session.resource is not None:
            return _json(session.resource)
        asked = self.headers.get("Content-Range")
        match = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+|\*))/(\d+|\*)", asked or "bytes 0-*/*")
        if match is None:
            raise Refused(400, f"Failed to parse Content-Range header: {asked}")
        first, last, total = match.groups()
        if first is not None:
            self._append(session, int(first), last, total)
        size = None if total == "*" else int(total)
        if asked is None or last == "*":
            size = len(session.data)
        if size is None or len(session.data) < size:
            return 308, session.range(), b""
        self._check(Query(session.query), session.bucket, session.key)
        data = bytes(session.data)
        session.resource = self._store(session.bucket, session.key, data, session.meta)
        session.data.clear()
        return _json(session.resource)

    def _append(self, session: Session, first: int, last: str, total: str) -> None:
        if last != "*" and int(last) - first + 1 != len(self.body):
            raise Refused(400, "The body is not as long as its Content-Range says.")
        if first > len(session.data):
            raise Refused(503, "The chunk begins beyond what is stored.")
        ends = last == "*" or (total != "*" and int(last) + 1 == int(total))
        if not ends and len(self.body) % CHUNK_NBYTES:
            raise Refused(400, "A chunk that is not the last is a multiple of 256 KiB.")
        session.data += self.body[len(session.data) - first :]  # what is stored already stays


CONDITION_NOT_MET = "At least one of the pre-conditions you specified did not hold."


def _json(answer: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(answer).encode()


def _error(status: int, message: str, media: bool) -> tuple[str, bytes]:
    """Return the content type and the body of an error; a download's is the bare message."""
    if media:
        return "text/html; charset=UTF-8", message.encode()
    details = {"message": message, "domain": "global", "reason": REASONS.get(status, "invalid")}
    if status == 412:
        details.update(locationType="header", location="If-Match")
    error = {"code": status, "message": message, "errors": [details]}
    return "application/json; charset=UTF-8", json.dumps({"error": error}).encode()


def _out_of_range(size: int) -> Refused:
    return Refused(416, "Request range not satisfiable", Content_Range=f"bytes */{size}")


def _parts(content_type: str, body: bytes) -> tuple[dict[str, Any], str | None, bytes]:
    """Split a multipart upload into its metadata, the type of its data, and its data."""
    match = re.search(r'boundary="?([^";]+)', content_type)
    if match is None:
        raise Refused(400, "A multipart upload needs a boundary.")
    delimiter = re.escape(b"--" + match[1].encode())
    parts = re.split(rb"(?:^|\r?\n)" + delimiter + rb"(?:--)?[ \t]*(?:\r?\n|$)", body)
    if len(parts) < 4:
        raise Refused(400, "A multipart upload has two parts.")
    meta, data = (re.split(rb"(?<=\n)\r?\n", b"\n" + part, maxsplit=1) for part in parts[1:3])
    if len(meta) < 2 or len(data) < 2:
        raise Refused(400, "A part needs headers, an empty line and its content.")
    kind = re.search(rb"(?im)^content-type:\s*(\S+)", data[0])
    return json.loads(meta[1]), kind[1].decode() if kind else None, data[1]


class Listener(ThreadingHTTPServer):
    """A thread for each connection."""

    request_queue_size = 256
    daemon_threads = True


def main() -> None:
    child.die_with_parent()
    logging.disable(logging.CRITICAL)
    server = Listener(("127.0.0.1", 0), partial(Handler, Service()))
    child.announce(server.server_address[1])
    server.serve_forever()


if __name__ == "__main__":
    main()

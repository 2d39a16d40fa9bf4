"""A small S3 in this process whose answers may be lies: a test says which.

with LyingS3() as server:
    ckptstore.save("s3://bucket/run", tree, storage_options=server.options())
    server.lie = lambda asked, honest: error(503, "SlowDown")
"""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

PIECE = bytes(1 << 20)
TIME = "2020-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        method: of HTTP.
        key: the key of the object; "" for a request about the bucket.
        query: the parameters of the URL.
        headers: names in lower case.
    """

    method: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The operation: ``list``, ``uploads`` or the method."""
        if self.method == "GET" and "list-type" in self.query:
            return "list"
        return "uploads" if self.method == "GET" and "uploads" in self.query else self.method


@dataclass
class Reply:
    """An answer.

    Attributes:
        status: of HTTP.
        body: its bytes.
        headers: without those of the length.
        endless: the body has more mebibytes than anybody wants after these bytes.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    endless: bool = False


Lie = Callable[[Asked, Reply], Reply]


def error(status: int, code: str, message: str = "") -> Reply:
    """Return an error of S3."""
    return xml(
        f"<Error><Code>{code}</Code><Message>{escape(message or code)}</Message></Error>", status
    )


def xml(text: str, status: int = 200) -> Reply:
    """Return an answer in XML."""
    body = f"<?xml version='1.0'?>{text}".encode()
    return Reply(status, body, {"Content-Type": "application/xml"})


def listing(sizes: Mapping[str, int], prefixes: Any = (), token: str | None = None) -> Reply:
    """Return a page of ListObjectsV2; with a token it is not the last."""
    rows = [
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
        f"<LastModified>{TIME}</LastModified></Contents>"
        for key, size in sizes.items()
    ]
    rows += [f"<CommonPrefixes><Prefix>{p}</Prefix></CommonPrefixes>" for p in prefixes]
    if token is not None:
        rows.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
    more = "false" if token is None else "true"
    return xml(
        f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{''.join(rows)}</ListBucketResult>"
    )


class LyingS3:
    """A server of one bucket, which answers honestly until `lie` is set.

    Attributes:
        objects: the objects by key.
        lie: turns an honest answer into the one that is sent.
        asked: the requests.
        sent: the number of bytes of bodies that were sent.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.lie: Lie | None = None
        self.asked: list[Asked] = []
        self.sent = 0
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LyingS3:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def options(self, **own: Any) -> dict[str, Any]:
        """Return the storage_options for it, with settings of this package."""
        return {
            "key": "test",
            "secret": "test",
            "endpoint_url": self.endpoint,
            "ckptstore": {"timeout": 1.0, "deadline": 1.0, **own},
        }

    def honest(self, asked: Asked, data: bytes) -> Reply:
        """Answer as S3 does."""
        held = self.objects.get(asked.key)
        if asked.kind == "list":
            return self._listing(asked)
        if asked.kind == "uploads":
            return xml(
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>"
                "</ListMultipartUploadsResult>"
            )
        if asked.method == "PUT":
            wanted = asked.headers.get("if-match")
            if asked.headers.get("if-none-match") == "*" and held is not None:
                return error(412, "PreconditionFailed")
            if wanted and held is None:
                return error(404, "NoSuchKey")
            if wanted and wanted != etag(held or b""):
                return error(412, "PreconditionFailed")
            self.objects[asked.key] = data
            return Reply(headers={"ETag": etag(data)})
        if asked.method == "DELETE":
            wanted = asked.headers.get("if-match")
            if wanted and held is not None and wanted != etag(held):
                return error(412, "PreconditionFailed")
            self.objects.pop(asked.key, None)
            return Reply(204)
        if held is None:
            return error(404, "NoSuchKey")
        given = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", ""))
        if given is None:
            return Reply(200, held, {"ETag": etag(held)})
        start, end = int(given[1]), min(int(given[2]) + 1, len(held))
        if start >= len(held):
            return error(416, "InvalidRange")
        headers = {"ETag": etag(held), "Content-Range": f"bytes {start}-{end - 1}/{len(held)}"}
        return Reply(206, held[start:end], headers)

    def _listing(self, asked: Asked) -> Reply:
        prefix, delimiter = asked.query.get("prefix", ""), asked.query.get("delimiter", "")
        sizes, prefixes = {}, dict[str, None]()
        for key in sorted(key for key in self.objects if key.startswith(prefix)):
            below = key[len(prefix) :]
            if delimiter and delimiter in below:
                prefixes[prefix + below.partition(delimiter)[0] + delimiter] = None
            else:
                sizes[key] = len(self.objects[key])
        return listing(sizes, prefixes)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: LyingS3

    def _reply(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        _, _, key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, key, query, headers)
        self.owner.asked.append(asked)
        reply = self.owner.honest(asked, self._body(headers))
        if self.owner.lie is not None:
            reply = self.owner.lie(asked, reply)
        self._send(reply)

    def _body(self, headers: Mapping[str, str]) -> bytes:
        data = self.rfile.read(int(headers.get("content-length", 0)))
        if "aws-chunked" not in headers.get("content-encoding", ""):
            return data
        parts = []
        while size := int(data.partition(b"\r\n")[0].partition(b";")[0], 16):
            start = data.index(b"\r\n") + 2
            parts.append(data[start : start + size])
            data = data[start + size + 2 :]
        return b"".join(parts)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if not reply.endless:
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)
                self.owner.sent += len(reply.body)
            return
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.wfile.write(reply.body)
            for _ in range(4096):
                self.wfile.write(PIECE)
                self.owner.sent += len(PIECE)
        except OSError:
            pass  # the client has enough

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _reply

    def log_message(self, *_: Any) -> None:
        pass


def etag(data: bytes) -> str:
    """Return the ETag of a content."""
    return f'"{hashlib.md5(data).hexdigest()}"'

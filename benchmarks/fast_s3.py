"""An S3 server that costs next to nothing, so that what is measured is the client.

    python benchmarks/fast_s3.py [SECONDS]

It holds objects in memory, in the pieces that they came in, checks no signature and no checksum,
and waits SECONDS before each answer, as a network would. It prints its port, and ends with stdin.
It knows only what the benchmark's clients ask for, and is of no use for testing.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
import threading
import time
import urllib.parse
from email.utils import formatdate
from io import BufferedReader
from xml.sax.saxutils import escape

Pieces = list[memoryview]
_IOV_MAX = 256

_objects: dict[str, tuple[Pieces, int, str]] = {}  # by path: pieces, bytes, ETag
_uploads: dict[str, dict[int, memoryview]] = {}
_lock = threading.Lock()
_numbers = itertools.count(1)
_date = formatdate(usegmt=True)


class _Connection:
    """One connection of a client, in a thread of its own."""

    def __init__(self, sock: socket.socket, delay: float) -> None:
        self.sock = sock
        self.delay = delay
        self.reader = BufferedReader(socket.SocketIO(sock, "r"), 1 << 16)

    def run(self) -> None:
        """Answer requests until the client goes away."""
        with self.sock:
            try:
                while line := self.reader.readline():
                    self._one(line.decode("latin-1"))
            except (OSError, EOFError):
                pass

    def _one(self, line: str) -> None:
        method, target, _ = line.split(" ", 2)
        headers: dict[str, str] = {}
        while header := self.reader.readline().strip():
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if "expect" in headers:
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._body(headers)
        path, _, query = target.partition("?")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        if self.delay:
            time.sleep(self.delay)
        getattr(self, f"_{method.lower()}")(urllib.parse.unquote(path), asked, headers, body)

    def _body(self, headers: dict[str, str]) -> memoryview:
        """Read the body, out of the chunks of HTTP and of AWS if it is in such."""
        if headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
            self._to_empty_line()
        elif "content-length" in headers:
            size = int(headers["content-length"])
            body = memoryview(self._exactly(size))
        else:
            return memoryview(b"")
        if "aws-chunked" in headers.get("content-encoding", ""):
            raw, at, inner = bytes(body), 0, bytearray()
            while True:
                end = raw.index(b"\r\n", at)
                size = int(raw[at:end].split(b";")[0], 16)
                if not size:
                    return memoryview(inner)
                inner += raw[end + 2 : end + 2 + size]
                at = end + 4 + size
        return body

    def _chunks(self) -> memoryview:
        body = bytearray()
        while size := int(self.reader.readline().split(b";")[0], 16):
            body += self._exactly(size)
            self.reader.readline()
        return memoryview(body)

    def _to_empty_line(self) -> None:
        while self.reader.readline().strip():
            pass

    def _exactly(self, size: int) -> bytearray:
        body = bytearray(size)
        view = memoryview(body)
        early = self.reader.peek()[:size] if size else b""
        at = self.reader.readinto(view[: len(early)]) if early else 0
        while at < size:
            got = self.sock.recv_into(view[at:], size - at, socket.MSG_WAITALL)
            if not got:
                raise EOFError
            at += got
        return body

    def _answer(
        self, status: str, body: Pieces | bytes = b"", *headers: str, size: int | None = None
    ) -> None:
        pieces = [memoryview(body)] if isinstance(body, bytes) else body
        size = sum(len(piece) for piece in pieces) if size is None else size
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", f"Date: {_date}", *headers]
        left = [memoryview("\r\n".join([*lines, "", ""]).encode()), *pieces]
        while left:
            sent = self.sock.sendmsg(left[:_IOV_MAX])
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]

    def _error(self, status: str, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _put(
        self, path: str, asked: dict[str, str], headers: dict[str, str], body: memoryview
    ) -> None:
        if "uploadId" in asked:
            _uploads[asked["uploadId"]][int(asked["partNumber"])] = body
            self._answer("200 OK", b"", f'ETag: "{next(_numbers):032x}"')
            return
        with _lock:
            have = _objects.get(path)
            if "if-none-match" in headers and have:
                refused = True
            elif "if-match" in headers:
                refused = have is None or have[2] != headers["if-match"]
            else:
                refused = False
            etag = f'"{next(_numbers):032x}"'
            if not refused:
                _objects[path] = ([body], len(body), etag)
        if refused:
            self._error("412 Precondition Failed", "PreconditionFailed")
        else:
            self._answer("200 OK", b"", f"ETag: {etag}")

    def _post(
        self, path: str, asked: dict[str, str], headers: dict[str, str], body: memoryview
    ) -> None:
        if "uploads" in asked:
            upload = f"upload-{next(_numbers)}"
            _uploads[upload] = {}
            xml = f"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{escape(path)}</Key>"
            xml += f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            self._answer("200 OK", xml.encode())
            return
        if "delete" in asked:
            for key in re.findall("<Key>(.*?)</Key>", bytes(body).decode()):
                _objects.pop(path.rstrip("/") + "/" + key, None)
            self._answer("200 OK", b"<DeleteResult></DeleteResult>")
            return
        parts = _uploads.pop(asked["uploadId"])
        pieces = [parts[number] for number in sorted(parts)]
        etag = f'"{next(_numbers):032x}"'
        _objects[path] = (pieces, sum(map(len, pieces)), etag)
        xml = f"<CompleteMultipartUploadResult><ETag>{escape(etag)}</ETag><Bucket>b</Bucket>"
        xml += f"<Key>{escape(path)}</Key><Location>x</Location></CompleteMultipartUploadResult>"
        self._answer("200 OK", xml.encode())

    def _delete(
        self, path: str, asked: dict[str, str], headers: dict[str, str], body: memoryview
    ) -> None:
        _objects.pop(path, None)
        _uploads.pop(asked.get("uploadId", ""), None)
        self._answer("204 No Content")

    def _head(
        self, path: str, asked: dict[str, str], headers: dict[str, str], body: memoryview
    ) -> None:
        found = _objects.get(path)
        if found is None:
            self._answer("404 Not Found")
        else:
            modified = f"Last-Modified: {_date}"
            self._answer("200 OK", b"", f"ETag: {found[2]}", modified, size=found[1])

    def _get(
        self, path: str, asked: dict[str, str], headers: dict[str, str], body: memoryview
    ) -> None:
        if "list-type" in asked:
            self._list(path.strip("/"), asked)
            return
        found = _objects.get(path)
        if found is None:
            self._error("404 Not Found", "NoSuchKey")
            return
        pieces, size, etag = found
        more = [f"ETag: {etag}", f"Last-Modified: {_date}", "Accept-Ranges: bytes"]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if match is None:
            self._answer("200 OK", pieces, *more)
            return
        start, stop = int(match[1]), min(int(match[2] or size - 1) + 1, size)
        if start >= size:
            self._error("416 Range Not Satisfiable", "InvalidRange")
            return
        cut, at = [], 0
        for piece in pieces:
            if at < stop and at + len(piece) > start:
                cut.append(piece[max(start - at, 0) : stop - at])
            at += len(piece)
        self._answer(
            "206 Partial Content", cut, *more, f"Content-Range: bytes {start}-{stop - 1}/{size}"
        )

    def _list(self, bucket: str, asked: dict[str, str]) -> None:
        prefix = f"/{bucket}/" + asked.get("prefix", "")
        rows, folders = [], set()
        for path, (_, size, etag) in sorted(_objects.items()):
            if not path.startswith(prefix):
                continue
            inside, slash, _ = path[len(prefix) :].partition("/")
            if slash and asked.get("delimiter"):
                folders.add(prefix + inside + "/")
                continue
            rows.append(
                f"<Contents><Key>{escape(path[len(bucket) + 2 :])}</Key><Size>{size}</Size>"
                f"<ETag>{escape(etag)}</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        rows += [
            f"<CommonPrefixes><Prefix>{escape(f[len(bucket) + 2 :])}</Prefix></CommonPrefixes>"
            for f in sorted(folders)
        ]
        text = f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>"
        self._answer("200 OK", f"{text}{''.join(rows)}</ListBucketResult>".encode())


def main() -> None:
    """Serve until stdin ends."""
    delay = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(f"PORT {listener.getsockname()[1]}", flush=True)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_Connection(sock, delay).run, daemon=True).start()


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()

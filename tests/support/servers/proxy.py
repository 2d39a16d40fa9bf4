"""A proxy in front of a server that makes requests fail, and tells which requests came.

    with FaultProxy(server) as proxy:
        proxy.at(3, DROP_AFTER)  # request 3, counted from 0, happens and its answer is lost
        ...
        assert proxy.count("PUT") == 4

Requests and answers are passed on as they are, each on a connection of its own to the server; to
the client a connection stays open. Framing may change: what came in chunks goes with its length.
"""

from __future__ import annotations

import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from io import BufferedReader
from typing import Any, Protocol
from xml.sax.saxutils import escape


class Upstream(Protocol):
    """What the proxy needs to know of a server."""

    port: int
    protocol: str

    def error_body(self, status: int, code: str) -> tuple[str, bytes]: ...

    def storage_options(self, endpoint: str | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Action:
    """What happens to a request; `after` is after the server applied it."""

    kind: str
    after: bool = False
    code: int = 0  # the status, and the error's code on S3 and on GCS
    s3: str = ""
    gcs: str = ""
    seconds: float = 0.0
    position: int | None = None  # of the byte flipped or of the cut; the middle by default
    text: str = ""  # the message of the error
    instead_of: int = 0  # only where the server itself answers with this status
    body: bytes = b""  # the whole answer, in the place of an error


DROP_BEFORE = Action("drop")
DROP_AFTER = Action("drop", after=True)
HANG_BEFORE = Action("hang")  # until the client goes away
HANG_AFTER = Action("hang", after=True)
SLOW_DOWN = Action("status", code=503, s3="SlowDown", gcs="rateLimitExceeded")
ERROR_BEFORE = Action("status", code=500, s3="InternalError", gcs="backendError")
ERROR_AFTER = replace(ERROR_BEFORE, after=True)
CONFLICT = Action("status", code=409, s3="ConditionalRequestConflict", gcs="conflict")
TRUNCATE = Action("truncate", after=True)  # the answer ends early, whatever its length says
CORRUPT_ANSWER = Action("corrupt-answer", after=True)
CORRUPT_REQUEST = Action("corrupt-request")  # the client's sums over the body stay as they were

ACTIONS = {
    "drop-before": DROP_BEFORE,
    "drop-after": DROP_AFTER,
    "hang-before": HANG_BEFORE,
    "hang-after": HANG_AFTER,
    "slow-down": SLOW_DOWN,
    "error-before": ERROR_BEFORE,
    "error-after": ERROR_AFTER,
    "conflict": CONFLICT,
    "truncate": TRUNCATE,
    "corrupt-answer": CORRUPT_ANSWER,
    "corrupt-request": CORRUPT_REQUEST,
}


def status(
    code: int, error: str, text: str = "", *, after: bool = False, instead_of: int = 0
) -> Action:
    """Answer with this status and this error; or do so only in place of a status of the server."""
    after = after or bool(instead_of)
    return Action(
        "status", after=after, code=code, s3=error, gcs=error, text=text, instead_of=instead_of
    )


def truncate(position: int) -> Action:
    """Send this many bytes of the answer's body and close."""
    return replace(TRUNCATE, position=position)


def delay(seconds: float) -> Action:
    """Wait before the request is passed on."""
    return Action("delay", seconds=seconds)


FRAMED = Action("framed")  # the server takes the chunks of a body, with their frame, for its bytes
UNCONDITIONAL = Action("unconditional")  # the server does not see the conditions of the request

_PASSING = ("pass", "delay", "corrupt-request", "framed", "unconditional")


@dataclass
class Request:
    """A request that came, whole, and what became of it."""

    number: int
    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    length: int
    action: Action | None = None
    applied: int | None = None  # the server's status; None while it was not asked
    status: int | None = None  # the status that the client was sent; None for none
    answered: int = 0  # bytes of the body that the client was sent
    tls: bool = False  # it came over TLS
    virtual: bool = False  # its bucket stood in the name of the host


Match = Callable[[Request], bool]


def matching(method: str = "", target: str = "") -> Match:
    """Return whether requests have this method and a target that the pattern is found in."""
    return lambda r: method in ("", r.method) and re.search(target, r.target) is not None


def everything(request: Request) -> bool:
    return True


@dataclass
class _Rule:
    match: Match
    actions: Sequence[Action]
    times: float
    skip: int = 0
    fraction: float = 1.0
    random: random.Random = field(default_factory=random.Random)


@dataclass
class _Message:
    """A request or an answer: its first line and headers as they came, and its body."""

    lines: list[bytes]
    headers: dict[str, str]
    body: bytes | bytearray = b""

    def head(self, drop: Sequence[str], *more: bytes) -> bytes:
        """Return the head with some headers dropped and others added."""
        names = {line: line.split(b":")[0].strip().lower().decode() for line in self.lines[1:]}
        kept = [line for line in self.lines[1:] if names[line] not in drop]
        return b"\r\n".join([self.lines[0], *kept, *more, b"", b""])


class FaultProxy:
    """Listens on `endpoint` from its making to `stop`.

    With `tls` it speaks TLS. With `domain`, which the client must resolve to this machine, it takes
    the bucket from the name of the host where it stands there, as `bucket.domain`.
    """

    def __init__(
        self, server: Upstream, *, tls: ssl.SSLContext | None = None, domain: str = ""
    ) -> None:
        self.server = server
        self._tls = tls
        self._domain = domain
        self._changed = threading.Condition()
        self._stopped = False
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.reset()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        scheme = "http" if tls is None else "https"
        self.endpoint = f"{scheme}://{domain or '127.0.0.1'}:{self.port}"
        self._start(self._accept)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def storage_options(self) -> dict[str, Any]:
        """Return what fsspec needs to reach the server through this proxy."""
        return self.server.storage_options(self.endpoint)

    # What the test says and asks.

    def reset(self) -> None:
        """Forget all rules and the log; the next request is number 0."""
        with self._changed:
            self.log: list[Request] = []
            self._rules: list[_Rule] = []
            self._at: dict[int, Action] = {}

    def at(self, number: int, action: Action) -> None:
        """Let this happen to request `number`, counted from 0 since the last `reset`."""
        with self._changed:
            self._at[number] = action

    def rule(
        self,
        match: Match,
        action: Action,
        *,
        times: float = 1,  # may be math.inf
        skip: int = 0,
    ) -> None:
        """Let this happen to the next `times` requests that match, but first pass on `skip`.

        Of the rules that match, the first that has some left acts.
        """
        with self._changed:
            self._rules.append(_Rule(match, [action], times, skip))

    def some(self, fraction: float, *actions: Action, seed: int, match: Match = everything) -> None:
        """Let one of these happen to a random fraction of the requests that match."""
        with self._changed:
            chance = random.Random(seed)
            self._rules.append(_Rule(match, actions, float("inf"), 0, fraction, chance))

    def requests(self, method: str = "", target: str = "") -> list[Request]:
        """Return the requests so far that have this method and match this pattern."""
        match = matching(method, target)
        with self._changed:
            return [request for request in self.log if match(request)]

    def count(self, method: str = "", target: str = "") -> int:
        return len(self.requests(method, target))

    def wait(self, condition: Callable[[FaultProxy], bool], timeout: float = 30) -> None:
        """Wait until the condition holds; it is asked whenever a request comes or is answered."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError("the proxy waited in vain")

    def stop(self) -> None:
        """Close every connection and wait for the threads."""
        with self._changed:
            self._stopped = True
            sockets = list(self._sockets)
        for sock in (self._listener, *sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        self._listener.close()

    # What the threads do.

    def _start(self, run: Callable[..., None], *args: Any) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=run, args=args, daemon=True, name="fault-proxy")
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._register(client):
                return
            self._start(self._serve, client)

    def _register(self, sock: socket.socket) -> bool:
        """Note a socket that `stop` has to shut; close it where `stop` was called already."""
        with self._changed:
            if not self._stopped:
                self._sockets.add(sock)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return True
        sock.close()
        return False

    def _close(self, sock: socket.socket) -> None:
        with self._changed:
            self._sockets.discard(sock)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # also where a forked child holds it open
        sock.close()

    def _serve(self, client: socket.socket) -> None:
        """Answer the requests of one connection."""
        try:
            if self._tls is not None:
                client = self._under_tls(client, self._tls)
            with _reader(client) as reader:
                while (message := _read_head(reader)) is not None:
                    if "expect" in message.headers:
                        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    _read_body(reader, message)
                    if not self._one(client, reader, message):
                        return
        except (OSError, EOFError):
            pass  # either side went away
        finally:
            self._close(client)

    def _under_tls(self, client: socket.socket, tls: ssl.SSLContext) -> socket.socket:
        with self._changed:
            self._sockets.discard(client)
        client = tls.wrap_socket(client, server_side=True)
        if not self._register(client):
            raise OSError("stopped")
        return client

    def _one(self, client: socket.socket, reader: BufferedReader, message: _Message) -> bool:
        """Answer one request and return whether the connection goes on."""
        request, action = self._arrived(message)
        if action.kind == "delay":
            time.sleep(action.seconds)
        if action.kind == "corrupt-request" and message.body:
            at = _middle(message) if action.position is None else action.position
            message.body = _flipped(message.body, at)
        if action.kind == "unconditional":
            _drop_conditions(message)
        if action.kind == "framed":
            _keep_the_frame(message)
        answer = None
        if action.after or action.kind in _PASSING:
            answer = self._ask(message)
            self._note(request, applied=int(answer.lines[0].split()[1]))
        if action.kind == "drop":
            return False
        if action.kind == "hang":
            reader.read(1)
            return False
        if action.kind == "status" and action.instead_of in (0, request.applied):
            answer = self._error(action)
        assert answer is not None
        body = answer.body
        if action.kind == "corrupt-answer" and body:
            body = _flipped(body, len(body) // 2 if action.position is None else action.position)
        head = self._answer_head(request.method, answer)
        if action.kind == "truncate":
            cut = len(body) // 2 if action.position is None else action.position
            body, head = body[:cut], head if body else head[:7]  # "HTTP/1." is no answer
        if request.method == "HEAD":
            body = b""
        self._note(request, status=int(answer.lines[0].split()[1]), answered=len(body))
        client.sendall(head)
        client.sendall(body)
        closes = "close" in message.headers.get("connection", "").lower()
        return action.kind != "truncate" and not closes

    def _arrived(self, message: _Message) -> tuple[Request, Action]:
        method, target, version = message.lines[0].decode("latin-1").split(" ", 2)
        host = message.headers.get("host", "").partition(":")[0]
        virtual = bool(self._domain) and host.endswith(f".{self._domain}")
        if virtual:
            target = f"/{host.removesuffix(f'.{self._domain}')}{target}"
            message.lines[0] = f"{method} {target} {version}".encode("latin-1")
            here = f"Host: 127.0.0.1:{self.server.port}".encode()
            message.lines = [
                here if line.lower().startswith(b"host:") else line for line in message.lines
            ]
        with self._changed:
            number = len(self.log)
            request = Request(number, method, target, message.headers, len(message.body))
            request.tls, request.virtual = self._tls is not None, virtual
            request.action = self._at.get(number) or self._by_rule(request)
            self.log.append(request)
            self._changed.notify_all()
            return request, request.action or Action("pass")

    def _by_rule(self, request: Request) -> Action | None:
        for rule in self._rules:
            if not rule.times or not rule.match(request):
                continue
            if rule.skip:
                rule.skip -= 1
            elif rule.random.random() < rule.fraction:
                rule.times -= 1
                return rule.random.choice(rule.actions)
        return None

    def _note(self, request: Request, **changes: int) -> None:
        with self._changed:
            vars(request).update(changes)
            self._changed.notify_all()

    def _ask(self, message: _Message) -> _Message:
        """Let the server answer."""
        length = b"Content-Length: %d" % len(message.body)
        framed = "content-length" in message.headers or "transfer-encoding" in message.headers
        head = message.head(
            ("connection", "expect", "transfer-encoding", "content-length"),
            *([length] if framed else []),
            b"Connection: close",
        )
        upstream = socket.create_connection(("127.0.0.1", self.server.port))
        if not self._register(upstream):
            raise EOFError
        try:
            upstream.sendall(head)
            upstream.sendall(message.body)
            with _reader(upstream) as reader:
                while True:
                    answer = _read_head(reader)
                    if answer is None:
                        raise EOFError
                    code = int(answer.lines[0].split()[1])
                    if code >= 200:
                        break
                if code not in (204, 304) and not message.lines[0].startswith(b"HEAD "):
                    _read_body(reader, answer, to_the_end=True)
            return answer
        finally:
            self._close(upstream)

    def _error(self, action: Action) -> _Message:
        code = action.s3 if self.server.protocol == "s3" else action.gcs
        kind, body = self.server.error_body(action.code, code)
        if action.body:
            kind, body = "application/xml", action.body
        if action.text:
            body = body.replace(b"Injected.", escape(action.text).encode())
        line = f"HTTP/1.1 {action.code} {HTTPStatus(action.code).phrase}".encode()
        return _Message([line, b"Content-Type: " + kind.encode()], {}, body)

    def _answer_head(self, method: str, answer: _Message) -> bytes:
        """Return the head for the client; a session that it begins goes on through the proxy."""
        here, there = b"127.0.0.1:%d" % self.port, b"127.0.0.1:%d" % self.server.port
        answer.lines = [
            line.replace(there, here) if line.lower().startswith(b"location:") else line
            for line in answer.lines
        ]
        if method == "HEAD" or answer.lines[0].split()[1] in (b"204", b"304"):
            return answer.head(("connection",))
        length = b"Content-Length: %d" % len(answer.body)
        return answer.head(("connection", "transfer-encoding", "content-length"), length)


def _reader(sock: socket.socket) -> BufferedReader:
    return BufferedReader(socket.SocketIO(sock, "r"), 1 << 18)


def _read_head(reader: BufferedReader) -> _Message | None:
    """Return the next message without its body; None where the connection ends before it."""
    lines: list[bytes] = []
    while line := reader.readline():
        line = line.rstrip(b"\r\n")
        if line:
            lines.append(line)
        elif lines:
            pairs = [line.decode("latin-1").partition(":")[::2] for line in lines[1:]]
            return _Message(lines, {name.strip().lower(): value.strip() for name, value in pairs})
    return None


def _read_body(reader: BufferedReader, message: _Message, *, to_the_end: bool = False) -> None:
    """Read the body; one without a length is empty, or what comes up to the end."""
    if message.headers.get("transfer-encoding", "").lower() == "chunked":
        body = bytearray()
        while size := int(reader.readline().split(b";")[0], 16):
            body += _exactly(reader, size)
            reader.readline()
        while reader.readline().strip():
            pass
        message.body = body
    elif "content-length" in message.headers:
        message.body = _exactly(reader, int(message.headers["content-length"]))
    elif to_the_end:
        message.body = reader.read()


def _exactly(reader: BufferedReader, size: int) -> bytes:
    data = reader.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _middle(message: _Message) -> int:
    """Return a position in the middle of the data that a request's body carries."""
    body = bytes(message.body)
    if "aws-chunked" in message.headers.get("content-encoding", ""):
        size, _, _ = body.partition(b"\r\n")
        return len(size) + 2 + int(size.split(b";")[0], 16) // 2
    if message.headers.get("content-type", "").startswith("multipart/"):
        breaks = list(re.finditer(rb"\r?\n\r?\n", body[: 1 << 16]))
        return (breaks[1].end() + body.rindex(b"\n--")) // 2
    return len(body) // 2


def _drop_conditions(message: _Message) -> None:
    """Take away the headers of S3 and the query parameters of GCS that are conditions."""
    first = re.sub(rb"&if(Metag|G)enerationMatch=\d+", b"", message.lines[0])
    rest = [line for line in message.lines[1:] if not re.match(rb"(?i)if-(none-)?match:", line)]
    message.lines = [first, *rest]


def _keep_the_frame(message: _Message) -> None:
    """Take away the headers that say that the body is in chunks with a checksum."""
    framing = re.compile(
        rb"(?i)(content-encoding|x-amz-(trailer|decoded-content-length|content-sha256|sdk-.*)):"
    )
    message.lines = [line for line in message.lines if not framing.match(line)]


def _flipped(body: bytes | bytearray, position: int) -> bytearray:
    """Return the body with one bit of one byte flipped; case and digits stay what they were."""
    changed = bytearray(body)
    changed[position] ^= 0x01
    return changed

"""The servers that the bucket tests run on: real processes on the loopback, each with its port.

`Moto` and `Ministack` are two S3 servers with little in common, `Gcs` is a Google Cloud Storage
server. Tests look at them, and tamper with them, with a client that shares nothing with ckptstore.
`FaultProxy` in `proxy.py` stands in front of any of them and makes requests fail.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from functools import cached_property
from typing import Any, ClassVar

from tests.support import ROOT

STARTS_WITHIN = 240.0  # seconds; a few on an idle machine, and a minute on a busy one


class Server:
    """A server in a process of its own. It is killed by `stop`, and dies with this process.

    `kind` names it, `protocol` is that of its URLs, `endpoint` where it listens.
    """

    kind: ClassVar[str]
    protocol: ClassVar[str]

    def __init__(self) -> None:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONWARNINGS": "ignore",
        }
        with tempfile.TemporaryFile() as errors:
            # The child reads its stdin, and exits at its end: also when this process was killed.
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.support.servers.{self.kind}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
            try:
                line = self._first_line()
                if not line.startswith(b"PORT "):
                    errors.seek(0)
                    said = errors.read().decode(errors="replace")[-4000:]
                    raise RuntimeError(f"{self.kind} did not start; it said {line!r}\n{said}")
            except BaseException:
                self.stop()
                raise
        self.port = int(line.split()[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def _first_line(self) -> bytes:
        """Return the first line of the child's stdout, or less where it ends or takes too long."""
        stdout = self._process.stdout
        assert stdout is not None
        line, deadline = b"", time.monotonic() + STARTS_WITHIN
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    break
                piece = os.read(stdout.fileno(), 1)
                if not piece:
                    break
                line += piece
        return line

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Kill the process and what it started. Its buckets were in memory only."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def storage_options(self, endpoint: str | None = None) -> dict[str, Any]:
        """Return what fsspec needs to reach this server, or a proxy at `endpoint`."""
        raise NotImplementedError

    def error_body(self, status: int, code: str) -> tuple[str, bytes]:
        """Return the content type and the body of an error as this protocol words it."""
        raise NotImplementedError

    def new_bucket(self) -> str:
        """Make an empty bucket that no other test uses, and return its name."""
        raise NotImplementedError

    def objects(self, bucket: str) -> dict[str, int]:
        """Return the sizes of all objects of a bucket, by key."""
        raise NotImplementedError

    def uploads(self, bucket: str) -> list[str]:
        """Return the keys of the uploads in parts that were begun and neither ended nor aborted."""
        raise NotImplementedError

    def get(self, bucket: str, key: str) -> bytes:
        """Return an object; KeyError where there is none."""
        raise NotImplementedError

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, whatever was there."""
        raise NotImplementedError

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        raise NotImplementedError


def _new_name() -> str:
    return f"test-{uuid.uuid4().hex[:20]}"


class S3Server(Server):
    """A server that speaks S3."""

    protocol = "s3"

    @cached_property
    def client(self) -> Any:
        """A boto3 client, which threads may share. It does not repeat requests."""
        return self.new_client(self.endpoint)

    def new_client(self, endpoint: str, **config: Any) -> Any:
        """Return a boto3 client of a server or proxy at `endpoint`; the caller closes it."""
        import boto3
        from botocore.config import Config

        settings = {
            "retries": {"total_max_attempts": 1},
            "s3": {"addressing_style": "path"},
            "max_pool_connections": 32,
            "proxies": {},
            **config,
        }
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(**settings),
        )

    def stop(self) -> None:
        if "client" in vars(self):
            self.client.close()
        super().stop()

    def storage_options(self, endpoint: str | None = None) -> dict[str, Any]:
        # The region is in the environment: given here, s3fs could not make buckets.
        return {"key": "test", "secret": "test", "endpoint_url": endpoint or self.endpoint}

    def error_body(self, status: int, code: str) -> tuple[str, bytes]:
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>Injected.</Message>"
            "<RequestId>injected</RequestId><HostId>injected</HostId></Error>"
        )
        return "application/xml", text.encode()

    def new_bucket(self) -> str:
        name = _new_name()
        self.client.create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str) -> dict[str, int]:
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            found.update({item["Key"]: item["Size"] for item in page.get("Contents", [])})
        return found

    def uploads(self, bucket: str) -> list[str]:
        answer = self.client.list_multipart_uploads(Bucket=bucket)
        assert not answer.get("IsTruncated")
        return sorted(item["Key"] for item in answer.get("Uploads", []))

    def get(self, bucket: str, key: str) -> bytes:
        try:
            with self.client.get_object(Bucket=bucket, Key=key)["Body"] as body:
                return bytes(body.read())
        except self.client.exceptions.NoSuchKey:
            raise KeyError(key) from None

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)


class Moto(S3Server):
    """moto, one request at a time; its 412 names the condition that failed, as AWS does."""

    kind = "moto"


class Ministack(S3Server):
    """ministack; its 412 does not name the condition."""

    kind = "ministack"


class Gcs(Server):
    """gcp-storage-emulator, with the conditions and the errors of the real service."""

    kind = "gcs"
    protocol = "gs"

    def storage_options(self, endpoint: str | None = None) -> dict[str, Any]:
        return {"token": "anon", "endpoint_url": endpoint or self.endpoint, "project": "test"}

    def error_body(self, status: int, code: str) -> tuple[str, bytes]:
        details = {"message": "Injected.", "domain": "global", "reason": code}
        error = {"code": status, "message": "Injected.", "errors": [details]}
        return "application/json; charset=UTF-8", json.dumps({"error": error}).encode()

    def call(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        endpoint: str | None = None,
        **query: Any,
    ) -> Answer:
        """Send one request. A path that starts with "/" is below the endpoint."""
        url = (endpoint or self.endpoint) + path if path.startswith("/") else path
        if query:
            url += "?" + urllib.parse.urlencode({k: str(v) for k, v in query.items()})
        return send(method, url, data, headers or {})

    def object_path(self, bucket: str, key: str) -> str:
        return f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(key, safe='')}"

    def new_bucket(self) -> str:
        name = _new_name()
        headers = {"Content-Type": "application/json"}
        body = json.dumps({"name": name}).encode()
        self.call("POST", "/storage/v1/b", body, headers, project="test").expect(200)
        return name

    def objects(self, bucket: str) -> dict[str, int]:
        found: dict[str, int] = {}
        query: dict[str, Any] = {}
        while True:
            page = self.call("GET", f"/storage/v1/b/{bucket}/o", **query).expect(200).json()
            found.update({item["name"]: int(item["size"]) for item in page.get("items", [])})
            if "nextPageToken" not in page:
                return found
            query["pageToken"] = page["nextPageToken"]

    def uploads(self, bucket: str) -> list[str]:
        # Not of the real service, which shows its sessions to nobody.
        return list(self.call("GET", f"/test/sessions/{bucket}").expect(200).json())

    def get(self, bucket: str, key: str) -> bytes:
        answer = self.call("GET", self.object_path(bucket, key), alt="media")
        if answer.status == 404:
            raise KeyError(key)
        return answer.expect(200).body

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.insert(bucket, key, data).expect(200)

    def insert(self, bucket: str, key: str, data: bytes, **query: Any) -> Answer:
        """Send an object in one request, under conditions."""
        path = f"/upload/storage/v1/b/{bucket}/o"
        headers = {"Content-Type": "application/octet-stream"}
        return self.call("POST", path, data, headers, uploadType="media", name=key, **query)

    def delete(self, bucket: str, key: str) -> None:
        self.call("DELETE", self.object_path(bucket, key)).expect(204, 404)


class Answer:
    """What a server answered."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers  # names in lower case
        self.body = body

    def expect(self, *statuses: int) -> Answer:
        assert self.status in statuses, (self.status, self.body[:1000])
        return self

    def json(self) -> Any:
        return json.loads(self.body)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """308 is an answer here, not a redirect."""


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())


def send(
    method: str, url: str, data: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Send one request on a connection of its own and return the answer, of whatever status."""
    request = urllib.request.Request(url, data, headers or {}, method=method)
    try:
        response = _opener.open(request, timeout=60)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        names = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, names, response.read())

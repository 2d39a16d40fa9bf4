"""The servers and the proxy that the bucket tests rest on do what those tests assume of them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import botocore.exceptions
import gcsfs
import google_crc32c
import pytest
import s3fs

from tests.support import ROOT
from tests.support.servers import Answer, Gcs, S3Server, Server, child, send
from tests.support.servers.proxy import (
    ACTIONS,
    CONFLICT,
    DROP_AFTER,
    ERROR_BEFORE,
    HANG_BEFORE,
    SLOW_DOWN,
    FaultProxy,
    delay,
    matching,
    status,
    truncate,
)

KEYS = ["a", "a b", "a+b%41#?&=;", "dir/sub/ключ-é-日本", "dir//x", "q'\"<>|~*"]
NASTY = b"abc\r"


class Bucket:
    """One key of a bucket under conditions, in the same words on every server."""

    def __init__(self, server: Server, name: str, endpoint: str | None = None) -> None:
        self.server, self.name, self.endpoint = server, name, endpoint or server.endpoint
        if isinstance(server, S3Server):
            self.client = server.new_client(self.endpoint)

    def close(self) -> None:
        if isinstance(self.server, S3Server):
            self.client.close()

    def _s3(self, operation: str, **arguments: Any) -> tuple[int, str]:
        try:
            answer = getattr(self.client, operation)(Bucket=self.name, **arguments)
        except botocore.exceptions.ClientError as error:
            answer = error.response
            return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer.get("ETag", "")

    def _gcs(self, answer: Answer) -> tuple[int, str]:
        if answer.status >= 400:
            return answer.status, answer.json()["error"]["errors"][0]["reason"]
        return answer.status, answer.json()["generation"] if answer.body else ""

    def put(self, key: str, data: bytes, condition: str | None = None) -> tuple[int, str]:
        """Return the status, and the new version or the error. The condition: "" is "absent"."""
        if isinstance(self.server, S3Server):
            conditions = {} if condition is None else {"IfMatch": condition}
            conditions = {"IfNoneMatch": "*"} if condition == "" else conditions
            return self._s3("put_object", Key=key, Body=data, **conditions)
        assert isinstance(self.server, Gcs)
        query = {} if condition is None else {"ifGenerationMatch": condition or "0"}
        path = f"/upload/storage/v1/b/{self.name}/o"
        query.update(uploadType="media", name=key)
        return self._gcs(
            self.server.call("POST", path, data, endpoint=self.endpoint, headers=BINARY, **query)
        )

    def delete(self, key: str, condition: str | None = None) -> tuple[int, str]:
        if isinstance(self.server, S3Server):
            conditions = {} if condition is None else {"IfMatch": condition}
            return self._s3("delete_object", Key=key, **conditions)
        assert isinstance(self.server, Gcs)
        query = {} if condition is None else {"ifGenerationMatch": condition}
        path = self.server.object_path(self.name, key)
        return self._gcs(self.server.call("DELETE", path, endpoint=self.endpoint, **query))

    def get(self, key: str) -> bytes:
        if isinstance(self.server, S3Server):
            with self.client.get_object(Bucket=self.name, Key=key)["Body"] as body:
                return bytes(body.read())
        assert isinstance(self.server, Gcs)
        path = self.server.object_path(self.name, key)
        return self.server.call("GET", path, endpoint=self.endpoint, alt="media").expect(200).body


BINARY = {"Content-Type": "application/octet-stream"}
NO_VERSION = {"s3": '"00000000000000000000000000000000"', "gs": "12345"}
REFUSED = {"s3": (412, "PreconditionFailed"), "gs": (412, "conditionNotMet")}
MISSING = {"s3": (404, "NoSuchKey"), "gs": (404, "notFound")}


@pytest.fixture
def place(server: Server, bucket: str) -> Iterator[Bucket]:
    with closing(Bucket(server, bucket)) as direct:
        yield direct


@pytest.fixture
def proxied(server: Server, bucket: str, proxy: FaultProxy) -> Iterator[Bucket]:
    with closing(Bucket(server, bucket, proxy.endpoint)) as through:
        yield through


# The servers.


def test_what_is_stored_comes_back(server: Server, bucket: str) -> None:
    for number, key in enumerate(KEYS):
        server.put(bucket, key, NASTY * number)
    assert server.objects(bucket) == {key: 4 * number for number, key in enumerate(KEYS)}
    assert [server.get(bucket, key) for key in KEYS] == [NASTY * n for n in range(len(KEYS))]
    assert server.uploads(bucket) == []
    for key in KEYS:
        server.delete(bucket, key)
        server.delete(bucket, key)
    assert server.objects(bucket) == {}
    with pytest.raises(KeyError):
        server.get(bucket, KEYS[0])
    assert server.new_bucket() != bucket


def test_an_object_is_created_once(place: Bucket, server: Server) -> None:
    made, version = place.put("key", b"first", "")
    assert made == 200
    assert place.put("key", b"second", "") == REFUSED[server.protocol]
    assert place.get("key") == b"first"
    assert place.put("key", b"third", version)[0] == 200
    assert place.get("key") == b"third"


def test_an_object_is_replaced_where_it_is_what_was_seen(place: Bucket, server: Server) -> None:
    _, version = place.put("key", b"first")
    no_version = NO_VERSION[server.protocol]
    assert place.put("key", b"second", no_version) == REFUSED[server.protocol]
    assert place.get("key") == b"first"
    assert place.put("key", b"third", version)[0] == 200
    assert place.put("key", b"fourth", version) == REFUSED[server.protocol]
    assert place.get("key") == b"third"
    # What S3 documents for a key that is not there; GCS has no such case.
    want = MISSING if server.protocol == "s3" else REFUSED
    assert place.put("other", b"", no_version) == want[server.protocol]
    assert server.objects(place.name) == {"key": 5}


def test_an_object_is_deleted_where_it_is_what_was_seen(place: Bucket, server: Server) -> None:
    _, version = place.put("key", b"first")
    assert place.delete("key", NO_VERSION[server.protocol]) == REFUSED[server.protocol]
    assert server.objects(place.name) == {"key": 5}
    assert place.delete("key", version)[0] == 204
    assert server.objects(place.name) == {}
    assert place.delete("key", version) == MISSING[server.protocol]


@pytest.mark.parametrize("rival", ["create", "replace", "delete"])
def test_of_sixteen_at_once_one_wins(place: Bucket, server: Server, rival: str) -> None:
    start = threading.Barrier(16)
    refused = {REFUSED[server.protocol], MISSING[server.protocol]}
    versions = [place.put(f"key-{n}", b"base")[1] if rival != "create" else "" for n in range(20)]

    def attempt(job: tuple[int, int]) -> tuple[bytes, tuple[int, str]]:
        turn, number = job
        key, data = f"key-{turn}", b"%d of turn %d" % (number, turn)
        start.wait()
        if rival == "delete":
            return data, place.delete(key, versions[turn])
        return data, place.put(key, data, versions[turn])

    with ThreadPoolExecutor(16) as pool:
        for turn in range(20):
            answers = list(pool.map(attempt, [(turn, number) for number in range(16)]))
            won = [data for data, (code, _) in answers if code < 300]
            assert len(won) == 1
            assert {answer for _, answer in answers if answer[0] >= 300} <= refused
            if rival != "delete":
                assert place.get(f"key-{turn}") == won[0]


def test_one_request_at_a_time_is_let_in() -> None:
    inside: list[int] = []

    def application(environ: dict[str, Any], start_response: object) -> Iterator[bytes]:
        inside.append(len(environ["wsgi.input"].read()))
        time.sleep(0.01)
        yield b"%d" % len(inside)
        inside.pop()

    locked = child.OneAtATime(application)

    def ask(number: int) -> list[bytes]:
        return locked({"CONTENT_LENGTH": "3", "wsgi.input": io.BytesIO(b"data")}, None)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(16))) == [[b"1"]] * 16


def test_an_upload_in_parts_is_seen(s3: S3Server) -> None:
    bucket = s3.new_bucket()
    begun = s3.client.create_multipart_upload(Bucket=bucket, Key="key")
    assert s3.uploads(bucket) == ["key"]
    assert s3.objects(bucket) == {}
    s3.client.abort_multipart_upload(Bucket=bucket, Key="key", UploadId=begun["UploadId"])
    assert s3.uploads(bucket) == []


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # of gcsfs
def test_fsspec_reaches_the_server(server: Server, bucket: str, proxy: FaultProxy) -> None:
    make = s3fs.S3FileSystem if server.protocol == "s3" else gcsfs.GCSFileSystem
    data = random.Random(1).randbytes(9 << 20)
    for options in (server.storage_options(), proxy.storage_options()):
        fs = make(**options, skip_instance_cache=True, use_listings_cache=False)
        fs.pipe_file(f"{bucket}/small", b"data")
        assert fs.cat_file(f"{bucket}/small", start=1, end=3) == b"at"
        with fs.open(f"{bucket}/large", "wb", block_size=6 << 20) as file:
            file.write(data)  # in parts, or in a session whose URL the server told
        assert fs.cat_file(f"{bucket}/large") == data
        fs.pipe_file(f"{bucket}/once", b"first", mode="create")
        with pytest.raises(OSError):
            fs.pipe_file(f"{bucket}/once", b"second", mode="create")
        found = {"small": 4, "large": len(data), "once": 5}
        assert server.objects(bucket) == found
        assert {name.split("/")[1] for name in fs.find(bucket)} == set(found)
        fs.rm_file(f"{bucket}/once")
    assert proxy.count() >= 8 and proxy.count("DELETE") == 1
    assert server.uploads(bucket) == []


def test_a_server_dies_with_who_started_it() -> None:
    script = (
        "from tests.support import servers; import time; s = servers.Gcs(); "
        "print(s.pid, s.port, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid, port = map(int, parent.stdout.readline().split())
        socket.create_connection(("127.0.0.1", port)).close()
        parent.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionError:
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the server outlived its parent")


def test_a_server_that_does_not_start_says_why() -> None:
    class Unknown(Gcs):
        kind = "unknown"

    with pytest.raises(RuntimeError, match=r"No module named tests\.support\.servers\.unknown"):
        Unknown()


# What only the Google server is asked.


def session(gcs: Gcs, bucket: str, key: str, meta: object = None, **query: object) -> Answer:
    path, body = f"/upload/storage/v1/b/{bucket}/o", json.dumps(meta or {}).encode()
    headers = {"Content-Type": "application/json"}
    return gcs.call("POST", path, body, headers, uploadType="resumable", name=key, **query)


def test_gcs_ranges(gcs: Gcs) -> None:
    bucket = gcs.new_bucket()
    gcs.put(bucket, "key", b"0123456789")
    path = gcs.object_path(bucket, "key")

    def get(asked: str) -> tuple[int, bytes, str | None]:
        answer = gcs.call("GET", path, headers={"Range": f"bytes={asked}"}, alt="media")
        return answer.status, answer.body, answer.headers.get("content-range")

    assert get("2-4") == (206, b"234", "bytes 2-4/10")
    assert get("8-") == (206, b"89", "bytes 8-9/10")
    assert get("8-99") == (206, b"89", "bytes 8-9/10")
    assert get("-3") == (206, b"789", "bytes 7-9/10")
    assert get("10-12")[::2] == (416, "bytes */10")
    assert get("4-2") == (200, b"0123456789", None)
    whole = gcs.call("GET", path, alt="media")
    meta = gcs.call("GET", path).json()
    assert whole.headers["x-goog-generation"] == meta["generation"]
    assert whole.headers["content-length"] == "10"
    gcs.put(bucket, "key", b"new")
    assert gcs.call("GET", path, alt="media", generation=meta["generation"]).status == 404
    assert gcs.call("GET", path, alt="media", ifGenerationMatch=meta["generation"]).status == 412
    assert int(gcs.call("GET", path).json()["generation"]) > int(meta["generation"])


def test_gcs_sums(gcs: Gcs) -> None:
    bucket = gcs.new_bucket()
    meta = gcs.insert(bucket, "key", NASTY).json()
    md5 = base64.b64encode(hashlib.md5(NASTY).digest()).decode()
    crc32c = base64.b64encode(google_crc32c.Checksum(NASTY).digest()).decode()
    assert (meta["md5Hash"], meta["crc32c"], meta["size"]) == (md5, crc32c, "4")
    whole = gcs.call("GET", gcs.object_path(bucket, "key"), alt="media")
    assert whole.headers["x-goog-hash"] == f"crc32c={crc32c},md5={md5}"
    begun = session(gcs, bucket, "other", {"md5Hash": md5})
    assert gcs.call("PUT", begun.headers["location"], b"else").status == 400
    assert gcs.objects(bucket) == {"key": 4}


def test_gcs_lists(gcs: Gcs) -> None:
    bucket = gcs.new_bucket()
    for key in ("a/1", "a/2", "a/b/3", "a/b/4", "a/c", "z"):
        gcs.put(bucket, key, b"")

    def pages(**query: object) -> list[tuple[list[str], list[str]]]:
        found, token = [], {}
        while True:
            page = gcs.call("GET", f"/storage/v1/b/{bucket}/o", **query, **token).expect(200).json()
            found.append(([i["name"] for i in page.get("items", [])], page.get("prefixes", [])))
            if "nextPageToken" not in page:
                return found
            token = {"pageToken": page["nextPageToken"]}

    assert pages(prefix="a/", delimiter="/") == [(["a/1", "a/2", "a/c"], ["a/b/"])]
    assert pages(prefix="a/", delimiter="/", maxResults=2) == [
        (["a/1", "a/2"], []),
        (["a/c"], ["a/b/"]),
    ]
    assert [len(names) for names, _ in pages(maxResults=4)] == [4, 2]
    assert pages(prefix="none") == [([], [])]
    assert pages(startOffset="a/b/4", endOffset="z") == [(["a/b/4", "a/c"], [])]
    assert gcs.call("GET", "/storage/v1/b/no-such-bucket/o").status == 404


def test_gcs_multipart_keeps_every_byte(gcs: Gcs) -> None:
    bucket = gcs.new_bucket()
    for end in (b"\n", b"\r\n"):
        for number, data in enumerate([b"", NASTY, b"\r\n\r\n", b"\n--other--\n", b"a\n\nb" * 3]):
            meta = json.dumps({"name": f"key-{number}"}).encode()
            parts = (
                b"Content-Type: application/json" + end * 2 + meta,
                end.join([b"A: b", b"", data]),
            )
            body = b"".join(b"--=frame=" + end + part + end for part in parts) + b"--=frame=--"
            headers = {"Content-Type": 'multipart/related; boundary="=frame="'}
            path = f"/upload/storage/v1/b/{bucket}/o"
            gcs.call("POST", path, body, headers, uploadType="multipart").expect(200)
            lost = end == b"\n" and data.endswith(b"\r")  # it looks like part of the frame
            assert gcs.get(bucket, f"key-{number}") == (data[:-1] if lost else data)


def test_gcs_sessions(gcs: Gcs) -> None:
    bucket, chunk = gcs.new_bucket(), random.Random(2).randbytes(256 << 10)
    url = session(gcs, bucket, "a b#é").expect(200).headers["location"]
    assert gcs.uploads(bucket) == ["a b#é"]

    def put(data: bytes, content_range: str) -> tuple[int, str | None]:
        answer = gcs.call("PUT", url, data, {"Content-Range": f"bytes {content_range}"})
        return answer.status, answer.headers.get("range")

    size = len(chunk)
    assert put(b"", "*/*") == (308, None)
    assert put(chunk, f"0-{size - 1}/*") == (308, f"bytes=0-{size - 1}")
    assert put(b"", f"*/{size + 3}") == (308, f"bytes=0-{size - 1}")
    assert put(b"abc", f"{size}-{size + 2}/*")[0] == 400  # neither a multiple nor the last
    assert put(b"abc", f"{2 * size}-{2 * size + 2}/{2 * size + 3}")[0] == 503  # a gap
    assert put(chunk, f"0-{size - 1}/{size + 3}") == (308, f"bytes=0-{size - 1}")  # again
    assert gcs.objects(bucket) == {}
    assert put(b"abc", f"{size}-{size + 2}/{size + 3}") == (200, None)
    assert put(b"", "*/*") == (200, None)  # as it was, for who lost the answer
    assert gcs.get(bucket, "a b#é") == chunk + b"abc"
    assert gcs.uploads(bucket) == []

    url = session(gcs, bucket, "gone").expect(200).headers["location"]
    assert gcs.call("DELETE", url).status == 499
    assert put(b"abc", "0-2/3")[0] == 499
    url = session(gcs, bucket, "empty").expect(200).headers["location"]
    assert put(b"", "*/0")[0] == 200
    assert set(gcs.objects(bucket)) == {"a b#é", "empty"}


def test_gcs_checks_a_session_when_it_begins_and_when_it_ends(gcs: Gcs) -> None:
    bucket = gcs.new_bucket()
    url = session(gcs, bucket, "key", ifGenerationMatch=0).expect(200).headers["location"]
    gcs.put(bucket, "key", b"rival")
    for address in (url, url.replace("ifGenerationMatch=0&", "")):
        assert gcs.call("PUT", address, b"data").status == 412
    assert gcs.get(bucket, "key") == b"rival"
    assert session(gcs, bucket, "key", ifGenerationMatch=0).status == 412


def test_gcs_refuses_what_would_escape_the_conditions(gcs: Gcs) -> None:
    bucket = gcs.new_bucket()
    gcs.put(bucket, "key", b"data")
    assert send("PUT", f"{gcs.endpoint}/{bucket}/key", b"other").status == 404
    path = gcs.object_path(bucket, "copy").replace("/storage/v1", "")
    copied = f"{gcs.object_path(bucket, 'key')}/rewriteTo{path}"
    gcs.call("POST", copied, b"", ifGenerationMatch=0).expect(200)
    assert gcs.call("POST", copied, b"", ifGenerationMatch=0).status == 412
    assert gcs.objects(bucket) == {"key": 4, "copy": 4}


# The proxy.

DATA = random.Random(3).randbytes(50_000)

# What `put` and then `get` of the object, each under the action, end in; and whether the put
# happened. An exception's name stands for "no answer".
OUTCOMES = {
    "drop-before": ("lost", "lost", False),
    "drop-after": ("lost", "lost", True),
    "hang-before": ("lost", "lost", False),
    "hang-after": ("lost", "lost", True),
    "slow-down": (503, 503, False),
    "error-before": (500, 500, False),
    "error-after": (500, 500, True),
    "conflict": (409, 409, False),
    "truncate": ("lost", "lost", True),
    "corrupt-answer": (200, "other", True),
    "corrupt-request": (200, 200, True),
}


def plain(
    proxy: FaultProxy, method: str, path: str, body: bytes | None = None, timeout: float = 60
) -> Answer | None:
    """Ask on a connection of its own; return None for no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=timeout)
    with closing(connection):
        try:
            connection.request(method, path, body, BINARY if body is not None else {})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        except (OSError, http.client.HTTPException):
            return None


def addresses(server: Server, bucket: str, key: str) -> tuple[str, str, str]:
    """Return the method and the targets that write and that read an object."""
    if isinstance(server, Gcs):
        query = urllib.parse.urlencode({"uploadType": "media", "name": key})
        read = server.object_path(bucket, key) + "?alt=media"
        return "POST", f"/upload/storage/v1/b/{bucket}/o?{query}", read
    assert isinstance(server, S3Server)
    arguments = {"Bucket": bucket, "Key": key}
    write = server.client.generate_presigned_url("put_object", arguments)
    read = server.client.generate_presigned_url("get_object", arguments)
    return "PUT", *(url.removeprefix(server.endpoint) for url in (write, read))


@pytest.mark.parametrize("name", ACTIONS)
def test_each_action_does_what_it_says(
    server: Server, bucket: str, proxy: FaultProxy, name: str
) -> None:
    action = ACTIONS[name]
    method, write, read = addresses(server, bucket, "key")

    def outcome(answer: Answer | None, want: bytes | None) -> int | str:
        if answer is None:
            return "lost"
        return (
            "other"
            if answer.status == 200 and answer.body != (want or answer.body)
            else answer.status
        )

    proxy.at(0, action)
    patience = 0.5 if action.kind == "hang" else 60
    put = plain(proxy, method, write, DATA, patience)
    if OUTCOMES[name][2]:
        proxy.wait(lambda p: p.log[0].applied is not None)
    happened = "key" in server.objects(bucket)
    stored = server.get(bucket, "key") if happened else None
    server.put(bucket, "key", DATA)
    proxy.at(1, action)
    got = plain(proxy, "GET", read, timeout=patience)
    assert (outcome(put, None), outcome(got, DATA), happened) == OUTCOMES[name]
    if stored is not None:
        changed = [a ^ b for a, b in zip(stored, DATA, strict=True) if a != b]
        assert changed == ([1] if name == "corrupt-request" else [])

    first, second = proxy.log
    assert (first.method, first.target, first.length) == (method, write, len(DATA))
    assert first.headers["content-length"] == str(len(DATA))
    assert (second.method, second.target, second.length) == ("GET", read, 0)
    assert first.action == second.action == action
    assert (first.applied == 200) == happened
    assert first.status == (put.status if put else 200 if name == "truncate" else None)
    if name == "truncate":
        assert (second.status, second.answered) == (200, len(DATA) // 2)
    if got is not None:
        assert (second.status, second.answered) == (got.status, len(got.body))
    if got is not None and got.status >= 400:
        code = action.s3 if server.protocol == "s3" else action.gcs
        assert code.encode() in got.body

    third = plain(proxy, "GET", read)
    assert third is not None and third.body == DATA and proxy.log[2].action is None


def test_clients_understand_the_errors(proxied: Bucket, proxy: FaultProxy, server: Server) -> None:
    for number, action in enumerate((SLOW_DOWN, CONFLICT, status(429, "tooMany"))):
        proxy.at(number, action)
        code = action.s3 if server.protocol == "s3" else action.gcs
        assert proxied.put("key", b"data") == (action.code, code)
    assert proxied.put("key", b"data")[0] == 200
    assert proxy.count() == 4


def test_rules_are_counted(proxied: Bucket, proxy: FaultProxy) -> None:
    writes = r"uploadType|/key$"
    proxy.rule(matching(target=writes), ERROR_BEFORE, times=2, skip=1)
    assert [proxied.put("key", b"data")[0] for _ in range(5)] == [200, 500, 500, 200, 200]
    assert [request.number for request in proxy.log] == [0, 1, 2, 3, 4]
    assert [r.number for r in proxy.requests(target=writes) if r.status == 500] == [1, 2]
    assert proxy.count("DELETE") == 0
    proxied.delete("key")
    assert proxy.count("DELETE") == 1
    proxy.rule(matching("DELETE"), ERROR_BEFORE)
    proxy.reset()
    assert proxied.delete("key")[0] in (204, 404) and proxy.log[0].number == 0


def test_a_random_fraction_fails(proxied: Bucket, proxy: FaultProxy) -> None:
    def codes(seed: int) -> list[int]:
        proxy.reset()
        proxy.some(0.4, ERROR_BEFORE, CONFLICT, seed=seed)
        return [proxied.put("key", b"data")[0] for _ in range(40)]

    first = codes(1)
    assert first == codes(1) != codes(2)
    assert set(first) == {200, 500, 409} and 5 <= first.count(200) <= 35


def test_a_delay_and_a_cut_where_they_were_asked(
    server: Server, bucket: str, proxy: FaultProxy
) -> None:
    server.put(bucket, "key", b"0123456789")
    _, _, read = addresses(server, bucket, "key")
    proxy.at(0, delay(0.3))
    begun = time.monotonic()
    answer = plain(proxy, "GET", read)
    assert time.monotonic() - begun >= 0.3
    assert answer is not None and answer.body == b"0123456789"
    proxy.at(1, truncate(3))
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port)) as connection:
        connection.request("GET", read)
        with pytest.raises(http.client.IncompleteRead) as cut:
            connection.getresponse().read()
    assert (cut.value.partial, cut.value.expected) == (b"012", 7)


def test_a_connection_stays_open(server: Server, bucket: str, proxy: FaultProxy) -> None:
    """Also over HEAD, chunks, an expected 100, an injected error and an empty answer."""
    method, write, read = addresses(server, bucket, "key")
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection:
        connection.connect()
        local = connection.sock.getsockname()

        def ask(*args: Any, **more: Any) -> tuple[int, bytes]:
            connection.request(*args, **more)
            answer = connection.getresponse()
            return answer.status, answer.read()

        assert ask(method, write, iter([b"one", b"two"]), BINARY, encode_chunked=True)[0] == 200
        assert ask("GET", read) == (200, b"onetwo")
        assert ask(method, write, b"three", {**BINARY, "Expect": "100-continue"})[0] == 200
        proxy.at(3, SLOW_DOWN)
        assert ask("GET", read)[0] == 503
        proxy.at(4, SLOW_DOWN)
        assert ask("HEAD", read) == (503, b"")
        assert ask("HEAD", read)[1] == b""
        assert ask("GET", read) == (200, b"three")
        assert connection.sock.getsockname() == local
    assert proxy.count() == 7


def test_large_bodies_and_many_connections(server: Server, bucket: str, proxy: FaultProxy) -> None:
    data = random.Random(4).randbytes(64 << 20)
    begun = time.monotonic()
    with closing(Bucket(server, bucket, proxy.endpoint)) as through:
        assert through.put("large", data)[0] == 200
        assert through.get("large") == data
        took = time.monotonic() - begun
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: through.put(f"key-{n}", DATA), range(64)))
    assert took < 20
    assert len(server.objects(bucket)) == 65 and proxy.count() == 66
    assert sorted(request.number for request in proxy.log) == list(range(66))


def test_a_proxy_stops_while_requests_hang(server: Server, bucket: str) -> None:
    with FaultProxy(server) as proxy, ThreadPoolExecutor(4) as pool:
        proxy.rule(lambda _: True, HANG_BEFORE, times=4)
        _, _, read = addresses(server, bucket, "key")
        asked = [pool.submit(send, "GET", proxy.endpoint + read) for _ in range(4)]
        proxy.wait(lambda p: len(p.log) == 4)
        proxy.stop()
        for future in asked:
            assert isinstance(future.exception(10), (OSError, http.client.HTTPException))
    with pytest.raises(OSError):
        send("GET", proxy.endpoint + read)


def test_a_session_goes_on_through_the_proxy(gcs: Gcs) -> None:
    bucket = gcs.new_bucket()
    with FaultProxy(gcs) as proxy:
        path, headers = f"/upload/storage/v1/b/{bucket}/o", {"Host": f"127.0.0.1:{gcs.port}"}
        query = {"uploadType": "resumable", "name": "key"}
        begun = gcs.call("POST", path, b"", headers, endpoint=proxy.endpoint, **query)
        assert begun.headers["location"].startswith(proxy.endpoint)
        proxy.at(1, DROP_AFTER)
        with pytest.raises((OSError, http.client.HTTPException)):
            gcs.call("PUT", begun.headers["location"], b"data")
        assert gcs.call("PUT", begun.headers["location"], b"").expect(200).json()["size"] == "4"
        assert proxy.count() == 3

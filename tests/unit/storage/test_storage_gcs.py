"""Google Cloud Storage through gcsfs: the contract of every storage, and what only it has."""

from __future__ import annotations

import datetime
import json
import math
import os
import threading
from collections.abc import Callable
from typing import Any

import google.auth.exceptions
import google_crc32c
import numpy as np
import pytest
from google.oauth2.credentials import Credentials

import ckptstore
from ckptstore import storage as storage_package
from ckptstore.errors import CheckpointError, StorageError
from ckptstore.storage import Storage
from ckptstore.storage.clients import gcs_api, gcs_errors
from ckptstore.storage.clients.base import ABSENT, Failure, Kind, Settings, Upload
from ckptstore.storage.clients.gcs import GCSClient, _encoded
from tests.support.servers import Gcs
from tests.support.servers.proxy import (
    ACTIONS,
    CORRUPT_ANSWER,
    CORRUPT_REQUEST,
    DROP_AFTER,
    DROP_BEFORE,
    ERROR_AFTER,
    ERROR_BEFORE,
    HANG_AFTER,
    SLOW_DOWN,
    TRUNCATE,
    Action,
    FaultProxy,
    matching,
    status,
)
from tests.support.storage_contract import StorageContract

MIB = 1 << 20
PART = 8 * MIB
KEYS = ["run/a b", "run/100%41", "run/a#b?c&d=e+f", "run//x", "run/é ключ 日本", "run/q'\"<>|*~"]
CHUNK = matching("POST", "upload_id=")
INSERT = matching("POST", "uploadType=media")


@pytest.fixture
def server(gcs: Gcs) -> Gcs:
    return gcs


@pytest.fixture
def client(bucket: str, proxy: FaultProxy) -> GCSClient:
    return connect(bucket, proxy)


def connect(bucket: str, proxy: FaultProxy, timeout: float = 10.0, **options: Any) -> GCSClient:
    return GCSClient(bucket, proxy.storage_options() | options, Settings(timeout=timeout))


def fails(kind: Kind, call: Callable[..., Any], *arguments: Any) -> Failure:
    with pytest.raises(Failure) as raised:
        call(*arguments)
    assert raised.value.kind is kind, str(raised.value)
    return raised.value


class TestGCS(StorageContract):
    @pytest.fixture
    def storage(self, gcs: Gcs, bucket: str) -> Storage:
        self.server = gcs
        return storage_package.open(f"gs://{bucket}/run/step", self.options())

    def options(self) -> dict[str, Any]:
        return self.server.storage_options()

    def test_a_deleted_object_is_missing_though_its_size_was_asked(self, place: Storage) -> None:
        place.put("data", [b"0123456789"], 10)
        place.sizes(["data"])
        with self.again(place) as other:
            other.delete("data")
        with pytest.raises(FileNotFoundError):
            place.get("data", 0, bytearray(10))


# One request each.


@pytest.mark.parametrize(
    "data",
    [b"", b"\r", b"abc\r", b"\n", b"abc\r\n", b"--==0==\r\n--==0==--\n", b"\0" * 70000],
)
def test_every_byte_is_stored(client: GCSClient, gcs: Gcs, bucket: str, data: bytes) -> None:
    client.put("key", data, ABSENT)
    assert gcs.get(bucket, "key") == data
    assert client.read("key", 1 << 20)[0] == data
    if data:
        buffer = bytearray(len(data))
        client.get("key", 0, buffer)
        assert buffer == data


def test_any_key_is_stored(client: GCSClient, gcs: Gcs, bucket: str) -> None:
    for key in KEYS:
        client.put(key, key.encode())
        assert gcs.get(bucket, key) == key.encode()
        assert client.read(key, 100)[0] == key.encode()
    assert client.page("run/", None).sizes == {key: len(key.encode()) for key in KEYS}
    assert client.page("", None, delimiter="/").prefixes == ["run/"]
    for key in KEYS:
        client.delete(key)
    assert gcs.objects(bucket) == {}


def test_an_empty_object_has_a_version(client: GCSClient, proxy: FaultProxy) -> None:
    client.put("key", b"")
    proxy.reset()
    data, version = client.read("key", 10)
    assert data == b""
    assert proxy.count() <= 2
    client.put("key", b"more", version)
    fails(Kind.CONDITION, client.put, "key", b"again", version)


def test_a_version_is_a_generation(client: GCSClient, proxy: FaultProxy) -> None:
    fails(Kind.CONDITION, client.put, "key", b"1", client.foreign)
    client.put("key", b"1", ABSENT)
    fails(Kind.CONDITION, client.put, "key", b"2", ABSENT)
    fails(Kind.CONDITION, client.put, "key", b"2", client.foreign)
    _, version = client.read("key", 10)
    client.put("key", b"1", version)  # the same bytes are another version
    _, other = client.read("key", 10)
    assert int(other) > int(version)
    fails(Kind.CONDITION, client.delete, "key", version)
    client.delete("key", other)
    fails(Kind.MISSING, client.delete, "key", other)
    assert proxy.count() == 10


def test_the_bytes_read_are_of_the_version_where_no_header_says_it(
    client: GCSClient, gcs: Gcs, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = proxy._answer_head
    monkeypatch.setattr(
        proxy, "_answer_head", lambda *it: head(*it).replace(b"X-Goog-Generation", b"X-Other")
    )
    client.put("key", b"one")
    data, version = client.read("key", 10)
    assert data == b"one"
    client.put("key", b"two", version)

    ask, asked = client._api.ask, []

    def replaced(method: str, *arguments: Any) -> Any:
        asked.append(method)
        if len(asked) == 3:
            gcs.put(bucket, "key", b"other")
        return ask(method, *arguments)

    monkeypatch.setattr(client._api, "ask", replaced)
    fails(Kind.AGAIN, client.read, "key", 10)
    assert client.read("key", 10)[0] == b"other"


def test_a_range_is_filled_or_refused(client: GCSClient) -> None:
    client.put("key", b"0123456789")
    buffer = bytearray(4)
    client.get("key", 3, buffer)
    assert buffer == b"3456"
    client.get("key", 0, memoryview(buffer)[1:3])
    assert buffer == b"3016"
    fails(Kind.SHORT, client.get, "key", 8, buffer)
    fails(Kind.SHORT, client.get, "key", 10, buffer)
    fails(Kind.MISSING, client.get, "other", 0, buffer)


def test_a_listing_goes_on(client: GCSClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptstore.storage.clients.gcs._PAGE_LENGTH", 2)
    for name in ("a", "b", "c/1", "c/2", "d"):
        client.put(f"run/{name}", b"x")
    sizes: dict[str, int] = {}
    prefixes: list[str] = []
    token, pages = None, 0
    while pages == 0 or token:
        page = client.page("run/", token, delimiter="/")
        sizes |= page.sizes
        prefixes += page.prefixes
        assert page.changed.keys() == page.sizes.keys()
        token, pages = page.token, pages + 1
    assert (sorted(sizes), prefixes, pages) == (["run/a", "run/b", "run/d"], ["run/c/"], 2)


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_a_failed_request_is_sent_once(bucket: str, proxy: FaultProxy, name: str) -> None:
    connect(bucket, proxy, timeout=10.0).put("key", b"0123456789" * 100)
    client = connect(bucket, proxy, timeout=0.5)
    calls = (
        lambda: client.put("key", b"0123456789" * 100),
        lambda: client.page("", None),
        lambda: client.begin("key", 1),
    )
    for call in calls:
        proxy.reset()
        proxy.rule(matching(), ACTIONS[name], times=math.inf)
        try:
            call()
            assert name.startswith("corrupt")  # a bit of a name, which nothing vouches for
        except Failure as failure:
            assert failure.kind is Kind.AGAIN
        # aiohttp asks again itself where a connection ends that it had used before
        assert proxy.count() <= 1 + (proxy.log[0].method == "GET")


# Parts.


def upload(client: GCSClient, data: bytes, key: str = "key", patience: int = 8) -> int:
    """Send an object in parts, each again as long as that may help; return how often it had to."""
    begun, repeated = client.begin(key, len(data)), 0
    for number, start in enumerate(range(0, len(data), PART), 1):
        for tries in range(patience):
            try:
                client.part(begun, number, start, data[start : start + PART], tries)
                break
            except Failure as failure:
                if failure.kind is not Kind.AGAIN or tries == patience - 1:
                    raise
                repeated += 1
    client.finish(begun, [])
    return repeated


@pytest.fixture(scope="module")
def large() -> bytes:
    return os.urandom(20 * MIB + 17)


def test_parts_become_an_object(
    client: GCSClient, gcs: Gcs, bucket: str, proxy: FaultProxy, large: bytes
) -> None:
    assert upload(client, large) == 0
    assert gcs.get(bucket, "key") == large
    assert proxy.count() == 4
    sums = [request.headers.get("x-goog-hash") for request in proxy.log]
    assert sums[:3] == [None, None, None]
    assert sums[3] == f"crc32c={_encoded(google_crc32c.value(large))}"
    assert client._sessions == {}


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize(
    "action",
    [DROP_BEFORE, DROP_AFTER, SLOW_DOWN, ERROR_BEFORE, ERROR_AFTER, TRUNCATE, HANG_AFTER],
    ids=lambda action: f"{action.kind}-{action.after}-{action.code}",
)
def test_a_part_that_failed_goes_on_where_the_store_is(
    gcs: Gcs, bucket: str, proxy: FaultProxy, large: bytes, action: Action, part: int
) -> None:
    client = connect(bucket, proxy, timeout=1.0 if action is HANG_AFTER else 10.0)
    proxy.rule(CHUNK, action, skip=part)
    assert upload(client, large) == 1
    assert gcs.get(bucket, "key") == large
    sent = [r.length for r in proxy.log if CHUNK(r) and r.length]
    assert len(sent) == (3 if action.after else 4)  # what had arrived is not sent again


def test_what_the_store_did_not_take_is_sent_again(
    client: GCSClient, gcs: Gcs, bucket: str, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, ranges = client._send, []

    def shortened(session: Any, asked: str, crc: int | None, data: Any = None) -> Any:
        """The store takes 256 KiB less than it was sent, at first."""
        ranges.append(asked)
        if len(ranges) in (1, 3) and data is not None:
            first = int(asked.split()[1].split("-")[0])
            data = data[: (len(data) - 1) // (MIB // 4) * (MIB // 4)]
            asked = f"bytes {first}-{first + len(data) - 1}/{len(large)}"
            crc = None
        return send(session, asked, crc, data)

    monkeypatch.setattr(client, "_send", shortened)
    assert upload(client, large) == 0
    assert gcs.get(bucket, "key") == large
    assert len(ranges) == 5


def test_a_truncated_request_is_continued(
    gcs: Gcs, bucket: str, proxy: FaultProxy, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(bucket, proxy, timeout=10.0)
    pieces, cut = gcs_api._pieces, []

    async def ends_early(view: memoryview) -> Any:
        async for piece in pieces(view):
            yield piece
            if not cut and view.nbytes == PART:
                cut.append(piece.nbytes)
                raise ConnectionResetError("in the middle")

    monkeypatch.setattr(gcs_api, "_pieces", ends_early)
    assert upload(client, large) == 1
    assert cut
    assert gcs.get(bucket, "key") == large


def test_a_part_damaged_on_its_way_leaves_no_object(
    client: GCSClient, gcs: Gcs, bucket: str, proxy: FaultProxy, large: bytes
) -> None:
    proxy.rule(CHUNK, CORRUPT_REQUEST, skip=1)
    with pytest.raises(Failure, match="damaged") as raised:
        upload(client, large)
    assert raised.value.kind is Kind.REFUSED
    assert gcs.objects(bucket) == {}


def test_an_upload_that_was_given_up_is_gone(client: GCSClient, gcs: Gcs, bucket: str) -> None:
    begun = client.begin("key", 2 * PART)
    assert gcs.uploads(bucket) == ["key"]
    assert client.uploads("") == []
    session = client._sessions[begun.id]
    client.part(begun, 1, 0, bytes(PART), 0)
    client.abort(begun)
    assert gcs.uploads(bucket) == []
    client.abort(begun)
    fails(Kind.MISSING, client.finish, begun, [])
    client._sessions[begun.id] = session
    fails(Kind.REFUSED, client.part, begun, 2, PART, bytes(PART), 1)
    assert gcs.objects(bucket) == {}


# Damage.


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("swap", [False, True])
def test_what_a_commit_left_damaged_is_replaced(
    client: GCSClient, gcs: Gcs, bucket: str, proxy: FaultProxy, times: int, swap: bool
) -> None:
    condition = ABSENT
    if swap:
        client.put("key", b"old")
        condition = client.read("key", 10)[1]
    proxy.rule(INSERT, CORRUPT_REQUEST, times=times)
    client.put("key", b"0123456789", condition)
    assert gcs.get(bucket, "key") == b"0123456789"


def test_damage_that_stays_is_a_failure_and_leaves_nothing_created(
    client: GCSClient, gcs: Gcs, bucket: str, proxy: FaultProxy
) -> None:
    proxy.rule(INSERT, CORRUPT_REQUEST, times=math.inf)
    assert "damaged" in str(fails(Kind.AGAIN, client.put, "key", b"0123456789", ABSENT))
    assert gcs.objects(bucket) == {}
    proxy.reset()
    proxy.rule(INSERT, CORRUPT_REQUEST)
    fails(Kind.AGAIN, client.put, "key", b"0123456789")
    assert proxy.count() == 1
    client.put("key", b"0123456789")
    assert gcs.get(bucket, "key") == b"0123456789"


def test_a_damaged_answer_is_no_crash(client: GCSClient, proxy: FaultProxy) -> None:
    client.put("key", b"0123456789")
    for position in range(0, proxy.log[0].answered, 7):
        proxy.rule(INSERT, Action("corrupt-answer", after=True, position=position))
        try:
            client.put("key", b"0123456789")
        except Failure as failure:
            assert failure.kind is Kind.AGAIN
    proxy.rule(matching("POST", "uploadType=resumable"), CORRUPT_ANSWER)
    client.begin("key", 1)


# What failures mean.


def error(reason: str, message: str = "It says why.") -> bytes:
    return json.dumps({"error": {"message": message, "errors": [{"reason": reason}]}}).encode()


@pytest.mark.parametrize(
    ("code", "body", "where", "kind", "reason"),
    [
        (304, b"", "object", Kind.CONDITION, "storage"),
        (400, error("invalid", "Invalid bucket name: 'B'"), "object", Kind.REFUSED, "no-bucket"),
        (400, error("required", "Requester pays."), "object", Kind.REFUSED, "permission"),
        (
            400,
            error("invalid", 'Provided CRC32C "a" doesn\'t match calculated CRC32C "b".'),
            "bucket",
            Kind.AGAIN,
            "storage",
        ),
        (401, error("authError", "Invalid Credentials"), "object", Kind.REFUSED, "credentials"),
        (403, error("forbidden"), "bucket", Kind.REFUSED, "permission"),
        (403, error("accountDisabled", "Billing."), "object", Kind.REFUSED, "permission"),
        (403, error("rateLimitExceeded"), "object", Kind.AGAIN, "storage"),
        (403, error("userRateLimitExceeded"), "object", Kind.AGAIN, "storage"),
        (404, b"No such object: b/The specified bucket", "object", Kind.MISSING, "storage"),
        (404, b"The specified bucket does not exist.", "object", Kind.REFUSED, "no-bucket"),
        (404, error("notFound", "Not Found"), "bucket", Kind.REFUSED, "no-bucket"),
        (404, b"Not Found", "upload", Kind.REFUSED, "storage"),
        (408, b"", "object", Kind.AGAIN, "storage"),
        (409, error("conflict"), "object", Kind.AGAIN, "storage"),
        (410, b"", "upload", Kind.REFUSED, "storage"),
        (412, error("conditionNotMet"), "bucket", Kind.CONDITION, "storage"),
        (416, b"Request range not satisfiable", "object", Kind.SHORT, "storage"),
        (429, error("rateLimitExceeded"), "object", Kind.AGAIN, "storage"),
        (502, b"<html>Bad Gateway</html>", "object", Kind.AGAIN, "storage"),
        (503, b'{"error": 3}', "object", Kind.AGAIN, "storage"),
    ],
)
def test_an_answer_means(code: int, body: bytes, where: str, kind: Kind, reason: str) -> None:
    failure = gcs_errors.answered(code, body, where)
    assert (failure.kind, failure.reason, failure.answered) == (kind, reason, True)
    assert str(code) in str(failure)


def test_a_bucket_that_is_not_there(proxy: FaultProxy) -> None:
    client = connect("no-such-bucket", proxy)
    for call in (
        lambda: client.read("key", 1),
        lambda: client.get("key", 0, bytearray(1)),
        lambda: client.put("key", b"x", ABSENT),
        lambda: client.put("key", b"x", client.foreign),
        lambda: client.begin("key", 1),
        lambda: client.page("", None),
    ):
        failure = fails(Kind.REFUSED, call)
        assert failure.reason == "no-bucket"


def test_a_store_that_is_not_there(gcs: Gcs) -> None:
    client = GCSClient("b", gcs.storage_options("http://127.0.0.1:1"), Settings(timeout=5))
    assert not fails(Kind.AGAIN, client.read, "key", 1).answered
    assert client.endpoint == "http://127.0.0.1:1"


def test_the_endpoint_shows_no_password(gcs: Gcs) -> None:
    client = GCSClient("b", gcs.storage_options("http://me:secret@localhost:1/"), Settings())
    assert client.endpoint == "http://localhost:1"


# Credentials.

TOKEN = "ya29.a-secret-of-this-test"


def test_a_token_is_sent_and_never_shown(bucket: str, proxy: FaultProxy) -> None:
    client = connect(bucket, proxy, timeout=0.5, token=Credentials(TOKEN))
    begun = client.begin("key", PART)
    session = client._sessions[begun.id]
    secrets = [TOKEN, session.uri.query["upload_id"]]
    assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in proxy.log)
    said = [repr(begun), repr(session), repr(client)]
    actions = [
        *ACTIONS.values(),
        Action("truncate", after=True, position=0),
        *(status(code, "") for code in (400, 401, 403, 404, 410)),
    ]
    for action in actions:
        for call in (
            lambda: client.part(begun, 1, 0, b"x" * MIB, 0),
            lambda: client.read("key", 1),
            lambda: client.put("key", b"x", ABSENT),
            lambda: client.abort(Upload("key", begun.id, 1)),
        ):
            proxy.reset()
            client._sessions[begun.id] = session
            proxy.rule(matching(), action, times=math.inf)
            try:
                call()
            except Failure as failure:
                said.append(str(failure))
                assert failure.__cause__ is None
    assert len(said) > 50
    assert not [text for text in said for secret in secrets if secret in text]


def test_what_a_proxy_repeats_of_a_request_is_not_shown() -> None:
    page = f"<html>/upload/storage/v1/b/x/o?uploadType=resumable&upload_id={TOKEN} not found, "
    page += f"Authorization: Bearer {TOKEN}, ?access_token={TOKEN}</html>"
    for where in ("object", "upload"):
        assert TOKEN not in str(gcs_errors.answered(404, page.encode(), where))
    assert TOKEN not in str(gcs_errors.failure_of(ValueError(page)))


def test_credentials_that_expired_are_refused(bucket: str, proxy: FaultProxy) -> None:
    past = datetime.datetime(2020, 1, 1)
    client = connect(bucket, proxy, token=Credentials(TOKEN, expiry=past))
    failure = fails(Kind.REFUSED, client.read, "key", 1)
    assert failure.reason == "credentials"
    assert TOKEN not in str(failure)
    assert proxy.count() == 0
    with pytest.raises(StorageError) as raised:
        ckptstore.load(
            f"gs://{bucket}/run",
            storage_options=proxy.storage_options() | {"token": Credentials(TOKEN, expiry=past)},
        )
    assert raised.value.reason == "credentials"


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (google.auth.exceptions.RefreshError("no", {}), Kind.REFUSED, "credentials"),
        (google.auth.exceptions.RefreshError("no", retryable=True), Kind.AGAIN, "unavailable"),
        (google.auth.exceptions.TransportError("no"), Kind.AGAIN, "unavailable"),
        (google.auth.exceptions.DefaultCredentialsError("no"), Kind.REFUSED, "credentials"),
        (ValueError("Provided token is either not valid, or expired."), Kind.REFUSED, None),
        (OSError("no"), Kind.AGAIN, "storage"),
    ],
)
def test_an_exception_means(error: Exception, kind: Kind, reason: str | None) -> None:
    wrapped = RuntimeError("a library's own")
    wrapped.__cause__ = error
    failure = gcs_errors.failure_of(error)
    assert (failure.kind, failure.reason) == (kind, reason or "credentials")
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        assert gcs_errors.failure_of(wrapped).kind is kind


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"access": "all"}, "bad-options"),
        ({"no_such_option": 1}, "bad-options"),
        ({"token": {"a": 1}}, "credentials"),
        ({"token": 3}, "credentials"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(StorageError) as raised:
        ckptstore.load("gs://bucket/run", storage_options={"token": "anon"} | options)
    assert raised.value.reason == reason


def test_whoever_pays_is_named(bucket: str, proxy: FaultProxy) -> None:
    client = connect(bucket, proxy, requester_pays="my project")
    client.put("key", b"x")
    client.read("key", 1)
    client.page("", None)
    client.delete("key")
    assert all("userProject=my%20project" in request.target for request in proxy.log)


# Whole checkpoints.


def test_a_checkpoint_is_saved_loaded_and_overwritten(bucket: str, proxy: FaultProxy) -> None:
    url, options = f"gs://{bucket}/run/step 1", proxy.storage_options()
    large = np.random.default_rng(1).random((1300, 1000))  # 10 MB: two parts
    first = {"w": large, "step": 3, "name": "é\r\n"}
    ckptstore.save(url, first, storage_options=options)
    loaded = ckptstore.load(url, storage_options=options)
    assert loaded["name"] == first["name"]
    assert loaded["w"].tobytes() == large.tobytes()
    assert ckptstore.verify(url, storage_options=options) == []
    with pytest.raises(CheckpointError):
        ckptstore.save(url, first, storage_options=options)
    ckptstore.save(url, {"w": large[:5]}, overwrite=True, storage_options=options)
    assert ckptstore.load(url, storage_options=options)["w"].tobytes() == large[:5].tobytes()
    assert ckptstore.verify(url, storage_options=options) == []


def test_many_saves_at_once_have_one_winner(gcs: Gcs, bucket: str) -> None:
    url, options = f"gs://{bucket}/run", gcs.storage_options()
    start, won = threading.Barrier(4), []

    def save(number: int) -> None:
        start.wait()
        try:
            ckptstore.save(url, {"n": np.full(1000, number)}, storage_options=options)
            won.append(number)
        except CheckpointError:
            pass

    threads = [threading.Thread(target=save, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert ckptstore.load(url, storage_options=options)["n"][0] == won[0]
    assert ckptstore.verify(url, storage_options=options) == []


def test_a_copy_that_takes_several_calls_goes_on_with_the_token_of_the_last(
    client: GCSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    answers = [(False, 1 * MIB, "one"), (False, 2 * MIB, "two"), (True, 3 * MIB, None)]

    def told(method: str, url: Any, *_: Any, **__: Any) -> Any:
        asked.append(url.query.get("rewriteToken"))
        return answers[len(asked) - 1]

    monkeypatch.setattr(client._api, "ask", told)
    client.copy("run/other/data", "run/step/data", 3 * MIB)
    assert asked == [None, "one", "two"]
    asked.clear()
    answers[1:] = [(False, 1 * MIB, "two")]  # it would go on for ever
    fails(Kind.AGAIN, client.copy, "run/other/data", "run/step/data", 3 * MIB)

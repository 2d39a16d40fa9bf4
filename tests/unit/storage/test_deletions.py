"""Deleting many objects of S3 by few requests, and by single ones where the store wants that."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import pytest

from ckptstore import StorageError
from ckptstore import storage as storage_package
from ckptstore.checkpoint import deletion, garbage
from ckptstore.format import names
from ckptstore.storage.bucket import BucketStorage
from tests.support.places import BucketPlace
from tests.support.servers import S3Server, policies
from tests.support.servers.policies import deletes, deletes_many, enforce, lists
from tests.support.servers.proxy import (
    CORRUPT_ANSWER,
    DROP_AFTER,
    SLOW_DOWN,
    TRUNCATE,
    Action,
    FaultProxy,
    Request,
    status,
)

ATTEMPT = "a" * 32


def data_of(number: int) -> str:
    return names.file_name("data", ATTEMPT, 0, number)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3) as proxy:
        yield proxy


@pytest.fixture
def storage(s3: S3Server, proxy: FaultProxy, place: BucketPlace) -> Iterator[BucketStorage]:
    options = proxy.storage_options() | {"ckptstore": {"timeout": 20.0, "deadline": 60.0}}
    with storage_package.open(place.url, options) as storage:
        assert isinstance(storage, BucketStorage)
        yield storage


@pytest.fixture
def place(s3: S3Server) -> BucketPlace:
    place = BucketPlace(s3)
    for number in range(5):
        place.put(data_of(number))
    return place


def requests(proxy: FaultProxy) -> tuple[int, int]:
    """Return how many requests deleted many objects, and how many one."""
    log = [request for request in proxy.log if deletes(request)]
    many = len([*filter(deletes_many, log)])
    return many, len(log) - many


@pytest.mark.parametrize(
    ("batch", "count"), [(10, 25), pytest.param(1000, 2500, marks=pytest.mark.whole)]
)
def test_a_discarded_attempt_takes_a_request_for_each_thousand_files(
    batch: int,
    count: int,
    s3: S3Server,
    proxy: FaultProxy,
    place: BucketPlace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ckptstore.storage.clients.s3._DELETED_AT_ONCE", batch)
    monkeypatch.setattr("ckptstore.storage.connect._clients", {})
    for number in range(5, count):
        place.put(data_of(number))
    place.put("notes.txt")
    with storage_package.open(place.url, proxy.storage_options()) as storage:
        assert deletion.discard(storage, ATTEMPT, ()) is None
    assert place.files() == {"notes.txt"}
    assert requests(proxy) == (3, 0)
    assert len(proxy.log) == 3 + len([*filter(lists, proxy.log)])


def test_a_collector_aborts_what_is_unfinished_and_deletes_the_rest_at_once(
    proxy: FaultProxy, place: BucketPlace, storage: BucketStorage
) -> None:
    assert len(garbage.collect(storage, -60.0)) == 5
    assert place.files() == set()
    assert requests(proxy) == (1, 2)  # the files; the probe and the mark
    assert len([r for r in proxy.log if policies.lists_uploads(r)]) == 2


def answer(storage: BucketStorage, gone: int, failed: int, code: str) -> bytes:
    """Return an answer that says of one object that it is deleted, and of another why not."""
    prefix = storage._prefix
    return (
        "<DeleteResult>"
        f"<Deleted><Key>{prefix}{data_of(gone)}</Key></Deleted>"
        f"<Error><Key>{prefix}{data_of(failed)}</Key><Code>{code}</Code><Message>no</Message>"
        "</Error></DeleteResult>"
    ).encode()


def test_what_an_answer_does_not_name_as_deleted_is_asked_for_by_itself(
    proxy: FaultProxy, place: BucketPlace, storage: BucketStorage
) -> None:
    """One is named as deleted, of one there is an error, and of three the answer says nothing."""
    proxy.rule(deletes_many, Action("status", code=200, body=answer(storage, 0, 1, "SlowDown")))
    storage.delete_many([data_of(number) for number in range(5)])
    assert place.files() == {data_of(0)}  # the store lied
    assert requests(proxy) == (1, 4)


def test_an_object_that_the_store_keeps_keeps_no_other(
    proxy: FaultProxy, place: BucketPlace, storage: BucketStorage
) -> None:
    def kept(request: Request) -> bool:
        return request.method == "DELETE" and data_of(1) in request.target

    body = answer(storage, 0, 1, "AccessDenied")
    proxy.rule(deletes_many, Action("status", code=200, body=body))
    proxy.rule(kept, policies.HELD_BY_S3, times=math.inf)
    with pytest.raises(StorageError, match=data_of(1)) as caught:
        storage.delete_many([data_of(number) for number in range(5)])
    assert caught.value.reason == "retained"
    assert place.files() == {data_of(0), data_of(1)}


@pytest.mark.parametrize(
    "refusal",
    [
        status(501, "NotImplemented"),
        status(405, "MethodNotAllowed"),
        status(400, "InvalidRequest", "Missing required header for this request: Content-MD5"),
    ],
    ids=["501", "405", "400"],
)
def test_a_store_without_such_requests_is_asked_once_a_process(
    refusal: Action, proxy: FaultProxy, place: BucketPlace, storage: BucketStorage
) -> None:
    proxy.rule(deletes_many, refusal, times=math.inf)
    storage.delete_many([data_of(0), data_of(1)])
    assert requests(proxy) == (1, 2)
    with storage_package.open(
        place.url, proxy.storage_options() | {"ckptstore": {"timeout": 20.0, "deadline": 60.0}}
    ) as again:
        again.delete_many([data_of(number) for number in range(5)])
    assert requests(proxy) == (1, 7)
    assert place.files() == set()


def test_a_store_that_denies_deletion_says_which_permission_it_takes(
    proxy: FaultProxy, place: BucketPlace, storage: BucketStorage
) -> None:
    enforce(proxy, policies.NO_DELETE)
    with pytest.raises(StorageError, match=r"needs s3:DeleteObject\)") as caught:
        storage.delete_many([data_of(0), data_of(1)])
    assert caught.value.reason == "permission" and len(place.files()) == 5
    proxy.reset()  # the permission is given
    storage.delete_many([data_of(0), data_of(1)])
    assert requests(proxy) == (1, 0) and len(place.files()) == 3


@pytest.mark.parametrize("fault", [DROP_AFTER, TRUNCATE, CORRUPT_ANSWER, SLOW_DOWN])
def test_one_fault_of_the_request_is_survived(
    fault: Action, proxy: FaultProxy, place: BucketPlace, storage: BucketStorage
) -> None:
    proxy.rule(deletes_many, fault)
    storage.delete_many([data_of(number) for number in range(5)])
    assert place.files() == set()


def test_a_store_that_does_not_answer_is_not_asked_for_each_object(
    proxy: FaultProxy, place: BucketPlace, storage: BucketStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptstore.storage.retry._UNREACHABLE", 0.3)
    proxy.rule(deletes, DROP_AFTER, times=math.inf)
    with pytest.raises(StorageError) as caught:
        storage.delete_many([data_of(number) for number in range(5)])
    assert caught.value.reason == "unavailable"
    assert requests(proxy)[1] == 0


def test_a_bucket_with_versions_says_once_that_no_room_is_freed(
    s3: S3Server, place: BucketPlace, storage: BucketStorage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ckptstore")
    s3.client.put_bucket_versioning(
        Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    storage.delete_many([data_of(0), data_of(1)])
    storage.delete_many([data_of(2), data_of(3)])
    assert caplog.text.count("NoncurrentVersionExpiration") == 1
    assert place.files() == {data_of(4)}

"""Buckets as companies set them up: each works, or is refused by name with a way on that works."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.storage import proof
from tests.support import bucket_faults, store_life
from tests.support.servers import Gcs, Moto, policies, tls
from tests.support.servers.policies import Policy, enforce
from tests.support.servers.proxy import FaultProxy, status
from tests.support.store_remedies import follow

TREE = store_life.tree(1)


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    """A moto that takes parts of `bucket_faults.PART_NBYTES`."""
    yield from bucket_faults.moto_of_small_parts()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket_faults.make_small(monkeypatch.setattr)
    proof._proven.clear()


def sent(proxy: FaultProxy, kind: Callable[[Any], bool]) -> int:
    """Return how many requests of a kind came and were not refused."""
    return sum(kind(request) and request.action is None for request in proxy.log)


def refused(call: Callable[[], Any]) -> ckptstore.StorageError:
    with pytest.raises(ckptstore.StorageError) as caught:
        call()
    return caught.value


# Headers that a policy demands.

KEYS = {"key": policies.KEY}
DEMANDS: dict[str, tuple[Policy, str]] = {
    "kms": (policies.NEEDS_KMS, "ServerSideEncryption"),
    "acl": (policies.NEEDS_ACL, "ACL"),
    "requester-pays": (policies.REQUESTER_PAYS, "requester_pays"),
}


@pytest.mark.follows(
    "storage.clients.s3_remedies",
    "the bucket's policy may demand more, to be passed in storage_options:",
)
@pytest.mark.follows(
    "storage.clients.s3_remedies",
    "ask for permission to read, write, list and delete there",
)
@pytest.mark.parametrize(
    "demand",
    [pytest.param(d, marks=[] if d == "kms" else pytest.mark.ci) for d in DEMANDS],
)
def test_a_policy_that_demands_a_header_is_named_before_the_data_and_the_option_reaches_all_writes(
    demand: str, moto: Moto, guarded: FaultProxy
) -> None:
    policy, word = DEMANDS[demand]
    enforce(guarded, policy)
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    error = refused(lambda: ckptstore.save(url, TREE, storage_options=options))
    assert error.reason == "permission"
    assert not [r for r in guarded.log if "data-" in r.target]
    again = follow(str(error), options, word, **KEYS)
    assert store_life.lived(url, again) == store_life.CALLS
    if demand != "requester-pays":
        for kind in (policies.begins, policies.puts):
            assert sent(guarded, kind)
        assert [r for r in guarded.log if "x-amz-copy-source" in r.headers and not r.action]
        assert [r for r in guarded.log if "PROBE-" in r.target and not r.action]


def test_a_policy_that_demands_tls_is_named_and_the_endpoint_of_https_works(
    moto: Moto, tmp_path: Path
) -> None:
    context, trusted = tls.certify(tmp_path)
    url = f"s3://{moto.new_bucket()}/run"
    with FaultProxy(moto) as plain, FaultProxy(moto, tls=context) as secure:
        enforce(plain, policies.NEEDS_TLS)
        enforce(secure, policies.NEEDS_TLS)
        options = plain.storage_options()
        error = refused(lambda: ckptstore.save(url, TREE, storage_options=options))
        assert error.reason == "permission" and "an endpoint_url with https://" in str(error)
        options |= {"endpoint_url": secure.endpoint, "client_kwargs": {"verify": str(trusted)}}
        assert store_life.lived(url, options) == store_life.CALLS
        assert any("aws-chunked" in r.headers.get("content-encoding", "") for r in secure.log)


def test_an_option_that_no_request_takes_is_refused(moto: Moto) -> None:
    """A typing error would store the data without the encryption that was asked for."""
    options = moto.storage_options()
    wrong = options | {"s3_additional_kwargs": {"ServersideEncryption": "aws:kms"}}
    url = f"s3://{moto.new_bucket()}/run"
    error = refused(lambda: ckptstore.save(url, TREE, storage_options=wrong))
    assert error.reason == "bad-options" and "ServersideEncryption" in str(error)
    assert "ServerSideEncryption, SSEKMSKeyId and ACL" in str(error)
    right = options | {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms"}}
    ckptstore.save(url, TREE, storage_options=right)


@pytest.mark.follows(
    "storage.clients.s3_remedies",
    "ask for the permissions kms:GenerateDataKey and kms:Decrypt on the key, and check that it "
    "is enabled and in the bucket's region, or pass another key in "
    'storage_options={"s3_additional_kwargs": {}}',
)
def test_a_key_that_you_may_not_use_is_named_and_another_works(
    moto: Moto, guarded: FaultProxy
) -> None:
    bucket, options = moto.new_bucket(), guarded.storage_options()
    for name, policy in (("denied", policies.NO_KEY), ("disabled", policies.KEY_DISABLED)):
        guarded.reset()
        save = functools.partial(ckptstore.save, f"s3://{bucket}/{name}", TREE)
        ((match, action),) = policy
        needs_other = policies.without(
            "x-amz-server-side-encryption-aws-kms-key-id", policies.KEY, of=match
        )
        enforce(guarded, [(needs_other, action)])
        error = refused(functools.partial(save, storage_options=options))
        assert "kms:GenerateDataKey and kms:Decrypt" in str(error)
        save(storage_options=follow(str(error), options, "SSEKMSKeyId", **KEYS))


@pytest.mark.follows(
    "storage.clients.s3_remedies",
    "leave ACL out of s3_additional_kwargs",
)
def test_a_bucket_without_acls_names_the_option_to_leave_out(
    moto: Moto, guarded: FaultProxy
) -> None:
    enforce(guarded, policies.NO_ACLS)
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    wrong = options | {"s3_additional_kwargs": {"ACL": "bucket-owner-full-control"}}
    error = refused(lambda: ckptstore.save(url, TREE, storage_options=wrong))
    assert "leave ACL out of s3_additional_kwargs" in str(error)
    ckptstore.save(url, TREE, storage_options=options)


def test_keys_of_your_own_reach_reads_writes_parts_and_copies(
    moto: Moto, guarded: FaultProxy
) -> None:
    own = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    header = "x-amz-server-side-encryption-customer-key"
    objects = lambda r: policies.writes(r) or policies.parts(r) or policies.reads(r)  # noqa: E731
    enforce(guarded, [(policies.without(header, of=objects), policies.denied("s3:*"))])
    copies = lambda r: "x-amz-copy-source" in r.headers  # noqa: E731
    source = "x-amz-copy-source-server-side-encryption-customer-key"
    enforce(guarded, [(policies.without(source, of=copies), status(400, "InvalidRequest"))])
    # boto sends such a key over TLS alone, unless it is told otherwise
    options = guarded.storage_options() | {"s3_additional_kwargs": own}
    assert store_life.lived(f"s3://{moto.new_bucket()}/run", options) == store_life.CALLS
    assert not [r for r in guarded.log if r.action]
    assert [r for r in guarded.log if copies(r)]


# Object Lock and versions.


def locked_bucket(moto: Moto) -> str:
    name = f"locked-{len(moto.client.list_buckets()['Buckets'])}-{id(moto)}"
    moto.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    moto.client.put_object_lock_configuration(
        Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    return name


@pytest.mark.follows(
    "storage.clients.s3_remedies",
    "leave request_checksum_calculation out of config_kwargs, and of the environment "
    "(AWS_REQUEST_CHECKSUM_CALCULATION)",
)
def test_a_bucket_with_object_lock_works_and_its_demand_for_sums_is_named(
    moto: Moto, guarded: FaultProxy
) -> None:
    enforce(guarded, policies.NEEDS_SUM)
    url, options = f"s3://{locked_bucket(moto)}/run", guarded.storage_options()
    without = options | {"config_kwargs": {"request_checksum_calculation": "when_required"}}
    error = refused(lambda: ckptstore.save(url, TREE, storage_options=without))
    assert "leave request_checksum_calculation out of config_kwargs" in str(error)
    assert store_life.lived(url, options) == store_life.CALLS


@pytest.mark.follows(
    "storage.clients.s3_remedies",
    "leave request_checksum_calculation out of config_kwargs, and of the environment "
    "(AWS_REQUEST_CHECKSUM_CALCULATION)",
)
def test_the_demand_for_sums_names_the_environment_too(
    moto: Moto, guarded: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforce(guarded, policies.NEEDS_SUM)
    url, options = f"s3://{locked_bucket(moto)}/run", guarded.storage_options()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    error = refused(lambda: ckptstore.save(url, TREE, storage_options=options))
    assert "AWS_REQUEST_CHECKSUM_CALCULATION" in str(error)
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    ckptstore.save(url, TREE, storage_options=options)


@pytest.mark.follows(
    "storage.clients.s3",
    "add a lifecycle rule with NoncurrentVersionExpiration to the bucket",
)
def test_a_bucket_that_keeps_versions_says_once_that_eviction_frees_no_room(
    moto: Moto, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = moto.new_bucket()
    moto.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with caplog.at_level(logging.INFO, "ckptstore"):
        options = moto.storage_options()
        assert store_life.lived(f"s3://{bucket}/run", options) == store_life.CALLS
        ckptstore.Manager(f"s3://{bucket}/run/run", storage_options=options).delete(3)
    said = [r for r in caplog.records if "keeps the versions" in r.getMessage()]
    assert [r.levelname for r in said] == ["INFO"]
    assert "NoncurrentVersionExpiration" in said[0].getMessage()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    rule = {
        "ID": "old",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }
    moto.client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [rule]}
    )


def test_a_bucket_without_versions_says_nothing(
    moto: Moto, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ckptstore"):
        store_life.lived(f"s3://{moto.new_bucket()}/run", moto.storage_options())
    assert not [r for r in caplog.records if "keeps the versions" in r.getMessage()]


# Objects that stay as they are.

HELD = {
    "s3": (policies.HELD_BY_S3, "moto"),
    "oss": (policies.HELD_BY_OSS, "moto"),
    "gcs": (policies.HELD_BY_GCS, "gcs"),
}


@pytest.mark.follows(
    "storage.proof",
    "save to a new place without overwrite=True",
)
@pytest.mark.parametrize("kind", HELD)
def test_a_bucket_that_holds_its_objects_takes_creates_and_refuses_an_overwrite_by_name(
    kind: str, request: pytest.FixtureRequest
) -> None:
    action, name = HELD[kind]
    server: Moto | Gcs = request.getfixturevalue(name)
    with FaultProxy(server) as proxy:
        enforce(proxy, policies.holding(server, action))
        url, options = f"{server.protocol}://{server.new_bucket()}/run", proxy.storage_options()
        done = store_life.lived(url, options, overwrites=False)
        assert done == tuple(call for call in store_life.CALLS if call != "overwrite")
        before = [r for r in proxy.log if "data-" in r.target]
        again = lambda: ckptstore.save(  # noqa: E731
            f"{url}/one", store_life.tree(9), overwrite=True, storage_options=options
        )
        error = refused(again)
        assert error.reason == "not-supported"
        assert "does not let you replace an object" in str(error)
        assert "save to a new place without overwrite=True" in str(error)
        assert [r for r in proxy.log if "data-" in r.target] == before, "no data was sent"
        ckptstore.save(f"{url}/another", store_life.tree(9), storage_options=options)
        with ckptstore.Manager(f"{url}/run", storage_options=options) as manager:
            error = refused(lambda: manager.delete(3))
            assert error.reason == "retained" and "until the rule or hold" in str(error)
            assert manager.steps()[-1] == 4


def test_a_bucket_that_denies_deletion_keeps_every_step_and_no_save_fails(
    moto: Moto, guarded: FaultProxy
) -> None:
    enforce(guarded, policies.NO_DELETE)
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    assert store_life.lived(url, options) == store_life.CALLS
    with ckptstore.Manager(f"{url}/run", storage_options=options) as manager:
        assert manager.steps() == [1, 2, 3, 4]
        error = refused(lambda: manager.delete(1))
        assert error.reason == "permission" and "s3:DeleteObject" in str(error)
        guarded.reset()  # the permission is given
        manager.delete(1)
        assert manager.steps() == [2, 3, 4]


# Reading and listing.


def test_without_the_permission_to_list_a_save_is_refused_by_name(
    moto: Moto, guarded: FaultProxy
) -> None:
    enforce(guarded, policies.NO_LIST)
    bucket = moto.new_bucket()
    url, options = f"s3://{bucket}/run", guarded.storage_options()
    error = refused(lambda: ckptstore.save(f"{url}/one", TREE, storage_options=options))
    assert error.reason == "permission" and "s3:ListBucket" in str(error)
    with ckptstore.Manager(url, storage_options=options) as manager:
        error = refused(lambda: manager.save(1, TREE, overwrite=True))
        assert error.reason == "permission" and "s3:ListBucket" in str(error)
        error = refused(manager.latest)
        assert error.reason == "permission" and "s3:ListBucket" in str(error)
    assert moto.objects(bucket) == {}
    guarded.reset()
    ckptstore.save(f"{url}/one", TREE, storage_options=options)


@pytest.mark.parametrize("kind", ["moto", "gcs"])
def test_without_the_permission_to_list_a_checkpoint_is_read_by_its_name(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: Moto | Gcs = request.getfixturevalue(kind)
    url = f"{server.protocol}://{server.new_bucket()}/run"
    ckptstore.save(url, TREE, storage_options=server.storage_options())
    with FaultProxy(server) as proxy:
        if kind == "moto":
            enforce(proxy, policies.NO_LIST)
        else:
            listed = lambda r: r.method == "GET" and "prefix=" in r.target  # noqa: E731
            said = "user@example.com does not have storage.objects.list access to the bucket."
            enforce(proxy, [(listed, status(403, "forbidden", said))])
        options = proxy.storage_options()
        assert store_life.is_tree(ckptstore.load(url, storage_options=options), 1)
        assert ckptstore.verify(url, storage_options=options) == []
        part = ckptstore.load(url, select="$.changes", storage_options=options)
        assert np.array_equal(part, TREE["changes"])
        with pytest.raises(ckptstore.CheckpointError):
            ckptstore.load(f"{url}-none", storage_options=options)


def test_a_refused_read_and_a_refused_write_name_their_permissions(
    moto: Moto, guarded: FaultProxy
) -> None:
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    enforce(guarded, policies.NO_WRITE)
    error = refused(lambda: ckptstore.save(url, TREE, storage_options=options))
    assert error.reason == "permission" and "s3:PutObject" in str(error)
    guarded.reset()
    ckptstore.save(url, TREE, storage_options=options)
    enforce(guarded, policies.NO_READ)
    error = refused(lambda: ckptstore.load(url, storage_options=options))
    assert error.reason == "permission" and "s3:GetObject" in str(error)
    guarded.reset()
    assert store_life.is_tree(ckptstore.load(url, storage_options=options), 1)

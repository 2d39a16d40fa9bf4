"""Stores that speak S3 and lack a part of it: told before the data, with a way on that works."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import storage
from ckptstore.storage import atomic_upload, conditional_write, proof, uploads
from tests.support import bucket_faults, store_life
from tests.support.servers import Moto, policies, tls
from tests.support.servers.policies import Policy, enforce
from tests.support.servers.proxy import (
    DROP_AFTER,
    DROP_BEFORE,
    ERROR_AFTER,
    FRAMED,
    UNCONDITIONAL,
    Action,
    FaultProxy,
    Request,
)
from tests.support.store_remedies import follow

TREE = store_life.tree(1)
OSS_DOMAIN = "oss.localhost"


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    """A moto that takes parts of `bucket_faults.PART_NBYTES`."""
    yield from bucket_faults.moto_of_small_parts()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket_faults.make_small(monkeypatch.setattr)
    for known in (proof._proven, atomic_upload._proven, conditional_write._without_conditions):
        known.clear()


@pytest.fixture
def oss(moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A server that takes the bucket in the name of its host alone, over TLS."""
    real = socket.getaddrinfo

    def here(host: Any, *rest: Any, **more: Any) -> Any:
        at_home = isinstance(host, str) and host.endswith(OSS_DOMAIN)
        return real("127.0.0.1" if at_home else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    context, trusted = tls.certify(tmp_path, OSS_DOMAIN, f"*.{OSS_DOMAIN}")
    with FaultProxy(moto, tls=context, domain=OSS_DOMAIN) as proxy:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(trusted))
        yield proxy


def refused(call: Callable[[], Any]) -> ckptstore.StorageError:
    with pytest.raises(ckptstore.StorageError) as caught:
        call()
    return caught.value


def saving(url: str, options: dict[str, Any]) -> Callable[[], Any]:
    return lambda: ckptstore.save(f"{url}/one", TREE, storage_options=options)


def has_sent_data(proxy: FaultProxy) -> bool:
    sent = [r for r in proxy.log if r.method == "PUT" and r.action is None]
    return any("data-" in r.target for r in sent)


# A store without conditions.

NO_CONDITIONS: dict[str, Policy] = {
    "b2": policies.B2,
    "invalid": policies.CONDITIONS_ARE_INVALID,
}


@pytest.mark.follows(
    "storage.proof",
    ', or, if only one process ever writes, pass storage_options={"ckptstore": '
    '{"assume_atomic": True}}',
)
@pytest.mark.follows(
    "storage.proof",
    "save to another store{}",
)
@pytest.mark.parametrize("store", NO_CONDITIONS)
def test_a_store_without_conditions_is_told_before_the_data_and_works_if_you_vouch(
    store: str, moto: Moto, guarded: FaultProxy
) -> None:
    enforce(guarded, NO_CONDITIONS[store])
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    error = refused(saving(url, options))
    assert error.reason == "not-atomic" and "assume_atomic" in str(error)
    assert not has_sent_data(guarded)
    vouched = follow(str(error), options)
    assert store_life.lived(url, vouched) == store_life.CALLS
    with ckptstore.Manager(f"{url}/run", storage_options=vouched) as manager:
        assert manager.steps() == [3, 4], "eviction works without conditions, too"
        manager.delete(3)
        assert manager.steps() == [4]
        garbage = f"step-{4:012}/data-{'e' * 32}-0-0.bin"
        moto.put(url.split("/")[2], f"run/run/{garbage}", b"of a killed save")
        assert manager.gc(grace=0) == {4: [garbage.partition("/")[2]]}


def test_where_you_vouch_conditions_are_used_as_far_as_the_store_takes_them(
    moto: Moto, guarded: FaultProxy
) -> None:
    url = f"s3://{moto.new_bucket()}/run"
    options = guarded.storage_options() | {"ckptstore": {"assume_atomic": True}}
    assert store_life.lived(url, options) == store_life.CALLS
    commits = [r for r in guarded.log if r.method == "PUT" and r.target.endswith("/MANIFEST")]
    assert commits and all(policies.is_conditional(r) for r in commits)


def test_a_store_that_lacks_if_match_alone_takes_creates_and_refuses_overwrites_before_the_data(
    moto: Moto, guarded: FaultProxy
) -> None:
    enforce(guarded, policies.NO_IF_MATCH)
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    done = store_life.lived(url, options, overwrites=False)
    assert "overwrite" not in done and done[-1] == "gc"
    guarded.log.clear()
    error = refused(
        lambda: ckptstore.save(f"{url}/one", TREE, overwrite=True, storage_options=options)
    )
    assert error.reason == "not-supported" and not has_sent_data(guarded)
    assert "save to a new place without overwrite=True" in str(error)
    ckptstore.save(f"{url}/two", TREE, storage_options=options)
    vouched = follow(str(error), options)
    ckptstore.save(f"{url}/one", store_life.tree(7), overwrite=True, storage_options=vouched)
    assert store_life.is_tree(ckptstore.load(f"{url}/one", storage_options=options), 7)


@pytest.mark.follows(
    "storage.proof",
    "switch that off there, or {}{}",
)
def test_a_store_whose_versions_never_match_is_overwritten_if_you_vouch(
    moto: Moto, guarded: FaultProxy
) -> None:
    """A proxy that compresses makes weak ETags, which no If-Match accepts."""
    has_if_match = lambda r: "if-match" in r.headers and r.method == "PUT"  # noqa: E731
    never = Action("status", code=412, s3="PreconditionFailed")
    enforce(guarded, [(has_if_match, never)])
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    ckptstore.save(url, TREE, storage_options=options)
    again = lambda options: ckptstore.save(  # noqa: E731
        url, store_life.tree(7), overwrite=True, storage_options=options
    )
    error = refused(lambda: again(options))
    assert error.reason == "not-supported" and "a proxy that changes ETags" in str(error)
    again(follow(str(error), options))
    assert store_life.is_tree(ckptstore.load(url, storage_options=options), 7)


# The plain commit: one writer.


@pytest.fixture
def plain(moto: Moto, guarded: FaultProxy) -> tuple[str, dict[str, Any]]:
    """A directory of a store without conditions, for which the caller vouches."""
    enforce(guarded, policies.B2)
    options = guarded.storage_options() | {"ckptstore": {"assume_atomic": True}}
    url = f"s3://{moto.new_bucket()}/run"
    ckptstore.save(f"{url}/known", {"x": 1}, storage_options=options)
    guarded.log.clear()
    return url, options


def of_manifest(method: str) -> Callable[[Request], bool]:
    """Match requests about a manifest; those with a condition are refused anyway."""
    return lambda r: (
        r.method == method and r.target.endswith("/MANIFEST") and not policies.is_conditional(r)
    )


def test_a_plain_commit_looks_puts_and_reads_back(
    plain: tuple[str, dict[str, Any]], guarded: FaultProxy
) -> None:
    url, options = plain
    for overwrite in (False, True):
        guarded.log.clear()
        ckptstore.save(f"{url}/one", TREE, overwrite=overwrite, storage_options=options)
        put = next(r.number for r in guarded.log if of_manifest("PUT")(r))
        about = [r for r in guarded.log if "MANIFEST" in r.target]
        around = [r.method for r in about]
        at = about.index(next(r for r in about if r.number == put))
        assert around[at - 1 : at + 2] == ["GET", "PUT", "GET"]
        assert not [r for r in guarded.log if policies.is_conditional(r) and r.method == "PUT"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_checkpoint_that_came_meanwhile_is_seen_and_stays(
    overwrite: bool, plain: tuple[str, dict[str, Any]], moto: Moto, guarded: FaultProxy
) -> None:
    """It came after the save began and before the commit looked."""
    url, options = plain
    direct = moto.storage_options()
    if overwrite:
        ckptstore.save(f"{url}/one", store_life.tree(3), storage_options=options)
    come = []

    def other_comes(request: Request) -> bool:
        if "data-" in request.target and not come:
            come.append(request)
            ckptstore.save(
                f"{url}/one", store_life.tree(5), overwrite=overwrite, storage_options=direct
            )
        return False

    guarded.rule(other_comes, DROP_BEFORE)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        ckptstore.save(f"{url}/one", TREE, overwrite=overwrite, storage_options=options)
    assert come
    assert store_life.is_tree(ckptstore.load(f"{url}/one", storage_options=options), 5)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "action", [DROP_BEFORE, DROP_AFTER, ERROR_AFTER], ids=["before", "after", "error"]
)
def test_a_lost_answer_of_a_plain_commit_is_no_error(
    action: Action, overwrite: bool, plain: tuple[str, dict[str, Any]], guarded: FaultProxy
) -> None:
    url, options = plain
    if overwrite:
        ckptstore.save(f"{url}/one", store_life.tree(3), storage_options=options)
    guarded.rule(of_manifest("PUT"), action)
    ckptstore.save(f"{url}/one", TREE, overwrite=overwrite, storage_options=options)
    assert [r for r in guarded.log if r.action is action]
    assert store_life.is_tree(ckptstore.load(f"{url}/one", storage_options=options), 1)


def test_another_writer_between_a_plain_commit_and_its_look_is_a_conflict(
    plain: tuple[str, dict[str, Any]], moto: Moto, guarded: FaultProxy
) -> None:
    url, options = plain
    direct, come = moto.storage_options(), []

    def other_comes(request: Request) -> bool:
        put = any(of_manifest("PUT")(r) and r.applied for r in guarded.log)
        if put and of_manifest("GET")(request) and not come:
            come.append(request)
            ckptstore.save(f"{url}/one", store_life.tree(5), overwrite=True, storage_options=direct)
        return False

    guarded.rule(other_comes, DROP_BEFORE)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        ckptstore.save(f"{url}/one", TREE, storage_options=options)
    assert come
    assert store_life.is_tree(ckptstore.load(f"{url}/one", storage_options=options), 5)


# Checksums that a store does not know.

SUMS: dict[str, Policy] = {
    "b2-2024": policies.SUMS_OF_B2,
    "minio": policies.SUMS_OF_MINIO,
    "r2": policies.SUMS_OF_R2,
    "google": policies.SUMS_OF_GOOGLE,
    "ceph": policies.SUMS_OF_CEPH,
}


@pytest.mark.follows(
    "storage.clients.s3_remedies",
    "{}if this store does not know the checksums that today's boto sends, pass {}",
)
@pytest.mark.parametrize("store", SUMS)
def test_a_store_that_does_not_know_checksums_names_the_option_that_leaves_them_out(
    store: str, moto: Moto, guarded: FaultProxy
) -> None:
    enforce(guarded, SUMS[store])
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    for vouch in (False, True):
        own = {"assume_atomic": True} if vouch else {}
        error = refused(saving(url, options | {"ckptstore": own}))
        assert "request_checksum_calculation" in str(error), error
        assert not has_sent_data(guarded)
    done = tuple(store_life.live(url, follow(str(error), options)))
    assert done == store_life.CALLS


@pytest.mark.follows(
    "storage.proof",
    'pass storage_options={"config_kwargs": {"request_checksum_calculation": "when_required"}}',
)
def test_a_store_that_keeps_the_checksums_as_content_is_found_before_the_data(
    moto: Moto, guarded: FaultProxy, tmp_path: Path
) -> None:
    context, trusted = tls.certify(tmp_path)
    with FaultProxy(moto, tls=context) as proxy:
        proxy.rule(policies.is_chunked, FRAMED, times=float("inf"))
        options = proxy.storage_options() | {"client_kwargs": {"verify": str(trusted)}}
        url = f"s3://{moto.new_bucket()}/run"
        error = refused(saving(url, options))
        assert error.reason == "not-supported" and "keeps other bytes" in str(error)
        assert not [r for r in proxy.log if "data-" in r.target]
        assert store_life.lived(url, follow(str(error), options)) == store_life.CALLS


# OSS, whole: the host, the chunks and the conditions, one error after the other.


@pytest.mark.follows(
    "storage.clients.s3_remedies",
    'pass storage_options={"config_kwargs": {"s3": {"addressing_style": "virtual"}}}',
)
def test_each_error_of_oss_leads_to_the_next_until_all_works(moto: Moto, oss: FaultProxy) -> None:
    enforce(oss, policies.OSS)
    url, options = f"s3://{moto.new_bucket()}/run", oss.storage_options()
    named = []
    for _ in range(3):
        error = refused(saving(url, options))
        named.append(error.reason)
        options = follow(str(error), options)
        assert not has_sent_data(oss)
    assert named == ["bad-options", "storage", "not-atomic"]
    assert store_life.lived(url, options) == store_life.CALLS


# A store without uploads in parts.

NO_PARTS: dict[str, Policy] = {
    "501": policies.NO_PARTS,
    "405": policies.NO_PARTS_BY_METHOD,
}


@pytest.mark.parametrize("how", NO_PARTS)
def test_a_store_without_uploads_in_parts_gets_each_file_in_one_request(
    how: str, moto: Moto, guarded: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforce(guarded, NO_PARTS[how])
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    assert store_life.lived(url, options) == store_life.CALLS
    assert any("data-" in r.target and r.length > bucket_faults.PART_NBYTES for r in guarded.log)


def test_a_file_over_the_limit_of_one_request_is_refused_by_its_size_and_smaller_ones_work(
    moto: Moto, guarded: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "WHOLE_MAX_NBYTES", 600_000)
    enforce(guarded, policies.NO_PARTS)
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    large = np.arange(80_000.0)  # 640,000 bytes
    error = refused(lambda: ckptstore.save(url, {"x": large}, storage_options=options))
    assert error.reason == "not-supported"
    assert "640000 bytes" in str(error) and "at most 600000" in str(error)
    assert "split the array into several" in str(error)
    split = {"x": np.split(large, 2)}
    ckptstore.save(url, split, storage_options=options)
    loaded = ckptstore.load(url, storage_options=options)["x"]
    assert np.array_equal(np.concatenate(loaded), large)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("lacks", ["parts", "conditions"])
def test_a_large_export_works_there_too(
    lacks: str, replace: bool, moto: Moto, guarded: FaultProxy
) -> None:
    enforce(guarded, policies.NO_PARTS if lacks == "parts" else policies.B2)
    own = {"assume_atomic": lacks == "conditions"}
    options = guarded.storage_options() | {"ckptstore": own}
    url, data = f"s3://{moto.new_bucket()}/run", bytes(700_000)
    with storage.open(url, options) as store:
        for number in range(2):
            with contextlib.ExitStack() as stack:
                if number and not replace:
                    stack.enter_context(pytest.raises(FileExistsError))
                store.put_atomic("export", [data], len(data), replace=replace)
        assert store.sizes(["export"]) == {"export": len(data)}
        assert not store.unfinished()


def test_a_store_that_ignores_conditions_is_written_plainly_if_you_vouch(
    moto: Moto, guarded: FaultProxy
) -> None:
    guarded.rule(policies.is_conditional, UNCONDITIONAL, times=float("inf"))
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    error = refused(saving(url, options))
    assert error.reason == "not-atomic" and not has_sent_data(guarded)
    assert store_life.lived(url, follow(str(error), options)) == store_life.CALLS

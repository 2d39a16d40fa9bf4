"""The remedies of a bucket's errors, each of them followed: then the call that failed succeeds.

Those of policies and of stores with less than S3 are followed in test_company_buckets.py and
test_lesser_stores.py.
"""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import ckptstore
from ckptstore import Reason
from ckptstore.convert import to_npz
from ckptstore.storage import retry, uploads
from ckptstore.storage.clients import azure_errors
from ckptstore.storage.clients.base import Kind
from tests.support.servers import Gcs, Moto, policies
from tests.support.servers.policies import enforce
from tests.support.servers.proxy import ERROR_BEFORE, FaultProxy, Request, matching, status
from tests.support.store_remedies import begin_anew, follow

TREE = {"step": 7, "w": np.arange(1000.0)}
QUICK = {"ckptstore": {"timeout": 3.0, "deadline": 3.0}}


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_anew(monkeypatch.setattr)


def saving(url: str, options: dict[str, Any] | None = None, **how: Any) -> Callable[[], Any]:
    return functools.partial(ckptstore.save, url, TREE, storage_options=options, **how)


def refused(call: Callable[[], Any]) -> ckptstore.StorageError:
    with pytest.raises(ckptstore.StorageError) as caught:
        call()
    return caught.value


def loads(url: str, options: dict[str, Any] | None = None) -> bool:
    loaded = ckptstore.load(url, storage_options=options)
    return loaded["step"] == 7 and np.array_equal(loaded["w"], TREE["w"])


# One remedy for each reason.


def unavailable(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Check the endpoint; try again later."""
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options() | QUICK
    guarded.rule(lambda r: True, ERROR_BEFORE, times=math.inf)
    yield refused(saving(url, options))
    guarded.reset()  # later
    saving(url, options)()
    wrong = options | {"endpoint_url": "http://127.0.0.1:9"}
    yield refused(lambda: ckptstore.load(url, storage_options=wrong))
    assert loads(url, options)


def no_bucket(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Create the bucket, or check its name."""
    options, name = moto.storage_options(), f"{moto.new_bucket()}-more"
    yield refused(saving(f"s3://{name}/run", options))
    moto.client.create_bucket(Bucket=name)
    saving(f"s3://{name}/run", options)()
    yield refused(lambda: ckptstore.load(f"s3://{name}-typo/run", storage_options=options))
    assert loads(f"s3://{name}/run", options)


class Denied(MemoryFileSystem):  # type: ignore[misc]
    """A file system that lets nobody write, until somebody allows it."""

    protocol = ("denied",)
    allowed = False

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        if mode != "rb" and not Denied.allowed:
            raise PermissionError(13, "Permission denied", path)
        return super()._open(path, mode, **more)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        if not Denied.allowed:
            raise PermissionError(13, "Permission denied", path)
        super().pipe_file(path, value, mode, **more)


def permission(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Ask for permission."""
    fsspec.register_implementation("denied", Denied, clobber=True)
    patch.setattr(Denied, "allowed", False)
    options = {"ckptstore": {"assume_atomic": True}}
    url = f"denied://{tmp.name}/run"
    yield refused(saving(url, options))
    patch.setattr(Denied, "allowed", True)
    saving(url, options)()
    assert loads(url)


def credentials(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Pass others in storage_options or the environment."""
    old = lambda r: "Credential=old/" in r.headers.get("authorization", "")  # noqa: E731
    enforce(guarded, [(old, status(403, "InvalidAccessKeyId", "Not in our records."))])
    options = guarded.storage_options() | {"key": "old"}
    url = f"s3://{moto.new_bucket()}/run"
    yield refused(saving(url, options))
    saving(url, options | {"key": "new"})()
    patch.setenv("AWS_ACCESS_KEY_ID", "old")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    at = {"endpoint_url": guarded.endpoint}
    yield refused(lambda: ckptstore.load(url, storage_options=at))
    patch.setenv("AWS_ACCESS_KEY_ID", "new")
    assert loads(url, at)


def other(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Check the endpoint, the bucket and the options."""
    enforce(guarded, [(lambda r: True, status(400, "BadRequest", "This is no S3."))])
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    yield refused(saving(url, options))
    saving(url, options | {"endpoint_url": moto.endpoint})()


def wrong_region(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Set the region in the options or the environment."""
    here = lambda r: "/eu-west-7/s3/" in r.headers.get("authorization", "")  # noqa: E731
    text = "The authorization header is malformed; the region 'us-east-1' is wrong"
    wrong = status(400, "AuthorizationHeaderMalformed", text)
    enforce(guarded, [(lambda r: not here(r), wrong)])
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    error = refused(saving(url, options))
    yield error
    saving(url, follow(str(error), options, value="eu-west-7"))()
    yield refused(lambda: ckptstore.load(url, storage_options=options))
    assert "in the environment as AWS_DEFAULT_REGION" in str(error)
    patch.setenv("AWS_DEFAULT_REGION", "eu-west-7")
    assert loads(url, options)


def bad_options(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Correct the option, or leave it out."""
    url, options = f"s3://{moto.new_bucket()}/run", moto.storage_options()
    for wrong in (
        {"s3_additional_kwargs": {"StorageClas": "STANDARD"}},
        {"config_kwargs": {"signature_version": "s3v9"}},
    ):
        yield refused(saving(url, options | wrong))
    saving(url, options | {"s3_additional_kwargs": {"StorageClass": "STANDARD"}})()
    assert loads(url, options)


def bad_url(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Correct the URL."""
    bucket, options = moto.new_bucket(), moto.storage_options()
    yield refused(saving(f"s3://{bucket}!/run", options))
    saving(f"s3://{bucket}/run", options)()


def disk_full(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Delete old checkpoints there, or ask for a larger quota."""
    bucket = moto.new_bucket()
    quota = [3]

    def is_over(request: Request) -> bool:
        full = len(moto.objects(bucket)) >= quota[0]
        return request.method == "PUT" and "PROBE" not in request.target and full

    enforce(guarded, [(is_over, status(403, "QuotaExceeded", "Over the quota."))])
    with ckptstore.Manager(f"s3://{bucket}/run", storage_options=guarded.storage_options()) as run:
        run.save(1, TREE)
        yield refused(lambda: run.save(2, TREE))
        run.delete(1)
        run.save(2, TREE)
        yield refused(lambda: run.save(3, TREE))
        quota[0] = 10
        run.save(3, TREE)


def not_a_directory(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Save below another prefix, or remove the object that is in the way."""
    root = f"memory://{tmp.name}"
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/{tmp.name}/run", b"an object")
    yield refused(saving(f"{root}/run"))
    saving(f"{root}/other")()
    memory.rm_file(f"/{tmp.name}/run")
    saving(f"{root}/run")()


def not_supported(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Save to another store."""
    enforce(guarded, [(policies.lists, status(501, "NotImplemented", "No listings here."))])
    url = f"s3://{moto.new_bucket()}/run"
    yield refused(saving(url, guarded.storage_options()))
    saving(url, moto.storage_options())()


class ReadOnly(MemoryFileSystem):  # type: ignore[misc]
    """A file system that is only read, as those of archives are."""

    protocol = ("only-read",)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("only-read://")))

    def pipe_file(self, *arguments: Any, **more: Any) -> None:
        raise NotImplementedError("this file system is only read")


def read_only(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Save to another place; go on reading."""
    fsspec.register_implementation("only-read", ReadOnly, clobber=True)
    saving(f"memory://{tmp.name}/run")()
    options = {"ckptstore": {"assume_atomic": True}}
    yield refused(saving(f"only-read://{tmp.name}/more", options))
    assert loads(f"only-read://{tmp.name}/run")
    saving(f"memory://{tmp.name}/more")()


def retained(moto: Moto, guarded: FaultProxy, patch: pytest.MonkeyPatch, tmp: Path) -> Any:
    """Save to a new place; wait for the end of the hold."""
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    with ckptstore.Manager(url, storage_options=options) as run:
        run.save(1, TREE)
        enforce(guarded, policies.holding(moto, policies.HELD_BY_S3))
        yield refused(lambda: run.delete(1))
        run.save(2, TREE)
        guarded.reset()  # the hold ended
        run.delete(1)
        assert run.steps() == [2]


CASES = {
    Reason.BAD_OPTIONS: bad_options,
    Reason.BAD_URL: bad_url,
    Reason.CREDENTIALS: credentials,
    Reason.DISK_FULL: disk_full,
    Reason.NOT_A_DIRECTORY: not_a_directory,
    Reason.NOT_SUPPORTED: not_supported,
    Reason.NO_BUCKET: no_bucket,
    Reason.PERMISSION: permission,
    Reason.READ_ONLY: read_only,
    Reason.RETAINED: retained,
    Reason.STORAGE: other,
    Reason.UNAVAILABLE: unavailable,
    Reason.WRONG_REGION: wrong_region,
}


def test_every_remedy_of_a_reason_is_followed() -> None:
    assert set(CASES) == set(retry.REMEDIES)


@pytest.mark.follows(
    "storage.retry",
    "correct or leave out that option in storage_options",
    "correct the URL, or the endpoint in storage_options",
    "delete old checkpoints there, or ask for a larger quota",
    "save below another prefix, or remove the object that is in the way",
    "save to another store",
    "save to another place",
    "save to a new place, without overwrite=True",
    "check the endpoint and the network, or try again later",
    "create the bucket, or check its name, the endpoint and the account",
    "ask for permission to read, write, list and delete there (without the permission to list, "
    "a missing object gives this error too)",
    "renew the credentials, or pass others in storage_options or the environment",
    "check the endpoint, the bucket and the options",
    "set the bucket's region, for S3 in the environment as AWS_DEFAULT_REGION or as "
    'storage_options={"client_kwargs": {"region_name": ...}}',
    some=True,
)
@pytest.mark.parametrize("reason", CASES, ids=str)
def test_the_remedy_of_a_reason_works(
    reason: Reason,
    moto: Moto,
    guarded: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    errors = list(CASES[reason](moto, guarded, monkeypatch, tmp_path))
    assert errors
    for error in errors:
        assert error.reason == reason, error
        assert retry.REMEDIES[reason] in str(error), error


# The remedies of single faults.


@pytest.mark.follows(
    "storage.uploads",
    "save again",
)
def test_a_lost_upload_is_sent_again(
    moto: Moto, guarded: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_NBYTES", 1 << 20)
    large = {"x": np.arange(200_000.0)}
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    guarded.rule(matching("PUT", "partNumber=1"), status(404, "NoSuchUpload"))
    save = functools.partial(ckptstore.save, url, large, storage_options=options)
    error = refused(save)
    assert error.reason == "lost-file" and "save again" in str(error)
    with pytest.raises(ckptstore.StorageError):
        raise error
    monkeypatch.setattr(uploads, "PART_NBYTES", 8 << 20)  # moto takes no smaller parts
    save()


@pytest.mark.follows(
    "storage.atomic_upload",
    "pass overwrite=True if you accept that, or write to a disk",
)
def test_a_large_export_without_the_condition_names_overwrite_and_a_disk(
    moto: Moto, guarded: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(uploads, "PART_NBYTES", 4096)
    ends = lambda r: r.method == "POST" and "uploadId=" in r.target  # noqa: E731
    refuses = [(lambda r: ends(r) and "if-none-match" in r.headers, status(501, "NotImplemented"))]
    enforce(guarded, refuses)
    bucket, options = moto.new_bucket(), guarded.storage_options()
    saving(f"s3://{bucket}/run", moto.storage_options())()
    export = functools.partial(to_npz, storage_options=options)
    source = f"s3://{bucket}/run"
    error = refused(lambda: export(f"s3://{bucket}/w.npz", source, select="$.w"))
    assert error.reason == "not-atomic"
    assert "pass overwrite=True if you accept that, or write to a disk" in str(error)
    export(f"s3://{bucket}/w.npz", source, select="$.w", overwrite=True)
    export(tmp_path / "w.npz", source, select="$.w")
    with np.load(tmp_path / "w.npz") as file:
        assert np.array_equal(file[file.files[0]], TREE["w"])


@pytest.mark.follows(
    "storage.retry",
    "load the checkpoint when the store answers again",
)
def test_a_commit_of_unknown_outcome_is_looked_at_when_the_store_answers_again(
    moto: Moto, guarded: FaultProxy
) -> None:
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options() | QUICK
    saving(f"{url}/first", options)()
    commits = lambda r: any("MANIFEST" in q.target and q.method == "PUT" for q in guarded.log)  # noqa: E731
    is_commit = lambda r: r.method == "PUT" and "MANIFEST" in r.target  # noqa: E731
    guarded.reset()
    guarded.rule(lambda r: is_commit(r) or commits(r), ERROR_BEFORE, times=math.inf)
    with pytest.raises(ckptstore.OutcomeUnknownError, match="load the checkpoint when the store"):
        saving(f"{url}/one", options)()
    guarded.reset()
    with pytest.raises(ckptstore.NotCommittedError):
        ckptstore.load(f"{url}/one", storage_options=options)
    saving(f"{url}/one", options)()
    assert loads(f"{url}/one", options)


def test_a_missing_package_is_named_as_pip_takes_it(tmp_path: Path) -> None:
    """Run without s3fs, and look for the extra that the error names."""
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "import ckptstore\n"
        "try: ckptstore.load('s3://bucket/run')\n"
        "except ckptstore.StorageError as error: print(error.reason, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("missing-package")
    assert 'pip install "ckptstore[s3]"' in done.stdout
    import tomllib

    from tests.support import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("s3fs") for each in project["optional-dependencies"]["s3"])


@pytest.mark.parametrize(
    ("wrong", "meant"), [("s3n://bucket/run", "s3"), ("memry://bucket/run", "memory")]
)
def test_an_unknown_protocol_names_the_one_that_was_meant(wrong: str, meant: str) -> None:
    error = refused(saving(wrong))
    assert error.reason == "no-such-store" and f"{meant}://" in str(error)
    if meant == "memory":
        saving("memory://meant/run")()


def test_a_chain_names_the_store_itself(moto: Moto) -> None:
    url, options = f"s3://{moto.new_bucket()}/run", moto.storage_options()
    error = refused(saving(f"simplecache::{url}", options))
    assert error.reason == "no-such-store" and "pass the URL of the store itself" in str(error)
    saving(url, options)()


# Google Cloud Storage.


@pytest.fixture
def google(gcs: Gcs) -> Iterator[FaultProxy]:
    with FaultProxy(gcs) as proxy:
        yield proxy


@pytest.mark.follows(
    "storage.clients.gcs_errors",
    'pass storage_options={"requester_pays": "<your project>"}',
)
def test_a_bucket_of_google_whose_requester_pays_names_the_option(
    gcs: Gcs, google: FaultProxy
) -> None:
    unpaid = lambda r: "userProject=" not in r.target and "upload_id=" not in r.target  # noqa: E731
    text = "Bucket is a requester pays bucket but no user project provided."
    enforce(google, [(unpaid, status(400, "required", text))])
    url, options = f"gs://{gcs.new_bucket()}/run", google.storage_options()
    error = refused(saving(url, options))
    assert error.reason == "permission"
    again = follow(str(error), options, **{"your project": "payer"})
    saving(url, again)()
    assert loads(url, again)
    assert all("userProject=payer" in r.target for r in google.log if r.action is None)


@pytest.mark.follows(
    "storage.clients.gcs_errors",
    "if it demands keys of your own, set a default key on the bucket (gcloud storage buckets "
    "update --default-encryption-key), which then takes every write, or save to a bucket that "
    "has one",
)
def test_a_demand_for_keys_of_google_names_the_default_key_of_the_bucket(
    gcs: Gcs, google: FaultProxy
) -> None:
    """Its status is 412, which otherwise means that a condition does not hold."""
    has_key = []
    writes = lambda r: r.method == "POST" and not has_key  # noqa: E731
    text = "Constraint constraints/gcp.restrictNonCmekServices violated for projects/1234."
    enforce(google, [(writes, status(412, "conditionNotMet", text))])
    url, options = f"gs://{gcs.new_bucket()}/run", google.storage_options()
    error = refused(saving(url, options))
    assert error.reason == "permission" and "--default-encryption-key" in str(error)
    has_key.append("gcloud storage buckets update gs://… --default-encryption-key=…")
    saving(url, options)()


@pytest.mark.follows(
    "storage.clients.gcs_errors",
    "ask for permission to read, write, list and delete there (the role Storage Object User "
    "has all of them",
)
@pytest.mark.parametrize("denied", ["storage.objects.list", "storage.objects.create"])
def test_a_missing_permission_of_google_is_named(denied: str, gcs: Gcs, google: FaultProxy) -> None:
    lists = lambda r: r.method == "GET" and "prefix=" in r.target  # noqa: E731
    match = lists if denied.endswith("list") else matching("POST")
    text = f"trainer@example.com does not have {denied} access to the bucket."
    enforce(google, [(match, status(403, "forbidden", text))])
    url, options = f"gs://{gcs.new_bucket()}/run", google.storage_options()
    error = refused(saving(url, options))
    assert error.reason == "permission" and denied in str(error)
    assert "Storage Object User" in str(error)
    google.reset()  # the role is given
    saving(url, options)()


def test_an_account_of_google_that_may_create_and_not_delete_can_save(
    gcs: Gcs, google: FaultProxy
) -> None:
    """To replace an object takes the permission to delete it: the role Storage Object Creator."""
    text = "trainer@example.com does not have storage.objects.delete access to the object."
    enforce(google, policies.holding(gcs, status(403, "forbidden", text)))
    url, options = f"gs://{gcs.new_bucket()}/run", google.storage_options()
    saving(url, options)()
    error = refused(saving(url, options, overwrite=True))
    assert error.reason == "not-supported" and "storage.objects.delete" in str(error)
    saving(f"{url}-new", options)()


# Azure.


class Answered(Exception):
    """An error as the SDK of Azure makes it of an answer."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{code}\nRequestId:1")
        self.status_code, self.error_code = status, code


@pytest.mark.parametrize(
    ("status", "code", "reason", "remedy"),
    [
        (409, "BlobImmutableDueToPolicy", "retained", ""),
        (409, "BlobImmutableDueToLegalHold", "retained", ""),
        (403, "AuthorizationPermissionMismatch", "permission", "Storage Blob Data Contributor"),
        (403, "AuthorizationFailure", "permission", "firewall"),
        (403, "KeyBasedAuthenticationNotPermitted", "permission", '{"anon": False}'),
        (400, "AccountRequiresHttps", "storage", "https in the connection_string"),
        (412, "LeaseIdMissing", "permission", "break it"),
    ],
)
def test_what_azure_refuses_for_good(status: int, code: str, reason: str, remedy: str) -> None:
    failure = azure_errors.failure_of(Answered(status, code))
    assert (failure.kind, failure.reason) == (Kind.REFUSED, reason)
    assert remedy in failure.remedy

"""More of what the errors of a bucket tell you to do, done; test_store_remedies.py has the rest."""

from __future__ import annotations

import datetime
import functools
import http.server
import math
import re
import sys
import threading
import tomllib
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.auth
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import ckptstore
from ckptstore import CheckpointError, convert, storage
from ckptstore.saving import placement
from ckptstore.storage import uploads
from tests.support import ROOT
from tests.support.servers import Moto
from tests.support.servers.policies import Policy, enforce
from tests.support.servers.proxy import (
    DROP_BEFORE,
    FaultProxy,
    Request,
    matching,
    status,
)
from tests.support.store_remedies import begin_anew, follow

follows = pytest.mark.follows

TREE = {"step": 7, "w": np.arange(1000.0)}
ATOMIC: Any = {"ckptstore": {"assume_atomic": True}}


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_anew(monkeypatch.setattr)


def refused(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*args, **options)
    return str(caught.value)


def saved(url: str, **options: Any) -> None:
    ckptstore.save(url, {"x": 1}, **options)
    assert ckptstore.load(url, **options) == {"x": 1}


# --- The URL ------------------------------------------------------------------------------------


@follows("storage.address", "pass them in storage_options or in the environment")
def test_credentials_in_the_url_of_a_bucket(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, options = moto.new_bucket(), moto.storage_options()
    for url in (f"s3://me:secret@{bucket}/run", f"s3://127.0.0.1:9000/{bucket}/run"):
        refused(ckptstore.save, url, {"x": 1})
    saved(f"s3://{bucket}/a", storage_options=options)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    saved(f"s3://{bucket}/b")


class Guarded(http.server.SimpleHTTPRequestHandler):
    """Files for whoever has the token."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if urllib.parse.parse_qs(query).get("token") != ["me"]:
            self.send_error(403)
            return
        self.path = path
        super().do_GET()

    do_HEAD = do_GET  # type: ignore[assignment]

    def log_message(self, *_: Any) -> None:
        pass


@follows("storage.address", "pass them in storage_options")
def test_a_query_in_the_url_of_a_directory(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"x": 1})
    handler = functools.partial(Guarded, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/c"
        refused(ckptstore.load, f"{url}?token=me")
        assert ckptstore.load(url, storage_options={"params": {"token": "me"}}) == {"x": 1}
    finally:
        server.shutdown()
        server.server_close()


@follows("storage.clients.azure", "pass account_name and account_host in storage_options")
def test_a_host_of_azure_of_another_cloud() -> None:
    """No request is sent: the client says where it would go."""
    refused(ckptstore.load, "abfs://container@account.dfs.core.chinacloudapi.cn/run")
    options = {
        "account_name": "account",
        "account_host": "account.blob.core.chinacloudapi.cn",
        "account_key": "a2V5",
    }
    with storage.open("abfs://container/run", options) as store:
        assert store._requests.link.client.endpoint == "account.blob.core.chinacloudapi.cn"  # type: ignore[attr-defined]


# --- Stores by fsspec ---------------------------------------------------------------------------


@follows(
    "storage.clients.fsspec",
    "save to a local disk or to s3://, gs:// or abfs://, or, if only one process ever writes, pass "
    'storage_options={"ckptstore": {"assume_atomic": True}}',
)
def test_a_store_that_nobody_vouches_for(moto: Moto, tmp_path: Path) -> None:
    fsspec.register_implementation("unvouched", Unvouched, clobber=True)
    words = refused(ckptstore.save, "unvouched://b/run", {"x": 1})
    saved("unvouched://b/run", storage_options=follow(words, {}))
    saved(str(tmp_path / "run"))
    saved(f"s3://{moto.new_bucket()}/run", storage_options=moto.storage_options())


class Unvouched(MemoryFileSystem):  # type: ignore[misc]
    protocol = ("unvouched",)
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("unvouched://")))


@follows("storage.clients.fsspec", "write it to a local disk, and copy it there")
def test_an_export_to_a_store_that_shows_growing_files(tmp_path: Path) -> None:
    fsspec.register_implementation("unvouched", Unvouched, clobber=True)
    options = {"storage_options": ATOMIC}
    refused(convert.to_npz, "unvouched://b/x.npz", LARGE, **options)
    convert.to_npz(tmp_path / "x.npz", LARGE)
    Unvouched().pipe_file("b/x.npz", (tmp_path / "x.npz").read_bytes())
    assert np.array_equal(convert.from_npz("unvouched://b/x.npz")["w"], LARGE["w"])


@follows("storage.connect", 'pip install "ckptstore[{}]"')
def test_a_client_library_that_is_missing(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install` ends with the package on the path; here it was taken from there."""
    url, options = f"s3://{moto.new_bucket()}/run", moto.storage_options()
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "s3fs", None)  # type: ignore[arg-type]
        missing.delitem(sys.modules, "ckptstore.storage.clients.s3", raising=False)
        words = refused(ckptstore.load, url, storage_options=options | {"anon": False})
    extra = re.findall(r'pip install "ckptstore\[(\w+)\]"', words)[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("s3fs") for each in project["optional-dependencies"][extra])
    saved(url, storage_options=options)


# --- A large file -------------------------------------------------------------------------------


LARGE = {"w": np.arange(9 << 17, dtype=np.float64)}  # 9 MiB: an upload in two parts


@follows("storage.atomic_upload", "try again")
def test_an_export_whose_upload_was_given_up_by_another(moto: Moto, guarded: FaultProxy) -> None:
    url, options = f"s3://{moto.new_bucket()}/x.npz", {"storage_options": guarded.storage_options()}
    ends: Policy = [(matching("POST", "uploadId="), status(404, "NoSuchUpload"))]
    enforce(guarded, ends)
    refused(convert.to_npz, url, LARGE, overwrite=True, **options)
    guarded.reset()
    convert.to_npz(url, LARGE, overwrite=True, **options)
    assert np.array_equal(convert.from_npz(url, **options)["w"], LARGE["w"])


@follows("storage.atomic_upload", "look for it when the store answers again")
def test_an_export_of_unknown_outcome(moto: Moto, guarded: FaultProxy) -> None:
    options = guarded.storage_options() | {"ckptstore": {"timeout": 3.0, "deadline": 4.0}}
    url = f"s3://{moto.new_bucket()}/x.npz"
    convert.to_npz(f"{url}-known", TREE, storage_options=options)
    gone: list[Request] = []

    def ends(request: Request) -> bool:
        if matching("POST", "uploadId=")(request):
            gone.append(request)
        return bool(gone)

    guarded.rule(ends, DROP_BEFORE, times=math.inf)
    refused(convert.to_npz, url, LARGE, overwrite=True, storage_options=options)
    guarded.reset()
    refused(convert.from_npz, url, storage_options=options)  # it does not exist
    convert.to_npz(url, LARGE, overwrite=True, storage_options=options)
    assert np.array_equal(convert.from_npz(url, storage_options=options)["w"], LARGE["w"])


@follows(
    "storage.clients.s3_remedies",
    "split the array into several smaller ones, or save to another store",
)
@follows(
    "storage.uploads",
    "split the array into several of at most that size, or save to a store with multipart uploads",
)
def test_an_array_that_is_too_large_for_a_store(
    moto: Moto, guarded: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small: the limit of a store is gigabytes, and a file of several arrays 128 MiB."""
    monkeypatch.setattr(placement, "FILE_NBYTES", 4000)
    monkeypatch.setattr(uploads, "PART_NBYTES", 100_000)
    monkeypatch.setattr(uploads, "WHOLE_MAX_NBYTES", 300_000)
    large, bucket = {"x": np.arange(40_000.0)}, moto.new_bucket()  # 320,000 bytes
    split = {"x": np.split(large["x"], 2)}
    no_parts: Policy = [(matching("POST", "uploads"), status(501, "NotImplemented"))]
    is_large = lambda r: r.method == "PUT" and r.length > 300_000  # noqa: E731
    too_large: Policy = [*no_parts, (is_large, status(400, "EntityTooLarge"))]
    for number, policy in enumerate((no_parts, too_large)):
        if number:
            monkeypatch.setattr(uploads, "WHOLE_MAX_NBYTES", 1 << 30)
        guarded.reset()
        enforce(guarded, policy)
        url, options = f"s3://{bucket}/{number}", guarded.storage_options()
        refused(ckptstore.save, url, large, storage_options=options)
        ckptstore.save(url, split, storage_options=options)
        loaded = ckptstore.load(url, storage_options=options)["x"]
        assert np.array_equal(np.concatenate(loaded), large["x"])
    monkeypatch.setattr(uploads, "PART_NBYTES", 8 << 20)
    other = moto.storage_options()
    ckptstore.save(f"s3://{bucket}/other", large, storage_options=other)


# --- Credentials, clocks and stores that lose ---------------------------------------------------


@follows("storage.retry", "check this machine's clock, too")
def test_a_clock_that_is_wrong(
    moto: Moto, guarded: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_late(request: Request) -> bool:
        sent = request.headers.get("x-amz-date", "")
        return sent[:8] != datetime.datetime.now(datetime.UTC).strftime("%Y%m%d")

    enforce(guarded, [(is_late, status(403, "RequestTimeTooSkewed"))])
    url, options = f"s3://{moto.new_bucket()}/run", {"storage_options": guarded.storage_options()}
    real = botocore.auth.get_current_datetime
    late = lambda *args, **how: real(*args, **how) - datetime.timedelta(days=2)  # noqa: E731
    monkeypatch.setattr(botocore.auth, "get_current_datetime", late)
    refused(ckptstore.save, url, {"x": 1}, **options)
    monkeypatch.undo()
    saved(url, **options)


@follows(
    "storage.clients.s3_remedies",
    "renew the credentials, or pass others in storage_options or the environment",
)
def test_a_signature_that_does_not_match(moto: Moto, guarded: FaultProxy) -> None:
    has_old = lambda r: "old" in r.headers.get("authorization", "")  # noqa: E731
    writes = lambda r: r.method == "PUT" and has_old(r)  # noqa: E731
    enforce(guarded, [(writes, status(403, "SignatureDoesNotMatch"))])
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    refused(ckptstore.save, url, {"x": 1}, storage_options=options | {"key": "old"})
    saved(url, storage_options=options | {"key": "new"})


@follows("storage.proof", "check the endpoint, or save to another store")
def test_a_store_that_does_not_show_what_was_written(moto: Moto, guarded: FaultProxy) -> None:
    reads = matching("GET", "PROBE-")
    enforce(guarded, [(reads, status(404, "NoSuchKey"))])
    url, options = f"s3://{moto.new_bucket()}/run", guarded.storage_options()
    refused(ckptstore.save, url, {"x": 1}, storage_options=options)
    saved(url, storage_options=options | {"endpoint_url": moto.endpoint})
    saved(f"s3://{moto.new_bucket()}/run", storage_options=moto.storage_options())

"""S3 through s3fs, on two servers: the contract of every storage, and what only a bucket has."""

from __future__ import annotations

from typing import Any

import pytest
from aiobotocore.session import AioSession

from ckptstore import storage as storage_package
from ckptstore.storage import Storage
from tests.support.servers import S3Server
from tests.support.servers.proxy import FaultProxy
from tests.support.storage_contract import StorageContract


class TestS3(StorageContract):
    @pytest.fixture
    def storage(self, s3: S3Server) -> Storage:
        self.server = s3
        return storage_package.open(f"s3://{s3.new_bucket()}/run/step", self.options())

    def options(self) -> dict[str, Any]:
        return self.server.storage_options()


def test_options_for_all_requests_go_with_those_that_take_them(s3: S3Server) -> None:
    bucket = s3.new_bucket()
    with FaultProxy(s3) as proxy:
        options = proxy.storage_options() | {
            "requester_pays": True,
            "s3_additional_kwargs": {"StorageClass": "STANDARD_IA", "ACL": None},
        }
        with storage_package.open(f"s3://{bucket}/run", options) as storage:
            storage.put("small", [b"1"], 1)
            storage.put("large", [bytes(9 << 20)], 9 << 20)
            assert storage.read("small", 1) == b"1"
            assert storage.list() == {"large": 9 << 20, "small": 1}
        log = proxy.log
    assert all(request.headers["x-amz-request-payer"] == "requester" for request in log)
    stored = [r for r in log if "x-amz-storage-class" in r.headers]
    assert sorted(r.method for r in stored) == ["POST", "PUT"]  # not with parts, reads and lists


def test_a_session_of_the_callers_own_is_used(s3: S3Server) -> None:
    options = s3.storage_options()
    session = AioSession()
    session.set_credentials(options.pop("key"), options.pop("secret"))
    with storage_package.open(f"s3://{s3.new_bucket()}/run", options | {"session": session}) as it:
        it.put("data", [b"1"], 1)
        assert it.list() == {"data": 1}

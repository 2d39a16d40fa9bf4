"""S3 through s3fs, on two servers: the contract of every storage, and what only a bucket has."""

from __future__ import annotations

from typing import Any

import pytest

from ckptstore import storage as storage_package
from ckptstore.storage import Storage
from tests.support.servers import S3Server
from tests.support.storage_contract import StorageContract


class TestS3(StorageContract):
    @pytest.fixture
    def storage(self, s3: S3Server) -> Storage:
        self.server = s3
        return storage_package.open(f"s3://{s3.new_bucket()}/run/step", self.options())

    def options(self) -> dict[str, Any]:
        return self.server.storage_options()

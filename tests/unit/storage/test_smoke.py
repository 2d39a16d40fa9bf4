"""One save and one load on each server: what `make test` runs of the stores."""

from __future__ import annotations

import numpy as np
import pytest

import ckptstore
from tests.support.servers import Server

pytestmark = pytest.mark.smoke


def test_a_run_in_a_bucket_is_saved_swapped_loaded_and_deleted(server: Server, bucket: str) -> None:
    options = server.storage_options()
    manager = ckptstore.Manager(f"{server.protocol}://{bucket}/run", storage_options=options)
    for step in (1, 2):
        manager.save_async(step, {"w": np.arange(4) + step, "step": step})
    manager.save(2, {"w": np.arange(4), "step": 2}, overwrite=True)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        manager.save(2, {})
    loaded = manager.load()
    assert loaded["step"] == 2 and np.array_equal(loaded["w"], np.arange(4))
    assert ckptstore.verify(f"{manager.url}/step-000000000001", storage_options=options) == []
    manager.delete(1)
    assert manager.steps() == [2]

"""The servers that the bucket tests run on, each started when the first test asks for it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Generator, Iterator

import pytest

from tests.support import draws, marks, remedies
from tests.support.servers import Gcs, Ministack, Moto, S3Server, Server
from tests.support.servers.proxy import FaultProxy

# No test finds credentials, or asks a network for them. The region is set here because s3fs cannot
# make a bucket where its `client_kwargs` hold it. gcsfs would ask by gRPC what kind a bucket is.
for name in list(os.environ):
    if name.startswith(("AWS_", "GOOGLE_", "GCSFS_", "FSSPEC_")) or name == "STORAGE_EMULATOR_HOST":
        del os.environ[name]
os.environ.update(
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    AWS_CONFIG_FILE=os.devnull,
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",
    NO_GCE_CHECK="true",
    NO_PROXY="127.0.0.1",
    no_proxy="127.0.0.1",
)

draws.register()

# A shell starts what it puts in the background without interrupts, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say of each test what it needs."""
    for item in items:
        marks.add(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """See that a test which follows remedies meets them."""
    if marks_of := list(item.iter_markers("follows")):
        with remedies.met(marks_of):
            return (yield)
    return (yield)


@pytest.fixture(autouse=True)
def fast_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the body of a request that hangs no longer than on this machine it may take."""
    monkeypatch.setattr("ckptstore.storage.clients.sync._SLOWEST", 64 << 20)


@pytest.fixture(scope="module", autouse=True)
def _programs() -> Iterator[None]:
    """Let go of the programs that jax compiled for a file of tests; of all, they take gigabytes.

    The C library keeps most of the memory that a compilation freed, unless it is told not to.
    """
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    server = Moto()
    yield server
    server.stop()


@pytest.fixture
def guarded(moto: Moto) -> Iterator[FaultProxy]:
    """A proxy in front of moto, which a test lets enforce a policy."""
    with FaultProxy(moto) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def ministack() -> Iterator[Ministack]:
    server = Ministack()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gcs() -> Iterator[Gcs]:
    server = Gcs()
    yield server
    server.stop()


@pytest.fixture(params=["moto", "ministack", "gcs"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each server in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["moto", "ministack"])
def s3(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn."""
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def bucket(server: Server) -> str:
    """A fresh bucket of `server`."""
    return server.new_bucket()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    """A proxy in front of `server`."""
    with FaultProxy(server) as running:
        yield running

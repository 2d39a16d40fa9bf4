"""What fsspec knows beside S3 and GCS: memory, HTTP, and what is written at one's own risk."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import math
import re
import shutil
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.registry import known_implementations
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

import ckptstore
from ckptstore import storage as storage_package
from ckptstore.errors import AlreadyCommittedError, NotCommittedError, StorageError
from ckptstore.storage import Storage, connect
from ckptstore.storage.bucket import BucketStorage
from tests.support.servers import tls
from tests.support.servers.proxy import FaultProxy, Request, status
from tests.support.storage_contract import StorageContract, put

follows = pytest.mark.follows

ASSUME = {"ckptstore": {"assume_atomic": True}}
QUICK = {"ckptstore": {"deadline": 2.0, "timeout": 2.0}}


def tree(seed: int = 0, nbytes: int = 1 << 16) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {"w": generator.integers(0, 256, nbytes, dtype=np.uint8), "step": seed, "b": [1.5, "x"]}


def same(found: Any, expected: dict[str, Any]) -> bool:
    return bool(
        np.array_equal(found["w"], expected["w"])
        and {k: found[k] for k in ("step", "b")} == {k: expected[k] for k in ("step", "b")}
    )


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL in the memory of this process, where nothing is."""
    bucket = f"test-{uuid.uuid4().hex}"
    yield f"memory://{bucket}/run/step"
    store = fsspec.filesystem("memory").store
    for path in [path for path in store if path.startswith(f"/{bucket}/")]:
        del store[path]


class TestMemory(StorageContract):
    @pytest.fixture
    def storage(self, memory: str) -> Storage:
        return storage_package.open(memory)


def test_a_checkpoint_in_memory(memory: str) -> None:
    first, second = tree(1, 20 << 20), tree(2, 20 << 20)  # in parts
    ckptstore.save(memory, first)
    assert same(ckptstore.load(memory), first)
    with pytest.raises(AlreadyCommittedError):
        ckptstore.save(memory, second)
    ckptstore.save(memory, second, overwrite=True)
    assert same(ckptstore.load(memory), second)
    ckptstore.verify(memory)
    root = memory.removeprefix("memory:/")
    names = [path for path in fsspec.filesystem("memory").store if path.startswith(root)]
    assert len(names) == 2, names  # the manifest and one data file


def test_one_of_eight_saves_to_memory_wins(memory: str) -> None:
    start = threading.Barrier(8)

    def attempt(number: int) -> int | None:
        start.wait()
        try:
            ckptstore.save(memory, tree(number))
            return number
        except AlreadyCommittedError:
            return None

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [number for number in pool.map(attempt, range(8)) if number is not None]
    assert same(ckptstore.load(memory), tree(winner))


def test_an_upload_to_memory_that_fails_leaves_nothing(memory: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(9 << 20)
        raise ValueError("the leaf is gone")

    with storage_package.open(memory) as place:
        with pytest.raises(ValueError, match="the leaf is gone"):
            place.put("data", chunks(), 20 << 20)
        assert place.list() == {}
        assert place.unfinished() == {}


class _Web(http.server.SimpleHTTPRequestHandler):
    """Static files, with ranges and, where `user` is set, a password."""

    user: str | None = None
    ranges = True
    listing = True
    seen: list[str]

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        if self.user and given != "Basic " + base64.b64encode(self.user.encode()).decode():
            self.send_error(401)
            return
        super().do_GET()

    def list_directory(self, path: Any) -> Any:
        if not self.listing:
            self.send_error(403)
            return None
        return super().list_directory(path)

    def send_head(self) -> Any:
        found, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if not self.ranges or found is None or self.command != "GET" or not path.is_file():
            return super().send_head()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", found)
        assert match is not None
        data = path.read_bytes()
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if start >= len(data):
            self.send_error(416)
            return None
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        return io.BytesIO(data[start:end])

    def log_message(self, *arguments: Any) -> None:
        pass


class Web:
    """A directory served over HTTP on loopback."""

    def __init__(self, directory: Path, **how: Any) -> None:
        handler = type("Handler", (_Web,), how)
        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(handler, directory=str(directory))
        )
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self) -> Web:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_a_checkpoint_is_read_over_http(tmp_path: Path) -> None:
    saved = tree(3, 20 << 20)
    ckptstore.save(tmp_path / "run" / "step", saved)
    with Web(tmp_path) as web:
        url = f"http://{web.host}/run/step"
        assert same(ckptstore.load(url), saved)
        ckptstore.verify(url)
        with (
            storage_package.open(url) as place,
            storage_package.open(tmp_path / "run/step") as here,
        ):
            assert place.list() == here.list()
            assert set(place.changed()) == set(here.list())
            for name, time in here.changed().items():
                assert abs(place.changed()[name] - time) < 2
            name = next(name for name in here.list() if name.startswith("data-"))
            size = here.list()[name]
            with pytest.raises(EOFError):
                place.get(name, size - 2, bytearray(4))
            with pytest.raises(EOFError):
                place.get(name, size + 2, bytearray(4))
            with pytest.raises(FileNotFoundError):
                place.get("other", 0, bytearray(4))
        with storage_package.open(f"http://{web.host}/run") as above:
            assert list(above.children()) == ["step"]
            assert list(above.holders("MANIFEST")) == ["step"]
        with pytest.raises(NotCommittedError):
            ckptstore.load(f"http://{web.host}/run/other")


def test_nothing_is_written_over_http(tmp_path: Path) -> None:
    with Web(tmp_path) as web:
        url = f"http://{web.host}/run"
        with pytest.raises(StorageError, match="http:// may replace an existing file") as caught:
            ckptstore.save(url, tree())
        assert caught.value.reason == "not-atomic"
        assert '{"assume_atomic": True}' in str(caught.value)
        with pytest.raises(StorageError) as caught:
            ckptstore.save(url, tree(), storage_options=ASSUME)
        assert caught.value.reason == "read-only"
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_a_url_is_used_and_not_shown(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "run", tree(4))
    with Web(tmp_path, user="me:hunter2!") as web:
        assert same(ckptstore.load(f"http://me:hunter2!@{web.host}/run"), tree(4))
        with pytest.raises(StorageError) as caught:
            ckptstore.load(f"http://me:hunter3!@{web.host}/run")
        assert caught.value.reason == "credentials"
        with pytest.raises(StorageError) as refused:
            ckptstore.save(f"http://me:hunter3!@{web.host}/other", tree())
    for error in (caught.value, refused.value):
        assert "hunter3" not in str(error)
        assert f"http://***@{web.host}/" in str(error)
        assert error.__cause__ is None


def test_a_server_without_ranges_is_not_asked_for_all(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(1000))
    with Web(tmp_path, ranges=False) as web, storage_package.open(f"http://{web.host}/") as place:
        assert place.read("data", 10) == bytes(11)
        place.get("data", 0, bytearray(10))
        with pytest.raises(StorageError, match="range"):
            place.get("data", 500, bytearray(10))


def test_a_server_that_lists_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(1000))
    with (
        Web(tmp_path, listing=False) as web,
        storage_package.open(f"http://{web.host}/run") as place,
        storage_package.open(f"http://{web.host}/a") as above,
    ):
        assert isinstance(above, BucketStorage)
        client = above._requests.link.client
        assert client.page("data", None).sizes == {"data": 1000}
        (tmp_path / "run").mkdir()
        with pytest.raises(StorageError, match="could not list") as caught:
            place.list()
        assert caught.value.reason == "permission"


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with Web(tmp_path) as web:
        pass
    with pytest.raises(StorageError) as caught:
        ckptstore.load(f"http://{web.host}/run", storage_options=QUICK)
    assert caught.value.reason == "unavailable"


class Looks(AbstractFileSystem):
    """A file system that looks first and then writes, as most of fsspec's do."""

    protocol = "looks"
    files: ClassVar[dict[str, bytes]] = {}
    cachable = False

    def __init__(self, host: str = "", username: str = "", password: str = "", **more: Any) -> None:
        super().__init__(**more)
        if password and password != "hunter2":
            raise PermissionError(f"{username}:{password} may not log in at {host}")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("looks://").strip("/").rpartition("@")[2]

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        user, _, host = path.removeprefix("looks://").partition("/")[0].rpartition("@")
        name, _, password = user.partition(":")
        return {"host": host} | ({"username": name, "password": password} if user else {})

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        top, found = self._strip_protocol(path), {}
        for name, data in list(self.files.items()):
            if name == top:
                found[name] = {"name": name, "size": len(data), "type": "file"}
            elif name.startswith(top + "/"):
                below, deeper, _ = name[len(top) + 1 :].partition("/")
                kind = "directory" if deeper else "file"
                size = 0 if deeper else len(data)
                found[below] = {"name": f"{top}/{below}", "size": size, "type": kind}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else sorted(found)

    def _rm(self, path: str) -> None:
        try:
            del self.files[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        more.pop("cache_options", None)
        return LooksFile(self, path, mode, **more)


class LooksFile(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.files[self.path][start:end]

    def _initiate_upload(self) -> None:
        self.gathered = b""

    def _upload_chunk(self, final: bool = False) -> bool:
        self.gathered += self.buffer.getvalue()
        if final:
            self.fs.files[self.path] = self.gathered
        return True


@pytest.fixture
def looks() -> str:
    """A URL of a file system that is written at one's own risk."""
    fsspec.register_implementation("looks", Looks, clobber=True)
    connect._clients.clear()
    Looks.files.clear()
    return "looks://host/run/step"


class TestVouched(StorageContract):
    links = False
    puts_large_atomically = False

    @pytest.fixture
    def storage(self, looks: str) -> Storage:
        return storage_package.open(looks, ASSUME)

    def options(self) -> dict[str, Any]:
        return ASSUME

    def test_changed_gives_times_of_one_clock(self, place: Storage) -> None:
        put(place, "first", b"1")
        assert place.changed() == {}  # this one tells no times


def test_a_checkpoint_where_the_caller_vouches(looks: str) -> None:
    first, second = tree(5, 20 << 20), tree(6)
    ckptstore.save(looks, first, storage_options=ASSUME)
    with pytest.raises(AlreadyCommittedError):
        ckptstore.save(looks, second, storage_options=ASSUME)
    assert same(ckptstore.load(looks), first)  # reading needs no word
    ckptstore.save(looks, second, overwrite=True, storage_options=ASSUME)
    assert same(ckptstore.load(looks), second)
    ckptstore.verify(looks)
    assert len(Looks.files) == 2


def test_nothing_is_written_where_nobody_vouches(looks: str) -> None:
    for overwrite in (False, True):
        with pytest.raises(StorageError, match="looks:// may replace an existing file") as caught:
            ckptstore.save(looks, tree(), overwrite=overwrite)
        assert caught.value.reason == "not-atomic"
    assert Looks.files == {}
    ckptstore.save(looks, tree(7), storage_options=ASSUME)
    before = dict(Looks.files)
    with pytest.raises(StorageError, match="looks:// may replace an existing file"):
        ckptstore.save(looks, tree(8), overwrite=True)
    with (
        storage_package.open(looks) as place,
        pytest.raises(StorageError, match="could not delete"),
    ):
        place.delete("MANIFEST")
    assert Looks.files == before


def test_an_upload_that_fails_leaves_nothing(looks: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(9 << 20)
        raise ValueError("the leaf is gone")

    with (
        storage_package.open(looks, ASSUME) as place,
        pytest.raises(ValueError, match="the leaf is gone"),
    ):
        place.put("data", chunks(), 20 << 20)
    assert Looks.files == {}


def test_a_part_that_fails_is_not_sent_again(looks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, final: bool = False) -> bool:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(LooksFile, "_upload_chunk", fail)
    with (
        storage_package.open(looks, ASSUME) as place,
        pytest.raises(StorageError, match="gone") as caught,
    ):
        place.put("data", [bytes(20 << 20)], 20 << 20)
    assert caught.value.reason == "unavailable"
    assert Looks.files == {}


def test_a_user_in_a_url_reaches_the_file_system(looks: str) -> None:
    with storage_package.open("looks://me:hunter2@host/run", ASSUME) as place:
        assert place.url == "looks://***@host/run"
        put(place, "data", b"1")
    assert set(Looks.files) == {"host/run/data"}
    with pytest.raises(StorageError) as caught:
        ckptstore.load("looks://me:hunter3@host/run")
    assert caught.value.reason == "permission"
    assert "hunter3" not in str(caught.value)


class Azurite:
    """Microsoft's emulator of Azure Blob Storage, where `azurite-blob` is installed."""

    # The account and the key of every Azurite; no secret.
    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, program: str, directory: Path) -> None:
        self.process = subprocess.Popen(
            [
                program,
                *("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"),
                *("--blobHost", "127.0.0.1", "--blobPort", "0"),
            ],
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if match := re.search(r"successfully listens on (http://\S+)", line):
                break
        else:
            raise RuntimeError("azurite-blob did not start")
        self.endpoint = match[1]
        self.reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.reader.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def options(self, endpoint: str | None = None, key: str | None = None) -> dict[str, Any]:
        text = (
            f"DefaultEndpointsProtocol=http;AccountName={self.account};"
            f"AccountKey={key or self.key};"
            f"BlobEndpoint={endpoint or self.endpoint}/{self.account};"
        )
        return {"connection_string": text}

    def new_container(self) -> str:
        from azure.storage.blob import BlobServiceClient

        name = f"test-{uuid.uuid4().hex}"
        text = self.options()["connection_string"]
        with BlobServiceClient.from_connection_string(text) as client:
            client.create_container(name)
        return name


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    pytest.importorskip("adlfs", reason="adlfs is not installed")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on PATH: npm install -g azurite")
    server = Azurite(program, tmp_path_factory.mktemp("azurite"))
    yield server
    server.stop()


class TestAzure(StorageContract):
    links = False

    @pytest.fixture
    def storage(self, azurite: Azurite) -> Storage:
        self.server = azurite
        return storage_package.open(f"abfs://{azurite.new_container()}/run/step", self.options())

    def options(self) -> dict[str, Any]:
        return self.server.options()


def test_a_checkpoint_in_azure(azurite: Azurite) -> None:
    options = azurite.options()
    for protocol in ("abfs", "az", "abfss"):
        url = f"{protocol}://{azurite.new_container()}/run/step"
        first, second = tree(9, 20 << 20), tree(10)
        ckptstore.save(url, first, storage_options=options)
        assert same(ckptstore.load(url, storage_options=options), first)
        with pytest.raises(AlreadyCommittedError):
            ckptstore.save(url, second, storage_options=options)
        ckptstore.save(url, second, overwrite=True, storage_options=options)
        assert same(ckptstore.load(url, storage_options=options), second)
        with storage_package.open(url, options) as place:
            assert len(place.list()) == 2


def test_uploads_to_azure(azurite: Azurite) -> None:
    url, options = f"abfs://{azurite.new_container()}/run", azurite.options()

    def chunks() -> Iterator[bytes]:
        yield bytes(17 << 20)
        deadline = time.monotonic() + 30
        while list(place.unfinished()) != ["data"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        raise ValueError("the leaf is gone")

    with storage_package.open(url, options) as place:
        with pytest.raises(ValueError, match="the leaf is gone"):
            place.put("data", chunks(), 20 << 20)
        assert place.list() == place.unfinished() == {}
        place.put("data", [b"1" * (9 << 20), b"2" * (9 << 20)], 18 << 20)
        place.put("small", [b"3" * (5 << 20)], 5 << 20)
        assert place.list() == {"data": 18 << 20, "small": 5 << 20}
        assert place.unfinished() == {}
        buffer = bytearray(2)
        place.get("data", (9 << 20) - 1, buffer)
        assert buffer == b"12"


def test_what_azure_refuses(azurite: Azurite) -> None:
    container, other = azurite.new_container(), f"test-{uuid.uuid4().hex}"
    wrong = base64.b64encode(bytes(64)).decode()
    for bucket, options, reason in (
        (other, azurite.options(), "no-bucket"),
        (container, azurite.options(key=wrong), "permission"),
        (container, azurite.options("http://127.0.0.1:9") | QUICK, "unavailable"),
        (f"{container}@example.com", azurite.options(), "bad-url"),
    ):
        with pytest.raises(StorageError) as caught:
            ckptstore.load(f"abfs://{bucket}/run", storage_options=options)
        assert caught.value.reason == reason, caught.value
        assert wrong not in str(caught.value)
        assert azurite.key not in str(caught.value)


class Answering:
    """Azurite, as a proxy before it needs to know it."""

    protocol = "abfs"

    def __init__(self, azurite: Azurite) -> None:
        self.port = int(azurite.endpoint.rpartition(":")[2])

    def error_body(self, status: int, code: str) -> tuple[str, bytes]:
        text = f"<Error><Code>{code}</Code><Message>Injected.</Message></Error>"
        return "application/xml", f"<?xml version='1.0' encoding='utf-8'?>{text}".encode()


@pytest.mark.parametrize(
    ("number", "error", "reason", "remedy"),
    [
        pytest.param(
            *(403, "AuthorizationPermissionMismatch", "permission", "Blob Data Contributor"),
            marks=follows(
                "storage.clients.azure_errors",
                "ask for permission to read, write, list and delete there (the role Storage Blob "
                "Data Contributor has all of them)",
            ),
        ),
        pytest.param(
            *(403, "AuthorizationFailure", "permission", "let it be added"),
            marks=follows(
                "storage.clients.azure_errors",
                "save from a network that it allows, or let it be added",
            ),
        ),
        pytest.param(
            *(412, "LeaseIdMissing", "permission", "wait for its end, or break it"),
            marks=follows("storage.clients.azure_errors", "wait for its end, or break it"),
        ),
        (507, "InsufficientAccountPermissions", "unavailable", "try again later"),
    ],
)
def test_a_remedy_of_azure_works(
    number: int, error: str, reason: str, remedy: str, azurite: Azurite
) -> None:
    url = f"abfs://{azurite.new_container()}/run"
    with FaultProxy(Answering(azurite)) as proxy:
        options = azurite.options(proxy.endpoint) | {"ckptstore": {"timeout": 5, "deadline": 2}}
        proxy.rule(lambda r: r.method == "PUT", status(number, error), times=math.inf)
        with pytest.raises(StorageError) as caught:
            ckptstore.save(url, {"x": 1}, storage_options=options)
        assert caught.value.reason == reason and remedy in str(caught.value), caught.value
        proxy.reset()  # the role is given, the lease has ended
        ckptstore.save(url, {"x": 1}, storage_options=options)


@pytest.fixture
def secure(
    azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """Azurite behind TLS."""
    context, trusted = tls.certify(tmp_path)
    trusting = ssl.create_default_context(cafile=trusted)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    with FaultProxy(Answering(azurite), tls=context) as proxy:
        yield proxy


@follows("storage.clients.azure_errors", "write https in the connection_string")
def test_an_account_that_demands_tls_takes_https(azurite: Azurite, secure: FaultProxy) -> None:
    url = f"abfs://{azurite.new_container()}/run"
    with FaultProxy(Answering(azurite)) as plain:
        needs = status(400, "AccountRequiresHttps")
        plain.rule(lambda r: True, needs, times=math.inf)
        with pytest.raises(StorageError, match="https in the connection_string"):
            ckptstore.save(url, {"x": 1}, storage_options=azurite.options(plain.endpoint))
    text = azurite.options(secure.endpoint)["connection_string"]
    text = text.replace("DefaultEndpointsProtocol=http;", "DefaultEndpointsProtocol=https;")
    ckptstore.save(url, {"x": 1}, storage_options={"connection_string": text})
    assert secure.log


@follows("storage.clients.azure", "pass account_name and account_host in storage_options")
def test_another_host_of_azure_is_passed_in_the_options(
    azurite: Azurite, secure: FaultProxy
) -> None:
    container = azurite.new_container()
    with pytest.raises(StorageError, match="pass account_name and account_host"):
        ckptstore.save(f"abfs://{container}@example.com/run", {"x": 1})
    options = {
        "account_name": azurite.account,
        "account_key": azurite.key,
        "account_host": f"127.0.0.1:{secure.port}/{azurite.account}",
    }
    ckptstore.save(f"abfs://{container}/run", {"x": 1}, storage_options=options)
    assert secure.log


@pytest.mark.parametrize("error", ["BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold"])
def test_a_container_of_azure_that_holds_its_blobs_takes_creates(
    error: str, azurite: Azurite
) -> None:
    with FaultProxy(Answering(azurite)) as proxy:
        options = azurite.options(proxy.endpoint)
        url, written = f"abfs://{azurite.new_container()}/run", set[str]()

        def is_held(request: Request) -> bool:
            path = request.target.partition("?")[0]
            if request.method == "PUT" and "comp=block&" not in request.target:
                held = path in written
                written.add(path)
                return held
            return request.method == "DELETE"

        proxy.rule(is_held, status(409, error), times=math.inf)
        ckptstore.save(url, {"x": 1}, storage_options=options)
        with pytest.raises(StorageError, match="without overwrite=True") as caught:
            ckptstore.save(url, {"x": 2}, overwrite=True, storage_options=options)
        assert caught.value.reason == "not-supported"
        with (
            storage_package.open(url, options) as place,
            pytest.raises(StorageError, match="until the rule or hold") as caught,
        ):
            place.delete("MANIFEST")
        assert caught.value.reason == "retained"
        ckptstore.save(f"{url}-new", {"x": 2}, storage_options=options)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("s4://bucket/run", "s3://"),
        ("htp://host/run", "http://"),
        ("what-is-this://host/run", "check the part before"),
        ("local://dir/run", "file://"),
    ],
)
def test_an_unknown_protocol(url: str, hint: str) -> None:
    with pytest.raises(StorageError, match=re.escape(hint)) as caught:
        ckptstore.load(url)
    assert caught.value.reason == "no-such-store"


def test_a_protocol_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        known_implementations,
        "wanting",
        {"class": "there_is_no_such_package.File", "err": "Install wantingfs to reach it"},
    )
    with pytest.raises(StorageError, match="Install wantingfs to reach it") as caught:
        ckptstore.load("wanting://host/run")
    assert caught.value.reason == "missing-package"


def test_options_that_the_file_system_does_not_take(looks: str) -> None:
    class Strict(Looks):
        def __init__(self, host: str = "") -> None:
            super().__init__(host)

    fsspec.register_implementation("looks", Strict, clobber=True)
    with pytest.raises(StorageError) as caught:
        ckptstore.load(looks, storage_options={"nonsense": 1})
    assert caught.value.reason == "bad-options"
    assert "nonsense" in str(caught.value)


def test_clients_are_made_once(memory: str) -> None:
    with storage_package.open(memory), storage_package.open(memory) as second:
        second.list()
        before = dict(connect._clients)
        storage_package.open(memory).list()
        assert connect._clients == before

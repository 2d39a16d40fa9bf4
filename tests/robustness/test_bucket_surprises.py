"""What stores and users do that nobody expects: odd and lost answers, typing errors."""

from __future__ import annotations

import http.server
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import storage as storage_package
from ckptstore.checkpoint import deletion
from ckptstore.demo.run import RUNS, clear
from ckptstore.storage.clients.base import Failure, Kind
from ckptstore.storage.clients.memory import MemoryClient
from tests.support.servers import Gcs, Ministack

TREE = {"w": np.arange(1000.0)}
QUICK = {"timeout": 2.0, "deadline": 2.0}


# Answers that make no sense.


@pytest.fixture
def answer(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """Serve one answer to everything; gives the endpoint and the list of what was asked."""
    status, body = request.param
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def reply(self) -> None:
            asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = reply

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


HTML = b"<html><body>Please log in</body></html>"
CALLS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "save": lambda url, options: ckptstore.save(url, TREE, storage_options=options),
    "load": lambda url, options: ckptstore.load(url, storage_options=options),
    "steps": lambda url, options: ckptstore.Manager(url, storage_options=options).steps(),
    "latest": lambda url, options: ckptstore.Manager(url, storage_options=options).latest(),
    "gc": lambda url, options: ckptstore.Manager(url, storage_options=options).gc(),
}
SIMILAR = ("steps", "latest")


@pytest.mark.parametrize(
    "call", [pytest.param(c, marks=pytest.mark.whole if c in SIMILAR else []) for c in CALLS]
)
@pytest.mark.parametrize(
    "answer",
    [
        *((404, b""), (412, b""), (200, HTML), (501, b"")),
        *(pytest.param(a, marks=pytest.mark.whole) for a in ((405, b""), (416, b""), (400, HTML))),
    ],
    ids=lambda given: f"{given[0]}-{len(given[1])}",
    indirect=True,
)
@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_an_answer_that_makes_no_sense_is_an_error_that_says_what_to_check(
    protocol: str, answer: tuple[str, list[str]], call: str
) -> None:
    endpoint, asked = answer
    options = {
        "s3": {"key": "a", "secret": "b", "endpoint_url": endpoint},
        "gs": {"token": "anon", "endpoint_url": endpoint},
    }[protocol] | {"ckptstore": QUICK}
    try:
        found = CALLS[call](f"{protocol}://bucket/run", options)
    except ckptstore.CheckpointError as error:
        assert f"{protocol}://bucket" in str(error)
        assert error.__cause__ is None
    else:
        pytest.fail(f"gave {found!r}")
    assert asked


def test_a_store_without_conditional_writes_is_refused_at_once(ministack: Ministack) -> None:
    from tests.support.servers.proxy import FaultProxy, status

    bucket = ministack.new_bucket()
    with FaultProxy(ministack) as proxy:
        conditional = lambda r: any(name in r.headers for name in ("if-none-match", "if-match"))  # noqa: E731
        proxy.rule(conditional, status(501, "NotImplemented"), times=1000)
        with pytest.raises(ckptstore.StorageError, match="does not honour the condition") as caught:
            ckptstore.save(f"s3://{bucket}/run", TREE, storage_options=proxy.storage_options())
        assert caught.value.reason == "not-atomic"
        assert proxy.endpoint in str(caught.value)
    assert ministack.objects(bucket) == {}


# Lost answers.


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}/run"


def test_a_delete_between_a_commit_and_its_second_try_leaves_no_manifest_without_data(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, the checkpoint deleted; the writer sends again before the delete ends."""
    manager, real_put, real_discard = ckptstore.Manager(place), MemoryClient.put, deletion.discard
    applied, deleted, saved = (threading.Event() for _ in range(3))

    def put(self: Any, key: str, data: Any, condition: Any = None) -> None:
        real_put(self, key, data, condition)
        if key.endswith("MANIFEST") and not applied.is_set():
            applied.set()
            assert deleted.wait(30)
            raise Failure(Kind.AGAIN, "the connection is lost", answered=False)

    def discard(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is deleter:
            deleted.set()
            assert saved.wait(30)
        return real_discard(*arguments, **options)

    def delete() -> None:
        assert applied.wait(30)
        manager.delete(1)

    deleter = threading.Thread(target=delete)
    monkeypatch.setattr(MemoryClient, "put", put)
    monkeypatch.setattr(deletion, "discard", discard)
    deleter.start()
    manager.save(1, TREE)
    saved.set()
    deleter.join()
    assert manager.steps() == []
    with pytest.raises(ckptstore.NotCommittedError):
        manager.load(1)


def test_a_commit_that_is_read_back_damaged_deletes_nothing(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_put, real_read, lost = MemoryClient.put, MemoryClient.read, []

    def put(self: Any, key: str, data: Any, condition: Any = None) -> None:
        real_put(self, key, data, condition)
        if key.endswith("MANIFEST"):
            lost.append(key)
            raise Failure(Kind.AGAIN, "the connection is lost", answered=False)

    def read(self: Any, key: str, limit: int) -> Any:
        data, version = real_read(self, key, limit)
        return (b"\0" + data[1:] if lost else data), version

    with monkeypatch.context() as patch:
        patch.setattr(MemoryClient, "put", put)
        patch.setattr(MemoryClient, "read", read)
        with pytest.raises(ckptstore.OutcomeUnknownError, match="does not hold a manifest"):
            ckptstore.save(place, TREE)
    assert np.array_equal(ckptstore.load(place)["w"], TREE["w"])


def test_a_listing_that_is_damaged_once_is_looked_at_again(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(place, TREE)
    real, seen = MemoryClient.page, []

    def page(self: Any, prefix: str, token: Any, *, delimiter: str = "") -> Any:
        found = real(self, prefix, token, delimiter=delimiter)
        seen.append(prefix)
        if len(seen) == 1:
            sizes = {key: size ^ 1 for key, size in found.sizes.items()}
            return type(found)(sizes, found.changed)
        return found

    monkeypatch.setattr(MemoryClient, "page", page)
    assert np.array_equal(ckptstore.load(place)["w"], TREE["w"])
    assert len(seen) == 2


# Typing errors, and what is nobody else's business.


def test_an_option_that_gcsfs_would_ignore_is_refused(gcs: Gcs) -> None:
    options = {"token": "anon", "endpoint": gcs.endpoint}
    with pytest.raises(ckptstore.StorageError, match="no option endpoint") as caught:
        ckptstore.save("gs://bucket/run", TREE, storage_options=options)
    assert caught.value.reason == "bad-options"


def test_names_of_options_are_text() -> None:
    with pytest.raises(ckptstore.StorageError) as caught:
        ckptstore.load("memory://bucket/run", storage_options={1: 2})  # type: ignore[dict-item]
    assert caught.value.reason == "bad-options"


@pytest.mark.parametrize("grace", ["1h", -1, None, True, float("nan")])
def test_a_grace_period_is_seconds(grace: Any, place: str) -> None:
    with pytest.raises(ckptstore.StructureError, match="expected a number of seconds"):
        ckptstore.Manager(place).gc(grace=grace)


def test_a_manager_with_options_is_not_pickled(place: str) -> None:
    again = pickle.loads(pickle.dumps(ckptstore.Manager(place)))
    assert again.url == ckptstore.Manager(place).url
    options = {"key": "AKIA", "secret": "very secret"}
    with pytest.raises(TypeError, match="may hold secrets"):
        pickle.dumps(ckptstore.Manager("s3://bucket/run", storage_options=options))


@pytest.mark.parametrize(
    "url",
    [
        "s3:/AKIA:SECRET@bucket/run",
        Path("s3://AKIA:SECRET@bucket/run"),
        "https://SECRET@host/run",
        "https://host/run?X-Amz-Signature=SECRET",
        "ftp://me:SEC/SECRET@host/run",
        "no-such://me:SECRET@host/run",
    ],
    ids=str,
)
def test_no_error_shows_who_logs_in(url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptstore.storage.retry._UNREACHABLE", 1.0)
    for call in (storage_package.open, ckptstore.load):
        try:
            found = call(url)
        except ckptstore.CheckpointError as error:
            assert "SECRET" not in str(error)
        else:
            assert "SECRET" not in repr(found)


def test_the_demo_removes_nothing_but_its_own(tmp_path: Path) -> None:
    for name in RUNS:
        ckptstore.save(tmp_path / name / "step-000000000001", TREE)
        (tmp_path / f"{name}-0.jsonl").write_text("{}")
    clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    for stranger in ("resumed-from-2024", "mine"):
        ckptstore.save(tmp_path / stranger, TREE)
        with pytest.raises(RuntimeError, match="not replaced"):
            clear(str(tmp_path))
        assert ckptstore.load(tmp_path / stranger)
        for file in (tmp_path / stranger).iterdir():
            file.unlink()
        (tmp_path / stranger).rmdir()
    (tmp_path / "resumed-notes.jsonl").write_text("mine")
    with pytest.raises(RuntimeError, match="not replaced"):
        clear(str(tmp_path))
    assert (tmp_path / "resumed-notes.jsonl").read_text() == "mine"

"""Buckets as they are used: in odd processes, with odd keys and options, and without leaks."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import multiprocessing
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec.asyn
import fsspec.config
import numpy as np
import pytest

import ckptstore
from ckptstore import storage as storage_package
from ckptstore.saving.placement import MAX_FILES, Placement
from ckptstore.saving.placement import place as place_leaves
from ckptstore.storage import connect, retry, uploads
from tests.support import ROOT
from tests.support.servers import S3Server, Server
from tests.support.servers import proxy as faults
from tests.support.servers.proxy import FaultProxy

TREE = {"step": 7, "w": np.arange(1000.0)}

spawn = multiprocessing.get_context("spawn")


def place(server: Server, bucket: str, prefix: str = "run") -> str:
    return f"{server.protocol}://{bucket}/{prefix}"


def is_tree(loaded: Any) -> bool:
    return loaded["step"] == 7 and np.array_equal(loaded["w"], TREE["w"])


def run(script: str, *arguments: Any, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own; it finds the arguments in `arguments`."""
    head = "import json, sys\narguments = json.loads(sys.argv[1])\n"
    return subprocess.run(
        [sys.executable, "-c", head + script, json.dumps(arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


# Threads, processes and event loops.


def test_eight_threads_share_one_storage(server: Server, bucket: str) -> None:
    def use(number: int) -> bool:
        name, data = f"data-{number}", bytes([number]) * 1000
        storage.put(name, [data], len(data))
        buffer = bytearray(500)
        storage.get(name, 500, buffer)
        same = storage.read(name, 1000) == data and buffer == data[500:]
        storage.delete(name)
        return same and name not in storage.list()

    with (
        storage_package.open(place(server, bucket), server.storage_options()) as storage,
        ThreadPoolExecutor(8) as pool,
    ):
        assert all(pool.map(use, range(40)))
    assert server.objects(bucket) == {}


FORK = """
import os, signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: the process has threads
import ckptstore
from ckptstore import storage as storage_package
url, options = arguments
ckptstore.save(url + "/before", {"a": 1}, storage_options=options)
storage = storage_package.open(url + "/shared", options)
storage.put("data-0", [b"parent"], 6)
child = os.fork()
if not child:
    signal.alarm(30)
    code = 1
    try:
        assert storage.read("data-0", 10) == b"parent"
        storage.put("data-1", [b"child"], 5)
        ckptstore.save(url + "/child", {"a": 2}, storage_options=options)
        assert ckptstore.load(url + "/before", storage_options=options) == {"a": 1}
        storage.__exit__()
        code = 0
    finally:
        if arguments:
            os._exit(code)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert storage.read("data-1", 10) == b"child"
ckptstore.save(url + "/after", {"a": 3}, storage_options=options)
for name, value in (("before", 1), ("child", 2), ("after", 3)):
    assert ckptstore.load(f"{url}/{name}", storage_options=options) == {"a": value}
print("done")
"""


def test_a_forked_process_saves_and_loads(server: Server, bucket: str) -> None:
    done = run(FORK, place(server, bucket), server.storage_options())
    assert done.stdout == "done\n", done.stderr


FORK_EXIT = """
import os, sys, signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import ckptstore
url, options = arguments
ckptstore.save(url, {"a": 1}, storage_options=options)
child = os.fork()
if not child:
    signal.alarm(30)
    sys.exit(0 if ckptstore.load(url, storage_options=options) == {"a": 1} else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
print("done")
"""


def test_a_forked_process_exits_as_any_other(server: Server, bucket: str) -> None:
    """With its finalizers: those of the parent's connections too."""
    done = run(FORK_EXIT, place(server, bucket), server.storage_options())
    assert done.stdout == "done\n", done.stderr


def save_and_load(url: str, options: dict[str, Any]) -> None:
    ckptstore.save(url, TREE, storage_options=options)
    assert is_tree(ckptstore.load(url, storage_options=options))


def test_a_spawned_process_saves_and_loads(server: Server, bucket: str) -> None:
    url, options = place(server, bucket), server.storage_options()
    process = spawn.Process(target=save_and_load, args=(url, options), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert is_tree(ckptstore.load(url, storage_options=options))


def test_inside_a_running_event_loop(server: Server, bucket: str) -> None:
    """Directly, as a cell of a notebook does, and in threads of the loop."""
    url, options = place(server, bucket), server.storage_options()

    async def main() -> None:
        save_and_load(f"{url}/direct", options)
        jobs = [asyncio.to_thread(save_and_load, f"{url}/{n}", options) for n in range(4)]
        await asyncio.wait_for(asyncio.gather(*jobs), 60)

    asyncio.run(main())
    assert len([key for key in server.objects(bucket) if key.endswith("/MANIFEST")]) == 5


def test_inside_an_event_loop_of_another_thread(server: Server, bucket: str) -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def cell() -> None:
        save_and_load(place(server, bucket), server.storage_options())

    try:
        asyncio.run_coroutine_threadsafe(cell(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_in_the_loop_of_fsspec_it_is_an_error_and_no_deadlock(server: Server, bucket: str) -> None:
    url, options = place(server, bucket), server.storage_options()
    ckptstore.save(url, TREE, storage_options=options)

    async def cell(call: Any) -> None:
        call()

    for call in (
        lambda: ckptstore.save(f"{url}/other", TREE, storage_options=options),
        lambda: ckptstore.load(url, storage_options=options),
    ):
        job = asyncio.run_coroutine_threadsafe(cell(call), fsspec.asyn.get_loop())
        with pytest.raises(ckptstore.StorageError, match="fsspec's own event loop"):
            job.result(30)
    assert is_tree(ckptstore.load(url, storage_options=options))


# Interrupts.

INTERRUPTED = """
import numpy as np
import ckptstore
from ckptstore.storage import uploads
uploads.PART_NBYTES = 5 << 20
url, options = arguments
print("ready", flush=True)
try:
    ckptstore.save(url, {"a": np.zeros((22 << 20) // 8)}, storage_options=options)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def interrupt(proxy: FaultProxy, url: str, options: dict[str, Any]) -> float:
    """Interrupt a save in its third part, and return how long it takes to end."""
    head = "import json, sys\narguments = json.loads(sys.argv[1])\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + INTERRUPTED, json.dumps([url, options])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            proxy.wait(lambda p: len(_parts(p)) >= 1)
            time.sleep(0.2)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "ready\ninterrupted\n", errors
    return time.monotonic() - began


def _parts(proxy: FaultProxy) -> list[Any]:
    return [r for r in proxy.log if r.length >= 1 << 20]  # called with the proxy's lock


def test_an_interrupt_during_an_upload_to_a_slow_store_leaves_nothing(
    server: Server, bucket: str, proxy: FaultProxy
) -> None:
    proxy.rule(lambda r: r.length >= 1 << 20, faults.delay(1.0), times=math.inf)
    took = interrupt(proxy, place(server, bucket), proxy.storage_options())
    print(f"{server.kind}: {took:.1f} s")
    assert took < 10
    assert server.objects(bucket) == {}
    assert server.uploads(bucket) == []


def test_an_interrupt_during_a_request_that_hangs_leaves_nothing(ministack: S3Server) -> None:
    bucket = ministack.new_bucket()
    with FaultProxy(ministack) as proxy:
        proxy.rule(lambda r: r.length >= 1 << 20, faults.HANG_BEFORE, times=math.inf)
        options = proxy.storage_options() | {"ckptstore": {"timeout": 60.0, "deadline": 90.0}}
        took = interrupt(proxy, f"s3://{bucket}/run", options)
    assert ministack.objects(bucket) == {}
    assert ministack.uploads(bucket) == []
    assert took < 30


# No credentials in anything that is shown or stored.

KEY, SECRET, TOKEN = "AKIAQQQQSHOWNNEVER01", "zzSecretShownNever02", "zzTokenShownNever03"


def test_no_credentials_in_errors_reprs_logs_and_pickles(
    s3: S3Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, logger="ckptstore")
    monkeypatch.setattr(retry, "_UNREACHABLE", 0.5)
    bucket = s3.new_bucket()
    options = {"key": KEY, "secret": SECRET, "token": TOKEN, "endpoint_url": s3.endpoint}
    url = f"s3://{bucket}/run"
    shown: list[str] = []

    def fails(place: str, **change: Any) -> None:
        with pytest.raises(ckptstore.CheckpointError) as caught:
            ckptstore.save(place, TREE, storage_options=options | change)
        error = caught.value
        shown.extend([str(error), repr(error), *traceback.format_exception(error)])
        shown.append(pickle.dumps(error).decode("latin-1"))
        assert str(pickle.loads(pickle.dumps(error))) == str(error)

    saved = ckptstore.save(url, TREE, storage_options=options)
    found = ckptstore.inspect(url, storage_options=options)
    for checkpoint in (saved, found):
        shown += [str(checkpoint), repr(checkpoint), pickle.dumps(checkpoint).decode("latin-1")]
    fails(url)
    fails("s3://no-such-bucket-here/run")
    fails(f"s3://{KEY}:{SECRET}@{bucket}/run")
    fails(f"s3://{KEY}:{SECRET}%40@{bucket}/run")
    fails(url, endpoint_url=f"http://127.0.0.1:{closed_port()}")
    fails(url, endpoint_url=f"http://{KEY}:{SECRET}@127.0.0.1:{closed_port()}")
    fails(url, colour=SECRET)
    fails(url, client_kwargs={"no_such": SECRET})
    fails(url, config_kwargs={"signature_version": SECRET})
    fails(url, ckptstore={"timeout": 1, "secret": SECRET})
    fails(url, ckptstore={"timeout": SECRET})
    with FaultProxy(s3) as proxy:
        for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AccessDenied"):
            proxy.rule(faults.everything, faults.status(403, code))
            fails(url, endpoint_url=proxy.endpoint)
    with storage_package.open(url, options) as storage:
        storage.list()
        for thing in (storage, storage._requests, storage._requests._connect, storage.child("x")):
            shown += [repr(thing), str(thing)]
        for thing in (storage, storage._requests):
            with pytest.raises(TypeError, match="open it again from its URL") as refused:
                pickle.dumps(thing)
            shown += traceback.format_exception(refused.value)
    shown += [record.getMessage() for record in caplog.records]
    for secret in (KEY, SECRET, TOKEN):
        assert [text for text in shown if secret in text] == []


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/x", "gs://key:secret@bucket/x", "s3://host:9000/bucket/x"]
)
def test_a_url_with_user_or_port_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ckptstore.StorageError) as caught:
        ckptstore.save(url, TREE)
    assert caught.value.reason == "bad-url"
    assert "secret" not in str(caught.value) and "storage_options" in str(caught.value)


# storage_options.


@pytest.mark.parametrize(
    "own",
    [
        {"timeouts": 1},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": True},
        {"timeout": "60"},
        {"timeout": math.nan},
        {"deadline": None},
        {"assume_atomic": "no"},
        {"library": 7},
        ["timeout"],
        None,
        60,
    ],
    ids=repr,
)
def test_our_own_options_are_checked(own: Any) -> None:
    with pytest.raises(ckptstore.StorageError) as caught:
        storage_package.open("s3://bucket/run", {"ckptstore": own})
    assert caught.value.reason == "bad-options", caught.value
    assert "ckptstore" in str(caught.value)


@pytest.mark.parametrize("given", [{"no_such_option": 1}, {"client_kwargs": 7}], ids=repr)
def test_options_that_the_library_does_not_take_are_an_error_that_says_so(
    ministack: S3Server, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    """gcsfs takes any."""
    monkeypatch.setattr(retry, "_UNREACHABLE", 0.5)
    bucket, options = ministack.new_bucket(), ministack.storage_options() | given
    with pytest.raises(ckptstore.StorageError) as caught:
        ckptstore.save(f"s3://{bucket}/run", TREE, storage_options=options)
    assert ministack.objects(bucket) == {}
    assert caught.value.reason == "bad-options", caught.value
    assert "storage_options" in str(caught.value)


def test_what_is_no_dict_is_refused() -> None:
    with pytest.raises(ckptstore.StorageError, match="list, expected a dict") as caught:
        ckptstore.save("s3://bucket/run", TREE, storage_options=[("key", "x")])  # type: ignore[arg-type]
    assert caught.value.reason == "bad-options"


def test_the_endpoint_may_be_in_the_environment(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.new_bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    ckptstore.save(f"s3://{bucket}/run", TREE)
    assert is_tree(ckptstore.load(f"s3://{bucket}/run"))
    assert "run/MANIFEST" in s3.objects(bucket)


def test_the_options_may_be_in_the_configuration_of_fsspec(
    server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, server.protocol, server.storage_options())
    ckptstore.save(place(server, bucket), TREE)
    assert is_tree(ckptstore.load(place(server, bucket)))
    assert "run/MANIFEST" in server.objects(bucket)


def test_a_public_checkpoint_is_read_without_credentials(ministack: S3Server) -> None:
    bucket = ministack.new_bucket()
    ckptstore.save(f"s3://{bucket}/run", TREE, storage_options=ministack.storage_options())
    with FaultProxy(ministack) as proxy:
        options = {"anon": True, "endpoint_url": proxy.endpoint}
        assert is_tree(ckptstore.load(f"s3://{bucket}/run", storage_options=options))
        assert proxy.log and not any("authorization" in r.headers for r in proxy.log)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_endpoint_where_nobody_answers_is_given_up_early(
    server: Server, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    assert retry._UNREACHABLE <= 20
    monkeypatch.setattr(retry, "_UNREACHABLE", 1.0)
    endpoint = f"http://{host}:{closed_port()}"
    began = time.monotonic()
    with pytest.raises(ckptstore.StorageError) as caught:
        ckptstore.save(
            f"{server.protocol}://bucket/run",
            TREE,
            storage_options=server.storage_options(endpoint),
        )
    assert time.monotonic() - began < 60
    assert caught.value.reason == "unavailable"
    assert host in str(caught.value) and "check the endpoint" in str(caught.value)


def test_the_clients_of_eight_buckets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(connect, "_clients", {})
    monkeypatch.setattr(connect.Connector, "_make", lambda self: made.append(self) or object())
    for number in [*range(connect._KEPT), *range(connect._KEPT), connect._KEPT, 1]:
        connect.Connector("s3", f"bucket-{number}", {}, connect.Settings())()
    assert len(made) == connect._KEPT + 1 and len(connect._clients) == connect._KEPT


MISSING = """
sys.modules[arguments[0]] = None
import ckptstore
try:
    ckptstore.save(arguments[1], {})
except ckptstore.StorageError as error:
    print(error.reason, error)
"""


@pytest.mark.parametrize(
    ("library", "url", "extra"),
    [("s3fs", "s3://bucket/x", "s3"), ("gcsfs", "gs://bucket/x", "gcs")],
)
def test_a_package_that_is_missing_is_named(library: str, url: str, extra: str) -> None:
    done = run(MISSING, library, url)
    assert done.stdout.startswith("missing-package "), done.stderr
    assert f'pip install "ckptstore[{extra}]"' in done.stdout


# Keys.

PREFIXES = [
    "with space",
    "ünï/cödé/检查点",
    "emoji-🚀",
    "100%",
    "%41%2F%00",
    "a#fragment",
    "a+b",
    "a?versionId=1",
    "a&b=c;d,e",
    "'single' \"double\" `back`",
    "run=1/step=2",
    "twice//inside",
    "a:b@c$d!e*f(g)~h",
    "[0-9]{a,b}",
    "tab\there",
    ".hidden/..two/x.",
]


def test_any_prefix_is_taken_literally(server: Server, bucket: str) -> None:
    options = server.storage_options()
    for prefix in PREFIXES:
        url = place(server, bucket, prefix)
        ckptstore.save(url, {"of": "the first"}, storage_options=options)
        saved = ckptstore.save(url, {"of": prefix}, overwrite=True, storage_options=options)
        assert ckptstore.load(url, storage_options=options) == {"of": prefix}
        assert ckptstore.inspect(url, storage_options=options).attempt == saved.attempt
    expected = {f"{prefix}/MANIFEST" for prefix in PREFIXES}
    assert set(server.objects(bucket)) == expected
    for prefix in PREFIXES:
        assert ckptstore.load(place(server, bucket, prefix), storage_options=options) == {
            "of": prefix
        }
        assert ckptstore.verify(place(server, bucket, prefix), storage_options=options) == []


def test_a_bucket_alone_and_slashes_at_the_end(server: Server, bucket: str) -> None:
    options = server.storage_options()
    saved = ckptstore.save(f"{server.protocol}://{bucket}", TREE, storage_options=options)
    assert saved.url == f"{server.protocol}://{bucket}"
    data = f"data-{saved.attempt}-0-0.bin"
    assert set(server.objects(bucket)) == {"MANIFEST", data}
    assert is_tree(ckptstore.load(f"{server.protocol}://{bucket}/", storage_options=options))
    saved = ckptstore.save(place(server, bucket, "run//"), TREE, storage_options=options)
    assert is_tree(ckptstore.load(place(server, bucket, "run"), storage_options=options))
    data = f"run/data-{saved.attempt}-0-0.bin"
    assert set(server.objects(bucket)) >= {"MANIFEST", "run/MANIFEST", data}
    assert len(server.objects(bucket)) == 4
    assert ckptstore.verify(f"{server.protocol}://{bucket}", storage_options=options) == []


@pytest.mark.parametrize("prefix", ["a/./b", "a/../b", "..", "x" * 1100], ids=lambda p: p[:8])
def test_a_prefix_that_clients_would_change_is_refused(
    server: Server, bucket: str, prefix: str
) -> None:
    with pytest.raises(ckptstore.StorageError) as caught:
        ckptstore.save(
            place(server, bucket, prefix), TREE, storage_options=server.storage_options()
        )
    assert caught.value.reason == "bad-url", caught.value
    assert server.objects(bucket) == {}


# Sizes.

TIB = 1 << 40


def check_limits(placement: Placement) -> None:
    """Check a plan against what S3 (10,000 parts of 5 GiB) and GCS (objects of 5 TiB) allow."""
    assert len(placement.file_nbytes) <= MAX_FILES
    for nbytes in set(placement.file_nbytes):
        part = uploads.part_nbytes(nbytes)
        assert nbytes <= 5 * TIB
        assert 5 << 20 <= part <= 5 << 30 and -(-nbytes // part) <= 10_000
        assert part % (256 << 10) == 0


def pieces(nbytes: list[int]) -> dict[tuple[int, int], int]:
    return {(leaf, 0): size for leaf, size in enumerate(nbytes)}


def test_the_parts_of_every_object_are_within_the_limits_of_the_stores() -> None:
    for nbytes in (
        uploads.PART_NBYTES + 1,
        6 << 30,
        80 << 30,
        100 * TIB // 1024,
        5 * TIB,
        48 * TIB,
    ):
        part = uploads.part_nbytes(nbytes)
        assert 5 << 20 <= part <= 5 << 30 and -(-nbytes // part) <= 10_000
    check_limits(place_leaves(pieces([600 << 30, 6 << 30, 300 << 30, 100, 94 << 30])))


@pytest.mark.whole
def test_a_plan_of_100_tib_is_within_the_limits_of_the_stores() -> None:
    began = time.monotonic()
    placement = place_leaves(pieces([60 * TIB, 34 * TIB, 5 * TIB, *[6 << 30] * 170, 1000]))
    print(f"100 TiB: {len(placement.spans)} spans in {time.monotonic() - began:.0f} s")
    check_limits(placement)


def test_an_object_of_more_than_ten_parts(
    server: Server, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_NBYTES", 5 << 20)
    url, options = place(server, bucket), proxy.storage_options()
    tree = {"w": np.arange((53 << 20) // 8)}
    ckptstore.save(url, tree, storage_options=options)
    sizes = sorted(r.length for r in proxy.log if r.length > 1 << 20)
    assert sizes == [3 << 20, *[5 << 20] * 10]
    assert np.array_equal(ckptstore.load(url, storage_options=options)["w"], tree["w"])
    assert sorted(server.objects(bucket).values())[1] == 53 << 20
    assert server.uploads(bucket) == []


def test_select_reads_only_what_is_selected(server: Server, bucket: str, proxy: FaultProxy) -> None:
    url, options = place(server, bucket), proxy.storage_options()
    big = np.arange(12 << 17)  # 12 MiB
    ckptstore.save(url, {"big": big, "one": big[: 1 << 18], "two": big}, storage_options=options)
    proxy.reset()
    one = ckptstore.load(url, select="$.one", storage_options=options)
    assert np.array_equal(one, big[: 1 << 18])
    assert sum(r.answered for r in proxy.log) < one.nbytes + (64 << 10)
    assert len(proxy.log) == 3  # the manifest, the list, the range


def test_a_save_and_a_load_take_no_more_requests_than_ever(
    server: Server, bucket: str, proxy: FaultProxy
) -> None:
    url, options = place(server, bucket), proxy.storage_options()
    ckptstore.save(f"{url}/first", TREE, storage_options=options)  # and the probe
    counts = {}
    for name, call in (
        ("save", lambda: ckptstore.save(f"{url}/second", TREE, storage_options=options)),
        ("load", lambda: ckptstore.load(f"{url}/second", storage_options=options)),
        ("inspect", lambda: ckptstore.inspect(f"{url}/second", storage_options=options)),
        (
            "overwrite",
            lambda: ckptstore.save(f"{url}/second", 7, overwrite=True, storage_options=options),
        ),
    ):
        proxy.reset()
        call()
        counts[name] = len(proxy.log)
    assert counts == {"save": 5, "load": 3, "inspect": 2, "overwrite": 7}

"""`save_async`: what is saved is the tree of the moment of the call, and no error is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import ckptstore
from ckptstore.saving import background
from ckptstore.saving.attempt import Attempt
from ckptstore.saving.background import PendingSave
from ckptstore.saving.request import SaveRequest
from ckptstore.saving.staging import Staging
from ckptstore.tree import flatten
from tests.support import compare, places

STEPS = 200
LARGE = 1 << 19  # float32: 2 MiB, so copied and written by itself


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """No test leaves a save behind for the next one."""
    yield
    for save in background._saves:
        assert save._ended.wait(30)
    background._saves.clear()


class Gate:
    """Saves do not begin to write before it is open."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.writing = 0
        real = Attempt.finish

        def finish(attempt: Attempt) -> Any:
            if threading.current_thread().name != "ckptstore-save":
                return real(attempt)
            self.writing += 1
            try:
                assert self.writing == 1
                assert self.opened.wait(30)
                return real(attempt)
            finally:
                self.writing -= 1

        patch.setattr(Attempt, "finish", finish)

    def open(self) -> None:
        self.opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open()


class Broken(RuntimeError):
    pass


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next save fails while it writes."""
    real = Attempt._write

    def write(attempt: Attempt) -> Any:
        monkeypatch.setattr(Attempt, "_write", real)
        raise Broken("the disk is on fire")

    monkeypatch.setattr(Attempt, "_write", write)


# What is saved


def test_a_loop_that_donates_and_writes_in_place_saves_each_step_as_it_was(tmp_path):
    optimizer = optax.adamw(1e-2)

    def step(params, opt_state):
        grads = jax.tree.map(jnp.cos, params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    step = jax.jit(step, donate_argnums=(0, 1))
    params = {"w": jnp.arange(LARGE, dtype=jnp.float32), "b": jnp.ones(3)}
    opt_state = optimizer.init(params)
    tree = {"seen": np.zeros(LARGE, np.float32), "log": [], "step": 0}
    want = {}
    for n in range(1, STEPS + 1):
        params, opt_state = step(params, opt_state)
        tree["seen"] += np.float32(0.1)
        tree["log"].append(n)
        tree["step"] = n
        tree["params"], tree["opt_state"] = params, opt_state
        if n % 10 == 0:
            want[n] = jax.tree.map(np.array, tree)
            ckptstore.save_async(tmp_path / str(n), tree, step=n)
    for n, expected in want.items():
        if n == STEPS:
            background._saves[-1].result()
        have = ckptstore.load(tmp_path / str(n))
        assert type(have["opt_state"][0]) is type(opt_state[0])
        assert not compare.differences(jax.tree.map(np.array, have), expected)


def mutable_trees() -> Iterator[Any]:
    """Yield (name, tree, what the next line of a loop does to it)."""
    for dtype in ("float32", ">i8", "?", "c16", "M8[s]", ml_dtypes.bfloat16, ml_dtypes.int4):
        for shape in ((3,), (1024, 1100)):
            array = np.ones(shape, dtype)
            yield f"{np.dtype(dtype)}{shape}", array, lambda x: x.fill(0)
    for name, cut in ("transposed", np.transpose), ("strided", lambda x: x[::2, 1::2]):
        square = np.arange(1 << 22, dtype=np.int32).reshape(2048, 2048)
        yield name, cut(square), lambda x: x.fill(0)
    record = np.zeros(5, [("a", "i1"), ("b", "f8")]).view(np.recarray)
    yield "record", record, lambda x: x.a.fill(1)
    masked = np.ma.array(np.zeros(4), mask=[0, 1, 0, 0])
    yield "masked", masked, lambda x: x.__setitem__(slice(None), 7)
    read_only = np.zeros(4)
    view = read_only.view()
    view.flags.writeable = False
    yield "a view that only reads", {"v": view}, lambda _: read_only.fill(1)
    yield "bytearray", bytearray(10_000), lambda x: x.extend(b"more")
    yield "list", [1, [2]], lambda x: x[1].append(3)
    yield "dict", {"a": {"b": 1}}, lambda x: x["a"].clear()
    yield "set", {1, 2}, lambda x: x.clear()


@pytest.mark.parametrize(
    ("tree", "change"), [pytest.param(*row[1:], id=row[0]) for row in mutable_trees()]
)
def test_what_the_next_line_writes_is_not_saved(tmp_path, gate, tree, change):
    ckptstore.save(tmp_path / "before", tree)
    pending = ckptstore.save_async(tmp_path / "now", tree)
    change(tree)
    gate.open()
    pending.result()
    ckptstore.save(tmp_path / "after", tree)
    before, now, after = (ckptstore.load(tmp_path / name) for name in ("before", "now", "after"))
    assert compare.differences(before, after)
    assert not compare.differences(before, now)


def test_metadata_and_metrics_are_those_of_the_call(tmp_path, gate):
    metadata, metrics = {"notes": ["first"]}, {"loss": 1.0}
    pending = ckptstore.save_async(tmp_path / "c", [], step=3, metadata=metadata, metrics=metrics)
    metadata["notes"].append("second")
    metrics["loss"] = 2.0
    gate.open()
    saved = pending.result()
    assert (saved.step, saved.metadata, saved.metrics) == (3, {"notes": ["first"]}, {"loss": 1.0})
    assert ckptstore.inspect(tmp_path / "c").metadata == {"notes": ["first"]}


@pytest.mark.parametrize("dtype", ["float32", "bool", "int4", "bfloat16"])
@pytest.mark.parametrize("size", [3, 2 * LARGE])
def test_donation_cannot_change_what_is_saved(tmp_path, gate, dtype, size):
    step = jax.jit(lambda x: jnp.logical_not(x) if dtype == "bool" else x + 1, donate_argnums=0)
    x = jnp.ones(size, dtype)
    pending = ckptstore.save_async(tmp_path / "c", {"x": x})
    for _ in range(3):
        x = step(x)
    x.block_until_ready()
    gate.open()
    pending.result()
    loaded = ckptstore.load(tmp_path / "c")["x"]
    assert loaded.dtype == dtype and bool((loaded == 1).all())


def test_jax_arrays_of_this_host_are_not_copied():
    x, n = jnp.ones(LARGE), np.ones(LARGE)
    staging = Staging(flatten({"x": x, "n": n}))
    staging.fix()
    at = [staging.read((leaf, 0)).ctypes.data for leaf in range(2)]
    assert at[0] == x.unsafe_buffer_pointer()
    assert at[1] != n.ctypes.data


@pytest.mark.parametrize("how", ["saved", "failed", "refused"])
def test_after_a_save_donation_works_in_place_again(tmp_path, how, request):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.ones(LARGE)
    if how == "refused":
        with pytest.raises(ckptstore.StructureError):
            ckptstore.save_async(tmp_path / "c", {"x": x, "f": lambda: 0})
    else:
        if how == "failed":
            request.getfixturevalue("broken")
        pending = ckptstore.save_async(tmp_path / "c", {"x": x})
        assert pending._ended.wait(30)  # the error, if any, is kept, and so is its traceback
    at = x.unsafe_buffer_pointer()
    assert step(x).unsafe_buffer_pointer() == at
    if how == "failed":
        with pytest.raises(Broken):
            pending.result()


def test_the_objects_of_the_tree_are_let_go_at_once(tmp_path, gate):
    key, n = jax.random.key(0), np.ones(3)
    pending = ckptstore.save_async(tmp_path / "c", {"key": key, "n": n})
    gone = [weakref.ref(key), weakref.ref(n)]
    del key, n
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    gate.open()
    pending.result()


DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import ckptstore

mesh = jax.make_mesh((2, 2), ("a", "b"))
step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
specs = {"split": P("a", "b"), "half": P("a"), "copies": P()}
tree = {
    f"{name}-{dtype}": jax.device_put(
        jnp.arange(64).reshape(8, 8).astype(dtype), NamedSharding(mesh, spec)
    )
    for name, spec in specs.items() for dtype in ("float32", "int4")
}
want = jax.tree.map(np.asarray, jax.tree.map(lambda x: x + 0, tree))
pending = ckptstore.save_async(sys.argv[1], tree)
for _ in range(3):
    tree = step(tree)
jax.block_until_ready(tree)
pending.result()
have = ckptstore.load(sys.argv[1])
for name in want:
    assert np.array_equal(have[name], want[name]), name
"""


def test_donation_of_arrays_over_several_devices_cannot_change_them(tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", DEVICES, tmp_path / "c"],
        env={**os.environ, "XLA_FLAGS": flags},
        check=True,
        timeout=120,
    )


# One at a time


def test_a_second_save_waits_for_the_first(tmp_path, gate):
    first = ckptstore.save_async(tmp_path / "1", [1])
    threading.Timer(0.2, gate.open).start()
    second = ckptstore.save_async(tmp_path / "2", [2])  # the gate sees that there is but one
    assert first.done()
    second.result()
    assert ckptstore.load(tmp_path / "1") == [1]
    assert ckptstore.load(tmp_path / "2") == [2]


def test_a_second_save_is_refused_if_the_caller_does_not_want_to_wait(tmp_path, gate):
    first = ckptstore.save_async(tmp_path / "1", [1], wait=False)
    with pytest.raises(ckptstore.CheckpointError, match="under way") as caught:
        ckptstore.save_async(tmp_path / "2", [2], wait=False)
    assert caught.value.reason == "save-pending"
    gate.open()
    first.result()
    ckptstore.save_async(tmp_path / "2", [2], wait=False).result()


def test_threads_take_turns(tmp_path, gate):
    gate.open()
    names = [str(n) for n in range(8)]
    threads = [
        threading.Thread(target=ckptstore.save_async, args=(tmp_path / name, [name]))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for save in background._saves:
        save.result()
    assert [ckptstore.load(tmp_path / name) for name in names] == [[name] for name in names]


@pytest.mark.parametrize("where", ["wait", "fix", "start"])
def test_a_signal_handler_may_save_while_a_save_begins(tmp_path, monkeypatch, where):
    ckptstore.save_async(tmp_path / "0", [0])
    seen = []
    before = signal.signal(
        signal.SIGALRM, lambda *_: seen.append(ckptstore.save_async(tmp_path / "2", [2]))
    )
    owner = {"wait": PendingSave, "fix": Staging, "start": threading.Thread}[where]
    real = getattr(owner, where)

    def interrupted(self: Any) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGALRM)
        real(self)

    monkeypatch.setattr(owner, where, interrupted)
    try:
        first = ckptstore.save_async(tmp_path / "1", [1])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert first.result().url == str(tmp_path / "1")
    assert seen[0].result().url == str(tmp_path / "2")


@pytest.mark.parametrize("closing", ["raises", "is interrupted by a handler that saves"])
def test_a_save_that_is_given_up_keeps_nobody_waiting(tmp_path, monkeypatch, closing):
    close, closed = Attempt.__exit__, []

    def closes_badly(attempt, *exc):
        close(attempt, *exc)
        if not closed:
            closed.append(attempt)
            if closing == "raises":
                raise OSError("close failed")
            ckptstore.save_async(tmp_path / "handler", {"x": 1}).result()

    def interrupt(pending):
        raise KeyboardInterrupt

    monkeypatch.setattr(Attempt, "__exit__", closes_badly)
    with pytest.raises((OSError, KeyboardInterrupt)):
        background.begin(tmp_path / "a", {"x": 1}, SaveRequest.of(), begun=interrupt)
    assert ckptstore.save_async(tmp_path / "b", {"x": 2}).result(timeout=60)
    assert not background._saves or background._saves[0].done()
    with pytest.raises(ckptstore.NotCommittedError):
        ckptstore.load(tmp_path / "a")


def test_a_save_under_way_does_not_print_the_state(tmp_path, gate):
    pending = ckptstore.save_async(tmp_path / "c", {"secret": "in clear"}, step=3)
    assert "in clear" not in repr(pending) + repr(pending._attempt) + repr(vars(pending))
    gate.open()
    pending.result()


def test_who_waits_does_not_make_the_save_of_a_thread_that_runs(tmp_path, monkeypatch):
    made, real = [], PendingSave._run

    def late(self: PendingSave) -> None:
        time.sleep(0.2)  # it runs, and has not begun yet
        made.append(threading.current_thread().name)
        real(self)

    monkeypatch.setattr(PendingSave, "_run", late)
    ckptstore.save_async(tmp_path / "c", [1]).wait()
    assert made == ["ckptstore-save"], "an interrupt of who waits would end the save"


# What it tells


def test_result_gives_what_save_gives(tmp_path, gate):
    pending = ckptstore.save_async(tmp_path / "c", {"a": 1}, step=7)
    assert not pending.done()
    assert repr(pending) == f"<PendingSave {tmp_path}/c step=7 under way>"
    with pytest.raises(TimeoutError, match="goes on"):
        pending.result(timeout=0.01)
    gate.open()
    saved = pending.result(timeout=30)
    assert pending.done() and "saved" in repr(pending)
    assert saved.attempt == ckptstore.inspect(tmp_path / "c").attempt
    assert pending.result() is saved


def test_what_cannot_be_saved_is_refused_in_the_call(tmp_path, gate):
    ckptstore.save(tmp_path / "there", [])
    before = sorted(tmp_path.rglob("*"))
    for tree, options, reason in (
        ({"f": lambda: 0}, {}, "cannot-carry"),
        ([], {"step": -1}, "bad-step"),
        ([], {"metadata": {"x": object()}}, "metadata"),
        ([], {"metrics": {"x": "y"}}, "bad-metric"),
        ([], {"supplied": ["$.nothing"]}, "bad-pattern"),
        ([], {"storage_options": {"x": 1}}, "bad-options"),
        (
            np.array(["\U0010ffff"]).view("u4").__add__(1).astype("u4").view("U1"),
            {},
            "cannot-carry",
        ),
    ):
        with pytest.raises(ckptstore.CheckpointError) as caught:
            ckptstore.save_async(tmp_path / "c", tree, **options)
        assert caught.value.reason == reason
    with pytest.raises(ckptstore.AlreadyCommittedError):
        ckptstore.save_async(tmp_path / "there", [])
    assert sorted(tmp_path.rglob("*")) == before
    assert background._saves == []
    pending = ckptstore.save_async(tmp_path / "there", [1], overwrite=True)
    gate.open()
    pending.result()


def test_an_error_is_raised_by_result_each_time(tmp_path, broken):
    pending = ckptstore.save_async(tmp_path / "c", [])
    for _ in range(2):
        with pytest.raises(Broken):
            pending.result()
    pending.check()
    assert "failed" in repr(pending)
    ckptstore.save_async(tmp_path / "c", []).result()


def test_an_error_is_raised_by_the_next_save(tmp_path, broken):
    failed = ckptstore.save_async(tmp_path / "1", [])
    with pytest.raises(Broken) as caught:
        ckptstore.save_async(tmp_path / "2", [])
    assert f"This is the error of the earlier save to {failed.url}." in caught.value.__notes__[0]
    assert not (tmp_path / "2").exists()
    ckptstore.save_async(tmp_path / "2", []).result()
    failed.check()


def test_check_raises_what_nobody_was_told(tmp_path, gate, broken):
    pending = ckptstore.save_async(tmp_path / "c", [])
    pending.check()  # it goes on
    gate.open()
    assert pending._ended.wait(30)
    with pytest.raises(Broken):
        pending.check()
    pending.check()


def test_a_save_that_fails_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ckptstore.storage.local.LocalStorage.flush",
        lambda self: (_ for _ in ()).throw(ckptstore.StorageError("no disk")),
    )
    with pytest.raises(ckptstore.StorageError, match="no disk"):
        ckptstore.save_async(tmp_path / "c", np.ones(10)).result()
    assert os.listdir(tmp_path / "c") == []


def test_a_save_that_failed_holds_no_copy_of_the_state(tmp_path, monkeypatch):
    x = np.ones(LARGE, np.float32)

    def put(self: Any, name: str, chunks: Iterator[Any], nbytes: int) -> None:
        next(iter(chunks))
        raise ckptstore.StorageError("no disk")

    monkeypatch.setattr("ckptstore.storage.local.LocalStorage.put", put)
    tracemalloc.start()
    try:
        pending = ckptstore.save_async(tmp_path / "c", x)
        assert tracemalloc.get_traced_memory()[1] >= x.nbytes
        with pytest.raises(ckptstore.StorageError, match="no disk") as caught:
            pending.result()
        assert caught.value.__traceback__ is not None
        assert tracemalloc.get_traced_memory()[0] < x.nbytes / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["fix", "start", "started"])
def test_an_interrupted_call_leaves_nothing_or_the_whole_save(tmp_path, monkeypatch, where):
    real = threading.Thread.start

    def interrupted(thread: Any) -> None:
        monkeypatch.undo()
        if where == "started":
            real(thread)
        raise KeyboardInterrupt

    owner, name = (Staging, "fix") if where == "fix" else (threading.Thread, "start")
    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        ckptstore.save_async(tmp_path / "c", [1])
    if background._saves:
        assert where == "started"
        background._saves[0].result()
        assert ckptstore.load(tmp_path / "c") == [1]
    else:
        assert not (tmp_path / "c").exists()
    ckptstore.save_async(tmp_path / "d", [1]).result()


def test_no_thread_can_be_started(tmp_path, monkeypatch):
    def refused(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    tree = {"x": np.ones(LARGE), "y": np.zeros(LARGE)}
    assert ckptstore.save_async(tmp_path / "c", tree).done()
    monkeypatch.undo()
    assert not compare.differences(ckptstore.load(tmp_path / "c"), tree)


# Where it runs


@pytest.fixture(params=["local", "moto"])
def place(request, tmp_path):
    yield from places.make(request, tmp_path)


def test_it_works_inside_a_running_event_loop(place, gate):
    async def train() -> Any:
        pending = ckptstore.save_async(
            f"{place.url}/c", {"x": np.ones(LARGE)}, storage_options=place.options
        )
        asyncio.get_running_loop().call_later(0.1, gate.open)
        began = time.monotonic()
        while not pending.done():  # the loop is not blocked meanwhile
            await asyncio.sleep(0.01)
            assert time.monotonic() - began < 30
        return await asyncio.to_thread(pending.result)

    saved = asyncio.run(train())
    assert ckptstore.verify(saved.url, storage_options=place.options) == []


def test_it_says_nothing(place, caplog, capfd):
    with caplog.at_level(logging.INFO):
        for n in range(2):
            ckptstore.save_async(
                f"{place.url}/{n}", {"x": np.ones(LARGE)}, storage_options=place.options
            ).result()
    assert caplog.records == [] and capfd.readouterr() == ("", "")

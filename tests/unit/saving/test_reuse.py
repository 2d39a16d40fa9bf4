"""Saves that follow one another share the files of what did not change, and nothing else."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ckptstore
from ckptstore import Manager
from ckptstore.checkpoint import commit
from ckptstore.digests import Digest, digest
from ckptstore.format import LARGE_ALIGNMENT, LARGE_NBYTES, SMALL_ALIGNMENT, File, Spans
from ckptstore.saving import incremental
from ckptstore.saving import placement as placements
from ckptstore.saving.placement import Piece, Placed, Placement, place
from ckptstore.storage.bucket import BucketStorage
from ckptstore.storage.clients.base import Failure, Kind
from ckptstore.storage.clients.s3 import S3Client
from ckptstore.storage.local import LocalStorage
from tests.support import independent_reader
from tests.support.draws import examples
from tests.support.servers import Moto
from tests.support.servers.proxy import ACTIONS, FaultProxy, Request

MIB = 1 << 20
FROZEN_NBYTES, TRAINED_NBYTES, SMALL_NBYTES = 13 * MIB, MIB, 400


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files and spans be so small that a test has many of them."""
    monkeypatch.setattr(placements, "FILE_NBYTES", 4 * MIB)
    monkeypatch.setattr(placements, "SPAN_NBYTES", 2 * MIB)


# What is planned.


def saved(
    placement: Placement, files: list[File], contents: dict[Piece, int]
) -> incremental.Previous:
    """Return what a save by this plan leaves, of pieces that hold these contents."""
    rows = [(*s.piece, s.file, s.offset, s.size) for s in placement.spans]
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    digests = [s.digest or content_digest(s, contents) for s in placement.spans]
    samples = {piece: bytes([content]) * 16 for piece, content in contents.items()}
    return incremental.previous("step", files, Spans(*columns, digests), samples)


def content_digest(span: Placed, contents: dict[Piece, int]) -> Digest:
    return digest(repr((span.piece, span.start, span.size, contents[span.piece])).encode())


def check_plan(placement: Placement, nbytes: dict[Piece, int], contents: dict[Piece, int]) -> None:
    """Hold a plan against sections 5.5 and 7 of the spec."""
    files: dict[int, list[Placed]] = {n: [] for n in range(len(placement.file_nbytes))}
    ends = dict.fromkeys(nbytes, 0)
    for span in placement.spans:  # those of a piece stand in order
        assert span.start == ends[span.piece]
        ends[span.piece] += span.size
        files[span.file].append(span)
        assert span.digest in (None, content_digest(span, contents)), "another content"
        assert (span.digest is not None) == (span.file < placement.taken)
    assert ends == nbytes
    for number, spans in files.items():
        end = 0
        for span in sorted(spans, key=lambda span: span.offset):
            alignment = LARGE_ALIGNMENT if span.size >= LARGE_NBYTES else SMALL_ALIGNMENT
            assert span.offset == -(-end // alignment) * alignment
            end = span.offset + span.size
        assert end == placement.file_nbytes[number] > 0
    written = [n for numbers in placement.by_file() for n in numbers]
    assert sorted(written) == [n for n, s in enumerate(placement.spans) if s.digest is None]


sizes = st.one_of(
    st.sampled_from([0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 4 * MIB]), st.integers(0, 12 * MIB)
)


@examples(200)
@given(st.lists(st.lists(sizes, min_size=1, max_size=3), max_size=12), st.data())
def test_any_order_of_changes_gives_plans_that_a_reader_takes(
    leaves: list[list[int]], data: st.DataObject
) -> None:
    nbytes = {(leaf, cell): n for leaf, sizes in enumerate(leaves) for cell, n in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placements, "FILE_NBYTES", 4 * MIB)
        patch.setattr(placements, "SPAN_NBYTES", 2 * MIB)
        keep_full_every = data.draw(st.integers(1, 4))
        contents = dict.fromkeys(nbytes, 0)
        placement = place(nbytes)
        files = [File("", size, "data") for size in placement.file_nbytes]
        for step in range(1, 5):
            check_plan(placement, nbytes, contents)
            base = saved(placement, files, contents)
            if nbytes:
                changed = data.draw(st.sets(st.sampled_from([*nbytes])))
                contents |= dict.fromkeys(changed, step)
            unchanged = {
                piece
                for piece in incremental.candidates(base, nbytes)
                if base.samples[piece] == bytes([contents[piece]]) * 16
            }
            rows = incremental.takeable(base, unchanged, keep_full_every)
            rows = [row for row in rows if data.draw(st.booleans())]  # some cannot be linked
            placement = place(nbytes, unchanged, incremental.taken(base, rows))
            assert placement.taken == len(rows)
            ages = [base.files[row].age + 1 for row in rows]
            assert all(age < keep_full_every for age in ages)
            new = len(placement.file_nbytes) - len(ages)
            files = [
                File("", size, "data", age=age)
                for size, age in zip(placement.file_nbytes, [*ages, *[0] * new], strict=True)
            ]
        check_plan(placement, nbytes, contents)


# What is written.


class Traffic:
    """The bytes of the files that were put, and the files that were linked, since the last look."""

    def __init__(self) -> None:
        self.put = 0
        self.linked = 0

    def look(self) -> tuple[int, int]:
        out = self.put, self.linked
        self.__init__()  # type: ignore[misc]
        return out


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    found = Traffic()
    for cls in (LocalStorage, BucketStorage):
        put, link = cls.put, cls.link

        def counted(
            self: Any, name: str, chunks: Iterable[Any], nbytes: int, put: Any = put
        ) -> None:
            put(self, name, chunks, nbytes)
            found.put += nbytes

        def linked(self: Any, *arguments: Any, link: Any = link) -> bool:
            done: bool = link(self, *arguments)
            found.linked += done
            return done

        monkeypatch.setattr(cls, "put", counted)
        monkeypatch.setattr(cls, "link", linked)
    return found


def lora(step: int) -> dict[str, Any]:
    """A state most of which is the same at each step."""
    frozen = [np.full((n * MIB) // 4, n, np.float32) for n in (1, 3, 5, 1, 3)]
    trained = {"adapter": np.full(MIB // 4, step, np.float32), "scale": np.full(100, step, "f4")}
    return {"frozen": frozen, "trained": trained, "step": step}


def same(loaded: Any, tree: Any) -> bool:
    leaves, structure = jax.tree.flatten(tree)
    found, its = jax.tree.flatten(loaded)
    return its == structure and all(map(np.array_equal, found, leaves))


def at(manager: Manager, step: int) -> str:
    return f"{manager.url}/step-{step:012d}"


def sound(manager: Manager, *steps: int) -> bool:
    """Whether these are the steps, and each holds what `lora` made."""
    assert manager.steps() == sorted(steps)
    return all(
        ckptstore.verify(at(manager, step)) == [] and same(manager.load(step), lora(step))
        for step in steps
    )


def shared(manager: Manager, step: int) -> dict[str, int]:
    """The data files of a step on a disk: how many steps have each."""
    files = Path(at(manager, step)).glob("data-*")
    return {path.name: path.stat().st_nlink for path in files}


@pytest.mark.usefixtures("small")
def test_later_saves_write_what_changed_and_nothing_else(tmp_path: Path, traffic: Traffic) -> None:
    manager = Manager(tmp_path / "run")
    whole = FROZEN_NBYTES + TRAINED_NBYTES + SMALL_NBYTES
    for step in range(5):
        before = {
            path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
            for path in Path(manager.url).rglob("data-*")
        }
        manager.save(step, lora(step))
        put, linked = traffic.look()
        padding = 4096 * 8
        if step == 0:
            assert whole <= put <= whole + padding and not linked
        elif step == 1:  # what stood beside what changed is set apart now
            assert TRAINED_NBYTES < put < whole // 2 and linked
        else:
            changed = TRAINED_NBYTES + SMALL_NBYTES
            assert changed <= put <= changed + padding and linked
        for path, (inode, mtime, content) in before.items():
            now = path.stat()
            assert (now.st_ino, now.st_mtime_ns, path.read_bytes()) == (inode, mtime, content)
    assert sound(manager, *range(5))
    independent_reader.read(Path(at(manager, 4)))  # which knows nothing of ages


@pytest.mark.usefixtures("small")
def test_a_plain_save_shares_nothing(tmp_path: Path, traffic: Traffic) -> None:
    manager = Manager(tmp_path / "run")
    manager.save(1, lora(1))
    for step in (2, 3):
        ckptstore.save(at(manager, step), lora(step), step=step)
    assert traffic.look()[1] == 0
    assert sound(manager, 1, 2, 3)


@pytest.mark.usefixtures("small")
def test_every_step_is_sound_whichever_others_are_deleted_first(tmp_path: Path) -> None:
    for number, order in enumerate(itertools.permutations(range(3))):
        manager = Manager(tmp_path / str(number))
        left = set(range(3))
        for step in left:
            manager.save(step, lora(step))
        for step in order:
            manager.delete(step)
            left.remove(step)
            assert sound(manager, *left)


@pytest.mark.usefixtures("small")
def test_the_last_file_of_a_run_goes_with_its_last_step(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "run", keep=ckptstore.keep_last(1))
    for step in range(4):
        manager.save(step, lora(step))
    assert sound(manager, 3)
    assert set(shared(manager, 3).values()) == {1}
    manager.delete(3)
    assert os.listdir(manager.url) == []


@pytest.mark.usefixtures("small")
def test_a_leaf_that_changed_only_between_the_samples_is_written(tmp_path: Path) -> None:
    manager, state = Manager(tmp_path / "run"), lora(0)
    manager.save(0, state)
    for step in range(1, 4):
        large = state["frozen"][2]
        large[100_000 * step] = -step
        assert incremental.sample(large.view(np.uint8)) == incremental.sample(
            lora(0)["frozen"][2].view("u1")
        )
        manager.save(step, state)
        assert same(manager.load(step), state)
        assert ckptstore.verify(at(manager, step)) == []


@pytest.mark.usefixtures("small")
def test_what_changes_at_each_save_is_looked_at_ever_less(
    tmp_path: Path, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    candidates = incremental.candidates

    def counted(*arguments: Any) -> list[Piece]:
        found = candidates(*arguments)
        looks.append(len(found))
        return found

    monkeypatch.setattr(incremental, "candidates", counted)
    manager = Manager(tmp_path / "run", keep_full_every=1000)
    for step in range(20):  # five leaves that stay, and one that does not
        manager.save(step, lora(step))
    assert looks == [6, 6, 6, 5, 5, 5, 5, 5, 6, *[5] * 7, 6, 5, 5]
    for step in range(20, 30):  # it is frozen, too
        traffic.look()
        manager.save(step, lora(19) | {"step": step})
    assert traffic.look()[0] < TRAINED_NBYTES
    assert same(manager.load(), lora(19) | {"step": 29})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["frozen"].insert(1, np.full(MIB, 7, np.uint8)),
        lambda state: state["frozen"].pop(0),
        lambda state: state["frozen"].reverse(),
        lambda state: state["frozen"].__setitem__(1, state["frozen"][1].view(np.int32)),
        lambda state: state["frozen"].__setitem__(1, state["frozen"][1].reshape(2, -1)),
        lambda state: state["frozen"].__setitem__(1, state["frozen"][1][:-1]),
        lambda state: state["frozen"].__setitem__(1, np.append(state["frozen"][1], 0)),
        lambda state: state["frozen"].__setitem__(1, jnp.asarray(state["frozen"][1])),
        lambda state: state["frozen"].__setitem__(1, None),
        lambda state: state["frozen"].clear(),
        lambda state: state.__setitem__("text", "x" * 3 * MIB),
        lambda state: state.clear(),
    ],
)
def test_a_tree_of_another_structure_is_saved_right(
    change: Callable[[Any], Any], tmp_path: Path
) -> None:
    manager, state = Manager(tmp_path / "run"), lora(0)
    manager.save(0, state)
    manager.save(1, state)
    change(state)
    for step in (2, 3):
        manager.save(step, state)
        assert ckptstore.verify(at(manager, step)) == []
        loaded = manager.load(step)
        assert same(loaded, state)
        for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True):
            assert type(one) is type(other)
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


# Limits of sharing.


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("keep_full_every", [1, 2, 3])
def test_no_file_is_shared_by_more_steps_than_allowed(keep_full_every: int, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "run", keep_full_every=keep_full_every)
    for step in range(7):
        if step == 4:
            manager = pickle.loads(pickle.dumps(manager))  # as in another process
        manager.save(step, lora(step))
    assert max(max(shared(manager, step).values()) for step in range(7)) == keep_full_every
    assert sound(manager, *range(7))


@pytest.mark.parametrize("given", [0, -1, 1.5, True, None, "2"])
def test_a_limit_that_is_none_is_refused(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ckptstore.StructureError, match="keep_full_every") as raised:
        Manager(tmp_path, keep_full_every=given)
    assert raised.value.reason == "bad-argument"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("loads", [True, False])
def test_another_process_goes_on_sharing(loads: bool, tmp_path: Path, traffic: Traffic) -> None:
    manager = Manager(tmp_path / "run")
    for step in range(3):
        manager.save(step, lora(step))
    for step in range(3, 6):
        manager = Manager(tmp_path / "run")
        if loads:
            assert manager.load()["step"] == step - 1
        traffic.look()
        manager.save(step, lora(step))
        put, linked = traffic.look()
        assert put < 2 * TRAINED_NBYTES and linked
    assert sound(manager, *range(6))


# Damage.


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:  # the very file, not another of its name
        file.write(data)


@pytest.mark.usefixtures("small")
def test_damage_of_a_shared_file_is_found_in_every_step_that_has_it(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "run", keep_full_every=3)
    for step in range(6):
        manager.save(step, lora(step))
    name = next(name for name, count in shared(manager, 2).items() if count == 3)
    inode = (Path(at(manager, 2)) / name).stat().st_ino
    having = {
        step
        for step in range(6)
        if inode in {path.stat().st_ino for path in Path(at(manager, step)).iterdir()}
    }
    assert len(having) == 3
    flip(Path(at(manager, 2)) / name)
    for step in range(6):
        found = [problem.reason for problem in ckptstore.verify(at(manager, step))]
        assert found == (["checksum"] if step in having else [])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("again", [True, False])
def test_once_damage_was_met_nothing_is_shared_with_it(again: bool, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "run")
    for step in range(3):
        manager.save(step, lora(step))
    for path in Path(at(manager, 2)).glob("data-*"):
        flip(path)
    if again:
        manager = Manager(tmp_path / "run")
    with pytest.raises(ckptstore.CorruptError):
        manager.load()
    manager.save(3, lora(3))
    assert ckptstore.verify(at(manager, 3)) == []
    assert set(shared(manager, 3).values()) == {1}
    manager.save(4, lora(4))
    assert ckptstore.verify(at(manager, 4)) == []
    assert 2 in shared(manager, 4).values(), "what is new may be shared"


@pytest.mark.usefixtures("small")
def test_a_process_shares_with_the_step_that_it_has_read(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "run")
    for step in range(4):
        manager.save(step, lora(step))
    del manager
    damaged = Path(at(Manager(tmp_path / "run"), 3))
    for path in damaged.glob("data-*"):  # of this step alone
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        flip(path)
    manager = Manager(tmp_path / "run")
    assert manager.load(2)["step"] == 2
    manager.save(3, lora(3), overwrite=True)
    assert sound(manager, 0, 1, 2, 3)
    assert max(shared(manager, 3).values()) > 1


@pytest.mark.usefixtures("small")
def test_a_base_that_cannot_be_read_is_no_error(tmp_path: Path, traffic: Traffic) -> None:
    manager = Manager(tmp_path / "run")
    for step in range(3):
        manager.save(step, lora(step))
    (Path(at(manager, 2)) / "MANIFEST").write_bytes(b"damaged")
    traffic.look()
    manager = Manager(tmp_path / "run")
    manager.save(3, lora(3))
    assert traffic.look()[1] == 0
    assert ckptstore.verify(at(manager, 3)) == []


# What cannot be linked.


@pytest.mark.usefixtures("small")
def test_on_another_disk_it_is_written(tmp_path: Path, traffic: Traffic) -> None:
    manager = Manager(tmp_path / "run")
    manager.save(0, lora(0))
    manager.save(1, lora(1))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("/dev/shm is the disk of the tests")
        shutil.move(at(manager, 1), f"{elsewhere}/moved")
        os.symlink(f"{elsewhere}/moved", at(manager, 1))
        traffic.look()
        manager.save(2, lora(2))
        put, linked = traffic.look()
        assert put > FROZEN_NBYTES and not linked
        assert sound(manager, 0, 1, 2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_after_some_links_the_rest_is_written(
    allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path / "run")
    manager.save(0, lora(0))
    manager.save(1, lora(1))
    count, link = itertools.count(), os.link

    def limited(source: str, target: str) -> None:
        if "data-" in target and next(count) >= allowed:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.link", limited)
        manager.save(2, lora(2))
    assert sorted(shared(manager, 2).values())[-1] == (3 if allowed else 1)
    manager.save(3, lora(3))
    assert sound(manager, 0, 1, 2, 3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("after", [0, 1, 2, 99])
def test_a_base_that_is_deleted_meanwhile_is_no_error(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path / "run")
    manager.save(0, lora(0))
    manager.save(1, lora(1))
    count, link = itertools.count(), LocalStorage.link

    def raced(self: LocalStorage, *arguments: Any) -> bool:
        if next(count) == after:
            Manager(manager.url).delete(1)
        return link(self, *arguments)

    monkeypatch.setattr(LocalStorage, "link", raced)
    manager.save(2, lora(2))
    if after == 99:
        manager.delete(1)
    assert sound(manager, 0, 2)


@pytest.mark.usefixtures("small")
def test_an_overwrite_shares_with_what_it_replaces(tmp_path: Path, traffic: Traffic) -> None:
    manager = Manager(tmp_path / "run")
    manager.save(0, lora(0))
    for _ in range(3):
        manager.save(0, lora(0), overwrite=True)
        assert traffic.look()[1]
        assert sound(manager, 0)
        assert set(shared(manager, 0).values()) == {1}


@pytest.mark.usefixtures("small")
def test_a_save_that_fails_after_its_links_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path / "run")
    manager.save(0, lora(0))

    def full(*_: Any) -> None:
        raise ckptstore.StorageError("no space", reason="disk-full")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "put", full)
        with pytest.raises(ckptstore.StorageError):
            manager.save(1, lora(1))
    assert os.listdir(at(manager, 1)) == []
    assert set(shared(manager, 0).values()) == {1}
    manager.save(1, lora(1))
    assert sound(manager, 0, 1)


def die_before_the_commit(url: str) -> None:
    placements.FILE_NBYTES, placements.SPAN_NBYTES = 4 * MIB, 2 * MIB
    commit.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    manager = Manager(url)
    manager.load()
    manager.save(9, lora(9))


@pytest.mark.usefixtures("small")
def test_a_kill_between_link_and_commit_leaves_the_base_whole(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "run")
    for step in range(2):
        manager.save(step, lora(step))
    child = multiprocessing.get_context("spawn").Process(
        target=die_before_the_commit, args=(manager.url,)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert 3 in shared(manager, 9).values(), "it was killed before it linked anything"
    assert sound(manager, 0, 1)
    assert not manager.gc()
    assert manager.gc(grace=0)
    assert sound(manager, 0, 1)
    manager.save(9, lora(9))
    assert sound(manager, 0, 1, 9)


# In the background.


@pytest.mark.usefixtures("small")
def test_a_save_in_the_background_shares_the_values_of_its_call(
    tmp_path: Path, traffic: Traffic
) -> None:
    state = lora(0) | {"jax": jnp.ones(MIB // 4)}
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    with Manager(tmp_path / "run") as manager:
        for step in range(5):
            manager.save_async(step, state)
            state["trained"]["adapter"] += 1
            state["jax"] = add(state["jax"])
            if step == 3:
                state["frozen"][1][:] = 9  # after the call
        put, linked = traffic.look()
        assert linked and put < 3 * FROZEN_NBYTES
        for step in range(5):
            loaded = manager.load(step)
            assert (loaded["trained"]["adapter"] == step).all()
            assert (loaded["jax"] == step + 1).all()
            assert (loaded["frozen"][1] == (3 if step < 4 else 9)).all()
            assert ckptstore.verify(at(manager, step)) == []


@pytest.mark.usefixtures("small")
def test_damage_that_is_met_while_a_save_is_under_way_ends_the_sharing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, met, flush = Manager(tmp_path / "run"), threading.Event(), LocalStorage.flush
    for step in range(3):
        manager.save(step, lora(step))

    def flush_late(self: LocalStorage) -> None:
        assert met.wait(30)
        flush(self)

    monkeypatch.setattr(LocalStorage, "flush", flush_late)
    pending = manager.save_async(3, lora(3))
    for path in Path(at(manager, 2)).glob("data-*"):
        flip(path)
    with pytest.raises(ckptstore.CorruptError):
        manager.load(2)
    met.set()
    pending.result()
    manager.save(4, lora(4))
    assert ckptstore.verify(at(manager, 4)) == []
    assert set(shared(manager, 4).values()) == {1}


# In a bucket.


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were copied inside S3."""
    found: list[str] = []
    copy = S3Client.copy

    def counted(self: S3Client, origin: str, key: str, nbytes: int) -> None:
        copy(self, origin, key, nbytes)
        found.append(key)

    monkeypatch.setattr(S3Client, "copy", counted)
    return found


@pytest.mark.usefixtures("small")
def test_in_a_bucket_the_store_copies_what_did_not_change(
    moto: Moto, traffic: Traffic, copies: list[str]
) -> None:
    manager = Manager(f"s3://{moto.new_bucket()}/run", storage_options=moto.storage_options())
    for step in range(3):
        traffic.look()
        manager.save(step, lora(step))
    put, linked = traffic.look()
    assert put < 2 * TRAINED_NBYTES and linked
    assert len(copies) >= linked and all("/step-" in key for key in copies)
    for step in (0, 1):
        manager.delete(step)
    assert same(manager.load(), lora(2))
    assert ckptstore.verify(at(manager, 2), storage_options=moto.storage_options()) == []


@pytest.mark.usefixtures("small")
def test_one_fault_at_any_request_of_a_save_that_shares_is_survived(
    moto: Moto, monkeypatch: pytest.MonkeyPatch, traffic: Traffic
) -> None:
    monkeypatch.setattr("ckptstore.storage.retry._WAITS", (0.02, 0.2))
    actions = [action for name, action in ACTIONS.items() if name != "corrupt-request"]
    with FaultProxy(moto) as proxy:
        options = proxy.storage_options() | {"ckptstore": {"timeout": 1.0, "deadline": 8.0}}
        manager = Manager(f"s3://{moto.new_bucket()}/run", storage_options=options)
        log: list[Request] = []
        for step in range(3):
            proxy.reset()
            manager.save(step, lora(step))
            log = list(proxy.log)
        assert sum("x-amz-copy-source" in request.headers for request in log) >= 2
        for number in range(len(log)):
            step += 1
            proxy.reset()
            traffic.look()
            proxy.at(number, actions[number % len(actions)])
            manager.save(step, lora(step))
            assert traffic.look()[1], "it copied nothing"
            proxy.reset()
            assert same(manager.load(step), lora(step))


def test_where_a_store_copies_nothing_all_is_written(
    monkeypatch: pytest.MonkeyPatch, traffic: Traffic
) -> None:
    options = {"ckptstore": {"assume_atomic": True}}
    monkeypatch.setattr("ckptstore.storage.clients.memory.MemoryClient.copy", refuse)
    manager = Manager("memory://reuse/run", storage_options=options)
    for step in range(3):
        manager.save(step, lora(step))
        put, linked = traffic.look()
        assert put > FROZEN_NBYTES and not linked
    assert same(manager.load(), lora(2))
    for step in range(3):
        manager.delete(step)


def refuse(*_: Any) -> None:
    raise Failure(Kind.REFUSED, "no copies", "not-supported")

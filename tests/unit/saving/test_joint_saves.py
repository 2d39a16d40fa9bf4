"""A save by several processes, with threads in their place."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest

import ckptstore
from ckptstore import CheckpointError, ProcessError, Processes, storage
from ckptstore.checkpoint import Snapshot, commit, deletion, read_snapshot
from ckptstore.distributed import waiting
from ckptstore.format import names
from ckptstore.saving import background, joint_attempt, writer
from ckptstore.storage.local import LocalStorage
from tests.support.cluster import threads

ENGINES = pytest.mark.parametrize("engine", [False, True], ids=["broadcast", "store"])


LONG_ENOUGH = 8.0
"""A timeout in seconds, which a thread that works does not need on a busy machine."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_MEMBER_PAUSES", (0.01, 0.1))
    monkeypatch.setattr(waiting, "_LEADER_PAUSES", (0.01, 0.1))


def state(index: int = 0) -> dict[str, Any]:
    """A tree whose dicts come in another order in each process."""
    params = {"w": np.arange(3_000_000, dtype=np.float32).reshape(3000, 1000), "b": np.ones(7)}
    tree = {
        "params": params,
        "opt": optax.adamw(1e-3).init({"b": params["b"]}),
        "step": 7,
        "seen": [np.arange(5), "text", 1.5, None],
        "again": params,
        "long": "x" * 5000,
    }
    names = sorted(tree) if index % 2 else sorted(tree, reverse=True)
    return {name: tree[name] for name in names}


def together(
    count: int, call: Callable[[Processes], Any], *, engine: bool = False, timeout: float = 60.0
) -> list[Any]:
    return threads(count, call, engine=engine, timeout=timeout)


@pytest.mark.ci
def test_what_all_processes_read_stands_side_by_side_in_few_files(tmp_path: Path) -> None:
    small = {f"s{n:02}": np.full(1000, n) for n in range(20)}
    layers = {f"w{n}": np.full((1 << 20,), n, np.float32) for n in range(4)}
    tree = {name: (small | layers)[name] for name in sorted([*small, *layers])}
    saved = together(4, lambda p: ckptstore.save(tmp_path / "c", tree, processes=p))
    with storage.open(tmp_path / "c") as store:
        index = read_snapshot(store, Snapshot.tree).index
    leaves = [n for n, leaf in enumerate(saved[0].leaves) if leaf.path.startswith("$['s")]
    rows = np.isin(index.spans.leaf, leaves)
    assert len(set(index.spans.file[rows].tolist())) <= 2
    for file in set(index.spans.file[rows].tolist()):
        mine = rows & (index.spans.file == file)
        first, last = index.spans.offset[mine].min(), index.spans.offset[mine].max()
        between = (index.spans.file == file) & (index.spans.offset >= first)
        assert int((between & (index.spans.offset <= last)).sum()) == int(mine.sum())


def errors(results: Sequence[Any], reason: str) -> list[str]:
    """Return the texts of the errors of all processes, which all have the reason."""
    assert all(isinstance(error, CheckpointError) for error in results), results
    assert [error.reason for error in results] == [reason] * len(results), results
    return [str(error) for error in results]


def left(place: Path) -> set[str]:
    """Return the kinds of the files in a place."""
    return {path.name.split("-")[0] for path in place.iterdir()} if place.exists() else set()


@ENGINES
@pytest.mark.parametrize("count", [2, 5])
def test_a_tree_that_all_processes_have_is_saved_once_and_each_writes_a_share(
    tmp_path: Path, count: int, engine: bool
) -> None:
    place = tmp_path / "c"
    saved = together(
        count, lambda p: ckptstore.save(place, state(p.index), step=7, processes=p), engine=engine
    )
    assert {checkpoint.attempt for checkpoint in saved} == {saved[0].attempt}
    assert [len(checkpoint.leaves) for checkpoint in saved] == [len(saved[0].leaves)] * count
    assert left(place) == {"MANIFEST", "data"}
    assert ckptstore.verify(place) == []
    loaded = ckptstore.load(place)
    assert list(loaded) == list(state(0))  # the order of process 0
    assert loaded["again"] is loaded["params"] and loaded["long"] == "x" * 5000
    np.testing.assert_array_equal(loaded["params"]["w"], state()["params"]["w"])
    assert type(loaded["opt"]) is type(state()["opt"])
    sizes = [0] * count
    for path in place.glob("data-*"):
        number = names.process_of(path.name)
        assert number is not None
        sizes[number] += path.stat().st_size
    assert max(sizes) <= min(sizes) * 1.05


@ENGINES
def test_saves_one_after_another_and_overwrites(tmp_path: Path, engine: bool) -> None:
    def train(p: Processes) -> list[str]:
        attempts = []
        for step in range(3):
            tree = {"w": np.full(1000, step), "step": step}
            attempts.append(ckptstore.save(tmp_path / f"s{step}", tree, processes=p).attempt)
            saved = ckptstore.save(tmp_path / "last", tree, overwrite=True, processes=p)
            attempts.append(saved.attempt)
        return attempts

    results = together(3, train, engine=engine)
    assert results[0] == results[1] == results[2], results
    assert ckptstore.load(tmp_path / "last")["step"] == 2
    assert left(tmp_path / "last") == {"MANIFEST", "data"}


def _ended_otherwise(params: dict[str, Any]) -> dict[str, Any]:
    w = params["w"].copy()
    w[-1, -1] = 0
    return params | {"w": w}


DIFFERENT: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "a leaf more": (lambda t: t | {"z": np.ones(3)}, "trees-differ", "$['z']"),
    "a leaf less": (lambda t: {k: v for k, v in t.items() if k != "seen"}, "trees-differ", "seen"),
    "a dtype": (
        lambda t: t | {"params": t["params"] | {"b": np.ones(7, np.float32)}},
        "trees-differ",
        "$['params']['b']",
    ),
    "a shape": (lambda t: t | {"seen": [np.arange(6), *t["seen"][1:]]}, "trees-differ", "[0]"),
    "a type": (lambda t: t | {"opt": list(t["opt"])}, "trees-differ", "$['opt']"),
    "sharing": (lambda t: t | {"again": dict(t["params"])}, "trees-differ", "$['again']"),
    "a kind of scalar": (lambda t: t | {"step": 7.0}, "trees-differ", "$['step']"),
    "a scalar": (lambda t: t | {"step": 8}, "values-differ", "$['step']"),
    "a long text": (lambda t: t | {"long": "y" * 5000}, "values-differ", "$['long']"),
    "a counter": (
        lambda t: t | {"opt": (t["opt"][0]._replace(count=t["opt"][0].count + 1), *t["opt"][1:])},
        "values-differ",
        "$['opt'][0].count",
    ),
    "the end of a large array": (
        lambda t: t | dict.fromkeys(("params", "again"), _ended_otherwise(t["params"])),
        "values-differ",
        "['w']",
    ),
}


@pytest.mark.follows(
    "saving.agreement",
    'give each of them the same tree, or name the places that should differ: per_process=["$.rng"]',
    'make them equal (take those of process 0), or save one of each process: per_process=["$.rng"]',
    some=True,
)
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_refused_by_path_in_all_processes_before_any_data(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, reason, path = DIFFERENT[name]
    written: list[str] = []
    real = LocalStorage.put

    def put(self: LocalStorage, name: str, *arguments: Any) -> None:
        written.append(name)
        real(self, name, *arguments)

    monkeypatch.setattr(LocalStorage, "put", put)

    def save(p: Processes) -> Any:
        tree = state(p.index)
        return ckptstore.save(tmp_path / "c", change(tree) if p.index == 1 else tree, processes=p)

    for text in errors(together(2, save), reason):
        assert path in text and "process 1" in text and "process 0" in text, text
    assert written == []
    assert left(tmp_path / "c") == {"ABORT"}
    # The remedies: the place named, or the same tree in each.
    if name in ("a counter", "a shape"):
        paths = {"a counter": "$.opt", "a shape": "$.seen"}

        def save_own(p: Processes) -> Any:
            tree = change(state(p.index)) if p.index == 1 else state(p.index)
            place = tmp_path / "own"
            return ckptstore.save(place, tree, processes=p, per_process=[paths[name]])

        assert len({saved.attempt for saved in together(2, save_own)}) == 1
    saved = together(2, lambda p: ckptstore.save(tmp_path / "c", state(p.index), processes=p))
    assert saved[0].attempt == saved[1].attempt
    assert ckptstore.verify(tmp_path / "c") == []


def test_another_step_is_refused(tmp_path: Path) -> None:
    results = together(
        3, lambda p: ckptstore.save(tmp_path / "c", {"x": 1}, step=p.index // 2, processes=p)
    )
    assert "step: 1 in process 2, 0 in process 0" in errors(results, "values-differ")[0]


@pytest.mark.follows(
    "distributed.failures", "mend its error, and call it again in all processes:\n  {}"
)
@pytest.mark.parametrize("who", [0, 1])
def test_a_tree_that_cannot_be_saved_in_one_process_is_told_to_all(
    tmp_path: Path, who: int
) -> None:
    def save(p: Processes, bad: bool = True) -> Any:
        tree = {"x": np.ones(3), "f": (lambda: 0) if bad and p.index == who else 1}
        return ckptstore.save(tmp_path / "c", tree, processes=p)

    results = together(3, save)
    own = results.pop(who)
    assert own.reason == "cannot-carry" and "$['f']" in str(own)
    for text in errors(results, "aborted"):
        assert f"process {who} (host " in text and "$['f']" in text
    saved = together(3, functools.partial(save, bad=False))
    assert saved[0].attempt == saved[2].attempt


def test_a_place_that_is_taken_is_refused_alike(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"x": 1})
    results = together(3, lambda p: ckptstore.save(tmp_path / "c", {"x": 2}, processes=p))
    for text in errors(results, "already-committed"):
        assert "overwrite=True" in text and "if rank" not in text
    assert ckptstore.load(tmp_path / "c") == {"x": 1}


@pytest.mark.follows(
    "distributed.waiting",
    "call save in every process, with the same path, in a directory that all of them share",
    "if a process is busy for longer, wait longer: processes=ckptstore.processes(timeout={})",
)
@pytest.mark.ci
def test_a_process_that_does_not_come_is_named_in_time(tmp_path: Path) -> None:
    def save(p: Processes) -> Any:
        if p.index == 2:
            return None
        return ckptstore.save(tmp_path / "c", {"x": np.ones(9)}, processes=p)

    results = together(3, save, engine=True, timeout=LONG_ENOUGH)
    for text in errors(results[:2], "lost-process"):
        assert "process 2 did not join" in text
    results = together(3, lambda p: ckptstore.save(tmp_path / "c", {"x": 1}, processes=p))
    assert len({saved.attempt for saved in results}) == 1


@pytest.mark.ci
def test_a_word_of_a_save_that_a_process_missed_is_passed_over(tmp_path: Path) -> None:
    """Process 0 saved alone, in vain; the next save of all is in step again."""
    meet = threading.Barrier(2)

    def train(p: Processes) -> Any:
        if p.index == 0:
            with pytest.raises(ProcessError) as e:
                ckptstore.save(tmp_path / "c", {"x": 1}, processes=p)
            assert e.value.reason == "lost-process"
        meet.wait(60)
        return ckptstore.save(tmp_path / "c", {"x": 2}, processes=p).attempt

    results = together(2, train, engine=True, timeout=LONG_ENOUGH)
    assert results[0] == results[1], results
    assert ckptstore.load(tmp_path / "c") == {"x": 2}


@pytest.mark.follows(
    "distributed.announcements", "pass a path in a directory, or a bucket, that all processes share"
)
@pytest.mark.ci
def test_a_place_that_is_not_shared_is_told(tmp_path: Path) -> None:
    def save(p: Processes) -> Any:
        return ckptstore.save(tmp_path / f"host{p.index}" / "c", {"x": 1}, processes=p)

    results = together(2, save, timeout=LONG_ENOUGH)
    assert [error.reason for error in results] == ["lost-process", "not-shared"]
    assert "host0/c" in str(results[1])
    saved = together(2, lambda p: ckptstore.save(tmp_path / "c", {"x": 1}, processes=p))
    assert saved[0].attempt == saved[1].attempt


@pytest.mark.follows(
    "distributed.failures", "give each process its own index in Processes(index, count, ...)"
)
@pytest.mark.ci
def test_an_index_given_twice_is_refused(tmp_path: Path) -> None:
    def save(p: Processes) -> Any:
        if p.index == 2:
            p = Processes(1, p.count, p.broadcast, timeout=p.timeout)
        return ckptstore.save(tmp_path / "c", {"x": np.ones(9)}, processes=p)

    results = together(3, save, timeout=LONG_ENOUGH)
    assert {error.reason for error in results} == {"twice"}, results
    saved = together(3, lambda p: ckptstore.save(tmp_path / "c", {"x": 1}, processes=p))
    assert saved[0].attempt == saved[2].attempt


POINTS = {
    "data of a member": (1, "put"),
    "data of process 0": (0, "put"),
    "part of a member": (1, "create"),
    "flush of a member": (1, "flush"),
}


@pytest.mark.parametrize("name", POINTS)
def test_a_process_that_fails_on_the_way_is_told_to_all_and_nothing_stays(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, call = POINTS[name]
    real = getattr(LocalStorage, call)
    mine = threading.local()

    def broken(self: LocalStorage, *arguments: Any) -> Any:
        is_other_note = call == "create" and not str(arguments[0]).startswith("PART")
        writer = names.process_of(str(arguments[0])) if arguments else getattr(mine, "index", None)
        if writer == who and not is_other_note:
            raise ckptstore.StorageError("the disk is on fire")
        return real(self, *arguments)

    def save(p: Processes) -> Any:
        mine.index = p.index
        return ckptstore.save(tmp_path / "c", state(), processes=p)

    monkeypatch.setattr(LocalStorage, call, broken)
    results = together(3, save)
    assert str(results.pop(who)) == "the disk is on fire"
    for text in errors(results, "aborted"):
        assert f"process {who}" in text and "on fire" in text
    assert left(tmp_path / "c") == {"ABORT"}
    monkeypatch.undo()
    saved = together(3, lambda p: ckptstore.save(tmp_path / "c", state(), processes=p))
    assert saved[0].attempt == saved[1].attempt


def test_saves_in_the_background(tmp_path: Path) -> None:
    """One process has at most one save under way, so one thread at a time is the process here."""
    place = tmp_path / "c"
    tree = {"w": np.arange(1_000_000)}
    group = []

    def member(p: Processes) -> Any:
        if p.index:
            return ckptstore.save(place, {"w": np.arange(1_000_000)}, processes=p)
        pending = ckptstore.save_async(place, tree, processes=p)
        tree["w"][:] = 0
        group.append(p)
        return pending.result(60)

    saved = together(3, member)
    assert len({checkpoint.attempt for checkpoint in saved}) == 1
    np.testing.assert_array_equal(ckptstore.load(place)["w"], np.arange(1_000_000))


def test_a_collector_keeps_away_while_the_commit_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = commit._send, []

    def send(storage: Any, attempt: str, *arguments: Any, **options: Any) -> Any:
        seen.append(names.mark(attempt) in storage.list())
        return real(storage, attempt, *arguments, **options)

    monkeypatch.setattr(commit, "_send", send)
    together(2, lambda p: ckptstore.save(tmp_path / "c", {"x": 1}, processes=p))
    assert seen == [True]
    assert left(tmp_path / "c") == {"MANIFEST"}


def test_notes_of_aborted_saves_are_garbage(tmp_path: Path) -> None:
    run = ckptstore.Manager(tmp_path / "run")
    place = tmp_path / "run" / "step-000000000001"
    together(2, lambda p: ckptstore.save(place, {"x": p.index}, processes=p))
    assert left(place) == {"ABORT"}
    assert run.gc(grace=0.0) != []
    assert not place.exists()


@pytest.mark.follows("checkpoint.absence", "load an older checkpoint, or save again:\n  {}")
def test_a_place_of_an_aborted_save_says_why_it_holds_none(tmp_path: Path) -> None:
    together(2, lambda p: ckptstore.save(tmp_path / "c", {"x": p.index}, processes=p))
    with pytest.raises(ckptstore.NotCommittedError, match=r"\$\['x'\]: 1 in process 1"):
        ckptstore.load(tmp_path / "c")
    together(2, lambda p: ckptstore.save(tmp_path / "c", {"x": 1}, processes=p))
    assert ckptstore.load(tmp_path / "c") == {"x": 1}


@pytest.mark.follows(
    "distributed.waiting", "see whether it was killed, and save again once all processes run"
)
@pytest.mark.ci
def test_a_process_that_dies_on_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that ends without a word stands for a process that is killed."""
    real = joint_attempt.write_files

    def dies(store: Any, files: Sequence[str], job: Any) -> None:
        if files and names.process_of(files[0]) == 1:
            raise SystemExit
        real(store, files, job)

    monkeypatch.setattr(joint_attempt, "write_files", dies)
    monkeypatch.setattr(joint_attempt.JointAttempt, "give_up", lambda *_: None)
    monkeypatch.setattr(joint_attempt.JointAttempt, "_remove", lambda *_, **__: None)
    results = together(
        3, lambda p: ckptstore.save(tmp_path / "c", state(), processes=p), timeout=LONG_ENOUGH
    )
    assert isinstance(results.pop(1), SystemExit)
    for text in errors(results, "lost-process"):
        assert "process 1 gave no sign of life" in text
    monkeypatch.undo()
    saved = together(3, lambda p: ckptstore.save(tmp_path / "c", state(), processes=p))
    assert len({checkpoint.attempt for checkpoint in saved}) == 1


@pytest.mark.follows(
    "saving.joint_attempt",
    "see whether process 0 runs, and load the checkpoint to see whether it exists",
)
@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.ci
def test_without_a_word_at_the_end_the_outcome_is_unknown_and_nothing_is_removed(
    tmp_path: Path, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 0 dies at its commit."""

    def dies(*arguments: Any) -> None:
        if committed:
            monkeypatch.setattr(waiting, "verdict", lambda *_: None)  # the others cannot see it
            real(*arguments)
        raise SystemExit

    real = commit.publish_held
    monkeypatch.setattr(commit, "publish_held", dies)
    results = together(
        2, lambda p: ckptstore.save(tmp_path / "c", state(), processes=p), timeout=LONG_ENOUGH
    )
    assert isinstance(results[0], SystemExit)
    assert isinstance(results[1], ckptstore.OutcomeUnknownError), results
    assert len(list((tmp_path / "c").glob("data-*"))) == 2
    assert (ckptstore.verify(tmp_path / "c") == []) if committed else True
    monkeypatch.undo()
    saved = together(
        2, lambda p: ckptstore.save(tmp_path / "c", state(), overwrite=committed, processes=p)
    )
    assert ckptstore.verify(tmp_path / "c") == [] and saved[0].attempt == saved[1].attempt


@pytest.mark.follows("format.notes", "save again")
def test_a_note_that_is_damaged_fails_the_save_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalStorage.create

    def create(self: LocalStorage, name: str, data: bytes) -> None:
        real(self, name, data[:-1] + b"!" if name.startswith("PART") else data)

    monkeypatch.setattr(LocalStorage, "create", create)
    results = together(2, lambda p: ckptstore.save(tmp_path / "c", state(), processes=p))
    assert [error.reason for error in results] == ["checksum", "aborted"]
    assert "PART-" in str(results[0]) and left(tmp_path / "c") == {"ABORT"}
    monkeypatch.undo()
    saved = together(2, lambda p: ckptstore.save(tmp_path / "c", state(), processes=p))
    assert saved[0].attempt == saved[1].attempt


@pytest.mark.follows(
    "checkpoint.commit", "save again", "delete the checkpoint, and save again", some=True
)
@pytest.mark.parametrize("is_stuck", [False, True], ids=["removed", "not removed"])
def test_a_commit_that_is_sent_again_after_a_delete_leaves_no_manifest_without_data(
    tmp_path: Path, is_stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the commit was lost, and another program deleted the checkpoint meanwhile."""
    place = tmp_path / "c"
    create, delete = LocalStorage.create, LocalStorage.delete

    def created(self: LocalStorage, name: str, data: bytes) -> None:
        create(self, name, data)
        if name == names.MANIFEST:
            for path in (*place.glob("data-*"), place / name):
                path.unlink()
            create(self, name, data)

    def deleted(self: LocalStorage, name: str, expected: bytes | None = None) -> None:
        if is_stuck and name == names.MANIFEST:
            raise ckptstore.StorageError("the disk is on fire")
        delete(self, name, expected)

    monkeypatch.setattr(LocalStorage, "create", created)
    monkeypatch.setattr(LocalStorage, "delete", deleted)
    results = together(2, lambda p: ckptstore.save(place, {"x": np.ones(9)}, processes=p))
    monkeypatch.undo()
    if is_stuck:
        assert isinstance(results[0], ckptstore.OutcomeUnknownError)
        assert "delete the checkpoint, and save again" in str(results[0])
        (place / names.MANIFEST).unlink()
    else:
        assert isinstance(results[0], ckptstore.StorageError), results
        assert results[0].reason == "lost-file" and "save again" in str(results[0])
        assert left(place) <= {"ABORT"}
    saved = together(2, lambda p: ckptstore.save(place, {"x": np.ones(9)}, processes=p))
    assert saved[0].attempt == saved[1].attempt
    assert ckptstore.verify(place) == []


def test_each_process_makes_the_commit_durable_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 0 may have linked the manifest, and not synced the directory yet."""
    place, mine = tmp_path / "c", threading.local()
    flush, durable = LocalStorage.flush, set[int]()

    def flushed(self: LocalStorage) -> None:
        is_there = (place / names.MANIFEST).exists()
        flush(self)
        if is_there:
            durable.add(mine.index)

    def save(p: Processes) -> Any:
        mine.index = p.index
        ckptstore.save(place, {"x": np.ones(9)}, processes=p)
        return p.index == 0 or p.index in durable

    monkeypatch.setattr(LocalStorage, "flush", flushed)
    assert together(3, save) == [True] * 3


def test_an_index_that_does_not_fit_in_the_manifest_is_a_file_of_its_own(tmp_path: Path) -> None:
    """Each name is stored, so long names make the index long."""
    tree = {f"{number}-{'x' * 4000}": np.array([number]) for number in range(300)}
    saved = together(2, lambda p: ckptstore.save(tmp_path / "c", tree, processes=p))
    assert left(tmp_path / "c") == {"MANIFEST", "data", "index"}
    assert ckptstore.verify(tmp_path / "c") == []
    assert ckptstore.load(tmp_path / "c") == tree
    assert [len(checkpoint.leaves) for checkpoint in saved] == [300] * 2


def test_a_save_that_is_cancelled_before_it_begins_is_told_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of a save_async cannot be started, and an interrupt comes."""

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    def member(p: Processes) -> Any:
        if p.index == 1:
            return ckptstore.save_async(tmp_path / "c", state(), processes=p)
        return ckptstore.save(tmp_path / "c", state(), processes=p)

    monkeypatch.setattr(background, "_start", interrupted)
    results = together(3, member)
    assert isinstance(results.pop(1), KeyboardInterrupt)
    for text in errors(results, "aborted"):
        assert "process 1" in text and "cancelled" in text


def test_a_tree_that_cannot_be_saved_is_walked_once_more_only_where_an_engine_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[bool] = []
    real = writer.flatten

    def flatten(tree: Any, **options: Any) -> Any:
        walks.append(options.get("lenient", False))
        return real(tree, **options)

    monkeypatch.setattr(writer, "flatten", flatten)
    with pytest.raises(ckptstore.StructureError):
        ckptstore.save(tmp_path / "c", [lambda: 0])
    assert walks == [False]
    monkeypatch.setattr(writer, "running_processes", lambda: Processes(1, 2, bytes))
    with pytest.raises(ckptstore.StructureError):  # no array lies in several: it saves alone
        ckptstore.save(tmp_path / "c", [lambda: 0])
    assert walks == [False, False, True]


def test_a_part_that_comes_after_the_end_is_removed_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 1 fails, and process 0 has cleaned up before process 2 hands in its part."""
    real, gone = LocalStorage.create, threading.Event()

    def create(self: LocalStorage, name: str, data: bytes) -> None:
        if name.startswith("PART-") and names.process_of(name) == 1:
            raise ckptstore.StorageError("the disk is on fire")
        if name.startswith("PART-"):
            assert gone.wait(60)
        real(self, name, data)

    def discard(*arguments: Any, **options: Any) -> Any:
        result = real_discard(*arguments, **options)
        if len(arguments) == 3:  # that of process 0
            gone.set()
        return result

    real_discard = deletion.discard
    monkeypatch.setattr(LocalStorage, "create", create)
    monkeypatch.setattr(deletion, "discard", discard)
    results = together(3, lambda p: ckptstore.save(tmp_path / "c", state(), processes=p))
    assert [error.reason for error in results] == ["aborted", "storage", "aborted"]
    assert left(tmp_path / "c") == {"ABORT"}

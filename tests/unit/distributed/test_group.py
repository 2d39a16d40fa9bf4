"""Who the processes are, and the word of process 0, in threads that stand for processes."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import ProcessError, Processes, StructureError
from ckptstore.distributed import chosen, engines, group, word
from tests.support.cluster import Board, threads


def same(data: Any) -> Any:
    return data


WRONG: dict[str, tuple[Any, ...]] = {
    "count 0": (0, 0, same),
    "count a text": (0, "2", same),
    "count True": (0, True, same),
    "index below": (-1, 2, same),
    "index above": (2, 2, same),
    "index a float": (1.0, 2, same),
    "index None": (None, 2, same),
    "no broadcast": (0, 2),
    "broadcast no function": (0, 2, b"word"),
    "allgather no function": (0, 2, same, [b"word"]),
    "timeout 0": (0, 2, same, None, 0),
    "timeout negative": (0, 2, same, None, -1.0),
    "timeout nan": (0, 2, same, None, float("nan")),
    "timeout without end": (0, 2, same, None, float("inf")),
    "timeout a text": (0, 2, same, None, "300"),
    "timeout True": (0, 2, same, None, True),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_that_cannot_be_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(
        StructureError, match=rf"Processes: {name.split()[0].strip()}|broadcast"
    ) as e:
        Processes(*WRONG[name])
    assert e.value.reason == "bad-argument" and ", as in " in str(e.value)


def test_numbers_may_be_those_of_any_framework() -> None:
    together = Processes(np.int32(1), np.int64(2), same)  # type: ignore[arg-type]
    assert (type(together.index), type(together.count)) == (int, int)


class Comm:
    """The communicator of mpi4py, whose `bcast` takes and returns any object."""

    def __init__(self, of: Processes) -> None:
        self.rank, self.size, self._of = of.index, of.count, of

    def bcast(self, obj: Any, root: int = 0) -> Any:
        assert root == 0 and self._of.broadcast is not None
        return self._of.broadcast(obj)


def talk(together: Processes, topic: str = "save run") -> list[bytes]:
    words = [b"first", b"", b"third\0"]
    if together.index:
        return [together.hear(topic) for _ in words]
    for data in words:
        together.say(topic, data)
    return words


@pytest.mark.parametrize("engine", [False, True], ids=["broadcast", "engine"])
def test_all_hear_each_word_of_process_0_in_its_order(engine: bool) -> None:
    assert threads(4, talk, engine=engine) == [[b"first", b"", b"third\0"]] * 4


def test_the_broadcast_of_mpi4py_is_one() -> None:
    def job(of: Processes) -> list[bytes]:
        comm = Comm(of)
        return talk(ckptstore.Processes(comm.rank, comm.size, comm.bcast))

    assert threads(3, job) == [[b"first", b"", b"third\0"]] * 3


def test_one_process_alone_says_its_words_to_nobody() -> None:
    alone = Processes(0, 1)
    alone.say("save run", b"word")
    alone.heard("save run")


@pytest.mark.parametrize("topic", ["save a/0", "save file:///ä b%2F\udcff", "x" * 5000])
def test_a_topic_may_be_any_text(topic: str) -> None:
    assert threads(2, functools.partial(talk, topic=topic), engine=True)[1][0] == b"first"


def test_topics_do_not_mix() -> None:
    def job(together: Processes) -> bytes | None:
        if together.index:
            return together.hear("save run/0")
        together.say("save run", b"of another")
        return together.say("save run/0", b"its own")

    assert threads(2, job, engine=True)[1] == b"its own"


@pytest.mark.parametrize("engine", [False, True], ids=["broadcast", "engine"])
def test_a_word_of_a_call_that_process_0_made_alone_is_passed_over(engine: bool) -> None:
    def job(together: Processes) -> list[bytes]:
        if together.index:
            return [
                together.hear("save run", lambda data: data == b"alone"),
                together.hear("save run"),
            ]
        for data in (b"alone", b"alone", b"together", b"after"):
            together.say("save run", data)
        return []

    assert threads(3, job, engine=engine)[1:] == [[b"together", b"after"]] * 2


def test_a_call_that_another_made_alone_takes_no_word() -> None:
    heard_nothing = threading.Event()

    def job(together: Processes) -> Any:
        if together.index == 0:
            assert heard_nothing.wait(60)
            return together.say("save run", b"word")
        with pytest.raises(ProcessError):
            ckptstore.Processes(1, 2, together.broadcast, timeout=0.05).hear("save run")
        heard_nothing.set()
        return together.hear("save run")

    assert threads(2, job, engine=True)[1] == b"word"


@pytest.mark.follows(
    "distributed.group",
    "make this call in every process",
    "see in the logs whether all processes are alive",
    "wait longer for a slow one with `ckptstore.processes(timeout={})`",
)
def test_a_word_that_does_not_come_is_an_error_that_says_who_waited_where_and_for_how_long() -> (
    None
):
    gave_up = threading.Event()

    def job(together: Processes) -> Any:
        if together.index == 0:
            assert gave_up.wait(60)  # alive, and slow
            return together.say("save run", b"word")
        with pytest.raises(ProcessError) as caught:
            Processes(2, 4, together.broadcast, timeout=0.25).hear("save s3://b/run")
        gave_up.set()
        return str(caught.value), caught.value.reason, together.hear("save run")

    (text, reason, heard) = threads(2, job, engine=True)[1]
    assert text.startswith("save s3://b/run: process ") and " on host " in text
    assert "heard nothing of process 0 within 0.25 s" in text and "timeout=0.5)" in text
    assert (reason, heard) == ("no-word", b"word")


def test_what_is_stale_is_asked_once_a_word_and_its_error_is_passed_on() -> None:
    def fail(data: bytes) -> bool:
        raise ckptstore.StorageError(f"no look at {data!r}")

    def job(together: Processes) -> Any:
        if together.index == 0:
            return [together.say("save run", data) for data in (b"a", b"b")]
        with pytest.raises(ckptstore.StorageError, match="no look at b'a'"):
            together.hear("save run", fail)
        return together.hear("save run")

    assert threads(2, job, engine=True)[1] == b"b"


def test_a_broadcast_that_fails_is_an_error_of_the_processes() -> None:
    def broken(data: bytes) -> bytes:
        raise ConnectionResetError("the peer is gone")

    for index, call in enumerate(("say", "hear")):
        arguments = ("save run", b"word")[: 2 - index]
        with pytest.raises(
            ProcessError, match=f"save run: process {index} of 2 .*the peer is gone"
        ) as e:
            getattr(Processes(index, 2, broken), call)(*arguments)
        assert e.value.reason == "no-word" and isinstance(e.value.__cause__, ConnectionResetError)


NO_BYTES = {"None": None, "str": "word", "bytearray": bytearray(b"word"), "array": np.zeros(2)}


class Alarm(Exception):
    pass


def test_an_exception_of_a_signal_handler_is_passed_on() -> None:
    def ring(number: int, frame: Any) -> None:
        raise Alarm

    def broadcast(data: bytes) -> bytes:
        signal.raise_signal(signal.SIGUSR1)
        return data

    old = signal.signal(signal.SIGUSR1, ring)
    try:
        with pytest.raises(Alarm):
            Processes(1, 2, broadcast).hear("save run")
    finally:
        signal.signal(signal.SIGUSR1, old)


@pytest.mark.follows(
    "distributed.group",
    "pass a function that returns in each process the bytes of process 0, as comm.bcast does",
)
@pytest.mark.parametrize("result", NO_BYTES.values(), ids=NO_BYTES)
def test_a_broadcast_that_returns_no_bytes_is_refused(result: Any) -> None:
    with pytest.raises(StructureError, match="save run: the result of broadcast is") as caught:
        Processes(1, 2, lambda data: result).hear("save run")
    assert caught.value.reason == "bad-argument"
    with pytest.raises(StructureError, match="the result of broadcast is"):
        Processes(0, 2, lambda data: result).say("save run", b"word")
    assert Processes(1, 2, lambda data: b"word").hear("save run") == b"word"


@pytest.mark.follows(
    "distributed.group",
    "pass a function that returns in each process the bytes of process 0, as comm.bcast does",
)
def test_a_broadcast_that_returns_other_bytes_in_process_0_is_refused() -> None:
    with pytest.raises(StructureError, match="returned other bytes in process 0") as caught:
        Processes(0, 2, lambda data: b"of process 1").say("save run", b"word")
    assert caught.value.reason == "bad-argument"
    Processes(0, 2, same).say("save run", b"word")


# What the store of an engine holds.


def connected(board: Any, count: int, timeout: float = 60.0) -> list[Processes]:
    def one(index: int) -> Processes:
        words = word.Words(board, word.Counts())
        return group.connected(lambda: words, index, count, timeout)

    return [one(index) for index in range(count)]


def test_words_that_all_have_heard_are_gone_and_no_others() -> None:
    board = Board()
    leader, member = connected(board, 2)
    for n in range(3):
        leader.say("save run", b"%d" % n)
        leader.say("save other", b"%d" % n)
        assert member.hear("save run") == b"%d" % n
        leader.heard("save run")
    assert len(board.values) == 3 and all("other" in key for key in board.values)
    leader.say("save run", b"next")
    assert member.hear("save run") == b"next"


def test_a_word_may_be_larger_than_a_store_takes_and_goes_away_whole() -> None:
    board = Board()
    leader, member = connected(board, 2)
    data = np.random.default_rng(0).bytes((16 << 20) + 1)
    leader.say("save run", data)
    assert max(map(len, board.values.values())) * 4 / 3 < 4 << 20  # as text, for an old jax
    assert member.hear("save run") == data
    leader.heard("save run")
    assert not board.values


def test_a_store_that_is_gone_is_an_error_of_the_processes_but_not_after_the_save() -> None:
    def gone(*_: object) -> Any:
        raise RuntimeError("Broken pipe")

    leader, member = connected(SimpleNamespace(set=gone, get=gone, delete=gone), 2)
    assert member.allgather is not None
    calls = [lambda: leader.say("save run", b"word"), lambda: member.hear("save run")]
    for call in [*calls, lambda: member.allgather and member.allgather(b"")]:
        with pytest.raises(
            ProcessError, match=r"process . of 2 on host .*RuntimeError: Broken pipe"
        ) as e:
            call()
        assert e.value.reason == "no-word"
    leader.heard("save run")


# What all pass to all.


def test_each_gets_what_all_passed_in_the_order_of_their_numbers() -> None:
    board = Board()
    groups = connected(board, 4)

    def job(of: Processes) -> list[Any]:
        gather = groups[of.index].allgather
        assert gather is not None
        return [gather(b"%d of %d" % (n, of.index)) for n in range(5)]

    expected = [[b"%d of %d" % (n, i) for i in range(4)] for n in range(5)]
    assert threads(4, job) == [expected] * 4
    assert len(board.values) == 1  # the last word, which perhaps not all have heard


@pytest.mark.parametrize("missing", [0, 2])
def test_all_that_called_hear_who_did_not(missing: int) -> None:
    groups = connected(Board(), 3, 0.5)

    def job(of: Processes) -> Any:
        gather = groups[of.index].allgather
        assert gather is not None
        return gather(b"") if of.index != missing else None

    for i, error in enumerate(threads(3, job)):
        if i != missing:
            assert isinstance(error, ProcessError) and error.reason == "no-word"
            assert f"heard nothing of process {missing} within 0.5 s" in str(error)


@pytest.mark.parametrize("early", [0, 1], ids=["process 0", "process 1"])
def test_a_gather_that_one_made_alone_before_leaves_nothing_behind(early: int) -> None:
    board = Board()
    groups, short = connected(board, 3), connected(board, 3, 0.05)
    tried = threading.Event()

    def job(of: Processes) -> Any:
        gather, alone = groups[of.index].allgather, short[of.index].allgather
        assert gather is not None and alone is not None
        if of.index == early:
            for _ in range(2):
                with pytest.raises(ProcessError, match="heard nothing of process"):
                    alone(b"early")
            tried.set()
        assert tried.wait(60)
        return gather(b"%d" % of.index)

    # `short` has counts of its own, as a process has one: it must share those of `groups`.
    for one, other in zip(groups, short, strict=True):
        counts = other.broadcast.words().counts  # type: ignore[union-attr]
        one.broadcast.words().counts.done = counts.done  # type: ignore[union-attr]
        one.broadcast.words().counts.deleted = counts.deleted  # type: ignore[union-attr]
    assert threads(3, job) == [[b"0", b"1", b"2"]] * 3


def gather(together: Processes, data: bytes) -> list[bytes]:
    assert together.allgather is not None
    return list(together.allgather(data))


class Hooked:
    """A store that does something before a look for a key whose name ends so."""

    def __init__(self, board: Board, end: str, before: Callable[[], object]) -> None:
        self._board, self._end, self._before = board, end, before
        self.set, self.delete = board.set, board.delete

    def get(self, key: str, seconds: float) -> bytes | None:
        if key.endswith(self._end):
            self._before()
        return self._board.get(key, seconds)


def test_words_of_a_gather_stay_until_the_last_has_heard_them() -> None:
    board, over = Board(), threading.Event()
    leader = connected(board, 2)[0]
    counts = leader.broadcast.words().counts  # type: ignore[union-attr]
    short = group.connected(lambda: word.Words(board, counts), 0, 2, 0.01)
    with pytest.raises(ProcessError, match="heard nothing of process 1"):
        gather(short, b"alone")  # word 0, which process 1 does not hear now
    member = connected(Hooked(board, "/0", lambda: over.wait(60)), 2)[1]

    def job(of: Processes) -> list[bytes]:
        if of.index:
            return gather(member, b"1")
        found = gather(leader, b"0")
        over.set()
        return found

    assert threads(2, job) == [[b"0", b"1"]] * 2


def test_a_word_that_comes_at_the_last_moment_is_heard() -> None:
    board, said = Board(), list[list[bytes]]()
    leader = connected(board, 2)[0]

    def say() -> None:
        if not said:
            said.append([])
            said[0] += gather(leader, b"0")

    member = connected(Hooked(board, "of-0", say), 2, 0.01)[1]
    assert gather(member, b"1") == said[0] == [b"0", b"1"]


def test_a_word_about_an_earlier_call_of_this_process_is_passed_over() -> None:
    board = Board()
    groups, gave_up = connected(board, 3), threading.Event()
    kept = [one.broadcast.words() for one in groups]  # type: ignore[union-attr]

    def job(of: Processes) -> Any:
        if of.index < 2:  # process 1 gives up before process 0 says that 2 is missing
            early = group.connected(lambda: kept[of.index], of.index, 3, (1.0, 0.2)[of.index])
            with pytest.raises(ProcessError, match="heard nothing of process"):
                gather(early, b"early")
        if of.index == 0:
            gave_up.set()
        assert gave_up.wait(60)
        return gather(groups[of.index], b"%d" % of.index)

    assert threads(3, job) == [[b"0", b"1", b"2"]] * 3


# What functions of your own return.

BROADCASTS: dict[str, Callable[[bytes], Any]] = {
    "its own bytes": same,
    "nothing": lambda data: None,
    "a text": lambda data: "word",
    "another's bytes": lambda data: b"of another call",
}
GATHERS: dict[str, Callable[[bytes], Any]] = {
    "nothing": lambda data: None,
    "one": lambda data: data,
    "too few": lambda data: [data],
    "too many": lambda data: [data] * 3,
    "texts": lambda data: ["a", "b"],
    "another order": lambda data: [b"a", b"b"],
}


_THESE = pytest.mark.follows(
    "distributed.announcements",
    "pass a function that returns these in each process, as comm.bcast does",
)
_BYTES = pytest.mark.follows(
    "distributed.group",
    "pass a function that returns in each process the bytes of process 0, as comm.bcast does",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=_THESE if "bytes" in name else _BYTES) for name in BROADCASTS],
)
def test_a_broadcast_that_returns_something_else_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StructureError, match="the result of broadcast is") as caught:
        ckptstore.save(tmp_path / "c", {"x": 1}, processes=Processes(1, 2, BROADCASTS[name]))
    assert caught.value.reason == "bad-argument"
    saved = threads(2, lambda p: ckptstore.save(tmp_path / "c", {"x": 1}, processes=p))
    assert saved[0].attempt == saved[1].attempt


@pytest.mark.follows("distributed.group", "pass a function that returns it, as comm.allgather does")
@pytest.mark.parametrize("name", GATHERS)
def test_an_allgather_that_returns_something_else_is_named(name: str) -> None:
    expected = "the result of allgather is .* expected a list of 2 bytes"
    with pytest.raises(StructureError, match=expected) as caught:
        ckptstore.in_step({"x": 1}, processes=Processes(1, 2, same, GATHERS[name]))
    assert caught.value.reason == "bad-argument"
    assert threads(2, lambda p: ckptstore.in_step({"x": 1}, processes=p)) == [None, None]


# The argument of save and load.


def test_the_argument_may_be_none_one_or_the_processes_themselves() -> None:
    together = Processes(1, 2, same)
    assert chosen(None, "save") is None
    assert chosen(together, "save") is together
    one = chosen("one", "save")
    assert one is not None and (one.index, one.count) == (0, 1)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No engine, and no variable of a launcher."""
    monkeypatch.setattr("ckptstore.ranks.rank", lambda: None)
    monkeypatch.setattr(engines, "_known", {})
    for module in ("jax._src.distributed", "torch.distributed"):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(global_state=None))
    return monkeypatch


def test_without_an_engine_a_process_is_alone(alone: pytest.MonkeyPatch) -> None:
    for found in (ckptstore.processes(), chosen("all", "save")):
        assert found is not None and (found.index, found.count) == (0, 1)


@pytest.mark.parametrize("value", ["both", 4, True, b"all", {}, Processes], ids=repr)
def test_another_argument_is_refused(value: object) -> None:
    with pytest.raises(
        StructureError, match=r'save: processes is .* expected None, "all"'
    ) as caught:
        chosen(value, "save")
    assert caught.value.reason == "bad-argument"


@pytest.mark.follows(
    "distributed.choice", "pass a broadcast too: by their numbers alone the processes hear no word"
)
def test_numbers_alone_are_refused_with_what_to_pass() -> None:
    def job(of: Processes) -> list[bytes]:
        with pytest.raises(StructureError, match="by their numbers alone") as caught:
            chosen((of.index, of.count), "save")
        assert caught.value.reason == "bad-argument"
        together = chosen(Processes(of.index, of.count, of.broadcast), "save")
        assert together is not None
        return talk(together)

    assert len(threads(2, job)[1]) == 3


@pytest.mark.follows(
    "distributed.choice",
    "call torch.distributed.init_process_group() or jax.distributed.initialize() before, or pass a "
    "broadcast of your own, {}{}",
)
def test_all_is_refused_where_a_launcher_tells_of_others_and_nothing_connects_them(
    alone: pytest.MonkeyPatch,
) -> None:
    alone.setattr("ckptstore.ranks.rank", lambda: ckptstore.ranks.Rank(1, 4, "SLURM_PROCID", ""))
    with pytest.raises(StructureError, match=r"of which this is process 1 of 4 \(SLURM_PROCID\)"):
        chosen("all", "save")
    start(alone, Client(), 1, 4)
    found = chosen("all", "save")
    assert found is not None and (found.index, found.count) == (1, 4)


def test_a_timeout_that_is_none_is_refused() -> None:
    with pytest.raises(StructureError, match="processes: timeout is 0"):
        ckptstore.processes(timeout=0)


# The engines, of which only what is used is here. Those of test_engines.py are real.


class Client:
    """The client of jax.distributed."""

    def __init__(self) -> None:
        self.board, self.waits = Board(), list[int]()

    def key_value_set_bytes(self, key: str, value: bytes) -> None:
        if key in self.board.values:
            raise RuntimeError(f"ALREADY_EXISTS: {key}")
        self.board.set(key, value)

    def blocking_key_value_get_bytes(self, key: str, milliseconds: int) -> bytes:
        self.waits.append(milliseconds)
        value = self.board.get(key, milliseconds / 1000)
        if value is None:
            raise RuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
        return value

    def key_value_delete(self, key: str) -> None:
        below = [name for name in self.board.values if name == key or name.startswith(f"{key}/")]
        for name in below:
            self.board.delete(name)


class OldClient(Client):
    """The client of jax 0.4.20, which keeps texts."""

    key_value_set_bytes = None  # type: ignore[assignment]
    blocking_key_value_get_bytes = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name.endswith("_bytes"):
            raise AttributeError(name)
        return super().__getattribute__(name)

    def key_value_set(self, key: str, value: str) -> None:
        Client.key_value_set_bytes(self, key, value.encode("ascii"))

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        return Client.blocking_key_value_get_bytes(self, key, milliseconds).decode()

    def key_value_delete(self, key: str) -> None:
        super().key_value_delete(key)
        raise TypeError("Unable to convert function return value to a Python type!")


def start(patch: pytest.MonkeyPatch, client: Any, index: int, count: int) -> None:
    state = SimpleNamespace(client=client, process_id=index, num_processes=count)
    patch.setitem(sys.modules, "jax._src.distributed", SimpleNamespace(global_state=state))


def member_of(client: Client, count: int) -> Processes:
    """Return process 1, whose counts are its own, beside process 0 of `ckptstore.processes`."""
    words = word.Words(engines.JaxStore(client), word.Counts())
    return group.connected(lambda: words, 1, count, 60.0)


@pytest.mark.parametrize("client", [Client(), OldClient()], ids=["today", "jax 0.4.20"])
def test_the_words_go_through_the_store_of_jax(alone: pytest.MonkeyPatch, client: Client) -> None:
    start(alone, client, 0, 2)
    leader, member = ckptstore.processes(), member_of(client, 2)
    assert (leader.index, leader.count, leader.timeout) == (0, 2, 300.0)
    data = bytes(range(256)) * (20 << 10)
    leader.say("save run", data)
    assert member.hear("save run") == data
    leader.heard("save run")
    assert not client.board.values


def test_the_counts_begin_anew_with_a_new_client(alone: pytest.MonkeyPatch) -> None:
    first, second = Client(), Client()
    start(alone, first, 0, 2)
    kept = ckptstore.processes()
    for _ in range(2):
        kept.say("save run", b"first life")
    ckptstore.processes().say("save run", b"counted on")
    assert len(first.board.values) == 3
    start(alone, second, 0, 2)
    kept.say("save run", b"second life")
    assert member_of(second, 2).hear("save run") == b"second life"


def test_words_that_are_let_go_take_no_words_of_a_longer_topic_along(
    alone: pytest.MonkeyPatch,
) -> None:
    client = Client()
    start(alone, client, 0, 2)
    leader, member = ckptstore.processes(), member_of(client, 2)
    leader.say("save run", b"gone")
    leader.say("save run/0", b"kept")
    leader.heard("save run")
    assert member.hear("save run/0") == b"kept"


def test_a_key_that_an_ended_process_left_is_replaced(alone: pytest.MonkeyPatch) -> None:
    client = Client()
    start(alone, client, 0, 2)
    client.board.set("ckptstore/save%20run/0", b"left")
    ckptstore.processes().say("save run", b"word")
    assert member_of(client, 2).hear("save run") == b"word"


def test_processes_of_an_engine_that_has_ended_or_has_another_number_say_so(
    alone: pytest.MonkeyPatch,
) -> None:
    start(alone, Client(), 1, 2)
    member = ckptstore.processes()
    start(alone, None, 1, 2)
    with pytest.raises(ProcessError, match=r"jax\.distributed does not run any more"):
        member.hear("save run")
    start(alone, Client(), 2, 4)
    with pytest.raises(ProcessError, match="this is process 2 of 4 now"):
        member.hear("save run")


def test_no_wait_inside_an_engine_is_longer_than_a_signal_may_take(
    alone: pytest.MonkeyPatch,
) -> None:
    client = Client()
    start(alone, client, 1, 2)
    with pytest.raises(ProcessError, match="heard nothing"):
        ckptstore.processes(timeout=2.5).hear("save run")
    assert len(client.waits) >= 3 and max(client.waits) <= 1000


def test_a_word_in_time_is_heard_however_long_it_took(alone: pytest.MonkeyPatch) -> None:
    client = Client()
    start(alone, client, 1, 2)
    late = threading.Timer(1.5, client.key_value_set_bytes, ("ckptstore/x/0", b"\1\0\0\0word"))
    late.start()
    assert ckptstore.processes(timeout=60).hear("x") == b"word"
    late.join()

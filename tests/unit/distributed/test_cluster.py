"""The rig that starts the processes of other tests: tests/support/cluster.py."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import pytest

from ckptstore import ProcessError, Processes
from tests.support import cluster


def talk(together: Processes, word: str) -> dict[str, Any]:
    print("process", together.index)
    assert together.allgather is not None
    if together.index == 0:
        together.say("save run", word.encode())
        heard = word
    else:
        heard = together.hear("save run").decode()
    numbers = [int(data) for data in together.allgather(b"%d" % together.index)]
    return {
        "heard": heard,
        "numbers": numbers,
        "engines": sorted({"jax", "torch"} & {*sys.modules}),
    }


@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.smoke), "jax", "torch"])
def test_processes_hear_a_word_and_return_what_their_function_does(kind: str) -> None:
    ended = cluster.run(kind, 2, talk, "hällo")
    engines = [] if kind == "plain" else [kind]  # nothing of ckptstore imports another
    expected = {"heard": "hällo", "numbers": [0, 1], "engines": engines}
    assert [process.value for process in ended] == [expected] * 2, ended
    assert [process.returncode for process in ended] == [0, 0], ended
    last = [process.stdout.splitlines()[-1] for process in ended]  # gloo prints there, too
    assert last == ["process 0", "process 1"]
    assert all(process.seconds > 0 for process in ended)


def fail_in_one(together: Processes) -> str:
    if together.index == 1:
        raise ValueError("the disk of process 1")
    return "done"


def test_a_process_that_fails_returns_nothing_and_says_why() -> None:
    first, second = cluster.run("plain", 2, fail_in_one)
    assert (first.returncode, first.value) == (0, "done")
    assert (second.returncode, second.value) == (1, None)
    assert "ValueError: the disk of process 1" in second.stderr


def wait_to_be_killed(together: Processes) -> Any:
    if together.index == 0:
        cluster.mark("waiting")
        time.sleep(cluster.WITHIN)
    if together.index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return "alive"


@pytest.mark.parametrize("stay", [False, True], ids=["leave", "stay"])
def test_a_process_is_killed_when_a_test_or_itself_says_so(stay: bool) -> None:
    with cluster.Cluster("plain", 3, wait_to_be_killed, stay=stay) as running:
        running.reached(0, "waiting")
        running.kill(0)
        ended = running.ended()
    assert [process.value for process in ended] == [None, None, "alive"]
    codes = [process.returncode for process in ended]
    assert codes == [-signal.SIGKILL, -signal.SIGTERM, None if stay else 0]


def never_end(together: Processes) -> None:
    print("here", flush=True)
    cluster.mark("here")
    time.sleep(cluster.WITHIN)


def test_a_wait_has_a_bound_and_ends_with_what_the_processes_said() -> None:
    running = cluster.Cluster("plain", 2, never_end)
    with running:
        for index in range(2):
            running.reached(index, "here")
        running._end = time.monotonic()
        with pytest.raises(AssertionError, match=r"in vain for the end of 0\n") as caught:
            running.ended()
    assert str(caught.value).count("here\n") == 2
    assert "in never_end" in str(caught.value)  # its traceback
    assert all(process.returncode is not None for process in running._processes)


def test_a_mark_that_cannot_come_any_more_is_not_waited_for() -> None:
    with (
        cluster.Cluster("plain", 1, fail_in_one) as running,
        pytest.raises(AssertionError, match="in vain for mark 'never' of 0"),
    ):
        running.reached(0, "never")


def hear_nothing(together: Processes) -> Any:
    if together.index == 0:
        return None
    with pytest.raises(ProcessError, match="TimeoutError") as caught:
        together.hear("save run")
    return caught.value.reason


def test_a_plain_process_that_hears_nothing_raises_in_its_time() -> None:
    ended = cluster.run("plain", 2, hear_nothing, timeout=0.5)
    assert [process.value for process in ended] == [None, "no-word"]


@pytest.mark.parametrize("engine", [False, True], ids=["broadcast", "engine"])
def test_threads_return_values_and_errors_each_in_its_place(engine: bool) -> None:
    def job(together: Processes) -> str:
        if together.index == 1:
            raise KeyError("of thread 1")
        return str(together)

    first, error, last = cluster.threads(3, job, engine=engine)
    assert isinstance(error, KeyError)
    assert first.startswith("process 0 of 3 on host ") and last.startswith("process 2 of 3")


def test_a_thread_that_does_not_end_is_an_error() -> None:
    late = cluster.threads(1, lambda together: time.sleep(1.0), within=0.05)
    assert isinstance(late[0], AssertionError)

"""`concurrency.run`: every row once, no call that goes on, whatever happens."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from ckptstore import concurrency


def test_every_row_is_taken_once_in_several_threads():
    seen, together = [], threading.Barrier(4)

    def take(row: int) -> None:
        if row < 4:
            together.wait(30)
        seen.append(row)

    concurrency.run(take, [(n,) for n in range(50)], 4, name="t")
    assert sorted(seen) == list(range(50))


def test_the_first_error_is_raised_and_no_other_call_is_begun():
    calls, stops = [], []

    def take(row: int) -> None:
        calls.append(row)
        if row == 3:
            raise ZeroDivisionError
        time.sleep(0.01)

    with pytest.raises(ZeroDivisionError):
        concurrency.run(take, [(n,) for n in range(100)], 2, name="t", stop=lambda: stops.append(1))
    assert len(calls) < 10 and stops == [1]


def test_no_call_goes_on_after_an_interrupt():
    stopped, under_way, lock = threading.Event(), [0], threading.Lock()

    def take(row: int) -> None:
        with lock:
            under_way[0] += 1
        stopped.wait()
        time.sleep(0.1 if row else 0.5)  # the one that is waited for first ends last
        with lock:
            under_way[0] -= 1

    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        concurrency.run(take, [(n,) for n in range(9)], 3, name="t", stop=stopped.set)
    assert under_way == [0]


def test_an_executor_has_all_its_threads_at_once():
    with concurrency.pool(5, name="t") as pool:
        assert len([t for t in threading.enumerate() if t.name.startswith("t_")]) == 5
        assert list(pool.map(abs, [-1, -2])) == [1, 2]

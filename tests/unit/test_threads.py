"""Calls in several threads: each once, in order, and none that goes on, whatever happens."""

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


def test_results_come_in_the_order_of_their_items():
    together = threading.Barrier(3)

    def take(item: int) -> int:
        if item < 3:
            together.wait(30)
        time.sleep(0.01 * (5 - item))
        return item * item

    assert concurrency.map(take, range(5), 3, name="t") == [0, 1, 4, 9, 16]
    assert concurrency.map(take, [], 3, name="t") == []


def test_a_call_that_failed_ends_what_the_others_wait_for():
    waiting = threading.Barrier(2)

    def take(item: int) -> None:
        waiting.wait(30)
        if item:
            raise ZeroDivisionError
        assert concurrency.stoppable()
        concurrency.pause(60)
        assert concurrency.stopped()

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        concurrency.map(take, [0, 1], 2, name="t")
    assert time.monotonic() - began < 30
    assert not concurrency.stoppable()


def test_no_call_goes_on_after_the_block_of_its_workers():
    calls, begun = [], threading.Event()

    def wait(item: int) -> None:
        begun.set()
        concurrency.pause(60)
        calls.append(item)

    began = time.monotonic()
    with pytest.raises(KeyError), concurrency.workers(1, name="t") as submit:
        assert submit(abs, -1).result() == 1
        first, second = submit(wait, 1), submit(wait, 2)
        begun.wait(30)
        raise KeyError
    assert time.monotonic() - began < 30
    assert calls == [1]
    assert first.done() and second.cancelled()

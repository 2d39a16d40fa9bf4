"""Giving up what a thread waits for, once somebody else says so."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_thread = threading.local()


@contextlib.contextmanager
def stopped_by(stop: threading.Event) -> Iterator[None]:
    """Give up the requests that this thread makes in the block, once the event is set."""
    before = getattr(_thread, "stop", None)
    _thread.stop = stop
    try:
        yield
    finally:
        _thread.stop = before


def call(stop: threading.Event, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that gives up its requests once the event is set."""
    with stopped_by(stop):
        return function(*arguments)


def pause(seconds: float) -> None:
    """Sleep, no longer than until the event is set."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)


def stoppable() -> bool:
    """Tell whether there is an event that stops this thread's requests."""
    return getattr(_thread, "stop", None) is not None


def stopped() -> bool:
    """Tell whether that event is set."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    return stop is not None and stop.is_set()

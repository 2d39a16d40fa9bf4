"""What a signal handler raises reaches its author as it is, wherever it strikes."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import ckptstore
from ckptstore import signals
from ckptstore.types import find_adapter, registry

NUMBER = signal.SIGUSR1


class Late(TimeoutError):
    """An OSError, as any TimeoutError is, so that it could be taken for one of a disk."""


def handler(number: int, frame: Any) -> None:
    deeper()


def deeper() -> None:
    raise Late("out of time")


class Holder:
    def method(self, number: int, frame: Any) -> None:
        raise Late("out of time")

    def __call__(self, number: int, frame: Any) -> None:
        raise Late("out of time")

    @staticmethod
    def static(number: int, frame: Any) -> None:
        raise Late("out of time")


def with_more(more: str, number: int, frame: Any) -> None:
    raise Late(more)


def of_runtime(number: int, frame: Any) -> None:
    raise RuntimeError("out of time")


@pytest.fixture
def set_handler() -> Iterator[Callable[[Any], None]]:
    before = signal.getsignal(NUMBER)
    yield lambda function: signal.signal(NUMBER, function) and None
    signal.signal(NUMBER, before)


def strike(*args: Any, **kwargs: Any) -> Any:
    signal.raise_signal(NUMBER)
    return None


HANDLERS = {
    "a function": handler,
    "a bound method": Holder().method,
    "a static method": Holder.static,
    "a callable object": Holder(),
    "a partial": functools.partial(with_more, "out of time"),
    "a partial of a partial": functools.partial(functools.partial(with_more, "out of time")),
    "a lambda": lambda number, frame: deeper(),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_an_exception_of_any_handler_is_passed_on(name: str, set_handler: Any) -> None:
    set_handler(HANDLERS[name])
    with pytest.raises(Late, match="out of time"):
        try:
            strike()
        except Exception as error:
            signals.pass_on(error)
            raise AssertionError from error


@pytest.mark.parametrize("old", [signal.SIG_DFL, signal.SIG_IGN, handler])
def test_any_other_exception_is_not(old: Any, set_handler: Any) -> None:
    set_handler(old)
    try:
        deeper()
    except Late as error:
        signals.pass_on(error)
    signals.pass_on(Late("never raised"))


class Own:
    def __init__(self, a: Any) -> None:
        self.a = a


class Older(NamedTuple):
    b: int


class Old(NamedTuple):
    a: int


def while_flattening(url: Any, patch: Any) -> None:
    ckptstore.register(Own, name="a.Own", flatten=strike, unflatten=lambda _, c: Own(*c))
    ckptstore.save(url, Own(1))


def while_trying(url: Any, patch: Any) -> None:
    ckptstore.register(Own, name="a.Own", flatten=lambda x: ((x.a,), None), unflatten=strike)
    ckptstore.save(url, Own(1))


def while_unflattening(url: Any, patch: Any) -> None:
    flatten = lambda x: ((x.a,), None)  # noqa: E731
    ckptstore.register(Own, name="a.Own", flatten=flatten, unflatten=lambda _, c: Own(*c))
    ckptstore.save(url, Own(1))
    ckptstore.register(Own, name="a.Own", flatten=flatten, unflatten=strike)
    ckptstore.load(url)


def while_migrating(url: Any, patch: Any) -> None:
    ckptstore.register(Older, name="a.Old")
    ckptstore.save(url, Older(1))
    step = ckptstore.Migration(added={"a": strike}, removed=["b"])
    registry._BY_CLASS.clear(), registry._BY_NAME.clear()
    ckptstore.register(Old, name="a.Old", migrate=[step])
    ckptstore.load(url)


def while_an_adapter_is_imported(url: Any, patch: Any) -> None:
    patch.delitem(sys.modules, "ckptstore.adapters.numpy", raising=False)
    patch.setattr(importlib, "import_module", strike)
    ckptstore.save(url, np.ones(2))


def while_an_adapter_is_asked(url: Any, patch: Any) -> None:
    patch.setattr(type(find_adapter("numpy")), "leaf", strike)
    ckptstore.save(url, np.ones(2))


def while_an_array_is_made(url: Any, patch: Any) -> None:
    ckptstore.save(url, np.ones(2))
    patch.setattr(type(find_adapter("numpy")), "array", strike)
    ckptstore.load(url)


def while_a_file_is_synced(url: Any, patch: Any) -> None:
    patch.setattr(os, "fsync", strike)
    ckptstore.save(url, {"a": 1})


def while_a_file_is_opened(url: Any, patch: Any) -> None:
    ckptstore.save(url, np.ones(2))
    patch.setattr(os, "open", strike)
    ckptstore.load(url)


def while_old_steps_are_deleted(url: Any, patch: Any) -> None:
    manager = ckptstore.Manager(url, keep=lambda steps: strike() or steps)
    manager.save(1, {"a": 1})
    manager.save(2, {"a": 1})


WHILES = [f for name, f in list(globals().items()) if name.startswith("while_")]


@pytest.mark.parametrize("code", WHILES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("function", [handler, of_runtime])
def test_it_comes_out_of_save_and_load_as_it_is(
    code: Any, function: Any, set_handler: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in ("_BY_CLASS", "_BY_NAME"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    set_handler(function)
    with pytest.raises((Late, RuntimeError)) as caught:
        code(tmp_path / "c", monkeypatch)
    monkeypatch.undo()
    assert caught.type in (Late, RuntimeError) and str(caught.value) == "out of time"


def test_an_adapter_that_was_imported_is_looked_up_without_an_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = find_adapter("numpy")
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(name))
    assert find_adapter("numpy") is adapter


FIRST_USE = """
import sys, threading
import numpy as np
import ckptstore
from ckptstore.tree import flatten

sys.setswitchinterval(1e-6)
trees = [np.add, np.float32, np.ones(2), {1: np.multiply}, np.dtype("f4")]
gate, errors = threading.Barrier(8), []

def use():
    gate.wait()
    try:
        flatten(trees)
    except BaseException as error:
        errors.append(error)

threads = [threading.Thread(target=use) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not errors, errors
"""


def test_the_first_use_in_several_threads_at_once_finds_whole_tables() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_registration_while_another_thread_saves_is_seen_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A class that is registered again is registered at each moment."""
    for table in ("_BY_CLASS", "_BY_NAME"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    classes = [type(f"C{i}", (), {}) for i in range(200)]
    ckptstore.register(Own, name="a.Own", flatten=strike, unflatten=strike)
    missing, stop = [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            if registry.find_registration(Own) is None:
                missing.append("class")
            if registry.find_registration_named("a.Own") is None:
                missing.append("name")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for cls in classes:
            ckptstore.register(cls, name=f"a.{cls.__name__}", flatten=strike, unflatten=strike)
            ckptstore.register(Own, name="a.Own", flatten=strike, unflatten=strike)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not missing

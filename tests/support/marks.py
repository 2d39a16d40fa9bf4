"""What a test needs, found by looking at it: a server, or a process of its own.

`make test` leaves out what needs either, but for one test marked `smoke` of each kind. No list is
kept by hand: a fixture that a test asks for, or a function that it calls, says so. Of a long sweep
over cases of one kind it runs a quarter (`sampled`), and of the examples of hypothesis a fifth.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import os
import subprocess
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

SERVERS = {"server", "s3", "bucket", "proxy", "moto", "ministack", "gcs"}
_STARTERS = (subprocess, multiprocessing, subprocess.Popen, subprocess.run, ProcessPoolExecutor)
_FORKS = {"fork", "posix_spawn", "execv"}


def add(item: pytest.Item) -> None:
    """Mark a test: ``bucket`` if it needs a server, ``process`` if it starts a process.

    A test of hypothesis is marked ``drawn``: `make test` draws few examples, `make test-ci` all.
    A whole sweep may take longer than another test, also on a busy machine.
    """
    if not isinstance(item, pytest.Function):
        return
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    asked = {value for value in parameters.values() if type(value) is str}
    if SERVERS & {*item.fixturenames, *asked}:
        item.add_marker("bucket")
    fixtures = item._fixtureinfo.name2fixturedefs
    functions = [item.function, *(d.func for known in fixtures.values() for d in known)]
    if any(_starts(f, frozenset()) for f in functions if _is_ours(f)):
        item.add_marker("process")
    if item.get_closest_marker("whole") and not item.get_closest_marker("timeout"):
        item.add_marker(pytest.mark.timeout(1800))
    if getattr(item.function, "is_hypothesis_test", False):
        item.add_marker("drawn")


def sampled(names: Iterable[str], ci: Collection[str] | None = None) -> list[Any]:
    """Return the parameters of a sweep: a quarter of `ci` for `make test`, and the rest marked.

    Args:
        names: of all cases, which `make test-all` runs.
        ci: of those that `make test-ci` runs; None: all.
    """
    names = [*names]
    ci = names if ci is None else ci
    quick = [name for name in names if name in ci][::4]
    rest = {name: "ci" if name in ci else "whole" for name in names if name not in quick}
    return [
        pytest.param(name, marks=[getattr(pytest.mark, rest[name])] if name in rest else [])
        for name in names
    ]


def _is_ours(x: Any) -> bool:
    return str(getattr(x, "__module__", "")).startswith("tests.")


def _starts(function: Any, above: frozenset[Any]) -> bool:
    """Tell whether a function, or one of the tests' own that it calls, starts a process."""
    return function not in above and any(
        any(value is one for one in _STARTERS)
        or (_is_ours(value) and _of(value, above | {function}))
        for value in _used(function)
    )


def _of(value: Any, above: frozenset[Any]) -> bool:
    if isinstance(value, type):
        members = [m for m in vars(value).values() if inspect.isfunction(m)]
        return value not in above and any(_starts(m, above | {value}) for m in members)
    return inspect.isfunction(value) and _starts(value, above)


@functools.cache
def _used(function: Callable[..., Any]) -> tuple[Any, ...]:
    """Return the global values that a function names."""
    function = inspect.unwrap(function)
    names = {name for code in _codes(getattr(function, "__code__", None)) for name in code.co_names}
    space = getattr(function, "__globals__", {})
    values = [space[name] for name in names if name in space]
    modules = [v for v in values if isinstance(v, types.ModuleType)]
    values += [vars(m)[name] for m in modules for name in names if _is_ours(vars(m).get(name))]
    if os in modules and names & _FORKS:
        values.append(subprocess)
    return tuple(values)


def _codes(code: types.CodeType | None) -> Iterator[types.CodeType]:
    if code is not None:
        yield code
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from _codes(constant)

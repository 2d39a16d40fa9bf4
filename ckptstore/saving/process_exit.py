"""The end of a process: functions to run before it, its last messages and its exit status.

No other module changes how a process ends. This one needs the following private or drastic calls:

- `threading._register_atexit`: a save needs executors (the libraries of stores have some), which
  take no more work once their own hook has run, and `atexit` comes after that. If Python lacks this
  name, `atexit` is used, and a save to a bucket at the end of a process may fail with an error.
- `atexit._run_exitfuncs`: `os._exit` skips the handlers of other code; this runs them.
- `os._exit`: an exception or `sys.exit` in an `atexit` handler does not change the exit status. A
  process whose last save failed must not end with 0.
- `gc.get_objects`: `os._exit` does not flush files, and only the garbage collector knows them all.

tests/unit/saving/test_process_exit.py checks each of these assumptions about Python.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  its hook for the end must run after ours
import contextlib
import gc
import io
import os
import sys
import threading
import traceback
from collections.abc import Callable

from ckptstore.errors import CheckpointError


def before(last: Callable[[], None]) -> bool:
    """Register a function to be called when the process ends; return whether that is possible.

    It is called while executors still accept work, because a store may need them; `atexit` would be
    too late.
    """
    try:
        getattr(threading, "_register_atexit", atexit.register)(last)
    except RuntimeError:  # the process is ending
        return False
    return True


def is_by_interrupt() -> bool:
    """Return whether the process is ending because of an uncaught Ctrl-C."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt


def tell(line: str) -> None:
    """Write a line to stderr, if stderr is still open."""
    with contextlib.suppress(Exception):
        print(f"ckptstore: {line}", file=sys.stderr, flush=True)


def text(error: BaseException) -> str:
    """Return the text for an error: the message of a CheckpointError, else with the traceback."""
    if isinstance(error, CheckpointError):
        return "".join(traceback.format_exception_only(error)).rstrip()
    return "".join(traceback.format_exception(error)).rstrip()


def fail(error: BaseException) -> None:
    """End the process with the exit status of an error, once its other threads have ended."""
    code = error.exit_code if isinstance(error, CheckpointError) else 1
    if _is_child():
        leave(code)
    atexit.register(leave, code)


def leave(code: int) -> None:
    """End the process with this exit status; after an `atexit` handler it would else be 0."""
    if _is_child():
        raise SystemExit(code)  # multiprocessing ends its children itself
    atexit.unregister(leave)
    atexit._run_exitfuncs()  # the handlers of other code
    for file in (sys.stdout, sys.stderr, *_files()):
        with contextlib.suppress(Exception):
            file.flush()
    os._exit(code)


def _files() -> list[io.IOBase]:
    """Return the open files of this process, whose buffers `os._exit` would lose."""
    return [x for x in gc.get_objects() if issubclass(type(x), io.IOBase)]


def _is_child() -> bool:
    """Return whether multiprocessing runs this process; its children end in their own way."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None

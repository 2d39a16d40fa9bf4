"""The end of a process: what runs before it, what it says, and the status that it leaves with.

Nothing else in the package touches how a process ends. What is needed here and is not public, or
is as blunt, and why:

- `threading._register_atexit`: a save needs executors (the libraries of stores have some), which
  take no more work once their own hook has run, and `atexit` comes after that. Without this name,
  `atexit` is taken, and a save to a bucket at the end of a process may fail, with an error.
- `atexit._run_exitfuncs`: `os._exit` skips the handlers of others; this runs them.
- `os._exit`: an exception or `sys.exit` in an `atexit` handler does not change the exit status. A
  process whose last save failed must not end with 0.
- `gc.get_objects`: `os._exit` does not flush files, and only the collector knows them all.

tests/unit/saving/test_process_exit.py holds Python to what is assumed of each.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  its end of a process is to come after ours
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
    """Have a function called when the process ends; tell whether it will be.

    Before the executors take no more work: a store may need them. So `atexit` would be too late.
    """
    try:
        getattr(threading, "_register_atexit", atexit.register)(last)
    except RuntimeError:  # the process is ending
        return False
    return True


def is_by_interrupt() -> bool:
    """Tell whether a Ctrl-C that nobody caught ends the process."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt


def tell(line: str) -> None:
    """Write a line to stderr, if there is one still."""
    with contextlib.suppress(Exception):
        print(f"ckptstore: {line}", file=sys.stderr, flush=True)


def text(error: BaseException) -> str:
    """Return what to tell of an error: of one of ours its message, of others the traceback too."""
    if isinstance(error, CheckpointError):
        return "".join(traceback.format_exception_only(error)).rstrip()
    return "".join(traceback.format_exception(error)).rstrip()


def fail(error: BaseException) -> None:
    """Let the process end with the exit status of an error, once its other threads have ended."""
    code = error.exit_code if isinstance(error, CheckpointError) else 1
    if _is_child():
        leave(code)
    atexit.register(leave, code)


def leave(code: int) -> None:
    """End the process with this exit status, which after an `atexit` handler is 0 otherwise."""
    if _is_child():
        raise SystemExit(code)  # multiprocessing leaves by itself
    atexit.unregister(leave)
    atexit._run_exitfuncs()  # those of others
    for file in (sys.stdout, sys.stderr, *_files()):
        with contextlib.suppress(Exception):
            file.flush()
    os._exit(code)


def _files() -> list[io.IOBase]:
    """Return the files of this process: what was written to one is lost at `os._exit`."""
    return [x for x in gc.get_objects() if issubclass(type(x), io.IOBase)]


def _is_child() -> bool:
    """Tell whether multiprocessing runs this process: its children end in their own way."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None

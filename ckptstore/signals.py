"""Exceptions of signal handlers, which Python raises in the middle of any other code."""

from __future__ import annotations

import functools
import inspect
import signal
from types import CodeType
from typing import Any


def pass_on(error: BaseException) -> None:
    """Raise an exception again if a signal handler of this process raised it.

    A timeout by SIGALRM may strike inside an import or a read. It says nothing about either, so it
    must reach its author as it is, not as an error of the package or of the disk.

    Args:
        error: an exception that was just caught.
    """
    codes = [_code_of(signal.getsignal(number)) for number in signal.valid_signals()]
    frame = error.__traceback__
    while frame is not None:
        if any(frame.tb_frame.f_code is code for code in codes):
            raise error
        frame = frame.tb_next


def _code_of(handler: Any) -> CodeType | None:
    """Return the code of a handler that is written in Python, or None."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not callable(handler):
        return None
    if not inspect.isroutine(handler):
        handler = type(handler).__call__
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None

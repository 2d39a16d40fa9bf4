"""The error that each process raises when a save of several processes fails."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from ckptstore import errors
from ckptstore.distributed.group import Processes
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    ProcessError,
    Reason,
    listed,
)
from ckptstore.format import Failure

_SHOWN = 8
_ALIKE = (ProcessError.__name__, AlreadyCommittedError.__name__)
"""Errors that are true in every process, and so are raised alike in all."""

_ERRORS = {
    name: error
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, CheckpointError)
}


def failure_of(group: Processes, error: BaseException) -> Failure:
    """Return the note of an error in this process."""
    return Failure.of(group.index, socket.gethostname(), error)


def alike(failure: Failure) -> CheckpointError:
    """Return the error of another process, as it was raised there."""
    return _ERRORS.get(failure.error, CheckpointError)(failure.text, reason=failure.reason)


def error_of(url: str, failures: Sequence[Failure], done: str = "saved") -> CheckpointError:
    """Return the error for a call that failed because of other processes.

    Args:
        url: the place.
        failures: their failures; the first one gives the class of the error.
        done: the work that was not done, such as ``"loaded"``.
    """
    first = failures[0]
    if first.error in _ALIKE and first.reason != Reason.ABORTED:
        return alike(first)
    texts = [f"process {f.process} (host {f.host}): {f.error}: {f.text}" for f in failures]
    lines = "\n  ".join(listed(texts, _SHOWN))
    return ProcessError(
        f"{url}: nothing was {done}, because another process failed; mend its error, and call it "
        f"again in all processes:\n  {lines}",
        reason=Reason.ABORTED,
    )

"""The error that each process raises when a save of several processes fails."""

from __future__ import annotations

import socket
from collections.abc import Sequence

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
_ALIKE = {error.__name__: error for error in (ProcessError, AlreadyCommittedError)}
"""Errors that are true in every process, and so are raised alike in all."""


def failure_of(group: Processes, error: BaseException) -> Failure:
    """Return the note of an error in this process."""
    return Failure.of(group.index, socket.gethostname(), error)


def error_of(url: str, failures: Sequence[Failure]) -> CheckpointError:
    """Return the error for a save that failed because of other processes.

    Args:
        url: the place.
        failures: their failures; the first one gives the class of the error.
    """
    first = failures[0]
    alike = _ALIKE.get(first.error)
    if alike is not None and first.reason != Reason.ABORTED:
        return alike(first.text, reason=first.reason)
    texts = [f"process {f.process} (host {f.host}): {f.error}: {f.text}" for f in failures]
    lines = "\n  ".join(listed(texts, _SHOWN))
    return ProcessError(
        f"{url}: nothing was saved, because another process failed; mend its error, and save again "
        f"in all processes:\n  {lines}",
        reason=Reason.ABORTED,
    )

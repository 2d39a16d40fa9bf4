"""The error that each process raises when a save of several processes fails."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from ckptstore import errors
from ckptstore.distributed.group import Processes
from ckptstore.distributed.slurm import JobStep
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    ProcessError,
    Reason,
    listed,
)
from ckptstore.format import NOTE_NBYTES, Failure, encode_failures, names
from ckptstore.storage import Storage

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


def leave(store: Storage, group: Processes, attempt: str, error: BaseException) -> None:
    """Leave a note that this process failed.

    Args:
        store: the place.
        group: the processes.
        attempt: the attempt.
        error: the reason.
    """
    note = encode_failures([failure_of(group, error)])
    with contextlib.suppress(CheckpointError, FileExistsError):
        store.create(names.note("FAIL", attempt, group.index), note)


def create_once(store: Storage, group: Processes, name: str, content: bytes) -> None:
    """Create a note that no other process may create.

    Args:
        store: the place.
        group: the processes.
        name: its name.
        content: its content, which holds random bytes.

    Raises:
        ProcessError: the note of another process is there; reason ``twice``.
    """
    try:
        store.create(name, content)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):  # process 0 has given up meanwhile
            if store.read(name, NOTE_NBYTES) != content:  # or only the answer was lost
                raise twice(store.url, group) from None


def twice(url: str, group: Processes) -> ProcessError:
    """Return the error for a second process with the number of this one."""
    if isinstance(group.broadcast, JobStep):  # it counts from 0 again
        return ProcessError(
            f"{url}: another program of this step of Slurm ({group.broadcast.name}) has saved "
            "here; start each program by an srun of its own, or save to another place",
            reason=Reason.TWICE,
        )
    return ProcessError(
        f"{url}: two processes say that they are process {group.index} of {group.count}; give each "
        "process its own index in Processes(index, count, ...)",
        reason=Reason.TWICE,
    )

"""The exceptions of ckptstore, their reason codes and exit codes.

    CheckpointError                 anything that ckptstore raises on purpose
     ├─ StructureError              the tree cannot be carried, or does not fit `like`
     ├─ UnknownTypeError            a stored type has no class in this process
     ├─ UnsupportedError            a newer format, an unknown feature, a platform without the dtype
     ├─ CorruptError                the bytes are not what was written
     ├─ NotCommittedError           no checkpoint is there (or a save never finished)
     ├─ AlreadyCommittedError       another save holds the place
     ├─ OutcomeUnknownError         the commit may or may not have happened
     └─ StorageError                the disk or the store said no

Every exception carries ``reason``, a stable code for programs, and ``exit_code``, for shells.
"""

from __future__ import annotations

__all__ = [
    "AlreadyCommittedError",
    "CheckpointError",
    "CorruptError",
    "NotCommittedError",
    "OutcomeUnknownError",
    "StorageError",
    "StructureError",
    "UnknownTypeError",
    "UnsupportedError",
]


class CheckpointError(Exception):
    """The root of the tree.

    Attributes:
        reason: a stable code in lower case with hyphens, such as ``checksum``.
        exit_code: what a command line tool exits with.
    """

    reason: str = "checkpoint"
    exit_code: int = 1

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (_remake, (type(self), str(self), self.reason))


def _remake(cls: type[CheckpointError], message: str, reason: str) -> CheckpointError:
    """Rebuild an exception that crossed a process boundary."""
    return cls(message, reason=reason)


class StructureError(CheckpointError):
    """The tree holds what no file can carry, or the checkpoint does not fit `like`."""

    reason = "structure"
    exit_code = 3


class UnknownTypeError(CheckpointError):
    """Stored types have no class in this process, or one that is not safe to rebuild."""

    reason = "unknown-type"
    exit_code = 4


class UnsupportedError(CheckpointError):
    """A newer major version, an unknown required feature, or a dtype this machine lacks."""

    reason = "unsupported"
    exit_code = 5


class CorruptError(CheckpointError):
    """The bytes are not those that a save wrote."""

    reason = "corrupt"
    exit_code = 6


class NotCommittedError(CheckpointError):
    """There is no committed checkpoint at this place."""

    reason = "not-committed"
    exit_code = 7


class AlreadyCommittedError(CheckpointError):
    """Another save holds the place; nothing of it was touched."""

    reason = "already-committed"
    exit_code = 8


class OutcomeUnknownError(CheckpointError):
    """The commit was asked for and its outcome cannot be known; nothing was deleted."""

    reason = "outcome-unknown"
    exit_code = 9


class StorageError(CheckpointError):
    """The disk or the store refused an operation; the message names the file and the operation."""

    reason = "storage"
    exit_code = 10

"""The exceptions of ckptstore, their reason codes and exit codes.

    CheckpointError                 anything that ckptstore raises on purpose
     ├─ StructureError              the tree cannot be saved, or does not fit `like`
     ├─ UnknownTypeError            a stored type has no class in this process
     ├─ UnsupportedError            a newer format, an unknown feature, a platform without the dtype
     ├─ CorruptError                the bytes are not those that a save wrote
     ├─ NotCommittedError           no checkpoint is there (or a save never finished)
     ├─ AlreadyCommittedError       another save holds the place
     ├─ OutcomeUnknownError         the commit may or may not have happened
     ├─ StorageError                the disk or the store refused an operation
     └─ ProcessError                of several processes one is gone, is silent or disagrees

Every exception carries ``reason``, a member of `Reason` for programs, and ``exit_code`` for shells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptstore.reasons import Reason
from ckptstore.texts import escaped, text_of

__all__ = [
    "AlreadyCommittedError",
    "CheckpointError",
    "CorruptError",
    "NotCommittedError",
    "OutcomeUnknownError",
    "ProcessError",
    "Reason",
    "StorageError",
    "StructureError",
    "UnknownTypeError",
    "UnsupportedError",
]


class CheckpointError(Exception):
    """The base class of every error that ckptstore raises on purpose.

    Attributes:
        reason: a member of `Reason`; it equals its text, such as ``"checksum"``.
        exit_code: the exit status for a command line tool.

    Example:
        >>> import ckptstore
        >>> try:
        ...     ckptstore.load("nothing")
        ... except ckptstore.CheckpointError as error:
        ...     print(type(error).__name__, error.reason, error.exit_code)
        NotCommittedError no-manifest 7

    Source: docs/spec.md, section 12.
    """

    reason: str = Reason.CHECKPOINT
    exit_code: int = 12

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(escaped(message))
        if reason is not None:
            self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (_remake, (type(self), str(self), self.reason))


def _remake(cls: type[CheckpointError], message: str, reason: str) -> CheckpointError:
    """Rebuild an exception that crossed a process boundary."""
    return cls(message, reason=reason)


class StructureError(CheckpointError):
    """The tree holds an object that cannot be stored, or the checkpoint does not fit `like`.

    Example:
        >>> import ckptstore
        >>> saved = ckptstore.save("ckpt", {"step": 7})
        >>> ckptstore.load("ckpt", like={"step": 0.5})
        Traceback (most recent call last):
        ...
        ckptstore.errors.StructureError: ...ckpt: 1 difference(s) from `like`:
        ...
    """

    reason = Reason.STRUCTURE
    exit_code = 3


class UnknownTypeError(CheckpointError):
    """A stored type has no class in this process, or its class is not safe to rebuild."""

    reason = Reason.UNKNOWN_TYPE
    exit_code = 4


class UnsupportedError(CheckpointError):
    """A newer major version, an unknown required feature, or a dtype that this machine lacks."""

    reason = Reason.UNSUPPORTED
    exit_code = 5


class CorruptError(CheckpointError):
    """The bytes are not those that a save wrote.

    Example:
        >>> import pathlib, ckptstore
        >>> saved = ckptstore.save("ckpt", {"step": 7})
        >>> with pathlib.Path("ckpt", "MANIFEST").open("r+b") as file:
        ...     length = file.truncate(100)
        >>> ckptstore.load("ckpt")
        Traceback (most recent call last):
        ...
        ckptstore.errors.CorruptError: ...MANIFEST: truncated: ...
    """

    reason = Reason.CORRUPT
    exit_code = 6


class NotCommittedError(CheckpointError):
    """There is no committed checkpoint at this place.

    Example:
        >>> import ckptstore
        >>> try:
        ...     tree = ckptstore.load("ckpt")
        ... except ckptstore.NotCommittedError:
        ...     tree = {"step": 0}
    """

    reason = Reason.NOT_COMMITTED
    exit_code = 7


class AlreadyCommittedError(CheckpointError):
    """Another save holds the place; none of its files was touched.

    Example:
        >>> import ckptstore
        >>> saved = ckptstore.save("ckpt", {"step": 7})
        >>> try:
        ...     saved = ckptstore.save("ckpt", {"step": 8})
        ... except ckptstore.AlreadyCommittedError:
        ...     saved = ckptstore.save("ckpt", {"step": 8}, overwrite=True)
    """

    reason = Reason.ALREADY_COMMITTED
    exit_code = 8


class OutcomeUnknownError(CheckpointError):
    """The commit was requested and its outcome cannot be known; nothing was deleted.

    Example:
        >>> import ckptstore
        >>> try:
        ...     saved = ckptstore.save("ckpt", {"step": 7}, step=7)
        ... except ckptstore.OutcomeUnknownError:
        ...     saved = ckptstore.inspect("ckpt")  # shows which save it holds
        >>> saved.step
        7
    """

    reason = Reason.OUTCOME_UNKNOWN
    exit_code = 9


class StorageError(CheckpointError):
    """The disk or the store refused an operation; the message names the file and the operation."""

    reason = Reason.STORAGE
    exit_code = 10


class ProcessError(CheckpointError):
    """Of the processes that save or load together one is gone, is silent, or holds other values.

    Each process raises it, within the timeout of `processes`. The message names this process, and
    those that it is about.

    Example:
        >>> import ckptstore
        >>> def broken(data: bytes) -> bytes:
        ...     raise ConnectionError("the other host is gone")
        >>> together = ckptstore.Processes(1, 2, broken)
        >>> try:
        ...     word = together.hear("save ckpt")
        ... except ckptstore.ProcessError as error:
        ...     print(error.reason, error.exit_code)
        no-word 11
    """

    reason = Reason.PROCESS
    exit_code = 11


def bad_argument(
    where: str, name: str, value: Any, expected: str, *, reason: Reason = Reason.BAD_ARGUMENT
) -> StructureError:
    """Return the error for an argument whose type or value is not the expected one.

    Args:
        where: the call, such as ``"load"``.
        name: the name of the argument.
        value: the value that was passed.
        expected: a description of a good value, with an example.
        reason: a finer code, if there is one.
    """
    return StructureError(
        f"{where}: {name} is {text_of(value)} ({type(value).__name__}), expected {expected}",
        reason=reason,
    )


def listed(lines: Iterable[str], most: int, more: int = 0) -> list[str]:
    """Return the first lines, and a last line with the number of the others, and of `more`."""
    lines = list(lines)
    more += max(len(lines) - most, 0)
    return [*lines[:most], f"… and {more} more"] if more > 0 else lines

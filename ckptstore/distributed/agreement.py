"""Agreement between processes: one of them decides for all, or all tell each other how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ckptstore import signals
from ckptstore.distributed.failures import alike, failure_of
from ckptstore.distributed.group import Processes
from ckptstore.errors import CheckpointError, ProcessError, Reason
from ckptstore.format import Failure, decode_failures, encode_failures

_RESULT, _ERROR = b"\0", b"\1"


def by_leader(group: Processes, topic: str, work: Callable[[], bytes]) -> bytes:
    """Return in all processes the result of a function that process 0 alone calls.

    Args:
        group: the processes, all of which make this call.
        topic: the call and the place, for messages.
        work: the function.

    Raises:
        CheckpointError: of the function, in all processes alike.
        ProcessError: reason ``no-word``.
    """
    if group.count == 1:
        return work()
    word, failed = b"", None
    if group.index == 0:
        try:
            word = _RESULT + work()
        except CheckpointError as error:
            failed, word = error, _ERROR + encode_failures([failure_of(group, error)])
    said = _said(group, topic, word)
    if failed is not None:
        raise failed
    if said.startswith(_ERROR):
        raise alike(decode_failures(said[1:], topic)[0])
    return said[1:]


def failures_of_all(
    group: Processes, topic: str, error: CheckpointError | None
) -> Sequence[Failure]:
    """Return the failures of all processes, each of which passes its own error or None.

    Where the processes have a broadcast alone, it returns the own one.
    """
    own = [] if error is None else [failure_of(group, error)]
    if group.count == 1 or group.allgather is None:
        return own
    rows = gathered(group, topic, encode_failures(own))
    return [failure for row in rows for failure in decode_failures(row, topic)]


def gathered(group: Processes, topic: str, data: bytes) -> Sequence[bytes]:
    """Return the bytes of all processes in their order; each passes its own.

    Raises:
        ProcessError: reason ``no-word``.
    """
    if group.allgather is None:
        raise ProcessError(
            f"{topic}: {group} has a broadcast and no allgather; pass one: "
            "Processes(comm.rank, comm.size, comm.bcast, comm.allgather)",
            reason=Reason.NO_WORD,
        )
    try:
        rows = list(group.allgather(data))
    except CheckpointError:
        raise
    except Exception as error:
        signals.pass_on(error)
        raise ProcessError(
            f"{topic}: {group} could not gather: {type(error).__name__}: {error}; see whether the "
            "other processes run",
            reason=Reason.NO_WORD,
        ) from error
    return rows


def _said(group: Processes, topic: str, word: bytes) -> bytes:
    """Return the word of process 0. A gather meets the same call of all; a word may be older."""
    if group.allgather is not None:
        return gathered(group, topic, word)[0]
    if group.index == 0:
        group.say(topic, word)
        return word
    return group.hear(topic)

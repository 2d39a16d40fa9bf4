"""Agreement between processes: one of them decides for all, or all tell each other how it went."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ckptstore.distributed.failures import alike, failure_of
from ckptstore.distributed.group import Processes
from ckptstore.errors import CheckpointError
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
    group.require_word(topic)  # before process 0 does the work
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
    rows = group.gather(topic, encode_failures(own))
    return [failure for row in rows for failure in decode_failures(row, topic)]


def _said(group: Processes, topic: str, word: bytes) -> bytes:
    """Return the word of process 0. A gather meets the same call of all; a word may be older."""
    if group.allgather is not None:
        return group.gather(topic, word)[0]
    if group.index == 0:
        group.say(topic, word)
        return word
    return group.hear(topic)

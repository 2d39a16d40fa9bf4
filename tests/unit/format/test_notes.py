"""The notes between the processes of one save: round trips, and every damaged byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ckptstore import CorruptError
from ckptstore.errors import StorageError
from ckptstore.format import (
    Failure,
    File,
    Joining,
    Opening,
    Part,
    Spans,
    Word,
    decode_failures,
    encode_failures,
    names,
)

A = "0" * 32
DIGEST = bytes(range(16))
FAILURE = Failure(3, "host", "StorageError", "storage", "the disk is full")
SPANS = Spans(*(np.array([n, n + 300]) for n in range(5)), [DIGEST, DIGEST[::-1]])
NOTES: dict[str, tuple[Any, Callable[[bytes], Any]]] = {
    "opening": (
        Opening("host", "0.2", 4, 7, DIGEST, [DIGEST], b"t", [3, 300], b"token"),
        lambda d: Opening.decode(d, "note"),
    ),
    "joining": (Joining(b"tables", b"token"), lambda d: Joining.decode(d, "note")),
    "word": (Word(A, "host", "s3://b/c", [FAILURE]), lambda d: Word.decode(d, "note")),
    "part": (
        Part([File(names.file_name("data", A, 1, 0), 5, "data", age=2)], SPANS),
        lambda d: Part.decode(d, A, "note"),
    ),
}


@pytest.mark.parametrize("kind", NOTES)
def test_a_note_comes_back_and_a_damaged_one_never(kind: str) -> None:
    note, decode = NOTES[kind]
    data = note.encode()
    assert str(decode(data)) == str(note)
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            with pytest.raises(CorruptError, match="note"):
                decode(damaged)


def test_a_part_of_another_attempt_is_refused() -> None:
    part, _ = NOTES["part"]
    with pytest.raises(CorruptError, match="not of this save"):
        Part.decode(part.encode(), "1" * 32, "note")


def test_failures_come_back() -> None:
    error = StorageError("text \udc80", reason="disk-full")
    failures = [FAILURE, Failure.of(2, "h", error), Failure.of(1, "h", KeyboardInterrupt())]
    assert decode_failures(encode_failures(failures), "note") == failures
    assert (failures[1].reason, failures[2].error) == ("disk-full", "KeyboardInterrupt")


def test_the_names_of_notes() -> None:
    kinds = [names.note(kind, A, 12) for kind in ("JOIN", "PART", "FAIL")]
    for name in [*kinds, names.started(A), names.aborted(A)]:
        assert names.is_note(name) and names.attempt_of(name) == A
        assert names.is_short_lived(f"{name}.{'0' * 16}.tmp")
        assert not names.is_short_lived(name)
    assert [names.process_of(name) for name in kinds] == [12, 12, 12]
    assert names.process_of(names.aborted(A)) is None
    assert not names.is_note("JOIN-x") and not names.is_note(names.file_name("data", A, 0, 0))

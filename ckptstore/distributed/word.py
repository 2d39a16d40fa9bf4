"""Words between processes, as keys of a store that an engine keeps for all of them.

Word n of a topic has the key ``ckptstore/<topic>/<n>``. Each process counts the words of a topic by
itself: process 0 those that it said, another those that it heard. So a call that some processes did
not make leaves a word behind that they hear later, and none waits for a key that nobody sets.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from ckptstore.format import wire

_PIECE = 2 << 20
"""The largest value, in bytes: jax 0.4.20 takes 4 MiB of text, torch 8 MiB."""

_SECONDS = 60.0
"""A key that another says is there comes within this time."""

_ROUND = 1.0
"""The longest time between two looks for the key of a process, in seconds."""

_GATHER = "allgather"

Rows = list[list[Any]]
"""For each process the token of its call, the number of words that it heard, and what it passed."""


class Store(Protocol):
    """Keys and values that all processes of a program see."""

    def set(self, key: str, value: bytes) -> None:
        """Set a key; an old value is replaced."""

    def get(self, key: str, seconds: float) -> bytes | None:
        """Return the value of a key, or None where it is not there within a time; 0: look once."""

    def delete(self, key: str) -> bool:
        """Delete a key, and perhaps all below it; tell whether keys below it may be left."""


class Missing(Exception):
    """Processes from which nothing came in time: their numbers."""

    def __init__(self, indices: Sequence[int]) -> None:
        super().__init__(indices)
        self.indices = indices


@dataclass(slots=True)
class Counts:
    """The number of words that this process has said or heard, and deleted, of each topic."""

    done: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one process.

    Attributes:
        store: the store of the engine.
        counts: the counts of this process; they end with the store.
    """

    store: Store
    counts: Counts

    def say(self, topic: str, data: bytes) -> None:
        """Say the next word of a topic. It does not wait for anybody."""
        n = self.counts.done.get(topic, 0)
        self._put(_key(topic, n), data)
        self.counts.done[topic] = n + 1

    def hear(self, topic: str, seconds: float) -> bytes | None:
        """Return the next word of a topic, or None where it does not come in time."""
        n = self.counts.done.get(topic, 0)
        data = self._take(_key(topic, n), seconds)
        if data is not None:
            self.counts.done[topic] = n + 1
        return data

    def heard(self, topic: str) -> None:
        """Delete the words said so far, each of which all others have heard."""
        self._forget(topic, self.counts.done.get(topic, 0))

    def gather(self, data: bytes, index: int, count: int, seconds: float) -> list[bytes]:
        """Return what each process passed, in the order of their numbers.

        Each sets a key of its own. Process 0 says in one word what it found. A word that does not
        hold what this process set is of an earlier call, which this process had given up.

        Raises:
            Missing: not all processes called it in time.
        """
        end = time.monotonic() + seconds
        token = os.urandom(8)
        mine = _key(_GATHER, f"of-{index}")
        self._put(mine, wire.pack([token, self.counts.done.get(_GATHER, 0), data]))
        try:
            if index == 0:
                rows = self._collect(count, end)
            else:
                rows = self._collected(index, token, end) or self._too_late(index, count, token)
        finally:
            self._remove(mine)
        if missing := [i for i, row in enumerate(rows) if not row]:
            raise Missing(missing)
        return [row[2] for row in rows]

    def _collect(self, count: int, end: float) -> Rows:
        """Return the rows of all processes, and say them; an empty row is missing."""
        rows = self._there(count, end)
        if all(rows):
            for i in range(1, count):
                self._remove(_key(_GATHER, f"of-{i}"))
            self._forget(_GATHER, min(row[1] for row in rows))
        self.say(_GATHER, wire.pack(rows))
        return rows

    def _collected(self, index: int, token: bytes, end: float) -> Rows:
        """Return the rows that process 0 says, or none where it says nothing in time."""
        while (said := self.hear(_GATHER, max(end - time.monotonic(), 0))) is not None:
            rows = _unpacked(said)
            if rows[index] and rows[index][0] == token:
                return rows
        return []

    def _too_late(self, index: int, count: int, token: bytes) -> Rows:
        """Return the rows that are there when process 0 has said nothing in time."""
        rows = self._there(count, 0)
        said = self._collected(index, token, 0)  # Its own key goes only after its word has come.
        if not said and (all(rows) or not rows[0]):
            raise Missing([0])
        return said or rows

    def _there(self, count: int, end: float) -> Rows:
        """Return the row of each process that is there before a time; an empty row is missing."""
        rows: Rows = [[] for _ in range(count)]
        while missing := [i for i, row in enumerate(rows) if not row]:
            left = max(end - time.monotonic(), 0)
            for i in missing:
                data = self._take(_key(_GATHER, f"of-{i}"), min(left, _ROUND / len(missing)))
                rows[i] = [] if data is None else _unpacked(data)
            if left == 0:
                break
        return rows

    def _put(self, key: str, data: bytes) -> None:
        pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)] or [b""]
        for i, piece in enumerate(pieces[1:], 1):
            self.store.set(f"{key}/{i}", piece)
        self.store.set(key, len(pieces).to_bytes(4, "little") + pieces[0])

    def _take(self, key: str, seconds: float) -> bytes | None:
        first = self.store.get(key, seconds)
        if first is None:
            return None
        pieces = [first[4:]]
        for i in range(1, int.from_bytes(first[:4], "little")):
            piece = self.store.get(f"{key}/{i}", _SECONDS)
            if piece is None:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    def _remove(self, key: str) -> None:
        i, more = 1, self.store.delete(key)
        while more:
            more = self.store.delete(f"{key}/{i}")
            i += 1

    def _forget(self, topic: str, until: int) -> None:
        for n in range(self.counts.deleted.get(topic, 0), until):
            self._remove(_key(topic, n))
            self.counts.deleted[topic] = n + 1


def _key(topic: str, name: object) -> str:
    """Return a key; the topic is one part of it, because to delete a key deletes those below."""
    return f"ckptstore/{quote(topic, safe='', errors='surrogatepass')}/{name}"


def _unpacked(data: bytes) -> Rows:
    rows: Rows = wire.unpack(data, what=_GATHER, max_elements=1 << 24, max_depth=4)
    return rows

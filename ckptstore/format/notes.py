"""The notes that the processes of one save leave for each other, and their bytes.

A note is a sealed msgpack map. It is part of no checkpoint. Source: docs/commit.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore.digests import Digest, digest
from ckptstore.errors import CorruptError, Reason
from ckptstore.format import wire
from ckptstore.format.fields import Fields
from ckptstore.format.index import Spans
from ckptstore.format.manifest import MAX_FILES, File
from ckptstore.format.names import is_file_name
from ckptstore.format.wire import DIGEST_NBYTES, MAX_DEPTH, MAX_ELEMENTS

NOTE_NBYTES = 1 << 31
"""The most bytes of a note that are read."""

_COLUMNS = ("leaf", "cell", "file", "offset", "size")


@dataclass(frozen=True, slots=True)
class Failure:
    """The note of a process that failed, and with the note that ends a save, of each that did.

    Attributes:
        process: its number.
        host: the name of its host.
        error: the name of the class of its error.
        reason: the reason of the error.
        text: the text of the error.
    """

    process: int
    host: str
    error: str
    reason: str
    text: str

    @classmethod
    def of(cls, process: int, host: str, error: BaseException) -> Failure:
        """Return the note of an error."""
        reason = getattr(error, "reason", None)
        text = str(error).encode("utf-8", "replace").decode()
        known = reason if isinstance(reason, str) else Reason.CHECKPOINT
        return cls(process, host, type(error).__name__, str(known), text[:_MOST_TEXT])


@dataclass(frozen=True, slots=True)
class Word:
    """The word with which process 0 begins a save.

    Attributes:
        attempt: the attempt; "" if process 0 could not begin.
        host: the name of its host, for messages.
        url: the place as it names it, for messages.
        failures: the reasons why it could not begin.
    """

    attempt: str
    host: str
    url: str
    failures: Sequence[Failure] = ()

    def encode(self) -> bytes:
        """Return the bytes of the word."""
        names = {"attempt": self.attempt, "host": self.host, "url": self.url}
        return _sealed(names | {"failures": encode_failures(self.failures)})

    @classmethod
    def decode(cls, data: bytes, where: str) -> Word:
        """Return the word; raises CorruptError."""
        fields = _opened(data, where)
        return cls(
            fields.get("attempt", str),
            fields.get("host", str),
            fields.get("url", str),
            decode_failures(fields.get("failures", bytes), where),
        )


@dataclass(frozen=True, slots=True)
class Opening:
    """The note with which process 0 opens a save: what must be the same in all processes.

    Attributes:
        host: the name of its host, for messages.
        version: its version of ckptstore.
        count: the number of processes.
        step: the step of training.
        outline: the digest of the outline of its tree.
        values: the digest of each array that all processes have, in the order of the outline; zero
            for one that is not compared.
        tables: the encoded tables of its tree, without spans, to name the differences.
        own: the nodes of its tree whose values each process has of its own.
        token: random bytes, by which process 0 knows its own note again.
    """

    host: str
    version: str
    count: int
    step: int | None
    outline: Digest
    values: Sequence[Digest]
    tables: bytes
    own: Sequence[int]
    token: bytes

    def encode(self) -> bytes:
        """Return the bytes of the note."""
        return _sealed(
            {
                "host": self.host,
                "version": self.version,
                "count": self.count,
                "step": self.step,
                "outline": self.outline,
                "values": wire.pack_digests(self.values),
                "tables": self.tables,
                "own": wire.pack_integers(self.own),
                "own_count": len(self.own),
                "token": self.token,
            }
        )

    @classmethod
    def decode(cls, data: bytes, where: str) -> Opening:
        """Return the note; raises CorruptError."""
        fields = _opened(data, where)
        values = fields.get("values", bytes)
        return cls(
            fields.get("host", str),
            fields.get("version", str),
            fields.integer("count"),
            fields.get("step", int, type(None)),
            fields.get("outline", bytes),
            wire.unpack_digests(values, len(values) // DIGEST_NBYTES, f"{where}: values"),
            fields.get("tables", bytes),
            wire.unpack_integers(
                fields.get("own", bytes), fields.integer("own_count"), f"{where}: own"
            ).tolist(),
            fields.get("token", bytes),
        )


@dataclass(frozen=True, slots=True)
class Joining:
    """The note with which another process joins a save.

    Attributes:
        tables: the encoded tables of a tuple of the values that it has of its own, without spans;
            b"" if there are none.
        token: random bytes, by which the process knows its own note again.
    """

    tables: bytes
    token: bytes

    def encode(self) -> bytes:
        """Return the bytes of the note."""
        return _sealed({"tables": self.tables, "token": self.token})

    @classmethod
    def decode(cls, data: bytes, where: str) -> Joining:
        """Return the note; raises CorruptError."""
        fields = _opened(data, where)
        return cls(fields.get("tables", bytes), fields.get("token", bytes))


@dataclass(frozen=True, slots=True)
class Part:
    """The note with which a process hands in its files.

    Attributes:
        files: its data files.
        spans: the spans in them. The leaves are numbered in the order of the outline, and the files
            in the order of `files`.
    """

    files: Sequence[File]
    spans: Spans

    def encode(self) -> bytes:
        """Return the bytes of the note."""
        columns = {name: wire.pack_integers(getattr(self.spans, name)) for name in _COLUMNS}
        return _sealed(
            {
                "name": [file.name for file in self.files],
                "nbytes": wire.pack_integers([file.nbytes for file in self.files]),
                "age": wire.pack_integers([file.age for file in self.files]),
                "count": len(self.spans),
                **columns,
                "digests": wire.pack_digests(self.spans.digests),
            }
        )

    @classmethod
    def decode(cls, data: bytes, attempt: str, where: str) -> Part:
        """Return the note of an attempt; raises CorruptError."""
        fields = _opened(data, where)
        names, count = fields.strings("name"), fields.integer("count")
        if len(names) > MAX_FILES or not all(is_file_name(n, "data", attempt) for n in names):
            raise CorruptError(
                f"{where}: it names files that are not of this save", reason=Reason.BAD_FILE_NAME
            )
        numbers = [
            wire.unpack_integers(fields.get(column, bytes), len(names), f"{where}.{column}")
            for column in ("nbytes", "age")
        ]
        rows = zip(names, *(column.tolist() for column in numbers), strict=True)
        columns = {
            column: wire.unpack_integers(fields.get(column, bytes), count, f"{where}.{column}")
            for column in _COLUMNS
        }
        digests = wire.unpack_digests(fields.get("digests", bytes), count, f"{where}.digests")
        return cls(
            [File(name, nbytes, "data", age=age) for name, nbytes, age in rows],
            Spans(**columns, digests=digests),
        )


_MOST_TEXT = 64 << 10


def encode_failures(failures: Sequence[Failure]) -> bytes:
    """Return the bytes of a note of failures."""
    rows = [[f.process, f.host, f.error, f.reason, f.text] for f in failures]
    return _sealed({"failures": rows})


def decode_failures(data: bytes, where: str) -> list[Failure]:
    """Return the failures of a note; raises CorruptError."""
    failures = []
    for row in _opened(data, where).get("failures", list):
        types = [type(value) for value in row] if type(row) is list else []
        if types != [int, str, str, str, str]:
            raise CorruptError(f"{where}: a bad row of failures", reason=Reason.BAD_FIELD)
        failures.append(Failure(*row))
    return failures


def _sealed(value: Mapping[str, Any]) -> bytes:
    data = wire.pack(value)
    return data + digest(data)


def _opened(data: bytes, where: str) -> Fields:
    body, seal = data[:-DIGEST_NBYTES], data[-DIGEST_NBYTES:]
    if digest(body) != seal:
        raise CorruptError(
            f"{where}: {len(data)} bytes that do not match their digest; another program changed "
            "the note, or the store damaged it; save again",
            reason=Reason.CHECKSUM,
        )
    value = wire.unpack(body, what=where, max_elements=MAX_ELEMENTS, max_depth=MAX_DEPTH)
    return Fields(value, where)

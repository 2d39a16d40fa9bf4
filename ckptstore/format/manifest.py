"""The manifest: the one file whose existence is the commit. Spec: sections 4 and 5.

envelope    array of 4: "ckptstore", [major, minor], payload (bin 32), {"xxh3-128": digest}
payload     map: attempt, features, time_ms, step, metrics, writer, metadata, files, index
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore.digests import Digest, digest
from ckptstore.errors import CorruptError, Reason, UnsupportedError
from ckptstore.format import wire
from ckptstore.format.fields import Fields
from ckptstore.format.metadata import Metadata, decode_metadata, encode_metadata
from ckptstore.format.names import Role, is_attempt, is_file_name, renamed
from ckptstore.format.wire import DIGEST, DIGEST_NBYTES, MAX_DEPTH, MAX_ELEMENTS

MAGIC = "ckptstore"
VERSION = (1, 0)
LATER_TYPES: Mapping[str, tuple[int, int]] = {"torch.distributed.tensor.DTensor": (1, 1)}
"""The rows that a later version added to section 11 of the specification, each with it."""

SUPPORTED: frozenset[str] = frozenset()
"""The required features that this reader knows. Version 1.0 has none."""

MANIFEST_MAX_NBYTES = 1 << 20
MAX_FILES = 1 << 14
MAX_TIME_MS = 253_402_300_799_999  # the end of the year 9999

# array(4), fixstr(9), magic, array(2), major, minor, bin 32
_HEAD = b"\x94\xa9" + MAGIC.encode() + b"\x92"
_VERSION_AT = len(_HEAD)
_PAYLOAD_AT = _VERSION_AT + 2 + 5


@dataclass(frozen=True, slots=True)
class File:
    """One row of the table of files.

    Attributes:
        digest: the digest of a whole index file. None for a data file: each of its bytes is in a
            span, which has a digest of its own, or is padding, which is zero.
        age: for a data file that a save took over from the one before it, the number of saves
            since it was written.
    """

    name: str
    nbytes: int
    role: Role
    digest: Digest | None = None
    age: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of `MANIFEST` without the index."""

    attempt: str
    time_ms: int
    step: int | None
    metrics: Mapping[str, float]
    writer: Mapping[str, str]
    metadata: Metadata
    files: Sequence[File]
    index: bytes | None
    required: Sequence[str] = ()
    optional: Sequence[str] = ()
    version: tuple[int, int] = VERSION
    processes: int = 1


_SEAL_NBYTES = len(wire.pack({DIGEST: bytes(DIGEST_NBYTES)}))


def encode_manifest(manifest: Manifest, metadata: bytes | None = None) -> bytes:
    """Return the bytes of `MANIFEST`.

    Args:
        manifest: the manifest to encode.
        metadata: its metadata, if they are encoded already.
    """
    payload = wire.pack(
        {
            "attempt": manifest.attempt,
            "features": {"required": list(manifest.required), "optional": list(manifest.optional)},
            "time_ms": manifest.time_ms,
            "step": manifest.step,
            **({"processes": manifest.processes} if manifest.processes > 1 else {}),
            "metrics": dict(manifest.metrics),
            "writer": dict(manifest.writer),
            "metadata": encode_metadata(manifest.metadata) if metadata is None else metadata,
            "files": {
                "name": [file.name for file in manifest.files],
                "size": wire.pack_integers([file.nbytes for file in manifest.files]),
                "role": [file.role for file in manifest.files],
                DIGEST: [file.digest for file in manifest.files],
                **_ages(manifest),
            },
            "index": manifest.index,
        }
    )
    return _enveloped(manifest.version, payload)


def of_attempt(data: bytes, attempt: str) -> bytes:
    """Return the bytes of a manifest under another attempt: its files have other names.

    All else stays as it is, also what a later version of the format wrote there. So the results for
    one attempt are equal exactly if two manifests describe the same checkpoint.

    Args:
        data: the bytes of a manifest that `decode_manifest` takes.
        attempt: the id of the attempt.
    """
    version = data[_VERSION_AT], data[_VERSION_AT + 1]
    end = _PAYLOAD_AT + int.from_bytes(data[_PAYLOAD_AT - 4 : _PAYLOAD_AT], "big")
    payload = wire.unpack(
        data[_PAYLOAD_AT:end], what="manifest", max_elements=MAX_ELEMENTS, max_depth=MAX_DEPTH
    )
    payload["attempt"] = attempt
    files = payload["files"]
    files["name"] = [renamed(name, attempt) for name in files["name"]]
    return _enveloped(version, wire.pack(payload))


def _enveloped(version: tuple[int, int], payload: bytes) -> bytes:
    body = _HEAD + bytes(version) + b"\xc6" + len(payload).to_bytes(4, "big") + payload
    return body + wire.pack({DIGEST: digest(body)})


def _ages(manifest: Manifest) -> dict[str, bytes]:
    """Return the column of ages, which is left out if no file is taken over."""
    ages = [file.age for file in manifest.files]
    return {"age": wire.pack_integers(ages)} if any(ages) else {}


def version_of(types: Iterable[object]) -> tuple[int, int]:
    """Return the least version that a file with these types needs.

    Example:
        >>> version_of(["numpy.ndarray"]), version_of(["torch.distributed.tensor.DTensor"])
        ((1, 0), (1, 1))
    """
    return max((LATER_TYPES.get(str(row), VERSION) for row in types), default=VERSION)


def sealed(data: bytes, manifest: Manifest) -> bytes:
    """Return an encoded manifest with the inline index, or the digest of the index file, replaced.

    Args:
        data: the encoded manifest.
        manifest: the same manifest, with other bytes of the inline index, as many as before. If
            there is no inline index, the last file has another digest.
    """
    end = len(data) - _SEAL_NBYTES
    if manifest.index is not None:
        body = data[: end - len(manifest.index)] + manifest.index
    else:
        file_digest = manifest.files[-1].digest
        assert file_digest is not None
        # The bytes after the last row of the column of digests: entries of maps, without headers.
        after = sum(len(wire.pack(row)) - 1 for row in (_ages(manifest), {"index": None}))
        at = end - after - DIGEST_NBYTES
        body = data[:at] + file_digest + data[at + DIGEST_NBYTES : end]
    return body + wire.pack({DIGEST: digest(body)})


def decode_manifest(data: bytes, *, where: str) -> Manifest:
    """Check and decode the bytes of `MANIFEST`.

    Args:
        data: the whole file.
        where: its place, for messages.

    Raises:
        CorruptError: with the reason of the first check of spec section 4.2 that fails.
        UnsupportedError: ``newer-major`` or ``unknown-feature``.
    """
    if len(data) > MANIFEST_MAX_NBYTES:
        raise CorruptError(
            f"{where}: {len(data)} bytes, more than the {MANIFEST_MAX_NBYTES} a manifest may have",
            reason=Reason.MANIFEST_SIZE,
        )
    if not data.startswith(_HEAD):
        short = _HEAD.startswith(data)
        raise CorruptError(
            f"{where}: "
            + ("truncated: " if short else "not a ckptstore manifest: ")
            + f"begins with {data[:12]!r}, expected {_HEAD!r}",
            reason=Reason.TRUNCATED if short else Reason.BAD_MAGIC,
        )
    if len(data) < _PAYLOAD_AT:
        raise CorruptError(f"{where}: truncated at {len(data)} bytes", reason=Reason.TRUNCATED)
    major, minor = data[_VERSION_AT], data[_VERSION_AT + 1]
    if major != VERSION[0] or minor > 127:
        raise UnsupportedError(
            f"{where}: format version {major}.{minor}; this ckptstore reads {VERSION[0]}.x; "
            "upgrade ckptstore to read it",
            reason=Reason.NEWER_MAJOR,
        )
    end = _PAYLOAD_AT + int.from_bytes(data[_PAYLOAD_AT - 4 : _PAYLOAD_AT], "big")
    if data[_VERSION_AT + 2] != 0xC6:
        raise CorruptError(f"{where}: the payload is not a bin 32", reason=Reason.BAD_MSGPACK)
    if end > len(data):
        raise CorruptError(
            f"{where}: truncated: {end} bytes declared, {len(data)} there", reason=Reason.TRUNCATED
        )
    digests = wire.unpack(data[end:], what=f"{where}: checksum", max_elements=64, max_depth=2)
    if type(digests) is not dict or digests.get(DIGEST) != digest(data[:end]):
        raise CorruptError(
            f"{where}: the checksum does not match; the manifest was damaged after it was written; "
            "restore it from a copy",
            reason=Reason.CHECKSUM,
        )
    payload = wire.unpack(
        data[_PAYLOAD_AT:end], what=where, max_elements=MAX_ELEMENTS, max_depth=MAX_DEPTH
    )
    return _decode_payload(payload, (major, minor), where)


def _decode_payload(payload: Any, version: tuple[int, int], where: str) -> Manifest:
    fields = Fields(payload, where)
    features = Fields(fields.get("features", dict), f"{where}: features")
    required = features.strings("required")
    if unknown := [name for name in required if name not in SUPPORTED]:
        raise UnsupportedError(
            f"{where}: needs the feature {', '.join(map(repr, unknown))}, which this ckptstore "
            "does not have; upgrade ckptstore to read it",
            reason=Reason.UNKNOWN_FEATURE,
        )
    attempt = fields.get("attempt", str)
    if not is_attempt(attempt):
        raise CorruptError(
            f"{where}: {attempt!r:.80} is not an attempt id", reason=Reason.BAD_FIELD
        )
    metrics = fields.get("metrics", dict)
    writer = fields.get("writer", dict)
    for value in metrics.values():
        if type(value) not in (int, float):
            raise CorruptError(f"{where}: a metric is not a number", reason=Reason.BAD_FIELD)
    if (time_ms := fields.integer("time_ms")) > MAX_TIME_MS:
        raise CorruptError(f"{where}: time_ms is {time_ms}", reason=Reason.INTEGER_RANGE)
    if not all(type(value) is str for value in writer.values()):
        raise CorruptError(f"{where}: a package version is not a str", reason=Reason.BAD_FIELD)
    return Manifest(
        attempt=attempt,
        time_ms=time_ms,
        step=None if fields.get("step", int, type(None)) is None else fields.integer("step"),
        metrics=metrics,
        writer=writer,
        metadata=decode_metadata(fields.get("metadata", bytes), where=where),
        files=_decode_files(Fields(fields.get("files", dict), f"{where}: files"), attempt),
        index=fields.get("index", bytes, type(None)),
        required=required,
        optional=features.strings("optional"),
        version=version,
        processes=fields.integer("processes") if "processes" in fields.value else 1,
    )


def _decode_files(fields: Fields, attempt: str) -> list[File]:
    names, roles = fields.strings("name"), fields.strings("role")
    digests = fields.get(DIGEST, list)
    if len(names) > MAX_FILES:
        raise CorruptError(f"{fields.where}: over {MAX_FILES} rows", reason=Reason.TOO_MANY)
    if not len(names) == len(roles) == len(digests):
        raise CorruptError(f"{fields.where}: columns of unequal length", reason=Reason.BAD_COLUMN)
    sizes = wire.unpack_integers(fields.get("size", bytes), len(names), f"{fields.where}.size")
    ages = np.zeros(len(names), np.int64)
    if "age" in fields.value:
        ages = wire.unpack_integers(fields.get("age", bytes), len(names), f"{fields.where}.age")
    files = []
    for name, nbytes, role, file_digest, age in zip(
        names, sizes.tolist(), roles, digests, ages.tolist(), strict=True
    ):
        if not is_file_name(name, role, attempt):
            raise CorruptError(
                f"{fields.where}: {name!r:.200} is not the name of a {role} file of attempt "
                f"{attempt}",
                reason=Reason.BAD_FILE_NAME,
            )
        if (role == "data" and file_digest is not None) or (
            role == "index" and not _is_digest(file_digest)
        ):
            raise CorruptError(f"{fields.where}: bad digest of {name}", reason=Reason.BAD_FIELD)
        files.append(File(name, nbytes, role, file_digest, age))  # type: ignore[arg-type]
    if len(set(names)) != len(names):
        raise CorruptError(f"{fields.where}: a name stands twice", reason=Reason.BAD_FILE_NAME)
    return files


def _is_digest(value: Any) -> bool:
    return type(value) is bytes and len(value) == DIGEST_NBYTES

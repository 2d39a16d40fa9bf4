"""The user's metadata: a map of plain values inside the manifest. Spec: sections 5 and 9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.errors import CorruptError, Reason, StructureError
from ckptstore.format import wire
from ckptstore.format.fields import Fields

MAX_NBYTES = 256 << 10
MAX_DEPTH = 32

Metadata = Mapping[str, Any]


def encode_metadata(metadata: Metadata) -> bytes:
    """Check and encode the user's metadata, a map of plain values.

    Raises:
        StructureError: reason ``metadata`` if a value is not None, bool, int, float, str, bytes,
            list or a dict with str keys, or if the whole is over 256 KiB or 32 levels.
    """
    _check_plain(metadata)
    data = wire.pack(metadata)
    if len(data) > MAX_NBYTES:
        raise _metadata_error(f"metadata: {len(data)} bytes, expected at most {MAX_NBYTES}")
    return data


def decode_metadata(data: bytes, *, where: str) -> Metadata:
    """Check and decode the user's metadata.

    Raises:
        CorruptError: the metadata are not a map of plain values, or exceed a limit.
    """
    if len(data) > MAX_NBYTES:
        raise CorruptError(f"{where}: metadata over {MAX_NBYTES} bytes", reason=Reason.TOO_MANY)
    value = wire.unpack(
        data,
        what=f"{where}: metadata",
        max_elements=MAX_NBYTES,
        max_depth=MAX_DEPTH + 1,
    )
    return Fields(value, f"{where}: metadata").value


def _check_plain(metadata: Any) -> None:
    """Refuse values that msgpack cannot hold, and count them: each takes a byte or more."""
    todo, count = [("metadata", metadata, MAX_DEPTH)], 0
    while todo:
        path, value, levels = todo.pop()
        count += 1
        if levels < 0:
            raise _metadata_error(f"{path}: nested over {MAX_DEPTH} deep")
        if count > MAX_NBYTES:
            raise _metadata_error(f"metadata: over {MAX_NBYTES} values")
        if type(value) is dict:
            for key, entry in value.items():
                if type(key) is not str or not _is_text(key):
                    raise _metadata_error(
                        f"{path}: the key {key!a:.80} is not a str of valid Unicode"
                    )
                todo.append((f"{path}[{key!r:.80}]", entry, levels - 1))
        elif type(value) is list:
            todo.extend((f"{path}[{i}]", entry, levels - 1) for i, entry in enumerate(value))
        elif type(value) is int:
            if abs(value) > wire.MAX_INTEGER:
                raise _metadata_error(f"{path}: the int is over 2^53 - 1")
        elif type(value) is str:
            if not _is_text(value):
                raise _metadata_error(f"{path}: the str has a lone surrogate")
        elif type(value) not in (type(None), bool, float, bytes):
            raise _metadata_error(
                f"{path}: found {type(value).__qualname__}, expected None, bool, int, float, str, "
                "bytes, list or dict with str keys"
            )


def _is_text(value: str) -> bool:
    return value.isascii() or value == value.encode("utf-8", "replace").decode()


def _metadata_error(message: str) -> StructureError:
    return StructureError(f"save: {message}; put it in the tree", reason=Reason.METADATA)

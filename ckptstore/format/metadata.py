"""The user's metadata: a map of plain values inside the manifest. Spec: sections 5 and 9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.errors import CorruptError, Reason, StructureError, listed
from ckptstore.format import wire
from ckptstore.format.fields import Fields
from ckptstore.format.plain_values import plain_value
from ckptstore.texts import text_of

MAX_NBYTES = 256 << 10
MAX_DEPTH = 32
_SHOWN = 20

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
    todo, count, faults = [("metadata", metadata, MAX_DEPTH)], 0, []
    while todo:
        path, value, levels = todo.pop()
        count += 1
        if levels < 0:
            raise _metadata_error(f"{path}: nested over {MAX_DEPTH} deep")
        if count > MAX_NBYTES:
            raise _metadata_error(f"metadata: over {MAX_NBYTES} values")
        if type(value) is dict:
            if fault := _of_keys(path, value):
                faults.append(fault)
            entries = [(f"{path}[{_short(key)}]", entry) for key, entry in value.items()]
            todo.extend((place, entry, levels - 1) for place, entry in reversed(entries))
        elif type(value) is list:
            entries = [(f"{path}[{i}]", entry) for i, entry in enumerate(value)]
            todo.extend((place, entry, levels - 1) for place, entry in reversed(entries))
        elif fault := _fault(path, value):
            faults.append(fault)
        if len(faults) > _SHOWN:
            break
    if faults:
        lines = listed(faults[:_SHOWN], _SHOWN)
        more = ["… and more"] if len(faults) > _SHOWN else []
        raise _metadata_error("\n  ".join([*lines, *more]))


def _of_keys(path: str, value: dict[Any, Any]) -> str:
    """Return the fault of the keys of a dict, with the remedy, or ""."""
    for key in value:
        if type(key) is not str:
            return (
                f"{path}: the key {text_of(key)} is not a str ({type(key).__qualname__}); pass "
                f"{{str(key): entry for key, entry in {path}.items()}}"
            )
        if not _is_text(key):
            return (
                f"{path}: the key {key!a:.80} is not a str of valid Unicode; pass "
                f"{{ascii(key): entry for key, entry in {path}.items()}}"
            )
    return ""


def _fault(path: str, value: Any) -> str:
    """Return the fault of a value other than a dict or a list, with the remedy, or ""."""
    if type(value) is int:
        return f"{path}: the int is over 2^53 - 1; pass str({path})" if _is_huge(value) else ""
    if type(value) is str:
        mend = f"{path}.encode('utf-8', 'surrogatepass')"
        return "" if _is_text(value) else f"{path}: the str has a lone surrogate; pass {mend}"
    if type(value) in (type(None), bool, float, bytes):
        return ""
    return (
        f"{path}: found {type(value).__qualname__}, expected None, bool, int, float, str, "
        f"bytes, list or dict with str keys; pass {plain_value(value, path)}"
    )


def _is_huge(value: int) -> bool:
    return abs(value) > wire.MAX_INTEGER


def _short(key: Any) -> str:
    return f"{key!r}" if type(key) is str and len(key) < 80 else f"{text_of(key)}"


def _is_text(value: str) -> bool:
    return value.isascii() or value == value.encode("utf-8", "replace").decode()


def _metadata_error(message: str) -> StructureError:
    return StructureError(f"save: {message}; or put it in the tree", reason=Reason.METADATA)

"""The bytes below the records: safe msgpack, packed columns of integers and digests.

This module knows nothing about checkpoints. `unpack` first walks the encoded bytes without building
anything, so a declared length that the bytes do not hold is refused before memory is allocated.
Spec: section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

import msgpack
import numpy as np

from ckptstore.digests import Buffer, Digest
from ckptstore.errors import CorruptError, Reason, StructureError

MAX_INTEGER = 2**53 - 1
"""Every integer of the format is at most this (it is exact in JavaScript too)."""

MAX_ELEMENTS = 1 << 17
"""The most msgpack values of a manifest, or of a part of the index."""

MAX_DEPTH = 64
"""The deepest nesting of their arrays and maps."""

DIGEST = "xxh3-128"
"""The key of the digests in the file."""

DIGEST_NBYTES = 16

_WIDTHS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}

Integers = np.ndarray[Any, np.dtype[np.int64]]


def pack(value: Any) -> bytes:
    """Encode `value` as msgpack, with the smallest form of every integer.

    Raises:
        StructureError: the value has a str with a lone surrogate, or is too large for msgpack.
    """
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (ValueError, OverflowError, TypeError) as error:
        raise StructureError(
            f"save: cannot be encoded: {error}", reason=Reason.CANNOT_CARRY
        ) from None
    return packed


def unpack(data: bytes, *, what: str, max_elements: int, max_depth: int) -> Any:
    """Decode one msgpack value that fills `data` wholly.

    Args:
        data: the encoded bytes.
        what: a name for the bytes, for the message of an error.
        max_elements: the largest accepted number of msgpack values, counted at all levels.
        max_depth: the deepest accepted nesting of arrays and maps.

    Raises:
        CorruptError: with reason ``truncated``, ``trailing-bytes``, ``too-deep``, ``too-many``,
            ``integer-range``, ``duplicate-key``, ``bad-key`` or ``bad-msgpack``.
    """
    scan(data, what, max_elements, max_depth)
    try:
        return msgpack.unpackb(
            data, raw=False, use_list=True, strict_map_key=False, object_pairs_hook=_pairs
        )
    except CorruptError as error:
        raise CorruptError(f"{what}: {error}", reason=error.reason) from None
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptError(
            f"{what}: not valid msgpack ({error}); restore the file from a copy",
            reason=Reason.BAD_MSGPACK,
        ) from None


def _pairs(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if type(key) is not str:
            raise CorruptError(f"a map key is {type(key).__name__}, not str", reason=Reason.BAD_KEY)
        if key in out:
            raise CorruptError(f"the map key {key!r} stands twice", reason=Reason.DUPLICATE_KEY)
        out[key] = value
    return out


# How many bytes follow the type byte: a fixed payload, or a length field of that width.
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
# The width of the length field, and the number of bytes that the type byte itself implies, after a
# byte of kind.
_EXTENSIONS = {0xC7: (1, 0), 0xC8: (2, 0), 0xC9: (4, 0)} | {0xD4 + i: (0, 1 << i) for i in range(5)}
_NESTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def scan(
    data: Buffer, what: str, max_elements: int, max_depth: int, *, foreign: bool = False
) -> None:
    """Walk the encoded value and check that every declared length is really there.

    Args:
        data: the encoded bytes.
        what: a name for the bytes, for the message of an error.
        max_elements: as for `unpack`.
        max_depth: as for `unpack`.
        foreign: another program wrote the bytes, so extension types and all integers are allowed.

    Raises:
        CorruptError: as for `unpack`, except for its checks of keys.
    """
    end, position, elements = len(data), 0, 0
    open_counts = [1]
    while open_counts:
        if open_counts[-1] == 0:
            open_counts.pop()
            continue
        open_counts[-1] -= 1
        elements += 1
        if elements > max_elements:
            raise CorruptError(
                f"{what}: more than {max_elements} msgpack values", reason=Reason.TOO_MANY
            )
        if position >= end:
            raise _truncated(what, position, end)
        byte = data[position]
        position += 1
        children = 0
        if byte < 0x80 or byte >= 0xE0 or byte in (0xC0, 0xC2, 0xC3):
            continue
        if byte < 0x90:
            children = 2 * (byte & 0x0F)
        elif byte < 0xA0:
            children = byte & 0x0F
        elif byte < 0xC0:
            position += byte & 0x1F
        elif byte in _FIXED:
            position += _FIXED[byte]
            if byte in (0xCF, 0xD3) and not foreign:
                value = int.from_bytes(data[position - 8 : position], "big", signed=byte == 0xD3)
                if abs(value) > MAX_INTEGER:
                    raise CorruptError(
                        f"{what}: {value} at byte {position - 9} is over 2^53 - 1",
                        reason=Reason.INTEGER_RANGE,
                    )
        elif byte in _SIZED:
            width = _SIZED[byte]
            position += width + int.from_bytes(data[position : position + width], "big")
        elif byte in _NESTED:
            width, per_entry = _NESTED[byte]
            children = per_entry * int.from_bytes(data[position : position + width], "big")
            position += width
        elif foreign and byte in _EXTENSIONS:
            width, nbytes = _EXTENSIONS[byte]
            nbytes += int.from_bytes(data[position : position + width], "big")
            position += width + 1 + nbytes
        else:
            raise CorruptError(
                f"{what}: msgpack type 0x{byte:02x} at byte {position - 1} is not used here",
                reason=Reason.BAD_MSGPACK,
            )
        if position > end or children > end - position:
            raise _truncated(what, position + children, end)
        if children:
            if len(open_counts) > max_depth:
                raise CorruptError(
                    f"{what}: nested deeper than {max_depth} levels", reason=Reason.TOO_DEEP
                )
            open_counts.append(children)
    if position != end:
        raise CorruptError(
            f"{what}: {end - position} bytes after the end of the value",
            reason=Reason.TRAILING_BYTES,
        )


def _truncated(what: str, need: int, have: int) -> CorruptError:
    return CorruptError(
        f"{what}: truncated: at least {need} bytes are declared, found {have}",
        reason=Reason.TRUNCATED,
    )


def pack_integers(values: Sequence[int] | np.ndarray[Any, Any]) -> bytes:
    """Encode unsigned integers, little-endian, in the least width of 1, 2, 4 or 8 bytes."""
    column = np.asarray(values, dtype=np.int64)
    top = int(column.max(initial=0))
    width = 1 if top < 2**8 else 2 if top < 2**16 else 4 if top < 2**32 else 8
    return column.astype(_WIDTHS[width]).tobytes()


def unpack_integers(data: Any, count: int, what: str) -> Integers:
    """Decode a column of `count` unsigned integers.

    Raises:
        CorruptError: reason ``bad-column`` when the length is not `count` times 1, 2, 4 or 8, or
            ``integer-range`` when a value is over 2**53 - 1.
    """
    if type(data) is not bytes:
        raise CorruptError(
            f"{what}: found {type(data).__name__}, expected bin", reason=Reason.BAD_COLUMN
        )
    width = len(data) // count if count else 0
    if len(data) != count * width or (count and width not in _WIDTHS):
        raise CorruptError(
            f"{what}: {len(data)} bytes do not hold {count} integers", reason=Reason.BAD_COLUMN
        )
    if not count:
        return np.zeros(0, np.int64)
    column = np.frombuffer(data, _WIDTHS[width])
    if width == 8 and int(column.max()) > MAX_INTEGER:
        raise CorruptError(
            f"{what}: {int(column.max())} is over 2^53 - 1", reason=Reason.INTEGER_RANGE
        )
    return column.astype(np.int64)


class Digests(Sequence[Digest]):
    """Digests of 16 bytes in one column: a list of millions would take five times the memory.

    Attributes:
        column: the digests, joined.
    """

    __slots__ = ("column",)

    def __init__(self, column: bytes) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column) // DIGEST_NBYTES

    @overload
    def __getitem__(self, number: int) -> Digest: ...
    @overload
    def __getitem__(self, number: slice) -> list[Digest]: ...
    def __getitem__(self, number: int | slice) -> Digest | list[Digest]:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        at = range(len(self))[number] * DIGEST_NBYTES
        return self.column[at : at + DIGEST_NBYTES]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr([*self])

    @classmethod
    def joined(cls, columns: Iterable[Sequence[Digest]]) -> Digests:
        """Return the digests of several columns."""
        return cls(b"".join(map(pack_digests, columns)))

    def taken(self, rows: Integers) -> Digests:
        """Return the digests of some rows, in their order."""
        column = np.frombuffer(self.column, f"V{DIGEST_NBYTES}")
        return Digests(column[rows].tobytes())


def pack_digests(digests: Sequence[Digest]) -> bytes:
    """Join digests into one column."""
    return digests.column if isinstance(digests, Digests) else b"".join(digests)


def unpack_digests(data: Any, count: int, what: str) -> Digests:
    """Return a column of `count` digests of 16 bytes."""
    if type(data) is not bytes or len(data) != count * DIGEST_NBYTES:
        raise CorruptError(
            f"{what}: expected {count} digests of 16 bytes", reason=Reason.BAD_COLUMN
        )
    return Digests(data)

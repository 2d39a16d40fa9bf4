"""Python's scalars: from an object to kind, argument and bytes, and back. Spec: section 5.3."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from ckptstore.errors import CorruptError, Reason
from ckptstore.format import Kind
from ckptstore.tree.nodes import NodeTable

Scalar = tuple[Kind, int, bytes]
"""The kind, the argument and the bytes of a node."""


def decode(table: NodeTable, node: int, data: bytes) -> Any:
    """Return the scalar at a node.

    Args:
        table: the nodes.
        node: the node of a scalar.
        data: its bytes, from the heap or from its leaf.

    Raises:
        CorruptError: reason ``bad-scalar``.
    """
    kind = table.kind[node]
    try:
        return DECODERS[kind](data, table.arg[node])
    except (ValueError, struct.error) as error:
        raise CorruptError(
            f"{table.where}: node {node} is not a valid {Kind(kind).name}: {error}",
            reason=Reason.BAD_SCALAR,
        ) from None


def int_bytes(x: int) -> bytes:
    """Return the shortest two's-complement little-endian bytes of an int; zero has none."""
    nbytes = (x if x >= 0 else ~x).bit_length() // 8 + 1 if x else 0
    return x.to_bytes(nbytes, "little", signed=True)


def _encode_str(x: str) -> Scalar:
    try:
        return Kind.STR, 0, x.encode()
    except UnicodeEncodeError:
        return Kind.SURROGATE_STR, 0, x.encode("utf-8", "surrogatepass")


def _decode_bool(data: bytes, arg: int) -> bool:
    if arg > 1:
        raise ValueError(f"{arg} is neither 0 nor 1")
    return arg == 1


ENCODERS: Mapping[type, Callable[[Any], Scalar]] = {
    type(None): lambda x: (Kind.NONE, 0, b""),
    bool: lambda x: (Kind.BOOL, int(x), b""),
    int: lambda x: (Kind.INT, 0, int_bytes(x)),
    float: lambda x: (Kind.FLOAT, 0, struct.pack("<d", x)),
    complex: lambda x: (Kind.COMPLEX, 0, struct.pack("<dd", x.real, x.imag)),
    str: _encode_str,
    bytes: lambda x: (Kind.BYTES, 0, x),
    type(...): lambda x: (Kind.ELLIPSIS, 0, b""),
}
"""By exact type. A bytearray is mutable, so it has an identity and is not among these."""

SCALAR_TYPES = frozenset(ENCODERS)

DECODERS: Mapping[int, Callable[[bytes, int], Any]] = {
    Kind.NONE: lambda data, arg: None,
    Kind.BOOL: _decode_bool,
    Kind.INT: lambda data, arg: int.from_bytes(data, "little", signed=True),
    Kind.FLOAT: lambda data, arg: struct.unpack("<d", data)[0],
    Kind.COMPLEX: lambda data, arg: complex(*struct.unpack("<dd", data)),
    Kind.STR: lambda data, arg: data.decode(),
    Kind.SURROGATE_STR: lambda data, arg: data.decode("utf-8", "surrogatepass"),
    Kind.BYTES: lambda data, arg: bytes(data),
    Kind.BYTEARRAY: lambda data, arg: bytearray(data),
    Kind.ELLIPSIS: lambda data, arg: ...,
}

SCALAR_KINDS = frozenset(DECODERS)

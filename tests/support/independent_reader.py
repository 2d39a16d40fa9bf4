"""A reader of checkpoints written from docs/spec.md alone: it shares no code with the package.

`read(directory)` checks every byte and gives plain values. What has no plain value in Python is
given as what it is: `Record`, `Member`, `Leaf`, `Symbol`, `Dtype`, `Supplied`.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import xxhash

INT_MAX, MEBIBYTE = 2**53 - 1, 2**20
NAME = re.compile(r"(data|index)-([0-9a-f]{32})-(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})\.bin")
KINDS = {0: "NONE", 1: "BOOL", 2: "INT", 3: "FLOAT", 4: "COMPLEX", 5: "STR", 6: "SURROGATE_STR"}
KINDS |= {7: "BYTES", 8: "BYTEARRAY", 9: "ELLIPSIS", 10: "SLICE", 11: "RANGE", 12: "ENUM"}
KINDS |= {13: "SYMBOL", 14: "DTYPE", 20: "LIST", 21: "TUPLE", 22: "DICT", 23: "ORDERED_DICT"}
KINDS |= {24: "DEFAULT_DICT", 25: "SET", 26: "FROZENSET", 30: "RECORD", 40: "LEAF", 41: "SAME"}
KINDS |= {42: "SUPPLIED"}
LONG = {"INT", "STR", "SURROGATE_STR", "BYTES", "BYTEARRAY"}
DICTS = {"DICT": dict, "ORDERED_DICT": OrderedDict, "DEFAULT_DICT": defaultdict}
ANY_ARITY = {"LIST", "TUPLE", "SET", "FROZENSET", "RECORD", *DICTS}
HEAP = LONG | {"FLOAT", "COMPLEX", "ENUM", "SYMBOL", "DEFAULT_DICT", "SUPPLIED"}
KEYS = {*list(KINDS.values())[:8], "ELLIPSIS", "ENUM", "TUPLE", "FROZENSET"}
FACTORIES = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
FACTORIES_BY_NAME = {"": None} | {factory.__name__: factory for factory in FACTORIES}
RECORDS = ("namedtuple", "dataclass", "object", "pytree")
# Section 11.1: the array types, and of what type each key of their `extra` is.
TENSOR = {"requires_grad": bool, "device": str}
ARRAYS: dict[tuple[str, str], dict[str, type]] = {
    ("numpy", "ndarray"): {},
    ("numpy", "recarray"): {},
    ("numpy", "generic"): {},
    ("jax", "Array"): {"weak": bool, "committed": bool, "device": str, "impl": str},
    ("torch", "Tensor"): TENSOR | {"persistent": bool},
    ("torch.nn.parameter", "Parameter"): TENSOR,
    ("torch.distributed.tensor", "DTensor"): TENSOR | {"persistent": bool, "parameter": bool},
    ("ckptstore", "scalar"): {},
}


class SpecError(Exception):
    """The checkpoint breaks the specification; `reason` is its reason code."""

    def __init__(self, reason: str, about: str = ""):
        super().__init__(f"{reason}: {about}")
        self.reason = reason


def need(condition: object, reason: str, about: object = "") -> None:
    if not condition:
        raise SpecError(reason, str(about))


# ---------------------------------------------------------------- section 3: bytes


def unpack(data: bytes, values: int, levels: int) -> Any:
    """Check one msgpack value as section 3.1 says, then decode it."""
    at, open_, count = 0, [], 0  # open_: how many children each open container still lacks
    while True:
        count += 1
        need(count <= values, "too-many", "msgpack values")
        need(at < len(data), "truncated", "msgpack")
        byte, at, children, size = data[at], at + 1, 0, 0
        need(byte != 0xC1 and not 0xC7 <= byte <= 0xC9, "bad-msgpack", hex(byte))
        need(not 0xD4 <= byte <= 0xD8, "bad-msgpack", hex(byte))
        if 0x80 <= byte <= 0x9F:
            children = (byte & 15) << (byte < 0x90)
        elif 0xA0 <= byte <= 0xBF:
            size = byte & 31
        elif 0xCA <= byte <= 0xD3:
            size = (4, 8, 1, 2, 4, 8, 1, 2, 4, 8)[byte - 0xCA]
        elif byte in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF):
            width = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}.get(
                byte, 2 + byte % 2 * 2
            )
            need(at + width <= len(data), "truncated", "msgpack")
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
            if byte >= 0xDC:
                children, size = size << (byte >= 0xDE), 0
        at += size
        need(at + children <= len(data), "truncated", "msgpack")
        if byte in (0xCF, 0xD3):
            value = int.from_bytes(data[at - 8 : at], "big", signed=byte == 0xD3)
            need(abs(value) <= INT_MAX, "integer-range", "msgpack")
        if children:
            open_.append(children)
            need(len(open_) <= levels, "too-deep", "msgpack")
        else:
            while open_:
                open_[-1] -= 1
                if open_[-1]:
                    break
                open_.pop()
            if not open_:
                break
    need(at == len(data), "trailing-bytes", "msgpack")
    try:
        return msgpack.unpackb(data, strict_map_key=False, object_pairs_hook=_map)
    except UnicodeDecodeError as error:
        raise SpecError("bad-msgpack", "text") from error


def _map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    need(all(type(key) is str for key, _ in pairs), "bad-key", "msgpack")
    found = dict(pairs)
    need(len(found) == len(pairs), "duplicate-key", "msgpack")
    return found


def digest(data: Any) -> bytes:
    return xxhash.xxh3_128_digest(data)


def get(table: dict[str, Any], key: str, *types: type) -> Any:
    need(key in table, "missing-field", key)
    value = table[key]
    need(type(value) in types, "bad-field", key)
    if type(value) is int:
        need(0 <= value <= INT_MAX, "integer-range", key)
    return value


def integers(table: dict[str, Any], key: str, count: int) -> tuple[int, ...]:
    column = get(table, key, bytes)
    width = len(column) // count if count else 0
    need(len(column) == count * width, "bad-column", key)
    need(not count or width in (1, 2, 4, 8), "bad-column", key)
    values = struct.unpack(f"<{count}{'_BH_I___Q'[width]}", column) if count else ()
    need(max(values, default=0) <= INT_MAX, "integer-range", key)
    return values


def texts(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


# ---------------------------------------------------------------- section 6: dtypes

NUMBERS = {"int8": "b", "int16": "h", "int32": "i", "int64": "q", "bool": "B"}
NUMBERS |= {"uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q"}
NUMBERS |= {"float16": "e", "float32": "f", "float64": "d"}
PAIRS = {"complex64": "f", "complex128": "d", "complex32": "e"}
FLOATS = {  # name: bits of exponent, bits of significand, bias, special values
    "bfloat16": (8, 7, 127, "ieee"),
    "float8_e3m4": (3, 4, 3, "ieee"),
    "float8_e4m3": (4, 3, 7, "ieee"),
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fn": (4, 3, 7, (0x7F, 0xFF)),
    "float8_e4m3fnuz": (4, 3, 8, (0x80,)),
    "float8_e4m3b11fnuz": (4, 3, 11, (0x80,)),
    "float8_e5m2fnuz": (5, 2, 16, (0x80,)),
    "float8_e8m0fnu": (8, 0, 127, (0xFF,)),
    "float6_e2m3fn": (2, 3, 1, ()),
    "float6_e3m2fn": (3, 2, 3, ()),
    "float4_e2m1fn": (2, 1, 1, ()),
}
BITS = {"bool": 1, "float6_e2m3fn": 6, "float6_e3m2fn": 6, "float4_e2m1fn": 4}
BITS |= {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (1, 2, 4)}
LONGDOUBLES = {"x87-80": 16, "binary128": 16, "double-double": 16, "binary64": 8}
UNITS = "Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as"
SIZED = re.compile(r"(str|bytes|void)\[(0|[1-9][0-9]{0,9})\]")
TIMES = re.compile(rf"(?:datetime64|timedelta64)(?:\[([1-9][0-9]{{0,9}})?(?:{UNITS})\])?")


@dataclass(frozen=True)
class Dtype:
    """A dtype: its `spec` as section 6 has it, and how it is taken apart."""

    spec: Any
    size: int = field(compare=False)
    base: Any = field(compare=False)  # a name, a list of (offset, Dtype), or a Dtype
    shape: tuple[int, ...] | None = field(default=None, compare=False)


def parse(spec: Any, depth: int = 0) -> Dtype:
    need(depth <= 16, "bad-dtype", "too deep")
    parsed = _parse_name(spec) if type(spec) is str else _parse_map(spec, depth)
    need(parsed.size < 2**31, "bad-dtype", spec)
    return parsed


def _parse_name(spec: str) -> Dtype:
    name = spec.removeprefix(">")
    sized, times = SIZED.fullmatch(name), TIMES.fullmatch(name)
    if sized:
        name, size = sized[1], int(sized[2]) * (4 if sized[1] == "str" else 1)
    elif times:
        need(int(times[1] or 1) < 2**31, "bad-dtype", spec)
        name, size = "time", 8
    elif (double := name.partition("longdouble["))[2].removesuffix("]") in LONGDOUBLES:
        need(double[0] in ("", "c") and name.endswith("]"), "bad-dtype", spec)
        size = LONGDOUBLES[double[2][:-1]] * (2 if double[0] else 1)
    elif name in NUMBERS:
        size = struct.calcsize(NUMBERS[name])
    elif name in PAIRS or name == "bcomplex32":
        size = 2 * struct.calcsize(PAIRS.get(name, "e"))
    else:
        need(name in FLOATS or name in BITS, "bad-dtype", spec)
        size = 2 if name == "bfloat16" else 1
    need(name == spec or spec[0] != ">" or size != 1, "bad-dtype", spec)
    need(spec[0] != ">" or name not in ("bytes", "void"), "bad-dtype", spec)
    return Dtype(spec, size, name)


def _parse_map(spec: Any, depth: int) -> Dtype:
    need(type(spec) is dict, "bad-dtype", spec)
    need(("base" in spec) != ("fields" in spec), "bad-dtype", spec)
    if "base" in spec:
        base, shape = parse(spec["base"], depth + 1), spec.get("shape")
        need(type(shape) is list and 1 <= len(shape) <= 64, "bad-dtype", "shape")
        need(all(type(n) is int and 0 <= n < 2**31 for n in shape), "bad-dtype", "shape")
        return Dtype(spec, base.size * math.prod(shape), base, tuple(shape))
    fields, size = spec.get("fields"), spec.get("itemsize")
    need(type(fields) is list and type(size) is int and size >= 0, "bad-dtype", "structure")
    need(type(spec.get("aligned")) is type(spec.get("record")) is bool, "bad-dtype", "structure")
    names, parts = [], []
    for row in fields:
        need(type(row) is dict and {"name", "dtype", "offset"} <= row.keys(), "bad-dtype", row)
        names += [row["name"], row["title"]] if "title" in row else [row["name"]]
        need(type(row["offset"]) is int and row["offset"] >= 0, "bad-dtype", "offset")
        parts.append((row["offset"], parse(row["dtype"], depth + 1)))
    need(texts(names) and len(set(names)) == len(names), "bad-dtype", "names")
    end = 0
    for offset, part in sorted(parts, key=lambda item: (item[0], item[1].size)):
        need(end <= offset or not part.size, "bad-dtype", "overlap")
        end = max(end, offset + part.size)
    need(end <= size, "bad-dtype", "beyond itemsize")
    return Dtype(spec, size, parts)


def check_text(dtype: Dtype, data: bytes, at: int) -> None:
    """Refuse code points that Unicode does not have, wherever text stands in an element."""
    if dtype.base == "str":
        points = struct.unpack_from(f"<{dtype.size // 4}I", data, at)
        need(max(points, default=0) <= 0x10FFFF, "bad-value", "code point")
    elif type(dtype.base) is list:
        for offset, part in dtype.base:
            check_text(part, data, at + offset)
    elif type(dtype.base) is Dtype and dtype.base.size:
        for offset in range(0, dtype.size, dtype.base.size):
            check_text(dtype.base, data, at + offset)


def small_float(bits: int, exponent: int, significand: int, bias: int, special: Any) -> float:
    e, m = bits >> significand & (1 << exponent) - 1, bits & (1 << significand) - 1
    sign = -1.0 if bits >> (exponent + significand) & 1 else 1.0
    if special == "ieee" and e == (1 << exponent) - 1:
        return math.nan if m else sign * math.inf
    if special != "ieee" and bits in special:
        return math.nan
    if e == 0 and significand:
        return sign * math.ldexp(m, 1 - bias - significand)
    return sign * math.ldexp((1 << significand) + m, e - bias - significand)


def long_float(data: bytes, kind: str) -> float | Fraction:
    """Give the exact value; a float only for what no fraction is: -0.0, infinities, NaN."""
    if kind == "binary64":
        return struct.unpack("<d", data)[0]
    if kind == "double-double":
        high, low = struct.unpack("<dd", data)
        return Fraction(high) + Fraction(low) if math.isfinite(high) and high else high
    bits = int.from_bytes(data[:10] if kind == "x87-80" else data, "little")
    width = 64 if kind == "x87-80" else 112
    significand, e, negative = bits % (1 << width), bits >> width & 0x7FFF, bits >> width + 15
    if e == 0x7FFF:
        tail = significand % (1 << 63) if width == 64 else significand
        return math.nan if tail else -math.inf if negative else math.inf
    if width == 112 and e:
        significand += 1 << 112
    value = Fraction(significand) * Fraction(2) ** (max(e, 1) - 16383 - (63, 112)[width == 112])
    return (-value if value else -0.0) if negative else value


def elements(dtype: Dtype, data: bytes, count: int, keep_zeros: bool = False) -> list[Any]:
    """Decode `count` elements by hand."""
    name, size = dtype.base, dtype.size
    need(count <= len(data) + MEBIBYTE, "too-many", "values without bytes")  # section 8, safety
    if isinstance(name, str) and name in NUMBERS:
        values = list(struct.unpack(f"<{count}{NUMBERS[name]}", data))
        return [bool(value) for value in values] if name == "bool" else values
    if name in ("complex64", "complex128", "complex32"):
        flat = struct.unpack(f"<{2 * count}{PAIRS[name]}", data)
        return list(map(complex, flat[::2], flat[1::2]))
    if isinstance(name, str) and (name in FLOATS or name == "bcomplex32"):
        kind = FLOATS.get(name, FLOATS["bfloat16"])
        raw = data if size == 1 else struct.unpack(f"<{len(data) // 2}H", data)
        table = {bits: small_float(bits, *kind) for bits in set(raw)}
        flat = [table[bits] for bits in raw]
        return flat if name in FLOATS else list(map(complex, flat[::2], flat[1::2]))
    if isinstance(name, str) and name in BITS:
        top = 0 if name[0] == "u" else 1 << BITS[name] - 1
        return [(bits ^ top) - top for bits in data]
    if name == "time":
        return [None if n == -(2**63) else n for n in struct.unpack(f"<{count}q", data)]
    pieces = [data[at : at + size] for at in range(0, size * count, size or 1)] or [b""] * count
    if name == "void":
        return pieces
    if name == "bytes":
        return pieces if keep_zeros else [piece.rstrip(b"\0") for piece in pieces]
    if name == "str":
        found = ["".join(map(chr, struct.unpack(f"<{size // 4}I", piece))) for piece in pieces]
        return found if keep_zeros else [text.rstrip("\0") for text in found]
    if isinstance(name, str):
        kind = name.partition("[")[2][:-1]
        if name[0] == "l":
            return [long_float(piece, kind) for piece in pieces]
        half = size // 2
        return [(long_float(p[:half], kind), long_float(p[half:], kind)) for p in pieces]
    if dtype.shape is not None:
        shape, many = dtype.shape, math.prod(dtype.shape)
        return [nest(elements(dtype.base, piece, many), shape) for piece in pieces]
    return [
        tuple(elements(part, p[at : at + part.size], 1)[0] for at, part in dtype.base)
        for p in pieces
    ]


def nest(flat: list[Any], shape: tuple[int, ...]) -> Any:
    need(math.prod(n or 1 for n in shape) <= len(flat) + MEBIBYTE, "too-many", "lists")
    for axis in reversed(range(len(shape))):
        length, many = shape[axis], math.prod(shape[:axis])
        flat = [flat[i * length : (i + 1) * length] for i in range(many)]
    return flat[0]


# ---------------------------------------------------------------- what is given


class Type(NamedTuple):
    kind: str
    module: str
    name: str
    binding: str | None
    main: str | None
    fields: tuple[str, ...]
    package: str | None
    version: str | None
    extra: dict[str, Any]


@dataclass(eq=False)
class Leaf:
    """An array: `data` are its elements in C order, little-endian."""

    type: Type
    dtype: Dtype
    shape: tuple[int, ...]
    data: bytes

    @property
    def values(self) -> Any:
        """The elements as nested lists of Python values."""
        keep = (self.type.module, self.type.name) == ("numpy", "generic")
        return nest(elements(self.dtype, self.data, math.prod(self.shape), keep), self.shape)


@dataclass(eq=False)
class Record:
    """An instance: fields by name; of kind `pytree` the names are static, 0, 1, …"""

    type: Type
    fields: dict[str, Any]


class Member:
    """A member of an enumeration; equal by type and name."""

    def __init__(self, type_: Type, name: str, value: Any):
        self.type, self.name, self.value = type_, name, value
        self._key = (type_.module, type_.name, name, None if name else value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key[:3])


@dataclass(frozen=True)
class Symbol:
    name: str


@dataclass(frozen=True)
class Supplied:
    about: str


class Checkpoint(NamedTuple):
    tree: Any
    payload: dict[str, Any]
    metadata: dict[str, Any]


# ---------------------------------------------------------------- sections 4, 5: the tables


def manifest(data: bytes) -> dict[str, Any]:
    """Make the checks of section 4.2 and give the payload."""
    need(len(data) <= MEBIBYTE, "manifest-size")
    magic = b"\x94\xa9ckptstore\x92"
    need(data[:12] == magic[: len(data)], "bad-magic")
    need(len(data) >= 19, "truncated", "manifest")
    need(data[12] == 1 and data[13] <= 127, "newer-major", data[12])
    need(data[14] == 0xC6, "bad-msgpack", "payload")
    end = 19 + int.from_bytes(data[15:19], "big")
    need(end <= len(data), "truncated", "payload")
    digests = unpack(data[end:], 64, 2)
    found = digests.get("xxh3-128") if type(digests) is dict else None
    need(found == digest(data[:end]), "checksum", "manifest")
    payload = unpack(data[19:end], 131_072, 64)
    need(type(payload) is dict, "bad-field", "payload")
    required = get(get(payload, "features", dict), "required", list)
    need(texts(required), "bad-field", "features")
    need(not required, "unknown-feature", required)
    need(texts(get(payload["features"], "optional", list)), "bad-field", "features")
    need(re.fullmatch("[0-9a-f]{32}", get(payload, "attempt", str)), "bad-field", "attempt")
    get(payload, "step", int, type(None))
    need(get(payload, "time_ms", int) <= 253_402_300_799_999, "integer-range", "time_ms")
    get(payload, "index", bytes, type(None))
    for value in get(payload, "metrics", dict).values():
        need(type(value) in (int, float), "bad-field", "metrics")
        need(type(value) is float or abs(value) <= INT_MAX, "integer-range", "metrics")
    need(texts(list(get(payload, "writer", dict).values())), "bad-field", "writer")
    need(len(get(payload, "metadata", bytes)) <= 2**18, "too-many", "metadata")
    return payload


def metadata_of(packed: bytes) -> dict[str, Any]:
    metadata = unpack(packed, 262_144, 33)
    need(type(metadata) is dict, "bad-field", "metadata")
    todo = [metadata]
    while todo:
        value = todo.pop()
        if type(value) in (dict, list):
            todo += value.values() if type(value) is dict else value
        need(type(value) is not int or abs(value) <= INT_MAX, "integer-range", "metadata")
    return metadata


def files_of(payload: dict[str, Any]) -> list[tuple[str, str, int, bytes | None]]:
    table = get(payload, "files", dict)
    names, roles = get(table, "name", list), get(table, "role", list)
    need(len(names) <= 16_384, "too-many", "files")
    sizes, hashes = integers(table, "size", len(names)), get(table, "xxh3-128", list)
    need(len(roles) == len(hashes) == len(names), "bad-column", "files")
    if "age" in table:
        integers(table, "age", len(names))
    need(texts(names) and texts(roles), "bad-field", "files")
    for name, role, hash_ in zip(names, roles, hashes, strict=True):
        parts = NAME.fullmatch(name)
        need(parts and parts.group(1, 2) == (role, payload["attempt"]), "bad-file-name", name)
        is_hash = type(hash_) is bytes and len(hash_) == 16
        need(is_hash if role == "index" else hash_ is None, "bad-field", name)
    need(len({*names}) == len(names), "bad-file-name", "twice")
    return list(zip(names, roles, sizes, hashes, strict=True))


def types_of(table: dict[str, Any]) -> list[Type]:
    columns = [get(table, key, list) for key in Type._fields]
    need(len({*map(len, columns)}) == 1, "bad-column", "types")
    need(all(map(texts, columns[:3])), "bad-field", "types")
    rows = [Type(*row) for row in zip(*columns, strict=True)]
    for row in rows:
        need(row.kind in (*RECORDS, "enum", "array"), "bad-type", row)
        optional = (row.binding, row.main, row.package, row.version)
        need(all(type(text) in (str, type(None)) for text in optional), "bad-type", row)
        need(texts(row.fields) and len({*row.fields}) == len(row.fields), "bad-type", row)
        need(not row.fields or row.kind in RECORDS[:3], "bad-type", row)
        need(type(row.extra) is dict, "bad-type", row)
        if row.kind == "array":
            for key, kind in ARRAYS.get((row.module, row.name), {}).items():
                need(type(row.extra.get(key, kind())) is kind, "bad-type", row)
            if row.name == "DTensor" and row.module == "torch.distributed.tensor":
                _check_layout(row.extra.get("mesh"), row.extra.get("placements"))
    return rows


def _check_layout(mesh: Any, placements: Any) -> None:
    """Section 11.1: the mesh of a DTensor, and what each of its axes does."""
    need(type(mesh) is list and type(placements) is list, "bad-type", "mesh or placements")
    need(len(mesh) == len(placements), "bad-type", "placements")
    for axis, work in zip(mesh, placements, strict=True):
        need(type(axis) is list and len(axis) == 2, "bad-type", "mesh")
        need(axis[0] is None or type(axis[0]) is str, "bad-type", "mesh")
        need(type(axis[1]) is int and axis[1] > 0, "bad-type", "mesh")
        pair = work if type(work) is list else [0 if work is None else work, 1]
        need(len(pair) == 2 and all(type(n) is int for n in pair), "bad-type", "placements")
        need(pair[0] >= 0 and pair[1] > 0, "bad-type", "placements")
    names = [name for name, _ in mesh if name is not None]
    need(len(names) == len({*names}), "bad-type", "mesh")


class Index:
    """The joined tables, after the checks of section 5.6."""

    def __init__(self, parts: list[bytes], files: list[tuple[str, str, int, bytes | None]]):
        tables: dict[str, Any] = {}
        self.spans: list[tuple[int, ...]] = []  # leaf, cell, file, offset, size, digest
        need(parts, "missing-field", "index")
        for packed in parts:
            part = unpack(packed, 131_072, 64)
            need(type(part) is dict, "bad-field", "index part")
            for key in ("types", "dtypes", "nodes", "leaves"):
                need(key not in part or key not in tables, "duplicate-table", key)
                tables |= {key: part[key]} if key in part else {}
            spans = get(part, "spans", dict)
            count = get(spans, "count", int)
            names = ("leaf", "cell", "file", "offset", "size")
            columns = [integers(spans, key, count) for key in names]
            hashes = get(spans, "xxh3-128", bytes)
            need(len(hashes) == count * 16, "bad-column", "digests of spans")
            split = [hashes[at : at + 16] for at in range(0, len(hashes), 16)]
            self.spans += zip(*columns, split, strict=True)
        self.types = types_of(get(tables, "types", dict))
        specs = get(tables, "dtypes", list)
        nodes = get(tables, "nodes", dict)
        count = get(nodes, "count", int)
        names = ("kind", "arity", "type", "arg", "size")
        self.nodes = list(zip(*(integers(nodes, key, count) for key in names), strict=True))
        self.heap = get(nodes, "heap", bytes)
        leaves = get(tables, "leaves", dict)
        count = get(leaves, "count", int)
        rows = [integers(leaves, key, count) for key in ("type", "dtype", "ndim")]
        need(max(rows[2], default=0) <= 64, "bad-shape")
        axes = [0, *accumulate(rows[2])]
        dims, grid, cuts = integers(leaves, "dims", axes[-1]), (1,) * axes[-1], ()
        if "grid" in leaves:
            grid = integers(leaves, "grid", axes[-1])
            cuts = integers(leaves, "cuts", get(leaves, "cut_count", int))
        self._check_tree()
        self._check_nodes(len(specs), rows, count)
        need(all(0 < t <= len(self.types) for t in rows[0]), "bad-leaf", "type")
        need(all(self.types[t - 1].kind == "array" for t in rows[0]), "bad-leaf", "type")
        need(all(d < len(specs) for d in rows[1]), "bad-leaf", "dtype")
        for kind, (_, _, _, arg, _) in zip(self.kinds, self.nodes, strict=True):
            if kind == "LEAF" or (kind in LONG and arg):  # only long scalars are `ckptstore.scalar`
                type_, dtype, axes_ = (column[arg - (kind != "LEAF")] for column in rows)
                is_scalar = self.types[type_ - 1][1:3] == ("ckptstore", "scalar")
                fits = kind == "LEAF" or (specs[dtype] == "uint8" and axes_ == 1)
                need(is_scalar == (kind != "LEAF") and fits, "bad-leaf", "long scalar")
        self.dtypes = [parse(spec) for spec in specs]
        need(all(self.dtypes[d].shape is None for d in rows[1]), "bad-leaf", "sub-array")
        shapes = [dims[start:end] for start, end in pairwise(axes)]
        for dtype, shape in zip(rows[1], shapes, strict=True):
            sizes = [n or 1 for n in (self.dtypes[dtype].size, *shape)]
            need(math.prod(sizes) < 2**53, "shape-overflow", shape)
        need(all(0 < n <= len(cuts) + 1 for n in grid), "bad-grid", "grid")
        need(sum(grid) - len(grid) == len(cuts), "bad-grid", "cuts")
        self.leaves, used = [], 0  # type, dtype, shape, pieces of each axis, how many cells
        for leaf, shape in enumerate(shapes):
            pieces = []
            for n, length in zip(grid[axes[leaf] : axes[leaf + 1]], shape, strict=True):
                points = (0, *cuts[used : used + n - 1], length)
                used += n - 1
                pieces.append(list(pairwise(points)))
                need(n == 1 or all(a < b for a, b in pieces[-1]), "bad-grid", "cut points")
            cells, size = math.prod(map(len, pieces)), self.dtypes[rows[1][leaf]].size
            empty = math.prod(shape) * size == 0
            need(cells == 1 or (cells <= len(self.spans) and not empty), "bad-grid", "cells")
            type_ = self.types[rows[0][leaf] - 1]
            self.leaves.append((type_, self.dtypes[rows[1][leaf]], shape, pieces, cells))
        self._check_spans(files)

    def _check_tree(self) -> None:
        """Find where each subtree ends."""
        self.ends, open_ = [0] * len(self.nodes), []
        for i, (_, arity, *_) in enumerate(self.nodes):
            need(open_ or i == 0, "bad-tree")
            if arity:
                open_.append([i, arity])
                need(len(open_) <= 10_000, "too-deep")
                continue
            self.ends[i] = i + 1
            while open_:
                open_[-1][1] -= 1
                if open_[-1][1]:
                    break
                self.ends[open_.pop()[0]] = i + 1
        need(self.nodes and not open_, "bad-tree")

    def _check_nodes(self, dtypes: int, leaves: list[tuple[int, ...]], count: int) -> None:
        need(all(node[0] in KINDS for node in self.nodes), "bad-node", "kind")
        kinds = [KINDS[node[0]] for node in self.nodes]
        fixed = {"SLICE": 3, "RANGE": 3, "ENUM": 1}
        for kind, (_, arity, *_) in zip(kinds, self.nodes, strict=True):
            need(kind in ANY_ARITY or arity == fixed.get(kind, 0), "bad-node", "arity")
            need(kind not in DICTS or arity % 2 == 0, "bad-node", "arity")
        need(sum(node[4] for node in self.nodes) == len(self.heap), "bad-node", "heap")
        need(all(node[2] <= len(self.types) for node in self.nodes), "bad-node", "type")
        for kind, (_, arity, type_, *_) in zip(kinds, self.nodes, strict=True):
            if kind in ("ENUM", "RECORD"):
                kinds_ = RECORDS if kind == "RECORD" else ("enum",)
                need(type_ and self.types[type_ - 1].kind in kinds_, "bad-node", "type")
            if kind == "RECORD":
                row = self.types[type_ - 1]
                fits = arity > 0 if row.kind == "pytree" else arity == len(row.fields)
                need(fits, "bad-node", "fields")
        self._check_keys(kinds)
        held: Counter[int] = Counter()
        for kind, (_, _, type_, arg, size) in zip(kinds, self.nodes, strict=True):
            need(kind != "DTYPE" or arg < dtypes, "bad-node", "dtype")
            need(kind in HEAP or not size, "bad-node", "heap")
            need(kind in LONG | {"BOOL", "DTYPE", "LEAF", "SAME"} or not arg, "bad-node", "arg")
            need(kind in ("ENUM", "RECORD") or not type_, "bad-node", "type")
            if kind == "LEAF" or (kind in LONG and arg):
                held[arg - (kind != "LEAF")] += 1
                need(kind == "LEAF" or not size, "bad-node", "heap")
        need(len(held) == count and all(n == 1 for n in held.values()), "bad-reference", "leaf")
        need(max(held, default=-1) < count, "bad-reference", "leaf")
        for i, (kind, (*_, arg, _)) in enumerate(zip(kinds, self.nodes, strict=True)):
            fits = kind != "SAME" or (arg < i and self.ends[arg] <= i and kinds[arg] != "SAME")
            need(fits, "bad-reference", "SAME")
        self.kinds = kinds

    def _check_keys(self, kinds: list[str]) -> None:
        """No node of a key is of a kind that may run code, or lies deep in it."""
        below: dict[int, int] = {}
        for i, kind in enumerate(kinds):
            child = i + 1
            for number in range(self.nodes[i][1]):
                hashed = number % 2 == 0 if kind in DICTS else kind in ("SET", "FROZENSET", "ENUM")
                if i in below or hashed:
                    below[child] = below.get(i, -1) + 1
                child = self.ends[child]
        need(max(below.values(), default=0) <= 32, "too-deep", "key")
        need(all(kinds[i] in KEYS for i in below), "bad-key", "kind")

    def _check_spans(self, files: list[tuple[str, str, int, bytes | None]]) -> None:
        for leaf, cell, *_ in self.spans:
            need(leaf < len(self.leaves) and cell < self.leaves[leaf][4], "bad-span", "cell")
        sums: Counter[tuple[int, int]] = Counter()
        for leaf, cell, _, _, size, _ in self.spans:
            need(0 < size <= 2**26, "bad-span", "size")
            sums[leaf, cell] += size
        need(sum(leaf[4] for leaf in self.leaves if leaf[4] > 1) <= len(sums), "span-sum")
        for i, (_, dtype, _, pieces, _) in enumerate(self.leaves):
            for cell, box in enumerate(product(*pieces)):
                size = dtype.size * math.prod(b - a for a, b in box)
                need(sums[i, cell] == size, "span-sum", (i, cell))
        for _, _, file, *_ in self.spans:
            need(file < len(files) and files[file][1] == "data", "bad-span", "file")
        for _, _, file, offset, size, _ in self.spans:
            need(offset + size <= files[file][2], "span-range")
        alignments = [4096 if size >= MEBIBYTE else 64 for *_, size, _ in self.spans]
        for span, alignment in zip(self.spans, alignments, strict=True):
            need(span[3] % alignment == 0, "span-alignment")
        order = sorted(range(len(self.spans)), key=lambda i: self.spans[i][2:4])
        self.paddings, gaps = [], []
        ends = [0] * len(files)
        for i in order:
            _, _, file, offset, size, _ = self.spans[i]
            need(offset >= ends[file], "span-overlap")
            gaps.append(offset - ends[file] < alignments[i])
            self.paddings.append((file, ends[file], offset))
            ends[file] = offset + size
        need(all(gaps), "span-gap")
        for end, (_, role, size, _) in zip(ends, files, strict=True):
            need(role != "data" or end == size, "span-gap", "end of file")


# ---------------------------------------------------------------- section 8: reading


def read(directory: str | Path) -> Checkpoint:
    """Read and check the whole of a checkpoint."""
    directory = Path(directory)
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    if "MANIFEST" not in names:
        raise SpecError("unfinished" if any(map(NAME.fullmatch, names)) else "no-manifest")
    with (directory / "MANIFEST").open("rb") as file:
        payload = manifest(file.read(MEBIBYTE + 1))
    files, metadata = files_of(payload), metadata_of(payload["metadata"])
    for name, _, size, _ in files:
        need((directory / name).is_file(), "missing-file", name)
        need((directory / name).stat().st_size == size, "file-size", name)
    parts = [payload["index"]] if payload["index"] is not None else []
    for name, role, size, hash_ in files:
        if role == "index":
            need(size <= 2**31, "too-many", name)
            parts.append((directory / name).read_bytes())
            need(digest(parts[-1]) == hash_, "checksum", name)
    index = Index(parts, files)
    cells: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    opened = [(directory / name).open("rb") for name, *_ in files]
    try:
        for leaf, cell, file, offset, size, hash_ in index.spans:
            opened[file].seek(offset)
            data = opened[file].read(size)
            need(len(data) == size, "file-size", files[file][0])
            need(digest(data) == hash_, "checksum", (leaf, cell))
            cells[leaf, cell].append(data)
        for file, start, end in index.paddings:
            opened[file].seek(start)
            need(not any(opened[file].read(end - start)), "padding", files[file][0])
    finally:
        for file in opened:
            file.close()
    leaves = [_leaf(i, *row, cells) for i, row in enumerate(index.leaves)]
    return Checkpoint(_build(index, leaves), payload, metadata)


def _leaf(i: int, type_: Type, dtype: Dtype, shape: Any, pieces: Any, many: int, cells: Any):
    """Put the cells of a leaf in their places and check its values."""
    if many == 1:
        data = b"".join(cells[i, 0])
    else:
        out, strides = bytearray(dtype.size * math.prod(shape)), [dtype.size]
        for length in reversed(shape[1:]):
            strides.insert(0, strides[0] * length)
        for cell, box in enumerate(product(*pieces)):
            packed, (first, last) = b"".join(cells.pop((i, cell))), box[-1]
            run, at = (last - first) * dtype.size, 0
            for place in product(*(range(a, b) for a, b in box[:-1])):
                to = first * dtype.size + sum(map(int.__mul__, place, strides))
                out[to : to + run] = packed[at : at + run]
                at += run
        data = bytes(out)
    name = (type_.module, type_.name)
    need(name in ARRAYS, "bad-type", name)
    need(name != ("numpy", "generic") or not shape, "bad-leaf", "a scalar with axes")
    if type(dtype.base) is str and dtype.base in BITS:
        need(not data.translate(None, bytes(range(1 << BITS[dtype.base]))), "bad-value")
    if dtype.size:
        for at in range(0, len(data), dtype.size):
            check_text(dtype, data, at)
    return Leaf(type_, dtype, tuple(shape), data)


def _build(index: Index, leaves: list[Leaf]) -> Any:
    """Build the nodes from the first to the last; a container is made when its subtree ends."""
    made: list[Any] = [None] * len(index.nodes)
    open_: list[tuple[int, bytes, list[int]]] = []
    at = 0
    for i, (*_, arg, size) in enumerate(index.nodes):
        heap, at = index.heap[at : at + size], at + size
        kind = index.kinds[i]
        if kind in LONG and arg:
            heap = leaves[arg - 1].data
        if open_:
            open_[-1][2].append(i)
        open_.append((i, heap, []))
        while open_ and len(open_[-1][2]) == index.nodes[open_[-1][0]][1]:
            node, heap, children = open_.pop()
            made[node] = _make(index, node, heap, children, made, leaves)
    return made[0]


def _make(index: Index, i: int, heap: bytes, ids: list[int], made: list[Any], leaves: Any) -> Any:
    kind, (_, _, type_, arg, _) = index.kinds[i], index.nodes[i]
    children = [made[child] for child in ids]
    if kind == "NONE" or kind == "ELLIPSIS":
        return None if kind == "NONE" else ...
    if kind == "BOOL":
        need(arg < 2, "bad-node", "bool")
        return arg == 1
    if kind == "INT":
        return int.from_bytes(heap, "little", signed=True)
    if kind in ("FLOAT", "COMPLEX"):
        need(len(heap) == (8 if kind == "FLOAT" else 16), "bad-node", kind)
        numbers = struct.unpack(f"<{len(heap) // 8}d", heap)
        return numbers[0] if kind == "FLOAT" else complex(*numbers)
    if kind in ("BYTES", "BYTEARRAY"):
        return heap if kind == "BYTES" else bytearray(heap)
    if kind in ("STR", "SURROGATE_STR", "ENUM", "SYMBOL", "SUPPLIED", "DEFAULT_DICT"):
        try:
            text = heap.decode("utf-8", "surrogatepass" if kind == "SURROGATE_STR" else "strict")
        except UnicodeDecodeError as error:
            raise SpecError("bad-scalar", kind) from error
        if kind == "ENUM":
            return Member(index.types[type_ - 1], text, children[0])
        if kind != "DEFAULT_DICT":
            return {"SYMBOL": Symbol, "SUPPLIED": Supplied}.get(kind, str)(text)
        need(text in FACTORIES_BY_NAME, "bad-scalar", "factory")
    if kind == "DTYPE":
        return index.dtypes[arg]
    if kind == "LEAF":
        return leaves[arg]
    if kind == "SAME":
        return made[arg]
    if kind == "SLICE":
        return slice(*children)
    if kind == "RANGE":
        need(all(index.kinds[child] == "INT" for child in ids), "bad-node", "range")
        need(children[2], "bad-scalar", "step 0")
        return range(*children)
    if kind == "RECORD":
        row = index.types[type_ - 1]
        names = row.fields if row.kind != "pytree" else ["static", *map(str, range(len(ids) - 1))]
        return Record(row, dict(zip(names, children, strict=True)))
    if kind in ("LIST", "TUPLE"):
        return children if kind == "LIST" else tuple(children)
    keys = ids[::2] if kind in DICTS else ids
    try:
        found = dict.fromkeys(made[key] for key in keys)
    except (TypeError, RecursionError) as error:
        raise SpecError("bad-key", str(error)) from error
    need(len(found) == len(keys), "duplicate-key", kind)
    if kind not in DICTS:
        return set(found) if kind == "SET" else frozenset(found)
    pairs = zip(children[::2], children[1::2], strict=True)
    return (
        defaultdict(FACTORIES_BY_NAME[text], pairs)
        if kind == "DEFAULT_DICT"
        else DICTS[kind](pairs)
    )

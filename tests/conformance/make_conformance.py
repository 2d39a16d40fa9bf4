"""Writes the files of `tests/conformance/`: run it by hand when the format changes.

    python tests/conformance/make_conformance.py

Each case is a tree in the words of docs/spec.md (nodes, leaves, rows), bent in one place. Nothing
here is made by `save`. The bytes depend on nothing but this file.
"""

from __future__ import annotations

import json
import math
import pathlib
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import xxhash

from ckptstore.format import Kind

ROOT = pathlib.Path(__file__).parent
ATTEMPT = "0123456789abcdef" * 2
OTHER = "f" * 32
DATA = f"data-{ATTEMPT}-0-0.bin"
INDEX = f"index-{ATTEMPT}-0-0.bin"
HEAD = b"\x94\xa9ckptstore\x92\x01\x00"
HEAD_1_1 = b"\x94\xa9ckptstore\x92\x01\x01"
NDARRAY = ("array", "numpy", "ndarray")
SCALAR = ("array", "ckptstore", "scalar")
JAX = ("array", "jax", "Array")
MESH = {"mesh": [["a", 1, "auto"]], "devices": [0], "spec": ["a"]}
DTENSOR = ("array", "torch.distributed.tensor", "DTensor")
PLACED = {"mesh": [["dp", 2], [None, 2]], "placements": [[0, 2], 0]}
BOUNDS = (0, 1), (1, 3), (3, 4)
ALL, LOAD, BYTES = ("load", "inspect", "verify"), ("load",), ("load", "verify")

Files = dict[str, bytes]


# --- Encoding, as the spec says it -------------------------------------------------------------


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


def column(values: Sequence[int]) -> bytes:
    top = max(values, default=0)
    width = next(w for w in (1, 2, 4, 8) if top < 256**w)
    return b"".join(value.to_bytes(width, "little") for value in values)


def seal(payload: bytes, head: bytes = HEAD) -> bytes:
    """Put magic, version and checksum around a payload."""
    body = head + b"\xc6" + len(payload).to_bytes(4, "big") + payload
    return body + pack({"xxh3-128": digest(body)})


@dataclass
class N:
    """A node with its children."""

    kind: int
    children: Sequence[N] = ()
    type: int = 0
    arg: int = 0
    data: bytes = b""


def flat(root: N) -> Iterator[N]:
    todo = [root]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(reversed(node.children))


@dataclass
class L:
    """A leaf: rows of its type (from 1) and dtype, shape, bytes, and how it is cut."""

    type: int = 1
    dtype: int = 0
    shape: Sequence[int] = (3,)
    data: bytes = bytes(12)
    cuts: Sequence[Sequence[int]] = ()
    cells: Sequence[bytes] = ()


def type_row(kind: str, module: str, name: str, fields: Sequence[str] = (), **more: Any) -> Any:
    blank = {"binding": None, "main": None, "package": None, "version": None, "extra": {}}
    row = {"kind": kind, "module": module, "name": name, "fields": list(fields)}
    return {**row, **blank, **more}


@dataclass
class Draft:
    """A checkpoint whose every table can be bent before it is encoded."""

    root: N | Sequence[N]
    leaves: Sequence[L] = ()
    types: Sequence[Any] = (NDARRAY,)
    dtypes: list[Any] = field(default_factory=lambda: ["float32"])
    payload: dict[str, Any] = field(default_factory=dict)
    bend: Callable[[dict[str, Any]], Any] = lambda tables: None
    outside: bool = False
    head: bytes = HEAD

    def __post_init__(self) -> None:
        self.nodes = list(flat(self.root)) if isinstance(self.root, N) else list(self.root)
        rows = [t if isinstance(t, dict) else type_row(*t) for t in self.types]
        names = type_row("", "", "")
        self.type_table = {name: [row[name] for row in rows] for name in names}
        self.data, self.spans = self._place()
        self.data_name = DATA
        self.has_data = bool(self.spans)

    def _place(self) -> tuple[bytes, list[list[Any]]]:
        data, spans = bytearray(), []
        for number, leaf in enumerate(self.leaves):
            for cell, piece in enumerate(leaf.cells or [leaf.data]):
                if piece:
                    data += bytes(-len(data) % 64)
                    spans.append([number, cell, 0, len(data), len(piece), digest(piece)])
                    data += piece
        return bytes(data), spans

    def span_table(self, spans: Sequence[Sequence[Any]]) -> dict[str, Any]:
        names = ("leaf", "cell", "file", "offset", "size")
        return {
            "count": len(spans),
            **{name: column([span[i] for span in spans]) for i, name in enumerate(names)},
            "xxh3-128": b"".join(span[5] for span in spans),
        }

    def tables(self) -> dict[str, Any]:
        nodes, leaves = self.nodes, self.leaves
        leaf_table = {
            "count": len(leaves),
            "type": column([leaf.type for leaf in leaves]),
            "dtype": column([leaf.dtype for leaf in leaves]),
            "ndim": column([len(leaf.shape) for leaf in leaves]),
            "dims": column([n for leaf in leaves for n in leaf.shape]),
        }
        if any(leaf.cuts for leaf in leaves):
            cuts = [c for leaf in leaves for c in leaf.cuts or [()] * len(leaf.shape)]
            leaf_table["grid"] = column([len(axis) + 1 for axis in cuts])
            leaf_table["cuts"] = column([point for axis in cuts for point in axis])
            leaf_table["cut_count"] = sum(map(len, cuts))
        return {
            "types": self.type_table,
            "dtypes": self.dtypes,
            "nodes": {
                "count": len(nodes),
                "kind": column([node.kind for node in nodes]),
                "arity": column([len(node.children) for node in nodes]),
                "type": column([node.type for node in nodes]),
                "arg": column([node.arg for node in nodes]),
                "size": column([len(node.data) for node in nodes]),
                "heap": b"".join(node.data for node in nodes),
            },
            "leaves": leaf_table,
            "spans": self.span_table(self.spans),
        }

    def files(self) -> Files:
        tables = self.tables()
        self.bend(tables)
        index = pack(tables)
        rows: list[list[Any]] = [[DATA, len(self.data), "data", None]] if self.has_data else []
        out = {DATA: self.data} if self.has_data else {}
        if self.outside:
            rows.append([INDEX, len(index), "index", digest(index)])
            out[INDEX] = index
        payload = {
            "attempt": ATTEMPT,
            "features": {"required": [], "optional": []},
            "time_ms": 1_700_000_000_000,
            "step": 7,
            "metrics": {},
            "writer": {"python": "3.12.0"},
            "metadata": pack({}),
            "files": file_table(rows),
            "index": None if self.outside else index,
            **self.payload,
        }
        payload = {name: value for name, value in payload.items() if value != "ABSENT"}
        return {"MANIFEST": seal(pack(payload), self.head), **out}


def file_table(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {
        "name": [row[0] for row in rows],
        "size": column([row[1] for row in rows]),
        "role": [row[2] for row in rows],
        "xxh3-128": [row[3] for row in rows],
    }


# --- Nodes in short ----------------------------------------------------------------------------


def none() -> N:
    return N(Kind.NONE)


def integer(x: int) -> N:
    return N(Kind.INT, data=x.to_bytes((x.bit_length() + 8) // 8, "little", signed=True))


def real(x: float) -> N:
    return N(Kind.FLOAT, data=struct.pack("<d", x))


def text(x: str) -> N:
    return N(Kind.STR, data=x.encode())


def true() -> N:
    return N(Kind.BOOL, arg=1)


def items(*children: N) -> N:
    return N(Kind.LIST, children)


def entries(*children: N) -> N:
    return N(Kind.DICT, children)


def leaf(number: int = 0) -> N:
    return N(Kind.LEAF, arg=number)


def same(node: int) -> N:
    return N(Kind.SAME, arg=node)


def symbol(name: str) -> N:
    return N(Kind.SYMBOL, data=name.encode())


def record(*children: N, type: int = 1) -> N:
    return N(Kind.RECORD, children, type=type)


def nested(kind: int, depth: int, inner: N) -> N:
    for _ in range(depth):
        inner = N(kind, [inner])
    return inner


FLOATS = struct.pack("<3f", 0.0, 1.0, 2.0)


def sample(**options: Any) -> Draft:
    """The example of the spec: {'w': float32 [0, 1, 2], 'lr': 0.5}."""
    root = entries(text("w"), leaf(), text("lr"), real(0.5))
    return Draft(root, [L(data=FLOATS)], **options)


def two() -> Draft:
    """Two leaves side by side, with padding between them."""
    return Draft(items(leaf(0), leaf(1)), [L(data=FLOATS), L(data=FLOATS)])


def bare(root: N | Sequence[N], *types: Any, **options: Any) -> Draft:
    """A tree without arrays."""
    return Draft(root, types=types, dtypes=options.pop("dtypes", []), **options)


# --- The cases ---------------------------------------------------------------------------------


@dataclass
class Case:
    """A directory of `tests/conformance/`, and what is expected of it."""

    files: Files
    expect: dict[str, Any]


INVALID: dict[str, Case] = {}
VALID: dict[str, Case] = {}
LARGE: dict[str, Callable[[], Case]] = {}
"""Too large to keep: the tests make them."""


def _case(
    files: Files | Draft, reason: str, about: str, by: Sequence[str], error: str, **more: Any
) -> Case:
    files = files.files() if isinstance(files, Draft) else files
    return Case(
        files, {"about": about, "error": error, "reason": reason, "raised_by": list(by), **more}
    )


def bad(
    name: str,
    reason: str,
    files: Files | Draft,
    about: str,
    by: Sequence[str] = ALL,
    error: str = "CorruptError",
    **more: Any,
) -> None:
    assert name not in INVALID, name
    INVALID[name] = _case(files, reason, about, by, error, **more)


def large(
    name: str, reason: str, make: Callable[[], Files | Draft], about: str, by: Sequence[str] = ALL
) -> None:
    LARGE[name] = lambda: _case(make(), reason, about, by, "CorruptError")


def good(name: str, files: Files | Draft, about: str, value: Any, **more: Any) -> None:
    assert name not in VALID, name
    files = files.files() if isinstance(files, Draft) else files
    VALID[name] = Case(files, {"about": about, "value": value, **more})


def setting(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """Return a bend that sets one entry of the tables; "ABSENT" takes it away."""

    def bend(tables: dict[str, Any]) -> None:
        at = tables
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = to
        if to == "ABSENT":
            del at[path[-1]]

    return bend


def manifests() -> None:
    files = sample().files()
    whole, data = files["MANIFEST"], files[DATA]

    def changed(manifest: bytes) -> Files:
        return {"MANIFEST": manifest, DATA: data}

    gone = {"by": ALL, "error": "NotCommittedError"}
    bad("nothing-there", "no-manifest", {}, "a directory of other files", **gone)  # type: ignore[arg-type]
    bad("half-written", "unfinished", {DATA: data}, "a data file and no manifest", **gone)  # type: ignore[arg-type]
    png = b"\x89PNG\r\n\x1a\n" + bytes(100)
    bad("another-file", "bad-magic", {"MANIFEST": png}, "MANIFEST is a picture")
    pickled = b"\x80\x04cposix\nsystem\n(S'true'\ntR."
    bad("a-pickle", "bad-magic", {"MANIFEST": pickled}, "MANIFEST is a pickle that calls os.system")
    for at in (0, 5, 12, 14, 16, 18, 19, 100, len(whole) - 1):
        bad(
            f"manifest-truncated-at-{at}",
            "truncated",
            changed(whole[:at]),
            f"the first {at} bytes of {len(whole)}",
        )
    for at in (20, 300, len(whole) - 30):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        bad(f"manifest-changed-at-{at}", "checksum", changed(bytes(flipped)), "one bit is flipped")
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    bad("manifest-checksum-changed", "checksum", changed(bytes(flipped)), "in the checksum itself")
    body = whole[:-28]
    wrong = body + pack({"crc32": bytes(4)})
    bad("manifest-without-checksum", "checksum", changed(wrong), "no digest of the known algorithm")
    bad("manifest-digests-no-map", "checksum", changed(body + pack([])), "an array of digests")
    bad("manifest-trailing-byte", "trailing-bytes", changed(whole + b"\0"), "a byte after the end")
    late = whole.replace(b"\x92\x01\x00\xc6", b"\x92\x01\x00\xc5", 1)
    bad("payload-not-bin-32", "bad-msgpack", changed(late), "a shorter form of its length")
    unsupported = {"by": ALL, "error": "UnsupportedError"}
    head = b"\x94\xa9ckptstore\x92\x02\x00"
    bad("newer-major", "newer-major", changed(head + b"unknown"), "version 2.0", **unsupported)  # type: ignore[arg-type]
    bad(
        "minor-over-127",
        "newer-major",
        changed(whole.replace(b"\x92\x01\x00", b"\x92\x01\xcc", 1)),
        "a version that is not one byte",
        **unsupported,  # type: ignore[arg-type]
    )
    features = {"required": ["zstd"], "optional": []}
    bad(
        "unknown-feature",
        "unknown-feature",
        {"MANIFEST": seal(pack({"features": features}))},
        "a required feature, and else nothing that this version knows",
        **unsupported,  # type: ignore[arg-type]
    )
    large(
        "manifest-over-1-mib",
        "manifest-size",
        lambda: {"MANIFEST": whole + bytes(1 << 20)},
        "a manifest of over 1 MiB",
    )


def raw_msgpack() -> None:
    """What no msgpack library should be asked to decode."""

    def payload(data: bytes) -> Files:
        return {"MANIFEST": seal(data)}

    cases = {
        "payload-empty": ("truncated", b"", "no value at all"),
        "array-of-2-to-32": ("truncated", b"\xdd\xff\xff\xff\xff", "2^32 - 1 items, no bytes"),
        "map-of-2-to-32": ("truncated", b"\xdf\xff\xff\xff\xff", "2^32 - 1 entries, no bytes"),
        "str-of-2-to-32": ("truncated", b"\xdb\xff\xff\xff\xff", "2^32 - 1 bytes of text"),
        "bin-of-2-to-32": ("truncated", b"\xc6\xff\xff\xff\xff", "2^32 - 1 bytes"),
        "length-cut-off": ("truncated", b"\xdd\xff", "a length of which two bytes are missing"),
        "map-key-only": ("truncated", b"\x81\xa1a", "a key and no value"),
        "thousand-headers-of-2-to-20": (
            "truncated",
            b"\xdd\x00\x10\x00\x00" * 1000,
            "a thousand nested arrays that each claim 2^20 items",
        ),
        "thousand-headers-that-fit": (
            "too-deep",
            b"\xdc\x07\xd0" * 1000 + b"\xc0" * 2000,
            "a thousand nested arrays that each claim 2,000 items, of which 2,000 are there",
        ),
        "ext-type": ("bad-msgpack", b"\x81\xa1a\xd4\x01\x00", "an extension type"),
        "timestamp": ("bad-msgpack", b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "a timestamp"),
        "ext-of-2-to-32": ("bad-msgpack", b"\xc9\xff\xff\xff\xff\x01", "an extension of 2^32 - 1"),
        "type-c1": ("bad-msgpack", b"\x81\xa1a\xc1", "the byte that msgpack never uses"),
        "text-not-utf-8": ("bad-msgpack", b"\x81\xa1a\xa2\xff\xfe", "a str that is not UTF-8"),
        "text-surrogate": ("bad-msgpack", b"\x81\xa1a\xa3\xed\xa0\x80", "a coded surrogate"),
        "key-not-utf-8": ("bad-msgpack", b"\x81\xa1\xff\xc0", "a key that is not UTF-8"),
        "map-key-int": ("bad-key", b"\x81\x01\xc0", "a key that is an int"),
        "map-key-list": ("bad-key", b"\x81\x90\xc0", "a key that is an array"),
        "map-key-map": ("bad-key", b"\x81\x80\xc0", "a key that is a map"),
        "map-key-bytes": ("bad-key", b"\x81\xc4\x01a\xc0", "a key that is bin"),
        "map-key-nil": ("bad-key", b"\x81\xc0\xc0", "a key that is nil"),
        "map-key-nan": ("bad-key", b"\x81\xcb\x7f\xf8" + bytes(6) + b"\xc0", "a key that is NaN"),
        "map-key-twice": ("duplicate-key", b"\x82\xa1a\xc0\xa1a\xc0", "a key twice"),
        "map-key-twice-two-forms": (
            "duplicate-key",
            b"\x82\xa1a\xc0\xd9\x01a\xc0",
            "a key twice, in two forms",
        ),
        "payload-trailing": ("trailing-bytes", b"\x80\xc0", "a second value"),
        "payload-no-map": ("bad-field", b"\x90", "the payload is an array"),
        "payload-empty-map": ("missing-field", b"\x80", "the payload has no field"),
        "payload-65-levels": (
            "too-deep",
            b"\x81\xa1a" + b"\x91" * 64 + b"\xc0",
            "one level more than may be",
        ),
    }
    for name, (reason, data, about) in cases.items():
        bad(f"msgpack-{name}", reason, payload(data), about)
    large(
        "msgpack-100000-deep",
        "too-deep",
        lambda: payload(b"\x91" * 100_000 + b"\xc0"),
        "arrays 100,000 deep",
    )
    large(
        "msgpack-100000-maps-deep",
        "too-deep",
        lambda: payload(b"\x81\xa1a" * 100_000 + b"\xc0"),
        "maps 100,000 deep",
    )
    large(
        "msgpack-131073-values",
        "too-many",
        lambda: payload(b"\xdd" + (140_000).to_bytes(4, "big") + b"\xc0" * 140_000),
        "140,000 values",
    )


def payloads() -> None:
    cases: dict[str, tuple[str, dict[str, Any], str]] = {
        "without-attempt": ("missing-field", {"attempt": "ABSENT"}, "no attempt"),
        "without-files": ("missing-field", {"files": "ABSENT"}, "no table of files"),
        "without-index": ("missing-field", {"index": "ABSENT"}, "no index, not even nil"),
        "without-features": ("missing-field", {"features": "ABSENT"}, "no features"),
        "features-no-list": ("bad-field", {"features": {"required": "zstd", "optional": []}}, ""),
        "features-of-ints": ("bad-field", {"features": {"required": [1], "optional": []}}, ""),
        "attempt-upper-case": ("bad-field", {"attempt": ATTEMPT.upper()}, "digits are lower case"),
        "attempt-short": ("bad-field", {"attempt": "0123"}, "32 digits"),
        "attempt-newline": ("bad-field", {"attempt": ATTEMPT + "\n"}, "32 digits and nothing else"),
        "step-negative": ("integer-range", {"step": -1}, "steps count from 0"),
        "step-of-2-to-53": ("integer-range", {"step": 2**53}, "over 2^53 - 1"),
        "step-of-2-to-64": ("integer-range", {"step": 2**64 - 1}, "over 2^53 - 1"),
        "step-true": ("bad-field", {"step": True}, "a bool is not an int"),
        "step-float": ("bad-field", {"step": 7.0}, "a float is not an int"),
        "time-absurd": ("integer-range", {"time_ms": 2**53 - 1}, "the year 287396"),
        "time-past-9999": ("integer-range", {"time_ms": 253_402_300_800_000}, "the year 10000"),
        "time-negative": ("integer-range", {"time_ms": -1}, "before 1970"),
        "metric-text": ("bad-field", {"metrics": {"loss": "0.5"}}, "a metric that is text"),
        "metric-true": ("bad-field", {"metrics": {"loss": True}}, "a metric that is a bool"),
        "metric-of-2-to-53": ("integer-range", {"metrics": {"n": 2**53}}, "an int over 2^53 - 1"),
        "metadata-of-2-to-53": (
            "integer-range",
            {"metadata": pack({"a": [-(2**53)]})},
            "under -(2^53 - 1)",
        ),
        "later-of-2-to-53": ("integer-range", {"later": 2**53}, "in a key of a later version"),
        "writer-ints": ("bad-field", {"writer": {"python": 3}}, "a version that is no text"),
        "metadata-unpacked": ("bad-field", {"metadata": {}}, "metadata that is no bin"),
        "metadata-no-map": ("bad-field", {"metadata": pack([])}, "metadata that is an array"),
        "metadata-ext": ("bad-msgpack", {"metadata": b"\x81\xa1a\xd4\x01\x00"}, "an extension"),
        "metadata-key-twice": ("duplicate-key", {"metadata": b"\x82\xa1a\xc0\xa1a\xc0"}, "a key"),
        "metadata-cut-off": ("truncated", {"metadata": b"\x81\xa1a"}, "a key without a value"),
        "metadata-34-levels": (
            "too-deep",
            {"metadata": b"\x81\xa1a" + b"\x91" * 33 + b"\xc0"},
            "34 levels",
        ),
        "index-no-bin": ("bad-field", {"index": {}}, "an index that is not packed"),
        "index-nowhere": ("missing-field", {"index": None}, "neither inline nor in a file"),
    }
    for name, (reason, payload, about) in cases.items():
        bad(f"payload-{name}", reason, sample(payload=payload), about or "of another type")
    large(
        "metadata-over-256-kib",
        "too-many",
        lambda: sample(payload={"metadata": pack({"a": "x" * (1 << 18)})}),
        "over 2^18 bytes",
    )


def tables_of_files() -> None:
    row = [DATA, len(FLOATS), "data", None]
    names = {
        "parent": f"../{DATA}",
        "parent-alone": "..",
        "absolute": f"/tmp/{DATA}",
        "etc-passwd": "/etc/passwd",
        "in-a-directory": f"sub/{DATA}",
        "backslash": f"..\\{DATA}",
        "another-attempt": DATA.replace(ATTEMPT, OTHER),
        "manifest": "MANIFEST",
        "empty": "",
        "leading-zero": DATA.replace("-0-0", "-00-0"),
        "ten-digits": DATA.replace("-0-0", "-0-1234567890"),
        "negative": DATA.replace("-0-0", "-0--1"),
        "other-digits": DATA.replace("-0-0", "-0-٣"),
        "newline": DATA + "\n",
        "nul": DATA + "\0",
        "upper-case": DATA.upper(),
        "index-as-data": INDEX,
    }
    for name, file in names.items():
        table = file_table([[file, *row[1:]]])
        bad(f"file-name-{name}", "bad-file-name", sample(payload={"files": table}), repr(file))
    index = [INDEX, 1, "index", bytes(16)]
    cases: dict[str, tuple[str, Any, str]] = {
        "twice": ("bad-file-name", [row, row], "a name stands twice"),
        "with-a-digest": ("bad-field", [[*row[:3], bytes(16)]], "a data file has none"),
        "index-without-digest": ("bad-field", [row, [*index[:3], None]], "an index file has one"),
        "digest-too-short": ("bad-field", [row, [*index[:3], bytes(15)]], "16 bytes"),
        "of-another-role": ("bad-file-name", [[DATA, 12, "code", None]], "data or index"),
        "of-2-to-60": ("integer-range", [[DATA, 2**60, "data", None]], "a size over 2^53 - 1"),
        "of-2-to-53-less-1": ("file-size", [[DATA, 2**53 - 1, "data", None]], "no such size"),
    }
    for name, (reason, rows, about) in cases.items():
        bad(f"file-{name}", reason, sample(payload={"files": file_table(rows)}), about)
    table = file_table([row])
    for name, reason, change in (
        ("columns-unequal", "bad-column", {"role": ["data", "data"]}),
        ("size-column-short", "bad-column", {"size": b""}),
        ("size-column-of-3", "bad-column", {"size": bytes(3)}),
        ("size-no-column", "bad-field", {"size": [12]}),
        ("age-column-short", "bad-column", {"age": b""}),
        ("age-no-column", "bad-field", {"age": [1]}),
        ("name-no-text", "bad-field", {"name": [b"x"]}),
        ("name-missing", "missing-field", {"name": "ABSENT"}),
        ("digest-missing", "missing-field", {"xxh3-128": "ABSENT"}),
    ):
        bent = {k: v for k, v in {**table, **change}.items() if v != "ABSENT"}
        bad(f"files-{name}", reason, sample(payload={"files": bent}), "in the table of files")
    large(
        "files-16385",
        "too-many",
        lambda: sample(
            payload={
                "files": {
                    "name": ["x"] * 16_385,
                    "size": bytes(16_385),
                    "role": ["data"] * 16_385,
                    "xxh3-128": [None] * 16_385,
                }
            }
        ),
        "more rows than may be",
    )


def files_on_disk() -> None:
    files = sample().files()
    data = files[DATA]

    def data_file(content: bytes | None) -> Files:
        return {"MANIFEST": files["MANIFEST"], **({DATA: content} if content is not None else {})}

    bad("data-missing", "missing-file", data_file(None), "the data file is not there")
    bad("data-truncated", "file-size", data_file(data[:-1]), "a byte is missing")
    bad("data-empty", "file-size", data_file(b""), "no byte is left")
    bad("data-longer", "file-size", data_file(data + b"\0"), "a byte too many")
    bad("data-changed", "checksum", data_file(b"\1" + data[1:]), "one bit is flipped", BYTES)
    bad("data-zeroed", "checksum", data_file(bytes(12)), "all bytes are zero", BYTES)
    between = two().files()
    between[DATA] = between[DATA][:20] + b"\1" + between[DATA][21:]
    bad("padding-not-zero", "padding", between, "a byte between two spans", ("verify",))
    outside = sample(outside=True).files()

    def index_file(content: bytes | None) -> Files:
        return {**outside, INDEX: content} if content is not None else without(outside, INDEX)

    index = outside[INDEX]
    bad("index-missing", "missing-file", index_file(None), "the index file is not there")
    bad("index-truncated", "file-size", index_file(index[:-1]), "a byte is missing")
    bad("index-longer", "file-size", index_file(index + b"\0"), "a byte too many")
    bad("index-changed", "checksum", index_file(index[:-1] + b"\0"), "a byte is changed")


def without(files: Files, name: str) -> Files:
    return {key: value for key, value in files.items() if key != name}


def index_tables() -> None:
    big = (2**60).to_bytes(8, "little")
    cases: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
        "without-types": ("missing-field", setting("types", to="ABSENT"), "no table of types"),
        "without-nodes": ("missing-field", setting("nodes", to="ABSENT"), "no table of nodes"),
        "without-spans": ("missing-field", setting("spans", to="ABSENT"), "no table of spans"),
        "dtypes-no-list": ("bad-field", setting("dtypes", to={}), "dtypes is a map"),
        "nodes-no-map": ("bad-field", setting("nodes", to=[]), "nodes is an array"),
        "nodes-without-heap": ("missing-field", setting("nodes", "heap", to="ABSENT"), "no heap"),
        "nodes-count-2-to-60": ("integer-range", setting("nodes", "count", to=2**60), "a count"),
        "nodes-count-2-to-53-less-1": (
            "bad-column",
            setting("nodes", "count", to=2**53 - 1),
            "more nodes than the columns hold",
        ),
        "nodes-none": (
            "bad-tree",
            lambda t: t["nodes"].update(
                dict.fromkeys(("kind", "arity", "type", "arg", "size", "heap"), b""), count=0
            ),
            "a tree of no node",
        ),
        "nodes-column-of-3": ("bad-column", setting("nodes", "kind", to=bytes(3)), "for 5 nodes"),
        "nodes-column-of-3-each": ("bad-column", setting("nodes", "arg", to=bytes(15)), "3 a node"),
        "nodes-column-text": ("bad-field", setting("nodes", "kind", to="\0" * 5), "a str"),
        "nodes-arg-2-to-60": ("integer-range", setting("nodes", "arg", to=big * 5), "in a column"),
        "leaves-dim-2-to-60": ("integer-range", setting("leaves", "dims", to=big), "a length"),
        "leaves-65-axes": (
            "bad-shape",
            lambda t: t["leaves"].update(ndim=b"\x41", dims=bytes([1] * 65)),
            "65 axes",
        ),
        "leaves-ndim-2-to-52": (
            "bad-shape",
            setting("leaves", "ndim", to=(2**52).to_bytes(8, "little")),
            "2^52 axes",
        ),
        "spans-digest-short": (
            "bad-column",
            setting("spans", "xxh3-128", to=bytes(15)),
            "15 bytes",
        ),
        "spans-without-digest": (
            "missing-field",
            setting("spans", "xxh3-128", to="ABSENT"),
            "none",
        ),
        "spans-count-more": ("bad-column", setting("spans", "count", to=2), "one row, count 2"),
        "types-columns-unequal": ("bad-column", setting("types", "name", to=[]), "no name"),
        "types-unknown-kind": ("bad-type", setting("types", "kind", to=["function"]), "a kind"),
        "types-fields-of-array": ("bad-type", setting("types", "fields", to=[["a"]]), "fields"),
        "types-field-int": ("bad-type", setting("types", "fields", to=[[1]]), "a field's name"),
        "types-extra-none": ("bad-type", setting("types", "extra", to=[None]), "extra is a map"),
        "types-binding-int": ("bad-type", setting("types", "binding", to=[1]), "a str or nil"),
        "types-module-int": ("bad-field", setting("types", "module", to=[1]), "a str"),
        "types-kind-list": ("bad-field", setting("types", "kind", to=[[]]), "a str"),
    }
    for name, (reason, bend, about) in cases.items():
        bad(f"index-{name}", reason, sample(bend=bend), about)
    for name, kind in (("enum", "enum"), ("pytree", "pytree")):
        row = type_row(kind, "hostile", "Color", ["a"])
        bad(f"index-types-fields-of-{name}", "bad-type", bare(none(), row), "it has no fields")
    row = type_row("namedtuple", "hostile", "Pair", ["a", "a"])
    bad("index-types-field-twice", "bad-type", bare(none(), row), "a name of a field twice")
    twice = sample(outside=True, payload={"index": pack(sample().tables())})
    bad("index-tables-twice", "duplicate-table", twice, "the tables stand in two parts")
    ext = {"index": b"\x81\xa1a\xd4\x01\x00"}
    bad("index-ext-type", "bad-msgpack", sample(payload=ext), "an extension type in the index")
    deep = {"index": b"\x81\xa1a" + b"\x91" * 64 + b"\xc0"}
    bad("index-65-levels", "too-deep", sample(payload=deep), "one level more than may be")


def stored_dtypes() -> None:
    nested_dtype: Any = "int8"
    for _ in range(17):
        nested_dtype = {"base": nested_dtype, "shape": [1]}

    def structure(*fields: Any, itemsize: Any = 4, **more: Any) -> Any:
        rows = [{"name": name, "dtype": dtype, "offset": offset} for name, dtype, offset in fields]
        return {"fields": rows, "itemsize": itemsize, "aligned": False, "record": False, **more}

    one = ("a", "int32", 0)
    cases: dict[str, Any] = {
        "unknown": "float31",
        "object": "object",
        "numpy-code": "<f4",
        "empty": "",
        "no-text": 5,
        "nil": None,
        "list": ["float32"],
        "big-endian-int4": ">int4",
        "big-endian-int8": ">int8",
        "big-endian-bytes": ">bytes[4]",
        "big-endian-void": ">void[4]",
        "big-endian-twice": ">>int32",
        "key": "key[threefry2x32]",
        "str-too-long": "str[536870912]",
        "str-of-2-to-60": "bytes[1152921504606846976]",
        "str-leading-zero": "bytes[04]",
        "str-negative": "bytes[-4]",
        "str-other-digits": "bytes[٤]",
        "str-newline": "bytes[4]\n",
        "time-unit": "datetime64[fortnight]",
        "time-count": "datetime64[2147483648s]",
        "time-count-zero": "datetime64[0s]",
        "longdouble-bare": "longdouble",
        "longdouble-unknown": "longdouble[binary256]",
        "map-empty": {},
        "map-base-alone": {"base": 5},
        "map-both": {**structure(one), "base": "int32", "shape": [1]},
        "sub-array-no-axes": {"base": "int32", "shape": []},
        "sub-array-negative": {"base": "int32", "shape": [-1]},
        "sub-array-bool": {"base": "int8", "shape": [True]},
        "sub-array-too-large": {"base": "int32", "shape": [65536, 65536]},
        "sub-array-65-axes": {"base": "int8", "shape": [1] * 65},
        "nested-too-deep": nested_dtype,
        "fields-overlap": structure(one, ("b", "int8", 3)),
        "field-outside": structure(one, ("b", "int8", 4)),
        "field-at-2-to-53": structure(("a", "int8", 2**53 - 1)),
        "field-name-twice": structure(("a", "int8", 0), ("a", "int8", 1)),
        "field-name-int": structure((5, "int8", 0)),
        "field-without-dtype": {**structure(), "fields": [{"name": "a", "offset": 0}]},
        "field-no-map": {**structure(), "fields": ["a"]},
        "field-title-int": {**structure(), "fields": [{**field_of(*one), "title": 5}]},
        "field-title-twice": {**structure(), "fields": [{**field_of(*one), "title": "a"}]},
        "itemsize-of-2-to-31": structure(itemsize=2**31),
        "itemsize-text": structure(itemsize="4"),
        "aligned-int": structure(one, aligned=1),
        "aligned-missing": {"fields": [], "itemsize": 4, "record": False},
        "record-text": structure(one, record="numpy.record"),
        "fields-no-list": {**structure(), "fields": {}},
    }
    for name, stored in cases.items():
        about = f"a dtype that the format does not have: {stored!r:.60}"
        bad(f"dtype-{name}", "bad-dtype", sample(bend=setting("dtypes", to=[stored])), about)
    draft = sample(bend=setting("dtypes", to=[{"base": "int32", "shape": [1]}]))
    bad("leaf-of-sub-array", "bad-leaf", draft, "a leaf of a sub-array dtype")
    bad(
        "value-bool-2",
        "bad-value",
        Draft(leaf(), [L(shape=(2,), data=b"\x01\x02")], dtypes=["bool"]),
        "a bool byte of 2",
        LOAD,
    )
    bad(
        "value-int4-unused-bit",
        "bad-value",
        Draft(leaf(), [L(shape=(2,), data=b"\x01\x10")], dtypes=["int4"]),
        "an int4 whose fifth bit is set",
        LOAD,
    )
    for name, scalar in (("str-too-high", 0x110000), ("str-of-2-to-32", 2**32 - 1)):
        data = scalar.to_bytes(4, "little")
        draft = Draft(leaf(), [L(shape=(), data=data)], [("array", "numpy", "generic")], ["str[1]"])
        bad(f"value-{name}", "bad-value", draft, "a code point beyond U+10FFFF", LOAD)
    good_text, bad_text = b"a\0\0\0", b"\0\0\x11\0"
    pair: Any = {"base": "str[1]", "shape": [2]}
    inner = structure(("n", "int8", 0), ("s", pair, 1), itemsize=9)
    texts: dict[str, tuple[Any, bytes, Sequence[int]]] = {
        "array": ("str[1]", good_text + bad_text, (2,)),
        "big-endian": (">str[2]", good_text + bad_text, (1,)),
        "field": (
            structure(("n", "int8", 0), ("s", ">str[1]", 1), itemsize=5),
            b"\1" + bad_text,
            (),
        ),
        "nested": (structure(("in", inner, 3), itemsize=12), bytes(4) + good_text + bad_text, (1,)),
    }
    for name, (stored, data, shape) in texts.items():
        draft = Draft(leaf(), [L(shape=shape, data=data)], dtypes=[stored])
        bad(f"value-str-too-high-{name}", "bad-value", draft, "a code point of 0x110000", LOAD)


def field_of(name: Any, dtype: Any, offset: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "offset": offset}


def trees() -> None:
    half = "two nodes where the arities make one"
    bad("tree-two-roots", "bad-tree", bare([none(), none()]), half)
    bad("tree-child-missing", "bad-tree", bare([N(Kind.LIST, [none()] * 2), none()]), "a child")
    endless = sample(bend=setting("nodes", "arity", to=b"".join([b"\xff" * 6 + b"\0\0"] * 5)))
    bad("tree-arity-2-to-48", "bad-tree", endless, "arities of 2^48")
    for kind in (15, 19, 27, 29, 31, 39, 43, 255, 2**32, 2**53 - 1):
        bad(f"node-kind-{kind}", "bad-node", bare(items(N(kind))), "an unknown kind")
    pair = type_row("namedtuple", "hostile", "Pair", ["a", "b"])
    color = type_row("enum", "hostile", "Color")
    tree = type_row("pytree", "hostile", "Plain")
    cases: dict[str, tuple[N, str]] = {
        "none-with-child": (N(Kind.NONE, [none()]), "a NONE with a child"),
        "none-with-bytes": (N(Kind.NONE, data=b"a"), "a NONE with bytes"),
        "none-with-arg": (N(Kind.NONE, arg=1), "a NONE with an argument"),
        "list-with-type": (N(Kind.LIST, type=1), "a LIST with a type"),
        "list-with-bytes": (N(Kind.LIST, data=b"a"), "a LIST with bytes"),
        "dict-odd": (N(Kind.DICT, [none()]), "a key without a value"),
        "ordered-dict-odd": (N(Kind.ORDERED_DICT, [none()] * 3), "a key without a value"),
        "bool-2": (N(Kind.BOOL, arg=2), "a BOOL of 2"),
        "float-of-4": (N(Kind.FLOAT, data=bytes(4)), "a FLOAT of 4 bytes"),
        "float-of-0": (N(Kind.FLOAT), "a FLOAT of no bytes"),
        "complex-of-8": (N(Kind.COMPLEX, data=bytes(8)), "a COMPLEX of 8 bytes"),
        "slice-of-2": (N(Kind.SLICE, [none()] * 2), "a SLICE of two children"),
        "range-of-2": (N(Kind.RANGE, [integer(1)] * 2), "a RANGE of two children"),
        "range-of-floats": (N(Kind.RANGE, [real(1.0)] * 3), "a RANGE of FLOAT"),
        "range-of-bool": (N(Kind.RANGE, [integer(0), integer(1), true()]), "a RANGE of BOOL"),
        "record-without-type": (N(Kind.RECORD), "a RECORD of no type"),
        "record-of-another-type": (record(none(), type=2), "a RECORD of an enum"),
        "record-of-no-row": (record(none(), none(), type=99), "a type that is not in the table"),
        "record-one-child-less": (record(none()), "a RECORD with one child for two fields"),
        "record-one-child-more": (record(none(), none(), none()), "three for two fields"),
        "pytree-without-static": (record(type=3), "a pytree without its static part"),
        "enum-without-type": (N(Kind.ENUM, [integer(1)], data=b"RED"), "an ENUM of no type"),
        "enum-of-a-record": (N(Kind.ENUM, [integer(1)], type=1, data=b"RED"), "of a namedtuple"),
        "enum-of-two": (N(Kind.ENUM, [none(), none()], type=2, data=b"RED"), "with two values"),
        "dtype-of-no-row": (N(Kind.DTYPE, arg=3), "a dtype that is not in the table"),
        "same-with-child": (items(none(), N(Kind.SAME, [none()])), "a SAME with a child"),
    }
    for name, (root, about) in cases.items():
        bad(f"node-{name}", "bad-node", bare(root, pair, color, tree), about)
    for name, heap in (("short", b"wl"), ("long", b"wlr" + bytes(9))):
        draft = sample(bend=setting("nodes", "heap", to=heap))
        bad(f"heap-too-{name}", "bad-node", draft, "not as many bytes as the nodes say")
    huge = b"".join((2**52).to_bytes(8, "little") for _ in range(5))
    bad("heap-of-2-to-54", "bad-node", sample(bend=setting("nodes", "size", to=huge)), "sizes")
    large(
        "tree-100000-deep",
        "too-deep",
        lambda: bare(nested(Kind.LIST, 100_000, none())),
        "lists 100,000 deep",
    )
    large(
        "key-100000-deep",
        "too-deep",
        lambda: bare(entries(nested(Kind.TUPLE, 100_000, none()), none())),
        "a key of tuples 100,000 deep",
    )


def keys() -> None:
    array = [L(data=FLOATS)]
    pair = type_row("namedtuple", "hostile", "Pair", ["a", "b"])
    color = type_row("enum", "hostile", "Color")

    def held(key: N) -> Draft:
        return bare(entries(key, none()), pair, color)

    inside: dict[str, N] = {
        "list": items(),
        "dict": entries(),
        "set": N(Kind.SET),
        "record": record(none(), none()),
        "bytearray": N(Kind.BYTEARRAY, data=b"a"),
        "slice": N(Kind.SLICE, [none()] * 3),
        "range": N(Kind.RANGE, [integer(1)] * 3),
        "symbol": symbol("builtins.int"),
        "supplied": N(Kind.SUPPLIED, data=b"a function"),
        "list-in-tuple": N(Kind.TUPLE, [N(Kind.TUPLE, [items()])]),
        "record-in-frozenset": N(Kind.FROZENSET, [record(none(), none())]),
        "list-in-enum": N(Kind.ENUM, [items()], type=2, data=b"RED"),
    }
    for name, key in inside.items():
        bad(f"key-{name}", "bad-key", held(key), "a key that may run code when it is hashed")
    bad("item-list", "bad-key", bare(N(Kind.SET, [items()])), "an item that is a list")
    bad("enum-value-list", "bad-key", bare(N(Kind.ENUM, [items()], 1, data=b"RED"), color), "")
    bad("key-leaf", "bad-key", Draft(entries(leaf(), none()), array), "a key that is an array")
    point = N(Kind.TUPLE, [none()])
    same_key = bare(items(point, entries(same(1), none())))
    bad("key-same", "bad-key", same_key, "a key that points at a value")
    chain: list[N] = [N(Kind.TUPLE, [none()] * 2)]
    for i in range(40):
        chain.append(N(Kind.TUPLE, [same(3 * i + 1), same(3 * i + 1)]))
    exponential = bare(items(*chain, N(Kind.SET, [same(3 * 40 + 1)])))
    bad("key-exponential", "bad-key", exponential, "an item that would take 2^40 steps to hash")
    deep = nested(Kind.TUPLE, 34, none())
    bad("key-34-deep", "too-deep", held(deep), "a key nested deeper than 32")
    nan = struct.pack("<d", math.nan)
    equal: dict[str, tuple[N, N]] = {
        "text": (text("a"), text("a")),
        "1-and-true": (integer(1), true()),
        "1-and-1.0": (integer(1), real(1.0)),
        "zeros": (real(0.0), real(-0.0)),
        "0-and-no-bytes": (integer(0), N(Kind.INT)),
        "int-in-two-lengths": (integer(5), N(Kind.INT, data=b"\x05\x00\x00")),
        "complex": (real(2.0), N(Kind.COMPLEX, data=struct.pack("<dd", 2.0, 0.0))),
        "text-and-surrogate-text": (text("a"), N(Kind.SURROGATE_STR, data=b"a")),
        "tuples": (N(Kind.TUPLE, [integer(1)]), N(Kind.TUPLE, [true()])),
        "frozensets": (
            N(Kind.FROZENSET, [integer(1), integer(2)]),
            N(Kind.FROZENSET, [integer(2), integer(1)]),
        ),
        "members": (
            N(Kind.ENUM, [integer(1)], type=2, data=b"RED"),
            N(Kind.ENUM, [integer(1)], type=2, data=b"RED"),
        ),
        "ints-of-5000-digits": (integer(10**5000), integer(10**5000)),
        "none": (none(), none()),
    }
    for name, (a, b) in equal.items():
        draft = bare(entries(a, none(), b, none()), pair, color)
        bad(f"keys-equal-{name}", "duplicate-key", draft, "two equal keys in one dict", LOAD)
    for kind in (Kind.SET, Kind.FROZENSET):
        draft = bare(N(kind, [integer(1), true()]))
        bad(f"items-equal-{kind.name.lower()}", "duplicate-key", draft, "two equal items", LOAD)
    assert math.isnan(struct.unpack("<d", nan)[0])


def references() -> None:
    one = [L(data=FLOATS)]
    cases: dict[str, tuple[N, str]] = {
        "leaf-held-twice": (items(leaf(), leaf()), "two nodes hold one leaf"),
        "leaf-held-never": (items(), "no node holds the leaf"),
        "leaf-of-no-row": (items(leaf(), leaf(7)), "a leaf that is not in the table"),
        "same-forward": (items(leaf(), same(3), none()), "a SAME that points forward"),
        "same-itself": (items(leaf(), same(2)), "a SAME that points at itself"),
        "same-parent": (items(leaf(), same(0)), "a SAME that points at its parent"),
        "same-ancestor": (items(leaf(), items(items(same(2)))), "that points at an ancestor"),
        "same-at-same": (items(leaf(), same(1), same(2)), "a SAME that points at a SAME"),
        "same-of-no-node": (items(leaf(), same(2**53 - 1)), "beyond the table"),
    }
    for name, (root, about) in cases.items():
        bad(name, "bad-reference", Draft(root, one), about)
    long_text = N(Kind.STR, arg=1)
    both = N(Kind.STR, arg=1, data=b"a")
    types = [NDARRAY, SCALAR]

    def scalar(**options: Any) -> list[L]:
        return [L(**{"type": 2, "shape": (12,), "data": FLOATS, **options})]

    def long(node: N, leaves: Sequence[L], *, dtype: str = "uint8") -> Draft:
        return Draft(node, leaves, types, [dtype])

    bad("long-in-two-places", "bad-node", long(both, scalar()), "bytes in heap and leaf")
    bad("long-in-an-array", "bad-leaf", long(long_text, scalar(type=1)), "text in a numpy array")
    bad("long-of-int8", "bad-leaf", long(long_text, scalar(), dtype="int8"), "not uint8")
    bad("long-of-two-axes", "bad-leaf", long(long_text, scalar(shape=(3, 4))), "two axes")
    bad("long-as-an-array", "bad-leaf", long(leaf(), scalar()), "a LEAF of a scalar's bytes")
    bad("long-and-leaf", "bad-reference", long(items(leaf(), long_text), scalar()), "held twice")
    bad("long-of-no-leaf", "bad-reference", bare(N(Kind.INT, arg=1)), "a leaf that is not there")
    bad("leaf-of-no-type", "bad-leaf", Draft(leaf(), [L(type=0, data=FLOATS)]), "type 0")
    bad("leaf-of-no-type-row", "bad-leaf", Draft(leaf(), [L(type=9, data=FLOATS)]), "type 9")
    bad("leaf-of-no-dtype", "bad-leaf", Draft(leaf(), [L(dtype=9, data=FLOATS)]), "dtype 9")
    row = type_row("namedtuple", "hostile", "Pair", ["a", "b"])
    bad("leaf-of-a-record", "bad-leaf", Draft(leaf(), one, [row]), "no array's type")


def shapes() -> None:
    for name, shape, dtype in (
        ("2-to-64", (2**32, 2**32), "uint8"),
        ("wraps-to-12", (2**32, 2**32 + 3), "float32"),
        ("2-to-53", (2**53 - 1,), "float32"),
        ("with-a-zero", (2**40, 0, 2**40), "uint8"),
        ("64-axes", (2**52,) * 64, "uint8"),
        ("of-nothing", (2**40, 2**40), "str[0]"),
        ("one-over", (2**52, 2), "uint8"),
    ):
        draft = Draft(leaf(), [L(shape=shape, data=FLOATS)], dtypes=[dtype])
        bad(f"shape-{name}", "shape-overflow", draft, f"{dtype} of shape {list(shape)}")
    cells = [FLOATS[:4], FLOATS[4:]]

    def cut(*points: int, **options: Any) -> Draft:
        return Draft(leaf(), [L(cuts=[points], cells=options.pop("cells", cells))], **options)

    bad("grid-cut-at-0", "bad-grid", cut(0), "a cut at the beginning")
    bad("grid-cut-at-end", "bad-grid", cut(3), "a cut at the end")
    bad("grid-cut-outside", "bad-grid", cut(2**53 - 1), "a cut beyond the end")
    bad("grid-cut-back", "bad-grid", cut(2, 1), "cuts that go back")
    bad("grid-cut-twice", "bad-grid", cut(1, 1), "a cut twice")
    for name, path, to in (
        ("of-0", "grid", b"\0"),
        ("of-3", "grid", b"\3"),
        ("of-2-to-52", "grid", (2**52).to_bytes(8, "little")),
    ):
        bad(f"grid-{name}", "bad-grid", cut(1, bend=setting("leaves", path, to=to)), "pieces")
    missing = cut(1, bend=setting("leaves", "cuts", to="ABSENT"))
    bad("grid-without-cuts", "missing-field", missing, "a grid and no cut points")
    empty = Draft(
        items(leaf(0), leaf(1)),
        [
            L(shape=(2, 0), data=b"", cuts=[[1], []]),
            L(data=FLOATS, cuts=[[]]),
        ],
    )
    bad("grid-of-no-bytes", "bad-grid", empty, "a leaf without bytes that is cut")
    many = Draft(
        leaf(),
        [L(shape=(1001,) * 2, data=bytes(12), cuts=[range(1, 1001)] * 2)],
        dtypes=["uint8"],
    )
    bad("grid-of-a-million-cells", "bad-grid", many, "a million cells and one span")


def spans() -> None:
    def span(name: str, reason: str, about: str, bend: Callable[[Draft], Any], **more: Any) -> None:
        draft = two()
        bend(draft)
        bad(f"span-{name}", reason, draft, about, **more)

    def put(row: int, position: int, value: int) -> Callable[[Draft], Any]:
        return lambda draft: draft.spans[row].__setitem__(position, value)

    def data(change: Callable[[bytes], bytes]) -> Callable[[Draft], Any]:
        return lambda draft: setattr(draft, "data", change(draft.data))

    span("of-no-leaf", "bad-span", "leaf 9", put(0, 0, 9))
    span("of-no-cell", "bad-span", "cell 1 of an uncut leaf", put(0, 1, 1))
    span("of-no-file", "bad-span", "file 9", put(0, 2, 9))
    span("of-no-bytes", "bad-span", "no bytes", put(0, 4, 0))
    span("over-64-mib", "bad-span", "2^26 + 1 bytes", put(0, 4, 2**26 + 1))
    span("of-2-to-52", "bad-span", "2^52 bytes", put(0, 4, 2**52))
    span("sum-short", "span-sum", "a byte less than the leaf has", put(0, 4, 11))
    span("sum-long", "span-sum", "a byte more than the leaf has", put(0, 4, 13))
    span("missing", "span-sum", "a leaf without a span", lambda draft: draft.spans.pop())
    span("twice", "span-sum", "a span twice", lambda draft: draft.spans.append(draft.spans[0]))
    span("beyond-the-file", "span-range", "from byte 128 on, of 76", put(1, 3, 128))
    span("at-2-to-52", "span-range", "from byte 2^52 on", put(1, 3, 2**52))
    span("not-aligned", "span-alignment", "from byte 60 on", put(1, 3, 60))
    span("overlap", "span-overlap", "two spans from byte 0 on", put(1, 3, 0))

    def gap(draft: Draft) -> None:
        draft.data = draft.data[:64] + bytes(64) + draft.data[64:]
        draft.spans[1][3] = 128

    span("gap", "span-gap", "64 bytes between two spans", gap)
    span("bytes-after", "span-gap", "bytes after the last span", data(lambda d: d + b"\0"))

    def late(draft: Draft) -> None:
        draft.data = bytes(64) + draft.data
        for row in draft.spans:
            row[3] += 64

    span("late", "span-gap", "the first span begins at byte 64", late)
    unused = bare(none())
    unused.data, unused.has_data = b"hidden", True
    bad("span-none", "span-gap", unused, "a data file that no span is in")
    inside = sample(outside=True)
    inside.spans[0][2] = 1
    bad("span-in-an-index-file", "bad-span", inside, "a span in an index file")
    covered = Draft(items(leaf(0), leaf(1)), [L(data=bytes(192), shape=(48,)), L(data=FLOATS)])
    covered.data, covered.spans[1][3] = covered.data[:192], 64
    bad("span-inside-another", "span-overlap", covered, "a span inside another")


def classes() -> None:
    def of(row: Any, *children: N) -> Draft:
        if row["kind"] == "enum":
            return bare(N(Kind.ENUM, [integer(1)], type=1, data=b"ONE"), row)
        return bare(record(*children), row)

    def unknown(name: str, reason: str, draft: Draft, about: str) -> None:
        bad(name, reason, draft, about, LOAD, "UnknownTypeError")

    gone = "module-not-imported"
    unknown(
        "type-not-imported",
        gone,
        of(type_row("dataclass", "antigravity", "fly_api", ["a"]), none()),
        "a module that nobody imported, and that opens a browser",
    )
    unknown(
        "type-binding-not-imported",
        gone,
        of(type_row("dataclass", "antigravity", "X", ["a"], binding="fly", main="this"), none()),
        "the same by binding and by the name of the main module",
    )
    for kind in ("namedtuple", "dataclass"):
        for module, name in (("os", "system"), ("builtins", "eval"), ("hostile", "ran")):
            unknown(
                f"type-{kind}-{module}-{name}",
                "wrong-kind",
                of(type_row(kind, module, name, ["a"]), none()),
                f"{module}.{name} as a {kind}",
            )
        unknown(
            f"type-{kind}-popen",
            "wrong-kind",
            of(type_row(kind, "subprocess", "Popen", ["args"]), text("true")),
            f"subprocess.Popen as a {kind}",
        )
    for kind, reason, children in (
        ("enum", "wrong-kind", []),
        ("object", "unknown-object", [none()]),
        ("pytree", "wrong-kind", [none()]),
    ):
        fields = ["a"] if kind == "object" else []
        unknown(
            f"type-{kind}-os-system",
            reason,
            of(type_row(kind, "os", "system", fields), *children),
            f"os.system as a {kind}",
        )
        unknown(
            f"type-{kind}-popen",
            "needs-types" if kind == "pytree" else reason,
            of(type_row(kind, "subprocess", "Popen", fields), *children),
            f"subprocess.Popen as a {kind}",
        )
    unsafe = {
        "del": ("WithDel", "a class with __del__"),
        "setter": ("WithSetter", "a property setter as a field"),
        "setattr": ("WithSetattr", "a class with its own __setattr__"),
        "metaclass": ("WithMeta", "a class with a metaclass"),
        "no-params": ("WithoutParams", "a class that only looks like a dataclass"),
    }
    for name, (cls, about) in unsafe.items():
        draft = of(type_row("dataclass", "hostile", cls, ["a"]), none())
        unknown(f"class-with-{name}", "unsafe-class", draft, about)
    unknown(
        "class-with-property",
        "unsafe-class",
        of(type_row("namedtuple", "hostile", "ListTuple", ["a"]), none()),
        "a NamedTuple with a property as a field",
    )
    for name, cls in (("hash", "HashedEnum"), ("eq", "EqualEnum")):
        unknown(
            f"enum-with-{name}",
            "unsafe-class",
            of(type_row("enum", "hostile", cls)),
            f"an enum with its own __{name}__",
        )
    lost = bare(N(Kind.ENUM, [integer(9)], 1, data=b"NINE"), type_row("enum", "hostile", "Color"))
    unknown("enum-no-member", "no-such-member", lost, "a value that no member has")
    for name, value in (
        ("of-5000-digits", integer(10**5000)),
        ("of-members", N(Kind.TUPLE, [N(Kind.ENUM, [integer(1)], 2, data=b"ONE")])),
    ):
        lost = bare(
            N(Kind.ENUM, [value], 1, data=b"RED"),
            type_row("enum", "hostile", "Color"),
            type_row("enum", "hostile", "ShownEnum"),
        )
        unknown(f"enum-value-{name}", "no-such-member", lost, "a value that is not shown")
    row = type_row("enum", "hostile", "MissingEnum")
    lost = bare(N(Kind.ENUM, [integer(9)], 1, data=b"NINE"), row)
    unknown("enum-with-missing", "no-such-member", lost, "a class whose _missing_ would find one")
    row = type_row("enum", "hostile", "Color")
    lost = bare(N(Kind.ENUM, [true()], 1, data=b"RED"), row)
    unknown("enum-equal-value", "no-such-member", lost, "True where the member has 1")
    for name, member in (("lazy", "anything"), ("lazy-dunder", "__builtins__"), ("empty", "")):
        unknown(
            f"module-{name}",
            "wrong-kind" if member == "__builtins__" else "no-such-name",
            of(type_row("dataclass", "hostile", member, ["a"]), none()),
            "a module whose __getattr__ imports",
        )
    unknown(
        "module-in-module",
        "no-such-name",
        of(type_row("dataclass", "hostile", "sys.modules", ["a"]), none()),
        "a name that leads through a module",
    )
    unknown(
        "module-proxy",
        "wrong-kind",
        of(type_row("dataclass", "hostile", "proxy", ["a"]), none()),
        "an object that runs code when it is looked at",
    )
    unknown(
        "fields-differ",
        "fields-differ",
        of(type_row("namedtuple", "hostile", "Pair", ["a", "c"]), none(), none()),
        "other fields than the class has",
    )
    unknown(
        "fields-dunder",
        "fields-differ",
        of(type_row("dataclass", "hostile", "Plain", ["__class__"]), none()),
        "a field that would change the class of an instance",
    )


def adapters() -> None:
    def generic(**options: Any) -> Draft:
        return Draft(leaf(), [L(data=FLOATS)], [("array", "numpy", "generic")], **options)

    bad("array-generic-of-2", "bad-leaf", generic(), "a scalar that has an axis", LOAD)
    matrix = Draft(leaf(), [L(data=FLOATS)], [("array", "numpy", "matrix")])
    bad("array-numpy-matrix", "bad-type", matrix, "no array type of the format", LOAD)
    for module in ("evil", "os", "builtins", "optax"):
        draft = Draft(leaf(), [L(data=FLOATS)], [("array", module, "Array")])
        needs = {"needs": "jax"} if module == "optax" else {}
        bad(f"array-{module}", "bad-type", draft, "a package without arrays", LOAD, **needs)  # type: ignore[arg-type]
    tracer = Draft(leaf(), [L(data=FLOATS)], [("array", "jax", "Tracer")])
    bad("array-jax-tracer", "bad-type", tracer, "no array type of the format", LOAD, needs="jax")

    def jax_array(extra: dict[str, Any], dtype: str = "float32") -> Draft:
        return Draft(leaf(), [L(data=FLOATS)], [type_row(*JAX, extra=extra)], [dtype])

    for name, extra, reason, error in (
        ("impl-unknown", {"impl": "rot13"}, "array-not-exact", "UnsupportedError"),
        ("impl-no-text", {"impl": 5}, "bad-type", "CorruptError"),
        ("weak-no-bool", {"weak": "yes"}, "bad-type", "CorruptError"),
        ("mesh-no-array", MESH | {"mesh": 5}, "bad-type", "CorruptError"),
        ("mesh-alone", {"mesh": MESH["mesh"]}, "bad-type", "CorruptError"),
        ("mesh-of-no-device", MESH | {"mesh": [["a", 0, "auto"]]}, "bad-type", "CorruptError"),
        ("mesh-too-large", MESH | {"mesh": [["a", 2**50, "auto"]]}, "bad-type", "CorruptError"),
        ("mesh-axis-twice", MESH | {"mesh": [["a", 1, "auto"]] * 2}, "bad-type", "CorruptError"),
        ("mesh-device-below-0", MESH | {"devices": [-1]}, "bad-type", "CorruptError"),
        ("spec-no-name", MESH | {"spec": [7]}, "bad-type", "CorruptError"),
        ("spec-other-axis", MESH | {"spec": ["b"]}, "bad-type", "CorruptError"),
        ("spec-axis-twice", MESH | {"spec": ["a", "a"]}, "bad-type", "CorruptError"),
        ("spec-too-long", MESH | {"spec": [None, "a"]}, "array-not-exact", "UnsupportedError"),
        ("memory-no-text", MESH | {"memory": 1}, "bad-type", "CorruptError"),
    ):
        draft = jax_array(extra)
        bad(f"array-jax-{name}", reason, draft, repr(extra), LOAD, error, needs="jax")
    for name, extra in {
        "mesh-missing": {"placements": [0]},
        "mesh-no-array": PLACED | {"mesh": 5},
        "mesh-without-sizes": PLACED | {"mesh": ["dp", "tp"]},
        "mesh-size-0": PLACED | {"mesh": [["dp", 2], ["tp", 0]]},
        "mesh-size-bool": PLACED | {"mesh": [["dp", 2], ["tp", True]]},
        "mesh-name-int": PLACED | {"mesh": [["dp", 2], [1, 2]]},
        "mesh-axis-twice": PLACED | {"mesh": [["dp", 2], ["dp", 2]]},
        "placements-missing": {"mesh": [["dp", 2]]},
        "placements-too-few": PLACED | {"placements": [0]},
        "placements-text": PLACED | {"placements": ["Shard(0)", 0]},
        "placements-below-0": PLACED | {"placements": [-1, 0]},
        "placements-pieces-0": PLACED | {"placements": [[0, 0], 0]},
        "placements-of-three": PLACED | {"placements": [[0, 2, 2], 0]},
        "parameter-no-bool": PLACED | {"parameter": 1},
        "requires-grad-no-bool": PLACED | {"requires_grad": "yes"},
    }.items():
        draft = Draft(leaf(), [L(data=FLOATS)], [type_row(*DTENSOR, extra=extra)], head=HEAD_1_1)
        bad(f"array-dtensor-{name}", "bad-type", draft, repr(extra), LOAD, needs="torch")
    unknown = {"by": LOAD, "error": "UnknownTypeError"}
    for name in (
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "builtins.__import__",
        "numpy.load",
        "numpy.f2py",
        "numpy.add.reduce",
        "ml_dtypes.finfo",
        "",
        ".",
        "numpy",
        "antigravity.fly",
        "ckptstore.save",
    ):
        draft = bare(items(symbol(name)))
        bad(f"symbol-{name or 'empty'}", "unknown-symbol", draft, repr(name), **unknown)  # type: ignore[arg-type]
    for name in (
        "jax.numpy.load",
        "jax.numpy.save",
        "jax.lax.map",
        "jax.pure_callback",
        "jax.debug.callback",
        "jax.random.key<foo>.dtype",
        "jax.random.key<>.dtype",
        "jax.random.key<__class__>.dtype",
    ):
        draft = bare(items(symbol(name)))
        slug = name.replace("<", "-").replace(">", "-")
        bad(f"symbol-{slug}", "unknown-symbol", draft, repr(name), needs="jax", **unknown)  # type: ignore[arg-type]

    masked = type_row(
        "object", "numpy.ma", "MaskedArray", ["data", "mask", "fill_value", "hard_mask"]
    )
    for name, children in (
        ("data-no-array", [text("x"), none(), none(), true()]),
        ("data-nested-lists", [nested(Kind.LIST, 200, none()), none(), none(), true()]),
        ("hard-mask-no-bool", [none(), none(), none(), text("x")]),
    ):
        draft = bare(record(*children), masked)
        bad(f"masked-{name}", "cannot-make", draft, "no masked array", **unknown)  # type: ignore[arg-type]
    draft = Draft(
        record(leaf(0), leaf(1), none(), true(), type=2),
        [L(data=FLOATS), L(shape=(2,), dtype=1, data=b"\0\1")],
        [NDARRAY, masked],
        ["float32", "bool"],
    )
    bad("masked-mask-of-another-shape", "cannot-make", draft, "a mask of 2 for 3", **unknown)  # type: ignore[arg-type]
    empty = L(shape=(2**27,), dtype=0, data=b"")
    odd: dict[str, tuple[Any, list[L]]] = {
        "mask-for-void-0": ("void[0]", [empty, L(shape=(1,), dtype=1, data=b"\0")]),
        "mask-of-void-0": ("void[0]", [empty, empty]),
        "fill-value-with-an-axis": (
            "float32",
            [L(data=FLOATS), L(dtype=1, data=b"\0\1\0"), L(shape=(1,), data=FLOATS[:4])],
        ),
        "no-mask-for-fields": (
            {
                "fields": [{"name": str(i), "dtype": "void[0]", "offset": 0} for i in range(40)],
                "itemsize": 0,
                "aligned": False,
                "record": False,
            },
            [empty],
        ),
    }
    for name, (stored, leaves) in odd.items():
        parts = [leaf(i) for i in range(len(leaves))] + [none()] * (3 - len(leaves))
        used = [stored, "bool"][: 1 + any(x.dtype for x in leaves)]
        draft = Draft(record(*parts, true(), type=2), leaves, [NDARRAY, masked], used)
        bad(f"masked-{name}", "cannot-make", draft, "no masked array of numpy", **unknown)  # type: ignore[arg-type]
    for name, module in (("another-module", "numpy"), ("os", "os")):
        row = {**masked, "module": module}
        draft = bare(record(none(), none(), none(), true()), row)
        bad(f"masked-of-{name}", "unknown-object", draft, module, **unknown)  # type: ignore[arg-type]
    row = {**masked, "fields": ["data", "mask", "fill_value"]}
    draft = bare(record(none(), none(), none()), row)
    bad("masked-of-three-fields", "unknown-object", draft, "a field less", **unknown)  # type: ignore[arg-type]
    partial = type_row("object", "jax.tree_util", "Partial", ["func", "args", "keywords"])
    spec = type_row(
        "object", "jax.sharding", "PartitionSpec", ["partitions", "unreduced", "reduced"]
    )
    struct_ = type_row("object", "jax", "ShapeDtypeStruct", ["shape", "dtype", "weak_type"])
    empty, no_items = N(Kind.TUPLE), N(Kind.FROZENSET)
    for name, row, children in (
        ("partial-args-text", partial, [symbol("jax.numpy.tanh"), text("ab"), entries()]),
        ("partial-keywords-list", partial, [symbol("jax.numpy.tanh"), empty, items()]),
        (
            "partial-keyword-int",
            partial,
            [symbol("jax.numpy.tanh"), empty, entries(integer(1), none())],
        ),
        ("partial-of-none", partial, [none(), empty, entries()]),
        ("spec-of-text", spec, [text("ab"), no_items, no_items]),
        ("struct-of-text", struct_, [text("ab"), symbol("jax.numpy.float32"), true()]),
        ("struct-without-dtype", struct_, [empty, none(), true()]),
    ):
        draft = bare(record(*children), row)
        bad(f"jax-{name}", "cannot-make", draft, "a field of another kind", needs="jax", **unknown)  # type: ignore[arg-type]


def scalars() -> None:
    cases: dict[str, tuple[N, str]] = {
        "text-not-utf-8": (N(Kind.STR, data=b"\xff\xfe"), "text that is not UTF-8"),
        "text-overlong": (N(Kind.STR, data=b"\xc0\x80"), "an overlong form"),
        "text-surrogate": (N(Kind.STR, data=b"\xed\xa0\x80"), "a surrogate in a STR"),
        "surrogates-not-utf-8": (N(Kind.SURROGATE_STR, data=b"\xff"), "not even with surrogates"),
        "symbol-not-utf-8": (N(Kind.SYMBOL, data=b"\xff"), "a symbol that is not UTF-8"),
        "factory-unknown": (N(Kind.DEFAULT_DICT, data=b"eval"), "a factory that is no factory"),
        "factory-not-utf-8": (N(Kind.DEFAULT_DICT, data=b"\xff"), "a factory not in UTF-8"),
        "range-step-0": (N(Kind.RANGE, [integer(0)] * 3), "a range of step 0"),
    }
    for name, (node, about) in cases.items():
        bad(f"scalar-{name}", "bad-scalar", bare(items(node)), about, LOAD)
    supplied = bare(items(N(Kind.SUPPLIED, data=b"a function")))
    bad("supplied", "supplied", supplied, "what only the caller has", LOAD, "StructureError")


def valid() -> None:
    value = {"dict": [["w", array("float32", [3], FLOATS)], ["lr", {"float": "0.5"}]]}
    good("sample", sample(), "the example of the spec", value)
    good("index-file", sample(outside=True), "the index in a file of its own", value)
    features = {"required": [], "optional": ["thumbnails"]}
    aged = file_table([[DATA, len(sample().data), "data", None]]) | {"age": column([3])}
    good("age", sample(payload={"files": aged}), "a file that a save took over", value)
    good("optional-feature", sample(payload={"features": features}), "one to be ignored", value)
    minor = sample(head=b"\x94\xa9ckptstore\x92\x01\x05", payload={"later": [1, {"a": None}]})
    good("newer-minor", minor, "version 1.5 with a key that 1.0 does not know", value)
    quarters = [struct.pack("<f", number) for number in range(4)]
    row = type_row(*DTENSOR, package="torch", extra=PLACED | {"requires_grad": True})
    good(
        "dtensor",
        Draft(leaf(), [L(shape=(4,), cuts=[[1, 2, 3]], cells=quarters)], [row], head=HEAD_1_1),
        "a DTensor that four processes held, which needs a place to come back to",
        array("float32", [4], b"".join(quarters)),
        needs_like=True,
    )

    def later(tables: dict[str, Any]) -> None:
        tables["signatures"] = {"count": 1}
        tables["spans"]["sha-256"] = bytes(32)
        tables["types"]["module_hash"] = [None]
        tables["leaves"]["layout"] = bytes(1)
        tables["nodes"]["comment"] = "x"
        tables["types"]["extra"] = [{"later": 1}]

    good("unknown-columns", sample(bend=later), "keys and columns of a later version", value)
    good("longer-forms", {**longer_forms()}, "the longest msgpack form of everything", value)

    def wide(tables: dict[str, Any]) -> None:
        tables["nodes"]["kind"] = b"".join(
            node.kind.to_bytes(8, "little") for node in sample().nodes
        )

    good("wide-columns", sample(bend=wide), "a column wider than need be", value)
    cells = [struct.pack("<2i", 0, 1), struct.pack("<i", 2), struct.pack("<4i", 3, 4, 6, 7)]
    cells.append(struct.pack("<2i", 5, 8))
    grid = Draft(leaf(), [L(shape=(3, 3), cuts=[[1], [2]], cells=cells)], dtypes=["int32"])
    whole = array("int32", [3, 3], struct.pack("<9i", *range(9)))
    good("grid", grid, "a leaf cut into four cells", whole)
    backwards = Draft(leaf(), [L(shape=(3, 3), cuts=[[1], [2]], cells=cells)], dtypes=["int32"])
    backwards.spans.reverse()
    good("grid-rows-reversed", backwards, "the rows of the cells in another order", whole)
    cube = bytes(
        range(24)
    )  # 2 x 3 x 4, cut between the planes, and after rows 1, and columns 1 and 3
    spans = [(i, j, k) for i in ((0, 1), (1, 2)) for j in ((0, 1), (1, 3)) for k in BOUNDS]
    boxed = [
        bytes(cube[12 * a + 4 * b + c] for a in range(*i) for b in range(*j) for c in range(*k))
        for i, j, k in spans
    ]
    three = Draft(
        leaf(), [L(shape=(2, 3, 4), cuts=[[1], [1], [1, 3]], cells=boxed)], dtypes=["uint8"]
    )
    good(
        "grid-of-three-axes", three, "a leaf cut along three axes", array("uint8", [2, 3, 4], cube)
    )
    good("two-parts", two_parts(), "spans in two index parts", whole)
    pieces = Draft(leaf(), [L(shape=(6,), data=bytes(range(24)))], dtypes=["int32"])
    a, b = bytes(range(16)), bytes(range(16, 24))
    pieces.spans = [[0, 0, 0, 64, 16, digest(a)], [0, 0, 0, 0, 8, digest(b)]]
    pieces.data = b + bytes(56) + a
    good("two-spans", pieces, "spans of one cell, in the file the other way round",
         array("int32", [6], bytes(range(24))))  # fmt: skip
    nan = struct.pack("<Q", 0x7FF0DEADBEEF0001)
    tree = N(
        Kind.TUPLE,
        [
            none(), true(), N(Kind.INT), integer(-(2**70)), real(-0.0), N(Kind.FLOAT, data=nan),
            N(Kind.COMPLEX, data=struct.pack("<dd", 1.0, -0.0)), text("é"),
            N(Kind.SURROGATE_STR, data=b"a\xed\xa0\x80"), N(Kind.BYTES, data=b"\0\xff"),
            N(Kind.BYTEARRAY, data=b"b"), N(Kind.ELLIPSIS),
            N(Kind.SLICE, [none(), integer(3), none()]),
            N(Kind.RANGE, [integer(0), integer(10), integer(3)]),
        ],
    )  # fmt: skip
    scalars_ = [
        None, True, {"int": "0"}, {"int": str(-(2**70))}, {"float": "-0.0"},
        {"nan": "7ff0deadbeef0001"}, {"complex": ["1.0", "-0.0"]}, "é",
        {"surrogates": "61eda080"}, {"bytes": "00ff"}, {"bytearray": "62"}, {"ellipsis": 0},
        {"slice": [None, {"int": "3"}, None]}, {"range": ["0", "10", "3"]},
    ]  # fmt: skip
    good("scalars", bare(tree), "every kind of scalar", {"tuple": scalars_})
    containers = items(
        items(), N(Kind.TUPLE), entries(), N(Kind.ORDERED_DICT, [text("b"), none()]),
        N(Kind.DEFAULT_DICT, [text("c"), none()], data=b"list"), N(Kind.SET, [integer(1)]),
        N(Kind.FROZENSET, [text("x")]), N(Kind.DEFAULT_DICT),
    )  # fmt: skip
    good("containers", bare(containers), "every kind of container", [
        [], {"tuple": []}, {"dict": []}, {"OrderedDict": [["b", None]]},
        {"defaultdict": [["c", None]], "factory": "list"}, {"set": [{"int": "1"}]},
        {"frozenset": ["x"]}, {"defaultdict": [], "factory": None},
    ])  # fmt: skip
    keys_ = entries(
        integer(1), text("int"), text("1"), text("str"), N(Kind.BYTES, data=b"1"), text("bytes"),
        N(Kind.TUPLE, [integer(1)]), text("tuple"), none(), text("none"), real(0.5), text("float"),
        N(Kind.FLOAT, data=nan), text("nan"), N(Kind.FLOAT, data=nan), text("nan again"),
        nested(Kind.TUPLE, 32, N(Kind.TUPLE)), text("deep"),
    )  # fmt: skip
    deep: Any = {"tuple": []}
    for _ in range(32):
        deep = {"tuple": [deep]}
    good("keys", bare(keys_), "keys of all kinds, two NaN among them", {"dict": [
        [{"int": "1"}, "int"], ["1", "str"], [{"bytes": "31"}, "bytes"],
        [{"tuple": [{"int": "1"}]}, "tuple"], [None, "none"], [{"float": "0.5"}, "float"],
        [{"nan": "7ff0deadbeef0001"}, "nan"], [{"nan": "7ff0deadbeef0001"}, "nan again"],
        [deep, "deep"],
    ]})  # fmt: skip
    shared = items(items(none()), same(1), entries(text("a"), same(1)))
    good("same", bare(shared), "one list in three places",
         [[None], [None], {"dict": [["a", [None]]]}], one_object=[[0], [1], [2, "a"]])  # fmt: skip
    pair = type_row("namedtuple", "hostile", "Pair", ["a", "b"])
    plain = type_row("dataclass", "hostile", "Plain", ["a"])
    color = type_row("enum", "hostile", "Color")
    objects = items(
        record(none(), true()), record(text("x"), type=2),
        N(Kind.ENUM, [text("green")], type=3, data=b"GREEN"), symbol("builtins.int"),
        N(Kind.DTYPE, arg=0),
    )  # fmt: skip
    good("records", bare(objects, pair, plain, color, dtypes=[">int32"]), "classes found by name", [
        {"hostile.Pair": {"a": None, "b": True}}, {"hostile.Plain": {"a": "x"}},
        {"hostile.Color": "GREEN"}, {"builtins": "int"}, {"dtype": ">i4"},
    ])  # fmt: skip
    swapped = type_row("namedtuple", "hostile", "Pair", ["b", "a"])
    good("fields-in-another-order", bare(record(none(), true()), swapped), "fields go by name",
         {"hostile.Pair": {"a": True, "b": None}})  # fmt: skip
    long_text = Draft(N(Kind.STR, arg=1), [L(shape=(5000,), data=b"x" * 5000)], [SCALAR], ["uint8"])
    good("long-text", long_text, "text of 5,000 bytes in a data file", "x" * 5000)
    nothing = Draft(
        items(leaf(0), leaf(1), leaf(2)),
        [
            L(shape=(0, 2**40), data=b""),
            L(shape=(3,), dtype=1, data=b""),
            L(shape=(), data=FLOATS[4:8]),
        ],
        dtypes=["float32", "str[0]"],
    )
    good("no-bytes", nothing, "leaves without bytes, and one without axes", [
        array("float32", [0, 2**40], b""), array("str[0]", [3], b""),
        array("float32", [], FLOATS[4:8]),
    ])  # fmt: skip
    structure = {
        "fields": [
            {"name": "a", "dtype": ">int16", "offset": 0, "later": 1},
            {"name": "b", "dtype": {"base": "uint8", "shape": [2], "later": 1}, "offset": 4},
        ],
        "itemsize": 6, "aligned": False, "record": False, "later": 1,
    }  # fmt: skip
    data = bytes([1, 0, 0, 0, 7, 8])
    good("structure", Draft(leaf(), [L(shape=(1,), data=data)], dtypes=[structure]),
         "a structure with keys of a later version",
         {"structure": {"a": {"array": ">i2", "shape": [1], "bytes": "0001"},
                        "b": {"array": "|u1", "shape": [1, 2], "bytes": "0708"}}})  # fmt: skip
    foreign = Draft(none(), [], [], ["longdouble[double-double]", "clongdouble[binary64]"])
    good("dtype-unused", foreign, "dtypes of other machines that nothing here is of", None)
    big = Draft(leaf(), [L(shape=(2,), data=bytes([1, 0, 2, 0]))], dtypes=[">int16"])
    good("big-endian", big, "little-endian bytes of what was big-endian in memory",
         {"array": ">i2", "shape": [2], "bytes": "00010002"})  # fmt: skip
    metadata = b"\x81\xa1a" + b"\x91" * 32 + b"\xc0"
    good("metadata-33-levels", sample(payload={"metadata": metadata}), "as deep as may be", value)
    last = sample(payload={"time_ms": 253_402_300_799_999, "step": 2**53 - 1})
    good("largest-numbers", last, "the last millisecond of the year 9999", value)
    metrics = {"loss": math.inf, "n": -(2**53 - 1)}
    good("metrics", sample(payload={"metrics": metrics, "step": None}), "no step", value)


def array(dtype: str, shape: Sequence[int], data: bytes) -> dict[str, Any]:
    codes = {"float32": "<f4", "int32": "<i4", "str[0]": "<U0", "uint8": "|u1"}
    return {"array": codes[dtype], "shape": list(shape), "bytes": data.hex()}


def longer_forms() -> Files:
    """Encode the sample with the longest form of every length and int."""

    def pack_long(value: Any) -> bytes:
        if isinstance(value, dict):
            parts = [pack_long(part) for entry in value.items() for part in entry]
            return b"\xdf" + len(value).to_bytes(4, "big") + b"".join(parts)
        if isinstance(value, list):
            return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(pack_long, value))
        if isinstance(value, str):
            return b"\xdb" + len(value.encode()).to_bytes(4, "big") + value.encode()
        if isinstance(value, bytes):
            return b"\xc6" + len(value).to_bytes(4, "big") + value
        if type(value) is int:
            return b"\xcf" + value.to_bytes(8, "big")
        return pack(value)

    files = sample().files()
    payload = msgpack.unpackb(files["MANIFEST"][19:-28])
    payload["index"] = pack_long(sample().tables())
    payload["metadata"] = pack_long({})
    body = HEAD + b"\xc6" + len(pack_long(payload)).to_bytes(4, "big") + pack_long(payload)
    return {**files, "MANIFEST": body + pack_long({"xxh3-128": digest(body)})}


def two_parts() -> Files:
    """Spans of one leaf in the inline part and in an index file."""
    cells = [struct.pack("<2i", 0, 1), struct.pack("<i", 2), struct.pack("<4i", 3, 4, 6, 7)]
    cells.append(struct.pack("<2i", 5, 8))
    draft = Draft(leaf(), [L(shape=(3, 3), cuts=[[1], [2]], cells=cells)], dtypes=["int32"])
    part = pack({"spans": draft.span_table(draft.spans[2:])})
    draft.bend = lambda tables: tables.update(spans=draft.span_table(draft.spans[:2]))
    rows = [
        [DATA, len(draft.data), "data", None],
        [INDEX, len(part), "index", digest(part)],
    ]
    draft.payload = {"files": file_table(rows)}
    return {**draft.files(), INDEX: part}


for _make in (
    manifests, raw_msgpack, payloads, tables_of_files, files_on_disk, index_tables, stored_dtypes,
    trees, keys, references, shapes, spans, classes, adapters, scalars, valid,
):  # fmt: skip
    _make()


def write(case: Case, directory: pathlib.Path) -> None:
    """Write the files of a case, and what is expected of it."""
    directory.mkdir(parents=True)
    for name, content in case.files.items():
        (directory / name).write_bytes(content)
    text_ = json.dumps(case.expect, indent=1, ensure_ascii=False)
    (directory / "expect.json").write_text(text_ + "\n", encoding="utf-8")


def main() -> None:
    for kind, cases in (("valid", VALID), ("invalid", INVALID)):
        shutil.rmtree(ROOT / kind, ignore_errors=True)
        for name, case in sorted(cases.items()):
            write(case, ROOT / kind / name)
    print(f"{len(VALID)} valid, {len(INVALID)} invalid")


if __name__ == "__main__":
    main()

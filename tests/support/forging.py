"""Forged checkpoints: files that follow docs/spec.md, bent in a few places, from one number.

`forge(seed)` makes the files of a checkpoint from nothing. `Parts` takes the files of any
checkpoint apart, so that they can be bent and sealed again with the right digests.
"""

from __future__ import annotations

import copy
import enum
import math
import random
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack

from ckptstore.format import Kind
from tests.conformance import make_conformance as made
from tests.support import independent_reader as ir

N = made.N
Files = dict[str, bytes]
COLUMNS = ("kind", "arity", "type", "arg", "size", "dtype", "ndim", "dims", "grid", "cuts", "leaf",
           "cell", "file", "offset")  # fmt: skip
ODD = [None, True, 0, 1, -1, 2**53, 2**63, 0.5, "", "x", "ü", b"", b"\1", [], ["a"], {}, {"a": 1}]
NUMBERS = [*range(4), 7, 63, 64, 65, 255, 256, *(2**n - d for n in (16, 31, 53) for d in (0, 1))]
TEXTS = [*("", "a", "w", "0", "a.b", "ä", "\0", "x" * 40, "self", "__class__", "_x", "*", "**")]
FIELDS = [text for text in TEXTS if "." not in text]  # a path would read it as two steps
SYMBOLS = [
    *("builtins.int", "builtins.str", "builtins.complex", "numpy.add", "numpy.float32"),
    *("ml_dtypes.bfloat16", "jax.nn.relu", "jax.numpy.tanh", "jax.numpy.float32", "torch.float32"),
    *("torch.strided", "jax.random.key<fry>.dtype", "jax.random.key<rbg>.dtype"),
    *("jax.sharding.PartitionSpec.UNCONSTRAINED", "equinox.nn.MLP.final_activation"),
    *("equinox.nn.WeightNorm.norm", "jax.lax.add", "jax.numpy.linalg.norm", "torch.channels_last"),
]
NO_SYMBOLS = ["os.system", "builtins.eval", "numpy.load", "jax.random.key<>.dtype", "", ".", "a..b",
              "jax.random.key<\ud800>.dtype", "numpy.no", "jax.jit", "torch.load"]  # fmt: skip
FACTORIES = [*ir.FACTORIES_BY_NAME, "eval", "object"]


class Forger:
    """Makes one draft of a checkpoint; the tree is sound, but for what `bend` says."""

    def __init__(self, seed: int, slips: float = 0.01) -> None:
        self.rng = random.Random(seed)
        self.slips = slips
        self.types: list[dict[str, Any]] = []
        self.dtypes: list[Any] = []
        self.leaves: list[made.L] = []

    # --- choices

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def slip(self) -> bool:
        """Say whether to do something wrong here."""
        return self.chance(self.slips)

    def pick(self, choices: Any) -> Any:
        return self.rng.choice(choices)

    def some(self, most: int) -> range:
        return range(min(self.rng.randrange(most + 1), self.rng.randrange(most + 2)))

    # --- types and dtypes

    def type(self, kind: str, module: str, name: str, fields: Any = (), **more: Any) -> int:
        """Return 1 + the row of a type, which is added to the table if it is new."""
        fields = list(fields)
        if self.slip():
            change = self.rng.randrange(4)
            if change == 0:
                kind = self.pick(["namedtuple", "dataclass", "object", "pytree", "enum", "array"])
            elif change == 1:
                module = self.pick(["numpy", "jax", "builtins", "os", "", "torch", "no.such"])
            elif change == 2:
                name = self.pick([name + "x", "", "ndarray", "Array", "a.b", "<locals>.A"])
            elif fields:
                fields[self.rng.randrange(len(fields))] = self.pick(FIELDS)
        extra = more.pop("extra", {})
        if self.slip() or (kind == "object" and self.chance(0.02)):
            own = ["weak", "impl", "committed", "device"] if module in ("jax", "torch") else []
            key = self.pick(["no", *own])
            extra = {**extra, key: self.pick([True, False, "", 1, None])}
        row = made.type_row(kind, module, name, fields, **more, extra=extra)
        if row not in self.types or self.slip():
            self.types.append(row)
        return 1 + self.types.index(row)

    def dtype(self, spec: Any) -> int:
        if spec not in self.dtypes:
            self.dtypes.append(spec)
        return self.dtypes.index(spec)

    def dtype_spec(self, depth: int = 0, sub: bool = False) -> Any:
        """Return a dtype of the format."""
        if self.slip():
            return self.pick(["", "object", ">int8", "void", "str[-1]", 5, None, [], {}])
        roll = self.rng.random()
        if depth < 3 and roll < 0.1:
            return self._structure(depth)
        if sub and roll < 0.2:
            shape = [self.pick([0, 1, 2, 3]) for _ in range(1 + len(self.some(3)))]
            if self.chance(0.05):
                shape = [1] * self.pick([32, 33, 64])
            return {"base": self.dtype_spec(depth + 1, sub), "shape": shape}
        if roll < 0.6:
            name = self.pick([*ir.NUMBERS, "complex64", "complex128"])
        elif roll < 0.75:
            name = self.pick([*ir.FLOATS, *ir.BITS, "complex32", "bcomplex32"])
        elif roll < 0.85:
            name = f"{self.pick(['str', 'bytes', 'void'])}[{self.pick([0, 1, 2, 5])}]"
        elif roll < 0.95:
            unit = self.pick(["", *(f"[{u}]" for u in ir.UNITS.split("|")), "[25s]", "[1D]"])
            name = f"{self.pick(['datetime64', 'timedelta64'])}{unit}"
        else:
            name = f"{self.pick(['', 'c'])}longdouble[{self.pick([*ir.LONGDOUBLES])}]"
        wide = ir.parse(name).size > 1 and not name.startswith(("bytes", "void"))
        return f">{name}" if wide and self.chance(0.15) else name

    def _structure(self, depth: int) -> Any:
        fields, at = [], 0
        names = self.rng.sample(TEXTS, 4) if self.chance(0.2) else ["a", "b", "c", "d"]
        for name in names[: len(self.some(4))]:
            spec, at = self.dtype_spec(depth + 1, sub=True), at + self.pick([0, 0, 0, 1, 7])
            row = {"name": name, "dtype": spec, "offset": at}
            if self.chance(0.05):
                row["title"] = f"title of {name}"
            fields.append(row)
            try:
                at += ir.parse(spec).size
            except ir.SpecError:
                at += 8
        if self.chance(0.1):
            fields.reverse()
        flags = {"aligned": self.chance(0.1), "record": self.chance(0.2)}
        return {"fields": fields, "itemsize": at + self.pick([0, 0, 4]), **flags}

    # --- leaves

    def array(self) -> N:
        """Return the node of an array of any type."""
        roll = self.rng.random()
        extra: dict[str, Any] = {}
        shape, spec = self.shape(), self.dtype_spec()
        if roll < 0.5:
            row = ("numpy", "ndarray")
        elif roll < 0.58:
            row = ("numpy", "recarray")
            if type(spec) is dict and "record" in spec:
                spec["record"] = True  # as numpy makes it
        elif roll < 0.72:
            row, shape = ("numpy", "generic"), [] if not self.slip() else shape
        elif roll < 0.85:
            row = ("jax", "Array")
            extra = {"committed": True} if self.chance(0.3) else {}
            if self.chance(0.1):
                impl = self.pick(["threefry2x32", "rbg", "unsafe_rbg", "no"])
                extra, spec = {**extra, "impl": impl}, "uint32"
                shape = [*shape[:2], 2 if impl == "threefry2x32" else 4]
            elif self.chance(0.03):
                extra["weak"], shape = True, shape[:1]
        else:
            row = self.pick([("torch", "Tensor"), ("torch.nn.parameter", "Parameter")])
            extra = {"requires_grad": True} if self.chance(0.3) else {}
            if self.chance(0.2):
                extra["device"] = self.pick(["cuda:0", "meta", "cpu", "mps:0", "cuda:99999", ""])
            if self.chance(0.1) and row[1] == "Tensor":
                extra["persistent"] = self.chance(0.5)
            if self.chance(0.1):
                row, extra = ("torch.distributed.tensor", "DTensor"), {**extra, **self.layout()}
        if row[0] != "numpy" and not self.chance(0.05) and "impl" not in extra:
            spec = self.pick(["float32", "int32", "bfloat16", "float16", "bool", "int64", "uint8"])
        return self.leaf(row, spec, shape, extra)

    def layout(self) -> dict[str, Any]:
        """Return the mesh and the placements of a DTensor."""
        sizes = [self.pick([1, 2, 4, 2**53 - 1]) for _ in range(1 + len(self.some(2)))]
        mesh = [[f"axis {n}" if self.chance(0.7) else None, size] for n, size in enumerate(sizes)]
        placements = [self.pick([None, 0, 1, 2**53 - 1, [0, 2], [0, 1]]) for _ in sizes]
        if self.slip():
            mesh = self.pick([None, 5, [], ["axis"], [["axis", 0]], [["axis", True]], mesh * 2])
        if self.slip():
            placements = self.pick([None, "Shard(0)", [], [-1], [[0]], [[0, 0]], [1.5], [True]])
        return {"mesh": mesh, "placements": placements}

    def leaf(self, row: tuple[str, str], spec: Any, shape: list[int], extra: Any = None) -> N:
        number = self.type("array", *row, extra=extra or {})
        try:
            size = ir.parse(spec).size
        except ir.SpecError:
            size = 4
        if size * math.prod(shape) > 1 << 14:
            shape = []
        if size > 1 << 14:
            spec, size = "int8", 1
        boxes, cuts = self._cuts(shape, size)
        cells = [self.elements(spec, size, count) for count in boxes]
        self.leaves.append(made.L(number, self.dtype(spec), shape, b"", cuts, cells))
        return N(Kind.LEAF, arg=len(self.leaves) - 1)

    def shape(self) -> list[int]:
        if self.chance(0.02):
            axes = self.pick([31, 32, 33, 63, 64, 64])
            return [self.pick([1, 1, 1, 2]) for _ in range(axes)]
        if self.chance(0.02):
            return [0, self.pick([2**31, 2**40, 2**44])]
        return [self.pick([0, 1, 1, 2, 3, 5]) for _ in self.some(3)]

    def _cuts(self, shape: list[int], size: int) -> tuple[list[int], list[list[int]]]:
        """Return how many elements each cell has, and the cut points of each axis."""
        if not size or not math.prod(shape) or not shape or not self.chance(0.15):
            return [math.prod(shape)], []
        cuts = [
            sorted(self.rng.sample(range(1, n), self.rng.randrange(min(n, 4)))) if n > 1 else []
            for n in shape
        ]
        counts = [1]
        for n, points in zip(shape, cuts, strict=True):
            lengths = [b - a for a, b in zip([0, *points], [*points, n], strict=True)]
            counts = [count * length for count in counts for length in lengths]
        return counts, cuts

    def elements(self, spec: Any, size: int, count: int) -> bytes:
        """Return the bytes of elements, which their dtype can have but for a slip."""
        name = spec.removeprefix(">") if type(spec) is str else ""
        if self.slip() or (spec == name and not name.startswith(("str", *ir.BITS))):
            return self.rng.randbytes(size * count)
        if name in ir.BITS:
            return bytes(b % (1 << ir.BITS[name]) for b in self.rng.randbytes(count))
        if name.startswith("str"):
            points = [self.pick([0, 65, 0xE4, 0x1F600, 0xD800]) for _ in range(size // 4 * count)]
            return struct.pack(f"<{len(points)}I", *points)
        return bytes(size * count)

    # --- scalars and keys

    def scalar(self, key: bool = False) -> N:
        rng = self.rng
        kind = self.pick(
            [Kind.NONE, Kind.BOOL, Kind.INT, Kind.INT, Kind.FLOAT, Kind.COMPLEX, Kind.STR, Kind.STR,
             Kind.SURROGATE_STR, Kind.BYTES, Kind.ELLIPSIS]
        )  # fmt: skip
        if not key and self.chance(0.2):
            kind = self.pick([Kind.BYTEARRAY, Kind.SYMBOL, Kind.DTYPE, Kind.RANGE, Kind.SLICE])
        if kind == Kind.BOOL:
            return N(kind, arg=rng.randrange(2))
        if kind == Kind.INT:
            return made.integer(self.pick([0, 1, -1, 2, 255, -129, 2**70, rng.getrandbits(40)]))
        if kind == Kind.FLOAT:
            odd = [0.0, -0.0, 1.0, math.inf]
            return N(kind, data=self.pick([*(struct.pack("<d", x) for x in odd), rng.randbytes(8)]))
        if kind == Kind.COMPLEX:
            return N(kind, data=self.pick([bytes(16), rng.randbytes(16), bytes(15) + b"\x80"]))
        if kind == Kind.STR:
            data = self.pick(TEXTS).encode() if not self.slip() else rng.randbytes(3)
            return N(kind, data=data) if not self.chance(0.03) else self.long(kind, data * 200)
        if kind == Kind.SURROGATE_STR:
            data = (
                b"\xed\xa0" if self.slip() else self.pick([b"\xed\xa0\x80", b"a\xed\xbf\xbf", b"x"])
            )
            return N(kind, data=data)
        if kind in (Kind.BYTES, Kind.BYTEARRAY):
            data = rng.randbytes(len(self.some(6)))
            return N(kind, data=data) if not self.chance(0.05) else self.long(kind, data)
        if kind == Kind.SYMBOL:
            name = self.pick(NO_SYMBOLS if self.slip() else SYMBOLS)
            return N(kind, data=name.encode("utf-8", "surrogatepass"))
        if kind == Kind.DTYPE:
            return N(kind, arg=self.dtype(self.dtype_spec(sub=True)))
        if kind == Kind.RANGE:
            return N(kind, [made.integer(n) for n in (0, rng.randrange(9), 1 - self.slip())])
        if kind == Kind.SLICE:
            return N(kind, [self.scalar(), self.scalar(key=True), made.none()])
        return N(kind)

    def long(self, kind: Kind, data: bytes) -> N:
        """Return a scalar whose bytes are a leaf."""
        number = self.type("array", "ckptstore", "scalar")
        self.leaves.append(made.L(number, self.dtype("uint8"), [len(data)], data))
        return N(kind, arg=len(self.leaves))

    def key(self, depth: int = 0) -> N:
        roll = self.rng.random()
        if depth < 4 and roll < 0.12:
            kind = self.pick([Kind.TUPLE, Kind.TUPLE, Kind.FROZENSET])
            return N(kind, [self.key(depth + 1) for _ in self.some(3)])
        if roll < 0.16:
            return self.member()
        return self.scalar(key=True) if roll < 0.6 else made.text(self.pick(TEXTS))

    def text_keys(self, make: Callable[[], N], most: int = 3) -> list[N]:
        names = self.rng.sample(TEXTS, len(self.some(most)))
        return [node for name in names for node in (made.text(name), make())]

    # --- records

    def member(self) -> N:
        """Return a member of an Enum of this process, by its value and its name."""
        cls = self.pick(enums())
        member = self.pick([*cls]) if len(cls) else None
        value = getattr(member, "value", 0)
        node = made.integer(value) if type(value) is int else made.text(value)
        name = getattr(member, "name", "") or ""
        if self.slip():
            node, name = self.scalar(key=True), self.pick([name, *TEXTS])
        number = self.type("enum", cls.__module__, cls.__qualname__)
        return N(Kind.ENUM, [node], number, data=name.encode())

    def record(self, depth: int) -> N:
        roll = self.rng.random()
        if roll < 0.35:
            kind, cls, fields = self.pick(classes())
            number = self.type(kind, cls.__module__, cls.__qualname__, fields)
            children = [self.node(depth + 1) for _ in fields]
        elif roll < 0.4:
            fields = self.rng.sample(FIELDS, len(self.some(3)))
            kind = self.pick(["namedtuple", "dataclass", "pytree", "object"])
            number = self.type(kind, self.pick(["project", "__main__", "jax", "tests"]), "State",
                               [] if kind == "pytree" else fields)  # fmt: skip
            children = [self.node(depth + 1) for _ in fields or [0]]
        else:
            module, name, fields = self.pick(OBJECTS)
            number = self.type("object", module, name, [f for f, _ in fields])
            children = [
                self.node(depth + 1) if self.chance(3 * self.slips) else make(self, depth + 1)
                for _, make in fields
            ]
        if self.slip():
            children = children[:-1] if children else [made.none()]
        return N(Kind.RECORD, children, number)

    # --- the tree

    def node(self, depth: int = 0) -> N:
        roll = self.rng.random()
        if self.slip():
            return N(self.pick([*Kind, 15, 27, 43, 255]), [], self.pick([0, 1, 2]),
                     self.pick(NUMBERS), self.rng.randbytes(len(self.some(4))))  # fmt: skip
        if depth and roll < 0.08:
            return N(Kind.SAME, arg=-1)  # its target is chosen when all nodes are there
        if depth and roll < 0.09:
            return N(Kind.SUPPLIED, data=self.pick(TEXTS).encode())
        if depth > 4 or roll < 0.3:
            return self.scalar()
        if roll < 0.5:
            return self.array()
        if roll < 0.7:
            return self.record(depth)
        return self.container(depth)

    def container(self, depth: int) -> N:
        kind = self.pick(
            [Kind.LIST, Kind.LIST, Kind.TUPLE, Kind.DICT, Kind.DICT, Kind.ORDERED_DICT,
             Kind.DEFAULT_DICT, Kind.SET, Kind.FROZENSET]
        )  # fmt: skip
        if kind in (Kind.LIST, Kind.TUPLE):
            return N(kind, [self.node(depth + 1) for _ in self.some(4)])
        if kind in (Kind.SET, Kind.FROZENSET):
            return N(kind, [self.key() for _ in self.some(4)])
        data = self.pick(FACTORIES if self.slip() else FACTORIES[:-2]).encode()
        children = [c for _ in self.some(4) for c in (self.key(), self.node(depth + 1))]
        return N(kind, children, data=data if kind == Kind.DEFAULT_DICT else b"")

    def draft(self) -> Draft:
        root = self.container(0) if self.chance(0.7) else self.node(0)
        nodes = list(made.flat(root))
        self._bend_nodes(nodes)
        self._point(nodes)
        held = [node.arg for node in nodes if node.kind == Kind.LEAF]
        long = [n.arg - 1 for n in nodes if n.kind in BLOBS and n.arg]
        keep = sorted({*held, *long} & {*range(len(self.leaves))})
        if len(keep) < len(self.leaves) and not self.slip():  # a slip dropped the node of a leaf
            for node in nodes:
                if node.kind == Kind.LEAF and node.arg in keep:
                    node.arg = keep.index(node.arg)
                elif node.kind in BLOBS and node.arg - 1 in keep:
                    node.arg = 1 + keep.index(node.arg - 1)
            self.leaves = [self.leaves[i] for i in keep]
        return Draft(self, nodes)

    def _bend_nodes(self, nodes: list[N]) -> None:
        for node in nodes if self.chance(10 * self.slips) else ():
            if self.chance(0.1):
                part = self.pick(["kind", "type", "arg", "data"])
                value = self.rng.randbytes(3) if part == "data" else self.pick(NUMBERS[:8])
                setattr(node, part, value)

    def _point(self, nodes: list[N]) -> None:
        """Point every SAME node at an earlier node that may be pointed at, if there is one."""
        end = list(range(1, len(nodes) + 1))
        for i in reversed(range(len(nodes))):
            child = i + 1
            for _ in nodes[i].children:
                if child < len(nodes):
                    child = end[child]
            end[i] = child
        inside = keys_of(nodes, end)
        for i, node in enumerate(nodes):
            node.arg = node.arg if node.kind == Kind.SAME else max(node.arg, 0)
            if node.arg == -1:
                fit = [j for j in range(i) if end[j] <= i and nodes[j].kind in SHARED]
                fit = [j for j in fit if j not in inside]
                if not fit:
                    node.kind, node.arg = Kind.NONE, 0
                    continue
                node.arg = self.pick(fit) if not self.slip() else self.rng.randrange(len(nodes))


BLOBS = (Kind.INT, Kind.STR, Kind.SURROGATE_STR, Kind.BYTES, Kind.BYTEARRAY)
SHARED = (*(Kind.LIST, Kind.TUPLE, Kind.DICT, Kind.ORDERED_DICT, Kind.DEFAULT_DICT, Kind.SET),
          *(Kind.FROZENSET, Kind.RECORD, Kind.LEAF, Kind.BYTEARRAY))  # fmt: skip


def keys_of(nodes: list[N], end: list[int]) -> set[int]:
    """Return the nodes in keys, set items and values of enums."""
    inside: set[int] = set()
    for i, node in enumerate(nodes):
        child = i + 1
        for number in range(len(node.children)):
            hashed = number % 2 == 0 if node.kind in DICTS else node.kind in HASHED
            if hashed and child < len(nodes):
                inside.update(range(child, end[child]))
            child = end[child] if child < len(nodes) else child
    return inside


DICTS = (Kind.DICT, Kind.ORDERED_DICT, Kind.DEFAULT_DICT)
HASHED = (Kind.SET, Kind.FROZENSET, Kind.ENUM)


class Draft(made.Draft):
    """The draft of a forger, whose cells may be cut into spans and lie in several files."""

    def __init__(self, forger: Forger, nodes: list[N]) -> None:
        self.forger = forger
        super().__init__(nodes, forger.leaves, forger.types, forger.dtypes)

    def parts(self) -> Parts:
        parts = Parts.of({**self.files()})
        rng = self.forger.rng
        table = parts.index[0]
        if rng.random() < 0.2:
            parts.index = [{k: v for k, v in table.items() if k != "spans"}]
            parts.index[0]["spans"] = self.span_table([])
            parts.index.append({"spans": table["spans"]})
            if rng.random() < 0.5:
                parts.index.reverse()
        parts.inline = rng.random() < 0.8
        return parts

    def _place(self) -> tuple[bytes, list[list[Any]]]:
        rng = self.forger.rng
        data, spans = bytearray(), []
        for number, leaf in enumerate(self.leaves):
            for cell, piece in enumerate(leaf.cells or [leaf.data]):
                while piece:
                    size = rng.randrange(1, len(piece) + 1) if rng.random() < 0.1 else len(piece)
                    data += bytes(-len(data) % 64)
                    spans.append([number, cell, 0, len(data), size, made.digest(piece[:size])])
                    data += piece[:size]
                    piece = piece[size:]
        return bytes(data), spans


# --- the records that adapters make ---------------------------------------------------------------


def _int(low: int, high: int) -> Any:
    return lambda f, depth: made.integer(f.rng.randint(low, high))


def _tuple(make: Any, most: int = 3) -> Any:
    return lambda f, depth: N(Kind.TUPLE, [make(f, depth) for _ in f.some(most)])


def _names(kind: Kind = Kind.DICT) -> Any:
    return lambda f, depth: N(kind, f.text_keys(lambda: f.node(depth)))


def _text(*choices: str) -> Any:
    return lambda f, depth: made.text(f.pick(choices or TEXTS))


def _either(*makers: Any) -> Any:
    return lambda f, depth: f.pick(makers)(f, depth)


def _none(f: Forger, depth: int) -> N:
    return made.none()


def _any(f: Forger, depth: int) -> N:
    return f.node(depth)


def _bool(f: Forger, depth: int) -> N:
    return N(Kind.BOOL, arg=f.rng.randrange(2))


def _symbol(f: Forger, depth: int) -> N:
    return N(Kind.SYMBOL, data=f.pick(SYMBOLS).encode())


def _dict(f: Forger, depth: int) -> N:
    return N(Kind.DICT, [c for _ in f.some(3) for c in (f.key(), f.node(depth))])


def _texts(f: Forger, depth: int) -> N:
    return N(Kind.FROZENSET, [made.text(name) for name in f.rng.sample("xyz", len(f.some(2)))])


def _nested(f: Forger, depth: int) -> N:
    """Return a dict of what a mapping of Haiku may hold."""

    def below() -> N:
        if depth < 5 and f.chance(0.2):
            return _nested(f, depth + 1)
        if f.chance(0.2):
            return N(f.pick([Kind.LIST, Kind.TUPLE]), [f.scalar(key=True) for _ in f.some(2)])
        return f.array() if f.chance(0.5) else f.scalar(key=True)

    return N(Kind.DICT, f.text_keys(below))


def _object_keys(f: Forger) -> list[N]:
    """Return keys of which one at least is a scalar of numpy."""

    def number(f: Forger, depth: int) -> N:
        return f.leaf(("numpy", "generic"), f.pick(["int64", "float32", "bool", "int8"]), [])

    def pair(f: Forger, depth: int) -> N:
        return N(Kind.TUPLE, [number(f, depth), f.key()])

    makers = [lambda f, depth: f.key(), number, pair, _delta, _symbol]
    return [f.pick(makers)(f, 0) for _ in (0, *f.some(2))]


def _objects(f: Forger, depth: int) -> N:
    return N(Kind.DICT, [c for key in _object_keys(f) for c in (made.text(f.pick(TEXTS)), key)])


def _masked(part: str) -> Any:
    def make(f: Forger, depth: int) -> N:
        shape = [2, 3]  # the parts fit together
        spec = "bool" if part == "mask" else "float64"
        return f.leaf(("numpy", "ndarray"), spec, [] if part == "fill" else shape)

    return make


def _partial(f: Forger, depth: int) -> N:
    number = f.type("object", "functools", "partial", [name for name, _ in _PARTIAL])
    return N(Kind.RECORD, [make(f, depth + 1) for _, make in _PARTIAL] if depth < 8 else [], number)


def _delta(f: Forger, depth: int) -> N:
    number = f.type("object", "datetime", "timedelta", ["days", "seconds", "microseconds"])
    seconds = f.pick([0, 3600, 5400, 86399, 86400])
    numbers = [f.pick([0, 0, -1]), seconds, 0]
    return N(Kind.RECORD, list(map(made.integer, numbers)), number)


def _zone(f: Forger, depth: int) -> N:
    number = f.type("object", "datetime", "timezone", ["offset", "name"])
    return N(Kind.RECORD, [_delta(f, depth), f.pick([_none, _text("UTC", "x")])(f, depth)], number)


def _metadata(f: Forger, depth: int) -> N:
    odd = ["hijax", "ref", "value", "sharding", "mesh", "eager_sharding", "on_get_value", "_x", "a"]
    names = f.rng.sample(odd, len(f.some(3)))
    return N(Kind.DICT, [c for name in names for c in (made.text(name), _bool(f, depth))])


def _options(f: Forger, depth: int) -> N:
    names = f.rng.sample(["locked", "type_safe", "convert_dict", "no"], len(f.some(3)))
    return N(Kind.DICT, [c for name in names for c in (made.text(name), _bool(f, depth))])


def _real(f: Forger, depth: int) -> N:
    return made.real(f.rng.random())


def _words(f: Forger, depth: int) -> N:
    return f.leaf(("numpy", "ndarray"), f.pick(["uint32", "uint32", "int64"]), [f.pick([624, 3])])


def _seeds(f: Forger, depth: int) -> N:
    fields = ["entropy", "spawn_key", "pool_size", "n_children_spawned"]
    number = f.type("object", "numpy.random", "SeedSequence", fields)
    parts = [made.integer(f.rng.getrandbits(70)), N(Kind.TUPLE), made.integer(4), made.integer(0)]
    return N(Kind.RECORD, parts, number)


def _pcg(f: Forger, depth: int) -> N:
    def entries(**values: N) -> N:
        return N(Kind.DICT, [c for name in values for c in (made.text(name), values[name])])

    numbers = [made.integer(f.rng.getrandbits(f.pick([8, 128, 129])) | 1) for _ in range(2)]
    inner = entries(state=numbers[0], inc=numbers[1])
    return entries(state=inner, has_uint32=made.integer(0), uinteger=made.integer(f.pick([0, -1])))


def _bits(f: Forger, depth: int) -> N:
    number = f.type("object", "numpy.random", "PCG64", ["seeds", "state"])
    return N(Kind.RECORD, [_seeds(f, depth), _pcg(f, depth)], number)


_DATE = [("year", _int(0, 10000)), ("month", _int(0, 13)), ("day", _int(1, 31))]
_TIME = [("hour", _int(0, 24)), ("minute", _int(0, 60)), ("second", _int(0, 60)),
         ("microsecond", _int(0, 999999)), ("fold", _int(0, 1))]  # fmt: skip
_FUNCTION = _either(_symbol, _symbol, _any, lambda f, depth: _partial(f, depth))
_PARTIAL = [("func", _FUNCTION), ("args", _tuple(_any)), ("keywords", _names())]
_VARIABLE = [("value", _any), ("metadata", _metadata)]
_AXIS = _either(_none, _text("x", "y"), _tuple(_text("x", "y")), _symbol)
OBJECTS: list[tuple[str, str, list[tuple[str, Any]]]] = [
    ("numpy.ma", "MaskedArray", [("data", _masked("data")), ("hard_mask", _bool),
     ("mask", _either(_none, _masked("mask"))), ("fill_value", _either(_none, _masked("fill")))]),
    ("jax.tree_util", "Partial", _PARTIAL),
    ("functools", "partial", _PARTIAL),
    ("jax.sharding", "PartitionSpec", [("partitions", _tuple(_AXIS)), ("unreduced", _texts),
     ("reduced", _texts)]),
    ("jax", "ShapeDtypeStruct", [("shape", _tuple(_int(0, 5))), ("dtype", _either(
        lambda f, d: N(Kind.DTYPE, arg=f.dtype(f.dtype_spec())), _symbol)), ("weak_type", _bool)]),
    ("collections", "Counter", [("counts", _dict)]),
    ("collections", "OrderedDict with attributes", [("items", _names(Kind.ORDERED_DICT)),
     ("attributes", _names())]),
    ("collections", "deque", [("items", lambda f, d: N(Kind.LIST, [f.node(d) for _ in f.some(3)])),
     ("maxlen", _either(_none, _int(0, 9)))]),
    ("builtins", "dict with objects as keys", [("items", _names()), ("objects", _objects)]),
    ("builtins", "set of objects", [("items", lambda f, d: N(Kind.LIST, _object_keys(f)))]),
    ("builtins", "frozenset of objects", [("items", lambda f, d: N(Kind.LIST, _object_keys(f)))]),
    ("pathlib", "PosixPath", [("path", _text("/a/b", "a", ".", "a/../b", "/"))]),
    ("pathlib", "PurePosixPath", [("path", _text("/a/b", "a", "a//b", "a\0b"))]),
    ("argparse", "Namespace", [("attributes", _names())]),
    ("types", "SimpleNamespace", [("attributes", _names())]),
    ("datetime", "date", _DATE),
    ("datetime", "datetime", [*_DATE, *_TIME, ("tzinfo", _either(_none, _zone))]),
    ("omegaconf.dictconfig", "DictConfig", [("content", _either(_none, _names(), _dict)),
     ("flags", _options), ("typed", _bool), ("optional", _bool)]),
    ("ml_collections.config_dict.config_dict", "ConfigDict", [("fields", _names()),
     ("options", _options)]),
    ("ml_collections.config_dict.config_dict", "FieldReference", [("value", _any),
     ("type", _text("int", "str", "eval", "list")), ("required", _bool)]),
    ("decimal", "Decimal", [("value", _text("0.1", "NaN7", "-0", "1E+9999999", "x"))]),
    ("fractions", "Fraction", [("numerator", _int(-9, 9)), ("denominator", _int(-1, 9))]),
    ("uuid", "UUID", [("int", _int(0, 2**129)), ("is_safe", _text("safe", "unknown", "no"))]),
    ("ipaddress", "IPv4Address", [("address", _text("1.2.3.4", "1.2.3"))]),
    ("ipaddress", "IPv6Network", [("address", _text("::/8", "::1/8", "x"))]),
    ("zoneinfo", "ZoneInfo", [("key", _text("UTC", "Europe/Berlin", "Europe", "../x", "/etc"))]),
    ("random", "Random", [("words", _words), ("position", _int(-1, 625)),
     ("gauss_next", _either(_none, _real))]),
    ("numpy.random", "SeedSequence", [("entropy", _either(_int(0, 2**200), _tuple(_int(0, 9)))),
     ("spawn_key", _tuple(_int(0, 9))), ("pool_size", _int(3, 70)),
     ("n_children_spawned", _int(0, 3))]),
    ("numpy.random", "PCG64", [("seeds", _seeds), ("state", _pcg)]),
    ("numpy.random", "Generator", [("bit_generator", _bits)]),
    ("numpy.random", "RandomState", [("bit_generator", _bits), ("has_gauss", _int(0, 2)),
     ("gauss", _real)]),
    ("torch", "Generator", [("device", _text("cpu", "cuda:0", "meta", "cpu:1")),
     ("state", lambda f, d: f.leaf(("torch", "Tensor"), "uint8", [f.pick([0, 8, 5056])]))]),
    ("datetime", "time", [*_TIME, ("tzinfo", _either(_none, _zone))]),
    ("datetime", "timedelta", [("days", _int(-9, 10**9)), ("seconds", _int(0, 86399)),
     ("microseconds", _int(0, 999999))]),
    ("datetime", "timezone", [("offset", _delta), ("name", _either(_none, _text()))]),
    ("torch", "Size", [("dims", _tuple(_int(-1, 2**40)))]),
    ("torch", "device", [("name", _text("cpu", "cuda:0", "meta", "no", "cuda:-1"))]),
    ("flax.core.frozen_dict", "FrozenDict", [("mapping", _either(_names(), _dict))]),
    ("flax.nnx.statelib", "State", [("mapping", _either(_names(), _dict))]),
    ("flax.nnx.statelib", "FlatState", [
        ("keys", lambda f, d: N(Kind.TUPLE, [N(Kind.TUPLE, [made.text("a")])])),
        ("values", lambda f, d: N(Kind.LIST, [f.node(d)]))]),
    ("flax.nnx.variablelib", "Param", _VARIABLE),
    ("flax.nnx.variablelib", "BatchStat", _VARIABLE),
    ("flax.nnx.variablelib", "Variable", _VARIABLE),
    ("equinox.nn._stateful", "State", [("state", _either(_names(), _dict))]),
    ("equinox.nn._shared", "SharedNode", []),
    ("haiku._src.data_structures", "FlatMap", [("mapping", _nested)]),
    ("haiku._src.base", "PRNGSequence", [("key", _any), ("subkeys", _tuple(_any))]),
]  # fmt: skip


# --- the classes of this process ------------------------------------------------------------------

_FOUND: dict[str, list[Any]] = {}


def _bindings() -> Iterator[type]:
    """Give the classes that the modules of this process bind by their own names."""
    for module in sorted(sys.modules):
        space = getattr(sys.modules[module], "__dict__", {})
        for name in sorted(n for n in space if type(n) is str):
            cls = space[name]
            is_class = issubclass(type(cls), type)  # isinstance would ask a proxy
            named = is_class and cls.__dict__.get("__module__") == module
            ours = module == "__main__" or module.startswith("ckptstore.")
            if named and cls.__qualname__ == name and not ours:
                yield cls


def enums() -> list[Any]:
    """Return Enums of ints and strs; the same in each process that imports the same modules."""
    if "enums" not in _FOUND:
        _FOUND["enums"] = [
            cls
            for cls in _bindings()
            if isinstance(cls, enum.EnumType)
            and all(type(value) in (int, str) for value in cls._value2member_map_)
            and len(cls._value2member_map_) > 0
        ]
    return _FOUND["enums"]


def classes() -> list[Any]:
    """Return NamedTuples and dataclasses, each with its kind and fields."""
    if "classes" not in _FOUND:
        found = []
        for cls in _bindings():
            fields = cls.__dict__.get("_fields")
            if issubclass(cls, tuple) and type(fields) is tuple:
                found.append(("namedtuple", cls, fields))
            elif type(own := cls.__dict__.get("__dataclass_fields__")) is dict:
                found.append(("dataclass", cls, tuple(own)))
        _FOUND["classes"] = found
    return _FOUND["classes"]


# --- files, apart and together --------------------------------------------------------------------


@dataclass
class Parts:
    """A checkpoint whose msgpack is unpacked; `files` packs it again with the right digests."""

    payload: dict[str, Any]
    index: list[Any]
    data: Files
    inline: bool = True
    head: bytes = made.HEAD
    cuts: list[Callable[[bytes], bytes]] = field(default_factory=list)

    @classmethod
    def of(cls, files: Files) -> Parts:
        """Take the files of a sound checkpoint apart."""
        manifest = files["MANIFEST"]
        payload = msgpack.unpackb(manifest[19 : 19 + int.from_bytes(manifest[15:19], "big")])
        names, roles = payload["files"]["name"], payload["files"]["role"]
        packed = [payload["index"]] if payload["index"] is not None else []
        packed += [files[name] for name, role in zip(names, roles, strict=True) if role == "index"]
        data = {n: files[n] for n, role in zip(names, roles, strict=True) if role == "data"}
        index = [msgpack.unpackb(part) for part in packed]
        return cls(payload, index, data, payload["index"] is not None)

    def files(self) -> Files:
        """Pack everything; a value that msgpack cannot hold raises ValueError."""
        attempt = self.payload.get("attempt")
        rows: list[list[Any]] = [[n, len(c), "data", None] for n, c in self.data.items()]
        out = dict(self.data)
        packed = [self._pack(part) for part in self.index]
        inline = packed.pop(0) if self.inline and packed else None
        for number, part in enumerate(packed):
            name = f"index-{attempt}-0-{number}.bin"
            rows.append([name, len(part), "index", made.digest(part)])
            out[name[:200].replace("/", "_").replace("\0", "_")] = part
        payload = {"files": made.file_table(rows), "index": inline}
        over = self.payload.get("over", {})
        payload = {k: payload.get(k, v) for k, v in self.payload.items() if k != "over"} | over
        return {"MANIFEST": made.seal(self._pack(payload), self.head), **out}

    def _pack(self, value: Any) -> bytes:
        packed = made.pack(value)
        for cut in self.cuts:
            packed = cut(packed)
        return packed


def bend(parts: Parts, rng: random.Random) -> None:
    """Change one place of a checkpoint that is taken apart."""
    roll = rng.random()
    if roll < 0.6 and parts.index:
        bend_table(rng.choice(parts.index), rng)
    elif roll < 0.7:
        bend_table(parts.payload, rng)
    elif roll < 0.78:
        table = made.file_table([[n, len(c), "data", None] for n, c in parts.data.items()])
        bend_table(table, rng)
        parts.payload["over"] = {"files": table}
    elif roll < 0.86 and parts.data:
        name = rng.choice(sorted(parts.data))
        parts.data[name] = bend_bytes(parts.data[name], rng)
    elif roll < 0.9:
        parts.payload["metadata"] = made.pack(_odd(rng))
    elif roll < 0.94 and len(parts.index) == 1:
        parts.index.append(rng.choice([{}, parts.index[0], {"spans": parts.index[0].get("spans")}]))
    else:
        seed = rng.getrandbits(32)
        parts.cuts.append(lambda packed: bend_bytes(packed, random.Random(seed)))


def bend_table(table: Any, rng: random.Random) -> None:
    """Change a value somewhere inside."""
    holders, todo = [], [table]
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list) and value:
            holders.append(value)
            todo += value.values() if type(value) is dict else value
    if not holders:
        return
    holder = rng.choice(holders)
    key: Any = rng.choice(sorted(holder)) if type(holder) is dict else rng.randrange(len(holder))
    value, roll = holder[key], rng.random()
    if type(value) is bytes and value and roll < 0.75:
        holder[key] = _bend_column(value, rng) if key in COLUMNS else bend_bytes(value, rng)
    elif roll < 0.1:
        del holder[key]
    elif type(value) is int and roll < 0.8:
        holder[key] = rng.choice([value + 1, value - 1, *NUMBERS])
    elif type(value) is str and roll < 0.8:
        holder[key] = rng.choice([value + "x", value[1:], *TEXTS])
    elif type(value) is list and roll < 0.5:
        value.extend(value[:1] if roll < 0.2 else [_odd(rng)])
    else:
        holder[key] = _odd(rng)


def _bend_column(column: bytes, rng: random.Random) -> bytes:
    """Change a number of an integer column of any width."""
    width = rng.choice([w for w in (1, 2, 4, 8) if len(column) % w == 0])
    at = rng.randrange(len(column) // width) * width
    value = int.from_bytes(column[at : at + width], "little")
    new = rng.choice([value + 1, value - 1, 0, 1, 2, 40, 41, 22, 30, *NUMBERS]) % 256**width
    return column[:at] + new.to_bytes(width, "little") + column[at + width :]


def bend_bytes(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return rng.randbytes(1)
    at, roll = rng.randrange(len(data)), rng.random()
    if roll < 0.5:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if roll < 0.7:
        return data[:at]
    if roll < 0.85:
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
    return data[:at] + data[at + rng.randrange(1, 9) :]


def _odd(rng: random.Random) -> Any:
    value: Any = copy.deepcopy(rng.choice(ODD))
    for _ in range(rng.choice([0, 0, 0, 1, 2, 33, 70])):
        value = [value] if rng.random() < 0.5 else {"k": value}
    return value


def forge(seed: int) -> Files:
    """Return the files of the checkpoint that belongs to a number."""
    rng = random.Random(f"bend {seed}")
    slips = rng.choice([0.0, 0.0, 0.003, 0.01, 0.03])
    parts = Forger(seed, slips).draft().parts()
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        bend(parts, rng)
    return sealed(parts)


def sealed(parts: Parts) -> Files:
    """Pack the files; what msgpack cannot hold is left out."""
    try:
        return parts.files()
    except (ValueError, OverflowError, TypeError, AttributeError):
        return {"MANIFEST": made.HEAD}

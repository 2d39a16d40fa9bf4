"""The index: the tables of types, dtypes, nodes, leaves and spans. Spec: section 5.

The tree is a flat table of nodes in preorder with child counts. Integer tables are NumPy columns,
so a million rows are checked in a second.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptstore.digests import Digest
from ckptstore.errors import CorruptError, Reason
from ckptstore.format import dtypes, wire
from ckptstore.format.fields import Fields
from ckptstore.format.wire import DIGEST, MAX_DEPTH, MAX_ELEMENTS
from ckptstore.texts import shown

INDEX_MAX_NBYTES = 1 << 31
TREE_MAX_DEPTH = 10_000
KEY_MAX_DEPTH = 32
SPAN_MAX_NBYTES = 64 << 20
SMALL_ALIGNMENT = 64
LARGE_ALIGNMENT = 4096
LARGE_NBYTES = 1 << 20

Integers = wire.Integers


class Kind(enum.IntEnum):
    """The kind of a node. Spec: section 5.3."""

    NONE = 0
    BOOL = 1
    INT = 2
    FLOAT = 3
    COMPLEX = 4
    STR = 5
    SURROGATE_STR = 6
    BYTES = 7
    BYTEARRAY = 8
    ELLIPSIS = 9
    SLICE = 10
    RANGE = 11
    ENUM = 12
    SYMBOL = 13
    DTYPE = 14
    LIST = 20
    TUPLE = 21
    DICT = 22
    ORDERED_DICT = 23
    DEFAULT_DICT = 24
    SET = 25
    FROZENSET = 26
    RECORD = 30
    LEAF = 40
    SAME = 41
    SUPPLIED = 42


DICT_KINDS = (Kind.DICT, Kind.ORDERED_DICT, Kind.DEFAULT_DICT)
BLOB_KINDS = (Kind.INT, Kind.STR, Kind.SURROGATE_STR, Kind.BYTES, Kind.BYTEARRAY)
"""Kinds of scalars that may be long enough to be leaves."""


class TypeKind(enum.StrEnum):
    """The kind of a row of the table of types. Spec: section 5.1.

    Example:
        >>> TypeKind.NAMEDTUPLE == "namedtuple"
        True
    """

    NAMEDTUPLE = "namedtuple"
    DATACLASS = "dataclass"
    OBJECT = "object"
    PYTREE = "pytree"
    ENUM = "enum"
    ARRAY = "array"


@dataclass(frozen=True, slots=True)
class TypeRow:
    """One type: the module that defines it, and everything needed to find it again.

    Example:
        >>> str(TypeRow(TypeKind.ARRAY, "jax", "Array"))
        'jax.Array'

    Source: docs/adapters.md; docs/spec.md, section 5.1.
    """

    kind: str
    module: str
    name: str
    binding: str | None = None
    main: str | None = None
    fields: tuple[str, ...] = ()
    package: str | None = None
    version: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.module}.{self.binding or self.name}"

    def __format__(self, spec: str) -> str:  # in messages; `str` does not cut or escape
        return format(shown(str(self)), spec)


@dataclass(frozen=True, slots=True)
class Nodes:
    """The tree in preorder. `heap` joins the `size` bytes of each node, in order."""

    kind: Integers
    arity: Integers
    type: Integers
    arg: Integers
    size: Integers
    heap: bytes

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True, slots=True)
class Leaves:
    """Arrays. `dims` and `grid` join the `ndim` numbers of each array; `cuts` joins inner cuts."""

    type: Integers
    dtype: Integers
    ndim: Integers
    dims: Integers
    grid: Integers
    cuts: Integers

    def __len__(self) -> int:
        return len(self.type)


@dataclass(frozen=True, slots=True)
class Spans:
    """Pieces of cells in data files; the pieces of one cell stand in order."""

    leaf: Integers
    cell: Integers
    file: Integers
    offset: Integers
    size: Integers
    digests: Sequence[Digest]

    def __len__(self) -> int:
        return len(self.leaf)


@dataclass(frozen=True)
class Index:
    """All tables of a checkpoint."""

    types: Sequence[TypeRow]
    dtypes: Sequence[dtypes.Stored]
    nodes: Nodes
    leaves: Leaves
    spans: Spans

    def shape(self, leaf: int) -> tuple[int, ...]:
        """Return the shape of one leaf."""
        return tuple(self._dims[self._ends[leaf] : self._ends[leaf + 1]])

    @functools.cached_property
    def _dims(self) -> list[int]:
        dims: list[int] = self.leaves.dims.tolist()
        return dims

    @functools.cached_property
    def _ends(self) -> list[int]:
        return [0, *itertools.accumulate(self.leaves.ndim.tolist())]


def _integer_columns(table: type) -> tuple[str, ...]:
    return tuple(row.name for row in dataclasses.fields(table) if row.type == "Integers")


_TYPE_COLUMNS = tuple(row.name for row in dataclasses.fields(TypeRow))
_NODE_COLUMNS = _integer_columns(Nodes)
_LEAF_COLUMNS = _integer_columns(Leaves)[:3]  # the others do not hold one number for each leaf
_SPAN_COLUMNS = _integer_columns(Spans)


def encode_index(index: Index) -> bytes:
    """Return the msgpack map of all tables; the digests of the spans are its last bytes."""
    leaves = index.leaves
    leaf_table = {
        "count": len(leaves),
        **_pack_columns(leaves, _LEAF_COLUMNS),
        "dims": wire.pack_integers(leaves.dims),
    }
    if leaves.cuts.size:
        leaf_table |= {**_pack_columns(leaves, ("grid", "cuts")), "cut_count": len(leaves.cuts)}
    return wire.pack(
        {
            "types": {
                column: [_plain(getattr(row, column)) for row in index.types]
                for column in _TYPE_COLUMNS
            },
            "dtypes": list(index.dtypes),
            "nodes": {
                "count": len(index.nodes),
                **_pack_columns(index.nodes, _NODE_COLUMNS),
                "heap": index.nodes.heap,
            },
            "leaves": leaf_table,
            "spans": {
                "count": len(index.spans),
                **_pack_columns(index.spans, _SPAN_COLUMNS),
                DIGEST: wire.pack_digests(index.spans.digests),
            },
        }
    )


def _plain(value: Any) -> Any:
    """Return a row's value, perhaps made by an adapter, in a form that msgpack accepts."""
    if isinstance(value, Mapping):
        return dict(value)
    return value if value is None or isinstance(value, str) else list(value)


def with_digests(encoded: bytes, digests: Sequence[Digest]) -> bytes:
    """Return an encoded index with the digests of its spans replaced."""
    joined = wire.pack_digests(digests)
    return encoded[: len(encoded) - len(joined)] + joined


def _pack_columns(table: Nodes | Leaves | Spans, columns: Iterable[str]) -> dict[str, Any]:
    return {column: wire.pack_integers(getattr(table, column)) for column in columns}


def decode_tables(parts: Sequence[bytes], *, where: str) -> Index:
    """Decode the tables and check each by itself; `decode_index` checks them together.

    Args:
        parts: the inline index, if any, then the index files in the order of the table of files.
        where: the place, for messages.

    Raises:
        CorruptError: a table is missing, stands twice, or has a bad column or row.
    """
    tables, spans = dict[str, Any](), list[Spans]()
    for part in parts:
        what = f"{where}: index"
        fields = Fields(
            wire.unpack(part, what=what, max_elements=MAX_ELEMENTS, max_depth=MAX_DEPTH), what
        )
        for name in ("types", "dtypes", "nodes", "leaves"):
            if name in fields.value:
                if name in tables:
                    raise CorruptError(
                        f"{what}: the table of {name} stands twice", reason=Reason.DUPLICATE_TABLE
                    )
                tables[name] = fields.value[name]
        spans.append(_decode_spans(Fields(fields.get("spans", dict), f"{what}: spans")))
    top = Fields(tables, f"{where}: index")
    return Index(
        types=_decode_types(Fields(top.get("types", dict), f"{top.where}: types")),
        dtypes=top.get("dtypes", list),
        nodes=_decode_nodes(Fields(top.get("nodes", dict), f"{top.where}: nodes")),
        leaves=_decode_leaves(Fields(top.get("leaves", dict), f"{top.where}: leaves")),
        spans=_join(spans),
    )


def _decode_types(table: Fields) -> list[TypeRow]:
    strings = {column: table.strings(column) for column in ("kind", "module", "name")}
    columns = [strings.get(column) or table.get(column, list) for column in _TYPE_COLUMNS]
    if len(set(map(len, columns))) != 1:
        raise CorruptError(f"{table.where}: columns of unequal length", reason=Reason.BAD_COLUMN)
    rows = []
    for values in zip(*columns, strict=True):
        cells = dict(zip(_TYPE_COLUMNS, values, strict=True))
        kind, fields = cells["kind"], cells["fields"]
        if kind not in TypeKind.__members__.values():
            raise CorruptError(f"{table.where}: unknown kind {kind!r:.80}", reason=Reason.BAD_TYPE)
        strings_or_none = (cells[column] for column in ("binding", "main", "package", "version"))
        if (
            not all(value is None or type(value) is str for value in strings_or_none)
            or type(fields) is not list
            or not all(type(value) is str for value in fields)
            or len(set(fields)) != len(fields)
            or type(cells["extra"]) is not dict
            or (fields and kind in (TypeKind.PYTREE, TypeKind.ENUM, TypeKind.ARRAY))
        ):
            name = shown(f"{cells['module']}.{cells['name']}")
            raise CorruptError(f"{table.where}: bad row of {name}", reason=Reason.BAD_TYPE)
        rows.append(TypeRow(**cells | {"fields": tuple(fields)}))
    return rows


def _unpack_columns(table: Fields, columns: Iterable[str], count: int) -> dict[str, Any]:
    return {
        column: wire.unpack_integers(table.get(column, bytes), count, f"{table.where}.{column}")
        for column in columns
    }


def _decode_nodes(table: Fields) -> Nodes:
    columns = _unpack_columns(table, _NODE_COLUMNS, table.integer("count"))
    return Nodes(**columns, heap=table.get("heap", bytes))


def _decode_leaves(table: Fields) -> Leaves:
    count = table.integer("count")
    columns = _unpack_columns(table, _LEAF_COLUMNS, count)
    ndim = columns["ndim"]
    if count and int(ndim.max()) > dtypes.MAX_RANK:
        raise CorruptError(
            f"{table.where}: an array of {int(ndim.max())} axes, at most {dtypes.MAX_RANK}",
            reason=Reason.BAD_SHAPE,
        )
    axes = int(ndim.sum())
    columns |= _unpack_columns(table, ["dims"], axes)
    if "grid" not in table.value:
        return Leaves(**columns, grid=np.ones(axes, np.int64), cuts=np.zeros(0, np.int64))
    columns |= _unpack_columns(table, ["grid"], axes)
    return Leaves(**columns, **_unpack_columns(table, ["cuts"], table.integer("cut_count")))


def _decode_spans(table: Fields) -> Spans:
    count = table.integer("count")
    columns = _unpack_columns(table, _SPAN_COLUMNS, count)
    digests = wire.unpack_digests(table.get(DIGEST, bytes), count, f"{table.where}.{DIGEST}")
    return Spans(**columns, digests=digests)


def _join(parts: list[Spans]) -> Spans:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        raise CorruptError("no index, neither inline nor in a file", reason=Reason.MISSING_FIELD)
    columns: dict[str, Any] = {
        column: np.concatenate([getattr(part, column) for part in parts])
        for column in _SPAN_COLUMNS
    }
    return Spans(**columns, digests=wire.Digests.joined(part.digests for part in parts))

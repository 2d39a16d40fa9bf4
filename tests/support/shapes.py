"""Checkpoints of shapes that invite a reader to take more steps than the file has bytes.

Each function makes the files of one shape at a size `n`: they grow by a constant for each step of
`n`, and so may the work of every call.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore.format import Kind
from tests.conformance import make_conformance as made
from tests.support import forging

N = made.N
Files = dict[str, bytes]


@dataclass(frozen=True)
class Shape:
    """A shape, with the size at which it is measured, and a larger one that must end.

    Attributes:
        growth: how many times more work twice the size may take.
        skip: the calls whose work your own `like` or the names in the file make larger.
    """

    make: Callable[[int], Files]
    n: int
    large: int
    growth: float = 2.2
    skip: frozenset[str] = frozenset()


SHAPES: dict[str, Shape] = {}


def shape(
    n: int, large: int, growth: float = 2.2, skip: Sequence[str] = ()
) -> Callable[[Callable[[int], Any]], Callable[[int], Any]]:
    """Enter a function under its name."""

    def enter(make: Callable[[int], Any]) -> Callable[[int], Any]:
        def files(size: int) -> Files:
            return make(size).files()  # type: ignore[no-any-return]

        SHAPES[make.__name__.replace("_", " ")] = Shape(files, n, large, growth, frozenset(skip))
        return make

    return enter


def draft(
    nodes: N | Sequence[N], leaves: Any = (), types: Any = (made.NDARRAY,), **more: Any
) -> Any:
    dtypes = more.pop("dtypes", ["float32"])
    outside = more.pop("outside", True)
    return made.Draft(nodes, leaves, types, dtypes, outside=outside, **more)


def empty_leaves(n: int, **options: Any) -> list[made.L]:
    return [made.L(shape=(0,), data=b"", **options) for _ in range(n)]


# --- chains: each link holds the one before twice -------------------------------------------------


def chain(kind: int, n: int, at: int, bottom: N) -> tuple[list[N], int]:
    """Return links, which stand side by side from node `at` on, and the node of the last."""
    links, last, at_next = [N(kind, _held(kind, [bottom]))], at, at + _size(kind, bottom)
    for _ in range(n):
        links.append(N(kind, _held(kind, [made.same(last), made.same(last)])))
        last, at_next = at_next, at_next + (5 if kind in forging.DICTS else 3)
    return links, last


def _held(kind: int, values: list[N]) -> list[N]:
    if kind not in forging.DICTS:
        return values
    return [part for i, value in enumerate(values) for part in (made.text("ab"[i]), value)]


def _size(kind: int, bottom: N) -> int:
    return sum(1 for _ in made.flat(bottom)) + (2 if kind in forging.DICTS else 1)


def chain_under(kind: int, row: Any, before: list[N], after: list[N], n: int) -> Files:
    """Return a record with a chain in one of its fields."""
    links, last = chain(kind, n, 1, made.text("x"))
    record = N(Kind.RECORD, [*before, made.same(last), *after], 1)
    return draft(made.items(*links, record), types=[row]).files()


def _others(module: str, name: str, fields: Any) -> list[N]:
    """Return a right value for each field that needs no table beside that of the nodes."""
    for seed in range(10_000):
        f = forging.Forger(seed, 0)
        nodes = [make(f, 9) for _, make in fields]
        flat = [node for root in nodes for node in made.flat(root)]
        if (
            not f.leaves
            and not f.dtypes
            and not f.types
            and Kind.SAME not in {n.kind for n in flat}
        ):
            return nodes
    raise AssertionError(f"{module}.{name} holds a leaf or a record always")


def _chains() -> None:
    """Enter a chain in each field of each record that an adapter makes."""
    for module, name, fields in forging.OBJECTS:
        if (module, name) in ALWAYS_HOLDS:
            continue
        others = _others(module, name, fields)
        row = made.type_row("object", module, name, [each for each, _ in fields])
        for number, (field, _) in enumerate(fields):
            for word, kind in CHAINED.items():
                parts = others[:number], others[number + 1 :]
                make = functools.partial(chain_under, kind, row, *parts)
                SHAPES[f"chain of {word} in {module}.{name}.{field}"] = Shape(make, 12, 60)


ALWAYS_HOLDS = {
    *(("numpy.ma", "MaskedArray"), ("datetime", "timezone")),
    *(("builtins", "dict with objects as keys"), ("builtins", "set of objects")),
    *(("builtins", "frozenset of objects"), ("random", "Random"), ("numpy.random", "PCG64")),
    *(("numpy.random", "Generator"), ("numpy.random", "RandomState"), ("torch", "Generator")),
}
CHAINED = {"lists": Kind.LIST, "tuples": Kind.TUPLE, "dicts": Kind.DICT}


_chains()


@shape(12, 60)
def chain_of_tuples_to_the_root(n: int) -> Any:
    links, _ = chain(Kind.TUPLE, n, 1, made.leaf())
    return draft(made.items(*links), empty_leaves(1))


@shape(12, 60)
def chain_of_lists_with_an_array(n: int) -> Any:
    links, _ = chain(Kind.LIST, n, 1, made.leaf())
    return draft(made.items(*links), empty_leaves(1))


@shape(12, 60)
def chain_of_dicts_with_an_array(n: int) -> Any:
    links, _ = chain(Kind.DICT, n, 1, made.leaf())
    return draft(made.items(*links), empty_leaves(1))


@shape(12, 60)
def chain_of_specs(n: int) -> Any:
    """PartitionSpecs whose parts hold tuples that hold one another."""
    row = made.type_row("object", "jax.sharding", "PartitionSpec",
                        ["partitions", "unreduced", "reduced"])  # fmt: skip
    links, last = chain(Kind.TUPLE, n, 1, made.text("x"))
    empty = N(Kind.FROZENSET)
    records = [N(Kind.RECORD, [made.same(last), empty, empty], 1) for _ in range(n)]
    return draft(made.items(*links, *records), types=[row])


# --- keys ---------------------------------------------------------------------------------------


def _frozensets(depth: int) -> N:
    """Return frozensets inside one another, each with an item beside the next."""
    inner = made.text("x")
    for level in range(depth):
        inner = N(Kind.FROZENSET, [made.text(f"{level}"), inner])
    return inner


@shape(15, 30, growth=4)  # a key has 32 levels at most
def a_key_of_nested_frozensets(n: int) -> Any:
    return draft(made.entries(_frozensets(n), made.leaf()), empty_leaves(1))


@shape(15, 30)
def a_key_of_nested_tuples(n: int) -> Any:
    return draft(made.entries(made.nested(Kind.TUPLE, n, made.text("x")), made.leaf()),
                 empty_leaves(1))  # fmt: skip


@shape(15, 30, growth=4)
def a_set_of_nested_frozensets(n: int) -> Any:
    return draft(N(Kind.SET, [_frozensets(n)]))


@shape(200, 1_000)
def one_wide_key_in_many_dicts(n: int) -> Any:
    row = made.type_row("object", "builtins", "dict with objects as keys", ["items", "objects"])
    key = N(Kind.TUPLE, [made.symbol("builtins.int") for _ in range(n)])
    text = made.text("a")
    records = [
        N(Kind.RECORD, [made.entries(text, made.none()), made.entries(text, made.same(1))], 1)
        for _ in range(n)
    ]
    return draft(made.items(key, *records), types=[row])


@shape(12, 60)
def chain_in_a_key_of_objects(n: int) -> Any:
    row = made.type_row("object", "builtins", "set of objects", ["items"])
    links, last = chain(Kind.TUPLE, n, 1, made.symbol("builtins.int"))
    return draft(made.items(*links, N(Kind.RECORD, [made.items(made.same(last))], 1)), types=[row])


@shape(400, 20_000)
def keys_that_are_nan(n: int) -> Any:
    nans = [made.real(math.nan) for _ in range(n)]
    return draft(made.entries(*(part for nan in nans for part in (nan, made.none()))))


@shape(400, 20_000)
def items_that_are_nan(n: int) -> Any:
    return draft(N(Kind.SET, [made.real(math.nan) for _ in range(n)]))


@shape(400, 20_000)
def tuples_of_nan(n: int) -> Any:
    nans = [N(Kind.TUPLE, [made.real(math.nan)]) for _ in range(n)]
    return draft(made.entries(*(part for nan in nans for part in (nan, made.none()))))


@shape(400, 10_000)
def keys_of_one_hash(n: int) -> Any:
    keys = [made.integer(i * (2**61 - 1)) for i in range(n)]
    return draft(N(Kind.SET, keys))


@shape(400, 20_000)
def a_long_key_above_many_leaves(n: int) -> Any:
    root = made.items(*(made.leaf(i) for i in range(n)))
    return draft(made.entries(made.text("k" * n), root), empty_leaves(n))


@shape(40, 400)
def long_keys_above_one_another(n: int) -> Any:
    root = made.items(*(made.leaf(i) for i in range(10 * n)))
    for _ in range(n):
        root = made.entries(made.text("k" * 1000), root)
    return draft(root, empty_leaves(10 * n))


@shape(100, 5000)
def long_scalars_as_keys(n: int) -> Any:
    """Keys whose bytes are leaves."""
    leaves = [made.L(2, 1, (8,), struct.pack("<q", i + 2**60)) for i in range(n)]
    children = [part for i in range(n) for part in (N(Kind.BYTES, arg=i + 1), made.none())]
    types = [made.NDARRAY, made.SCALAR]
    return draft(made.entries(*children), leaves, types, dtypes=["float32", "uint8"])


# --- depth --------------------------------------------------------------------------------------


@shape(300, 9_000)
def lists_inside_one_another(n: int) -> Any:
    return draft(made.nested(Kind.LIST, n, made.leaf()), empty_leaves(1))


@shape(100, 3_000)
def leaves_at_every_depth(n: int) -> Any:
    root = made.none()
    for i in reversed(range(n)):
        root = made.items(made.leaf(i), root)
    return draft(root, empty_leaves(n))


@shape(100, 5_000)
def supplied_at_every_depth(n: int) -> Any:
    root = made.none()
    for _ in range(n):
        root = made.items(N(Kind.SUPPLIED, data=b"f"), root)
    return draft(root)


@shape(300, 4_000)
def targets_from_the_innermost_out(n: int) -> Any:
    """Lists inside one another, and then each of them once more, the innermost first."""
    deep = made.nested(Kind.LIST, n, made.none())
    again = [made.same(1 + i) for i in reversed(range(n))]
    return draft(made.items(deep, made.items(*again)))


@shape(100, 3_000)
def records_inside_one_another(n: int) -> Any:
    root = made.none()
    for _ in range(n):
        root = made.record(root)
    return draft(root, types=[("dataclass", "tests.support.hostile", "Plain", ["a"])])


# --- tables ---------------------------------------------------------------------------------------


@shape(400, 30_000)
def many_supplied(n: int) -> Any:
    return draft(made.items(*(N(Kind.SUPPLIED, data=b"f") for _ in range(n))))


@shape(60, 5_000)
def types_that_are_missing(n: int) -> Any:
    types = [("dataclass", "project", f"C{i}", ["a"]) for i in range(n)]
    records = [made.record(made.none(), type=i + 1) for i in range(n)]
    return draft(made.items(*(made.none() for _ in range(20 * n)), *records), types=types)


@shape(60, 2_000)
def types_of_unknown_packages(n: int) -> Any:
    types = [("object", f"project{i}", "C", ["a"]) for i in range(n)]
    records = [made.record(made.none(), type=i + 1) for i in range(n)]
    return draft(made.items(*(made.none() for _ in range(20 * n)), *records), types=types)


@shape(60, 5_000)
def types_that_nothing_uses(n: int) -> Any:
    return draft(made.none(), types=[("enum", "project", f"C{i}") for i in range(n)])


@shape(100, 8_000)
def fields_of_one_missing_type(n: int) -> Any:
    types = [("namedtuple", "project", "C", [f"f{i}" for i in range(n)])]
    return draft(made.record(*(made.none() for _ in range(n))), types=types)


@shape(100, 10_000)
def dtypes_of_one_leaf_each(n: int) -> Any:
    leaves = [made.L(dtype=i, shape=(0,), data=b"") for i in range(n)]
    root = made.items(*(made.leaf(i) for i in range(n)))
    return draft(root, leaves, dtypes=[f"void[{i}]" for i in range(n)])


@shape(100, 10_000)
def dtypes_as_values(n: int) -> Any:
    nodes = [N(Kind.DTYPE, arg=i) for i in range(n)]
    return draft(made.items(*nodes), dtypes=[f"str[{i}]" for i in range(n)])


def _fields(n: int, spec: str = "void[0]") -> Any:
    fields = [{"name": f"f{i}", "dtype": spec, "offset": 0} for i in range(n)]
    fields.append({"name": "end", "dtype": "int8", "offset": 0})
    return {"fields": fields, "itemsize": 1, "aligned": False, "record": False}


@shape(100, 4_000, skip=["load like", "to_npz"])
def a_dtype_of_many_fields_and_many_leaves(n: int) -> Any:
    leaves = [made.L(shape=(1,), data=b"\1") for _ in range(n)]
    root = made.items(*(made.leaf(i) for i in range(n)))
    return draft(root, leaves, dtypes=[_fields(n)])


@shape(100, 1_000, skip=["load like", "to_npz"])  # numpy copies a void scalar field by field
def a_dtype_of_many_fields_and_many_scalars(n: int) -> Any:
    leaves = [made.L(shape=(), data=b"\1") for _ in range(n)]
    root = made.items(*(made.leaf(i) for i in range(n)))
    return draft(root, leaves, [("array", "numpy", "generic")], dtypes=[_fields(n)])


@shape(100, 2_000)
def leaves_that_are_cut(n: int) -> Any:
    leaves = [made.L(shape=(2,), cuts=[[1]], cells=[b"\1\0\0\0"] * 2) for _ in range(n)]
    return draft(made.items(*(made.leaf(i) for i in range(n))), leaves)


@shape(100, 5_000)
def cells_of_one_leaf(n: int) -> Any:
    leaf = made.L(shape=(n,), cuts=[range(1, n)], cells=[b"\1\0\0\0"] * n)
    return draft(made.leaf(), [leaf])


@shape(100, 5_000)
def symbols(n: int) -> Any:
    names = ["numpy.add", "jax.nn.relu", "jax.random.key<rbg>.dtype", "torch.float32"]
    return draft(made.items(*(made.symbol(names[i % 4]) for i in range(n))))


@shape(100, 5_000)
def symbols_of_unknown_packages(n: int) -> Any:
    return draft(made.items(*(made.symbol(f"project{i}.f") for i in range(n))))


@shape(100, 5_000)
def members_of_a_flag(n: int) -> Any:
    """Unnamed combinations, which Python keeps for ever."""
    nodes = [N(Kind.ENUM, [made.integer(2**40 + i)], 1) for i in range(n)]
    return draft(made.items(*nodes), types=[("enum", "re", "RegexFlag")])


@shape(2_000, 400_000)
def a_member_of_a_long_value(n: int) -> Any:
    node = N(Kind.ENUM, [N(Kind.INT, data=b"\xff" * n + b"\0")], 1)
    return draft(node, types=[("enum", "re", "RegexFlag")])


@shape(2_000, 400_000)
def a_key_of_a_long_int(n: int) -> Any:
    return draft(made.entries(N(Kind.INT, data=b"\xff" * n + b"\0"), made.leaf()), empty_leaves(1))


@shape(10, 52)
def a_huge_shape_of_a_dtype_without_bytes(n: int) -> Any:
    return draft(made.leaf(), [made.L(shape=(2**n,), data=b"")], dtypes=["void[0]"])


@shape(10, 52)
def a_huge_shape_of_an_empty_structure(n: int) -> Any:
    empty = {"fields": [], "itemsize": 0, "aligned": False, "record": True}
    row = ("array", "numpy", "recarray")
    return draft(made.leaf(), [made.L(shape=(2**n,), data=b"")], [row], dtypes=[empty])


@shape(10, 52)
def a_huge_masked_array_without_bytes(n: int) -> Any:
    empty = {"fields": [], "itemsize": 0, "aligned": False, "record": False}
    fields = ["data", "mask", "fill_value", "hard_mask"]
    types = [made.NDARRAY, ("object", "numpy.ma", "MaskedArray", fields)]
    leaves = [made.L(shape=(2**n,), data=b"") for _ in range(2)]
    record = made.record(made.leaf(0), made.leaf(1), made.none(), made.true(), type=2)
    return draft(record, leaves, types, dtypes=[empty])


@shape(30, 900)
def data_files_without_bytes(n: int) -> Any:
    files = made.bare(made.none(), outside=False)
    rows = [[f"data-{made.ATTEMPT}-0-{i}.bin", 0, "data", None] for i in range(n)]
    made_ = files.files()
    parts = forging.Parts.of(made_)
    parts.data = {row[0]: b"" for row in rows}
    return parts


@shape(100, 10_000)
def metadata_of_many_values(n: int) -> Any:
    metadata = {f"k{i}": [None] * 3 for i in range(n)}
    return made.bare(made.none(), payload={"metadata": made.pack(metadata)}, outside=False)

"""Trees of Python's own values and containers."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import math
import pathlib
import struct
import types
from typing import Any

import numpy as np

from golden_trees import Case
from golden_trees.of_types import Color, Flags, Number, Perm, Point, Text


def nan(payload: int) -> float:
    """Make a NaN that can be told from others."""
    return float(struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000000 | payload))[0])


def with_attributes(items: Any, **attributes: Any) -> Any:
    """Make an OrderedDict on which something hangs, as on a state_dict of torch."""
    made = collections.OrderedDict(items)
    vars(made).update(attributes)
    return made


def sharing() -> Any:
    """Let one object of each kind stand in several places, beside equal ones that are others."""
    leaf, inner, raw, empty = np.arange(3.0), [1], bytearray(b"x"), {}
    point, date = Point(inner, leaf), datetime.date(2026, 1, 2)
    shared = (leaf, inner, raw, empty, point, date, (1, 2))
    return {
        "one": shared,
        "again": [*shared, shared],
        "equal": [np.arange(3.0), [1], bytearray(b"x"), {}, Point([1], np.arange(3.0))],
        "chain": functools.reduce(lambda tree, _: [tree, tree], range(12), inner),
    }


def deep(levels: int) -> Any:
    """Put lists, tuples, dicts and records around an array."""
    tree: Any = np.arange(2)
    for level in range(levels):
        tree = [[tree], (tree,), {"k": tree}, Point(level, tree)][level % 4]
    return tree


def _keys() -> Any:
    return {
        "s": 1, 5: 2, True: 3, 2.5: 4, b"b": 5, (1, ("x", None)): 6, None: 7, Number.TWO: 8,
        "5": 9, 3j: 10, frozenset({1, "a"}): 11, "\ud800": 12, 10**5000: 13, Color.RED: 14,
        "k" * 5000: 15, math.inf: 16, ...: 17, -0.0: 18, nan(1): 19, nan(2): 20,
        Perm.R | Perm.X: 21,
    }  # fmt: skip


ZONES = [
    datetime.UTC,
    datetime.timezone(datetime.timedelta(0), "GMT"),
    datetime.timezone(datetime.timedelta(hours=-9, minutes=-30)),
]

_SCALARS: dict[str, Any] = {
    "none": lambda: None,
    "bools": lambda: [True, False],
    "ints": lambda: [0, 1, -1, 127, 128, -128, -129, 2**53, -(2**53) - 1, 2**63, 2**64, -(2**64)],
    "huge ints": lambda: [7**20_000, -(7**20_000)],
    "floats": lambda: [0.0, -0.0, 5e-324, 1e308, math.inf, -math.inf, 0.1],
    "nan payloads": lambda: [nan(0), nan(1), nan(0xDEADBEEF), -nan(5)],
    "complex": lambda: [1j, complex(-0.0, 0.0), complex(nan(3), -math.inf)],
    "strings": lambda: ["", "a", "é", "\0", "𝄞", "a\nb", "x" * 5000],
    "lone surrogates": lambda: ["\ud800", "a\udfffb", "\ud83d\ude00", "\ud800" * 3000],
    "bytes": lambda: [b"", b"\0\xff", bytes(10_000)],
    "bytearrays": lambda: [bytearray(), bytearray(b"\0\xff"), bytearray(9_000)],
    "ellipsis": lambda: ...,
    "slices": lambda: [slice(None), slice(1, None, -2), slice("a", 2.5, (1,))],
    "ranges": lambda: [range(0), range(3, -9, -2), range(2**70)],
    "enum members": lambda: [*Color, Color.ALSO_RED, *Number, *Text],
    "flags": lambda: [*Perm, Perm(0), Perm.R | Perm.X, ~Perm.R, Flags(0), Flags(64 | 2)],
    "sets": lambda: [set(), {1, "a", None, 2.5, (1, "b"), frozenset({2})}, {Number.ONE, Color.RED}],
    "frozensets": lambda: [frozenset(), frozenset({b"x", 7**9000, 3j}), frozenset({frozenset()})],
    "types": lambda: [bool, int, float, complex, str, bytes],
    "partials": lambda: [
        functools.partial(np.add, 1, casting="same_kind"),
        functools.partial(functools.partial(int, "11"), base=2),
    ],
    "paths": lambda: [
        *map(pathlib.PosixPath, ("", "a//b", "/", "\ud800")),
        pathlib.PurePosixPath("//a/../b"),
    ],
    "dates": lambda: [datetime.date.min, datetime.date(2024, 2, 29), datetime.date.max],
    "times": lambda: [
        datetime.datetime.min,
        datetime.datetime(2026, 10, 25, 2, 30, fold=1),
        *(datetime.datetime(2026, 1, 2, 3, 4, 5, 6, zone) for zone in ZONES),
    ],
    "time zones": lambda: ZONES,
    "spans of time": lambda: [datetime.timedelta.min, datetime.timedelta(microseconds=-1)],
}
_CONTAINERS: dict[str, Any] = {
    "empty ones": lambda: [[], (), {}, set(), collections.OrderedDict(), collections.deque(), None],
    "nesting": lambda: {"a": [1, (2, {"b": [()]})], "c": ((), [[]])},
    "keys of every kind": _keys,
    "insertion order": lambda: {"z": 1, "a": 2, 10: 3, 9: 4, "10": 5},
    "keys like paths": lambda: {"a": {"b": 1}, "a.b": 2, "a['b']": 3},
    "ordered dicts": lambda: collections.OrderedDict([("z", 1), ("a", collections.OrderedDict())]),
    "ordered dicts with attributes": lambda: [
        with_attributes({"z": [1], "a": 2}, _metadata={"z": 3}, extra=(1,)),
        with_attributes({}, version=1),
    ],
    "counters": lambda: [collections.Counter("abca"), collections.Counter(x=-1.5)],
    "deques": lambda: [collections.deque([1, [2]], 2), collections.deque([0] * 9, 10)],
    "default dicts": lambda: [
        collections.defaultdict(None, a=1),
        *(
            collections.defaultdict(f, k=[1])
            for f in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
        ),
    ],
    "namespaces": lambda: [
        argparse.Namespace(),
        argparse.Namespace(lr=0.1, run=pathlib.PosixPath("run")),
        types.SimpleNamespace(a=[1], b=types.SimpleNamespace()),
    ],
    "sharing": sharing,
    "keys that stand elsewhere too": lambda: (lambda t: [t, {t: {t: t}}, {t}, (t, t)])((1, 2)),
    "deep": lambda: deep(1_000),
    "wide": lambda: {"numbers": list(range(5_000)), "names": {f"n{i}": i for i in range(500)}},
}
CASES = {name: Case(make) for name, make in (_SCALARS | _CONTAINERS).items()}

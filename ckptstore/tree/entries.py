"""The entries of dicts, matched by the keys that they print."""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence

from ckptstore.format import Kind
from ckptstore.tree.nodes import NodeTable

_Key = tuple[str, tuple[str, ...], int]
"""A printed dict key, the enums in it, and a number that tells equal ones apart."""


def by_key(table: NodeTable, entries: Sequence[int]) -> dict[_Key, int]:
    """Return the values of a dict by printed key and the enums in it; equal ones are numbered."""
    out: dict[_Key, int] = {}
    # Many keys may be of one enum, or be NaN.
    names = functools.cache(lambda number: str(table.types[number - 1]))
    counts: collections.Counter[tuple[str, tuple[str, ...]]] = collections.Counter()
    for key, value in zip(entries[::2], entries[1::2], strict=True):
        enums = [n for n in range(key, value) if table.kind[n] == Kind.ENUM]
        text = (table.key(key), tuple(sorted(names(table.type[n]) for n in enums)))
        out[*text, counts[text]] = value
        counts[text] += 1
    return out

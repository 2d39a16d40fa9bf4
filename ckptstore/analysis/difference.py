"""`diff`: the places at which two checkpoints differ, and by how much their arrays do."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ckptstore.analysis.numbers import as_numbers
from ckptstore.analysis.sources import Source, opened
from ckptstore.format.dtypes import Array
from ckptstore.reading import ArrayNode, Node, Reader
from ckptstore.sharding import Box, slices, whole
from ckptstore.texts import plain

_BATCH_NBYTES = 32 << 20
_BLOCK_NBYTES = 8 << 20

What = Literal["added", "removed", "kind", "type", "array", "value", "elements", "unknown"]
"""What differs: the place itself, the kind or the type of its object, the dtype or shape of an
array, a value, elements of an array; unknown: it was not read."""


@dataclass(frozen=True, slots=True)
class Change:
    """One place at which two checkpoints differ.

    Attributes:
        path: the path; `short`: the short form of it.
        what: "added", "removed", "kind", "type", "array" (its dtype or shape), "value",
            "elements", or "unknown": its digests cannot be compared, and it was not read.
        before, after: texts of the two; None where there is nothing.
        changed: for "elements", the number of elements that differ; None if it was not read.
        distance: the norm of the difference of the finite elements.
        norm: the norm of the finite elements before.
        largest: the largest absolute difference of two finite elements.
        nan: the number of elements that became NaN, less those that were.
        close: all elements differ by at most ``atol + rtol * abs(after)``.

    Example:
        >>> Change("$['w']", "w", "elements", changed=1, distance=2.0, norm=8.0).moved
        0.25

    Source: docs/looking.md, "Compare".
    """

    path: str
    short: str
    what: What
    before: str | None = None
    after: str | None = None
    changed: int | None = None
    distance: float | None = None
    norm: float | None = None
    largest: float | None = None
    nan: int | None = None
    close: bool = False

    @property
    def moved(self) -> float | None:
        """The distance as a share of the norm before."""
        if self.distance is None or self.norm is None:
            return None
        return self.distance / self.norm if self.norm else math.inf if self.distance else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        out = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        out["moved"] = self.moved
        return {name: plain(x) if isinstance(x, float) else x for name, x in out.items()}


@dataclass(frozen=True, slots=True)
class Diff:
    """The differences of two checkpoints.

    Attributes:
        changes: the places that differ, in the order of the tree; those removed come last.
        arrays: the number of arrays in both with one dtype and shape.
        equal: how many of them are equal to the bit; `equal_nbytes`: their size in bytes.
        read_nbytes: the bytes that were read of each of the two checkpoints.

    Example:
        >>> Diff((), arrays=3, equal=3, equal_nbytes=96, read_nbytes=0).differs
        False

    Source: docs/looking.md, "Compare".
    """

    changes: tuple[Change, ...]
    arrays: int
    equal: int
    equal_nbytes: int
    read_nbytes: int

    @property
    def differs(self) -> bool:
        """Whether anything differs by more than the tolerance."""
        return any(not change.close for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        out = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return out | {"changes": [c.to_dict() for c in self.changes], "differs": self.differs}


def diff(
    before: Source,
    after: Source,
    select: str | Sequence[str] | None = None,
    *,
    data: bool = True,
    atol: float = 0.0,
    rtol: float = 0.0,
    storage_options: Mapping[str, Any] | None = None,
) -> Diff:
    """Return the differences of two checkpoints.

    Digests are compared first. Arrays of equal digests are equal to the bit, and not read.

    Args:
        before: a reader, or the URL of a checkpoint.
        after: the other.
        select: a pattern or several, such as ``params``; None: the whole trees.
        data: read the arrays whose digests differ, to say by how much they do. False: no data file
            is read.
        atol: changes within ``atol + rtol * abs(after)`` are marked as `close`.
        rtol: as there.
        storage_options: options of the stores, for URLs.

    Raises:
        StructureError: a pattern matches nothing.
        CorruptError: a byte is not as it was written.

    Example:
        >>> import ckptstore, numpy as np
        >>> from ckptstore import analysis
        >>> for step in (1, 2):
        ...     tree = {"w": np.array([1.0, step]), "frozen": np.zeros(3), "step": step}
        ...     saved = ckptstore.save(f"step-{step}", tree)
        >>> found = analysis.diff("step-1", "step-2")
        >>> [(c.short, c.what, c.largest or (c.before, c.after)) for c in found.changes]
        [('w', 'elements', 1.0), ('step', 'value', ('1', '2'))]
        >>> found.arrays, found.equal
        (2, 1)

    Source: docs/looking.md, "Compare".
    """
    with opened(before, storage_options) as one, opened(after, storage_options) as two:
        return _Comparison(one, two, atol, rtol).run(select, data)


def _nodes(reader: Reader, select: str | Sequence[str] | None) -> dict[str, Node]:
    roots = [reader.tree] if select is None else reader.select(select)
    return {node.path: node for root in roots for node in root.walk()}


class _Comparison:
    """One comparison of two readers."""

    def __init__(self, before: Reader, after: Reader, atol: float, rtol: float) -> None:
        self.readers = before, after
        self.atol, self.rtol = atol, rtol
        self.read_nbytes = 0

    def run(self, select: str | Sequence[str] | None, data: bool) -> Diff:
        old, new = (_nodes(reader, select) for reader in self.readers)
        changes: dict[str, Change] = {}
        differing: list[tuple[ArrayNode, ArrayNode]] = []
        arrays = equal = equal_nbytes = 0
        for path, node in new.items():
            other = old.get(path)
            if other is None:
                changes[path] = Change(path, node.short, "added", None, _text(node))
            elif not isinstance(node, ArrayNode) or not isinstance(other, ArrayNode):
                if change := _change(other, node):
                    changes[path] = change
            elif (node.dtype, node.shape, node.type) != (other.dtype, other.shape, other.type):
                what: What = "array" if node.type == other.type else "type"
                changes[path] = Change(path, node.short, what, _text(other), _text(node))
            else:
                arrays += 1
                if node.digest == other.digest:
                    equal, equal_nbytes = equal + 1, equal_nbytes + node.nbytes
                elif data:
                    differing.append((other, node))
                    changes[path] = Change(path, node.short, "unknown")  # keeps the order
                else:
                    alike = (node.cuts, node.spans) == (other.cuts, other.spans)
                    what = "elements" if alike else "unknown"
                    changes[path] = Change(path, node.short, what)
        for path, node in old.items():
            if path not in new:
                changes[path] = Change(path, node.short, "removed", _text(node), None)
        for change in self._numbers(differing):
            if change.changed:
                changes[change.path] = change
            else:  # other cuts, or other bits of equal numbers
                del changes[change.path]
                equal, equal_nbytes = equal + 1, equal_nbytes + new[change.path].nbytes
        found = tuple(_without_inner(changes, new, old))
        return Diff(found, arrays, equal, equal_nbytes, self.read_nbytes)

    def _numbers(self, pairs: Sequence[tuple[ArrayNode, ArrayNode]]) -> Iterator[Change]:
        """Yield the change of each pair. Small arrays are read in batches, large ones in blocks."""
        batch: list[tuple[ArrayNode, ArrayNode]] = []
        nbytes = 0
        for pair in pairs:
            self.read_nbytes += pair[0].nbytes
            if pair[0].nbytes > _BLOCK_NBYTES:
                total = _Sums(*pair, self.atol, self.rtol)
                for box in _blocks(pair[0]):
                    index = slices(box)
                    total.add(pair[0][index], pair[1][index])
                yield total.change()
                continue
            if nbytes + pair[0].nbytes > _BATCH_NBYTES:
                yield from self._batch(batch)
                batch, nbytes = [], 0
            batch.append(pair)
            nbytes += pair[0].nbytes
        yield from self._batch(batch)

    def _batch(self, pairs: Sequence[tuple[ArrayNode, ArrayNode]]) -> Iterator[Change]:
        sides = zip(*pairs, strict=True) if pairs else ((), ())
        old, new = (r.read(side) for r, side in zip(self.readers, sides, strict=True))
        for one, two in pairs:
            total = _Sums(one, two, self.atol, self.rtol)
            total.add(old[one.path], new[two.path])
            yield total.change()


class _Sums:
    """The running difference of two arrays of one dtype and shape."""

    def __init__(self, before: ArrayNode, after: ArrayNode, atol: float, rtol: float) -> None:
        self.before, self.after = before, after
        self.atol, self.rtol = atol, rtol
        self.changed = self.nan = 0
        self.squares = self.old_squares = self.largest = 0.0
        self.close = self.is_numbers = True

    def add(self, before: Array, after: Array) -> None:
        """Add a part of the two."""
        old, new = as_numbers(before), as_numbers(after)
        if old is None or new is None or self.after.key is not None:
            self.is_numbers = self.close = False
            self.changed += int(np.count_nonzero(before != after)) or int(
                before.tobytes() != after.tobytes()
            )
            return
        wide = np.complex128 if old.dtype.kind == "c" else np.float64
        a, b = old.astype(wide), new.astype(wide)
        with np.errstate(invalid="ignore", over="ignore"):
            apart = _apart(old, new) if old.dtype.kind in "iu" else np.abs(b - a)
            nan_a, nan_b = np.isnan(a), np.isnan(b)
            same = (old == new) | (nan_a & nan_b)
            finite = np.isfinite(a) & np.isfinite(b)
            self.close &= bool(np.all(same | (apart <= self.atol + self.rtol * np.abs(b))))
        self.changed += int(same.size - np.count_nonzero(same))
        self.nan += int(np.count_nonzero(nan_b)) - int(np.count_nonzero(nan_a))
        steps, base = apart[finite], np.abs(a[finite])
        if steps.size:
            self.largest = max(self.largest, float(steps.max()))
            self.squares += float(np.square(steps).sum())
            self.old_squares += float(np.square(base).sum())

    def change(self) -> Change:
        """Return the difference of what was added."""
        path, short = self.after.path, self.after.short
        if not self.is_numbers:
            return Change(path, short, "elements", changed=self.changed)
        distance, norm = math.sqrt(self.squares), math.sqrt(self.old_squares)
        return Change(
            path, short, "elements", None, None, self.changed, distance, norm, self.largest,
            self.nan, self.close,
        )  # fmt: skip


def _apart(old: Array, new: Array) -> Array:
    """Return how far integers are apart; in float64 two large ones may be the same."""
    unsigned = np.dtype(f"u{old.dtype.itemsize}")
    high, low = np.maximum(old, new).astype(unsigned), np.minimum(old, new).astype(unsigned)
    apart: Array = (high - low).astype(np.float64)
    return apart


def _blocks(array: ArrayNode) -> Iterator[Box]:
    """Yield boxes of at most `_BLOCK_NBYTES` that fill an array, in C order."""
    itemsize = array.nbytes // array.elements
    inner = itemsize
    counts = [1] * len(array.shape)
    for axis in range(len(array.shape) - 1, -1, -1):
        counts[axis] = min(array.shape[axis], max(_BLOCK_NBYTES // inner, 1))
        inner *= array.shape[axis]
    bounds = [
        [(start, min(start + count, stop)) for start in range(0, stop, count)]
        for (_, stop), count in zip(whole(array.shape), counts, strict=True)
    ]
    yield from itertools.product(*bounds)


def _change(before: Node, after: Node) -> Change | None:
    """Return the change of a place where not two arrays stand."""
    texts = _text(before), _text(after)
    if before.kind != after.kind:
        return Change(after.path, after.short, "kind", *texts)
    if before.type != after.type:
        return Change(after.path, after.short, "type", *texts)
    if repr(before.value) != repr(after.value):
        return Change(after.path, after.short, "value", *texts)
    return None


def _text(node: Node) -> str:
    """Return a node as a text: a value, or its type."""
    if isinstance(node, ArrayNode):
        return f"{node.type} {node.dtype}{list(node.shape)}"
    value = node.value
    return node.type if value is None else repr(value)


def _without_inner(
    changes: Mapping[str, Change], new: Mapping[str, Node], old: Mapping[str, Node]
) -> Iterator[Change]:
    """Yield the changes without those below a place that was added or removed as a whole."""
    inner: set[str] = set()
    for path, change in changes.items():
        if path in inner:
            continue
        if change.what in ("added", "removed"):
            root = new[path] if change.what == "added" else old[path]
            inner.update(node.path for node in root.walk())
        yield change

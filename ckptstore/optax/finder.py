"""Finding the step counters in a tree that holds states of Optax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptstore.errors import Reason, StructureError
from ckptstore.format import DICT_KINDS, Kind, dtypes
from ckptstore.optax.counter_table import (
    AGGREGATORS,
    FOLLOW_THE_STEP,
    OWN_PACE_OF,
    STATES,
    Meaning,
    Pace,
    State,
)
from ckptstore.tree import flatten, paths
from ckptstore.types import Leaf, Refusal, find_adapter, top_level

_NO_COUNTERS = (Kind.SET, Kind.FROZENSET, Kind.ENUM, Kind.RANGE, Kind.SLICE)


@dataclass(frozen=True, slots=True)
class Count:
    """One counter of a state.

    Attributes:
        path: where it stands.
        value: an int; an array of ints where the state was made under `jax.vmap`.
        state: the name of the class that holds it, or "" where that is a container of Python.
        field: its name in that class.
        meaning: what it is for.
        moves: whether `shift_counts` moves it.
        clock: what it counts: the path of the transformation whose updates these are, ``$`` for
            the calls of ``update``. Counters of one clock move together.
        start: its value before the first update.
    """

    path: str
    value: Any
    state: str
    field: str
    meaning: Meaning
    moves: bool
    clock: str
    start: int = 0

    def __str__(self) -> str:
        moved = "moves" if self.moves else "stays"
        return (
            f"{self.path} = {self.value}  {self.state or 'no state class'}: {self.meaning}; {moved}"
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A counter and its node.

    Attributes:
        node: in the table of the walk.
        count: what a caller sees.
        skipped: updates that `apply_if_finite` kept from it.
    """

    node: int
    count: Count
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known of a node from those above it."""

    clock: int = 0  # the node whose updates are counted here
    search: bool = True
    meaning: Meaning | None = None  # of all the integers here
    skips: int = -1  # the node of the nearest `apply_if_finite`


@dataclass(slots=True)
class _Raw:
    """A counter while the clocks are not yet settled."""

    node: int
    value: Any
    state: str
    field: str
    meaning: Meaning
    start: int
    place: _Place
    holder: int


@dataclass(slots=True)
class _Sync:
    """A state that syncs from time to time."""

    node: int
    name: str
    inner: dict[str, int] = field(default_factory=dict)  # field to node
    since: Any = None
    opaque: bool = False


class Scan:
    """The counters of one tree.

    Attributes:
        walk: the table of its nodes.
        found: its counters.
        unsure: clocks of which it is not known whether they start again at each sync.
        closed: paths of objects that cannot be looked into, and their classes.
    """

    def __init__(self, opt_state: Any) -> None:
        self.walk = flatten(opt_state, lenient=True)
        self.unsure: set[str] = set()
        self._places: dict[int, _Place] = {0: _Place()}
        self._raw: list[_Raw] = []
        self._syncs: dict[int, _Sync] = {}
        self._inner: dict[tuple[int, str], int] = {}  # holder and field to clock
        self._above: dict[int, int] = {}  # clock to the clock that holds it
        self._merged: dict[int, int] = {}  # clock to the clock that it is after all
        self._restarts: set[int] = set()
        self._unsure: set[int] = set()
        self._look(0, -1, "", None)
        for node, parent, position, _ in paths.walk(self.walk):
            self._visit(node, parent, position)
        for sync in self._syncs.values():
            self._settle(sync)
        self.found = self._finish()
        closed = [node for node in self._places if self._closed(node)]
        self.closed = {
            path: type(self.walk.objects[node]).__qualname__
            for path, node in zip(self._paths(closed), closed, strict=True)
        }

    def _visit(self, node: int, parent: int, position: int) -> None:
        walk, above = self.walk, self._places[parent]
        kind, place, name, state = walk.kind[parent], above, "", None
        if kind in _NO_COUNTERS or (kind in DICT_KINDS and position % 2 == 0):
            place = _Place(search=False)
        elif kind == Kind.RECORD:
            fields = walk.row(parent).fields
            name = fields[position] if position < len(fields) else ""
            state = _known(walk.objects[parent])
            if state is not None and above.search and above.meaning is None:
                place = self._below(node, parent, name, state, above)
        elif kind == Kind.TUPLE and position == 2 and self._aggregates(node, parent):
            place = self._own(node, above)
        self._places[node] = place
        self._look(node, parent, name, state)

    def _below(self, node: int, parent: int, name: str, state: State, above: _Place) -> _Place:
        """Return the place of a field of a known class."""
        cls = type(self.walk.objects[parent]).__name__
        if name in state.counters:
            return above
        if name in state.holds:
            return _Place(above.clock, meaning=state.holds[name], skips=above.skips)
        pace = state.inner.get(name)
        if pace is None:
            if cls == "SAMState" and name == "cache":
                self._sync(parent).opaque = self.walk.kind[node] == Kind.NONE
            return _Place(search=False)
        if cls == "ApplyIfFiniteState":
            return _Place(above.clock, skips=parent)
        if pace == Pace.SAME:
            return above
        if pace != Pace.OWN:
            self._sync(parent).inner[name] = node
        self._inner[parent, name] = node
        return self._own(node, above)

    def _closed(self, node: int) -> bool:
        """Tell whether a state may be inside an object that is no tree; functions hold none."""
        if self.walk.kind[node] != Kind.SUPPLIED or not self._places[node].search:
            return False
        x = self.walk.objects[node]
        return not callable(x) and not hasattr(x, "dtype")

    def _sync(self, node: int) -> _Sync:
        return self._syncs.setdefault(node, _Sync(node, type(self.walk.objects[node]).__name__))

    def _own(self, node: int, above: _Place) -> _Place:
        self._above[node] = above.clock
        return _Place(node, skips=-1)

    def _aggregates(self, node: int, parent: int) -> bool:
        """Tell whether a triple may be of `aggregating.process`."""
        walk = self.walk
        if walk.arity[parent] != 3 or type(walk.objects[parent]) is not tuple:
            return False
        return any(type(x).__name__ in AGGREGATORS for x in _below(walk.objects[parent][1]))

    def _look(self, node: int, parent: int, name: str, state: State | None) -> None:
        """Note the counter at a node, if there is one."""
        x, place = self.walk.objects[node], self._places[node]
        if not place.search:
            return
        holder = type(self.walk.objects[parent]).__name__ if parent >= 0 and name else ""
        meaning, start = place.meaning, 0
        known = state is not None and meaning is None and name in state.counters
        if known and state is not None:
            meaning, start = state.counters[name], state.starts.get(name, 0)
        is_scalar = not getattr(x, "shape", ())
        value = integers(x, floats=self._is_step(node, parent)) if known or is_scalar else None
        if value is None:
            if known and x is not None:
                raise StructureError(
                    f"{self._path(node)}: {type(x).__module__}.{type(x).__qualname__} is no "
                    "counter with a value that can be read here; call it outside of jit, with a "
                    "state of concrete integers",
                    reason=Reason.BAD_COUNT,
                )
            return
        plain = value if value.ndim else int(value)
        if meaning == Meaning.SYNC:
            self._sync(parent).since = value
        self._raw.append(
            _Raw(node, plain, holder, name, meaning or Meaning.UNKNOWN, start, place, parent)
        )

    def _is_step(self, node: int, parent: int) -> bool:
        """Tell whether a node is the entry of a dict by which torch's optimizers keep the step."""
        walk = self.walk
        if parent < 0 or walk.kind[parent] not in DICT_KINDS:
            return False
        return type(walk.objects[node - 1]) is str and walk.objects[node - 1] == "step"

    def _settle(self, sync: _Sync) -> None:
        """Find out whether an inner state starts again at each sync."""
        outer = sync.inner.get("opt_state")
        if outer is not None and sync.opaque:
            self._merged[outer] = self._above[outer]
        for name, clock in sync.inner.items():
            mine = self._of(clock)
            if name == "opt_state" or not mine:
                continue
            if not all(np.all(np.asarray(r.value) - r.start == sync.since) for r in mine):
                if sync.name == "LookaheadState":
                    self._merged[clock] = self._above[clock]
            elif any(np.any(np.asarray(r.value) != r.start) for r in self._of(outer)):
                self._restarts.add(clock)
            else:
                self._unsure.add(clock)

    def _of(self, clock: int | None) -> list[_Raw]:
        return [r for r in self._raw if r.place.clock == clock and r.meaning in FOLLOW_THE_STEP]

    def _finish(self) -> list[Found]:
        clocks = [self._clock(raw) for raw in self._raw]
        nodes = [raw.node for raw in self._raw]
        names = dict(zip([*nodes, *clocks], self._paths([*nodes, *clocks]), strict=True))
        self.unsure = {names[clock] for clock in clocks if clock in self._unsure}
        total = {r.holder: r.value for r in self._raw if r.meaning == Meaning.NOT_FINITE_TOTAL}
        out = []
        for raw, clock in zip(self._raw, clocks, strict=True):
            moves = raw.meaning in FOLLOW_THE_STEP and clock not in self._restarts
            count = Count(
                names[raw.node],
                raw.value,
                raw.state,
                raw.field,
                raw.meaning,
                moves,
                names[clock],
                raw.start,
            )
            skipped = int(np.max(total.get(raw.place.skips, 0)))
            out.append(Found(raw.node, count, skipped))
        return out

    def _clock(self, raw: _Raw) -> int:
        beside = OWN_PACE_OF.get((raw.state, raw.field))
        clock = raw.place.clock
        if beside is not None:  # the clock of a field that comes after it
            clock = self._inner[raw.holder, beside]
        while clock in self._merged:
            clock = self._merged[clock]
        return clock

    def _paths(self, nodes: Sequence[int]) -> list[str]:
        return paths.format_paths(self.walk, nodes)

    def _path(self, node: int) -> str:
        return self._paths([node])[0]


def _known(x: Any) -> State | None:
    cls = type(x)
    ours = top_level(cls.__module__) == "optax"
    return STATES.get(cls.__name__) if ours else None


def _below(x: Any) -> Iterator[Any]:
    """Give `x` and what is in the tuples below it."""
    stack = [x]
    while stack:
        x = stack.pop()
        yield x
        if isinstance(x, tuple):
            stack.extend(x)


def integers(x: Any, *, floats: bool = False) -> Any:
    """Return the integers of a scalar or an array on the host, or None where it has none.

    With `floats`, also those that a float tensor of torch holds.
    """
    if type(x) is int:
        return np.asarray(x, dtype=object)
    package, dtype = top_level(type(x).__module__), getattr(x, "dtype", None)
    if package in ("numpy", "jax", "jaxlib"):
        if not isinstance(dtype, np.dtype) or dtype.kind not in "iu":
            return None
    elif package != "torch":
        return None
    known = find_adapter(package)
    try:
        leaf = None if known is None else known.leaf(x)
        if leaf is None:
            return None  # a jax.ShapeDtypeStruct
        return _of_tensor(leaf, floats) if package == "torch" else np.asarray(x)
    except Refusal:
        return None  # a traced value, a meta tensor


def _of_tensor(leaf: Leaf, floats: bool) -> Any:
    dtype = dtypes.resolve(leaf.dtype, where="a tensor of torch")
    if dtype.kind not in ("iuf" if floats else "iu"):
        return None
    values = np.frombuffer(leaf.read(), dtype).reshape(leaf.shape)
    return values if dtype.kind != "f" or all(v.is_integer() for v in values.flat) else None

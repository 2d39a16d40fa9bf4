"""The finder of step counters in a tree that holds states of Optax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptstore.errors import Reason, StructureError
from ckptstore.format import DICT_KINDS, Kind
from ckptstore.optax.counter_table import (
    AGGREGATORS,
    FOLLOW_THE_STEP,
    OWN_PACE_OF,
    STATES,
    Meaning,
    Pace,
    StateRow,
)
from ckptstore.optax.counter_values import integers
from ckptstore.tree import flatten, paths
from ckptstore.types import top_level

_NO_COUNTERS = (Kind.SET, Kind.FROZENSET, Kind.ENUM, Kind.RANGE, Kind.SLICE)


@dataclass(frozen=True, slots=True)
class Count:
    """One counter of a state, as `counts` lists it.

    Attributes:
        path: its path.
        value: an int, or an array of ints if the state was made under `jax.vmap`.
        state: the name of the class that holds it, or "" if that is a container of Python.
        field: its name in that class.
        meaning: its purpose.
        moves: whether `shift_counts` moves it.
        clock: the path of the transformation whose updates it counts, ``$`` for the calls of
            ``update``. Counters of one clock move together.
        start: its value before the first update.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ckptstore.optax import counts
        >>> [count] = counts(optax.adam(1e-3).init({"w": jnp.ones(3)}))
        >>> print(count)
        $[0].count = 0  ScaleByAdamState: bias correction; moves
        >>> count.path, count.value, count.clock
        ('$[0].count', 0, '$')

    Source: docs/optax.md, "What is counted".
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
class LocatedCount:
    """A counter and its node.

    Attributes:
        node: its node in the table of the tree.
        count: the public form of the counter.
        skipped: the number of updates that `apply_if_finite` skipped.
    """

    node: int
    count: Count
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class _Place:
    """The properties that a node inherits from the nodes above."""

    clock: int = 0  # the node whose updates are counted here
    search: bool = True
    meaning: Meaning | None = None  # of all the integers here
    skips: int = -1  # the node of the nearest `apply_if_finite`


@dataclass(slots=True)
class _Unsettled:
    """A counter whose clock is not settled yet."""

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
        tree: the table of its nodes.
        counters: the counters, in the order of the tree.
        unsure: clocks that may or may not restart at each sync; the state does not tell.
        closed: the class of each object that is not a tree, by path.

    Raises:
        StructureError: reason ``bad-count`` if a counter has no concrete integers.
    """

    def __init__(self, opt_state: Any) -> None:
        self.tree = flatten(opt_state, lenient=True)
        self.unsure: set[str] = set()
        self._places: dict[int, _Place] = {0: _Place()}
        self._unsettled: list[_Unsettled] = []
        self._syncs: dict[int, _Sync] = {}
        self._inner: dict[tuple[int, str], int] = {}  # holder and field to clock
        self._above: dict[int, int] = {}  # clock to the clock that holds it
        self._merged: dict[int, int] = {}  # clock to the clock that it turned out to be
        self._restarts: set[int] = set()
        self._unsure: set[int] = set()
        self._look(0, -1, "", None)
        for node, parent, position, _ in paths.walk(self.tree):
            self._visit(node, parent, position)
        for sync in self._syncs.values():
            self._settle(sync)
        self.counters = self._located()
        closed = [node for node in self._places if self._is_closed(node)]
        self.closed = {
            path: type(self.tree.objects[node]).__qualname__
            for path, node in zip(self._paths(closed), closed, strict=True)
        }

    def _visit(self, node: int, parent: int, position: int) -> None:
        tree, above = self.tree, self._places[parent]
        kind, place, name, state = tree.kind[parent], above, "", None
        if kind in _NO_COUNTERS or (kind in DICT_KINDS and position % 2 == 0):
            place = _Place(search=False)
        elif kind == Kind.RECORD:
            fields = tree.row(parent).fields
            name = fields[position] if position < len(fields) else ""
            state = _state_row(tree.objects[parent])
            if state is not None and above.search and above.meaning is None:
                place = self._place_of_field(node, parent, name, state, above)
        elif kind == Kind.TUPLE and position == 2 and self._aggregates(parent):
            place = self._own_clock(node, above)
        self._places[node] = place
        self._look(node, parent, name, state)

    def _place_of_field(
        self, node: int, parent: int, name: str, state: StateRow, above: _Place
    ) -> _Place:
        """Return the place of a field of a class that the table lists."""
        cls = type(self.tree.objects[parent]).__name__
        if name in state.counters:
            return above
        if name in state.holds:
            return _Place(above.clock, meaning=state.holds[name], skips=above.skips)
        pace = state.inner.get(name)
        if pace is None:
            if cls == "SAMState" and name == "cache":
                self._sync(parent).opaque = self.tree.kind[node] == Kind.NONE
            return _Place(search=False)
        if cls == "ApplyIfFiniteState":
            return _Place(above.clock, skips=parent)
        if pace == Pace.SAME:
            return above
        if pace != Pace.OWN:
            self._sync(parent).inner[name] = node
        self._inner[parent, name] = node
        return self._own_clock(node, above)

    def _is_closed(self, node: int) -> bool:
        """Return whether an object that is not a tree may hold a state; a function holds none."""
        if self.tree.kind[node] != Kind.SUPPLIED or not self._places[node].search:
            return False
        x = self.tree.objects[node]
        return not callable(x) and not hasattr(x, "dtype")

    def _sync(self, node: int) -> _Sync:
        return self._syncs.setdefault(node, _Sync(node, type(self.tree.objects[node]).__name__))

    def _own_clock(self, node: int, above: _Place) -> _Place:
        self._above[node] = above.clock
        return _Place(node, skips=-1)

    def _aggregates(self, node: int) -> bool:
        """Return whether a tuple may be the triple of `aggregating.process`."""
        x = self.tree.objects[node]
        if self.tree.arity[node] != 3 or type(x) is not tuple:
            return False
        return any(type(item).__name__ in AGGREGATORS for item in _nested_items(x[1]))

    def _look(self, node: int, parent: int, name: str, state: StateRow | None) -> None:
        """Note the counter at a node, if there is one."""
        x, place = self.tree.objects[node], self._places[node]
        if not place.search:
            return
        holder = type(self.tree.objects[parent]).__name__ if parent >= 0 and name else ""
        meaning, start = place.meaning, 0
        is_counter = state is not None and meaning is None and name in state.counters
        if is_counter and state is not None:
            meaning, start = state.counters[name], state.starts.get(name, 0)
        is_scalar = not getattr(x, "shape", ())
        value = None
        if is_counter or is_scalar:
            value = integers(x, floats=self._is_step_of_torch(node, parent))
        if value is None:
            if is_counter and x is not None:
                raise StructureError(
                    f"{self._paths([node])[0]}: {type(x).__module__}.{type(x).__qualname__} is not "
                    "a counter with a readable value; call this outside of jit, with a state of "
                    "concrete integers",
                    reason=Reason.BAD_COUNT,
                )
            return
        plain = value if value.ndim else int(value)
        if meaning == Meaning.SYNC:
            self._sync(parent).since = value
        self._unsettled.append(
            _Unsettled(node, plain, holder, name, meaning or Meaning.UNKNOWN, start, place, parent)
        )

    def _is_step_of_torch(self, node: int, parent: int) -> bool:
        """Return whether a node is the entry ``"step"`` of a dict, as in optimizers of torch."""
        tree = self.tree
        if parent < 0 or tree.kind[parent] not in DICT_KINDS:
            return False
        return type(tree.objects[node - 1]) is str and tree.objects[node - 1] == "step"

    def _settle(self, sync: _Sync) -> None:
        """Find out whether an inner state restarts at each sync."""
        outer = sync.inner.get("opt_state")
        if outer is not None and sync.opaque:
            self._merged[outer] = self._above[outer]
        for name, clock in sync.inner.items():
            counters = self._following(clock)
            if name == "opt_state" or not counters:
                continue
            if not all(np.all(np.asarray(c.value) - c.start == sync.since) for c in counters):
                if sync.name == "LookaheadState":
                    self._merged[clock] = self._above[clock]
            elif any(np.any(np.asarray(c.value) != c.start) for c in self._following(outer)):
                self._restarts.add(clock)
            else:
                self._unsure.add(clock)

    def _following(self, clock: int | None) -> list[_Unsettled]:
        """Return the counters of a clock that follow the step."""
        return [
            c for c in self._unsettled if c.place.clock == clock and c.meaning in FOLLOW_THE_STEP
        ]

    def _located(self) -> list[LocatedCount]:
        clocks = [self._clock(counter) for counter in self._unsettled]
        nodes = [counter.node for counter in self._unsettled]
        path_of = dict(zip([*nodes, *clocks], self._paths([*nodes, *clocks]), strict=True))
        self.unsure = {path_of[clock] for clock in clocks if clock in self._unsure}
        not_finite = {
            c.holder: c.value for c in self._unsettled if c.meaning == Meaning.NOT_FINITE_TOTAL
        }
        out = []
        for c, clock in zip(self._unsettled, clocks, strict=True):
            moves = c.meaning in FOLLOW_THE_STEP and clock not in self._restarts
            path, clock_path = path_of[c.node], path_of[clock]
            count = Count(path, c.value, c.state, c.field, c.meaning, moves, clock_path, c.start)
            skipped = int(np.max(not_finite.get(c.place.skips, 0)))
            out.append(LocatedCount(c.node, count, skipped))
        return out

    def _clock(self, counter: _Unsettled) -> int:
        beside = OWN_PACE_OF.get((counter.state, counter.field))
        clock = counter.place.clock
        if beside is not None:  # the clock of a field that comes after it
            clock = self._inner[counter.holder, beside]
        while clock in self._merged:
            clock = self._merged[clock]
        return clock

    def _paths(self, nodes: Sequence[int]) -> list[str]:
        return paths.format_paths(self.tree, nodes)


def _state_row(x: Any) -> StateRow | None:
    """Return the row of the table for the class of an object."""
    cls = type(x)
    is_of_optax = top_level(cls.__module__) == "optax"
    return STATES.get(cls.__name__) if is_of_optax else None


def _nested_items(x: Any) -> Iterator[Any]:
    """Yield `x` and all objects in the tuples below it."""
    stack = [x]
    while stack:
        x = stack.pop()
        yield x
        if isinstance(x, tuple):
            stack.extend(x)

"""Fitting a state of an optimizer to what the optimizer expects today.

Two tables of nodes are compared from the top. What holds values comes from the loaded state, and
only what holds none is taken from the optimizer: nothing that has a history begins anew.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckptstore.errors import Reason, StructureError
from ckptstore.format import DICT_KINDS, Kind
from ckptstore.optax import expected as optimizer
from ckptstore.optax.counter_table import STATES
from ckptstore.optax.state_tree import State, named
from ckptstore.types import Refusal, top_level

_SHOWN = 50

_Children = Sequence[tuple[str, int]]
"""Steps and nodes, as `State.children` gives them."""


def fit(loaded: Any, tx: Any, params: Any) -> Fitting:
    """Return the comparison of a state with what an optimizer expects.

    Raises:
        StructureError: reason ``does-not-fit`` where any place is refused; ``bad-argument`` where
            ``tx.init(params)`` fails.
    """
    try:
        fresh = optimizer.fresh(tx, params)
    except Exception as error:  # of the user's optimizer
        raise StructureError(
            f"fit: tx.init(params) failed: {type(error).__name__}: {error!s:.500}; pass the "
            "optimizer, and the parameters that it updates",
            reason=Reason.BAD_ARGUMENT,
        ) from error
    found = Fitting(loaded, fresh)
    if found.changes or found.refused:
        # Some states look otherwise after their first update than before.
        used = optimizer.used(tx, params, fresh)
        others = [] if used is None else [Fitting(loaded, used)]
        found = min([found, *others], key=lambda f: (bool(f.refused), len(f.changes)))
    if found.refused:
        lines = found.refused[:_SHOWN]
        lines += [f"… and {len(found.refused) - _SHOWN} more"] * (len(found.refused) > _SHOWN)
        raise StructureError(
            f"fit: {len(found.refused)} place(s) of the state are not what the optimizer expects:"
            + "".join(f"\n  {line}" for line in lines)
            + "\npass the state of the optimizer alone, with the `tx` and the `params` that belong "
            "to it; what may begin anew or be lost, put in or leave out by hand, as in "
            "(*loaded, tx.init(params)[-1])",
            reason=Reason.DOES_NOT_FIT,
        )
    return found


@dataclass(frozen=True, slots=True)
class _Pair:
    """A loaded node and the expected node that it is to become.

    Attributes:
        i: the loaded node.
        j: the expected node.
        path: where j stands.
        above: the records that hold j, from the top, each as ``class.field``.
    """

    i: int
    j: int
    path: str
    above: tuple[str, ...] = ()


class Fitting:
    """One comparison of a loaded state with an expected one.

    Attributes:
        state: the loaded values in the expected structure, where nothing is refused.
        changes: what was done, as (path, what).
        refused: what cannot be known, each line with its path.
    """

    def __init__(self, loaded: Any, expected: Any) -> None:
        self.changes: list[tuple[str, str]] = []
        self.refused: list[str] = []
        self._loaded, self._expected = State(loaded), State(expected)
        self.state = self._fit(_Pair(0, 0, "$"))

    def _fit(self, pair: _Pair) -> Any:
        """Return the loaded node as the expected one is: the same object where they agree."""
        pair = replace(pair, i=self._loaded.at(pair.i), j=self._expected.at(pair.j))
        x, like = self._objects(pair)
        if optimizer.is_leaf(x) or optimizer.is_leaf(like):
            return self._leaf(pair)
        if type(x) is not type(like) and not self._holds_values(pair):
            what = f"{named(x)} -> {named(like)}; neither holds a value"
            return self._changed(pair, like, what)
        if type(x) is list and self._was_masked(pair):
            return self._regroup(pair)
        kind, wanted = self._loaded.kind(pair.i), self._expected.kind(pair.j)
        if kind in DICT_KINDS and wanted in DICT_KINDS:
            return self._entries(pair)
        tuples = (kind == Kind.TUPLE) + (wanted == Kind.TUPLE)
        if tuples and {kind, wanted} <= _IN_CHAINS and all(map(_is_inner, pair.above)):
            return self._chain(pair)
        if type(x) is type(like):
            return self._parts(pair) if kind in _OF_PARTS else self._value(pair)
        packages = {top_level(type(a).__module__) for a in (x, like)}
        names = (type(x).__name__, type(like).__name__)
        convert = _CONVERSIONS.get(names) if packages == {"optax"} else None
        return self._differ(pair) if convert is None else convert(self, pair)

    def _leaf(self, pair: _Pair) -> Any:
        x, like = self._objects(pair)
        if not optimizer.is_leaf(x) or not optimizer.is_leaf(like):
            return self._differ(pair)
        squeeze = pair.above[-1:] == ("ScheduleFreeState.b1",)
        try:
            value, what = optimizer.conform(x, like, squeeze=squeeze)
        except Refusal as refusal:
            return self._refuse(pair, str(refusal))
        is_step_size = pair.above[-1:] == ("ScaleByZoomLinesearchState.learning_rate",)
        if what and is_step_size and getattr(x, "weak_type", False):  # to Optax 0.2.4
            what += "; lbfgs before Optax 0.2.4 began each search at it, today's begins at 1"
        return self._changed(pair, value, what) if what else value

    def _value(self, pair: _Pair) -> Any:
        """Return what is neither a container nor a number, such as the static part of a class."""
        x, like = self._objects(pair)
        return x if x is like or bool(x == like) else self._differ(pair)

    def _parts(self, pair: _Pair) -> Any:
        """Fit lists, records of one class, and tuples of arrays, part by part."""
        x, like = self._objects(pair)
        ours, theirs = self._loaded.children(pair.i), self._expected.children(pair.j)
        self._refuse_alone(pair, ours[len(theirs) :], theirs[len(ours) :])
        is_record = self._loaded.kind(pair.i) == Kind.RECORD
        made, same = [], True
        for (_, i), (step, j) in zip(ours, theirs, strict=False):
            above = (*pair.above, type(x).__name__ + step) if is_record else pair.above
            value = self._fit(_Pair(i, j, pair.path + step, above))
            same = same and value is self._loaded.object(i)
            made.append(value)
        if same or self.refused:
            return x
        return self._expected.record(pair.j, made) if is_record else type(like)(made)

    def _entries(self, pair: _Pair) -> Any:
        """Fit dicts by key."""
        x, like = self._objects(pair)
        ours, theirs = self._loaded.entries(pair.i), self._expected.entries(pair.j)
        self._refuse_alone(
            pair,
            [child for key, child in ours.items() if key not in theirs],
            [child for key, child in theirs.items() if key not in ours],
        )
        made = {}
        for key, (step, j) in theirs.items():
            if key in ours:
                made[key] = self._fit(_Pair(ours[key][1], j, pair.path + step, pair.above))
        if type(x) is not type(like):
            self._changed(pair, None, f"{named(x)} -> {named(like)}, by key")
        elif type(x) is OrderedDict and list(x) != list(like):
            order = ", ".join(map(repr, like))
            self._changed(pair, None, f"put in the order {order}, by key")
        elif all(value is self._loaded.object(ours[key][1]) for key, value in made.items()):
            return x
        else:
            like = x  # its order
        out = copy.copy(like)
        out.update(made)
        return out

    def _chain(self, pair: _Pair) -> Any:
        """Match states in their order; those that hold no values come and go."""
        ours, theirs = self._loaded.elements(pair.i), self._expected.elements(pair.j)
        mine = [n for _, n in ours if self._loaded.holds_values(n)]
        other = [n for _, n in theirs if self._expected.holds_values(n)]
        if [n in mine for _, n in ours] == [n in other for _, n in theirs]:
            partner = {j: i for (_, i), (_, j) in zip(ours, theirs, strict=True)}
            if self._loaded.kind(pair.i) == self._expected.kind(pair.j) == Kind.TUPLE:
                return self._parts(pair)
        elif len(mine) == len(other) and not any(map(self._loaded.is_leaf, mine)):
            partner = dict(zip(other, mine, strict=True))
        else:
            return self._unmatched(pair)
        made = [
            self._fit(_Pair(partner[n], n, pair.path + step, pair.above))
            if n in partner
            else self._expected.object(n)
            for step, n in theirs
        ]
        what = f"{self._loaded.outline(pair.i)} -> {self._expected.outline(pair.j)}"
        return self._changed(pair, tuple(made) if theirs[0][0] else made[0], what)

    def _unmatched(self, pair: _Pair) -> None:
        """Refuse tuples of states of which one has more than the other."""
        ours = [e for e in self._loaded.elements(pair.i) if self._loaded.holds_values(e[1])]
        theirs = [e for e in self._expected.elements(pair.j) if self._expected.holds_values(e[1])]
        have = Counter(named(self._loaded.object(n)) for _, n in ours)
        want = Counter(named(self._expected.object(n)) for _, n in theirs)
        for name in have | want:
            if have[name] and want[name] and have[name] != want[name]:
                self._refuse(
                    pair,
                    f"{have[name]} of {name} found, {want[name]} expected; which of them belong "
                    "together cannot be known",
                )
        self._refuse_alone(
            pair,
            [(step, n) for step, n in ours if not want[named(self._loaded.object(n))]],
            [(step, n) for step, n in theirs if not have[named(self._expected.object(n))]],
        )

    def _was_masked(self, pair: _Pair) -> bool:
        """Tell whether this list may stand for what a mask leaves, as in Optax before 0.1.2."""
        x, like = map(optimizer.structure, self._objects(pair))
        return "MaskedState.inner_state" in pair.above and x != like

    def _regroup(self, pair: _Pair) -> Any:
        """Give the leaves of a list, in their order, the expected structure."""
        x, like = self._objects(pair)
        try:
            values = optimizer.rearranged(x, like)
        except ValueError:  # not as many
            return self._differ(pair)
        inner = Fitting(values, like)
        self.refused += [pair.path + line[1:] for line in inner.refused]
        self._changed(pair, None, f"list -> {named(like)}, the leaves in their order")
        self.changes += [(pair.path + path[1:], what) for path, what in inner.changes]
        return inner.state

    def _inject(self, pair: _Pair) -> Any:
        """Give each schedule a counter, which is that of the wrapper; Optax has it from 0.1.9."""
        x, like = self._objects(pair)
        count = self._field(pair, "count", "count")
        states = {}
        for name, state in like.hyperparams_states.items():
            path = f"{pair.path}.hyperparams_states[{name!r}]"
            if type(state).__name__ == "WrappedScheduleState":
                states[name] = state._replace(count=optimizer.copied(count))
            else:
                self._refuse(replace(pair, path=path), f"{named(state)} expected, nothing found")
        driven = (
            f"; its count drives {', '.join(states)}, which Optax before 0.1.4 had a step ahead"
        )
        self._changed(pair, None, f"{named(x)} -> {named(like)}" + driven * bool(states))
        return like._replace(
            count=count,
            hyperparams=self._field(pair, "hyperparams", "hyperparams"),
            hyperparams_states=states,
            inner_state=self._field(pair, "inner_state", "inner_state"),
        )

    def _optimistic(self, pair: _Pair) -> Any:
        """Take a previous gradient of nothing but zeros for that of a state without updates."""
        x, like = self._objects(pair)
        previous = self._field(pair, "trace", "previous_gradient")
        if self.refused:
            return None
        first = not optimizer.has_values(x.trace)
        why = f"is_initial_step is {first}, since the trace is {'all' if first else 'not all'} zero"
        self._changed(pair, None, f"{named(x)} -> {named(like)}; {why}")
        return like._replace(is_initial_step=optimizer.flag(first), previous_gradient=previous)

    def _without_momentum(self, pair: _Pair) -> Any:
        """Drop mu where nothing reads it: it is zero, or b1 is 0 and it is the last gradient."""
        x, like = self._objects(pair)
        if "ScheduleFreeState.base_optimizer_state" in pair.above:
            why = "with b1=0, as schedule_free_adamw had it, no update reads it"
        elif optimizer.has_values(x.mu):
            return self._differ(pair)
        else:
            why = "it is zero"
        self._changed(pair, None, f"{named(x)} -> {named(like)}; mu is dropped: {why}")
        return like._replace(
            count=self._field(pair, "count", "count"), nu=self._field(pair, "nu", "nu")
        )

    def _field(self, pair: _Pair, name: str, new: str) -> Any:
        """Return a field of the loaded record, fitted to the expected one's field `new`."""
        x, like = self._objects(pair)
        i = self._loaded.children(pair.i)[x._fields.index(name)][1]
        j = self._expected.children(pair.j)[like._fields.index(new)][1]
        above = (*pair.above, f"{type(like).__name__}.{new}")
        return self._fit(_Pair(i, j, f"{pair.path}.{new}", above))

    def _objects(self, pair: _Pair) -> tuple[Any, Any]:
        return self._loaded.object(pair.i), self._expected.object(pair.j)

    def _holds_values(self, pair: _Pair) -> bool:
        return self._loaded.holds_values(pair.i) or self._expected.holds_values(pair.j)

    def _changed(self, pair: _Pair, value: Any, what: str) -> Any:
        self.changes.append((pair.path, what))
        return value

    def _refuse(self, pair: _Pair, line: str) -> None:
        self.refused.append(f"{pair.path}: {line}")

    def _differ(self, pair: _Pair) -> None:
        found, expected = self._loaded.shown(pair.i), self._expected.shown(pair.j)
        self._refuse(pair, f"{found} found, {expected} expected")

    def _refuse_alone(self, pair: _Pair, ours: _Children, theirs: _Children) -> None:
        """Refuse children that have no partner on the other side."""
        for step, node in ours:
            found = self._loaded.shown(node)
            self.refused.append(f"{pair.path}{step}: {found} found, nothing expected")
        for step, node in theirs:
            expected = self._expected.shown(node)
            self.refused.append(f"{pair.path}{step}: {expected} expected, nothing found")


_CONVERSIONS: Mapping[tuple[str, str], Callable[[Fitting, _Pair], Any]] = {
    ("InjectHyperparamsState", "InjectStatefulHyperparamsState"): Fitting._inject,
    ("TraceState", "ScaleByOptimisticGradientState"): Fitting._optimistic,
    ("ScaleByAdamState", "ScaleByRmsWithCountState"): Fitting._without_momentum,
}
"""What is done where one class stands for another, by their names."""

_IN_CHAINS = {Kind.TUPLE, Kind.RECORD}
_OF_PARTS = {Kind.TUPLE, Kind.LIST, Kind.RECORD}


def _is_inner(above: str) -> bool:
    """Tell whether a field holds states, and not a tree like that of the parameters."""
    name, _, field = above.partition(".")
    return field.endswith(("state", "states")) or (name in STATES and field in STATES[name].inner)

"""The comparison of a loaded state with the state that an optimizer expects today.

Two tables of nodes are compared from the top. Every value comes from the loaded state. Only parts
without values come from the optimizer, so that no value with a history is reset.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ckptstore.format import DICT_KINDS, Kind
from ckptstore.optax import expected
from ckptstore.optax.counter_table import STATES
from ckptstore.optax.state_tree import Children, StateTree, class_name
from ckptstore.types import Refusal, top_level

_IN_CHAINS = {Kind.TUPLE, Kind.RECORD}
_OF_PARTS = {Kind.TUPLE, Kind.LIST, Kind.RECORD}


@dataclass(frozen=True, slots=True)
class _Pair:
    """A loaded node and its expected counterpart.

    Attributes:
        old: the loaded node.
        new: the expected node.
        path: the path of the expected node.
        above: the records that hold it, from the top, each as ``class.field``.
    """

    old: int
    new: int
    path: str
    above: tuple[str, ...] = ()


class Comparison:
    """One comparison of a loaded state with an expected one.

    Attributes:
        state: the loaded values in the expected structure, if nothing is refused.
        changes: the changes, as (path, words).
        refusals: places that do not fit, each line with its path.
    """

    def __init__(self, loaded: Any, expected_state: Any) -> None:
        self.changes: list[tuple[str, str]] = []
        self.refusals: list[str] = []
        self._loaded, self._expected = StateTree(loaded), StateTree(expected_state)
        self.state = self._fit(_Pair(0, 0, "$"))

    def _fit(self, pair: _Pair) -> Any:
        """Return the loaded node in the expected form: the same object if they agree."""
        pair = replace(pair, old=self._loaded.first(pair.old), new=self._expected.first(pair.new))
        x, like = self._objects(pair)
        if expected.is_leaf(x) or expected.is_leaf(like):
            return self._leaf(pair)
        if type(x) is not type(like) and not self._holds_values(pair):
            what = f"{class_name(x)} -> {class_name(like)}; neither holds a value"
            return self._changed(pair, like, what)
        if type(x) is list and self._was_masked(pair):
            return self._regroup(pair)
        kind, kind_of_like = self._loaded.kind(pair.old), self._expected.kind(pair.new)
        kinds = {kind, kind_of_like}
        if kinds <= set(DICT_KINDS):
            return self._entries(pair)
        if Kind.TUPLE in kinds and kinds <= _IN_CHAINS and all(map(_holds_states, pair.above)):
            return self._chain(pair)
        if type(x) is type(like):
            return self._parts(pair) if kind in _OF_PARTS else self._value(pair)
        packages = {top_level(type(a).__module__) for a in (x, like)}
        names = (type(x).__name__, type(like).__name__)
        convert = _CONVERSIONS.get(names) if packages == {"optax"} else None
        return self._mismatch(pair) if convert is None else convert(self, pair)

    def _leaf(self, pair: _Pair) -> Any:
        x, like = self._objects(pair)
        if not expected.is_leaf(x) or not expected.is_leaf(like):
            return self._mismatch(pair)
        squeeze = pair.above[-1:] == ("ScheduleFreeState.b1",)
        try:
            value, what = expected.conform(x, like, squeeze=squeeze)
        except Refusal as refusal:
            return self._refuse(pair, str(refusal))
        is_step_size = pair.above[-1:] == ("ScaleByZoomLinesearchState.learning_rate",)
        if what and is_step_size and getattr(x, "weak_type", False):  # to Optax 0.2.4
            what += "; lbfgs before Optax 0.2.4 began each search at it, today it begins at 1"
        return self._changed(pair, value, what) if what else value

    def _value(self, pair: _Pair) -> Any:
        """Return a node that is neither a container nor a number, such as a static part."""
        x, like = self._objects(pair)
        return x if x is like or bool(x == like) else self._mismatch(pair)

    def _parts(self, pair: _Pair) -> Any:
        """Fit lists, records of one class, and tuples of arrays, part by part."""
        x, like = self._objects(pair)
        old, new = self._loaded.children(pair.old), self._expected.children(pair.new)
        self._refuse_unpaired(pair, old[len(new) :], new[len(old) :])
        is_record = self._loaded.kind(pair.old) == Kind.RECORD
        values, same = [], True
        for (_, old_child), (step, new_child) in zip(old, new, strict=False):
            above = (*pair.above, type(x).__name__ + step) if is_record else pair.above
            value = self._fit(_Pair(old_child, new_child, pair.path + step, above))
            same = same and value is self._loaded.object(old_child)
            values.append(value)
        if same or self.refusals:
            return x
        return self._expected.make_record(pair.new, values) if is_record else type(like)(values)

    def _entries(self, pair: _Pair) -> Any:
        """Fit dicts by key."""
        x, like = self._objects(pair)
        old, new = self._loaded.entries(pair.old), self._expected.entries(pair.new)
        self._refuse_unpaired(
            pair,
            [child for key, child in old.items() if key not in new],
            [child for key, child in new.items() if key not in old],
        )
        values = {}
        for key, (step, child) in new.items():
            if key in old:
                values[key] = self._fit(_Pair(old[key][1], child, pair.path + step, pair.above))
        if type(x) is not type(like):
            self._changed(pair, None, f"{class_name(x)} -> {class_name(like)}, by key")
        elif type(x) is OrderedDict and list(x) != list(like):
            order = ", ".join(map(repr, like))
            self._changed(pair, None, f"reordered by key: {order}")
        elif all(value is self._loaded.object(old[key][1]) for key, value in values.items()):
            return x
        else:
            like = x  # its order
        out = copy.copy(like)
        out.update(values)
        return out

    def _chain(self, pair: _Pair) -> Any:
        """Match states in their order; states without values may be added or dropped."""
        old, new = self._loaded.elements(pair.old), self._expected.elements(pair.new)
        old_full = [node for _, node in old if self._loaded.holds_values(node)]
        new_full = [node for _, node in new if self._expected.holds_values(node)]
        if [node in old_full for _, node in old] == [node in new_full for _, node in new]:
            partner = {child: node for (_, node), (_, child) in zip(old, new, strict=True)}
            if self._loaded.kind(pair.old) == self._expected.kind(pair.new) == Kind.TUPLE:
                return self._parts(pair)
        elif len(old_full) == len(new_full) and not any(map(self._loaded.is_leaf, old_full)):
            partner = dict(zip(new_full, old_full, strict=True))
        else:
            return self._unmatched(pair)
        states = [
            self._fit(_Pair(partner[node], node, pair.path + step, pair.above))
            if node in partner
            else self._expected.object(node)
            for step, node in new
        ]
        names = self._loaded.class_names(pair.old), self._expected.class_names(pair.new)
        is_tuple = self._expected.kind(pair.new) == Kind.TUPLE
        return self._changed(pair, tuple(states) if is_tuple else states[0], " -> ".join(names))

    def _unmatched(self, pair: _Pair) -> None:
        """Refuse tuples with different numbers of a kind of state."""
        old = [e for e in self._loaded.elements(pair.old) if self._loaded.holds_values(e[1])]
        new = [e for e in self._expected.elements(pair.new) if self._expected.holds_values(e[1])]
        found = Counter(class_name(self._loaded.object(node)) for _, node in old)
        wanted = Counter(class_name(self._expected.object(node)) for _, node in new)
        for name in found | wanted:
            if found[name] and wanted[name] and found[name] != wanted[name]:
                self._refuse(
                    pair,
                    f"{found[name]} of {name} found, {wanted[name]} expected; their order does not "
                    "tell which of them belong together",
                )
        self._refuse_unpaired(
            pair,
            [(s, node) for s, node in old if not wanted[class_name(self._loaded.object(node))]],
            [(s, node) for s, node in new if not found[class_name(self._expected.object(node))]],
        )

    def _was_masked(self, pair: _Pair) -> bool:
        """Return whether a list may hold the leaves of a mask, as in Optax before 0.1.2."""
        x, like = map(expected.structure, self._objects(pair))
        return "MaskedState.inner_state" in pair.above and x != like

    def _regroup(self, pair: _Pair) -> Any:
        """Return the leaves of a list, in their order, in the expected structure."""
        x, like = self._objects(pair)
        try:
            values = expected.rearranged(x, like)
        except ValueError:  # another number of leaves
            return self._mismatch(pair)
        inner = Comparison(values, like)
        self.refusals += [pair.path + line[1:] for line in inner.refusals]
        self._changed(pair, None, f"list -> {class_name(like)}, the leaves in their order")
        self.changes += [(pair.path + path[1:], what) for path, what in inner.changes]
        return inner.state

    def _inject(self, pair: _Pair) -> Any:
        """Add a counter to each schedule, copied from the wrapper; Optax has it from 0.1.9 on."""
        x, like = self._objects(pair)
        count = self._field(pair, "count", "count")
        states = {}
        for name, state in like.hyperparams_states.items():
            path = f"{pair.path}.hyperparams_states[{name!r}]"
            if type(state).__name__ == "WrappedScheduleState":
                states[name] = state._replace(count=expected.copy_array(count))
            else:
                self._refuse(
                    replace(pair, path=path), f"{class_name(state)} expected, nothing found"
                )
        what = f"{class_name(x)} -> {class_name(like)}"
        if states:
            names = ", ".join(states)
            what += f"; its count drives {names}, which were one step ahead before Optax 0.1.4"
        self._changed(pair, None, what)
        return like._replace(
            count=count,
            hyperparams=self._field(pair, "hyperparams", "hyperparams"),
            hyperparams_states=states,
            inner_state=self._field(pair, "inner_state", "inner_state"),
        )

    def _optimistic(self, pair: _Pair) -> Any:
        """Treat a previous gradient of zeros as that of a state without updates."""
        x, like = self._objects(pair)
        previous = self._field(pair, "trace", "previous_gradient")
        if self.refusals:
            return None
        first = not expected.has_nonzero(x.trace)
        why = f"is_initial_step is {first}, since the trace is {'all' if first else 'not all'} zero"
        self._changed(pair, None, f"{class_name(x)} -> {class_name(like)}; {why}")
        return like._replace(
            is_initial_step=expected.truth_array(first), previous_gradient=previous
        )

    def _without_momentum(self, pair: _Pair) -> Any:
        """Drop mu if no update reads it: it is zero, or b1 is 0 and it is the last gradient."""
        x, like = self._objects(pair)
        if "ScheduleFreeState.base_optimizer_state" in pair.above:
            why = "with b1=0, as schedule_free_adamw had it, no update reads it"
        elif expected.has_nonzero(x.mu):
            return self._mismatch(pair)
        else:
            why = "it is zero"
        self._changed(pair, None, f"{class_name(x)} -> {class_name(like)}; mu is dropped: {why}")
        return like._replace(
            count=self._field(pair, "count", "count"), nu=self._field(pair, "nu", "nu")
        )

    def _field(self, pair: _Pair, old_name: str, new_name: str) -> Any:
        """Return a field of the loaded record, fitted to a field of the expected one."""
        x, like = self._objects(pair)
        old = self._loaded.children(pair.old)[x._fields.index(old_name)][1]
        new = self._expected.children(pair.new)[like._fields.index(new_name)][1]
        above = (*pair.above, f"{type(like).__name__}.{new_name}")
        return self._fit(_Pair(old, new, f"{pair.path}.{new_name}", above))

    def _objects(self, pair: _Pair) -> tuple[Any, Any]:
        return self._loaded.object(pair.old), self._expected.object(pair.new)

    def _holds_values(self, pair: _Pair) -> bool:
        return self._loaded.holds_values(pair.old) or self._expected.holds_values(pair.new)

    def _changed(self, pair: _Pair, value: Any, what: str) -> Any:
        self.changes.append((pair.path, what))
        return value

    def _refuse(self, pair: _Pair, line: str) -> None:
        self.refusals.append(f"{pair.path}: {line}")

    def _mismatch(self, pair: _Pair) -> None:
        old, new = self._loaded.description(pair.old), self._expected.description(pair.new)
        self._refuse(pair, f"{old} found, {new} expected")

    def _refuse_unpaired(self, pair: _Pair, old: Children, new: Children) -> None:
        """Refuse children that have no partner on the other side."""
        for step, node in old:
            text = self._loaded.description(node)
            self.refusals.append(f"{pair.path}{step}: {text} found, nothing expected")
        for step, node in new:
            text = self._expected.description(node)
            self.refusals.append(f"{pair.path}{step}: {text} expected, nothing found")


_CONVERSIONS: Mapping[tuple[str, str], Callable[[Comparison, _Pair], Any]] = {
    ("InjectHyperparamsState", "InjectStatefulHyperparamsState"): Comparison._inject,
    ("TraceState", "ScaleByOptimisticGradientState"): Comparison._optimistic,
    ("ScaleByAdamState", "ScaleByRmsWithCountState"): Comparison._without_momentum,
}
"""The conversions from one class to another, by their names."""


def _holds_states(above: str) -> bool:
    """Return whether a field holds states, and not a tree like the parameters."""
    name, _, field = above.partition(".")
    return field.endswith(("state", "states")) or (name in STATES and field in STATES[name].inner)

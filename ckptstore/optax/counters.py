"""What an Optax state needs: `counts` and `shift_counts` for its step counters, `fit` for its form.

The import of this module brings neither optax nor jax. Guide: docs/optax.md.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore import tree
from ckptstore.errors import Reason, StructureError
from ckptstore.optax.counter_table import NEED_THE_FIRST_UPDATE, Meaning
from ckptstore.optax.finder import Count, Found, Scan, integers
from ckptstore.types import find_adapter, top_level

__all__ = [
    "Change",
    "Count",
    "Disagreement",
    "Meaning",
    "Report",
    "check_counts",
    "counts",
    "fit",
    "shift_counts",
]

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A counter that is not where the others, or the step, say that it is."""

    count: Count
    expected: int

    def __str__(self) -> str:
        return f"{self.count.path} is {self.count.value}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Change:
    """What `fit` did at one place of the state."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """What `fit` changed; it prints a line for each place."""

    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "nothing was changed"


def counts(opt_state: Any) -> list[Count]:
    """List every counter of an optimizer's state, in the order of the tree.

    Args:
        opt_state: a state of Optax with concrete values, alone or in any tree. An integer scalar
            that stands in no known class of Optax is listed as unknown, and so is the `step` of
            an optimizer of torch, which is a float.

    Raises:
        StructureError: reason ``bad-count`` where a counter has no concrete integers.
    """
    return [found.count for found in Scan(opt_state).found]


def shift_counts(
    opt_state: Any,
    by: int | Mapping[str, int] | None = None,
    *,
    to: int | Mapping[str, int] | None = None,
    select: str | Sequence[str] | None = None,
    strict: bool = True,
) -> Any:
    """Return the state with its step counters moved, as if that many more updates had been made.

    Moves what drives schedules and bias correction; leaves alone what counts something else. All
    else in the state is the same objects. A counter stops at the largest value of its dtype, as in
    Optax. Call it outside of jit.

    Args:
        opt_state: a state of Optax, alone or in any tree.
        by: the number of updates, also negative. Where some counters count other things than
            others (inside `MultiSteps` they count gradient steps), a dict of `Count.clock` to
            number; a clock that is not in it stays.
        to: instead of `by`: the number of updates after which the counters shall stand.
        select: patterns of paths: exactly these counters are moved, also unknown ones.
        strict: False leaves integers alone whose meaning is unknown, with a warning.

    Returns:
        A tree of the same structure, dtypes, weak types and shardings.

    Raises:
        StructureError: ``unknown-counts``: integers of unknown meaning, or an object that is no
            tree; ``which-clock``: one number for counters that count different things;
            ``negative-count``: a counter would be below 0; ``bad-count``: one has no concrete
            integers; ``no-match``, ``bad-pattern``, ``bad-argument``.

    Warns:
        UserWarning: a counter of bias correction leaves the place where no update was made yet:
            moments that are still zero would be taken for settled ones.
    """
    if (by is None) == (to is None):
        raise StructureError(
            "shift_counts: give either by= or to=, a number of updates", reason=Reason.BAD_ARGUMENT
        )
    scan = Scan(opt_state)
    moving = _moving(scan, strict) if select is None else _selected(scan, select)
    amounts = _amounts(moving, scan.unsure, by if to is None else to)
    values: dict[int, Any] = {}
    made: dict[tuple[int, int, int], Any] = {}  # what stands in two places stays one object
    for found in moving:
        amount = amounts.get(found.count.clock)
        if amount is None:
            continue
        x = scan.walk.objects[found.node]
        key = (id(x), amount, found.count.start)
        if key not in made:
            made[key] = _moved(scan, found, amount, relative=to is None)
        values[found.node] = made[key]
    early = [
        f.count
        for f in moving
        if f.node in values
        and f.count.meaning in NEED_THE_FIRST_UPDATE
        and np.any(np.asarray(f.count.value) == f.count.start)
        and np.any(np.asarray(values[f.node]) != f.count.start)
    ]
    if early:
        warnings.warn(
            f"shift_counts: {early[0].path} ({early[0].meaning}) leaves {early[0].start}, but no "
            "update was made yet, so what stands beside it is not ready and the first updates "
            "will be wrong in size; make an update first, or select= only schedules",
            UserWarning,
            stacklevel=2,
        )
    return tree.fill(scan.walk, values) if values else opt_state


def check_counts(state: Any, step: int | None = None) -> list[Disagreement]:
    """Return the counters that disagree with the others of their clock, or with `step`.

    A tree that was put together from two steps shows here. So does what is no mistake: a
    transformation that was added later, an optimizer that is not updated at each step, a step that
    is counted from elsewhere. Hence it is a question that you ask, and not a warning of `load`.

    Args:
        state: a state of Optax, alone or in any tree.
        step: the number of calls of ``update`` that were made; None compares only among themselves.
    """
    scan = Scan(state)
    groups: dict[str, list[Found]] = {}
    for found in scan.found:
        if found.count.moves:
            groups.setdefault(found.count.clock, []).append(found)
    out = []
    for clock, group in groups.items():
        done = [np.asarray(f.count.value, dtype=object) - f.count.start for f in group]
        # An update that was not finite is not made inside `apply_if_finite`.
        most = max(int(np.max(d)) + f.skipped for d, f in zip(done, group, strict=True))
        expected = step if clock == "$" and step is not None else most
        for d, f in zip(done, group, strict=True):
            if np.any(d > expected) or np.any(d < expected - f.skipped):
                out.append(Disagreement(f.count, expected + f.count.start))
    return out


def fit(loaded: Any, tx: Any, params: Any) -> tuple[Any, Report]:
    """Return a state of the structure that an optimizer expects today, with the loaded values.

    `load` rebuilds what was saved; an older release of Optax, or a chain that has changed since,
    made another structure of it. States that hold no value come and go, dicts are matched by key,
    dtypes and PRNG keys become what they are today. What cannot be known is refused: no value of
    ``tx.init`` ever stands for one that has a history. Call it outside of jit.

    Args:
        loaded: the state of the optimizer alone, as `load` gave it.
        tx: the optimizer: anything with ``init(params)``.
        params: its parameters, or a `jax.ShapeDtypeStruct` for each. No array is made of them,
            but where jax cannot trace ``tx.init``.

    Returns:
        The state, and what was changed. What was not is the same objects; where nothing was, the
        state is `loaded` itself.

    Raises:
        StructureError: ``does-not-fit``, with all the places and what is found and expected
            there; ``bad-argument`` where ``tx.init(params)`` fails.
    """
    from ckptstore.optax import fitting

    found = fitting.fit(loaded, tx, params)
    return found.state, Report(tuple(Change(path, what) for path, what in found.changes))


def _moving(scan: Scan, strict: bool) -> list[Found]:
    """Return what is moved where the caller does not say."""
    lines = [f"{f.count.path} = {f.count.value}" for f in scan.found if _is_unknown(f)]
    lines += [
        f"{path}: {name} is no tree that can be looked into" for path, name in scan.closed.items()
    ]
    if lines:
        message = (
            f"shift_counts: {len(lines)} place(s) of unknown meaning:\n  "
            + "\n  ".join(lines[:20])
            + "\npass only the part of the tree that Optax made; or select= all that is to be "
            "moved; or strict=False to leave these as they are"
        )
        if strict:
            raise StructureError(message, reason=Reason.UNKNOWN_COUNTS)
        warnings.warn(message, UserWarning, stacklevel=3)
    return [f for f in scan.found if f.count.moves]


def _selected(scan: Scan, select: str | Sequence[str]) -> list[Found]:
    """Return the counters at the places that match, or below them.

    Raises:
        StructureError: reason ``no-match`` where a pattern names no counter.
    """
    end = scan.walk.layout.end
    chosen: set[int] = set()
    for pattern in tree.patterns_of(select, "shift_counts"):
        hits = set()
        for path, root in tree.select(scan.walk, [pattern], "shift_counts").items():
            # What stands in two places has its path from the first, and its node from there too.
            below = range(root, end[root]) if scan.walk.arity[root] else ()
            hits |= {f.node for f in scan.found if f.count.path == path or f.node in below}
        if not hits:
            raise StructureError(
                f"shift_counts: no counter is at {pattern}; counts(opt_state) lists them",
                reason=Reason.NO_MATCH,
            )
        chosen |= hits
    return [f for f in scan.found if f.node in chosen]


def _is_unknown(found: Found) -> bool:
    return found.count.meaning == Meaning.UNKNOWN


def _amounts(
    moving: Sequence[Found], unsure: set[str], given: int | Mapping[str, int] | None
) -> dict[str, int]:
    """Return the number for each clock.

    Raises:
        StructureError: reason ``which-clock``, ``bad-argument``.
    """
    clocks: dict[str, list[Count]] = {}
    for found in moving:
        clocks.setdefault(found.count.clock, []).append(found.count)
    if isinstance(given, Mapping):
        for clock in given:
            if clock not in clocks:
                raise StructureError(
                    f"shift_counts: nothing is to be moved that counts the updates of {clock!r}; "
                    f"there is {', '.join(clocks) or 'nothing'}",
                    reason=Reason.WHICH_CLOCK,
                )
        return {clock: _whole(amount) for clock, amount in given.items()}
    amount = _whole(given)
    doubtful = [clock for clock in clocks if clock in unsure]
    if len(clocks) > 1 or doubtful:
        lines = []
        for clock, held in clocks.items():
            doubt = " (starts again at each sync, or there was none yet)" * (clock in unsure)
            at = ", ".join(f"{c.path} = {c.value}" for c in held[:3]) + ", …" * (len(held) > 3)
            lines.append(f"{clock!r}{doubt}: {at}")
        example = ", ".join(f"{clock!r}: {amount}" for clock in clocks)
        raise StructureError(
            "shift_counts: the state does not say how often its inner transformations are "
            "updated; give a number for each:\n  "
            + "\n  ".join(lines)
            + f"\nas in {{{example}}}; 0 leaves one where it is",
            reason=Reason.WHICH_CLOCK,
        )
    return dict.fromkeys(clocks, amount)


def _whole(amount: Any) -> int:
    try:
        if isinstance(amount, bool):
            raise TypeError
        return operator.index(amount)
    except TypeError:
        raise StructureError(
            f"shift_counts: found {amount!r:.80}, expected a whole number of updates",
            reason=Reason.BAD_ARGUMENT,
        ) from None


def _moved(scan: Scan, found: Found, amount: int, *, relative: bool) -> Any:
    """Return a new counter of the same kind."""
    x, count = scan.walk.objects[found.node], found.count
    old = integers(x, floats=True)
    most = _INT32_MAX if type(x) is int else _most(old.dtype)
    wide = old.astype(object)
    new = wide + amount if relative else wide * 0 + amount + count.start
    if np.any(new < 0):
        raise StructureError(
            f"{count.path}: {count.value} moved by {amount} is below 0"
            if relative
            else f"{count.path}: {amount} is below 0",
            reason=Reason.NEGATIVE_COUNT,
        )
    new = np.minimum(new, most)
    if type(x) is int:
        return int(new)
    package = top_level(type(x).__module__)
    known = find_adapter(package)
    leaf = known.leaf(x) if known is not None else None
    assert known is not None and leaf is not None  # `integers` saw to it
    return known.array(np.array(new, dtype=old.dtype), leaf.row, known.place(x))


def _most(dtype: np.dtype[Any]) -> int:
    """Return the largest of the integers that a dtype counts to in steps of 1."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 2 ** (np.finfo(dtype).nmant + 1)

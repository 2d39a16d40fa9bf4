"""The step counters of an Optax state: `counts`, `shift_counts` and `check_counts`."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore import tree
from ckptstore.errors import Reason, StructureError, bad_argument, listed
from ckptstore.optax.counter_table import NEED_THE_FIRST_UPDATE, Meaning
from ckptstore.optax.counter_values import integers, with_integers
from ckptstore.optax.finder import Count, LocatedCount, Scan

_PLACES_SHOWN = 20
_COUNTERS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A counter that differs from the other counters of its clock, or from the step.

    Attributes:
        count: the counter.
        expected: the value that it should have.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ckptstore.optax import check_counts
        >>> state = optax.adam(1e-3).init({"w": jnp.ones(3)})
        >>> [disagreement] = check_counts(state, step=7)
        >>> disagreement.count.path, disagreement.count.value, disagreement.expected
        ('$[0].count', 0, 7)

    Source: docs/optax.md, "Counters that disagree".
    """

    count: Count
    expected: int

    def __str__(self) -> str:
        return f"{self.count.path} is {self.count.value}, expected {self.expected}"


def counts(opt_state: Any) -> list[Count]:
    """List every counter of an optimizer's state, in the order of the tree.

    Args:
        opt_state: a state of Optax with concrete values, alone or in any tree.

    Returns:
        The counters. An integer scalar outside the known classes of Optax is listed as unknown. So
        is the `step` of an optimizer of torch, which is a float.

    Raises:
        StructureError: reason ``bad-count`` if a counter has no concrete integers.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = optax.adamw(optax.linear_schedule(1e-2, 0.0, 1000))
        >>> for count in counts(optimizer.init({"w": jnp.ones(3)})):
        ...     print(count)
        $[0].count = 0  ScaleByAdamState: bias correction; moves
        $[2].count = 0  ScaleByScheduleState: drives a schedule; moves

    Source: docs/optax.md, "The step count".
    """
    return [located.count for located in Scan(opt_state).counters]


def shift_counts(
    opt_state: Any,
    by: int | Mapping[str, int] | None = None,
    *,
    to: int | Mapping[str, int] | None = None,
    select: str | Sequence[str] | None = None,
    strict: bool = True,
) -> Any:
    """Return the state with its step counters moved, as if that many more updates had been made.

    Counters that drive schedules and bias correction move; other counters stay. The rest of the
    state is the same objects. A counter stops at the largest value of its dtype, as in Optax. Call
    this outside of jit.

    Args:
        opt_state: a state of Optax, alone or in any tree.
        by: the number of updates to move by, which may be negative. If the counters have several
            clocks (inside `MultiSteps` they count gradient steps), pass a dict from `Count.clock`
            to number; a clock that is not in the dict stays.
        to: instead of `by`: the number of updates that the counters should show.
        select: patterns of paths: exactly these counters move, also unknown ones.
        strict: if False, integers of unknown meaning do not move, and you get a warning.

    Returns:
        A tree of the same structure, dtypes, weak types and shardings.

    Raises:
        StructureError: ``unknown-counts``: integers of unknown meaning, or an object that is not a
            tree. ``which-clock``: one number for counters that count different things.
            ``negative-count``: a counter would be below 0. ``bad-count``: a counter has no concrete
            integers. ``no-match``, ``bad-pattern``, ``bad-argument``.

    Warns:
        UserWarning: a counter of bias correction leaves its start before the first update, so
            moments that are still zero would be treated as settled ones.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.ones(3)}
        >>> optimizer = optax.adamw(optax.linear_schedule(1e-2, 0.0, 1000))
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> later = shift_counts(state, by=100)
        >>> [count.value for count in counts(later)]
        [101, 101]
        >>> [count.value for count in counts(shift_counts(later, to=50))]
        [50, 50]

    Source: docs/optax.md, "The step count" and "What is counted".
    """
    if (by is None) == (to is None):
        raise StructureError(
            f"shift_counts: by={by!r:.80} and to={to!r:.80}, expected a number of updates for one "
            "of them",
            reason=Reason.BAD_ARGUMENT,
        )
    scan = Scan(opt_state)
    moving = _moving(scan, strict) if select is None else _selected(scan, select)
    amounts = _amounts(moving, scan.unsure, by if to is None else to)
    values: dict[int, Any] = {}
    moved: dict[tuple[int, int, int], Any] = {}  # an object in two places stays one object
    for located in moving:
        amount = amounts.get(located.count.clock)
        if amount is None:
            continue
        x = scan.tree.objects[located.node]
        key = (id(x), amount, located.count.start)
        if key not in moved:
            moved[key] = _moved(x, located.count, amount, relative=to is None)
        values[located.node] = moved[key]
    _warn_of_first_updates(moving, values)
    return tree.fill(scan.tree, values) if values else opt_state


def check_counts(state: Any, step: int | None = None) -> list[Disagreement]:
    """Return the counters that disagree with the other counters of their clock, or with `step`.

    This finds a tree that was put together from two steps. It also reports cases that are not
    mistakes: a transformation that was added later, an optimizer that is not updated at each step,
    or a step that is counted from another start. So you call it yourself, and `load` does not warn.

    Args:
        state: a state of Optax, alone or in any tree.
        step: the number of calls of ``update``; None compares the counters only with each other.

    Returns:
        The counters that disagree, in the order of their clocks; none if all agree.

    Raises:
        StructureError: reason ``bad-count`` if a counter has no concrete integers.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = optax.adamw(optax.linear_schedule(1e-2, 0.0, 1000))
        >>> state = optimizer.init({"w": jnp.ones(3)})
        >>> check_counts(state)
        []
        >>> torn = shift_counts(state, by=100, select="$[2]")
        >>> print(check_counts(torn)[0])
        $[0].count is 0, expected 100

    Source: docs/optax.md, "Counters that disagree".
    """
    by_clock: dict[str, list[LocatedCount]] = {}
    for located in Scan(state).counters:
        if located.count.moves:
            by_clock.setdefault(located.count.clock, []).append(located)
    out = []
    for clock, group in by_clock.items():
        updates = [np.asarray(c.count.value, dtype=object) - c.count.start for c in group]
        # `apply_if_finite` does not make an update that is not finite.
        most = max(int(np.max(n)) + c.skipped for n, c in zip(updates, group, strict=True))
        expected = step if clock == "$" and step is not None else most
        for n, c in zip(updates, group, strict=True):
            if np.any(n > expected) or np.any(n < expected - c.skipped):
                out.append(Disagreement(c.count, expected + c.count.start))
    return out


def _moving(scan: Scan, strict: bool) -> list[LocatedCount]:
    """Return the counters that move if the caller does not select any.

    Raises:
        StructureError: reason ``unknown-counts``.
    """
    unknown = [c.count for c in scan.counters if c.count.meaning == Meaning.UNKNOWN]
    lines = [f"{count.path} = {count.value}" for count in unknown]
    lines += [
        f"{path}: {name} is not a tree, so its contents are unknown"
        for path, name in scan.closed.items()
    ]
    if lines:
        message = (
            f"shift_counts: {len(lines)} place(s) of unknown meaning:\n  "
            + "\n  ".join(listed(lines, _PLACES_SHOWN))
            + "\npass only the part of the tree that Optax made, or select= all counters to move, "
            "or pass strict=False to leave these as they are"
        )
        if strict:
            raise StructureError(message, reason=Reason.UNKNOWN_COUNTS)
        warnings.warn(message, UserWarning, stacklevel=3)
    return [c for c in scan.counters if c.count.moves]


def _selected(scan: Scan, select: str | Sequence[str]) -> list[LocatedCount]:
    """Return the counters at the places that match, or below them.

    Raises:
        StructureError: reason ``no-match`` if a pattern matches no counter.
    """
    end = scan.tree.layout.end
    chosen: set[int] = set()
    for pattern in tree.patterns_of(select, "shift_counts"):
        hits = set()
        for path, root in tree.select(scan.tree, [pattern], "shift_counts").items():
            # An object in two places has the path and the node of the first.
            below = range(root, end[root]) if scan.tree.arity[root] else ()
            hits |= {c.node for c in scan.counters if c.count.path == path or c.node in below}
        if not hits:
            raise StructureError(
                f"shift_counts: no counter is at {pattern}; counts(opt_state) lists them",
                reason=Reason.NO_MATCH,
            )
        chosen |= hits
    return [c for c in scan.counters if c.node in chosen]


def _amounts(
    moving: Sequence[LocatedCount], unsure: set[str], amount: int | Mapping[str, int] | None
) -> dict[str, int]:
    """Return the number for each clock.

    Raises:
        StructureError: reason ``which-clock``, ``bad-argument``.
    """
    by_clock: dict[str, list[Count]] = {}
    for located in moving:
        by_clock.setdefault(located.count.clock, []).append(located.count)
    if isinstance(amount, Mapping):
        for clock in amount:
            if clock not in by_clock:
                raise StructureError(
                    f"shift_counts: no counter that moves counts the updates of {clock!r}; "
                    f"the clocks are {', '.join(by_clock) or 'none'}",
                    reason=Reason.WHICH_CLOCK,
                )
        return {clock: _whole(number) for clock, number in amount.items()}
    number = _whole(amount)
    if len(by_clock) > 1 or not unsure.isdisjoint(by_clock):
        lines = [_clock_line(clock, by_clock[clock], unsure) for clock in by_clock]
        example = ", ".join(f"{clock!r}: {number}" for clock in by_clock)
        raise StructureError(
            "shift_counts: the state does not say how often its inner transformations are "
            "updated; pass a number for each:\n  "
            + "\n  ".join(lines)
            + f"\nas in {{{example}}}; 0 leaves a clock unchanged",
            reason=Reason.WHICH_CLOCK,
        )
    return dict.fromkeys(by_clock, number)


def _clock_line(clock: str, counters: Sequence[Count], unsure: set[str]) -> str:
    """Return a line of an error: a clock, and the first of its counters."""
    doubt = " (restarts at each sync, or there was no sync yet)" if clock in unsure else ""
    values = listed((f"{c.path} = {c.value}" for c in counters), _COUNTERS_SHOWN)
    return f"{clock!r}{doubt}: {', '.join(values)}"


def _whole(amount: Any) -> int:
    try:
        if isinstance(amount, bool):
            raise TypeError
        return operator.index(amount)
    except TypeError:
        raise bad_argument(
            "shift_counts", "the amount", amount, "a whole number of updates, such as 100"
        ) from None


def _moved(x: Any, count: Count, amount: int, *, relative: bool) -> Any:
    """Return a new counter of the same kind.

    Raises:
        StructureError: reason ``negative-count``.
    """
    old = integers(x, floats=True).astype(object)
    new = old + amount if relative else np.full_like(old, amount + count.start)
    if np.any(new < 0):
        move = f"{count.value} moved by {amount}" if relative else f"{amount}"
        raise StructureError(
            f"shift_counts: {count.path}: {move} is below 0, expected 0 or more",
            reason=Reason.NEGATIVE_COUNT,
        )
    return with_integers(x, new)


def _warn_of_first_updates(moving: Sequence[LocatedCount], values: Mapping[int, Any]) -> None:
    """Warn if a counter leaves its start and the state beside it has had no update."""
    for located in moving:
        count = located.count
        if located.node not in values or count.meaning not in NEED_THE_FIRST_UPDATE:
            continue
        before, after = np.asarray(count.value), np.asarray(values[located.node])
        if np.any(before == count.start) and np.any(after != count.start):
            warnings.warn(
                f"shift_counts: {count.path} ({count.meaning}) moves from {count.start}, but no "
                "update was made yet: the state beside it is still that of init, so the first "
                "updates will have the wrong size; make an update first, or select= only schedules",
                UserWarning,
                stacklevel=3,
            )
            return

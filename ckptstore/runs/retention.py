"""Which steps of a run are kept: rules, each a callable, combined with ``|``. No I/O.

A rule is given all committed steps in order and returns those of them that it keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ckptstore.errors import Reason, StructureError
from ckptstore.format import wire

Mode = Literal["min", "max"]


class StepInfo:
    """One committed step, as a rule of retention is given it.

    Attributes:
        step: its number.
    """

    __slots__ = ("_read", "step")

    def __init__(self, step: int, read: Callable[[int], Mapping[str, float]]) -> None:
        self.step = step
        self._read = read

    @property
    def metrics(self) -> Mapping[str, float]:
        """What its save was given; read from the store where this process does not know it."""
        return self._read(self.step)

    def __repr__(self) -> str:
        return f"<StepInfo {self.step}>"


Rule = Callable[[Sequence[StepInfo]], Iterable[StepInfo]]


class Keep:
    """A ready-made rule; ``|`` with another callable keeps what either keeps.

    Attributes:
        metrics: the names of the metrics that it looks at.
    """

    metrics: frozenset[str] = frozenset()

    def __call__(self, steps: Sequence[StepInfo]) -> Iterable[StepInfo]:
        """Return those of the steps that are kept."""
        raise NotImplementedError

    def __or__(self, other: Rule) -> Keep:
        return _Either(self, other) if callable(other) else NotImplemented

    def __ror__(self, other: Rule) -> Keep:
        return _Either(other, self) if callable(other) else NotImplemented


def keep_last(n: int) -> Keep:
    """Keep the `n` newest steps."""
    return _Last(_count("keep_last: n", n))


def keep_every(steps: int) -> Keep:
    """Keep the multiples of `steps`, and where one was not saved, the first step after it."""
    return _Every(_count("keep_every: steps", steps))


def keep_best(n: int, metric: str, mode: Mode = "min") -> Keep:
    """Keep the `n` steps with the best values of a metric.

    Of equal values the newer is better. A value that is not finite, and a step that was saved
    without the metric, are never among the best.

    Args:
        n: how many.
        metric: its name in ``save(step, tree, metrics={name: value})``.
        mode: whether the smallest (of a loss) or the largest (of an accuracy) is the best.
    """
    check_metric("keep_best", metric, mode)
    return _Best(_count("keep_best: n", n), metric, mode)


def evicted(keep: Rule, steps: Sequence[StepInfo], saved: int) -> list[int]:
    """Return the steps that a rule does not keep, less the newest and the one just saved.

    Raises:
        StructureError: reason ``bad-argument``: the rule gave something else than steps.
    """
    given = {info.step: info for info in steps}
    kept = {saved, *list(given)[-1:]}
    for info in _answer(keep, steps):
        if not isinstance(info, StepInfo) or given.get(info.step) is not info:
            raise StructureError(
                f"keep gave {info!r:.80} ({type(info).__name__}), expected some of the steps that "
                "it was given: lambda steps: [s for s in steps if s.step % 1000 == 0]",
                reason=Reason.BAD_ARGUMENT,
            )
        kept.add(info.step)
    return [step for step in given if step not in kept]


def ranked(steps: Sequence[StepInfo], metric: str, mode: Mode) -> list[StepInfo]:
    """Return the steps that have a finite value of a metric, the best first.

    Raises:
        StructureError: reason ``missing-metric``: there are steps, and none has one.
    """
    rows = [(info.metrics[metric], info) for info in steps if metric in info.metrics]
    finite = [(value, info) for value, info in rows if math.isfinite(value)]
    if steps and not finite:
        others = sorted({name for info in steps for name in info.metrics} - {metric})
        raise StructureError(
            f"no finite value of the metric {metric!r} in {_few([info.step for info in steps])}"
            + (f", which have {_few(others)}" if others else "")
            + f"; save it with the step: save(step, tree, metrics={{{metric!r}: value}})",
            reason=Reason.MISSING_METRIC,
        )
    sign = 1 if mode == "min" else -1
    finite.sort(key=lambda row: (sign * row[0], -row[1].step))
    return [info for _, info in finite]


def check_rule(keep: Any) -> None:
    """Raise StructureError, reason ``bad-argument``, for what is no rule and not None."""
    if keep is not None and not callable(keep):
        raise StructureError(
            f"Manager: keep is {keep!r:.80}, expected a rule: keep_last(3), keep_every(1000), "
            "keep_best(1, metric), several of them with |, or a callable of your own",
            reason=Reason.BAD_ARGUMENT,
        )


def check_given(keep: Rule | None, step: int, metrics: Any) -> None:
    """Raise StructureError, reason ``missing-metric``, for a save without what `keep` looks at."""
    needed = keep.metrics if isinstance(keep, Keep) else frozenset[str]()
    given = metrics if isinstance(metrics, Mapping) else {}
    if lacking := sorted(needed.difference(given)):
        raise StructureError(
            f"save: step {step} comes without the metric {lacking[0]!r} that {keep} looks at; "
            f"save(step, tree, metrics={{{lacking[0]!r}: value}})",
            reason=Reason.MISSING_METRIC,
        )


def check_metric(where: str, metric: Any, mode: Any) -> None:
    """Raise StructureError, reason ``bad-argument``, for what is no metric or no mode."""
    if not isinstance(metric, str):
        raise StructureError(
            f"{where}: metric is {metric!r:.80}, expected its name", reason=Reason.BAD_ARGUMENT
        )
    if mode not in ("min", "max"):
        raise StructureError(
            f"{where}: mode is {mode!r:.80}, expected 'min' (of a loss) or 'max' (of an accuracy)",
            reason=Reason.BAD_ARGUMENT,
        )


def _answer(rule: Rule, steps: Sequence[StepInfo]) -> Iterable[Any]:
    """Ask a rule, with a list of its own: it may sort it, or take from it."""
    answer = rule(list(steps))
    return answer if isinstance(answer, Iterable) else [answer]


def _few(found: Sequence[Any]) -> str:
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(f"step {x}" if isinstance(x, int) else repr(x) for x in found[:5]) + more


def _count(what: str, n: Any) -> int:
    if type(n) is not int or not 0 < n <= wire.MAX_INTEGER:
        raise StructureError(
            f"{what} is {n!r:.80}, expected an int over 0", reason=Reason.BAD_ARGUMENT
        )
    return n


@dataclass(frozen=True)
class _Last(Keep):
    n: int

    def __call__(self, steps: Sequence[StepInfo]) -> Iterable[StepInfo]:
        return steps[-self.n :]

    def __repr__(self) -> str:
        return f"keep_last({self.n})"


@dataclass(frozen=True)
class _Every(Keep):
    n: int

    def __call__(self, steps: Sequence[StepInfo]) -> Iterable[StepInfo]:
        first: dict[int, StepInfo] = {}
        for info in steps:
            if info.step == 0 or info.step >= self.n:
                first.setdefault(info.step // self.n, info)
        return first.values()

    def __repr__(self) -> str:
        return f"keep_every({self.n})"


class _Best(Keep):
    def __init__(self, n: int, metric: str, mode: Mode) -> None:
        self.n, self.metric, self.mode = n, metric, mode
        self.metrics = frozenset({metric})

    def __call__(self, steps: Sequence[StepInfo]) -> Iterable[StepInfo]:
        return ranked(steps, self.metric, self.mode)[: self.n]

    def __repr__(self) -> str:
        return f"keep_best({self.n}, {self.metric!r}, {self.mode!r})"


class _Either(Keep):
    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        own = [rule.metrics for rule in rules if isinstance(rule, Keep)]
        self.metrics = frozenset[str]().union(*own)

    def __call__(self, steps: Sequence[StepInfo]) -> Iterable[StepInfo]:
        return [info for rule in self.rules for info in _answer(rule, steps)]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.rules))

"""Rules for the steps of a run to keep: callables, combined with ``|``. No I/O.

A rule is called with all committed steps in order, and returns the steps that it keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from ckptstore.errors import Reason, StructureError, bad_argument, listed
from ckptstore.format import wire

Mode = Literal["min", "max"]

_SHOWN = 5


class StepInfo:
    """One committed step, as an argument of a `keep` rule.

    Attributes:
        step: its number.

    Example:
        Your own rule, which keeps the steps with a loss below 1:

        >>> import ckptstore
        >>> def below_one(steps: list[StepInfo]) -> list[StepInfo]:
        ...     return [info for info in steps if info.metrics["loss"] < 1]
        >>> manager = ckptstore.Manager("run", keep=below_one)
        >>> for step, loss in [(100, 0.5), (200, 2.0), (300, 4.0)]:
        ...     saved = manager.save(step, {"step": step}, metrics={"loss": loss})
        >>> manager.steps()  # the newest is always kept
        [100, 300]

    Source: docs/runs.md, "What is kept".
    """

    __slots__ = ("_read", "step")

    def __init__(self, step: int, read: Callable[[int], Mapping[str, float]]) -> None:
        self.step = step
        self._read = read

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics that you passed when you saved this step, by name.

        The first access reads the manifests of **all** steps whose metrics this process does not
        know yet: one request for each, several at a time. Later accesses cost nothing. A step that
        was deleted meanwhile, or whose manifest is damaged, has no metrics.

        Raises:
            StorageError: the store does not answer.
        """
        return self._read(self.step)

    def __repr__(self) -> str:
        return f"<StepInfo {self.step}>"


Rule = Callable[[Sequence[StepInfo]], Iterable[StepInfo]]


class Keep:
    """A rule of ckptstore; ``|`` with another callable keeps the steps that either keeps.

    Attributes:
        modes: the metrics that it needs, each with the modes by which it compares.
    """

    modes: Mapping[str, frozenset[Mode]] = MappingProxyType({})

    @property
    def metrics(self) -> frozenset[str]:
        """The names of the metrics that it needs."""
        return frozenset(self.modes)

    def __call__(self, steps: Sequence[StepInfo]) -> Iterable[StepInfo]:
        """Return the steps to keep."""
        raise NotImplementedError

    def __or__(self, other: Rule) -> Keep:
        return _Either(self, other) if callable(other) else NotImplemented

    def __ror__(self, other: Rule) -> Keep:
        return _Either(other, self) if callable(other) else NotImplemented


def keep_last(n: int) -> Keep:
    """Keep the `n` newest steps.

    Args:
        n: the number of steps, 1 or more.

    Returns:
        A rule for ``Manager(keep=…)``; combine rules with ``|``.

    Raises:
        StructureError: reason ``bad-argument``.

    Example:
        >>> import ckptstore
        >>> manager = ckptstore.Manager("run", keep=keep_last(2))
        >>> for step in (100, 200, 300):
        ...     saved = manager.save(step, {"step": step})
        >>> manager.steps()
        [200, 300]

    Source: docs/runs.md, "What is kept".
    """
    return _Last(_positive("keep_last", "n", n))


def keep_every(steps: int) -> Keep:
    """Keep the multiples of `steps`; if one was not saved, keep the first step after it.

    Args:
        steps: the distance between two kept steps, 1 or more.

    Returns:
        A rule for ``Manager(keep=…)``; combine rules with ``|``.

    Raises:
        StructureError: reason ``bad-argument``.

    Example:
        >>> import ckptstore
        >>> manager = ckptstore.Manager("run", keep=keep_every(200) | keep_last(1))
        >>> for step in (100, 200, 300, 400, 500):
        ...     saved = manager.save(step, {"step": step})
        >>> manager.steps()
        [200, 400, 500]

    Source: docs/runs.md, "What is kept".
    """
    return _Every(_positive("keep_every", "steps", steps))


def keep_best(n: int, metric: str, mode: Mode = "min") -> Keep:
    """Keep the `n` steps with the best values of a metric.

    If two values are equal, the newer step is better. A step without the metric, or with a value
    that is not finite, is never among the best.

    Args:
        n: the number of steps, 1 or more.
        metric: its name in ``save(step, tree, metrics={name: value})``.
        mode: ``"min"`` if the smallest value is the best (a loss), ``"max"`` if the largest is (an
            accuracy).

    Returns:
        A rule for ``Manager(keep=…)``; combine rules with ``|``.

    Raises:
        StructureError: reason ``bad-argument``.

    Example:
        >>> import ckptstore
        >>> manager = ckptstore.Manager("run", keep=keep_best(1, "loss") | keep_last(1))
        >>> for step, loss in [(100, 0.5), (200, 0.2), (300, 0.4)]:
        ...     saved = manager.save(step, {"step": step}, metrics={"loss": loss})
        >>> manager.steps()
        [200, 300]

    Source: docs/runs.md, "What is kept".
    """
    check_metric("keep_best", metric, mode)
    return _Best(_positive("keep_best", "n", n), metric, mode)


def evicted(keep: Rule, steps: Sequence[StepInfo], saved: int | None = None) -> list[int]:
    """Return the steps that a rule does not keep, except the newest and the one just saved.

    Args:
        keep: the rule.
        steps: all steps, in order.
        saved: the step just saved, if there is one.

    Raises:
        StructureError: reason ``bad-argument``: the rule returned an object that is not a step.
    """
    info_of = {info.step: info for info in steps}
    kept: set[int | None] = {saved, *list(info_of)[-1:]}
    for info in _answer(keep, steps):
        if not isinstance(info, StepInfo) or info_of.get(info.step) is not info:
            raise StructureError(
                f"keep returned {info!r:.80} ({type(info).__name__}), expected some of the steps "
                "that it was called with: lambda steps: [s for s in steps if s.step % 1000 == 0]",
                reason=Reason.BAD_ARGUMENT,
            )
        kept.add(info.step)
    return [step for step in info_of if step not in kept]


def ranked(steps: Sequence[StepInfo], metric: str, mode: Mode) -> list[StepInfo]:
    """Return the steps that have a finite value of a metric, the best first.

    Raises:
        StructureError: reason ``missing-metric``: there are steps, and none has a finite value.
    """
    rows = [(info.metrics[metric], info) for info in steps if metric in info.metrics]
    finite = [(value, info) for value, info in rows if math.isfinite(value)]
    if steps and not finite:
        looked_at = ", ".join(listed((f"step {info.step}" for info in steps), _SHOWN))
        names = sorted({name for info in steps for name in info.metrics} - {metric})
        others = ", ".join(listed(map(repr, names), _SHOWN))
        raise StructureError(
            f"no finite value of the metric {metric!r} in {looked_at}"
            + (f", which have {others}" if others else "")
            + f"; save it with the step: save(step, tree, metrics={{{metric!r}: value}})",
            reason=Reason.MISSING_METRIC,
        )
    sign = 1 if mode == "min" else -1
    finite.sort(key=lambda row: (sign * row[0], -row[1].step))
    return [info for _, info in finite]


def check_rule(keep: Any, call: str) -> None:
    """Raise StructureError, reason ``bad-argument``, unless `keep` is a rule."""
    if not callable(keep):
        raise bad_argument(
            call,
            "keep",
            keep,
            "a rule: keep_last(3), keep_every(1000), keep_best(1, metric), several of them with |, "
            "or a callable of your own",
        )


def check_given(keep: Rule | None, step: int, metrics: Any) -> None:
    """Raise StructureError, reason ``missing-metric``, for a save without a metric of `keep`."""
    needed = keep.metrics if isinstance(keep, Keep) else frozenset[str]()
    passed = metrics if isinstance(metrics, Mapping) else {}
    if lacking := sorted(needed.difference(passed)):
        raise StructureError(
            f"save: step {step} comes without the metric {lacking[0]!r}, which {keep} needs; "
            f"pass it: save(step, tree, metrics={{{lacking[0]!r}: value}})",
            reason=Reason.MISSING_METRIC,
        )


def mode_of(keep: Rule | None, metric: str) -> Mode:
    """Return the mode by which a rule compares a metric.

    Raises:
        StructureError: reason ``bad-argument``: the rule does not compare it, or by both modes.
    """
    modes = keep.modes.get(metric, frozenset()) if isinstance(keep, Keep) else frozenset[Mode]()
    if len(modes) == 1:
        return next(iter(modes))
    found = "compares it by both modes" if modes else "says which of its values are better"
    raise StructureError(
        f"best: {'the' if modes else 'no'} rule in keep of this Manager {found}; pass the mode: "
        f'best({metric!r:.80}, mode="max") for an accuracy, mode="min" for a loss',
        reason=Reason.BAD_ARGUMENT,
    )


def check_metric(where: str, metric: Any, mode: Any) -> None:
    """Raise StructureError, reason ``bad-argument``, unless `keep_best` accepts both."""
    if not isinstance(metric, str):
        raise bad_argument(where, "metric", metric, "its name, such as 'loss'")
    if mode not in ("min", "max"):
        raise bad_argument(where, "mode", mode, "'min' (for a loss) or 'max' (for an accuracy)")


def _answer(rule: Rule, steps: Sequence[StepInfo]) -> Iterable[Any]:
    """Call a rule with its own list, which it may sort or change."""
    answer = rule(list(steps))
    return answer if isinstance(answer, Iterable) else [answer]


def _positive(where: str, name: str, n: Any) -> int:
    if type(n) is not int or not 0 < n <= wire.MAX_INTEGER:
        raise bad_argument(where, name, n, "an int over 0")
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
        self.modes = {metric: frozenset({mode})}

    def __call__(self, steps: Sequence[StepInfo]) -> Iterable[StepInfo]:
        return ranked(steps, self.metric, self.mode)[: self.n]

    def __repr__(self) -> str:
        return f"keep_best({self.n}, {self.metric!r}, {self.mode!r})"


class _Either(Keep):
    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        modes: dict[str, frozenset[Mode]] = {}
        for rule in rules:
            for metric, own in rule.modes.items() if isinstance(rule, Keep) else ():
                modes[metric] = modes.get(metric, frozenset()) | own
        self.modes = modes

    def __call__(self, steps: Sequence[StepInfo]) -> Iterable[StepInfo]:
        return [info for rule in self.rules for info in _answer(rule, steps)]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.rules))

"""The meanings of the integers in the state classes of Optax: one row for each class.

Read from the source of optax 0.2.8. Classes are found by name, so optax is not imported.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Meaning(enum.StrEnum):
    """The meaning of a counter. The first six follow the step, and `shift_counts` moves them.

    Example:
        >>> Meaning.BIAS == "bias correction"
        True

    Source: docs/optax.md, "Not by name".
    """

    SCHEDULE = "drives a schedule"
    BIAS = "bias correction"
    BOTH = "drives a schedule and bias correction"
    FIRST = "tells the first update from later ones"
    PERIOD = "drives a periodic refresh"
    STEPS = "steps of the wrapper"
    MINI_STEP = "mini-steps in an accumulation"
    SYNC = "place in a sync period"
    RING = "place in a ring of memory"
    LINE_SEARCH = "iterations of a line search"
    NOT_FINITE = "consecutive updates that were not finite"
    NOT_FINITE_TOTAL = "updates that were not finite"
    REPORT = "told by the last mini-step"
    PLATEAU = "steps without improvement"
    COOLDOWN = "steps of cooldown left"
    HYPERPARAMETER = "a hyperparameter"
    UNKNOWN = "unknown"


FOLLOW_THE_STEP = frozenset(
    {
        Meaning.SCHEDULE,
        Meaning.BIAS,
        Meaning.BOTH,
        Meaning.FIRST,
        Meaning.PERIOD,
        Meaning.STEPS,
    }
)

NEED_THE_FIRST_UPDATE = frozenset({Meaning.BIAS, Meaning.BOTH, Meaning.FIRST, Meaning.PERIOD})
"""Counters whose first update prepares the state beside them."""


class Pace(enum.Enum):
    """The pace of the updates of an inner transformation."""

    SAME = enum.auto()  # at each update of its holder
    OWN = enum.auto()  # at some updates of its holder
    MAY_RESTART = enum.auto()  # at each update, but perhaps restarted at each sync
    OUTER = enum.auto()  # at each sync
    ADVERSARIAL = enum.auto()  # between syncs, and perhaps restarted at each sync


@dataclass(frozen=True, slots=True)
class StateRow:
    """The fields of one class: its counters, and the fields that hold other states.

    Attributes:
        counters: fields that count.
        inner: fields that hold other states. Any other field holds no counter.
        holds: fields that hold integers other than counters, in any structure.
        starts: the first value of a counter that does not start at 0.
    """

    counters: Mapping[str, Meaning] = field(default_factory=dict)
    inner: Mapping[str, Pace] = field(default_factory=dict)
    holds: Mapping[str, Meaning] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)


def _count(meaning: Meaning, **inner: Pace) -> StateRow:
    return StateRow({"count": meaning}, inner)


def _inner(*names: str) -> StateRow:
    return StateRow(inner=dict.fromkeys(names, Pace.SAME))


_SEARCH = StateRow({"num_linesearch_steps": Meaning.LINE_SEARCH})

STATES: Mapping[str, StateRow] = {
    # Optimizers and their parts.
    "AddNoiseState": _count(Meaning.SCHEDULE),
    "DAdaptAdamWState": _count(Meaning.BOTH),
    "EmaState": _count(Meaning.BIAS),
    "FactoredState": _count(Meaning.SCHEDULE),  # the decay rate of the second moment
    "GaLoreState": _count(Meaning.PERIOD, base_optimizer_state=Pace.SAME),
    "MadgradState": _count(Meaning.SCHEDULE),
    "MechanicState": _count(Meaning.FIRST, base_optimizer_state=Pace.SAME),
    "MomoAdamState": _count(Meaning.BOTH),
    "MomoState": _count(Meaning.SCHEDULE),
    "MuonState": _count(Meaning.BIAS),
    "PerElementMeanAndVarianceEMAState": _count(Meaning.BIAS),
    "ProdigyState": _count(Meaning.BOTH),
    "ScaleByAdamState": _count(Meaning.BIAS),  # also of adopt, whose clip is a schedule of it
    "ScaleByAdanState": StateRow({"t": Meaning.BIAS}),
    "ScaleByAdemamixState": StateRow({"count": Meaning.BIAS, "count_m2": Meaning.SCHEDULE}),
    "ScaleByAmsgradState": _count(Meaning.BIAS),
    "ScaleByBeliefState": _count(Meaning.BIAS),
    "ScaleByLBFGSState": _count(Meaning.RING),
    "ScaleByLionState": _count(Meaning.STEPS),
    "ScaleByNovogradState": _count(Meaning.FIRST),
    "ScaleByRStdDevWithCountState": _count(Meaning.BIAS),
    "ScaleByRmsWithCountState": _count(Meaning.BIAS),
    "ScaleByScheduleState": _count(Meaning.SCHEDULE),
    "ScaleBySimplifiedAdEMAMixState": StateRow({"t": Meaning.BOTH}),
    "SophiaState": _count(Meaning.BOTH, hessian_fn_state=Pace.OWN),  # and the Hessian's period
    "WeightDecaySchedule": _count(Meaning.SCHEDULE),
    # Wrappers.
    "ConditionallyMaskState": StateRow({"step": Meaning.SCHEDULE}, {"inner_state": Pace.OWN}),
    "ConditionallyTransformState": StateRow({"step": Meaning.SCHEDULE}, {"inner_state": Pace.OWN}),
    "MaybeUpdateState": StateRow(
        {"step": Meaning.SCHEDULE}, {"inner_state": Pace.OWN}
    ),  # older name
    "ApplyIfFiniteState": StateRow(
        {"notfinite_count": Meaning.NOT_FINITE, "total_notfinite": Meaning.NOT_FINITE_TOTAL},
        {"inner_state": Pace.SAME},
    ),
    "InjectHyperparamsState": StateRow(
        {"count": Meaning.SCHEDULE},
        {"inner_state": Pace.SAME},
        {"hyperparams": Meaning.HYPERPARAMETER},
    ),
    "InjectStatefulHyperparamsState": StateRow(
        {"count": Meaning.STEPS},
        {"hyperparams_states": Pace.SAME, "inner_state": Pace.SAME},
        {"hyperparams": Meaning.HYPERPARAMETER},
    ),
    "WrappedScheduleState": _count(Meaning.SCHEDULE),
    "LookaheadState": StateRow(
        {"steps_since_sync": Meaning.SYNC}, {"fast_state": Pace.MAY_RESTART}
    ),
    "SAMState": StateRow(
        {"steps_since_sync": Meaning.SYNC},
        {"opt_state": Pace.OUTER, "adv_state": Pace.ADVERSARIAL},
    ),
    "MaskedState": _inner("inner_state"),
    "MonitorState": _inner("measure_states"),
    "MultiStepsState": StateRow(
        {"mini_step": Meaning.MINI_STEP, "gradient_step": Meaning.SCHEDULE},
        {"inner_opt_state": Pace.OWN},
        {"skip_state": Meaning.REPORT},
    ),
    "PartitionState": _inner("inner_states"),
    "MultiTransformState": _inner("inner_states"),  # its older name
    "ScheduleFreeState": StateRow(
        {"step_count": Meaning.SCHEDULE},
        {"base_optimizer_state": Pace.SAME},
        starts={"step_count": 1},
    ),
    "SplitRealAndImaginaryState": _inner("inner_state"),
    # Counters of other things than steps.
    "AccumulateAvgUpdatesState": StateRow({"micro_step": Meaning.MINI_STEP}),
    "ApplyEvery": _count(Meaning.MINI_STEP),
    "PerElementMeanAndSumSqDiffGradsState": StateRow({"micro_step": Meaning.MINI_STEP}),
    "ReduceLROnPlateauState": StateRow(
        {
            "plateau_count": Meaning.PLATEAU,
            "cooldown_count": Meaning.COOLDOWN,
            "count": Meaning.MINI_STEP,
        }
    ),
    "BacktrackingLineSearchState": StateRow({"iter_num": Meaning.LINE_SEARCH}),
    "BacktrackingLinesearchInfo": _SEARCH,
    "ScaleByBacktrackingLinesearchState": _inner("info"),
    "ScaleByZoomLinesearchState": _inner("info"),
    "ZoomLinesearchInfo": _SEARCH,
    "ZoomLinesearchState": _count(Meaning.LINE_SEARCH),
    # Axes, not counters.
    "GaLoreDimensionNumbers": StateRow(),
    "MuonDimensionNumbers": StateRow(),
}
"""By the name of the class. A class of optax 0.2.8 that is not listed has no counter."""

OWN_PACE_OF: Mapping[tuple[str, str], str] = {
    ("MultiStepsState", "gradient_step"): "inner_opt_state"
}
"""Counters that follow the pace of an inner state beside them."""

AGGREGATORS = frozenset({"AccumulateAvgUpdatesState", "PerElementMeanAndSumSqDiffGradsState"})
"""In the triple of `optax.experimental.aggregating.process`, these set the pace of the rest."""

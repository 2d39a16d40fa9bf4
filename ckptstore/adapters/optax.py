"""Optax: today's and former modules of its state classes, NamedTuples or plain dataclasses.

The tables hold every change from release 0.1.0 on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ckptstore.types import Adapter, Migration

# The old module, today's module, and the classes that moved from one to the other.
_MOVED = (
    ("optax._src.combine", "optax.transforms._combining", "MultiTransformState"),
    ("optax._src.constrain", "optax.transforms._constraining", "ZeroNansState"),
    ("optax._src.contrib.mechanic", "optax.contrib._mechanic", "MechanicState"),
    (
        "optax._src.experimental.complex_valued",
        "optax.contrib._complex_valued",
        "SplitRealAndImaginaryArrays SplitRealAndImaginaryState",
    ),
    ("optax._src.privacy", "optax.contrib._privacy", "DifferentiallyPrivateAggregateState"),
    ("optax._src.schedule", "optax.schedules._inject", "InjectHyperparamsState"),
    ("optax._src.transform", "optax._src.base", "ScaleByTrustRatioState"),
    ("optax._src.transform", "optax.transforms._accumulation", "EmaState TraceState"),
    ("optax._src.transform", "optax.transforms._adding", "AddNoiseState"),
    ("optax._src.wrappers", "optax.transforms._accumulation", "MultiStepsState"),
    (
        "optax._src.wrappers",
        "optax.transforms._conditionality",
        "ApplyIfFiniteState MaybeUpdateState",
    ),
    ("optax._src.wrappers", "optax.transforms._masking", "MaskedNode MaskedState"),
    ("optax.contrib.cocob", "optax.contrib._cocob", "COCOBState"),
    (
        "optax.contrib.complex_valued",
        "optax.contrib._complex_valued",
        "SplitRealAndImaginaryArrays SplitRealAndImaginaryState",
    ),
    ("optax.contrib.dadapt_adamw", "optax.contrib._dadapt_adamw", "DAdaptAdamWState"),
    ("optax.contrib.mechanic", "optax.contrib._mechanic", "MechanicState"),
    ("optax.contrib.privacy", "optax.contrib._privacy", "DifferentiallyPrivateAggregateState"),
    ("optax.contrib.prodigy", "optax.contrib._prodigy", "ProdigyState"),
    (
        "optax.contrib.reduce_on_plateau",
        "optax.contrib._reduce_on_plateau",
        "ReduceLROnPlateauState",
    ),
    ("optax.contrib.sam", "optax.contrib._sam", "SAMState"),
    (
        "optax.schedules._stateful",
        "optax.schedules._inject",
        "InjectStatefulHyperparamsState WrappedScheduleState",
    ),
)

# Today's name of such a class, if it differs.
_RENAMED = {
    "MaybeUpdateState": "ConditionallyTransformState",
    "MultiTransformState": "PartitionState",
    "ScaleByTrustRatioState": "EmptyState",
}


_MOST_NBYTES = 1 << 16
"""The largest array that an added number is made for: many records may share a stored one."""


def _full_like(field: str, value: float) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function that makes an added number with the type and dtype of another field."""

    def make(old: Mapping[str, Any]) -> Any:
        x = old[field]
        cls = type(x)  # `isinstance` would ask an object of any class for its class
        if issubclass(cls, jax.Array | np.ndarray | np.generic) and x.nbytes > _MOST_NBYTES:
            raise TypeError(f"{field} has {x.nbytes} bytes, expected at most {_MOST_NBYTES}")
        if issubclass(cls, jax.Array):
            return jnp.full_like(x, value)
        if issubclass(cls, np.ndarray | np.generic) and x.dtype.kind in "biufV":  # V: bfloat16
            return np.full_like(x, value)
        if cls in (int, float):
            return cls(value)
        raise TypeError(f"{field} is {cls.__qualname__}, expected a number")

    return make


def _no_search(old: Mapping[str, Any]) -> Any:
    """Return the info of a backtracking search before its first search."""
    error = _full_like("value", float("inf"))(old)
    steps: Any = jnp.asarray(0) if isinstance(error, jax.Array) else np.zeros((), np.int32)
    return optax._src.linesearch.BacktrackingLinesearchInfo(steps, error)


# By today's name of the class; the comment names the release that made the change.
_MIGRATIONS = {
    "optax.transforms._accumulation.MultiStepsState": [  # 0.1.3
        Migration(added={"skip_state": ()})
    ],
    "optax.contrib._reduce_on_plateau.ReduceLROnPlateauState": [  # 0.2.2
        Migration(
            renamed={
                "lr": "scale",
                "best_loss": "best_value",
                "cooldown_counter": "cooldown_count",
            },
            added={
                "count": _full_like("cooldown_counter", 0),
                "avg_value": _full_like("best_loss", 0.0),
            },
        )
    ],
    "optax._src.linesearch.ScaleByBacktrackingLinesearchState": [  # 0.2.4
        Migration(added={"info": _no_search})
    ],
    "optax.contrib._dog.DoGState": [  # 0.2.6
        Migration(renamed={"first_step": "is_init_step", "estim_dist": "max_dist"})
    ],
    "optax.contrib._sam.SAMState": [],  # a dataclass until 0.2.5, with the same fields
}


class OptaxAdapter(Adapter):
    """The adapter of optax; importing it imports every module that defines a state."""

    modules = ("optax",)
    moved = MappingProxyType(
        {
            f"{old}.{name}": f"{new}.{_RENAMED.get(name, name)}"
            for old, new, names in _MOVED
            for name in names.split()
        }
    )
    migrations = MappingProxyType(_MIGRATIONS)


ADAPTER = OptaxAdapter()

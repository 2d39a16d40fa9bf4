"""The step counters and the form of an Optax state: `counts`, `shift_counts`, `fit`.

The import brings neither optax nor jax. Guide: docs/optax.md.
"""

from __future__ import annotations

from ckptstore.optax.counters import (
    Change,
    Count,
    Disagreement,
    Meaning,
    Report,
    check_counts,
    counts,
    fit,
    shift_counts,
)

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

"""The step counters and the structure of an Optax state: `counts`, `shift_counts`, `fit`.

Importing this package imports neither optax nor jax. Guide: docs/optax.md.
"""

from __future__ import annotations

from ckptstore.optax.counter_table import Meaning
from ckptstore.optax.counters import Disagreement, check_counts, counts, shift_counts
from ckptstore.optax.finder import Count
from ckptstore.optax.fitting import Change, Report, fit

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

"""The step counters and the structure of an Optax state: `counts`, `shift_counts`, `fit`.

Importing this package imports neither optax nor jax. Guide: docs/optax.md.

Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from ckptstore.optax import counts, shift_counts
    >>> optimizer, params = optax.adam(1e-3), {"w": jnp.zeros(3)}
    >>> _, state = optimizer.update(params, optimizer.init(params))
    >>> [int(count.value) for count in counts(shift_counts(state, to=100))]
    [100]
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


def __dir__() -> list[str]:
    """Return the public names only, so that completion hides internal modules."""
    return __all__

"""Fitting a loaded state to the structure that an optimizer expects today: `fit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ckptstore.errors import Reason, StructureError, listed

_SHOWN = 50


class Optimizer(Protocol):
    """What `fit` calls of an optimizer; `optax.GradientTransformation` has it."""

    def init(self, params: Any, /) -> Any:
        """Return the state that the optimizer begins with."""


@dataclass(frozen=True, slots=True)
class Change:
    """What `fit` did at one place of the state.

    Attributes:
        path: the place, in the state that is returned.
        what: in words.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ckptstore.optax import fit
        >>> params = {"w": jnp.ones(3)}
        >>> today = optax.chain(optax.clip(1.0), optax.scale_by_adam())
        >>> _, report = fit(optax.scale_by_adam().init(params), today, params)
        >>> [(change.path, change.what) for change in report.changes]
        [('$', 'ScaleByAdamState -> (EmptyState, ScaleByAdamState)')]

    Source: docs/optax.md, "Fitting a state to today's optimizer".
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """All that `fit` changed; ``print(report)`` shows a line for each place.

    Attributes:
        changes: in the order of the tree; empty where the state was today's already.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ckptstore.optax import fit
        >>> params, optimizer = {"w": jnp.ones(3)}, optax.adam(1e-3)
        >>> _, report = fit(optimizer.init(params), optimizer, params)
        >>> print(report)
        nothing was changed

    Source: docs/optax.md, "Fitting a state to today's optimizer".
    """

    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "nothing was changed"


def fit(loaded: Any, tx: Optimizer, params: Any) -> tuple[Any, Report]:
    """Return a state of the structure that an optimizer expects today, with the loaded values.

    `load` rebuilds the state that was saved. An older release of Optax made it with another
    structure, or your chain has changed since. States that hold no value come and go, dicts are
    matched by key, dtypes and PRNG keys become those of today. The rest is refused: no value of
    ``tx.init`` ever stands for one that has a history. Call it outside of jit.

    Args:
        loaded: the state of the optimizer alone, as `load` returned it.
        tx: the optimizer: any object with ``init(params)``.
        params: its parameters, or a `jax.ShapeDtypeStruct` for each. No array is made of them
            unless jax cannot trace ``tx.init``.

    Returns:
        The state, and a report of what was changed. Parts that did not change are the same objects;
        where nothing changed, the state is `loaded` itself.

    Raises:
        StructureError: ``does-not-fit``, with all the places and what is found and expected
            there; ``bad-argument`` where ``tx.init(params)`` fails.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"w": jnp.ones(3)}
        >>> loaded = optax.chain(optax.scale_by_adam(), optax.scale(-1e-3)).init(params)
        >>> today = optax.chain(optax.clip(1.0), optax.scale_by_adam(), optax.scale(-1e-3))
        >>> state, report = fit(loaded, today, params)
        >>> print(report)
        $: (ScaleByAdamState, EmptyState) -> (EmptyState, ScaleByAdamState, EmptyState)
        >>> state[1].mu["w"] is loaded[0].mu["w"]
        True

    Source: docs/optax.md, "Fitting a state to today's optimizer".
    """
    from ckptstore.optax import expected  # these two import jax
    from ckptstore.optax.comparison import Comparison

    try:
        initial = expected.initial_state(tx, params)
    except Exception as error:  # of the user's optimizer
        raise StructureError(
            f"fit: tx.init(params) failed: {type(error).__name__}: {error!s:.500}; pass the "
            "optimizer, and the parameters that it updates",
            reason=Reason.BAD_ARGUMENT,
        ) from error
    best = Comparison(loaded, initial)
    if best.changes or best.refusals:
        # Some states look otherwise after their first update than before.
        updated = expected.updated_state(tx, params, initial)
        if updated is not None:
            after_update = Comparison(loaded, updated)
            best = min(best, after_update, key=lambda c: (bool(c.refusals), len(c.changes)))
    if best.refusals:
        raise StructureError(
            f"fit: {len(best.refusals)} place(s) of the state are not what the optimizer expects:"
            + "".join(f"\n  {line}" for line in listed(best.refusals, _SHOWN))
            + "\npass the state of the optimizer alone, with the `tx` and the `params` that belong "
            "to it; what may begin anew or be lost, put in or leave out by hand, as in "
            "(*loaded, tx.init(params)[-1])",
            reason=Reason.DOES_NOT_FIT,
        )
    return best.state, Report(tuple(Change(path, what) for path, what in best.changes))

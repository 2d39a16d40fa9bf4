"""`fit`: convert a loaded state to the structure that an optimizer expects today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ckptstore import signals
from ckptstore.errors import Reason, StructureError, listed

_SHOWN = 50


class Optimizer(Protocol):
    """The part of an optimizer that `fit` calls; `optax.GradientTransformation` has it."""

    def init(self, params: Any, /) -> Any:
        """Return the initial state of the optimizer."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change that `fit` made to the state.

    Attributes:
        path: the path in the returned state.
        what: the change in words.

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
        changes: the changes in the order of the tree; empty if the state fitted already.

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

    `load` rebuilds the state that you saved. Its structure may differ from today's, because an
    older release of Optax made it, or because you have changed your chain since. `fit` adds and
    drops states without values, matches dicts by key, and converts dtypes and PRNG keys. It refuses
    everything else: a value of ``tx.init`` never replaces a value with a history. Call it outside
    of jit.

    Args:
        loaded: the state of the optimizer alone, as returned by `load`.
        tx: the optimizer: any object with ``init(params)``.
        params: its parameters, or a `jax.ShapeDtypeStruct` for each. Arrays are made only if jax
            cannot trace ``tx.init``.

    Returns:
        The state, and a report of the changes. Unchanged parts are the same objects. If nothing
        changed, the state is `loaded` itself.

    Raises:
        StructureError: ``does-not-fit``: the message lists all places, found against expected.
            ``bad-argument``: ``tx.init(params)`` fails.

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
        signals.pass_on(error)
        raise StructureError(
            f"fit: tx.init(params) failed: {type(error).__name__}: {error!s:.500}; pass the "
            "optimizer, and the parameters that it updates",
            reason=Reason.BAD_ARGUMENT,
        ) from error
    best = Comparison(loaded, initial)
    if best.changes or best.refusals:
        # Some states change their form in the first update.
        updated = expected.updated_state(tx, params, initial)
        if updated is not None:
            after_update = Comparison(loaded, updated)
            best = min(best, after_update, key=lambda c: (bool(c.refusals), len(c.changes)))
    if best.refusals:
        raise StructureError(
            f"fit: {len(best.refusals)} place(s) of the state do not fit the optimizer:"
            + "".join(f"\n  {line}" for line in listed(best.refusals, _SHOWN))
            + "\npass the state of the optimizer alone, with the `tx` and the `params` that belong "
            "to it; add or remove by hand the parts that you accept to reset or lose, as in "
            "(*loaded, tx.init(params)[-1])",
            reason=Reason.DOES_NOT_FIT,
        )
    return best.state, Report(tuple(Change(path, what) for path, what in best.changes))

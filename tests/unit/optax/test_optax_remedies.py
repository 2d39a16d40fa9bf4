"""What the errors of `ckptstore.optax` tell you to do, done."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from ckptstore import StructureError
from ckptstore.optax import counts, fit, shift_counts
from tests.support import remedies

follows = pytest.mark.follows

PARAMS = {"w": jnp.ones(3)}


def updated(tx: Any, times: int = 1) -> Any:
    state = tx.init(PARAMS)
    for _ in range(times):
        _, state = tx.update(PARAMS, state, PARAMS)
    return state


def values(state: Any) -> list[int]:
    return [int(count.value) for count in counts(state)]


@follows("optax.counters", "counts(opt_state) lists them")
def test_a_pattern_that_matches_no_counter() -> None:
    state = updated(optax.adam(1e-3))
    with pytest.raises(StructureError):
        shift_counts(state, by=100, select="$[0].mu")
    (listed,) = counts(state)
    assert values(shift_counts(state, by=100, select=listed.path)) == [101]


@follows(
    "optax.counters",
    "pass only the part of the tree that Optax made, or select= all counters to move, or pass "
    "strict=False to leave these as they are",
)
def test_integers_of_unknown_meaning() -> None:
    state = updated(optax.adam(1e-3))
    tree = {"opt_state": state, "mine": jnp.array(7)}
    with pytest.raises(StructureError):
        shift_counts(tree, by=100)
    assert values(shift_counts(tree["opt_state"], by=100)) == [101]
    selected = shift_counts(tree, by=100, select="$.opt_state[0].count")
    assert selected["opt_state"][0].count == 101 and selected["mine"] == 7
    with pytest.warns(UserWarning, match="unknown meaning"):
        lenient = shift_counts(tree, by=100, strict=False)
    assert lenient["opt_state"][0].count == 101 and lenient["mine"] == 7


@follows("optax.counters", "pass a number for each:\n  {}\nas in {{}}")
def test_a_state_of_several_clocks() -> None:
    accumulate = optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation()
    both = optax.chain(accumulate, optax.scale_by_schedule(lambda step: 1.0))
    state = updated(both, 4)
    with pytest.raises(StructureError) as caught:
        shift_counts(state, by=400)
    amounts = eval(str(caught.value).partition("\nas in ")[2].partition("; 0 leaves")[0])
    assert set(amounts.values()) == {400}
    inner = next(clock for clock in amounts if clock != "$")
    later = shift_counts(state, {**amounts, inner: 100})
    assert later[1].count == 404 and later[0].gradient_step == 101
    assert shift_counts(state, {**amounts, inner: 0})[0].gradient_step == 1


@follows("optax.counters", "make an update first, or select= only schedules")
def test_a_counter_before_the_first_update() -> None:
    tx = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda step: 1.0))
    with pytest.warns(UserWarning) as caught:
        shift_counts(tx.init(PARAMS), by=100)
    remedies.seen(str(caught[0].message))
    assert values(shift_counts(updated(tx), by=100)) == [101, 101]
    assert values(shift_counts(tx.init(PARAMS), by=100, select="$[1].count")) == [0, 100]


@follows("optax.expected", "call fit outside of jit, with arrays that were not donated")
def test_a_state_without_values() -> None:
    tx = optax.adam(1e-3)

    @jax.jit
    def traced(state: Any) -> Any:
        with pytest.raises(StructureError):
            fit(state, tx, PARAMS)
        return state

    state = traced(updated(tx))
    donated = updated(tx)
    for x in jax.tree.leaves(donated):
        x.delete()
    with pytest.raises(StructureError):
        fit(donated, tx, PARAMS)
    fitted, report = fit(state, tx, PARAMS)
    assert not report.changes and fitted[0].count == 1


@follows("optax.finder", "call this outside of jit, with a state of concrete integers")
def test_a_counter_without_a_value() -> None:
    state = updated(optax.adam(1e-3))

    @jax.jit
    def traced(state: Any) -> Any:
        with pytest.raises(StructureError):
            counts(state)
        return state

    traced(state)
    assert values(state) == [1]


@follows("optax.fitting", "pass the optimizer, and the parameters that it updates")
def test_an_optimizer_that_is_none() -> None:
    tx = optax.adam(1e-3)
    state = updated(tx)
    with pytest.raises(StructureError):
        fit(state, optax.adam, PARAMS)  # type: ignore[arg-type]
    with pytest.raises(StructureError):
        fit(state, tx, {"w": object()})
    assert fit(state, tx, PARAMS)[0][0].count == 1


@follows(
    "optax.fitting",
    "pass the state of the optimizer alone, with the `tx` and the `params` that belong to it",
)
@follows(
    "optax.fitting",
    "add or remove by hand the parts that you accept to reset or lose, as in "
    "(*loaded, tx.init(params)[-1])",
)
def test_a_state_that_does_not_fit() -> None:
    old = optax.adam(1e-3)
    loaded = updated(old)
    tx = optax.chain(*[optax.scale_by_adam(), optax.scale(-1.0), optax.trace(0.9)])
    with pytest.raises(StructureError):
        fit({"opt_state": loaded, "step": 1}, old, PARAMS)
    assert fit(loaded, old, PARAMS)[0][0].count == 1
    with pytest.raises(StructureError):
        fit(loaded, tx, PARAMS)
    state, _ = fit((*loaded, tx.init(PARAMS)[-1]), tx, PARAMS)
    assert state[0].count == 1
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
    with pytest.raises(StructureError):
        fit(updated(tx), old, PARAMS)
    assert fit(updated(tx)[:2], old, PARAMS)[0][0].count == 1


@follows("optax.counters", "the clocks are {}")
def test_a_clock_that_a_state_does_not_have() -> None:
    state = updated(optax.adam(1e-3))
    with pytest.raises(StructureError) as caught:
        shift_counts(state, {"$[7]": 100})
    clocks = str(caught.value).partition("the clocks are ")[2].split(", ")
    assert values(shift_counts(state, dict.fromkeys(clocks, 100))) == [101]

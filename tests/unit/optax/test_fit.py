"""A state of another structure becomes what the optimizer expects, or is refused by path."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

pytest.importorskip("optax")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

import ckptstore
from ckptstore.optax import Change, Report, expected, fit
from tests.support import optax_catalogue as catalogue
from tests.support.compare import differences
from tests.support.marks import sampled

LR = 0.05
NAMES = sorted(n for n in catalogue.CASES if not n.startswith("by_hand."))
# What changes dtypes or its structure in the first update, and what jax cannot trace.
SPECIAL = """
    adam_user_class contrib.ademamix_bf16_mu contrib.reduce_on_plateau contrib.sam_opaque lbfgs
    measure_with_ema monitor multi_transform_enum multi_transform_mixed_keys named_chain
    multi_steps_many noisy_sgd scale_by_zoom_linesearch
"""
SAMPLED = {*NAMES[5::25], *SPECIAL.split()}
CASES = sampled(NAMES, SAMPLED)

# States that depend on more than the parameters.
NOT_OF_PARAMS = {
    "aggregating.process": r"trace\['scale'\]: float32\[4\] found",  # the batch of the gradients
    "scale_by_distance_over_gradients": r"float32\[\] found, float32\[1\]",  # its updates have [1]
}


def params() -> Any:
    return {"w": jnp.arange(6.0).reshape(2, 3) / 7, "b": jnp.arange(3.0) / 5}


def trained(tx: Any, steps: int = 3) -> Any:
    p = params()
    state = tx.init(p)
    for i in range(steps):
        grads = jax.tree.map(lambda x, i=i: jnp.cos(x + i), p)
        updates, state = tx.update(grads, state, p)
        p = optax.apply_updates(p, updates)
    return jax.tree.map(lambda x: x, state)  # its dicts in the order that jax gives them


@pytest.mark.parametrize("name", CASES)
def test_a_state_of_today_is_returned_as_it_is(name: str) -> None:
    case = catalogue.CASES[name]()
    states = [case.state, case.tx.init(case.params)]
    if name in NOT_OF_PARAMS:
        with pytest.raises(ckptstore.StructureError, match=NOT_OF_PARAMS[name]):
            fit(states.pop(0), case.tx, case.params)
    for state in states:
        fitted, report = fit(state, case.tx, case.params)
        assert fitted is state
        assert report == Report(())
        assert str(report) == "nothing was changed"


# The old structure of a state, made of today's by hand. Dumps of the real releases say the same.


def unmasked(state: Any, put: Callable[[Any], Any]) -> Any:
    """Replace each tree of parameters with a mask in it."""
    (adam, rest) = state.inner_state
    adam = adam._replace(mu=put(adam.mu), nu=put(adam.nu))
    return optax.MaskedState((adam, rest))


def as_none(tree: Any) -> Any:
    is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(lambda x: None if is_masked(x) else x, tree, is_leaf=is_masked)


def old_inject(state: Any) -> Any:
    return optax.InjectHyperparamsState(state.count, state.hyperparams, state.inner_state)


def old_schedule_free(state: Any) -> Any:
    rms, *rest = state.base_optimizer_state
    gradient = jax.tree.map(jnp.sqrt, rms.nu)  # with b1=0, mu is no zero
    adam = optax.ScaleByAdamState(rms.count, gradient, rms.nu)
    return state._replace(b1=state.b1.reshape(1), base_optimizer_state=(adam, *rest))


def old_muon(state: Any) -> Any:
    masked = state.inner_states["muon"]
    assert [type(s).__name__ for s in masked.inner_state] == ["MuonState", *["EmptyState"] * 3]
    inner = optax.MaskedState(masked.inner_state[:1] + masked.inner_state[2:])
    return state._replace(inner_states=state.inner_states | {"muon": inner})


def old_key(state: Any) -> Any:
    return state._replace(rng_key=jax.random.key_data(state.rng_key))


def weak(x: Any) -> Any:
    made = jnp.asarray(float(x))
    assert made.weak_type
    return made


def in_float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


ADAM = optax.adam(LR)
MASKED = optax.masked(ADAM, {"w": True, "b": False})
INJECT = optax.inject_hyperparams(optax.adamw)(lambda step: LR / (1 + step), b1=lambda step: 0.9)
NAMED = optax.named_chain(("z", ADAM), ("a", optax.sgd(LR, momentum=0.9)))
BF16 = optax.adam(LR, mu_dtype=jnp.bfloat16)
OPTIMISTIC = optax.optimistic_gradient_descent(LR)
OLD: dict[str, tuple[Any, Callable[[Any], Any], list[str]]] = {
    "masked, to 0.1.1": (
        MASKED,
        lambda s: unmasked(s, jax.tree.leaves),
        [f"$.inner_state[0].{n}: list -> dict, the leaves in their order" for n in ("mu", "nu")],
    ),
    "masked, 0.1.2": (
        MASKED,
        lambda s: unmasked(s, as_none),
        [
            f"$.inner_state[0].{n}['b']: None -> MaskedNode; neither holds a value"
            for n in ("mu", "nu")
        ],
    ),
    "noisy_sgd, to 0.1.3": (
        optax.noisy_sgd(LR, key=jax.random.key(3)),
        lambda s: (s[1], old_key(s[0])),
        [
            "$[0].rng_key: uint32[2] -> key<threefry2x32>[]",
            "$: (EmptyState, AddNoiseState) -> (AddNoiseState, EmptyState)",
        ],
    ),
    "inject_hyperparams, to 0.1.8": (
        INJECT,
        old_inject,
        [
            "$: InjectHyperparamsState -> InjectStatefulHyperparamsState; its count drives "
            "b1, learning_rate, which were one step ahead before Optax 0.1.4"
        ],
    ),
    "cocob, to 0.2.2": (
        contrib.cocob(),
        lambda s: s[2],
        ["$: COCOBState -> (EmptyState, EmptyState, COCOBState)"],
    ),
    "cocob, backwards": (
        contrib.scale_by_cocob(),
        lambda s: (optax.EmptyState(), s),
        ["$: (EmptyState, COCOBState) -> COCOBState"],
    ),
    "optimistic_gradient_descent, to 0.2.3": (
        OPTIMISTIC,
        lambda s: (optax.TraceState(s[0].previous_gradient), *s[1:]),
        [
            "$[0]: TraceState -> ScaleByOptimisticGradientState; is_initial_step is False, since "
            "the trace is not all zero"
        ],
    ),
    "schedule_free_adamw, 0.2.3": (
        contrib.schedule_free_adamw(LR),
        old_schedule_free,
        [
            "$.b1: float32[1] -> float32[]",
            "$.base_optimizer_state[0]: ScaleByAdamState -> ScaleByRmsWithCountState; mu is "
            "dropped: with b1=0, as schedule_free_adamw had it, no update reads it",
        ],
    ),
    "named_chain, to 0.2.5": (
        NAMED,
        lambda s: dict(sorted(s.items())),
        ["$: dict -> OrderedDict, by key"],
    ),
    "named_chain, in another order": (
        NAMED,
        lambda s: OrderedDict(sorted(s.items())),
        ["$: reordered by key: 'z', 'a'"],
    ),
    "muon, to 0.2.6": (
        contrib.muon(LR),
        old_muon,
        [
            "$.inner_states['muon'].inner_state: (MuonState, EmptyState, EmptyState) -> "
            "(MuonState, EmptyState, EmptyState, EmptyState)"
        ],
    ),
    "mu_dtype, to 0.1.1": (
        BF16,
        lambda s: (s[0]._replace(mu=in_float32(s[0].mu)), s[1]),
        [
            "$[0].mu['b']: float32[3] -> bfloat16[3]",
            "$[0].mu['w']: float32[2, 3] -> bfloat16[2, 3]",
        ],
    ),
    "a weak scalar": (
        optax.inject_hyperparams(optax.sgd)(jnp.float32(LR)),
        lambda s: s._replace(hyperparams={"learning_rate": weak(s.hyperparams["learning_rate"])}),
        ["$.hyperparams['learning_rate']: its type is no longer weak"],
    ),
    "one more stateless element": (
        optax.chain(optax.clip(1.0), optax.scale_by_adam(), optax.centralize(), optax.scale(LR)),
        lambda s: (s[1], s[3]),
        [
            "$: (ScaleByAdamState, EmptyState) -> (EmptyState, ScaleByAdamState, EmptyState, "
            "EmptyState)"
        ],
    ),
    "one stateless element fewer, deep inside": (
        optax.MultiSteps(optax.masked(ADAM, {"w": True, "b": False}), 2),
        lambda s: s._replace(
            inner_opt_state=optax.MaskedState((optax.EmptyState(), *s.inner_opt_state.inner_state))
        ),
        [
            "$.inner_opt_state.inner_state: (EmptyState, ScaleByAdamState, EmptyState) -> "
            "(ScaleByAdamState, EmptyState)"
        ],
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_an_old_state_becomes_bit_by_bit_what_it_is_today(name: str) -> None:
    tx, make_old, lines = OLD[name]
    today = trained(tx)
    old = make_old(today)
    before = jax.tree.map(np.asarray, jax.tree.leaves(old))
    fitted, report = fit(old, tx, params())
    assert differences(today, fitted) == []
    assert str(report).splitlines() == lines
    assert [Change(c.path, c.what) for c in report.changes] == list(report.changes)
    assert all(map(np.array_equal, before, jax.tree.leaves(old)))  # what was loaded stays
    # And from there it is today's, and runs; what is fitted once needs no second time.
    assert fit(fitted, tx, params()) == (fitted, Report(()))
    tx.update(params(), fitted, params())


def test_a_state_fits_shapes_in_the_place_of_parameters() -> None:
    state = trained(ADAM)
    shapes = jax.eval_shape(params)
    assert fit((state[0],), ADAM, shapes)[0] == state
    assert fit(state, ADAM, shapes)[0] is state


def test_a_fitted_state_can_be_donated() -> None:
    state, _ = fit(old_inject(trained(INJECT)), INJECT, params())
    update = jax.jit(INJECT.update, donate_argnums=1)
    _, state = update(params(), state, params())
    assert [int(s.count) for s in state.hyperparams_states.values()] == [4, 4] == [state.count] * 2


def test_numbers_of_python_become_arrays() -> None:
    novograd = optax.novograd(LR)
    fresh = trained(novograd, 0)
    old = (fresh[0]._replace(nu={"b": 0, "w": 0.0}), *fresh[1:])
    fitted, report = fit(old, novograd, params())
    assert differences(fresh, fitted) == []
    assert str(report).splitlines() == [
        "$[0].nu['b']: a Python int -> float32[]",
        "$[0].nu['w']: a Python float -> float32[]",
    ]


def test_a_gradient_that_is_all_zero_is_none() -> None:
    fresh = OPTIMISTIC.init(params())
    fitted, report = fit(
        (optax.TraceState(fresh[0].previous_gradient), *fresh[1:]), OPTIMISTIC, params()
    )
    assert differences(fresh, fitted) == []
    assert "is_initial_step is True, since the trace is all zero" in str(report)


def test_momentum_is_dropped_where_it_is_zero_and_refused_where_it_is_not() -> None:
    rms = optax.scale_by_rms(bias_correction=True)
    adam = optax.scale_by_adam().init(params())
    fitted, report = fit(adam, rms, params())
    assert differences(rms.init(params()), fitted) == []
    assert "mu is dropped: it is zero" in str(report)
    line = "$: ScaleByAdamState found, ScaleByRmsWithCountState expected"
    assert refused(trained(optax.scale_by_adam()), rms) == [line]


def test_a_cast_that_rounds_says_so_and_one_that_loses_is_refused() -> None:
    state = trained(ADAM)
    assert str(fit(state, BF16, params())[1]).count(" -> bfloat16[2, 3], rounded") == 1
    half = jax.tree.map(lambda x: x.astype(jnp.float16), params())
    for value in (1e-20, 1e20):
        lost = state[0]._replace(nu=jax.tree.map(lambda x, v=value: x * 0 + v, state[0].nu))
        lines = refused((lost, state[1]), ADAM, half)
        assert len(lines) == 2
        assert lines[0] == (
            "$[0].nu['b']: float32[3] found, float16[3] expected, which has no room for its values"
        )
    tiny = jax.tree.map(lambda x: x.astype(jnp.float8_e4m3fn), params())  # 1e20 would be NaN there
    assert "no room for its values" in refused((lost, state[1]), ADAM, tiny)[-1]


# Refusals.


def refused(loaded: Any, tx: Any, of: Any = None) -> list[str]:
    """Return the lines of the refusal, without the first and the last."""
    with pytest.raises(ckptstore.StructureError) as caught:
        fit(loaded, tx, params() if of is None else of)
    assert caught.value.reason == "does-not-fit"
    first, *lines, last = str(caught.value).splitlines()
    assert re.search(rf"{len(lines)} place\(s\)", first)
    assert "by hand" in last
    return [line.strip() for line in lines]


def test_other_parameters_are_refused_with_all_their_places() -> None:
    state = trained(ADAM)
    more = params() | {"new": jnp.ones(2)}
    assert refused(state, ADAM, more) == [
        "$[0].mu['new']: float32[2] expected, nothing found",
        "$[0].nu['new']: float32[2] expected, nothing found",
    ]
    assert refused(state, ADAM, {"w": params()["w"], "bias": params()["b"]}) == [
        "$[0].mu['b']: float32[3] found, nothing expected",
        "$[0].mu['bias']: float32[3] expected, nothing found",
        "$[0].nu['b']: float32[3] found, nothing expected",
        "$[0].nu['bias']: float32[3] expected, nothing found",
    ]
    assert refused(state, ADAM, params() | {"w": jnp.ones((3, 2))}) == [
        "$[0].mu['w']: float32[2, 3] found, float32[3, 2] expected",
        "$[0].nu['w']: float32[2, 3] found, float32[3, 2] expected",
    ]
    assert "$[0].mu['w']: float32[2, 3] found, OrderedDict expected" in refused(
        state, ADAM, params() | {"w": OrderedDict(x=jnp.ones(2))}
    )


def test_parameters_in_tuples_do_not_move() -> None:
    w = jnp.ones(3)
    state = ADAM.init((w, None))
    assert len(refused(state, ADAM, (None, w))) == 4
    assert len(refused(ADAM.init((w, (), w)), ADAM, (w, w, ()))) == 4
    assert len(refused(ADAM.init([w, w]), ADAM, [w])) == 2


TRACE = optax.trace(0.9)
EMPTY = optax.EmptyState()
MORE: dict[str, tuple[Any, Any, list[str]]] = {
    "one more": (
        optax.chain(optax.scale_by_adam(), TRACE),
        lambda s: (s[0], EMPTY),
        ["$[1]: TraceState expected, nothing found"],
    ),
    "one fewer": (
        ADAM,
        lambda s: (optax.TraceState(params()), *s),
        ["$[0]: TraceState found, nothing expected"],
    ),
    "another": (
        optax.chain(TRACE, optax.scale(LR)),
        lambda s: (EMPTY, optax.ScaleByRssState(params())),
        ["$[0]: ScaleByRssState found, TraceState expected"],
    ),
    "in another order": (
        optax.chain(TRACE, optax.scale_by_adam()),
        lambda s: s[::-1],
        [
            "$[0]: ScaleByAdamState found, TraceState expected",
            "$[1]: TraceState found, ScaleByAdamState expected",
        ],
    ),
    "which of two": (
        optax.chain(TRACE, optax.scale(LR)),
        lambda s: (s[0], s[0]),
        [
            "$: 2 of TraceState found, 1 expected; their order does not tell which of them belong "
            "together"
        ],
    ),
    "a hyperparameter": (
        optax.inject_hyperparams(optax.adam)(LR),
        lambda s: s._replace(hyperparams={"learning_rate": jnp.float32(LR), "old": 1}),
        [
            "$.hyperparams['b1']: float32[] expected, nothing found",
            "$.hyperparams['b2']: float32[] expected, nothing found",
            "$.hyperparams['eps']: float32[] expected, nothing found",
            "$.hyperparams['eps_root']: float32[] expected, nothing found",
            "$.hyperparams['old']: a Python int found, nothing expected",
        ],
    ),
    "a schedule with a state": (
        optax.inject_hyperparams(optax.sgd)(catalogue.Decay()),
        old_inject,
        [
            "$.hyperparams_states['learning_rate']: "
            "tests.support.optax_catalogue.DecayState expected, nothing found"
        ],
    ),
    "a history that is masked now": (
        optax.masked(TRACE, {"w": True, "b": False}),
        lambda s: optax.MaskedState(optax.TraceState(params())),
        ["$.inner_state.trace['b']: float32[3] found, MaskedNode expected"],
    ),
    "a list of too few": (
        MASKED,
        lambda s: unmasked(s, lambda tree: []),
        [f"$.inner_state[0].{n}: list found, dict expected" for n in ("mu", "nu")],
    ),
    "a list of another shape": (
        MASKED,
        lambda s: unmasked(s, lambda tree: [jnp.ones((3, 2))]),
        [
            f"$.inner_state[0].{n}['w']: float32[3, 2] found, float32[2, 3] expected"
            for n in ("mu", "nu")
        ],
    ),
    "a key of another kind": (
        optax.noisy_sgd(LR, key=jax.random.key(3, impl="rbg")),
        lambda s: (s[0]._replace(rng_key=jnp.zeros(2, jnp.uint32)), *s[1:]),
        ["$[0].rng_key: uint32[2] found, key<rbg>[] expected"],
    ),
    "a counter that is no integer": (
        ADAM,
        lambda s: (s[0]._replace(count=jnp.float32(3)), s[1]),
        ["$[0].count: float32[] found, int32[] expected"],
    ),
    "a whole checkpoint": (
        ADAM,
        lambda s: {"params": params(), "opt_state": s},
        ["$: dict found, tuple expected"],
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_what_cannot_be_known_is_refused(name: str) -> None:
    tx, change, lines = MORE[name]
    assert sorted(refused(change(tx.init(params())), tx)) == lines


def test_an_optimizer_may_expect_an_empty_tuple() -> None:
    nothing = optax.GradientTransformation(lambda params: (), lambda u, state, params=None: (u, ()))
    state, report = fit((optax.EmptyState(),), nothing, params())
    assert state == () and str(report) == "$: (EmptyState) -> ()"


def test_all_places_are_counted_and_fifty_are_shown() -> None:
    many = {str(i): jnp.ones(2) for i in range(60)}
    with pytest.raises(ckptstore.StructureError, match=r"60 place\(s\)") as caught:
        fit(TRACE.init(many), TRACE, {name: jnp.ones(3) for name in many})
    assert str(caught.value).count("expected\n") == 50
    assert "… and 10 more" in str(caught.value)


def test_places_are_refused_in_the_order_of_the_state() -> None:
    more = {f"x{i:02}": jnp.ones(2) for i in range(20)}
    lines = refused(TRACE.init({**params(), **more}), TRACE)
    assert [line.partition("'")[2][:3] for line in lines] == list(more)


class Unlike(NamedTuple):
    count: Any
    mu: Any
    nu: Any


class TraceState(NamedTuple):
    tracks: Any


def test_a_class_of_the_same_fields_is_another_class() -> None:
    state = trained(ADAM)
    assert refused((Unlike(*state[0]), state[1]), ADAM) == [
        "$[0]: tests.unit.optax.test_fit.Unlike found, ScaleByAdamState expected"
    ]
    assert refused((TraceState(params()), EMPTY), OPTIMISTIC) == [
        "$[0]: tests.unit.optax.test_fit.TraceState found, ScaleByOptimisticGradientState expected"
    ]


def test_an_optimizer_that_fails_is_named() -> None:
    state = trained(ADAM)
    for tx, what in ((None, "no attribute 'init'"), (optax.partition({}, {"w": "a"}), "")):
        with pytest.raises(ckptstore.StructureError, match=rf"tx\.init.*failed.*{what}") as caught:
            fit(state, tx, params())
        assert caught.value.reason == "bad-argument"


def test_a_state_without_values_is_refused_where_they_are_needed() -> None:
    lines: list[str] = []

    @jax.jit
    def inside(state: Any) -> Any:
        lines.extend(refused(state, OPTIMISTIC))
        return state

    state = trained(OPTIMISTIC)
    inside((optax.TraceState(state[0].previous_gradient), *state[1:]))
    gone = jnp.ones(3)
    gone.delete()
    lines += refused(optax.TraceState(params() | {"b": gone}), TRACE)
    assert [line.partition(": ")[2].partition(" found")[0] for line in lines] == ["no values"] * 3
    adam = optax.scale_by_adam().init(params())
    assert refused(adam._replace(mu={"w": gone}), optax.scale_by_rms(bias_correction=True))
    assert refused(old_inject(trained(INJECT))._replace(count=jnp.float32(1)), INJECT) == [
        "$.count: float32[] found, int32[] expected"
    ]


def test_only_what_is_derived_comes_from_the_optimizer() -> None:
    """No value of init appears in a fitted state, wherever init can be traced."""
    spoilt = optax.GradientTransformation(
        lambda p: jax.tree.map(lambda x: jnp.full_like(x, 99), INJECT.init(p)), INJECT.update
    )
    today = trained(INJECT)
    fitted, _ = fit(old_inject(today), spoilt, params())
    assert differences(today, fitted) == []


def test_the_module_brings_no_framework() -> None:
    script = "import sys, ckptstore.optax; print({'jax', 'optax'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_a_loaded_state_is_fitted_and_trained_on(tmp_path: Any) -> None:
    before = optax.chain(optax.scale_by_adam(), optax.scale(-LR))
    after = optax.chain(optax.clip(1e9), optax.scale_by_adam(), optax.scale(-LR))
    ckptstore.save(tmp_path / "ckpt", {"opt_state": trained(before)})
    loaded = ckptstore.load(tmp_path / "ckpt", select="$.opt_state")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state, report = fit(loaded, after, params())
    assert len(report.changes) == 1
    grads = jax.tree.map(jnp.sin, params())
    expected, _ = before.update(grads, loaded, params())
    updates, _ = after.update(grads, state, params())
    assert differences(expected, updates) == []


def test_numpy_of_64_bits_is_not_what_jax_would_make_of_it() -> None:
    tx = optax.adam(LR)
    state = jax.tree.map(lambda x: np.asarray(x, f"{x.dtype.kind}8"), trained(tx))
    fitted, report = fit(state, tx, params())
    assert [x.dtype.itemsize for x in jax.tree.leaves(fitted)] == [4] * 5
    assert "$[0].count: int64[] -> int32[]" in str(report)
    third = state[0]._replace(mu=jax.tree.map(lambda x: x * 0 + 1 / 3, state[0].mu))
    assert "$[0].mu['b']: float64[3] -> float32[3], rounded" in str(
        fit((third, *state[1:]), tx, params())[1]
    )
    for wrong in (
        {"count": np.int64(2**40)},
        {"mu": {"w": np.full((2, 3), 1e300), "b": third.mu["b"]}},
    ):
        with pytest.raises(ckptstore.StructureError, match="has no room for its values"):
            fit((state[0]._replace(**wrong), *state[1:]), tx, params())


def test_a_scalar_of_numpy_is_called_what_it_is() -> None:
    tx = optax.GradientTransformation(lambda p: jnp.float32(0), lambda u, s, p=None: (u, s))
    assert str(fit(np.float64(0.5), tx, params())[1]) == "$: float64[] -> float32[]"


def test_numpy_of_64_bits_stays_where_an_optimizer_keeps_numpy() -> None:
    def init(p: Any) -> Any:
        return np.full(2, float(p["b"][1]) / 3)  # which jax cannot trace

    state = init(params())
    tx = optax.GradientTransformation(init, lambda u, s, p=None: (u, s))
    fitted, report = fit(state, tx, params())
    assert fitted is state and not report.changes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([0.5, np.nan, -np.inf, 0.0], "bfloat16"),
        ([1.0 + 2.0**-20, 1.0], "bfloat16"),  # rounded
        ([1e-30, 1.0], "float16"),  # lost: 0
        ([1e30, 1.0], "float16"),  # lost: infinite
        (np.array([4_000_000_000, 1], np.uint32), "int32"),
        (np.array([-1, 1], np.int32), "uint32"),
        (np.array([300, 1], np.int32), "int8"),
        (np.array([7, 1], np.int32), "uint8"),
        (np.array([True, False]), "bool"),
        (np.array([1 + 2j, np.nan]), "complex64"),
    ],
)
def test_arrays_of_several_processes_are_compared_as_those_of_one(old: Any, new: str) -> None:
    x = jnp.asarray(old)
    value = x.astype(new)
    lost, equal = expected.compared_by_all(x, value)
    assert (bool(lost), bool(equal)) == expected._compared(x, value)

"""Every Optax state comes back as itself, with no template, and training goes on the same."""

from __future__ import annotations

import functools
import pathlib
from collections import OrderedDict
from typing import Any

import pytest

pytest.importorskip("optax")

import jax
import jax.numpy as jnp
import optax

import ckptstore
from tests.support import optax_catalogue as catalogue
from tests.support.compare import assert_exact, differences, roundtrip
from tests.support.marks import sampled

NAMES = sorted(catalogue.CASES)
SAMPLED = set(NAMES[::12])
COMPILED = sampled(NAMES, SAMPLED)
STEPS = range(catalogue.WARM_STEPS, catalogue.WARM_STEPS + 3)


def structure(tree: Any) -> Any:
    """The structure that jax sees; None where it refuses keys that do not sort."""
    try:
        return jax.tree.structure(tree)
    except ValueError:
        return None


def advance(case: catalogue.Case, params: Any, state: Any) -> tuple[Any, Any]:
    for i in STEPS:
        params, state = case.advance(params, state, i)
    return params, state


@pytest.mark.parametrize("name", sampled(NAMES))
def test_a_state_comes_back_exactly_with_no_template(name: str, tmp_path: pathlib.Path) -> None:
    case = catalogue.CASES[name]()
    params, state = assert_exact(tmp_path, (case.params, case.state))
    assert structure(state) == structure(case.state)
    if not case.jittable:
        assert (
            differences(advance(case, case.params, case.state), advance(case, params, state)) == []
        )


@pytest.mark.parametrize("name", COMPILED)
def test_training_goes_on_to_the_same_bits_without_recompiling(
    name: str, tmp_path: pathlib.Path
) -> None:
    case = catalogue.CASES[name]()
    if not case.jittable:
        pytest.skip("jax does not take this state, or there is no update")

    @jax.jit
    def train(params: Any, state: Any, start: Any) -> Any:
        def step(carry: Any, i: Any) -> Any:
            return case.advance(*carry, i), None

        return jax.lax.scan(step, (params, state), start + jnp.arange(len(STEPS)))[0]

    saved = settle(train, case)
    uninterrupted = train(*saved, STEPS[0])
    compiled = train._cache_size()
    loaded = roundtrip(tmp_path, saved)
    assert differences(saved, loaded) == []
    assert differences(uninterrupted, train(*loaded, STEPS[0])) == []
    assert train._cache_size() == compiled


def settle(train: Any, case: catalogue.Case) -> Any:
    """A state that `lax.scan` can carry: its weak types and Python numbers as jit leaves them."""
    step = jax.jit(case.advance)
    return step(case.params, case.state, catalogue.WARM_STEPS)


@pytest.mark.parametrize("name", ["adamw", "inject_hyperparams", "multi_steps", "noisy_sgd"])
def test_a_jitted_step_is_compiled_once(name: str, tmp_path: pathlib.Path) -> None:
    case = catalogue.CASES[name]()
    step = jax.jit(case.advance)
    expected = step(case.params, case.state, 3)
    params, state = roundtrip(tmp_path, (case.params, case.state))
    assert differences(expected, step(params, state, 3)) == []
    assert step._cache_size() == 1


@pytest.mark.ci
def test_every_state_class_of_optax_is_saved_by_some_case() -> None:
    seen: set[type] = set()
    for make in catalogue.CASES.values():
        seen |= catalogue.classes_in((make().params, make().state))
    missing = [cls for cls in catalogue.STATE_CLASSES if cls not in seen]
    assert missing == []
    if optax.__version__ == "0.2.8":
        assert len(catalogue.STATE_CLASSES) >= 67
        assert len(catalogue.CASES) >= 150


def test_empty_state_masked_node_and_none_stay_three_things(tmp_path: pathlib.Path) -> None:
    tree = [optax.EmptyState(), optax.MaskedNode(), None, (), optax.EmptyState()]
    loaded = assert_exact(tmp_path, tree)
    assert [type(x) for x in loaded] == [type(x) for x in tree]


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("multi_transform")])
def test_a_partition_keeps_its_keys(name: str, tmp_path: pathlib.Path) -> None:
    state = catalogue.CASES[name]().state
    loaded = roundtrip(tmp_path, state)
    assert type(loaded) is optax.transforms.PartitionState
    keys = list(state.inner_states)
    assert [(type(k), k) for k in loaded.inner_states] == [(type(k), k) for k in keys]


def test_a_named_chain_stays_in_its_order(tmp_path: pathlib.Path) -> None:
    loaded = roundtrip(tmp_path, catalogue.CASES["named_chain"]().state)
    assert type(loaded) is OrderedDict
    assert list(loaded) == ["z", "a"]


def test_a_hyperparameter_of_the_user_stays_a_float_of_python(tmp_path: pathlib.Path) -> None:
    case = catalogue.CASES["inject_hyperparams"]()
    state = case.state._replace(hyperparams={**case.state.hyperparams, "learning_rate": 3e-4})
    loaded = assert_exact(tmp_path, state)
    assert type(loaded.hyperparams["learning_rate"]) is float
    loaded.hyperparams["learning_rate"] = 1e-3
    case.advance(case.params, loaded, 3)


def test_a_transformation_is_refused_and_its_state_is_not(tmp_path: pathlib.Path) -> None:
    tx = optax.adam(1e-3)
    with pytest.raises(ckptstore.StructureError, match=r"(?s)\$\['tx'\]\.init: .*supplied="):
        ckptstore.save(tmp_path / "c", {"tx": tx, "state": tx.init(jnp.ones(2))})
    ckptstore.save(tmp_path / "c", {"tx": tx, "state": tx.init(jnp.ones(2))}, supplied=["$.tx"])
    like = {"tx": tx, "state": tx.init(jnp.zeros(2))}
    assert ckptstore.load(tmp_path / "c", like)["tx"] is tx
    with pytest.raises(ckptstore.StructureError, match="like"):
        ckptstore.load(tmp_path / "c")
    state = ckptstore.load(tmp_path / "c", select="$.state")
    assert differences(tx.init(jnp.ones(2)), state) == []


@functools.cache
def all_states() -> dict[str, Any]:
    return {name: make().state for name, make in catalogue.CASES.items()}


@pytest.mark.ci
def test_all_states_fit_in_one_checkpoint_and_into_like(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", all_states())
    assert ckptstore.verify(tmp_path / "c") == []
    assert differences(all_states(), ckptstore.load(tmp_path / "c")) == []
    assert differences(all_states(), ckptstore.load(tmp_path / "c", all_states())) == []
    inspected = ckptstore.inspect(tmp_path / "c")
    assert "optax._src.base.EmptyState" in inspected.types

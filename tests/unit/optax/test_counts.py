"""Every step counter of Optax is known, and moving it is the same as having made the steps."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

pytest.importorskip("optax")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

import ckptstore
from ckptstore.optax import Meaning, check_counts, counts, shift_counts
from ckptstore.optax.counter_table import NEED_THE_FIRST_UPDATE, STATES
from tests.support import optax_catalogue as catalogue
from tests.support.compare import differences
from tests.support.marks import sampled
from tests.support.optax_golden import RELEASES, ROOT

NAMES = sorted(catalogue.CASES)
WRAPPERS = {*catalogue._WRAPPERS, *catalogue._SPOILT, *catalogue._LOOKAHEAD, *catalogue._EXAMPLES}
SAMPLED = {*NAMES[::12], *WRAPPERS, *(n for n in NAMES if "schedule" in n or ".sam" in n)}
CASES = sampled(NAMES, SAMPLED)
MORE = 4
ENUM = re.compile(r"<([\w.]+): [^>]*>")

# How often an inner transformation is updated in MORE calls, where that is not each time.
INNER = {
    "aggregating.process": {"$[2]": 2},
    "conditionally_mask": {"$.inner_state": 2},
    "contrib.sam": {"$.opt_state": 2},
    "contrib.sam_no_reset": {"$.adv_state": 3},  # the sync period is 3
}
INNER |= {name: {"$.inner_opt_state": 2} for name in NAMES if name.startswith("multi_steps")}

# What a real run changes and `shift_counts` leaves alone, by its meaning.
GOES_ITS_OWN_WAY = {
    Meaning.MINI_STEP,
    Meaning.SYNC,
    Meaning.RING,
    Meaning.LINE_SEARCH,
    Meaning.NOT_FINITE,
    Meaning.NOT_FINITE_TOTAL,
    Meaning.REPORT,
    Meaning.PLATEAU,
    Meaning.COOLDOWN,
}


def run(case: catalogue.Case, steps: range) -> Any:
    params, state = case.params, case.state
    with jax.disable_jit():
        for i in steps:
            params, state = case.advance(params, state, i)
    return state


def values(tree: Any) -> dict[str, Any]:
    return {c.path: c.value for c in counts(tree)}


def avals(tree: Any) -> list[Any]:
    leaves = [x for _, x in catalogue.walk(tree) if isinstance(x, jax.Array)]
    return [(jax.typeof(x), x.committed, x.sharding) for x in leaves]


@pytest.mark.filterwarnings("ignore:.* no update was made yet")  # in a state built by hand
@pytest.mark.parametrize("name", CASES)
def test_a_shift_equals_a_run_that_made_the_steps(name: str) -> None:
    case = catalogue.CASES[name]()
    before = counts(case.state)
    clocks = {c.clock for c in before if c.moves}
    amounts = {clock: INNER.get(name, {}).get(clock, MORE) for clock in clocks}
    shifted = shift_counts(case.state, amounts)
    assert avals(shifted) == avals(case.state)
    after = values(shifted)
    real = values(run(case, range(catalogue.WARM_STEPS, catalogue.WARM_STEPS + MORE)))
    for count in before:
        if not count.moves:
            assert after[count.path] == count.value, count
            assert count.meaning in GOES_ITS_OWN_WAY, count
        elif case.tx is not None:
            assert after[count.path] == real[count.path], count
    # One difference for each that moved, so nothing else differs; and back again.
    assert len(differences(case.state, shifted)) == sum(c.moves for c in before)
    assert differences(case.state, shift_counts(shifted, {c: -n for c, n in amounts.items()})) == []
    if len(clocks) == 1:
        (amount,) = amounts.values()
        assert differences(shifted, shift_counts(case.state, amount)) == []
        if not check_counts(case.state) and case.nan_at is None:
            done = next(c.value - c.start for c in before if c.moves)
            assert differences(shifted, shift_counts(case.state, to=done + amount)) == []


@pytest.mark.parametrize("name", CASES)
def test_every_integer_of_a_state_is_known(name: str) -> None:
    state = catalogue.CASES[name]().state
    found = {c.path: c for c in counts(state)}
    assert not [c for c in found.values() if c.meaning == Meaning.UNKNOWN]
    all_of_it = {ENUM.sub(r"\1", path): x for path, x in catalogue.walk(state, "$")}
    for path, x in all_of_it.items():
        if type(x) is int or (is_integer(x) and x.ndim == 0):
            assert path in found or "_axis" in path, path
    assert found.keys() <= all_of_it.keys()


def is_integer(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return isinstance(dtype, np.dtype) and dtype.kind in "iu"


def test_the_table_names_classes_and_fields_that_optax_has() -> None:
    classes: dict[str, Any] = {cls.__name__: cls for cls in catalogue.STATE_CLASSES}
    assert set(STATES) - set(classes) == {"MultiTransformState", "MaybeUpdateState"}  # old names
    for name in set(STATES) & set(classes):
        state = STATES[name]
        named = {*state.counters, *state.inner, *state.holds, *state.starts}
        assert named <= set(classes[name]._fields), name
        # A field that says by its name that it holds a state is walked into.
        states = {f for f in classes[name]._fields if f.endswith(("_state", "_states"))}
        assert states - {"skip_state"} <= set(state.inner), name


class NewState(NamedTuple):
    count: Any


def test_a_counter_that_the_table_does_not_know_is_unknown() -> None:
    new = NewState(jnp.int32(3))
    assert [c.meaning for c in counts((new,))] == [Meaning.UNKNOWN]
    with pytest.raises(ckptstore.StructureError, match=r"\$\[1\]\.count = 3") as caught:
        shift_counts((optax.EmptyState(), new), 4)
    assert caught.value.reason == "unknown-counts"
    with pytest.warns(UserWarning, match=r"\$\[0\]\.count = 3"):
        assert shift_counts((new,), 4, strict=False) == (new,)
    pair = (new, NewState(jnp.int32(3)))
    assert values(shift_counts(pair, 4, select="$[1]")) == {"$[0].count": 3, "$[1].count": 7}


class Holder:
    """An object that is no tree."""

    def __init__(self, state: Any) -> None:
        self.state = state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    opt_state: Any
    apply: Any = dataclasses.field(metadata={"static": True})


def test_a_state_inside_other_trees_moves_and_the_rest_stays() -> None:
    inner = scheduled(jnp.int32(3))
    state = TrainState(inner, lambda x: x)
    moved = shift_counts({"state": state, "name": "run"}, 4)
    assert type(moved["state"]) is TrainState
    assert moved["state"].apply is state.apply
    assert moved["state"].opt_state.count == 7
    assert jax.tree.structure(moved["state"]) == jax.tree.structure(state)


def test_an_object_that_cannot_be_looked_into_is_told_of() -> None:
    tree = [scheduled(jnp.int32(3)), Holder(scheduled(jnp.int32(3)))]
    assert r"$[1]: Holder is not a tree" in refused("unknown-counts", tree, 4)
    with pytest.warns(UserWarning, match="Holder"):
        moved = shift_counts(tree, 4, strict=False)
    assert moved[0].count == 7
    assert moved[1] is tree[1]


def beside_torch() -> tuple[dict[str, Any], Any]:
    """Return a tree with a state of Optax and one of torch, of 3 updates each, and the latter."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 1)
    adam = torch.optim.Adam(model.parameters())
    for _ in range(3):
        model(torch.ones(2)).sum().backward()
        adam.step()
    return {"opt_state": scheduled(jnp.int32(3)), "torch": adam.state_dict()}, torch


def test_the_steps_of_torch_are_no_silent_half() -> None:
    tree, _ = beside_torch()
    del tree["torch"]["param_groups"]  # which has integers of Python
    steps = [f"$['torch']['state'][{i}]['step']" for i in (0, 1)]
    found = [(c.path, c.value, c.meaning) for c in counts(tree)]
    assert found[1:] == [(path, 3, Meaning.UNKNOWN) for path in steps]
    assert f"{steps[0]} = 3" in refused("unknown-counts", tree, 4)
    with pytest.warns(UserWarning, match="of unknown meaning"):
        left = shift_counts(tree, 4, strict=False)
    assert (left["opt_state"].count, left["torch"]["state"][0]["step"]) == (7, 3)


def test_the_steps_of_torch_move_where_they_are_selected() -> None:
    saved, torch = beside_torch()
    saved = saved["torch"]
    moved = shift_counts(saved, 4, select="$.state.*.step")
    assert moved["param_groups"] is saved["param_groups"]
    for i in (0, 1):
        old, new = saved["state"][i], moved["state"][i]
        assert (new["step"].item(), new["step"].dtype) == (7, torch.float32)
        assert new["exp_avg"] is old["exp_avg"]
        assert old["step"] == 3
    stuck = shift_counts(saved, to=10**9, select="$.state.*.step")["state"][0]["step"]
    assert stuck == stuck + 1 == 2**24


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_an_integer_scalar_of_torch_is_unknown(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tree = {
        "opt_state": scheduled(jnp.int32(3)),
        "count": torch.tensor(3, dtype=getattr(torch, dtype)),
    }
    assert "$['count'] = 3" in refused("unknown-counts", tree, 4)
    moved = shift_counts(tree, 4, select="$.count")["count"]
    assert (type(moved), moved.item(), moved.dtype) == (torch.Tensor, 7, tree["count"].dtype)


def test_other_tensors_of_torch_are_no_counters() -> None:
    torch = pytest.importorskip("torch")
    others = [
        torch.tensor(3.0),
        torch.tensor(True),
        torch.arange(3),
        torch.tensor(2, device="meta"),
    ]
    steps = [torch.tensor(x) for x in (0.5, float("nan"), float("inf"), 1j)]
    tree = {"others": others, "steps": [{"step": x} for x in steps], "step": torch.zeros(2)}
    assert counts(tree) == []


# The learning rate at the next step


def rate(step: Any) -> Any:
    return 1.0 / (1.0 + step)


PARAMS = {"w": jnp.arange(3.0), "b": jnp.ones(())}
GRADS = {"w": jnp.ones(3), "b": jnp.full((), 0.5)}
SGD = optax.sgd(rate)
inject = optax.inject_hyperparams


def stateful(*args: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optax.inject_stateful_hyperparams(*args)(rate)


RATED: dict[str, tuple[Callable[[], Any], int, Mapping[str, int] | int]] = {
    # transformation, calls of update, what to shift by instead
    "plain": (lambda: SGD, 5, 5),
    "chain": (lambda: optax.chain(optax.clip(1.0), optax.chain(SGD)), 5, 5),
    "named_chain": (lambda: optax.named_chain(("b", SGD), ("a", optax.identity())), 5, 5),
    "decayed_weights": (lambda: optax.chain(optax.add_decayed_weights(rate), SGD), 5, 5),
    "inject": (lambda: inject(optax.sgd)(rate), 5, 5),
    "inject_stateful": (lambda: stateful(optax.sgd), 5, 5),
    "inject_in_inject": (
        lambda: optax.chain(inject(optax.sgd)(rate), inject(optax.scale)(rate)),
        5,
        5,
    ),
    "masked": (lambda: optax.masked(SGD, {"w": True, "b": False}), 5, 5),
    "partition": (lambda: optax.partition({1: SGD, 2: optax.sgd(0.1)}, {"w": 1, "b": 2}), 5, 5),
    "apply_if_finite": (lambda: optax.apply_if_finite(SGD, 3), 5, 5),
    "multi_steps": (lambda: optax.MultiSteps(SGD, 2), 6, 3),
    "multi_steps_inject": (lambda: optax.MultiSteps(inject(optax.sgd)(rate), 2), 6, 3),
    "inject_around_multi_steps": (
        lambda: inject(lambda r: optax.MultiSteps(optax.sgd(r), 2).gradient_transformation())(rate),
        6,
        {"$": 6, "$.inner_state.inner_opt_state": 3},
    ),
    "multi_steps_in_multi_steps": (
        lambda: optax.MultiSteps(optax.MultiSteps(SGD, 2).gradient_transformation(), 2),
        12,
        {"$.inner_opt_state": 6, "$.inner_opt_state.inner_opt_state": 3},
    ),
    "many_at_once": (
        lambda: optax.named_chain(
            ("finite", optax.apply_if_finite(optax.masked(SGD, {"w": True, "b": False}), 2)),
            ("parts", optax.partition({1: inject(optax.sgd)(rate), 2: SGD}, {"w": 1, "b": 2})),
            ("frozen", optax.selective_transform(SGD, freeze_mask={"w": True, "b": False})),
        ),
        5,
        5,
    ),
    "multi_steps_in_chain": (
        lambda: optax.chain(optax.MultiSteps(SGD, 2).gradient_transformation(), SGD),
        6,
        {"$": 6, "$[0].inner_opt_state": 3},
    ),
    "conditionally_mask": (
        lambda: optax.conditionally_mask(SGD, lambda step: step % 2 == 1),
        6,
        {"$": 6, "$.inner_state": 3},
    ),
    "sam": (lambda: contrib.sam(SGD, optax.sgd(0.1)), 6, 3),
    "sam_with_counters": (lambda: contrib.sam(SGD, SGD), 6, 3),
    "sam_that_keeps": (
        lambda: contrib.sam(SGD, SGD, sync_period=3, reset_state=False),
        6,
        {"$.opt_state": 2, "$.adv_state": 4},
    ),
    "opaque_sam": (lambda: contrib.sam(SGD, SGD, opaque_mode=True), 5, 5),
    "split_complex": (lambda: contrib.split_real_and_imaginary(SGD), 5, 5),
}


@pytest.mark.parametrize("name", sampled(RATED))
def test_the_learning_rate_at_the_next_step_is_that_of_a_real_run(name: str) -> None:
    make, calls, by = RATED[name]
    tx = make()
    extra = {"grad_fn": lambda params, k: GRADS} if name == "opaque_sam" else {}
    state = tx.init(PARAMS)
    states = [state]
    for _ in range(3 + calls):
        states.append(tx.update(GRADS, states[-1], PARAMS, **extra)[1])
    real, shifted = states[3 + calls], shift_counts(states[3], by)
    for _ in range(3):  # a step, and on to the end of an accumulation or a sync period
        expected, real = tx.update(GRADS, real, PARAMS, **extra)
        got, shifted = tx.update(GRADS, shifted, PARAMS, **extra)
        assert differences(expected, got) == []
    assert differences(real, shifted) == []  # with the hyperparameters that `inject` keeps


@pytest.mark.parametrize(
    "tx",
    [
        optax.adamw(rate),
        inject(optax.adamw)(rate, b1=lambda s: 0.9),
        optax.MultiSteps(optax.adam(rate), 2),
        optax.named_chain(("b", optax.adan(rate)), ("a", optax.ema(0.9))),
        contrib.schedule_free_adamw(rate),
    ],
    ids=["adamw", "inject", "multi_steps", "named_chain", "schedule_free"],
)
def test_a_jitted_step_is_not_compiled_again(tx: Any) -> None:
    step = jax.jit(lambda state: tx.update(GRADS, state, PARAMS)[1])
    state = step(step(step(tx.init(PARAMS))))
    compiled = step._cache_size()
    step(shift_counts(state, 100))
    assert step._cache_size() == compiled


def test_what_stands_in_the_state_beside_the_counters_is_the_same_object() -> None:
    state = optax.adam(rate).init(PARAMS)
    with pytest.warns(UserWarning, match="no update was made yet"):
        shifted = shift_counts(state, 2)
    assert shifted[0].mu is state[0].mu
    assert state[0].count == 0
    assert type(shifted) is type(state)


def test_a_shift_of_schedules_alone_leaves_a_fresh_state_in_order() -> None:
    state = optax.adam(rate).init(PARAMS)
    assert values(shift_counts(state, 9, select="$[1]")) == {"$[0].count": 0, "$[1].count": 9}
    assert {m for m in Meaning if "schedule" in m} & NEED_THE_FIRST_UPDATE == {Meaning.BOTH}


# Kinds of counters


def scheduled(count: Any) -> Any:
    return optax.ScaleByScheduleState(count)


KINDS = {
    "int": 3,
    "numpy_array": np.array(3, np.int32),
    "numpy_big_endian": np.array(3, ">i4"),
    "numpy_scalar": np.int64(3),
    "jax": jnp.int32(3),
    "jax_uint8": jnp.uint8(3),
    "jax_weak": jnp.asarray(3),
    "jax_committed": jax.device_put(jnp.int32(3), jax.devices()[0]),
    "jax_sharded": jax.device_put(
        jnp.int32(3),
        jax.sharding.NamedSharding(jax.make_mesh((1,), ("x",)), jax.sharding.PartitionSpec()),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_counter_stays_of_its_kind(kind: str) -> None:
    count = KINDS[kind]
    (moved,) = shift_counts(scheduled(count), 4)
    assert type(moved) is type(count)
    assert int(moved) == 7
    if kind != "int":
        assert moved.dtype == count.dtype
    assert avals(moved) == avals(count)
    assert differences(shift_counts(scheduled(moved), -4), scheduled(count)) == []


def test_64_bit_counters_stay_64_bit() -> None:
    with jax.enable_x64(True):
        count = jnp.asarray(3, jnp.int64)
    (moved,) = shift_counts(scheduled(count), 2**40)
    assert (moved.dtype, int(moved)) == (jnp.int64, 3 + 2**40)


def test_counters_of_an_ensemble_move_together() -> None:
    tx = optax.adam(rate)
    many = jax.vmap(tx.init)({"w": jnp.ones((4, 3))})
    many = (many[0]._replace(count=jnp.arange(4)), many[1]._replace(count=jnp.arange(4)))
    moved = shift_counts(many, 2, select="$[1].count")
    assert moved[0].count is many[0].count
    assert moved[1].count.tolist() == [2, 3, 4, 5]
    assert shift_counts(many, to=8, select="$[1]")[1].count.tolist() == [8] * 4


@pytest.mark.parametrize("kind", ["int", "numpy_array", "jax"])
def test_a_counter_stops_where_optax_stops(kind: str) -> None:
    count = KINDS[kind]
    (moved,) = shift_counts(scheduled(count), 2**40)
    assert int(moved) == 2**31 - 1
    assert optax.safe_increment(jnp.asarray(moved)) == 2**31 - 1
    assert shift_counts(scheduled(jnp.uint8(3)), 1000).count == 255


def test_a_counter_that_stands_in_two_places_stays_one_object() -> None:
    count = jnp.int32(3)
    tree = [scheduled(count), scheduled(count), optax.ApplyEvery(count, ())]
    moved = shift_counts(tree, 4)
    assert moved[0].count is moved[1].count
    assert moved[2].count is count
    shared = scheduled(jnp.int32(3))
    one, two = shift_counts([shared, shared], 4)
    assert one is two
    assert one.count == 7
    one, two = shift_counts([shared, shared], 4, select="$[1]")
    assert one is two
    tree = [scheduled(count), scheduled(count)]
    moved = shift_counts(tree, 4, select="$[1].count")
    assert [m.count for m in moved] == [3, 7]


def test_sharded_counters_of_two_devices_keep_their_sharding() -> None:
    script = """
import jax, jax.numpy as jnp, optax
from ckptstore.optax import shift_counts
from jax.sharding import NamedSharding, PartitionSpec
mesh = jax.make_mesh((2,), ("x",))
state = optax.sgd(lambda s: 1.0).init(jnp.ones(4))
state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
moved = shift_counts(state, 5)
assert moved[1].count == 5, moved
assert moved[1].count.sharding == state[1].count.sharding, moved[1].count.sharding
assert len(moved[1].count.devices()) == 2
many = jax.device_put(jnp.arange(4), NamedSharding(mesh, PartitionSpec("x")))
moved = shift_counts(optax.ScaleByScheduleState(many), 5)
assert moved.count.tolist() == [5, 6, 7, 8]
assert moved.count.sharding == many.sharding, moved.count.sharding
"""
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    path = ":".join(sys.path)
    subprocess.run([sys.executable, "-c", script], check=True, env={**env, "PYTHONPATH": path})


# Refusals


def refused(reason: str, *args: Any, **options: Any) -> str:
    with pytest.raises(ckptstore.StructureError) as caught:
        shift_counts(*args, **options)
    assert caught.value.reason == reason
    return str(caught.value)


def test_what_cannot_be_meant_is_refused() -> None:
    state = scheduled(jnp.int32(3))
    assert "$.count: 3 moved by -4 is below 0" in refused("negative-count", state, -4)
    refused("negative-count", state, to=-1)
    refused("bad-argument", state)
    refused("bad-argument", state, 1, to=2)
    refused("bad-argument", state, 1.5)
    refused("bad-argument", state, True)
    refused("no-match", state, 1, select="$.nothing")
    refused("no-match", (state, optax.EmptyState()), 1, select="$[1]")
    for select in (5, b"$", [5], "count["):
        refused("bad-pattern", state, 1, select=select)
    refused("which-clock", state, {"$.inner": 1})


def test_values_that_are_not_there_are_refused() -> None:
    tx = optax.adam(rate)
    for shapes in (jax.eval_shape(tx.init, PARAMS), scheduled(jnp.float32(3))):
        assert "count" in refused("bad-count", shapes, 1)
    with pytest.raises(ckptstore.StructureError, match="outside of jit"):
        jax.jit(lambda state: shift_counts(state, 1))(tx.init(PARAMS))
    donated = scheduled(jnp.int32(3))
    jax.jit(lambda x: x + 1, donate_argnums=0)(donated.count)
    if donated.count.is_deleted():
        refused("bad-count", donated, 1)


def test_one_number_for_two_paces_is_refused() -> None:
    make, _, by = RATED["multi_steps_in_chain"]
    state = make().init(PARAMS)
    message = refused("which-clock", state, 6)
    assert "'$': $[1][1].count = 0" in message
    assert "'$[0].inner_opt_state': $[0].gradient_step = 0" in message
    assert isinstance(by, dict)
    moved = values(shift_counts(state, {"$": 6}))
    assert moved["$[1][1].count"] == 6
    assert moved["$[0].gradient_step"] == 0


def test_a_state_that_may_start_again_at_each_sync_is_asked_about() -> None:
    params = optax.LookaheadParams.init_synced(PARAMS)
    for reset in (False, True):
        tx = optax.lookahead(SGD, 3, 0.5, reset_state=reset)
        state = tx.init(params)
        for _ in range(5):
            assert "restarts" in refused("which-clock", state, 4) or not reset
            state = tx.update(GRADS, state, params)[1]
            if not reset and state.fast_state[1].count > 2:
                break
        (count,) = [c for c in counts(state) if c.state == "ScaleByScheduleState"]
        assert count.clock == ("$.fast_state" if reset else "$")
        amount = {"$.fast_state": 4} if reset else 4
        assert values(shift_counts(state, amount))[count.path] == count.value + 4


def test_an_inner_state_that_starts_again_at_each_sync_stays() -> None:
    tx = contrib.sam(SGD, SGD)
    state = tx.init(PARAMS)
    assert "restarts" in refused("which-clock", state, 4)
    for _ in range(5):
        state = tx.update(GRADS, state, PARAMS)[1]
    before = {c.path: c for c in counts(state)}
    assert [c.moves for c in before.values()] == [False, True, False]
    moved = values(shift_counts(state, 4))
    assert [moved[path] - c.value for path, c in before.items()] == [0, 4, 0]


def test_updates_that_were_not_finite_are_no_disagreement() -> None:
    tx = optax.chain(optax.apply_if_finite(SGD, 9), optax.ema(0.9))
    state = tx.init(PARAMS)
    for i in range(5):
        grads = jax.tree.map(lambda g, i=i: g * (jnp.nan if i in (1, 2) else 1.0), GRADS)
        state = tx.update(grads, state, PARAMS)[1]
    assert values(state) == {
        "$[0].notfinite_count": 0,
        "$[0].total_notfinite": 2,
        "$[0].inner_state[1].count": 3,
        "$[1].count": 5,
    }
    assert check_counts(state) == check_counts(state, 5) == []
    assert len(check_counts(state, 9)) == 2


def test_a_dict_of_integers_and_keys_is_no_state() -> None:
    tree = {3: scheduled(jnp.int32(1)), (4, 5): {7}, "mask": jnp.arange(3), "on": True}
    assert values(tree) == {"$[3].count": 1}
    tree = {"opt_state": scheduled(jnp.int32(1)), "step": 100}
    assert "$['step'] = 100" in refused("unknown-counts", tree, 1)


def test_an_integer_hyperparameter_is_no_counter() -> None:
    tx = inject(optax.apply_every)(2)
    state = tx.init(PARAMS)
    found = {c.path: c for c in counts(state)}
    assert found["$.hyperparams['k']"].meaning == Meaning.HYPERPARAMETER
    assert values(shift_counts(state, 5))["$.hyperparams['k']"] == 2


# What optax itself offers, and torn trees


def test_tree_set_moves_one_of_four() -> None:
    tx = inject(optax.adamw)(rate, b1=lambda step: 0.9)
    state = tx.update(GRADS, tx.init(PARAMS), PARAMS)[1]
    assert len(counts(state)) == 4
    by_name = optax.tree_utils.tree_set(state, count=jnp.int32(101))
    assert sorted(values(by_name).values()) == [1, 1, 1, 101]
    assert sorted(values(shift_counts(state, 100)).values()) == [101] * 4
    assert len(check_counts(by_name)) == 3


MISSED = {
    "mechanize": (lambda: contrib.mechanize(optax.adam(rate)), 2),
    "multi_steps": (lambda: optax.MultiSteps(optax.adam(rate), 2), 1),
    "adan": (lambda: optax.adan(rate), 1),
    "schedule_free": (lambda: contrib.schedule_free_adamw(rate), 1),
}


@pytest.mark.parametrize("name", MISSED)
def test_tree_set_misses_counters(name: str) -> None:
    make, missed = MISSED[name]
    by_name = optax.tree_utils.tree_set(make().init(PARAMS), count=jnp.int32(101))
    moving = [c for c in counts(by_name) if c.moves]
    assert sum(c.value == c.start for c in moving) == missed


def test_a_torn_tree_shows() -> None:
    tx = optax.chain(optax.adam(rate), optax.ema(0.9))
    states = [tx.init(PARAMS)]
    for _ in range(3):
        states.append(tx.update(GRADS, states[-1], PARAMS)[1])
    torn = (states[3][0], states[2][1])
    assert check_counts(states[3], 3) == check_counts(states[3]) == []
    assert [str(d) for d in check_counts(torn)] == ["$[1].count is 2, expected 3"]
    assert len(check_counts(states[2], 3)) == 3
    assert [d.expected for d in check_counts({"opt": torn, "step": 3}, 3)] == [3]


@pytest.mark.parametrize("name", CASES)
def test_no_state_of_the_catalogue_disagrees_with_itself(name: str) -> None:
    case = catalogue.CASES[name]()
    if case.tx is not None:
        assert check_counts(case.state) == []
        assert check_counts(case.state, catalogue.WARM_STEPS) == []


@pytest.mark.parametrize("arrays", [None, "numpy"])
@pytest.mark.parametrize(
    "release",
    [r if r in ("0.1.1", "0.2.3") else pytest.param(r, marks=pytest.mark.whole) for r in RELEASES],
)
def test_the_counters_of_old_releases_are_known_and_agree(release: str, arrays: Any) -> None:
    states = ckptstore.load(ROOT / f"optax-{release}" / "states", arrays=arrays)
    for name, state in states.items():
        assert not [c for c in counts(state) if c.meaning == Meaning.UNKNOWN], name
        assert check_counts(state, 2) == [], name


def test_a_count_tells_what_it_is() -> None:
    (count,) = counts(scheduled(jnp.int32(3)))
    assert str(count) == "$.count = 3  ScaleByScheduleState: drives a schedule; moves"
    assert dataclasses.is_dataclass(count)


def test_the_module_brings_no_framework() -> None:
    script = "import sys, ckptstore.optax; print({'jax', 'optax'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"

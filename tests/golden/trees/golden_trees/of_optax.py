"""States of Optax, each after two updates, and what holds them in a training state."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from golden_trees import Case
from golden_trees.of_types import Point

STEPS, LR, BF16 = 2, 0.05, jnp.bfloat16


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    values = jnp.sin(1.0 + jnp.arange(math.prod(shape), dtype=jnp.float32)).reshape(shape)
    return values.astype(dtype)


def _params() -> Any:
    return {"w": _array(2, 3), "b": _array(3)}


def _matrices(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


def _loss(params: Any, i: Any) -> Any:
    total = jnp.zeros(())
    for k, leaf in enumerate(jax.tree.leaves(params)):
        gap = leaf - jnp.cos(0.7 * jnp.arange(leaf.size).reshape(leaf.shape) + k + 0.3 * i)
        total += jnp.sum(jnp.real(gap * jnp.conj(gap)))
    return total


_value_and_grad = jax.jit(jax.value_and_grad(_loss))


def _feed(kind: str, params: Any, i: int) -> tuple[Any, dict[str, Any]]:
    """Give the gradients and extra arguments of one step."""
    if kind == "lookahead":
        params = params.fast
    if kind == "batch":
        grads = [_value_and_grad(params, 2 * i + k)[1] for k in range(2)]
        return jax.tree.map(lambda *g: jnp.stack(g), *grads), {}
    value, grads = _value_and_grad(params, i)
    grads = jax.tree.map(jnp.conj, grads)
    extra: dict[str, Any] = {
        "value": {"value": value},
        "search": {"value": value, "grad": grads, "value_fn": lambda p: _loss(p, i)},
        "function": {"obj_fn": lambda p: _loss(p, i)},
    }.get(kind, {})
    return grads, extra


def _trained(tx: Any, params: Callable[[], Any] = _params, kind: str = "plain") -> Any:
    """Return the state of a transformation, or of what a function makes, after some updates."""
    tx, now = tx() if callable(tx) else tx, params()
    if kind == "lookahead":
        now = optax.LookaheadParams.init_synced(now)
    state = tx.init(now)
    for i in range(STEPS):
        grads, extra = _feed(kind, now, i)
        if kind == "nan":
            grads = jax.tree.map(lambda g: g * jnp.nan, grads)
        with jax.disable_jit():  # else each loop and each branch is compiled
            updates, state = tx.update(grads, state, now, **extra)
        now = optax.apply_updates(now, updates)
    return state


def _run() -> Any:
    """Make the whole state of a run, as the README saves it."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(_ramp, weight_decay=0.01))
    state = _trained(tx)
    key = jax.random.split(jax.random.key(3))
    return {"params": _params(), "opt_state": state, "key": key[0], "step": STEPS, "lr": 0.05}


_ramp = optax.warmup_cosine_decay_schedule(0.0, LR, 2, 9)
ADAM, MOMENTUM = optax.adam(LR), optax.sgd(LR, momentum=0.9)
_inject = optax.inject_hyperparams
_MASK = {"w": True, "b": False}
_PLAIN: dict[str, Any] = {
    "adam": ADAM,
    "adam, bfloat16": optax.adam(LR, mu_dtype=BF16),
    "adamw, schedule": optax.adamw(_ramp),
    "adamw, mask": optax.adamw(LR, mask=_MASK),
    "adafactor": optax.adafactor(LR, min_dim_size_to_factor=2, momentum=0.9),
    "adagrad": optax.adagrad(LR),
    "adadelta": optax.adadelta(LR),
    "adan": optax.adan(LR),
    "amsgrad": optax.amsgrad(LR),
    "lion": optax.lion(LR),
    "lamb": optax.lamb(LR),
    "novograd": optax.novograd(LR),
    "optimistic": optax.optimistic_gradient_descent(LR),
    "rmsprop": optax.rmsprop(LR, centered=True, momentum=0.9),
    "rprop": optax.rprop(LR),
    "sgd": MOMENTUM,
    "sm3": optax.sm3(LR),
    "yogi": optax.yogi(LR),
    "ema": optax.ema(0.9, accumulator_dtype=BF16),
    "add_noise": lambda: optax.add_noise(0.01, 0.55, key=jax.random.key(1)),
    "apply_every": optax.apply_every(2),
    "flatten": optax.flatten(ADAM),
    "chain": optax.chain(optax.clip(1.0), optax.chain(ADAM), optax.identity()),
    "named_chain": optax.named_chain(("z", optax.scale_by_adam()), ("a", optax.sgd(LR))),
    "masked": optax.masked(ADAM, _MASK),
    "multi_transform": optax.multi_transform({"s": MOMENTUM, "f": ADAM}, {"w": "f", "b": "s"}),
    "partition": optax.partition({7: ADAM, -7: optax.set_to_zero()}, {"w": 7, "b": -7}),
    "MultiSteps": optax.MultiSteps(ADAM, 2),
    "MultiSteps, skipping": lambda: optax.MultiSteps(
        ADAM,
        2,
        should_skip_update_fn=functools.partial(optax.skip_large_updates, max_squared_norm=1e3),
    ),
    "conditionally_transform": optax.conditionally_transform(MOMENTUM, lambda step: step < 2),
    "conditionally_mask": optax.conditionally_mask(ADAM, lambda step: step % 2 == 0),
    "inject_hyperparams": _inject(optax.adam)(LR),
    "inject_hyperparams, schedules": _inject(optax.adamw)(_ramp, b1=lambda step: 0.9 - step / 9),
    "monitor": optax.monitor({"norm": optax.measure_with_ema(optax.tree.norm, 0.9)}),
    "snapshot": optax.snapshot("signs", lambda u: jax.tree.map(jnp.sign, u)),
    "contrib.ademamix": contrib.ademamix(LR),
    "contrib.cocob": contrib.cocob(),
    "contrib.dadapt_adamw": contrib.dadapt_adamw(estim_lr0=0.01),
    "contrib.dog": contrib.dog(init_step=("heuristic", 0.01)),
    "contrib.mechanize": contrib.mechanize(ADAM, s_init=0.1),
    "contrib.muon": contrib.muon(LR),
    "contrib.prodigy": contrib.prodigy(estim_lr0=0.01),
    "contrib.sam": contrib.sam(ADAM, optax.chain(contrib.normalize(), MOMENTUM)),
    "contrib.schedule_free": contrib.schedule_free(ADAM, LR),
}
_FED: dict[str, tuple[Any, str]] = {
    "apply_if_finite": (optax.apply_if_finite(ADAM, 2), "nan"),
    "zero_nans": (optax.chain(optax.zero_nans(), ADAM), "nan"),
    "polyak_sgd": (optax.polyak_sgd(max_learning_rate=LR), "value"),
    "contrib.momo": (contrib.momo(), "value"),
    "contrib.reduce_on_plateau": (optax.chain(ADAM, contrib.reduce_on_plateau(0.5, 1)), "value"),
    "lbfgs": (optax.lbfgs(memory_size=2), "search"),
    "backtracking": (
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(4, store_grad=True)),
        "search",
    ),
    "lookahead": (optax.lookahead(MOMENTUM, 2, 0.5), "lookahead"),
    "contrib.sophia": (contrib.sophia(LR), "function"),
    "contrib.dpsgd": (lambda: contrib.dpsgd(LR, 1.0, 0.1, seed=5, momentum=0.9), "batch"),
}
_TREES: dict[str, Callable[[], Any]] = {
    "one array": lambda: _array(3),
    "bfloat16": lambda: {"w": _array(2, 3, dtype=BF16)},
    "complex": lambda: {"z": _array(3) + 1j * _array(3), "r": _array(3)},
    "integer keys": lambda: {10: _array(3), 9: {-1: _array(), 0: _array(3)}},
    "no leaf": lambda: {"empty": {}, "none": None, "list": [], "tuple": ()},
    "an OrderedDict": lambda: OrderedDict(z=_array(3), a=_array(2, 3)),
    "a NamedTuple": lambda: Point(_array(2, 3), None),
    "empty arrays": lambda: (_array(0, 3), [_array(1, 1)]),
}
CASES = {name: Case(lambda tx=tx: _trained(tx)) for name, tx in _PLAIN.items()}
CASES |= {n: Case(lambda tx=tx, k=k: _trained(tx, kind=k)) for n, (tx, k) in _FED.items()}
CASES |= {f"adam of {n}": Case(lambda t=tree: _trained(ADAM, t)) for n, tree in _TREES.items()}
CASES |= {
    "the state of a run": Case(_run),
    "records of no state": Case(
        lambda: {
            "muon": contrib.MuonDimensionNumbers(),
            "galore": contrib.GaLoreDimensionNumbers((0, 1), 2),
            "injected": optax.InjectHyperparamsState(
                jnp.int32(3), {"learning_rate": 0.1, "on": jnp.bool_(True)}, optax.EmptyState()
            ),
        }
    ),
}

"""Trees of Haiku, chex, jmp, and of classes annotated with jaxtyping."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
from haiku.data_structures import to_immutable_dict
from jaxtyping import Array, Float, PyTree, jaxtyped

from golden_trees import Case

X = jnp.linspace(-1.0, 1.0, 24, dtype=jnp.float32).reshape(4, 6)
KEY = jax.random.PRNGKey(0)


@chex.dataclass
class Mappable:
    b: Any
    a: Any = 1


@chex.dataclass(frozen=True)
class Frozen:
    params: Any
    note: str = "static to nobody"


@chex.dataclass(mappable_dataclass=False)
class Plain:
    x: Any


@chex.dataclass(frozen=True, kw_only=True)
class Derived(Frozen):
    more: Any


@jaxtyped(typechecker=None)
@dataclasses.dataclass(frozen=True)
class Annotated:
    w: Float[Array, "n m"]  # noqa: F722 - no forward reference
    tree: PyTree[Float[Array, ...]]


class Tuple(NamedTuple):
    w: Float[Array, n]  # noqa: F821 - likewise
    b: Float[np.ndarray, ""] = np.zeros(())  # noqa: F722 - likewise


def _network(x: Any) -> Any:
    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(8)(x), True)
    count = hk.get_state("count", (), jnp.int32, init=jnp.zeros)
    hk.set_state("count", count + 1)
    return hk.nets.MLP([8, 1])(jax.nn.gelu(x))


def _init() -> Any:
    return hk.transform_with_state(_network).init(KEY, X)


def _recurrent() -> Any:
    def run(x: Any) -> Any:
        core = hk.LSTM(3)
        return hk.static_unroll(core, x, core.initial_state(None), time_major=True)

    net = hk.without_apply_rng(hk.transform(run))
    params = net.init(KEY, X)
    return params, net.apply(params, X)


def _sequence() -> Any:
    keys = hk.PRNGSequence(3)
    keys.reserve(4)
    next(keys)
    return keys


def _flat(x: Any) -> Any:
    return to_immutable_dict(x)


_PLAIN: dict[str, Callable[[], Any]] = {
    "params and state": _init,
    "recurrent params and LSTMState": _recurrent,
    "optimizer state": lambda: optax.adamw(1e-3).init(_init()[0]),
    "EMA state": lambda: hk.transform_with_state(
        lambda x: hk.ExponentialMovingAverage(0.9)(x)
    ).init(None, X),
    "partition": lambda: hk.data_structures.partition(lambda m, n, v: n == "w", _init()[0]),
    "immutable params": lambda: _flat(_init()[0]),
    "immutable mapping in another order": lambda: _flat({"b": {"z": 1, "a": 2}, "a": {}}),
    "immutable mapping of lists": lambda: _flat({"a": [1, (jnp.ones(2), None)]}),
    "empty immutable mapping": lambda: _flat({}),
    "optimizer state of immutable params": lambda: optax.adam(1e-3).init(_flat(_init()[0])),
    "PRNGSequence": _sequence,
    "PRNGSequence of a typed key": lambda: hk.PRNGSequence(jax.random.key(3)),
    "chex dataclass": lambda: Mappable(b=jnp.ones(2), a={"x": Mappable(b=None)}),
    "chex frozen dataclass": lambda: Frozen(params={"w": jnp.ones(2)}),
    "chex plain dataclass": lambda: Plain(x=[1, Plain(x=())]),
    "chex derived dataclass": lambda: Derived(params=1, more=jnp.ones(3)),
    "chex dataclass of shapes": lambda: jax.eval_shape(lambda: Frozen(params=X, note=X)),
    "chex optimizer state": lambda: optax.adam(1e-3).init(Mappable(b=X, a=X)),
    "chex one dataclass in two places": lambda: (lambda d: [d, d])(Mappable(b=1)),
    "jmp loss scales": lambda: [
        jmp.NoOpLossScale(),
        jmp.StaticLossScale(jnp.float32(2**15)),
        jmp.DynamicLossScale(
            jnp.float32(8), period=3, factor=4, min_loss_scale=jnp.float32(2)
        ).adjust(jnp.array(False)),
    ],
    "jmp Policy": lambda: jmp.get_policy("params=float32,compute=bfloat16,output=float16"),
    "jmp Policy of scalar types": lambda: jmp.Policy(jnp.float32, jnp.bfloat16, np.float16),
    "jaxtyping dataclass": lambda: Annotated(X, {"a": X}),
    "jaxtyping NamedTuple": lambda: Tuple(jnp.ones(3)),
}
CASES = {name: Case(make) for name, make in _PLAIN.items()}

"""Trees of equinox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from golden_trees import Case

T = TypeVar("T")
KEY = jax.random.key(0)


class Layer(eqx.Module):
    """A constructor of its own, static fields, annotations of jaxtyping."""

    w: Float[Array, "n m"]  # noqa: F722 - no forward reference
    name: str = eqx.field(static=True)
    shape: Any = eqx.field(static=True)
    act: Callable[..., Any] = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    n: int
    f: Any

    def __init__(self, f: Any = jax.nn.gelu, act: Any = jnp.tanh, shape: Any = (2, 3)) -> None:
        self.w = jnp.ones((2, 3))
        self.name, self.shape, self.act, self.dtype = "layer", shape, act, jnp.bfloat16
        self.n, self.f = 5, f


class Typed(eqx.Module, Generic[T]):
    x: T


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm[eqx.nn.Linear]
    count: eqx.nn.StateIndex[Array]
    out: eqx.nn.MLP
    drop: eqx.nn.Dropout

    def __init__(self, key: Any) -> None:
        a, b, c = jax.random.split(key, 3)
        self.norm = eqx.nn.BatchNorm(6, "batch", mode="ema")
        self.spectral = eqx.nn.SpectralNorm(eqx.nn.Linear(6, 4, key=a), "weight", key=b)
        self.count = eqx.nn.StateIndex(jnp.array(0))
        self.out = eqx.nn.MLP(4, 1, 8, 2, key=c)
        self.drop = eqx.nn.Dropout(0.3)


_LAYERS: dict[str, tuple[Any, ...]] = {
    "AdaptiveAvgPool2d": (2,), "AvgPool1d": (2,), "MaxPool3d": (2,),
    "Pool": (0.0, jax.lax.add, 1, 2), "Conv2d": (3, 4, 2), "ConvTranspose1d": (3, 4, 2),
    "Dropout": (0.5,), "Embedding": (4, 3),
    "GRUCell": (2, 3), "GroupNorm": (2, 4), "Identity": (), "Lambda": (jnp.tanh,),
    "LayerNorm": (3,), "Linear": (2, 3), "LSTMCell": (2, 3), "MLP": (2, 3, 4, 2),
    "MultiheadAttention": (2, 4), "PReLU": (), "RMSNorm": (3,), "RotaryPositionalEmbedding": (4,),
    "Sequential": ([eqx.nn.Identity()],), "WeightNorm": (eqx.nn.Linear(2, 3, key=KEY),),
}  # fmt: skip


def _layer(name: str) -> Any:
    cls = getattr(eqx.nn, name)
    try:
        return cls(*_LAYERS[name], key=KEY)
    except TypeError:
        return cls(*_LAYERS[name])


def _stateful() -> Any:
    return eqx.nn.make_with_state(Stateful)(KEY)


def _mlp() -> Any:
    return eqx.nn.MLP(2, 3, 4, 2, key=KEY)


def _shared() -> Any:
    layer = eqx.nn.Linear(2, 2, key=KEY)
    return [layer, layer, {"tied": layer.weight}]


class Result(eqx.Enumeration):
    good = "it went well"
    bad = "it went badly"


def _one(pair: Any) -> Any:
    return pair[1].weight


def _other(pair: Any) -> Any:
    return pair[0].weight


def _tied() -> Any:
    layers = eqx.nn.Linear(2, 2, key=KEY), eqx.nn.Linear(2, 2, key=KEY)
    return eqx.nn.Shared(layers, _one, _other)


def act(x: Any) -> Any:
    """Stand for an activation of a user, which no file carries."""
    return x


_TREES: dict[str, Callable[[], Any]] = {
    "a user's module": Layer,
    "static tuple, list and dict": lambda: Layer(shape=((1, None), [2], {"a": 3})),
    "a module in a callable field": lambda: Layer(f=_mlp()),
    "generic module": lambda: Typed(jnp.ones(2)),
    "functions by name": lambda: [Layer(f=f) for f in (jax.nn.relu, jnp.sin, jax.lax.tanh)],
    "MLP of given activations": lambda: eqx.nn.MLP(
        2, 3, 4, 2, jax.nn.silu, jax.nn.softplus, key=KEY
    ),
    "Partial": lambda: eqx.Partial(jnp.add, jnp.ones(2)),
    "layers that are one object": _shared,
    "model and State": _stateful,
    "State of a part": lambda: (lambda m, s: s.substate(m.norm))(*_stateful()),
    "model for inference": lambda: eqx.nn.inference_mode(_stateful()[0]),
    "arrays of a filtered tree": lambda: eqx.filter(_mlp(), eqx.is_array),
    "both halves of a partition": lambda: eqx.partition(_mlp(), eqx.is_inexact_array),
    "gradients": lambda: eqx.filter_grad(lambda m: m(jnp.ones(2)).sum())(_mlp()),
    "shapes": lambda: eqx.filter_eval_shape(_mlp),
    "ensemble": lambda: eqx.filter_vmap(lambda k: eqx.nn.Linear(2, 3, key=k))(
        jax.random.split(KEY, 3)
    ),
    "replaced leaf": lambda: eqx.tree_at(lambda m: m.layers[0].bias, _mlp(), None),
    "optimizer state": lambda: optax.adamw(1e-3).init(eqx.filter(_mlp(), eqx.is_array)),
    "numpy arrays and keys": lambda: [Typed(np.ones(2)), Typed((KEY, jax.random.PRNGKey(3)))],
}
CASES = {f"nn.{name}": Case(lambda name=name: _layer(name)) for name in _LAYERS}
CASES |= {name: Case(make) for name, make in _TREES.items()}
CASES["tied layers"] = Case(
    _tied,
    save={"supplied": ["$.where", "$.get"]},
    load=lambda: {"like": _tied()},
    numpy=False,
)
CASES["members of an Enumeration"] = Case(
    lambda: [Result.good],
    save={"supplied": ["$[0]._enumeration"]},
    load=lambda: {"like": [Result.bad]},
    numpy=False,
)
CASES["an activation that `like` supplies"] = Case(
    lambda: Layer(act=act),
    save={"supplied": ["$.act"]},
    load=lambda: {"like": Layer(act=act)},
    numpy=False,
)

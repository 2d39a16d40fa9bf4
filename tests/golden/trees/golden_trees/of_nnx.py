"""Trees of flax nnx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx

from golden_trees import Case

X = jnp.linspace(-1.0, 1.0, 24, dtype=jnp.float32).reshape(4, 6)


class Custom(nnx.Variable):  # type: ignore[type-arg]
    """A variable of a user's own."""


class Net(nnx.Module):
    def __init__(self, seed: int) -> None:
        rngs = nnx.Rngs(params=seed, dropout=seed + 1)
        init = nnx.with_metadata(nnx.initializers.lecun_normal(), note=("data", None))
        self.first = nnx.Linear(6, 8, kernel_init=init, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(8, 1, param_dtype=jnp.bfloat16, rngs=rngs)
        self.calls = nnx.Variable(jnp.array(0))

    def __call__(self, x: Any) -> Any:
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def _optimizer(model: Net) -> Any:
    return nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)


_PLAIN: dict[str, Callable[[], Any]] = {
    "State of a model": lambda: nnx.state(Net(0)),
    "State of params": lambda: nnx.state(Net(0), nnx.Param),
    "states of a split": lambda: nnx.split(Net(0), nnx.Param, nnx.BatchStat, ...)[1:],
    "State of Rngs": lambda: nnx.state(nnx.Rngs(0, dropout=1)),
    "State of model and optimizer": lambda: (lambda m: nnx.state((m, _optimizer(m))))(Net(0)),
    "empty State": lambda: nnx.state({}),
    "State of integer keys": lambda: nnx.State({0: {1: nnx.Param(jnp.ones(2))}}),
    "FlatState": lambda: nnx.to_flat_state(nnx.state(Net(0))),
    "pure dict": lambda: nnx.to_pure_dict(nnx.state(Net(0))),
    "shapes": lambda: nnx.state(nnx.eval_shape(lambda: Net(0))),
    "Param with metadata": lambda: nnx.Param(jnp.ones(2), tag="a", axes=(1, None)),
    "Param of a tree": lambda: nnx.Param({"a": jnp.ones(2), "b": [1]}),
    "other variables": lambda: [
        nnx.BatchStat(X), nnx.Cache(X), nnx.Intermediate((X, X)), nnx.Perturbation(X),
        nnx.LoRAParam(X),
    ],
    "one variable in two places": lambda: (lambda v: [v, v])(nnx.Param(X)),
}  # fmt: skip
CASES = {name: Case(make) for name, make in _PLAIN.items()}
CASES["a variable of a user"] = Case(
    lambda: nnx.State({"a": Custom(X, tag="b")}), load=lambda: {"types": [Custom]}
)

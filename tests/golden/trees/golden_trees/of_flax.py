"""Trees of flax linen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.core import FrozenDict, freeze
from flax.core.meta import AxisMetadata
from flax.training.dynamic_scale import DynamicScale
from flax.training.early_stopping import EarlyStopping
from flax.training.train_state import TrainState

from golden_trees import Case

T = TypeVar("T")
X = jnp.linspace(-1.0, 1.0, 24, dtype=jnp.float32).reshape(4, 6)


@struct.dataclass
class Plain:
    w: Any
    size: int = struct.field(pytree_node=False, default=3)
    names: Any = struct.field(pytree_node=False, default=("a", None))
    act: Any = struct.field(pytree_node=False, default=jax.nn.relu)
    dtype: Any = struct.field(pytree_node=False, default=jnp.bfloat16)


class Node(struct.PyTreeNode):
    x: Any
    y: Any = None


class Sub(Node):
    z: Any = 1


class Typed(struct.PyTreeNode, Generic[T]):
    x: T


class Mutable(struct.PyTreeNode, frozen=False, kw_only=True):
    x: Any


class Box(struct.PyTreeNode, AxisMetadata):  # type: ignore[type-arg]
    """A box of a user's own."""

    value: Any
    axis: str = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> Any:
        return self.replace(value=val)

    def add_axis(self, index: int, params: Any) -> Any:
        return self

    def remove_axis(self, index: int, params: Any) -> Any:
        return self


class Trainer(TrainState):
    """TrainState with more: statistics, a key, a scale, a config and a loss."""

    batch_stats: Any = None
    key: Any = None
    scale: Any = None
    config: Any = struct.field(pytree_node=False, default=None)
    loss: Callable[..., Any] | None = struct.field(pytree_node=False, default=None)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(1, param_dtype=jnp.bfloat16)(nn.gelu(x))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("data", None))
        logical = nn.with_logical_partitioning(nn.initializers.ones_init(), ("out",))
        return nn.Dense(5, kernel_init=init, bias_init=logical)(x)


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        self.sow("intermediates", "x", x)
        self.sow("intermediates", "x", x + 1)
        return nn.Dense(2)(x)


def _variables(module: nn.Module, *args: Any) -> Any:
    return module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, *args)


def _cached() -> Any:
    return _variables(nn.MultiHeadDotProductAttention(2, decode=True), jnp.ones((1, 4, 6)))


def _early() -> Any:
    stop = EarlyStopping(min_delta=1e-3, patience=2)
    return stop.update(jnp.float32(1.0)).update(2.0)


def _scaled() -> Any:
    found = DynamicScale().value_and_grad(lambda p: jnp.sum(p**2))(jnp.ones(3))
    return [found.dynamic_scale, found]


# What no file carries, and `like` supplies.


def apply(variables: Any, x: Any) -> Any:
    """Stand for the function of a model."""
    return x


def l2(x: Any) -> Any:
    """Stand for a loss."""
    return jnp.mean(x**2)


def _init(params: Any) -> Any:
    return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), params, params)


def _update(grads: Any, state: Any, params: Any = None) -> Any:
    return grads, state._replace(count=state.count + 1, mu=grads)


TX = optax.GradientTransformation(_init, _update)


def _train_state(cls: type = TrainState, *, steps: int = 2, **more: Any) -> Any:
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    state = cls.create(apply_fn=apply, params=params, tx=TX, **more)  # type: ignore[attr-defined]
    for _ in range(steps):
        state = state.apply_gradients(grads=state.params)
    return state


def _trainer(steps: int = 2) -> Any:
    return _train_state(
        Trainer,
        steps=steps,
        batch_stats=freeze({"norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}),
        key=jax.random.key(7),
        scale=DynamicScale(),
        config=("adam", 1e-3),
        loss=l2,
    )


_PLAIN: dict[str, Callable[[], Any]] = {
    "struct.dataclass with static fields": lambda: Plain(jnp.ones(2), 5, ("b", (1, None))),
    "static scalar type": lambda: Plain(1, dtype=jnp.float32),
    "static dtype": lambda: Plain(1, dtype=jnp.dtype("bfloat16")),
    "static FrozenDict": lambda: Plain(1, names=freeze({"a": {"b": 1}})),
    "PyTreeNodes": lambda: [Node(jnp.ones(2), Node({"a": 1})), Sub(jnp.ones(2), z=()), Typed(3)],
    "mutable PyTreeNode": lambda: Mutable(x=[1]),
    "node shared twice": lambda: (lambda n: [n, n, Node(n)])(Node(jnp.ones(2))),
    "FrozenDict": lambda: freeze({"b": {"c": jnp.ones(2), "a": {}}, "a": [1, {"x": 2}]}),
    "empty FrozenDict": lambda: FrozenDict(),
    "FrozenDict of any keys": lambda: FrozenDict({3: 1, "z": 2, ("t", 1): 3, None: 4}),
    "FrozenDict with nodes": lambda: FrozenDict({"n": Node(FrozenDict({"a": 1}))}),
    "Partitioned": lambda: nn.Partitioned(jnp.ones((2, 2)), (("a", "b"), None)),
    "LogicallyPartitioned": lambda: nn.LogicallyPartitioned(
        jnp.ones(2), ("embed",), rules=(("embed", "data"), ("mlp", None))
    ),
    "boxes in boxes": lambda: nn.Partitioned(Box(jnp.ones(2), "x"), (None,)),
    "boxes of shapes": lambda: jax.eval_shape(lambda: _variables(Boxed(), X)),
    "partition specs": lambda: nn.get_partition_spec(_variables(Boxed(), X)),
    "LazyRng": lambda: flax.core.scope.LazyRng.create(jax.random.key(3), "a", 2),
    "variables": lambda: _variables(Net(), X),
    "frozen variables": lambda: freeze(_variables(Net(), X)),
    "boxed variables": lambda: _variables(Boxed(), X),
    "cache of attention": _cached,
    "sown intermediates": lambda: _variables(Sowing(), X),
    "DynamicScale and its result": _scaled,
    "EarlyStopping": _early,
    "optimizer state over FrozenDict": lambda: optax.adam(1e-3).init(freeze({"w": jnp.ones(2)})),
    "optimizer state over boxes": lambda: optax.adamw(1e-3).init(_variables(Boxed(), X)["params"]),
    "flattened keys": lambda: flax.traverse_util.flatten_dict(
        {"a": {}, "b": {"c": 1}}, keep_empty_nodes=True
    ),
    "state dict": lambda: flax.serialization.to_state_dict(optax.adam(1.0).init(jnp.ones(2))),
}
CASES = {name: Case(make) for name, make in _PLAIN.items()}
CASES |= {
    "TrainState": Case(_train_state, load=lambda: {"like": _train_state()}, numpy=False),
    "TrainState of a user": Case(_trainer, load=lambda: {"like": _trainer()}, numpy=False),
    "TrainState, its params alone": Case(
        _train_state,
        load=lambda: {"select": "$.params"},
        expect=lambda: _train_state().params,
    ),
}

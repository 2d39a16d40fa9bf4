"""Trees of jax: arrays, keys, shapes, functions that it publishes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import ckptstore
from golden_trees import Case
from golden_trees.of_ml_dtypes import NAMES, patterns

_PLAIN = "bool int8 int16 int32 uint8 uint16 uint32 float16 float32 complex64"
_WIDE = "int64 uint64 float64 complex128"
_NOT_OF_JAX = {"complex32", "bcomplex32", "float6_e2m3fn", "float6_e3m2fn"}
_ML = [name for name in NAMES if name not in _NOT_OF_JAX]


@jax.tree_util.register_pytree_node_class
class Registered:
    """A class that only `jax.tree_util` knows."""

    def __init__(self, w: Any, name: str) -> None:
        self.w, self.name = w, name

    def tree_flatten(self) -> Any:
        return (self.w,), self.name

    @classmethod
    def tree_unflatten(cls, name: str, children: Any) -> Any:
        return cls(*children, name)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Node:
    w: Any
    size: int = dataclasses.field(metadata={"static": True}, default=3)


class Registered2(Registered):
    """Another, which `register` names."""


jax.tree_util.register_pytree_node_class(Registered2)
ckptstore.register(Registered2, name="golden.jax.Registered2")


def _dtype(name: str) -> Any:
    if hasattr(ml_dtypes, name):
        host = patterns(name)
    else:
        host = np.arange(6).astype(name) if name != "bool" else np.arange(6) % 2 == 0
    shapes = [host, host[1], host[:0], host[:6].reshape(1, -1, 2) if len(host) > 5 else host[:2]]
    return [*map(jax.device_put, shapes), host.dtype]


def _wide(name: str) -> Any:
    with jax.enable_x64(True):
        x = jnp.arange(5).astype(name) * 3
        return [x, x[0], x[:0], jnp.asarray(2.5), jnp.asarray(2), jax.device_put(x)]


def _weak() -> Any:
    ones = jnp.asarray(2.0) * jnp.ones(3, bool)
    return {
        "0-d": [jnp.asarray(1.0), jnp.asarray(1), jnp.asarray(1j), jnp.asarray(True)],
        "shaped": [ones, jnp.asarray(2.0) * jnp.ones((0, 2), bool)],
        "strong": [jnp.float32(1), jnp.zeros(3)],
        "committed": jax.device_put(ones, jax.devices()[0]),
    }


def _committed() -> Any:
    free = jnp.arange(6, dtype=jnp.float32)
    held = jax.device_put(free, jax.devices()[0])
    return [free, held, free[:1], held[:1], free[:0], held[:0]]


def _keys(impl: str) -> Any:
    key = jax.random.key(7, impl=impl)
    batch = jax.random.split(key, (2, 3))
    held = jax.device_put(key, jax.devices()[0])
    return [key, batch, batch[:0], held, jax.random.PRNGKey(7, impl=impl), key.dtype, key]


def _specs() -> Any:
    spec, unconstrained = jax.sharding.PartitionSpec, jax.sharding.PartitionSpec.UNCONSTRAINED
    return [spec(), spec("a"), spec(("a", "b"), None), spec(unconstrained, "x")]


def _partials() -> Any:
    partial = jax.tree_util.Partial
    return [
        partial(jax.nn.relu),
        partial(partial(jnp.add, 1), jnp.ones(2)),
        partial(jnp.mean, jnp.ones(2), axis=[0]),
    ]


CASES: dict[str, Case] = {}
for _name in [*_PLAIN.split(), *_ML]:
    CASES[f"arrays of {_name}"] = Case(lambda name=_name: _dtype(name))
for _name in _WIDE.split():
    CASES[f"arrays of {_name}"] = Case(lambda name=_name: _wide(name))
for _name in ("threefry2x32", "rbg", "unsafe_rbg"):
    CASES[f"keys of {_name}"] = Case(lambda name=_name: _keys(name))
CASES |= {
    "weak types": Case(_weak),
    "commitment": Case(_committed),
    "partition specs": Case(_specs),
    "partials": Case(_partials),
    "shapes": Case(
        lambda: [
            jax.ShapeDtypeStruct((2, 0), jnp.bfloat16),
            jax.ShapeDtypeStruct((), jnp.float32, weak_type=True),
            jax.eval_shape(lambda: jax.random.key(0)),
        ]
    ),
    "scalar types": Case(lambda: [jnp.float32, jnp.bfloat16, jnp.int4, jnp.bool_, jnp.complex64]),
    "functions": Case(
        lambda: [jax.nn.relu, jnp.tanh, jax.nn.silu, jax.lax.tanh, jnp.linalg.norm, jax.nn.softmax]
    ),
    "one array in two places": Case(
        lambda: (lambda x, key: {"a": [x, key], "b": (key, x), "c": jnp.arange(3)})(
            jnp.arange(3), jax.random.key(0)
        )
    ),
    "an array of numpy beside": Case(lambda: [np.asarray(jnp.ones(2)), jnp.ones(2), np.float32(3)]),
    "float0": Case(lambda: np.zeros((3,), jax.dtypes.float0)),
    "a registered class": Case(
        lambda: {"m": Registered(jnp.ones(2), "first"), "again": Registered([1], "second")},
        load=lambda: {"types": [Registered]},
    ),
    "a registered class with a name": Case(lambda: Registered2({"w": jnp.ones(2)}, "x")),
    "a registered dataclass": Case(lambda: [Node(jnp.ones(2), 5), Node(None)]),
}

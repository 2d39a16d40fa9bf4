"""The training states that the benchmarks save and load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any
"""A pytree of arrays."""

Shapes = Mapping[str, Any]
"""A nested mapping that ends in the shapes of a model's parameters."""


@dataclass(frozen=True)
class State:
    """One training state by name: how to build it, and what it looks like before it is built.

    Args:
        name: What the command line and the tables call it.
        about: One line for the head of a table.
        shapes: Makes the shapes of the parameters.
        numpy: Whether the leaves are numpy arrays in place of jax arrays.
    """

    name: str
    about: str
    shapes: Callable[[], Shapes]
    numpy: bool = False

    def template(self) -> Tree:
        """Return the tree with a `jax.ShapeDtypeStruct` in place of each array, holding no data.

        The sharding is set where the leaf is a jax array, and left out where it is numpy.
        """
        device = None if self.numpy else jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params = jax.tree.map(_float32, self.shapes(), is_leaf=_is_shape)
        abstract = jax.eval_shape(_train_state, params)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), abstract
        )

    def build(self, seed: int = 0) -> Tree:
        """Return the state after one real update with random gradients, all leaves computed.

        Its dict keys are in sorted order, as in the template: jax sorts them.
        """
        random = np.random.default_rng(seed)

        def draw(shape: tuple[int, ...]) -> jax.Array:
            return jnp.asarray(random.standard_normal(shape, dtype=np.float32) * np.float32(0.02))

        params = jax.tree.map(draw, self.shapes(), is_leaf=_is_shape)
        gradients = jax.tree.map(draw, self.shapes(), is_leaf=_is_shape)
        state = _train_state(params)
        updates, opt_state = _optimiser().update(gradients, state["opt_state"], params)
        params = optax.apply_updates(params, updates)
        tree = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
        if self.numpy:
            return jax.tree.map(lambda leaf: np.array(leaf, copy=True), tree)
        return jax.block_until_ready(jax.tree.map(lambda leaf: leaf, tree))


def nbytes(tree: Tree) -> int:
    """Return the bytes of all leaves of a tree of arrays, or of its template."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _optimiser() -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-4, 100, 10_000)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))


def _train_state(params: Tree) -> Tree:
    step = jnp.zeros((), jnp.int32)
    return {"params": params, "opt_state": _optimiser().init(params), "step": step}


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple)


def _float32(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _transformer() -> Shapes:
    """Fifty parameters, 70.0 million numbers: an embedding, eight blocks and a last norm."""
    width, vocabulary = 768, 17_408
    block = {
        "attention": {"qkv": (width, 3 * width), "out": (width, width)},
        "mlp": {"up": (width, 4 * width), "down": (4 * width, width)},
        "norm_1": (width,),
        "norm_2": (width,),
    }
    blocks = {f"block_{number}": block for number in range(8)}
    return {"embedding": (vocabulary, width), **blocks, "norm": (width,)}


def _many_small() -> Shapes:
    """Three thousand parameters of sixteen numbers each."""
    layer = {"kernel": (4, 4), "bias": (16,), "scale": (16,)}
    return {f"layer_{number:04d}": layer for number in range(1000)}


def _few() -> Shapes:
    """Five parameters, 12,000 numbers: enough to warm a tool up, or to damage."""
    layer = {"kernel": (64, 64), "bias": (64,)}
    return {"first": layer, "second": layer, "embedding": (60, 64)}


STATES = {
    state.name: state
    for state in (
        State("large", "a transformer with AdamW, jax leaves", _transformer),
        State("small", "3,000 parameters of 16 numbers with AdamW, jax leaves", _many_small),
        State("numpy", "the large state, numpy leaves", _transformer, numpy=True),
        State("few", "five parameters with AdamW, jax leaves", _few),
    )
}

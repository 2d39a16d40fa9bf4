"""Flax nnx: states and variables come back exactly, or are refused by their path."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import ckptstore
from tests.support.compare import assert_refused, differences
from tests.support.marks import sampled

X = jnp.linspace(-1.0, 1.0, 24, dtype=jnp.float32).reshape(4, 6)


class Custom(nnx.Variable):  # type: ignore[type-arg]
    pass


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
        self.calls.set_value(self.calls.get_value() + 1)
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def optimizer(model: Net) -> Any:
    return nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)


def state() -> Any:
    return nnx.state(Net(0))


EXACT: dict[str, Callable[[], Any]] = {
    "State of a model": state,
    "State of params": lambda: nnx.state(Net(0), nnx.Param),
    "states of a split": lambda: nnx.split(Net(0), nnx.Param, nnx.BatchStat, ...)[1:],
    "State of Rngs": lambda: nnx.state(nnx.Rngs(0, dropout=1)),
    "State of an optimizer": lambda: nnx.state(optimizer(Net(0))),
    "State of model and optimizer": lambda: (lambda m: nnx.state((m, optimizer(m))))(Net(0)),
    "empty State": lambda: nnx.State({}),
    "State of integer keys": lambda: nnx.State({0: {1: nnx.Param(jnp.ones(2))}}),
    "FlatState": lambda: nnx.to_flat_state(state()),
    "pure dict": lambda: nnx.to_pure_dict(state()),
    "shapes": lambda: nnx.state(nnx.eval_shape(lambda: Net(0))),
    "Param": lambda: nnx.Param(jnp.ones(2)),
    "Param with metadata": lambda: nnx.Param(jnp.ones(2), tag="a", axes=(1, None)),
    "Param of a tree": lambda: nnx.Param({"a": jnp.ones(2), "b": [1]}),
    "LoRAParam": lambda: nnx.LoRAParam(jnp.ones(2)),
    "BatchStat, Cache and Intermediate": lambda: [
        nnx.BatchStat(X), nnx.Cache(X), nnx.Intermediate((X, X)), nnx.Perturbation(X)
    ],
    "one variable in two places": lambda: (lambda v: [v, v])(nnx.Param(X)),
}  # fmt: skip


def same(a: Any, b: Any) -> None:
    """Compare classes, metadata, structure and bits: all but the trace that a variable knows."""
    assert type(a) is type(b)
    assert jax.tree_util.tree_structure(a) == jax.tree_util.tree_structure(b)
    assert differences(jax.tree.leaves(a), jax.tree.leaves(b)) == []
    assert keys(a) == keys(b)


def keys(tree: Any) -> Any:
    """Return the keys of nested mappings in their order, which jax does not compare."""
    if isinstance(tree, Mapping):
        return [(key, type(value), keys(value)) for key, value in tree.items()]
    return [(type(x), keys(x)) for x in tree] if isinstance(tree, list | tuple) else None


@pytest.mark.parametrize("kind", sampled(EXACT))
def test_state_comes_back_exactly_without_a_template(kind: str, tmp_path: pathlib.Path) -> None:
    tree = EXACT[kind]()
    ckptstore.save(tmp_path / "c", tree)
    loaded = ckptstore.load(tmp_path / "c")
    same(tree, loaded)
    if kind == "one variable in two places":
        assert loaded[0] is loaded[1]


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a module": (lambda: {"m": Net(0)}, "$['m']", "nnx.update(x, loaded)"),
    "Rngs": (lambda: {"r": nnx.Rngs(0)}, "$['r']", "save nnx.state(x)"),
    "an optimizer": (lambda: {"o": optimizer(Net(0))}, "$['o']", "save nnx.state(x)"),
    "a function in metadata": (
        lambda: [nnx.Param(X, init=lambda: 1)],
        "$[0].metadata['init']",
        "no file can hold code",
    ),
    "a variable of another kind": (lambda: [nnx.Param(X, hijax=True)], "$[0]", "cannot be saved"),
    "a graph definition": (lambda: nnx.split(Net(0)), "$[0]", "nnx.graphdef(model)"),
    "a reference": (lambda: [nnx.Param(X, ref=True)], "$[0].value", "save its array"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_is_refused_by_path(kind: str, tmp_path: pathlib.Path) -> None:
    make, path, words = REFUSED[kind]
    assert_refused(tmp_path, make(), path, words)


def test_a_variable_of_a_user_needs_types(tmp_path: pathlib.Path) -> None:
    tree = nnx.State({"a": Custom(X, tag="b")})
    ckptstore.save(tmp_path / "c", tree)
    with pytest.raises(ckptstore.UnknownTypeError, match=r"pass types=\[Custom\]"):
        ckptstore.load(tmp_path / "c")
    same(tree, ckptstore.load(tmp_path / "c", types=[Custom]))
    same(tree, ckptstore.load(tmp_path / "c", like=tree))


def test_paths_go_through_states(tmp_path: pathlib.Path) -> None:
    tree = {"model": state()}
    ckptstore.save(tmp_path / "c", tree)
    kernel = ckptstore.load(tmp_path / "c", select="$.model.first.kernel.value")
    assert kernel.tolist() == tree["model"]["first"]["kernel"].get_value().tolist()
    same(tree, ckptstore.load(tmp_path / "c", like=tree))


@nnx.jit
def train_step(model: Net, tx: Any) -> None:
    grads = nnx.grad(lambda m: jnp.mean((m(X) - 1) ** 2))(model)
    tx.update(model, grads)


def test_training_goes_on_bit_for_bit(tmp_path: pathlib.Path) -> None:
    model = Net(0)
    run = (model, optimizer(model))
    for _ in range(3):
        train_step(*run)
    ckptstore.save(tmp_path / "c", nnx.state(run))
    model = Net(5)
    other = (model, optimizer(model))
    nnx.update(other, ckptstore.load(tmp_path / "c"))
    for _ in range(3):
        train_step(*run)
        train_step(*other)
    same(nnx.state(run), nnx.state(other))


def test_numpy_arrays_load_where_flax_is_not_installed(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", state())
    code = f"""
        import sys
        for name in ("flax", "jax", "jaxlib", "optax"):
            sys.modules[name] = None
        import ckptstore
        state = ckptstore.load({str(tmp_path / "c")!r}, arrays="numpy")
        kernel = state.mapping["first"]["kernel"]
        assert type(kernel).__name__ == "Param" and kernel.value.shape == (6, 8)
        assert kernel.metadata["note"] == ("data", None), kernel.metadata
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_file_cannot_make_a_state_or_a_variable_of_something_else() -> None:
    import ckptstore.adapters.flax_nnx as adapter

    for cls, values in ((nnx.State, [[1]]), (nnx.Param, [1, 2]), (nnx.Param, [1, {"ref": True}])):
        record = adapter.record(cls)
        assert record is not None
        with pytest.raises(TypeError):
            record.make(values)

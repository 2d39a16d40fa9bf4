"""Equinox: each kind of state comes back exactly, or is refused by its path."""

from __future__ import annotations

import abc
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

import ckptstore
from tests.support.compare import assert_exact, assert_refused, differences
from tests.support.marks import sampled

T = TypeVar("T")
KEY = jax.random.key(0)


# --- Classes of a user -------------------------------------------------------------------------


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

    def __call__(self, x: Any) -> Any:
        return self.f(self.w @ x)

    def __check_init__(self) -> None:
        assert self.n == 5


class Typed(eqx.Module, Generic[T]):
    x: T


class Base(eqx.Module):
    a: eqx.AbstractVar[int]

    @abc.abstractmethod
    def f(self) -> Any: ...


class Concrete(Base):
    a: int
    b: Any = eqx.field(converter=jnp.asarray)
    c: Any = eqx.field(default=None, repr=False)

    def f(self) -> Any:
        return self.a


class Derived(Layer):
    """Its fields are the base's and more, set by the base's constructor."""

    more: Any = 1


class Wilful(eqx.Module):
    x: Any

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


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

    def __call__(self, x: Any, state: Any, key: Any) -> Any:
        x, state = self.norm(x, state)
        x, state = self.spectral(x, state)
        state = state.set(self.count, state.get(self.count) + 1)
        return self.out(self.drop(x, key=key)), state


class Result(eqx.Enumeration):
    good = "it went well"
    bad = "it went badly"


# --- Layers ------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "AdaptiveAvgPool1d": (2,), "AdaptiveAvgPool2d": (2,), "AdaptiveAvgPool3d": (2,),
    "AdaptiveMaxPool1d": (2,), "AdaptiveMaxPool2d": (2,), "AdaptiveMaxPool3d": (2,),
    "AdaptivePool": (2, 1, jnp.mean),
    "AvgPool1d": (2,), "AvgPool2d": (2,), "AvgPool3d": (2,),
    "MaxPool1d": (2,), "MaxPool2d": (2,), "MaxPool3d": (2,),
    "Pool": (0.0, jax.lax.add, 1, 2),
    "Conv": (2, 3, 4, 2), "Conv1d": (3, 4, 2), "Conv2d": (3, 4, 2), "Conv3d": (3, 4, 2),
    "ConvTranspose": (2, 3, 4, 2), "ConvTranspose1d": (3, 4, 2), "ConvTranspose2d": (3, 4, 2),
    "ConvTranspose3d": (3, 4, 2),
    "Dropout": (0.5,), "Embedding": (4, 3), "GRUCell": (2, 3), "GroupNorm": (2, 4),
    "Identity": (), "Lambda": (jnp.tanh,), "LayerNorm": (3,), "Linear": (2, 3),
    "LSTMCell": (2, 3), "MLP": (2, 3, 4, 2), "MultiheadAttention": (2, 4), "PReLU": (),
    "RMSNorm": (3,), "RotaryPositionalEmbedding": (4,), "Sequential": ([eqx.nn.Identity()],),
    "WeightNorm": (eqx.nn.Linear(2, 3, key=KEY),),
}  # fmt: skip
OTHERWISE = {  # made in other tests, or bases of what is here
    "BatchNorm", "SpectralNorm", "Shared", "State", "StateIndex", "StatefulLayer",
}  # fmt: skip


def make_layer(name: str) -> Any:
    cls = getattr(eqx.nn, name)
    try:
        return cls(*ARGUMENTS[name], key=KEY)
    except TypeError:
        return cls(*ARGUMENTS[name])


def test_the_table_of_layers_is_whole() -> None:
    public = {n for n in vars(eqx.nn) if isinstance(vars(eqx.nn)[n], type)}
    assert public - OTHERWISE == ARGUMENTS.keys()


@pytest.mark.parametrize("name", sampled(ARGUMENTS))
def test_every_layer_comes_back_exactly(name: str, tmp_path: pathlib.Path) -> None:
    layer = make_layer(name)
    loaded = assert_exact(tmp_path, layer)
    assert jax.tree_util.tree_structure(loaded) == jax.tree_util.tree_structure(layer)


# --- Trees -------------------------------------------------------------------------------------


def stateful() -> Any:
    return eqx.nn.make_with_state(Stateful)(KEY)


def mlp() -> Any:
    return eqx.nn.MLP(2, 3, 4, 2, key=KEY)


def shared() -> Any:
    layer = eqx.nn.Linear(2, 2, key=KEY)
    return [layer, layer, {"tied": layer.weight}]


EXACT: dict[str, Callable[[], Any]] = {
    "a user's module": Layer,
    "static tuple, list and dict": lambda: Layer(shape=((1, None), [2], {"a": 3})),
    "a module as a static value": lambda: Layer(shape=eqx.nn.Identity()),
    "a module in a callable field": lambda: Layer(f=mlp()),
    "generic module": lambda: Typed(jnp.ones(2)),
    "module of an abstract one": lambda: Concrete(1, 2.0),
    "functions by name": lambda: [Layer(f=f) for f in (jax.nn.relu, jnp.sin, jax.lax.tanh)],
    "MLP of given activations": lambda: eqx.nn.MLP(
        2, 3, 4, 2, jax.nn.silu, jax.nn.softplus, key=KEY
    ),
    "Sequential": lambda: eqx.nn.Sequential(
        [eqx.nn.Linear(2, 3, key=KEY), eqx.nn.Lambda(jax.nn.relu), mlp()]
    ),
    "Partial": lambda: eqx.Partial(jnp.add, jnp.ones(2), **{}),
    "layers that are one object": shared,
    "model and State": stateful,
    "State": lambda: stateful()[1],
    "State of a part": lambda: (lambda m, s: s.substate(m.norm))(*stateful()),
    "model for inference": lambda: eqx.nn.inference_mode(stateful()[0]),
    "arrays of a filtered tree": lambda: eqx.filter(mlp(), eqx.is_array),
    "both halves of a partition": lambda: eqx.partition(mlp(), eqx.is_inexact_array),
    "gradients": lambda: eqx.filter_grad(lambda m: m(jnp.ones(2)).sum())(mlp()),
    "shapes": lambda: eqx.filter_eval_shape(mlp),
    "ensemble": lambda: eqx.filter_vmap(lambda k: eqx.nn.Linear(2, 3, key=k))(
        jax.random.split(KEY, 3)
    ),
    "replaced leaf": lambda: eqx.tree_at(lambda m: m.layers[0].bias, mlp(), None),
    "optimizer state": lambda: optax.adamw(1e-3).init(eqx.filter(mlp(), eqx.is_array)),
    "numpy arrays in a module": lambda: Typed(np.ones(2)),
    "keys in a module": lambda: Typed((KEY, jax.random.PRNGKey(3))),
}


@pytest.mark.parametrize("kind", sampled(EXACT))
def test_state_comes_back_exactly_without_a_template(kind: str, tmp_path: pathlib.Path) -> None:
    tree = EXACT[kind]()
    loaded = assert_exact(tmp_path, tree)
    same = jax.tree_util.tree_structure(loaded) == jax.tree_util.tree_structure(tree)
    assert same


def test_loading_runs_no_constructor(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    ckptstore.save(tmp_path / "c", Layer())

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("load must not run this")

    for name in ("__init__", "__check_init__"):
        monkeypatch.setattr(Layer, name, never)
    monkeypatch.setattr(type(Layer), "__call__", never)
    assert ckptstore.load(tmp_path / "c").shape == (2, 3)


# --- What is refused at save -------------------------------------------------------------------


def used() -> Any:
    model, state = stateful()
    state.set(model.count, jnp.array(3))
    return {"state": state}


def unnamed() -> Any:
    return {"norm": eqx.nn.BatchNorm(3, "batch", mode="ema")}


def local() -> Any:
    class Local(eqx.Module):
        x: Any

    return [Local(1)]


def tied() -> Any:
    layers = eqx.nn.Linear(2, 2, key=KEY), eqx.nn.Linear(2, 2, key=KEY)
    return eqx.nn.Shared(layers, lambda p: p[1].weight, lambda p: p[0].weight)


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a lambda in a field of the pytree": (
        lambda: {"m": Layer(f=lambda x: x)},
        "$['m'].f",
        "save(..., supplied=",
    ),
    "an MLP of a lambda": (
        lambda: eqx.nn.MLP(2, 2, 2, 1, lambda x: x, key=KEY),
        "$.activation",
        "save(..., supplied=",
    ),
    "a lambda in a static tuple": (
        lambda: Layer(shape=(1, lambda: 0)),
        "$.shape[1]",
        "save(..., supplied=",
    ),
    "functions of eqx.nn.Shared": (tied, "$.where", "save(..., supplied="),
    "a State that was replaced": (used, "$['state']", "save the new one"),
    "a State without names": (
        lambda: {"state": eqx.nn.State(unnamed())},
        "$['state']",
        "make_with_state",
    ),
    "an index without a name": (unnamed, "$['norm'].ema_first_time_index", "make_with_state"),
    "a jitted function": (lambda: [eqx.filter_jit(jnp.sum)], "$[0]", "which is not a field"),
    "a bound method": (lambda: [mlp().__call__.__func__], "$[0]", "no file can hold code"),
    "a bound method of a module": (lambda: [Concrete(1, 2).f], "$[0]", "which is not a field"),
    "a default that __init__ does not set": (lambda: [Derived()], "$[0]", "'more' of this Derived"),
    "a __setattr__ of one's own": (lambda: [Wilful(1)], "$[0]", "a __setattr__ of its own"),
    "a class local to a function": (local, "$[0]", "move it to the top of its module"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_is_refused_by_path(kind: str, tmp_path: pathlib.Path) -> None:
    make, path, words = REFUSED[kind]
    assert_refused(tmp_path, make(), path, words)


# --- What `like` supplies ----------------------------------------------------------------------


def static_closure() -> Any:
    scale = 2.0
    return Layer(act=lambda x: x * scale)


SUPPLIED: dict[str, tuple[Callable[[], Any], tuple[str, ...], tuple[str, ...]]] = {
    "a closure in a static field": (static_closure, (), ("$.act",)),
    "a member of an Enumeration": (lambda: [Result.good], (), ("$[0]._enumeration",)),
    "tied layers": (tied, ("$.where", "$.get"), ("$.where", "$.get")),
    "an MLP of a closure": (
        lambda: eqx.nn.MLP(2, 2, 2, 1, lambda x: x, key=KEY),
        ("$.activation",),
        ("$.activation",),
    ),
}


@pytest.mark.parametrize("kind", SUPPLIED)
def test_what_holds_code_comes_from_like(kind: str, tmp_path: pathlib.Path) -> None:
    make, named, places = SUPPLIED[kind]
    tree = make()
    ckptstore.save(tmp_path / "c", tree, supplied=named)
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(tmp_path / "c")
    for place in places:
        assert f"{place}: not stored" in str(caught.value)
    found = differences(tree, ckptstore.load(tmp_path / "c", like=tree))
    assert [x for x in found if not x.endswith("SharedNode became SharedNode")] == []
    fresh = ckptstore.load(tmp_path / "c", like=make())
    arrays = [eqx.filter(x, eqx.is_array) for x in (tree, fresh)]
    assert [x.tolist() for x in jax.tree.leaves(arrays[0])] == [
        x.tolist() for x in jax.tree.leaves(arrays[1])
    ]


def test_paths_go_by_field_and_through_states(tmp_path: pathlib.Path) -> None:
    model, state = stateful()
    ckptstore.save(tmp_path / "c", {"model": model, "state": state})
    weight = ckptstore.load(tmp_path / "c", select="$.model.out.layers[0].weight")
    assert differences(model.out.layers[0].weight, weight) == []
    count = ckptstore.load(tmp_path / "c", select="$.state['Stateful.count']")
    assert differences(state.get(model.count), count) == []
    assert differences(state, ckptstore.load(tmp_path / "c", select="$.state")) == []


def test_like_may_be_another_model_or_its_shapes(tmp_path: pathlib.Path) -> None:
    tree = stateful()
    ckptstore.save(tmp_path / "c", tree)
    other = eqx.nn.make_with_state(Stateful)(jax.random.key(5))
    assert differences(tree, ckptstore.load(tmp_path / "c", like=other)) == []
    ckptstore.save(tmp_path / "mlp", mlp())
    loaded = ckptstore.load(tmp_path / "mlp", like=eqx.filter_eval_shape(mlp))
    assert differences(mlp(), loaded) == []
    with pytest.raises(ckptstore.StructureError, match=r"\$\.layers\[0\]\.weight: shape"):
        ckptstore.load(tmp_path / "mlp", like=eqx.nn.MLP(3, 3, 4, 2, key=KEY))


# --- Training goes on --------------------------------------------------------------------------

X = jnp.linspace(-1.0, 1.0, 24).reshape(4, 6)
TX = optax.adam(1e-2)


@eqx.filter_jit
def train_step(run: dict[str, Any]) -> dict[str, Any]:
    key, drop = jax.random.split(run["key"])

    def loss(model: Any, state: Any) -> Any:
        call = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
        out, state = call(X, state, jax.random.split(drop, 4))
        return jnp.mean((out - 1) ** 2), state

    grads, state = eqx.filter_grad(loss, has_aux=True)(run["model"], run["state"])
    updates, opt_state = TX.update(grads, run["opt_state"])
    model = eqx.apply_updates(run["model"], updates)
    return {"model": model, "state": state, "opt_state": opt_state, "key": key}


def test_training_goes_on_bit_for_bit(tmp_path: pathlib.Path) -> None:
    model, state = stateful()
    opt_state = TX.init(eqx.filter(model, eqx.is_inexact_array))
    run = {"model": model, "state": state, "opt_state": opt_state, "key": jax.random.key(3)}
    for _ in range(3):
        run = train_step(run)
    loaded = assert_exact(tmp_path, run)
    for _ in range(3):
        run, loaded = train_step(run), train_step(loaded)
    assert differences(run, loaded) == []


# --- Where equinox is not installed ------------------------------------------------------------


def test_numpy_arrays_load_where_equinox_is_not_installed(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", stateful())
    ckptstore.save(tmp_path / "layer", static_closure())
    code = f"""
        import sys
        for name in ("equinox", "jax", "jaxlib", "optax"):
            sys.modules[name] = None
        import ckptstore, numpy
        try:
            ckptstore.load({str(tmp_path / "c")!r})
        except ckptstore.UnknownTypeError as error:
            assert "equinox is not installed" in str(error), error
        model, state = ckptstore.load({str(tmp_path / "c")!r}, arrays="numpy")
        assert model.out.layers[0].weight.shape == (8, 4)
        assert model.out.final_activation.name == "equinox.nn.MLP.final_activation"
        assert model.norm.momentum == 0.99
        assert state.state["Stateful.count"] == 0
        layer = ckptstore.load({str(tmp_path / "layer")!r}, arrays="numpy")
        assert type(layer.act).__name__ == "Supplied" and layer.f.name == "jax.nn.gelu"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_file_cannot_make_a_state_of_something_else() -> None:
    import ckptstore.adapters.equinox as adapter

    record = adapter.ADAPTER.record(eqx.nn.State)
    assert record is not None
    with pytest.raises(TypeError, match="made from a dict"):
        record.make([[1]])
    with pytest.raises(KeyError):
        adapter.ADAPTER.symbol_named("equinox.filter_jit")

"""Flax linen: each kind of state comes back exactly, or is refused by its path."""

from __future__ import annotations

import functools
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from flax.core import FrozenDict, freeze
from flax.core.meta import AxisMetadata
from flax.training.dynamic_scale import DynamicScale
from flax.training.early_stopping import EarlyStopping
from flax.training.train_state import TrainState

import ckptstore
from tests.support.compare import assert_exact, assert_refused, differences
from tests.support.marks import sampled

T = TypeVar("T")
MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))


# --- Classes of a user -------------------------------------------------------------------------


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


class Frozen(FrozenDict):  # type: ignore[type-arg]
    pass


# --- States of models --------------------------------------------------------------------------

X = jnp.linspace(-1.0, 1.0, 24, dtype=jnp.float32).reshape(4, 6)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.gelu(x))
        return nn.Dense(1, param_dtype=jnp.bfloat16)(x)


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("data", None))
        logical = nn.with_logical_partitioning(nn.initializers.ones_init(), ("out",))
        return nn.Dense(5, kernel_init=init, bias_init=logical)(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return Boxed()(x) @ jnp.ones((5, 6)), None


def variables(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, *args, **kwargs)


def scanned() -> Any:
    layers = nn.scan(
        Layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=3,
        metadata_params={nn.meta.PARTITION_NAME: "layers"},
    )()
    return variables(layers, X, None)


def carried() -> Any:
    cell = nn.OptimizedLSTMCell(3)
    return cell.initialize_carry(jax.random.key(0), X.shape), variables(
        nn.RNN(nn.GRUCell(3)), X[None]
    )


def cached() -> Any:
    return variables(
        nn.MultiHeadDotProductAttention(2, decode=True, use_bias=False), jnp.ones((1, 4, 6))
    )


def sown() -> Any:
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            self.sow("intermediates", "x", x)
            self.sow("intermediates", "x", x + 1)
            return nn.Dense(2)(x)

    return variables(Sowing(), X)


def fp8() -> Any:
    return variables(nn.Dense(16, dot_general_cls=nn.Fp8DirectDotGeneralOp), jnp.ones((16, 16)))


def early() -> Any:
    stop = EarlyStopping(min_delta=1e-3, patience=2)
    return stop.update(jnp.float32(1.0)).update(2.0)


def scaled() -> Any:
    scale = DynamicScale()
    found = scale.value_and_grad(lambda p: jnp.sum(p**2))(jnp.ones(3))
    return found.dynamic_scale, found


EXACT: dict[str, Callable[[], Any]] = {
    "struct.dataclass with static fields": lambda: Plain(jnp.ones(2), 5, ("b", (1, None))),
    "static scalar type": lambda: Plain(1, dtype=jnp.float32),
    "static numpy dtype": lambda: Plain(1, dtype=jnp.dtype("bfloat16")),
    "static FrozenDict": lambda: Plain(1, names=freeze({"a": {"b": 1}})),
    "PyTreeNode": lambda: Node(jnp.ones(2), Node({"a": 1})),
    "PyTreeNode subclass": lambda: Sub(jnp.ones(2), z=()),
    "generic PyTreeNode": lambda: Typed(jnp.ones(2)),
    "mutable PyTreeNode": lambda: Mutable(x=[1]),
    "node shared twice": lambda: (lambda n: [n, n, Node(n)])(Node(jnp.ones(2))),
    "FrozenDict": lambda: freeze({"b": {"c": jnp.ones(2), "a": {}}, "a": [1, {"x": 2}]}),
    "empty FrozenDict": lambda: FrozenDict(),
    "FrozenDict of any keys": lambda: FrozenDict({3: 1, True: 2, -1: 3}),
    "FrozenDict in a dict": lambda: {"params": freeze({"w": jnp.ones(2)}), "n": 1},
    "FrozenDicts of one dict": lambda: (lambda d: [d["a"], d["a"]])(freeze({"a": {"b": 1}})),
    "FrozenDict with nodes": lambda: FrozenDict({"n": Node(FrozenDict({"a": 1}))}),
    "Partitioned": lambda: nn.Partitioned(jnp.ones((2, 2)), ("data", None)),
    "Partitioned of two axes": lambda: nn.Partitioned(jnp.ones((2, 2)), (("a", "b"), None)),
    "LogicallyPartitioned": lambda: nn.LogicallyPartitioned(
        jnp.ones(2), ("embed",), rules=(("embed", "data"), ("mlp", None))
    ),
    "boxes in boxes": lambda: nn.Partitioned(Box(jnp.ones(2), "x"), (None,)),
    "a user's box": lambda: {"w": Box(jnp.ones(2), "heads")},
    "boxes of shapes": lambda: jax.eval_shape(lambda: variables(Boxed(), X)),
    "partition specs": lambda: nn.get_partition_spec(variables(Boxed(), X)),
    "LazyRng": lambda: flax.core.scope.LazyRng.create(jax.random.key(3), "a", 2),
    "variables": lambda: variables(Net(), X),
    "frozen variables": lambda: freeze(variables(Net(), X)),
    "boxed variables": lambda: variables(Boxed(), X),
    "scanned layers": scanned,
    "carry and recurrent variables": carried,
    "cache of attention": cached,
    "sown intermediates": sown,
    "fp8 variables": fp8,
    "LoRA-like tuple of variables": lambda: (variables(nn.Embed(4, 2), jnp.array([1])), None),
    "spectral norm": lambda: variables(nn.SpectralNorm(nn.Dense(2)), X, update_stats=False),
    "DynamicScale": lambda: scaled()[0],
    "DynamicScaleResult": lambda: scaled()[1],
    "EarlyStopping": early,
    "optimizer state over FrozenDict": lambda: optax.adam(1e-3).init(freeze({"w": jnp.ones(2)})),
    "optimizer state over boxes": lambda: optax.adamw(1e-3).init(variables(Boxed(), X)["params"]),
    "traverse_util empty node": lambda: flax.traverse_util.flatten_dict(
        {"a": {}, "b": {"c": 1}}, keep_empty_nodes=True
    ),
    "flattened keys": lambda: flax.traverse_util.flatten_dict(variables(Net(), X)),
    "state dict": lambda: flax.serialization.to_state_dict(optax.adam(1.0).init(jnp.ones(2))),
}


@pytest.mark.parametrize("kind", sampled(EXACT))
def test_state_comes_back_exactly_without_a_template(kind: str, tmp_path: pathlib.Path) -> None:
    tree = EXACT[kind]()
    loaded = assert_exact(tmp_path, tree)
    assert jax.tree_util.tree_structure(loaded) == jax.tree_util.tree_structure(tree)


def test_a_frozen_dict_of_mixed_keys_and_its_hash(tmp_path: pathlib.Path) -> None:
    tree = FrozenDict({3: 1, "z": 2, ("t", 1): 3, None: 4})
    loaded = assert_exact(tmp_path, tree)
    assert hash(loaded) == hash(tree)
    ckptstore.save(tmp_path / "hashed", tree)  # what hash() keeps is no part of the value
    assert ckptstore.load(tmp_path / "hashed") == tree


def test_every_dataclass_that_flax_defines_is_found_again(tmp_path: pathlib.Path) -> None:
    found = {c for c in _subclasses(struct.PyTreeNode) if c.__module__.startswith("flax.")}
    found -= {struct.PyTreeNode}
    assert {TrainState, DynamicScale, EarlyStopping, nn.Partitioned} <= found
    for cls in found:
        made = object.__new__(cls)
        for name in cls.__dataclass_fields__:  # type: ignore[attr-defined]
            object.__setattr__(made, name, name)
        assert_exact(tmp_path, made)


def _subclasses(cls: type) -> set[type]:
    return {cls}.union(*(_subclasses(sub) for sub in cls.__subclasses__()))


# --- What is refused at save -------------------------------------------------------------------


def local() -> Any:
    class Local(struct.PyTreeNode):
        x: Any

    return Local(1)


def with_attribute() -> Any:
    node = Node(1)
    object.__setattr__(node, "cache", 2)
    return node


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a lambda in a field of the pytree": (
        lambda: Node({"f": lambda x: x}),
        "$.x['f']",
        "save(..., supplied=",
    ),
    "lambdas in a static tuple": (
        lambda: Plain(1, names=(1, lambda x: x)),
        "$.names[1]",
        "save(..., supplied=",
    ),
    "a lambda in a FrozenDict": (
        lambda: {"p": freeze({"a": {"f": lambda x: x}})},
        "$['p']['a']['f']",
        "save(..., supplied=",
    ),
    "a subclass of FrozenDict": (
        lambda: {"p": Frozen({"a": 1})},
        "$['p']",
        "flatten=..., unflatten=...",
    ),
    "a module": (lambda: {"net": nn.Dense(2)}, "$['net']", "pytree_node=False"),
    "a user's module": (lambda: Node(Net()), "$.x", "the linen module Net"),
    "a class local to a function": (local, "$", "move it to the top of its module"),
    "an attribute beyond the fields": (with_attribute, "$", "'cache', which is not a field"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_is_refused_by_path(kind: str, tmp_path: pathlib.Path) -> None:
    make, path, words = REFUSED[kind]
    assert_refused(tmp_path, make(), path, words)


# --- What `like` supplies ----------------------------------------------------------------------

NET = Net()


def l2(x: Any) -> Any:
    return jnp.mean(x**2)


def train_state(cls: type = TrainState, **more: Any) -> Any:
    params = variables(NET, X)["params"]
    return cls.create(apply_fn=NET.apply, params=params, tx=optax.adam(1e-3), **more)


SUPPLIED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "TrainState": (train_state, ["$.apply_fn", "$.tx"]),
    "TrainState of a user": (
        lambda: train_state(
            Trainer,
            batch_stats=variables(NET, X)["batch_stats"],
            key=jax.random.key(7),
            scale=DynamicScale(),
            config=("adam", 1e-3),
            loss=l2,
        ),
        ["$.apply_fn", "$.tx", "$.loss"],
    ),
    "two states in a dict": (
        lambda: {"g": train_state(), "d": train_state()},
        ["$['g'].apply_fn", "$['g'].tx", "$['d'].apply_fn", "$['d'].tx"],
    ),
    "a closure as activation": (lambda: Plain(1, act=lambda x: x), ["$.act"]),
    "a module": (lambda: Plain(1, act=NET), ["$.act"]),
    "a partial function": (lambda: Plain(1, act=functools.partial(NET.apply, {})), ["$.act"]),
    "a mesh": (lambda: nn.Partitioned(jnp.ones(2), (None,), mesh=MESH), ["$.mesh"]),
    "a plain GradientTransformation": (lambda: Plain(1, act=optax.identity()), ["$.act"]),
}


@pytest.mark.parametrize("kind", SUPPLIED)
def test_what_the_framework_means_to_be_supplied_comes_from_like(
    kind: str, tmp_path: pathlib.Path
) -> None:
    make, places = SUPPLIED[kind]
    state, like = make(), make()
    ckptstore.save(tmp_path / "c", state)
    with pytest.raises(ckptstore.StructureError, match=r"load\(url, like=") as caught:
        ckptstore.load(tmp_path / "c")
    for place in places:
        assert f"{place}: not stored" in str(caught.value)
    assert str(caught.value).count(": not stored") == len(places)
    loaded = ckptstore.load(tmp_path / "c", like=state)
    assert differences(state, loaded) == []
    loaded = ckptstore.load(tmp_path / "c", like=like)
    assert jax.tree_util.tree_structure(loaded) == jax.tree_util.tree_structure(like)
    if kind == "TrainState":
        assert loaded.tx is like.tx
        assert loaded.apply_fn is like.apply_fn


def test_a_trained_state_loads_into_a_fresh_one(tmp_path: pathlib.Path) -> None:
    @jax.jit
    def update(state: Any) -> Any:
        return state.apply_gradients(grads=state.params)  # the step 0 becomes an array

    trained = update(train_state())
    ckptstore.save(tmp_path / "c", trained)
    loaded = ckptstore.load(tmp_path / "c", like=train_state())
    assert loaded.step == 1
    assert differences(update(trained).params, update(loaded).params) == []
    assert differences(update(trained).opt_state, update(loaded).opt_state) == []


def test_paths_of_a_train_state_go_by_field_and_through_frozen_dicts(
    tmp_path: pathlib.Path,
) -> None:
    state = train_state().replace(params=freeze(variables(NET, X)["params"]))
    ckptstore.save(tmp_path / "c", state)
    params = ckptstore.load(tmp_path / "c", select="$.params")
    assert differences(state.params, params) == []
    kernel = ckptstore.load(tmp_path / "c", select="$.params['Dense_0'].kernel")
    assert differences(state.params["Dense_0"]["kernel"], kernel) == []
    kernels = ckptstore.load(tmp_path / "c", select="$.params.**.kernel")
    assert list(kernels) == ["$.params['Dense_0']['kernel']", "$.params['Dense_1']['kernel']"]
    every = ckptstore.load(tmp_path / "c", select="$.params.**")
    assert list(every) == [
        "$.params",
        *(
            path
            for layer in state.params
            for path in (
                f"$.params['{layer}']",
                *(f"$.params['{layer}']['{name}']" for name in state.params[layer]),
            )
        ),
    ]
    both = ckptstore.load(
        tmp_path / "c", like=train_state().replace(params=state.params), select="$.opt_state"
    )
    assert differences(state.opt_state, both.opt_state) == []


def test_a_difference_inside_a_frozen_dict_is_told_by_its_path(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", Node(freeze({"a": {"w": jnp.ones(2)}})))
    with pytest.raises(ckptstore.StructureError, match=r"\$\.x\['a'\]\['w'\]: shape \[2\]"):
        ckptstore.load(tmp_path / "c", like=Node(freeze({"a": {"w": jnp.ones(3)}})))
    with pytest.raises(ckptstore.StructureError, match=r"\$\.x: .*FrozenDict in the checkpoint"):
        ckptstore.load(tmp_path / "c", like=Node({"a": {"w": jnp.ones(2)}}))


def test_a_static_field_is_the_checkpoint_s_also_with_like(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", Plain(1, act=jnp.tanh, size=7))
    loaded = ckptstore.load(tmp_path / "c", like=Plain(1))
    assert (loaded.act, loaded.size) == (jnp.tanh, 7)


# --- Training goes on --------------------------------------------------------------------------


@jax.jit
def train_step(state: Trainer) -> Trainer:
    key, dropout = jax.random.split(state.key)

    def loss(params: Any) -> Any:
        out, changed = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            X,
            mutable=["batch_stats"],
            rngs={"dropout": dropout},
        )
        return jnp.mean((out - 1) ** 2), changed

    grads, changed = jax.grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, key=key, **changed)


def test_training_goes_on_bit_for_bit(tmp_path: pathlib.Path) -> None:
    def fresh(seed: int) -> Trainer:
        found = NET.init(jax.random.key(seed), X, train=False)
        return Trainer.create(
            apply_fn=NET.apply, tx=optax.adamw(1e-2), key=jax.random.key(seed), **found
        )

    state = fresh(1)
    for _ in range(3):
        state = train_step(state)
    ckptstore.save(tmp_path / "c", state)
    loaded = ckptstore.load(tmp_path / "c", like=train_step(fresh(2)))
    for _ in range(3):
        state, loaded = train_step(state), train_step(loaded)
    assert (
        differences(state.replace(apply_fn=None, tx=None), loaded.replace(apply_fn=None, tx=None))
        == []
    )


# --- Where flax is not installed ---------------------------------------------------------------


def test_numpy_arrays_load_where_flax_is_not_installed(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", train_state().replace(params=freeze({"w": {"b": jnp.ones(2)}})))
    ckptstore.save(tmp_path / "boxes", variables(Boxed(), X))
    code = f"""
        import sys
        for name in ("flax", "jax", "jaxlib", "optax"):
            sys.modules[name] = None
        import ckptstore, numpy
        try:
            ckptstore.load({str(tmp_path / "c")!r})
        except ckptstore.UnknownTypeError as error:
            assert "flax is not installed" in str(error), error
        state = ckptstore.load({str(tmp_path / "c")!r}, arrays="numpy")
        assert type(state).__name__ == "TrainState", state
        assert type(state.params).__name__ == "FrozenDict", state
        assert state.params.mapping["w"]["b"].tolist() == [1, 1]
        assert type(state.tx).__name__ == "Supplied", state.tx
        assert state.opt_state[0].mu["Dense_0"]["kernel"].shape == (6, 8)
        w = ckptstore.load({str(tmp_path / "c")!r}, arrays="numpy", select="$.params['w']['b']")
        assert type(w) is numpy.ndarray
        boxes = ckptstore.load({str(tmp_path / "boxes")!r}, arrays="numpy")
        assert boxes["params"]["Dense_0"]["kernel"].names == ("data", None)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_numpy_arrays_do_not_put_a_stand_in_into_flax_s_own_class(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", train_state())
    with pytest.raises(ckptstore.StructureError, match="not stored"):
        ckptstore.load(tmp_path / "c", arrays="numpy")
    params = ckptstore.load(tmp_path / "c", arrays="numpy", select="$.params")
    assert type(params["Dense_0"]["kernel"]) is np.ndarray


def test_a_file_cannot_make_a_frozen_dict_of_something_else(tmp_path: pathlib.Path) -> None:
    found = ckptstore.adapters.flax.ADAPTER.record(FrozenDict)
    with pytest.raises(TypeError, match="made from a dict"):
        found.make([[1]])

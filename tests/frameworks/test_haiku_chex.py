"""Haiku, chex, jmp and jaxtyping: their states come back exactly, or are refused by their path."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest
from haiku.data_structures import to_immutable_dict, to_mutable_dict
from jaxtyping import Array, Float, PyTree, jaxtyped

import ckptstore
from tests.support.compare import assert_exact, assert_refused, differences
from tests.support.marks import sampled

X = jnp.linspace(-1.0, 1.0, 24, dtype=jnp.float32).reshape(4, 6)
KEY = jax.random.PRNGKey(0)


# --- Classes of a user -------------------------------------------------------------------------


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


@chex.dataclass
class Checked:
    x: Any

    def __post_init__(self) -> None:
        if self.x == "no":
            raise AssertionError("load must not run this")


@jaxtyped(typechecker=None)
@dataclasses.dataclass(frozen=True)
class Annotated:
    w: Float[Array, "n m"]  # noqa: F722 - no forward reference
    tree: PyTree[Float[Array, ...]]


class Tuple(NamedTuple):
    w: Float[Array, n]  # noqa: F821 - likewise
    b: Float[np.ndarray, ""] = np.zeros(())  # noqa: F722 - likewise


# --- States ------------------------------------------------------------------------------------


def network(x: Any, is_training: bool) -> Any:
    x = hk.Linear(8)(x)
    x = hk.BatchNorm(True, True, 0.9)(x, is_training)
    x = hk.dropout(hk.next_rng_key(), 0.2, x) if is_training else x
    count = hk.get_state("count", (), jnp.int32, init=jnp.zeros)
    hk.set_state("count", count + 1)
    return hk.nets.MLP([8, 1])(jax.nn.gelu(x))


NET = hk.transform_with_state(network)


def init() -> Any:
    return NET.init(KEY, X, True)


def recurrent() -> Any:
    def run(x: Any) -> Any:
        core = hk.LSTM(3)
        return hk.static_unroll(core, x, core.initial_state(None), time_major=True)

    net = hk.without_apply_rng(hk.transform(run))
    params = net.init(KEY, X)
    return params, net.apply(params, X)


def sequence() -> Any:
    keys = hk.PRNGSequence(3)
    keys.reserve(4)
    next(keys)
    return keys


def flat(x: Any) -> Any:
    return to_immutable_dict(x)


EXACT: dict[str, Callable[[], Any]] = {
    "haiku params and state": init,
    "haiku recurrent params and LSTMState": recurrent,
    "haiku optimizer state": lambda: optax.adamw(1e-3).init(init()[0]),
    "haiku EMA state": lambda: hk.transform_with_state(
        lambda x: hk.ExponentialMovingAverage(0.9)(x)
    ).init(None, X),
    "haiku partition": lambda: hk.data_structures.partition(lambda m, n, v: n == "w", init()[0]),
    "haiku immutable params": lambda: flat(init()[0]),
    "haiku immutable mapping, mapped": lambda: jax.tree.map(lambda x: x + 1, flat(init()[0])),
    "haiku immutable mapping in another order": lambda: flat({"b": {"z": 1, "a": 2}, "a": {}}),
    "haiku immutable mapping of lists": lambda: flat({"a": [1, (jnp.ones(2), None)]}),
    "haiku empty immutable mapping": lambda: flat({}),
    "haiku optimizer state of immutable params": lambda: optax.adam(1e-3).init(flat(init()[0])),
    "haiku PRNGSequence": sequence,
    "haiku PRNGSequence of a typed key": lambda: hk.PRNGSequence(jax.random.key(3)),
    "chex dataclass": lambda: Mappable(b=jnp.ones(2), a={"x": Mappable(b=None)}),
    "chex frozen dataclass": lambda: Frozen(params={"w": jnp.ones(2)}),
    "chex plain dataclass": lambda: Plain(x=[1, Plain(x=())]),
    "chex derived dataclass": lambda: Derived(params=1, more=jnp.ones(3)),
    "chex dataclass with checks": lambda: Checked(x=3),
    "chex dataclass of shapes": lambda: jax.eval_shape(lambda: Frozen(params=X, note=X)),
    "chex optimizer state": lambda: optax.adam(1e-3).init(Mappable(b=X, a=X)),
    "chex one dataclass in two places": lambda: (lambda d: [d, d])(Mappable(b=1)),
    "jmp NoOpLossScale": lambda: jmp.NoOpLossScale(),
    "jmp StaticLossScale": lambda: jmp.StaticLossScale(jnp.float32(2**15)),
    "jmp DynamicLossScale": lambda: jmp.DynamicLossScale(jnp.float32(2**15)),
    "jmp DynamicLossScale, adjusted": lambda: jmp.DynamicLossScale(
        jnp.float32(8), period=3, factor=4, min_loss_scale=jnp.float32(2)
    ).adjust(jnp.array(False)),
    "jmp Policy": lambda: jmp.get_policy("params=float32,compute=bfloat16,output=float16"),
    "jmp Policy of scalar types": lambda: jmp.Policy(jnp.float32, jnp.bfloat16, np.float16),
    "jaxtyping dataclass": lambda: Annotated(X, {"a": X}),
    "jaxtyping dataclass of other shapes": lambda: object_of(Annotated, w=np.ones(3), tree=1),
    "jaxtyping NamedTuple": lambda: Tuple(jnp.ones(3)),
}


def settle(tree: Any) -> None:
    """Let Haiku make the dicts of its mappings, which it does when they are asked."""
    for leaf in jax.tree.leaves(tree, is_leaf=lambda x: type(x) is type(flat({}))):
        if type(leaf) is type(flat({})):
            for value in leaf.values():
                settle(value)


def object_of(cls: type, **fields: Any) -> Any:
    made = object.__new__(cls)
    vars(made).update(fields)
    return made


@pytest.mark.parametrize("kind", sampled(EXACT))
def test_state_comes_back_exactly_without_a_template(kind: str, tmp_path: pathlib.Path) -> None:
    tree = EXACT[kind]()
    settle(tree)
    loaded = assert_exact(tmp_path, tree)
    assert jax.tree_util.tree_structure(loaded) == jax.tree_util.tree_structure(tree)


def test_a_sequence_of_keys_goes_on(tmp_path: pathlib.Path) -> None:
    keys = sequence()
    loaded = assert_exact(tmp_path, keys)
    assert [next(loaded).tolist() for _ in range(6)] == [next(keys).tolist() for _ in range(6)]


def test_saving_an_immutable_mapping_leaves_it_as_it_is(tmp_path: pathlib.Path) -> None:
    mapped = jax.tree.map(lambda x: x, flat(init()[0]))
    ckptstore.save(tmp_path / "c", mapped)
    assert object.__getattribute__(mapped, "_mapping") is None
    loaded = ckptstore.load(tmp_path / "c")
    assert differences(to_mutable_dict(mapped), to_mutable_dict(loaded)) == []


# --- What is refused at save -------------------------------------------------------------------


def with_attribute() -> Any:
    made = Mappable(b=1)
    made.cache = 2
    return made


def local() -> Any:
    @chex.dataclass
    class Local:
        x: Any

    return Local(x=1)


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "haiku transformed functions": (lambda: {"net": NET}, "$['net'].init", "supplied="),
    "haiku mapping of objects": (lambda: flat({"a": {"m": Mappable(b=1)}}), "$['a']", "use a dict"),
    "haiku mapping of a lambda": (
        lambda: flat({"a": {"f": lambda: 1}}),
        "$['a']['f']",
        "supplied=",
    ),
    "chex dataclass with a lambda": (lambda: Mappable(b=lambda: 1), "$.b", "supplied="),
    "chex dataclass with more": (with_attribute, "$", "'cache', which is not a field"),
    "chex dataclass local to a function": (
        lambda: [local()],
        "$[0]",
        "does not lead to this class",
    ),
    "a type of jaxtyping": (lambda: [Float[Array, "3"]], "$[0]", "cannot be saved as a value"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_is_refused_by_path(kind: str, tmp_path: pathlib.Path) -> None:
    make, path, words = REFUSED[kind]
    assert_refused(tmp_path, make(), path, words)


def test_paths_go_by_field_and_through_immutable_mappings(tmp_path: pathlib.Path) -> None:
    state = Frozen(params=flat(init()[0]))
    ckptstore.save(tmp_path / "c", state)
    assert differences(state.params, ckptstore.load(tmp_path / "c", select="$.params")) == []
    w = ckptstore.load(tmp_path / "c", select="$.params['linear'].w")
    assert differences(state.params["linear"]["w"], w) == []
    like = Frozen(params=jax.tree.map(jnp.zeros_like, state.params), note="other")
    loaded = ckptstore.load(tmp_path / "c", like=like)
    assert loaded.note == state.note


# --- A script, which jax learns of its classes from --------------------------------------------

SCRIPT = """
    import sys
    import chex, ckptstore, jax, jax.numpy as jnp

    @chex.dataclass
    class State:
        b: object
        a: object = 1

    if sys.argv[2] == "save":
        ckptstore.save(sys.argv[1], State(b=jnp.ones(2), a=State(b=3)))
    else:
        state = ckptstore.load(sys.argv[1])
        assert len(jax.tree.leaves(state)) == 3, jax.tree.leaves(state)
        assert type(state) is State and list(state.keys()) == ["b", "a"]
        assert type(jax.tree.map(lambda x: x, state).a) is State
"""


def test_a_chex_dataclass_of_a_script_is_known_to_jax_when_it_is_loaded(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    for what in ("save", "load"):
        command = [sys.executable, str(tmp_path / "train.py"), str(tmp_path / "c"), what]
        subprocess.run(command, check=True)


# --- Training goes on --------------------------------------------------------------------------

TX = optax.adam(1e-2)
POLICY = jmp.get_policy("params=float32,compute=float16,output=float32")


@chex.dataclass(frozen=True)
class Run:
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    opt_state: optax.OptState
    key: chex.PRNGKey
    scale: Any
    step: int


@jax.jit
def train_step(run: Run) -> Run:
    key, drop = jax.random.split(run.key)

    def loss(params: Any) -> Any:
        out, state = NET.apply(POLICY.cast_to_compute(params), run.state, drop, X, True)
        return run.scale.scale(jnp.mean((POLICY.cast_to_output(out) - 1) ** 2)), state

    grads, state = jax.grad(loss, has_aux=True)(run.params)
    grads = run.scale.unscale(grads)
    scale = run.scale.adjust(jmp.all_finite(grads))
    updates, opt_state = TX.update(grads, run.opt_state)
    return run.replace(
        params=optax.apply_updates(run.params, updates),
        state=state, opt_state=opt_state, key=key, scale=scale, step=run.step + 1,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [dict, flat])
def test_training_goes_on_bit_for_bit(kind: Callable[[Any], Any], tmp_path: pathlib.Path) -> None:
    params, state = init()
    run = Run(
        params=kind(params), state=state, opt_state=TX.init(kind(params)), key=KEY, step=0,
        scale=jmp.DynamicLossScale(jnp.float32(2**10), jnp.int32(0), 2),
    )  # fmt: skip
    for _ in range(3):
        run = train_step(run)
    settle(run)
    loaded = assert_exact(tmp_path, run)
    for _ in range(3):
        run, loaded = train_step(run), train_step(loaded)
    same = [jax.tree_util.tree_flatten(tree) for tree in (run, loaded)]
    assert same[0][1] == same[1][1]
    assert differences(same[0][0], same[1][0]) == []


# --- Where the frameworks are not installed ----------------------------------------------------


def test_numpy_arrays_load_where_the_frameworks_are_not_installed(tmp_path: pathlib.Path) -> None:
    tree = {
        "params": flat(init()[0]),
        "keys": sequence(),
        "chex": Mappable(b=jnp.ones(2)),
        "jmp": jmp.DynamicLossScale(jnp.float32(4)),
    }
    ckptstore.save(tmp_path / "c", tree)
    code = f"""
        import sys
        for name in ("haiku", "chex", "jmp", "jax", "jaxlib", "optax"):
            sys.modules[name] = None
        import ckptstore, numpy
        try:
            ckptstore.load({str(tmp_path / "c")!r})
        except ckptstore.UnknownTypeError as error:
            assert "pip install dm-haiku" in str(error), error
            assert "jmp is not installed" in str(error), error
        tree = ckptstore.load({str(tmp_path / "c")!r}, arrays="numpy")
        assert tree["params"].mapping["linear"].mapping["w"].shape == (6, 8)
        assert len(tree["keys"].subkeys) == 3
        assert tree["chex"].b.tolist() == [1, 1] and tree["chex"].a == 1
        assert (tree["jmp"].loss_scale, tree["jmp"].period) == (4, 2000)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_file_cannot_make_an_immutable_mapping_of_what_has_code() -> None:
    import ckptstore.adapters.haiku as adapter

    record = adapter.ADAPTER.record(type(flat({})))
    assert record is not None
    for values in ([[1]], [{"a": Mappable(b=1)}]):
        with pytest.raises(TypeError, match="is made from a dict"):
            record.make(values)

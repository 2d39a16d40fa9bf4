"""What the refusals of JAX's objects, and of the libraries on it, tell you to do, done."""

from __future__ import annotations

import enum
import types
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as linen
import haiku
import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct

import ckptstore
from ckptstore import StructureError, UnsupportedError
from ckptstore.adapters import jax as adapter
from ckptstore.adapters import jax_classes, jax_shards
from ckptstore.types import Refusal
from tests.support import remedies
from tests.support.compare import assert_exact, differences, roundtrip

follows = pytest.mark.follows

KEY = jax.random.key(0)


def refused(place: Path, tree: Any) -> str:
    with pytest.raises(StructureError) as caught:
        ckptstore.save(place / "refused", tree)
    return str(caught.value)


# --- jax ----------------------------------------------------------------------------------------


@follows("adapters.jax", "save its array: ref[...]")
def test_a_reference(tmp_path: Path) -> None:
    ref = jax.new_ref(jnp.arange(3.0)) if hasattr(jax, "new_ref") else jax.array_ref(jnp.ones(3))
    words = refused(tmp_path, [ref])
    assert_exact(tmp_path, eval(words.partition("save its array: ")[2], {"ref": ref}))


@follows("adapters.jax", "save outside of jit")
def test_a_traced_value(tmp_path: Path) -> None:
    @jax.jit
    def step(x: Any) -> Any:
        refused(tmp_path, x)
        return x + 1

    assert_exact(tmp_path, step(jnp.ones(2)))


@follows("adapters.jax", "save before the donating call")
def test_a_donated_array(tmp_path: Path) -> None:
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.arange(3.0)
    step(x)
    refused(tmp_path, [x])
    x = jnp.arange(3.0)
    assert_exact(tmp_path, [x])
    step(x)


@follows("adapters.jax_shards", "let save return before the donating call")
def test_an_array_that_is_donated_while_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, real = jax.jit(lambda x: x + 1, donate_argnums=0), jax_shards.read
    x = jnp.arange(3.0)

    def donated(array: Any) -> Any:
        array.delete()  # what another thread does
        return real(array)

    monkeypatch.setattr(jax_shards, "start", lambda array: lambda: donated(array))
    monkeypatch.setattr(jax_shards, "read", donated)
    refused(tmp_path, [x])
    monkeypatch.undo()
    x = jnp.arange(3.0)
    assert_exact(tmp_path, [x])
    step(x)


@follows("adapters.jax", 'load with arrays="numpy"')
def test_a_key_that_jax_cannot_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: Any, *, impl: str) -> Any:
        raise ValueError(f"unrecognized PRNG implementation {impl}")

    ckptstore.save(tmp_path / "c", KEY)
    monkeypatch.setattr(jax.random, "wrap_key_data", fail)
    with pytest.raises(UnsupportedError):
        ckptstore.load(tmp_path / "c")
    host = ckptstore.load(tmp_path / "c", arrays="numpy")
    assert differences(np.asarray(jax.random.key_data(KEY)), host) == []


@follows("adapters.jax", 'load with arrays="numpy", or with the jax that wrote it')
def test_a_jax_that_makes_another_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, real = jnp.arange(3.0), adapter._put
    ckptstore.save(tmp_path / "c", x)
    monkeypatch.setattr(adapter, "_put", lambda *args: real(*args).astype("i4"))
    with pytest.raises(UnsupportedError):
        ckptstore.load(tmp_path / "c")
    assert differences(np.asarray(x), ckptstore.load(tmp_path / "c", arrays="numpy")) == []
    monkeypatch.undo()
    assert differences(x, ckptstore.load(tmp_path / "c")) == []


@follows("adapters.jax_symbols", "save key_data(x)")
def test_a_key_of_an_implementation_without_a_name(tmp_path: Path) -> None:
    known = jax.extend.random.threefry_prng_impl
    known = getattr(known, "_impl", known)
    names = ("key_shape", "seed", "split", "random_bits", "fold_in")
    unnamed = jax.extend.random.define_prng_impl(
        **{name: getattr(known, name) for name in names}, name="mine", tag="mine"
    )
    key = jax.extend.random.seed_with_impl(getattr(unnamed, "_impl", unnamed), 3)
    refused(tmp_path, [key])
    data = assert_exact(tmp_path, jax.random.key_data(key))
    assert (data == jax.random.key_data(jax.random.key(3))).all()
    again = jax.random.wrap_key_data(data, impl="threefry2x32")
    assert (jax.random.bits(again, (4,)) == jax.random.bits(key, (4,))).all()


@follows("adapters.jax_classes", "delete it")
def test_a_partial_with_an_attribute(tmp_path: Path) -> None:
    x: Any = jax.tree_util.Partial(jnp.add, 1)
    x.cache = 1
    refused(tmp_path, x)
    del x.cache
    assert_exact(tmp_path, x)


class Axis(enum.Enum):
    DATA = "data"

    def __str__(self) -> str:
        return self.value


@follows("adapters.jax_classes", "name the axes of the mesh by str")
def test_a_spec_whose_axes_are_no_names(tmp_path: Path) -> None:
    refused(tmp_path, jax.sharding.PartitionSpec(Axis.DATA))
    assert_exact(tmp_path, jax.sharding.PartitionSpec("data", None, ("a", "b")))


@follows("adapters.jax_classes", "leave the sharding out")
def test_a_placeholder_with_a_sharding(tmp_path: Path) -> None:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    refused(tmp_path, jax.ShapeDtypeStruct((2,), "f4", sharding=sharding))
    assert_exact(tmp_path, jax.ShapeDtypeStruct((2,), "f4"))


@follows("adapters.jax_classes", "make one of its shape and dtype")
def test_a_placeholder_in_another_memory(tmp_path: Path) -> None:
    """The memory space of another release stands here as one that its object names."""

    class Placeholder(jax.ShapeDtypeStruct):
        _memory_space = types.SimpleNamespace(name="Host")

    x = Placeholder((2,), "f4")
    with pytest.raises(Refusal) as caught:
        jax_classes._take_struct(x)
    remedies.seen(str(caught.value))
    assert_exact(tmp_path, jax.ShapeDtypeStruct(x.shape, x.dtype))


# --- Equinox ------------------------------------------------------------------------------------


class Counting(eqx.Module):
    count: eqx.nn.StateIndex[Any]

    def __init__(self) -> None:
        self.count = eqx.nn.StateIndex(jnp.array(0))


@follows("adapters.equinox", "make the model and its State by eqx.nn.make_with_state(Model)(...)")
def test_a_state_without_names(tmp_path: Path) -> None:
    refused(tmp_path, Counting())
    refused(tmp_path, eqx.nn.State(Counting()))
    model, state = assert_exact(tmp_path, eqx.nn.make_with_state(Counting)())
    assert state.get(model.count) == 0


@follows("adapters.equinox", "save the new one")
def test_a_state_that_was_replaced(tmp_path: Path) -> None:
    model, state = eqx.nn.make_with_state(Counting)()
    new = state.set(model.count, jnp.array(3))
    refused(tmp_path, [state])
    assert_exact(tmp_path, [new])


@follows("adapters.equinox", "delete it")
def test_a_state_with_an_attribute(tmp_path: Path) -> None:
    _, state = eqx.nn.make_with_state(Counting)()
    state.cache = 1
    refused(tmp_path, [state])
    del state.cache
    assert_exact(tmp_path, [state])


# --- Flax ---------------------------------------------------------------------------------------


class Node(struct.PyTreeNode):
    x: Any
    net: Any = struct.field(pytree_node=False)


class Bare(struct.PyTreeNode):
    x: Any


@follows(
    "adapters.flax",
    "keep it out of the tree, or in a field of flax.struct with pytree_node=False, which `like` "
    "fills",
)
def test_a_linen_module(tmp_path: Path) -> None:
    net = linen.Dense(2)
    refused(tmp_path, {"net": net, "x": 1})
    assert_exact(tmp_path, {"x": 1})
    loaded = roundtrip(tmp_path, Node(1, net), like=Node(0, net))
    assert loaded.x == 1 and loaded.net is net
    assert_exact(tmp_path, Bare(1))


@follows("adapters.flax_nnx", "save nnx.state(x), and restore it by nnx.update(x, loaded)")
def test_a_module_of_nnx(tmp_path: Path) -> None:
    x, other = (nnx.Linear(2, 3, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    refused(tmp_path, x)
    loaded = assert_exact(tmp_path, nnx.state(x))
    nnx.update(other, loaded)
    assert (other.kernel[...] == x.kernel[...]).all()


@follows(
    "adapters.flax_nnx",
    "save only the State beside it, and make a new GraphDef by nnx.graphdef(model)",
)
def test_a_graph_definition(tmp_path: Path) -> None:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    refused(tmp_path, [graphdef, state])
    loaded = assert_exact(tmp_path, state)
    again = nnx.merge(nnx.graphdef(nnx.Linear(2, 3, rngs=nnx.Rngs(1))), loaded)
    assert (again.kernel[...] == model.kernel[...]).all()


@follows("adapters.flax_nnx", "delete it")
def test_a_state_of_nnx_with_an_attribute(tmp_path: Path) -> None:
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    object.__setattr__(state, "cache", 1)
    refused(tmp_path, [state])
    object.__delattr__(state, "cache")
    assert_exact(tmp_path, [state])


# --- Haiku --------------------------------------------------------------------------------------


class Loud(enum.StrEnum):
    A = "a"

    def __lt__(self, other: Any) -> bool:
        return False


@follows("adapters.haiku", "use a dict: hk.data_structures.to_mutable_dict(x)")
@pytest.mark.parametrize("held", [{Loud.A: 1}, {"a": {"m": Bare(1)}}], ids=["key", "object"])
def test_a_mapping_of_haiku(held: Any, tmp_path: Path) -> None:
    x = haiku.data_structures.to_immutable_dict(held)
    words = refused(tmp_path, x)
    loaded = assert_exact(tmp_path, eval(words.partition("use a dict: ")[2], {"hk": haiku, "x": x}))
    assert loaded == held

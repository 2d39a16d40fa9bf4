"""The private names of frameworks that adapters read: a release that lacks one fails here by name.

None of them is promised by its framework. Where one is gone, mend the adapter, and keep the old way
for as long as the oldest release that is supported has it.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.fake_world import world

MASKED: Any = np.ma.array([1.0, 2.0], mask=[True, False])


class Pair(NamedTuple):
    a: int


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int


class Phase(enum.Enum):
    WARMUP = 1


def jax_key_dtype() -> Any:
    import jax

    return jax.random.key(0).dtype


def jax_partial_of_partial() -> Any:
    import jax

    return jax.tree_util.Partial(jax.tree_util.Partial(max)).func


def jax_tree_util() -> Any:
    import jax

    return jax.tree_util


def haiku_map() -> Any:
    import haiku

    return haiku.data_structures.to_immutable_dict({"w": 1.0})


def haiku_keys() -> Any:
    import haiku
    import jax

    return haiku.PRNGSequence(jax.random.key(0))


def frozen_dict() -> Any:
    from flax.core import FrozenDict

    return FrozenDict({"w": 1.0})


def nnx(name: str) -> Callable[[], Any]:
    def make() -> Any:
        module = importlib.import_module("flax.nnx")
        made = {
            "variable": lambda: module.Param(np.ones(2)),
            "state": lambda: module.State({"w": module.Param(np.ones(2))}),
            "flat": lambda: module.to_flat_state(module.State({"w": module.Param(np.ones(2))})),
        }
        return made[name]()

    return make


def equinox_state() -> Any:
    import equinox
    import jax.numpy as jnp

    class Counted(equinox.Module):
        index: equinox.nn.StateIndex

        def __init__(self) -> None:
            self.index = equinox.nn.StateIndex(jnp.zeros(()))

    return equinox.nn.make_with_state(Counted)()[1]


def equinox_nn() -> Any:
    return importlib.import_module("equinox").nn


def optax_linesearch() -> Any:
    return importlib.import_module("optax")._src.linesearch


def tensor() -> Any:
    return importlib.import_module("torch").ones(2)


def torch_buffer() -> Any:
    return importlib.import_module("torch").nn.Buffer(tensor())


def dtensor() -> Any:
    """A DTensor of a program of one process, which ends at once."""
    torch = importlib.import_module("torch")
    tensors = importlib.import_module("torch.distributed.tensor")
    with world(0, 1):
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        x = tensors.DTensor.from_local(torch.ones(2), mesh, [tensors.Shard(0)])
        return torch.nn.Parameter(x)


def placement_types() -> Any:
    return importlib.import_module("torch.distributed.tensor.placement_types")


# The distribution and the adapter or module that reads; what is read from; the name.
NAMES: list[tuple[str, str, Callable[[], Any], str]] = [
    ("numpy", "adapters/numpy.py", lambda: MASKED, "_fill_value"),
    ("numpy", "adapters/numpy.py", lambda: MASKED, "_optinfo"),
    ("numpy", "adapters/numpy.py", lambda: MASKED, "_basedict"),
    ("jax", "adapters/jax_symbols.py", jax_key_dtype, "_impl.name"),
    ("jax", "adapters/jax_classes.py", jax_partial_of_partial, "fun"),
    ("jax", "adapters/jax_classes.py", jax_tree_util, "PyTreeDef.from_node_data_and_children"),
    ("jax", "adapters/jax_classes.py", jax_tree_util, "default_registry.flatten_one_level"),
    ("dm-haiku", "adapters/haiku.py", haiku_map, "_mapping"),
    ("dm-haiku", "adapters/haiku.py", haiku_map, "_structure"),
    ("dm-haiku", "adapters/haiku.py", haiku_map, "_leaves"),
    ("dm-haiku", "adapters/haiku.py", haiku_keys, "_key"),
    ("dm-haiku", "adapters/haiku.py", haiku_keys, "_subkeys"),
    ("flax", "adapters/flax.py", frozen_dict, "_dict"),
    ("flax", "adapters/flax.py", frozen_dict, "_hash"),
    ("flax", "adapters/flax_nnx.py", nnx("variable"), "_raw_value"),
    ("flax", "adapters/flax_nnx.py", nnx("variable"), "_var_metadata"),
    ("flax", "adapters/flax_nnx.py", nnx("variable"), "_new"),
    ("flax", "adapters/flax_nnx.py", nnx("state"), "_mapping"),
    ("flax", "adapters/flax_nnx.py", nnx("flat"), "_keys"),
    ("flax", "adapters/flax_nnx.py", nnx("flat"), "_values"),
    ("equinox", "adapters/equinox.py", equinox_state, "_state"),
    ("equinox", "adapters/equinox.py", equinox_nn, "_mlp._identity"),
    ("equinox", "adapters/equinox.py", equinox_nn, "_weight_norm._norm_except_axis"),
    ("equinox", "adapters/equinox.py", equinox_nn, "_shared.SharedNode"),
    ("optax", "adapters/optax.py", optax_linesearch, "BacktrackingLinesearchInfo"),
    ("torch", "adapters/torch_refusals.py", tensor, "_backward_hooks"),
    ("torch", "adapters/torch_refusals.py", tensor, "_post_accumulate_grad_hooks"),
    ("torch", "adapters/torch_refusals.py", torch_buffer, "_is_buffer"),
    ("torch", "adapters/torch_refusals.py", dtensor, "_is_param"),
    ("torch", "adapters/torch_shards.py", dtensor, "device_mesh._get_root_mesh"),
    ("torch", "adapters/torch.py", lambda: tensor().untyped_storage(), "_cdata"),
    ("torch", "adapters/torch_layouts.py", placement_types, "_StridedShard"),
    ("python", "adapters/stdlib.py", lambda: datetime.UTC, "__getinitargs__"),
    ("python", "adapters/stdlib.py", lambda: functools.partial(max), "__setstate__"),
    ("python", "types/fields.py", lambda: Frozen.__dataclass_fields__["a"], "_field_type.name"),
    ("python", "types/safety.py", lambda: Frozen, "__dataclass_params__.frozen"),
    ("python", "types/instances.py", lambda: Phase, "_value2member_map_"),
    ("python", "types/instances.py", lambda: Phase.WARMUP, "_value_"),
    ("python", "types/instances.py", lambda: Phase.WARMUP, "_name_"),
]


@pytest.mark.parametrize(
    ("distribution", "reader", "source", "name"),
    NAMES,
    ids=[f"{distribution}-{name}" for distribution, _, _, name in NAMES],
)
def test_a_private_name_that_is_read_is_there(
    distribution: str, reader: str, source: Callable[[], Any], name: str
) -> None:
    version = ""
    if distribution != "python":
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{distribution} is not installed")
    missing = object()
    value = source()
    for part in name.split("."):
        # Of an instance's attributes first: a State of equinox refuses to be asked for others.
        attributes: Mapping[str, Any] = getattr(value, "__dict__", {})
        value = attributes[part] if part in attributes else getattr(value, part, missing)
        assert value is not missing, (
            f"{distribution} {version} has no {name} any more, which ckptstore/{reader} reads"
        )


def test_a_private_name_is_of_the_form_that_is_read() -> None:
    """A name may stay and mean another thing: of those that tests of frameworks do not cover."""
    masked = set(vars(MASKED))
    assert {"_fill_value", "_optinfo", "_basedict", "_mask"} <= masked
    assert Phase._value2member_map_ == {1: Phase.WARMUP}
    assert type(vars(Pair)["a"]) is type(collections.namedtuple("Other", "b").b)  # type: ignore[attr-defined]
    assert Frozen.__dataclass_fields__["a"]._field_type.name == "_FIELD"  # type: ignore[attr-defined]
    assert datetime.UTC.__getinitargs__() == (datetime.timedelta(0),)  # type: ignore[attr-defined]


def test_the_class_of_an_array_of_jax_takes_its_type_its_place_and_its_buffers() -> None:
    """`adapters/jax.py` makes a weak array of another one: pickle's way compiles for each shape."""
    jnp = pytest.importorskip("jax.numpy")
    x = jnp.ones(3)
    weak = type(x)(x.aval.update(weak_type=True), x.sharding, [x], x.committed)
    assert (weak.weak_type, weak.committed, weak.tolist()) == (True, False, [1.0] * 3), (
        "this jax makes arrays in another way: mend _weak in ckptstore/adapters/jax.py"
    )
    assert weak.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()


def test_an_array_of_jax_is_weak_where_its_class_takes_something_else() -> None:
    jax = pytest.importorskip("jax")
    adapter = importlib.import_module("ckptstore.adapters.jax")
    host, place = np.arange(3, dtype=np.float32), jax.devices()[0]

    class Other:
        """An array of a jax that has none of the names."""

        sharding = None

        def devices(self) -> set[Any]:
            return {place}

    made = [adapter._weak(Other(), host, at) for at in (None, place)]
    assert [(x.weak_type, x.committed) for x in made] == [(True, False), (True, True)]
    assert [x.tolist() for x in made] == [[0, 1, 2]] * 2


def test_pickle_makes_weak_arrays_of_jax_from_four_arguments() -> None:
    """`adapters/jax.py` calls the function of ``__reduce__`` with an array and its weak type."""
    jnp = pytest.importorskip("jax.numpy")
    function, arguments = jnp.asarray(1.5).__reduce__()[:2]
    assert callable(function)
    assert len(arguments) == 4 and arguments[3] == {"weak_type": True}, (
        "this jax pickles arrays in another way: mend _weak_as_pickle in ckptstore/adapters/jax.py"
    )

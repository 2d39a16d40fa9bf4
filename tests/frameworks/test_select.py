"""`select` with `like`: placeholders of arrays, and the containers of frameworks in two places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox
import flax.linen
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from flax.core import FrozenDict

import ckptstore
from tests.support.compare import differences

STATES: dict[str, Callable[[], Any]] = {
    "arrays": lambda: {"params": {"w": jnp.ones(1), "s": jnp.ones(())}, "xs": [jnp.zeros(2)]},
    "keys": lambda: {"params": [jax.random.key(1)], "rngs": jax.random.split(jax.random.key(0))},
    "boxes": lambda: {"params": {"w": flax.linen.Partitioned(jnp.ones(2), names=("x",))}},
    "nnx": lambda: {"params": nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))},
    "equinox": lambda: {"params": equinox.nn.Linear(2, 2, key=jax.random.key(0))},
}


@pytest.mark.parametrize("select", ["$.**", "$.params.**", "$.*.**", "$.**.*", "$.*"])
@pytest.mark.parametrize("name", STATES)
def test_a_placeholder_is_one_place_for_any_stars(tmp_path: Path, name: str, select: str) -> None:
    state = STATES[name]()
    ckptstore.save(tmp_path / "c", state)
    like = equinox.filter_eval_shape(STATES[name])
    out = ckptstore.load(tmp_path / "c", like, select=select)
    if select == "$.params.**":
        assert differences(state["params"], out["params"]) == []
    else:
        assert differences(state, out) == []


@pytest.mark.parametrize("select", ["$.**[0]", "$.*.*", "$.**.shape"])
def test_stars_that_reach_into_a_placeholder_fill_what_the_checkpoint_has_alone(
    tmp_path: Path, select: str
) -> None:
    state = {"xs": [jnp.ones(3), jnp.zeros(3)], "y": jnp.ones(3), "n": {"shape": jnp.ones(2)}}
    ckptstore.save(tmp_path / "c", state)
    like = jax.eval_shape(lambda: state)
    out = ckptstore.load(tmp_path / "c", like, select=select)
    filled = {path for path, x in _leaves(out) if isinstance(x, jax.Array)}
    both = {"['xs'][0]", "['xs'][1]", "['n']['shape']"}
    assert filled == {"$.**[0]": {"['xs'][0]"}, "$.*.*": both}.get(select, {"['n']['shape']"})


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), x) for path, x in leaves]


def test_a_place_that_only_like_has_is_named_without_its_insides(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"a": jnp.ones(1)})
    struct = jax.ShapeDtypeStruct((1,), "float32")
    with pytest.raises(ckptstore.StructureError, match=r"1 difference.*\n.*\['b'\]: not in the ch"):
        ckptstore.load(tmp_path / "c", {"a": struct, "b": struct}, select="$.**")


def test_a_placeholder_that_was_saved_itself_is_reached_with_its_fields(tmp_path: Path) -> None:
    struct = jax.ShapeDtypeStruct((2,), "float32")
    tree = {"a": struct, "b": jnp.ones(2)}
    ckptstore.save(tmp_path / "c", tree)
    assert (
        differences(tree, ckptstore.load(tmp_path / "c", {"a": struct, "b": struct}, select="$.**"))
        == []
    )


def test_a_meta_tensor_is_one_place(tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", {"l": {"w": torch.ones(2)}})
    like = {"l": {"w": torch.ones(2, device="meta")}}
    assert ckptstore.load(tmp_path / "c", like, select="$.**")["l"]["w"].tolist() == [1, 1]


WRAPPERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dict": dict,
    "FrozenDict": FrozenDict,
    "haiku": haiku.data_structures.to_haiku_dict,
}


@pytest.mark.parametrize("stored", WRAPPERS)
@pytest.mark.parametrize("ours", WRAPPERS)
def test_each_place_of_a_shared_wrapper_gets_its_own_values(
    tmp_path: Path, stored: str, ours: str
) -> None:
    def part(name: str, w: float, b: float) -> Any:
        return WRAPPERS[name]({"l": {"w": np.full(1, w), "b": np.full(1, b)}})

    tree = {"params": part(stored, 1, 2), "target": part(stored, 3, 4)}
    ckptstore.save(tmp_path / "c", tree)
    shared = part(ours, 7, 7)
    like = {"params": shared, "target": shared}
    out = ckptstore.load(tmp_path / "c", like, select=["$.params.l.w", "$.target.l.b"])
    assert differences(part(ours, 1, 7), out["params"]) == []
    assert differences(part(ours, 7, 4), out["target"]) == []
    out = ckptstore.load(tmp_path / "c", like, select="$.target.l.w")
    assert out["params"] is shared and differences(part(ours, 3, 7), out["target"]) == []


STRUCT = jax.ShapeDtypeStruct((1,), "float32")


@pytest.mark.parametrize("committed", [False, True])
def test_a_placeholder_without_a_place_takes_that_of_the_other_place_of_its_array(
    tmp_path: Path, committed: bool
) -> None:
    device = jax.devices()[0]
    x = jax.device_put(jnp.ones(1), device)
    ckptstore.save(tmp_path / "c", [x, x, x])
    ours = jax.device_put(jnp.zeros(1), device) if committed else jnp.zeros(1)
    for like in ([ours, STRUCT, STRUCT], [STRUCT, ours, STRUCT], [STRUCT, STRUCT, ours]):
        out = ckptstore.load(tmp_path / "c", like)
        assert out[0] is out[1] is out[2] and out[0].committed == committed
        out = ckptstore.load(tmp_path / "c", like, select="$.*")
        assert out[0] is out[1] is out[2] and out[0].committed == committed


def test_a_meta_tensor_takes_the_device_of_the_other_place_of_its_tensor(tmp_path: Path) -> None:
    x, meta = torch.ones(1), torch.ones(1, device="meta")
    ckptstore.save(tmp_path / "c", [x, x])
    for like in ([torch.zeros(1), meta], [meta, torch.zeros(1)], [meta, meta]):
        out = ckptstore.load(tmp_path / "c", like)
        assert out[0] is out[1] and out[0].tolist() == [1]


@pytest.mark.parametrize(
    ("like", "text", "remedy"),
    [
        ([jnp.zeros(1), jnp.zeros(1, "float16")], "two dtypes, float32 and float16", STRUCT),
        ([STRUCT, jax.ShapeDtypeStruct((1,), "float16")], "two dtypes, float32 and", STRUCT),
        (
            [STRUCT, jax.device_put(jnp.zeros(1), jax.devices()[0]), jnp.zeros(1)],
            "two shardings, or commits only one",
            jnp.zeros(1),
        ),
    ],
)
def test_two_wishes_for_one_array_are_named_and_the_remedy_works(
    tmp_path: Path, like: list[Any], text: str, remedy: Any
) -> None:
    x = jnp.ones(1)
    ckptstore.save(tmp_path / "c", [x] * len(like))
    with pytest.raises(ckptstore.StructureError, match=text) as caught:
        ckptstore.load(tmp_path / "c", like, cast=True)
    assert caught.value.reason == "differs-from-like"
    out = ckptstore.load(tmp_path / "c", [remedy] * len(like), cast=True)
    assert out[0] is out[-1] and out[0].tolist() == [1]

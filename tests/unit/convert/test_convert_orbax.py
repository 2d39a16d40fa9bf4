"""Orbax directories: exact with `like`, refused by name without; training goes on bit for bit."""

import pathlib
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import ckptstore
from ckptstore import convert
from tests.support.compare import differences

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")


class Extra(NamedTuple):
    scale: jax.Array
    nothing: None


OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 5, 50)),
)


def fresh():
    params = {"dense": {"w": jnp.ones((4, 3)), "b": jnp.zeros(3, jnp.bfloat16)}}
    params["rest"] = [jnp.ones(2), (jnp.ones(1),)]
    return {
        "params": params,
        "opt_state": OPTIMIZER.init(params),
        "key": jax.random.key(3),
        "step": 0,
    }


@jax.jit
def update(params, opt_state, key):
    def loss(p):
        x = jax.random.normal(key, (8, 4))
        out = x @ p["dense"]["w"] + p["dense"]["b"] + p["rest"][0].sum() + p["rest"][1][0]
        return jnp.mean((out - x.sum(axis=1, keepdims=True)) ** 2)

    updates, opt_state = OPTIMIZER.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def train(state, steps):
    state = dict(state)
    for _ in range(steps):
        state["key"], key = jax.random.split(state["key"])
        state["params"], state["opt_state"] = update(state["params"], state["opt_state"], key)
        state["step"] += 1
    return state


def everything():
    return train(fresh(), 3) | {
        "rate": 0.1,
        "flag": True,
        "text": "first",
        "none": None,
        "empty": [{}, [], (), optax.EmptyState()],
        "extra": Extra(jnp.ones(2, jnp.complex64), None),
        "numpy": np.arange(3),
        "scalar": np.float32(3.5),
        "old_key": jax.random.PRNGKey(1),
        "key_batch": jax.random.split(jax.random.key(0, impl="rbg"), 2),
        "by_int": {3: jnp.ones(2)},
        "e4m3": jnp.ones(3, jnp.float8_e4m3fn),
    }


def save_checkpointer(path, state):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, state)


def save_zarr(path, state):
    with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
        checkpointer.save(path, state)


def save_zarr3(path, state):
    handler = ocp.PyTreeCheckpointHandler(use_zarr3=True)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, state)


def save_standard(path, state):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)


def files(root):
    return {p: p.read_bytes() for p in pathlib.Path(root).rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("orbax") / "saved"
    save_checkpointer(path, everything())
    return path


@pytest.mark.parametrize("save", [save_checkpointer, save_zarr, save_zarr3])
def test_with_like_every_kind_of_value_is_exact(tmp_path, save):
    state = everything()
    save(tmp_path / "saved", state)
    before = files(tmp_path)
    read = convert.from_orbax(tmp_path / "saved", like=everything())
    assert differences(state, read) == []
    assert files(tmp_path) == before  # Orbax was only asked to read
    ckptstore.save(tmp_path / "ours", read)
    assert differences(state, ckptstore.load(tmp_path / "ours")) == []


def test_shapes_are_enough_for_like(directory):
    state = everything()
    shapes = {name: x for name, x in state.items() if name in ("params", "opt_state", "key")}
    shapes = state | jax.eval_shape(lambda: shapes)
    assert differences(state, convert.from_orbax(directory, like=shapes)) == []


def test_training_goes_on_as_from_orbax_with_a_target(tmp_path):
    state = train(fresh(), 7)
    save_standard(tmp_path / "orbax", state)
    with ocp.StandardCheckpointer() as checkpointer:
        theirs = checkpointer.restore(tmp_path / "orbax", fresh())

    read = convert.from_orbax(tmp_path / "orbax", like=fresh())
    ckptstore.save(tmp_path / "ours", read, step=read["step"])
    ours = ckptstore.load(tmp_path / "ours")
    assert int(optax.tree_utils.tree_get_all_with_path(ours["opt_state"], "count")[0][1]) == 7

    def bits(tree):
        keys = jax.tree.map(
            lambda x: (
                jax.random.key_data(x)
                if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                else x
            ),
            tree,
        )
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(keys)]

    a, b = train(ours, 10), train(theirs, 10)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert bits(a) == bits(b) == bits(train(state, 10))


def test_without_like_it_is_refused_by_name(directory):
    with pytest.raises(ckptstore.StructureError, match="pass like=") as caught:
        convert.from_orbax(directory)
    assert caught.value.reason == "needs-like"
    for words in ("$.empty[3]: None, or an empty NamedTuple", "$.e4m3: float8_e4m3fn[3]"):
        assert words in str(caught.value)


def test_all_differences_are_told_at_once(directory):
    like = everything()
    like["params"]["dense"]["w"] = jnp.ones((4, 4))
    like["rate"] = 1
    like["more"] = jnp.ones(1)
    like["empty"][3] = ()
    like["params"]["rest"] = {"0": like["params"]["rest"][0], "1": like["params"]["rest"][1]}
    like["old_key"] = jnp.zeros(2, jnp.int32)
    del like["text"]
    with pytest.raises(ckptstore.StructureError) as caught:
        convert.from_orbax(directory, like=like)
    for words in (
        "$.params.dense.w: float32[4, 3] in the directory",
        "$.rate: float64[] in the directory, int in `like`",
        "$.more: ",
        "$.empty[3]: None, or an empty NamedTuple in the directory",
        "$.params.rest[0]: ",
        "$.old_key: uint32[2] in the directory",
        "$.text: str in the directory, not in `like`",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("here", ["key", "old_key"])
def test_a_key_is_not_taken_for_its_data_nor_the_other_way(directory, here):
    like = everything()
    like["key"], like["old_key"] = (
        (jax.random.key_data(like["key"]), like["old_key"])
        if here == "key"
        else (like["key"], jax.random.wrap_key_data(like["old_key"]))
    )
    with pytest.raises(ckptstore.StructureError, match=rf"\$\.{here}: .*PRNG key"):
        convert.from_orbax(directory, like=like)


def test_what_orbax_wrote_to_one_place_is_refused(tmp_path):
    state = {"a": {"b": jnp.zeros(1)}, "a.b": jnp.ones(1)}
    save_checkpointer(tmp_path / "saved", state)
    with pytest.raises(ckptstore.StructureError, match=r"to one place, 'a\.b'"):
        convert.from_orbax(tmp_path / "saved", like=state)


@pytest.mark.follows("convert.orbax_items", "pass one of its directories: {}")
def test_the_items_of_a_manager(tmp_path):
    params = fresh()["params"]
    one, two = tmp_path / "one", tmp_path / "two"
    with ocp.CheckpointManager(one) as manager:
        manager.save(5, args=ocp.args.StandardSave(params))
    with ocp.CheckpointManager(two) as manager:
        items = {name: ocp.args.PyTreeSave(params) for name in ("params", "average")}
        manager.save(5, args=ocp.args.Composite(**items, notes=ocp.args.JsonSave({"a": 1})))
    for path in (one / "5" / "default", one / "5", one, two / "5" / "average"):
        assert differences(params, convert.from_orbax(path, like=params)) == []
    for path in (two / "5", two):
        with pytest.raises(ckptstore.StructureError, match="average, params"):
            convert.from_orbax(path, like=params)
    with pytest.raises(ckptstore.StorageError, match="the directory does not exist"):
        convert.from_orbax(tmp_path / "nothing", like=params)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's tasks
def test_damaged_directories_are_errors_or_the_right_value(tmp_path):
    like = {"params": fresh()["params"], "n": 3}
    save_zarr(tmp_path / "zarr", like)
    save_checkpointer(tmp_path / "ocdbt", like)
    refused = 0
    for form in ("zarr", "ocdbt"):
        for path in files(tmp_path / form):
            for number, change in enumerate((lambda d: d[: len(d) // 2], lambda d: None)):
                copy = tmp_path / "copy"
                shutil.copytree(tmp_path / form, copy)
                target = copy / path.relative_to(tmp_path / form)
                data = change(path.read_bytes())
                target.unlink() if data is None else target.write_bytes(data)
                try:
                    read = convert.from_orbax(copy, like=like)
                except ckptstore.CheckpointError:
                    refused += 1
                else:
                    assert differences(like, read) == [], (path, number)
                shutil.rmtree(copy)
    assert refused > 20


def test_a_huge_shape_is_refused_before_it_is_allocated(tmp_path):
    like = {"w": jnp.ones(4)}
    save_zarr(tmp_path / "saved", like)
    array = tmp_path / "saved" / "w" / ".zarray"
    array.write_text(array.read_text().replace('"shape":[4]', f'"shape":[{2**60}]'))
    assert str(2**60) in array.read_text()
    with pytest.raises(ckptstore.CheckpointError):
        convert.from_orbax(tmp_path / "saved", like=like)


def save_steps(path, steps):
    with ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(max_to_keep=9)) as run:
        for step in steps:
            run.save(step, args=ocp.args.StandardSave({"step": step}))


def test_of_a_directory_of_steps_the_newest_is_read_and_named(tmp_path, caplog):
    caplog.set_level("INFO", "ckptstore")
    save_steps(tmp_path / "run", (8, 9, 10))
    (tmp_path / "run" / "11.orbax-checkpoint-tmp-1700000000").mkdir()
    assert convert.from_orbax(tmp_path / "run", like={"step": 0}) == {"step": 10}
    assert "reading 10, the newest of 3 step(s)" in caplog.text
    for old, new in (("9", "step_9"), ("10", "step_10"), ("8", "step_8")):
        (tmp_path / "run" / old).rename(tmp_path / "run" / new)
    assert convert.from_orbax(tmp_path / "run", like={"step": 0}) == {"step": 10}


def test_items_whose_names_end_with_numbers_are_not_taken_for_steps(tmp_path):
    for name in ("model1", "model2"):
        save_checkpointer(tmp_path / "saved" / name, {"w": jnp.ones(1)})
    with pytest.raises(ckptstore.StructureError, match="model1, model2"):
        convert.from_orbax(tmp_path / "saved", like={"w": jnp.zeros(1)})


SELECTED = {
    "$.params": {"params"},
    "$.params.dense": {"params.dense"},
    "$['params'].rest[1]": {"params.rest.1"},
    "$.**.w": {"params.dense.w", "opt_state.1.0.mu.dense.w", "opt_state.1.0.nu.dense.w"},
    "$.opt_state[1][0].mu": {"opt_state.1.0.mu"},
    ("$.params", "$.step"): {"params", "step"},
}


@pytest.mark.parametrize("select", SELECTED)
def test_select_reads_these_leaves_and_no_others(select, tmp_path):
    saved = train(fresh(), 2)
    save_zarr(tmp_path / "saved", saved)
    wanted = SELECTED[select]
    for path in (tmp_path / "saved").glob("*/.zarray"):  # of all other arrays, the data are gone
        if not any(f"{path.parent.name}.".startswith(f"{prefix}.") for prefix in wanted):
            for data in path.parent.glob("[0-9]*"):
                data.unlink()
    select = select if isinstance(select, str) else list(select)
    like = fresh()
    read = convert.from_orbax(tmp_path / "saved", like=like, select=select)
    ckptstore.save(tmp_path / "ours", saved)
    ours = ckptstore.load(tmp_path / "ours", like=like, select=select)
    in_order = [jax.tree.map(lambda x: x, tree) for tree in (ours, read)]
    assert differences(*in_order) == []


@pytest.mark.follows("convert.orbax_paths", "there is {}")
def test_select_needs_only_the_selected_part_in_like(tmp_path):
    saved = train(fresh(), 2)
    save_checkpointer(tmp_path / "saved", saved)
    shapes = jax.eval_shape(lambda: fresh()["params"])
    read = convert.from_orbax(tmp_path / "saved", like={"params": shapes}, select="$.params")
    assert differences({"params": saved["params"]}, read) == []
    with pytest.raises(
        ckptstore.StructureError, match=r"nothing is at \$\.parms; there is \$\."
    ) as caught:
        convert.from_orbax(tmp_path / "saved", like={"params": shapes}, select="$.parms")
    assert caught.value.reason == "no-match" and "$.params" in str(caught.value)
    with pytest.raises(ckptstore.StructureError, match=r"\$\.params\.dense\.w: .* not in `like`"):
        convert.from_orbax(tmp_path / "saved", like={"params": {}}, select="$.params")
    with pytest.raises(ckptstore.StructureError, match="pass like=") as caught:
        convert.from_orbax(tmp_path / "saved", select="$.params")
    assert caught.value.reason == "needs-like" and "opt_state" not in str(caught.value)

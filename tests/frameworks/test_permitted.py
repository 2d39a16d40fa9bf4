"""Classes of jax that need your permission: their metaclass, the warning, and sparse arrays."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import pytest

import ckptstore
from ckptstore.tree import round_trip
from ckptstore.types import registry


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_BY_CLASS", "_BY_NAME"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(round_trip, "_TOLD", {})


class Meta(type):
    """As penzai and haliax do: each subclass becomes a dataclass that jax knows."""

    def __new__(cls, name: str, bases: Any, namespace: Any) -> Any:
        made = super().__new__(cls, name, bases, namespace)
        made = dataclasses.dataclass(frozen=True)(made)
        names = [f.name for f in dataclasses.fields(made)]
        jax.tree_util.register_pytree_with_keys(
            made,
            lambda x: ([(name, getattr(x, name)) for name in names if name != "name"], x.name),
            lambda name, children: made(name, *children),
        )
        return made


class Layer(metaclass=Meta):
    name: str
    weight: Any
    inner: Any


def layer() -> Any:
    return Layer("a", jnp.arange(3.0), Layer("b", np.ones(2), None))


@pytest.mark.follows(
    "tree.encoding",
    "call ckptstore.register({}) in the process that saves and in the one that loads, and the "
    "functions that jax.tree_util knows are used",
)
def test_a_class_with_a_metaclass_that_jax_knows_is_carried_once_registered(
    tmp_path: pathlib.Path,
) -> None:
    with pytest.raises(ckptstore.StructureError, match="metaclass") as caught:
        ckptstore.save(tmp_path / "c", {"model": layer()})
    (call,) = re.findall(r"call (ckptstore\.register\(\w+\))", str(caught.value))
    exec(call, {"ckptstore": ckptstore, "Layer": Layer})
    tree = {"model": layer(), "ema": jax.tree.map(lambda x: x * 2, layer())}
    ckptstore.save(tmp_path / "c", tree)
    again = ckptstore.load(tmp_path / "c")
    assert type(again["model"]) is Layer
    assert (again["model"].name, again["model"].inner.name) == ("a", "b")
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    like = ckptstore.load(tmp_path / "c", like=tree)
    assert jax.tree.structure(like) == jax.tree.structure(tree)


@jax.tree_util.register_pytree_node_class
class Scale:
    def __init__(self, a: Any) -> None:
        self.a = a

    def tree_flatten(self) -> Any:
        return (self.a,), None

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> Any:
        return cls(*children)


@pytest.mark.follows(
    "tree.round_trip",
    "To load it, pass load(url, types=[{}]) or like=, or call ckptstore.register({}) before "
    "save and load",
)
def test_a_save_says_once_that_a_load_will_need_types(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = {"a": Scale(1), "b": [Scale(np.ones(2))]}
    with caplog.at_level(logging.WARNING, "ckptstore"):
        for name in "abc":
            ckptstore.save(tmp_path / name, tree)
        ckptstore.save_async(tmp_path / "d", tree).result()
    (record,) = caplog.records
    (call,) = re.findall(r"load\(url, types=\[\w+\]\)", record.getMessage())
    with pytest.raises(ckptstore.UnknownTypeError, match="types="):
        ckptstore.load(tmp_path / "a")
    again = eval(f"ckptstore.{call}", {"url": tmp_path / "a", **globals()})
    assert again["a"].a == 1
    assert ckptstore.load(tmp_path / "a", like=tree)["a"].a == 1
    (call,) = re.findall(r"call (ckptstore\.register\(\w+\))", record.getMessage())
    eval(call, globals())
    assert ckptstore.load(tmp_path / "a")["a"].a == 1


def test_a_save_of_what_loads_says_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    ckptstore.register(Scale)
    with caplog.at_level(logging.INFO, "ckptstore"):
        ckptstore.save(tmp_path / "c", {"a": Scale(1), "b": SPARSE["BCOO"]()})
        with pytest.raises(ckptstore.StructureError):
            ckptstore.save(tmp_path / "d", {"a": Scale(lambda: 1)})
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


DENSE = np.array([[0, 1.5, 0], [2.5, 0, 0]], np.float32)
SPARSE: dict[str, Any] = {
    "BCOO": lambda: jax.experimental.sparse.BCOO.fromdense(DENSE),
    "BCOO of a batch": lambda: jax.experimental.sparse.BCOO.fromdense(DENSE, n_batch=1),
    "BCSR": lambda: jax.experimental.sparse.BCSR.fromdense(DENSE),
    "CSR": lambda: jax.experimental.sparse.CSR.fromdense(DENSE),
    "CSC": lambda: jax.experimental.sparse.CSC.fromdense(DENSE),
    "COO": lambda: jax.experimental.sparse.COO.fromdense(DENSE),
}


@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_array_of_jax_needs_no_permission(name: str, tmp_path: pathlib.Path) -> None:
    x = SPARSE[name]()
    ckptstore.save(tmp_path / "c", {"x": x})
    again = ckptstore.load(tmp_path / "c")["x"]
    assert type(again) is type(x)
    assert vars(again).keys() == vars(x).keys()
    assert (again.shape, again.dtype) == (x.shape, x.dtype)
    assert jax.tree.structure(again) == jax.tree.structure(x)
    assert np.array_equal(again.todense(), DENSE)
    like = ckptstore.load(tmp_path / "c", like={"x": x})["x"]
    assert np.array_equal(like.todense(), DENSE)
    of_numpy = ckptstore.load(tmp_path / "c", arrays="numpy")["x"]
    assert type(jax.tree.leaves(of_numpy)[0]) is np.ndarray


def test_a_sparse_array_loads_where_its_module_is_not_imported(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"x": SPARSE["BCOO"]()})
    code = (
        "import sys, ckptstore\n"
        "x = ckptstore.load(sys.argv[1])['x']\n"
        "assert type(x).__name__ == 'BCOO', x\n"
        "assert float(x.todense().sum()) == 4\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], check=True)


@pytest.mark.parametrize(
    "static",
    [
        None,
        {},
        {"shape": [2, 3], "indices_sorted": True, "unique_indices": True},
        {"shape": (2, 3.0), "indices_sorted": True, "unique_indices": True},
        {"shape": (2, 3), "indices_sorted": 1, "unique_indices": True},
        {"shape": (2, 3), "indices_sorted": True, "unique_indices": True, "todense": 1},
    ],
)
def test_a_forged_sparse_array_is_refused(
    static: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = SPARSE["BCOO"]()
    monkeypatch.setattr(round_trip, "_try", lambda *args: None)
    monkeypatch.setattr(type(x), "tree_flatten", lambda self: ((self.data, self.indices), static))
    ckptstore.save(tmp_path / "c", {"x": x})
    monkeypatch.undo()
    with pytest.raises(ckptstore.UnknownTypeError) as caught:
        ckptstore.load(tmp_path / "c")
    assert caught.value.reason == "cannot-make"

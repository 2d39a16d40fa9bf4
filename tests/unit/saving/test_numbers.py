"""Steps, metrics and metadata: any integer, any number, and the call that makes the rest plain."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import types
import uuid
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import ckptstore


class Sub(int):
    pass


class Index:
    def __index__(self) -> int:
        return 7


STEPS = {
    "numpy": np.int64(7),
    "an unsigned one": np.uint8(7),
    "longlong": np.longlong(7),
    "an array of numpy": np.array(7),
    "jax": jnp.asarray(7),
    "jax of 8 bits": jnp.asarray(7, jnp.int8),
    "torch": torch.tensor(7),
    "a subclass": Sub(7),
    "an object": Index(),
    "an enum": enum.IntEnum("Step", {"SEVEN": 7}).SEVEN,  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_any_integer(name: str, tmp_path: pathlib.Path) -> None:
    step = STEPS[name]
    saved = ckptstore.save(tmp_path / "c", 1, step=step)
    pending = ckptstore.save_async(tmp_path / "d", 1, step=step).result()
    assert [(s.step, type(s.step)) for s in (saved, pending)] == [(7, int)] * 2
    manager = ckptstore.Manager(tmp_path / "run", every=7)
    for save in (manager.save, manager.save_async):
        assert save(step, {"a": 1}, overwrite=True) is not None
    assert manager.steps() == [7]
    assert manager.load(step) == {"a": 1}
    assert type(manager.loaded_step) is int
    assert manager.rewind(step) == []
    manager.delete(step)
    assert manager.steps() == []


@pytest.mark.parametrize(
    "step",
    [
        *(True, np.bool_(True), jnp.asarray(True), torch.tensor(True), enum.Enum("E", "A").A),
        *(np.ones(1, int), torch.ones(1, dtype=torch.int64), jnp.ones(1, int), 7.0, "7"),
        *(np.float32(7), jnp.asarray(7.0), torch.tensor(7.0), decimal.Decimal(7), None.__class__),
    ],
    ids=str,
)
def test_a_step_is_nothing_else(step: Any, tmp_path: pathlib.Path) -> None:
    manager = ckptstore.Manager(tmp_path / "run")
    for call in (
        lambda: ckptstore.save(tmp_path / "c", 1, step=step),
        lambda: ckptstore.save_async(tmp_path / "c", 1, step=step),
        lambda: manager.save(step, 1),
        lambda: manager.save_async(step, 1),
        lambda: manager.load(step),
        lambda: manager.delete(step),
        lambda: manager.rewind(step),
    ):
        with pytest.raises(ckptstore.StructureError, match="expected an int") as caught:
            call()
        assert caught.value.reason == "bad-step"
    assert not list(tmp_path.iterdir())


def test_a_traced_or_deleted_step_is_refused_and_nothing_else(tmp_path: pathlib.Path) -> None:
    def traced(step: Any) -> Any:
        with pytest.raises(ckptstore.StructureError, match="step is"):
            ckptstore.save(tmp_path / "c", 1, step=step)
        with pytest.raises(ckptstore.StructureError, match="loss"):
            ckptstore.save(tmp_path / "c", 1, metrics={"loss": step})
        return step

    jax.jit(traced)(3)
    gone = jnp.asarray(7)
    gone.delete()
    traced(gone)


METRICS: dict[str, tuple[Any, float]] = {
    "an int": (3, 3),
    "a float": (0.5, 0.5),
    "float32": (np.float32(0.1), float(np.float32(0.1))),
    "float16": (np.float16(0.1), float(np.float16(0.1))),
    "bfloat16": (ml_dtypes.bfloat16(0.5), 0.5),
    "longdouble": (np.longdouble(0.5), 0.5),
    "int64": (np.int64(2**53 - 1), 2**53 - 1),
    "an array of numpy": (np.array(0.5, np.float32), 0.5),
    "jax": (jnp.asarray(0.5), 0.5),
    "jax bfloat16": (jnp.asarray(0.5, jnp.bfloat16), 0.5),
    "an int of jax": (jnp.asarray(3), 3),
    "torch": (torch.tensor(0.5), 0.5),
    "torch with a gradient": (torch.tensor(0.5, requires_grad=True), 0.5),
    "Decimal": (decimal.Decimal("0.5"), 0.5),
    "Fraction": (fractions.Fraction(1, 2), 0.5),
    "a subclass": (type("F", (float,), {})(0.5), 0.5),
    "infinity": (np.float32("inf"), float("inf")),
}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_any_number(name: str, tmp_path: pathlib.Path) -> None:
    value, number = METRICS[name]
    saved = ckptstore.save(tmp_path / "c", 1, metrics={"m": value})
    assert (saved.metrics["m"], type(saved.metrics["m"])) == (number, type(number))
    assert ckptstore.inspect(tmp_path / "c").metrics == {"m": number}
    manager = ckptstore.Manager(tmp_path / "run", keep=ckptstore.keep_best(1, "m"))
    manager.save(1, 1, metrics={"m": value})
    pending = manager.save_async(2, 2, metrics={"m": value})
    assert pending is not None
    assert pending.result().metrics == {"m": number}


def test_a_metric_that_is_nan_is_a_metric(tmp_path: pathlib.Path) -> None:
    saved = ckptstore.save(tmp_path / "c", 1, metrics={"m": jnp.asarray(jnp.nan)})
    assert np.isnan(saved.metrics["m"])


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        ("0.5", "float(value)"),
        (np.str_("0.5"), "float(value)"),
        (b"0.5", "float(value)"),
        (np.ones(3), "float(value.mean())"),
        (np.ones(1), "float(value.mean())"),
        (jnp.ones(2), "float(value.mean())"),
        (torch.ones(2), "float(value.mean())"),
        (True, "float(value)"),
        (np.bool_(True), "float(value)"),
        (jnp.asarray(True), "float(value)"),
        (2**60, "float(value)"),
        (np.int64(2**60), "float(value)"),
    ],
    ids=str,
)
def test_a_metric_that_is_no_number_says_what_makes_one(
    value: Any, mend: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ckptstore.StructureError, match=re.escape("metrics['m']")) as caught:
        ckptstore.save(tmp_path / "c", 1, metrics={"m": value})
    assert caught.value.reason == "bad-metric"
    assert mend in str(caught.value)
    number = eval(mend, {"value": value})
    assert ckptstore.save(tmp_path / "c", 1, metrics={"m": number}).metrics == {"m": number}


# --- Metadata ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Config:
    lr: float


Row = collections.namedtuple("Row", "a b")


def of_package(module: str, name: str, *bases: type, **members: Any) -> Callable[..., Any]:
    cls: Any = type(name, bases, {"__module__": module, **members})
    return cls  # type: ignore[no-any-return]


def config_dict() -> Any:
    cls = of_package("ml_collections.config_dict.config_dict", "ConfigDict",
                     to_dict=lambda self: {"lr": 0.1}, keys=lambda self: ["lr"],
                     __getitem__=lambda self, key: 0.1)  # fmt: skip
    return type("FrozenConfigDict", (cls,), {"__module__": "ml_collections.x"})()  # type: ignore[arg-type, misc]


class Container:
    @staticmethod
    def to_container(x: Any, *, resolve: bool) -> Any:
        return {"lr": 0.1}


VALUES: dict[str, tuple[Callable[[], Any], Any]] = {
    "a tuple": (lambda: (1, 2), [1, 2]),
    "a set": (lambda: {1}, [1]),
    "a frozenset": (lambda: frozenset({1}), [1]),
    "a range": (lambda: range(2), [0, 1]),
    "a deque": (lambda: collections.deque([1]), [1]),
    "keys": (lambda: {"a": 1}.keys(), ["a"]),
    "a namedtuple": (lambda: Row(1, 2), {"a": 1, "b": 2}),
    "an OrderedDict": (lambda: collections.OrderedDict(a=1), {"a": 1}),
    "a defaultdict": (lambda: collections.defaultdict(int, a=1), {"a": 1}),
    "a mapping proxy": (lambda: types.MappingProxyType({"a": 1}), {"a": 1}),
    "a ConfigDict": (config_dict, {"lr": 0.1}),
    "a container of OmegaConf": (of_package("omegaconf.dictconfig", "DictConfig"), {"lr": 0.1}),
    "a model of pydantic": (
        of_package("pydantic.main", "BaseModel", model_dump=lambda self, mode: {"lr": 0.1}),
        {"lr": 0.1}),
    "a configuration of transformers": (
        of_package("transformers.x", "BertConfig", to_dict=lambda self: {"lr": 0.1}), {"lr": 0.1}),
    "a dataclass": (lambda: Config(0.1), {"lr": 0.1}),
    "a namespace": (lambda: types.SimpleNamespace(lr=0.1), {"lr": 0.1}),
    "a scalar of numpy": (lambda: np.float32(0.5), 0.5),
    "a float64": (lambda: np.float64(0.5), 0.5),
    "an integer of numpy": (lambda: np.int64(3), 3),
    "a bool of numpy": (lambda: np.bool_(True), True),
    "a text of numpy": (lambda: np.str_("a"), "a"),
    "a long double": (lambda: np.longdouble(0.5), 0.5),
    "a date of numpy": (lambda: np.datetime64("2020-01-01"), "2020-01-01"),
    "an array of no axes": (lambda: np.array(0.5), 0.5),
    "an array": (lambda: np.array([1, 2]), [1, 2]),
    "an array of jax": (lambda: jnp.arange(2), [0, 1]),
    "a scalar of jax": (lambda: jnp.asarray(3), 3),
    "a tensor": (lambda: torch.arange(2), [0, 1]),
    "a scalar of torch": (lambda: torch.tensor(0.5), 0.5),
    "a path": (lambda: pathlib.Path("a/b"), "a/b"),
    "a date": (lambda: datetime.date(2020, 1, 2), "2020-01-02"),
    "a datetime": (lambda: datetime.datetime(2020, 1, 2), "2020-01-02T00:00:00"),
    "a time": (lambda: datetime.time(1, 2), "01:02:00"),
    "a timedelta": (lambda: datetime.timedelta(seconds=90), 90.0),
    "an enum": (lambda: enum.Enum("Phase", "WARMUP").WARMUP, "WARMUP"),  # type: ignore[attr-defined]
    "an IntEnum": (lambda: enum.IntEnum("Phase", "WARMUP").WARMUP, "WARMUP"),  # type: ignore[attr-defined]
    "a Decimal": (lambda: decimal.Decimal("0.1"), "0.1"),
    "a UUID": (lambda: uuid.UUID(int=1), str(uuid.UUID(int=1))),
    "a complex": (lambda: 1j, "1j"),
    "a dtype": (lambda: np.dtype("float32"), "float32"),
    "a dtype of torch": (lambda: torch.float32, "torch.float32"),
    "a version of torch": (lambda: torch.__version__, str(torch.__version__)),
    "a bytearray": (lambda: bytearray(b"a"), b"a"),
    "a function": (lambda: config_dict, "config_dict"),
    "a class": (lambda: Config, "Config"),
    "a large int": (lambda: 2**60, str(2**60)),
    "a half of a pair": (lambda: "\ud800", b"\xed\xa0\x80"),
    "keys that are ints": (lambda: {1: "a"}, {"1": "a"}),
    "a key of numpy": (lambda: {np.str_("a"): 1}, {"a": 1}),
    "a key that is no text": (lambda: {"\ud800": 1}, {"'\\ud800'": 1}),
}  # fmt: skip


NO_MAPPINGS = ("ConfigDict", "OmegaConf", "pydantic", "transformers", "dataclass", "namespace")
CASES = [
    *((place, name) for name in VALUES for place in ("in a dict", "in a list")),
    *(("whole", name) for name in VALUES if name.endswith(NO_MAPPINGS) or "key" in name[:6]),
]


@pytest.mark.parametrize(("place", "name"), [case for case in CASES if case != ("whole", "keys")])
def test_metadata_that_is_not_plain_names_the_call_that_makes_it(
    place: str, name: str, tmp_path: pathlib.Path
) -> None:
    make, plain = VALUES[name]
    value = make()
    whole = {"whole": value, "in a dict": {"run": value}, "in a list": {"run": [0, value]}}
    metadata = whole[place]
    with pytest.raises(ckptstore.StructureError, match="save: metadata") as caught:
        ckptstore.save(tmp_path / "c", 1, metadata=metadata)
    assert caught.value.reason == "metadata"
    message = str(caught.value)
    found = re.search(r"(?:; pass|a dict;) (.*?)(?:; or put it in the tree|$)", message)
    assert found, message
    modules = {"dataclasses": dataclasses, "omegaconf": types.SimpleNamespace(OmegaConf=Container)}
    mended = eval(found[1], {**modules, "metadata": metadata})
    assert (mended, type(mended)) == (plain, type(plain))
    saved = ckptstore.save(tmp_path / "c", 1, metadata={"run": mended})
    assert saved.metadata == {"run": plain}
    assert not (tmp_path / "refused").exists()


def test_all_faults_of_the_metadata_come_at_once(tmp_path: pathlib.Path) -> None:
    metadata = {"lr": np.float32(0.1), "dims": (1, 2), "more": [pathlib.Path("a"), 3]}
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.save(tmp_path / "c", 1, metadata=metadata)
    for call in ("metadata['lr'].item()", "list(metadata['dims'])", "str(metadata['more'][0])"):
        assert f"pass {call}" in str(caught.value)


def test_a_scalar_of_longlong_is_saved_as_its_array_is(tmp_path: pathlib.Path) -> None:
    for cls, other in ((np.longlong, np.int64), (np.ulonglong, np.uint64)):
        tree = {"scalar": cls(7), "array": np.array([7], cls)}
        ckptstore.save(tmp_path / "c", tree, overwrite=True)
        again = ckptstore.load(tmp_path / "c")
        assert type(again["scalar"]) is other
        assert again["scalar"] == 7
        assert again["array"].dtype == tree["array"].dtype == np.dtype(other)
        loaded = ckptstore.load(tmp_path / "c", like=tree)
        assert loaded["scalar"] == 7

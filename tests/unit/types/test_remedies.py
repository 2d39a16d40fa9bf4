"""Objects that cannot be saved: each error names what to save, and the way back works."""

from __future__ import annotations

import collections
import io
import itertools
import logging
import pathlib
import re
import sys
import tempfile
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.sparse
import sklearn.linear_model
import torch
import wrapt

import ckptstore
from tests.support.compare import differences

RUN = {"itertools": itertools, "numpy": np, "np": np, "PIL": PIL, "io": io, "weakref": weakref}
RUN |= {"scipy": scipy, "logging": logging, "ckptstore": ckptstore}


def refusal(tmp_path: pathlib.Path, x: Any, **options: Any) -> str:
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.save(tmp_path / "refused", {"a": [x]}, **options)
    assert caught.value.reason == "cannot-carry"
    assert str(caught.value).startswith("$['a'][0]: ")
    assert not (tmp_path / "refused").exists()
    return str(caught.value)


def follow(tmp_path: pathlib.Path, x: Any, new: Any = None, **names: Any) -> tuple[str, Any]:
    """Do what the error of `x` says: save that, load it, restore it; return the message and `x`."""
    message = refusal(tmp_path, x)
    found = re.search(r"save (.*), and restore it by (.*)", message)
    assert found, message
    save, restore = found.groups()
    names = {**RUN, **sys.modules, **names}
    ckptstore.save(tmp_path / "c", eval(save, {**names, "x": x}), overwrite=True)
    names |= {"x": new, "loaded": ckptstore.load(tmp_path / "c")}
    exec(restore, names)
    return message, names["x"]


def named(module: str, name: str, *bases: type, **members: Any) -> Any:
    """Return a class that stands for one of a package that is not installed here."""
    cls = type(name, bases, {"__module__": module, **members})
    parts = module.split(".")
    for i in range(1, len(parts) + 1):
        path = ".".join(parts[:i])
        if path not in sys.modules:
            _MADE.append(path)
            sys.modules[path] = types.ModuleType(path)
        if i > 1:
            setattr(sys.modules[".".join(parts[: i - 1])], parts[i - 1], sys.modules[path])
    setattr(sys.modules[module], name, cls)
    return cls


_MADE: list[str] = []


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    yield
    while _MADE:
        del sys.modules[_MADE.pop()]


def with_methods(module: str, name: str, get: str, put: str) -> Callable[[Any], Any]:
    """Return a maker of objects of a class with two methods for its state."""
    cls = named(
        module,
        name,
        __init__=lambda self, state: vars(self).update(state=state),
        **{
            get: lambda self: dict(self.state),
            put: lambda self, state: vars(self).update(state=state),
        },
    )
    return lambda state: cls(state)


METHODS = {
    "grain": ("grain._src.python.data_loader", "PyGrainDatasetIterator", "get_state", "set_state"),
    "grain dataset": ("grain._src.python.dataset", "DatasetIterator", "get_state", "set_state"),
    "torchdata": (
        "torchdata.stateful_dataloader.stateful_dataloader",
        "StatefulDataLoader",
        "state_dict",
        "load_state_dict",
    ),
    "torchdata node": ("torchdata.nodes.loader", "Loader", "state_dict", "load_state_dict"),
    "stable baselines": (
        "stable_baselines3.common.base_class",
        "BaseAlgorithm",
        "get_parameters",
        "set_parameters",
    ),
    "keras": ("keras.src.models.model", "Model", "get_weights", "set_weights"),
    "the user's": ("__main__", "Sampler", "state_dict", "load_state_dict"),
    "random": ("somewhere", "Source", "getstate", "setstate"),
}


@pytest.mark.follows("types.remedies", "save {}, and restore it by {}")
@pytest.mark.parametrize("name", METHODS)
def test_an_object_with_methods_for_its_state_names_them(name: str, tmp_path: pathlib.Path) -> None:
    module, cls, get, put = METHODS[name]
    make = with_methods(module, cls, get, put)
    message, again = follow(tmp_path, make({"at": 7}), make({"at": 0}))
    assert f"save x.{get}()" in message
    assert again.state == {"at": 7}


def test_an_iterator_with_a_state_is_no_other_iterator(tmp_path: pathlib.Path) -> None:
    make = with_methods("grain.python", "Iterator", "get_state", "set_state")
    type(make({})).__next__ = lambda self: 1  # type: ignore[attr-defined]
    assert "x.get_state()" in refusal(tmp_path, make({"at": 1}))


# --- Estimators, spaces, configurations: by the row of a base ------------------------------------


def test_an_estimator_of_sklearn_is_restored_by_its_vars(tmp_path: pathlib.Path) -> None:
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    fitted = sklearn.linear_model.Ridge(alpha=0.5).fit(x, y)
    message, again = follow(tmp_path, fitted, sklearn.linear_model.Ridge())
    assert "vars(x)" in message
    assert np.array_equal(again.predict(x), fitted.predict(x))
    assert again.get_params() == fitted.get_params()


@pytest.mark.parametrize(
    ("module", "base"),
    [
        ("gymnasium.spaces.space", "Space"),
        ("gym.spaces.space", "Space"),
        ("stable_baselines3.common.running_mean_std", "RunningMeanStd"),
        ("stable_baselines3.common.buffers", "BaseBuffer"),
    ],
)
def test_a_subclass_has_the_row_of_its_base(module: str, base: str, tmp_path: pathlib.Path) -> None:
    cls = type("Mine", (named(module, base),), {"__module__": "project"})
    old, new = cls(), cls()
    vars(old).update(low=np.zeros(2), pos=3, full=False)
    vars(new).update(low=np.ones(2), pos=0, full=True)
    _, again = follow(tmp_path, old, new)
    assert differences(vars(old), vars(again)) == []


def test_a_configuration_of_transformers_is_made_from_its_dict(tmp_path: pathlib.Path) -> None:
    for module, name in (
        ("transformers.configuration_utils", "PretrainedConfig"),
        ("transformers.configuration_utils", "PreTrainedConfig"),
    ):
        base = named(
            module,
            name,
            to_dict=lambda self: dict(vars(self)),
            from_dict=classmethod(lambda cls, values: vars(x := cls()).update(values) or x),
        )
        cls = named("transformers.models.bert.configuration_bert", "BertConfig", base)
        config = cls()
        config.layers = 12
        message, again = follow(tmp_path, config)
        assert "x = transformers.models.bert.configuration_bert.BertConfig.from_dict" in message
        assert vars(again) == {"layers": 12}


def test_an_output_of_transformers_is_made_from_its_items(tmp_path: pathlib.Path) -> None:
    base = named(
        "transformers.utils.generic",
        "ModelOutput",
        collections.OrderedDict,
        __init__=lambda self, **items: collections.OrderedDict.update(self, items),
    )
    cls = named("transformers.modeling_outputs", "Seq", base)
    _, again = follow(tmp_path, cls(logits=np.ones(2)))
    assert type(again) is cls
    assert np.array_equal(again["logits"], np.ones(2))


def test_the_other_makers_of_the_table(tmp_path: pathlib.Path) -> None:
    keeps = {"__init__": lambda self, value: vars(self).update(value=value)}
    batch = named("transformers.tokenization_utils_base", "BatchEncoding", **keeps)
    batch.keys = lambda self: self.value.keys()
    batch.__getitem__ = lambda self, key: self.value[key]
    assert follow(tmp_path, batch({"ids": [1]}))[1].value == {"ids": [1]}
    token = named("transformers.tokenization_utils_base", "PreTrainedTokenizerBase", **keeps)
    token.name_or_path = property(lambda self: self.value)
    token.from_pretrained = classmethod(lambda cls, v: cls(v))
    assert follow(tmp_path, token("bert"))[1].value == "bert"
    tensor = named("tensorflow.python.framework.ops", "Tensor", **keeps)
    tensor.numpy = lambda self: self.value
    tf = types.SimpleNamespace(constant=tensor)
    assert follow(tmp_path, tensor(np.float32(2)), tf=tf)[1].value == 2
    variable = named("tensorflow.python.ops.variables", "Variable", **keeps)
    variable.numpy = lambda self: self.value
    variable.assign = lambda self, v: vars(self).update(value=v)
    assert follow(tmp_path, variable(np.float32(2)), variable(None))[1].value == 2
    run = named("wandb.sdk.wandb_run", "Run", **keeps)
    run.id = property(lambda self: self.value)
    wandb = types.SimpleNamespace(init=lambda *, id, resume: run(id))
    assert follow(tmp_path, run("1a2b"), wandb=wandb)[1].value == "1a2b"
    config = named("wandb.sdk.wandb_config", "Config", **keeps)
    config.as_dict = lambda self: self.value
    config.update = lambda self, v: vars(self).update(value=v)
    assert follow(tmp_path, config({"lr": 1}), config(None))[1].value == {"lr": 1}
    bar = named("tqdm.std", "tqdm", n=0, update=lambda self, n: vars(self).update(n=self.n + n))
    shown = bar()
    shown.update(40)
    assert follow(tmp_path, shown, bar())[1].n == 40


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_trainer_of_lightning_names_its_parts(package: str, tmp_path: pathlib.Path) -> None:
    def made() -> Any:
        model = torch.nn.Linear(2, 1)
        trainer = cls()
        vars(trainer).update(lightning_module=model, optimizers=[torch.nn.PReLU()])
        return trainer

    cls = named(f"{package}.trainer.trainer", "Trainer")
    old = made()
    old.optimizers[0].weight.data.fill_(0.75)
    _, again = follow(tmp_path, old, made())
    assert torch.equal(again.lightning_module.weight, old.lightning_module.weight)
    assert again.optimizers[0].weight == 0.75


def test_an_object_that_holds_modules_names_a_call_for_all(tmp_path: pathlib.Path) -> None:
    cls = named("project.training", "Trainer")
    old, new = cls(), cls()
    for trainer in (old, new):
        trainer.model = torch.nn.Linear(2, 1)
        trainer.ema = torch.nn.Linear(2, 1)
        trainer.epochs = 3
    _, again = follow(tmp_path, old, new)
    assert torch.equal(again.model.weight, old.model.weight)


# --- Python's own objects, images and sparse arrays ----------------------------------------------


def test_a_file_in_memory_is_made_from_its_contents(tmp_path: pathlib.Path) -> None:
    _, again = follow(tmp_path, io.BytesIO(b"ab\0"))
    assert again.getvalue() == b"ab\0"
    _, again = follow(tmp_path, io.StringIO("text\n"))
    assert again.getvalue() == "text\n"


@pytest.mark.parametrize("mode", ["r", "rb", "temporary"])
def test_a_file_is_restored_to_its_position(mode: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"0123456789")
    with Files(path, mode) as (old, new):
        old.seek(4)
        _, again = follow(tmp_path, old, new)
        assert again.tell() == 4


class Files:
    def __init__(self, path: pathlib.Path, mode: str) -> None:
        make = tempfile.NamedTemporaryFile if mode == "temporary" else None
        self.files = [make(dir=path.parent) if make else path.open(mode) for _ in range(2)]

    def __enter__(self) -> Any:
        return self.files

    def __exit__(self, *error: object) -> None:
        for file in self.files:
            file.close()


def test_a_logger_is_found_by_its_name(tmp_path: pathlib.Path) -> None:
    logger = logging.getLogger("tests.of.remedies")
    assert follow(tmp_path, logger)[1] is logger


def test_weak_references_are_made_of_what_they_hold(tmp_path: pathlib.Path) -> None:
    kept = {1, 2}
    assert isinstance(follow(tmp_path, weakref.ref(kept))[1], weakref.ref)
    by_name = weakref.WeakValueDictionary({"a": kept})
    assert type(follow(tmp_path, by_name)[1]) is weakref.WeakValueDictionary
    assert type(follow(tmp_path, weakref.WeakKeyDictionary())[1]) is weakref.WeakKeyDictionary
    assert type(follow(tmp_path, weakref.WeakSet())[1]) is weakref.WeakSet


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P", "F", "I"])
def test_an_image_comes_back_in_its_mode(mode: str, tmp_path: pathlib.Path) -> None:
    image = PIL.Image.linear_gradient("L").resize((5, 3)).convert(mode)
    _, again = follow(tmp_path, image)
    assert (again.mode, again.size, again.tobytes()) == (image.mode, image.size, image.tobytes())
    assert again.getpalette() == image.getpalette()


@pytest.mark.parametrize("form", ["csr", "csc", "bsr", "coo", "dia", "lil", "dok"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_a_sparse_array_of_scipy_names_its_parts(
    form: str, kind: str, tmp_path: pathlib.Path
) -> None:
    cls = getattr(scipy.sparse, f"{form}_{kind}")
    x = cls(np.diag([1.5, 0, 2.5, -1]).astype(np.float32))
    message, again = follow(tmp_path, x)
    assert f"scipy.sparse.{form}_{kind}(" in message
    assert (type(again), again.dtype, again.shape, again.nnz) == (cls, x.dtype, x.shape, x.nnz)
    assert np.array_equal(again.toarray(), x.toarray())


ITERATORS: dict[str, Callable[[list[int]], Any]] = {
    "a generator": lambda items: (item for item in items),
    "an iterator": iter,
    "enumerate": enumerate,
    "map": lambda items: map(str, items),
    "zip": lambda items: zip(items, items, strict=True),
    "count": lambda items: itertools.count(5),
    "cycle": itertools.cycle,
}


@pytest.mark.follows(
    "types.remedies",
    "count the items that you take, save that number, and take as many from a new one: "
    "next(itertools.islice(x, loaded, loaded), None)",
)
@pytest.mark.parametrize("name", ITERATORS)
def test_an_iterator_says_how_to_take_as_many_items_again(
    name: str, tmp_path: pathlib.Path
) -> None:
    make = ITERATORS[name]
    old, x = make([3, 4, 5, 6]), make([3, 4, 5, 6])
    for _ in range(2):
        next(old)
    (call,) = re.findall(r"(next\(.*?\), None\))", refusal(tmp_path, old))
    ckptstore.save(tmp_path / "c", 2)
    eval(call, {"itertools": itertools, "x": x, "loaded": ckptstore.load(tmp_path / "c")})
    assert next(x) == next(old)


OF_PROCESS: dict[str, Callable[[], Any]] = {
    "a lock": threading.Lock,
    "a lock to be taken twice": threading.RLock,
    "an event": threading.Event,
    "a condition": threading.Condition,
    "a thread": threading.Thread,
    "locals of a thread": threading.local,
    "an object of the user": lambda: named("project", "Opaque")(),
    "an object of a package": lambda: re.compile("a").scanner("a"),
    "a function": lambda: follow,
    "a lambda": lambda: lambda x: x,
    "a class": lambda: threading.Thread,
    "one that fails when it is looked at": lambda: named(
        "project", "Proxy", __getattribute__=lambda self, name: 1 / 0)(),
}  # fmt: skip


@pytest.mark.follows(
    "types.remedies",
    'name its path in save(..., supplied=["$..."]) and supply it by load(url, like=...)',
)
@pytest.mark.parametrize("name", OF_PROCESS)
def test_what_no_file_can_hold_is_supplied_by_the_path_that_the_error_names(
    name: str, tmp_path: pathlib.Path
) -> None:
    x = OF_PROCESS[name]()
    (patterns,) = re.findall(r"supplied=(\[.*?\"\])", refusal(tmp_path, x))
    tree = {"a": [x], "w": np.arange(3)}
    ckptstore.save(tmp_path / "c", tree, supplied=eval(patterns))
    again = ckptstore.load(tmp_path / "c", like={"a": [x], "w": np.zeros(3, int)})
    assert again["a"][0] is x
    assert np.array_equal(again["w"], np.arange(3))


@pytest.mark.parametrize("key", ["it's", 'say "a"', "both ' and \"", "a{b", "back\\slash", 7, ()])
def test_the_path_of_any_key_is_a_pattern(key: Any, tmp_path: pathlib.Path) -> None:
    x = threading.Lock()
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.save(tmp_path / "c", {key: x})
    (patterns,) = re.findall(r"supplied=(\[.*\])\)", str(caught.value))
    ckptstore.save(tmp_path / "c", {key: x}, supplied=eval(patterns))
    assert ckptstore.load(tmp_path / "c", like={key: x})[key] is x


# --- Subclasses of Python's own types ------------------------------------------------------------


class AttrDict(dict):  # type: ignore[type-arg]
    __getattr__ = dict.__getitem__


class SelfDict(dict):  # type: ignore[type-arg]
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.__dict__ = self


class Items(list):  # type: ignore[type-arg]
    pass


class Names(frozenset):  # type: ignore[type-arg]
    pass


class Pair(tuple):  # type: ignore[type-arg]
    __slots__ = ()


class Ring(collections.deque):  # type: ignore[type-arg]
    pass


SUBCLASSES = {
    "a dict with attributes": lambda: AttrDict(a=1, b=AttrDict(c=np.ones(2))),
    "a dict that is its attributes": lambda: SelfDict({"a": 1, "b": SelfDict({"c": 2})}),
    "a list": lambda: Items([1, Items([2])]),
    "a tuple": lambda: Pair([1, 2]),
    "a frozenset": lambda: Names({"a"}),
    "a deque": lambda: Ring([1, 2]),
}


@pytest.mark.follows(
    "types.remedies",
    "pass {}(x), or use ckptstore.register({}, flatten=lambda x: (({}(x),), None), "
    "unflatten=lambda _, parts: {}(*parts))",
)
@pytest.mark.parametrize("name", SUBCLASSES)
def test_a_subclass_of_a_container_is_registered_by_the_call_of_the_error(
    name: str, tmp_path: pathlib.Path
) -> None:
    x = SUBCLASSES[name]()
    message = refusal(tmp_path, x)
    (plain,) = re.findall(r"pass (\w+\(x\)),", message)
    assert not isinstance(eval(plain, {"x": x}), type(x))
    (call,) = re.findall(r"(ckptstore\.register\(.*\))", message)
    exec(call, {**globals()})
    ckptstore.save(tmp_path / "c", {"a": [x]})
    again = ckptstore.load(tmp_path / "c")["a"][0]
    assert type(again) is type(x)
    assert str(again) == str(x)


@pytest.mark.follows(
    "types.remedies", "save ({}(x), dict(vars(x))), which has its attributes {}, or use {}"
)
def test_a_subclass_with_attributes_of_its_own_does_not_lose_them(tmp_path: pathlib.Path) -> None:
    cls = type("Replay", (Items,), {"__module__": __name__})
    x = cls([1, 2])
    x.capacity = 5
    message = refusal(tmp_path, x)
    (plain,) = re.findall(r"save (\(list\(x\), dict\(vars\(x\)\)\)), which", message)
    assert "'capacity'" in message
    ckptstore.save(tmp_path / "c", eval(plain, {"x": x}))
    assert ckptstore.load(tmp_path / "c") == ([1, 2], {"capacity": 5})


@pytest.mark.parametrize(
    ("module", "name", "method"),
    [
        ("munch", "Munch", "toDict"),
        ("box.box", "Box", "to_dict"),
        ("addict.addict", "Dict", "to_dict"),
    ],
)
def test_a_dict_of_a_package_is_made_from_its_plain_dict(
    module: str, name: str, method: str, tmp_path: pathlib.Path
) -> None:
    cls = named(module, name, dict, **{method: lambda self: dict(self)})
    cls.fromDict = classmethod(lambda cls, items: cls(items))
    message, again = follow(tmp_path, cls(a=1))
    assert f"save x.{method}()" in message
    assert (type(again), dict(again)) == (cls, {"a": 1})


def test_a_proxy_names_what_it_wraps(tmp_path: pathlib.Path) -> None:
    message, again = follow(tmp_path, wrapt.ObjectProxy({"w": 1}))
    assert "wrapt" in message
    assert again.__wrapped__ == {"w": 1}
    lazy = named("lazy_object_proxy", "Proxy", __wrapped__={"w": 2})
    assert follow(tmp_path, lazy())[1] == {"w": 2}

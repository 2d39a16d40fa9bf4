"""Objects whose own code raises when it is asked for anything: a refusal, and nothing else."""

from __future__ import annotations

import pathlib
import re
import types
import unittest.mock
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ckptstore

HOOKS = {
    "a missing attribute": ("__getattr__",),
    "every attribute": ("__getattribute__",),
    "its truth, length, text and equality": (
        *("__bool__", "__len__", "__repr__", "__str__", "__eq__", "__hash__", "__format__"),
        *("__iter__", "__call__", "__contains__", "__getitem__", "__index__", "__array__"),
    ),
}
PROPERTIES = (
    "__class__",
    "__qualname__",
    "__module__",
    "__dict__",
    "__name__",
    "__array__",
    "keys",
)
ERRORS = (KeyError, RuntimeError, ImportError, RecursionError, StopIteration, AttributeError)


class Loud(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise ValueError


def raising(error: type[Exception]) -> Callable[..., Any]:
    def hook(*args: Any) -> Any:
        raise error("of the object")

    return hook


def of_metaclass(name: str) -> Any:
    meta = type("Meta", (type,), {name: raising(KeyError)})
    return type.__call__(meta("Odd", (), {}))


def made(*names: str, base: type = object, error: type[Exception] = KeyError) -> Any:
    return type("Odd", (base,), {"__module__": "project", **dict.fromkeys(names, raising(error))})()


def with_property(name: str, error: type[Exception] = KeyError) -> Any:
    namespace = {"__module__": "project", name: property(raising(error))}
    if name == "__qualname__":
        del namespace[name]
        cls = type("Odd", (), namespace)
        cls.__dict__  # noqa: B018
        return cls()
    return type("Odd", (), namespace)()


class LazyModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        raise ImportError(name)


class AttrDict(dict):  # type: ignore[type-arg]
    __getattr__ = dict.__getitem__


class Ordered(dict):  # type: ignore[type-arg]
    items = keys = values = __iter__ = raising(RuntimeError)


class Held:
    def __init__(self, held: Any) -> None:
        self.held = held


OBJECTS: dict[str, Callable[[], Any]] = {
    **{name: lambda hooks=hooks: made(*hooks) for name, hooks in HOOKS.items()},
    **{f"a property {n}": lambda n=n: with_property(n) for n in PROPERTIES},
    **{
        f"{error.__name__}": lambda error=error: made("__getattribute__", error=error)
        for error in (*ERRORS, Loud)
    },
    **{
        f"a metaclass's {name}": lambda name=name: of_metaclass(name)
        for name in ("__getattribute__", "__getattr__", "__hash__", "__eq__", "__instancecheck__")
    },
    "a dict of attributes": lambda: AttrDict(a=1),
    "a dict with its own items": lambda: Ordered(a=1),
    "a dict of any attribute": lambda: made("__getattribute__", "__len__", "__iter__", base=dict),
    "a list of any attribute": lambda: made("__getattribute__", "__len__", "__iter__", base=list),
    "an array of any attribute": lambda: np.zeros(2).view(
        type("Odd", (np.ndarray,), {"__getattr__": raising(KeyError)})),
    "a mock": unittest.mock.Mock,
    "a mock of everything": unittest.mock.MagicMock,
    "a mock of a function": lambda: unittest.mock.create_autospec(print),
    "a lazy module": lambda: LazyModule("lazy"),
    "one inside an object": lambda: Held(made("__getattribute__")),
    "an error": lambda: Loud(),
}  # fmt: skip

PLACES: dict[str, Callable[[Any], Any]] = {
    "$": lambda x: x,
    "$['a'][0]": lambda x: {"a": [x]},
    "$['a'][1]": lambda x: {"a": (np.zeros(2), x)},
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("save", [ckptstore.save, ckptstore.save_async])
def test_nothing_that_an_object_raises_escapes_a_save(
    name: str, save: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    for path, place in PLACES.items():
        with pytest.raises(ckptstore.StructureError) as caught:
            save(tmp_path / "c", place(OBJECTS[name]()))
        assert caught.value.reason == "cannot-carry"
        assert str(caught.value).startswith(f"{path}: ")
        assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", OBJECTS)
def test_nothing_that_an_object_raises_escapes_a_load(name: str, tmp_path: pathlib.Path) -> None:
    x = OBJECTS[name]()
    tree = {"w": np.arange(3), "x": x}
    ckptstore.save(tmp_path / "c", tree, supplied=["$['x']"])
    assert "'w'" in str(ckptstore.inspect(tmp_path / "c"))
    assert ckptstore.load(tmp_path / "c", like=tree)["x"] is x
    with pytest.raises(ckptstore.StructureError, match=r"\['w'\]"):
        ckptstore.load(tmp_path / "c", like={"w": x, "x": x})
    with pytest.raises(ckptstore.StructureError, match=r"expects|found|like"):
        ckptstore.load(tmp_path / "c", like=x)


@pytest.mark.parametrize("name", OBJECTS)
def test_nothing_that_a_static_field_raises_escapes(name: str, tmp_path: pathlib.Path) -> None:
    x = OBJECTS[name]()
    for key in ("in a set", "in a tuple"):
        try:
            tree = {x} if key == "in a set" else {(1, x): 2}
        except Exception:  # it has no hash
            continue
        with pytest.raises(ckptstore.StructureError) as caught:
            ckptstore.save(tmp_path / "c", tree)
        assert caught.value.reason == "cannot-carry"


def test_a_default_factory_without_a_text_is_refused(tmp_path: pathlib.Path) -> None:
    import collections

    factory = type("Factory", (), {"__repr__": raising(KeyError), "__call__": lambda self: 0})()
    with pytest.raises(ckptstore.StructureError, match=re.escape("$['a']")):
        ckptstore.save(tmp_path / "c", {"a": collections.defaultdict(factory)})


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupt_is_not_an_error_of_the_object(
    error: type[BaseException], tmp_path: pathlib.Path
) -> None:
    def hook(self: Any, name: str) -> Any:
        raise error

    x = type("Odd", (dict,), {"__module__": "project", "__getattribute__": hook})()
    with pytest.raises((error, ckptstore.StructureError)):
        ckptstore.save(tmp_path / "c", {"a": x})
    assert not (tmp_path / "c").exists()

"""A class that was defined again (a notebook cell, a reload) is the class of today."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

import ckptstore
from ckptstore.types import registry

CELLS = {
    "dataclass": """
import dataclasses
@dataclasses.dataclass
class State:
    step: int
    def next(self):
        return State(self.step + BY)
""",
    "namedtuple": """
import typing
class State(typing.NamedTuple):
    step: int
    def next(self):
        return State(self.step + BY)
""",
    "slots": """
import dataclasses
@dataclasses.dataclass(slots=True, frozen=True)
class State:
    step: int
    def next(self):
        return State(self.step + BY)
""",
    "a class of jax": """
import jax
@jax.tree_util.register_pytree_node_class
class State:
    def __init__(self, step):
        self.step = step
    def next(self):
        return State(self.step + BY)
    def tree_flatten(self):
        return (self.step,), None
    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)
""",
    "an equinox module": """
import equinox
class State(equinox.Module):
    step: int
    def next(self):
        return State(self.step + BY)
""",
    "a class with functions": """
import ckptstore
class State:
    def __init__(self, step):
        self.step = step
    def next(self):
        return State(self.step + BY)
ckptstore.register(State, flatten=lambda x: ((x.step,), None),
                   unflatten=lambda _, parts: State(*parts))
""",
    "registered": """
import dataclasses, ckptstore
@ckptstore.register
@dataclasses.dataclass
class State:
    step: int
    def next(self):
        return State(self.step + BY)
""",
    "registered by a name": """
import dataclasses, ckptstore
@dataclasses.dataclass
class State:
    step: int
    def next(self):
        return State(self.step + BY)
ckptstore.register(State, name="project.cells.State")
""",
}
PLACES = ["__main__", "tests_of_cells"]


@pytest.fixture(params=PLACES)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that runs a cell in one module again and again."""
    for table in ("_BY_CLASS", "_BY_NAME"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    module = types.ModuleType(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    runs = []

    def run_cell(code: str) -> types.ModuleType:
        runs.append(code)
        vars(module)["BY"] = len(runs)
        exec(code, vars(module))
        return module

    yield run_cell


@pytest.mark.parametrize("name", CELLS)
def test_an_instance_of_before_is_of_the_class_of_today(
    name: str, run: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    old = run(CELLS[name]).State(3)
    ckptstore.save(tmp_path / "before", {"state": old})
    today = run(CELLS[name]).State
    assert type(old) is not today
    ckptstore.save(tmp_path / "c", {"old": old, "new": today(5)})
    types = [today] if name == "a class of jax" else ()
    again = ckptstore.load(tmp_path / "c", types=types)
    assert [type(x) for x in again.values()] == [today, today]
    assert [x.step for x in again.values()] == [3, 5]
    assert again["old"].next().step == 5  # by the code of today
    assert type(ckptstore.load(tmp_path / "before", types=types)["state"]) is today
    like = ckptstore.load(tmp_path / "c", like={"old": old, "new": old})
    assert [type(x) for x in like.values()] == [today, today]


def test_only_the_class_is_defined_again_and_not_registered(
    run: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    code = CELLS["dataclass"]
    cell = run(code)
    ckptstore.register(cell.State, name="project.cells.Once")
    old = cell.State(3)
    today = run(code).State
    ckptstore.save(tmp_path / "c", [old, today(4)])
    assert ckptstore.inspect(tmp_path / "c").types == ["project.cells.Once"]
    assert [type(x) for x in ckptstore.load(tmp_path / "c")] == [today, today]


def test_a_member_of_an_enum_of_before_is_the_member_of_today(
    run: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    code = "import enum\nclass Phase(enum.Enum):\n    WARMUP = 1\n    DECAY = 2"
    old = run(code).Phase.DECAY
    today = run(code).Phase
    ckptstore.save(tmp_path / "c", {"phase": old, old: 1})
    again = ckptstore.load(tmp_path / "c")
    assert again["phase"] is today.DECAY
    assert again[today.DECAY] == 1
    changed = run(code.replace("DECAY = 2", "DECAY = 3")).Phase
    with pytest.raises(ckptstore.StructureError, match="DECAY"):
        ckptstore.save(tmp_path / "d", {"phase": old})
    assert changed.DECAY.value == 3


@pytest.mark.parametrize(
    "second",
    [
        "import dataclasses\n@dataclasses.dataclass\nclass State:\n    other: int",
        "import typing\nclass State(typing.NamedTuple):\n    step: int",
        "State = 3",
        "Other = State\ndel State",
        "Kept = State\n" + CELLS["dataclass"],
        "class Holder:\n    Kept = State\n" + CELLS["dataclass"],
    ],
)
def test_another_class_of_the_name_is_not_the_class_of_today(
    second: str, run: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    old = run(CELLS["dataclass"]).State(3)
    run(second)
    try:
        ckptstore.save(tmp_path / "c", [old])
    except ckptstore.StructureError as error:
        assert error.reason == "cannot-carry"
    else:
        assert type(ckptstore.load(tmp_path / "c")[0]) is type(old)


def test_a_module_that_was_reloaded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "reloaded_states.py").write_text("BY = 1\n" + CELLS["dataclass"])
    module = importlib.import_module("reloaded_states")
    old = module.State(3)
    ckptstore.save(tmp_path / "c", old)
    today = importlib.reload(module).State
    ckptstore.save(tmp_path / "d", old)
    assert [type(ckptstore.load(tmp_path / name)) for name in "cd"] == [today, today]


def test_the_class_of_today_may_be_of_a_tree_of_jax(
    run: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    run(CELLS["an equinox module"])
    cell = run(CELLS["an equinox module"])
    tree = jax.tree.map(lambda x: x + 1, cell.State(3))
    ckptstore.save(tmp_path / "c", tree)
    assert jax.tree.structure(ckptstore.load(tmp_path / "c")) == jax.tree.structure(tree)


# --- Classes without a name of their own ---------------------------------------------------------


def local() -> Any:
    @dataclasses.dataclass
    class Local:
        a: int

    return Local


def local_tuple() -> Any:
    class Local(typing.NamedTuple):
        a: int

    return Local


def local_member() -> Any:
    return enum.Enum("Phase", "WARMUP", qualname="local_member.<locals>.Phase", module=__name__)


def of_jax() -> Any:
    @jax.tree_util.register_pytree_node_class
    class Local:
        def __init__(self, a: int) -> None:
            self.a = a

        def tree_flatten(self) -> Any:
            return (self.a,), None

        @classmethod
        def tree_unflatten(cls, aux: Any, children: Any) -> Any:
            return cls(*children)

    return Local


def shadowed() -> Any:
    return dataclasses.make_dataclass("CELLS", ["a"], namespace={"__module__": __name__})


@pytest.mark.parametrize("make", [local, local_tuple, local_member, of_jax, shadowed])
def test_a_class_without_a_name_names_the_call_that_gives_it_one(
    make: Any, tmp_path: pathlib.Path
) -> None:
    import re

    cls = make()
    x = cls.WARMUP if make is local_member else cls(3)
    with pytest.raises(ckptstore.StructureError, match="in the process") as caught:
        ckptstore.save(tmp_path / "c", {"x": x})
    (call,) = re.findall(r"call (ckptstore\.register\(.*?\)) in the process", str(caught.value))
    exec(call, {"ckptstore": ckptstore, cls.__name__: cls})
    ckptstore.save(tmp_path / "c", {"x": x})
    again = ckptstore.load(tmp_path / "c")["x"]
    assert type(again) is cls
    assert again is x if make is local_member else again.a == 3


def test_such_a_class_loads_in_another_process_after_the_same_call(
    tmp_path: pathlib.Path,
) -> None:
    import subprocess

    code = (
        "import dataclasses, sys, ckptstore\n"
        "def make():\n"
        "    @dataclasses.dataclass\n"
        "    class Local:\n"
        "        a: int\n"
        "    return Local\n"
        "Local = make()\n"
        "{}\n"
        "if sys.argv[1] == 'save':\n"
        "    ckptstore.save(sys.argv[2], Local(3))\n"
        "else:\n"
        "    assert ckptstore.load(sys.argv[2]) == Local(3)\n"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code.format(""), "save", str(tmp_path / "c")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    _, _, rest = failed.stderr.partition("or call ")
    call = rest.partition(" in the process")[0]
    assert call == "ckptstore.register(Local, name='project.make.Local')"
    for what in ("save", "load"):
        subprocess.run(
            [sys.executable, "-c", code.format(call), what, str(tmp_path / "c")], check=True
        )


# --- Generic classes -----------------------------------------------------------------------------

T = typing.TypeVar("T")


@dataclasses.dataclass
class Box(typing.Generic[T]):
    a: T


@dataclasses.dataclass(frozen=True)
class FrozenBox(typing.Generic[T]):
    a: T


@dataclasses.dataclass(slots=True)
class SlotBox(typing.Generic[T]):
    a: T


class TupleBox(typing.NamedTuple, typing.Generic[T]):
    a: T


class PlainBox(typing.Generic[T]):
    def __init__(self, a: T) -> None:
        self.a = a


class SubBox(Box[int]):
    pass


@pytest.mark.parametrize("cls", [Box, FrozenBox, SlotBox, TupleBox, PlainBox], ids=str)
def test_the_alias_that_made_an_instance_is_no_lost_attribute(
    cls: Any, tmp_path: pathlib.Path
) -> None:
    if cls is PlainBox:
        ckptstore.register(
            cls, flatten=lambda x: ((x.a,), None), unflatten=lambda _, parts: PlainBox(*parts)
        )
    x = cls[int](3)
    ckptstore.save(tmp_path / "c", [x, cls(4)])
    again = ckptstore.load(tmp_path / "c")
    assert [type(y) for y in again] == [cls, cls]
    assert [y.a for y in again] == [3, 4]


def test_another_attribute_of_that_name_is_lost(tmp_path: pathlib.Path) -> None:
    x = Box(3)
    x.__orig_class__ = "mine"  # type: ignore[attr-defined]
    with pytest.raises(ckptstore.StructureError, match="__orig_class__"):
        ckptstore.save(tmp_path / "c", x)
    x = SubBox(3)
    x.extra = 1  # type: ignore[attr-defined]
    with pytest.raises(ckptstore.StructureError, match="'extra'"):
        ckptstore.save(tmp_path / "c", x)

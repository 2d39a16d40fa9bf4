"""What the errors of a class, its registration and its migrations tell you to do, done."""

from __future__ import annotations

import collections
import dataclasses
import enum
import importlib.metadata
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

import ckptstore
from ckptstore import Migration, StructureError, UnknownTypeError
from ckptstore.adapters import Adapter, Record, TypeKind, TypeRow
from ckptstore.tree import records, round_trip
from ckptstore.types import registry, subclasses
from tests.support import ROOT
from tests.support.compare import assert_exact, differences, roundtrip

follows = pytest.mark.follows


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten."""
    for table in ("_BY_CLASS", "_BY_NAME"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(round_trip, "_TRIED", {})
    monkeypatch.setattr(records, "_TRIED", {})


def refused(place: Path, tree: Any, **options: Any) -> str:
    with pytest.raises(StructureError) as caught:
        ckptstore.save(place / "refused", tree, **options)
    return str(caught.value)


def fails(place: Path, **options: Any) -> str:
    with pytest.raises(UnknownTypeError) as caught:
        ckptstore.load(place, **options)
    return str(caught.value)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that executes code as the module `project`."""

    def make(code: str, name: str = "project") -> Any:
        made = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, made)
        exec("import dataclasses, enum, typing\n" + code, vars(made))
        return made

    return make


STATE = "class State(typing.NamedTuple):\n    step: int\n"


# --- A class that is not found ------------------------------------------------------------------


@follows("types.lookup", "import {}")
def test_a_module_that_is_not_imported(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", module(STATE, "project7").State(3))
    monkeypatch.delitem(sys.modules, "project7")
    (tmp_path / "project7.py").write_text(f"import typing\n{STATE}")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = fails(tmp_path / "c")
    line = words.partition("is not imported; ")[2].partition(" first")[0]
    exec(line, {})
    assert ckptstore.load(tmp_path / "c") == (3,)
    monkeypatch.delitem(sys.modules, "project7")


@follows("types.lookup", "import it")
def test_a_module_whose_name_no_line_can_import(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", module(STATE, "my-project").State(3))
    monkeypatch.delitem(sys.modules, "my-project")
    (tmp_path / "my-project.py").write_text(f"import typing\n{STATE}")
    monkeypatch.syspath_prepend(str(tmp_path))
    fails(tmp_path / "c")
    importlib.import_module("my-project")
    assert ckptstore.load(tmp_path / "c") == (3,)
    monkeypatch.delitem(sys.modules, "my-project")


@follows("types.lookup", "pass types={{}: YourClass}")
@follows("types.lookup", "ckptstore.register(YourClass, name={})")
def test_a_class_that_has_moved(module: Any, tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", module(STATE).State(3))
    module("")
    moved = module(STATE, "elsewhere").State
    words = fails(tmp_path / "c")
    call = words.partition("if the class has moved, ")[2].partition(", or pass ")
    options = eval(f"dict({call[2]})", {"YourClass": moved})
    loaded = ckptstore.load(tmp_path / "c", **options)
    assert type(loaded) is moved and loaded == (3,)
    eval(call[0], {"ckptstore": ckptstore, "YourClass": moved})
    loaded = ckptstore.load(tmp_path / "c")
    assert type(loaded) is moved and loaded == (3,)


@follows("types.lookup", ", or load with {} {}")
def test_a_class_of_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release without the class stands for the other one."""
    state = optax.EmptyState()
    ckptstore.save(tmp_path / "c", state)
    monkeypatch.delattr(sys.modules[type(state).__module__], "EmptyState")
    monkeypatch.setattr("ckptstore.types.lookup.package_version", lambda package: "0.0.1")
    words = fails(tmp_path / "c")
    assert f"or load with optax {optax.__version__}" in words
    monkeypatch.undo()
    assert differences(state, ckptstore.load(tmp_path / "c")) == []


@follows("types.lookup", "pass types=[{}] to load, or call ckptstore.register({})")
@pytest.mark.parametrize("way", ["types", "register"])
def test_a_class_that_jax_knows(way: str, tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", Node(3))
    words = fails(tmp_path / "c")
    passed, registered = words.partition("; pass ")[2].split(" to load, or call ")
    if way == "register":
        eval(registered, {"ckptstore": ckptstore, "Node": Node})
    options = eval(f"dict({passed})", {"Node": Node}) if way == "types" else {}
    assert ckptstore.load(tmp_path / "c", **options).x == 3


@jax.tree_util.register_pytree_node_class
class Node:
    def __init__(self, x: Any) -> None:
        self.x = x

    def tree_flatten(self) -> Any:
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> Node:
        return cls(*children)


@follows("types.instances", "register it there before loading")
def test_a_class_that_jax_does_not_know_in_this_process(module: Any, tmp_path: Path) -> None:
    code = "class Node:\n    def __init__(self, x): self.x = x\n"
    old = module(code).Node
    jax.tree_util.register_pytree_node(old, lambda n: ((n.x,), None), lambda _, c: old(*c))
    ckptstore.save(tmp_path / "c", old(3))
    today = module(code).Node
    fails(tmp_path / "c", types=[today])
    jax.tree_util.register_pytree_node(today, lambda n: ((n.x,), None), lambda _, c: today(*c))
    assert ckptstore.load(tmp_path / "c", types=[today]).x == 3


@follows("types.lookup", "if you trust the class, pass types=[{}]")
def test_a_class_with_code_of_its_own(module: Any, tmp_path: Path) -> None:
    ckptstore.save(
        tmp_path / "c", module("@dataclasses.dataclass\nclass Data:\n    x: int\n").Data(3)
    )
    today = module(
        "@dataclasses.dataclass\nclass Data:\n    x: int\n    def __del__(self): pass\n"
    ).Data
    words = fails(tmp_path / "c")
    options = eval(f"dict({words.partition('the class, pass ')[2]})", {"Data": today})
    loaded = ckptstore.load(tmp_path / "c", **options)
    assert type(loaded) is today and loaded.x == 3


@follows("types.lookup", "pass types={{}: YourClass}")
def test_a_class_that_became_something_else(module: Any, tmp_path: Path) -> None:
    ckptstore.save(tmp_path / "c", module(STATE).State(3))
    module("class State: pass\n")
    words = fails(tmp_path / "c")
    options = eval(f"dict({words.partition('; pass ')[2]})", {"YourClass": Step})
    assert differences(Step(3), ckptstore.load(tmp_path / "c", **options)) == []


class Step(NamedTuple):
    step: int


# --- Fields that changed ------------------------------------------------------------------------


@follows(
    "types.lookup",
    "describe the change {}ckptstore.register({}, migrate=[ckptstore.{}]), or pass "
    "types={'{}': OldClass} with a class of the stored fields",
)
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (("step", "lr"), ("step", "rate"), (3, 0.1)),
        (("step",), ("step", "more"), (3, 7)),
        (("step", "gone"), ("step",), (3,)),
        (("step", "a", "b"), ("step", "c"), (3, 7)),
    ],
    ids=["renamed", "added", "removed", "several"],
)
def test_fields_that_changed(
    old: Any, new: Any, expected: Any, module: Any, tmp_path: Path
) -> None:
    def code(fields: Any) -> str:
        return "class State(typing.NamedTuple):\n" + "".join(f"    {f}: object\n" for f in fields)

    was = module(code(old)).State
    ckptstore.save(tmp_path / "c", was(*(3, 0.1, 0.2)[: len(old)]))
    today = module(code(new)).State
    words = fails(tmp_path / "c")
    call, passed = words.partition("; describe the change with ")[2].split(", or pass types=")
    head, _, steps = call.partition("migrate=[ckptstore.")
    step = steps.removesuffix("])").split(" or ")[0].replace("...", "7")
    eval(
        f"{head}migrate=[ckptstore.{step}])",
        {"ckptstore": ckptstore, "State": today, "Migration": Migration},
    )
    loaded = ckptstore.load(tmp_path / "c")
    assert type(loaded) is today and loaded == expected
    named = eval("dict(types=" + passed.partition(" with a class")[0] + ")", {"OldClass": was})
    assert type(ckptstore.load(tmp_path / "c", **named)) is was


@follows("types.migrations", "pass an instance, or a function of the old fields")
def test_a_migration_that_adds_a_class(tmp_path: Path, module: Any) -> None:
    ckptstore.save(tmp_path / "c", module(STATE).State(3))
    today = module("class State(typing.NamedTuple):\n    step: int\n    at: object\n").State
    with pytest.raises(StructureError):
        Migration(added={"at": Step})
    for value in (Step(0), lambda old: Step(old["step"])):
        ckptstore.register(today, migrate=[Migration(added={"at": value})])
        assert ckptstore.load(tmp_path / "c").at in (Step(0), Step(3))


@follows("types.migrations", "rename a field, too")
def test_a_migration_that_changes_no_name(tmp_path: Path, module: Any) -> None:
    old = module("class Two(typing.NamedTuple):\n    a: int\n    b: int\n").Two
    ckptstore.save(tmp_path / "c", old(1, 2))
    with pytest.raises(StructureError):
        ckptstore.register(old, migrate=[Migration(renamed={"a": "b", "b": "a"})])
    today = module("class Two(typing.NamedTuple):\n    b: int\n    first: int\n").Two
    ckptstore.register(today, migrate=[Migration(renamed={"a": "b", "b": "first"})])
    assert ckptstore.load(tmp_path / "c") == today(b=1, first=2)


# --- What a save refuses ------------------------------------------------------------------------


@dataclasses.dataclass
class Data:
    x: Any


@dataclasses.dataclass
class Wider:
    x: Any
    cache: Any


@follows("types.instances", "make it a field or a functools.cached_property, or delete it")
def test_an_attribute_that_is_no_field(tmp_path: Path) -> None:
    data: Any = Data(1)
    data.cache = 2
    refused(tmp_path, data)
    assert_exact(tmp_path, Wider(1, 2))
    del data.cache
    assert_exact(tmp_path, data)
    cached = Cached(1)
    assert cached.cache == 2
    assert roundtrip(tmp_path, cached).cache == 2


@dataclasses.dataclass
class Cached:
    x: Any

    @__import__("functools").cached_property
    def cache(self) -> Any:
        return self.x + 1


@dataclasses.dataclass
class Late:
    x: Any
    later: Any = dataclasses.field(init=False)


class Hook:
    def __get__(self, instance: Any, owner: Any) -> Any:
        return 3


@dataclasses.dataclass
class Hooked:
    x: Any
    later: Any = dataclasses.field(init=False)


@follows("types.instances", "set it")
@pytest.mark.parametrize("cls", [Late, Hooked])
def test_a_field_that_was_never_set(
    cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cls is Hooked:
        monkeypatch.setattr(Hooked, "later", Hook(), raising=False)
    x = cls(1)
    refused(tmp_path, x)
    x.later = 2
    assert roundtrip(tmp_path, x).__dict__ == {"x": 1, "later": 2}


class Custom:
    def __init__(self, n: int) -> None:
        self.n = n

    def __hash__(self) -> int:
        return self.n

    def __eq__(self, other: Any) -> bool:
        return type(other) is Custom and self.n == other.n


class Odd(enum.Enum):
    A = Custom(1)


class Plain(enum.Enum):
    NUMBER, TEXT, BYTES, TUPLE = 1, "a", b"a", (1, "a")
    SET = frozenset({1})


@follows(
    "types.members",
    "use a plain one: a number, text, bytes, an Enum member, or a tuple or frozenset of these",
)
def test_a_member_whose_value_is_an_object(tmp_path: Path) -> None:
    refused(tmp_path, Odd.A)
    assert_exact(tmp_path, list(Plain))


def named_by(words: str, cls: type) -> None:
    """Register a class by the call of the error."""
    call = re.findall(r"or call (ckptstore\.register\(.*?\))", words)[0]
    eval(call, {"ckptstore": ckptstore, cls.__name__: cls})


@follows("types.naming", "move it to the top of its module, or {}")
@follows(
    "types.naming",
    "call ckptstore.register({}, name={}) in the process that saves and in the one that loads",
)
def test_a_class_inside_a_function(tmp_path: Path) -> None:
    class Step(NamedTuple):
        step: int

    words = refused(tmp_path, Step(3))
    assert_exact(tmp_path, globals()["Step"](3))
    named_by(words, Step)
    assert_exact(tmp_path, Step(3))


@follows("types.naming", "bind it there (from {} import {} must import it), or {}")
def test_a_class_that_its_module_does_not_hold(tmp_path: Path, module: Any) -> None:
    made = module(STATE)
    cls = made.State
    del made.State
    words = refused(tmp_path, cls(3))
    made.State = cls
    assert_exact(tmp_path, cls(3))
    del made.State
    named_by(words, cls)
    assert_exact(tmp_path, cls(3))


@follows("types.naming", "make the object again with today's {}")
def test_a_class_that_was_defined_again_with_other_fields(tmp_path: Path, module: Any) -> None:
    made = module(STATE)
    old = made.State(3)
    made = module(STATE.replace("step: int", "step: int\n    more: int = 4"))
    assert "defined again, with other fields" in refused(tmp_path, old)
    assert_exact(tmp_path, made.State(old.step))


class Version(str):
    __slots__ = ()


@follows("types.subclasses", "upgrade ckptstore")
def test_a_subclass_of_a_type_that_only_a_later_release_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that knows no subclasses of str stands for an old one."""
    ckptstore.save(tmp_path / "c", Version("2.4"))
    with monkeypatch.context() as old:
        old.setattr(subclasses, "_BY_NAME", {})
        fails(tmp_path / "c")
    assert differences(Version("2.4"), ckptstore.load(tmp_path / "c")) == []


# --- Functions of yours -------------------------------------------------------------------------


class Box:
    def __init__(self, data: Any) -> None:
        self.data = data


@follows("types.pytrees", "return the two as a tuple")
def test_a_flatten_that_returns_no_pair(tmp_path: Path) -> None:
    ckptstore.register(Box, flatten=lambda b: {"data": b.data}, unflatten=lambda _, c: Box(*c))  # type: ignore[arg-type, return-value]
    refused(tmp_path, Box(1))
    ckptstore.register(Box, flatten=lambda b: ((b.data,), None), unflatten=lambda _, c: Box(*c))
    assert roundtrip(tmp_path, Box(1)).data == 1


@follows("types.pytrees", "make it the only child, as in `return ({},), None`")
@pytest.mark.parametrize(
    "data",
    [{"a": 1}, {1, 2}, "text", np.arange(3), types.MappingProxyType({"a": 1})],
    ids=lambda data: type(data).__name__,
)
def test_children_that_are_no_series(data: Any, tmp_path: Path) -> None:
    ckptstore.register(Box, flatten=lambda b: (b.data, None), unflatten=lambda _, c: Box(c))
    words = refused(tmp_path, Box(data))
    line = words.partition("as in `return ")[2].partition("`; ")[0]
    assert "; unflatten gets it as children[0]" in words
    make = type(data) if type(data) is types.MappingProxyType else lambda x: x
    ckptstore.register(
        Box,
        flatten=lambda b: eval(line, {"b": b}),
        unflatten=lambda _, children: Box(make(children[0])),
    )
    loaded = roundtrip(tmp_path, Box(data)).data
    assert type(loaded) is type(data)
    assert differences(list(data), list(loaded)) == []


@follows("tree.round_trip", "to keep the {} itself, return it as the only child")
@pytest.mark.parametrize("data", [(1, 2), collections.deque([1, 2])], ids=["tuple", "deque"])
def test_children_that_the_object_holds(data: Any, tmp_path: Path) -> None:
    ckptstore.register(Box, flatten=lambda b: (b.data, None), unflatten=lambda _, c: Box(c))
    refused(tmp_path, Box(data))
    ckptstore.register(Box, flatten=lambda b: ((b.data,), None), unflatten=lambda _, c: Box(c[0]))
    assert differences(data, roundtrip(tmp_path, Box(data)).data) == []


class Bag(dict):  # type: ignore[type-arg]
    pass


@follows(
    "types.pytrees",
    "put its content into an object of another class and make that the only child, as in "
    "`return (dict(b),), None`",
)
def test_an_object_that_is_its_own_children(tmp_path: Path) -> None:
    ckptstore.register(Bag, flatten=lambda b: (b, None), unflatten=lambda _, c: Bag(c))
    words = refused(tmp_path, Bag(a=1))
    line = words.partition("as in `return ")[2].partition("`; ")[0]
    ckptstore.register(
        Bag, flatten=lambda b: eval(line, {"b": b}), unflatten=lambda _, c: Bag(c[0])
    )
    assert_exact(tmp_path, Bag(a=1))


@follows(
    "types.pytrees",
    "if the class is not yours, pass two functions of your own: ckptstore.register({}, "
    "flatten=..., unflatten=...)",
)
def test_a_class_of_jax_whose_functions_do_not_fit(tmp_path: Path, module: Any) -> None:
    theirs = module("class Node:\n    def __init__(self, x=None): self.x = x\n").Node
    jax.tree_util.register_pytree_node(theirs, lambda n: ((n.x,), None), lambda _, c: theirs())
    refused(tmp_path, theirs(3))
    ckptstore.register(theirs, flatten=lambda n: ((n.x,), None), unflatten=lambda _, c: theirs(*c))
    assert roundtrip(tmp_path, theirs(3)).x == 3


@follows("types.registration", "pass flatten and unflatten both, or neither")
def test_one_function_of_two(tmp_path: Path) -> None:
    with pytest.raises(StructureError):
        ckptstore.register(Box, flatten=lambda b: ((b.data,), None))
    ckptstore.register(Box, flatten=lambda b: ((b.data,), None), unflatten=lambda _, c: Box(*c))
    assert roundtrip(tmp_path, Box(1)).data == 1
    ckptstore.register(Data)
    assert_exact(tmp_path, Data(1))


@follows("types.registration", "handle the old static parts in unflatten")
def test_a_migration_of_a_class_with_functions(tmp_path: Path) -> None:
    functions: dict[str, Any] = {
        "flatten": lambda b: ((b.data,), 1),
        "unflatten": lambda version, c: Box(*c),
    }
    ckptstore.register(Box, **functions)
    ckptstore.save(tmp_path / "c", Box([1]))
    functions = {
        "flatten": lambda b: ((tuple(b.data),), 2),
        "unflatten": lambda version, c: Box(c[0] if version == 1 else list(c[0])),
    }
    with pytest.raises(StructureError):
        ckptstore.register(Box, migrate=[Migration(renamed={"a": "b"})], **functions)
    ckptstore.register(Box, **functions)
    assert ckptstore.load(tmp_path / "c").data == [1]


@follows("types.registry", "pass another name=")
def test_a_name_that_is_taken(tmp_path: Path) -> None:
    ckptstore.register(Step, name="project.Step")
    with pytest.raises(StructureError):
        ckptstore.register(Data, name="project.Step")
    ckptstore.register(Data, name="project.Data")
    assert_exact(tmp_path, [Step(1), Data(2)])


# --- Adapters -----------------------------------------------------------------------------------


class Ring:
    def __init__(self, a: int) -> None:
        self.a = a


Ring.__module__ = "ringlib"

ROW = TypeRow(TypeKind.OBJECT, "ringlib", "Ring", fields=("a",))


class OfRing(Adapter):
    records = {Ring: Record(ROW, lambda x: (x.a,), lambda values: Ring(*values))}  # noqa: RUF012


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that installs these adapters for `Ring`, and uninstalls all others."""

    def change(*adapters: Adapter) -> None:
        entry = importlib.metadata.EntryPoint("ringlib", "tests:ADAPTER", registry.GROUP)
        table = {"ringlib": [entry] * len(adapters)} if adapters else {}
        monkeypatch.setattr(registry, "_entry_points", lambda: table)
        monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: adapters[0])
        registry._load_entry_point.cache_clear()

    yield change
    registry._load_entry_point.cache_clear()


@follows("types.instances", "upgrade ckptstore, or install the package with the adapter")
@follows("types.registry", "uninstall one")
def test_an_object_whose_adapter_is_missing_or_there_twice(install: Any, tmp_path: Path) -> None:
    install(OfRing())
    ckptstore.save(tmp_path / "c", Ring(3))
    install()
    fails(tmp_path / "c")
    install(OfRing(), OfRing())
    fails(tmp_path / "c")
    install(OfRing())
    assert ckptstore.load(tmp_path / "c").a == 3
    install()
    with pytest.MonkeyPatch.context() as upgraded:
        upgraded.setattr(registry, "ADAPTERS", {**registry.ADAPTERS, "ringlib": "ringadapter"})
        upgraded.setitem(sys.modules, "ringadapter", types.SimpleNamespace(ADAPTER=OfRing()))  # type: ignore[arg-type]
        assert ckptstore.load(tmp_path / "c").a == 3


@follows("types.registry", 'pip install {}, or load with arrays="numpy"')
def test_a_framework_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install jmp` ends with the package on the path; here it was taken from there."""
    x = np.arange(3.0, dtype="f4")
    ckptstore.save(tmp_path / "c", {"x": jax.numpy.asarray(x)})
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "jax", None)  # type: ignore[arg-type]
        for name in list(sys.modules):
            if name == "ckptstore.adapters.jax":
                missing.delitem(sys.modules, name)
        words = fails(tmp_path / "c")
        assert "pip install jax" in words
        loaded = ckptstore.load(tmp_path / "c", arrays="numpy")
        assert differences({"x": x}, loaded) == []
    assert differences({"x": jax.numpy.asarray(x)}, ckptstore.load(tmp_path / "c")) == []


@follows(
    "types.lookup",
    "a class in a module, or with a name that ckptstore.register gave it before it was saved, "
    "loads in any script",
)
def test_a_class_of_another_script(module: Any, tmp_path: Path) -> None:
    scripts = {
        "saves": f"import typing, ckptstore, sys\n{STATE}ckptstore.save(sys.argv[1], State(3))",
        "named": f"import typing, ckptstore, sys\n{STATE}"
        "ckptstore.register(State, name='project.State')\nckptstore.save(sys.argv[1], State(3))",
        "imports": "import ckptstore, sys, project\nckptstore.save(sys.argv[1], project.State(3))",
    }
    (tmp_path / "project.py").write_text(f"import typing\n{STATE}")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    for name, code in scripts.items():
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        subprocess.run(command, env=env, check=True)
    fails(tmp_path / "saves")
    today = module(STATE).State
    assert ckptstore.load(tmp_path / "imports") == today(3)
    ckptstore.register(today, name="project.State")
    assert ckptstore.load(tmp_path / "named") == today(3)

"""Classes of attrs: made from their fields, with no validator, converter or hook run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import attr
import attrs
import numpy as np
import pytest

import ckptstore
from tests.support import ROOT
from tests.support.compare import assert_exact, assert_refused, differences

RAN: list[str] = []


def _note(*args: Any) -> Any:
    RAN.append("ran")
    return args[0]


@attrs.define
class Slotted:
    x: int
    y: Any = None


@attrs.define(slots=False)
class Dict:
    x: int
    y: Any = None


@attrs.frozen
class Frozen:
    x: Any
    y: Any = None


@attr.s
class Old:
    x = attr.ib()
    y = attr.ib(default=None)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class OldFrozen:
    x: int
    y: Any = 3


@attrs.define
class Checked:
    x: Any = attrs.field(converter=_note, validator=lambda *args: _note(*args))
    y: Any = attrs.field(default=None, on_setattr=_note)

    def __attrs_post_init__(self) -> None:
        _note(self)


@attrs.define
class Private:
    _x: int
    __y: int = 2
    z: int = attrs.field(init=False, default=7)
    w: list[int] = attrs.field(factory=list)


@attrs.define
class Child(Slotted):
    z: int = 3


@attrs.frozen(cache_hash=True)
class Hashed:
    x: str


@attrs.frozen(cache_hash=True, slots=False)
class HashedDict:
    x: str


@attrs.define(kw_only=True, eq=False, order=False, weakref_slot=False)
class Bare:
    x: Any


@attrs.define
class Empty:
    pass


@attrs.define
class Lazy:
    x: int = attrs.field(init=False)


@attrs.define(slots=False)
class Own:
    x: int

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


MADE: dict[str, Any] = {
    "slots": lambda: Slotted(1, np.arange(3)),
    "a dict": lambda: Dict(1, [2]),
    "frozen": lambda: Frozen(np.float32(1), {"a": (1, 2)}),
    "old": lambda: Old(1, b"a"),
    "old and frozen": lambda: OldFrozen(1),
    "checked": lambda: Checked(np.ones(2), "a"),
    "private names": lambda: Private(1, 3),
    "a subclass": lambda: Child(1, 2, 4),
    "a cached hash": lambda: Hashed("a"),
    "a cached hash in a dict": lambda: HashedDict("a"),
    "bare": lambda: Bare(x=1),
    "empty": lambda: Empty(),
}


@pytest.mark.parametrize("name", MADE)
def test_an_instance_comes_back_with_its_fields(name: str, tmp_path: Path) -> None:
    x = MADE[name]()
    if "hash" in name:
        hash(x)
    tree = {"x": x, "again": [x], "below": Slotted(2, x)}
    RAN.clear()
    ckptstore.save(tmp_path / "c", tree)
    loaded = ckptstore.load(tmp_path / "c")
    again = ckptstore.load(tmp_path / "c", like=tree)
    assert RAN == []
    assert type(loaded["x"]) is type(again["x"]) is type(x)
    assert loaded["x"] is loaded["again"][0] is loaded["below"].y
    for found in (loaded, again):
        if "hash" in name:
            assert found["x"]._attrs_cached_hash is None
            assert (found["x"], hash(found["x"])) == (x, hash(x))
        names = [field.name for field in attrs.fields(type(x))]
        values = [[getattr(each, name) for name in names] for each in (x, found["x"])]
        assert differences(*values) == []


def test_another_process_loads_them_once_their_module_is_imported(tmp_path: Path) -> None:
    program = "import sys, ckptstore, tests.frameworks.test_attrs as t; "
    save = "ckptstore.save(sys.argv[1], [t.Frozen({'a': 1}), t.Hashed('a'), t.Private(1)])"
    load = "a, b, c = ckptstore.load(sys.argv[1]); assert (a, b, c) == (t.Frozen({'a': 1}), "
    load += "t.Hashed('a'), t.Private(1)) and {b: 1}[t.Hashed('a')]"
    for text in (save, load):
        command = [sys.executable, "-c", program + text, f"{tmp_path / 'c'}"]
        subprocess.run(command, cwd=ROOT, check=True)


def test_a_field_that_was_renamed_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", Slotted(1, 2))
    with monkeypatch.context() as patch:
        today = attrs.make_class("Slotted", ["x", "z"])
        today.__module__ = __name__
        patch.setattr("ckptstore.types.registry._BY_CLASS", {})
        patch.setattr("ckptstore.types.registry._BY_NAME", {})
        patch.setattr(sys.modules[__name__], "Slotted", today)
        ckptstore.register(today, migrate=[ckptstore.Migration(renamed={"y": "z"})])
        loaded = ckptstore.load(tmp_path / "c")
        assert (loaded.x, loaded.z) == (1, 2)


def test_what_would_be_lost_is_refused_by_path(tmp_path: Path) -> None:
    marked = Dict(1)
    marked.extra = 3  # type: ignore[attr-defined]
    assert_refused(tmp_path, [marked], "$[0]", "'extra'", "or delete it")
    del marked.extra  # type: ignore[attr-defined]
    assert_exact(tmp_path, [marked])
    assert_refused(tmp_path, [Lazy()], "$[0]", "'x'", "never set; set it")
    lazy = Lazy()
    lazy.x = 3
    assert_exact(tmp_path, [lazy])
    assert_refused(tmp_path, [Own(1)], "$[0]", "__setattr__", "register(Own")

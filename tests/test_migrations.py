"""A class whose fields changed: what older checkpoints have becomes what the class has today."""

from __future__ import annotations

import collections
import dataclasses
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

import ckptstore
from ckptstore import Migration, registry

HERE = sys.modules[__name__]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setattr(registry, "_BY_CLASS", {})
    monkeypatch.setattr(registry, "_BY_NAME", {})


@pytest.fixture
def place(tmp_path):
    return tmp_path / "ckpt"


@pytest.fixture
def as_state(monkeypatch):
    """Give a class the name `State` of this module, as if the source had been edited."""

    def define(kind, fields, migrate=None, **options):
        if kind == "namedtuple":
            cls: Any = collections.namedtuple("State", fields, module=__name__)
        else:
            cls = dataclasses.make_dataclass("State", fields.split(), **options)
            cls.__module__ = __name__
        monkeypatch.setattr(HERE, "State", cls, raising=False)
        if migrate is not None:
            ckptstore.register(cls, migrate=migrate)
        return cls

    return define


KINDS = pytest.mark.parametrize("kind", ["namedtuple", "dataclass"])


def values(x):
    return x._asdict() if isinstance(x, tuple) else vars(x)


@KINDS
class TestOneStep:
    def test_a_renamed_field_keeps_its_value(self, kind, place, as_state):
        ckptstore.save(place, as_state(kind, "lr mu")(0.5, np.arange(3)))
        cls = as_state(kind, "scale mu", [Migration(renamed={"lr": "scale"})])
        out = ckptstore.load(place)
        assert type(out) is cls and out.scale == 0.5 and out.mu.tolist() == [0, 1, 2]

    def test_an_added_field_has_the_value_given(self, kind, place, as_state):
        ckptstore.save(place, as_state(kind, "count")(3))
        cls = as_state(kind, "average count", [Migration(added={"average": 0.0})])
        assert ckptstore.load(place) == cls(0.0, 3)

    def test_an_added_field_may_be_made_of_the_old_ones(self, kind, place, as_state):
        ckptstore.save(place, as_state(kind, "lr steps")(0.5, 4))
        step = Migration(added={"seen": lambda old: old["lr"] * old["steps"]}, removed=["lr"])
        cls = as_state(kind, "steps seen", [step])
        assert ckptstore.load(place) == cls(4, 2.0)

    def test_a_removed_field_is_gone(self, kind, place, as_state):
        ckptstore.save(place, as_state(kind, "a b")(1, np.ones(2)))
        cls = as_state(kind, "a", [Migration(removed=["b"])])
        assert ckptstore.load(place) == cls(1)

    def test_what_today_s_class_saved_is_not_migrated(self, kind, place, as_state):
        cls = as_state(kind, "b", [Migration(renamed={"a": "b"})])
        ckptstore.save(place, cls(1))
        assert ckptstore.load(place) == cls(1)

    def test_without_a_migration_both_sides_are_shown(self, kind, place, as_state):
        ckptstore.save(place, as_state(kind, "kept old")(1, 2))
        as_state(kind, "kept new")
        with pytest.raises(ckptstore.UnknownTypeError) as caught:
            ckptstore.load(place)
        assert caught.value.reason == "fields-differ"
        text = str(caught.value)
        assert "only in the checkpoint: old; only in the class: new" in text
        assert (
            "register(State, migrate=[ckptstore.Migration(renamed={'old': 'new'}) or "
            "Migration(added={'new': ...}, removed=['old'])])"
        ) in text


def test_a_mutable_value_is_not_shared_by_two_instances(place, as_state):
    cls = as_state("namedtuple", "a")
    ckptstore.save(place, [cls(1), cls(2)])
    default: Any = {"x": [np.zeros(2)]}
    as_state("namedtuple", "a extra", [Migration(added={"extra": default})])
    one, two = ckptstore.load(place)
    one.extra["x"][0] += 1
    assert two.extra["x"][0].tolist() == default["x"][0].tolist() == [0, 0]


class TestKindChange:
    """A NamedTuple became a dataclass, or the reverse."""

    @pytest.mark.parametrize(
        ("old", "new"), [("namedtuple", "dataclass"), ("dataclass", "namedtuple")]
    )
    def test_needs_somebody_s_word(self, old, new, place, as_state):
        ckptstore.save(place, as_state(old, "a b")(1, 2))
        cls = as_state(new, "b a")
        with pytest.raises(ckptstore.UnknownTypeError, match="expected a"):
            ckptstore.load(place)
        ckptstore.register(cls)
        assert ckptstore.load(place) == cls(2, 1)

    def test_goes_with_a_change_of_fields(self, place, as_state):
        ckptstore.save(place, as_state("dataclass", "a")(1))
        cls = as_state("namedtuple", "b", [Migration(renamed={"a": "b"})])
        assert ckptstore.load(place) == cls(1)


class New(NamedTuple):
    value: Any
    count: Any


class TestOfAnAdapter:
    """The tables that an adapter has of the classes of its package."""

    @pytest.fixture(autouse=True)
    def of_this_module(self, monkeypatch):
        monkeypatch.setitem(registry.ADAPTERS, __name__, __name__)
        self.adapter = registry.Adapter()
        monkeypatch.setattr(HERE, "ADAPTER", self.adapter, raising=False)

    def save_as(self, name, cls, tree, place):
        module, _, name = name.rpartition(".")
        made: Any = sys.modules.setdefault(module, type(sys)(module))
        cls.__module__, cls.__qualname__ = module, name
        setattr(made, name, cls)
        ckptstore.save(place, tree)
        if module != __name__:
            del sys.modules[module]
        else:
            delattr(made, name)

    def test_a_name_that_is_gone_leads_to_where_the_class_is(self, place):
        old = collections.namedtuple("Old", "value count")
        self.save_as(f"{__name__}.was.Old", old, old(1, 2), place)
        with pytest.raises(ckptstore.UnknownTypeError, match="not imported"):
            ckptstore.load(place)
        self.adapter.moved = {f"{__name__}.was.Old": f"{__name__}.New"}
        assert ckptstore.load(place) == New(1, 2)

    def test_it_may_be_of_the_other_kind(self, place):
        old = dataclasses.make_dataclass("Old", ["count", "value"])
        self.save_as(f"{__name__}.Old", old, old(2, 1), place)
        self.adapter.moved = {f"{__name__}.Old": f"{__name__}.New"}
        assert ckptstore.load(place) == New(1, 2)

    def test_its_fields_may_have_changed(self, place):
        old = dataclasses.make_dataclass("Old", ["val"])
        self.save_as(f"{__name__}.Old", old, old(1), place)
        self.adapter.moved = {f"{__name__}.Old": f"{__name__}.New"}
        self.adapter.migrations = {
            f"{__name__}.New": [Migration(renamed={"val": "value"}), Migration(added={"count": 0})]
        }
        assert ckptstore.load(place) == New(1, 0)

    def test_an_older_release_lacks_the_last_steps(self, place):
        old = collections.namedtuple("Old", "val")
        self.save_as(f"{__name__}.Old", old, old(1), place)
        self.adapter.moved = {f"{__name__}.Old": f"{__name__}.New"}
        self.adapter.migrations = {
            f"{__name__}.New": [
                Migration(renamed={"val": "value"}, added={"count": 0}),
                Migration(renamed={"value": "not_yet"}),
            ]
        }
        assert ckptstore.load(place) == New(1, 0)

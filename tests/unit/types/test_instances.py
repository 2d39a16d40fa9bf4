"""Fields whose value is in the class, and flags that a file makes."""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import Any, ClassVar, NamedTuple

import pytest

import ckptstore
from ckptstore.types import enum_member
from tests.support.compare import assert_refused


class Pair(NamedTuple):
    a: Any
    b: Any


class Descriptor:
    """Gives another value than it is, but only to who asks an instance."""

    def __get__(self, x: Any, owner: Any = None) -> Any:
        return 3


@dataclasses.dataclass
class Config:
    lr: float
    step: int = dataclasses.field(init=False, default=7)
    pair: Pair = dataclasses.field(init=False, default=Pair(1, (2, "x")))
    nothing: Any = dataclasses.field(init=False, default=None)
    shared: ClassVar[int] = 1


@dataclasses.dataclass
class Below(Config):
    more: Any = dataclasses.field(init=False, default="more")


@dataclasses.dataclass(frozen=True)
class Frozen:
    step: int = dataclasses.field(init=False, default=7)


@dataclasses.dataclass(slots=True)
class Slots:
    step: int = dataclasses.field(init=False, default=7)


@dataclasses.dataclass
class Plain:
    a: int = 1
    b: int = 2


def changed(x: Any, **values: Any) -> Any:
    for name, value in values.items():
        object.__setattr__(x, name, value)
    return x


def without(x: Any, name: str) -> Any:
    object.__delattr__(x, name)
    return x


LEFT = {
    "never set": lambda: Config(0.1),
    "set once": lambda: changed(Config(0.1), step=8),
    "inherited": lambda: Below(0.1),
    "frozen": Frozen,
    "slots": Slots,
    "deleted": lambda: without(Plain(3, 4), "b"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_field_that_only_the_class_has_is_stored_with_that_value(
    name: str, tmp_path: Any
) -> None:
    x = LEFT[name]()
    ckptstore.save(tmp_path / "c", [x])
    for options in ({}, {"like": [LEFT[name]()]}):
        (loaded,) = ckptstore.load(tmp_path / "c", **options)
        assert loaded == x and type(loaded) is type(x)
        for field in dataclasses.fields(x):
            before, after = getattr(x, field.name), getattr(loaded, field.name)
            assert before == after and type(before) is type(after)


def test_the_stored_value_stays_when_the_default_changes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", Config(0.1))
    monkeypatch.setattr(Config, "step", 9)
    assert ckptstore.load(tmp_path / "c").step == 7


@pytest.mark.parametrize("value", [lambda x: x, Descriptor(), classmethod(print)])
def test_a_value_of_the_class_that_an_instance_would_not_keep_is_refused(
    value: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Config, "step", value, raising=False)
    assert_refused(tmp_path, [Config(0.1)], "$[0]", "'step'", "never set", "set it")
    x = changed(Config(0.1), step=5)
    ckptstore.save(tmp_path / "c", x)  # as the error says
    assert vars(ckptstore.load(tmp_path / "c"))["step"] == 5


def test_a_field_without_any_value_is_refused(tmp_path: Any) -> None:
    assert_refused(tmp_path, without(Config(0.1), "lr"), "$", "'lr'", "never set; set it")
    assert_refused(tmp_path, without(Slots(), "step"), "$", "'step'", "never set; set it")


class Loose(enum.IntFlag):
    A = 1
    B = 2


class Keep(enum.Flag, boundary=enum.KEEP):
    A = 1


class Strict(enum.Flag):
    A = 1
    B = 2


class Conform(enum.Flag, boundary=enum.CONFORM):
    A = 1


def known(cls: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = cls._value2member_map_
    return found


@pytest.mark.parametrize("cls", [re.RegexFlag, Loose])
def test_a_file_leaves_no_member_in_a_class_whose_bits_no_flag_has(
    cls: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [(1 << 20) + i for i in range(0, 300, 10)]
    before = dict(known(cls))
    members = [cls(value) for value in values]
    ckptstore.save(tmp_path / "c", {"list": members, "dict": dict.fromkeys(members, 1)})
    for value in known(cls).keys() - before.keys():
        del known(cls)[value]  # as in a process that has not made them
    loaded = ckptstore.load(tmp_path / "c")
    assert known(cls) == before
    assert loaded == {"list": members, "dict": dict.fromkeys(members, 1)}
    assert {type(x) for x in loaded["list"]} == {cls}
    ckptstore.save(tmp_path / "again", loaded)
    assert ckptstore.load(tmp_path / "again", like=loaded) == loaded
    assert known(cls) == before


@pytest.mark.parametrize("x", [Strict(3), Strict(0), Loose(3), Keep(5), re.I | re.M, Conform(1)])
def test_a_combination_of_flags_comes_back_as_the_one_object_of_its_value(
    x: Any, tmp_path: Any
) -> None:
    ckptstore.save(tmp_path / "c", x)
    if known(type(x))[x.value].name not in type(x).__members__:
        del known(type(x))[x.value]
    first, second = ckptstore.load(tmp_path / "c"), ckptstore.load(tmp_path / "c")
    assert first is second is type(x)(x.value)


@pytest.mark.parametrize("cls", [Strict, Loose, Keep, Conform, re.RegexFlag])
@pytest.mark.parametrize("value", [-1, -7, 1 << 70, True, 1.0, None, "a"])
def test_a_value_that_no_member_has_is_refused_and_leaves_nothing(cls: Any, value: Any) -> None:
    before = dict(known(cls))
    if cls not in (Loose, Keep, re.RegexFlag) or value != 1 << 70:
        with pytest.raises(ckptstore.UnknownTypeError) as caught:
            enum_member(cls, "", value, "$")
        assert caught.value.reason == "no-such-member"
        assert known(cls).keys() - before.keys() <= {0}  # a bit that CONFORM drops
